//! Who somebody is in another system, in one spelling.

use std::fmt;
use std::str::FromStr;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use unicode_normalization::UnicodeNormalization;

/// Longest address in any system, in bytes, in its normal form.
pub const LINKED_ADDRESS_BYTES_MAX: usize = 256;

/// Longest name of a system on the wire.
const SYSTEM_BYTES_MAX: usize = 16;

/// Fewest and most digits of a telephone number with its country code (E.164).
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// Longest subject of an OpenID Connect provider (Core 1.0 section 2).
const SUBJECT_BYTES_MAX: usize = 255;

/// A kind of system. Written as the scheme of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum System {
    /// XMPP: a bare JID (RFC 7622).
    Xmpp,
    /// An e-mail address.
    Mail,
    /// A telephone number with its country code (E.164).
    Phone,
    /// OpenID Connect: issuer and subject.
    Oidc,
    /// A SIP address of record (RFC 3261).
    Sip,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Xmpp, Self::Mail, Self::Phone, Self::Oidc, Self::Sip];

    /// The scheme, without its colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xmpp => "xmpp",
            Self::Mail => "mailto",
            Self::Phone => "tel",
            Self::Oidc => "oidc",
            Self::Sip => "sip",
        }
    }

    /// The system of this scheme, in whatever case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.as_str().eq_ignore_ascii_case(text))
    }

    fn normalise(self, address: &str) -> Option<String> {
        match self {
            Self::Xmpp => {
                let (local, domain) = address.split_once('@')?;
                Some(format!("{}@{}", jid_local(local)?, host(domain)?))
            }
            // Case of a local part counts by RFC 5321 section 2.4, and on no server that people use.
            Self::Mail => {
                let (local, domain) = address.rsplit_once('@')?;
                Some(format!("{}@{}", mail_local(local)?, host(domain)?))
            }
            Self::Phone => phone(address),
            Self::Oidc => oidc(address),
            Self::Sip => {
                let (user, host) = address.split_once('@')?;
                Some(format!("{}@{}", sip_user(user)?, host_port(host)?))
            }
        }
    }
}

/// The local part of a JID: width and case mapped, NFC, without what RFC 7622 section 3.3.1 forbids.
fn jid_local(text: &str) -> Option<String> {
    let narrow: String = text.chars().flat_map(narrowed).collect();
    let mut local: String = narrow.nfc().collect();
    // Lower case can undo the composition and the other way round.
    for _ in 0..2 {
        local = local.to_lowercase().nfc().collect();
    }
    let is_allowed = |c: char| !c.is_whitespace() && !c.is_control() && !"\"&'/:<>@".contains(c) && !is_invisible(c);
    (!local.is_empty() && local.chars().all(is_allowed)).then_some(local)
}

/// Full-width and half-width forms as what they stand for (RFC 8265 section 3.3).
fn narrowed(c: char) -> Vec<char> {
    if ('\u{ff00}'..='\u{ffef}').contains(&c) { c.to_string().nfkc().collect() } else { vec![c] }
}

/// Characters that don't show, or turn the direction of others: two addresses that look the same would be two.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

fn mail_local(text: &str) -> Option<String> {
    // A quoted local part is nobody's address in practice.
    let is_atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+/=?^_`{|}~.-".contains(c);
    let has_dots = text.starts_with('.') || text.ends_with('.') || text.contains("..");
    (!text.is_empty() && !has_dots && text.chars().all(is_atom)).then(|| text.to_ascii_lowercase())
}

fn sip_user(text: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.!~*'()&=+$,/".contains(c);
    (!text.is_empty() && text.chars().all(is_plain)).then(|| text.to_owned())
}

/// A host: labels of letters, digits and `-`, in lower case and NFC; or an address in its usual writing.
fn host(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if let Some(inside) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return inside.parse::<std::net::Ipv6Addr>().ok().map(|address| format!("[{address}]"));
    }
    let composed: String = text.to_lowercase().nfc().collect();
    let lower: String = composed.to_lowercase().nfc().collect();
    let is_label = |label: &str| {
        let is_edge = label.starts_with('-') || label.ends_with('-');
        let has_marks_only = label.chars().next().is_some_and(|c| !c.is_alphanumeric());
        !label.is_empty()
            && !is_edge
            && !has_marks_only
            && label.chars().all(|c| c == '-' || c.is_alphanumeric() || unicode_normalization::char::is_combining_mark(c))
    };
    lower.split('.').all(is_label).then_some(lower)
}

fn host_port(text: &str) -> Option<String> {
    let is_bare = text.ends_with(']') || !text.contains(':');
    if is_bare {
        return host(text);
    }
    let (name, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|&port| port != 0)?;
    Some(format!("{}:{port}", host(name)?))
}

fn phone(text: &str) -> Option<String> {
    let digits: String = text.strip_prefix('+')?.chars().filter(|c| !" -.()/\u{a0}".contains(*c)).collect();
    let is_number =
        digits.chars().all(|c| c.is_ascii_digit()) && !digits.starts_with('0') && PHONE_DIGITS.contains(&digits.len());
    is_number.then(|| format!("+{digits}"))
}

/// `https://issuer#subject`: an issuer has neither query nor fragment (Discovery 1.0 section 3), and both are compared as they are.
fn oidc(text: &str) -> Option<String> {
    let (issuer, subject) = text.split_once('#')?;
    let rest = issuer.strip_prefix("https://")?;
    let is_issuer =
        !rest.is_empty() && !rest.starts_with('/') && rest.chars().all(|c| c.is_ascii_graphic() && !"?#@\"<>\\".contains(c));
    let is_subject = (1..=SUBJECT_BYTES_MAX).contains(&subject.len()) && subject.chars().all(|c| c.is_ascii_graphic());
    (is_issuer && is_subject).then(|| text.to_owned())
}

/// Why a text is no identity in another system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkedIdError {
    /// No scheme that is known.
    #[error("expected SYSTEM:ADDRESS, with xmpp, mailto, tel, oidc or sip as the system")]
    System,
    /// Not an address of that system.
    #[error("that is no address of the system {}", .0.as_str())]
    Address(System),
    /// Longer than [`LINKED_ADDRESS_BYTES_MAX`].
    #[error("an address has at most {LINKED_ADDRESS_BYTES_MAX} bytes")]
    TooLong,
}

