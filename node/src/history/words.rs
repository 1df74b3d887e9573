//! The words of a text, as they are looked for: the same for the index and for what is searched.
//!
//! Words are those of Unicode (UAX 29), folded so that case and forms of one letter make no difference (NFKC and full case folding).
//! Scripts without spaces between words come as single characters, and as pairs of neighbours, so that a word of two characters isn't found in
//! every text that has both.

use std::collections::BTreeSet;

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// Longest word in the index, in bytes; longer ones are cut, and so is what is searched.
const WORD_BYTES_MAX: usize = 64;

/// Different words of one message that are found; the rest of a longer message isn't.
pub(super) const WORDS_MAX: usize = 1_024;

/// What is searched for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// Words a message must have.
    pub(super) whole: Vec<String>,
    /// What one of its words must begin with.
    pub(super) beginning: Option<String>,
}

/// The words of a message for the index.
pub(super) fn words(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut last: Option<(usize, String)> = None;
    for (start, word) in split(text) {
        if found.len() >= WORDS_MAX {
            break;
        }
        let end = start + word.len();
        let is_single = is_spaceless(&word);
        if let Some((last_end, previous)) = last.take()
            && is_single
            && last_end == start
        {
            found.insert(format!("{previous}{word}"));
        }
        if is_single {
            last = Some((end, word.clone()));
        }
        found.insert(cut(&word));
    }
    found
}

/// What is to be looked for: whole words, and the beginning of the last one if the text ends with it.
pub(super) fn query(text: &str) -> Query {
    let folded = fold(text);
    let is_open = folded.chars().next_back().is_some_and(char::is_alphanumeric);
    let mut parsed = Query::default();
    let mut last: Option<(usize, String)> = None;
    let mut singles: Vec<String> = Vec::new();
    for (start, word) in split(text) {
        let end = start + word.len();
        let is_single = is_spaceless(&word);
        match last.take() {
            Some((last_end, previous)) if is_single && last_end == start => {
                // A pair says more than its halves.
                singles.retain(|single| *single != previous);
                parsed.whole.push(format!("{previous}{word}"));
            }
            _ if is_single => singles.push(word.clone()),
            _ => parsed.whole.push(cut(&word)),
        }
        if is_single {
            last = Some((end, word));
        }
    }
    let ends_single = last.is_some();
    parsed.whole.extend(singles);
    if is_open && !ends_single {
        parsed.beginning = parsed.whole.pop();
    }
    let mut seen = BTreeSet::new();
    parsed.whole.retain(|word| seen.insert(word.clone()));
    parsed
}

/// Words with where they begin, folded.
fn split(text: &str) -> Vec<(usize, String)> {
    let folded = fold(text);
    folded.unicode_word_indices().map(|(start, word)| (start, word.to_owned())).collect()
}

fn fold(text: &str) -> String {
    let composed: String = text.nfkc().collect();
    caseless::default_case_fold_str(&composed).nfkc().filter(|c| *c != '\0').collect()
}

fn cut(word: &str) -> String {
    let mut end = word.len().min(WORD_BYTES_MAX);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    word[..end].to_owned()
}

/// One character of a script that is written without spaces.
fn is_spaceless(word: &str) -> bool {
    let Some(first) = word.chars().next() else { return false };
    // Thai, Lao, Myanmar, Khmer; kana; Han with its extensions.
    let is_of_script = matches!(first,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}');
    is_of_script && UnicodeSegmentation::graphemes(word, true).count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_in(text: &str, searched: &str) -> bool {
        let (words, query) = (words(text), query(searched));
        let begins = |beginning: &String| words.iter().any(|word| word.starts_with(beginning.as_str()));
        query.whole.iter().all(|word| words.contains(word)) && query.beginning.as_ref().is_none_or(begins)
    }

    #[test]
    fn case_and_form_make_no_difference_and_the_last_word_may_be_begun() {
        let text = "Grüße aus STRASSBURG, ﬁne café № 5 — don't";
        for searched in ["grüße", "GRÜSSE", "straßburg", "fine", "cafe\u{301}", "grüße stras", "no 5", "don't", "5 fin"] {
            assert!(found_in(text, searched), "{searched}");
        }
        for searched in ["grü ", "rüße", "burg", "fines", "grüße paris", "stras grüße"] {
            assert!(!found_in(text, searched), "{searched}");
        }
    }

    #[test]
    fn scripts_without_spaces_are_found_by_what_stands_together() {
        let text = "明日東京駅で会いましょう。京都ではない";
        for searched in ["東京", "東京駅", "京都", "駅", "会い"] {
            assert!(found_in(text, searched), "{searched}");
        }
        for searched in ["東都", "大阪", "駅東"] {
            assert!(!found_in(text, searched), "{searched}");
        }
    }

    #[test]
    fn texts_of_any_kind_have_a_bound() {
        assert!(words("").is_empty() && words("!? — \u{0}\n").is_empty());
        assert_eq!(query(" ,. "), Query::default());
        let han: String = ('\u{4e00}'..'\u{9000}').take(5_000).collect();
        assert!(words(&han).len() <= WORDS_MAX + 1);
        let long = "x".repeat(10_000);
        assert!(words(&long).iter().all(|word| word.len() <= WORD_BYTES_MAX));
        assert!(found_in(&long, &long));
        assert!(words("a\u{0}b").iter().all(|word| !word.contains('\0')));
    }
}
