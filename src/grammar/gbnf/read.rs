//! From the text of a grammar to its rules.
//!
//! The language is that of llama.cpp's `grammars/README.md`: rules `name ::= …`, literals, classes, groups, `|`, the
//! operators `* + ?` and `{m,n}`, comments from `#`. A line break ends a rule, except inside a group and after `|` and
//! `::=`.

use std::collections::HashMap;

use super::characters::CharSet;
use super::{Expr, Grammar, Rule};
use crate::grammar::GrammarError;

/// Most rules, and parts of rules.
const MAX_RULES: usize = 2_000;
const MAX_PARTS: usize = 20_000;
/// Groups within groups.
const MAX_DEPTH: usize = 64;
/// The largest number in braces, as in llama.cpp.
const MAX_REPETITIONS: u32 = 2_000;

/// Reads the rules.
///
/// # Errors
/// The first mistake, with its place.
pub(super) fn read(text: &str) -> Result<Grammar, GrammarError> {
    let mut reader =
        Reader { rest: text, line: 1, column: 1, ids: HashMap::new(), rules: Vec::new(), n_parts: 0, depth: 0 };
    reader.skip_space(true);
    while !reader.rest.is_empty() {
        reader.rule()?;
        reader.skip_space(true);
    }
    let root = reader.ids.get("root").copied();
    let rules = reader.rules.into_iter().map(|(rule, used_at)| {
        let (line, column) = used_at;
        let what = || format!("there is no rule `{}`", rule.name);
        if rule.line > 0 { Ok(rule) } else { Err(GrammarError::Syntax { line, column, what: what() }) }
    });
    let rules = rules.collect::<Result<Vec<_>, _>>()?;
    match root {
        Some(root) => Ok(Grammar { rules, root }),
        None => Err(GrammarError::Invalid("there is no rule `root`, where every grammar begins".into())),
    }
}

/// Whether every rule that is used can come to an end.
///
/// # Errors
/// Names the first that cannot.
pub(super) fn check(grammar: &Grammar) -> Result<(), GrammarError> {
    let mut ends = vec![false; grammar.rules.len()];
    loop {
        let before = ends.iter().filter(|ends| **ends).count();
        for (at, rule) in grammar.rules.iter().enumerate() {
            ends[at] = ends[at] || can_end(&rule.body, &ends);
        }
        if ends.iter().filter(|ends| **ends).count() == before {
            break;
        }
    }
    let mut is_used = vec![false; grammar.rules.len()];
    let mut todo = vec![grammar.root];
    while let Some(at) = todo.pop() {
        if std::mem::replace(&mut is_used[at], true) {
            continue;
        }
        let rule = &grammar.rules[at];
        if !ends[at] {
            return Err(rule.error(format!("the rule `{}` can never come to an end", rule.name)));
        }
        named(&rule.body, &mut todo);
    }
    Ok(())
}

fn can_end(expr: &Expr, ends: &[bool]) -> bool {
    match expr {
        Expr::Literal(_) | Expr::Class(_) => true,
        Expr::Rule(rule) => ends[*rule],
        Expr::Sequence(list) => list.iter().all(|one| can_end(one, ends)),
        Expr::Choice(list) => list.iter().any(|one| can_end(one, ends)),
        Expr::Repeat { inner, min, .. } => *min == 0 || can_end(inner, ends),
    }
}

