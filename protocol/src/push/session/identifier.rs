//! Device identifiers: an open list of kinds. Those that are known have a form that is checked and a normal form to compare by; others are kept as they are.

use crate::push::{Identifier, NAME_BYTES_MAX};

/// The kinds whose form is known here.
pub const IDENTIFIER_KINDS: [&str; 9] = ["gruu", "uuid", "imei", "esn", "mac", "uri", "urn", "rfid", "fingerprint"];

/// Why something isn't a device identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifierError {
    /// Not `KIND:VALUE`.
    #[error("a device identifier is written KIND:VALUE")]
    Form,
    /// The kind isn't a word.
    #[error("a kind of identifier is a word of lower-case letters, digits and dashes, at most {NAME_BYTES_MAX} bytes")]
    Kind,
    /// The value is empty, too long, or has spaces or controls.
    #[error("an identifier has 1 to {NAME_BYTES_MAX} bytes, without spaces")]
    Value,
    /// The value hasn't the form that its kind has.
    #[error("not a value of kind {kind}: expected {expected}")]
    Known {
        /// Which kind.
        kind: &'static str,
        /// What its values look like.
        expected: &'static str,
    },
    /// The last digit of the IMEI doesn't fit the others.
    #[error("the IMEI's check digit is wrong")]
    CheckDigit,
}

impl Identifier {
    /// Reads `KIND:VALUE`, such as `imei:490154203237518`, into its normal form.
    ///
    /// # Errors
    /// [`IdentifierError`].
    pub fn parse(text: &str) -> Result<Self, IdentifierError> {
        let (kind, value) = text.split_once(':').ok_or(IdentifierError::Form)?;
        // `urn:uuid:..` is a value with its kind in front already; so is a SIP address.
        let (kind, value) = match kind.to_ascii_lowercase().as_str() {
            "urn" if value.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("uuid:")) => ("uuid", value),
            "urn" if !value.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("urn:")) => ("urn", text),
            _ => (kind, value),
        };
        Self { kind: kind.to_owned(), value: value.to_owned() }.normal()
    }

    /// `KIND:VALUE`.
    #[must_use]
    pub fn text(&self) -> String {
        match self.kind.as_str() {
            "urn" => self.value.clone(),
            kind => format!("{kind}:{}", self.value),
        }
    }

    /// The form to compare by; itself if it is in it. Values of kinds that aren't known are compared as they are.
    ///
    /// # Errors
    /// [`IdentifierError`].
    pub fn normal(&self) -> Result<Self, IdentifierError> {
        let kind = self.kind.to_ascii_lowercase();
        let is_word = |kind: &str| kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if kind.is_empty() || kind.len() > NAME_BYTES_MAX || !is_word(&kind) {
            return Err(IdentifierError::Kind);
        }
        let is_plain = |text: &str| !text.chars().any(|c| c.is_whitespace() || c.is_control());
        if self.value.is_empty() || self.value.len() > NAME_BYTES_MAX || !is_plain(&self.value) {
            return Err(IdentifierError::Value);
        }
        let value = match kind.as_str() {
            "gruu" => gruu(&self.value)?,
            "uuid" => uuid(&self.value)?,
            "imei" => imei(&self.value)?,
            "esn" => hex(&self.value, 8..=8).ok_or(IdentifierError::Known { kind: "esn", expected: "8 hexadecimal digits" })?,
            "mac" => mac(&self.value)?,
            "uri" => uri(&self.value)?,
            "urn" => urn(&self.value)?,
            "rfid" => hex(&self.value, 8..=124)
                .ok_or(IdentifierError::Known { kind: "rfid", expected: "an EPC of 8 to 124 hexadecimal digits" })?,
            "fingerprint" => fingerprint(&self.value)?,
            _ => self.value.clone(),
        };
        if value.len() > NAME_BYTES_MAX {
            return Err(IdentifierError::Value);
        }
        Ok(Self { kind, value })
    }
}

/// Hexadecimal digits, in pairs or groups parted by `:` or `-`; in capitals, unparted.
fn hex(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<String> {
    let bare: String = text.chars().filter(|c| !matches!(c, ':' | '-')).collect();
    let is_hex =
        digits.contains(&bare.len()) && bare.len().is_multiple_of(2) && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| bare.to_ascii_uppercase())
}

/// A SIP address with a `gr` parameter (RFC 5627). Scheme, host and parameters' names don't depend on case; the user part and the value of `gr` do.
fn gruu(text: &str) -> Result<String, IdentifierError> {
    let wrong = IdentifierError::Known { kind: "gruu", expected: "a SIP address with a gr parameter" };
    let (scheme, rest) = text.split_once(':').ok_or(wrong.clone())?;
    let scheme = scheme.to_ascii_lowercase();
    let mut parts = rest.split(';');
    let address = parts.next().unwrap_or_default();
    let (user, host) = address.split_once('@').ok_or(wrong.clone())?;
    let has_gr = parts.clone().any(|part| part.eq_ignore_ascii_case("gr") || part.to_ascii_lowercase().starts_with("gr="));
    if !matches!(scheme.as_str(), "sip" | "sips") || user.is_empty() || host.is_empty() || !has_gr {
        return Err(wrong);
    }
    let mut normal = format!("{scheme}:{user}@{}", host.to_ascii_lowercase());
    for part in parts {
        normal.push(';');
        match part.split_once('=') {
            Some((name, value)) => {
                normal.push_str(&name.to_ascii_lowercase());
                normal.push('=');
                normal.push_str(value);
            }
            None => normal.push_str(&part.to_ascii_lowercase()),
        }
    }
    Ok(normal)
}

