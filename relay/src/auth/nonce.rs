//! Nonces: the time they were made and a MAC over it and the client's path. The server remembers none of them.
//!
//! ```text
//! obMatJos2 | base64(24 security feature bits) | base64(seconds since the server began, 4 bytes | MAC, 8 bytes)
//! ```
//!
//! The first two parts are RFC 8489's (section 9.2): they tell a client, in a way that an attacker in between can't take out, that
//! PASSWORD-ALGORITHMS is served and whether USERHASH is. As the path is part of the MAC, who shows a nonce has received a packet at
//! its address: what is done for a request with a right nonce can't be done in a forged source's name.

use std::net::IpAddr;
use std::time::Duration;

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::packet::{ClientPath, Transport};
use crate::time::Moment;

/// Says that security feature bits follow (RFC 8489 section 9.2).
const COOKIE: &[u8; 9] = b"obMatJos2";

/// Bit 0, the leftmost: PASSWORD-ALGORITHMS (RFC 8489 section 18.1).
const PASSWORD_ALGORITHMS_BIT: u32 = 0x0080_0000;

/// Bit 1: user name anonymity, that is USERHASH.
const ANONYMITY_BIT: u32 = 0x0040_0000;

const MAC_BYTES: usize = 8;

/// Cookie and bits.
const PREFIX_BYTES: usize = COOKIE.len() + 4;

/// Length of a nonce: 9 + 4 + 16 characters.
pub(crate) const NONCE_BYTES: usize = PREFIX_BYTES + 16;

/// Makes and checks nonces.
pub(crate) struct Nonces {
    /// Keyed once: half of the work of a MAC over so short a text.
    keyed: Hmac<Sha256>,
    lifetime: Duration,
    prefix: [u8; PREFIX_BYTES],
}

impl Nonces {
    pub(crate) fn new(secret: [u8; 32], lifetime: Duration, has_anonymity: bool) -> Self {
        let bits = PASSWORD_ALGORITHMS_BIT | if has_anonymity { ANONYMITY_BIT } else { 0 };
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..COOKIE.len()].copy_from_slice(COOKIE);
        BASE64.encode_mut(&bits.to_be_bytes()[1..], &mut prefix[COOKIE.len()..]);
        let keyed = Hmac::new_from_slice(&secret).expect("an hmac takes keys of any length");
        Self { keyed, lifetime, prefix }
    }

    /// A fresh one for this client.
    pub(crate) fn make(&self, path: &ClientPath, now: Moment) -> [u8; NONCE_BYTES] {
        self.encode(path, seconds(now))
    }

    /// Whether it was made here, for this client, and not too long ago.
    pub(crate) fn is_fresh(&self, nonce: &[u8], path: &ClientPath, now: Moment) -> bool {
        let Ok(nonce) = <&[u8; NONCE_BYTES]>::try_from(nonce) else { return false };
        let mut content = [0; 12];
        if BASE64.decode_mut(&nonce[PREFIX_BYTES..], &mut content) != Ok(12) {
            return false;
        }
        let [a, b, c, d, ..] = content;
        let made = u32::from_be_bytes([a, b, c, d]);
        let age = seconds(now).wrapping_sub(made);
        // Not secret-dependent: a wrong MAC tells its sender nothing it could use within the lifetime of 64 bits.
        u64::from(age) < self.lifetime.as_secs().max(1) && self.encode(path, made) == *nonce
    }

    fn encode(&self, path: &ClientPath, made: u32) -> [u8; NONCE_BYTES] {
        let made = made.to_be_bytes();
        let mut content = [0; 4 + MAC_BYTES];
        content[..4].copy_from_slice(&made);
        content[4..].copy_from_slice(&self.mac(path, made));
        let mut nonce = [0; NONCE_BYTES];
        nonce[..PREFIX_BYTES].copy_from_slice(&self.prefix);
        BASE64.encode_mut(&content, &mut nonce[PREFIX_BYTES..]);
        nonce
    }

    fn mac(&self, path: &ClientPath, made: [u8; 4]) -> [u8; MAC_BYTES] {
        let mut text = [0; 4 + 16 + 2 + 1];
        text[..4].copy_from_slice(&made);
        let ip = match path.address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        text[4..20].copy_from_slice(&ip.octets());
        text[20..22].copy_from_slice(&path.address.port().to_be_bytes());
        text[22] = u8::from(matches!(path.transport, Transport::Stream(_)));
        let mut mac = self.keyed.clone();
        mac.update(&text);
        *mac.finalize().into_bytes().first_chunk().expect("32 bytes have 8")
    }
}

/// Whole seconds, wrapping after 136 years.
fn seconds(now: Moment) -> u32 {
    now.since(Moment::default()).as_secs() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ListenerId;

    fn path(address: &str) -> ClientPath {
        ClientPath { address: address.parse().unwrap(), transport: Transport::Datagram(ListenerId(0)) }
    }

    #[test]
    fn it_is_good_for_its_client_and_its_time() {
        let nonces = Nonces::new([1; 32], Duration::from_secs(60), true);
        let (client, now) = (path("192.0.2.1:5000"), Moment::default().after(Duration::from_secs(1_000)));
        let nonce = nonces.make(&client, now);
        assert!(nonce.starts_with(b"obMatJos2wAAA"));
        assert!(nonces.is_fresh(&nonce, &client, now));
        assert!(nonces.is_fresh(&nonce, &client, now.after(Duration::from_secs(59))));
        assert!(!nonces.is_fresh(&nonce, &client, now.after(Duration::from_secs(60))));
        assert!(!nonces.is_fresh(&nonce, &client, Moment::default()), "from the future");
        for other in ["192.0.2.1:5001", "192.0.2.2:5000", "[2001:db8::1]:5000"] {
            assert!(!nonces.is_fresh(&nonce, &path(other), now), "{other}");
        }
        assert!(!Nonces::new([2; 32], Duration::from_secs(60), true).is_fresh(&nonce, &client, now), "of another server");
        assert!(!Nonces::new([1; 32], Duration::from_secs(60), false).is_fresh(&nonce, &client, now), "bits are part of it");
    }

    #[test]
    fn what_is_no_nonce_is_not_fresh() {
        let nonces = Nonces::new([1; 32], Duration::from_secs(60), false);
        let (client, now) = (path("192.0.2.1:5000"), Moment::default());
        let nonce = nonces.make(&client, now);
        assert!(nonce.starts_with(b"obMatJos2gAAA"));
        for index in 0..nonce.len() {
            let mut altered = nonce;
            altered[index] ^= 1;
            assert!(!nonces.is_fresh(&altered, &client, now), "character {index}");
        }
        for wrong in [&b""[..], b"obMatJos2gAAA", &[b'='; NONCE_BYTES], &[0xFF; NONCE_BYTES], &[b'A'; 100]] {
            assert!(!nonces.is_fresh(wrong, &client, now));
        }
    }
}
