//! A link code with where to use it: a text to paste, or a QR code.

use bincode::{Decode, Encode};
use data_encoding::BASE64URL_NOPAD;

use super::code::LinkCode;
use crate::authority::LABEL_BYTES_MAX;
use crate::directory::Helper;
use crate::key::{AuthorityKey, DeviceKey, hash};
use crate::node::Address;
use crate::wire::{DecodeError, Extensions, decode, encode};

/// What every link starts with; the number is the version of the layout.
pub const DEVICE_LINK_PREFIX: &str = "halloo:link/1/";

/// Longest link: one QR code that a terminal can show.
pub const DEVICE_LINK_CHARS_MAX: usize = 1_200;

/// Most addresses in a link; of more, the last are left out.
pub const LINK_ADDRESSES_MAX: usize = 8;

/// Most relays in a link; of more, the last are left out.
pub const LINK_RELAYS_MAX: usize = 2;

const CHECKSUM_BYTES: usize = 4;

/// Why a text isn't a device link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceLinkError {
    /// It starts with something else.
    #[error("a device link starts with `{DEVICE_LINK_PREFIX}`")]
    Prefix,
    /// More than [`DEVICE_LINK_CHARS_MAX`] characters.
    #[error("a device link has at most {DEVICE_LINK_CHARS_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// Too short, a wrong character, or its checksum doesn't fit.
    #[error("the device link is damaged: a character is wrong or missing; copy it again")]
    Damaged,
    /// The checksum fits, the content doesn't: made by something newer or broken.
    #[error("the device link can't be read by this version: {0}")]
    Content(DecodeError),
}

/// Everything a new device needs to ask for being linked. Treat it like the code in it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceLink {
    /// The device that has the identity key: no other is believed.
    pub holder: DeviceKey,
    /// Where it listens; at most [`LINK_ADDRESSES_MAX`].
    pub addresses: Vec<Address>,
    /// Nodes that relay to it; at most [`LINK_RELAYS_MAX`].
    pub relays: Vec<Helper>,
    /// The authority that named the user; `None` for a user known by key alone.
    pub root: Option<AuthorityKey>,
    /// What the holder calls the authority; at most 64 bytes, may be empty.
    pub label: String,
    /// The secret.
    pub code: LinkCode,
    /// Room to grow.
    pub extensions: Extensions,
}

impl DeviceLink {
    /// Writes the link. Addresses are left out from the end if the text would be too long.
    ///
    /// # Errors
    /// [`DeviceLinkError::Content`] or [`DeviceLinkError::TooLong`] if a part is out of range.
    pub fn to_text(&self) -> Result<String, DeviceLinkError> {
        let mut link = self.clone();
        link.addresses.truncate(LINK_ADDRESSES_MAX);
        link.relays.truncate(LINK_RELAYS_MAX);
        link.check().map_err(DeviceLinkError::Content)?;
        loop {
            let text = link.write();
            if text.len() <= DEVICE_LINK_CHARS_MAX {
                return Ok(text);
            }
            if link.addresses.pop().is_none() {
                return Err(DeviceLinkError::TooLong(text.len()));
            }
        }
    }

    fn write(&self) -> String {
        let mut bytes = encode(self);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        format!("{DEVICE_LINK_PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads a link. White space, as mail programs add it, is ignored.
    ///
    /// # Errors
    /// [`DeviceLinkError`], worded for the person who pasted it.
    pub fn parse(text: &str) -> Result<Self, DeviceLinkError> {
        if text.len() > 4 * DEVICE_LINK_CHARS_MAX {
            return Err(DeviceLinkError::TooLong(text.len()));
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let payload = text.strip_prefix(DEVICE_LINK_PREFIX).ok_or(DeviceLinkError::Prefix)?;
        if text.len() > DEVICE_LINK_CHARS_MAX {
            return Err(DeviceLinkError::TooLong(text.len()));
        }
        let bytes = BASE64URL_NOPAD.decode(payload.as_bytes()).map_err(|_| DeviceLinkError::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(DeviceLinkError::Damaged)?;
        if checksum(body) != *sum {
            return Err(DeviceLinkError::Damaged);
        }
        let link: Self = decode(body, DEVICE_LINK_CHARS_MAX).map_err(DeviceLinkError::Content)?;
        link.check().map_err(DeviceLinkError::Content)?;
        Ok(link)
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.label.len() > LABEL_BYTES_MAX {
            return Err(DecodeError::invalid("label", format!("{} bytes, at most {LABEL_BYTES_MAX}", self.label.len())));
        }
        if self.addresses.len() > LINK_ADDRESSES_MAX {
            return Err(DecodeError::invalid("addresses", format!("{}, at most {LINK_ADDRESSES_MAX}", self.addresses.len())));
        }
        if self.relays.len() > LINK_RELAYS_MAX {
            return Err(DecodeError::invalid("relays", format!("{}, at most {LINK_RELAYS_MAX}", self.relays.len())));
        }
        self.relays.iter().try_for_each(Helper::check)?;
        self.addresses.iter().try_for_each(Address::check)
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = hash("halloo device link", &[body]);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::PublicKey;
    use crate::node::Transport;

    fn link() -> DeviceLink {
        DeviceLink {
            holder: DeviceKey(PublicKey([1; 32])),
            addresses: vec![Address::V4 { ip: [10, 0, 0, 1], port: 4_001, transport: Transport::Quic }],
            relays: vec![Helper { device: DeviceKey(PublicKey([4; 32])), addresses: Vec::new() }],
            root: Some(AuthorityKey(PublicKey([2; 32]))),
            label: "example".into(),
            code: LinkCode::from_bytes([3; 5]),
            extensions: Extensions::none(),
        }
    }

    #[test]
    fn links_round_trip_and_typos_are_caught() {
        let text = link().to_text().expect("in range");
        assert_eq!(DeviceLink::parse(&format!(" {}\n {}\n", &text[..30], &text[30..])), Ok(link()));
        for position in 0..text.len() {
            for replacement in ['A', 'b', '7', '_', '!', 'é'] {
                let typo: String = text.char_indices().map(|(at, c)| if at == position { replacement } else { c }).collect();
                assert!(typo == text || DeviceLink::parse(&typo).is_err(), "{position} {replacement}");
            }
        }
        assert_eq!(DeviceLink::parse("halloo:contact1AAAA"), Err(DeviceLinkError::Prefix));
        assert!(matches!(DeviceLink::parse(&"a".repeat(10_000)), Err(DeviceLinkError::TooLong(10_000))));
    }

    #[test]
    fn a_link_with_long_addresses_is_cut_to_one_code() {
        let long = DeviceLink { addresses: vec![Address::Other(vec![7; 160]); 12], ..link() };
        let text = long.to_text().expect("cut");
        let read = DeviceLink::parse(&text).expect("own text");
        assert!(!read.addresses.is_empty() && read.addresses.len() < LINK_ADDRESSES_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = DeviceLink::parse(&text);
            let mut with_sum = bytes.clone();
            with_sum.extend_from_slice(&checksum(&bytes));
            let _ = DeviceLink::parse(&format!("{DEVICE_LINK_PREFIX}{}", BASE64URL_NOPAD.encode(&with_sum)));
        }
    }
}
