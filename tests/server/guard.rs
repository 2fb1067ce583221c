//! Who may call.

use super::*;

async fn with(state: &AppState, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    call(state, request.body(Body::from(body.to_owned())).expect("a request")).await
}

const TOKENIZE: (&str, &str, &str) = ("POST", "/tokenize", r#"{"content":"a"}"#);

async fn tokenize(state: &AppState, headers: &[(&str, &str)]) -> Answer {
    with(state, TOKENIZE.0, TOKENIZE.1, headers, TOKENIZE.2).await
}

#[tokio::test]
async fn a_foreign_host_is_refused_on_loopback_even_for_the_page() {
    let state = ready(options());
    for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "192.168.0.2:8080", ""] {
        for path in ["/", "/health", "/v1/models"] {
            let error = with(&state, "GET", path, &[("host", host)], "").await.error(403);
            assert_eq!(error["type"], "permission_error", "{host}");
        }
        tokenize(&state, &[("host", host)]).await.error(403);
    }
    with(&state, "GET", "/health", &[], "").await.error(403);
    let two = [("host", "127.0.0.1"), ("host", "evil.example")];
    with(&state, "GET", "/health", &two, "").await.error(403);
    with(&state, "GET", "http://evil.example/health", &[("host", "127.0.0.1")], "").await.error(403);
    for host in ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "localhost:9000"] {
        with(&state, "GET", "/health", &[("host", host)], "").await.ok();
    }
}

#[tokio::test]
async fn bound_to_the_network_addresses_and_private_names_are_ours_and_others_need_permission() {
    let bound = || ServerOptions::new(SocketAddr::from(([0, 0, 0, 0], 8080)));
    let state = ready(bound());
    for host in ["mylaptop.lan:8080", "192.168.1.2:8080", "[fd00::1]:8080", "gemma2:8080", "localhost:8080"] {
        tokenize(&state, &[("host", host)]).await.ok();
    }
    tokenize(&state, &[]).await.ok();
    // A page whose own name was pointed at this machine: for the browser it is of the same origin.
    let rebound = [("host", "evil.example:8080"), ("origin", "http://evil.example:8080")];
    for path in ["/", "/health", "/v1/models"] {
        let error = with(&state, "GET", path, &rebound, "").await.error(403);
        assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("`--allow-host evil.example`")), "{error}");
    }
    tokenize(&state, &rebound).await.error(403);

    let mut options = bound();
    options.allowed_hosts = vec!["llm.example.org".into()];
    let state = ready(options);
    for host in ["llm.example.org", "LLM.example.org:443"] {
        tokenize(&state, &[("host", host)]).await.ok();
    }
    tokenize(&state, &[("host", "evil.llm.example.org")]).await.error(403);
    tokenize(&state, &rebound).await.error(403);

    let mut options = bound();
    options.api_keys = vec!["one".into()];
    let state = ready(options);
    with(&state, "GET", "/health", &[("host", "llm.example.org")], "").await.ok();
    tokenize(&state, &rebound).await.error(401);
}

#[tokio::test]
async fn a_name_that_is_allowed_is_ours_on_loopback_too() {
    for allowed in ["llm.example.org:443", "*"] {
        let mut options = options();
        options.allowed_hosts = vec![allowed.into()];
        let state = ready(options);
        let proxied = [("host", "llm.example.org"), ("origin", "https://llm.example.org")];
        tokenize(&state, &proxied).await.ok();
        let foreign = [proxied[0], ("origin", "https://evil.example")];
        tokenize(&state, &foreign).await.error(403);
    }
}

#[tokio::test]
async fn a_foreign_page_may_not_change_or_read_anything() {
    let state = ready(options());
    for origin in ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8080", "file://"] {
        let headers = [("host", "127.0.0.1:8080"), ("origin", origin)];
        tokenize(&state, &headers).await.error(403);
        let read = with(&state, "GET", "/v1/models", &headers, "").await;
        assert_eq!(read.header("access-control-allow-origin"), "", "{origin} cannot read");
        let ask = [headers[0], headers[1], ("access-control-request-method", "POST")];
        let answer = with(&state, "OPTIONS", "/tokenize", &ask, "").await;
        assert_eq!(answer.status, StatusCode::OK, "browsers call this a missing header, not a broken server");
        for name in ["origin", "methods", "headers", "credentials"] {
            assert_eq!(answer.header(&format!("access-control-allow-{name}")), "", "{origin}");
        }
    }
    tokenize(&state, &[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")]).await.ok();
    tokenize(&state, &[("host", "127.0.0.1:8080")]).await.ok();
}

#[tokio::test]
async fn an_allowed_origin_gets_cors_headers_and_its_preflight() {
    let mut options = options();
    options.cors_origins = vec!["https://friend.example".into()];
    let state = ready(options);
    let headers = [("host", "127.0.0.1:8080"), ("origin", "https://friend.example")];
    let answer = tokenize(&state, &headers).await;
    answer.ok();
    assert_eq!(answer.header("access-control-allow-origin"), "https://friend.example");
    assert_eq!(answer.header("vary"), "origin");
    let ask = [
        headers[0],
        headers[1],
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, x-stainless-os"),
    ];
    let answer = with(&state, "OPTIONS", "/v1/chat/completions", &ask, "").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("access-control-allow-origin"), "https://friend.example");
    assert_eq!(answer.header("access-control-allow-headers"), "authorization, x-stainless-os");
    assert!(answer.header("access-control-allow-methods").contains("POST"));
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    tokenize(&state, &[headers[0], ("origin", "https://friend.example.evil.example")]).await.error(403);
}

