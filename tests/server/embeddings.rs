//! `/v1/embeddings` and `/embedding`.

use gemma2::engine::Pooling;

use super::*;

fn length(values: &Value) -> f64 {
    values.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number").powi(2)).sum::<f64>().sqrt()
}

async fn embed(body: Value) -> Answer {
    post(&ready(options()), "/v1/embeddings", &body).await
}

#[tokio::test]
async fn a_text_becomes_a_vector_of_length_1_in_openai_s_form() {
    let body = embed(json!({"input": "ab", "model": "any"})).await.ok();
    assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("alphabet-Q6_K")));
    assert_eq!(body["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    let one = &body["data"][0];
    assert_eq!((&one["object"], &one["index"]), (&json!("embedding"), &json!(0)));
    assert_eq!(one["embedding"].as_array().expect("a list").len(), D_MODEL);
    assert!((length(&one["embedding"]) - 1.0).abs() < 1e-6);
}

#[tokio::test]
async fn inputs_are_texts_tokens_mixtures_and_lists_in_their_order() {
    let id = |text: &str| tokenizer().encode(text, Special::Literal)[0];
    for (input, n) in [
        (json!(""), 1),
        (json!("a"), 1),
        (json!([id("a"), id("b")]), 1),
        (json!(["a", "b"]), 2),
        (json!([[id("a")], [id("b"), "c"]]), 2),
        (json!(["a", [id("b")]]), 2),
        (json!(vec!["a"; 40]), 40),
    ] {
        let body = embed(json!({"input": input})).await.ok();
        assert_eq!(body["data"].as_array().expect("a list").len(), n, "{input}");
    }
    let many: Vec<String> = (0..26).map(|at| ALPHABET[at..=at].repeat(at + 1)).collect();
    let together = embed(json!({"input": many})).await.ok();
    for (at, text) in many.iter().enumerate() {
        let alone = embed(json!({"input": text})).await.ok();
        assert_eq!(together["data"][at]["embedding"], alone["data"][0]["embedding"], "{text}");
        assert_eq!(together["data"][at]["index"], at);
    }
}

#[tokio::test]
async fn base64_holds_the_same_numbers() {
    let floats = embed(json!({"input": "xyz"})).await.ok()["data"][0]["embedding"].clone();
    let text = embed(json!({"input": "xyz", "encoding_format": "base64"})).await.ok();
    let text = text["data"][0]["embedding"].as_str().expect("a text").to_owned();
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u32> = text.bytes().filter_map(|b| alphabet.iter().position(|a| *a == b)).map(|p| p as u32).collect();
    let bytes: Vec<u8> = bits
        .chunks(4)
        .flat_map(|four| {
            let word = four.iter().fold(0, |word, six| word << 6 | six) << (6 * (4 - four.len()));
            word.to_be_bytes()[1..four.len()].to_vec()
        })
        .collect();
    let numbers: Vec<f32> = bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    assert_eq!(numbers, serde_json::from_value::<Vec<f32>>(floats).expect("numbers"));
}

#[tokio::test]
async fn fewer_dimensions_are_the_first_ones_made_as_long_again() {
    let whole = embed(json!({"input": "abc"})).await.ok()["data"][0]["embedding"].clone();
    let short = embed(json!({"input": "abc", "dimensions": 2})).await.ok()["data"][0]["embedding"].clone();
    assert_eq!(short.as_array().expect("a list").len(), 2);
    assert!((length(&short) - 1.0).abs() < 1e-6);
    let ratio = |values: &Value| values[0].as_f64().expect("a number") / values[1].as_f64().expect("a number");
    assert!((ratio(&whole) / ratio(&short) - 1.0).abs() < 1e-5);
    for dimensions in [0, D_MODEL + 1] {
        let error = embed(json!({"input": "abc", "dimensions": dimensions})).await.error(400);
        assert_eq!(error["param"], "dimensions");
    }
}

#[tokio::test]
async fn llama_cpp_s_form_is_a_list_with_a_vector_for_each_text() {
    let state = ready(options());
    for path in ["/embedding", "/embeddings"] {
        let body = post(&state, path, &json!({"content": ["ab", "c"]})).await.ok();
        assert_eq!((&body[0]["index"], &body[1]["index"]), (&json!(0), &json!(1)));
        let own = post(&state, "/v1/embeddings", &json!({"input": "c"})).await.ok();
        assert_eq!(body[1]["embedding"], json!([own["data"][0]["embedding"]]));
    }
}

#[tokio::test]
async fn what_cannot_be_embedded_is_refused_before_anything_is_computed() {
    let state = ready(options());
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [[]]}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"input": [999_999_999u64]}), "input"),
        (json!({"input": vec!["a"; 2049]}), "input"),
        (json!({"input": ["a", "a ".repeat(200)]}), "input"),
        (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
    ] {
        assert_eq!(post(&state, "/v1/embeddings", &body).await.error(400)["param"], param);
    }
    let long = json!({"input": "a ".repeat(200)});
    let error = post(&state, "/v1/embeddings", &long).await.error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    let metrics = get(&state, "/metrics").await.text;
    assert!(metrics.contains("llamacpp:prompt_tokens_total 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_text_in_parts_is_the_same_as_in_one() {
    let parts = json!({"content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "world"}]});
    let body = embed(json!({"input": ["hello world", parts]})).await.ok();
    assert_eq!(body["data"][0]["embedding"], body["data"][1]["embedding"]);
    assert_eq!(embed(json!({"input": parts})).await.ok()["data"][0]["embedding"], body["data"][0]["embedding"]);
    for content in [json!("hello"), json!([{"type": "image_url", "image_url": {"url": "data:,"}}]), json!([5])] {
        assert_eq!(embed(json!({"input": {"content": content}})).await.error(400)["param"], "input.content");
    }
}

fn pooling(pooling: Pooling) -> AppState {
    let mut options = options();
    options.pooling = pooling;
    ready(options)
}

/// The vectors of a text in llama.cpp's form.
async fn vectors(state: &AppState, body: Value) -> Vec<Vec<f64>> {
    let body = post(state, "/embedding", &body).await.ok();
    serde_json::from_value(body[0]["embedding"].clone()).expect("numbers")
}

#[tokio::test]
async fn without_pooling_a_text_has_a_vector_for_each_token_and_openai_s_route_says_that_it_cannot_tell_them() {
    let state = pooling(Pooling::None);
    let each = vectors(&state, json!({"content": "abc"})).await;
    // Three letters and `<bos>`.
    assert_eq!(each.iter().map(Vec::len).collect::<Vec<_>>(), [D_MODEL; 4]);
    let long = |v: &Vec<f64>| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!(each.iter().all(|v| (long(v) - 1.0).abs() > 1e-3), "they are as they come");
    for (path, body) in [
        ("/v1/embeddings", json!({"input": "abc"})),
        ("/api/embed", json!({"input": "abc"})),
        ("/api/embeddings", json!({"prompt": "abc"})),
    ] {
        assert!(post(&state, path, &body).await.said(400).contains("--pooling none"), "{path}");
    }
    let many = json!({"content": vec!["abcdefghijklmnop"; 20]});
    assert_eq!(post(&state, "/embedding", &many).await.error(400)["param"], "content");

    // The mean of all, the first and the last, each made as long as 1.
    let unit = |v: Vec<f64>| v.iter().map(|x| x / long(&v)).collect::<Vec<f64>>();
    let mean = (0..D_MODEL).map(|i| each.iter().map(|v| v[i]).sum::<f64>()).collect();
    for (how, want) in [(Pooling::Mean, mean), (Pooling::First, each[0].clone()), (Pooling::Last, each[3].clone())] {
        let got = vectors(&pooling(how), json!({"content": "abc"})).await;
        assert!(got[0].iter().zip(unit(want)).all(|(a, b)| (a - b).abs() < 1e-5), "{how:?}");
    }
}

#[tokio::test]
async fn llama_cpp_s_norms_scale_a_vector_as_they_say() {
    let state = ready(options());
    let with = |norm: i64| vectors(&state, json!({"content": "abc", "embd_normalize": norm}));
    let raw = with(-1).await.remove(0);
    let max = raw.iter().fold(0.0f64, |max, x| max.max(x.abs()));
    let power = |p: i32| raw.iter().map(|x| x.abs().powi(p)).sum::<f64>().powf(1.0 / f64::from(p));
    for (norm, length) in [(0, max / 32_760.0), (1, power(1)), (2, power(2)), (3, power(3))] {
        for (got, raw) in with(norm).await[0].iter().zip(&raw) {
            assert!((got * length - raw).abs() < 1e-5 * max, "{norm}");
        }
    }
    post(&state, "/embedding", &json!({"content": "a", "embd_normalize": -2})).await.error(400);
}
