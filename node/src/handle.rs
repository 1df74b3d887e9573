//! The handle to a running node: what an embedder, the local API and the tests talk to.
//!
//! A [`Node`] is cheap to clone and owns nothing but the sending half of a bounded channel.
//! The event loop at the other end owns the swarm and all state; it takes a [`Command`],
//! does the work, and answers through the [`Reply`] the command carries. What happens
//! without being asked for arrives as an [`Event`] through [`Node::subscribe`].
//!
//! [`channel`] makes the three ends: handle, receiver of commands, sender of events.
//!
//! Every method may be cancelled by dropping its future. The command may still be carried
//! out; the exception is [`Calls::dial`](calls::Calls::dial), where dropping the future means
//! hanging up.
//!
//! No locks but the one around the event history, which is never held across an `await`.

use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot};

pub mod authority;
pub mod call_media;
pub mod calls;
pub mod choice;
pub mod contacts;
pub mod devices;
pub mod directory;
pub mod events;
pub mod files;
pub mod groups;
pub mod history;
pub mod linked;
pub mod messages;
pub mod network;
pub mod power;
pub mod presence;
pub mod problem;
pub mod push;
pub mod push_sessions;
pub mod sip;
pub mod totals;
pub mod voicemail;
pub mod waiting;

use authority::{
    Authority, AuthorityCertified, AuthorityError, AuthorityInvite, AuthorityLog, AuthorityRevocation, AuthorityStatus,
    EnrolError, EnrolOptions, Enrolled, InviteOptions,
};
use calls::{
    AddOptions, AnswerOptions, CallAdded, CallEntry, CallError, CallList, CallOutcome, CallRejoined, Calls, DialOptions,
};
use choice::ChoiceCommand;
use contacts::{ContactCommand, Contacts};
use devices::{DeviceCommand, Devices};
use directory::{Directory, ResolveError, ResolveOptions, Resolved};
pub use events::{Event, EventRecord, EventSender, EventStream};
use files::{FileCommand, Files};
use groups::{GroupCommand, Groups};
use halloo_protocol::push::phone::{PhonePush, PhonePushed};
use history::{History, HistoryCommand};
use messages::{
    ComposingTold, ConversationList, MessageError, MessageList, MessageListOptions, MessageStatus, Messages, ReadOutcome,
};
use network::{Diagnosis, Explanation, MediaRelays, NetworkError, PeerList, RelayUsage, Status, WhyError};
use power::{PowerError, SuspendOptions, Suspended, WakeOutcome};
use presence::{Presence, PresenceCommand};
use problem::NodeError;
use push::{Push, PushError, PushList, PushRegistration, PushRemoved, PushTarget, PushTest};
use totals::{Publication, Renewal, Totals};
use voicemail::{VoicemailCommand, Voicemails};

/// Commands that may wait for the event loop. A full channel makes callers wait, which is the
/// back-pressure we want: the local API caps its own number of requests.
const COMMANDS_MAX: usize = 256;

/// A cloneable handle to a running node.
///
/// The node keeps running when all handles are gone only if something else keeps its event
/// loop alive; the loop ends when the last handle is dropped or on [`Node::shutdown`].
#[derive(Clone, Debug)]
pub struct Node {
    commands: mpsc::Sender<Command>,
    events: EventSender,
    /// The SIP edge, once one serves this node.
    sip: Arc<OnceLock<mpsc::Sender<sip::SipCommand>>>,
}

/// The event loop's end of the command channel.
#[derive(Debug)]
pub struct CommandReceiver(mpsc::Receiver<Command>);

/// Where the event loop puts the answer to one command.
#[derive(Debug)]
#[must_use = "a dropped reply tells the caller that the node stopped"]
pub struct Reply<T, E>(oneshot::Sender<Result<T, E>>);

