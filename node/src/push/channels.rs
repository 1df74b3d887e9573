//! Channels as a user names them, made into those that a gateway is told.

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use halloo_protocol::push::{PushChannel as WireChannel, PushRegister};
use rand::CryptoRng;

use crate::handle::push::{PushChannel, PushError};
use crate::roles::gateway::webpush::parse_endpoint;

/// How a webhook's secret begins (Standard Webhooks).
const SECRET_PREFIX: &str = "whsec_";

/// The channel, and a secret that was made for it and that the user is shown once.
///
/// # Errors
/// [`PushError::InvalidChannel`].
pub(super) fn to_wire(channel: PushChannel, rng: &mut impl CryptoRng) -> Result<(WireChannel, Option<String>), PushError> {
    let (channel, made) = match channel {
        PushChannel::Fcm { token } => (WireChannel::Fcm { token }, None),
        PushChannel::Apns { token, topic, sandbox } => {
            let token = HEXLOWER_PERMISSIVE
                .decode(token.as_bytes())
                .map_err(|_| invalid("token", "expected hexadecimal digits, two a byte"))?;
            (WireChannel::Apns { token, topic, is_sandbox: sandbox }, None)
        }
        PushChannel::Webhook { url, secret } => {
            parse_endpoint(&url).map_err(|error| invalid("url", error.to_string()))?;
            let (secret, made) = webhook_secret(secret.as_deref(), rng)?;
            (WireChannel::Webhook { url, secret }, made)
        }
        PushChannel::Sms { number } => (WireChannel::Sms { number }, None),
        PushChannel::Sip { address } => (WireChannel::Sip { address }, None),
        PushChannel::Stream {} => (WireChannel::Stream, None),
        PushChannel::Webpush { .. } => return Err(invalid("kind", "not here")),
    };
    // The gateway would say no more than that something is malformed.
    PushRegister::new(vec![channel.clone()]).check().map_err(|error| invalid("channel", error.to_string()))?;
    Ok((channel, made))
}

fn webhook_secret(given: Option<&str>, rng: &mut impl CryptoRng) -> Result<([u8; 32], Option<String>), PushError> {
    if let Some(text) = given {
        let bytes = text.strip_prefix(SECRET_PREFIX).and_then(|text| BASE64.decode(text.as_bytes()).ok()?.try_into().ok());
        let secret = bytes.ok_or_else(|| invalid("secret", format!("expected {SECRET_PREFIX} and 32 bytes in base64")))?;
        return Ok((secret, None));
    }
    let mut secret = [0; 32];
    rng.fill_bytes(&mut secret);
    Ok((secret, Some(format!("{SECRET_PREFIX}{}", BASE64.encode(&secret)))))
}

fn invalid(field: &'static str, reason: impl Into<String>) -> PushError {
    PushError::InvalidChannel { field, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(channel: PushChannel) -> Result<(WireChannel, Option<String>), PushError> {
        to_wire(channel, &mut rand::rng())
    }

    #[test]
    fn what_a_user_names_becomes_what_a_gateway_is_told() {
        let apns = PushChannel::Apns { token: "00fF".into(), topic: "org.example".into(), sandbox: true };
        let wire = WireChannel::Apns { token: vec![0, 255], topic: "org.example".into(), is_sandbox: true };
        assert_eq!(made(apns), Ok((wire, None)));
        let (first, shown) = made(PushChannel::Webhook { url: "https://a.example/b".into(), secret: None }).unwrap();
        let again = PushChannel::Webhook { url: "https://a.example/b".into(), secret: shown };
        assert_eq!(made(again), Ok((first, None)), "the secret that was shown is the one that signs");
    }

    #[test]
    fn what_no_service_can_take_is_refused_with_the_field() {
        let apns = |token: &str, topic: &str| PushChannel::Apns { token: token.into(), topic: topic.into(), sandbox: false };
        let hook = |url: &str, secret: Option<&str>| PushChannel::Webhook { url: url.into(), secret: secret.map(Into::into) };
        for (channel, field) in [
            (PushChannel::Fcm { token: String::new() }, "channel"),
            (apns("xyz", "org.example"), "token"),
            (apns("00", "org example"), "channel"),
            (hook("ftp://a.example", None), "url"),
            (hook("https://a.example", Some("whsec_AA==")), "secret"),
            (PushChannel::Sms { number: "12345678".into() }, "channel"),
            (PushChannel::Sip { address: "sip:nobody".into() }, "channel"),
        ] {
            let refused = made(channel.clone());
            assert!(matches!(&refused, Err(PushError::InvalidChannel { field: named, .. }) if *named == field), "{refused:?}");
        }
    }
}
