//! A good GGUF model with one thing wrong: the message names it.

use super::*;

#[test]
fn a_model_put_together_again_is_the_same() {
    let original = open(&fixtures().join(Q2_K));
    let (source, tensors) = Model::golden().load().unwrap();
    assert_eq!(source.config(), original.config());
    assert_eq!(source.name(), "tiny-a");
    let original = original.tensors().unwrap();
    for (a, b) in all_matrices(&tensors).into_iter().zip(all_matrices(&original)) {
        assert_eq!(a.bytes[..], b.bytes[..]);
    }
    assert_eq!(tensors.output_norm, original.output_norm);
}

#[test]
fn keys_that_old_converters_left_out_have_their_known_values() {
    let mut model = Model::golden();
    for key in [
        "gemma2.attn_logit_softcapping",
        "gemma2.final_logit_softcapping",
        "gemma2.attention.sliding_window",
        "gemma2.context_length",
        "general.file_type",
        "general.name",
        "tokenizer.chat_template",
    ] {
        model.drop_key(key);
    }
    let source = model.open().unwrap();
    let config = source.config();
    assert_eq!((config.attn_softcap, config.final_softcap), (50.0, 30.0));
    assert_eq!((config.sliding_window, config.n_ctx_train), (4096, 8192));
    assert_eq!(config.rope_base, 10_000.0);
    assert_eq!(source.quantization(), "Q2_K");
    assert_eq!(source.name(), "model");
    assert_eq!(source.chat_template(), None);
}

#[test]
fn end_ids_are_all_that_the_file_declares() {
    let mut model = Model::golden();
    model.writer.u32("tokenizer.ggml.eot_token_id", 107);
    assert_eq!(model.open().unwrap().end_ids(), [1, 107]);
}

#[test]
fn another_architecture_is_named_before_anything_else_is_complained_about() {
    let mut model = Model::golden();
    model.drop_key("general.architecture").string("general.architecture", "llama");
    model.drop_key("gemma2.block_count");
    model.tensors.clear();
    let error = model.open().unwrap_err();
    assert_eq!(error.to_string(), "`model.gguf` is a model of the architecture `llama`, not `gemma2`");
    assert_eq!(error.hint().unwrap(), "this program runs Gemma 2 only");

    let mut model = Model::golden();
    model.drop_key("general.architecture");
    assert_eq!(message(model.open()), "`model.gguf` lacks the key `general.architecture`");
}

#[test]
fn files_without_a_model_are_told_apart() {
    let mut model = Model::golden();
    model.tensors.clear();
    assert_eq!(message(model.open()), "`model.gguf` has no model in it: it has no tensors, only metadata");
    let mut model = Model::golden();
    model.drop_key("general.type").string("general.type", "adapter");
    assert_eq!(message(model.open()), "`model.gguf` has no model in it: it is an adapter (LoRA)");
}

#[test]
fn a_missing_tensor_is_named() {
    for name in ["token_embd.weight", "output_norm.weight", "blk.2.attn_q.weight", "blk.3.post_ffw_norm.weight"] {
        let mut model = Model::golden();
        model.tensors.retain(|tensor| tensor.name != name);
        assert_eq!(message(model.load()), format!("`model.gguf` lacks the tensor `{name}`"));
    }
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let mut model = Model::golden();
    model.tensor("blk.1.ffn_up.weight").shape = vec![256, 512];
    assert_eq!(
        message(model.load()),
        "`model.gguf` has the tensor `blk.1.ffn_up.weight` with shape [256, 512] where the model needs [512, 256]"
    );
    // A header that promises more than the tensors have does not get far, however much it promises.
    let mut model = Model::golden();
    model.drop_key("gemma2.feed_forward_length").u32("gemma2.feed_forward_length", 1 << 22);
    assert!(message(model.load()).contains("where the model needs [4194304, 256]"));
    let mut model = Model::golden();
    model.drop_key("gemma2.block_count").u32("gemma2.block_count", 1000);
    assert_eq!(message(model.load()), "`model.gguf` lacks the tensor `blk.4.attn_norm.weight`");
}

#[test]
fn a_tensor_that_no_gemma_2_has_is_an_error() {
    let mut model = Model::golden();
    let bytes = vec![0; 256 * 4];
    model.tensors.push(Tensor {
        name: "blk.0.attn_q.bias".into(),
        shape: vec![256],
        ggml_type: GgmlType::F32,
        bytes: bytes.clone(),
    });
    assert_eq!(
        message(model.load()),
        "`model.gguf` has the tensor `blk.0.attn_q.bias`, which is no part of a Gemma 2 of 4 layers"
    );
    let mut model = Model::golden();
    model.drop_key("gemma2.block_count").u32("gemma2.block_count", 3);
    assert!(message(model.load()).contains("`blk.3.attn_k.weight`, which is no part of a Gemma 2 of 3 layers"));
    let mut model = Model::golden();
    model.tensors.push(Tensor { name: "rope_freqs.weight".into(), shape: vec![256], ggml_type: GgmlType::F32, bytes });
    assert!(model.load().is_ok());
}