/// What the event loop can be asked to do. Each variant carries where its answer goes.
///
/// Usernames are passed as the user wrote them; the event loop parses them and answers
/// [`UsernameError`](problem::UsernameError) if it can't.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum Command {
    /// [`Node::status`]
    Status(Reply<Status, NetworkError>),
    /// [`Node::peers`]
    Peers(Reply<PeerList, NetworkError>),
    RelayUsage(Reply<RelayUsage, NetworkError>),
    MediaRelays(Reply<MediaRelays, NetworkError>),
    /// [`Node::doctor`]
    Doctor(Reply<Diagnosis, NetworkError>),
    /// [`Node::why`]
    Why {
        user: String,
        reply: Reply<Explanation, WhyError>,
    },
    /// [`Directory::resolve`]
    Resolve {
        user: String,
        options: ResolveOptions,
        reply: Reply<Resolved, ResolveError>,
    },
    /// [`Node::totals`]
    Totals(Reply<Totals, NetworkError>),
    /// [`Node::disconnect`]
    Disconnect {
        peer_id: String,
        reply: Reply<(), NetworkError>,
    },
    /// [`Directory::publish`]
    Publish(Reply<Publication, NetworkError>),
    /// [`Directory::renew_lease`]
    RenewLease(Reply<Renewal, NetworkError>),
    /// [`Messages::send`]
    MessageSend {
        to: String,
        text: String,
        reply: Reply<MessageStatus, MessageError>,
    },
    /// [`Messages::wait`]; the caller bounds the time, the loop drops closed replies.
    MessageWait {
        id: String,
        reply: Reply<MessageStatus, MessageError>,
    },
    /// [`Messages::list`]
    MessageList {
        user: String,
        options: MessageListOptions,
        reply: Reply<MessageList, MessageError>,
    },
    /// [`Files`]
    Files(FileCommand),
    /// Media in the embedder's hands.
    CallMedia(call_media::CallMediaCommand),
    /// [`Voicemails`]
    Voicemail(VoicemailCommand),
    /// [`History`]
    History(HistoryCommand),
    /// [`Messages::conversations`]
    Conversations(Reply<ConversationList, MessageError>),
    /// [`Messages::composing`]
    Composing {
        with: String,
        for_secs: u16,
        reply: Reply<ComposingTold, MessageError>,
    },
    /// What the desk of an account's phones asks.
    Waiting(waiting::WaitingCommand),
    /// [`Messages::mark_read`]
    MarkRead {
        with: String,
        up_to: Option<String>,
        reply: Reply<ReadOutcome, MessageError>,
    },
    /// [`Groups`]
    Groups(GroupCommand),
    /// [`Contacts`]
    Contacts(ContactCommand),
    /// [`Presence`]
    Presence(PresenceCommand),
    /// [`Devices`]
    Devices(DeviceCommand),
    /// [`Calls::dial`]; answered when the call is over. A closed reply means: hang up.
    CallDial {
        options: DialOptions,
        reply: Reply<CallOutcome, CallError>,
    },
    /// [`Calls::list`]
    CallList(Reply<CallList, CallError>),
    /// [`Calls::show`]
    CallShow {
        call_id: String,
        reply: Reply<CallEntry, CallError>,
    },
    /// [`Calls::answer`]
    CallAnswer {
        call_id: String,
        options: AnswerOptions,
        reply: Reply<(), CallError>,
    },
    /// [`Calls::decline`]
    CallDecline {
        call_id: String,
        reason: halloo_protocol::call::Reason,
        reply: Reply<(), CallError>,
    },
    /// [`Calls::dismiss`]
    CallDismiss {
        call_id: String,
        reply: Reply<(), CallError>,
    },
    /// [`Calls::add`]; answered when they take part or won't. A closed reply means: give up.
    CallAdd {
        call_id: String,
        options: AddOptions,
        reply: Reply<CallAdded, CallError>,
    },
    /// [`Calls::connect`]
    CallConnect {
        call_id: String,
        with: String,
        reply: Reply<bool, CallError>,
    },
    /// [`Calls::press`]
    CallPress {
        call_id: String,
        keys: String,
        reply: Reply<(), CallError>,
    },
    /// [`Calls::rejoin`]
    CallRejoin {
        call_id: String,
        options: AnswerOptions,
        reply: Reply<CallRejoined, CallError>,
    },
    /// [`Calls::hangup`]
    CallHangup {
        call_id: String,
        reply: Reply<(), CallError>,
    },
    /// [`Push::register`]
    PushRegister {
        target: PushTarget,
        reply: Reply<PushRegistration, PushError>,
    },
    /// [`Push::unregister`]
    PushUnregister {
        id: String,
        reply: Reply<PushRemoved, PushError>,
    },
    /// What devices report, and the push policy.
    Choice(ChoiceCommand),
    /// [`Links`](linked::Links)
    Linked(linked::LinkedCommand),
    /// [`Push::list`]
    PushList(Reply<PushList, PushError>),
    /// Sessions that gateways ask for.
    PushSessions(push_sessions::PushSessionCommand),
    /// [`Push::test`]
    PushTest(Reply<PushTest, PushError>),
    /// The SIP edge beside the node takes what its gateway pushes to phones.
    AttachSip(mpsc::Sender<crate::roles::gateway::sip::SipPush>),
    /// [`Push::phone`]
    PhonePush {
        gateway: Option<String>,
        request: Box<PhonePush>,
        reply: Reply<PhonePushed, PushError>,
    },
    /// [`Node::suspend`]
    Suspend {
        options: SuspendOptions,
        reply: Reply<Suspended, PowerError>,
    },
    /// [`Node::wake`]
    Wake {
        payload: Option<Vec<u8>>,
        reply: Reply<WakeOutcome, PowerError>,
    },
    /// [`Node::enrol`]
    Enrol {
        options: EnrolOptions,
        reply: Reply<Enrolled, EnrolError>,
    },
    /// [`Authority::show`]
    AuthorityShow(Reply<AuthorityStatus, AuthorityError>),
    /// [`Authority::invite`]
    AuthorityInvite {
        options: InviteOptions,
        reply: Reply<AuthorityInvite, AuthorityError>,
    },
    /// [`Authority::revoke`]
    AuthorityRevoke {
        user: String,
        reply: Reply<AuthorityRevocation, AuthorityError>,
    },
    /// [`Authority::certify`]
    AuthorityCertify {
        user: String,
        id: String,
        is_certified: bool,
        reply: Reply<AuthorityCertified, AuthorityError>,
    },
    /// [`Authority::log`]
    AuthorityLog(Reply<AuthorityLog, AuthorityError>),
    /// [`Node::shutdown`]; answered when goodbyes are said and the store is closed.
    Shutdown(Reply<(), NodeError>),
}

