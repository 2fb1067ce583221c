//! Whole files: golden ones, written ones, and broken ones.

use std::path::Path;

use super::*;

/// The smallest golden GGUF of a realistic layout, shortened by what the hostile tests do not need.
fn small_file() -> Vec<u8> {
    let mut writer = Writer::new();
    writer
        .string("general.architecture", "gemma2")
        .u32("gemma2.block_count", 2)
        .u64("big", 1 << 40)
        .f32("eps", 1e-6)
        .bool("yes", true)
        .strings("tokens", &["<pad>", "", "a b", "ä"])
        .f32s("scores", &[0.0, -1.5, f32::MIN, 3.0])
        .i32s("types", &[3, 1, -1, 6]);
    writer.tensor("matrix", &[3, 64], GgmlType::Q8_0).unwrap();
    writer.tensor("vector", &[5], GgmlType::F32).unwrap();
    let mut sink = writer.start(Vec::new()).unwrap();
    sink.write(&[7; 100]).unwrap();
    sink.write(&[8; 104]).unwrap();
    sink.write(&[9; 20]).unwrap();
    sink.finish().unwrap()
}

fn golden(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/models");
    std::fs::read(root.join(name)).unwrap()
}

#[test]
fn a_written_file_reads_back() {
    let file = small_file();
    let gguf = Gguf::parse(&file[..]).unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (3, 32));
    let metadata = gguf.metadata();
    assert_eq!(metadata.len(), 8);
    assert_eq!(metadata.string("general.architecture"), Ok(Some("gemma2")));
    assert_eq!(metadata.u64("gemma2.block_count"), Ok(Some(2)));
    assert_eq!(metadata.u64("big"), Ok(Some(1 << 40)));
    assert_eq!(metadata.f32("eps"), Ok(Some(1e-6)));
    assert_eq!(metadata.bool("yes"), Ok(Some(true)));
    assert_eq!(metadata.u64("absent"), Ok(None));
    let tokens: Vec<_> = metadata.strings("tokens").unwrap().unwrap().collect();
    assert_eq!(tokens, [&b"<pad>"[..], &b""[..], &b"a b"[..], "ä".as_bytes()]);
    assert_eq!(metadata.strings("tokens").unwrap().unwrap().len(), 4);
    let scores: Vec<_> = metadata.f32s("scores").unwrap().unwrap().collect();
    assert_eq!(scores, [0.0, -1.5, f32::MIN, 3.0]);
    let types: Vec<_> = metadata.i32s("types").unwrap().unwrap().collect();
    assert_eq!(types, [3, 1, -1, 6]);

    let matrix = gguf.tensor("matrix").unwrap();
    assert_eq!((&matrix.shape[..], matrix.ggml_type), (&[3, 64][..], GgmlType::Q8_0));
    let bytes = gguf.tensor_bytes(matrix);
    assert_eq!((bytes.len(), bytes[99], bytes[100]), (204, 7, 8));
    let vector = gguf.tensor("vector").unwrap();
    assert_eq!(vector.range.start % 32, 0);
    assert_eq!(gguf.tensor_bytes(vector), [9; 20]);
}

#[test]
fn a_value_of_the_wrong_type_is_an_error_that_names_the_key() {
    let file = small_file();
    let gguf = Gguf::parse(&file[..]).unwrap();
    let error = gguf.metadata().string("big").unwrap_err();
    assert_eq!(error.to_string(), "has `big` as 1099511627776 where a string of UTF-8 is expected");
    assert!(gguf.metadata().u64("eps").is_err());
    assert!(gguf.metadata().strings("scores").is_err());
    assert!(gguf.metadata().f32s("tokens").is_err());
}

#[test]
fn metadata_is_copied_byte_for_byte_but_for_keys_turned_down() {
    let file = golden("tiny-a/gguf/tiny-a.Q2_K.gguf");
    let from = Gguf::parse(&file[..]).unwrap();
    let mut writer = Writer::new();
    writer.copy_metadata(&from, |key| key != "general.file_type");
    writer.alignment(64);
    let copy = writer.start(Vec::new()).unwrap().finish().unwrap();
    let copy = Gguf::parse(&copy[..]).unwrap();
    assert_eq!(copy.alignment(), 64);
    assert_eq!(copy.metadata().len(), from.metadata().len());
    for (key, value) in from.metadata().iter() {
        let expected = (key != "general.file_type").then_some(value);
        assert_eq!(copy.metadata().get(key), expected, "{key}");
    }
}

#[test]
fn golden_files_are_read() {
    let file = golden("tiny-a/gguf/tiny-a.LEGACY.gguf");
    let gguf = Gguf::parse(&file[..]).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.string("general.architecture"), Ok(Some("gemma2")));
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), 512);
    assert_eq!(metadata.f32s("tokenizer.ggml.scores").unwrap().unwrap().len(), 512);
    assert_eq!(gguf.tensors().len(), 46);
    let down = gguf.tensor("blk.1.ffn_down.weight").unwrap();
    assert_eq!((&down.shape[..], down.ggml_type), (&[256, 512][..], GgmlType::Q5_0));
    // The last tensor ends where the file ends, but for padding: so every offset was understood.
    let end = gguf.tensors().iter().map(|t| t.range.end).max().unwrap();
    assert!(file.len() - end < 32);
}