#[tokio::test]
async fn localhost_as_an_allowed_origin_is_every_page_that_this_machine_serves() {
    let mut options = options();
    options.cors_origins = vec!["localhost".into()];
    let state = ready(options);
    for origin in ["http://localhost", "https://localhost:3000", "http://127.0.0.1:3000", "http://[::1]:3000"] {
        let answer = tokenize(&state, &[("host", "127.0.0.1:8080"), ("origin", origin)]).await;
        answer.ok();
        assert_eq!(answer.header("access-control-allow-origin"), origin);
    }
    for origin in ["http://localhost.evil.example", "http://notlocalhost", "localhost", "null", "http://192.168.1.2"] {
        tokenize(&state, &[("host", "127.0.0.1:8080"), ("origin", origin)]).await.error(403);
    }
}

#[tokio::test]
async fn a_key_guards_all_but_health_and_the_page() {
    let mut options = options();
    options.api_keys = vec!["one".into(), "two".into()];
    let state = ready(options);
    let host = ("host", "127.0.0.1:8080");
    for (method, path) in [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("POST", "/completion"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/tokenizer_info"),
        ("POST", "/apply-template"),
        ("GET", "/props"),
        ("GET", "/slots"),
        ("GET", "/metrics"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/api/chat"),
        ("POST", "/api/generate"),
        ("POST", "/api/embed"),
        ("POST", "/api/embeddings"),
        ("POST", "/api/show"),
        ("GET", "/api/tags"),
        ("GET", "/api/ps"),
        ("GET", "/api/version"),
    ] {
        let answer = with(&state, method, path, &[host], "{}").await;
        assert_eq!(answer.header("www-authenticate"), "Bearer", "{path}");
        if path.starts_with("/api/") || path.starts_with("/v1/messages") {
            answer.said(401);
            continue;
        }
        let error = answer.error(401);
        let expected = match path.starts_with("/v1") {
            true => json!(["invalid_request_error", "invalid_api_key"]),
            false => json!(["authentication_error", 401]),
        };
        assert_eq!(json!([error["type"], error["code"]]), expected);
    }
    for wrong in ["Bearer three", "Bearer", "one", "Basic one", "Bearer on", "Bearer onee"] {
        tokenize(&state, &[host, ("authorization", wrong)]).await.error(401);
    }
    tokenize(&state, &[host, ("x-api-key", "three")]).await.error(401);
    for right in [("authorization", "Bearer one"), ("authorization", "bearer two"), ("x-api-key", "two")] {
        tokenize(&state, &[host, right]).await.ok();
    }
    with(&state, "GET", "/health", &[host], "").await.ok();
    let page = with(&state, "GET", "/", &[host], "").await;
    assert_ne!(page.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_page_at_localhost_moves_to_127_0_0_1() {
    let state = ready(options());
    let page = with(&state, "GET", "/?q=hi%20there", &[("host", "localhost:8080")], "").await;
    assert_eq!(page.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(page.header("location"), "http://127.0.0.1:8080/?q=hi%20there");
    with(&state, "GET", "/health", &[("host", "localhost:8080")], "").await.ok();
    tokenize(&state, &[("host", "localhost:8080")]).await.ok();
    let state = ready(ServerOptions::new(SocketAddr::from(([0; 8], 8080))));
    let page = with(&state, "GET", "/", &[("host", "localhost:8080")], "").await;
    assert_ne!(page.status, StatusCode::TEMPORARY_REDIRECT, "not reachable there for sure");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_errors_of_the_same_form() {
    let state = ready(options());
    for (method, path) in [("GET", "/nothing"), ("POST", "/v1/nothing"), ("POST", "/"), ("GET", "/v1/../etc/passwd")] {
        let error = with(&state, method, path, &[("host", "127.0.0.1")], "").await.error(404);
        let expected = if path.starts_with("/v1") { "invalid_request_error" } else { "not_found_error" };
        assert_eq!(error["type"], expected);
    }
    for (method, path) in [("GET", "/v1/chat/completions"), ("DELETE", "/props"), ("PUT", "/health")] {
        with(&state, method, path, &[("host", "127.0.0.1")], "").await.error(405);
    }
}
