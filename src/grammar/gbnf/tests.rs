//! GBNF against a plain reading of it.

use std::collections::BTreeSet;

use super::*;
use crate::engine::rng::Rng;
use crate::grammar::tests::{bytes, ends_of};
use crate::grammar::{Grammars, Source};

/// Whether the grammar allows this text, by masks, byte by byte.
fn allows(grammars: &Grammars, gbnf: &str, text: &str) -> bool {
    ends_of(grammars, &Source::Gbnf(gbnf.into()), text).unwrap_or_else(|error| panic!("{error} in\n{gbnf}"))
}

fn check(gbnf: &str, allowed: &[&str], refused: &[&str]) {
    let grammars = bytes();
    for text in allowed {
        assert!(allows(&grammars, gbnf, text), "{text:?} is allowed by\n{gbnf}");
    }
    for text in refused {
        assert!(!allows(&grammars, gbnf, text), "{text:?} is not allowed by\n{gbnf}");
    }
}

#[test]
fn literals_classes_groups_and_operators_mean_what_they_say() {
    check(r#"root ::= "yes" | "no" "!"?"#, &["yes", "no", "no!"], &["", "ye", "yes!", "maybe"]);
    check(r#"root ::= [a-c]{2,3} [^a-c\n]+ # comment"#, &["abx", "abc é"], &["ax", "abcb", "ab", "ab\n"]);
    check(r#"root ::= ("a" | "b")* "\t\x41é\U0001F600"{2}"#, &["ab\tAé😀\tAé😀"], &["\tAé😀", "c"]);
    check("root ::= item{,2}\nitem ::=\n  \"x\" |\n  \"y\"\n  | \"z\"", &["", "x", "yz"], &["xyz", "w"]);
    check(r#"root ::= . [-a\]^] "/" "#, &["ß-/", "\n]/", "x^/"], &["ß", "ab/"]);
    check(r#"root ::= "a" ("b" ("c" root)?)?"#, &["a", "ab", "abca", "abcab"], &["abc", "b"]);
    check(r#"root ::= "x"{3}"#, &["xxx"], &["xx", "xxxx"]);
}

#[test]
fn the_grammars_that_people_copy_from_llama_cpp_work() {
    let json = r##"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"##;
    check(
        json,
        &["{}", r#"{"a": [1, -2.5e3, "x\"é", null], "b": {"c": true}}"#, "{\n    \"a\": 1 }\n"],
        &["[]", r#"{"a": }"#, r#"{"a": 01}"#, "{\"a\":\n\n1}", r#"{"a" 1}"#],
    );
    // Here blanks may be taken by a number or end the line: the longest match is not what is meant.
    let arithmetic = r#"
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"#;
    check(
        arithmetic,
        &["1=1\n", "x_1 +(2*y)=3\n", "a=b \n\n", "1 = 2\n(3)=4\n"],
        &["1=1", "1+=1\n", "=1\n", "1=1\n2\n"],
    );
}

/// What a string in JSON and a value have in common must not turn both into single characters: a mask would then look at
/// every token of the vocabulary.
#[test]
fn parts_that_only_look_alike_stay_terminals() {
    let lark = to_lark(concat!(
        "root ::= \"{\" string \":\" value \"}\"\nvalue ::= root | string | [0-9]+\n",
        "string ::= \"\\\"\" ([^\"\\\\] | \"\\\\\" .)* \"\\\"\" \" \"?\n",
    ));
    let lark = lark.expect("a grammar");
    let n_terminals = lark.lines().filter(|line| line.starts_with('T')).count();
    assert_eq!(n_terminals, 5, "{lark}");
}

#[test]
fn a_part_that_could_take_what_follows_it_does_not() {
    check(r#"root ::= [a-z]+ "x" root | ".""#, &[".", "ax.", "xxx.", "abxcx."], &["a.", "x.", "ax"]);
    check(r#"root ::= "a"* root "b" | "c""#, &["c", "acb", "aacbb", "cb"], &["ac", "aa", "bc"]);
    check(r#"root ::= ("a" | "ab") root | "bc""#, &["abc", "aabc", "abbc", "ababbc"], &["ab", "bb"]);
    check(r#"root ::= root "a" | "b""#, &["b", "baa"], &["", "ab"]);
}

/// All places where a text that begins at `from` may end.
fn ends(expr: &Expr, text: &[char], from: usize, known: &[BTreeSet<(usize, usize)>]) -> BTreeSet<usize> {
    match expr {
        Expr::Literal(literal) => {
            let literal: Vec<char> = literal.chars().collect();
            text[from..].starts_with(&literal).then_some(from + literal.len()).into_iter().collect()
        }
        Expr::Class(class) => {
            let is_in = |c: &&char| class.ranges().iter().any(|(a, b)| (*a..=*b).contains(&(**c as u32)));
            text.get(from).filter(is_in).map(|_| from + 1).into_iter().collect()
        }
        Expr::Rule(rule) => known[*rule].iter().filter(|(start, _)| *start == from).map(|(_, end)| *end).collect(),
        Expr::Sequence(list) => list.iter().fold(BTreeSet::from([from]), |starts, one| {
            starts.iter().flat_map(|start| ends(one, text, *start, known)).collect()
        }),
        Expr::Choice(list) => list.iter().flat_map(|one| ends(one, text, from, known)).collect(),
        Expr::Repeat { inner, min, max } => {
            let (mut reached, mut all) = (BTreeSet::from([from]), BTreeSet::new());
            // More often than there are characters adds nothing but empty turns.
            for turn in 0..=(*min as usize + text.len() + 1) {
                if turn >= *min as usize && max.is_none_or(|max| turn <= max as usize) {
                    all.extend(&reached);
                }
                reached = reached.iter().flat_map(|start| ends(inner, text, *start, known)).collect();
            }
            all
        }
    }
}

fn plainly_allows(grammar: &Grammar, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut known = vec![BTreeSet::new(); grammar.rules.len()];
    loop {
        let before = known.clone();
        for (at, rule) in grammar.rules.iter().enumerate() {
            for from in 0..=text.len() {
                let ends = ends(&rule.body, &text, from, &known);
                known[at].extend(ends.into_iter().map(|end| (from, end)));
            }
        }
        if known == before {
            return known[grammar.root].contains(&(0, text.len()));
        }
    }
}

/// Alternatives of parts of two characters and the rules `root`, `one` and `two`.
fn random_choice(rng: &mut Rng, [a, b]: [char; 2], depth: usize) -> String {
    let pick = |rng: &mut Rng, n: u64| (rng.next_u64() % n) as usize;
    let n_alternatives = 1 + pick(rng, 3) / 2;
    let alternatives = (0..n_alternatives).map(|_| {
        let n_parts = pick(rng, 4);
        let parts = (0..n_parts).map(|_| {
            let atoms = [
                format!("\"{a}\""),
                format!("\"{b}\""),
                format!("\"{a}{b}\""),
                format!("[{a}{b}]"),
                format!("[^{a}]"),
                "root".into(),
                "one".into(),
                "two".into(),
            ];
            let atom = match pick(rng, 10) {
                0 | 1 if depth > 0 => format!("({})", random_choice(rng, [a, b], depth - 1)),
                at => atoms[at % atoms.len()].clone(),
            };
            atom + ["", "", "", "*", "+", "?", "{2}", "{1,2}"][pick(rng, 8)]
        });
        if n_parts == 0 { "\"\"".into() } else { parts.collect::<Vec<_>>().join(" ") }
    });
    alternatives.collect::<Vec<_>>().join(" | ")
}

#[test]
fn random_grammars_allow_what_a_plain_reading_of_them_allows() {
    let (mut grammars, mut texts) = (bytes(), Vec::<String>::new());
    let mut rng = Rng::new(5);
    let (mut n_grammars, mut n_allowed) = (0, 0);
    for round in 0..600 {
        // Of some the bytes begin alike.
        let letters @ [a, b] = if round < 400 { ['a', 'b'] } else { ['é', 'è'] };
        if round % 200 == 0 {
            grammars = bytes();
            texts = (0..=4u32)
                .flat_map(|n| {
                    (0..1 << n).map(move |bits| (0..n).map(|at| if bits >> at & 1 == 0 { a } else { b }).collect())
                })
                .collect();
        }
        let rules: Vec<String> = ["root", "one", "two"]
            .iter()
            .map(|name| format!("{name} ::= {}\n", random_choice(&mut rng, letters, 2)))
            .collect();
        let gbnf = rules.concat();
        let grammar = read::read(&gbnf).unwrap_or_else(|error| panic!("{error} in\n{gbnf}"));
        if read::check(&grammar).is_err() {
            continue;
        }
        n_grammars += 1;
        for text in &texts {
            let want = plainly_allows(&grammar, text);
            n_allowed += usize::from(want);
            assert_eq!(allows(&grammars, &gbnf, text), want, "{text:?} in\n{gbnf}{}", lark::write(&grammar));
        }
    }
    assert!(n_grammars > 150 && n_allowed > 500, "{n_grammars} {n_allowed}");
}

#[test]
fn mistakes_are_told_with_line_and_column() {
    let cases = [
        ("", "there is no rule `root`"),
        ("a ::= \"x\"", "there is no rule `root`"),
        ("root ::= \"x\" item", "line 1, column 14: there is no rule `item`"),
        ("root ::= \"x", "line 1, column 10: this text has no end"),
        ("root ::= [a-", "line 1, column 10: these characters have no end"),
        ("root ::= [z-a]", "the end of a range is before its beginning"),
        ("root ::= (\"a\"\n\"b\"", "line 2, column 4: `)` is expected here, not the end"),
        ("root ::= \"a\" )", "line 1, column 14: `)` does not belong here"),
        ("root = \"a\"", "line 1, column 6: `::=` is expected here, not `=`"),
        ("root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule `root` is there already"),
        ("root ::= *", "nothing stands before `*`"),
        ("root ::= \"a\"{3,2}", "the second number is below the first"),
        ("root ::= \"a\"{9999999999}", "more than 2000 repetitions"),
        ("root ::= \"a\"{x}", "a number is expected here, not `x`"),
        ("root ::= \"\\q\"", "after a backslash"),
        ("root ::= \"\\uD800\"", "4 hexadecimal digits"),
        ("root ::= <think>", "not supported"),
        ("root ::= \"a\"\n\nx ::= x \"a\"\n", ""),
        ("root ::= x\nx ::= \"a\" x", "line 1, column 1: the rule `root` can never come to an end"),
    ];
    for (gbnf, message) in cases {
        match to_lark(gbnf) {
            Ok(_) => assert_eq!(message, "", "{gbnf}"),
            Err(error) => assert!(!message.is_empty() && error.to_string().contains(message), "{gbnf}: {error}"),
        }
    }
}

#[test]
fn no_text_makes_the_reader_panic() {
    let pieces = [
        "root", " ::= ", "\"a\"", "[a-z", "]", "(", ")", "|", "*", "{1,", "}", "\n", "\\u00", "é", "#", "\"", "-", "^",
    ];
    let mut rng = Rng::new(3);
    let mut n_good = 0;
    for _ in 0..20_000 {
        let n = rng.next_u64() % 12;
        let text: String = (0..n).map(|_| pieces[(rng.next_u64() % pieces.len() as u64) as usize]).collect();
        n_good += usize::from(to_lark(&format!("root ::= {text}")).is_ok());
    }
    assert!(n_good > 500, "{n_good}");
}

#[test]
fn grammars_without_measure_are_refused_or_read_in_a_moment() {
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(to_lark(&deep).unwrap_err().to_string().contains("nested"));
    let many: String = (0..5_000).map(|n| format!("r{n} ::= \"a\"\n")).collect();
    assert!(to_lark(&many).unwrap_err().to_string().contains("more than 2000 rules"));
    let long = format!("root ::= {}", "\"a\" ".repeat(50_000));
    assert!(to_lark(&long).unwrap_err().to_string().contains("parts"));
    // A chain of rules in the least convenient order, and one that goes round.
    for last in ["\"a\"", "\"a\" root?"] {
        let mut chain: String = (0..1_990).map(|n| format!("r{n} ::= \"x\"? r{}\n", n + 1)).collect();
        chain.push_str(&format!("r1990 ::= {last}\nroot ::= r0\n"));
        match ends_of(&bytes(), &Source::Gbnf(chain), "a") {
            Ok(is_allowed) => assert!(is_allowed),
            Err(error) => assert!(error.to_string().contains("too complex"), "{error}"),
        }
    }
}
