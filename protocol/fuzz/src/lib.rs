//! What every fuzz target does: read bytes as a reader of the network does, and hold the decoder to what it promises.
//!
//! Two targets cover everything on a stream: [`frame`] picks the message by the frame's kind, as a node does, and [`signed`] the body by
//! the object's kind. A new message or body is one line in the lists below. Their seeds are the golden vectors.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_protocol::authority::{CertifyWish, InviteCode};
use halloo_protocol::call::conference::ConferencePart;
use halloo_protocol::call::{PHONE_EXTENSION, PhonePart, TELEPHONE_EXTENSION, TelephonePart};
use halloo_protocol::contact::{Contact, ContactLink};
use halloo_protocol::directory::{PrivatePart, RecordError, UnverifiedRecord};
use halloo_protocol::identity::{TrustStore, UserId, Username};
use halloo_protocol::key::PublicKey;
use halloo_protocol::linked::{LinkedId, LinkedLeave, LinkedPart, Listing, SlowId, TokenPart, ToldLinks};
use halloo_protocol::linking::{DeviceLink, LinkCode, LinkGrant, LinkRequest};
use halloo_protocol::phone::keys;
use halloo_protocol::phone::leg::PhoneStream;
use halloo_protocol::phone::negotiation::{Local, Negotiation, Security};
use halloo_protocol::phone::rtp::{Header, NtpTime, Reports};
use halloo_protocol::phone::sdp::Description;
use halloo_protocol::profile::Avatar;
use halloo_protocol::push::PushPayload;
use halloo_protocol::push::session::encapsulation::{Encapsulation, sia};
use halloo_protocol::simple::composing::Composing;
use halloo_protocol::simple::info::{Notice, Numbered, Request};
use halloo_protocol::simple::pidf::Presence;
use halloo_protocol::simple::rlmi::List;
use halloo_protocol::sip::digest::{Authenticator, Challenge, Ha1};
use halloo_protocol::sip::gruu::{GruuKey, PhoneMark};
use halloo_protocol::sip::message::{Message as SipMessage, Refusal, stream_length};
use halloo_protocol::sip::registrar::{BINDINGS_MAX, Registrar};
use halloo_protocol::sip::replaces::Replaces;
use halloo_protocol::sip::timer::SessionTimer;
use halloo_protocol::sip::transaction::{Flow, Transactions, Transport};
use halloo_protocol::sip::uri::{NameAddr, SipUri};
use halloo_protocol::time::UnixTime;
use halloo_protocol::voicemail;
use halloo_protocol::wire::{self, Body, Extensions, FRAME_BYTES_MAX, Frame, Message, Signed};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Kind (3), version (3), body length (5) and signature (64) around a signed body.
const SIGNED_OVERHEAD_BYTES_MAX: usize = 75;

/// First byte of a two-byte number.
const TWO_BYTES: u8 = 251;

macro_rules! by_kind {
    ($kind:expr, $work:ident($input:expr): $($($segment:ident)::+,)*) => {
        $(if $kind == halloo_protocol::$($segment)::+::KIND {
            $work::<halloo_protocol::$($segment)::+>($input);
        })*
    };
}

