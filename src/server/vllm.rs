//! What clients of vLLM send to whatever speaks OpenAI's API: `structured_outputs` for the form of a reply, with `guided_json`
//! and its like, which came before it; and its way to ask for tokens, which evaluation tools count with.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::constraint::Wanted;
use super::conversation::Conversation;
use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::generation::{refuse_given, run_blocking};
use super::{AppState, Loaded, Ready};
use crate::grammar::Source;
use crate::tokenizer::{Special, TokenId};

/// How a form is said, under both names.
const FORMS: [&str; 5] = ["json", "regex", "choice", "grammar", "json_object"];

/// What in an object of forms would change the reply and is not there.
const NOT_IMPLEMENTED: [&str; 2] = ["structural_tag", "whitespace_pattern"];

/// The route that only vLLM has.
pub fn routes() -> Router<AppState> {
    Router::new().route("/tokenizer_info", get(tokenizer_info))
}

async fn tokenizer_info(State(state): State<AppState>, Loaded(ready): Loaded) -> Json<Value> {
    let tokenizer = ready.engine.tokenizer();
    let text = |id: Option<TokenId>| id.map(|id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned());
    Json(json!({
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": text(Some(tokenizer.bos())),
        "eos_token": text(tokenizer.control("<eos>").or(ready.end_tokens.first().copied())),
        "unk_token": text(tokenizer.unknown()),
        "pad_token": text(tokenizer.control("<pad>")),
        "model_max_length": ready.engine.options().n_ctx,
        "chat_template": ready.template.source(),
        "gemma2": state.options().version,
    }))
}

/// Answers `POST /tokenize` for a `prompt` or for `messages`; `None` where neither is there.
///
/// # Errors
/// 400: fields of other types, a conversation that cannot be told.
pub async fn tokenize(fields: &Fields, ready: &Arc<Ready>) -> Result<Option<Response>, ApiError> {
    let tokens = if fields.get("messages").is_some() {
        Conversation::read(fields)?.prompt(ready).await?.tokens
    } else if let Some(prompt) = fields.string("prompt")? {
        let (prompt, ready) = (prompt.to_owned(), ready.clone());
        let adds_bos = fields.bool("add_special_tokens", true)?;
        run_blocking(move || {
            let tokenizer = ready.engine.tokenizer();
            let ids = tokenizer.encode(&prompt, Special::Parse);
            if adds_bos { tokenizer.with_bos(ids) } else { ids }
        })
        .await?
    } else {
        return Ok(None);
    };
    let texts = fields.bool("return_token_strs", false)?.then(|| {
        let tokenizer = ready.engine.tokenizer();
        tokens.iter().map(|id| String::from_utf8_lossy(tokenizer.piece(*id)).into_owned()).collect::<Vec<_>>()
    });
    let n_ctx = ready.engine.options().n_ctx;
    let body = json!({ "count": tokens.len(), "max_model_len": n_ctx, "tokens": tokens, "token_strs": texts });
    Ok(Some(Json(body).into_response()))
}

/// All forms that a request asks for.
///
/// # Errors
/// 400: fields of other types, forms that are not there.
pub fn wanted(fields: &Fields) -> Result<Vec<Wanted>, ApiError> {
    let mut found = Vec::new();
    for form in FORMS {
        let name = format!("guided_{form}");
        found.extend(read(form, fields, &name, name.clone())?);
    }
    refuse_given(fields, &["guided_whitespace_pattern"])?;
    let Some(object) = fields.object("structured_outputs")? else {
        return Ok(found);
    };
    let at = |name: &str| format!("structured_outputs.{name}");
    for name in NOT_IMPLEMENTED {
        refuse_given(&object, &[name]).map_err(|error| error.about(&at(name)))?;
    }
    for form in FORMS {
        found.extend(read(form, &object, form, at(form))?);
    }
    Ok(found)
}

/// The form under `name`, which errors call `param`.
fn read(form: &str, fields: &Fields, name: &str, param: String) -> Result<Option<Wanted>, ApiError> {
    let Some(value) = fields.get(name) else {
        return Ok(None);
    };
    let source = match (form, value) {
        ("json", Value::Object(_)) => Source::JsonSchema(value.clone()),
        ("json", Value::String(text)) => {
            let schema = serde_json::from_str(text);
            let broken = |error| ApiError::invalid(param.clone(), format!("`{param}` is not valid JSON: {error}"));
            Source::JsonSchema(schema.map_err(broken)?)
        }
        ("json", other) => return Err(wrong(&param, "a JSON schema", other)),
        ("json_object", Value::Bool(true)) => Source::json_object(),
        ("json_object", Value::Bool(false)) => return Ok(None),
        ("json_object", other) => return Err(wrong(&param, "true or false", other)),
        ("choice", Value::Array(choices)) if !choices.is_empty() => {
            let texts = choices.iter().map(|choice| choice.as_str().map(literal));
            let texts: Option<Vec<String>> = texts.collect();
            Source::Regex(texts.ok_or_else(|| wrong(&param, "a list of texts", value))?.join("|"))
        }
        ("choice", other) => return Err(wrong(&param, "a list of texts", other)),
        (_, Value::String(text)) if form == "regex" => Source::Regex(text.clone()),
        (_, Value::String(text)) => Source::from_text(text),
        (_, other) => return Err(wrong(&param, "a string", other)),
    };
    Ok(Some(Wanted { source, param }))
}

/// A regular expression for this text and no other.
fn literal(text: &str) -> String {
    let mut regex = String::with_capacity(text.len());
    for letter in text.chars() {
        regex.extend(r"\.+*?()|[]{}^$#&-~".contains(letter).then_some('\\'));
        regex.push(letter);
    }
    regex
}
