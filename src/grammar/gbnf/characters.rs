//! Sets of characters.

const LAST: u32 = char::MAX as u32;
/// Ranges from which a sum is given up as "all between".
const MAX_RANGES: usize = 128;
/// Code points that are no characters.
const SURROGATES: (u32, u32) = (0xD800, 0xDFFF);

/// Code points in ranges that are in order and do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CharSet(Vec<(u32, u32)>);

impl CharSet {
    /// Every character.
    pub fn all() -> CharSet {
        CharSet::default().negated()
    }

    /// One character.
    pub fn of(c: char) -> CharSet {
        CharSet(vec![(c as u32, c as u32)])
    }

    /// From ranges in any order, both ends included.
    pub fn of_ranges(mut ranges: Vec<(u32, u32)>) -> CharSet {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        CharSet(merged)
    }

    /// All other characters.
    pub fn negated(&self) -> CharSet {
        let mut others = Vec::with_capacity(self.0.len() + 2);
        let mut next = 0;
        for &(first, last) in self.0.iter() {
            if next < first {
                others.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= LAST {
            others.push((next, LAST));
        }
        CharSet(others).without_surrogates()
    }

    fn without_surrogates(self) -> CharSet {
        let (low, high) = SURROGATES;
        let cut = |(first, last): (u32, u32)| [(first, last.min(low - 1)), (first.max(high + 1), last)];
        CharSet::of_ranges(self.0.into_iter().flat_map(cut).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Adds the characters of `other`, and in a set of many ranges all between them; true if there was one that was not
    /// here.
    pub fn add(&mut self, other: &CharSet) -> bool {
        if other.0.iter().all(|range| self.contains(*range)) {
            return false;
        }
        let mut ranges = std::mem::take(&mut self.0);
        ranges.extend(&other.0);
        *self = CharSet::of_ranges(ranges);
        if let (Some(first), Some(last), MAX_RANGES..) = (self.0.first(), self.0.last(), self.0.len()) {
            self.0 = vec![(first.0, last.1)];
        }
        true
    }

    fn contains(&self, (first, last): (u32, u32)) -> bool {
        let at = self.0.partition_point(|range| range.1 < first);
        self.0.get(at).is_some_and(|range| range.0 <= first && last <= range.1)
    }

    /// Whether some character of one begins with the same byte as some of the other, in UTF-8: a lexer reads bytes.
    pub fn begins_like(&self, other: &CharSet) -> bool {
        let bytes = |set: &CharSet| {
            set.0.iter().map(|(first, last)| (first_byte(*first), first_byte(*last))).collect::<Vec<_>>()
        };
        let others = bytes(other);
        bytes(self).iter().any(|one| others.iter().any(|other| one.0 <= other.1 && other.0 <= one.1))
    }

    /// Whether some character is in both.
    pub fn meets(&self, other: &CharSet) -> bool {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            if x.0 <= y.1 && y.0 <= x.1 {
                return true;
            }
            if x.1 < y.1 {
                a.next()
            } else {
                b.next()
            };
        }
        false
    }
}

/// The first byte of a character in UTF-8, which grows with the character.
fn first_byte(character: u32) -> u8 {
    let byte = match character {
        0..0x80 => character,
        0x80..0x800 => 0xC0 | character >> 6,
        0x800..0x1_0000 => 0xE0 | character >> 12,
        _ => 0xF0 | character >> 18,
    };
    byte as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(char, char)]) -> CharSet {
        CharSet::of_ranges(ranges.iter().map(|(a, b)| (*a as u32, *b as u32)).collect())
    }

    #[test]
    fn ranges_are_merged_and_compared() {
        assert_eq!(set(&[('c', 'e'), ('a', 'b'), ('d', 'g')]), set(&[('a', 'g')]));
        assert!(set(&[('a', 'c'), ('x', 'z')]).meets(&set(&[('d', 'e'), ('y', 'y')])));
        assert!(!set(&[('a', 'c'), ('x', 'z')]).meets(&set(&[('d', 'w')])));
        assert!(!CharSet::default().meets(&CharSet::all()));
        let mut letters = set(&[('a', 'c')]);
        assert!(!letters.add(&set(&[('b', 'c')])));
        assert!(letters.add(&set(&[('d', 'd')])));
        assert_eq!(letters, set(&[('a', 'd')]));
    }

    #[test]
    fn characters_begin_like_others_of_the_same_first_byte() {
        let like = |a: char, b: char| CharSet::of(a).begins_like(&CharSet::of(b));
        assert!(like('a', 'a') && like('é', 'è') && like('日', '本') && like('😀', '😁'));
        assert!(!like('a', 'b') && !like('é', 'ā') && !like('é', '日') && !like('日', '😀'));
        for c in ['\0', '\x7F', '\u{80}', '\u{7FF}', '\u{800}', '\u{FFFF}', '\u{10000}', '\u{10FFFF}'] {
            assert_eq!(first_byte(c as u32), c.to_string().as_bytes()[0]);
        }
    }

    #[test]
    fn the_others_of_a_set_are_characters() {
        let all = CharSet::all();
        assert_eq!(all.ranges(), [(0, 0xD7FF), (0xE000, 0x10_FFFF)]);
        let others = set(&[('\0', '@'), ('[', '\u{10FFFF}')]).negated();
        assert_eq!(others, set(&[('A', 'Z')]));
        assert!(all.negated().is_empty());
    }
}