#[test]
fn nested_arrays_are_read_and_too_deep_ones_refused() {
    // [[1, 2], [3]] as bytes: an array of 2 arrays of U8.
    let mut payload = Vec::new();
    let header = |element: ValueType, len: u64| {
        let mut bytes = element.id().to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes
    };
    payload.extend(header(ValueType::Array, 2));
    payload.extend(header(ValueType::U8, 2));
    payload.extend([1, 2]);
    payload.extend(header(ValueType::U8, 1));
    payload.push(3);
    let mut writer = Writer::new();
    writer.raw("nested", ValueType::Array, &payload).u32("after", 5);
    let file = writer.start(Vec::new()).unwrap().finish().unwrap();
    let gguf = Gguf::parse(&file[..]).unwrap();
    let Some(Value::Array(outer)) = gguf.metadata().get("nested") else {
        panic!("not an array");
    };
    let inner: Vec<Vec<Value>> = outer
        .iter()
        .map(|value| match value {
            Value::Array(array) => array.iter().collect(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(inner, [vec![Value::U8(1), Value::U8(2)], vec![Value::U8(3)]]);
    assert_eq!(gguf.metadata().u64("after"), Ok(Some(5)));

    let mut deep = Vec::new();
    for _ in 0..100_000 {
        deep.extend(header(ValueType::Array, 1));
    }
    let mut writer = Writer::new();
    writer.raw("deep", ValueType::Array, &deep);
    let file = writer.start(Vec::new()).unwrap().finish().unwrap();
    assert!(matches!(Gguf::parse(&file[..]), Err(GgufError::Damaged { .. })));
}

/// Header of one tensor (name `t`) with dimensions and offset as they are stored.
fn one_tensor(dims: &[u64], type_id: u32, offset: u64, n_data: usize) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.push(b't');
    file.extend((dims.len() as u32).to_le_bytes());
    for n in dims {
        file.extend(n.to_le_bytes());
    }
    file.extend(type_id.to_le_bytes());
    file.extend(offset.to_le_bytes());
    file.resize(file.len().next_multiple_of(32) + n_data, 0);
    file
}

fn message(file: &[u8]) -> String {
    Gguf::parse(file).unwrap_err().to_string()
}

#[test]
fn impossible_tensors_are_refused_by_name() {
    assert!(Gguf::parse(&one_tensor(&[4, 2], 0, 0, 32)[..]).is_ok());
    let check = |dims: &[u64], type_id, offset, expected: &str| {
        assert_eq!(message(&one_tensor(dims, type_id, offset, 64)), expected);
    };
    check(&[4, 8], 0, 0, "ends at 160 bytes but its tensor table needs 224 bytes");
    check(&[4], 0, 64, "ends at 128 bytes but its tensor table needs 144 bytes");
    check(&[4], 77, 0, "stores the tensor `t` in type number 77, which ggml does not have");
    check(
        &[1 << 40, 1 << 40],
        0,
        0,
        "has an impossible tensor `t`: its shape [1099511627776, 1099511627776] overflows",
    );
    check(&[4], 0, 7, "has an impossible tensor `t`: its offset 7 is no multiple of the alignment 32");
    check(&[4], 0, u64::MAX - 31, "has an impossible tensor `t`: its offset overflows");
    check(&[48], 8, 0, "has an impossible tensor `t`: rows of 48 are not whole blocks of 32 as Q8_0 needs");
    check(&[0, 4], 0, 0, "has an impossible tensor `t`: one of its dimensions is 0");
    check(&[1; 5], 0, 0, "has an impossible tensor `t`: it has 5 dimensions, and 4 are the most");
}

#[test]
fn a_short_download_is_told_with_both_sizes() {
    use crate::error::Hint;
    let file = golden("tiny-a/gguf/tiny-a.Q2_K.gguf");
    let error = Gguf::parse(&file[..400_000]).unwrap_err();
    assert_eq!(error.to_string(), "ends at 400.0 kB but its tensor table needs 849.8 kB");
    assert!(error.hint().unwrap().contains("incomplete"));
    let error = Gguf::parse(&file[..5_000]).unwrap_err();
    assert_eq!(error, GgufError::EndsInHeader { size: 5000 });
}

#[test]
fn other_files_are_told_apart() {
    assert_eq!(message(b""), "is not a GGUF file: it is empty");
    assert_eq!(message(b"PK\x03\x04....."), "is not a GGUF file: it is a ZIP archive");
    assert_eq!(
        message(b"version https://git-lfs.github.com/spec/v1"),
        "is not a GGUF file: it is a Git LFS pointer, not the file that it stands for"
    );
    assert_eq!(message(b"\x00\x1b[2Jx"), "is not a GGUF file: it starts with `\\x00\\x1b[2`");
    let with_version = |version: u32| {
        let mut file = small_file();
        file[4..8].copy_from_slice(&version.to_le_bytes());
        Gguf::parse(&file[..]).err()
    };
    assert_eq!(with_version(2), None);
    assert_eq!(with_version(3), None);
    assert_eq!(with_version(1), Some(GgufError::Version { version: 1 }));
    assert_eq!(with_version(4), Some(GgufError::Version { version: 4 }));
    assert_eq!(with_version(3 << 24), Some(GgufError::BigEndian));
}

#[test]
fn keys_and_tensors_that_come_twice_are_refused() {
    let mut writer = Writer::new();
    writer.u32("a", 1).u32("a", 2);
    let file = writer.start(Vec::new()).unwrap().finish().unwrap();
    assert_eq!(message(&file), "has the metadata key `a` twice");
    let mut writer = Writer::new();
    writer.tensor("b", &[1], GgmlType::F32).unwrap();
    writer.tensor("b", &[1], GgmlType::F32).unwrap();
    let mut sink = writer.start(Vec::new()).unwrap();
    sink.write(&[0; 4]).unwrap();
    sink.write(&[0; 4]).unwrap();
    assert_eq!(message(&sink.finish().unwrap()), "has the tensor `b` twice");
}

#[test]
fn counts_and_lengths_that_the_file_cannot_hold_are_refused_at_once() {
    let mut file = small_file();
    for (at, what) in [(8, "tensors"), (16, "keys"), (24, "length of the first key")] {
        for value in [u64::MAX, u64::MAX / 13, 1 << 40] {
            let saved: [u8; 8] = file[at..at + 8].try_into().unwrap();
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let error = Gguf::parse(&file[..]).unwrap_err();
            assert!(matches!(error, GgufError::EndsInHeader { .. }), "{what}: {error}");
            file[at..at + 8].copy_from_slice(&saved);
        }
    }
}

#[test]
fn an_alignment_that_is_no_power_of_two_is_refused() {
    for alignment in [0u32, 3, 48] {
        let mut writer = Writer::new();
        writer.u32("general.alignment", alignment);
        let file = writer.start(Vec::new()).unwrap().finish().unwrap();
        assert!(message(&file).contains("no power of two"));
    }
}

/// Reads everything that an accessor can reach: none of it may panic.
fn touch_everything(file: &[u8]) -> bool {
    let Ok(gguf) = Gguf::parse(file) else {
        return false;
    };
    for (key, value) in gguf.metadata().iter() {
        if let Value::Array(array) = value {
            assert!(array.iter().count() <= file.len());
        }
        let metadata = gguf.metadata();
        let _ = (metadata.string(key), metadata.u64(key), metadata.f32(key), metadata.bool(key));
        let _ = metadata.strings(key).map(|it| it.map(Iterator::count));
        let _ = metadata.f32s(key).map(|it| it.map(Iterator::count));
        let _ = metadata.i32s(key).map(|it| it.map(Iterator::count));
    }
    for tensor in gguf.tensors() {
        assert_eq!(gguf.tensor_bytes(tensor).len(), tensor.range.len());
    }
    true
}

#[test]
fn every_truncation_is_an_error_and_no_panic() {
    let file = small_file();
    // The last tensor's padding may be missing, nothing else.
    let needed = {
        let gguf = Gguf::parse(&file[..]).unwrap();
        gguf.tensors().iter().map(|t| t.range.end).max().unwrap()
    };
    for n in 0..=file.len() {
        assert_eq!(touch_everything(&file[..n]), n >= needed, "{n} bytes");
    }
}

#[test]
fn flipped_bits_in_a_header_never_panic() {
    let mut file = small_file();
    let header = Gguf::parse(&file[..]).unwrap().data_start();
    for at in 0..header {
        for bit in 0..8 {
            file[at] ^= 1 << bit;
            touch_everything(&file);
            file[at] ^= 1 << bit;
        }
    }
    // A golden header too, in steps: its vocabulary makes each parse longer.
    let mut file = golden("tiny-d/gguf/tiny-d.Q8_0.gguf");
    let header = Gguf::parse(&file[..]).unwrap().data_start();
    for at in (0..header).step_by(61) {
        for mask in [1 << (at % 8), 0xff] {
            file[at] ^= mask;
            touch_everything(&file);
            file[at] ^= mask;
        }
    }
}

#[test]
fn the_sink_wants_exactly_the_bytes_that_were_announced() {
    let writer = || {
        let mut writer = Writer::new();
        writer.tensor("x", &[2], GgmlType::F32).unwrap();
        writer.start(Vec::new()).unwrap()
    };
    assert!(writer().finish().is_err());
    assert!(writer().write(&[0; 9]).is_err());
    let mut sink = writer();
    sink.write(&[0; 8]).unwrap();
    assert!(sink.write(&[0]).is_err());
    assert!(sink.finish().is_ok());
    assert!(Writer::new().tensor("x", &[33], GgmlType::Q8_0).is_err());
}
