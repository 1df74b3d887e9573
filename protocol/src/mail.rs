//! Mail, an event like others: what one device of a user, which watches mail accounts, tells the rest of them.
//!
//! It travels as an own signal ([`crate::message::OwnSignal`]), sealed as every message: no gateway or mailbox reads it.

use bincode::{Decode, Encode};

use crate::time::UnixTime;
use crate::wire::{DecodeError, Extensions};

/// Longest name of an account, in bytes.
pub const ACCOUNT_BYTES_MAX: usize = 64;
/// Longest name of a sender.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest address of a sender (RFC 5321 section 4.5.3.1).
pub const ADDRESS_BYTES_MAX: usize = 254;
/// Longest subject; a longer one is cut.
pub const SUBJECT_BYTES_MAX: usize = 256;
/// Longest beginning of the text.
pub const PREVIEW_BYTES_MAX: usize = 512;

/// Extension of [`MailNotice`], empty: the mail was read, or is gone.
const READ_EXTENSION: u16 = 0x0001;

/// What is told of a mail. Everything in it but `account` is its sender's word, and isn't checked by anybody.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailNotice {
    /// Names the mail, at every device of the user.
    pub id: [u8; 16],
    /// What the user calls the account.
    pub account: String,
    /// What its sender calls themself; empty: nothing.
    pub from_name: String,
    /// Its sender's address.
    pub from_address: String,
    /// Subject.
    pub subject: String,
    /// How its text begins.
    pub preview: String,
    /// Its date.
    pub sent_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl MailNotice {
    /// Checks lengths, and that nothing can move a terminal's cursor.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        for (field, text, max) in [
            ("account", &self.account, ACCOUNT_BYTES_MAX),
            ("from_name", &self.from_name, NAME_BYTES_MAX),
            ("from_address", &self.from_address, ADDRESS_BYTES_MAX),
            ("subject", &self.subject, SUBJECT_BYTES_MAX),
            ("preview", &self.preview, PREVIEW_BYTES_MAX),
        ] {
            if text.len() > max {
                return Err(DecodeError::invalid(field, format!("{} bytes, at most {max}", text.len())));
            }
            if text.chars().any(char::is_control) {
                return Err(DecodeError::invalid(field, "a control character"));
            }
        }
        Ok(())
    }

    /// The word that it was read, or is gone: whoever told of it takes that back, and whoever didn't tells nothing. Versions that don't know of this show the
    /// mail, if they haven't.
    #[must_use]
    pub fn read(mut self) -> Self {
        if !self.is_read() {
            self.extensions = self.extensions.with(READ_EXTENSION, Vec::new());
        }
        self
    }

    /// Whether it is that.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.extensions.find(READ_EXTENSION).is_some()
    }

    /// Whom to name: by name where there is one.
    #[must_use]
    pub fn from(&self) -> &str {
        if self.from_name.is_empty() { &self.from_address } else { &self.from_name }
    }
}

/// Text as a [`MailNotice`] has it: one line, without controls, spaces in a row as one, cut to `max` bytes at a character's end.
#[must_use]
pub fn line(text: &str, max: usize) -> String {
    let mut line = String::new();
    // What a cut leaves out isn't looked at.
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        let space = usize::from(!line.is_empty());
        let room = max.saturating_sub(line.len() + space);
        if room == 0 {
            break;
        }
        if space > 0 {
            line.push(' ');
        }
        let end = (0..=room.min(word.len())).rev().find(|end| word.is_char_boundary(*end)).unwrap_or(0);
        line.push_str(&word[..end]);
        if end < word.len() {
            break;
        }
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_one_harmless_line() {
        assert_eq!(line(" a\tb\r\n\n c\u{7}d\u{1b}[2J ", 100), "a b c d [2J");
        assert_eq!(line("größer", 4), "grö");
        assert_eq!(line("größer", 3), "gr");
        assert_eq!(line("ab cd", 3), "ab");
        assert_eq!(line("ab cd", 4), "ab c");
        assert_eq!(line("", 4), "");
        for max in 0..20 {
            assert!(line("日本 語の 件名\n", max).len() <= max);
        }
    }

    #[test]
    fn a_notice_keeps_its_limits() {
        let notice = MailNotice {
            id: [1; 16],
            account: "work".into(),
            from_name: "Carol".into(),
            from_address: "carol@mail.example".into(),
            subject: "Lunch".into(),
            preview: "At noon?".into(),
            sent_at: UnixTime(1),
            extensions: Extensions::none(),
        };
        assert!(notice.check().is_ok());
        assert_eq!(notice.from(), "Carol");
        assert_eq!(MailNotice { from_name: String::new(), ..notice.clone() }.from(), "carol@mail.example");
        assert!(MailNotice { subject: "x".repeat(SUBJECT_BYTES_MAX + 1), ..notice.clone() }.check().is_err());
        assert!(MailNotice { preview: "a\nb".into(), ..notice }.check().is_err());
    }

    #[test]
    fn a_notice_says_whether_its_mail_was_read() {
        let notice = MailNotice {
            id: [1; 16],
            account: "work".into(),
            from_name: String::new(),
            from_address: "carol@mail.example".into(),
            subject: String::new(),
            preview: String::new(),
            sent_at: UnixTime(1),
            extensions: Extensions::none(),
        };
        assert!(!notice.is_read());
        let read = notice.read();
        assert!(read.is_read() && read.check().is_ok());
        assert_eq!(read.clone().read(), read);
    }
}
