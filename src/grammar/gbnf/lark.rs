//! Writes rules and terminals in llguidance's language.
//!
//! Every part that is more than a name or a character becomes a rule or a terminal of its own, so that nothing is nested.

use std::fmt::Write;

use super::characters::CharSet;
use super::facts::Regular;
use super::split::{Node, Split};
use super::{Expr, Grammar};

/// The whole grammar; its beginning is `start`.
pub(super) fn write(grammar: &Grammar) -> String {
    let regular = Regular::of(grammar);
    let mut writer = Writer { out: String::new(), n_parts: 0 };
    for rule in &regular.order {
        let body = writer.terminal_body(&grammar.rules[*rule].body);
        writer.define(&format!("R{rule}"), &body);
    }
    if regular.has(grammar.root) {
        writer.define("start", &format!("R{}", grammar.root));
        return writer.out;
    }
    let split = Split::new(grammar, &regular);
    for (id, terminal) in split.terminals.iter().enumerate() {
        let body = writer.terminal_body(terminal);
        writer.define(&format!("T{id}"), &body);
    }
    for (rule, body) in &split.rules {
        let body = writer.rule_body(body);
        writer.define(&format!("r{rule}"), &body);
    }
    writer.define("start", &format!("r{}", grammar.root));
    writer.out
}

struct Writer {
    out: String,
    n_parts: usize,
}

impl Writer {
    fn define(&mut self, name: &str, body: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{name}: {body}");
    }

    fn part(&mut self, prefix: char, body: &str) -> String {
        let name = format!("{prefix}{}", self.n_parts);
        self.n_parts += 1;
        self.define(&name, body);
        name
    }

    fn terminal_body(&mut self, expr: &Expr) -> String {
        match expr {
            Expr::Sequence(list) => joined(list.iter().map(|one| self.terminal_part(one)), " "),
            Expr::Choice(list) => joined(list.iter().map(|one| self.terminal_part(one)), " | "),
            Expr::Repeat { inner, min, max } => {
                let inner = self.terminal_part(inner);
                repeated(&inner, *min, *max)
            }
            _ => self.terminal_part(expr),
        }
    }

    fn terminal_part(&mut self, expr: &Expr) -> String {
        match expr {
            Expr::Literal(text) => quoted(text),
            Expr::Class(class) => class_regex(class),
            Expr::Rule(rule) => format!("R{rule}"),
            _ => {
                let body = self.terminal_body(expr);
                self.part('P', &body)
            }
        }
    }

    fn rule_body(&mut self, node: &Node) -> String {
        match node {
            Node::Sequence(list) => joined(list.iter().map(|one| self.rule_part(one)), " "),
            Node::Choice(list) => joined(list.iter().map(|one| self.rule_part(one)), " | "),
            Node::Repeat { inner, min, max } => {
                let inner = self.rule_part(inner);
                repeated(&inner, *min, *max)
            }
            _ => self.rule_part(node),
        }
    }

    fn rule_part(&mut self, node: &Node) -> String {
        match node {
            Node::Terminal(id) => format!("T{id}"),
            Node::Rule(rule) => format!("r{rule}"),
            _ => {
                let body = self.rule_body(node);
                self.part('p', &body)
            }
        }
    }
}

fn joined(parts: impl Iterator<Item = String>, separator: &str) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { quoted("") } else { parts.join(separator) }
}

fn repeated(inner: &str, min: u32, max: Option<u32>) -> String {
    match (min, max) {
        (_, Some(0)) => quoted(""),
        (0, None) => format!("{inner}*"),
        (1, None) => format!("{inner}+"),
        (0, Some(1)) => format!("{inner}?"),
        (min, None) => format!("{inner}{{{min},}}"),
        (min, Some(max)) => format!("{inner}{{{min},{max}}}"),
    }
}

/// As a JSON string of printable ASCII and characters above it.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\0'..=' ' | '\x7F' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

fn class_regex(class: &CharSet) -> String {
    let mut out = String::from("/[");
    for (first, last) in class.ranges() {
        let _ = write!(out, "\\x{{{first:X}}}-\\x{{{last:X}}}");
    }
    out.push_str("]/");
    out
}
