//! The values behind the table of golden vectors, each with something in every field.

use halloo_protocol::authority::{BootstrapList, EnrolParams, EnrolRequest, InviteCode, InviteSecret, SignedBootstrapList};
use halloo_protocol::call::conference::{Attendance, ConferenceId, ConferencePart, Introduction, Participant, Present};
use halloo_protocol::call::{
    AvatarLink, Invite, InviteHandOver, Origin, SealedInvite, Signal, SignalBody, TelephonePart, Trace, TraceKind, TraceStage,
};
use halloo_protocol::capability::{Capability, CapabilityId, CapabilityProof, Holder, Issuer, Limits, Service};
use halloo_protocol::choice::{
    Attributes, CallerRef, Days, DeviceRef, DeviceReport, MacAddress, OwnReport, Policy, Presence as ChosenPresence, PresenceSet,
    Proximity, PushChoice, Rule, Screen, Step, Target, Usage, When,
};
use halloo_protocol::contact::privacy::{Audience, PrivacySettings};
use halloo_protocol::contact::{
    Asking, ContactKeys, ContactRequest, ContactSignal, ContactStatement, OwnKeys, Roster, RosterShare, Secret32, Signer, Stance,
};
use halloo_protocol::directory::{
    DeviceEntry, DeviceKind, Helper, Place, PrivatePart, PushAddress, RECORD_BYTES_MAX, Reachability, RecordKey, UnverifiedRecord,
};
use halloo_protocol::event::EventKind;
use halloo_protocol::file::FileSignal;
use halloo_protocol::group::{Group, GroupPart, GroupSigner, Member, Standing, StandingMark};
use halloo_protocol::id::CallId;
use halloo_protocol::identity::{LinkedIndicator, REVOCATION_LIST_BYTES_MAX, UserCertificate, UserId};
use halloo_protocol::linked::{
    AddressProof, AddressWord, Association, AssociationParams, Held, IdentityMerge, Indicator, LinkedId, PlacedListing,
    ProofMethod, SharedLinks, SharedPiece, SharedProof, SharedProvider, SharedSighting, Shown, Sighting, ToldLink, ToldLinks,
};
use halloo_protocol::linking::{DeviceLink, LinkCode, LinkGrant};
use halloo_protocol::mail::MailNotice;
use halloo_protocol::mailbox::{Admission, Letter, LetterId, MailboxPut, SealedLetter};
use halloo_protocol::message::{
    CallFate, CallMark, Content, ConversationId, ConversationMarks, Correspondent, CounterSet, Envelope, HistoryItem, Mark,
    MessageBody, MessageDeliver, MessageId, StateItem,
};
use halloo_protocol::node::{
    Address, Descriptor, Goodbye, Hello, LoadClass, RevocationNotice, RevocationNumber, Roles, Transport,
};
use halloo_protocol::presence::{
    Appointment, Digest, Document, LinkTag, Mode, NamedTopic, Part, PassedDocument, PassedHint, PresenceGossip, PresenceHint,
    PresenceSecret, PresenceWitness, SealedDocument, State, Topic, TopicName, TopicPlace, TopicSlot, TopicWant,
};
use halloo_protocol::profile::{Profile, ProfileCard};
use halloo_protocol::push::hand_on::{HandOn, PushHandOn};
use halloo_protocol::push::session::{
    ActivateWhen, Activation, Application, Asks, DeviceCapabilities, SecurityInformation, Sends, SessionAnswers,
    SessionInitiation, SessionMode, SessionNonce, SessionPreferences, SessionTerms, Subscription,
};
use halloo_protocol::push::{
    EventNotice, Identifier, OuterPayload, PushChannel, PushHandle, PushHints, PushPayload, PushRegister, PushSend, PushWay,
    Urgency,
};
use halloo_protocol::session::{
    Ciphertext, MessagesUnopened, OneTimeKey, PreKeys, SealedMessage, SessionId, Unopened, UnopenedMessage,
};
use halloo_protocol::trunk::number::Dialled;
use halloo_protocol::vault::{ChunkId, SealedChunk, VaultItem, VaultKeys, VaultRoot};
use halloo_protocol::voicemail::{VoicemailPart, VoicemailSignal};
use halloo_protocol::wire::{self, Extensions, FRAME_BYTES_MAX, Signed};

use super::*;

