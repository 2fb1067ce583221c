//! Whether a terminal could take what follows another, decided on their texts; `facts.rs` only suspects it.
//!
//! Both are read side by side as Glushkov automata (<https://en.wikipedia.org/wiki/Glushkov%27s_construction_algorithm>):
//! each place of an expression where a character stands is a state, and no state is there that no text goes through.

use std::cell::Cell;
use std::collections::HashSet;

use super::characters::CharSet;
use super::{Expr, Grammar};

/// Most places in an expression.
const MAX_PLACES: usize = 600;
/// Most parts that are looked at to find them, and ways between them.
const MAX_STEPS: usize = 100_000;

/// The places of a regular expression.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// What may stand at each.
    characters: Vec<CharSet>,
    /// Where a text goes on after each.
    next: Vec<Vec<usize>>,
    /// Where it may end.
    is_last: Vec<bool>,
    first: Vec<usize>,
    is_nullable: bool,
    n_steps: usize,
}

/// The places of a part of an expression where its texts begin and end.
#[derive(Clone, Default)]
struct Part {
    first: Vec<usize>,
    last: Vec<usize>,
    is_nullable: bool,
}

impl Places {
    /// None if there are too many.
    pub fn of(grammar: &Grammar, expr: &Expr) -> Option<Places> {
        let mut places = Places::default();
        let part = places.part(grammar, expr)?;
        for place in part.last {
            places.is_last[place] = true;
        }
        (places.first, places.is_nullable) = (part.first, part.is_nullable);
        Some(places)
    }

    /// Whether after some text of `self`, which may be an empty one only if `with_empty`, a character that begins like one
    /// of `after` goes on with the beginning of a longer text of `other`. True if that takes more steps to find out than
    /// there are, which are counted down.
    pub fn runs_into(&self, after: &CharSet, other: &Places, with_empty: bool, n_steps: &Cell<usize>) -> bool {
        let goes_on = |places: &[usize]| places.iter().any(|place| other.characters[*place].begins_like(after));
        if with_empty && self.is_nullable && goes_on(&other.first) {
            return true;
        }
        let mut seen = HashSet::new();
        let mut waiting: Vec<(usize, usize)> = Vec::new();
        let mut follow = |ours: &[usize], theirs: &[usize], waiting: &mut Vec<(usize, usize)>| {
            let n = ours.len() * theirs.len();
            if n_steps.replace(n_steps.get().saturating_sub(n)) <= n {
                return false;
            }
            for (one, another) in ours.iter().flat_map(|one| theirs.iter().map(|another| (*one, *another))) {
                if self.characters[one].meets(&other.characters[another]) && seen.insert((one, another)) {
                    waiting.push((one, another));
                }
            }
            true
        };
        let mut is_bounded = follow(&self.first, &other.first, &mut waiting);
        while let Some((one, another)) = waiting.pop() {
            if !is_bounded || self.is_last[one] && goes_on(&other.next[another]) {
                return true;
            }
            is_bounded = follow(&self.next[one], &other.next[another], &mut waiting);
        }
        !is_bounded
    }

    fn part(&mut self, grammar: &Grammar, expr: &Expr) -> Option<Part> {
        self.n_steps += 1;
        if self.n_steps > MAX_STEPS || self.characters.len() > MAX_PLACES {
            return None;
        }
        Some(match expr {
            Expr::Literal(text) => {
                let mut whole = Part { is_nullable: true, ..Part::default() };
                for c in text.chars() {
                    let one = self.place(CharSet::of(c));
                    whole = self.then(whole, one);
                }
                whole
            }
            Expr::Class(class) if class.is_empty() => return None,
            Expr::Class(class) => self.place(class.clone()),
            Expr::Rule(rule) => self.part(grammar, &grammar.rules[*rule].body)?,
            Expr::Sequence(list) => {
                let mut whole = Part { is_nullable: true, ..Part::default() };
                for one in list {
                    let one = self.part(grammar, one)?;
                    whole = self.then(whole, one);
                }
                whole
            }
            Expr::Choice(list) => {
                let mut any = Part::default();
                for one in list {
                    let one = self.part(grammar, one)?;
                    any.first.extend(one.first);
                    any.last.extend(one.last);
                    any.is_nullable |= one.is_nullable;
                }
                any
            }
            Expr::Repeat { inner, min, max } => {
                let mut chain = Part { is_nullable: true, ..Part::default() };
                let mut last = Vec::new();
                let n_turns = max.unwrap_or((*min).max(1));
                for turn in 1..=n_turns {
                    let one = self.part(grammar, inner)?;
                    if max.is_none() && turn == n_turns {
                        self.join(&one.last, &one.first);
                    }
                    chain = self.then(chain, one);
                    if turn >= *min {
                        last.extend(&chain.last);
                    }
                }
                Part { first: chain.first, last, is_nullable: chain.is_nullable || *min == 0 }
            }
        })
    }

