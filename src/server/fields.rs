//! The body of a request, read field by field, so that an error can name the field and what it should have been.

use std::ops::RangeInclusive;

use axum::body::BodyDataStream;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::AppState;
use super::error::ApiError;

/// Largest body that is read.
pub const MAX_BODY_BYTES: usize = 16 << 20;

/// Bytes of a larger one that are read and forgotten: most clients look for an answer when they have written everything.
const MAX_FORGOTTEN_BYTES: usize = 256 << 20;

/// Bodies above this take turns: parsed JSON can be twenty times as large as its text.
const LARGE_BODY_BYTES: usize = 1 << 20;

/// A JSON object. A field that is `null` counts as absent.
#[derive(Clone, Debug, Default)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a body, which must be one object.
    ///
    /// # Errors
    /// 400 with line and column.
    pub fn parse(body: &[u8]) -> Result<Fields, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Fields(map)),
            Ok(other) => Err(ApiError::invalid(None, format!("the body must be a JSON object, not {}", kind(&other)))),
            Err(error) => Err(ApiError::invalid(None, format!("the body is not valid JSON: {error}"))),
        }
    }

    /// A field as it is.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// The first of these names that is present, with its value.
    pub fn get_any<'a>(&self, names: &[&'a str]) -> Option<(&'a str, &Value)> {
        names.iter().find_map(|name| self.get(name).map(|value| (*name, value)))
    }

    /// `true` or `false`.
    pub fn bool(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(wrong(name, "true or false", other)),
        }
    }

    /// A finite number in `range`.
    pub fn f32(&self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value.as_f64().ok_or_else(|| wrong(name, "a number", value))? as f32;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let code = if number > *range.end() { "decimal_above_max_value" } else { "decimal_below_min_value" };
        let message = format!("`{name}` must be between {} and {}, not {value}", range.start(), range.end());
        Err(ApiError::invalid(Some(name.to_owned()), message).coded(code))
    }

    /// A whole number in `range`.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = whole(value).ok_or_else(|| wrong(name, "a whole number", value))?;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let bounds = match (*range.start(), *range.end()) {
            (low, i64::MAX) => format!("at least {low}"),
            (low, high) => format!("between {low} and {high}"),
        };
        let code = if number > *range.end() { "integer_above_max_value" } else { "integer_below_min_value" };
        Err(ApiError::invalid(Some(name.to_owned()), format!("`{name}` must be {bounds}, not {value}")).coded(code))
    }

    /// A text.
    pub fn string(&self, name: &str) -> Result<Option<&str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, "a string", other)),
        }
    }

    /// A text that must be there.
    pub fn required_string(&self, name: &str) -> Result<&str, ApiError> {
        self.string(name)?.ok_or_else(|| missing(name))
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Option<Fields>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields(map.clone()))),
            Some(other) => Err(wrong(name, "an object", other)),
        }
    }
}

/// A whole number, also one written as `3.0`.
pub fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        let exact = number.fract() == 0.0 && number.abs() < 9.0e15;
        exact.then_some(number as i64)
    })
}

/// 400: the field is not there.
pub fn missing(name: &str) -> ApiError {
    ApiError::invalid(Some(name.to_owned()), format!("`{name}` is missing")).coded("missing_required_parameter")
}

/// 400: the field has another type.
pub fn wrong(name: &str, expected: &str, found: &Value) -> ApiError {
    let message = format!("`{name}` must be {expected}, not {}", kind(found));
    ApiError::invalid(Some(name.to_owned()), message).coded("invalid_type")
}

/// 400: the field asks for something that is not there.
pub fn not_supported(name: &str, by: &str) -> ApiError {
    let message = format!("`{name}` is not supported by {by}");
    ApiError::invalid(Some(name.to_owned()), message).coded("unsupported_parameter")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl FromRequest<AppState> for Fields {
    type Rejection = ApiError;

    /// Whatever the Content-Type says: clients of llama.cpp are used to that. Foreign pages are kept out by their Origin.
    async fn from_request(request: Request, state: &AppState) -> Result<Fields, ApiError> {
        let declared =
            request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let asks_first = request.headers().contains_key(header::EXPECT);
        let mut chunks = request.into_body().into_data_stream();
        let patience = state.options().patience.body;
        if declared.is_none_or(|bytes| bytes <= MAX_BODY_BYTES) {
            let small = declared.is_some_and(|bytes| bytes <= LARGE_BODY_BYTES);
            let _turn = if small { None } else { state.large_bodies().acquire().await.ok() };
            if let Some(body) = timeout(patience, read(&mut chunks)).await.map_err(|_| ApiError::timeout())?? {
                return Fields::parse(&body);
            }
        }
        if !asks_first {
            let _ = timeout(patience, forget(&mut chunks)).await;
        }
        Err(ApiError::too_large(MAX_BODY_BYTES))
    }
}

/// A body, or `None` where it is too large.
async fn read(chunks: &mut BodyDataStream) -> Result<Option<Vec<u8>>, ApiError> {
    let mut body = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::invalid(None, format!("the body broke off: {error}")))?;
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// Reads what is left of a body.
async fn forget(chunks: &mut BodyDataStream) {
    let mut n_bytes = 0;
    while n_bytes < MAX_FORGOTTEN_BYTES
        && let Some(Ok(chunk)) = chunks.next().await
    {
        n_bytes += chunk.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).expect("an object")
    }

    #[test]
    fn null_counts_as_absent_and_wrong_types_name_the_field() {
        let fields = fields(r#"{"a":null,"b":"x","c":3.0,"d":1e300,"e":2.5}"#);
        assert_eq!(fields.f32("a", 0.0..=1.0).expect("absent"), None);
        let error = fields.f32("b", 0.0..=1.0).expect_err("a string");
        let body = error.body(super::super::error::Dialect::OpenAi);
        assert_eq!(body["error"]["param"], "b");
        assert_eq!(body["error"]["message"], "`b` must be a number, not a string");
        assert_eq!(fields.integer("c", 0..=3).expect("whole"), Some(3));
        assert!(fields.integer("d", 0..=i64::MAX).is_err());
        assert!(fields.integer("e", 0..=i64::MAX).is_err());
        assert!(fields.f32("d", 0.0..=1.0).is_err());
    }

    #[test]
    fn deep_nesting_and_broken_json_are_errors_with_a_position() {
        let deep = "[".repeat(100_000);
        for text in [deep.as_str(), "{\"a\":", "", "\u{0}", "{\"a\":1e999}", "{\"a\":\"\\ud800\"}"] {
            let error = Fields::parse(text.as_bytes()).expect_err("not an object");
            let body = error.body(super::super::error::Dialect::OpenAi);
            let message = body["error"]["message"].as_str().unwrap_or_default();
            assert!(message.contains("column"), "{message}");
        }
        assert!(Fields::parse(b"[1]").is_err());
    }
}
