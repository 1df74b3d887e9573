//! What happens without being asked for.
//!
//! Events are numbered and kept in a bounded history, so that a reader who lost its
//! connection goes on where it stopped. A slow reader never slows the node down: it is told
//! how many events it missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::call_media::CallDescription;
use super::calls::{CallOutcome, CallWay};
use super::devices::LinkStage;
use super::files::FileState;
use super::linked::LinkedPeer;
use super::messages::MessageState;
use super::presence::PresenceView;
use crate::timestamp::Timestamp;
use crate::wording::Notice;

/// Events a reader may be behind before it misses the oldest: a burst of a few seconds.
const LIVE_MAX: usize = 1_024;

/// Events kept for readers who come back; the oldest is dropped. A text message has at most
/// some kilobytes, so this stays within a few megabytes.
const HISTORY_MAX: usize = 1_024;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The node is ready: its record was read back through another node.
    Ready(Ready),
    /// A message arrived and is stored.
    MessageReceived {
        /// The message's id.
        message_id: String,
        /// Who wrote it, `name@authority`.
        from: String,
        /// Who that is in a linked system, by this user's contact list there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        linked: Option<LinkedPeer>,
        /// The id of the group to which it was said, if it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// The text.
        text: String,
        /// When its writer sent it, by their clock.
        sent_at: Timestamp,
        /// In how many seconds the person is told here, by `message_due`, unless it is read before: the user's policy has other devices tell of it first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        held_secs: Option<u16>,
        /// What the person reads or hears of it; none while it is held.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<Notice>,
    },
    /// It is this device's turn to tell of a message that it has, and nobody has read it.
    MessageDue {
        /// The message's id.
        message_id: String,
        /// Who wrote it, `name@authority`.
        from: String,
        /// Who that is in a linked system, by this user's contact list there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        linked: Option<LinkedPeer>,
        /// The id of the group to which it was said, if it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// The text.
        text: String,
        /// When its writer sent it, by their clock.
        sent_at: Timestamp,
        /// What the person reads or hears of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<Notice>,
    },
    /// Another of this user's devices has sent a message.
    MessageSent {
        /// The message's id.
        message_id: String,
        /// Whom it is for, `name@authority`; or the group's name.
        to: String,
        /// The group's id, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// The text.
        text: String,
        /// When it was sent.
        sent_at: Timestamp,
    },
    /// Messages of a conversation were read, here or on another of this user's devices.
    ConversationRead {
        /// With whom, `name@authority`; or the group's name.
        with: String,
        /// The group's id, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// How many are still unread.
        unread: u64,
        /// Whether they were read on another device.
        elsewhere: bool,
    },
    /// A contact is writing a message, or has stopped. It ends with the message that comes, too.
    Composing {
        /// Who, `name@authority`.
        from: String,
        /// For how many seconds, if nothing else is heard; 0: no longer.
        for_secs: u16,
    },
    /// Messages between others are missing, and nobody who was asked has them.
    MessageGap {
        /// With whom, `name@authority`; or the group's name.
        with: String,
        /// The group's id, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// How many.
        missing: u64,
    },
    /// Another of this user's devices has given messages that weren't here.
    HistoryReceived {
        /// The device's peer id.
        from_device: String,
        /// How many.
        messages: u64,
    },
    /// Somebody has added this user to a group.
    GroupInvited {
        /// The group's id.
        group: String,
        /// Its name.
        name: String,
        /// Who, `name@authority`.
        from: String,
        /// Whether this user takes part at once; else it waits for `accept` or `decline`.
        joined: bool,
    },
    /// A group has other members, or another name.
    GroupChanged {
        /// The group's id.
        group: String,
        /// Its name.
        name: String,
        /// Who has come, `name@authority`.
        added: Vec<String>,
        /// Who has gone.
        removed: Vec<String>,
    },
    /// This user is no member of a group any more.
    GroupLeft {
        /// The group's id.
        group: String,
        /// Its name.
        name: String,
    },
    /// A call was answered, declined or dismissed; on another of this user's devices if `elsewhere`.
    CallDismissed {
        /// The call.
        call_id: String,
        /// Where.
        elsewhere: bool,
    },
    /// A message of ours got further, or failed.
    MessageState {
        /// The message's id.
        message_id: String,
        /// Whom it is for, `name@authority`; or the group's name.
        to: String,
        /// The group's id, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// How far it has come.
        state: MessageState,
        /// Why it is no further, if that is known.
        reason: Option<String>,
    },
    /// Somebody has left a voicemail, and all of it is here.
    VoicemailReceived {
        /// Its id, the same as its message's.
        voicemail_id: String,
        /// Who left it, `name@authority`.
        from: String,
        /// The call that wasn't answered, if there was one.
        call_id: Option<String>,
        /// How long it is.
        duration_ms: u64,
        /// When it was left, by the clock of who left it.
        sent_at: Timestamp,
        /// What the person reads or hears of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<Notice>,
    },
    /// A voicemail was heard, here or on another of this user's devices.
    VoicemailHeard {
        /// Its id.
        voicemail_id: String,
        /// Who left it, `name@authority`.
        from: String,
        /// Whether it was heard on another device.
        elsewhere: bool,
    },
    /// A mail has come to an account that a device of this user watches.
    MailReceived {
        /// Its id: the same at every device.
        mail_id: String,
        /// What the user calls the account; `smtp` for one that a mail server delivered.
        account: String,
        /// What its sender calls themself; nobody has checked it.
        from_name: String,
        /// Its sender's address; nobody has checked it.
        from_address: String,
        /// Subject.
        subject: String,
        /// How its text begins.
        preview: String,
        /// Its date.
        sent_at: Timestamp,
        /// What the person reads or hears of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<Notice>,
    },
    /// A mail was read, or is gone: what was told of it is to be taken back. It may come for a mail that this device hasn't told of.
    MailRead {
        /// Names the mail.
        mail_id: String,
        /// What the user calls the account.
        account: String,
    },
    /// Somebody offers a file.
    FileOffered {
        /// The file.
        file_id: String,
        /// Who offers it, `name@authority`.
        from: String,
        /// Its name, harmless.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// What its sender says it is.
        media_type: String,
        /// What the person reads or hears of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<Notice>,
    },
    /// A file is that far; told at every twentieth of it.
    FileProgress {
        /// The file.
        file_id: String,
        /// Bytes the recipient has.
        bytes: u64,
        /// Of so many.
        size: u64,
        /// Bytes a second.
        rate: Option<u64>,
    },
    /// A file is in another state, or waits for something else.
    FileState {
        /// The file.
        file_id: String,
        /// The other side, `name@authority`.
        with: String,
        /// Whether it comes or goes.
        incoming: bool,
        /// Its state.
        state: FileState,
        /// Where it is on this machine.
        path: Option<String>,
        /// Why it doesn't go on, or didn't.
        problem: Option<String>,
    },
    /// Somebody asks to be a contact.
    ContactRequest {
        /// Who, `name@authority`.
        from: String,
        /// How they want to be called, as they say.
        display_name: String,
        /// Their words.
        text: String,
        /// What the person reads or hears of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<Notice>,
    },
    /// Somebody is a contact now.
    ContactAccepted {
        /// Who, `name@authority`.
        username: String,
    },
    /// Somebody has declined our request.
    ContactDeclined {
        /// Who, `name@authority`.
        username: String,
    },
    /// Somebody is no contact any more, or has withdrawn a request.
    ContactRemoved {
        /// Who, `name@authority`.
        username: String,
    },
    /// What is shown of a contact's presence has changed.
    Presence(PresenceView),
    /// A contact has another profile.
    ProfileChanged {
        /// Whose, `name@authority`.
        username: String,
    },
    /// We call somebody; where their own call rings here, that is answered instead, and is the one named.
    CallDialing {
        /// The call.
        call_id: String,
        /// Whom, `name@authority`.
        to: String,
        /// The newest that is known of their presence, if they are a contact.
        presence: Option<PresenceView>,
        /// The telephone number that this gateway is to call, or from which the call comes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        telephone: Option<String>,
        /// The one phone of theirs that is called, by its mark, 16 hexadecimal digits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phone: Option<String>,
    },
    /// Both had dialled: our call is withdrawn, and theirs goes on, answered.
    CallJoined {
        /// The call that goes on.
        call_id: String,
        /// Ours.
        instead_of: String,
    },
    /// Somebody calls us.
    CallIncoming {
        /// The call.
        call_id: String,
        /// Who calls, `name@authority`.
        from: String,
        /// Whether they offer video.
        video: bool,
        /// Whether this call woke the device.
        via_push: bool,
        /// The way on which the invite came first.
        via: CallWay,
        /// The conference they ask into, if it is one.
        conference_id: Option<String>,
        /// The call comes from the telephone network, and `from` is the gateway: from this number, by the word of the gateway's provider. Nobody has
        /// verified it; `withheld` where it isn't shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        telephone: Option<String>,
        /// For a telephone gateway: the number that it is to call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dialled: Option<String>,
        /// For an edge of SIP phones: the one phone that is called, by its mark, 16 hexadecimal digits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phone: Option<String>,
        /// The contact in a linked system as whom they call, if they are no contact here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        linked: Option<LinkedPeer>,
        /// What the person reads or hears of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<Notice>,
    },
    /// A call came too late to ring: its push was brought after its time, or after the caller had given up.
    CallMissed {
        /// The call.
        call_id: String,
        /// Who called, `name@authority`.
        from: String,
        /// Whether they offered video.
        video: bool,
        /// When, by the caller's clock.
        called_at: Timestamp,
        /// What the person reads or hears of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<Notice>,
    },
    /// A call came, and the user's policy has other devices ring before this one.
    CallHeld {
        /// The call.
        call_id: String,
        /// Who calls.
        from: String,
        /// In how many seconds it rings here, unless somebody answers before.
        after_secs: u16,
        /// Why.
        detail: String,
    },
    /// A device of whom we call rings.
    CallRinging {
        /// The call.
        call_id: String,
        /// The device's peer id.
        peer_id: String,
    },
    /// The call was answered, by us or by them.
    CallAnswered {
        /// The call.
        call_id: String,
        /// The peer id of the device that answered.
        answered_by: String,
    },
    /// A call was answered whose media are the embedder's: what the other end says of them.
    CallDescription(CallDescription),
    /// The other end of a call whose media are the embedder's has one more candidate, or takes one back (`remove-` before it).
    CallCandidate {
        /// The call.
        call_id: String,
        /// The attribute as SDP has it.
        candidate: String,
    },
    /// Somebody takes part in a conference of this device.
    ConferenceJoined {
        /// The conference.
        conference_id: String,
        /// The call between us and them.
        call_id: String,
        /// Who, `name@authority`.
        username: String,
        /// Whether they are a contact.
        is_contact: bool,
        /// On whose word they are there, `name@authority`, if neither side has called the other by itself.
        introduced_by: Option<String>,
    },
    /// The other end of a call has pressed a key.
    CallKey {
        /// The call.
        call_id: String,
        /// Which: `0` to `9`, `*`, `#`, `A` to `D`.
        key: String,
    },
    /// Somebody doesn't take part any more.
    ConferenceLeft {
        /// The conference.
        conference_id: String,
        /// The call that was between us and them.
        call_id: String,
        /// Who, `name@authority`.
        username: String,
        /// Why, in words.
        reason: String,
    },
    /// The call is over.
    CallEnded(CallOutcome),
    /// The node fell asleep.
    Suspended {
        /// Whether it took leave first.
        clean: bool,
    },
    /// The node is awake again.
    Woken {
        /// For how long it slept.
        suspended_ms: u64,
        /// Whether a push message woke it.
        by_push: bool,
    },
    /// A push message arrived.
    PushReceived {
        /// The channel: `stream`, `webpush`, ..
        kind: String,
        /// The call it announces, if any.
        call_id: Option<String>,
        /// The message it holds or announces, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message_id: Option<String>,
    },
    /// A push told of something that waits in this device's mailboxes and is too long for a push. It is being fetched.
    MessageWaiting {
        /// The message's id.
        message_id: String,
        /// Who left it, `name@authority`.
        from: String,
        /// What it is: `message`, `voicemail`, ..
        kind: String,
        /// What the person reads or hears of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<Notice>,
    },
    /// A device tells us, itself, that a push of ours has come to it.
    PushArrived {
        /// The device's peer id.
        peer_id: String,
        /// Peer id of the gateway that brought it.
        gateway: String,
        /// Whether it came on the gateway's stream; else a push service woke the device.
        on_stream: bool,
        /// What the device did with it: `ringing`, `taken`, `duplicate`, `expired` or `invalid`.
        status: String,
        /// The call it was for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call_id: Option<String>,
        /// The message it was for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message_id: Option<String>,
    },
    /// A gateway says that a push service has ended a channel of this device: it wakes nobody any more.
    PushChannelGone {
        /// The registration's id.
        id: String,
        /// The channel: `webpush`, `fcm`, ..
        kind: String,
        /// The gateway's peer id.
        gateway: String,
        /// Why.
        reason: String,
    },
    /// A gateway that this device is subscribed to asks for a session.
    PushSessionRequested {
        /// Names the request.
        id: String,
        /// The gateway's peer id.
        gateway: String,
        /// What is done: `opening`, `asking`, `refused`.
        status: String,
        /// Why it is refused, in a word.
        reason: Option<String>,
        /// The application it is for.
        application: Option<super::push_sessions::PushApplication>,
    },
    /// An application is to be activated, for a session.
    PushApplicationActivated {
        /// The request.
        id: String,
        /// Which application.
        application: super::push_sessions::PushApplication,
    },
    /// A session is open. At the gateway too.
    PushSessionOpened {
        /// The request it follows from.
        id: String,
        /// The other end's peer id.
        peer_id: String,
    },
    /// Content came over a session, or with it.
    PushContent {
        /// The push, or the request that it came with.
        id: String,
        /// The server's peer id.
        gateway: String,
        /// The application it is for.
        application: Option<super::push_sessions::PushApplication>,
        /// The content, base64url without padding.
        content: String,
    },
    /// A peer connected.
    PeerUp {
        /// Its peer id.
        peer_id: String,
        /// Its user, if it showed a certificate.
        username: Option<String>,
    },
    /// The last connection to a peer closed.
    PeerDown {
        /// Its peer id.
        peer_id: String,
        /// Its user, if it showed a certificate.
        username: Option<String>,
    },
    /// A known name came with another identity key: somebody should look.
    IdentityChanged {
        /// Whose, `name@authority`.
        username: String,
        /// The key known so far.
        old_identity: String,
        /// The key seen now.
        new_identity: String,
    },
    /// This home's certificate is new.
    Enrolled {
        /// `name@authority`.
        username: String,
        /// Until when it is valid.
        not_after: Timestamp,
    },
    /// This device's directory entry is stored, in its newest form.
    Published {
        /// How many directory servers acknowledged it.
        replicas: u32,
    },
    /// A newer revocation list arrived.
    RevocationList {
        /// The authority's label.
        authority: String,
        /// The list's number.
        number: u64,
    },
    /// Contacts are back: this home was made anew, or linked, and has read the user's vault.
    VaultRead {
        /// People read at first.
        people: u32,
    },
    /// A new device is being linked.
    DeviceLinking {
        /// How far it is.
        stage: LinkStage,
        /// The device's peer id, once one has come.
        peer_id: Option<String>,
        /// What it calls itself, once it has proved to know the code.
        name: Option<String>,
    },
    /// The user has removed a device, this one or another.
    DeviceRevoked {
        /// Its peer id.
        peer_id: String,
        /// Its name, if it is known.
        name: Option<String>,
        /// Whether it is this very device: then nobody believes it any more, and it publishes nothing.
        is_this: bool,
    },
    /// Something works less well than it could.
    Warning {
        /// A stable word: `clock-offset`, `no-peers`, `not-published`, ..
        code: String,
        /// What, in words.
        detail: String,
    },
    /// The node is going down.
    Stopping {},
    /// The reader was too slow, or came back too late, and missed events.
    Missed {
        /// How many of this run's events; 0 when the node was restarted in between.
        count: u64,
    },
}

