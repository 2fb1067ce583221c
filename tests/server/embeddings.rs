//! `/v1/embeddings` and `/embedding`.

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
    let error = post(&ready(options()), "/embedding", &json!({"content": "a", "embd_normalize": -1})).await.error(400);
    assert_eq!(error["param"], "embd_normalize");
}
