//! What every fuzz target does: read bytes as a reader of the network does, and hold the decoder to what it promises.
//!
//! A target is one line in `fuzz_targets/` and one in `Cargo.toml`. Its seeds are the golden vectors whose names start with its own.

#![forbid(unsafe_code)]

use halloo_protocol::directory::{RecordError, UnverifiedRecord};
use halloo_protocol::identity::TrustStore;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Body, FRAME_BYTES_MAX, Frame, Message, Signed};

/// Kind (3), version (3), body length (5) and signature (64) around a signed body.
const SIGNED_OVERHEAD_BYTES_MAX: usize = 75;

/// A message in a frame.
pub fn message<M: Message>(bytes: &[u8]) {
    let parse = |body: &[u8]| Frame { kind: M::KIND, id: 1, body: body.to_vec() }.parse::<M>();
    if let Ok(value) = parse(bytes) {
        let encoded = wire::encode(&value);
        let again = parse(&encoded).expect("what a reader accepted, it accepts again");
        assert_eq!(wire::encode(&again), encoded);
    }
}

/// A signed object.
pub fn signed<T: Body>(bytes: &[u8]) {
    plain::<Signed<T>>(bytes, T::LIMIT + SIGNED_OVERHEAD_BYTES_MAX);
    // The body by itself, which the signature's and the length's place would hide from small changes.
    if let Ok(value) = wire::decode::<T>(bytes, T::LIMIT) {
        let _ = value.check();
    }
}

/// Any other value.
pub fn plain<T: bincode::Encode + bincode::Decode<()>>(bytes: &[u8], limit: usize) {
    if let Ok(value) = wire::decode::<T>(bytes, limit) {
        let encoded = wire::encode(&value);
        assert_eq!(wire::encoded_len(&value), encoded.len());
        let again = wire::decode::<T>(&encoded, FRAME_BYTES_MAX).expect("what a reader accepted, it accepts again");
        assert_eq!(wire::encode(&again), encoded);
    }
}

/// A directory record, verified as far as its signatures go. Nothing but the golden vectors' statements can hold.
pub fn record(bytes: &[u8]) {
    let Ok(record) = UnverifiedRecord::from_bytes(bytes) else { return };
    let key = record.claimed_key();
    match record.verify(UnixTime(1_800_000_000), &TrustStore::new()) {
        Ok(verified) => {
            assert_eq!(verified.key(), key);
            assert_eq!(verified.clone().merge(verified.clone()), verified);
            assert!(UnverifiedRecord::from_bytes(&verified.to_bytes()).is_ok());
        }
        Err(RecordError::Decode(error)) => panic!("{error}: a decoded record decodes"),
        Err(_) => {}
    }
}

/// Declares a target.
#[macro_export]
macro_rules! target {
    ($bytes:ident => $work:expr) => {
        libfuzzer_sys::fuzz_target!(|$bytes: &[u8]| { $work });
    };
}