    fn place(&mut self, characters: CharSet) -> Part {
        let at = self.characters.len();
        self.characters.push(characters);
        self.next.push(Vec::new());
        self.is_last.push(false);
        Part { first: vec![at], last: vec![at], is_nullable: false }
    }

    fn then(&mut self, one: Part, next: Part) -> Part {
        self.join(&one.last, &next.first);
        let mut joined = Part { first: one.first, last: next.last, is_nullable: one.is_nullable && next.is_nullable };
        if one.is_nullable {
            joined.first.extend(next.first);
        }
        if next.is_nullable {
            joined.last.extend(one.last);
        }
        joined
    }

    fn join(&mut self, last: &[usize], first: &[usize]) {
        self.n_steps += last.len() * first.len();
        if self.n_steps <= MAX_STEPS {
            last.iter().for_each(|place| self.next[*place].extend(first));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    fn places(grammar: &Grammar, name: &str) -> Places {
        let rule = grammar.rules.iter().find(|rule| rule.name == name).expect("a rule");
        Places::of(grammar, &rule.body).expect("few places")
    }

    #[test]
    fn a_terminal_runs_into_another_where_a_text_of_one_begins_a_longer_one_of_the_other() {
        let check = |one: &str, after: char, other: &str, expected: bool| {
            let grammar = read::read(&format!("root ::= {one}\nother ::= {other}\n")).expect("a grammar");
            let (one, other) = (places(&grammar, "root"), places(&grammar, "other"));
            let found = one.runs_into(&CharSet::of(after), &other, false, &Cell::new(1000));
            assert_eq!(found, expected, "{grammar:?} {after}");
        };
        let string = r#""\"" ([^"\\] | "\\" ["n])* "\"" " "?"#;
        check(string, ':', &format!("{string} | [0-9]+"), false);
        check(string, ' ', &format!("{string} | [0-9]+"), true);
        check("[0-9]+", '.', r#"[0-9]+ "." [0-9]+"#, true);
        check("[0-9]{2}", '.', r#"[0-9]{3} "." [0-9]+"#, false);
        check("[0-9]{2,}", '.', r#"[0-9]{3} "." [0-9]+"#, true);
        check("\"if\"", 'f', "[a-z]+", true);
        check("\"if\"", ' ', "[a-z]+", false);
        check("\"a\"*", 'b', "\"a\"* \"b\"", true);
        check("\"\" | \"x\"", 'b', "\"a\"* \"b\"", false);
        // Both begin with the same byte of UTF-8.
        check("\"é\"", 'è', "[é]+", true);
        check("\"é\"", 'é', "\"é\" [è]", true);
        check("\"é\"", 'x', "[é]+", false);
        check("(\"ab\" | \"a\")+ \"c\"?", 'd', "\"a\" (\"ba\")* \"bd\"", true);
    }

    #[test]
    fn what_is_too_large_to_be_decided_counts_as_running_into() {
        let gbnf = "root ::= ([a-z]{1,60} \"x\"?){1,60}\nother ::= ([a-z]{1,20}){1,29}\nnone ::= (\"\"{2000}){2000}\n";
        let grammar = read::read(gbnf).expect("a grammar");
        let body = |at: usize| Places::of(&grammar, &grammar.rules[at].body);
        assert!(body(0).is_none() && body(2).is_none());
        let other = body(1).expect("few places");
        let runs = |n_steps| other.runs_into(&CharSet::of('.'), &other, true, &Cell::new(n_steps));
        assert!(runs(1000) && !runs(100_000_000));
    }
}
