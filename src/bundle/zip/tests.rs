use proptest::prelude::*;

use super::*;

const ABSOLUTE: &[u8] = include_bytes!("../../../tests/fixtures/bundle/absolute.zip");
const RELATIVE: &[u8] = include_bytes!("../../../tests/fixtures/bundle/relative.zip");
const DEFLATED: &[u8] = include_bytes!("../../../tests/fixtures/bundle/deflated.zip");

/// A file of `prefix` bytes and an archive with these members.
pub(crate) fn file_with_archive(prefix: usize, members: &[(&str, &[u8])]) -> Vec<u8> {
    let new: Vec<NewMember> = members
        .iter()
        .map(|(name, data)| NewMember {
            name: name.to_string(),
            size: data.len() as u64,
            is_aligned: name.ends_with(".gguf"),
        })
        .collect();
    let layout = Layout::new(prefix as u64, &new).unwrap();
    let mut file = vec![b'x'; prefix];
    let mut crc32s = Vec::new();
    for (index, (_, data)) in members.iter().enumerate() {
        crc32s.push(crc32fast::hash(data));
        file.resize(layout.header_offset(index) as usize, 0);
        file.extend(layout.local_header(index, crc32s[index]));
        assert_eq!(file.len() as u64, layout.data_offset(index));
        file.extend(*data);
    }
    file.extend(layout.directory(&crc32s));
    assert_eq!(file.len() as u64, layout.total());
    file
}

fn find(file: &[u8]) -> Archive {
    Archive::find(file).unwrap().unwrap()
}

fn data<'a>(file: &'a [u8], archive: &Archive, name: &str) -> &'a [u8] {
    &file[archive.entry(name).unwrap().range().unwrap()]
}

#[test]
fn archives_of_another_writer_are_read_behind_a_prefix() {
    for file in [ABSOLUTE, RELATIVE] {
        let archive = find(file);
        assert_eq!(archive.start, 1000);
        assert_eq!(archive.entries.len(), 3);
        assert_eq!(data(file, &archive, ".args"), b"-c\n0\n...\n");
        assert_eq!(data(file, &archive, "docs/ä.txt"), "größer\n".as_bytes());
        let weights = data(file, &archive, "model.gguf");
        assert_eq!(weights.len(), 1028);
        let entry = archive.entry("model.gguf").unwrap();
        assert_eq!(crc32fast::hash(weights), entry.crc32);
    }
}

#[test]
fn compressed_members_are_listed_but_not_used() {
    let archive = find(DEFLATED);
    let entry = archive.entry("model.gguf").unwrap();
    assert_eq!(entry.size, 1028);
    let error = entry.range().unwrap_err();
    assert_eq!(error, ZipError::Compressed("model.gguf".into()));
    assert!(error.hint().unwrap().contains("store it uncompressed"));
}

#[test]
fn encrypted_members_are_not_used() {
    let mut file = file_with_archive(0, &[("a", b"1")]);
    file[6] |= 1;
    assert_eq!(find(&file).entries[0].range(), Err(ZipError::Encrypted("a".into())));
}

#[test]
fn a_file_without_an_end_record_has_no_archive() {
    for file in [&b""[..], b"PK", &[0; 100], &ABSOLUTE[..ABSOLUTE.len() - 1]] {
        assert_eq!(Archive::find(file), Ok(None));
    }
    // The signature alone, as a constant in machine code, is no archive.
    let mut code = vec![0x90; 5000];
    code[4000..4004].copy_from_slice(&END_SIGNATURE.to_le_bytes());
    assert_eq!(Archive::find(&code), Ok(None));
}

#[test]
fn what_is_written_is_read_again_for_every_length_of_the_prefix() {
    // Every remainder near the boundary, where the padding is hardest, and some far from it.
    let near = (65_536 - 160)..(65_536 + 40);
    for prefix in near.chain([0, 1, 1000, 40_000, 200_000]) {
        let members: [(&str, &[u8]); 3] = [(".args", b"-c\n0\n"), ("m.gguf", b"GGUFdata"), ("z", b"")];
        let file = file_with_archive(prefix, &members);
        let archive = find(&file);
        assert_eq!(archive.start, prefix);
        for (name, content) in members {
            assert_eq!(data(&file, &archive, name), content, "{prefix} {name}");
        }
        let weights = archive.entry("m.gguf").unwrap().offset() as u64;
        assert_eq!(weights % WEIGHT_ALIGNMENT, 0, "{prefix}");
    }
}

