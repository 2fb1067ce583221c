//! Truncated and damaged files: an error or a model, never a panic.

use super::*;

fn load_gguf(bytes: Vec<u8>) -> Result<(), WeightsError> {
    let source = Source::open(Files::Gguf(vec![named("model.gguf", bytes)]))?;
    if let Vocabulary::Spm(spm) = source.vocabulary() {
        assert_eq!(spm.tokens().count(), spm.n_tokens());
        assert_eq!(spm.scores().count(), spm.n_tokens());
        assert_eq!(spm.types().count(), spm.n_tokens());
    }
    let _ = (source.n_params(), source.weight_bytes());
    for matrix in all_matrices(&source.tensors()?) {
        let row_bytes = matrix.format.row_bytes(matrix.n_cols).unwrap();
        assert_eq!(matrix.bytes.len(), matrix.n_rows * row_bytes);
    }
    Ok(())
}

#[test]
fn truncated_golden_ggufs_are_errors() {
    for name in [Q2_K, F32, "tiny-d/gguf/tiny-d.Q8_0.gguf"] {
        let file = std::fs::read(fixtures().join(name)).unwrap();
        let last_tensors = file.len() - 64;
        for n in (0..last_tensors).step_by(file.len() / 97) {
            assert!(load_gguf(file[..n].to_vec()).is_err(), "{name} at {n}");
        }
    }
}

#[test]
fn flipped_bits_in_golden_headers_never_panic() {
    for (name, step) in [(Q2_K, 97), (F32, 101), ("tiny-d/gguf/tiny-d.Q8_0.gguf", 211)] {
        let file = std::fs::read(fixtures().join(name)).unwrap();
        let header = Gguf::parse(&file[..]).unwrap().data_start();
        for at in (0..header).step_by(step) {
            for mask in [1 << (at % 8), 0x80, 0xff] {
                let mut file = file.clone();
                file[at] ^= mask;
                let _ = load_gguf(file);
            }
        }
        // The keys that sizes are computed from: each byte of each value.
        let source = Gguf::parse(&file[..]).unwrap();
        let keys = source.metadata().iter().map(|(key, _)| key.to_owned());
        let keys: Vec<String> = keys.filter(|key| key.starts_with("gemma2.") || key.contains("token_id")).collect();
        for key in keys {
            let needle = key.as_bytes();
            let at = file.windows(needle.len()).position(|window| window == needle).unwrap() + needle.len();
            for at in at..at + 8 {
                for mask in [1, 0x40, 0x7f, 0x80, 0xff] {
                    let mut file = file.clone();
                    file[at] ^= mask;
                    let _ = load_gguf(file);
                }
            }
        }
    }
}

#[test]
fn damaged_hugging_face_files_never_panic() {
    let directory = fixtures().join(SHARDED);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        all.push(named(path.file_name().unwrap().to_str().unwrap(), std::fs::read(&path).unwrap()));
    }
    let load = |members: Vec<NamedBytes>| -> Result<(), WeightsError> {
        Source::open(Files::from_members(members)?)?.tensors().map(drop)
    };
    for broken in 0..all.len() {
        let content = all[broken].bytes.to_vec();
        // Of a shard, the header is what is parsed.
        let n_parsed = content.len().min(6000);
        for at in (0..n_parsed).step_by(1 + n_parsed / 150) {
            let mut flipped = content.clone();
            flipped[at] ^= 1 << (at % 7);
            for bytes in [flipped, content[..at].to_vec()] {
                let mut members = all.clone();
                members[broken].bytes = Bytes::from(bytes);
                let _ = load(members);
            }
        }
    }
    assert!(load(all).is_ok());
}
