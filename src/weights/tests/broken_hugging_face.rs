//! A good Hugging Face directory with one thing wrong: the message names it.

use serde_json::{Value, json};

use super::*;

/// The golden directory as members of an archive; `edit` changes the configuration.
fn members(edit: impl FnOnce(&mut Value)) -> Vec<NamedBytes> {
    let directory = fixtures().join(SHARDED);
    let mut members = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        members.push(named(&format!("m/{name}"), std::fs::read(&path).unwrap()));
    }
    let config = member(&mut members, "config.json");
    let mut value: Value = serde_json::from_slice(&config.bytes).unwrap();
    edit(&mut value);
    config.bytes = Bytes::from(serde_json::to_vec(&value).unwrap());
    members
}

fn member<'a>(members: &'a mut [NamedBytes], name: &str) -> &'a mut NamedBytes {
    members.iter_mut().find(|member| member.base_name() == name).unwrap()
}

fn load(members: Vec<NamedBytes>) -> Result<Source, WeightsError> {
    let source = Source::open(Files::from_members(members)?)?;
    source.tensors()?;
    Ok(source)
}

fn with_key(key: &str, value: Value) -> Result<Source, WeightsError> {
    load(members(|config| config[key] = value))
}

/// The first shard with another header.
fn edit_header(members: &mut [NamedBytes], edit: impl FnOnce(String) -> String) {
    let shard = member(members, "model-00001-of-00002.safetensors");
    let n_header = u64::from_le_bytes(shard.bytes[..8].try_into().unwrap()) as usize;
    let header = edit(String::from_utf8(shard.bytes[8..8 + n_header].to_vec()).unwrap());
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&shard.bytes[8 + n_header..]);
    shard.bytes = Bytes::from(bytes);
}

#[test]
fn members_of_an_archive_load_like_a_directory() {
    let source = load(members(|_| ())).unwrap();
    assert_eq!(source.config(), open(&fixtures().join(SHARDED)).config());
    assert_eq!((source.name(), source.quantization()), ("m", "BF16"));
    assert_eq!(source.file(), "m/model-00001-of-00002.safetensors");
    let Vocabulary::Json(json) = source.vocabulary() else { panic!() };
    assert_eq!((json.file.as_str(), json.bos_id), ("m/tokenizer.json", Some(2)));
    assert!(json.tokenizer.starts_with(b"{") && json.tokenizer_config.is_some());
}

#[test]
fn end_ids_come_from_the_generation_config_or_else_from_the_config() {
    let mut all = members(|_| ());
    all.retain(|member| member.base_name() != "generation_config.json");
    assert_eq!(load(all).unwrap().end_ids(), [1]);
    let mut all = members(|_| ());
    member(&mut all, "generation_config.json").bytes = Bytes::from(b"{}".to_vec());
    assert_eq!(load(all).unwrap().end_ids(), [1]);
    let mut all = members(|_| ());
    member(&mut all, "generation_config.json").bytes = Bytes::from(br#"{"eos_token_id":[107,-1]}"#.to_vec());
    assert_eq!(
        message(load(all)),
        "`m/generation_config.json` has `eos_token_id` = `[107,-1]`; token ids are expected"
    );
}

#[test]
fn the_chat_template_is_found_in_each_place_where_it_can_be() {
    let with_config = |value: Value| {
        let mut all = members(|_| ());
        let bytes = serde_json::to_vec(&json!({ "chat_template": value })).unwrap();
        member(&mut all, "tokenizer_config.json").bytes = Bytes::from(bytes);
        all
    };
    let template = |all| load(all).unwrap().chat_template().map(str::to_owned);
    assert_eq!(template(with_config(json!("one"))).unwrap(), "one");
    let list = json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]);
    assert_eq!(template(with_config(list)).unwrap(), "yes");
    assert_eq!(template(with_config(Value::Null)), None);
    let mut all = with_config(json!("one"));
    all.push(named("m/chat_template.jinja", b"two".to_vec()));
    assert_eq!(template(all).unwrap(), "two");
}

#[test]
fn what_this_program_does_not_compute_is_refused() {
    let check = |key: &str, value: Value, expected: &str| {
        let shown = value.to_string();
        assert_eq!(message(with_key(key, value)), format!("`m/config.json` has `{key}` = `{shown}`; {expected}"));
    };
    check("hidden_activation", json!("gelu"), "only gelu_pytorch_tanh is supported");
    check("rope_scaling", json!({"type": "linear"}), "scaled RoPE is not supported");
    check("rope_parameters", json!({"rope_type": "yarn"}), "scaled RoPE is not supported");
    check("quantization_config", json!({}), "only plain safetensors are supported");
    check("attention_bias", json!(true), "a Gemma 2 has false");
    check("sliding_window", Value::Null, "a whole number is expected");
    check("attn_logit_softcapping", Value::Null, "a number is expected");
    check("num_hidden_layers", json!(-1), "a whole number is expected");
    check("rms_norm_eps", json!("1e-6"), "a number is expected");
    let expected = "one of sliding_attention and full_attention for each layer";
    check("layer_types", json!(["full_attention"]), expected);
    check("layer_types", json!(["full_attention", "chunked_attention", "full_attention"]), expected);
    assert_eq!(
        message(with_key("model_type", json!("gemma3_text"))),
        "`m/config.json` is a model of the architecture `gemma3_text`, not `gemma2`"
    );
    assert_eq!(
        message(with_key("query_pre_attn_scalar", json!(0))),
        "`m/config.json` has `query_pre_attn_scalar` = 0; a number above 0 is expected"
    );
    assert_eq!(
        message(with_key("rope_theta", json!(1e300))),
        format!("`m/config.json` has `rope_theta` = {}; a number above 0 is expected", 1e300)
    );
    let without = members(|config| {
        config.as_object_mut().unwrap().remove("head_dim");
        config.as_object_mut().unwrap().remove("query_pre_attn_scalar");
    });
    assert_eq!(message(load(without)), "`m/config.json` lacks the key `query_pre_attn_scalar`");
}

