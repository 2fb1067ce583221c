//! The word that was probably meant.

/// The candidate that is most like `word`; `None` where none is like it.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let measured = candidates.map(|candidate| {
        // A word that goes on where the candidate ends was meant as it more often than not.
        let is_start =
            candidate.len() > 3 && (word.starts_with(candidate) || candidate.starts_with(word) && word.len() > 2);
        (if is_start { 0 } else { distance(word, candidate) }, candidate)
    });
    let (n_edits, candidate) = measured.min_by_key(|(n_edits, _)| *n_edits)?;
    (n_edits <= word.chars().count() / 3).then_some(candidate)
}

/// Insertions, deletions, replacements and swaps of neighbors that turn `a` into `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut next = vec![i + 1];
        for j in 0..b.len() {
            let replaced = row[j] + usize::from(a[i] != b[j]);
            let mut least = replaced.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        for (a, b, n) in [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("/hepl", "/help", 1), ("ab", "ba", 1)]
        {
            assert_eq!(distance(a, b), n, "{a} {b}");
        }
    }

    #[test]
    fn only_what_is_like_the_word_is_near() {
        let words = || ["sampling", "prompt", "gpu"].into_iter();
        assert_eq!(nearest("smapling", words()), Some("sampling"));
        assert_eq!(nearest("prompts", words()), Some("prompt"));
        assert_eq!(nearest("weather", words()), None);
        assert_eq!(nearest("", words()), None);
    }
}
