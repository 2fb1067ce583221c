//! Which parts of the rules that are no regular expressions become terminals.
//!
//! A terminal takes all the text it can. That changes what the grammar allows where a character that could make a
//! terminal longer is also one that may follow it: of `[a-z]+ "x"`, the first part would take the `x` as well. At first
//! every largest regular part is a terminal; those of which this could happen are taken apart, down to single characters,
//! which never can be longer. Since a terminal is read in bytes, so is the character that may follow.

use std::cell::Cell;
use std::collections::HashMap;

use super::characters::CharSet;
use super::facts::{Facts, Regular};
use super::overlap::Places;
use super::{Expr, Grammar};

/// Times that terminals are taken apart piece by piece; then all the way.
const MAX_ROUNDS: usize = 10;
/// Steps in which it is decided what takes too much, each time; what is not decided does.
const MAX_STEPS: usize = 2_000_000;
/// Times that what may follow is carried through the rules; then it counts as anything.
const MAX_PASSES: usize = 64;

/// A part of a rule in terms of terminals.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// By its place in the list of terminals.
    Terminal(usize),
    /// A rule that is no regular expression, by its place in the grammar.
    Rule(usize),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat {
        inner: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
}

/// The rules that are no regular expressions, and the terminals in them.
pub(super) struct Split<'a> {
    grammar: &'a Grammar,
    regular: &'a Regular,
    pub terminals: Vec<Expr>,
    ids: HashMap<Expr, usize>,
    /// Of each terminal.
    facts: Vec<Facts>,
    /// Of each terminal; none of one that is too large.
    places: Vec<Option<Places>>,
    /// Rules and their bodies.
    pub rules: Vec<(usize, Node)>,
}

