//! One example of every wire type, built from fixed keys and times: the table behind the golden vectors, the mutation tests and the
//! allocation tests. A new wire type is one line here.

use halloo_protocol::authority::{
    BootstrapList, CertifyWish, CodeAnswer, CodeRequest, CodeResult, CodeShow, CodeShown, CodeTag, EnrolAnswer, EnrolGrant,
    EnrolRequest, EnrolRequestBody, EnrolResult, InviteCode, Refusal, RefusalCode, RenewRequest, RevocationListAnswer,
    RevocationListRequest, SignedBootstrapList, WordResult,
};
use halloo_protocol::call::conference::{
    Attendance, AttendanceStatus, ConferenceNotice, ConferenceNoticed, ConferencePart, Introduction,
};
use halloo_protocol::call::{
    CallInvite, CallSignal, CallSignalAck, CallTraceAsk, CallTraced, HandOverAnswer, HandOverReason, HandOverRules,
    HandOverStatus, HandedOverAnswer, Invite, InviteAnswer, InviteHandOver, InviteHandedOver, InviteStatus, PassStatus,
    PhonePart, Reason, SealedInvite, Signal, SignalBody, SignalPass, SignalPassed, SignalStatus, TelephonePart, word_of,
};
use halloo_protocol::capability::{Capability, CapabilityId, CapabilityProof};
use halloo_protocol::choice::{
    ChoiceStatus, DeviceReport, DeviceReports, OwnReport, PolicyText, PushChoice, PushChosen, PushWithdraw, PushWithdrawn,
    with_held,
};
use halloo_protocol::contact::{
    ContactAnswer, ContactLink, ContactRemoval, ContactSignal, ContactStatement, ContactUpdate, Stance,
};
use halloo_protocol::directory::{DeviceEntry, DeviceKind, Lease, PrivatePart, RecordKey, UnverifiedRecord};
use halloo_protocol::event::EventKind;
use halloo_protocol::file::{
    FileAccept, FileAccepted, FileData, FileEnd, FileHashList, FileHashes, FileId, FileOffer, FileRead, FileRefusal, FileRoot,
    FileSignal,
};
use halloo_protocol::group::{GroupAsk, GroupGenesis, GroupSignal, GroupStatement, GroupText};
use halloo_protocol::id::CallId;
use halloo_protocol::identity::{
    Chain, DeviceCertificate, KeySuccession, RevocationList, SignedRevocationList, SigningCertificate, Tombstone,
    UserCertificate, UserId,
};
use halloo_protocol::kademlia::{
    EXTENSION_HEARSAY, EXTENSION_KNOWN, EXTENSION_NEWS, EXTENSION_PASSED, FindListings, FindNode, FindRecord, LeaseAnswer,
    LeaseOutcome, ListingStored, ListingsFound, Nodes, RecordAnswer, RecordOutcome, RenewLease, Store, StoreAnswer, StoreListing,
    StoreOutcome, StoreRefusal, SyncItem, SyncOffer, SyncWant,
};
use halloo_protocol::linked::{
    AddressProof, AddressWord, Association, IdentityMerge, Indicator, LeaveScope, LinkedAsk, LinkedId, LinkedKey, LinkedLeave,
    LinkedPart, LinkedQuestion, LinkedReply, LinkedShare, LinkedTold, Listing, PlacedListing, ProviderToken, SharedPiece,
    TokenPart, ToldLinks,
};
use halloo_protocol::linking::{
    ConfirmStatus, DeviceLink, LinkConfirm, LinkConfirmed, LinkDone, LinkFinished, LinkGrant, LinkReason, LinkRequest, LinkStart,
    LinkStarted, StartStatus,
};
use halloo_protocol::mailbox::{
    Letter, MailboxItem, MailboxItems, MailboxKept, MailboxNews, MailboxOpen, MailboxOpened, MailboxPut, MailboxReason,
    MailboxTake, OpenStatus, PutStatus,
};
use halloo_protocol::message::{
    Composing, Content, Correspondent, DeliveryStatus, HistoryPage, HistoryQuery, HistoryRequest, MessageAck, MessageBody,
    MessageDeliver, MessageDelivered, MessageId, OwnSignal, Progress, ReadReceipt,
};
use halloo_protocol::node::{Descriptor, Goodbye, Hello, RevocationNotice};
use halloo_protocol::own_device::{DeviceCard, DeviceRename, DeviceRenamed, DeviceRenew, DeviceRenewed};
use halloo_protocol::presence::{
    Document, PresenceGossip, PresenceHint, PresenceKey, PresenceSecret, PresenceWitness, SealedBody,
};
use halloo_protocol::profile::Profile;
use halloo_protocol::push::hand_on::{HandOn, PushHandOn, PushHandedOn, put_other_gateways};
use halloo_protocol::push::phone::{PhonePush, PhonePushStatus, PhonePushed, PhoneTarget};
use halloo_protocol::push::session::{
    SessionContent, SessionContentTaken, SessionInitiation, SessionNonce, SessionOpen, SessionOpened, SessionOutcome,
    SessionReason, SessionRequest, SessionRequested, SessionStatus,
};
use halloo_protocol::push::{
    ChannelEnd, DeliveredStatus, EventNotice, GatewayTime, KeepStatus, OuterPayload, PushArrived, PushArrivedNoted, PushChannel,
    PushChannelGone, PushChannelGoneNoted, PushDeliver, PushDelivered, PushHandle, PushKeep, PushKept, PushPayload, PushReason,
    PushReceipt, PushRegister, PushRegistered, PushSend, PushSent, PushStatus, PushUnregister, PushUnregistered, PushWay,
    RegisterStatus, Urgency,
};
use halloo_protocol::relay::{
    MediaAddress, MediaTls, RelayCredentials, RelayGrant, RelayNotice, RelayReason, RelayRequest, RelayStatus,
};
use halloo_protocol::session::{
    KeyFetch, KeyFetched, KeysStatus, MailboxKeyFetch, MailboxKeyFetched, MailboxKeys, MailboxKeysKept, MessagesUnopened,
    OneTimeKey, SessionId, Unopened,
};
use halloo_protocol::sip::gruu::PhoneMark;
use halloo_protocol::vault::{
    ChunkId, ChunkMark, HeldChunk, VaultChunks, VaultFetch, VaultIndex, VaultKept, VaultLook, VaultNews, VaultPut, VaultPutStatus,
};
use halloo_protocol::voicemail::{Voicemail, VoicemailFetch, VoicemailPiece, VoicemailSignal};
use halloo_protocol::wire::{self, Body, DecodeError, Extensions, FRAME_BYTES_MAX, Frame, FrameKind, Message, Signed};