/// Makes a handle and the two ends the event loop keeps.
#[must_use]
pub fn channel() -> (Node, CommandReceiver, EventSender) {
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let events = EventSender::new();
    let node = Node { commands, events: events.clone(), sip: Arc::default() };
    (node, CommandReceiver(receiver), events)
}

impl Node {
    /// Look-ups of users.
    #[must_use]
    pub fn directory(&self) -> Directory<'_> {
        Directory(self)
    }

    /// Messages to and from users.
    #[must_use]
    pub fn messages(&self) -> Messages<'_> {
        Messages(self)
    }

    /// What was said: searched, taken out, brought back.
    #[must_use]
    pub fn history(&self) -> History<'_> {
        History(self)
    }

    /// Files, offered and fetched.
    #[must_use]
    pub fn files(&self) -> Files<'_> {
        Files(self)
    }

    /// Voicemail, left and to be heard.
    #[must_use]
    pub fn voicemail(&self) -> Voicemails<'_> {
        Voicemails(self)
    }

    /// Groups: founding, members, texts.
    #[must_use]
    pub fn groups(&self) -> Groups<'_> {
        Groups(self)
    }

    /// Contacts, the own profile, and who may do what.
    #[must_use]
    pub fn contacts(&self) -> Contacts<'_> {
        Contacts(self)
    }

    /// What contacts see of each other.
    #[must_use]
    pub fn presence(&self) -> Presence<'_> {
        Presence(self)
    }

    /// The user's own devices.
    #[must_use]
    pub fn devices(&self) -> Devices<'_> {
        Devices(self)
    }

    /// Calls, out and in.
    #[must_use]
    pub fn calls(&self) -> Calls<'_> {
        Calls(self)
    }

    /// Registrations that let a gateway wake this device.
    #[must_use]
    pub fn push(&self) -> Push<'_> {
        Push(self)
    }

    /// The authority role; fails with `NotAnAuthority` on other nodes.
    #[must_use]
    pub fn authority(&self) -> Authority<'_> {
        Authority(self)
    }

    /// The SIP edge, if there is one.
    #[must_use]
    pub fn sip(&self) -> sip::Sip<'_> {
        sip::Sip(self)
    }

    /// Accounts in other systems, whose contacts can call here.
    #[must_use]
    pub fn links(&self) -> linked::Links<'_> {
        linked::Links(self)
    }

    /// An edge serves this node. False if another one does.
    #[doc(hidden)]
    #[must_use]
    pub fn attach_sip(&self, edge: mpsc::Sender<sip::SipCommand>) -> bool {
        self.sip.set(edge).is_ok()
    }

    /// Tells of something that its owner should see to.
    pub(crate) fn warn(&self, code: &str, detail: String) {
        self.events.send(Event::Warning { code: code.to_owned(), detail });
    }

    /// The edge takes what this node's gateway, if it is one, pushes to phones.
    pub(crate) async fn take_sip_pushes(&self, edge: mpsc::Sender<crate::roles::gateway::sip::SipPush>) {
        // A node that has ended pushes nothing.
        let _ = self.commands.send(Command::AttachSip(edge)).await;
    }

    /// Everything that happens from now on. See [`EventStream`] for what a slow reader misses.
    #[must_use]
    pub fn subscribe(&self) -> EventStream {
        self.events.subscribe()
    }

    /// Everything after the event `last_id`, as far as the bounded history reaches, then what
    /// happens from now on.
    #[must_use]
    pub fn subscribe_after(&self, last_id: u64) -> EventStream {
        self.events.subscribe_after(last_id)
    }

    /// Says goodbye to peers, closes the store and ends the event loop.
    ///
    /// # Errors
    /// [`NodeError::Stopped`] if it had ended already.
    pub async fn shutdown(&self) -> Result<(), NodeError> {
        self.ask(Command::Shutdown).await
    }

    /// Whether the event loop has ended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.commands.is_closed()
    }

    /// Sends one command and waits for its answer.
    async fn ask<T, E: From<NodeError>>(&self, command: impl FnOnce(Reply<T, E>) -> Command) -> Result<T, E> {
        let (sender, receiver) = oneshot::channel();
        let sent = self.commands.send(command(Reply(sender))).await;
        sent.map_err(|_| NodeError::Stopped)?;
        receiver.await.map_err(|_| NodeError::Stopped)?
    }
}