impl<'a> Split<'a> {
    pub fn new(grammar: &'a Grammar, regular: &'a Regular) -> Split<'a> {
        let mut split = Split {
            grammar,
            regular,
            terminals: Vec::new(),
            ids: HashMap::new(),
            facts: Vec::new(),
            places: Vec::new(),
            rules: Vec::new(),
        };
        for (at, rule) in grammar.rules.iter().enumerate().filter(|(at, _)| !regular.has(*at)) {
            let body = split.node(&rule.body);
            split.rules.push((at, body));
        }
        for round in 0.. {
            let greedy = split.greedy();
            if greedy.iter().all(|is_greedy| !is_greedy) {
                break;
            }
            for at in 0..split.rules.len() {
                let body = std::mem::replace(&mut split.rules[at].1, Node::Sequence(Vec::new()));
                split.rules[at].1 = split.apart(body, &greedy, round >= MAX_ROUNDS);
            }
        }
        split
    }

    fn terminal(&mut self, expr: &Expr) -> Node {
        if let Some(&id) = self.ids.get(expr) {
            return Node::Terminal(id);
        }
        let id = self.terminals.len();
        self.terminals.push(expr.clone());
        self.facts.push(self.regular.facts(expr).unwrap_or_default());
        self.places.push(Places::of(self.grammar, expr));
        self.ids.insert(expr.clone(), id);
        Node::Terminal(id)
    }

    /// With the largest terminals there can be.
    fn node(&mut self, expr: &Expr) -> Node {
        if self.regular.is_regular(expr) {
            return self.terminal(expr);
        }
        match expr {
            Expr::Rule(rule) => Node::Rule(*rule),
            Expr::Sequence(list) => Node::Sequence(list.iter().map(|one| self.node(one)).collect()),
            Expr::Choice(list) => {
                let (plain, others): (Vec<&Expr>, Vec<&Expr>) =
                    list.iter().partition(|one| self.regular.is_regular(one));
                let mut nodes: Vec<Node> = others.into_iter().map(|one| self.node(one)).collect();
                match plain.as_slice() {
                    [] => {}
                    [one] => nodes.push(self.terminal(one)),
                    several => nodes.push(self.terminal(&Expr::Choice(several.iter().map(|e| (*e).clone()).collect()))),
                }
                Node::Choice(nodes)
            }
            Expr::Repeat { inner, min, max } => {
                Node::Repeat { inner: Box::new(self.node(inner)), min: *min, max: *max }
            }
            Expr::Literal(_) | Expr::Class(_) => self.terminal(expr),
        }
    }

    /// Takes apart the terminals that `greedy` names, one step or all the way.
    fn apart(&mut self, node: Node, greedy: &[bool], all: bool) -> Node {
        match node {
            Node::Terminal(id) if greedy.get(id) == Some(&true) => {
                let expr = self.terminals[id].clone();
                self.parts(&expr, all)
            }
            Node::Terminal(_) | Node::Rule(_) => node,
            Node::Sequence(list) => Node::Sequence(self.all_apart(list, greedy, all)),
            Node::Choice(list) => Node::Choice(self.all_apart(list, greedy, all)),
            Node::Repeat { inner, min, max } => {
                Node::Repeat { inner: Box::new(self.apart(*inner, greedy, all)), min, max }
            }
        }
    }

    fn all_apart(&mut self, list: Vec<Node>, greedy: &[bool], all: bool) -> Vec<Node> {
        list.into_iter().map(|one| self.apart(one, greedy, all)).collect()
    }

    fn parts(&mut self, expr: &Expr, all: bool) -> Node {
        match expr {
            Expr::Literal(text) if text.chars().count() > 1 => {
                let characters = text.chars().map(|c| Expr::Literal(c.into()));
                Node::Sequence(characters.map(|c| self.terminal(&c)).collect())
            }
            Expr::Literal(_) | Expr::Class(_) => self.terminal(expr),
            Expr::Rule(rule) => {
                let body = self.grammar.rules[*rule].body.clone();
                self.parts(&body, all)
            }
            // Usually it is the end, such as blanks, that is in the way.
            Expr::Sequence(list) if !all && list.len() > 1 => {
                let (last, rest) = (&list[list.len() - 1], &list[..list.len() - 1]);
                let rest = if rest.len() == 1 { rest[0].clone() } else { Expr::Sequence(rest.to_vec()) };
                Node::Sequence(vec![self.terminal(&rest), self.terminal(last)])
            }
            Expr::Sequence(list) => Node::Sequence(list.iter().map(|one| self.part(one, all)).collect()),
            Expr::Choice(list) => Node::Choice(list.iter().map(|one| self.part(one, all)).collect()),
            Expr::Repeat { inner, min, max } => {
                Node::Repeat { inner: Box::new(self.part(inner, all)), min: *min, max: *max }
            }
        }
    }

    fn part(&mut self, expr: &Expr, all: bool) -> Node {
        if all { self.parts(expr, all) } else { self.terminal(expr) }
    }

    /// The terminals that can take too much.
    fn greedy(&self) -> Vec<bool> {
        let follow = Follow::of(self);
        let n_steps = Cell::new(MAX_STEPS);
        let can_be = |at: usize| follow.is_used[at] && self.is_divisible(at);
        let mut greedy: Vec<bool> = (0..self.terminals.len())
            .map(|at| {
                let after = &follow.terminals[at];
                can_be(at) && self.facts[at].extension.begins_like(after) && self.runs_into(at, after, at, &n_steps)
            })
            .collect();
        // A text of one may also be the beginning of a longer one of another.
        let starts: Vec<u128> = self.facts.iter().map(|facts| bits(&facts.first)).collect();
        for long in 0..self.terminals.len() {
            if greedy[long] || self.facts[long].tail.is_empty() || !can_be(long) {
                continue;
            }
            let tail = &self.facts[long].tail;
            greedy[long] = (0..self.terminals.len()).any(|short| {
                short != long
                    && follow.is_used[short]
                    && starts[short] & starts[long] != 0
                    && self.facts[short].first.meets(&self.facts[long].first)
                    && tail.begins_like(&follow.terminals[short])
                    && self.runs_into(short, &follow.terminals[short], long, &n_steps)
            });
        }
        greedy
    }

    /// Whether `long` can go on where `short` ends before one of these characters. Terminals that are too large could.
    fn runs_into(&self, short: usize, after: &CharSet, long: usize, n_steps: &Cell<usize>) -> bool {
        match (&self.places[short], &self.places[long]) {
            (Some(one), Some(other)) => one.runs_into(after, other, short == long, n_steps),
            _ => true,
        }
    }

    fn is_divisible(&self, terminal: usize) -> bool {
        match &self.terminals[terminal] {
            Expr::Class(_) => false,
            Expr::Literal(text) => text.chars().count() > 1,
            _ => true,
        }
    }
}