/// The node is ready; the first line of `halloo run --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    /// This device's libp2p peer id.
    pub peer_id: String,
    /// Multiaddresses it listens on.
    pub listen: Vec<String>,
    /// Where its API listens: `unix:PATH` or `IP:PORT`; `None` without one.
    pub api: Option<String>,
    /// Roles in force.
    pub roles: Vec<String>,
}

impl Event {
    /// The event's name: the JSON field `event`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ready(_) => "ready",
            Self::MessageReceived { .. } => "message_received",
            Self::MessageDue { .. } => "message_due",
            Self::MessageState { .. } => "message_state",
            Self::VoicemailReceived { .. } => "voicemail_received",
            Self::VoicemailHeard { .. } => "voicemail_heard",
            Self::MailReceived { .. } => "mail_received",
            Self::MailRead { .. } => "mail_read",
            Self::FileOffered { .. } => "file_offered",
            Self::FileProgress { .. } => "file_progress",
            Self::FileState { .. } => "file_state",
            Self::MessageSent { .. } => "message_sent",
            Self::ConversationRead { .. } => "conversation_read",
            Self::Composing { .. } => "composing",
            Self::MessageGap { .. } => "message_gap",
            Self::HistoryReceived { .. } => "history_received",
            Self::GroupInvited { .. } => "group_invited",
            Self::GroupChanged { .. } => "group_changed",
            Self::GroupLeft { .. } => "group_left",
            Self::CallDismissed { .. } => "call_dismissed",
            Self::ContactRequest { .. } => "contact_request",
            Self::ContactAccepted { .. } => "contact_accepted",
            Self::ContactDeclined { .. } => "contact_declined",
            Self::ContactRemoved { .. } => "contact_removed",
            Self::Presence(_) => "presence",
            Self::ProfileChanged { .. } => "profile_changed",
            Self::CallDialing { .. } => "call_dialing",
            Self::CallJoined { .. } => "call_joined",
            Self::CallIncoming { .. } => "call_incoming",
            Self::CallMissed { .. } => "call_missed",
            Self::CallHeld { .. } => "call_held",
            Self::CallRinging { .. } => "call_ringing",
            Self::CallAnswered { .. } => "call_answered",
            Self::CallDescription(_) => "call_description",
            Self::CallCandidate { .. } => "call_candidate",
            Self::ConferenceJoined { .. } => "conference_joined",
            Self::CallKey { .. } => "call_key",
            Self::ConferenceLeft { .. } => "conference_left",
            Self::CallEnded(_) => "call_ended",
            Self::Suspended { .. } => "suspended",
            Self::Woken { .. } => "woken",
            Self::PushReceived { .. } => "push_received",
            Self::PushArrived { .. } => "push_arrived",
            Self::PushChannelGone { .. } => "push_channel_gone",
            Self::PushSessionRequested { .. } => "push_session_requested",
            Self::PushApplicationActivated { .. } => "push_application_activated",
            Self::PushSessionOpened { .. } => "push_session_opened",
            Self::PushContent { .. } => "push_content",
            Self::MessageWaiting { .. } => "message_waiting",
            Self::PeerUp { .. } => "peer_up",
            Self::PeerDown { .. } => "peer_down",
            Self::IdentityChanged { .. } => "identity_changed",
            Self::Enrolled { .. } => "enrolled",
            Self::Published { .. } => "published",
            Self::RevocationList { .. } => "revocation_list",
            Self::VaultRead { .. } => "vault_read",
            Self::DeviceLinking { .. } => "device_linking",
            Self::DeviceRevoked { .. } => "device_revoked",
            Self::Warning { .. } => "warning",
            Self::Stopping {} => "stopping",
            Self::Missed { .. } => "missed",
        }
    }
}

