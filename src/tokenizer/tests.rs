//! The golden strings, the `tokenizers` crate as an oracle, and vocabularies that no one should have made.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::bundle::Bytes;
use crate::gguf::Gguf;
use crate::weights::{Files, Source};

/// A file under `tests/fixtures/golden`.
pub(crate) fn golden(path: &str) -> Vec<u8> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(path);
    let bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    if path.ends_with(".gz") { gunzip(&bytes) } else { bytes }
}

pub(crate) fn golden_json(path: &str) -> Value {
    serde_json::from_slice(&golden(path)).expect("golden JSON")
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip");
    plain
}

/// The real `tokenizer.json`, which is too large to be kept here.
fn real_json() -> Option<Vec<u8>> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/golden/gemma2-tokenizer/tokenizer.json.gz");
    match std::fs::read(&file) {
        Ok(bytes) => Some(gunzip(&bytes)),
        Err(_) => {
            eprintln!("skipped: {} is not there", file.display());
            None
        }
    }
}

/// A tokenizer from the metadata of a GGUF file.
fn from_gguf(bytes: &[u8]) -> Tokenizer {
    let gguf = Gguf::parse(Bytes::from(bytes.to_vec())).expect("GGUF");
    let vocabulary = SpmVocabulary::from_gguf("a.gguf", Arc::new(gguf)).expect("a vocabulary");
    Tokenizer::from_vocabulary(&Vocabulary::Spm(vocabulary)).expect("a tokenizer")
}

pub(crate) fn real_gguf() -> Tokenizer {
    from_gguf(&golden("gemma2-tokenizer/gemma2-vocab.gguf.gz"))
}

fn from_json(json: &[u8]) -> Tokenizer {
    Tokenizer::from_tokenizer_json(json, &SpecialIds::default()).expect("a tokenizer.json")
}

/// The 512-token tokenizer of the tiny golden models.
pub(crate) fn tiny() -> Tokenizer {
    from_json(&golden("tiny-tokenizer/tokenizer.json"))
}

/// The same vocabulary from a GGUF file.
fn tiny_gguf() -> Tokenizer {
    from_gguf(&golden("models/tiny-a/gguf/tiny-a.Q4_K_M.gguf"))
}

fn ids(value: &Value) -> Vec<TokenId> {
    serde_json::from_value(value.clone()).expect("ids")
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Json,
    Gguf,
}

/// Strings whose ids differ between the two file formats, by the choices of the tools that write them.
fn has_documented_exception(text: &str, is_literal: bool) -> bool {
    let control_in_gguf = ["<mask>", "<unused", "[@BOS@]", "<2mass>"];
    text.contains('▁') || is_literal && control_in_gguf.iter().any(|piece| text.contains(piece))
}

fn check_golden_strings(tokenizer: &Tokenizer, file: &str, form: Form) {
    let golden = golden_json(file);
    let mut n_compared = 0;
    for case in golden["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        let is_exact = |is_literal| form == Form::Json || !has_documented_exception(text, is_literal);
        let parsed = tokenizer.encode(text, Special::Parse);
        let literal = tokenizer.encode(text, Special::Literal);
        if is_exact(false) {
            assert_eq!(parsed, expected, "{text:?}");
            n_compared += 1;
        }
        if is_exact(true) {
            let expected_literal = match case["ids_literal"].is_null() {
                true => expected.clone(),
                false => ids(&case["ids_literal"]),
            };
            assert_eq!(literal, expected_literal, "literal {text:?}");
        }
        assert_eq!(tokenizer.decode(&expected, true), case["decoded"].as_str().unwrap());
        // `<mask>` and the like are control tokens in GGUF only.
        if form == Form::Json || !has_documented_exception(text, true) {
            let shown = case["decoded_skip_special"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&expected, false), shown, "{text:?}");
        }
        assert_eq!(tokenizer.decode(&parsed, true), text.replace('▁', " "));
        assert_eq!(tokenizer.decode(&literal, true), text.replace('▁', " "));
    }
    assert!(n_compared > 50);
}

#[test]
fn real_vocabulary_from_gguf_gives_the_golden_ids() {
    check_golden_strings(&real_gguf(), "expect/tokenizer.json", Form::Gguf);
}

#[test]
fn real_vocabulary_from_json_gives_the_golden_ids() {
    if let Some(json) = real_json() {
        check_golden_strings(&from_json(&json), "expect/tokenizer.json", Form::Json);
    }
}

