//! Samples of the messages of calls, messages and push: they decode to what was encoded, their bytes are pinned, and no bytes panic.

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::call::*;
use crate::capability::*;
use crate::directory::DeviceKind;
use crate::event::EventKind;
use crate::id::{ConversationId, MessageId};
use crate::key::{DeviceKey, PublicKey, SecretKey};
use crate::mailbox::*;
use crate::message::*;
use crate::push::*;
use crate::relay::*;
use crate::test_identity::{Authority, NOW};
use crate::wire::{self, Body, Extensions, Frame, Message, Signed};

/// An extension no reader knows: it must pass through.
fn unknown() -> Extensions {
    Extensions::none().with(0x0777, vec![1, 2, 3])
}

fn key() -> SecretKey {
    SecretKey::from_bytes([42; 32])
}

fn device() -> DeviceKey {
    DeviceKey(key().public())
}

fn sealed_invite() -> SealedInvite {
    let authority = Authority::new(1);
    let (alice, bob) = (authority.person("alice", 10), authority.person("bob", 20));
    let invite = Invite {
        chain: alice.chain.clone(),
        recipient: bob.device(),
        call: CallId([5; 16]),
        conversation: ConversationId([6; 16]),
        kind: EventKind::VOICE_CALL,
        display_name: "Alice".into(),
        avatar: None,
        origin: Origin { kind: DeviceKind::Phone, addresses: Vec::new(), relays: Vec::new() },
        issued_at: NOW,
        expires_at: NOW.plus_secs(60),
        offer: "v=0".into(),
        extensions: unknown(),
    };
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let hpke = HpkeKeyPair::from_bytes(&[7; 32]).expect("any scalar is a key");
    SealedInvite::seal(invite, &alice.device_key, &hpke.public(), &mut rng).expect("fits")
}

fn signal(body: SignalBody) -> CallSignal {
    let signal = Signal { call: CallId([5; 16]), from: device(), to: device(), sequence: 3, body, extensions: unknown() };
    CallSignal { signal: Signed::sign(signal, &key()), extensions: unknown() }
}

fn push_send() -> PushSend {
    let capability = Capability {
        id: CapabilityId([4; 16]),
        issuer: Issuer::Device(device()),
        service: Service::Push,
        holder: Holder::Certified,
        limits: Limits { per_hour: 20, payload_bytes_max: 2_800 },
        epoch: 1,
        not_before: NOW,
        not_after: NOW.plus_secs(86_400),
        extensions: unknown(),
    };
    let proof = CapabilityProof::sign(capability.id, device(), [1; 32], NOW, &key());
    let hints = PushHints { event: EventKind::VOICE_CALL, ttl_secs: 60, urgency: Urgency::High };
    let capability = Signed::sign(capability, &key());
    PushSend { handle: PushHandle([3; 32]), capability, proof, hints, sealed: vec![9; 40], extensions: unknown() }
}

fn hand_over() -> InviteHandOver {
    let PushSend { capability, .. } = push_send();
    let capability = Capability { service: Service::InviteHandOver, ..capability.unverified().clone() };
    let sealed = sealed_invite();
    let hash = InviteHandOver::hash_of(&device(), &sealed);
    let proof = CapabilityProof::sign(capability.id, device(), hash, NOW, &key());
    InviteHandOver { target: device(), capability: Signed::sign(capability, &key()), proof, sealed, extensions: unknown() }
}

fn hand_over_answer() -> HandOverAnswer {
    let word = word_of(&signal(SignalBody::Ringing).signal);
    let status = HandOverStatus::HandedOver { status: InviteStatus::Ringing, word };
    HandOverAnswer { status, extensions: unknown() }
}

fn handed_over_answer() -> HandedOverAnswer {
    let word = word_of(&signal(SignalBody::Decline { reason: Reason::BUSY }).signal);
    HandedOverAnswer { status: InviteStatus::Busy, word, extensions: unknown() }
}

fn push_register() -> PushRegister {
    let web_push = PushChannel::WebPush { endpoint: "https://push.example/1".into(), p256dh: [4; 65], auth: [1; 16] };
    let identifier = Identifier { kind: "msisdn".into(), value: "+15550100".into() };
    PushRegister {
        languages: vec!["de".into(), "en".into()],
        applications: vec!["halloo".into()],
        identifiers: vec![identifier],
        policy_version: 1,
        epoch: 2,
        revoked: vec![CapabilityId([8; 16])],
        extensions: unknown(),
        ..PushRegister::new(vec![PushChannel::Stream, web_push])
    }
}

fn registered() -> PushRegistered {
    let time = GatewayTime { gateway: device(), at: NOW, extensions: unknown() };
    let status = RegisterStatus::Registered {
        handle: PushHandle([3; 32]),
        expires_at: NOW.plus_secs(60),
        time: Box::new(Signed::sign(time, &key())),
        vapid_key: Some([4; 65]),
    };
    PushRegistered { status, extensions: unknown() }
}

