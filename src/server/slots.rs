//! `POST /slots/{id}`: what a slot holds, saved to a file under `--slot-save-path`, restored from there, forgotten.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::Fields;
use super::generation::{draw_id, run_blocking};
use super::{AppState, Loaded, Ready};
use crate::engine::{SlotAnswer, SlotChange, SlotError};

/// Longest file name.
const MAX_NAME: usize = 128;

#[derive(Deserialize)]
pub struct ActionQuery {
    action: String,
}

/// The handler.
pub async fn act(
    State(state): State<AppState>,
    Loaded(ready): Loaded,
    UrlPath(id): UrlPath<String>,
    query: Result<Query<ActionQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Fields, ApiError>,
) -> Result<Json<Value>, ApiError> {
    let Query(ActionQuery { action }) =
        query.map_err(|_| ApiError::invalid(Some("action".to_owned()), "`?action=` is save, restore or erase"))?;
    let n_slots = ready.engine.options().n_parallel;
    let id = id.parse().ok().filter(|id| *id < n_slots);
    let id = id.ok_or_else(|| ApiError::invalid(None, format!("the slots are numbered from 0 to {}", n_slots - 1)))?;
    let start = Instant::now();
    if action == "erase" {
        // It needs no body, but what is there has to be one.
        let length = headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
        if length.is_some_and(|length| length != b"0") {
            body?;
        }
        let change = wait(ready.engine.erase_slot(id)?).await?;
        return Ok(Json(json!({ "id_slot": id, "n_erased": change.n_tokens })));
    }
    if !["save", "restore"].contains(&action.as_str()) {
        let message = format!("`action` must be save, restore or erase, not `{action}`");
        return Err(ApiError::invalid(Some("action".to_owned()), message));
    }
    let folder = state.options().slot_save_path.clone().ok_or_else(|| {
        ApiError::not_supported("this server saves no slots", "start it with `--slot-save-path FOLDER`")
    })?;
    let name = body?.required_string("filename")?.to_owned();
    if !is_plain(&name) {
        let message = "`filename` must be a plain name: letters, digits, `.`, `-`, `_`, and not a dot first";
        return Err(ApiError::invalid(Some("filename".to_owned()), message));
    }
    let path = folder.join(&name);
    let (counts, time) = match action.as_str() {
        "save" => {
            let change = save(&ready, id, path).await?;
            (json!({ "n_saved": change.n_tokens, "n_written": change.n_bytes }), "save_ms")
        }
        _ => {
            let change = restore(&ready, id, path).await?;
            (json!({ "n_restored": change.n_tokens, "n_read": change.n_bytes }), "restore_ms")
        }
    };
    let mut answer = counts;
    answer["id_slot"] = json!(id);
    answer["filename"] = json!(name);
    answer["timings"] = json!({ time: start.elapsed().as_secs_f64() * 1e3 });
    Ok(Json(answer))
}

/// Whether a name stays in its folder, on every system.
fn is_plain(name: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_known) && !name.starts_with('.')
}

async fn save(ready: &Arc<Ready>, id: usize, path: PathBuf) -> Result<SlotChange, ApiError> {
    let (file, new) = run_blocking(move || NewFile::create(path)).await?.map_err(file_error)?;
    let change = wait(ready.engine.save_slot(id, file as Box<dyn Write + Send>)?).await?;
    run_blocking(move || new.finish()).await?.map_err(file_error)?;
    Ok(change)
}

async fn restore(ready: &Arc<Ready>, id: usize, path: PathBuf) -> Result<SlotChange, ApiError> {
    let file = run_blocking(move || open(&path)).await?.map_err(file_error)?;
    wait(ready.engine.restore_slot(id, file)?).await
}

/// Only what was saved here is read: no link that leads out of the folder, nothing that is no file.
fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "not a file"));
    }
    Ok(Box::new(File::open(path)?))
}

async fn wait(answer: SlotAnswer) -> Result<SlotChange, ApiError> {
    Ok(answer.recv().await.map_err(|_| SlotError::Stopped)??)
}

/// The folder is the operator's business: clients hear what, not where.
fn file_error(error: io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::NotFound => ApiError::not_found("there is no such saved slot").about("filename"),
        _ => SlotError::Io(error).into(),
    }
}

/// A file that gets its name when it is whole, and goes when it never is.
struct NewFile {
    temporary: Option<PathBuf>,
    path: PathBuf,
}

impl NewFile {
    fn create(path: PathBuf) -> io::Result<(Box<File>, NewFile)> {
        let temporary = path.with_file_name(format!(".{}.tmp", draw_id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        Ok((Box::new(file), NewFile { temporary: Some(temporary), path }))
    }

    fn finish(mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.path)?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing better can be done about a failure here than to leave the file.
            let _ = std::fs::remove_file(temporary);
        }
    }
}