#[test]
fn an_empty_archive_is_an_archive() {
    let file = file_with_archive(10, &[]);
    assert_eq!(find(&file).entries, []);
    assert_eq!(find(&file).start, 10);
}

#[test]
fn sizes_and_offsets_beyond_4_gib_are_written_as_zip64() {
    let member = |name: &str, size| NewMember { name: name.into(), size, is_aligned: true };
    let layout = Layout::new(77, &[member("a", 5 << 30), member("b", 3), member("c", 0xffff_ffff)]).unwrap();
    let header = layout.local_header(0, 1);
    assert_eq!(header.u32_at(18), Some(u32::MAX));
    assert_eq!(header.u16_at(31), Some(EXTRA_ZIP64));
    assert_eq!(header.u64_at(35), Some(5 << 30));
    assert_eq!(header.u64_at(43), Some(5 << 30));
    assert_eq!(layout.data_offset(0), layout.header_offset(0) + header.len() as u64);
    for index in 0..3 {
        assert_eq!(layout.data_offset(index) % WEIGHT_ALIGNMENT, 0);
    }
    let tail = layout.directory(&[1, 2, 3]);
    assert_eq!(layout.directory_offset() + tail.len() as u64, layout.total());
    let end64 = tail.len() - END_LENGTH - LOCATOR64_LENGTH - END64_LENGTH;
    assert_eq!(tail.u32_at(end64), Some(END64_SIGNATURE));
    assert_eq!(tail.u64_at(end64 + 48), Some(layout.directory_offset()));
}

/// A sparse file: no byte of the 5 GiB is stored.
#[test]
#[cfg(all(unix, target_pointer_width = "64"))]
fn a_member_beyond_4_gib_is_found_and_mapped() {
    use std::io::{Seek, SeekFrom, Write};
    let new = |name: &str, size| NewMember { name: name.into(), size, is_aligned: true };
    let first = 5u64 << 30;
    let layout = Layout::new(100, &[new("a.gguf", first), new("b.gguf", 4)]).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(layout.total()).unwrap();
    let mut put = |at: u64, bytes: &[u8]| {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    };
    put(layout.header_offset(0), &layout.local_header(0, 0));
    put(layout.header_offset(1), &layout.local_header(1, crc32fast::hash(b"GGUF")));
    put(layout.data_offset(1), b"GGUF");
    put(layout.directory_offset(), &layout.directory(&[0, crc32fast::hash(b"GGUF")]));
    let bundle = crate::bundle::Bundle::open(file.path()).unwrap().unwrap();
    assert_eq!(&bundle.member("b.gguf").unwrap().unwrap()[..], b"GGUF");
    assert_eq!(bundle.member("a.gguf").unwrap().unwrap().len() as u64, first);
    assert!(bundle.archive.entry("b.gguf").unwrap().offset() as u64 > first);
    let weights = bundle.members_ending_in(&[".gguf"]).unwrap();
    assert_eq!(weights.len(), 2);
}

#[test]
fn names_appear_once() {
    let member = NewMember { name: "a".into(), size: 0, is_aligned: false };
    let twice = [member.clone(), member];
    assert_eq!(Layout::new(0, &twice), Err(ZipError::Duplicate("a".into())));
    let mut file = file_with_archive(0, &[("a", b""), ("b", b"")]);
    while let Some(at) = file.iter().position(|&byte| byte == b'b') {
        file[at] = b'a';
    }
    assert_eq!(Archive::find(&file), Err(ZipError::Duplicate("a".into())));
}