pub(crate) fn extensions() -> Extensions {
    Extensions::none().with(0x0001, vec![1, 2, 3]).with(0x7fff, Vec::new())
}

pub(crate) fn goodbye() -> Goodbye {
    Goodbye { extensions: Extensions::none() }
}

pub(crate) fn full_user_certificate() -> UserCertificate {
    UserCertificate {
        linked: vec![LinkedIndicator { system: "xmpp".into(), id: "alice@example.org".into() }],
        extensions: extensions(),
        ..user_certificate(0, 1)
    }
}

pub(crate) fn descriptor() -> Descriptor {
    Descriptor {
        device: device(0),
        place: Place::assigned(&[0x5a; 32], 0),
        roles: Roles::DIRECTORY.union(Roles::RELAY),
        load: LoadClass(3),
        addresses: vec![
            v4(1, 4_001),
            Address::V6 { ip: [0x20; 16], port: 443, transport: Transport::Tcp },
            Address::Other(vec![4, 127, 0, 0, 1]),
        ],
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        version: Hello::VERSION,
        features: 5,
        chain: Some(chain(0, 0)),
        descriptor: Some(descriptor()),
        clock: NOW,
        revocations: vec![RevocationNumber { authority: authority(), number: 3 }],
        extensions: extensions(),
    }
}

pub(crate) fn revocation_notice() -> RevocationNotice {
    RevocationNotice { list: by_root(revocation_list(3, &[4], &[9])), extensions: Extensions::none() }
}

/// An entry with something in every field.
pub(crate) fn full_entry() -> DeviceEntry {
    DeviceEntry {
        addresses: vec![v4(9, 443)],
        mailboxes: vec![Helper { device: keeper(3), addresses: Vec::new() }],
        pre_keys: Some(PreKeys { identity: [0x23; 32], fallback: [0x24; 32] }),
        sealed: Some(seal_key().seal(0, &device(0), &private_part(), [9; 24])),
        extensions: extensions(),
        ..entry(0, 300)
    }
}

pub(crate) fn private_part() -> PrivatePart {
    PrivatePart {
        name: "kitchen tablet".into(),
        kind: DeviceKind::Tablet,
        addresses: vec![v4(1, 5_000)],
        push: vec![PushAddress { gateway: helper(0), handle: vec![0xab; 16], capability: vec![0xcd; 20] }],
        extensions: extensions(),
    }
}

/// A record with two devices, a removed one, a former identity key, leases and extensions.
pub(crate) fn record() -> UnverifiedRecord {
    let mut first = parts(0, 0, 3);
    first.lease = Some(Signed::sign(lease(&first, 1), &device_secret(0)));
    let mut second = parts(0, 1, 8);
    second.keeper_lease = Some(keeper_lease(&second, 0, 7_200));
    UnverifiedRecord {
        successions: vec![succession(1, 0)],
        tombstones: vec![tombstone(0, 2, NOW.plus_secs(DAY))],
        extensions: extensions(),
        ..unverified(vec![first, second])
    }
}

pub(super) fn none() -> Extensions {
    Extensions::none()
}

pub(super) fn conversation() -> ConversationId {
    ConversationId::of_pair(&alice_id(), &UserId::Key(identity(3)))
}

pub(super) fn envelope() -> Envelope {
    Envelope {
        id: MessageId([9; 16]),
        conversation: conversation(),
        counter: 1,
        sent_at: NOW,
        body: MessageBody::Text("hello, world".into()),
        extensions: extensions(),
    }
}

pub(super) fn sealed_message() -> SealedMessage {
    let ciphertext = Ciphertext::First(vec![0x3a; 300]);
    SealedMessage { id: MessageId([9; 16]), session: SessionId([7; 16]), number: 300, ciphertext, extensions: extensions() }
}

pub(super) fn one_time_key() -> Signed<OneTimeKey> {
    let key = OneTimeKey { device: device(1), key: [0x25; 32], issued_at: NOW, extensions: extensions() };
    Signed::sign(key, &device_secret(1))
}

pub(super) fn unopened() -> MessagesUnopened {
    let unopened = Unopened { session: SessionId([7; 16]), generation: 3 };
    MessagesUnopened { messages: vec![UnopenedMessage { id: MessageId([9; 16]), unopened }], extensions: none() }
}

