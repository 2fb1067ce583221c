//! What a reply has to look like: `response_format`, `json_schema`, `grammar`, `regex`, and what vLLM calls these.

use std::sync::Arc;

use serde_json::Value;

use super::Ready;
use super::error::ApiError;
use super::fields::{Fields, missing, wrong};
use super::generation::run_blocking;
use super::tools::Tools;
use super::vllm;
use crate::error::Hint;
use crate::grammar::{Constraint, Source};

/// A grammar and the field it came from.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What the reply has to look like.
    pub source: Source,
    /// The field, for an error.
    pub param: String,
}

/// The constraint of a request that wants this form and may call these functions.
///
/// # Errors
/// 400: a grammar that cannot be used, or not beside functions.
pub async fn of_reply(
    form: Option<Wanted>,
    tools: Option<&Tools>,
    ready: &Arc<Ready>,
) -> Result<Option<Constraint>, ApiError> {
    match (form, tools) {
        (form, Some(tools)) => tools.constraint(form, ready).await.map(Some),
        (Some(form), None) => compile(form, ready).await.map(Some),
        (None, None) => Ok(None),
    }
}

/// The constraint of a request, compiled off the threads that serve others; none if it asks for none.
///
/// # Errors
/// 400: fields of other types, two constraints at once, a grammar that cannot be used.
pub async fn constraint(fields: &Fields, ready: &Arc<Ready>) -> Result<Option<Constraint>, ApiError> {
    match wanted(fields)? {
        Some(wanted) => compile(wanted, ready).await.map(Some),
        None => Ok(None),
    }
}

/// Compiles a grammar off the threads that serve others.
///
/// # Errors
/// 400 about the field, with the place in it.
pub async fn compile(wanted: Wanted, ready: &Arc<Ready>) -> Result<Constraint, ApiError> {
    let ready = ready.clone();
    run_blocking(move || {
        ready.grammars.compile(&wanted.source).map_err(|error| {
            let api = ApiError::invalid(wanted.param.clone(), format!("`{}` cannot be used: {error}", wanted.param));
            api.with_hint(error.hint())
        })
    })
    .await?
}

/// Reads the fields.
///
/// # Errors
/// 400: fields of other types, two constraints at once.
pub fn wanted(fields: &Fields) -> Result<Option<Wanted>, ApiError> {
    let found = [response_format(fields)?, json_schema(fields), grammar(fields)?, regex(fields)?];
    let mut found = found.into_iter().flatten().chain(vllm::wanted(fields)?);
    match (found.next(), found.next()) {
        (Some(one), Some(other)) => Err(ApiError::invalid(
            other.param.clone(),
            format!("`{}` and `{}` both say what the reply has to look like: give one of them", one.param, other.param),
        )),
        (one, _) => Ok(one),
    }
}

/// OpenAI's: `{"type": "text" | "json_object" | "json_schema", "json_schema": {"schema": …}}`, and llama.cpp's `schema`
/// beside `json_object`.
fn response_format(fields: &Fields) -> Result<Option<Wanted>, ApiError> {
    let Some(format) = fields.object("response_format")? else {
        return Ok(None);
    };
    let at = |name: &str| format!("response_format.{name}");
    let about = |error: ApiError, name: &str| error.about(&at(name));
    let kind = format.required_string("type").map_err(|error| about(error, "type"))?;
    let (schema, param) = match kind {
        "text" => return Ok(None),
        "json_object" => match format.get("schema") {
            Some(schema) => (schema.clone(), at("schema")),
            None => return Ok(Some(Wanted { source: Source::json_object(), param: "response_format".into() })),
        },
        "json_schema" => {
            let param = at("json_schema");
            let described = format.object("json_schema").map_err(|error| about(error, "json_schema"))?;
            let described = described.ok_or_else(|| missing(&param))?;
            described.string("name").map_err(|error| about(error, "json_schema.name"))?;
            described.bool("strict", true).map_err(|error| about(error, "json_schema.strict"))?;
            let param = at("json_schema.schema");
            let schema = described.get("schema").ok_or_else(|| missing(&param))?;
            (schema.clone(), param)
        }
        other => {
            let message = format!("`{other}` is no type of a response format: use text, json_object or json_schema");
            return Err(ApiError::invalid(at("type"), message));
        }
    };
    match schema {
        Value::Object(_) => Ok(Some(Wanted { source: Source::JsonSchema(schema), param })),
        other => Err(wrong(&param, "an object", &other)),
    }
}

fn json_schema(fields: &Fields) -> Option<Wanted> {
    let schema = fields.get("json_schema")?;
    Some(Wanted { source: Source::JsonSchema(schema.clone()), param: "json_schema".into() })
}

fn grammar(fields: &Fields) -> Result<Option<Wanted>, ApiError> {
    let text = fields.string("grammar")?.filter(|text| !text.trim().is_empty());
    Ok(text.map(|text| Wanted { source: Source::from_text(text), param: "grammar".into() }))
}

fn regex(fields: &Fields) -> Result<Option<Wanted>, ApiError> {
    let text = fields.string("regex")?.filter(|text| !text.is_empty());
    Ok(text.map(|text| Wanted { source: Source::Regex(text.to_owned()), param: "regex".into() }))
}