/// Which ASCII characters are in a set, and whether others are: disjoint bits mean disjoint sets.
fn bits(set: &CharSet) -> u128 {
    set.ranges().iter().fold(0, |bits, &(first, last)| {
        let (low, high) = (first.min(127), last.min(127));
        bits | (u128::MAX >> (127 - high)) & (u128::MAX << low)
    })
}

/// Which characters may follow a rule or a terminal, and which may begin a rule.
struct Follow {
    /// By rule of the grammar.
    is_nullable: Vec<bool>,
    first: Vec<CharSet>,
    rules: Vec<CharSet>,
    /// By terminal.
    terminals: Vec<CharSet>,
    is_used: Vec<bool>,
    has_changed: bool,
}

impl Follow {
    fn of(split: &Split<'_>) -> Follow {
        let n_rules = split.grammar.rules.len();
        let mut follow = Follow {
            is_nullable: vec![false; n_rules],
            first: vec![CharSet::default(); n_rules],
            rules: vec![CharSet::default(); n_rules],
            terminals: vec![CharSet::default(); split.terminals.len()],
            is_used: vec![false; split.terminals.len()],
            has_changed: true,
        };
        for pass in 0.. {
            if !std::mem::take(&mut follow.has_changed) {
                break;
            }
            if pass >= MAX_PASSES {
                follow.terminals.fill(CharSet::all());
                break;
            }
            for (rule, body) in &split.rules {
                let (is_nullable, first) = follow.beginning(split, body);
                follow.has_changed |= is_nullable != follow.is_nullable[*rule];
                follow.is_nullable[*rule] = is_nullable;
                follow.has_changed |= follow.first[*rule].add(&first);
                let after = follow.rules[*rule].clone();
                follow.carry(split, body, after);
            }
        }
        follow
    }

    fn beginning(&self, split: &Split<'_>, node: &Node) -> (bool, CharSet) {
        match node {
            Node::Terminal(id) => (split.facts[*id].is_nullable, split.facts[*id].first.clone()),
            Node::Rule(rule) => (self.is_nullable[*rule], self.first[*rule].clone()),
            Node::Sequence(list) => {
                let mut first = CharSet::default();
                for one in list {
                    let (is_nullable, one_first) = self.beginning(split, one);
                    first.add(&one_first);
                    if !is_nullable {
                        return (false, first);
                    }
                }
                (true, first)
            }
            Node::Choice(list) => {
                let (mut any_nullable, mut first) = (false, CharSet::default());
                for one in list {
                    let (is_nullable, one_first) = self.beginning(split, one);
                    any_nullable |= is_nullable;
                    first.add(&one_first);
                }
                (any_nullable, first)
            }
            Node::Repeat { inner, min, max } => {
                if *max == Some(0) {
                    return (true, CharSet::default());
                }
                let (is_nullable, first) = self.beginning(split, inner);
                (is_nullable || *min == 0, first)
            }
        }
    }

    /// Tells every part of `node` what may follow it.
    fn carry(&mut self, split: &Split<'_>, node: &Node, mut after: CharSet) {
        match node {
            Node::Terminal(id) => {
                self.is_used[*id] = true;
                self.has_changed |= self.terminals[*id].add(&after);
            }
            Node::Rule(rule) => self.has_changed |= self.rules[*rule].add(&after),
            Node::Sequence(list) => {
                for one in list.iter().rev() {
                    self.carry(split, one, after.clone());
                    let (is_nullable, mut first) = self.beginning(split, one);
                    if is_nullable {
                        first.add(&after);
                    }
                    after = first;
                }
            }
            Node::Choice(list) => list.iter().for_each(|one| self.carry(split, one, after.clone())),
            Node::Repeat { inner, max, .. } => {
                if *max != Some(1) {
                    after.add(&self.beginning(split, inner).1);
                }
                self.carry(split, inner, after);
            }
        }
    }
}
