//! USSD strings: 160 bytes, 182 characters of GSM's alphabet (3GPP TS 24.090, 23.038 section 6.1.2.3).
//!
//! `SIR || reference || total || number || part of the signed request in base64url`, the numbers as two capital hexadecimal digits each. Data coding scheme 0x0f.

use super::segments::{Segment, cut};
use super::{EncapsulationError, gsm7};

const MARK: &str = "SIR";

/// What a string holds, packed.
const BYTES_MAX: usize = 160;
const CHARACTERS_MAX: usize = 182;

/// 173 characters are left: a multiple of four, so that each part is base64url by itself.
const PART_BYTES: usize = (CHARACTERS_MAX - 9) / 4 * 3;

pub(super) fn encode(signed: &[u8], reference: u8) -> Result<Vec<Vec<u8>>, EncapsulationError> {
    let segments = cut(signed, PART_BYTES, reference)?;
    segments.iter().map(string).collect()
}

fn string(segment: &Segment<'_>) -> Result<Vec<u8>, EncapsulationError> {
    let Segment { reference, total, number, bytes } = segment;
    let part = data_encoding::BASE64URL_NOPAD.encode(bytes);
    gsm7::pack(&format!("{MARK}{reference:02X}{total:02X}{number:02X}{part}"))
}

pub(super) fn decode(string: &[u8]) -> Result<Segment<'static>, EncapsulationError> {
    if string.len() > BYTES_MAX {
        return Err(EncapsulationError::TooLarge { bytes: string.len(), limit: BYTES_MAX });
    }
    let text = gsm7::unpack(string)?;
    let rest = text.strip_prefix(MARK).ok_or(EncapsulationError::Form("not a session request"))?;
    let (numbers, part) = rest.split_at_checked(6).ok_or(EncapsulationError::Form("it ends early"))?;
    let numbers = data_encoding::HEXUPPER.decode(numbers.as_bytes()).map_err(|_| EncapsulationError::Form("its numbers"))?;
    let [reference, total, number] = numbers[..] else { return Err(EncapsulationError::Form("its numbers")) };
    let bytes = data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| EncapsulationError::Form("not base64url"))?;
    Ok(Segment { reference, total, number, bytes: bytes.into() })
}