/// A frame, and the message in it.
pub fn frame(bytes: &[u8]) {
    let Ok(frame) = wire::decode::<Frame>(bytes, FRAME_BYTES_MAX) else { return };
    assert_eq!(wire::decode::<Frame>(&wire::encode(&frame), FRAME_BYTES_MAX).as_ref(), Ok(&frame));
    by_kind! { frame.kind, message(&frame):
        authority::EnrolAnswer,
        authority::CodeAnswer,
        authority::CodeRequest,
        authority::CodeShow,
        authority::CodeShown,
        authority::EnrolRequest,
        authority::RenewRequest,
        authority::RevocationListAnswer,
        authority::RevocationListRequest,
        call::CallInvite,
        call::CallSignal,
        call::CallSignalAck,
        call::CallTraceAsk,
        call::CallTraced,
        call::conference::ConferenceNotice,
        call::conference::ConferenceNoticed,
        call::HandOverAnswer,
        call::HandOverRules,
        call::HandedOverAnswer,
        call::InviteAnswer,
        call::InviteHandOver,
        call::InviteHandedOver,
        call::SignalPass,
        call::SignalPassed,
        choice::DeviceReports,
        choice::PolicyText,
        choice::PushChoice,
        choice::PushChosen,
        choice::PushWithdraw,
        choice::PushWithdrawn,
        file::FileAccept,
        file::FileAccepted,
        file::FileData,
        file::FileHashList,
        file::FileHashes,
        file::FileRead,
        kademlia::FindListings,
        kademlia::FindNode,
        kademlia::FindRecord,
        kademlia::LeaseAnswer,
        kademlia::ListingStored,
        kademlia::ListingsFound,
        kademlia::Nodes,
        kademlia::RecordAnswer,
        kademlia::RenewLease,
        kademlia::Store,
        kademlia::StoreAnswer,
        kademlia::StoreListing,
        kademlia::SyncOffer,
        kademlia::SyncWant,
        linked::LinkedAsk,
        linked::LinkedShare,
        linked::LinkedTold,
        linking::LinkConfirm,
        linking::LinkConfirmed,
        linking::LinkDone,
        linking::LinkFinished,
        linking::LinkStart,
        linking::LinkStarted,
        mailbox::MailboxItems,
        mailbox::MailboxKept,
        mailbox::MailboxNews,
        mailbox::MailboxOpen,
        mailbox::MailboxOpened,
        mailbox::MailboxPut,
        mailbox::MailboxTake,
        message::Composing,
        message::HistoryPage,
        message::HistoryRequest,
        message::MessageAck,
        message::MessageDeliver,
        message::MessageDelivered,
        node::Goodbye,
        node::Hello,
        node::RevocationNotice,
        own_device::DeviceCard,
        own_device::DeviceRename,
        own_device::DeviceRenamed,
        own_device::DeviceRenew,
        own_device::DeviceRenewed,
        presence::PresenceGossip,
        push::PushArrived,
        push::PushArrivedNoted,
        push::PushChannelGone,
        push::PushChannelGoneNoted,
        push::hand_on::PushHandOn,
        push::hand_on::PushHandedOn,
        push::PushDeliver,
        push::PushDelivered,
        push::PushKeep,
        push::PushKept,
        push::phone::PhonePush,
        push::phone::PhonePushed,
        push::PushReceipt,
        push::PushRegister,
        push::PushRegistered,
        push::PushSend,
        push::PushSent,
        push::PushUnregister,
        push::PushUnregistered,
        push::session::SessionContent,
        push::session::SessionContentTaken,
        push::session::SessionOpen,
        push::session::SessionOpened,
        push::session::SessionRequest,
        push::session::SessionRequested,
        session::KeyFetch,
        session::KeyFetched,
        session::MailboxKeyFetch,
        session::MailboxKeyFetched,
        session::MailboxKeys,
        session::MailboxKeysKept,
        session::MessagesUnopened,
        relay::RelayGrant,
        relay::RelayNotice,
        relay::RelayRequest,
        vault::VaultChunks,
        vault::VaultFetch,
        vault::VaultIndex,
        vault::VaultKept,
        vault::VaultLook,
        vault::VaultNews,
        vault::VaultPut,
        voicemail::VoicemailFetch,
        voicemail::VoicemailPiece,
    }
}

