//! `POST /api/embed` and the older `/api/embeddings`: texts to vectors.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::models;
use super::request::check_model;
use crate::server::embeddings::{self, dimensions};
use crate::server::error::ApiError;
use crate::server::fields::Fields;
use crate::server::{AppState, Loaded};

/// The answer of `/api/embed`. Typed, since JSON of an F32 made by way of an F64 has twice the digits.
#[derive(Serialize)]
pub struct Vectors {
    model: String,
    embeddings: Vec<Vec<f32>>,
    /// Nanoseconds.
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
}

/// The answer of `/api/embeddings`.
#[derive(Serialize)]
pub struct Vector {
    embedding: Option<Vec<f32>>,
}

/// `POST /api/embed`: any number of texts. What is too long is cut, unless `truncate` is `false`.
pub async fn embed(
    State(state): State<AppState>,
    Loaded(ready): Loaded,
    fields: Fields,
) -> Result<Json<Vectors>, ApiError> {
    let start = Instant::now();
    check_model(&fields)?;
    let cuts = fields.bool("truncate", true)?;
    let dimensions = dimensions(&fields, &ready)?;
    let has_none = fields.get("input").is_none_or(|input| input.as_array().is_some_and(Vec::is_empty));
    let vectors = match has_none {
        true => Vec::new(),
        false => embeddings::embed(&state, &ready, &fields, &["input"], cuts).await?,
    };
    Ok(Json(Vectors {
        model: models::name(&ready),
        prompt_eval_count: vectors.iter().map(|one| one.n_tokens).sum(),
        embeddings: vectors.into_iter().map(|one| one.shortened(dimensions)).collect(),
        total_duration: u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
        load_duration: 0,
    }))
}

/// `POST /api/embeddings`: one text.
pub async fn embeddings(
    State(state): State<AppState>,
    Loaded(ready): Loaded,
    fields: Fields,
) -> Result<Json<Vector>, ApiError> {
    check_model(&fields)?;
    fields.required_string("prompt")?;
    let vector = embeddings::embed(&state, &ready, &fields, &["prompt"], true).await?.pop();
    Ok(Json(Vector { embedding: vector.map(|one| one.shortened(None)) }))
}
