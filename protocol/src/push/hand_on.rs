//! A gateway hands a push to another gateway of the same device, which decides on it by itself.
//!
//! The device names its other gateways in its registration with each ([`other_gateways`]). The gateway that a caller chose and that has no working channel
//! passes the caller's request on as it came: capability, proof, sealed part. The second checks all of it as if it had been asked, with two
//! differences: the proof is for the first gateway, and the handle is the first's; so it takes both from the first's signed word, and only from a gateway
//! that the device's registration names. A push is handed on once: nothing that came this way goes on.

use bincode::{Decode, Encode};

use super::registration::{PushRates, PushRefusal, Registration, decide_push};
use super::{PUSH_SEALED_BYTES_MAX, PushReason, PushRegister, PushSend, PushWay};
use crate::capability::Grant;
use crate::directory::Helper;
use crate::identity::{Chain, VerifiedChain};
use crate::key::DeviceKey;
use crate::time::{CLOCK_TOLERANCE_SECS, Now, UnixTime};
use crate::wire::{self, Body, DecodeError, Extensions, FrameKind, Message, Signed};

/// Most other gateways that a registration names.
pub const OTHER_GATEWAYS_MAX: usize = 3;

/// Extension of [`PushRegister`]: an encoded list of [`Helper`]s.
const OTHER_GATEWAYS_EXTENSION: u16 = 0x004c;

/// Largest encoded list.
const OTHER_GATEWAYS_BYTES_MAX: usize = 2 * 1024;

/// Puts a device's other gateways into its registration; at most [`OTHER_GATEWAYS_MAX`] are taken.
#[must_use]
pub fn put_other_gateways(extensions: Extensions, gateways: &[Helper]) -> Extensions {
    let gateways: Vec<Helper> = gateways.iter().take(OTHER_GATEWAYS_MAX).cloned().collect();
    if gateways.is_empty() { extensions } else { extensions.with(OTHER_GATEWAYS_EXTENSION, wire::encode(&gateways)) }
}

/// The other gateways that a registration names; none if it names none that can be read.
#[must_use]
pub fn other_gateways(registration: &PushRegister) -> Vec<Helper> {
    let Some(bytes) = registration.extensions.find(OTHER_GATEWAYS_EXTENSION) else { return Vec::new() };
    let gateways: Vec<Helper> = wire::decode(bytes, OTHER_GATEWAYS_BYTES_MAX).unwrap_or_default();
    let is_good = gateways.len() <= OTHER_GATEWAYS_MAX && gateways.iter().all(|gateway| gateway.check().is_ok());
    if is_good { gateways } else { Vec::new() }
}

/// The first gateway's word on a push. Signed by it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HandOn {
    /// The first gateway.
    pub from: DeviceKey,
    /// The second one: the word can't be carried to a third.
    pub to: DeviceKey,
    /// The device to wake.
    pub device: DeviceKey,
    /// [`PushSend::request_hash`] of the push.
    pub request_hash: [u8; 32],
    /// When.
    pub at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for HandOn {
    const KIND: u16 = 0x0511;
    const LIMIT: usize = 512;
}

/// "Wake this device in my place."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushHandOn {
    /// The first gateway's word.
    pub word: Signed<HandOn>,
    /// The caller's request as it came.
    pub push: PushSend,
    /// Who the caller has shown to be, if its capability is for anybody who does.
    pub caller: Option<Chain>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushHandOn {
    const KIND: FrameKind = FrameKind(0x004c);
    const LIMIT: usize = PUSH_SEALED_BYTES_MAX + 6 * 1024;
}

/// Answer to [`PushHandOn`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushHandedOn {
    /// By which ways it goes; `Err` if it doesn't.
    pub result: Result<Vec<PushWay>, PushReason>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushHandedOn {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushHandOn::KIND.0);
    const LIMIT: usize = 256;

    fn check(&self) -> Result<(), DecodeError> {
        match &self.result {
            Ok(ways) if ways.len() > super::CHANNELS_MAX => Err(DecodeError::invalid("ways", "too many")),
            _ => Ok(()),
        }
    }
}

