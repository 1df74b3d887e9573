//! What users write, checked before anybody is asked.

use std::path::{Path, PathBuf};

use halloo_protocol::identity::Username;
use halloo_protocol::linked::{LinkedId, System};
use halloo_protocol::trunk::number::{Dialled, is_tel_uri};

use super::error::CliError;

/// Characters of a message id or call id, generously.
const ID_CHARS_MAX: usize = 128;

/// A user: `NAME`, `NAME@AUTHORITY` or `key:...`, as written. The daemon normalises it.
pub(super) fn user(text: &str) -> Result<String, String> {
    if !text.starts_with("key:") {
        let (name, authority) = match text.split_once('@') {
            Some((name, authority)) => (name, Some(authority)),
            None => (text, None),
        };
        Username::new(name).map_err(|error| error.to_string())?;
        if let Some(authority) = authority {
            Username::new(authority).map_err(|error| format!("after the @: {error}"))?;
        }
    }
    Ok(text.to_owned())
}

/// Somebody in a linked system: `xmpp:bob@example.org`.
pub(super) fn linked(text: &str) -> Result<String, String> {
    text.parse::<LinkedId>().map(|id| id.to_string()).map_err(|error| error.to_string())
}

/// A user, or a contact in a linked system: `xmpp:bob@example.org`.
pub(super) fn user_or_linked(text: &str) -> Result<String, String> {
    let system = text.split_once(':').and_then(|(scheme, _)| System::parse(scheme));
    if system.is_some() { linked(text) } else { user(text) }
}

/// The same, or a telephone number as a `tel:` URI.
pub(super) fn user_or_telephone(text: &str) -> Result<String, String> {
    if !is_tel_uri(text) {
        return user_or_linked(text);
    }
    Dialled::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// A user with the authority named.
pub(super) fn full_user(text: &str) -> Result<String, String> {
    match text.split_once('@') {
        Some(_) => user(text),
        None => Err("expected NAME@AUTHORITY".to_owned()),
    }
}

/// The id of a message or a call.
pub(super) fn id(text: &str) -> Result<String, String> {
    let is_id_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if text.is_empty() || text.len() > ID_CHARS_MAX || !text.chars().all(is_id_char) {
        return Err("an id has letters, digits, `-` and `_` only".to_owned());
    }
    Ok(text.to_owned())
}

/// A text that isn't empty.
pub(super) fn text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(text.to_owned())
}

/// Seconds as milliseconds; fractions are allowed, nothing and more than a day are not.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    const SECS_MAX: f64 = 86_400.0;
    let secs: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if !(0.001..=SECS_MAX).contains(&secs) {
        return Err(format!("expected 0.001 to {SECS_MAX} seconds"));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above: positive and small")]
    Ok((secs * 1_000.0).round() as u64)
}

/// A language tag (BCP 47), by its form only.
pub(super) fn language(text: &str) -> Result<String, String> {
    let mut parts = text.split('-');
    let is_primary = |part: &str| (2..=8).contains(&part.len()) && part.chars().all(|c| c.is_ascii_alphabetic());
    let is_part = |part: &str| (1..=8).contains(&part.len()) && part.chars().all(|c| c.is_ascii_alphanumeric());
    if parts.next().is_some_and(is_primary) && parts.all(is_part) {
        return Ok(text.to_owned());
    }
    Err("expected language tags such as en,de or pt-BR".to_owned())
}

/// A WAV file to be played: it must be there. The path is made absolute, since the daemon
/// has another working directory.
pub(super) fn wav_to_play(path: &Path) -> Result<PathBuf, CliError> {
    hound::WavReader::open(path).map_err(|error| CliError::Usage(format!("can't play {}: {error}", path.display())))?;
    absolute(path)
}

/// A file to be recorded: its directory must be there.
pub(super) fn to_record(path: &Path) -> Result<PathBuf, CliError> {
    let path = absolute(path)?;
    if path.is_dir() || !path.parent().is_some_and(Path::is_dir) {
        return Err(CliError::Usage(format!("can't record to {}: no such directory, or no file", path.display())));
    }
    Ok(path)
}

/// A file to be read, whose content the node judges.
pub(super) fn file_to_play(path: &Path) -> Result<PathBuf, CliError> {
    std::fs::File::open(path).map_err(|error| CliError::Usage(format!("can't play {}: {error}", path.display())))?;
    absolute(path)
}

fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))
}

/// A text as one part of a URL's path (RFC 3986 section 3.3): all but unreserved characters are escaped.
pub(super) fn url_part(text: &str) -> String {
    use std::fmt::Write;
    let mut part = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.' | b'@') {
            part.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ok = write!(part, "%{byte:02X}");
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_checked_on_both_sides_of_the_at() {
        for good in ["alice", "Alice@Example", "иван@пример", "key:ed25519:abc"] {
            assert_eq!(user(good), Ok(good.to_owned()));
        }
        for bad in ["", "@", "alice@", "@example", "a b", "alice@x@y", "аlice", "a/b"] {
            assert!(user(bad).is_err(), "{bad}");
        }
        assert!(full_user("alice").is_err());
    }

    #[test]
    fn seconds_are_positive_and_finite() {
        assert_eq!(seconds("1.5"), Ok(1_500));
        for bad in ["", "x", "0", "-1", "NaN", "inf", "1e9"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn url_parts_keep_only_what_is_safe() {
        assert_eq!(url_part("bob@example"), "bob@example");
        assert_eq!(url_part("a/b?ü"), "a%2Fb%3F%C3%BC");
    }
}