#[test]
fn tiny_vocabulary_from_json_gives_the_golden_ids() {
    check_golden_strings(&tiny(), "expect/tokenizer-tiny.json", Form::Json);
}

#[test]
fn tiny_vocabulary_from_gguf_gives_the_golden_ids() {
    check_golden_strings(&tiny_gguf(), "expect/tokenizer-tiny.json", Form::Gguf);
}

#[test]
fn special_tokens_of_the_real_vocabulary_are_found() {
    let tokenizer = real_gguf();
    assert_eq!(tokenizer.n_vocab(), 256_000);
    assert_eq!(tokenizer.bos(), 2);
    assert_eq!(tokenizer.ends(), [1, 107]);
    assert!(tokenizer.is_end(1) && tokenizer.is_end(107));
    // 213 is the HTML tag `</s>`, which other programs take for an end by its name.
    assert_eq!(tokenizer.piece(213), b"</s>");
    assert!(!tokenizer.is_end(213) && !tokenizer.is_control(213));
    assert!(tokenizer.is_control(107) && tokenizer.is_control(2) && tokenizer.is_control(3));
    assert!(!tokenizer.is_control(108) && !tokenizer.is_control(u32::MAX));
    assert_eq!(tokenizer.piece(108), b"\n");
    assert_eq!(tokenizer.piece(139), b"  ");
    assert_eq!(tokenizer.piece(226), b"\t");
    assert_eq!(tokenizer.piece(217 + 0xe2), [0xe2]);
    assert_eq!(tokenizer.piece(107), b"<end_of_turn>");
    assert_eq!(tokenizer.piece(256_000), b"");
    assert_eq!(tokenizer.control("<start_of_turn>"), Some(106));
    assert_eq!(tokenizer.control("<b>"), None);
}

#[test]
fn models_of_both_formats_bring_their_tokenizer() {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/models");
    for path in ["tiny-a/gguf/tiny-a.Q4_K_M.gguf", "tiny-c/hf-bf16-sharded"] {
        let source = Source::open(Files::from_path(&models.join(path)).unwrap()).unwrap();
        let tokenizer = Tokenizer::from_vocabulary(source.vocabulary()).unwrap();
        assert_eq!((tokenizer.n_vocab(), tokenizer.bos(), tokenizer.ends()), (512, 2, [1, 107].as_slice()));
    }
}

#[test]
fn end_tokens_of_the_model_directory_are_added() {
    let more = SpecialIds { ends: vec![107, 5, 1], ..SpecialIds::default() };
    let json = golden("tiny-tokenizer/tokenizer.json");
    let tokenizer = Tokenizer::from_tokenizer_json(&json, &more).unwrap();
    assert_eq!(tokenizer.ends(), [1, 5, 107]);
}

#[test]
fn there_is_exactly_one_bos_whatever_the_ids_start_with() {
    let tokenizer = tiny();
    assert_eq!(tokenizer.with_bos(vec![]), [2]);
    assert_eq!(tokenizer.with_bos(vec![7, 2]), [2, 7, 2]);
    assert_eq!(tokenizer.with_bos(vec![2, 7]), [2, 7]);
    assert_eq!(tokenizer.with_bos(vec![2, 2, 2, 7]), [2, 7]);
}

#[test]
fn streaming_gives_whole_characters_as_the_goldens_say() {
    let golden = golden_json("expect/streaming.json");
    for (name, tokenizer) in [("real", real_gguf()), ("tiny", tiny())] {
        for case in golden[name].as_array().unwrap() {
            let case_ids = ids(&case["ids"]);
            let mut decoder = StreamDecoder::default();
            let mut joined = String::new();
            for (i, &id) in case_ids.iter().enumerate() {
                let hex: String = tokenizer.piece(id).iter().map(|b| format!("{b:02x}")).collect();
                assert_eq!(hex, case["token_bytes_hex"][i].as_str().unwrap());
                let text = decoder.push(tokenizer.piece(id));
                assert_eq!(text, case["emitted"][i].as_str().unwrap(), "{case_ids:?}");
                joined += &text;
            }
            let end = decoder.finish();
            assert_eq!(end, case["at_end"].as_str().unwrap());
            joined += &end;
            assert_eq!(joined, tokenizer.decode(&case_ids, true));
            if case["valid_utf8"] == true {
                assert_eq!(joined, case["hf_decode"].as_str().unwrap());
            }
        }
    }
}

