//! User data of short messages (3GPP TS 23.040 section 9.2.3.24): 140 bytes, of which a header addresses the port of WAP push and numbers the segments.
//!
//! `length of header || 05 04 destination port (2) source port (2) || [00 03 reference total number] || part of a WSP push`. The data coding scheme is 8 bits
//! (0xf5 or 0x04), with the user data header indicator set: that is the bearer's part.

use super::EncapsulationError;
use super::segments::{Segment, cut};

/// What a short message holds.
const USER_DATA_BYTES: usize = 140;

/// WAP push without a session (IANA `wap-push`), and the port it comes from (`wap-wsp`).
const PUSH_PORT: u16 = 2948;
const SOURCE_PORT: u16 = 9200;

const PORTS: u8 = 0x05;
const CONCATENATED: u8 = 0x00;
const CONCATENATED_WIDE: u8 = 0x08;

/// Header with ports alone, and with numbers too, each with its length.
const HEAD_BYTES: usize = 7;
const NUMBERED_HEAD_BYTES: usize = 12;

pub(super) fn encode(pdu: &[u8], reference: u8) -> Result<Vec<Vec<u8>>, EncapsulationError> {
    let size = if pdu.len() + HEAD_BYTES <= USER_DATA_BYTES { pdu.len().max(1) } else { USER_DATA_BYTES - NUMBERED_HEAD_BYTES };
    let segments = cut(pdu, size, reference)?;
    Ok(segments.iter().map(user_data).collect())
}

fn user_data(segment: &Segment<'_>) -> Vec<u8> {
    let mut header = vec![PORTS, 4];
    header.extend(PUSH_PORT.to_be_bytes());
    header.extend(SOURCE_PORT.to_be_bytes());
    if segment.total > 1 {
        header.extend([CONCATENATED, 3, segment.reference, segment.total, segment.number]);
    }
    // 6 or 11.
    let mut data = vec![u8::try_from(header.len()).unwrap_or_default()];
    data.extend(header);
    data.extend_from_slice(&segment.bytes);
    data
}

pub(super) fn decode(data: &[u8]) -> Result<Segment<'_>, EncapsulationError> {
    if data.len() > USER_DATA_BYTES {
        return Err(EncapsulationError::TooLarge { bytes: data.len(), limit: USER_DATA_BYTES });
    }
    let short = EncapsulationError::Form("the user data's header ends early");
    let (length, rest) = data.split_first().ok_or(short.clone())?;
    let (mut header, bytes) = rest.split_at_checked(usize::from(*length)).ok_or(short.clone())?;
    let mut is_push = false;
    let mut segment = Segment { reference: 0, total: 1, number: 1, bytes: bytes.into() };
    while let [element, length, left @ ..] = header {
        let (value, left) = left.split_at_checked(usize::from(*length)).ok_or(short.clone())?;
        match (*element, value) {
            (PORTS, [high, low, _, _]) => is_push = u16::from_be_bytes([*high, *low]) == PUSH_PORT,
            (CONCATENATED, [reference, total, number]) => {
                (segment.reference, segment.total, segment.number) = (*reference, *total, *number);
            }
            // Two bytes of reference; one tells apart as many as may wait.
            (CONCATENATED_WIDE, [_, reference, total, number]) => {
                (segment.reference, segment.total, segment.number) = (*reference, *total, *number);
            }
            _ => {}
        }
        header = left;
    }
    if !header.is_empty() || !is_push {
        return Err(EncapsulationError::Form("not for the port of WAP push"));
    }
    Ok(segment)
}