#[test]
fn an_unsupported_type_is_named_with_those_that_are_supported() {
    let mut model = Model::golden();
    let tensor = model.tensor("blk.0.attn_k.weight");
    tensor.ggml_type = GgmlType::IQ2_XXS;
    tensor.bytes = vec![0; 128 * 66];
    let error = model.load().err().unwrap();
    assert_eq!(
        error.to_string(),
        "`model.gguf` stores the tensor `blk.0.attn_k.weight` as IQ2_XXS, which this program does not compute with"
    );
    assert!(error.hint().unwrap().contains("Q4_K, Q5_K, Q6_K"));
    let mut model = Model::golden();
    let tensor = model.tensor("output_norm.weight");
    tensor.ggml_type = GgmlType::Q8_0;
    tensor.bytes = vec![0; 8 * 34];
    assert_eq!(
        message(model.load()),
        "`model.gguf` stores the norm `output_norm.weight` as Q8_0; F32, F16 and BF16 are supported there"
    );
}

#[test]
fn norms_in_half_precision_are_read() {
    let (_, expected) = Model::golden().load().unwrap();
    let mut model = Model::golden();
    let tensor = model.tensor("blk.0.attn_norm.weight");
    tensor.ggml_type = GgmlType::F16;
    let factors = expected.layers[0].pre_attn_norm.iter();
    tensor.bytes = factors.flat_map(|f| half::f16::from_f32(*f).to_le_bytes()).collect();
    let (_, tensors) = model.load().unwrap();
    let pairs = tensors.layers[0].pre_attn_norm.iter().zip(&expected.layers[0].pre_attn_norm);
    for (a, b) in pairs {
        assert_eq!(*a, half::f16::from_f32(*b).to_f32());
    }
}

#[test]
fn a_norm_that_is_not_finite_is_named_with_the_place() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut model = Model::golden();
        model.tensor("blk.2.ffn_norm.weight").bytes[40..44].copy_from_slice(&value.to_le_bytes());
        assert_eq!(
            message(model.load()),
            format!("`model.gguf` has {shown} at position 10 of the tensor `blk.2.ffn_norm.weight`")
        );
    }
}

#[test]
fn an_output_matrix_is_left_out_only_where_it_is_a_copy_of_the_embedding() {
    let with_output = |edit: &dyn Fn(&mut Tensor)| {
        let mut model = Model::golden();
        let embedding = model.tensor("token_embd.weight");
        let mut output = Tensor {
            name: "output.weight".into(),
            shape: embedding.shape.clone(),
            ggml_type: embedding.ggml_type,
            bytes: embedding.bytes.clone(),
        };
        edit(&mut output);
        model.tensors.push(output);
        model.load()
    };
    let (source, _) = with_output(&|_| ()).unwrap();
    let (plain, _) = Model::golden().load().unwrap();
    assert_eq!((source.n_params(), source.weight_bytes()), (plain.n_params(), plain.weight_bytes()));
    let expected = "`model.gguf` has an output matrix `output.weight` that differs from the embedding; Gemma 2 uses one \
                    for both";
    assert_eq!(message(with_output(&|output| output.bytes.iter_mut().for_each(|b| *b ^= 1))), expected);
    assert_eq!(message(with_output(&|output| *output.bytes.last_mut().unwrap() ^= 1)), expected);
    let other_type = |output: &mut Tensor| {
        output.ggml_type = GgmlType::Q4_K;
        output.bytes = vec![0; 512 * 144];
    };
    assert_eq!(message(with_output(&other_type)), expected);
}

