//! The node's one event loop: owns the swarm, the store and all state; everything else talks to it.
//!
//! Sources, in this order of preference: commands of the handles, news of the node's own tasks (media, push requests), timers, the
//! network. Each event is one call into the capability it belongs to (`directory.rs`, `messages.rs`, `calls.rs`, ..), which are
//! `impl EventLoop` blocks beside their own state. Failed requests are queued and handled after the event that failed them, so that no
//! capability is entered twice.
//!
//! While the node is suspended only commands and the push receiver are listened to: the swarm isn't polled, which is what an operating system
//! does to a frozen process.
//!
//! A panic in here, as of a database whose pages were damaged, ends the node: what it was doing when it happened may be half done, and
//! what is on disk is whole. Handles answer that the node stopped, and the daemon ends with that message and exit code 1.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use halloo_protocol::call::HpkeKeyRing;
use halloo_protocol::clock::{CLOCK_WARN_SECS, ClockEstimator};
use halloo_protocol::identity::TrustStore;
use halloo_protocol::kademlia::{DisconnectReason, NetworkGroup};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::Frame;
use libp2p::swarm::SwarmEvent;
use libp2p::{PeerId, autonat, identify, mdns, ping};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tracing::{debug, info};

use crate::address;
use crate::behaviour::BehaviourEvent;
use crate::builder::Settings;
use crate::handle::presence::PresenceCommand;
use crate::handle::problem::NodeError;
use crate::handle::{Command, CommandReceiver, Event, EventSender, Reply};
use crate::identity::LocalIdentity;
use crate::labels::Labels;
use crate::network::{Peers, Purpose};
use crate::rpc::{Failure, Rpc};
use crate::store::Store;
use crate::streams;
use crate::swarm::{NodeSwarm, Traffic};

/// News of the node's own tasks that may wait; a full queue makes the task wait.
pub(crate) const INTERNAL_MAX: usize = 256;

/// How often things without a timer of their own are looked at.
const TICK: Duration = Duration::from_millis(250);

/// How long goodbyes may take at the end, and before a clean suspension.
const FAREWELL: Duration = Duration::from_millis(300);

/// How long timers rest once they were looked at, so that the network gets its turn.
const TIMERS_PAUSE: Duration = Duration::from_millis(1);

/// How often it is looked whether the last allocation has ended while the node leaves, and how much longer than its drain a relay may take to end.
const LEAVING_LOOK: Duration = Duration::from_millis(50);
const LEAVING_SLACK: Duration = Duration::from_millis(250);

/// How long the transports have to write that connections are closed.
const CLOSING: Duration = Duration::from_millis(50);

/// Failed requests handled between two looks at the rest of the world.
const FAILURES_PER_ROUND: usize = 64;

/// Tells the time, off by a fixed amount in tests that need a wrong clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClockSource {
    /// Seconds added to the machine's clock.
    pub(crate) skew_secs: i64,
}

impl ClockSource {
    /// The uncorrected wall clock.
    #[must_use]
    pub(crate) fn raw_unix(&self) -> UnixTime {
        let machine = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        UnixTime(machine.saturating_add_signed(self.skew_secs))
    }
}

/// What the node counts; shown by `status` and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Frames and bodies that weren't well formed.
    pub(crate) malformed: u64,
    /// Frames of kinds this version doesn't know.
    pub(crate) unknown_kinds: u64,
    /// Answers nobody waited for.
    pub(crate) unexpected_answers: u64,
    /// Frames refused because the peer sent too many.
    pub(crate) rate_limited: u64,
    /// Peers that claimed a place their certificate doesn't give.
    pub(crate) false_places: u64,
}

/// News of the node's own tasks.
#[derive(Debug)]
pub(crate) enum Internal {
    /// A call's media engine.
    Media(crate::calls::MediaNews),
    /// A push service answered the gateway.
    PushService(crate::roles::gateway::ServiceAnswer),
    /// A phone answered a request for a session.
    SessionByPhone(crate::roles::gateway::sessions::PhoneAnswer),
    /// A push service answered about a phone's app.
    PhonePush(crate::roles::gateway::phones::Ticket, crate::roles::gateway::ServiceOutcome),
    /// A database that gateways share.
    GatewayRecords(Box<crate::roles::gateway::RecordsNews>),
    /// A thread that works on a file has done something.
    File(crate::files::FileNews),
    /// The local push service took a message for this device, still encrypted.
    PushReceived(Vec<u8>),
    /// A linked system.
    Linked(Box<crate::linked::LinkedNews>),
    /// A slow hash of an identity in a linked system was computed.
    SlowHashed(Box<crate::linked::SlowHashed>),
    /// A login to a linked system, or what a provider has for all.
    LinkedLogin(Box<crate::linked::LoginNews>),
    /// What the login of a SIP account brings.
    LinkedSip(Box<crate::linked::SipNews>),
    /// The address book was read, or couldn't be.
    LinkedBook(Box<crate::linked::BookNews>),
    /// Mail has come.
    Mail(crate::mail::MailNews),
    /// A sensor says whether the device is in use, or how near its user is.
    Sensor(crate::choice::sensor::Reading),
}