#[test]
fn streaming_loses_nothing_however_the_bytes_are_cut() {
    let mut random = Random(7);
    for _ in 0..500 {
        let bytes: Vec<u8> = (0..random.below(24))
            .map(|_| [0x41, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0xff][random.below(11)])
            .collect();
        let mut decoder = StreamDecoder::default();
        let mut text = String::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + random.below(rest.len()));
            text += &decoder.push(piece);
            assert!(decoder.pending.len() < 4);
            rest = after;
        }
        text += &decoder.finish();
        assert_eq!(text, String::from_utf8_lossy(&bytes));
    }
}

/// Texts made of stretches that meet the odd corners: spaces, marks, tags, newline runs, scripts, controls.
fn random_text(random: &mut Random) -> String {
    const STRETCHES: [&str; 24] = [
        " ",
        "  ",
        "     ",
        "\n",
        "\n\n",
        "\t",
        "\t\t\t",
        "▁",
        "▁▁",
        "<b>",
        "</code>",
        "<end_of_turn>",
        "<bos>",
        "<",
        ">",
        "the",
        "theory",
        "ing",
        "aaaa",
        "é",
        "中文",
        "😀",
        "\u{301}",
        "<0x41>",
    ];
    let mut text = String::new();
    for _ in 0..random.below(14) {
        match random.below(4) {
            0 => text.extend(char::from_u32(random.below(0x11_0000) as u32)),
            1 => text.push(char::from(32 + random.below(95) as u8)),
            _ => text.push_str(STRETCHES[random.below(STRETCHES.len())]),
        }
    }
    text
}

fn check_against_oracle(json: &[u8], tokenizer: &Tokenizer, n_texts: usize) {
    let mut oracle: tokenizers::Tokenizer = serde_json::from_slice(json).expect("the oracle reads it");
    let mut random = Random(42);
    for _ in 0..n_texts {
        let text = random_text(&mut random);
        for (special, is_literal) in [(Special::Parse, false), (Special::Literal, true)] {
            oracle.set_encode_special_tokens(is_literal);
            let expected = oracle.encode(text.as_str(), false).unwrap();
            assert_eq!(tokenizer.encode(&text, special), expected.get_ids(), "{text:?} {special:?}");
        }
    }
}

#[test]
fn json_vocabularies_agree_with_the_tokenizers_crate() {
    let json = golden("tiny-tokenizer/tokenizer.json");
    check_against_oracle(&json, &tiny(), 3000);
    if let Some(json) = real_json() {
        check_against_oracle(&json, &from_json(&json), 3000);
    }
}

/// Pieces over three letters and the space mark, each of two earlier ones.
fn random_pieces(random: &mut Random) -> Vec<(String, usize, usize)> {
    let mut pieces: Vec<(String, usize, usize)> = ["a", "b", "c", "▁"].map(|p| (p.to_owned(), 0, 0)).to_vec();
    for _ in 0..random.below(16) {
        let (left, right) = (random.below(pieces.len()), random.below(pieces.len()));
        let joined = pieces[left].0.clone() + &pieces[right].0;
        if pieces.iter().all(|(piece, ..)| *piece != joined) {
            pieces.push((joined, left, right));
        }
    }
    pieces
}

fn random_letters(random: &mut Random) -> String {
    (0..random.below(30)).map(|_| ['a', 'b', 'c', ' '][random.below(4)]).collect()
}