pub(super) fn letter() -> Letter {
    Letter { chain: chain(0, 0), recipient: device(1), content: Content::Plain(envelope()), extensions: extensions() }
}

pub(super) fn sealed_letter() -> SealedLetter {
    SealedLetter::from_bytes(vec![1; 2_560]).expect("within its size")
}

pub(super) fn admission() -> Admission {
    let proof = CapabilityProof::sign(CapabilityId([5; 16]), keeper(0), [6; 32], NOW, &secret(90));
    Admission { capability: capability(), proof }
}

pub(super) fn vault_chunk() -> SealedChunk {
    let keys = VaultKeys::new(Some(VaultRoot::of(&identity_secret(0))), []);
    let items = [VaultItem::new(VaultItem::CONTACT, b"bob", b"a contact".to_vec())];
    SealedChunk::seal(&items, &IdentityKey(identity_secret(0).public()), ChunkId([7; 16]), (&keys, 1), [3; 24]).expect("small")
}

pub(super) fn mailbox_put(admission: Option<Admission>) -> MailboxPut {
    MailboxPut {
        recipient: device(1),
        id: LetterId([6; 16]),
        letter: sealed_letter(),
        until: NOW.plus_secs(DAY),
        admission,
        extensions: extensions(),
    }
}

pub(super) fn invite() -> Invite {
    Invite {
        chain: chain(0, 0),
        recipient: device(1),
        call: CallId([7; 16]),
        conversation: conversation(),
        kind: EventKind::VOICE_CALL,
        display_name: "Alice".into(),
        avatar: Some(AvatarLink { hash: [1; 32], link: "https://example.org/a.png".into() }),
        origin: Origin { kind: DeviceKind::Laptop, addresses: vec![v4(1, 4_001)], relays: vec![helper(0)] },
        issued_at: NOW,
        expires_at: NOW.plus_secs(120),
        offer: "v=0".into(),
        extensions: extensions(),
    }
}

pub(super) fn participant(number: u8) -> Participant {
    Participant { user: UserId::Key(identity(number)), identity: identity(number), device: device(number) }
}

pub(super) fn introduction() -> Signed<Introduction> {
    let introduction = Introduction {
        conference: ConferenceId([8; 16]),
        by: device(0),
        participant: participant(1),
        issued_at: NOW,
        expires_at: NOW.plus_secs(600),
        extensions: none(),
    };
    Signed::sign(introduction, &device_secret(0))
}

pub(super) fn attendance() -> Signed<Attendance> {
    let attendance = Attendance {
        conference: ConferenceId([8; 16]),
        call: CallId([7; 16]),
        from: device(0),
        to: device(1),
        number: 3,
        since: NOW,
        present: vec![Present { participant: participant(2), since: NOW.plus_secs(5) }],
        word: introduction(),
        extensions: none(),
    };
    Signed::sign(attendance, &device_secret(0))
}

pub(super) fn conference_part() -> ConferencePart {
    let conference = ConferenceId([8; 16]);
    ConferencePart { conference, is_leg: true, since: NOW, word: Some(introduction()), extensions: none() }
}

/// Extension 0x00d0 of an invite: the number that a telephone gateway is to call.
pub(super) fn telephone_invite() -> Invite {
    let number = Dialled::parse("+4930123456").expect("a number");
    Invite { extensions: TelephonePart::Dial(number).add_to(none()), ..invite() }
}

pub(super) fn conference_invite() -> Invite {
    Invite { extensions: conference_part().add_to(none()), ..invite() }
}

/// Extension 0x0001 of a ringing: the answer with which media are connected before somebody answers.
pub(super) fn early_ringing() -> Signed<Signal> {
    let body = signal(SignalBody::Ringing).unverified().clone();
    Signed::sign(Signal { extensions: none().with(1, b"v=0".to_vec()), ..body }, &device_secret(1))
}

/// Extension 0x0002 beside it: the device is heard while it rings.
pub(super) fn heard_ringing() -> Signed<Signal> {
    let body = early_ringing().unverified().clone();
    Signed::sign(Signal { extensions: none().with(1, b"v=0".to_vec()).with(2, vec![]), ..body }, &device_secret(1))
}