/// All state of a running node.
pub(crate) struct EventLoop {
    pub(crate) swarm: NodeSwarm,
    pub(crate) commands: CommandReceiver,
    pub(crate) events: EventSender,
    pub(crate) internal: mpsc::Receiver<Internal>,
    pub(crate) internal_sender: mpsc::Sender<Internal>,
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) identity: LocalIdentity,
    pub(crate) hpke: HpkeKeyRing,
    pub(crate) labels: Labels,
    pub(crate) trust: TrustStore,
    pub(crate) clock: ClockEstimator,
    pub(crate) clock_source: ClockSource,
    pub(crate) rng: StdRng,
    pub(crate) peers: Peers,
    pub(crate) rpc: Rpc<Purpose>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) failures: VecDeque<(Purpose, Failure)>,
    pub(crate) counters: Counters,
    pub(crate) reach: crate::reach::Reach,
    pub(crate) directory: crate::directory::DirectoryState,
    pub(crate) enrolment: crate::enrolment::EnrolmentState,
    pub(crate) messages: crate::messages::MessagesState,
    pub(crate) receipts: crate::receipts::ReceiptsState,
    pub(crate) groups: crate::groups::GroupsState,
    pub(crate) sessions: crate::sessions::SessionsState,
    pub(crate) contacts: crate::contacts::ContactsState,
    pub(crate) files: crate::files::FilesState,
    pub(crate) voicemail: crate::calls::voicemail::VoicemailState,
    pub(crate) history: crate::history::HistoryState,
    pub(crate) devices: crate::devices::DevicesState,
    pub(crate) calls: crate::calls::CallsState,
    pub(crate) push: crate::push::PushState,
    pub(crate) choice: crate::choice::ChoiceState,
    pub(crate) mail: crate::mail::MailState,
    pub(crate) linked: crate::linked::LinkedState,
    pub(crate) authority: Option<crate::roles::authority::Authority>,
    pub(crate) gateway: Option<crate::roles::gateway::Gateway>,
    pub(crate) media_relay: Option<crate::roles::relay::MediaRelay>,
    pub(crate) relays_at_hand: crate::relays_at_hand::RelaysAtHand,
    pub(crate) presence: crate::presence::PresenceState,
    pub(crate) mailbox: Option<crate::roles::mailbox::Mailbox>,
    pub(crate) mailboxes: crate::mailboxes::MailboxesState,
    pub(crate) vault: crate::vault::VaultState,
    pub(crate) vault_keeper: Option<crate::roles::vault::VaultKeeper>,
    pub(crate) hand_overs: crate::roles::hand_over::HandOvers,
    pub(crate) introductions: crate::roles::signal_pass::Introductions,
    pub(crate) started: Instant,
    pub(crate) started_at: UnixTime,
    pub(crate) suspended_since: Option<Instant>,
    /// News that came while suspended, for after the wake; at most [`INTERNAL_MAX`].
    pub(crate) held: VecDeque<Internal>,
    pub(crate) ready: bool,
    /// When the next tick is due, however much else there is to do until then.
    pub(crate) tick_at: Instant,
    pub(crate) housekeeping: crate::housekeeping::Housekeeping,
    /// The node is shutting down and lets calls go on that it relays.
    pub(crate) leaving: Option<Leaving>,
}

/// Until when a node that shuts down stays for what it relays, and who waits for its end.
#[derive(Debug)]
pub(crate) struct Leaving {
    until: Instant,
    waiting: Vec<Reply<(), crate::handle::problem::NodeError>>,
}