#[test]
fn random_merges_agree_with_the_tokenizers_crate() {
    let mut random = Random(23);
    for _ in 0..300 {
        let pieces = random_pieces(&mut random);
        let n_merges = pieces.len() + random.below(8);
        let mut merges = Vec::new();
        for _ in 4..n_merges {
            // Any piece may come first, twice, or from other halves than those it was made of.
            let (piece, left, right) = &pieces[random.below(pieces.len())];
            let cut = random.below(piece.len());
            match piece.is_char_boundary(cut).then(|| piece.split_at(cut)) {
                Some((a, b)) if pieces.iter().any(|p| p.0 == a) && pieces.iter().any(|p| p.0 == b) => {
                    merges.push(json!([a, b]));
                }
                _ if piece.chars().count() > 1 => merges.push(json!([pieces[*left].0, pieces[*right].0])),
                _ => {}
            }
        }
        let mut file = golden_json("tiny-tokenizer/tokenizer.json");
        let mut vocab = json!({"<unk>": 0, "<bos>": 1, "<eos>": 2});
        for (id, (piece, ..)) in pieces.iter().enumerate() {
            vocab[piece] = (id + 3).into();
        }
        file["model"]["vocab"] = vocab;
        file["model"]["merges"] = merges.into();
        file["model"]["byte_fallback"] = false.into();
        file["added_tokens"] = json!([]);
        file["post_processor"] = Value::Null;
        let json = serde_json::to_vec(&file).unwrap();
        let tokenizer = from_json(&json);
        let oracle: tokenizers::Tokenizer = serde_json::from_slice(&json).expect("the oracle reads it");
        for _ in 0..20 {
            let text = random_letters(&mut random);
            let expected = oracle.encode(text.as_str(), false).unwrap();
            assert_eq!(tokenizer.encode(&text, Special::Literal), expected.get_ids(), "{text:?} {}", file["model"]);
        }
    }
}

#[test]
fn random_scores_agree_with_merging_the_best_pair_again_and_again() {
    let mut random = Random(29);
    for _ in 0..300 {
        let pieces = random_pieces(&mut random);
        let scored: Vec<(&str, f32)> =
            pieces.iter().map(|(piece, ..)| (piece.as_str(), random.below(6) as f32 - 3.0)).collect();
        let tokenizer = small(&scored);
        for _ in 0..20 {
            let text = random_letters(&mut random);
            let mut symbols: Vec<String> = text.replace(' ', "▁").chars().map(String::from).collect();
            loop {
                let score = |i: usize| {
                    let joined = symbols[i].clone() + &symbols[i + 1];
                    scored.iter().find(|(piece, _)| *piece == joined).map(|(_, score)| *score)
                };
                let candidates = (1..symbols.len()).filter_map(|i| Some((score(i - 1)?, i - 1)));
                let best = candidates.reduce(|best, next| if next.0 > best.0 { next } else { best });
                let Some((_, at)) = best else { break };
                let right = symbols.remove(at + 1);
                symbols[at] += &right;
            }
            let id = |symbol: &String| scored.iter().position(|(piece, _)| piece == symbol).unwrap() as TokenId + 4;
            let expected: Vec<TokenId> = symbols.iter().map(id).collect();
            assert_eq!(tokenizer.encode(&text, Special::Literal), expected, "{text:?} {scored:?}");
        }
    }
}

#[test]
fn both_forms_of_a_vocabulary_give_the_same_ids() {
    let mut pairs = vec![(tiny(), tiny_gguf())];
    pairs.extend(real_json().map(|json| (from_json(&json), real_gguf())));
    let mut random = Random(3);
    for (json, gguf) in pairs {
        for _ in 0..2000 {
            let text = random_text(&mut random).replace('▁', " ");
            for special in [Special::Parse, Special::Literal] {
                assert_eq!(json.encode(&text, special), gguf.encode(&text, special), "{text:?}");
            }
        }
    }
}

#[test]
fn every_character_of_unicode_comes_back() {
    let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
    for tokenizer in [tiny(), tiny_gguf(), real_gguf()] {
        for special in [Special::Parse, Special::Literal] {
            let ids = tokenizer.encode(&all, special);
            assert_eq!(tokenizer.decode(&ids, true), all.replace('▁', " "));
        }
    }
}

#[test]
fn long_texts_without_any_border_come_back() {
    let tokenizer = real_gguf();
    for stretch in ["a", " ", "\n", "<", "é", "ab", "<b", "的"] {
        let text = stretch.repeat((1 << 20) / stretch.len());
        let ids = tokenizer.encode(&text, Special::Parse);
        assert!(tokenizer.decode(&ids, true) == text, "{stretch:?}");
    }
}

#[test]
fn control_tokens_count_only_inside_one_part_that_says_so() {
    let tokenizer = tiny();
    let parse = |parts: &[(&str, Special)]| tokenizer.encode_parts(parts);
    let (p, l) = (Special::Parse, Special::Literal);
    let whole = tokenizer.encode("a<end_of_turn>b", p);
    assert!(whole.contains(&107));
    assert_eq!(parse(&[("a", l), ("<end_of_turn>", p), ("b", l)]), whole);
    assert_eq!(parse(&[("a", p), ("", l), ("<end_of_turn>b", p)]), whole);
    let literal = tokenizer.encode("a<end_of_turn>b", l);
    assert!(!literal.contains(&107));
    for parts in [
        [("a<end_", p), ("of_turn>b", p)],
        [("a<end_of_turn", p), (">b", l)],
        [("a", p), ("<end_of_turn>b", l)],
        [("a<", l), ("end_of_turn>b", p)],
    ] {
        assert_eq!(parse(&parts), literal, "{parts:?}");
    }
}