fn named(expr: &Expr, rules: &mut Vec<usize>) {
    match expr {
        Expr::Literal(_) | Expr::Class(_) => {}
        Expr::Rule(rule) => rules.push(*rule),
        Expr::Sequence(list) | Expr::Choice(list) => list.iter().for_each(|one| named(one, rules)),
        Expr::Repeat { inner, .. } => named(inner, rules),
    }
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
    ids: HashMap<&'a str, usize>,
    /// Rules, and where each was used first; one that was only used so far stands on line 0.
    rules: Vec<(Rule, (usize, usize))>,
    n_parts: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn error<T>(&self, what: impl Into<String>) -> Result<T, GrammarError> {
        Err(GrammarError::Syntax { line: self.line, column: self.column, what: what.into() })
    }

    /// What stands here, for an error.
    fn found(&self) -> String {
        match self.peek() {
            None => "the end".into(),
            Some('\n' | '\r') => "the end of the line".into(),
            Some(c) => format!("`{}`", c.escape_debug()),
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn take(&mut self, text: &str) -> bool {
        let is_here = self.rest.starts_with(text);
        if is_here {
            self.column += text.chars().count();
            self.rest = &self.rest[text.len()..];
        }
        is_here
    }

    /// Spaces and comments, and line breaks where they do not end a rule.
    fn skip_space(&mut self, with_lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => {}
                '\r' | '\n' if with_lines => {}
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n' && c != '\r') {
                        self.next();
                    }
                    continue;
                }
                _ => return,
            }
            self.next();
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let n = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(n);
        self.rest = rest;
        self.column += n;
        (n > 0).then_some(name)
    }

    /// The place of a rule in the list, which is made if it is not there.
    fn rule_id(&mut self, name: &'a str, place: (usize, usize)) -> Result<usize, GrammarError> {
        if let Some(&id) = self.ids.get(name) {
            return Ok(id);
        }
        let id = self.rules.len();
        if id >= MAX_RULES {
            return self.error(format!("there are more than {MAX_RULES} rules"));
        }
        let body = Expr::Literal(String::new());
        self.rules.push((Rule { name: name.to_owned(), body, line: 0, column: 0 }, place));
        self.ids.insert(name, id);
        Ok(id)
    }

    fn rule(&mut self) -> Result<(), GrammarError> {
        let (line, column) = (self.line, self.column);
        let Some(name) = self.name() else {
            return self.error(format!("a rule's name is expected here, not {}", self.found()));
        };
        let id = self.rule_id(name, (line, column))?;
        if self.rules[id].0.line > 0 {
            let what = format!("the rule `{name}` is there already");
            return Err(GrammarError::Syntax { line, column, what });
        }
        self.skip_space(false);
        if !self.take("::=") {
            return self.error(format!("`::=` is expected here, not {}", self.found()));
        }
        self.skip_space(true);
        let body = self.choice(false)?;
        if !matches!(self.peek(), None | Some('\n' | '\r')) {
            return self.error(format!("{} does not belong here", self.found()));
        }
        let rule = &mut self.rules[id].0;
        (rule.body, rule.line, rule.column) = (body, line, column);
        Ok(())
    }

    fn choice(&mut self, is_nested: bool) -> Result<Expr, GrammarError> {
        let mut alternatives = vec![self.sequence(is_nested)?];
        while self.bar() {
            self.skip_space(true);
            alternatives.push(self.sequence(is_nested)?);
        }
        Ok(match alternatives.len() {
            1 => alternatives.remove(0),
            _ => Expr::Choice(alternatives),
        })
    }

    /// Takes a `|`, which may also begin the next line.
    fn bar(&mut self) -> bool {
        let (rest, line, column) = (self.rest, self.line, self.column);
        self.skip_space(true);
        let is_here = self.take("|");
        if !is_here {
            (self.rest, self.line, self.column) = (rest, line, column);
        }
        is_here
    }

    fn sequence(&mut self, is_nested: bool) -> Result<Expr, GrammarError> {
        let mut list: Vec<Expr> = Vec::new();
        while let Some(c) = self.peek() {
            self.n_parts += 1;
            if self.n_parts > MAX_PARTS {
                return self.error(format!("the grammar has more than {MAX_PARTS} parts"));
            }
            let place = (self.line, self.column);
            let part = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.next();
                    Expr::Class(CharSet::all())
                }
                '(' => self.group()?,
                '*' | '+' | '?' | '{' => {
                    let Some(inner) = list.pop() else {
                        return self.error(format!("nothing stands before {} that could be repeated", self.found()));
                    };
                    let (min, max) = self.repetitions()?;
                    Expr::Repeat { inner: Box::new(inner), min, max }
                }
                '<' | '!' => return self.error("tokens by name or number are not supported in grammars"),
                _ => match self.name() {
                    Some(name) => Expr::Rule(self.rule_id(name, place)?),
                    None => break,
                },
            };
            list.push(part);
            self.skip_space(is_nested);
        }
        Ok(match list.len() {
            0 => Expr::Literal(String::new()),
            1 => list.remove(0),
            _ => Expr::Sequence(list),
        })
    }

    fn group(&mut self) -> Result<Expr, GrammarError> {
        if self.depth >= MAX_DEPTH {
            return self.error(format!("groups are nested more than {MAX_DEPTH} deep"));
        }
        self.next();
        self.skip_space(true);
        self.depth += 1;
        let inner = self.choice(true)?;
        self.depth -= 1;
        if !self.take(")") {
            return self.error(format!("`)` is expected here, not {}", self.found()));
        }
        Ok(inner)
    }

    fn repetitions(&mut self) -> Result<(u32, Option<u32>), GrammarError> {
        match self.next() {
            Some('*') => return Ok((0, None)),
            Some('+') => return Ok((1, None)),
            Some('?') => return Ok((0, Some(1))),
            _ => {}
        }
        let place = (self.line, self.column);
        self.skip_space(false);
        let min = self.number()?;
        self.skip_space(false);
        let (mut low, mut high) = (min.unwrap_or(0), min);
        if self.take(",") {
            self.skip_space(false);
            high = self.number()?;
            self.skip_space(false);
        } else if min.is_none() {
            return self.error(format!("a number is expected here, not {}", self.found()));
        }
        if !self.take("}") {
            return self.error(format!("`}}` is expected here, not {}", self.found()));
        }
        let (line, column) = place;
        if high.is_some_and(|high| high < low) {
            return Err(GrammarError::Syntax { line, column, what: "the second number is below the first".into() });
        }
        low = low.min(high.unwrap_or(low));
        Ok((low, high))
    }

    fn number(&mut self) -> Result<Option<u32>, GrammarError> {
        let n = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        if n == 0 {
            return Ok(None);
        }
        let number = self.rest[..n].parse().ok().filter(|number| *number <= MAX_REPETITIONS);
        let Some(number) = number else {
            return self.error(format!("more than {MAX_REPETITIONS} repetitions are not possible"));
        };
        self.column += n;
        self.rest = &self.rest[n..];
        Ok(Some(number))
    }

    fn literal(&mut self) -> Result<Expr, GrammarError> {
        let (line, column) = (self.line, self.column);
        self.next();
        let mut text = String::new();
        while self.peek() != Some('"') {
            match self.character()? {
                Some(c) => text.push(c),
                None => return Err(GrammarError::Syntax { line, column, what: "this text has no end".into() }),
            }
        }
        self.next();
        Ok(Expr::Literal(text))
    }

    fn class(&mut self) -> Result<Expr, GrammarError> {
        let (line, column) = (self.line, self.column);
        let error = |what: &str| Err(GrammarError::Syntax { line, column, what: what.into() });
        self.next();
        let is_negated = self.take("^");
        let mut ranges = Vec::new();
        while self.peek() != Some(']') {
            let Some(first) = self.character()? else {
                return error("these characters have no end");
            };
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let last = match is_range && self.take("-") {
                true => self.character()?,
                false => Some(first),
            };
            let Some(last) = last else {
                return error("these characters have no end");
            };
            if last < first {
                return error("the end of a range is before its beginning");
            }
            ranges.push((first as u32, last as u32));
        }
        self.next();
        let class = CharSet::of_ranges(ranges);
        let class = if is_negated { class.negated() } else { class };
        if class.is_empty() { error("there is no such character") } else { Ok(Expr::Class(class)) }
    }

    /// A character of a literal or a class, perhaps escaped; none at the end of the grammar.
    fn character(&mut self) -> Result<Option<char>, GrammarError> {
        let Some(c) = self.next() else {
            return Ok(None);
        };
        if c != '\\' {
            return Ok(Some(c));
        }
        let escaped = match self.next() {
            Some('x') => self.code(2)?,
            Some('u') => self.code(4)?,
            Some('U') => self.code(8)?,
            Some('t') => '\t',
            Some('r') => '\r',
            Some('n') => '\n',
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/')) => c,
            _ => return self.error(r#"after a backslash comes one of \ " [ ] n r t x u U"#),
        };
        Ok(Some(escaped))
    }

    fn code(&mut self, n_digits: usize) -> Result<char, GrammarError> {
        let digits = self.rest.get(..n_digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let c = digits.and_then(|digits| char::from_u32(u32::from_str_radix(digits, 16).ok()?));
        let Some(c) = c else {
            return self.error(format!("{n_digits} hexadecimal digits of a character are expected here"));
        };
        self.column += n_digits;
        self.rest = &self.rest[n_digits..];
        Ok(c)
    }
}
