//! The page and its files: embedded, or read from a folder while it is being edited.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

use super::AppState;
use super::error::ApiError;

/// `web/dist`, as it was when the program was built.
#[derive(RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Embedded;

/// No request leaves the origin, no inline script or style, and `innerHTML` only through two named policies.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types gemma2 dompurify";

const PAGE_HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
];

/// Whatever no API route has taken: a file of the page, or 404.
pub async fn page(State(state): State<AppState>, request: Request) -> Response {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return ApiError::not_found(format!("there is no `{} {path}`", request.method())).into_response();
    }
    if !state.options().has_page {
        return ApiError::not_found("this server has no page, only its APIs").into_response();
    }
    let name = match path.strip_prefix('/') {
        None | Some("") => "index.html",
        Some(name) => name,
    };
    let body = match &state.options().ui_dir {
        Some(folder) => from_folder(folder, name).await,
        None => embedded(name),
    };
    match body {
        Some(body) => file(name, body, request.headers()),
        None if name == "index.html" => with_page_headers(
            (StatusCode::NOT_FOUND, "This build of gemma2 has no chat page; its APIs work.\n").into_response(),
        ),
        None => ApiError::not_found(format!("there is nothing at `{path}`")).into_response(),
    }
}

fn embedded(name: &str) -> Option<Cow<'static, [u8]>> {
    Embedded::get(name).map(|file| file.data)
}

async fn from_folder(folder: &Path, name: &str) -> Option<Cow<'static, [u8]>> {
    // Plain names only: no `..`, no `%2e`, no drive letters, nothing hidden.
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if !name.split('/').all(is_plain) {
        return None;
    }
    let path = folder.join(name);
    let read = tokio::task::spawn_blocking(move || std::fs::read(path));
    read.await.ok()?.ok().map(Cow::Owned)
}

fn file(name: &str, body: Cow<'static, [u8]>, request: &HeaderMap) -> Response {
    let digest = Sha256::digest(&body);
    let tag: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let packed = takes_gzip(request).then(|| gzip(&tag, &body)).flatten();
    // Another form of the same file is another entity.
    let tag = if packed.is_some() { format!("\"{tag}-gzip\"") } else { format!("\"{tag}\"") };
    let known = request
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|one| one.trim().trim_start_matches("W/") == tag));
    let cache_control = if is_hashed(name) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let content_type = [(header::CONTENT_TYPE, content_type(name))];
    let mut response = match packed {
        _ if known => StatusCode::NOT_MODIFIED.into_response(),
        Some(packed) => (content_type, [(header::CONTENT_ENCODING, "gzip")], packed).into_response(),
        None => (content_type, body).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    with_page_headers(response)
}

/// Whether the client reads gzip (RFC 9110, 12.5.3). `*` alone is taken for no: what sends it is rarely a browser.
fn takes_gzip(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| {
        let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
        let is_refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        coding.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

/// The file compressed, where that makes it smaller. `tag` tells its content: each is compressed once.
fn gzip(tag: &str, body: &[u8]) -> Option<Bytes> {
    /// More than the page has; a folder in which files change has no end of contents.
    const MOST_FILES: usize = 64;
    static PACKED: Mutex<Option<HashMap<String, Bytes>>> = Mutex::new(None);
    let mut packed = PACKED.lock().unwrap_or_else(PoisonError::into_inner);
    let packed = packed.get_or_insert_default();
    if let Some(bytes) = packed.get(tag) {
        return Some(bytes.clone()).filter(|bytes| bytes.len() < body.len());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).ok()?;
    let bytes = Bytes::from(encoder.finish().ok()?);
    if packed.len() < MOST_FILES {
        packed.insert(tag.to_owned(), bytes.clone());
    }
    Some(bytes).filter(|bytes| bytes.len() < body.len())
}

fn with_page_headers(mut response: Response) -> Response {
    for (name, value) in PAGE_HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether the bundler put a hash into the name (`main-QX4TZ2AB.js`): such a file never changes.
fn is_hashed(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let stem = file.split('.').next().unwrap_or(file);
    stem.rsplit_once('-')
        .is_some_and(|(_, hash)| hash.len() == 8 && hash.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7')))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" => "text/plain; charset=utf-8",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_a_bundlers_hash_are_immutable() {
        assert!(is_hashed("assets/main-QX4TZ2AB.js"));
        assert!(is_hashed("katex-AAAAAAAA.js.map"));
        for name in ["index.html", "theme.js", "main-latest.js", "a-12345678.js", "QX4TZ2AB.js"] {
            assert!(!is_hashed(name), "{name}");
        }
    }

    #[test]
    fn gzip_is_for_those_who_say_that_they_read_it() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        for value in ["gzip", "gzip, deflate, br, zstd", "br;q=1.0, GZIP;q=0.8"] {
            assert!(takes(value), "{value}");
        }
        for value in ["", "identity", "br", "*", "gzip;q=0", "gzip; q=0.000", "xgzip"] {
            assert!(!takes(value), "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn a_folder_is_never_left() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("ui")).expect("a folder");
        std::fs::write(folder.path().join("secret.txt"), "x").expect("a file");
        std::fs::write(folder.path().join("ui/.hidden"), "x").expect("a file");
        std::fs::write(folder.path().join("ui/a.txt"), "x").expect("a file");
        let ui = folder.path().join("ui");
        assert!(from_folder(&ui, "a.txt").await.is_some());
        for name in ["../secret.txt", "..%2fsecret.txt", "./a.txt", ".hidden", "/etc/passwd", "a.txt/", "C:\\a", ""] {
            assert!(from_folder(&ui, name).await.is_none(), "{name}");
        }
    }
}