impl EventLoop {
    /// Runs until asked to shut down or all handles are gone; a panic ends it too, and is told in the log and as a last event.
    pub(crate) async fn run(self: Box<Self>) {
        let events = self.events.clone();
        let ended = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(self.run_unguarded())).await;
        if let Err(panic) = ended {
            let what = panic.downcast_ref::<String>().cloned();
            let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
            tracing::error!(what, "the node stops: a bug, or a damaged database");
            let detail = "the node stopped: a bug, or a damaged database; the log says more".to_owned();
            events.send(Event::Warning { code: "node-died".into(), detail });
        }
    }

    async fn run_unguarded(mut self: Box<Self>) {
        self.start();
        let mut earliest = Instant::now();
        loop {
            self.drain();
            if self.suspended_since.is_some() {
                // A freezable node has this thread and runtime for itself: blocking it stops every task of the node, as an
                // operating system would. Others merely stop being polled.
                let step = if self.settings.freezable {
                    // Unconstrained: the runtime's budget for one turn is never refilled while the runtime stands still, and with
                    // it used up the channels would claim to be empty for ever.
                    futures::executor::block_on(tokio::task::unconstrained(self.sleep_step()))
                } else {
                    self.sleep_step().await
                };
                if step.is_break() {
                    break;
                }
                continue;
            }
            if self.leaving.as_ref().is_some_and(|leaving| leaving.until <= Instant::now() || self.media_relay_has_ended()) {
                self.farewell().await;
                break;
            }
            // Timers come before the network, so a deadline that its owner leaves in the past would keep the loop from reading.
            let wake_at = tokio::time::Instant::from_std(self.next_wake().max(earliest));
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown(reply)) => self.begin_leaving(reply),
                    Some(Command::Suspend { options, reply }) => {
                        if options.clean {
                            self.end_all_calls();
                            self.say_goodbye();
                            self.let_frames_leave().await;
                        }
                        self.handle_suspend(options, reply);
                    }
                    Some(command) => self.handle_command(command),
                    None => {
                        self.farewell().await;
                        break;
                    }
                },
                Some(news) = self.internal.recv() => self.handle_internal(news),
                () = tokio::time::sleep_until(wake_at) => {
                    self.handle_timers();
                    earliest = Instant::now() + TIMERS_PAUSE;
                }
                event = futures::StreamExt::select_next_some(&mut self.swarm) => self.handle_swarm(event),
            }
        }
        info!("event loop ended");
    }

    /// One step of a suspended node: commands and the push receiver only.
    async fn sleep_step(&mut self) -> std::ops::ControlFlow<()> {
        tokio::select! {
            biased;
            command = self.commands.recv() => match command {
                Some(Command::Shutdown(reply)) => {
                    self.events.send(Event::Stopping {});
                    self.flush_directory();
                    reply.send(Ok(()));
                    return std::ops::ControlFlow::Break(());
                }
                Some(command) => self.handle_command_asleep(command),
                None => return std::ops::ControlFlow::Break(()),
            },
            Some(news) = self.internal.recv() => match news {
                Internal::PushReceived(body) => self.handle_push_received(&body),
                news if self.held.len() < INTERNAL_MAX => self.held.push_back(news),
                // More than a call's few steps: figures of media, which newer ones replace.
                _ => {}
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Shuts down: when nothing is relayed any more, or at once if asked a second time.
    fn begin_leaving(&mut self, reply: Reply<(), crate::handle::problem::NodeError>) {
        if let Some(leaving) = &mut self.leaving {
            leaving.until = Instant::now();
            return leaving.waiting.push(reply);
        }
        self.events.send(Event::Stopping {});
        self.end_all_calls();
        let stay = if self.drain_media_relay() { self.media_relay_drain() + LEAVING_SLACK } else { Duration::ZERO };
        self.leaving = Some(Leaving { until: Instant::now() + stay, waiting: vec![reply] });
    }

    /// Says goodbye and lets the frames leave.
    async fn farewell(&mut self) {
        self.linked_stop();
        if self.leaving.is_none() {
            self.events.send(Event::Stopping {});
            self.end_all_calls();
        }
        self.presence_leave();
        self.let_presence_leave().await;
        self.say_goodbye();
        let deadline = tokio::time::Instant::now() + FAREWELL;
        while tokio::time::timeout_at(deadline, futures::StreamExt::next(&mut self.swarm)).await.is_ok() {}
        self.close_connections().await;
        self.flush_directory();
        for reply in self.leaving.take().into_iter().flat_map(|leaving| leaving.waiting) {
            reply.send(Ok(()));
        }
    }

    /// Closes what is open, so that peers see it now and not by silence: a process that merely ends may be gone before its last packets are.
    async fn close_connections(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _was_connected = self.swarm.disconnect_peer_id(peer);
        }
        let deadline = tokio::time::Instant::now() + FAREWELL;
        while self.swarm.network_info().connection_counters().num_established() > 0
            && tokio::time::timeout_at(deadline, futures::StreamExt::next(&mut self.swarm)).await.is_ok()
        {}
        // The transports' own tasks write what closing a connection puts on the wire.
        tokio::time::sleep(CLOSING).await;
    }

    /// Lets contacts hear that this device is off, while the connections stand.
    async fn let_presence_leave(&mut self) {
        let deadline = Instant::now() + FAREWELL;
        while Instant::now() < deadline {
            let wake = self.presence.poll_timeout().map_or(deadline, |at| at.min(deadline));
            tokio::select! {
                () = tokio::time::sleep_until(wake.into()) => {
                    let now = self.now();
                    self.presence_tick(now);
                }
                event = futures::StreamExt::select_next_some(&mut self.swarm) => self.handle_swarm(event),
            }
        }
    }

    /// Lets what was said before a suspension get across.
    async fn let_frames_leave(&mut self) {
        let deadline = tokio::time::Instant::now() + FAREWELL;
        while let Ok(event) = tokio::time::timeout_at(deadline, futures::StreamExt::select_next_some(&mut self.swarm)).await {
            self.handle_swarm(event);
        }
    }

    /// Our time, uncorrected.
    pub(crate) fn raw_unix(&self) -> UnixTime {
        self.clock_source.raw_unix()
    }

    /// Our time, corrected by what peers' clocks say.
    pub(crate) fn now(&self) -> Now {
        Now { instant: Instant::now(), unix: self.clock.correct(self.raw_unix()) }
    }

    /// 32 random bytes.
    pub(crate) fn random<const N: usize>(&mut self) -> [u8; N] {
        use rand::Rng;
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// A generator for this node, seeded by the operating system.
    pub(crate) fn fresh_rng() -> StdRng {
        let mut seed = [0; 32];
        // Without the system's randomness no key could have been made either; an all-zero seed is never used for keys.
        if getrandom::fill(&mut seed).is_err() {
            tracing::error!("the operating system gives no random bytes");
        }
        StdRng::from_seed(seed)
    }

    fn start(&mut self) {
        self.devices_start();
        self.refresh_hello();
        self.directory_start();
        self.voicemail_start();
        self.messages_start();
        self.files_start();
        self.contacts_start();
        self.calls_start();
        self.push_start();
        self.choice_start();
        self.linked_start();
        self.check_ready();
    }

    /// Settles what the last event left: failed requests, then what the directory wants sent.
    fn drain(&mut self) {
        // Handling a failure can make new ones; each round works off what is there, and a peer can't make rounds of its own.
        for _ in 0..FAILURES_PER_ROUND {
            let Some((purpose, failure)) = self.failures.pop_front() else { break };
            self.handle_failure(purpose, failure);
        }
        if self.suspended_since.is_none() {
            while let Some(news) = self.held.pop_front() {
                self.handle_internal(news);
            }
        }
        self.drive_directory();
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        // Failures left over from the last round are not kept waiting.
        let mut wake = if self.failures.is_empty() { self.tick_at } else { now };
        let deadlines = [
            self.rpc.next_deadline(),
            self.directory.machine.poll_timeout(),
            self.calls.next_deadline(),
            self.presence.poll_timeout(),
        ];
        for deadline in deadlines.into_iter().flatten() {
            wake = wake.min(deadline);
        }
        if let Some(leaving) = &self.leaving {
            wake = wake.min(leaving.until).min(now + LEAVING_LOOK);
        }
        wake
    }

    fn handle_timers(&mut self) {
        let now = self.now();
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now.instant);
        while let Some(expired) = self.rpc.poll_expired(now.instant) {
            self.failures.push_back((expired.purpose, Failure::Timeout));
            self.doubt(expired.peer, expired.asked_at);
        }
        if is_due(self.directory.machine.poll_timeout()) {
            self.directory.machine.handle_timeout(now);
        }
        if self.tick_at <= now.instant {
            self.tick_at = now.instant + TICK;
            return self.tick(now);
        }
        // Woken before for one of these: the rest has time.
        if is_due(self.calls.next_deadline()) {
            self.calls_tick(now);
        }
        if is_due(self.presence.poll_timeout()) {
            self.presence_tick(now);
        }
    }

    /// What is looked at every [`TICK`].
    fn tick(&mut self, now: Now) {
        self.housekeeping_tick(now);
        self.reach_tick(now);
        self.directory_tick(now);
        self.enrolment_tick(now);
        self.messages_tick(now);
        self.files_tick(now);
        self.voicemail_tick(now);
        self.history_tick(now);
        self.contacts_tick(now);
        self.devices_tick(now);
        self.receipts_tick(now);
        self.calls_tick(now);
        self.push_tick(now);
        self.choice_tick(now);
        self.mail_tick(now);
        self.linked_tick(now);
        self.gateway_tick(now);
        self.keeper_tick(now);
        self.push_keep_tick(now);
        self.media_relay_tick(now.instant);
        self.relays_at_hand_tick(now);
        self.mailbox_tick(now);
        self.mailboxes_tick(now);
        self.vault_keeper_tick(now);
        self.vault_tick(now);
        self.sessions_tick(now);
        self.presence_tick(now);
    }

    fn handle_internal(&mut self, news: Internal) {
        match news {
            Internal::Media(news) => self.handle_media(news),
            Internal::File(news) => self.handle_file_news(news),
            Internal::PushService(answer) => self.handle_service_answer(answer),
            Internal::SessionByPhone(answer) => self.handle_phone_answer(answer),
            Internal::PhonePush(ticket, outcome) => self.handle_phone_push_outcome(ticket, outcome),
            Internal::GatewayRecords(news) => self.handle_records_news(*news),
            Internal::PushReceived(body) => self.handle_push_received(&body),
            Internal::Mail(news) => self.handle_mail(news),
            Internal::Linked(news) => self.handle_linked(*news),
            Internal::SlowHashed(hashed) => self.handle_slow_hashed(*hashed),
            Internal::LinkedLogin(news) => self.handle_linked_login(*news),
            Internal::LinkedSip(news) => self.handle_sip_news(*news),
            Internal::LinkedBook(news) => self.handle_book_news(*news),
            Internal::Sensor(reading) => self.handle_sensor(reading),
        }
    }

    /// What is possible while suspended: looking, waking and registering for push; the rest has to wait for the wake.
    fn handle_command_asleep(&mut self, command: Command) {
        match command {
            Command::Wake { payload, reply } => self.handle_wake(payload, reply),
            Command::Suspend { options, reply } => self.handle_suspend(options, reply),
            Command::Status(reply) => reply.send(Ok(self.status())),
            Command::Totals(reply) => reply.send(Ok(self.totals())),
            Command::CallList(reply) => reply.send(Ok(self.call_list())),
            Command::CallShow { call_id, reply } => self.handle_call_show(&call_id, reply),
            Command::PushList(reply) => reply.send(Ok(self.push_list())),
            Command::MessageList { user, options, reply } => self.handle_message_list(&user, options, reply),
            Command::Files(command) => self.handle_files_asleep(command),
            Command::Voicemail(command) => self.handle_voicemail_asleep(command),
            Command::Conversations(reply) => self.handle_conversations(reply),
            Command::Presence(PresenceCommand::Set { reply, .. }) => reply.send(Err(NodeError::Suspended.into())),
            Command::Presence(command) => self.handle_presence(command),
            other => refuse_asleep(other),
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Status(reply) => reply.send(Ok(self.status())),
            Command::Peers(reply) => reply.send(Ok(self.peer_list())),
            Command::RelayUsage(reply) => reply.send(Ok(self.relay_usage())),
            Command::MediaRelays(reply) => reply.send(Ok(self.media_relays())),
            Command::Doctor(reply) => reply.send(Ok(self.diagnose())),
            Command::Totals(reply) => reply.send(Ok(self.totals())),
            Command::Disconnect { peer_id, reply } => {
                self.disconnect(&peer_id);
                reply.send(Ok(()));
            }
            Command::Publish(reply) => self.handle_publish(reply),
            Command::RenewLease(reply) => self.handle_renew_lease(reply),
            Command::Why { user, reply } => self.handle_why(&user, reply),
            Command::Resolve { user, options, reply } => self.handle_resolve(&user, options, reply),
            Command::MessageSend { to, text, reply } => self.handle_message_send(&to, text, reply),
            Command::MessageWait { id, reply } => self.handle_message_wait(&id, reply),
            Command::MessageList { user, options, reply } => self.handle_message_list(&user, options, reply),
            Command::Files(command) => self.handle_files(command),
            Command::CallMedia(command) => self.handle_call_media(command),
            Command::Voicemail(command) => self.handle_voicemail(command),
            Command::History(command) => self.handle_history(command),
            Command::Conversations(reply) => self.handle_conversations(reply),
            Command::Composing { with, for_secs, reply } => self.handle_composing(&with, for_secs, reply),
            Command::Waiting(command) => self.handle_waiting(command),
            Command::MarkRead { with, up_to, reply } => self.handle_mark_read(&with, up_to.as_deref(), reply),
            Command::Groups(command) => self.handle_groups(command),
            Command::Contacts(command) => self.handle_contacts(command),
            Command::Presence(command) => self.handle_presence(command),
            Command::Devices(command) => self.handle_devices(command),
            Command::CallDial { options, reply } => self.handle_dial(options, reply),
            Command::CallList(reply) => reply.send(Ok(self.call_list())),
            Command::CallShow { call_id, reply } => self.handle_call_show(&call_id, reply),
            Command::CallAnswer { call_id, options, reply } => self.handle_call_answer(&call_id, options, reply),
            Command::CallDecline { call_id, reason, reply } => self.handle_call_decline(&call_id, reason, reply),
            Command::CallDismiss { call_id, reply } => self.handle_call_dismiss(&call_id, reply),
            Command::CallAdd { call_id, options, reply } => self.handle_call_add(&call_id, &options, reply),
            Command::CallConnect { call_id, with, reply } => self.handle_call_connect(&call_id, &with, reply),
            Command::CallPress { call_id, keys, reply } => self.handle_call_press(&call_id, &keys, reply),
            Command::CallRejoin { call_id, options, reply } => self.handle_call_rejoin(&call_id, &options, reply),
            Command::CallHangup { call_id, reply } => self.handle_call_hangup(&call_id, reply),
            Command::PushRegister { target, reply } => self.handle_push_register(target, reply),
            Command::Choice(command) => self.handle_choice(command),
            Command::Linked(command) => self.handle_linked_command(command),
            Command::PushTest(reply) => self.handle_push_test(reply),
            Command::AttachSip(edge) => self.handle_attach_sip(edge),
            Command::PhonePush { gateway, request, reply } => self.handle_phone_push_command(gateway.as_deref(), &request, reply),
            Command::PushList(reply) => reply.send(Ok(self.push_list())),
            Command::PushUnregister { id, reply } => self.handle_push_unregister_command(&id, reply),
            Command::PushSessions(command) => self.handle_push_sessions(command),
            Command::Suspend { options, reply } => self.handle_suspend(options, reply),
            Command::Wake { payload, reply } => self.handle_wake(payload, reply),
            Command::Enrol { options, reply } => self.handle_enrol(options, reply),
            Command::AuthorityShow(reply) => reply.send(self.authority_show()),
            Command::AuthorityInvite { options, reply } => reply.send(self.authority_invite(options)),
            Command::AuthorityRevoke { user, reply } => {
                let answer = self.authority_revoke(&user);
                reply.send(answer);
            }
            Command::AuthorityCertify { user, id, is_certified, reply } => {
                self.authority_certify(&user, &id, is_certified, reply);
            }
            Command::AuthorityLog(reply) => reply.send(self.authority_log()),
            Command::Shutdown(reply) => reply.send(Ok(())),
        }
    }

    /// An answer, to the capability that asked.
    pub(crate) fn handle_answer(&mut self, purpose: Purpose, frame: &Frame) {
        match purpose {
            Purpose::Directory(request) => self.directory_answer(request, frame),
            // No answer is like another.
            Purpose::SignOfLife(doubt) => self.life_failure(doubt, Failure::Unsupported),
            Purpose::Message(delivery) => self.message_answer(delivery, frame),
            Purpose::File(request) => self.file_answer(request, frame),
            Purpose::History(asking) => self.history_answer(asking, frame),
            Purpose::VoicemailFetch(fetching) => self.voicemail_fetched(fetching, frame),
            Purpose::Invite(target) => self.invite_answer(target, frame),
            Purpose::HandOverAsk(target) => self.hand_over_answer(target, frame),
            Purpose::HandOver(handing) => self.hand_over_device_answer(handing, frame),
            Purpose::Signal(target) => self.signal_answer(target, frame),
            Purpose::CallTrace(asking) => self.call_trace_answer(asking, frame),
            Purpose::Conference(target) => self.conference_answer(target, frame),
            Purpose::SignalAsk(target) => self.signal_ask_answer(target, frame),
            Purpose::SignalPass(passing) => self.signal_pass_device_answer(passing, frame),
            Purpose::Enrol(asking) => self.enrol_answer(*asking, frame),
            Purpose::Address(asking) => self.address_answer(*asking, frame),
            Purpose::DeviceRename(renaming) => self.device_rename_answer(*renaming, frame),
            Purpose::DeviceRenew => self.device_renew_answer(frame),
            Purpose::LinkedAsk(ask) => self.linked_ask_answer(*ask, frame),
            Purpose::RelayAsk(peer) => self.relay_answer(peer, frame),
            Purpose::OwnMailbox(request) => self.own_mailbox_answer(request, frame),
            Purpose::MailboxPut(leaving) => self.mailbox_put_answer(leaving, frame),
            Purpose::Vault(request) => self.vault_answer(request, frame),
            Purpose::KeyFetch(fetching) => self.key_answer(fetching, frame),
            Purpose::MailboxKeys(mailbox) => self.mailbox_keys_answer(mailbox, frame),
            Purpose::PushRegister(registering) => self.push_register_answer(*registering, frame),
            Purpose::PushUnregister(unregistering) => self.push_unregister_answer(*unregistering, frame),
            Purpose::PhonePush(asking) => self.phone_push_answer(*asking, frame),
            Purpose::PushKeep(gateway) => self.push_keep_answer(gateway, frame),
            Purpose::PushChoice(gateway) => self.push_choice_answer(gateway, frame),
            // Whether it still held it changes nothing here.
            Purpose::PushWithdraw => {}
            Purpose::PushSend(sending) => self.push_send_answer(sending, frame),
            Purpose::PushDeliver(delivering) => self.push_deliver_answer(delivering, frame),
            Purpose::PushArrived(sealed_hash) => self.push_arrived_answer(sealed_hash, frame),
            Purpose::PushChannelGone(telling) => self.push_channel_gone_answer(telling, frame),
            Purpose::PushHandOn(handing) => self.push_hand_on_answer(handing, frame),
            Purpose::SessionRequest(asking) => self.session_request_answer(asking, frame),
            Purpose::SessionOpen(opening) => self.session_open_answer(*opening, frame),
            Purpose::SessionContent(asking) => self.session_content_answer(asking, frame),
        }
    }

    fn handle_failure(&mut self, purpose: Purpose, failure: Failure) {
        match purpose {
            Purpose::Directory(request) => self.directory_failure(request, failure),
            Purpose::SignOfLife(doubt) => self.life_failure(doubt, failure),
            Purpose::Message(delivery) => self.message_failure(delivery, failure),
            Purpose::File(request) => self.file_failure(request, failure),
            Purpose::History(asking) => self.history_failure(asking, failure),
            Purpose::VoicemailFetch(fetching) => self.voicemail_fetch_failure(fetching, failure),
            Purpose::Invite(target) => self.invite_failure(target, failure),
            Purpose::HandOverAsk(target) => self.hand_over_failure(target, failure),
            Purpose::HandOver(handing) => self.hand_over_device_failure(handing, failure),
            Purpose::Signal(target) | Purpose::SignalAsk(target) => self.signal_failure(target, failure),
            Purpose::CallTrace(asking) => self.call_trace_failure(asking, failure),
            // The machine says it again.
            Purpose::Conference(_) => {}
            Purpose::SignalPass(passing) => self.signal_pass_device_failure(passing, failure),
            Purpose::Enrol(asking) => self.enrol_failure(*asking, failure),
            Purpose::Address(asking) => self.address_unanswered(*asking, &failure.to_string()),
            Purpose::DeviceRename(renaming) => self.device_rename_failure(*renaming, failure),
            Purpose::DeviceRenew => self.device_renew_failure(failure),
            Purpose::LinkedAsk(ask) => self.asked_in_vain(*ask),
            Purpose::RelayAsk(peer) => self.relay_failure(peer, failure),
            Purpose::OwnMailbox(request) => self.own_mailbox_failure(request, failure),
            Purpose::MailboxPut(leaving) => self.mailbox_put_failure(leaving, failure),
            Purpose::Vault(request) => self.vault_failure(request, failure),
            Purpose::KeyFetch(fetching) => self.key_failure(fetching, failure),
            Purpose::MailboxKeys(mailbox) => self.mailbox_keys_failure(mailbox, failure),
            Purpose::PushRegister(registering) => self.push_register_failure(*registering, failure),
            Purpose::PushUnregister(unregistering) => self.push_unregister_failure(*unregistering, failure),
            Purpose::PhonePush(asking) => self.phone_push_failure(*asking, failure),
            Purpose::PushKeep(gateway) => self.push_keep_failure(gateway, failure),
            Purpose::PushChoice(gateway) => self.push_choice_failure(gateway, failure),
            Purpose::PushWithdraw => debug!(%failure, "push not taken back"),
            Purpose::PushArrived(_) => debug!(%failure, "a sender wasn't told that its push has come"),
            Purpose::PushSend(sending) => self.push_send_failure(sending, failure),
            Purpose::PushDeliver(delivering) => self.push_deliver_failure(delivering, failure),
            Purpose::PushChannelGone(telling) => self.push_channel_gone_failure(telling, failure),
            Purpose::PushHandOn(handing) => self.push_hand_on_failure(handing, failure),
            Purpose::SessionRequest(asking) | Purpose::SessionContent(asking) => self.session_request_failure(asking, failure),
            Purpose::SessionOpen(opening) => self.session_open_failure(*opening, failure),
        }
    }

    fn handle_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.handle_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.peers.dial_ended(connection_id);
                self.note_address(peer_id, endpoint.get_remote_address().clone(), endpoint.is_dialer());
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.forget_address(&peer_id);
                self.reach_connection_closed(peer_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id: Some(peer), error, .. } => {
                debug!(%peer, %error, "dial failed");
                let was_our_last = self.peers.dial_ended(connection_id);
                // One more path that failed says nothing about a peer that is connected by another.
                if was_our_last && !self.swarm.is_connected(&peer) {
                    self.fail_peer(&peer, Failure::Unreachable);
                    self.directory_dial_failed(&peer);
                }
            }
            SwarmEvent::NewListenAddr { listener_id, address } => self.reach_new_listen_address(listener_id, address),
            SwarmEvent::ExpiredListenAddr { listener_id, address } => self.reach_expired_listen_address(listener_id, &address),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => self.reach_listener_closed(listener_id, reason.err()),
            SwarmEvent::ExternalAddrConfirmed { address } => self.reach_confirmed(address),
            SwarmEvent::ExternalAddrExpired { address } => self.reach_external(address, false),
            _ => {}
        }
    }

    fn handle_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Streams(event) => self.handle_stream(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => self.handle_identify(peer_id, info),
            // Two in a row: over TCP a path can be dead for a quarter of an hour before the system says so.
            BehaviourEvent::Ping(ping::Event {
                peer,
                connection,
                result: Err(ping::Failure::Timeout | ping::Failure::Other { .. }),
            }) => self.drop_dead(peer, connection),
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(rtt), .. }) => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.rtt = Some(rtt);
                }
            }
            BehaviourEvent::AutonatClient(autonat::v2::client::Event { tested_addr, server, result, .. }) => {
                self.reach_dialled_back(tested_addr, server, result.is_ok());
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.reach_found_nearby(found),
            BehaviourEvent::Mdns(mdns::Event::Expired(gone)) => self.reach_gone_nearby(&gone),
            BehaviourEvent::Upnp(libp2p::upnp::Event::NewExternalAddr { external_addr, .. }) => self.reach_mapped(external_addr),
            _ => {}
        }
    }

    fn handle_stream(&mut self, event: streams::Event) {
        match event {
            streams::Event::Connected { peer, connection, relayed, first } => {
                self.handle_connected(peer, connection, relayed, first);
            }
            streams::Event::Hello { peer, bytes, .. } => self.handle_greeting(peer, &bytes),
            streams::Event::Frame { peer, connection, bytes } => self.handle_frame(peer, connection, &bytes),
            streams::Event::Failed { peer, error, .. } => {
                debug!(%peer, %error, "stream failed");
                let failure = match error {
                    streams::StreamError::Unsupported => Failure::Unsupported,
                    _ => Failure::Disconnected,
                };
                self.fail_peer(&peer, failure);
            }
            streams::Event::Closed { peer, last, reason, .. } => {
                let reason = match reason {
                    streams::CloseReason::Local | streams::CloseReason::Idle => DisconnectReason::Idle,
                    streams::CloseReason::Transport(_) => DisconnectReason::Lost,
                };
                self.handle_closed(peer, last, reason);
            }
        }
    }

    fn handle_identify(&mut self, peer: PeerId, info: identify::Info) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.agent = Some(info.agent_version.chars().take(64).collect());
        }
        self.reach_identified(peer, &info);
    }

    /// Tells the user when the clock turns out to be wrong, or right again.
    pub(crate) fn clock_changed(&mut self, offset_before: i64) {
        let offset = self.clock.offset_secs();
        if offset == offset_before {
            return;
        }
        debug!(offset, "clock offset estimated");
        let warn_secs = CLOCK_WARN_SECS.unsigned_abs();
        if offset.unsigned_abs() >= warn_secs && offset.abs_diff(offset_before) >= warn_secs {
            let direction = if offset > 0 { "behind" } else { "ahead" };
            let detail = format!(
                "this machine's clock is {} s {direction} of its peers'; corrected here, but set it right",
                offset.unsigned_abs()
            );
            self.events.send(Event::Warning { code: "clock-offset".into(), detail });
            self.clock_corrected();
        }
    }

    /// The network group of a peer's address, for caps per origin; none in a lab, where all are neighbours.
    pub(crate) fn group_of(&self, peer: &PeerId) -> Option<NetworkGroup> {
        if self.settings.lab {
            return None;
        }
        NetworkGroup::of(&address::to_wire(self.peers.get(peer)?.address.as_ref()?)?)
    }
}