#[test]
fn tokens_cross_from_part_to_part() {
    let tokenizer = real_gguf();
    let whole = tokenizer.encode("user: Hello\n\nthere", Special::Literal);
    let parts = [("user: ", Special::Parse), ("Hello\n", Special::Literal), ("\nthere", Special::Parse)];
    assert_eq!(tokenizer.encode_parts(&parts), whole);
}

/// Normal pieces with scores, and the tokens every vocabulary needs.
fn small(normal: &[(&str, f32)]) -> Tokenizer {
    let control = ["<pad>", "<eos>", "<bos>", "<unk>"];
    let control = control.map(|piece| (piece.as_bytes(), 0.0, TokenType::Control));
    let normal = normal.iter().map(|(piece, score)| (piece.as_bytes(), *score, TokenType::Normal));
    from_tokens(control.into_iter().chain(normal), &with_unknown()).unwrap()
}

fn with_unknown() -> SpecialIds {
    SpecialIds { unknown: Some(3), ..SpecialIds::default() }
}

fn from_tokens<'a>(
    tokens: impl Iterator<Item = (&'a [u8], f32, TokenType)>,
    ids: &SpecialIds,
) -> Result<Tokenizer, TokenizerError> {
    let token = |(piece, score, kind)| SentencePieceToken { piece, score, kind };
    Tokenizer::from_sentencepiece(tokens.map(token), ids)
}

#[test]
fn higher_scores_merge_first_and_of_equal_ones_the_leftmost() {
    let tokenizer =
        small(&[("a", -9.0), ("b", -9.0), ("c", -9.0), ("ab", -2.0), ("bc", -1.0), ("aa", 0.0), ("cc", -0.0)]);
    let encode = |text| tokenizer.encode(text, Special::Literal);
    assert_eq!(encode("abc"), [4, 8]);
    assert_eq!(encode("ab"), [7]);
    assert_eq!(encode("aaa"), [9, 4]);
    assert_eq!(encode("aacc"), [9, 10]);
}

#[test]
fn without_byte_tokens_what_is_unknown_is_one_unknown_token() {
    let tokenizer = small(&[("a", 0.0)]);
    assert_eq!(tokenizer.encode("aéüa中", Special::Literal), [4, 3, 4, 3]);
}

#[test]
fn a_space_prefix_is_added_where_the_file_says_so() {
    let ids = SpecialIds { add_space_prefix: true, ..with_unknown() };
    let pieces: [&[u8]; 6] = [b"<eos>", b"<bos>", b"a", "▁".as_bytes(), "▁a".as_bytes(), b"<end_of_turn>"];
    let tokenizer = from_tokens(pieces.into_iter().map(|p| (p, 0.0, TokenType::Normal)), &ids).unwrap();
    assert_eq!(tokenizer.encode("a a", Special::Parse), [4, 4]);
    assert_eq!(tokenizer.encode("", Special::Parse), [0; 0]);
    // Marked as normal in this file, and control tokens nevertheless.
    assert_eq!(tokenizer.encode("<end_of_turn>", Special::Parse), [5]);
    assert!(!tokenizer.encode("<end_of_turn>", Special::Literal).contains(&5));
    assert!(tokenizer.is_end(5));
}