use super::samples::*;
use super::*;

/// One example.
pub(crate) struct Vector {
    /// Name of its file.
    pub(crate) name: &'static str,
    /// Its encoding.
    pub(crate) bytes: Vec<u8>,
    /// Kind, type and limit, of messages and signed bodies.
    pub(crate) registered: Option<(u16, &'static str, usize)>,
    /// Decodes bytes of this type as a reader does, and encodes the value again.
    pub(crate) again: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

/// `message`: shown in its frame. `signed`: a body, shown as the signed object. `plain`: a part, or a value with a reader of its own.
macro_rules! vectors {
    ($($name:literal => $how:ident $type:ty = $value:expr;)*) => {
        vec![$(Vector { name: $name, bytes: vectors!(@$how $type = $value), registered: vectors!(@$how registered $type), again: vectors!(@$how $type) }),*]
    };
    (@message registered $type:ty) => { Some((<$type as Message>::KIND.0, stringify!($type), <$type as Message>::LIMIT)) };
    (@signed registered $type:ty) => { Some((<$type as Body>::KIND, stringify!($type), <$type as Body>::LIMIT)) };
    (@plain registered $type:ty) => { None };
    (@message $type:ty = $value:expr) => { wire::encode(&Frame::new(frame_id::<$type>(), &$value)) };
    (@signed $type:ty = $value:expr) => { wire::encode::<Signed<$type>>(&$value) };
    (@plain $type:ty = $value:expr) => { wire::encode::<$type>(&$value) };
    (@message $type:ty) => {
        |bytes| {
            let frame: Frame = wire::decode(bytes, FRAME_BYTES_MAX)?;
            frame.parse::<$type>().map(|message| wire::encode(&Frame::new(frame.id, &message)))
        }
    };
    (@signed $type:ty) => {
        |bytes| wire::decode::<Signed<$type>>(bytes, <$type as Body>::LIMIT + SIGNED_OVERHEAD_BYTES_MAX).map(|value| wire::encode(&value))
    };
    (@plain $type:ty) => { |bytes| wire::decode::<$type>(bytes, FRAME_BYTES_MAX).map(|value| wire::encode(&value)) };
}

/// Kind (3), version (3), body length (5) and signature (64).
const SIGNED_OVERHEAD_BYTES_MAX: usize = 75;

/// Requests and answers are number 7; notices have none.
const fn frame_id<M: Message>() -> u32 {
    if M::KIND.is_notice() { 0 } else { 7 }
}

/// The table, built once: signing takes longer than what tests do with it.
pub(crate) fn all_cached() -> &'static [Vector] {
    static ALL: std::sync::OnceLock<Vec<Vector>> = std::sync::OnceLock::new();
    ALL.get_or_init(all)
}

/// The table.
pub(crate) fn all() -> Vec<Vector> {
    vectors! {
        // Frames and their parts
        "frame" => plain Frame = Frame { kind: FrameKind(0x3abc), id: 70_000, body: vec![1, 2, 3] };
        "extensions" => plain Extensions = extensions();
        // Identity
        "user_id_named" => plain UserId = alice_id();
        "user_id_key" => plain UserId = UserId::Key(identity(0));
        "signing_certificate" => signed SigningCertificate = signed_signing();
        "user_certificate" => signed UserCertificate = Signed::sign(full_user_certificate(), &signing_key());
        "device_certificate" => signed DeviceCertificate = Signed::sign(device_certificate(0, 1), &identity_secret(0));
        "tombstone" => signed Tombstone = tombstone(0, 1, NOW.plus_secs(DAY));
        "key_succession" => signed KeySuccession = succession(0, 1);
        "revocation_list" => signed RevocationList = Signed::sign(revocation_list(3, &[4, 5_000], &[9]), &root());
        "revocation_list_hints" => signed RevocationList = Signed::sign(RevocationList {
            extensions: RevocationList::with_hints(none(), &revocation_list(3, &[5, 6], &[]).users), ..revocation_list(3, &[4], &[])
        }, &root());
        "signed_revocation_list" => plain SignedRevocationList = by_signing_key(revocation_list(3, &[4, 5_000], &[]));
        "chain" => plain Chain = chain(0, 0);
        "chain_without_name" => plain Chain = Chain { user: UserChain::Key(identity(0)), ..chain(0, 0) };
        // Nodes
        "descriptor" => plain Descriptor = descriptor();
        "hello" => message Hello = hello();
        "hello_before_enrolment" => message Hello = Hello { chain: None, descriptor: None, revocations: Vec::new(), ..hello() };
        "goodbye" => message Goodbye = goodbye();
        "revocation_notice" => message RevocationNotice = revocation_notice();
        // Presence
        "presence_document" => signed Document = Signed::sign(presence_document("in a meeting"), &device_secret(0));
        "presence_sealed_body" => signed SealedBody = Signed::sign(SealedBody { sequence: 40_000, expires_at: NOW.plus_secs(3_600), sealed: vec![7; 300], extensions: extensions() }, &secret(9));
        "presence_witness" => signed PresenceWitness = presence_witness();
        "presence_hint" => signed PresenceHint = presence_hint();
        "presence_key" => plain PresenceKey = PresenceSecret::new(3, [5; 32]).key();
        "presence_gossip" => message PresenceGossip = presence_gossip();
        "presence_heartbeat" => message PresenceGossip = PresenceGossip::default();
        // Directory
        "device_entry" => signed DeviceEntry = Signed::sign(full_entry(), &device_secret(0));
        "lease" => signed Lease = Signed::sign(lease(&parts(0, 0, 3), 1), &device_secret(0));
        "private_part" => plain PrivatePart = private_part();
        "directory_record" => plain UnverifiedRecord = record();
        "find_record" => message FindRecord = FindRecord { key: RecordKey::of(&alice_id()), have_hash: Some([0x11; 32]), want: 8, extensions: extensions() };
        "record_answer_found" => message RecordAnswer = RecordAnswer { outcome: RecordOutcome::Found(wire::encode(&record())), closer: Vec::new(), extensions: none() };
        "record_answer_same" => message RecordAnswer = RecordAnswer { outcome: RecordOutcome::Same, closer: Vec::new(), extensions: none() };
        "record_answer_absent" => message RecordAnswer = RecordAnswer { outcome: RecordOutcome::Absent, closer: vec![descriptor().into(); 2], extensions: none() };
        "record_answer_hearsay" => message RecordAnswer = RecordAnswer {
            outcome: RecordOutcome::Absent,
            closer: vec![descriptor().into()],
            extensions: none().with(EXTENSION_HEARSAY, wire::encode(&vec![descriptor(); 2])),
        };
        "find_node" => message FindNode = FindNode { target: [0x77; 32], want: 16, extensions: none() };
        "find_node_knowing" => message FindNode = FindNode { target: [0x77; 32], want: 16, extensions: none().with(EXTENSION_KNOWN, (1..=16).collect()) };
        "find_node_news" => message FindNode = FindNode { target: [0x77; 32], want: 16, extensions: none().with(EXTENSION_NEWS, vec![0x59, 0x02]) };
        "nodes_known" => message Nodes = Nodes { closer: vec![descriptor().into()], extensions: none().with(EXTENSION_KNOWN, vec![1, 0]) };
        "nodes" => message Nodes = Nodes { closer: vec![descriptor().into(); 3], extensions: none() };
        "store" => message Store = Store { record: wire::encode(&record()), extensions: none() };
        "store_answer_accepted" => message StoreAnswer = StoreAnswer { outcome: StoreOutcome::Accepted, holds: Some([0x12; 32]), record: None, closer: Vec::new(), extensions: none() };
        "store_answer_refused" => message StoreAnswer = StoreAnswer {
            outcome: StoreOutcome::Refused { reason: StoreRefusal::NotResponsible, detail: "others are closer".into() },
            holds: None,
            record: Some(vec![1, 2, 3]),
            closer: vec![descriptor().into()],
            extensions: none(),
        };
        "renew_lease" => message RenewLease =
            RenewLease::new(RecordKey::of(&alice_id()), Some(keeper(0)), &keeper_lease(&parts(0, 0, 3), 0, 7_200).lease);
        "lease_answer" => message LeaseAnswer = LeaseAnswer { outcome: LeaseOutcome::NeedRecord, extensions: none() };
        "sync_offer" => message SyncOffer = SyncOffer { items: vec![SyncItem { key: RecordKey([1; 32]), hash: [2; 32] }; 2], extensions: none() };
        "sync_want" => message SyncWant = SyncWant { keys: vec![RecordKey([1; 32])], extensions: none() };
        "sync_want_passed" => message SyncWant = SyncWant { keys: Vec::new(), extensions: none().with(EXTENSION_PASSED, 2_u64.to_le_bytes().into()) };
        // Messages
        "message_deliver" => message MessageDeliver = MessageDeliver { content: Content::Plain(envelope()), extensions: none() };
        "message_deliver_sealed" => message MessageDeliver = MessageDeliver { content: Content::Sealed(sealed_message()), extensions: none() };
        "message_ack" => message MessageAck = MessageAck { status: DeliveryStatus::Refused(Reason::TOO_MANY), extensions: none() };
        "message_ack_unopened" => message MessageAck = MessageAck { status: DeliveryStatus::Unopened(Unopened { session: SessionId([7; 16]), generation: 3 }), extensions: none() };
        "message_ack_unencrypted" => message MessageAck = MessageAck { status: DeliveryStatus::Unencrypted, extensions: none() };
        "read_receipt" => message MessageDeliver = body(MessageBody::Read(Box::new(ReadReceipt { group: None, marks: vec![mark()], read_at: NOW, extensions: none() })));
        "voicemail" => message MessageDeliver = body(MessageBody::Voicemail(Box::new(VoicemailSignal::Left(Voicemail {
            call: Some(CallId([3; 16])),
            waveform: vec![0, 128, 255],
            extensions: extensions(),
            ..Voicemail::of(b"a recording", None, 2_500, Vec::new())
        }))));
        "voicemail_fetch" => message VoicemailFetch = VoicemailFetch { device: device(0), voicemail: MessageId([1; 16]), index: 15, extensions: extensions() };
        "voicemail_piece" => message VoicemailPiece = VoicemailPiece { bytes: b"a recording".to_vec(), extensions: extensions() };
        "voicemail_part" => message MessageDeliver = voicemail_part();
        "composing" => message Composing = Composing { for_secs: 120, extensions: none() };
        "message_delivered" => message MessageDelivered = MessageDelivered { ids: vec![MessageId([1; 16])], extensions: none() };
        "own_sent" => message MessageDeliver = body(MessageBody::Own(Box::new(OwnSignal::Sent(Box::new(history_item())))));
        "own_progress" => message MessageDeliver = body(MessageBody::Own(Box::new(OwnSignal::Progress(vec![Progress { id: MessageId([1; 16]), state: 3 }]))));
        "own_mail" => message MessageDeliver = body(MessageBody::Own(Box::new(OwnSignal::Mail(Box::new(mail_notice())))));
        "own_states" => message MessageDeliver = body(MessageBody::Own(Box::new(OwnSignal::States(states()))));
        "history_request" => message HistoryRequest = HistoryRequest {
            query: HistoryQuery::Missing { with: Correspondent::User(alice_id()), device: device(1), counters: mark().counters },
            extensions: none(),
        };
        "history_page" => message HistoryPage = HistoryPage { items: vec![history_item()], next: 70_000, has_more: true, extensions: none() };
        // Groups
        "group_genesis" => signed GroupGenesis = group().genesis().statement.clone();
        "group_statement" => signed GroupStatement = group_part().statements[0].statement.clone();
        "group_part" => message MessageDeliver = body(MessageBody::Group(Box::new(GroupSignal::Part(Box::new(group_part())))));
        "group_text" => message MessageDeliver = body(MessageBody::Group(Box::new(GroupSignal::Text(GroupText {
            text: "hello, all".into(), digest: [4; 8], extensions: none(),
        }))));
        "group_ask" => message MessageDeliver = body(MessageBody::Group(Box::new(GroupSignal::Ask(GroupAsk {
            group: group().id(), have: vec![[5; 8]], extensions: none(),
        }))));
        // Contacts
        "contact_statement" => signed ContactStatement = statement(Stance::Accepted, 1_700_000_000);
        "profile" => signed Profile = profile_card().profile;
        // Linked systems
        "association" => signed Association = association();
        "identity_merge" => signed IdentityMerge = identity_merge();
        "association_merged" => signed Association = Association::sign_merged(association_params(), Some(&identity_merge()), &identity_secret(0));
        "association_revoked" => signed Association = Association::revoke(association_params(), &identity_secret(0));
        "certify_wish" => plain CertifyWish = CertifyWish { id: linked_id("xmpp:alice@example.org"), is_wanted: true, association: Some(association()), proof: vec![9; 20], extensions: extensions() };
        "listing" => plain Listing = Listing { association: association(), proof: vec![9; 20], leave: Some(vec![8; 10]), extensions: extensions() };
        "placed_listing" => signed PlacedListing = placed_listing();
        "store_listing" => message StoreListing = StoreListing { listing: wire::encode(&placed_listing()), extensions: extensions() };
        "listing_stored" => message ListingStored = ListingStored { outcome: StoreOutcome::Refused { reason: StoreRefusal::QuotaTotal, detail: "the place is full".into() }, extensions: none() };
        "find_listings" => message FindListings = FindListings { place: RecordKey([0x77; 32]), extensions: none() };
        "listings_found" => message ListingsFound = ListingsFound { listings: vec![wire::encode(&placed_listing()), vec![1, 2, 3]], extensions: none() };
        "user_certificate_indicators" => signed UserCertificate = Signed::sign(UserCertificate {
            extensions: UserCertificate::with_indicators(none(), &[Indicator([1; 16]), Indicator([2; 16])]), ..full_user_certificate()
        }, &signing_key());
        "linked_id_oidc" => plain LinkedId = linked_id("oidc:https://id.example#Sub-1");
        "linked_part" => plain LinkedPart = LinkedPart { association: association(), callee: linked_id("xmpp:bob@example.org"), extensions: extensions() };
        "linked_part_proved" => plain LinkedPart = LinkedPart::new(association(), Some(vec![5; 8]), linked_id("oidc:https://id.example#Sub-2"));
        "provider_token" => plain ProviderToken = ProviderToken {
            salt: [6; 16], header: b"{\"alg\":\"ES256\"}".to_vec(), claims: b"{}".to_vec(), signature: vec![7; 4], extensions: extensions(),
        };
        "address_word" => signed AddressWord = address_word();
        "address_proof" => plain AddressProof = address_proof();
        "linked_leave" => plain LinkedLeave = LinkedLeave::sign(LinkedKey::of_secret(2, &[7; 32]), LeaveScope { calls: true, messages: true }, &identity_secret(0), NOW);
        "token_part" => plain TokenPart = TokenPart { caller: linked_id("xmpp:alice@example.org"), callee: linked_id("xmpp:bob@example.org"), token: "f3a1-9".into(), not_after: NOW, extensions: extensions() };
        "contact_request" => message MessageDeliver = contact(ContactSignal::Request(Box::new(contact_request())));
        "contact_accept" => message MessageDeliver = contact(ContactSignal::Accept(Box::new(ContactAnswer {
            statement: statement(Stance::Accepted, 0),
            pairwise: Some(secret(91).public()),
            keys: Some(contact_keys()),
            profile: Some(profile_card()),
            extensions: none(),
        })));
        "contact_decline" => message MessageDeliver = contact(ContactSignal::Decline(Box::new(ContactAnswer {
            statement: statement(Stance::Removed, 1_700_000_000),
            pairwise: None,
            keys: None,
            profile: None,
            extensions: none(),
        })));
        "contact_remove" => message MessageDeliver = contact(ContactSignal::Remove(Box::new(ContactRemoval {
            statement: statement(Stance::Removed, 1_700_000_000),
            extensions: extensions(),
        })));
        "contact_update" => message MessageDeliver = contact(ContactSignal::Update(Box::new(ContactUpdate {
            keys: Some(contact_keys()),
            profile: None,
            extensions: none(),
        })));
        "contact_share" => message MessageDeliver = contact(ContactSignal::Share(Box::new(roster_share())));
        "contact_link" => plain ContactLink = ContactLink {
            user: alice_id(),
            identity: identity(0),
            label: "example".into(),
            extensions: extensions(),
        };
        // Files
        "file_offer" => message MessageDeliver = file(FileSignal::Offer(FileOffer {
            id: FileId([6; 16]),
            name: "Ferienfotos 東京.zip".into(),
            size: 5_000_000_000,
            media_type: "application/zip".into(),
            root: FileRoot([7; 32]),
            expires_at: NOW.plus_secs(7 * DAY),
            extensions: extensions(),
        }));
        "file_ended" => message MessageDeliver = file(FileSignal::Ended { id: FileId([6; 16]), end: FileEnd::DECLINED, extensions: none() });
        "file_taken" => message MessageDeliver = file(FileSignal::Taken { id: FileId([6; 16]), device: device(1), extensions: none() });
        "file_accept" => message FileAccept = FileAccept { id: FileId([6; 16]), extensions: extensions() };
        "file_accepted" => message FileAccepted = FileAccepted { refused: Some(FileRefusal::TAKEN), extensions: none() };
        "file_hashes" => message FileHashes = FileHashes { id: FileId([6; 16]), from: 512, extensions: none() };
        "file_hash_list" => message FileHashList = FileHashList { refused: None, hashes: vec![[1; 32], [2; 32]], extensions: none() };
        "file_read" => message FileRead = FileRead { id: FileId([6; 16]), offset: 70_000, length: 16_384, have: 65_536, extensions: none() };
        "file_data" => message FileData = FileData { refused: None, bytes: vec![1, 2, 3], extensions: none() };
        "file_data_refused" => message FileData = FileData { refused: Some(FileRefusal::GONE), bytes: Vec::new(), extensions: none() };
        // Linking, and what own devices say to each other
        "device_link" => plain DeviceLink = device_link();
        "link_start" => message LinkStart = LinkStart { element: [0x41; 33], extensions: none() };
        "link_started" => message LinkStarted = LinkStarted { status: StartStatus::Started { element: [0x42; 33] }, extensions: none() };
        "link_started_refused" => message LinkStarted = LinkStarted { status: StartStatus::Refused(LinkReason::CLOSED), extensions: none() };
        "link_request" => plain LinkRequest = LinkRequest { name: "tablet".into(), kind: DeviceKind::Tablet, extensions: extensions() };
        "link_confirm" => message LinkConfirm = LinkConfirm { proof: [5; 32], sealed: vec![6; 40], extensions: none() };
        "link_grant" => plain LinkGrant = link_grant();
        "link_confirmed" => message LinkConfirmed = LinkConfirmed { status: ConfirmStatus::Granted { proof: [7; 32], sealed: vec![8; 300] }, extensions: none() };
        "link_confirmed_refused" => message LinkConfirmed = LinkConfirmed { status: ConfirmStatus::Refused(LinkReason::WRONG_CODE), extensions: none() };
        "link_done" => message LinkDone = LinkDone { proof: [9; 32], extensions: none() };
        "link_finished" => message LinkFinished = LinkFinished { is_known: true, extensions: none() };
        "device_card" => message DeviceCard = DeviceCard { name: "laptop".into(), kind: DeviceKind::Laptop, has_identity_key: true, extensions: extensions() };
        "device_renew" => message DeviceRenew = DeviceRenew { extensions: none() };
        "device_renewed" => message DeviceRenewed = DeviceRenewed { certificate: Some(Signed::sign(device_certificate(0, 1), &identity_secret(0))), extensions: none() };
        "device_rename" => message DeviceRename = DeviceRename { name: "old laptop".into(), extensions: none() };
        "device_renamed" => message DeviceRenamed = DeviceRenamed { is_done: true, extensions: none() };
        "device_reports" => message DeviceReports = DeviceReports { reports: vec![own_report(), OwnReport { device: device(2), report: DeviceReport::default() }], wants_answer: true, extensions: extensions() };
        "policy_text" => message PolicyText = PolicyText { version: 8, text: "version = 1\n".into(), extensions: none() };
        "linked_share" => message LinkedShare = LinkedShare { pieces: shared_pieces(), extensions: none() };
        "linked_share_sighting" => plain SharedPiece = shared_sighting();
        "told_links" => plain ToldLinks = told_links();
        "linked_ask" => message LinkedAsk = LinkedAsk { account: association_params().linked, question: LinkedQuestion::Look("xmpp:bob@there.example".parse().expect("an address")), extensions: none() };
        "linked_ask_token" => message LinkedAsk = LinkedAsk {
            account: association_params().linked,
            question: LinkedQuestion::Token { at: "xmpp:bob@there.example".parse().expect("an address"), token: "t-1".into() },
            extensions: none(),
        };
        "linked_ask_sign" => message LinkedAsk = LinkedAsk {
            account: association_params().linked,
            question: LinkedQuestion::Sign { last_serial: 3, is_revoked: false, merge: Some(Box::new(identity_merge())) },
            extensions: none(),
        };
        "linked_told_signed" => message LinkedTold = LinkedTold {
            reply: LinkedReply::Signed { association: Box::new(association()), leave: None },
            extensions: none(),
        };
        "linked_told" => message LinkedTold = LinkedTold { reply: LinkedReply::Token(Some([7; 32])), extensions: none() };
        "linked_told_removed" => message LinkedTold = LinkedTold { reply: LinkedReply::Removed { is_taken_back: true }, extensions: none() };
        // Calls
        "invite" => signed Invite = Signed::sign(invite(), &device_secret(0));
        "signal_accept" => signed Signal = signal(SignalBody::Accept { answer: "v=0".into() });
        "signal_ringing_early" => signed Signal = early_ringing();
        "signal_ringing_heard" => signed Signal = heard_ringing();
        "signal_decline" => signed Signal = signal(SignalBody::Decline { reason: Reason::BUSY });
        "signal_candidate" => signed Signal = signal(SignalBody::Candidate { candidate: "candidate:1 1 udp 1 192.0.2.1 9 typ host".into() });
        "signal_replaced" => signed Signal = signal(SignalBody::Replaced { by: device(2) });
        "call_invite" => message CallInvite = CallInvite { sealed: SealedInvite::from_bytes(vec![1; 1_024]).expect("within its size"), extensions: none() };
        "invite_answer" => message InviteAnswer = InviteAnswer { status: InviteStatus::Refused(Reason::NOT_ALLOWED), extensions: none() };
        "invite_answer_held" => message InviteAnswer = InviteAnswer { status: InviteStatus::Ringing, extensions: with_held(none(), 20) };
        "invite_hand_over" => message InviteHandOver = hand_over();
        "hand_over_answer" => message HandOverAnswer = HandOverAnswer {
            status: HandOverStatus::HandedOver {
                status: InviteStatus::Ringing,
                word: word_of(&signal(SignalBody::Ringing)),
            },
            extensions: none(),
        };
        "hand_over_answer_refused" => message HandOverAnswer = HandOverAnswer { status: HandOverStatus::Refused(HandOverReason::NO_RESERVATION), extensions: none() };
        "invite_handed_over" => message InviteHandedOver = InviteHandedOver { sealed: SealedInvite::from_bytes(vec![1; 1_024]).expect("within its size"), extensions: none() };
        "handed_over_answer" => message HandedOverAnswer = HandedOverAnswer { status: InviteStatus::Busy, word: Vec::new(), extensions: none() };
        "hand_over_rules" => message HandOverRules = HandOverRules { epoch: 3, revoked: vec![CapabilityId([5; 16])], extensions: none() };
        "signal_pass" => message SignalPass = SignalPass { signal: signal(SignalBody::Decline { reason: Reason::DECLINED }), extensions: none() };
        "signal_passed" => message SignalPassed = SignalPassed { status: PassStatus::Passed(SignalStatus::Taken), extensions: none() };
        "signal_passed_refused" => message SignalPassed = SignalPassed { status: PassStatus::Refused(HandOverReason::NO_INVITE), extensions: none() };
        "call_signal" => message CallSignal = CallSignal { signal: signal(SignalBody::HangUp { reason: Reason::HANGUP }), extensions: none() };
        "call_signal_ack" => message CallSignalAck = CallSignalAck { status: SignalStatus::Taken, extensions: none() };
        "introduction" => signed Introduction = introduction();
        "attendance" => signed Attendance = attendance();
        "conference_notice" => message ConferenceNotice = ConferenceNotice { attendance: attendance(), extensions: none() };
        "conference_noticed" => message ConferenceNoticed = ConferenceNoticed { status: AttendanceStatus::NoSuchLeg, extensions: none() };
        "conference_noticed_refused" => message ConferenceNoticed = ConferenceNoticed { status: AttendanceStatus::Refused(Reason::INVALID), extensions: none() };
        "call_trace_ask" => message CallTraceAsk = CallTraceAsk { call: CallId([1; 16]), extensions: none() };
        "call_traced" => message CallTraced = CallTraced { trace: Some(trace()), extensions: none() };
        "call_traced_nothing" => message CallTraced = CallTraced { trace: None, extensions: none() };
        "invite_to_conference" => signed Invite = Signed::sign(conference_invite(), &device_secret(0));
        "invite_to_telephone" => signed Invite = Signed::sign(telephone_invite(), &device_secret(0));
        "invite_from_telephone" => signed Invite = Signed::sign(Invite { extensions: TelephonePart::From(None).add_to(none()), ..invite() }, &device_secret(0));
        "invite_to_phone" => signed Invite = Signed::sign(Invite { extensions: PhonePart(PhoneMark::of("urn:uuid:00000000-0000-0000-0000-000000000001")).add_to(none()), ..invite() }, &device_secret(0));
        "conference_part" => plain ConferencePart = conference_part();
        // Capabilities and push
        "capability" => signed Capability = capability();
        "capability_proof" => signed CapabilityProof = CapabilityProof::sign(CapabilityId([5; 16]), keeper(0), [6; 32], NOW, &secret(90));
        "push_register" => message PushRegister = push_register();
        "push_register_services" => message PushRegister = push_register_services();
        "push_registered" => message PushRegistered = PushRegistered {
            status: RegisterStatus::Registered {
                handle: PushHandle([3; 32]),
                expires_at: NOW.plus_secs(30 * DAY),
                time: Box::new(Signed::sign(GatewayTime { gateway: keeper(0), at: NOW, extensions: none() }, &keeper_secret(0))),
                vapid_key: Some([4; 65]),
            },
            extensions: none(),
        };
        "push_registered_refused" => message PushRegistered = PushRegistered { status: RegisterStatus::Refused(PushReason::FULL), extensions: none() };
        "gateway_time" => signed GatewayTime = Signed::sign(GatewayTime { gateway: keeper(0), at: NOW, extensions: none() }, &keeper_secret(0));
        "phone_push" => message PhonePush = PhonePush {
            target: Some(PhoneTarget::Apns { team: "DEF123GHIJ".into(), topic: "com.example.app.voip".into(), token: vec![1, 2, 3] }),
            event: EventKind::VOICE_CALL,
            urgency: Urgency::High,
            ttl_secs: 60,
            extensions: none(),
        };
        "phone_push_query" => message PhonePush = PhonePush::query();
        "phone_pushed" => message PhonePushed = PhonePushed {
            status: PhonePushStatus::Gone(ChannelEnd::UNREGISTERED),
            ways: vec![PushWay::WebPush, PushWay::Apns],
            vapid_key: Some([4; 65]),
            extensions: none(),
        };
        "push_register_sip" => message PushRegister = push_register_sip();
        "push_keep" => message PushKeep = PushKeep { handle: PushHandle([3; 32]), entry_hash: [4; 32], extensions: none() };
        "push_kept" => message PushKept = PushKept { status: KeepStatus::Kept { until: NOW.plus_secs(DAY) }, extensions: none() };
        "push_kept_refused" => message PushKept = PushKept { status: KeepStatus::Refused(PushReason::UNKNOWN_HANDLE), extensions: none() };
        "push_sent_held" => message PushSent = PushSent { status: PushStatus::Accepted { ways: vec![PushWay::WebPush] }, extensions: with_held(none(), 20) };
        "push_choice" => message PushChoice = push_choice();
        "push_choice_none" => message PushChoice = PushChoice { version: 9, policy: None, reports: vec![], devices: vec![], presence: None, extensions: none() };
        "push_chosen" => message PushChosen = PushChosen { status: ChoiceStatus::Kept { version: 8 }, extensions: none() };
        "push_chosen_refused" => message PushChosen = PushChosen { status: ChoiceStatus::Refused(PushReason::UNKNOWN_HANDLE), extensions: none() };
        "push_withdraw" => message PushWithdraw = PushWithdraw { handle: PushHandle([3; 32]), request_hash: [5; 32], extensions: none() };
        "push_withdrawn" => message PushWithdrawn = PushWithdrawn { was_held: true, extensions: none() };
        "push_unregister" => message PushUnregister = PushUnregister { handle: PushHandle([3; 32]), extensions: none() };
        "push_unregistered" => message PushUnregistered = PushUnregistered { was_known: true, extensions: none() };
        "push_channel_gone" => message PushChannelGone = PushChannelGone {
            handle: PushHandle([3; 32]),
            fingerprint: PushChannel::Fcm { token: "fcm-token:APA91b".into() }.fingerprint(),
            way: PushWay::Fcm,
            reason: ChannelEnd::UNREGISTERED,
            at: NOW,
            extensions: none(),
        };
        "push_channel_gone_noted" => message PushChannelGoneNoted = PushChannelGoneNoted { was_known: true, extensions: none() };
        "push_send" => message PushSend = push_send();
        "push_sent" => message PushSent = PushSent { status: PushStatus::Accepted { ways: vec![PushWay::Stream, PushWay::WebPush] }, extensions: none() };
        "push_deliver" => message PushDeliver = PushDeliver { payload: push_payload().to_bytes(), extensions: none() };
        "push_delivered" => message PushDelivered = PushDelivered { status: DeliveredStatus::Ringing, extensions: none() };
        "push_arrived" => message PushArrived = PushArrived { sealed_hash: [9; 16], gateway: device(1), on_stream: false, status: DeliveredStatus::Ringing, extensions: none() };
        "push_arrived_noted" => message PushArrivedNoted = PushArrivedNoted { accepted: vec![device(1), device(2)], extensions: none() };
        "push_receipt" => message PushReceipt = PushReceipt { request_hash: [8; 32], way: PushWay::WebPush, result: Err(PushReason::GONE), extensions: none() };
        "event_notice" => signed EventNotice = Signed::sign(event_notice(), &device_secret(0));
        "outer_payload" => signed OuterPayload = Signed::sign(outer_payload(), &keeper_secret(0));
        "push_payload" => plain PushPayload = push_payload();
        "push_register_terms" => message PushRegister = PushRegister { extensions: put_other_gateways(session_terms().put(none()), &[helper(0)]), ..push_register() };
        "session_initiation" => signed SessionInitiation = session_initiation();
        "session_request" => message SessionRequest = SessionRequest { initiation: session_initiation(), extensions: none() };
        "session_requested" => message SessionRequested = SessionRequested { status: SessionStatus::Opening, extensions: none() };
        "session_requested_ignored" => message SessionRequested = SessionRequested { status: SessionStatus::Ignored(SessionReason::OTHER_CLIENT), extensions: none() };
        "session_open" => message SessionOpen = SessionOpen { initiation: session_initiation(), answers: Ok(session_answers()), extensions: none() };
        "session_open_refusal" => message SessionOpen = SessionOpen { initiation: session_initiation(), answers: Err(SessionReason::PREFERENCE), extensions: none() };
        "session_opened" => message SessionOpened = SessionOpened { status: SessionOutcome::Open { content: Some(b"mail".to_vec()) }, extensions: none() };
        "session_opened_refused" => message SessionOpened = SessionOpened { status: SessionOutcome::Refused(SessionReason::UNKNOWN), extensions: none() };
        "session_content" => message SessionContent = SessionContent { nonce: SessionNonce([8; 16]), application: Some(application()), content: b"mail".to_vec(), extensions: none() };
        "session_content_taken" => message SessionContentTaken = SessionContentTaken { result: Ok(()), extensions: none() };
        "hand_on" => signed HandOn = push_hand_on().word;
        "push_hand_on" => message PushHandOn = push_hand_on();
        "push_handed_on" => message PushHandedOn = PushHandedOn { result: Ok(vec![PushWay::Stream]), extensions: none() };
        "push_handed_on_refused" => message PushHandedOn = PushHandedOn { result: Err(PushReason::UNKNOWN_HANDLE), extensions: none() };
        // Authority
        "enrol_request_body" => signed EnrolRequestBody = enrol_request().body;
        "enrol_request" => message EnrolRequest = enrol_request();
        "code_request" => message CodeRequest = CodeRequest { chain: chain(0, 0), linked: linked_id("mailto:alice@example.org"), extensions: none() };
        "code_request_tagged" => message CodeRequest = CodeRequest { chain: chain(0, 0), linked: linked_id("sip:alice@example.org"), extensions: CodeTag::new(*b"0123456789ab").extensions() };
        "code_answer" => message CodeAnswer = CodeAnswer { result: CodeResult::Sent(1_800), extensions: none() };
        "code_refused" => message CodeAnswer = CodeAnswer {
            result: CodeResult::Refused(Refusal { code: RefusalCode::ADDRESS_KIND, detail: "mail alone".into() }), extensions: none(),
        };
        "code_show" => message CodeShow = CodeShow {
            chain: chain(0, 0), linked: linked_id("mailto:alice@example.org"), code: "01234567".into(), extensions: none(),
        };
        "code_shown" => message CodeShown = CodeShown { result: WordResult::Granted(Box::new(address_proof())), extensions: none() };
        "renew_request" => message RenewRequest = RenewRequest { chain: chain(0, 0), extensions: none() };
        "enrol_answer_granted" => message EnrolAnswer = EnrolAnswer {
            result: EnrolResult::Granted(Box::new(EnrolGrant {
                chain: user_chain(0, 1),
                revocations: Some(by_root(revocation_list(3, &[4], &[]))),
                bootstrap: Some(bootstrap()),
            })),
            extensions: none(),
        };
        "enrol_answer_refused" => message EnrolAnswer = EnrolAnswer {
            result: EnrolResult::Refused(Refusal { code: RefusalCode::NAME_TAKEN, detail: "alice has another key".into() }),
            extensions: none(),
        };
        "revocation_list_request" => message RevocationListRequest = RevocationListRequest { authority: authority(), have: 2, extensions: none() };
        "revocation_list_answer" => message RevocationListAnswer = RevocationListAnswer { list: Some(by_root(revocation_list(3, &[4], &[]))), extensions: none() };
        "relay_request" => message RelayRequest = RelayRequest { extensions: none() };
        "relay_grant" => message RelayGrant = RelayGrant {
            status: RelayStatus::Granted(RelayCredentials {
                addresses: vec![MediaAddress::V4([192, 0, 2, 1], 3_478), MediaAddress::V6([0x20; 16], 3_478)],
                username: "1800003600:0011223344556677".into(),
                password: "c2VjcmV0".into(),
                not_after: UnixTime(1_800_003_600),
            }),
            extensions: none(),
        };
        "relay_grant_refused" => message RelayGrant = RelayGrant { status: RelayStatus::Refused(RelayReason::NOT_ALLOWED), extensions: none() };
        "relay_grant_tls" => message RelayGrant = RelayGrant { status: RelayStatus::Refused(RelayReason::RATE), extensions: none() }
            .with_tls(MediaTls { addresses: vec![MediaAddress::V4([192, 0, 2, 1], 443)], certificate: [6; 32] });
        "relay_notice" => message RelayNotice = RelayNotice { reason: RelayReason::LEAVING, packets: 300, extensions: none() };
        // Mailboxes
        "mailbox_open" => message MailboxOpen = MailboxOpen { epoch: 2, revoked: vec![CapabilityId([5; 16])], has_door: true, extensions: none() };
        "mailbox_opened" => message MailboxOpened = MailboxOpened { status: OpenStatus::Opened { until: NOW.plus_secs(30 * DAY), waiting: 3 }, extensions: none() };
        "mailbox_opened_refused" => message MailboxOpened = MailboxOpened { status: OpenStatus::Refused(MailboxReason::FULL), extensions: none() };
        "mailbox_put" => message MailboxPut = mailbox_put(Some(admission()));
        "mailbox_put_door" => message MailboxPut = mailbox_put(None);
        "mailbox_kept" => message MailboxKept = MailboxKept { status: PutStatus::Kept { until: NOW.plus_secs(DAY) }, extensions: none() };
        "mailbox_kept_refused" => message MailboxKept = MailboxKept { status: PutStatus::Refused(MailboxReason::SHARE), extensions: none() };
        "mailbox_take" => message MailboxTake = MailboxTake { done: vec![1, 300], after: 300, extensions: none() };
        "mailbox_items" => message MailboxItems = MailboxItems {
            items: vec![MailboxItem { number: 300, kept_at: NOW, letter: sealed_letter() }],
            has_more: true,
            refused: None,
            extensions: none(),
        };
        "mailbox_news" => message MailboxNews = MailboxNews { extensions: none() };
        // Vaults
        "vault_look" => message VaultLook = VaultLook { extensions: none() };
        "vault_index" => message VaultIndex = VaultIndex { chunks: vec![ChunkMark { id: ChunkId([7; 16]), version: 300 }], refused: None, extensions: none() };
        "vault_index_refused" => message VaultIndex = VaultIndex { chunks: vec![], refused: Some(MailboxReason::NOT_SERVED), extensions: none() };
        "vault_fetch" => message VaultFetch = VaultFetch { ids: vec![ChunkId([7; 16])], extensions: none() };
        "vault_chunks" => message VaultChunks = VaultChunks {
            chunks: vec![HeldChunk { mark: ChunkMark { id: ChunkId([7; 16]), version: 300 }, chunk: vault_chunk() }],
            refused: None,
            extensions: none(),
        };
        "vault_put" => message VaultPut = VaultPut { id: ChunkId([7; 16]), base: 300, chunk: Some(vault_chunk()), extensions: none() };
        "vault_put_out" => message VaultPut = VaultPut { id: ChunkId([7; 16]), base: 300, chunk: None, extensions: none() };
        "vault_kept" => message VaultKept = VaultKept { status: VaultPutStatus::Kept { version: 301 }, extensions: none() };
        "vault_kept_conflict" => message VaultKept = VaultKept { status: VaultPutStatus::Conflict { version: 302 }, extensions: none() };
        "vault_kept_refused" => message VaultKept = VaultKept { status: VaultPutStatus::Refused(MailboxReason::FULL), extensions: none() };
        "vault_news" => message VaultNews = VaultNews { extensions: none() };
        "letter" => signed Letter = Signed::sign(letter(), &device_secret(0));
        "letter_sealed" => signed Letter = Signed::sign(Letter { content: Content::Sealed(sealed_message()), ..letter() }, &device_secret(0));
        "letter_unopened" => signed Letter = Signed::sign(Letter { content: Content::Unopened(unopened()), ..letter() }, &device_secret(0));
        // Sessions
        "one_time_key" => signed OneTimeKey = one_time_key();
        "key_fetch" => message KeyFetch = KeyFetch { extensions: extensions() };
        "key_fetched" => message KeyFetched = KeyFetched { key: Some(one_time_key()), extensions: none() };
        "key_fetched_none" => message KeyFetched = KeyFetched { key: None, extensions: none() };
        "mailbox_keys" => message MailboxKeys = MailboxKeys { batch: 70_000, keys: vec![one_time_key(); 2], extensions: none() };
        "mailbox_keys_kept" => message MailboxKeysKept = MailboxKeysKept { status: KeysStatus::Kept { batch: 70_000, left: 2 }, extensions: none() };
        "mailbox_keys_refused" => message MailboxKeysKept = MailboxKeysKept { status: KeysStatus::Refused(MailboxReason::NO_BOX), extensions: none() };
        "mailbox_key_fetch" => message MailboxKeyFetch = MailboxKeyFetch { device: device(1), admission: Some(admission()), extensions: none() };
        "mailbox_key_fetched" => message MailboxKeyFetched = MailboxKeyFetched { key: Some(one_time_key()), refused: None, extensions: none() };
        "mailbox_key_fetched_refused" => message MailboxKeyFetched = MailboxKeyFetched { key: None, refused: Some(MailboxReason::RATE), extensions: none() };
        "messages_unopened" => message MessagesUnopened = unopened();
        "bootstrap_list" => signed BootstrapList = bootstrap().list;
        "signed_bootstrap_list" => plain SignedBootstrapList = bootstrap();
        "invite_code" => plain InviteCode = invite_code();
    }
}
