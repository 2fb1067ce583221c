//! Finding a model's files on disk and among the members of an archive.

use super::*;

/// The golden model split into parts as llama.cpp's tool does it: all metadata in the first.
fn split(n_parts: usize) -> Vec<NamedBytes> {
    let mut model = Model::golden();
    let n_tensors = model.tensors.len();
    let per_part = n_tensors.div_ceil(n_parts);
    let mut parts = Vec::new();
    for number in 0..n_parts {
        let mut writer = Writer::new();
        if number == 0 {
            writer.copy_metadata(&model.original, |_| true);
        }
        writer
            .u32("split.no", number as u32)
            .u32("split.count", n_parts as u32)
            .u32("split.tensors.count", n_tensors as u32);
        let rest = model.tensors.split_off(per_part.min(model.tensors.len()));
        let bytes = write(writer, &model.tensors);
        model.tensors = rest;
        parts.push(named(&format!("tiny-{:05}-of-{n_parts:05}.gguf", number + 1), bytes));
    }
    parts
}

fn write_to(directory: &Path, files: &[NamedBytes]) {
    for file in files {
        std::fs::write(directory.join(&file.name), &file.bytes[..]).unwrap();
    }
}

#[test]
fn a_split_gguf_loads_from_any_of_its_parts() {
    let directory = tempfile::tempdir().unwrap();
    let parts = split(3);
    write_to(directory.path(), &parts);
    let whole = open(&fixtures().join(Q2_K));
    let expected = whole.tensors().unwrap();
    for part in &parts {
        let source = open(&directory.path().join(&part.name));
        assert_eq!(source.config(), whole.config());
        assert_eq!(source.weight_bytes(), whole.weight_bytes());
        let tensors = source.tensors().unwrap();
        for (a, b) in all_matrices(&tensors).into_iter().zip(all_matrices(&expected)) {
            assert_eq!(a.bytes[..], b.bytes[..], "{}", a.name);
        }
    }
    // The order of an archive's members does not matter.
    let mut members = parts.clone();
    members.reverse();
    members.push(named("README.md", Vec::new()));
    assert!(Source::open(Files::from_members(members).unwrap()).unwrap().tensors().is_ok());
}

#[test]
fn a_missing_part_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let parts = split(3);
    write_to(directory.path(), &parts[..2]);
    let found = Files::from_path(&directory.path().join(&parts[0].name));
    let text = message(found);
    assert!(text.contains("belongs to a model in 3 files"), "{text}");
    assert!(text.contains("tiny-00003-of-00003.gguf` is missing"), "{text}");
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let parts = split(3);
    let open = |parts: Vec<NamedBytes>| Source::open(Files::Gguf(parts));
    assert_eq!(
        message(open(parts[..1].to_vec())),
        "`tiny-00001-of-00003.gguf` does not fit the other files of this model: it is one of 3, and there are 1"
    );
    let swapped = vec![parts[0].clone(), parts[2].clone(), parts[1].clone()];
    assert_eq!(
        message(open(swapped)),
        "`tiny-00003-of-00003.gguf` does not fit the other files of this model: it is number 3 and not 2"
    );
    let plain = named("plain.gguf", Model::golden().build());
    assert!(message(open(vec![plain.clone(), plain.clone()])).contains("it is one of 1, and there are 2"));
    assert!(message(open(Vec::new())).contains("there is no file"));
    let other = named("other.gguf", Vec::new());
    assert_eq!(
        message(Files::from_members(vec![plain, other])),
        "the model's files do not make one model: there is `other.gguf`, `plain.gguf`"
    );
}

#[test]
fn a_tensor_in_two_parts_is_refused() {
    let mut first = Model::golden();
    let second = [Tensor {
        name: "output_norm.weight".into(),
        shape: vec![256],
        ggml_type: GgmlType::F32,
        bytes: vec![0; 1024],
    }];
    first.writer.u32("split.no", 0).u32("split.count", 2);
    let mut writer = Writer::new();
    writer.u32("split.no", 1).u32("split.count", 2);
    let parts = vec![named("a.gguf", first.build()), named("b.gguf", write(writer, &second))];
    assert_eq!(
        message(Source::open(Files::Gguf(parts))),
        "`b.gguf` has the tensor `output_norm.weight` twice over its parts"
    );
}

#[test]
fn a_directory_its_index_and_each_of_its_shards_are_one_model() {
    let directory = fixtures().join(SHARDED);
    let expected = open(&directory);
    for name in ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    {
        let source = open(&directory.join(name));
        assert_eq!(source.weight_bytes(), expected.weight_bytes());
        assert_eq!(source.name(), "hf-bf16-sharded");
        source.tensors().unwrap();
    }
}

#[test]
fn a_shard_that_the_index_lists_and_nobody_has_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join(SHARDED)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    std::fs::remove_file(directory.path().join("model-00002-of-00002.safetensors")).unwrap();
    let text = message(Files::from_path(directory.path()));
    assert!(text.contains("model-00002-of-00002.safetensors` is missing"), "{text}");
}

#[test]
fn a_path_that_leads_nowhere_is_answered_with_names_that_are_there() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["zeta.gguf", "gemma-2-9b.gguf", "gemma-2-2b-it.gguf", "notes.txt"] {
        std::fs::write(directory.path().join(name), b"").unwrap();
    }
    let error = Files::from_path(&directory.path().join("gemma-2-2b.gguf")).unwrap_err();
    assert!(error.to_string().ends_with("gemma-2-2b.gguf` does not exist"));
    assert_eq!(error.hint().unwrap(), "there is `gemma-2-2b-it.gguf`, `gemma-2-9b.gguf`, `zeta.gguf`");
    let error = Files::from_path(directory.path()).unwrap_err();
    assert!(error.to_string().ends_with("is a directory without config.json"), "{error}");
    assert!(error.hint().unwrap().starts_with("give a file in it: `gemma-2-2b-it.gguf`"));
    let empty = tempfile::tempdir().unwrap();
    let error = Files::from_path(&empty.path().join("x/y.gguf")).unwrap_err();
    assert_eq!(error.hint().unwrap(), "check the path given with `-m`");
}

#[test]
fn a_file_that_is_no_model_says_what_it_looks_like() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("page.gguf");
    std::fs::write(&path, b"<!DOCTYPE html>").unwrap();
    let error = message(Source::open(Files::from_path(&path).unwrap()));
    assert!(error.ends_with("page.gguf` is not a GGUF file: it is a web page"), "{error}");
}
