//! llama.cpp's `response_fields`: the parts of an answer that a client wants.

use serde::Serialize;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::{Fields, wrong};

/// Most paths in one request.
const MAX_PATHS: usize = 64;

/// Paths into an answer, as in `generation_settings/n_predict`; none stands for all of it.
pub struct Selection(Vec<String>);

impl Selection {
    /// Reads the field.
    ///
    /// # Errors
    /// 400 for anything but a list of texts.
    pub fn read(fields: &Fields) -> Result<Selection, ApiError> {
        let expected = "a list of paths";
        let list = match fields.get("response_fields") {
            None => return Ok(Selection(Vec::new())),
            Some(Value::Array(list)) if list.len() <= MAX_PATHS => list,
            Some(Value::Array(list)) => {
                let message = format!("`response_fields` may have {MAX_PATHS} paths, not {}", list.len());
                return Err(ApiError::invalid(Some("response_fields".to_owned()), message));
            }
            Some(other) => return Err(wrong("response_fields", expected, other)),
        };
        let path = |one: &Value| match one {
            Value::String(path) => Ok(path.clone()),
            other => Err(wrong("response_fields", expected, other)),
        };
        list.iter().map(path).collect::<Result<_, _>>().map(Selection)
    }

    /// What is told of `body`: each part under its whole path; paths that lead nowhere are left out.
    pub fn of(&self, body: &impl Serialize) -> Value {
        // Bodies are plain data, which always has a form in JSON.
        let whole = serde_json::to_value(body).unwrap_or_default();
        if self.0.is_empty() {
            return whole;
        }
        let found = self.0.iter().filter_map(|path| {
            let part = path.split('/').try_fold(&whole, |part, key| part.as_object()?.get(key))?;
            Some((path.clone(), part.clone()))
        });
        Value::Object(found.collect::<Map<String, Value>>())
    }
}