/// A signed object.
pub fn signed(bytes: &[u8]) {
    let [TWO_BYTES, low, high, body @ ..] = bytes else { return };
    by_kind! { u16::from_le_bytes([*low, *high]), object((bytes, body)):
        authority::BootstrapList,
        authority::EnrolRequestBody,
        call::Invite,
        call::Signal,
        call::conference::Attendance,
        call::conference::Introduction,
        capability::Capability,
        capability::CapabilityProof,
        contact::ContactStatement,
        directory::DeviceEntry,
        directory::Lease,
        group::GroupGenesis,
        group::GroupStatement,
        identity::DeviceCertificate,
        identity::KeySuccession,
        identity::RevocationList,
        identity::SigningCertificate,
        identity::Tombstone,
        identity::UserCertificate,
        linked::AddressWord,
        linked::Association,
        linked::IdentityMerge,
        linked::PlacedListing,
        mailbox::Letter,
        profile::Profile,
        presence::Document,
        presence::PresenceHint,
        presence::PresenceWitness,
        presence::SealedBody,
        session::OneTimeKey,
        push::GatewayTime,
        push::hand_on::HandOn,
        push::OuterPayload,
        push::session::SessionInitiation,
        push::EventNotice,
    }
}

fn message<M: Message>(frame: &Frame) {
    if let Ok(value) = frame.parse::<M>() {
        let again = Frame::new(frame.id, &value);
        let value = again.parse::<M>().expect("what a reader accepted, it accepts again");
        assert_eq!(Frame::new(frame.id, &value), again);
    }
}

fn object<T: Body>((bytes, body): (&[u8], &[u8])) {
    plain::<Signed<T>>(bytes, T::LIMIT + SIGNED_OVERHEAD_BYTES_MAX);
    // The body by itself, which small changes reach more easily without version, length and signature.
    if let Ok(value) = wire::decode::<T>(body, T::LIMIT) {
        let _ = value.check();
    }
}

fn plain<T: bincode::Encode + bincode::Decode<()>>(bytes: &[u8], limit: usize) {
    if let Ok(value) = wire::decode::<T>(bytes, limit) {
        let encoded = wire::encode(&value);
        assert_eq!(wire::encoded_len(&value), encoded.len());
        let again = wire::decode::<T>(&encoded, FRAME_BYTES_MAX).expect("what a reader accepted, it accepts again");
        assert_eq!(wire::encode(&again), encoded);
    }
}

/// A directory record, verified as far as its signatures go. Nothing but the golden vectors' statements can hold.
pub fn directory_record(bytes: &[u8]) {
    let Ok(record) = UnverifiedRecord::from_bytes(bytes) else { return };
    let key = record.claimed_key();
    let mut trust = TrustStore::new();
    if let halloo_protocol::identity::UserChain::Named { root, .. } = &record.user {
        let _ = trust.trust(*root);
    }
    match record.verify(UnixTime(1_800_000_000), &trust) {
        Ok(verified) => {
            assert_eq!(verified.key(), key);
            assert_eq!(verified.clone().merge(verified.clone()), verified);
            assert!(UnverifiedRecord::from_bytes(&verified.to_bytes()).is_ok());
        }
        // A record may decode from more than its shortest form takes; never the other way round.
        Err(RecordError::Decode(error)) => panic!("{error}: a decoded record decodes"),
        Err(_) => {}
    }
}

/// What is inside a sealed part, and a push.
pub fn sealed_content(bytes: &[u8]) {
    plain::<PrivatePart>(bytes, FRAME_BYTES_MAX);
    plain::<LinkGrant>(bytes, FRAME_BYTES_MAX);
    plain::<LinkRequest>(bytes, FRAME_BYTES_MAX);
    plain::<ConferencePart>(bytes, FRAME_BYTES_MAX);
    plain::<LinkedPart>(bytes, FRAME_BYTES_MAX);
    plain::<LinkedLeave>(bytes, FRAME_BYTES_MAX);
    plain::<TokenPart>(bytes, FRAME_BYTES_MAX);
    plain::<CertifyWish>(bytes, FRAME_BYTES_MAX);
    plain::<Listing>(bytes, FRAME_BYTES_MAX);
    plain::<ToldLinks>(bytes, FRAME_BYTES_MAX);
    plain::<SlowId>(bytes, FRAME_BYTES_MAX);
    let _ = TelephonePart::of_extensions(&Extensions::none().with(TELEPHONE_EXTENSION, bytes.to_vec()));
    let _ = PhonePart::of_extensions(&Extensions::none().with(PHONE_EXTENSION, bytes.to_vec()));
    if let Ok(payload) = PushPayload::from_bytes(bytes) {
        let _ = payload.verify(&[]);
        assert!(PushPayload::from_bytes(&payload.to_bytes()).is_ok());
    }
}