pub(super) fn trace() -> Trace {
    let stage = |at_ms, kind, device, detail: &str| TraceStage { at_ms, kind, device, detail: detail.into() };
    let stages = vec![
        stage(0, TraceKind::INVITE, Some(device(0)), "handed over by a relay of this device"),
        stage(12_345, TraceKind::END, None, "completed: hung up"),
    ];
    Trace { elapsed_ms: 13_000, stages }
}

pub(super) fn signal(body: SignalBody) -> Signed<Signal> {
    let signal = Signal { call: CallId([7; 16]), from: device(1), to: device(0), sequence: 1, body, extensions: none() };
    Signed::sign(signal, &device_secret(1))
}

pub(super) fn statement(stance: Stance, ends: u64) -> Signed<ContactStatement> {
    let statement = ContactStatement {
        owner: identity(0),
        other: identity(1),
        sequence: NOW.0,
        stance,
        ends,
        issued_at: NOW,
        extensions: extensions(),
    };
    Signed::sign(statement, &device_secret(0))
}

pub(super) fn linked_id(text: &str) -> LinkedId {
    text.parse().expect("an identity in a linked system")
}

pub(super) fn association_params() -> AssociationParams {
    let linked = linked_id("xmpp:alice@example.org");
    AssociationParams { user: alice_id(), linked, method: ProofMethod::OWN_ITEM, last_serial: 0, now: NOW }
}

/// What alice was before she had a name, taken over by who she is now.
pub(super) fn identity_merge() -> Signed<IdentityMerge> {
    let old = identity_secret(7);
    IdentityMerge::accept(IdentityKey(old.public()), alice_id(), NOW, &identity_secret(0)).sign(&old)
}

/// What alice's phone shares of her account elsewhere.
pub(super) fn shared_pieces() -> Vec<SharedPiece> {
    let (id, said) = (association_params().linked, association());
    let mut links = SharedLinks::default();
    let begun = links.begin(&id, device(1), false, NOW);
    let list =
        std::collections::BTreeMap::from([("xmpp:bob@there.example".parse().expect("an address"), Some("Bob".to_owned()))]);
    let (association, list) = (Some(&said), Some(&list));
    let proof = Some(SharedProof {
        proof: vec![0x70; 20],
        provider: Some(SharedProvider { issuer: "https://id.example".to_owned(), client: "halloo".to_owned() }),
    });
    let held = Held { id: &id, holder: device(1), is_token_only: false, association, proof, list, sightings: Vec::new() };
    begun.into_iter().chain(links.update(&held, NOW)).collect()
}

/// What somebody's phone has seen at alice's place.
pub(super) fn shared_sighting() -> SharedPiece {
    let (place, shown) = (association_params().linked, Shown { association: association(), leave: None });
    let sighting = Sighting::take(&place, shown, NOW).expect("in order");
    let account = "xmpp:bob@there.example".parse().expect("an address");
    SharedPiece::Sighting(Box::new(SharedSighting { account, link: NOW.0, place, sighting, extensions: extensions() }))
}

/// What alice tells contacts of her account elsewhere.
pub(super) fn told_links() -> ToldLinks {
    let links = vec![ToldLink { indicator: Indicator([0x1d; 16]), sealed: vec![0xab; 64] }];
    ToldLinks { version: NOW.0, links, extensions: extensions() }
}

pub(super) fn placed_listing() -> Signed<PlacedListing> {
    let (serial, until) = (NOW.0, NOW.plus_secs(86_400));
    let sealed = vec![0xab; 1_024];
    let listing = PlacedListing {
        place: RecordKey([0x77; 32]),
        writer: chain(0, 0),
        serial,
        until,
        sealed,
        extensions: Extensions::none(),
    };
    Signed::sign(listing, &device_secret(0))
}

pub(super) fn association() -> Signed<Association> {
    Association::sign(association_params(), &identity_secret(0))
}

pub(super) fn address_word() -> Signed<AddressWord> {
    let word = AddressWord {
        user: alice_id(),
        identity: IdentityKey(identity_secret(0).public()),
        linked: linked_id("mailto:alice@example.org"),
        not_before: NOW,
        not_after: NOW.plus_secs(86_400),
        extensions: Extensions::none(),
    };
    Signed::sign(word, &signing_key())
}

pub(super) fn address_proof() -> AddressProof {
    AddressProof { authority: authority(), signing: signed_signing(), word: address_word(), extensions: extensions() }
}