/// Who somebody is in another system: equal ones have equal bytes.
///
/// On the wire `system string`, `address string`; an address that isn't in its normal form, and a system that isn't known, are refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkedId {
    system: System,
    address: String,
}

impl LinkedId {
    /// Normalises and checks an address.
    ///
    /// # Errors
    /// [`LinkedIdError`].
    pub fn new(system: System, address: &str) -> Result<Self, LinkedIdError> {
        // Four times: what normalising may shrink.
        if address.len() > 4 * LINKED_ADDRESS_BYTES_MAX {
            return Err(LinkedIdError::TooLong);
        }
        let address = system.normalise(address).ok_or(LinkedIdError::Address(system))?;
        if address.len() > LINKED_ADDRESS_BYTES_MAX {
            return Err(LinkedIdError::TooLong);
        }
        Ok(Self { system, address })
    }

    /// Which system it is in.
    #[must_use]
    pub const fn system(&self) -> System {
        self.system
    }

    /// The address there, without its scheme.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether a server may take it for a telephone number and pass on what is sent there at somebody's cost: a number, or a SIP address whose user begins with `+`, or has 7 digits or more and no
    /// letter.
    #[must_use]
    pub fn is_dialled(&self) -> bool {
        let user = self.sip_user();
        let digits = user.bytes().filter(u8::is_ascii_digit).count();
        self.system == System::Phone || user.starts_with('+') || (digits >= *PHONE_DIGITS.start() && !has_letter(user))
    }

    /// The number that something [dialled](Self::is_dialled) stands for, as far as that can be told: `00` before it is a plus, and without either it begins with its country.
    #[must_use]
    pub fn dialled_number(&self) -> Option<Self> {
        if self.system == System::Phone {
            return Some(self.clone());
        }
        let user = self.sip_user();
        if !self.is_dialled() || has_letter(user) {
            return None;
        }
        let digits: String = user.chars().filter(char::is_ascii_digit).collect();
        let international = if user.starts_with('+') { &digits } else { digits.strip_prefix("00").unwrap_or(&digits) };
        Self::new(System::Phone, &format!("+{international}")).ok()
    }

    /// Whether there are few enough of its kind to try them all: numbers, and SIP addresses whose user is one, however short.
    #[must_use]
    pub fn is_guessable(&self) -> bool {
        let user = self.sip_user();
        self.system == System::Phone || (!user.is_empty() && !has_letter(user))
    }

    /// Empty in other systems.
    fn sip_user(&self) -> &str {
        let user = self.address.split_once('@').map_or("", |(user, _)| user);
        if self.system == System::Sip { user } else { "" }
    }
}

fn has_letter(text: &str) -> bool {
    text.chars().any(char::is_alphabetic)
}

impl fmt::Display for LinkedId {
    /// `xmpp:bob@example.org`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.system.as_str(), self.address)
    }
}

impl FromStr for LinkedId {
    type Err = LinkedIdError;

    fn from_str(text: &str) -> Result<Self, LinkedIdError> {
        let (system, address) = text.split_once(':').ok_or(LinkedIdError::System)?;
        Self::new(System::parse(system).ok_or(LinkedIdError::System)?, address)
    }
}

impl Encode for LinkedId {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.system.as_str().encode(encoder)?;
        self.address.encode(encoder)
    }
}