impl CommandReceiver {
    /// The next command; `None` when the last handle is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<Command> {
        self.0.recv().await
    }

    /// Refuses further commands; those already waiting can still be received.
    pub fn close(&mut self) {
        self.0.close();
    }
}

impl<T, E> Reply<T, E> {
    /// Answers the caller. One who no longer waits is no error.
    pub fn send(self, answer: Result<T, E>) {
        let _gone = self.0.send(answer);
    }

    /// Whether the caller no longer waits.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the caller no longer waits. Cancel safe.
    pub async fn closed(&mut self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_ended_event_loop_is_told_to_the_caller() {
        let (node, commands, _events) = channel();
        drop(commands);
        assert!(matches!(node.shutdown().await, Err(NodeError::Stopped)));
        assert!(node.is_stopped());
    }

    #[tokio::test]
    async fn a_dropped_reply_is_told_to_the_caller() {
        let (node, mut commands, _events) = channel();
        let loop_task = async { drop(commands.recv().await) };
        let (answer, ()) = tokio::join!(node.status(), loop_task);
        assert!(matches!(answer, Err(NetworkError::Node(NodeError::Stopped))));
    }

    #[tokio::test]
    async fn a_dropped_dial_closes_its_reply() {
        let (node, mut commands, _events) = channel();
        let dial = tokio::spawn({
            let node = node.clone();
            async move { node.calls().dial(DialOptions::to("bob")).await }
        });
        let Some(Command::CallDial { mut reply, .. }) = commands.recv().await else {
            panic!("expected a dial");
        };
        assert!(!reply.is_closed());
        dial.abort();
        reply.closed().await;
        assert!(reply.is_closed());
    }
}