/// A session request on any bearer.
pub fn session_bearer(bytes: &[u8]) {
    let [way, message @ ..] = bytes else { return };
    let way = Encapsulation::ALL[usize::from(*way) % Encapsulation::ALL.len()];
    let _ = sia::decode(message);
    let Ok(request) = way.decode(&[message]) else { return };
    // A datagram is short, whatever else carried the request.
    if let Ok(again) = way.encode(&request) {
        assert_eq!(way.decode(&again).as_ref(), Ok(&request), "what a reader accepted, it accepts again");
    }
}

/// A recording that was left, as it is put together of its parts.
pub fn voicemail(bytes: &[u8]) {
    let told = voicemail::Voicemail::of(bytes, None, 1, Vec::new());
    let parts = bytes.chunks(voicemail::VOICEMAIL_PART_BYTES);
    let Ok((whole, recording)) = voicemail::assemble(&told, parts) else { return };
    assert_eq!(whole, bytes);
    assert!((1..=voicemail::VOICEMAIL_MS_MAX).contains(&recording.duration_ms()));
    if let Ok(again) = voicemail::ogg::write(&recording, "fuzz") {
        assert_eq!(voicemail::ogg::read(&again), Ok(recording), "what a reader accepted, it accepts again");
    }
}

/// What phones say of their media, and what comes on the ports of media: a description first, then datagrams of 60 bytes.
pub fn phone(bytes: &[u8]) {
    let _ = Description::parse(bytes);
    let _ = Header::parse(bytes).map(|header| header.payload(bytes));
    let _ = Reports::parse(bytes);
    let mut rng = StdRng::seed_from_u64(1);
    let address = IpAddr::from([192, 0, 2, 1]);
    let local = Local { address, port: 4_000, rtcp_port: 4_001, security: Security::Accepted };
    let mut negotiation = Negotiation::new(local, &mut rng);
    let Some(end) = bytes.windows(2).position(|pair| pair == [0, 0]) else { return };
    let Ok(offer) = negotiation.take_offer(&bytes[..end]) else { return };
    let answer = negotiation.answer(offer.codecs[0]).expect("the phone has offered it");
    Description::parse(answer.as_bytes()).expect("what we say can be read");
    let Some(agreed) = negotiation.agreed() else { return };
    let mut stream = PhoneStream::new(&mut rng);
    let mut now = Instant::now();
    assert!(stream.configure(agreed, now));
    let source = agreed.media_to.unwrap_or_else(|| SocketAddr::new(address, 1));
    for datagram in bytes[end + 2..].chunks(60) {
        now += Duration::from_millis(20);
        stream.handle_media(&mut datagram.to_vec(), source, now, NtpTime(0));
    }
    let mut packet = Vec::new();
    stream.report(now + Duration::from_secs(9), NtpTime(0), true, &mut packet);
}