/// Decides on a push that another gateway hands on, as `gateway`. `registration` is that of the device the word names, `sender` the device at the other
/// end of the connection, `caller` what the caller's chain shows.
///
/// # Errors
/// [`PushRefusal`].
pub fn decide_hand_on(
    request: &PushHandOn,
    registration: Option<&Registration>,
    sender: &DeviceKey,
    caller: Option<&VerifiedChain>,
    gateway: &DeviceKey,
    rates: &mut PushRates,
    now: Now,
) -> Result<Grant, PushRefusal> {
    let word = request.word.unverified();
    let registration = registration.filter(|known| known.device() == word.device).ok_or(PushRefusal::UnknownHandle)?;
    let is_named = other_gateways(&registration.request).iter().any(|other| other.device == word.from);
    let is_sender = *sender == word.from;
    let fits = word.to == *gateway && word.request_hash == request.push.request_hash();
    let age = now.unix.secs_since(word.at);
    let is_fresh = !word.at.is_from_the_future(now.unix) && age <= CLOCK_TOLERANCE_SECS;
    if !is_named || !is_sender || !fits || !is_fresh || request.word.verify(&word.from.0).is_err() {
        return Err(PushRefusal::Invalid(DecodeError::invalid("hand-on", "not a gateway's word that counts here")));
    }
    // The same registration under the first gateway's handle, and the first gateway as the helper that the caller has asked.
    let as_first = Registration { handle: request.push.handle, ..registration.clone() };
    let grant = decide_push(&request.push, Some(&as_first), caller, &word.from, rates, now)?;
    // Under the handle here too: a gateway could make up handles as it likes.
    rates.take(&registration.handle, &grant, now.instant)?;
    Ok(grant)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::capability::{Capability, CapabilityId, CapabilityProof, Holder, Issuer, Limits, Service};
    use crate::event::EventKind;
    use crate::key::SecretKey;
    use crate::push::registration::{GatewayPolicy, PushWays, decide_register};
    use crate::push::{PushChannel, PushHandle, PushHints, Urgency};
    use crate::test_identity::{Authority, NOW, Person};

    struct Scene {
        bob: Person,
        first: SecretKey,
        second: DeviceKey,
        registration: Registration,
        rates: PushRates,
    }

    fn device(key: &SecretKey) -> DeviceKey {
        DeviceKey(key.public())
    }

    /// Bob is registered with the second gateway, and names the first to it.
    fn scene() -> Scene {
        let authority = Authority::new(1);
        let bob = authority.person("bob", 20);
        let (first, second) = (SecretKey::from_bytes([81; 32]), device(&SecretKey::from_bytes([82; 32])));
        let chain = bob.chain.verify(NOW, &authority.trust()).expect("good");
        let mut request = PushRegister::new(vec![PushChannel::Stream]);
        request.extensions = put_other_gateways(Extensions::none(), &[Helper { device: device(&first), addresses: vec![] }]);
        let policy = GatewayPolicy { registrations_max: 10, ways: PushWays::OWN };
        let registration = decide_register(request, &chain, None, 0, PushHandle([2; 32]), &policy, NOW).expect("registered");
        Scene { bob, first, second, registration, rates: PushRates::new(100) }
    }

    impl Scene {
        /// A caller's push to the first gateway.
        fn push(&self, holder: Holder, key: &SecretKey) -> PushSend {
            let capability = Capability {
                id: CapabilityId([4; 16]),
                issuer: Issuer::Device(self.bob.device()),
                service: Service::Push,
                holder,
                limits: Limits { per_hour: 600, payload_bytes_max: 2_800 },
                epoch: 0,
                not_before: NOW,
                not_after: NOW.plus_secs(86_400),
                extensions: Extensions::none(),
            };
            let (handle, sealed) = (PushHandle([1; 32]), vec![7; 500]);
            let hints = PushHints { event: EventKind::VOICE_CALL, ttl_secs: 60, urgency: Urgency::High };
            let hash = PushSend::hash_of(&handle, &hints, &sealed);
            let proof = CapabilityProof::sign(capability.id, device(&self.first), hash, NOW, key);
            let capability = Signed::sign(capability, &self.bob.device_key);
            PushSend { handle, capability, proof, hints, sealed, extensions: Extensions::none() }
        }

        fn word(&self, push: &PushSend) -> HandOn {
            HandOn {
                from: device(&self.first),
                to: self.second,
                device: self.bob.device(),
                request_hash: push.request_hash(),
                at: NOW,
                extensions: Extensions::none(),
            }
        }

        fn decide(&mut self, word: HandOn, push: PushSend, caller: Option<&VerifiedChain>) -> Result<Grant, PushRefusal> {
            let request =
                PushHandOn { word: Signed::sign(word, &self.first), push, caller: None, extensions: Extensions::none() };
            let now = Now { unix: NOW, instant: Instant::now() };
            let sender = device(&self.first);
            decide_hand_on(&request, Some(&self.registration), &sender, caller, &self.second, &mut self.rates, now)
        }
    }

    #[test]
    fn a_push_that_the_first_gateway_hands_on_is_judged_by_the_second() {
        let mut scene = scene();
        let pairwise = SecretKey::from_bytes([55; 32]);
        let push = scene.push(Holder::Key(pairwise.public()), &pairwise);
        let word = scene.word(&push);
        assert!(scene.decide(word.clone(), push.clone(), None).is_ok());
        let copied = scene.push(Holder::Key(pairwise.public()), &SecretKey::from_bytes([56; 32]));
        let copied = scene.decide(word.clone(), copied, None).expect_err("a copied token is worth nothing");
        assert_eq!(copied.reason(), PushReason::CAPABILITY);
        scene.registration.rules.revoke(CapabilityId([4; 16]));
        assert_eq!(scene.decide(word, push, None).expect_err("revoked").reason(), PushReason::CAPABILITY);
    }

    #[test]
    fn a_word_counts_for_one_gateway_one_push_and_a_short_time() {
        let mut scene = scene();
        let pairwise = SecretKey::from_bytes([55; 32]);
        let push = scene.push(Holder::Key(pairwise.public()), &pairwise);
        let good = scene.word(&push);
        let stranger = device(&SecretKey::from_bytes([66; 32]));
        for wrong in [
            HandOn { from: stranger, ..good.clone() },
            HandOn { to: stranger, ..good.clone() },
            HandOn { request_hash: [0; 32], ..good.clone() },
            HandOn { at: NOW.minus_secs(301), ..good.clone() },
            HandOn { at: NOW.plus_secs(301), ..good.clone() },
        ] {
            let refusal = scene.decide(wrong.clone(), push.clone(), None).expect_err("refused");
            assert_eq!(refusal.reason(), PushReason::INVALID, "{wrong:?}");
        }
        let elsewhere = HandOn { device: stranger, ..good.clone() };
        assert_eq!(scene.decide(elsewhere, push.clone(), None), Err(PushRefusal::UnknownHandle));
        scene.registration.request.extensions = Extensions::none();
        assert_eq!(scene.decide(good, push, None).expect_err("not named").reason(), PushReason::INVALID);
    }

    #[test]
    fn strangers_show_who_they_are_and_are_counted_whatever_handles_a_gateway_makes_up() {
        let mut scene = scene();
        let authority = Authority::new(1);
        let alice = authority.person("alice", 10);
        let chain = alice.chain.verify(NOW, &authority.trust()).expect("good");
        let push = scene.push(Holder::Certified, &alice.device_key);
        let word = scene.word(&push);
        assert_eq!(scene.decide(word.clone(), push.clone(), None).expect_err("nobody").reason(), PushReason::CAPABILITY);
        assert!(scene.decide(word, push.clone(), Some(&chain)).is_ok());
        let passed = (0..20).filter(|number| {
            let mut push = push.clone();
            push.handle = PushHandle([100 + number; 32]);
            push.proof =
                CapabilityProof::sign(CapabilityId([4; 16]), device(&scene.first), push.request_hash(), NOW, &alice.device_key);
            let word = scene.word(&push);
            scene.decide(word, push, Some(&chain)).is_ok()
        });
        assert_eq!(passed.count(), 2, "three in all at once");
    }

    #[test]
    fn registrations_name_few_gateways() {
        let helper = |seed: u8| Helper { device: device(&SecretKey::from_bytes([seed; 32])), addresses: vec![] };
        let mut registration = PushRegister::new(vec![PushChannel::Stream]);
        assert!(other_gateways(&registration).is_empty());
        registration.extensions = put_other_gateways(Extensions::none(), &[helper(1), helper(2), helper(3), helper(4)]);
        assert_eq!(other_gateways(&registration), [helper(1), helper(2), helper(3)]);
        registration.extensions = Extensions::none().with(OTHER_GATEWAYS_EXTENSION, vec![200; 3]);
        assert!(other_gateways(&registration).is_empty(), "what can't be read names nobody");
    }
}
