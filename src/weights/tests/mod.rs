//! Golden models, and models broken in one place each.

mod broken_gguf;
mod broken_hugging_face;
mod hostile;
mod paths;

use std::path::{Path, PathBuf};

use super::*;
use crate::error::Hint;
use crate::gguf::{GgmlType, Gguf, Writer};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/models")
}

fn open(path: &Path) -> Source {
    Source::open(Files::from_path(path).unwrap()).unwrap_or_else(|e| panic!("{e}"))
}

const LEGACY: &str = "tiny-a/gguf/tiny-a.LEGACY.gguf";
const Q2_K: &str = "tiny-a/gguf/tiny-a.Q2_K.gguf";
const F32: &str = "tiny-c/gguf/tiny-c.F32.gguf";
const SHARDED: &str = "tiny-c/hf-bf16-sharded";

#[test]
fn golden_models_load() {
    let check = |name: &str, quantization: &str, n_layers: usize, end_ids: &[u32]| {
        let source = open(&fixtures().join(name));
        assert_eq!(source.quantization(), quantization, "{name}");
        assert_eq!(source.config().n_layers, n_layers, "{name}");
        assert_eq!(source.config().n_vocab, 512, "{name}");
        assert_eq!(source.end_ids(), end_ids, "{name}");
        assert!(source.chat_template().unwrap().contains("<start_of_turn>"));
        let tensors = source.tensors().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(tensors.layers.len(), n_layers, "{name}");
        for matrix in all_matrices(&tensors) {
            let row_bytes = matrix.format.row_bytes(matrix.n_cols).unwrap();
            assert_eq!(matrix.bytes.len(), matrix.n_rows * row_bytes);
        }
        source
    };
    check(LEGACY, "Q5_1", 4, &[1]);
    check(Q2_K, "Q2_K", 4, &[1]);
    let formats = check("tiny-a/gguf/tiny-a.MIX.gguf", "Q4_0", 4, &[1]).tensors().unwrap();
    let first = &formats.layers[0];
    assert_eq!([first.wq.format, first.w_gate.format], [Format::Q5_K, Format::Q3_K]);
    assert_eq!([formats.layers[1].wk.format, formats.layers[3].w_down.format], [Format::F16, Format::Q4_0]);
    let source = check("tiny-a/gguf/tiny-a.Q4_K_M.gguf", "Q4_K_M", 4, &[1]);
    assert_eq!((source.name(), source.format_name()), ("tiny-a", "gguf"));
    let formats = source.tensors().unwrap();
    assert_eq!(formats.embedding.format, Format::Q6_K);
    assert_eq!(formats.layers[1].wv.format, Format::Q4_K);
    check(F32, "F32", 3, &[1]);
    check("tiny-d/gguf/tiny-d.Q8_0.gguf", "Q8_0", 46, &[1]);
    let source = check(SHARDED, "BF16", 3, &[1, 107]);
    assert_eq!((source.name(), source.format_name()), ("hf-bf16-sharded", "safetensors"));
    let n_params = source.n_params();
    assert_eq!(source.weight_bytes(), 2 * n_params);
    assert_eq!(open(&fixtures().join(F32)).n_params(), n_params);
}

#[test]
fn both_formats_describe_one_model_alike() {
    let gguf = open(&fixtures().join(F32)).config().clone();
    let json = open(&fixtures().join(SHARDED)).config().clone();
    assert_eq!(gguf, json);
    assert_eq!(gguf.query_scale, (1.0 / 48f64.sqrt()) as f32);
    assert_eq!((gguf.attn_softcap, gguf.final_softcap), (20.0, 24.0));
    assert_eq!((gguf.sliding_window, gguf.n_ctx_train), (12, 1024));
    assert_eq!(gguf.local_layers, [true, false, true]);
    assert_eq!((gguf.head_dim, gguf.n_heads, gguf.n_kv_heads), (48, 4, 1));
    assert_eq!((gguf.rms_eps, gguf.rope_base), (1e-6, 10_000.0));
}