pub(super) fn contact_request() -> ContactRequest {
    ContactRequest {
        statement: statement(Stance::Asked, 0),
        pairwise: secret(91).public(),
        text: "We met on the ferry".into(),
        display_name: "Alice".into(),
        extensions: extensions(),
    }
}

pub(super) fn device_link() -> DeviceLink {
    DeviceLink {
        holder: device(0),
        addresses: vec![Address::V4 { ip: [192, 0, 2, 1], port: 4_001, transport: Transport::Quic }],
        relays: vec![Helper { device: keeper(0), addresses: Vec::new() }],
        root: Some(authority()),
        label: "example".into(),
        code: LinkCode::from_bytes([1, 2, 3, 4, 5]),
        extensions: extensions(),
    }
}

pub(super) fn link_grant() -> LinkGrant {
    LinkGrant {
        chain: chain(0, 1),
        authorities: vec![("example".into(), authority())],
        revocations: Vec::new(),
        bootstrap: vec![Helper { device: keeper(0), addresses: Vec::new() }],
        own: OwnKeys { tombstones: vec![tombstone(0, 2, NOW.plus_secs(DAY))], ..OwnKeys::new(Secret32::from_bytes([4; 32])) },
        privacy: PrivacySettings::all(Audience::Contacts),
        vault_key: Some(halloo_protocol::vault::VaultKey { epoch: 1, secret: Secret32::from_bytes([5; 32]) }),
        identity_key: None,
        extensions: extensions(),
    }
}

pub(super) fn contact_keys() -> ContactKeys {
    let presence = PresenceSecret::new(2, [7; 32]).key();
    ContactKeys { presence, capabilities: vec![capability()], extensions: extensions() }
}

pub(super) fn profile_card() -> ProfileCard {
    let avatar = vec![0x89, b'P', b'N', b'G'];
    let profile = Profile {
        sequence: NOW.0,
        display_name: "Alice".into(),
        mood: "at sea".into(),
        languages: vec!["de-CH".into(), "en".into()],
        avatar: Some(Profile::avatar_hash(&avatar)),
        extensions: extensions(),
    };
    ProfileCard { profile: Signed::sign(profile, &device_secret(0)), avatar: Some(avatar) }
}

/// What a device shares after it has asked somebody.
pub(super) fn roster_share() -> RosterShare {
    let mut roster = Roster::new(OwnKeys::new(Secret32::from_bytes([7; 32])), []);
    let (key, chain) = (device_secret(0), chain(0, 0));
    let mut signer = Signer::new(identity(0), &key, &chain.device, NOW, [8; 32]);
    let bob = UserId::Key(identity(1));
    roster.ask(&bob, identity(1), Asking::default(), &mut signer).expect("a roster has room for one");
    let entries = roster.entries().cloned().collect();
    let presence = Some(roster.own().presence.clone());
    RosterShare { entries, presence, profile: Some(profile_card()), extensions: none() }
}

pub(super) fn contact(signal: ContactSignal) -> MessageDeliver {
    body(MessageBody::Contact(signal))
}

pub(super) fn body(body: MessageBody) -> MessageDeliver {
    MessageDeliver { content: Content::Plain(Envelope { body, ..envelope() }), extensions: none() }
}

pub(super) fn voicemail_part() -> MessageDeliver {
    let part =
        VoicemailPart { voicemail: MessageId([1; 16]), index: 15, bytes: b"a recording".to_vec(), extensions: extensions() };
    let body = MessageBody::Voicemail(Box::new(VoicemailSignal::Part(part)));
    MessageDeliver { content: Content::Plain(Envelope { counter: 0, body, ..envelope() }), extensions: none() }
}

pub(super) fn mark() -> Mark {
    let mut counters = CounterSet::of_range(1, 5);
    counters.insert(9);
    Mark { device: device(0), counters }
}

pub(super) fn history_item() -> HistoryItem {
    HistoryItem {
        with: Correspondent::User(UserId::Key(identity(3))),
        author: alice_id(),
        device: Some(device(0)),
        id: MessageId([9; 16]),
        counter: 1,
        sent_at: NOW,
        kept_at: NOW.plus_secs(2),
        state: 3,
        body: wire::encode(&MessageBody::Text("hello, world".into())),
        extensions: none(),
    }
}