#[test]
fn odd_vocabularies_are_refused_or_behave_as_documented() {
    let none = SpecialIds::default();
    let tokens = |pieces: &[(&'static [u8], TokenType)]| {
        let pieces: Vec<_> = pieces.iter().map(|&(piece, kind)| (piece, 0.0, kind)).collect();
        pieces.into_iter()
    };
    let control =
        [(b"<bos>".as_slice(), TokenType::Control), (b"<eos>", TokenType::Control), (b"<unk>", TokenType::Unknown)];
    let message = |result: Result<Tokenizer, TokenizerError>| result.err().expect("an error").to_string();

    assert_eq!(message(from_tokens(tokens(&[]), &none)), "the vocabulary is empty");
    assert!(message(from_tokens(tokens(&control[..2]), &none)).contains("no unknown token"));
    assert!(message(from_tokens(tokens(&control[1..]), &none)).contains("no `<bos>`"));
    for ids in [
        SpecialIds { bos: Some(3), ..none.clone() },
        SpecialIds { eos: Some(u32::MAX), ..none.clone() },
        SpecialIds { unknown: Some(3), ..none.clone() },
        SpecialIds { ends: vec![1, 99], ..none.clone() },
    ] {
        assert!(message(from_tokens(tokens(&control), &ids)).contains("but the vocabulary has 3 tokens"));
    }
    let long = vec![b'x'; MAX_PIECE_BYTES + 1];
    let too_long = [(long.as_slice(), 0.0, TokenType::UserDefined)];
    assert!(message(from_tokens(too_long.into_iter(), &none)).contains("4097 bytes"));
    let too_many = std::iter::repeat_n((b"a".as_slice(), 0.0, TokenType::Normal), MAX_TOKENS + 1);
    assert!(message(from_tokens(too_many, &none)).contains("not plausible"));

    // Duplicates, empty pieces, broken UTF-8, scores that are not numbers, control tokens of one letter.
    let odd = control.iter().map(|&(piece, kind)| (piece, 0.0, kind)).chain([
        (b"a".as_slice(), f32::NAN, TokenType::Normal),
        (b"a", 1.0, TokenType::Normal),
        (b"", 0.0, TokenType::Normal),
        (b"", 0.0, TokenType::UserDefined),
        (b"\xe2", 0.0, TokenType::UserDefined),
        (b"\xe2\x96", 0.0, TokenType::Normal),
        (b"\xff\xe2\x96\x81", f32::INFINITY, TokenType::Normal),
        (b"b", f32::NEG_INFINITY, TokenType::Control),
        (b"<b>", 0.0, TokenType::UserDefined),
        (b"<b>", 0.0, TokenType::Control),
        (b"<0xZZ>", 0.0, TokenType::Byte),
        (b"aa", f32::NAN, TokenType::Normal),
        (b" a", 0.0, TokenType::Normal),
        (b"<0x+1>", 0.0, TokenType::Byte),
    ]);
    let tokenizer = from_tokens(odd, &none).unwrap();
    assert_eq!(tokenizer.encode("a", Special::Parse), [4]);
    assert_eq!(tokenizer.encode("aa", Special::Parse), [14]);
    assert_eq!(tokenizer.encode("b", Special::Parse), [10]);
    assert_eq!(tokenizer.encode("b", Special::Literal), [2]);
    assert_eq!(tokenizer.encode("<b>", Special::Parse), [12]);
    assert_eq!(tokenizer.encode("<b>", Special::Literal), [2]);
    assert_eq!(tokenizer.encode("–▁中", Special::Parse), [2]);
    assert_eq!(tokenizer.encode(" a", Special::Parse), [2, 4]);
    assert_eq!(tokenizer.decode(&[3, 4, 8, 9, 99], true), "aa\u{fffd}\u{fffd} ");
}

#[test]
fn a_tokenizer_json_of_another_form_is_refused_by_name() {
    let refusal = |change: fn(&mut Value)| {
        let mut file = golden_json("tiny-tokenizer/tokenizer.json");
        change(&mut file);
        let bytes = serde_json::to_vec(&file).unwrap();
        match Tokenizer::from_tokenizer_json(&bytes, &SpecialIds::default()) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => crate::error::render(&error),
        }
    };
    assert_eq!(refusal(|_| ()), "accepted");
    assert_eq!(refusal(|f| f["pre_tokenizer"] = Value::Null), "accepted");
    assert_eq!(refusal(|f| f["post_processor"] = Value::Null), "accepted");
    for (change, name) in [
        ((|f| f["normalizer"] = json!({"type": "NFC"})) as fn(&mut Value), "normalizer"),
        (|f| f["normalizer"] = Value::Null, "normalizer"),
        (|f| f["pre_tokenizer"] = json!({"type": "ByteLevel"}), "`ByteLevel`"),
        (|f| f["post_processor"] = json!({"type": "ByteLevel"}), "post-processor"),
        (|f| f["model"]["type"] = "Unigram".into(), "`Unigram`"),
        (|f| f["model"]["ignore_merges"] = true.into(), "`ignore_merges`"),
        (|f| f["model"]["dropout"] = 0.1.into(), "`dropout`"),
        (|f| f["model"]["end_of_word_suffix"] = "</w>".into(), "`end_of_word_suffix`"),
        (|f| f["added_tokens"][4]["lstrip"] = true.into(), "`<mask>`"),
        (|f| f["model"]["merges"][0] = "a".into(), "not two tokens"),
        (|f| f["model"]["merges"][0] = json!(["a", "b", "c"]), "not two tokens"),
        (|f| f["model"]["merges"][0] = json!(["a"]), "not two tokens"),
        (|f| f["model"]["vocab"]["x"] = (-1).into(), "cannot be read"),
        (|f| f["model"]["vocab"]["x"] = 4_000_000_000_u32.into(), "token 4000000000"),
        (|f| f["model"]["vocab"] = json!({}), "no "),
        (|f| f["added_tokens"][0]["id"] = u32::MAX.into(), "token 4294967295"),
    ] {
        let message = refusal(change);
        assert!(message.contains(name) && message.contains("hint: "), "{name}: {message}");
    }
}