#[test]
fn a_gguf_of_46_layers_scales_queries_by_the_width_over_the_heads() {
    let config = open(&fixtures().join("tiny-d/gguf/tiny-d.Q8_0.gguf")).config().clone();
    assert_eq!((config.d_model, config.n_heads, config.head_dim), (64, 2, 16));
    assert_eq!(config.query_scale, (1.0 / 32f64.sqrt()) as f32);
}

#[test]
fn norms_are_factors_whatever_the_file_stores() {
    let gguf = open(&fixtures().join(F32)).tensors().unwrap();
    let hugging_face = open(&fixtures().join(SHARDED)).tensors().unwrap();
    let norms = |tensors: &Tensors| {
        let mut norms = vec![tensors.output_norm.clone()];
        for layer in &tensors.layers {
            norms.push(layer.pre_attn_norm.clone());
            norms.push(layer.post_attn_norm.clone());
            norms.push(layer.pre_ffn_norm.clone());
            norms.push(layer.post_ffn_norm.clone());
        }
        norms.concat()
    };
    let (gguf, hugging_face) = (norms(&gguf), norms(&hugging_face));
    assert_eq!(gguf.len(), 13 * 128);
    for (a, b) in gguf.iter().zip(&hugging_face) {
        // One of them is rounded to BF16, without the 1.
        assert!((a - b).abs() <= (a - 1.0).abs() / 256.0 + 1e-6, "{a} {b}");
    }
}

#[test]
fn matrices_of_both_formats_are_the_same_rows() {
    let gguf = open(&fixtures().join(F32)).tensors().unwrap();
    let hugging_face = open(&fixtures().join(SHARDED)).tensors().unwrap();
    let pairs = all_matrices(&gguf).into_iter().zip(all_matrices(&hugging_face));
    for (a, b) in pairs {
        assert_eq!((a.n_rows, a.n_cols), (b.n_rows, b.n_cols), "{}", b.name);
        let wide = a.bytes.chunks_exact(4);
        let narrow = b.bytes.chunks_exact(2);
        for (wide, narrow) in wide.zip(narrow) {
            let wide = f32::from_le_bytes(wide.try_into().unwrap());
            let narrow = half::bf16::from_le_bytes(narrow.try_into().unwrap());
            assert_eq!(half::bf16::from_f32(wide), narrow, "{}", b.name);
        }
    }
}

#[test]
fn all_golden_models_load_where_the_whole_folder_is_there() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden/models");
    if !models.is_dir() {
        eprintln!("skipped: no ../shared/golden beside the repository");
        return;
    }
    let mut n_models = 0;
    for model in std::fs::read_dir(&models).unwrap() {
        let model = model.unwrap().path();
        for entry in std::fs::read_dir(&model).unwrap() {
            let path = entry.unwrap().path();
            let paths: Vec<PathBuf> = match path.file_name().unwrap().to_str() {
                Some("gguf") => std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()).collect(),
                _ => vec![path],
            };
            for path in paths {
                open(&path).tensors().unwrap();
                n_models += 1;
            }
        }
    }
    assert_eq!(n_models, 17);
    // What llama.cpp's converter makes of the float model is tensor for tensor the same.
    let a = open(&models.join("tiny-c/hf-f32")).tensors().unwrap();
    let b = open(&models.join("tiny-c/gguf/tiny-c.F32.gguf")).tensors().unwrap();
    for (a, b) in all_matrices(&a).into_iter().zip(all_matrices(&b)) {
        assert_eq!(a.bytes[..], b.bytes[..], "{}", a.name);
    }
    for (a, b) in a.layers.iter().zip(&b.layers) {
        assert_eq!(a.pre_attn_norm, b.pre_attn_norm);
        assert_eq!(a.post_attn_norm, b.post_attn_norm);
        assert_eq!(a.pre_ffn_norm, b.pre_ffn_norm);
        assert_eq!(a.post_ffn_norm, b.post_ffn_norm);
    }
    assert_eq!(a.output_norm, b.output_norm);
}

