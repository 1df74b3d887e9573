//! GSM's alphabet, packed as USSD packs it (3GPP TS 23.038 sections 6.1.2.3 and 6.2.1): seven bits a character, least significant first.
//!
//! Of the alphabet only what has the same code in ASCII, and `_` and `-`, is used: that is base64url and more.

use super::EncapsulationError;

/// Longest packed string.
const BYTES_MAX: usize = 160;

const CARRIAGE_RETURN: u8 = 0x0d;

/// `_` is where ASCII has a control.
const UNDERSCORE: u8 = 0x11;

/// Packs text.
///
/// # Errors
/// [`EncapsulationError::Form`] for a character that isn't among those used here, [`EncapsulationError::TooLarge`] beyond 160 bytes.
pub fn pack(text: &str) -> Result<Vec<u8>, EncapsulationError> {
    let mut codes = Vec::with_capacity(text.len() + 1);
    for character in text.bytes() {
        codes.push(match character {
            b'_' => UNDERSCORE,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b' '..=b'#' | b'%'..=b'?' => character,
            _ => return Err(EncapsulationError::Form("a character isn't in the alphabet")),
        });
    }
    if codes.len() % 8 == 7 {
        // Seven spare bits would be read as one more character.
        codes.push(CARRIAGE_RETURN);
    }
    let mut bytes = Vec::with_capacity(codes.len() * 7 / 8 + 1);
    let (mut pending, mut bits) = (0u16, 0);
    for code in codes {
        pending |= u16::from(code) << bits;
        bits += 7;
        if bits >= 8 {
            bytes.push(u8::try_from(pending & 0xff).unwrap_or_default());
            pending >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        bytes.push(u8::try_from(pending & 0xff).unwrap_or_default());
    }
    if bytes.len() > BYTES_MAX { Err(EncapsulationError::TooLarge { bytes: bytes.len(), limit: BYTES_MAX }) } else { Ok(bytes) }
}

/// Unpacks text.
///
/// # Errors
/// [`EncapsulationError`], as [`pack`].
pub fn unpack(bytes: &[u8]) -> Result<String, EncapsulationError> {
    if bytes.len() > BYTES_MAX {
        return Err(EncapsulationError::TooLarge { bytes: bytes.len(), limit: BYTES_MAX });
    }
    let mut codes = Vec::with_capacity(bytes.len() * 8 / 7);
    let (mut pending, mut bits) = (0u16, 0);
    for byte in bytes {
        pending |= u16::from(*byte) << bits;
        bits += 8;
        while bits >= 7 {
            codes.push(u8::try_from(pending & 0x7f).unwrap_or_default());
            pending >>= 7;
            bits -= 7;
        }
    }
    if codes.len().is_multiple_of(8) && codes.last() == Some(&CARRIAGE_RETURN) {
        codes.pop();
    }
    let characters = codes.into_iter().map(|code| match code {
        UNDERSCORE => Ok('_'),
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b' '..=b'#' | b'%'..=b'?' => Ok(char::from(code)),
        _ => Err(EncapsulationError::Form("a character isn't in the alphabet")),
    });
    characters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_packed_as_in_the_usual_examples() {
        // The example of many a text on short messages.
        assert_eq!(pack("hellohello"), Ok(vec![0xe8, 0x32, 0x9b, 0xfd, 0x46, 0x97, 0xd9, 0xec, 0x37]));
        // 3GPP TS 23.038 section 6.1.2.3.1: seven spare bits are a carriage return.
        let seven = pack("1234567").expect("in the alphabet");
        assert_eq!((seven.len(), seven[6] >> 1), (7, CARRIAGE_RETURN));
        assert_eq!(unpack(&seven).as_deref(), Ok("1234567"));
    }

    #[test]
    fn every_length_comes_back() {
        for length in 0..=182 {
            let text: String = "Az09_-*#".chars().cycle().take(length).collect();
            let packed = pack(&text).expect("in the alphabet");
            assert_eq!(unpack(&packed), Ok(text), "{length}");
        }
        assert!(pack(&"x".repeat(183)).is_err() && pack("é").is_err() && pack("@").is_err());
    }
}