/// RFC 4122 section 3: lower case, as `urn:uuid:`.
fn uuid(text: &str) -> Result<String, IdentifierError> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_prefix("urn:uuid:").or_else(|| lower.strip_prefix("uuid:")).unwrap_or(&lower);
    let groups: Vec<&str> = bare.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let is_hex = groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if lengths != [8, 4, 4, 4, 12] || !is_hex {
        return Err(IdentifierError::Known { kind: "uuid", expected: "a UUID" });
    }
    Ok(format!("urn:uuid:{bare}"))
}

/// 3GPP TS 23.003 section 6.2: 14 digits and a Luhn check digit; 16 digits with a software version instead of it. Compared by the 14.
fn imei(text: &str) -> Result<String, IdentifierError> {
    let bare: String = text.chars().filter(|c| *c != '-').collect();
    if !(14..=16).contains(&bare.len()) || !bare.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(IdentifierError::Known { kind: "imei", expected: "14 to 16 digits" });
    }
    let (body, rest) = bare.split_at(14);
    if rest.len() == 1 && rest != luhn_digit(body).to_string() {
        return Err(IdentifierError::CheckDigit);
    }
    Ok(format!("{body}{}", luhn_digit(body)))
}

/// The digit that makes the whole pass Luhn's test.
fn luhn_digit(digits: &str) -> u32 {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, byte)| {
            let digit = u32::from(byte - b'0');
            match place % 2 {
                0 => (digit * 2) / 10 + (digit * 2) % 10,
                _ => digit,
            }
        })
        .sum();
    (10 - sum % 10) % 10
}

/// EUI-48 or EUI-64, lower case with colons.
fn mac(text: &str) -> Result<String, IdentifierError> {
    let wrong = IdentifierError::Known { kind: "mac", expected: "6 or 8 bytes in hexadecimal" };
    let bare = hex(&text.replace('.', ""), 12..=16).filter(|bare| bare.len() != 14).ok_or(wrong)?.to_ascii_lowercase();
    let pairs: Vec<&str> = (0..bare.len()).step_by(2).filter_map(|at| bare.get(at..at + 2)).collect();
    Ok(pairs.join(":"))
}

/// RFC 3986 section 6.2.2.1: the scheme in lower case, and the host where there is one.
fn uri(text: &str) -> Result<String, IdentifierError> {
    let wrong = IdentifierError::Known { kind: "uri", expected: "a URI" };
    let (scheme, rest) = text.split_once(':').ok_or(wrong.clone())?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if !is_scheme || rest.is_empty() {
        return Err(wrong);
    }
    let scheme = scheme.to_ascii_lowercase();
    let Some(rest) = rest.strip_prefix("//") else { return Ok(format!("{scheme}:{rest}")) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    Ok(format!("{scheme}://{user}{}{path}", host.to_ascii_lowercase()))
}

/// RFC 8141 section 3.1: `urn` and the namespace in lower case.
fn urn(text: &str) -> Result<String, IdentifierError> {
    let wrong = IdentifierError::Known { kind: "urn", expected: "urn:NAMESPACE:NAME" };
    let mut parts = text.splitn(3, ':');
    let (urn, namespace, name) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_namespace = (2..=32).contains(&namespace.len())
        && namespace.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !namespace.starts_with('-')
        && !namespace.ends_with('-');
    if !urn.is_some_and(|urn| urn.eq_ignore_ascii_case("urn")) || !is_namespace || name.is_empty() {
        return Err(wrong);
    }
    Ok(format!("urn:{}:{name}", namespace.to_ascii_lowercase()))
}

/// `HASH DIGEST` as RFC 8122 writes it, without the space: `sha-256:AB:CD:..`; capitals with colons.
fn fingerprint(text: &str) -> Result<String, IdentifierError> {
    let wrong = IdentifierError::Known { kind: "fingerprint", expected: "sha-256:DIGEST or sha-1:DIGEST in hexadecimal" };
    let (name, digest) = text.split_once(':').ok_or(wrong.clone())?;
    let name = name.to_ascii_lowercase();
    let digits = match name.as_str() {
        "sha-1" => 40,
        "sha-256" => 64,
        _ => return Err(wrong),
    };
    // Unparted: 64 digits with colons would be longer than an identifier may be.
    let digest = hex(digest, digits..=digits).ok_or(wrong)?;
    Ok(format!("{name}:{digest}"))
}
