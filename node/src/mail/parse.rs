//! What is told of a mail, from the first part of its text.

use halloo_protocol::key::hash;
use halloo_protocol::mail::{
    ACCOUNT_BYTES_MAX, ADDRESS_BYTES_MAX, MailNotice, NAME_BYTES_MAX, PREVIEW_BYTES_MAX, SUBJECT_BYTES_MAX, line,
};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::Extensions;
use mail_parser::MessageParser;

/// So much of a mail is looked at, in bytes: its headers and how its text begins.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1_024;

/// What `raw` says, as far as it can be read: a mail that can't is told of as one without a sender. Its id is the same wherever the same mail comes from.
pub(super) fn notice_of(account: &str, raw: &[u8], now: UnixTime) -> MailNotice {
    let raw = &raw[..raw.len().min(HEAD_BYTES_MAX)];
    let mail = MessageParser::default().parse(raw);
    let mail = mail.as_ref();
    let from = mail.and_then(|mail| mail.from()).and_then(|from| from.first());
    let message_id = mail.and_then(|mail| mail.message_id());
    let named = message_id.map_or(raw, str::as_bytes);
    let digest = hash("halloo mail id", &[account.as_bytes(), named]);
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    let date = mail.and_then(|mail| mail.date()).and_then(|date| u64::try_from(date.to_timestamp()).ok());
    let text = |text: Option<&str>, max| line(text.unwrap_or_default(), max);
    let preview = mail.and_then(|mail| mail.body_preview(PREVIEW_BYTES_MAX));
    MailNotice {
        id,
        account: line(account, ACCOUNT_BYTES_MAX),
        from_name: text(from.and_then(|from| from.name()), NAME_BYTES_MAX),
        from_address: text(from.and_then(|from| from.address()), ADDRESS_BYTES_MAX),
        subject: text(mail.and_then(|mail| mail.subject()), SUBJECT_BYTES_MAX),
        preview: text(preview.as_deref(), PREVIEW_BYTES_MAX),
        // A date ahead of the clock is no date.
        sent_at: date.map_or(now, UnixTime).min(now),
        extensions: Extensions::none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    #[test]
    fn headers_are_read_in_every_script_and_the_text_begins() {
        let raw = b"From: =?utf-8?q?J=C3=BCrgen?= <j@mail.example>\r\nTo: bob@example\r\nSubject: =?utf-8?b?5Lya6K2w?=\r\n\
            Date: Tue, 1 Jul 2025 10:00:00 +0200\r\nMessage-ID: <1@mail.example>\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nSee you\r\nat noon.\r\n";
        let notice = notice_of("work", raw, NOW);
        assert!(notice.check().is_ok());
        assert_eq!((notice.from_name.as_str(), notice.from_address.as_str()), ("Jürgen", "j@mail.example"));
        assert_eq!((notice.subject.as_str(), notice.preview.as_str()), ("会議", "See you at noon."));
        assert_eq!(notice.sent_at, UnixTime(1_751_356_800));
        // The same mail by another way.
        let other = [b"Received: by somebody\r\n".as_slice(), raw].concat();
        assert_eq!(notice_of("work", &other, NOW).id, notice.id);
        assert_ne!(notice_of("home", raw, NOW).id, notice.id);
    }

    #[test]
    fn whatever_comes_makes_a_notice_within_its_limits() {
        let long = [b"Subject: ".as_slice(), &[b'x'; 40_000], b"\r\n\r\n"].concat();
        let future = b"Date: Fri, 1 Jan 2100 00:00:00 +0000\r\nFrom: \x1b[2J <>\r\n\r\n\x07".as_slice();
        for raw in [b"".as_slice(), b"\r\n", b"\xff\xfe\x00", &long, future, b"From:\r\nSubject: =?x?q?"] {
            let notice = notice_of("a", raw, NOW);
            assert!(notice.check().is_ok(), "{notice:?}");
            assert!(notice.sent_at <= NOW);
        }
    }
}
