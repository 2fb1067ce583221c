//! The page's files and their headers.

use super::*;

#[tokio::test]
async fn files_of_a_folder_have_types_caching_and_the_page_s_headers() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("assets")).expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("index.html", "<!doctype html><title>gemma2</title>");
    write("assets/main-QX4TZ2AB.js", "export {};");
    let mut options = options();
    options.ui_dir = Some(folder.path().to_owned());
    // The page is there before the model is.
    let state = AppState::new(options);

    let page = get(&state, "/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.text, "<!doctype html><title>gemma2</title>");
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("cache-control"), "no-cache");
    let policy = page.header("content-security-policy");
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types gemma2 dompurify",
    ] {
        assert!(policy.contains(part), "{part}");
    }
    assert!(!policy.contains("unsafe"));
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    assert_eq!(page.header("cross-origin-opener-policy"), "same-origin");
    assert_eq!(page.header("cross-origin-resource-policy"), "same-origin");
    assert_eq!(page.header("permissions-policy"), "camera=(), microphone=(), geolocation=()");

    let tag = page.header("etag").to_owned();
    let again = request("GET", "/").header("if-none-match", &tag).body(Body::empty()).expect("a request");
    let again = call(&state, again).await;
    assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!(again.header("etag"), tag);
    write("index.html", "changed");
    let changed = request("GET", "/").header("if-none-match", &tag).body(Body::empty()).expect("a request");
    assert_eq!(call(&state, changed).await.text, "changed");

    let script = get(&state, "/assets/main-QX4TZ2AB.js").await;
    assert_eq!(script.header("content-type"), "text/javascript; charset=utf-8");
    assert!(script.header("cache-control").contains("immutable"));
    assert!(!script.header("content-security-policy").is_empty());
    get(&state, "/assets/main-AAAAAAAA.js").await.error(404);
}

#[tokio::test]
async fn a_head_request_has_the_headers_and_no_body() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("index.html"), "page").expect("a file");
    let mut options = options();
    options.ui_dir = Some(folder.path().to_owned());
    let head = request("HEAD", "/").body(Body::empty()).expect("a request");
    let head = call(&AppState::new(options), head).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.text, "");
    assert_eq!(head.header("content-length"), "4");
}

#[tokio::test]
async fn the_embedded_page_and_every_file_it_names_are_served() {
    let state = AppState::new(options());
    let page = get(&state, "/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let names: Vec<&str> = page
        .text
        .split(['"', '\''])
        .filter(|part| part.starts_with('/') && part.rsplit_once('.').is_some_and(|(_, end)| end.len() < 5))
        .collect();
    assert!(names.iter().any(|name| name.ends_with(".js")), "{names:?}");
    assert!(names.iter().any(|name| name.ends_with(".css")), "{names:?}");
    for name in names {
        let file = get(&state, name).await;
        assert_eq!(file.status, StatusCode::OK, "{name}");
        assert!(file.header("cache-control").contains("immutable"), "{name}");
        assert!(!file.header("content-type").contains("octet-stream"), "{name}");
    }
}

#[tokio::test]
async fn the_page_s_files_are_compressed_for_those_who_read_that() {
    let state = AppState::new(options());
    let plain = get(&state, "/").await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "accept-encoding"));
    let packed = || request("GET", "/").header("accept-encoding", "gzip, br");
    let call_raw = async |request: axum::http::request::Builder| {
        let request = request.body(Body::empty()).expect("a request");
        router(state.clone()).oneshot(request).await.expect("routers do not fail")
    };
    let response = call_raw(packed()).await;
    let headers = response.headers().clone();
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
    assert_eq!(header("content-encoding"), "gzip");
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert!(header("content-security-policy").contains("default-src 'none'"));
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    assert!(bytes.len() < plain.text.len() / 2, "{} of {} bytes", bytes.len(), plain.text.len());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).expect("gzip");
    assert_eq!(text, plain.text);
    // Each form has a name of its own, and is known by it.
    assert_ne!(header("etag"), plain.header("etag"));
    for (tag, status) in [(header("etag"), 304), (plain.header("etag").to_owned(), 200)] {
        assert_eq!(call_raw(packed().header("if-none-match", &tag)).await.status(), status, "{tag}");
    }
}
