//! One device against honest and hostile others; and whole conferences on an unreliable network.

mod admission;
mod exploration;
mod network;

use std::time::Instant;

use super::*;
use crate::identity::UserId;
use crate::key::{DeviceKey, IdentityKey, SecretKey};
use crate::wire::Extensions;

const START: UnixTime = UnixTime(1_800_000_000);

/// Somebody with one device.
#[derive(Clone, Debug)]
struct Person {
    device: SecretKey,
    participant: Participant,
}

fn person(number: u8) -> Person {
    let (identity, device) = (SecretKey::from_bytes([number; 32]), SecretKey::from_bytes([number + 100; 32]));
    let identity = IdentityKey(identity.public());
    let participant = Participant { user: UserId::Key(identity), identity, device: DeviceKey(device.public()) };
    Person { device, participant }
}

fn word(by: &Person, of: &Person, conference: ConferenceId, issued_at: UnixTime) -> Signed<Introduction> {
    let introduction = Introduction {
        conference,
        by: by.participant.device,
        participant: of.participant.clone(),
        issued_at,
        expires_at: issued_at.plus_secs(INTRODUCTION_SECS_MAX),
        extensions: Extensions::none(),
    };
    Signed::sign(introduction, &by.device)
}

fn now(start: Instant, secs: u64) -> Now {
    Now { instant: start + Duration::from_secs(secs), unix: START.plus_secs(secs) }
}