impl<Context> Decode<Context> for LinkedId {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let refuse = |reason: &str| DecodeError::OtherString(reason.to_owned());
        let system = String::decode(decoder)?;
        let address = String::decode(decoder)?;
        if system.len() > SYSTEM_BYTES_MAX || address.len() > LINKED_ADDRESS_BYTES_MAX {
            return Err(refuse("an identity in a linked system is too long"));
        }
        let known = System::ALL.into_iter().find(|known| known.as_str() == system);
        let known = known.ok_or_else(|| refuse("a linked system that isn't known"))?;
        match Self::new(known, &address) {
            Ok(id) if id.address == address => Ok(id),
            _ => Err(refuse("an address in a linked system isn't in its normal form")),
        }
    }
}
bincode::impl_borrow_decode!(LinkedId);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn one_identity_has_one_spelling() {
        for (written, normal) in [
            ("xmpp:Bob@Example.ORG.", "xmpp:bob@example.org"),
            ("XMPP:ｂｏｂ@example.org", "xmpp:bob@example.org"),
            ("xmpp:Ju\u{308}rgen@example.org", "xmpp:jürgen@example.org"),
            ("xmpp:bob@Bücher.example", "xmpp:bob@bücher.example"),
            ("xmpp:bob@[2001:DB8:0::1]", "xmpp:bob@[2001:db8::1]"),
            ("mailto:Bob.Smith+x@Example.org", "mailto:bob.smith+x@example.org"),
            ("tel:+49 (30) 123-456", "tel:+4930123456"),
            ("sip:Bob@Example.org:5070", "sip:Bob@example.org:5070"),
            ("oidc:https://id.example#Sub-1", "oidc:https://id.example#Sub-1"),
        ] {
            let id: LinkedId = written.parse().unwrap_or_else(|error| panic!("{written}: {error}"));
            assert_eq!(id.to_string(), normal);
            assert_eq!(normal.parse::<LinkedId>().as_ref(), Ok(&id), "a normal form is its own");
            assert_eq!(wire::decode::<LinkedId>(&wire::encode(&id), 300).as_ref(), Ok(&id));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "bob@example.org",
            "aim:bob@example.org",
            "xmpp:example.org",
            "xmpp:@example.org",
            "xmpp:bob@",
            "xmpp:bob@example.org/phone",
            "xmpp:bob@example..org",
            "xmpp:bob@-example.org",
            "xmpp:bo b@example.org",
            "xmpp:bo\u{200b}b@example.org",
            "xmpp:bob@exam\u{202e}ple.org",
            "mailto:bob",
            "mailto:.bob@example.org",
            "mailto:\"bob\"@example.org",
            "tel:0301234567",
            "tel:+0301234567",
            "tel:+4930",
            "tel:+4930123456x",
            "sip:bob@example.org;transport=tcp",
            "sip:bob@example.org:0",
            "oidc:http://id.example#1",
            "oidc:https://id.example?x#1",
            "oidc:https://id.example",
            "oidc:https://id.example#",
        ] {
            assert!(text.parse::<LinkedId>().is_err(), "{text:?}");
        }
        let long = format!("xmpp:{}@example.org", "b".repeat(LINKED_ADDRESS_BYTES_MAX));
        assert_eq!(long.parse::<LinkedId>(), Err(LinkedIdError::TooLong));
    }

    #[test]
    fn what_a_server_may_dial_is_told_from_names() {
        for (text, number, is_dialled, is_guessable) in [
            ("tel:+4930123456", Some("tel:+4930123456"), true, true),
            ("sip:+4930123456@pbx.example", Some("tel:+4930123456"), true, true),
            ("sip:+49-(30).123456@pbx.example", Some("tel:+4930123456"), true, true),
            ("sip:004930123456@pbx.example", Some("tel:+4930123456"), true, true),
            ("sip:4930123456@pbx.example", Some("tel:+4930123456"), true, true),
            ("sip:*31*4930123456@pbx.example", Some("tel:+314930123456"), true, true),
            ("sip:030123456@pbx.example", None, true, true),
            ("sip:+bob@pbx.example", None, true, false),
            ("sip:1234567890123456@pbx.example", None, true, true),
            ("sip:123456@pbx.example", None, false, true),
            ("sip:bob1234567@pbx.example", None, false, false),
            ("mailto:4930123456@mail.example", None, false, false),
            ("xmpp:4930123456@there.example", None, false, false),
        ] {
            let id: LinkedId = text.parse().expect("an address");
            assert_eq!(id.dialled_number().map(|number| number.to_string()).as_deref(), number, "{text}");
            assert_eq!((id.is_dialled(), id.is_guessable()), (is_dialled, is_guessable), "{text}");
        }
    }

    #[test]
    fn another_spelling_is_refused_on_the_wire() {
        for (system, address) in
            [("xmpp", "Bob@example.org"), ("XMPP", "bob@example.org"), ("aim", "bob"), ("tel", "+49 30123456")]
        {
            let bytes = wire::encode(&(system.to_owned(), address.to_owned()));
            assert!(wire::decode::<LinkedId>(&bytes, 300).is_err(), "{system}:{address}");
        }
    }
}