#[test]
fn layer_types_and_the_rope_base_are_read_wherever_they_are() {
    let types = json!(["full_attention", "full_attention", "sliding_attention"]);
    let source = with_key("layer_types", types).unwrap();
    assert_eq!(source.config().local_layers, [false, false, true]);
    let parameters = json!({"rope_type": "default", "rope_theta": 5000.0});
    assert_eq!(with_key("rope_parameters", parameters).unwrap().config().rope_base, 5000.0);
}

#[test]
fn an_embedding_of_other_rows_than_the_config_says_is_refused() {
    assert_eq!(
        message(with_key("vocab_size", json!(513))),
        "`m/model-00001-of-00002.safetensors` has the tensor `model.embed_tokens.weight` with shape [512, 128] where \
         the model needs [513, 128]"
    );
}

#[test]
fn missing_files_are_named() {
    let check = |name: &str, expected: &str| {
        let mut all = members(|_| ());
        all.retain(|member| member.base_name() != name);
        assert_eq!(message(load(all)), expected);
    };
    check("config.json", "the model's files do not make one model: `config.json` is missing");
    check("tokenizer.json", "the model's files do not make one model: `tokenizer.json` is missing");
    check(
        "model-00002-of-00002.safetensors",
        "`m/model.safetensors.index.json` belongs to a model in 2 files, of which `model-00002-of-00002.safetensors` is \
         missing",
    );
    let mut all = members(|_| ());
    all.retain(|member| !member.base_name().ends_with(".safetensors"));
    assert_eq!(
        message(load(all)),
        "the model's files do not make one model: there is no `.gguf` and no `.safetensors`"
    );
}

#[test]
fn an_index_that_leads_elsewhere_is_refused() {
    let mut all = members(|_| ());
    member(&mut all, "model.safetensors.index.json").bytes =
        Bytes::from(br#"{"weight_map":{"a":"../../secret.safetensors"}}"#.to_vec());
    assert_eq!(
        message(load(all)),
        "`m/model.safetensors.index.json` is not an index of safetensors files: `../../secret.safetensors` is no plain \
         name of a file"
    );
    let mut all = members(|_| ());
    member(&mut all, "model.safetensors.index.json").bytes =
        Bytes::from(br#"{"weight_map":{"a":"model-00001-of-00002.safetensors"}}"#.to_vec());
    assert_eq!(message(load(all)), "`model-00001-of-00002.safetensors` lacks the tensor `a`");
}

#[test]
fn a_short_shard_is_named_with_both_sizes() {
    let mut all = members(|_| ());
    let shard = member(&mut all, "model-00002-of-00002.safetensors");
    shard.bytes = shard.bytes.slice(0..300_000).unwrap();
    let error = load(all).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`m/model-00002-of-00002.safetensors` ends at 300.0 kB but its header needs 323.1 kB"
    );
    assert!(error.hint().unwrap().contains("incomplete"));
}

#[test]
fn a_dtype_that_is_not_supported_is_named() {
    // An integer of as many bytes, so that only the type is wrong.
    let mut all = members(|_| ());
    edit_header(&mut all, |header| {
        let broken = header.replacen(r#""dtype":"BF16","shape":[512,128]"#, r#""dtype":"I16","shape":[512,128]"#, 1);
        assert_ne!(broken, header);
        broken
    });
    assert_eq!(
        message(load(all)),
        "`m/model-00001-of-00002.safetensors` stores the tensor `model.embed_tokens.weight` as I16, which this program \
         does not compute with"
    );
}

#[test]
fn a_renamed_tensor_is_missing() {
    let mut all = members(|_| ());
    edit_header(&mut all, |header| header.replacen("input_layernorm", "other_layernorm", 1));
    all.retain(|member| member.base_name() != "model.safetensors.index.json");
    assert!(message(load(all)).contains("lacks the tensor `model.layers."));
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let mut all = members(|_| ());
    let mut copy = member(&mut all, "model-00001-of-00002.safetensors").clone();
    copy.name = "m/copy.safetensors".into();
    all.push(copy);
    assert!(message(load(all)).contains("twice over its parts"));
}

#[test]
fn broken_json_is_told_with_the_file() {
    for (name, bytes) in [("config.json", &b"{"[..]), ("config.json", b"[]"), ("tokenizer_config.json", b"\xff")] {
        let mut all = members(|_| ());
        member(&mut all, name).bytes = Bytes::from(bytes.to_vec());
        assert!(message(load(all)).starts_with(&format!("`m/{name}` is not valid JSON: ")));
    }
}