#[test]
fn merges_may_be_strings_or_pairs_and_ids_may_have_holes() {
    let mut file = golden_json("tiny-tokenizer/tokenizer.json");
    for merge in file["model"]["merges"].as_array_mut().unwrap() {
        *merge = format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into();
    }
    file["model"]["vocab"]["zq"] = 600.into();
    let changed = from_json(&serde_json::to_vec(&file).unwrap());
    let tokenizer = tiny();
    let text = "state-of-the-art     things\n\n";
    assert_eq!(changed.encode(text, Special::Parse), tokenizer.encode(text, Special::Parse));
    assert_eq!(changed.n_vocab(), 601);
    assert_eq!((changed.piece(599), changed.piece(600)), (b"".as_slice(), b"zq".as_slice()));
}

#[test]
fn turn_markers_are_control_tokens_also_where_the_file_forgets_to_say_so() {
    let mut file = golden_json("tiny-tokenizer/tokenizer.json");
    file["added_tokens"] = json!([]);
    let tokenizer = from_json(&serde_json::to_vec(&file).unwrap());
    assert_eq!(tokenizer.ends(), [1, 107]);
    assert_eq!(tokenizer.encode("<bos><end_of_turn>", Special::Parse), [2, 107]);
    assert!(!tokenizer.encode("<end_of_turn>", Special::Literal).contains(&107));
}

#[test]
fn a_merge_never_makes_a_control_token() {
    let mut file = golden_json("tiny-tokenizer/tokenizer.json");
    for piece in ["<b", "<bo", "<bos"] {
        let id = file["model"]["vocab"].as_object().unwrap().len();
        file["model"]["vocab"][piece] = id.into();
    }
    let merges = file["model"]["merges"].as_array_mut().unwrap();
    merges.extend([json!("< b"), json!("<b o"), json!("<bo s"), json!("<bos >")]);
    let tokenizer = from_json(&serde_json::to_vec(&file).unwrap());
    assert_eq!(tokenizer.encode("<bos>", Special::Parse), [2]);
    let literal = tokenizer.encode("<bos>", Special::Literal);
    assert_eq!(tokenizer.piece(literal[0]), b"<bos");
    assert!(!literal.contains(&2));
}

#[test]
fn damaged_json_is_an_error_and_never_a_panic() {
    let json = golden("tiny-tokenizer/tokenizer.json");
    let mut random = Random(11);
    for round in 0..600 {
        let mut damaged = json.clone();
        if round % 3 == 0 {
            damaged.truncate(random.below(json.len()));
        } else {
            for _ in 0..1 + random.below(4) {
                let at = random.below(damaged.len());
                damaged[at] ^= 1 << random.below(8);
            }
        }
        if let Ok(tokenizer) = Tokenizer::from_tokenizer_json(&damaged, &SpecialIds::default()) {
            let ids = tokenizer.encode("The <b>cat</b> sat\n\n on <end_of_turn> 中文", Special::Parse);
            tokenizer.decode(&ids, true);
        }
    }
}