/// An event with its number and time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventRecord {
    /// Grows by one with every event, also over restarts of the node: the first id of a run
    /// is the time of its start in microseconds.
    pub id: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// The event loop's end: numbers events and hands them to all readers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventSender(Arc<Hub>);

#[derive(Debug)]
struct Hub {
    live: broadcast::Sender<Arc<EventRecord>>,
    history: Mutex<History>,
}

#[derive(Debug)]
struct History {
    /// The id of this run's first event.
    first_id: u64,
    next_id: u64,
    records: VecDeque<Arc<EventRecord>>,
}

/// A reader's end. Ends when the event loop and all handles are gone.
#[derive(Debug)]
pub struct EventStream {
    /// What is to be told before the live events.
    replay: VecDeque<Arc<EventRecord>>,
    live: broadcast::Receiver<Arc<EventRecord>>,
    /// The id of the last record given out or skipped.
    last_id: u64,
}

impl EventSender {
    pub(super) fn new() -> Self {
        let first_id = Timestamp::now().unix_ms().saturating_mul(1_000).max(1);
        let history = History { first_id, next_id: first_id, records: VecDeque::new() };
        let history = Mutex::new(history);
        Self(Arc::new(Hub { live: broadcast::Sender::new(LIVE_MAX), history }))
    }

