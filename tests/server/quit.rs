//! The page ends the program.

use super::*;

async fn quit(state: &AppState, headers: &[(&str, &str)]) -> Answer {
    let mut request = request("POST", "/quit");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    call(state, request.body(Body::empty()).expect("a request")).await
}

#[tokio::test]
async fn the_page_ends_the_program_with_the_token_it_was_told() {
    let state = ready(options());
    let token = get(&state, "/props").await.ok()["quit_token"].as_str().expect("a token").to_owned();
    assert!(token.len() >= 32, "{token}");
    for headers in [&[][..], &[("x-quit-token", "")], &[("x-quit-token", "0123456789abcdef0123456789abcdef")]] {
        quit(&state, headers).await.error(403);
    }
    quit(&state, &[("x-quit-token", &token), ("origin", "https://evil.example")]).await.error(403);
    let answer = quit(&state, &[("x-quit-token", &token)]).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    state.quit_requested().await;
}

#[tokio::test]
async fn tokens_are_drawn_anew_for_every_server() {
    let token = async || get(&ready(options()), "/props").await.ok()["quit_token"].clone();
    assert_ne!(token().await, token().await);
}

#[tokio::test]
async fn a_server_on_the_network_is_not_ended_by_a_page() {
    let state = ready(ServerOptions::new(SocketAddr::from(([0, 0, 0, 0], 8080))));
    assert_eq!(get(&state, "/props").await.ok()["quit_token"], Value::Null);
    for token in ["", "null"] {
        quit(&state, &[("x-quit-token", token)]).await.error(403);
    }
}

#[tokio::test]
async fn where_keys_are_asked_for_the_page_needs_one() {
    let mut options = options();
    options.api_keys = vec!["one".into()];
    let state = ready(options);
    quit(&state, &[]).await.error(401);
}
