//! In which language a person is told of something.
//!
//! Both people's languages are ordered lists of tags (BCP 47). One they share comes first, in the order of whoever is told: they read it, and what the
//! other has written is in it. Else it is the first of theirs that there are words in, else the other's. Tags match by their first subtag:
//! words in `de` serve `de-CH`.

use std::fmt;

/// Whose language it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Both name it.
    Shared,
    /// Only whoever is told names it.
    Told,
    /// Only the other names it.
    Other,
    /// Nobody names one that there are words in.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "both read it",
            Self::Told => "whoever is told reads it",
            Self::Other => "the other reads it",
            Self::Default => "nobody names one that there are words in",
        })
    }
}

/// A language, and why it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// One of those that there are words in.
    pub language: &'a str,
    /// Whose it is.
    pub origin: Origin,
}

/// The first subtag, by which tags are matched.
fn primary(tag: &str) -> &str {
    tag.split('-').next().unwrap_or(tag)
}

fn is_same(one: &str, other: &str) -> bool {
    primary(one).eq_ignore_ascii_case(primary(other))
}

/// Chooses among `available` for somebody who reads `told`, about somebody who reads `other`; `default` if nothing fits.
#[must_use]
pub fn choose<'a>(told: &[String], other: &[String], available: &[&'a str], default: &'a str) -> Choice<'a> {
    let words_in = |tag: &String| available.iter().copied().find(|known| is_same(known, tag));
    let shared = told.iter().filter(|tag| other.iter().any(|theirs| is_same(tag, theirs))).find_map(words_in);
    let found = shared.map(|language| (language, Origin::Shared));
    let found = found.or_else(|| told.iter().find_map(words_in).map(|language| (language, Origin::Told)));
    let found = found.or_else(|| other.iter().find_map(words_in).map(|language| (language, Origin::Other)));
    let (language, origin) = found.unwrap_or((default, Origin::Default));
    Choice { language, origin }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AVAILABLE: [&str; 4] = ["en", "de", "fr", "ar"];

    fn chosen(told: &[&str], other: &[&str]) -> (&'static str, Origin) {
        let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
        let choice = choose(&tags(told), &tags(other), &AVAILABLE, "en");
        (choice.language, choice.origin)
    }

    #[test]
    fn a_shared_language_comes_first_in_the_order_of_who_is_told() {
        assert_eq!(chosen(&["fr", "de", "en"], &["en", "de"]), ("de", Origin::Shared));
        assert_eq!(chosen(&["en", "de"], &["de", "en"]), ("en", Origin::Shared));
        assert_eq!(chosen(&["de-CH", "fr"], &["DE-at"]), ("de", Origin::Shared));
    }

    #[test]
    fn else_it_is_theirs_else_the_others_else_the_default() {
        assert_eq!(chosen(&["ar", "de"], &["fr"]), ("ar", Origin::Told));
        assert_eq!(chosen(&["rm", "de"], &["fr"]), ("de", Origin::Told), "without words in their first");
        assert_eq!(chosen(&["rm"], &["fr"]), ("fr", Origin::Other));
        assert_eq!(chosen(&["rm"], &["rm"]), ("en", Origin::Default), "shared, and without words");
        assert_eq!(chosen(&["rm", "fr"], &["rm", "de"]), ("fr", Origin::Told), "what they share has no words");
        assert_eq!(chosen(&[], &[]), ("en", Origin::Default));
        assert_eq!(chosen(&["", "-"], &["deu"]), ("en", Origin::Default), "no tags, or others that only begin alike");
    }
}