fn mailbox_open() -> MailboxOpen {
    MailboxOpen { epoch: 2, revoked: vec![CapabilityId([8; 16])], has_door: true, extensions: unknown() }
}

fn sealed_letter() -> SealedLetter {
    let (alice, bob) = (Authority::new(1).person("alice", 10), Authority::new(1).person("bob", 20));
    let MessageDeliver { content, .. } = deliver();
    let letter = Letter { chain: alice.chain.clone(), recipient: bob.device(), content, extensions: unknown() };
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let hpke = HpkeKeyPair::from_bytes(&[7; 32]).expect("any scalar is a key");
    SealedLetter::seal(letter, &alice.device_key, &hpke.public(), &mut rng).expect("fits")
}

fn mailbox_put() -> MailboxPut {
    let PushSend { capability, proof, .. } = push_send();
    MailboxPut {
        recipient: device(),
        id: LetterId([6; 16]),
        letter: sealed_letter(),
        until: NOW.plus_secs(60),
        admission: Some(Admission { capability, proof }),
        extensions: unknown(),
    }
}

fn mailbox_items() -> MailboxItems {
    let item = MailboxItem { number: 300, kept_at: NOW, letter: sealed_letter() };
    MailboxItems { items: vec![item], has_more: true, refused: None, extensions: unknown() }
}

fn payload() -> Vec<u8> {
    let outer = OuterPayload::new(device(), EventKind::VOICE_CALL, NOW, 60, &[9; 40]);
    PushPayload::new(outer, vec![9; 40], &key()).expect("fits").to_bytes()
}

fn deliver() -> MessageDeliver {
    let envelope = Envelope {
        id: MessageId([2; 16]),
        conversation: ConversationId([6; 16]),
        counter: 300,
        sent_at: NOW,
        body: MessageBody::Text("hello".into()),
        extensions: unknown(),
    };
    MessageDeliver { content: Content::Plain(envelope), extensions: unknown() }
}

/// Encodes, decodes, compares; returns a short digest of the frame's bytes.
fn pin<M: Message + PartialEq + std::fmt::Debug>(name: &str, message: &M) -> String {
    let frame = Frame::new(1, message);
    let bytes = wire::encode(&frame);
    let arrived: Frame = wire::decode(&bytes, wire::FRAME_BYTES_MAX).expect("a frame");
    assert_eq!(arrived.parse::<M>().as_ref(), Ok(message), "{name}");
    let digest = crate::key::hash("wire sample", &[&bytes]);
    format!("{name} {:#06x} {} {}", M::KIND.0, bytes.len(), data_encoding::HEXLOWER.encode(&digest[..6]))
}

fn relay_grant() -> RelayGrant {
    let credentials = RelayCredentials {
        addresses: vec![MediaAddress::V4([192, 0, 2, 1], 3_478), MediaAddress::V6([0x20; 16], 3_478)],
        username: "1800000000:0011223344556677".into(),
        password: "cGFzc3dvcmQ=".into(),
        not_after: NOW,
    };
    RelayGrant { status: RelayStatus::Granted(credentials), extensions: unknown() }
}

/// A line that changes is a change of the wire: it needs a version, or an extension instead.
#[test]
fn bytes_on_the_wire_are_pinned() {
    let invite_answer = InviteAnswer { status: InviteStatus::Refused(Reason::DO_NOT_DISTURB), extensions: unknown() };
    let signal_ack = CallSignalAck { status: SignalStatus::Taken, extensions: unknown() };
    let status = PushStatus::Accepted { ways: vec![PushWay::Stream, PushWay::WebPush] };
    let result = Err(PushReason::GONE);
    let receipt = PushReceipt { request_hash: [1; 32], way: PushWay::WebPush, result, extensions: unknown() };
    let relay_notice = RelayNotice { reason: RelayReason::USER_BANDWIDTH, packets: 300, extensions: unknown() };
    let lines = [
        pin("MessageDeliver", &deliver()),
        pin("MessageAck", &MessageAck { status: DeliveryStatus::Duplicate, extensions: unknown() }),
        pin("CallInvite", &CallInvite { sealed: sealed_invite(), extensions: unknown() }),
        pin("InviteAnswer", &invite_answer),
        pin("InviteHandOver", &hand_over()),
        pin("HandOverAnswer", &hand_over_answer()),
        pin("InviteHandedOver", &InviteHandedOver { sealed: sealed_invite(), extensions: unknown() }),
        pin("HandedOverAnswer", &handed_over_answer()),
        pin("HandOverRules", &HandOverRules { epoch: 2, revoked: vec![CapabilityId([8; 16])], extensions: unknown() }),
        pin("CallSignal Ringing", &signal(SignalBody::Ringing)),
        pin("CallSignal Accept", &signal(SignalBody::Accept { answer: "v=0".into() })),
        pin("CallSignal Decline", &signal(SignalBody::Decline { reason: Reason::DECLINED })),
        pin("CallSignal Cancel", &signal(SignalBody::Cancel { reason: Reason::CANCELLED })),
        pin("CallSignal Candidate", &signal(SignalBody::Candidate { candidate: "candidate:1".into() })),
        pin("CallSignal HangUp", &signal(SignalBody::HangUp { reason: Reason::HANGUP })),
        pin("CallSignal Replaced", &signal(SignalBody::Replaced { by: device() })),
        pin("CallSignalAck", &signal_ack),
        pin("PushRegister", &push_register()),
        pin("PushRegistered", &registered()),
        pin("PushUnregister", &PushUnregister { handle: PushHandle([3; 32]), extensions: unknown() }),
        pin("PushUnregistered", &PushUnregistered { was_known: true, extensions: unknown() }),
        pin("PushSend", &push_send()),
        pin("PushSent", &PushSent { status, extensions: unknown() }),
        pin("PushDeliver", &PushDeliver { payload: payload(), extensions: unknown() }),
        pin("PushDelivered", &PushDelivered { status: DeliveredStatus::Ringing, extensions: unknown() }),
        pin("PushReceipt", &receipt),
        pin("RelayRequest", &RelayRequest { extensions: unknown() }),
        pin("RelayGrant Granted", &relay_grant()),
        pin("RelayGrant Refused", &RelayGrant { status: RelayStatus::Refused(RelayReason::LEAVING), extensions: unknown() }),
        pin("RelayNotice", &relay_notice),
    ];
    assert_eq!(lines.join("\n"), include_str!("wire_samples.txt").trim_end());
}

