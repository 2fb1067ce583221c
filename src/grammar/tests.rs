//! Grammars over a vocabulary of bytes, the tiny one and the real one.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::*;
use crate::tokenizer::tests::{real_gguf, tiny};
use crate::tokenizer::{Special, TokenId};

/// The end token of [`bytes`].
const END: TokenId = 256;

/// A vocabulary of single bytes and an end token.
pub(super) fn bytes() -> Grammars {
    let mut pieces: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    pieces.push(Vec::new());
    Grammars::of_pieces(pieces, vec![END])
}

/// Whether a reply of [`bytes`] may be exactly this text.
pub(super) fn ends_of(grammars: &Grammars, source: &Source, text: &str) -> Result<bool, GrammarError> {
    let mut constraint = grammars.compile(source)?;
    for byte in text.bytes() {
        if constraint.is_complete() || !is_allowed(&mut constraint, 257, TokenId::from(byte))? {
            return Ok(false);
        }
        constraint.commit(TokenId::from(byte)).map_err(|error| GrammarError::Invalid(error.to_string()))?;
    }
    Ok(constraint.is_complete() || is_allowed(&mut constraint, 257, END)?)
}

/// The logits of tokens that were all alike; none where nothing may follow.
fn row(constraint: &mut Constraint, n_vocab: usize) -> Result<Option<Vec<f32>>, GrammarError> {
    let mut row = vec![0.0; n_vocab];
    match constraint.mask(&mut row) {
        Ok(()) => Ok(Some(row)),
        Err(ConstraintError::DeadEnd) => Ok(None),
        Err(error) => Err(GrammarError::Invalid(error.to_string())),
    }
}

fn is_allowed(constraint: &mut Constraint, n_vocab: usize, id: TokenId) -> Result<bool, GrammarError> {
    Ok(row(constraint, n_vocab)?.is_some_and(|row| row[id as usize] == 0.0))
}

fn check(source: Source, allowed: &[&str], refused: &[&str]) {
    let grammars = bytes();
    let allows = |text: &str| ends_of(&grammars, &source, text).unwrap_or_else(|error| panic!("{error}"));
    for text in allowed {
        assert!(allows(text), "{text:?} is allowed by {source:?}");
    }
    for text in refused {
        assert!(!allows(text), "{text:?} is not allowed by {source:?}");
    }
}

fn error(source: &Source) -> GrammarError {
    bytes().compile(source).expect_err("no such grammar")
}