/// A damaged copy must give an error that contains `expected`.
fn check_damage(damage: impl Fn(&mut [u8], usize, usize), expected: &str) {
    let mut file = file_with_archive(7, &[("a", b"123"), ("b", b"456")]);
    let end = file.len() - END_LENGTH;
    damage(&mut file, end - 2 * (CENTRAL_LENGTH + 1), end);
    let error = Archive::find(&file).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn contradictions_are_named() {
    check_damage(|f, d, _| f[d + 24] = 2, "two sizes");
    check_damage(|f, d, _| (f[d + 20], f[d + 24]) = (200, 200), "`a` lies outside");
    check_damage(|f, d, _| (f[d + 20], f[d + 24]) = (10, 10), "overlap");
    check_damage(|f, d, _| f[d + 44] = 9, "`a` lies outside");
    check_damage(|f, d, _| f[d + 42] += 1, "`a` has no local header");
    check_damage(|f, d, _| f[d + 46] = b'c', "`c` has a local header that contradicts");
    check_damage(|f, _, _| f[7 + 8] = 8, "`a` has a local header that contradicts");
    check_damage(|f, d, _| f[d] = 0, "not where its end record says");
    check_damage(|f, d, _| f[d + CENTRAL_LENGTH + 1] = 0, "header without signature");
    check_damage(|f, d, _| f[d + 28] = 200, "ends within a header");
    check_damage(|f, _, e| (f[e + 8], f[e + 10]) = (1, 1), "counts 1 members");
    check_damage(|f, _, e| (f[e + 8], f[e + 10]) = (9, 9), "counts 9 members");
    check_damage(|f, _, e| f[e + 15] = 9, "outside the file");
    check_damage(|f, _, e| f[e + 4] = 1, "split");
}

/// Reads whatever the archive claims to hold.
fn use_all(file: &[u8]) {
    if let Ok(Some(archive)) = Archive::find(file) {
        for entry in &archive.entries {
            if let Ok(range) = entry.range() {
                assert!(file.get(range).is_some(), "{entry:?}");
            }
        }
    }
}

#[test]
fn truncations_never_panic() {
    for file in [ABSOLUTE, RELATIVE, DEFLATED] {
        for length in 0..file.len() {
            use_all(&file[..length]);
            use_all(&file[length..]);
        }
    }
}

proptest! {
    #[test]
    fn bit_flips_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..6)) {
        for original in [ABSOLUTE, RELATIVE] {
            // The records are in the last 600 bytes and in the local headers; flips in the data prove nothing.
            let mut file = original[900..].to_vec();
            for (index, bit) in &flips {
                let at = index.index(file.len());
                file[at] ^= 1 << bit;
            }
            use_all(&file);
        }
    }

    #[test]
    fn any_end_records_never_panic(
        fields in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 96)
    ) {
        let mut file = file_with_archive(3, &[("a", b"1")]);
        file.truncate(file.len() - END_LENGTH);
        let at = file.len();
        file.extend(&fields);
        file[at..at + 4].copy_from_slice(&END64_SIGNATURE.to_le_bytes());
        file[at + 56..at + 60].copy_from_slice(&LOCATOR64_SIGNATURE.to_le_bytes());
        file[at + 76..at + 80].copy_from_slice(&END_SIGNATURE.to_le_bytes());
        file.truncate(at + 98);
        file.resize(at + 98, 0);
        use_all(&file);
    }
}

/// Runs an independent reader over our output; both pieces of software are optional.
#[test]
fn other_programs_list_and_check_our_archive_without_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("packed");
    // 65536 - 30 - 6 - 3: a case in which the padding does not fit an extra field.
    for prefix in [1000, 65_536 - 39, 65_536 - 40, 30] {
        let members: [(&str, &[u8]); 3] = [(".args", b"-c\n0\n"), ("m.gguf", b"GGUFdata"), ("ä/z", b"z")];
        std::fs::write(&path, file_with_archive(prefix, &members)).unwrap();
        let commands: [&[&str]; 4] = [
            &["unzip", "-l"],
            &["unzip", "-tq"],
            &["python3", "-m", "zipfile", "-l"],
            &["python3", "-m", "zipfile", "-t"],
        ];
        for command in commands {
            let run = std::process::Command::new(command[0]).args(&command[1..]).arg(&path).output();
            let Ok(output) = run else {
                eprintln!("skipped: {} is not installed", command[0]);
                continue;
            };
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command:?} {prefix}: {text}");
            assert!(!text.contains("warning"), "{command:?} {prefix}: {text}");
        }
    }
}