/// Answers a command that a suspended node can't carry out.
fn refuse_asleep(command: Command) {
    fn refuse<T, E: From<NodeError>>(reply: Reply<T, E>) {
        reply.send(Err(NodeError::Suspended.into()));
    }
    match command {
        Command::Peers(reply) => refuse(reply),
        Command::RelayUsage(reply) => refuse(reply),
        Command::MediaRelays(reply) => refuse(reply),
        Command::Doctor(reply) => refuse(reply),
        Command::Disconnect { reply, .. } => refuse(reply),
        Command::Publish(reply) => refuse(reply),
        Command::RenewLease(reply) => refuse(reply),
        Command::Why { reply, .. } => refuse(reply),
        Command::Resolve { reply, .. } => refuse(reply),
        Command::MessageSend { reply, .. } => refuse(reply),
        Command::MessageWait { reply, .. } => refuse(reply),
        Command::MarkRead { reply, .. } => refuse(reply),
        Command::Waiting(command) => command.refuse(NodeError::Suspended),
        Command::Composing { reply, .. } => refuse(reply),
        Command::Groups(command) => command.refuse(NodeError::Suspended),
        Command::Contacts(command) => command.refuse(NodeError::Suspended),
        Command::Files(command) => command.refuse(NodeError::Suspended),
        Command::CallMedia(command) => command.refuse(NodeError::Suspended),
        Command::Voicemail(command) => command.refuse(NodeError::Suspended),
        Command::History(command) => command.refuse(NodeError::Suspended),
        Command::Devices(command) => command.refuse(NodeError::Suspended),
        Command::CallDial { reply, .. } => refuse(reply),
        Command::CallAdd { reply, .. } => refuse(reply),
        Command::CallConnect { reply, .. } => refuse(reply),
        Command::CallPress { reply, .. } => refuse(reply),
        Command::CallRejoin { reply, .. } => refuse(reply),
        Command::CallAnswer { reply, .. }
        | Command::CallDecline { reply, .. }
        | Command::CallDismiss { reply, .. }
        | Command::CallHangup { reply, .. } => refuse(reply),
        Command::PushRegister { reply, .. } => refuse(reply),
        Command::PushSessions(command) => command.refuse(NodeError::Suspended),
        Command::Choice(command) => command.refuse(NodeError::Suspended),
        Command::Linked(command) => command.refuse(NodeError::Suspended),
        Command::PushTest(reply) => refuse(reply),
        Command::AttachSip(_) => {}
        Command::PhonePush { reply, .. } => refuse(reply),
        Command::PushUnregister { reply, .. } => refuse(reply),
        Command::Enrol { reply, .. } => refuse(reply),
        Command::AuthorityShow(reply) => refuse(reply),
        Command::AuthorityInvite { reply, .. } => refuse(reply),
        Command::AuthorityRevoke { reply, .. } => refuse(reply),
        Command::AuthorityCertify { reply, .. } => refuse(reply),
        Command::AuthorityLog(reply) => refuse(reply),
        Command::Status(_)
        | Command::Totals(_)
        | Command::CallList(_)
        | Command::CallShow { .. }
        | Command::PushList(_)
        | Command::MessageList { .. }
        | Command::Conversations(_)
        | Command::Presence(_)
        | Command::Suspend { .. }
        | Command::Wake { .. }
        | Command::Shutdown(_) => {}
    }
}
