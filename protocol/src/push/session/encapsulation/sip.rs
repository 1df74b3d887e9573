//! SIP (OMA's SIP Push; RFC 3428): a MESSAGE request to the client, whose answer says what it does.
//!
//! The headers and the content are what matters; whoever sends one over a flow of its own has another Request-URI, `Via`, `From` and `Call-ID`.

use super::http::{CLIENT_HEADER, client_address};
use super::{EncapsulationError, SIGNED_HEADER, check_open, header_value, of_header, sia};
use crate::push::session::{SIA_APPLICATION, SIA_CONTENT_TYPE, SessionInitiation};
use crate::sip::message::Message;
use crate::wire::Signed;

const APPLICATION_HEADER: &str = "x-wap-application-id";

/// Headers and content of the MESSAGE request, for whoever has a SIP stack that adds the rest. Names in lower case.
#[must_use]
pub fn message(request: &Signed<SessionInitiation>) -> (Vec<(String, String)>, &'static str, Vec<u8>) {
    let headers = vec![
        (APPLICATION_HEADER.to_owned(), SIA_APPLICATION.to_owned()),
        (CLIENT_HEADER.to_ascii_lowercase(), client_address(request.unverified())),
        (SIGNED_HEADER.to_ascii_lowercase(), header_value(request)),
    ];
    (headers, SIA_CONTENT_TYPE, sia::encode(request.unverified()))
}

pub(super) fn encode(request: &Signed<SessionInitiation>) -> Vec<u8> {
    let (headers, content_type, content) = message(request);
    let nonce = request.unverified().nonce.to_string();
    let mut sip = Message::request("MESSAGE", "sip:client.invalid");
    sip.add("via", format!("SIP/2.0/UDP gateway.invalid;branch=z9hG4bK{nonce}"));
    sip.add("max-forwards", "70");
    sip.add("from", format!("<sip:gateway.invalid>;tag={nonce}"));
    sip.add("to", "<sip:client.invalid>");
    sip.add("call-id", nonce);
    sip.add("cseq", "1 MESSAGE");
    for (name, value) in headers {
        sip.add(&name, value);
    }
    sip.with_body(content_type, content).to_bytes()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Signed<SessionInitiation>, EncapsulationError> {
    let sip = Message::parse(bytes).map_err(|_| EncapsulationError::Form("not a message of SIP"))?;
    let content_type = sip.get("content-type").and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if !sip.is_request() || sip.method() != "MESSAGE" || !content_type.trim().eq_ignore_ascii_case(SIA_CONTENT_TYPE) {
        return Err(EncapsulationError::Form("not a MESSAGE request of this content type"));
    }
    if sip.get(APPLICATION_HEADER) != Some(SIA_APPLICATION) {
        return Err(EncapsulationError::Form("application id"));
    }
    let signed = sip.get(&SIGNED_HEADER.to_ascii_lowercase()).ok_or(EncapsulationError::Form("nothing is signed"))?;
    let request = check_open(of_header(signed.as_bytes())?, &sip.body)?;
    let named = sip.get(&CLIENT_HEADER.to_ascii_lowercase());
    if named.is_some_and(|named| named != client_address(request.unverified())) {
        Err(EncapsulationError::Mismatch)
    } else {
        Ok(request)
    }
}