#[test]
fn a_schema_allows_the_json_it_describes_and_nothing_else() {
    let schema = json!({
        "type": "object",
        "properties": { "name": { "type": "string" }, "age": { "type": "integer", "minimum": 0, "maximum": 150 } },
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    check(
        Source::JsonSchema(schema),
        &[r#"{"name":"Ada","age":36}"#, "{ \"name\": \"é\\n\",\n  \"age\": 150 }"],
        &[
            r#"{"name":"Ada"}"#,
            r#"{"age":36,"name":"Ada"}"#,
            r#"{"name":"Ada","age":151}"#,
            "{\"name\":\n\n\"x\"",
            "[]",
        ],
    );
    let open = json!({ "properties": { "a": { "type": "integer" } }, "required": ["a"] });
    check(Source::JsonSchema(open), &[r#"{"a":1}"#], &[r#"{"a":1,"b":2}"#]);
    let open = json!({ "properties": { "a": { "type": "integer" } }, "additionalProperties": true });
    check(Source::JsonSchema(open), &[r#"{"a":1,"b":2}"#], &[]);
    let any = Source::json_object();
    check(any, &["{}", r#"{"a": [1, {"b": null}]}"#], &["[]", "1", "{", "{} "]);
    check(Source::JsonSchema(json!({})), &["1", "[]", "\"x\"", "{}"], &["", "x"]);
    let tree = json!({
        "$defs": { "node": { "type": "object", "properties": { "next": { "anyOf": [
            { "$ref": "#/$defs/node" }, { "type": "null" } ] } }, "required": ["next"], "additionalProperties": false } },
        "$ref": "#/$defs/node",
    });
    check(Source::JsonSchema(tree), &[r#"{"next":{"next":null}}"#], &[r#"{"next":{}}"#]);
    let one_of = json!({ "oneOf": [{ "const": "yes" }, { "enum": ["no", 3] }] });
    check(Source::JsonSchema(one_of), &["\"yes\"", "\"no\"", "3"], &["\"maybe\"", "4"]);
}

#[test]
fn regular_expressions_and_lark_are_languages_too() {
    check(Source::Regex("[0-9]{3}-[a-z]+".into()), &["123-x"], &["12-x", "123-"]);
    let lark = "%llguidance {}\nstart: \"a\" item+\nitem: /[0-9]+/ \";\"";
    check(Source::from_text(lark), &["a1;22;"], &["a", "a1"]);
    assert!(matches!(Source::from_text("root ::= \"a\""), Source::Gbnf(_)));
}

#[test]
fn what_is_wrong_with_a_grammar_is_told_with_its_place() {
    let check = |source: Source, message: &str| {
        let text = error(&source).to_string();
        assert!(text.contains(message) && !text.contains('\n'), "{text}");
    };
    check(Source::Lark("start: \"a\" (".into()), "line 1, column");
    check(Source::Lark("start: \"a\"\n\nstart: 17 %".into()), "line 3");
    check(Source::Lark("start: <end_of_turn>".into()), "");
    check(Source::Lark("other: \"a\"".into()), "start");
    check(Source::Regex("(a".into()), "regex");
    check(Source::Gbnf("root ::= x".into()), "line 1, column 10");
    check(Source::JsonSchema(json!([])), "object");
    check(Source::JsonSchema(json!(false)), "object");
    check(Source::JsonSchema(json!({ "type": "thing" })), "thing");
    check(Source::JsonSchema(json!({ "$ref": "https://example.org/schema" })), "");
    check(Source::JsonSchema(json!({ "type": "integer", "minimum": 3, "maximum": 2 })), "");
    check(Source::JsonSchema(json!({ "type": "string", "pattern": "(" })), "");
    check(Source::Gbnf("root ::= \"a\"".repeat(30_000)), "the most allowed is");
}

/// What may come from anywhere is refused or done with in a moment, and its replies too.
#[test]
fn hostile_grammars_end_in_an_error_or_a_constraint() {
    let nested = (0..100).fold(json!({ "type": "string" }), |inner, _| json!({ "type": "array", "items": inner }));
    let mut doubled = json!({});
    for n in 0..40 {
        let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
        doubled[format!("d{n}")] = json!({ "allOf": [next, next] });
    }
    doubled["d40"] = json!({ "anyOf": [{ "type": "object" }, { "type": "array" }] });
    let chain: String = (0..8_000).map(|n| format!("r{n}: \"a\"? r{}\n", n + 1)).collect();
    let terminals: String = (0..8_000).map(|n| format!("T{n}: \"a\"? T{}\n", n + 1)).collect();
    let products: Vec<_> =
        (0..24).map(|n| json!({ "anyOf": [{ "minLength": n }, { "maxLength": 100 - n }] })).collect();
    let sources = [
        Source::JsonSchema(nested),
        Source::JsonSchema(json!({ "$ref": "#/$defs/d0", "$defs": doubled })),
        Source::JsonSchema(json!({ "$ref": "#" })),
        Source::JsonSchema(json!({ "allOf": products })),
        Source::JsonSchema(json!({ "type": "string", "minLength": 1_000_000_000 })),
        Source::JsonSchema(json!({ "type": "string", "pattern": "(((a{1,1000}){1,1000}){1,1000})b" })),
        Source::JsonSchema(json!({ "type": "array", "items": {}, "minItems": 100_000_000 })),
        Source::JsonSchema(json!({ "type": "number", "multipleOf": 1e-300 })),
        Source::Regex("((((a*)*)*)*)*b".into()),
        Source::Regex("(a|b)*a(a|b){200}c".into()),
        Source::Regex(format!("{}a{}", "(".repeat(50_000), ")".repeat(50_000))),
        Source::Lark(format!("start: r0\n{chain}r8000: \"b\"")),
        Source::Lark(format!("start: T0\n{terminals}T8000: \"b\"")),
        Source::Lark("start: start start | \"a\"".into()),
        Source::Lark("start: start \"a\"".into()),
        Source::Lark("start: \"a\"~1..1000000000".into()),
        Source::Lark("start: (\"a\"~1..2000)~1..2000".into()),
        Source::Gbnf("root ::= ((\"a\"{1,2000}){1,2000}){1,2000} root?".into()),
        Source::Gbnf("root ::= root root | \"a\" | \"\"".into()),
        Source::Gbnf("root ::= (\"\"*)* root? \"a\"".into()),
    ];
    let grammars = bytes();
    for source in sources {
        let start = Instant::now();
        let text = format!("{source:?}");
        let name = text.chars().take(100).collect::<String>();
        match grammars.compile(&source) {
            Err(error) => eprintln!("{:>6} ms  {name}: {error}", start.elapsed().as_millis()),
            Ok(mut constraint) => {
                let compiled = start.elapsed();
                for _ in 0..50 {
                    let mut row = vec![0.0; 257];
                    if constraint.is_complete() || constraint.mask(&mut row).is_err() {
                        break;
                    }
                    let Some(id) = row.iter().position(|logit| *logit == 0.0) else { break };
                    if id as TokenId == END || constraint.commit(id as TokenId).is_err() {
                        break;
                    }
                }
                eprintln!("{:>6} ms, {} ms  {name}", compiled.as_millis(), (start.elapsed() - compiled).as_millis());
            }
        }
    }
}

/// With a tokenizer, text that must come is cut as it would: where that text has no end, nobody must wait for it.
#[test]
fn text_that_must_come_forever_holds_nobody_up() {
    let tokenizer = Arc::new(tiny());
    let grammars = Grammars::new(tokenizer.clone());
    let own =
        json!({ "type": "array", "items": { "type": "integer" }, "x-guidance": { "whitespace_pattern": "\\[+" } });
    for source in [
        Source::from_text("%llguidance {}\nstart: /a+/ \"a\""),
        Source::from_text("%llguidance {}\nstart: /[xy]/ /a+/ \"a\""),
        Source::from_text("%llguidance {\"no_forcing\": false}\nstart: /é+/ \"è\""),
        Source::from_text("%llguidance {}\nstart: \"a\" start"),
        Source::Gbnf("root ::= [é]+ x\nx ::= \"è\" x? \"y\"".into()),
        Source::Regex("[é]+è".into()),
        Source::JsonSchema(own),
    ] {
        let Ok(mut constraint) = grammars.compile(&source) else { continue };
        for _ in 0..20 {
            let Ok(Some(row)) = row(&mut constraint, tokenizer.n_vocab()) else { break };
            let Some(id) = row.iter().position(|logit| *logit == 0.0) else { break };
            if constraint.is_complete() || constraint.commit(id as TokenId).is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_grammar_without_any_text_is_impossible() {
    for lark in ["start: start \"a\"", "start: x\nx: \"a\" y\ny: y \"b\""] {
        let source = Source::Lark(lark.into());
        match bytes().compile(&source) {
            Err(error) => assert_eq!(error, GrammarError::Impossible, "{lark}"),
            Ok(mut constraint) => {
                constraint.commit(TokenId::from(b'a')).expect("allowed");
                assert_eq!(constraint.mask(&mut [0.0; 257]), Err(ConstraintError::DeadEnd));
            }
        }
    }
}

#[test]
fn end_tokens_may_come_where_the_grammar_may_stop_and_other_control_tokens_never() {
    let tokenizer = Arc::new(tiny());
    let n_vocab = tokenizer.n_vocab();
    let grammars = Grammars::new(tokenizer.clone());
    let controls: Vec<TokenId> = (0..n_vocab as TokenId).filter(|id| !tokenizer.is_text(*id)).collect();
    let is_end_allowed = |constraint: &mut Constraint| {
        let row = row(constraint, n_vocab).expect("simple").expect("something may follow");
        for &id in &controls {
            let is_end = tokenizer.is_end(id) && row[tokenizer.ends()[0] as usize] == 0.0;
            assert_eq!(row[id as usize] == 0.0, is_end, "{id}");
        }
        row[tokenizer.ends()[0] as usize] == 0.0
    };
    for source in [Source::Regex("(.|\n)*".into()), Source::Lark("start: /a*/ <[0-400]>*".into())] {
        let mut constraint = grammars.compile(&source).expect("a grammar");
        assert!(is_end_allowed(&mut constraint), "{source:?}");
    }
    let mut constraint = grammars.compile(&Source::Gbnf("root ::= \"ab\"+".into())).expect("a grammar");
    assert!(!is_end_allowed(&mut constraint));
    for id in tokenizer.encode("ab", Special::Literal) {
        assert!(!constraint.is_complete());
        constraint.commit(id).expect("allowed");
    }
    assert!(is_end_allowed(&mut constraint) && !constraint.is_complete());
}

#[test]
fn a_constraint_is_complete_when_nothing_but_the_end_can_follow() {
    let tokenizer = Arc::new(tiny());
    let grammars = Grammars::new(tokenizer.clone());
    let mut constraint = grammars.compile(&Source::json_object()).expect("a grammar");
    let other = constraint.clone();
    for id in tokenizer.encode(r#"{"a": [1]}"#, Special::Literal) {
        assert!(!constraint.is_complete());
        constraint.commit(id).expect("allowed");
    }
    assert!(constraint.is_complete() && !other.is_complete());
    assert!(!grammars.compile(&Source::json_object()).expect("kept").is_complete());
}

#[test]
fn where_one_text_can_follow_it_is_cut_as_the_tokenizer_cuts_it() {
    let tokenizer = Arc::new(real_gguf());
    let grammars = Grammars::new(tokenizer.clone());
    let text = "The quick brown fox jumps over the lazy dog.";
    let mut constraint = grammars.compile(&Source::Regex(text.replace('.', "\\."))).expect("a grammar");
    let mut ids = Vec::new();
    while !constraint.is_complete() {
        let row = row(&mut constraint, tokenizer.n_vocab()).expect("simple").expect("something may follow");
        let id = row.iter().position(|logit| *logit == 0.0).expect("a token") as TokenId;
        constraint.commit(id).expect("allowed");
        ids.push(id);
    }
    assert_eq!(tokenizer.decode(&ids, true), text);
    assert!(ids.len() <= tokenizer.encode(text, Special::Literal).len() + 2, "{ids:?}");
}

/// What a mask costs with 256,000 tokens, beside some 50 ms of a decode step of the 2B model on two threads.
#[test]
#[ignore = "prints times"]
fn time_of_a_mask_with_the_real_vocabulary() {
    let tokenizer = Arc::new(real_gguf());
    let grammars = Grammars::new(tokenizer.clone());
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or_default().to_owned()
    };
    println!("before: {}", resident());
    let start = Instant::now();
    grammars.compile(&Source::Regex("a".into())).expect("a grammar");
    println!("first grammar: {} ms, {}", start.elapsed().as_millis(), resident());
    let json_gbnf = r##"root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}"##;
    let person = json!({ "type": "object", "properties": { "name": { "type": "string", "maxLength": 40 },
        "age": { "type": "integer" }, "tags": { "type": "array", "items": { "enum": ["red", "green", "blue"] } } },
        "required": ["name", "age", "tags"] });
    let text = r#"{"name": "Ada Lovelace, Countess", "age": 36, "tags": ["red", "blue"]}"#;
    let cases = [
        ("any object", Source::json_object(), text),
        ("a schema", Source::JsonSchema(person), text),
        ("json.gbnf", Source::Gbnf(json_gbnf.into()), text),
        ("a regex", Source::Regex("[A-Z][a-z]+( [a-z]+)*\\.".into()), "This is a sentence made of words."),
        ("a line", Source::Gbnf("root ::= [^\\n]+ \"\\n\" root?".into()), "This is a line.\nAnd another.\n"),
    ];
    for (name, source, text) in cases {
        let start = Instant::now();
        let mut constraint = grammars.compile(&source).expect("a grammar");
        let compiled = start.elapsed();
        let (mut total, mut worst, mut n) = (0.0, 0.0f64, 0.0);
        for id in tokenizer.encode(text, Special::Literal) {
            let mut logits = vec![0.0; tokenizer.n_vocab()];
            let start = Instant::now();
            constraint.mask(&mut logits).expect("something may follow");
            if logits[id as usize] != 0.0 {
                break;
            }
            constraint.commit(id).expect("allowed");
            let ms = start.elapsed().as_secs_f64() * 1e3;
            (total, worst, n) = (total + ms, worst.max(ms), n + 1.0);
        }
        println!("{name}: compiled in {compiled:?}, {n} tokens, mean {:.3} ms, worst {worst:.3} ms", total / n);
    }
    println!("after: {}", resident());
}