    /// Numbers an event, remembers it and hands it to all readers. Never waits.
    pub fn send(&self, event: Event) -> u64 {
        // A panic while the lock was held can't leave the history half changed.
        let mut history = self.0.history.lock().unwrap_or_else(PoisonError::into_inner);
        let id = history.next_id;
        history.next_id += 1;
        let record = Arc::new(EventRecord { id, at: Timestamp::now(), event });
        if history.records.len() == HISTORY_MAX {
            history.records.pop_front();
        }
        history.records.push_back(Arc::clone(&record));
        // Sent under the lock, so that readers see ids in order. No reader is no error.
        let _readers = self.0.live.send(record);
        id
    }

    pub(super) fn subscribe(&self) -> EventStream {
        let history = self.0.history.lock().unwrap_or_else(PoisonError::into_inner);
        let last_id = history.next_id.saturating_sub(1);
        EventStream { replay: VecDeque::new(), live: self.0.live.subscribe(), last_id }
    }

    pub(super) fn subscribe_after(&self, last_id: u64) -> EventStream {
        let history = self.0.history.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = history.next_id.saturating_sub(1);
        // An id from the future was never ours; the reader gets what is new from here on.
        let last_id = last_id.min(newest);
        let mut replay: VecDeque<_> = history.records.iter().filter(|record| record.id > last_id).cloned().collect();
        let oldest = replay.front().map_or(history.next_id, |record| record.id);
        if last_id + 1 < oldest {
            let count = oldest - history.first_id.max(last_id + 1);
            replay.push_front(Arc::new(missed_record(oldest - 1, count)));
        }
        EventStream { replay, live: self.0.live.subscribe(), last_id }
    }
}

