//! What a client is told when a request cannot be answered, in the words of the API that it speaks.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::chat::ChatError;
use crate::engine::{EngineError, SlotError};
use crate::error::Hint;

/// Which clients read the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": {…}}`, whose `code` is null or one of OpenAI's words.
    OpenAi,
    /// The same object, whose `code` is the status.
    LlamaCpp,
    /// `{"error": "…"}`
    Ollama,
    /// `{"type": "error", "error": {"type", "message"}}`
    Anthropic,
}

impl Dialect {
    /// The dialect of the API that `path` belongs to.
    pub fn of(path: &str) -> Dialect {
        match path {
            "/v1/health" => Dialect::LlamaCpp,
            _ if path.starts_with("/v1/messages") => Dialect::Anthropic,
            _ if path.starts_with("/v1/") => Dialect::OpenAi,
            _ if path.starts_with("/api/") => Dialect::Ollama,
            _ => Dialect::LlamaCpp,
        }
    }
}

/// An error as it goes over the wire.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    /// `type` of the object, in either dialect.
    kind: &'static str,
    /// OpenAI's word for the case and llama.cpp's `type`, for cases that clients tell apart.
    special: Option<(&'static str, &'static str)>,
    message: String,
    param: Option<String>,
    hint: Option<String>,
    extra: Map<String, Value>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError(Box::new(Parts {
            status,
            kind,
            special: None,
            message: message.into(),
            param: None,
            hint: None,
            extra: Map::new(),
        }))
    }

    /// 400: the request itself is wrong, in field `param` where one can be named.
    pub fn invalid(param: impl Into<Option<String>>, message: impl Into<String>) -> ApiError {
        let mut error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message);
        error.0.param = param.into();
        error
    }

    /// 401: no API key, or a wrong one.
    pub fn unauthorized(message: &str) -> ApiError {
        let mut error = Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        error.0.special = Some(("invalid_api_key", "authentication_error"));
        error.0.hint =
            Some("send `Authorization: Bearer KEY` or `x-api-key: KEY` with a key given to `--api-key`".into());
        error
    }

    /// 403: a foreign page or host.
    pub fn forbidden(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        let mut error = Self::new(StatusCode::FORBIDDEN, "permission_error", message);
        error.0.hint = Some(hint.into());
        error
    }

    /// 404: nothing at this path.
    pub fn not_found(message: impl Into<String>) -> ApiError {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    /// 404: a model that is not the one served.
    pub fn model_not_found(id: &str) -> ApiError {
        let mut error = Self::not_found(format!("there is no model `{id}` here"));
        error.0.special = Some(("model_not_found", "not_found_error"));
        error.0.param = Some("model".into());
        error
    }

    /// 405: the path exists, the method does not.
    pub fn method_not_allowed() -> ApiError {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "this method is not allowed here")
    }

    /// 408: the body came too slowly.
    pub fn timeout() -> ApiError {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "the request body took too long")
    }

    /// 409: something of this name is there already.
    pub fn conflict(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        let mut error = Self::new(StatusCode::CONFLICT, "invalid_request_error", message);
        error.0.hint = Some(hint.into());
        error
    }

    /// 410: it was there and is not any more.
    pub fn gone(message: impl Into<String>) -> ApiError {
        Self::new(StatusCode::GONE, "invalid_request_error", message)
    }

    /// 413: more than `limit` bytes.
    pub fn too_large(limit: usize) -> ApiError {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            format!("the request body is larger than {limit} bytes"),
        )
    }

    /// 500: our fault.
    pub fn internal(message: impl Into<String>) -> ApiError {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// 501: this server was not started for it.
    pub fn not_supported(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        let mut error = Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message);
        error.0.hint = Some(hint.into());
        error
    }

    /// 503: not now; the client is told to try again in a second.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message)
    }

    /// 503 until the model is loaded.
    pub fn loading(progress: f32, stage: &str) -> ApiError {
        let mut error = Self::unavailable("Loading model");
        error.0.extra.insert("progress".into(), json!(tidy(progress)));
        error.0.extra.insert("stage".into(), json!(stage));
        error
    }

    /// The same error under one of OpenAI's words.
    pub fn coded(mut self, code: &'static str) -> ApiError {
        self.0.special = Some((code, self.0.kind));
        self
    }

    /// The same error with what to do about it.
    pub fn with_hint(mut self, hint: Option<String>) -> ApiError {
        self.0.hint = hint;
        self
    }

    /// The same error, blamed on `param`.
    pub fn about(mut self, param: &str) -> ApiError {
        self.0.param = Some(param.into());
        self
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The body.
    pub fn body(&self, dialect: Dialect) -> Value {
        let (kind, code) = match dialect {
            Dialect::OpenAi => {
                // OpenAI's type for all that the client did wrong.
                let is_asked_wrongly = matches!(self.0.status.as_u16(), 401 | 404);
                let kind = if is_asked_wrongly { "invalid_request_error" } else { self.0.kind };
                (kind, json!(self.0.special.map(|(word, _)| word)))
            }
            Dialect::LlamaCpp => (self.0.special.map_or(self.0.kind, |(_, kind)| kind), json!(self.0.status.as_u16())),
            Dialect::Ollama => {
                let mut body = self.0.extra.clone();
                body.insert("error".into(), json!(self.sentence()));
                return Value::Object(body);
            }
            Dialect::Anthropic => {
                let mut object = self.0.extra.clone();
                object.insert("type".into(), json!(self.anthropic_kind()));
                object.insert("message".into(), json!(self.sentence()));
                return json!({ "type": "error", "error": object });
            }
        };
        let mut object = self.0.extra.clone();
        object.insert("message".into(), json!(self.0.message));
        object.insert("type".into(), json!(kind));
        object.insert("param".into(), json!(self.0.param));
        object.insert("code".into(), code);
        if let Some(hint) = &self.0.hint {
            object.insert("hint".into(), json!(hint));
        }
        json!({ "error": object })
    }

    /// Anthropic's word for the status.
    fn anthropic_kind(&self) -> &'static str {
        match self.0.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::REQUEST_TIMEOUT => "timeout_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// All of it in one text, for clients that know no more.
    fn sentence(&self) -> String {
        let message = &self.0.message;
        let about = self.0.param.as_ref().filter(|param| !message.contains(param.as_str()));
        let about = about.map_or_else(String::new, |param| format!("`{param}`: "));
        let hint = self.0.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
        format!("{about}{message}{hint}")
    }

    /// The whole response, in the words of one API.
    pub fn response(&self, dialect: Dialect) -> Response {
        let mut response = (self.0.status, axum::Json(self.body(dialect))).into_response();
        let headers = response.headers_mut();
        if self.0.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    /// A handler does not know its path: the error travels beside the response, and `guard` rewrites the body in the
    /// dialect of the path.
    fn into_response(self) -> Response {
        let mut response = self.response(Dialect::LlamaCpp);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        let mut api = match &error {
            EngineError::PromptTooLong { prompt, n_ctx } => {
                let mut api = Self::invalid(None, error.to_string());
                api.0.special = Some(("context_length_exceeded", "exceed_context_size_error"));
                api.0.extra.insert("n_prompt_tokens".into(), json!(prompt));
                api.0.extra.insert("n_ctx".into(), json!(n_ctx));
                api
            }
            EngineError::EmptyPrompt | EngineError::BadSetting(_) | EngineError::Constraint(_) => {
                Self::invalid(None, error.to_string())
            }
            EngineError::QueueFull | EngineError::Stopped => Self::unavailable(error.to_string()),
            EngineError::Model(_) => Self::internal(error.to_string()),
        };
        api.0.hint = error.hint();
        api
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> ApiError {
        let mut api = Self::invalid(Some("messages".to_owned()), error.to_string());
        api.0.hint = error.hint();
        api
    }
}

impl From<SlotError> for ApiError {
    fn from(error: SlotError) -> ApiError {
        let mut api = match &error {
            SlotError::Busy | SlotError::Stopped => Self::unavailable(error.to_string()),
            SlotError::Io(source) => Self::internal(format!("the slot's file: {source}")),
            _ => Self::invalid(None, error.to_string()),
        };
        api.0.hint = error.hint();
        api
    }
}

/// A number as a person wrote it: 0.95, where the widened 32-bit value would be printed as 0.949999988079071.
pub fn tidy(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
