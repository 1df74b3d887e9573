//! A connectionless WSP push (WAP-230 section 8.2.4.2): `transaction id || type || length of headers || content type || headers || content`.

use super::sia::{put_uintvar, take, take_text, take_uintvar, text};
use super::{EncapsulationError, SIGNED_HEADER, check_open, header_value, of_header, sia};
use crate::push::session::{SIA_APPLICATION, SessionInitiation};
use crate::wire::Signed;

/// PDU type of a push without confirmation.
const PUSH: u8 = 0x06;

/// `application/vnd.wap.sia` among the assigned content types, as a short integer.
const CONTENT_TYPE: u8 = 0x80 | 0x34;

/// `X-Wap-Application-Id` among the assigned header names, as a short integer.
const APPLICATION_ID: u8 = 0x80 | 0x2f;

/// Most headers that are read.
const HEADERS_MAX: usize = 32;

/// Longest PDU that is read.
const BYTES_MAX: usize = 10 * 1024;

pub(super) fn encode(request: &Signed<SessionInitiation>) -> Vec<u8> {
    let mut headers = vec![CONTENT_TYPE, APPLICATION_ID];
    headers.extend(sia::application_id(SIA_APPLICATION));
    headers.extend(text(SIGNED_HEADER));
    headers.extend(text(&header_value(request)));
    // A push has no answer to pair it with: the number is the sender's own.
    let mut pdu = vec![request.unverified().nonce.0[1], PUSH];
    put_uintvar(&mut pdu, headers.len());
    pdu.extend(headers);
    pdu.extend(sia::encode(request.unverified()));
    pdu
}

pub(super) fn decode(pdu: &[u8]) -> Result<Signed<SessionInitiation>, EncapsulationError> {
    if pdu.len() > BYTES_MAX {
        return Err(EncapsulationError::TooLarge { bytes: pdu.len(), limit: BYTES_MAX });
    }
    let mut content = pdu;
    if take(&mut content, 2)?.last() != Some(&PUSH) {
        return Err(EncapsulationError::Form("not a push"));
    }
    let length = take_uintvar(&mut content)?;
    let mut headers = take(&mut content, length)?;
    if take(&mut headers, 1)? != [CONTENT_TYPE] {
        return Err(EncapsulationError::Form("content type"));
    }
    let mut is_for_sia = false;
    let mut signed = None;
    for _ in 0..HEADERS_MAX {
        let Some(first) = headers.first() else { break };
        if *first == APPLICATION_ID {
            is_for_sia = take(&mut headers, 2)?.get(1..) == Some(&sia::application_id(SIA_APPLICATION));
        } else if first & 0x80 != 0 {
            take(&mut headers, 1)?;
            skip_value(&mut headers)?;
        } else {
            let name = take_text(&mut headers)?;
            let value = take_text(&mut headers)?;
            if name.eq_ignore_ascii_case(SIGNED_HEADER.as_bytes()) {
                signed = Some(value);
            }
        }
    }
    if !headers.is_empty() || !is_for_sia {
        return Err(EncapsulationError::Form("headers"));
    }
    let signed = signed.ok_or(EncapsulationError::Form("nothing is signed"))?;
    check_open(of_header(&signed)?, content)
}

/// Passes over a header's value (WAP-230 section 8.4.1.2).
fn skip_value(rest: &mut &[u8]) -> Result<(), EncapsulationError> {
    match rest.first().copied() {
        Some(length @ 0..=30) => take(rest, 1 + usize::from(length)).map(drop),
        Some(31) => {
            take(rest, 1)?;
            let length = take_uintvar(rest)?;
            take(rest, length).map(drop)
        }
        Some(32..=127) => take_text(rest).map(drop),
        _ => take(rest, 1).map(drop),
    }
}
