//! A datagram: `"SIR1" || length (2) || CRC-32 (4) || signed request`, numbers big endian. Small enough for every path of IPv6.

use super::EncapsulationError;

const MAGIC: &[u8; 4] = b"SIR1";

/// Smallest MTU of IPv6 less its header and UDP's (RFC 8200 section 5): 1,280 - 40 - 8.
const BYTES_MAX: usize = 1_232;

const HEAD_BYTES: usize = 10;

pub(super) fn encode(signed: &[u8]) -> Result<Vec<u8>, EncapsulationError> {
    let bytes = HEAD_BYTES + signed.len();
    let too_large = EncapsulationError::TooLarge { bytes, limit: BYTES_MAX };
    let length = u16::try_from(signed.len()).map_err(|_| too_large.clone())?;
    if bytes > BYTES_MAX {
        return Err(too_large);
    }
    Ok([&MAGIC[..], &length.to_be_bytes(), &crc32(signed).to_be_bytes(), signed].concat())
}

pub(super) fn decode(message: &[u8]) -> Result<&[u8], EncapsulationError> {
    if message.len() > BYTES_MAX {
        return Err(EncapsulationError::TooLarge { bytes: message.len(), limit: BYTES_MAX });
    }
    let (head, signed) = message.split_at_checked(HEAD_BYTES).ok_or(EncapsulationError::Form("it ends early"))?;
    if !head.starts_with(MAGIC) {
        return Err(EncapsulationError::Form("not a session request"));
    }
    let length = u16::try_from(signed.len()).unwrap_or_default();
    if head[4..6] != length.to_be_bytes() || head[6..] != crc32(signed).to_be_bytes() {
        return Err(EncapsulationError::Form("length or checksum"));
    }
    Ok(signed)
}

/// CRC-32 of IEEE 802.3, as in RFC 1952 section 8. Bit by bit: a kilobyte at most, a few times a day.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(super::crc32(b""), 0);
    }
}