pub(super) fn states() -> Vec<StateItem> {
    let with = Correspondent::Group(group().id());
    let marks = ConversationMarks { with, reader: Some(alice_id()), marks: vec![mark()], extensions: none() };
    vec![
        StateItem::Marks(Box::new(marks)),
        StateItem::Group(Box::new(group_part())),
        StateItem::Standing(StandingMark { group: group().id(), round: 1, standing: Standing::Joined }),
        StateItem::Calls(vec![CallMark { call: CallId([3; 16]), fate: CallFate::Answered, at: NOW }]),
    ]
}

pub(super) fn group_signer(of: impl FnOnce(&GroupSigner<'_>)) {
    let certificate = chain(0, 0).device;
    of(&GroupSigner { identity: identity(0), device: &device_secret(0), certificate: &certificate, now: NOW });
}

pub(super) fn group() -> Group {
    let mut group = None;
    group_signer(|signer| {
        let mut made = Group::found(alice_id(), "Hikers".into(), [7; 16], signer).expect("a good name");
        let member = Member { user: UserId::Key(identity(1)), identity: identity(1) };
        made.add(member, true, signer).expect("the founder may");
        group = Some(made);
    });
    group.expect("just made")
}

pub(super) fn group_part() -> GroupPart {
    group().parts().remove(0)
}

pub(super) fn file(signal: FileSignal) -> MessageDeliver {
    let envelope = Envelope { counter: 0, body: MessageBody::File(signal), ..envelope() };
    MessageDeliver { content: Content::Plain(envelope), extensions: none() }
}

pub(super) fn capability() -> Signed<Capability> {
    let capability = Capability {
        id: CapabilityId([5; 16]),
        issuer: Issuer::Device(device(0)),
        service: Service::Push,
        holder: Holder::Key(secret(90).public()),
        limits: Limits { per_hour: 60, payload_bytes_max: 2_800 },
        epoch: 2,
        not_before: NOW,
        not_after: NOW.plus_secs(30 * DAY),
        extensions: extensions(),
    };
    Signed::sign(capability, &device_secret(0))
}

pub(super) fn mail_notice() -> MailNotice {
    MailNotice {
        id: [1; 16],
        account: "work".into(),
        from_name: "Carol".into(),
        from_address: "carol@mail.example".into(),
        subject: "Lunch".into(),
        preview: "At noon?".into(),
        sent_at: NOW,
        extensions: none(),
    }
}

pub(super) fn push_register() -> PushRegister {
    PushRegister {
        channels: vec![
            PushChannel::Stream,
            PushChannel::WebPush { endpoint: "https://push.example.org/abc".into(), p256dh: [4; 65], auth: [5; 16] },
        ],
        languages: vec!["de-CH".into(), "en".into()],
        applications: vec!["halloo".into()],
        identifiers: vec![Identifier { kind: "sip".into(), value: "alice@example.org".into() }],
        policy_version: 1,
        epoch: 2,
        revoked: vec![CapabilityId([6; 16])],
        extensions: extensions(),
    }
}

/// A registration with a phone's address.
pub(super) fn push_register_sip() -> PushRegister {
    PushRegister::new(vec![PushChannel::Sip {
        address: "sip:bob@example;gr=urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6".into(),
    }])
}

/// A registration with every channel that a service of somebody else carries.
pub(super) fn push_register_services() -> PushRegister {
    PushRegister::new(vec![
        PushChannel::Fcm { token: "fcm-token:APA91b".into() },
        PushChannel::Apns { token: vec![7; 32], topic: "org.example.halloo.voip".into(), is_sandbox: true },
        PushChannel::Webhook { url: "https://hook.example.org/halloo".into(), secret: [8; 32] },
        PushChannel::Sms { number: "+15550100".into() },
    ])
}

pub(super) fn push_send() -> PushSend {
    let (handle, sealed) = (PushHandle([3; 32]), vec![0xaa; 100]);
    let hints = PushHints { event: EventKind::VOICE_CALL, ttl_secs: 60, urgency: Urgency::High };
    let hash = PushSend::hash_of(&handle, &hints, &sealed);
    let proof = CapabilityProof::sign(CapabilityId([5; 16]), keeper(0), hash, NOW, &secret(90));
    PushSend { handle, capability: capability(), proof, hints, sealed, extensions: none() }
}

pub(super) fn application() -> Application {
    Application { id: "org.example.mail".into(), name: "Mail".into() }
}

pub(super) fn session_initiation() -> Signed<SessionInitiation> {
    let initiation = SessionInitiation {
        gateway: keeper(0),
        nonce: SessionNonce([7; 16]),
        created_at: NOW,
        expires_at: NOW.plus_secs(60),
        mode: SessionMode::Matching,
        identity: UserId::Named { authority: authority(), name: alice() },
        identifiers: vec![Identifier::parse("imei:490154203237518").expect("an IMEI")],
        server: helper(0),
        application: Some(Activation { application: application(), when: ActivateWhen::After }),
        asks: Asks::CAPABILITIES.with(Asks::SUBSCRIPTIONS),
        sends: Sends::REGISTRATION,
        content: b"mail".to_vec(),
        extensions: extensions(),
    };
    Signed::sign(initiation, &keeper_secret(0))
}

pub(super) fn session_terms() -> SessionTerms {
    let subscription = Subscription { gateway: keeper(0), applications: vec!["org.example.mail".into()] };
    SessionTerms { preferences: SessionPreferences::default(), subscription: Some(subscription) }
}

pub(super) fn session_answers() -> SessionAnswers {
    SessionAnswers {
        is_activated: Some(true),
        capabilities: Some(DeviceCapabilities {
            agent: "halloo".into(),
            applications: vec![application()],
            languages: vec!["de-CH".into()],
            ways: vec![PushWay::Stream],
        }),
        preferences: Some(SessionPreferences::default()),
        security: Some(SecurityInformation { clock: NOW, certified_until: NOW.plus_secs(30 * DAY) }),
        subscription: session_terms().subscription,
    }
}

pub(super) fn push_hand_on() -> PushHandOn {
    let push = push_send();
    let word = HandOn {
        from: keeper(0),
        to: keeper(1),
        device: device(0),
        request_hash: push.request_hash(),
        at: NOW,
        extensions: extensions(),
    };
    PushHandOn { word: Signed::sign(word, &keeper_secret(0)), push, caller: Some(chain(0, 0)), extensions: none() }
}

pub(super) fn hand_over() -> InviteHandOver {
    let sealed = SealedInvite::from_bytes(vec![1; 1_024]).expect("within its size");
    let hash = InviteHandOver::hash_of(&device(0), &sealed);
    let proof = CapabilityProof::sign(CapabilityId([5; 16]), keeper(0), hash, NOW, &secret(90));
    let capability = Capability { service: Service::InviteHandOver, ..capability().unverified().clone() };
    let capability = Signed::sign(capability, &device_secret(0));
    InviteHandOver { target: device(0), capability, proof, sealed, extensions: none() }
}

pub(super) fn event_notice() -> EventNotice {
    EventNotice {
        chain: chain(0, 0),
        recipient: device(1),
        event: EventKind::VOICEMAIL,
        message: MessageId([9; 16]),
        sent_at: NOW,
        extensions: extensions(),
    }
}

pub(super) fn outer_payload() -> OuterPayload {
    OuterPayload::new(keeper(0), EventKind::VOICE_CALL, NOW, 60, &[0xaa; 100])
}

pub(super) fn push_payload() -> PushPayload {
    PushPayload::new(outer_payload(), vec![0xaa; 100], &keeper_secret(0)).expect("within its size")
}

pub(super) fn enrol_request() -> EnrolRequest {
    let params = EnrolParams {
        authority: authority(),
        name: alice(),
        device: device(0),
        invite: Some(InviteSecret([4; 16])),
        succession: Some(succession(1, 0)),
    };
    EnrolRequest::new(params, &identity_secret(0), NOW)
}

pub(super) fn bootstrap() -> SignedBootstrapList {
    let list = BootstrapList { authority: authority(), number: 1, nodes: vec![descriptor()], issued_at: NOW, extensions: none() };
    SignedBootstrapList { signing: signed_signing(), list: Signed::sign(list, &signing_key()) }
}

pub(super) fn invite_code() -> InviteCode {
    InviteCode {
        root: authority(),
        label: "example".into(),
        node: helper(0),
        bootstrap: vec![helper(1)],
        secret: Some(InviteSecret([4; 16])),
        expires_at: Some(NOW),
        extensions: none(),
    }
}

const _: () = assert!(RECORD_BYTES_MAX < FRAME_BYTES_MAX && REVOCATION_LIST_BYTES_MAX < FRAME_BYTES_MAX);

pub(super) fn presence_document(mood: &str) -> Document {
    Document {
        identity: identity(0),
        device: device(0),
        sequence: NOW.0 + 1,
        issued_at: NOW,
        expires_at: NOW.plus_secs(3_600),
        state: State::Dnd,
        reachability: Reachability::Relayed,
        kind: DeviceKind::Phone,
        devices: 2,
        mood: mood.into(),
        extensions: extensions(),
    }
}

pub(super) fn presence_witness() -> Signed<PresenceWitness> {
    Signed::sign(PresenceWitness { witness: secret(10).public(), number: 3, extensions: extensions() }, &secret(9))
}

pub(super) fn presence_hint() -> Signed<PresenceHint> {
    Signed::sign(PresenceHint { sequence: 40_000, at: NOW, extensions: extensions() }, &secret(10))
}

pub(super) fn own_report() -> OwnReport {
    let attributes = Attributes {
        kind: Some(DeviceKind::Phone),
        screen: Some(Screen { width: 1_080, height: 2_400 }),
        has_camera: Some(true),
        formats: Some(vec!["image/*".into(), "text/plain".into()]),
        can_ring: Some(true),
        wake_mac: Some(MacAddress([2, 0, 0x5e, 0x10, 0, 1])),
    };
    let report = DeviceReport {
        sequence: NOW.0,
        at: NOW,
        usage: Some(Usage::InUse),
        proximity: Some(Proximity { is_near: true, metres: Some(2) }),
        attributes,
        extensions: extensions(),
    };
    OwnReport { device: device(1), report }
}

/// One of everything a policy can say.
pub(super) fn push_choice() -> PushChoice {
    let when = When {
        events: vec![EventKind::VOICE_CALL],
        callers: Some(vec![CallerRef::Holder(secret(9).public())]),
        between: Some((22 * 60, 7 * 60)),
        days: Days::default().with(0),
        presence: PresenceSet::default().with(ChosenPresence::Dnd),
    };
    let targets = vec![
        Target::InUse,
        Target::Nearest,
        Target::Kind(DeviceKind::Laptop),
        Target::Device(DeviceRef::Key(device(1))),
        Target::All,
    ];
    let rule = Rule { name: String::new(), when, steps: vec![Step { targets, count: 1, escalate_after_secs: 20 }] };
    let policy = Policy { minutes_ahead: 120, rules: vec![rule], extensions: none() };
    PushChoice {
        version: 8,
        policy: Some(policy),
        reports: vec![own_report()],
        devices: vec![device(1), device(2)],
        presence: Some(ChosenPresence::Online),
        extensions: extensions(),
    }
}

/// One of everything.
pub(super) fn presence_gossip() -> PresenceGossip {
    let presence = PresenceSecret::new(3, [5; 32]);
    let document = SealedDocument::seal(presence_document(""), &device_secret(0), &presence, [6; 24]).expect("fits");
    let topic = Topic(secret(9).public());
    let slot = TopicSlot(300);
    let carrier = TopicName::Topic { topic, carriers: vec![keeper(0)] };
    let names = vec![
        NamedTopic { slot: TopicSlot(0), name: TopicName::Tag(LinkTag([1, 2, 3, 4, 5, 6, 7, 8])) },
        NamedTopic { slot, name: carrier },
    ];
    let place = TopicPlace::Topic(topic);
    let documents = vec![
        PassedDocument { place, hops: 0, document: document.clone() },
        PassedDocument { place: TopicPlace::Slot(slot), hops: 2, document },
    ];
    let parts = vec![
        Part::Names(names),
        Part::Drops(vec![TopicSlot(4)]),
        Part::Wants(vec![TopicWant { slot, mode: Mode::Push, have: 39_000 }]),
        Part::Appointments(vec![Appointment { place, seed: [11; 32], witness: presence_witness() }]),
        Part::Documents(documents),
        Part::Digests(vec![Digest { slot, sequence: 40_000, hops: 1 }]),
        Part::Hints(vec![PassedHint { place, witness: presence_witness(), hint: presence_hint() }]),
    ];
    PresenceGossip { parts, extensions: extensions() }
}