#[test]
fn unknown_extensions_of_a_signed_body_pass_through() {
    let sent = signal(SignalBody::Ringing);
    let arrived: CallSignal = Frame::new(1, &sent).parse().expect("decodes");
    let verified = VerifiedSignal::verify(&arrived.signal, &device()).expect("genuine");
    assert_eq!(verified.signal().extensions.find(0x0777), Some(&[1u8, 2, 3][..]));
}

fn try_all(bytes: &[u8]) {
    fn message<M: Message>(bytes: &[u8]) {
        let _ = wire::decode::<M>(bytes, M::LIMIT);
    }
    fn signed<T: Body>(bytes: &[u8]) {
        let _ = wire::decode::<Signed<T>>(bytes, T::LIMIT + 128);
    }
    message::<MessageDeliver>(bytes);
    message::<MessageAck>(bytes);
    message::<CallInvite>(bytes);
    message::<InviteAnswer>(bytes);
    message::<InviteHandOver>(bytes);
    message::<HandOverAnswer>(bytes);
    message::<InviteHandedOver>(bytes);
    message::<HandedOverAnswer>(bytes);
    message::<HandOverRules>(bytes);
    let _ = open_word(bytes, &device(), &device());
    message::<CallSignal>(bytes);
    message::<CallSignalAck>(bytes);
    message::<PushRegister>(bytes);
    message::<PushRegistered>(bytes);
    message::<PushUnregister>(bytes);
    message::<PushSend>(bytes);
    message::<PushSent>(bytes);
    message::<PushDeliver>(bytes);
    message::<PushDelivered>(bytes);
    message::<PushReceipt>(bytes);
    message::<MailboxOpen>(bytes);
    message::<MailboxOpened>(bytes);
    message::<MailboxPut>(bytes);
    message::<MailboxKept>(bytes);
    message::<MailboxTake>(bytes);
    message::<MailboxItems>(bytes);
    message::<MailboxNews>(bytes);
    signed::<Letter>(bytes);
    message::<RelayRequest>(bytes);
    message::<RelayGrant>(bytes);
    message::<RelayNotice>(bytes);
    signed::<Invite>(bytes);
    signed::<Signal>(bytes);
    signed::<Capability>(bytes);
    signed::<CapabilityProof>(bytes);
    signed::<OuterPayload>(bytes);
    signed::<EventNotice>(bytes);
    if let Ok(payload) = PushPayload::from_bytes(bytes) {
        let _ = payload.verify(&[DeviceKey(PublicKey([0; 32]))]);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        try_all(&bytes);
        let keys = HpkeKeyRing::new(HpkeKeyPair::from_bytes(&[7; 32]).expect("a key"), NOW);
        if let Ok(sealed) = SealedInvite::from_bytes(bytes) {
            prop_assert!(sealed.open(&keys, &device(), NOW, &Authority::new(1).trust()).is_err());
        }
    }

    #[test]
    fn genuine_bytes_with_changes_never_panic(which in 0usize..12, position in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = match which {
            0 => wire::encode(&deliver()),
            1 => wire::encode(&signal(SignalBody::Accept { answer: "v=0".into() })),
            2 => wire::encode(&push_register()),
            3 => wire::encode(&push_send()),
            4 => wire::encode(&registered()),
            5 => wire::encode(&mailbox_open()),
            6 => wire::encode(&mailbox_put()),
            7 => wire::encode(&mailbox_items()),
            8 => wire::encode(&hand_over()),
            9 => wire::encode(&hand_over_answer()),
            10 => wire::encode(&handed_over_answer()),
            _ => payload(),
        };
        let position = position.index(bytes.len());
        bytes[position] = value;
        try_all(&bytes);
    }
}
