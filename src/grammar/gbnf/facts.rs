//! What can be said about texts that an expression matches without matching any: how they begin, and how they could be
//! longer. Every set may be too large, never too small.

use super::characters::CharSet;
use super::{Expr, Grammar};

/// About the texts of a regular expression.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// One of them is empty.
    pub is_nullable: bool,
    /// First characters.
    pub first: CharSet,
    /// Characters at other places.
    pub tail: CharSet,
    /// Characters that can follow a whole text so that this is the beginning of a longer one.
    pub extension: CharSet,
}

impl Facts {
    fn empty() -> Facts {
        Facts { is_nullable: true, ..Facts::default() }
    }

    fn all(&self) -> CharSet {
        let mut all = self.first.clone();
        all.add(&self.tail);
        all
    }

    fn then(&self, next: &Facts) -> Facts {
        let mut joined = Facts {
            is_nullable: self.is_nullable && next.is_nullable,
            first: self.first.clone(),
            tail: self.tail.clone(),
            extension: next.extension.clone(),
        };
        if self.is_nullable {
            joined.first.add(&next.first);
        }
        joined.tail.add(&next.tail);
        if !self.first.is_empty() {
            joined.tail.add(&next.first);
        }
        if next.is_nullable {
            joined.extension.add(&self.extension);
            joined.extension.add(&next.first);
        }
        // Where the first part could go on instead of the second beginning, what has been read says nothing about where
        // in the expression it ends.
        if self.extension.meets(&next.first) {
            joined.extension.add(&self.all());
            joined.extension.add(&next.all());
        }
        joined
    }

    fn choice<'a>(list: impl Iterator<Item = &'a Facts>) -> Facts {
        let mut any = Facts::default();
        let mut is_ambiguous = false;
        for one in list {
            is_ambiguous |= any.first.meets(&one.first);
            any.is_nullable |= one.is_nullable;
            any.first.add(&one.first);
            any.tail.add(&one.tail);
            any.extension.add(&one.extension);
        }
        if any.is_nullable {
            any.extension.add(&any.first.clone());
        }
        if is_ambiguous {
            any.extension.add(&any.tail.clone());
        }
        any
    }

    fn repeated(&self, min: u32, max: Option<u32>) -> Facts {
        if max == Some(0) {
            return Facts::empty();
        }
        let mut facts = self.clone();
        facts.is_nullable |= min == 0;
        if max != Some(1) {
            facts.tail.add(&self.first);
        }
        if facts.is_nullable || max != Some(min) {
            facts.extension.add(&self.first);
        }
        if max != Some(1) && self.extension.meets(&self.first) {
            facts.extension.add(&self.all());
        }
        facts
    }
}

/// The rules that are regular expressions, in an order in which each names only those before it, and what is known of
/// them.
pub(super) struct Regular {
    pub order: Vec<usize>,
    facts: Vec<Option<Facts>>,
}

impl Regular {
    pub fn of(grammar: &Grammar) -> Regular {
        let mut regular = Regular { order: Vec::new(), facts: vec![None; grammar.rules.len()] };
        loop {
            let before = regular.order.len();
            for (at, rule) in grammar.rules.iter().enumerate() {
                if regular.facts[at].is_none()
                    && regular.is_regular(&rule.body)
                    && let Some(facts) = regular.facts(&rule.body)
                {
                    regular.facts[at] = Some(facts);
                    regular.order.push(at);
                }
            }
            if regular.order.len() == before {
                return regular;
            }
        }
    }

    pub fn has(&self, rule: usize) -> bool {
        self.facts[rule].is_some()
    }

    /// None if the expression names a rule that is not regular.
    pub fn facts(&self, expr: &Expr) -> Option<Facts> {
        Some(match expr {
            Expr::Literal(text) => {
                let mut characters = text.chars();
                match characters.next() {
                    None => Facts::empty(),
                    Some(first) => Facts {
                        first: CharSet::of(first),
                        tail: CharSet::of_ranges(characters.map(|c| (c as u32, c as u32)).collect()),
                        ..Facts::default()
                    },
                }
            }
            Expr::Class(class) => Facts { first: class.clone(), ..Facts::default() },
            Expr::Rule(rule) => self.facts[*rule].clone()?,
            Expr::Sequence(list) => {
                let mut facts = Facts::empty();
                for one in list {
                    facts = facts.then(&self.facts(one)?);
                }
                facts
            }
            Expr::Choice(list) => {
                let list = list.iter().map(|one| self.facts(one)).collect::<Option<Vec<_>>>()?;
                Facts::choice(list.iter())
            }
            Expr::Repeat { inner, min, max } => self.facts(inner)?.repeated(*min, *max),
        })
    }

    /// Whether the expression names regular rules only.
    pub fn is_regular(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Literal(_) | Expr::Class(_) => true,
            Expr::Rule(rule) => self.has(*rule),
            Expr::Sequence(list) | Expr::Choice(list) => list.iter().all(|one| self.is_regular(one)),
            Expr::Repeat { inner, .. } => self.is_regular(inner),
        }
    }
}