/// What a phone says to the edge, up to the tables it may change: message, transaction, credentials, registration.
pub fn sip(bytes: &[u8]) {
    let _ = stream_length(bytes);
    let message = match SipMessage::parse(bytes) {
        Ok(message) => message,
        Err(Refusal::Answer { status, reason, request }) => {
            let _ = SipMessage::answer(&request, status, reason, Some("tag")).to_bytes();
            return;
        }
        Err(Refusal::Drop(_)) => return,
    };
    let again = SipMessage::parse(&message.to_bytes()).expect("what a reader accepted, it accepts again");
    assert_eq!((&again.start, &again.body, again.call_id()), (&message.start, &message.body, message.call_id()));
    let flow = Flow { transport: Transport::Udp, peer: SocketAddr::from(([192, 0, 2, 1], 5060)), connection: 0 };
    let (now, unix) = (Instant::now(), UnixTime(1_700_000_000));
    let mut transactions = Transactions::new();
    if let Some(request) = transactions.receive(message.clone(), flow, now)
        && let Some(id) = transactions.accept(&request, flow, now)
    {
        transactions.respond(id, &SipMessage::answer(&request, 200, "OK", Some("tag")), now);
        assert!(transactions.receive(message.clone(), flow, now).is_none_or(|again| again.method() == "ACK"), "it comes again");
    }
    transactions.handle_timeout(now + Duration::from_secs(100));
    let known = Ha1::new("bob", "halloo", "secret");
    let checked = Authenticator::new("halloo", [1; 32]).check(
        &message,
        flow.peer.ip(),
        |user| (user == "bob").then(|| known.clone()),
        unix,
    );
    assert!(checked.is_err(), "nobody has been given a nonce");
    let _ = Challenge::of(&message).map(|challenge| challenge.answer("bob", "secret", "INVITE", "sip:example", 1, "c"));
    let mut registrar = Registrar::new();
    for _ in 0..2 {
        let _ = registrar.register("bob@example", &message, flow, unix);
        assert!(registrar.len() <= BINDINGS_MAX);
    }
    let _ = SessionTimer::asked(&message, now);
    let key = GruuKey::of_secret(b"secret");
    let temporary = |instance: &str| key.seal(PhoneMark::of(instance), [7; 8]);
    let _ = registrar.contacts("bob@example", &SipUri::parse("sip:bob@example").expect("a URI"), Some(&temporary), unix);
    let _ = Replaces::of_invite(&message);
    let _ = message.get("refer-to").and_then(|text| NameAddr::parse(text).ok()).map(|to| Replaces::of_refer(&to));
    let _ = SipUri::parse(message.request_uri()).ok().and_then(|uri| key.open(&uri.user?));
    let _ = keys::of_info(message.get("content-type").unwrap_or_default(), &message.body);
}

/// Documents of phones: presence, lists of it, that somebody is writing; and bodies of the profile over INFO.
pub fn phone_documents(bytes: &[u8]) {
    if let Ok(presence) = Presence::parse(bytes) {
        assert_eq!(Presence::parse(presence.to_xml().as_bytes()), Ok(presence), "what a reader accepted, it accepts again");
    }
    if let Ok(list) = List::parse(bytes) {
        assert_eq!(List::parse(list.to_xml().as_bytes()), Ok(list), "what a reader accepted, it accepts again");
    }
    if let Ok(composing) = Composing::parse(bytes) {
        assert_eq!(Composing::parse(composing.to_xml().as_bytes()).map(|again| again.is_active), Ok(composing.is_active));
    }
    let _ = Numbered::<Request>::parse(bytes);
    let _ = Numbered::<Notice>::parse(bytes);
}

/// What people type or paste: names, keys, invite codes, contact links; and pictures.
pub fn text(bytes: &[u8]) {
    plain::<InviteCode>(bytes, FRAME_BYTES_MAX);
    plain::<ContactLink>(bytes, FRAME_BYTES_MAX);
    plain::<Contact>(bytes, FRAME_BYTES_MAX);
    plain::<DeviceLink>(bytes, FRAME_BYTES_MAX);
    let _ = Avatar::clean(bytes);
    let _ = halloo_protocol::carddav::read(bytes, FRAME_BYTES_MAX);
    plain::<UserId>(bytes, FRAME_BYTES_MAX);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = Username::new(text) {
        assert_eq!(Username::new(name.as_str()).as_ref(), Ok(&name), "a name's normal form is its own");
    }
    if let Ok(id) = text.parse::<LinkedId>() {
        assert_eq!(id.to_string().parse::<LinkedId>().as_ref(), Ok(&id), "an identity's normal form is its own");
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string(), text);
    }
    let _ = halloo_protocol::linked::read_book(text);
    let _ = halloo_protocol::authority::code_in(text, &halloo_protocol::authority::CodeTag::new([0; 12]));
    let _ = InviteCode::parse(text);
    let _ = ContactLink::parse(text);
    let _ = DeviceLink::parse(text);
    let _ = text.parse::<LinkCode>();
}
