//! Another call that one is to take the place of: the `Replaces` header (RFC 3891), by itself in an INVITE, or within the address of a `Refer-To`
//! (RFC 5589 section 7.1) where a phone connects two of its calls.

use super::message::Message;
use super::uri::{Malformed, NameAddr, SipUri, find, params, unescape};

/// The longest value read: a Call-ID and two tags, each of which phones keep short.
const BYTES_MAX: usize = 1_024;

/// A dialog, as whoever is asked to replace it knows it (RFC 3891 section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaces {
    /// Its Call-ID.
    pub call_id: String,
    /// The tag of the end that is asked.
    pub to_tag: String,
    /// The other end's.
    pub from_tag: String,
    /// Only while it rings.
    pub is_early_only: bool,
}

impl Replaces {
    /// Reads a header's value.
    ///
    /// # Errors
    /// [`Malformed`]: too long, without a Call-ID, or without one of the tags.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        const DIALOG: Malformed = Malformed("Replaces names no dialog");
        if text.len() > BYTES_MAX {
            return Err(DIALOG);
        }
        let (call_id, rest) = text.split_at(text.find(';').ok_or(DIALOG)?);
        let call_id = call_id.trim().to_owned();
        let params = params(rest)?;
        let tag = |name: &str| find(&params, name).filter(|tag| !tag.is_empty()).map(str::to_owned).ok_or(DIALOG);
        let (to_tag, from_tag) = (tag("to-tag")?, tag("from-tag")?);
        if call_id.is_empty() || call_id.contains(char::is_whitespace) {
            return Err(DIALOG);
        }
        Ok(Self { call_id, to_tag, from_tag, is_early_only: find(&params, "early-only").is_some() })
    }

    /// What an INVITE is to replace, if anything.
    ///
    /// # Errors
    /// As [`Replaces::parse`]; two of them are none (RFC 3891 section 3).
    pub fn of_invite(request: &Message) -> Result<Option<Self>, Malformed> {
        let mut values = request.all("replaces");
        let first = values.next().map(Self::parse).transpose()?;
        if values.next().is_some() { Err(Malformed("more than one Replaces")) } else { Ok(first) }
    }

    /// What the call that a REFER asks for is to replace, if anything.
    ///
    /// # Errors
    /// As [`Replaces::parse`].
    pub fn of_refer(refer_to: &NameAddr) -> Result<Option<Self>, Malformed> {
        let Some(SipUri { headers: Some(headers), .. }) = refer_to.sip() else { return Ok(None) };
        let named = headers.split('&').filter_map(|header| header.split_once('='));
        let mut named = named.filter(|(name, _)| name.eq_ignore_ascii_case("replaces"));
        named.next().map(|(_, value)| Self::parse(&unescape(value)?)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialog(call_id: &str, to_tag: &str, from_tag: &str, is_early_only: bool) -> Replaces {
        Replaces { call_id: call_id.to_owned(), to_tag: to_tag.to_owned(), from_tag: from_tag.to_owned(), is_early_only }
    }

    #[test]
    fn a_dialog_is_read_from_an_invite_and_from_an_address_to_refer_to() {
        let mut invite = Message::request("INVITE", "sip:bob@example");
        assert_eq!(Replaces::of_invite(&invite), Ok(None));
        // RFC 3891 section 6.1.
        invite.add("replaces", "425928@phone.example.org;from-tag=8983;to-tag=7743;early-only");
        assert_eq!(Replaces::of_invite(&invite), Ok(Some(dialog("425928@phone.example.org", "7743", "8983", true))));
        invite.add("replaces", "another;to-tag=1;from-tag=2");
        assert!(Replaces::of_invite(&invite).is_err());
        // RFC 5589 section 7.1.
        let refer_to = "<sips:4889445d8kjtk3@atlanta.example.com;gr=723jd2d?Replaces=090459243588173445%3Bto-tag%3D9m2n3wq%3Bfrom-tag%3D763231>";
        let refer_to = NameAddr::parse(refer_to).expect("an address");
        assert_eq!(Replaces::of_refer(&refer_to), Ok(Some(dialog("090459243588173445", "9m2n3wq", "763231", false))));
        let among = NameAddr::parse("<sip:a@b?Require=replaces&replaces=x%40y%3Bfrom-tag%3D1%3Bto-tag%3D2>").expect("an address");
        assert_eq!(Replaces::of_refer(&among), Ok(Some(dialog("x@y", "2", "1", false))));
        let plain = NameAddr::parse("<sip:a@b>").expect("an address");
        assert_eq!(Replaces::of_refer(&plain), Ok(None));
    }

    #[test]
    fn what_names_no_dialog_is_refused() {
        let long = format!("{};to-tag=1;from-tag=2", "x".repeat(BYTES_MAX));
        for text in [
            "",
            "x",
            ";to-tag=1;from-tag=2",
            "x;to-tag=1",
            "x;from-tag=1",
            "x;to-tag=;from-tag=2",
            "a b;to-tag=1;from-tag=2",
            &long,
        ] {
            Replaces::parse(text).expect_err(text);
        }
        let broken = NameAddr::parse("<sip:a@b?Replaces=x%3Bto-tag>").expect("an address");
        assert!(Replaces::of_refer(&broken).is_err());
    }
}