#[test]
fn numbers_out_of_range_are_refused_by_key() {
    let check = |key: &'static str, value: u32, expected: &str| {
        let mut model = Model::golden();
        model.drop_key(key).u32(key, value);
        assert_eq!(message(model.open()), format!("`model.gguf` has `{key}` = {value}; {expected}"));
    };
    check("gemma2.block_count", 0, "1 to 1000 is expected");
    check("gemma2.block_count", u32::MAX, "1 to 1000 is expected");
    check("gemma2.embedding_length", 0, "1 to 1048576 is expected");
    check("gemma2.attention.head_count", 0, "1 to 4096 is expected");
    check("gemma2.attention.head_count_kv", 3, "the 4 heads must be a multiple of it");
    check("gemma2.attention.head_count_kv", 0, "the 4 heads must be a multiple of it");
    check("gemma2.attention.key_length", 63, "an even number from 2 to 16384 is expected");
    check("gemma2.attention.value_length", 32, "it must be the head's size, 64");
    check("gemma2.rope.dimension_count", 32, "it must be the head's size, 64");
    check("gemma2.attention.sliding_window", 0, "1 to 1073741824 is expected");
    check("gemma2.context_length", u32::MAX, "1 to 1073741824 is expected");
    check("tokenizer.ggml.bos_token_id", 512, "there are 512 tokens");

    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let key = "gemma2.attn_logit_softcapping";
        let mut model = Model::golden();
        model.drop_key(key).f32(key, value);
        assert_eq!(message(model.open()), format!("`model.gguf` has `{key}` = {value}; a number above 0 is expected"));
    }

    // 46 layers take the scale from the width over the heads, which must not be 0.
    let mut model = Model::golden();
    model.drop_key("gemma2.block_count").u32("gemma2.block_count", 46);
    model.drop_key("gemma2.attention.head_count").u32("gemma2.attention.head_count", 1024);
    assert_eq!(message(model.open()), "`model.gguf` has `gemma2.embedding_length` = 256; there are 1024 heads");
}

#[test]
fn values_of_the_wrong_type_and_missing_keys_are_named() {
    let mut model = Model::golden();
    model.drop_key("gemma2.block_count").string("gemma2.block_count", "four");
    assert_eq!(
        message(model.open()),
        "`model.gguf` has `gemma2.block_count` as a string where a whole number is expected"
    );
    for key in ["gemma2.block_count", "gemma2.embedding_length", "tokenizer.ggml.tokens", "tokenizer.ggml.scores"] {
        let mut model = Model::golden();
        model.drop_key(key);
        assert_eq!(message(model.open()), format!("`model.gguf` lacks the key `{key}`"));
    }
}

#[test]
fn scaled_rope_is_refused() {
    let mut model = Model::golden();
    model.writer.string("gemma2.rope.scaling.type", "linear");
    assert_eq!(
        message(model.open()),
        "`model.gguf` has `gemma2.rope.scaling.type` = linear; scaled RoPE is not supported"
    );
    let mut model = Model::golden();
    model.writer.string("gemma2.rope.scaling.type", "none");
    assert!(model.open().is_ok());
}

#[test]
fn a_vocabulary_may_be_shorter_than_the_embedding_but_not_longer() {
    let resize = |n_tokens: usize| {
        let mut model = Model::golden();
        let tokens: Vec<String> = (0..n_tokens).map(|id| format!("t{id}")).collect();
        model.drop_key("tokenizer.ggml.tokens").strings("tokenizer.ggml.tokens", &tokens);
        model.drop_key("tokenizer.ggml.scores").f32s("tokenizer.ggml.scores", &vec![0.0; n_tokens]);
        model.drop_key("tokenizer.ggml.token_type").i32s("tokenizer.ggml.token_type", &vec![1; n_tokens]);
        model.open()
    };
    let source = resize(500).unwrap();
    let Vocabulary::Spm(spm) = source.vocabulary() else { panic!() };
    assert_eq!((spm.n_tokens(), source.config().n_vocab), (500, 512));
    assert!(source.check_vocabulary_size(512).is_ok());
    let expected = "`model.gguf` has a vocabulary of 513 tokens, but the embedding has only 512 rows";
    assert_eq!(message(resize(513)), expected);
    assert_eq!(message(source.check_vocabulary_size(513)), expected);
}

#[test]
fn vocabulary_arrays_of_different_lengths_are_refused() {
    let mut model = Model::golden();
    model.drop_key("tokenizer.ggml.scores").f32s("tokenizer.ggml.scores", &[0.0; 511]);
    assert_eq!(message(model.open()), "`model.gguf` has `tokenizer.ggml.scores` = 511 values; there are 512 tokens");
    let mut model = Model::golden();
    model.drop_key("tokenizer.ggml.model").string("tokenizer.ggml.model", "gpt2");
    assert_eq!(message(model.open()), "`model.gguf` has `tokenizer.ggml.model` = `gpt2`; a Gemma 2 has `llama`");
}

#[test]
fn names_out_of_a_file_cannot_play_with_the_terminal() {
    let mut model = Model::golden();
    model.drop_key("general.name").string("general.name", "evil\x1b[2J\nname");
    assert_eq!(model.open().unwrap().name(), "evil\\u{1b}[2J\\nname");
    let mut model = Model::golden();
    model.drop_key("general.architecture").string("general.architecture", "\x1b]0;x\x07");
    assert!(!message(model.open()).contains('\x1b'));
}