#[test]
fn random_vocabularies_never_panic() {
    const KINDS: [TokenType; 6] = [
        TokenType::Normal,
        TokenType::Unknown,
        TokenType::Control,
        TokenType::UserDefined,
        TokenType::Unused,
        TokenType::Byte,
    ];
    let mut random = Random(5);
    let alphabet = ["a", "b", "<", ">", "▁", " ", "\n", "é", "中"];
    for _ in 0..300 {
        let pieces: Vec<(Vec<u8>, f32, TokenType)> = (0..random.below(60))
            .map(|_| {
                let mut piece: Vec<u8> = (0..random.below(4)).flat_map(|_| alphabet[random.below(9)].bytes()).collect();
                if random.below(8) == 0 {
                    piece.push(random.below(256) as u8);
                }
                let score = f32::from_bits(random.next() as u32);
                (piece, score, KINDS[random.below(6)])
            })
            .collect();
        let ids = SpecialIds {
            bos: Some(random.below(20) as TokenId),
            eos: Some(random.below(20) as TokenId),
            unknown: Some(random.below(20) as TokenId),
            ends: vec![],
            add_space_prefix: random.below(2) == 0,
        };
        let tokens = pieces.iter().map(|(piece, score, kind)| (piece.as_slice(), *score, *kind));
        if let Ok(tokenizer) = from_tokens(tokens, &ids) {
            let text: String = (0..40).map(|_| alphabet[random.below(9)]).collect();
            for special in [Special::Parse, Special::Literal] {
                let ids = tokenizer.encode(&text, special);
                assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
                assert!(special == Special::Parse || !ids.iter().any(|&id| tokenizer.piece(id) == b"<bos>"));
            }
        }
    }
}

/// Runs several times and prints the shortest, in milliseconds.
fn time(what: &str, run: &mut dyn FnMut()) -> f64 {
    let seconds = (0..9)
        .map(|_| {
            let start = std::time::Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    eprintln!("{what}: {:.1} ms", seconds * 1e3);
    seconds
}

/// Prints what loading costs; run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "prints timings"]
fn time_of_loading() {
    let gguf = Gguf::parse(Bytes::from(golden("gemma2-tokenizer/gemma2-vocab.gguf.gz"))).expect("GGUF");
    let spm = SpmVocabulary::from_gguf("a.gguf", Arc::new(gguf)).expect("a vocabulary");
    let spm = Vocabulary::Spm(spm);
    time("load GGUF", &mut || {
        Tokenizer::from_vocabulary(&spm).unwrap();
    });
    if let Some(json) = real_json() {
        time("load tokenizer.json", &mut || {
            from_json(&json);
        });
    }
}

/// Prints what encoding costs; run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "prints timings"]
fn time_of_encoding() {
    let mut tokenizers = vec![("GGUF", real_gguf())];
    tokenizers.extend(real_json().map(|json| ("tokenizer.json", from_json(&json))));
    let cases = golden_json("expect/tokenizer.json");
    for (name, tokenizer) in tokenizers {
        for kind in ["english", "code", "languages"] {
            let cases = cases["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == kind);
            let text: String = cases.flat_map(|case| [case["text"].as_str().unwrap(), "\n"]).collect();
            let text = text.repeat((1 << 20) / text.len());
            let seconds = time(&format!("{name}, 1 MiB of {kind}"), &mut || {
                tokenizer.encode(&text, Special::Literal);
            });
            eprintln!("  {:.1} MB/s", text.len() as f64 / seconds / 1e6);
        }
        let one_letter = "a".repeat(1 << 20);
        time(&format!("{name}, 1 MiB of one letter"), &mut || {
            tokenizer.encode(&one_letter, Special::Literal);
        });
    }
}

/// SplitMix64: the same numbers on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

#[test]
fn a_tokenizer_json_written_as_pieces_with_scores_encodes_alike() {
    let written = |tokenizer: &Tokenizer| {
        let tokens = tokenizer.to_sentencepiece().expect("pieces");
        let ids = SpecialIds { bos: Some(tokenizer.bos()), unknown: tokenizer.unknown(), ..SpecialIds::default() };
        let tokens = tokens.iter().map(|t| SentencePieceToken { piece: &t.piece, score: t.score, kind: t.kind });
        Tokenizer::from_sentencepiece(tokens, &ids).expect("a tokenizer")
    };
    check_golden_strings(&written(&tiny()), "expect/tokenizer-tiny.json", Form::Gguf);
    if let Some(json) = real_json() {
        check_golden_strings(&written(&from_json(&json)), "expect/tokenizer.json", Form::Gguf);
    }
}