#[test]
fn the_vocabulary_of_a_gguf_is_at_hand() {
    let source = open(&fixtures().join(LEGACY));
    let Vocabulary::Spm(spm) = source.vocabulary() else {
        panic!("not from a GGUF");
    };
    let tokens: Vec<&[u8]> = spm.tokens().collect();
    assert_eq!((tokens.len(), spm.n_tokens()), (512, 512));
    assert_eq!(tokens[107], b"<end_of_turn>");
    assert_eq!((spm.bos_id, spm.eos_id, spm.unk_id), (Some(2), Some(1), Some(3)));
    assert_eq!((spm.pad_id, spm.eot_id), (Some(0), None));
    assert!(!spm.add_space_prefix);
    assert_eq!(spm.scores().count(), 512);
    let types: Vec<TokenType> = spm.types().collect();
    assert_eq!(types[2], TokenType::Control);
    assert_eq!(types[128 + 65], TokenType::Byte);
    assert_eq!(tokens[128 + 65], b"<0x41>");
}

fn all_matrices(tensors: &Tensors) -> Vec<&Matrix> {
    let mut matrices = vec![&tensors.embedding];
    for layer in &tensors.layers {
        matrices.extend([&layer.wq, &layer.wk, &layer.wv, &layer.wo]);
        matrices.extend([&layer.w_gate, &layer.w_up, &layer.w_down]);
    }
    matrices
}

/// Takes a small golden GGUF apart, so that a test can change one thing and put it together again.
struct Model {
    original: Gguf<Vec<u8>>,
    writer: Writer,
    dropped_keys: Vec<&'static str>,
    tensors: Vec<Tensor>,
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    ggml_type: GgmlType,
    bytes: Vec<u8>,
}

impl Model {
    fn golden() -> Model {
        let original = Gguf::parse(std::fs::read(fixtures().join(Q2_K)).unwrap()).unwrap();
        let tensors = original.tensors().iter().map(|tensor| Tensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            ggml_type: tensor.ggml_type,
            bytes: original.tensor_bytes(tensor).to_vec(),
        });
        let tensors = tensors.collect();
        Model { original, writer: Writer::new(), dropped_keys: Vec::new(), tensors }
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    /// Takes out a key; a test can then write another value with `writer`.
    fn drop_key(&mut self, key: &'static str) -> &mut Writer {
        self.dropped_keys.push(key);
        &mut self.writer
    }

    fn build(self) -> Vec<u8> {
        let mut writer = self.writer;
        writer.copy_metadata(&self.original, |key| !self.dropped_keys.contains(&key));
        write(writer, &self.tensors)
    }

    fn open(self) -> Result<Source, WeightsError> {
        Source::open(Files::from_members(vec![named("model.gguf", self.build())])?)
    }

    fn load(self) -> Result<(Source, Tensors), WeightsError> {
        let source = self.open()?;
        let tensors = source.tensors()?;
        Ok((source, tensors))
    }
}

fn write(mut writer: Writer, tensors: &[Tensor]) -> Vec<u8> {
    for tensor in tensors {
        writer.tensor(&tensor.name, &tensor.shape, tensor.ggml_type).unwrap();
    }
    let mut sink = writer.start(Vec::new()).unwrap();
    for tensor in tensors {
        sink.write(&tensor.bytes).unwrap();
    }
    sink.finish().unwrap()
}

fn named(name: &str, bytes: Vec<u8>) -> NamedBytes {
    NamedBytes { name: name.into(), bytes: Bytes::from(bytes) }
}

/// The message, and that there is a hint at all.
#[track_caller]
fn message<T>(result: Result<T, WeightsError>) -> String {
    let Err(error) = result else {
        panic!("no error");
    };
    assert!(error.hint().is_some(), "no hint for: {error}");
    error.to_string()
}
