//! HTTP as in WAP's push over the air (WAP-235 section 8.2): the gateway posts the content to the client. Made and read as a whole, since no bearer of ours
//! streams it; HTTP/1.1 with a length, nothing else.

use super::{EncapsulationError, SIGNED_HEADER, check_open, header_value, of_header, sia};
use crate::push::Identifier;
use crate::push::session::{SIA_APPLICATION, SIA_CONTENT_TYPE, SessionInitiation};
use crate::wire::Signed;

/// Longest head and most headers that are read.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// Whom it is for, for gateways on the way; the signed part decides.
pub(super) const CLIENT_HEADER: &str = "X-Wap-Client-Address";

/// Headers and body of the POST request, for whoever has a client of HTTP that adds the rest.
#[must_use]
pub fn post(request: &Signed<SessionInitiation>) -> ([(&'static str, String); 5], Vec<u8>) {
    let headers = [
        ("X-Wap-Push-OTA-Version", "1.0".to_owned()),
        ("X-Wap-Application-Id", SIA_APPLICATION.to_owned()),
        ("Content-Type", SIA_CONTENT_TYPE.to_owned()),
        (CLIENT_HEADER, client_address(request.unverified())),
        (SIGNED_HEADER, header_value(request)),
    ];
    (headers, sia::encode(request.unverified()))
}

pub(super) fn encode(request: &Signed<SessionInitiation>) -> Vec<u8> {
    let (headers, content) = post(request);
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = content.len();
    let head = format!("POST / HTTP/1.1\r\nHost: client.invalid\r\n{headers}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), &content].concat()
}

pub(super) fn decode(message: &[u8]) -> Result<Signed<SessionInitiation>, EncapsulationError> {
    let end = message.windows(4).take(HEAD_BYTES_MAX).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or(EncapsulationError::Form("the head doesn't end"))?;
    let (head, content) = (&message[..end], &message[end + 4..]);
    let head = std::str::from_utf8(head).map_err(|_| EncapsulationError::Form("the head isn't text"))?;
    let mut lines = head.split("\r\n");
    if !lines.next().is_some_and(|line| line.starts_with("POST ") && line.ends_with(" HTTP/1.1")) {
        return Err(EncapsulationError::Form("not a POST request of HTTP/1.1"));
    }
    let headers: Vec<(&str, &str)> = lines.take(HEADERS_MAX).filter_map(|line| line.split_once(':')).collect();
    let find = |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    if find("content-length").and_then(|length| length.parse().ok()) != Some(content.len()) {
        return Err(EncapsulationError::Form("content length"));
    }
    let is_sia = find("content-type")
        .is_some_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(SIA_CONTENT_TYPE)));
    if !is_sia || find("x-wap-application-id") != Some(SIA_APPLICATION) {
        return Err(EncapsulationError::Form("content type or application id"));
    }
    let signed = find(SIGNED_HEADER).ok_or(EncapsulationError::Form("nothing is signed"))?;
    let request = check_open(of_header(signed.as_bytes())?, content)?;
    let named = find(CLIENT_HEADER);
    if named.is_some_and(|named| named != client_address(request.unverified())) {
        Err(EncapsulationError::Mismatch)
    } else {
        Ok(request)
    }
}

/// The public identity, and the identifiers as SIP writes them: `bob;gr=urn:uuid:..`.
pub(super) fn client_address(initiation: &SessionInitiation) -> String {
    let identity = match &initiation.identity {
        crate::identity::UserId::Named { name, .. } => percent(name.as_str()),
        crate::identity::UserId::Key(key) => percent(&key.to_string()),
    };
    let identifiers = initiation.identifiers.iter().map(Identifier::text).map(|text| format!(";gr={}", percent(&text)));
    std::iter::once(identity).chain(identifiers).collect()
}

/// What a header's value can't hold, or would be read as a separator, percent-encoded.
fn percent(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b';' | b'%' | b'=');
    text.bytes().map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