fn missed_record(id: u64, count: u64) -> EventRecord {
    EventRecord { id, at: Timestamp::now(), event: Event::Missed { count } }
}

impl EventStream {
    /// The next event; `None` when the node is gone. Cancel safe.
    ///
    /// A reader that was too slow gets [`Event::Missed`] and goes on with the oldest event
    /// still at hand.
    pub async fn recv(&mut self) -> Option<EventRecord> {
        if let Some(record) = self.replay.pop_front() {
            self.last_id = record.id;
            return Some(Arc::unwrap_or_clone(record));
        }
        loop {
            match self.live.recv().await {
                // Told by the replay already.
                Ok(record) if record.id <= self.last_id => {}
                Ok(record) => {
                    self.last_id = record.id;
                    return Some(Arc::unwrap_or_clone(record));
                }
                Err(RecvError::Lagged(count)) => {
                    self.last_id = self.last_id.saturating_add(count);
                    return Some(missed_record(self.last_id, count));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(detail: usize) -> Event {
        Event::Warning { code: "test".to_owned(), detail: detail.to_string() }
    }

    #[tokio::test]
    async fn a_reader_goes_on_where_it_stopped() {
        let events = EventSender::new();
        let ids: Vec<_> = (0..3).map(|n| events.send(warning(n))).collect();
        let mut stream = events.subscribe_after(ids[0]);
        let fourth = events.send(warning(3));
        for id in [ids[1], ids[2], fourth] {
            assert_eq!(stream.recv().await.map(|record| record.id), Some(id));
        }
        drop(events);
        assert_eq!(stream.recv().await, None);
    }

    #[tokio::test]
    async fn a_reader_who_comes_back_too_late_is_told() {
        let events = EventSender::new();
        let first = events.send(warning(0));
        for n in 0..HISTORY_MAX + 4 {
            events.send(warning(n));
        }
        let mut stream = events.subscribe_after(first);
        let record = stream.recv().await.expect("a record");
        assert_eq!(record.event, Event::Missed { count: 4 });
        assert_eq!(stream.recv().await.map(|next| next.id), Some(record.id + 1));
    }

    #[tokio::test]
    async fn a_reader_from_before_a_restart_is_told() {
        let events = EventSender::new();
        events.send(warning(0));
        let mut stream = events.subscribe_after(17);
        let record = stream.recv().await.expect("a record");
        assert_eq!(record.event, Event::Missed { count: 0 });
        assert!(matches!(stream.recv().await, Some(EventRecord { event: Event::Warning { .. }, .. })));
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_missed() {
        let events = EventSender::new();
        let mut stream = events.subscribe();
        for n in 0..LIVE_MAX + 7 {
            events.send(warning(n));
        }
        let record = stream.recv().await.expect("a record");
        assert_eq!(record.event, Event::Missed { count: 7 });
        assert_eq!(stream.recv().await.map(|next| next.id), Some(record.id + 1));
    }

    #[test]
    fn an_event_is_one_flat_object_with_its_name() {
        let ready = Ready { peer_id: "12D3".to_owned(), ..Ready::default() };
        let record = EventRecord { id: 5, at: Timestamp::default(), event: Event::Ready(ready) };
        let json = serde_json::to_value(&record).expect("serialises");
        let expected = serde_json::json!({
            "id": 5, "at": "1970-01-01T00:00:00.000Z", "event": "ready",
            "peer_id": "12D3", "listen": [], "api": null, "roles": [],
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<EventRecord>(json).expect("parses"), record);
        assert_eq!(record.event.name(), "ready");
    }
}
