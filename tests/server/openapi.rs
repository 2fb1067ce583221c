//! The OpenAPI document and the router tell the same story.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;

type Routes = BTreeSet<(String, String)>;

/// Every `.route("PATH", get(…).post(…))` under `folder`, as (method, path). The router itself cannot be asked.
fn routes_in(folder: &Path, routes: &mut Routes) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            routes_in(&entry, routes);
            continue;
        }
        let text = fs::read_to_string(&entry).expect("a source file");
        for call in text.split(".route(\"").skip(1) {
            let (path, rest) = call.split_once('"').expect("the end of a path");
            let mut depth = 1;
            let end = rest.find(|c: char| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            let handlers = &rest[..end.expect("a closed call")];
            for method in ["get", "post", "put", "delete", "patch"] {
                let is_word = |at: usize| !handlers[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                if handlers.match_indices(&format!("{method}(")).any(|(at, _)| is_word(at)) {
                    routes.insert((method.to_owned(), path.to_owned()));
                }
            }
        }
    }
}

async fn documented(state: &AppState) -> Routes {
    let document = get(state, "/openapi.json").await.ok();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("paths");
    let methods = |path: &Value| path.as_object().expect("methods").keys().cloned().collect::<Vec<_>>();
    paths
        .iter()
        .flat_map(|(path, value)| methods(value).into_iter().map(move |method| (method, path.clone())))
        .collect()
}

#[tokio::test]
async fn every_route_is_in_the_document_and_nothing_else_is() {
    let mut routes = Routes::new();
    routes_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server"), &mut routes);
    assert!(routes.len() > 15, "{routes:?}");
    assert_eq!(documented(&ready(options())).await, routes, "add a line to OPERATIONS in src/server/openapi.rs");
}

#[tokio::test]
async fn every_documented_route_has_a_handler() {
    let state = ready(options());
    for (method, path) in documented(&state).await {
        let answer =
            call(&state, request(&method.to_uppercase(), &path).body(Body::from("{}")).expect("a request")).await;
        let is_absent = answer.status == StatusCode::NOT_FOUND && answer.text.contains("there is no");
        let needs_an_id = path.contains('{');
        assert!(
            answer.status != StatusCode::METHOD_NOT_ALLOWED && (!is_absent || needs_an_id),
            "{method} {path}: {}",
            answer.text
        );
    }
}

#[tokio::test]
async fn the_document_needs_no_key() {
    let mut options = options();
    options.api_keys = vec!["one".into()];
    get(&ready(options), "/openapi.json").await.ok();
}
