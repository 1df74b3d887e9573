//! The gateway's side of push sessions: asking a user's clients, and being the server they open sessions to.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use halloo_protocol::directory::Helper;
use halloo_protocol::identity::{UserId, VerifiedChain};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::hand_on::other_gateways;
use halloo_protocol::push::registration::Registration;
use halloo_protocol::push::session::plan::{ClientStep, KnownClient, SessionPlan, Wanted, plan};
use halloo_protocol::push::session::{
    ActivateWhen, Activation, Application, Asks, SESSION_CONTENT_BYTES_MAX, Sends, SessionAnswers, SessionContent,
    SessionContentTaken, SessionInitiation, SessionMode, SessionNonce, SessionOpen, SessionOpened, SessionOutcome, SessionReason,
    SessionRequest, SessionRequested, SessionStatus, SessionTerms,
};
use halloo_protocol::push::{Identifier, PushChannel, Urgency};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Frame, Message, Signed};
use libp2p::Multiaddr;
use serde_json::{Value, json};
use tracing::{debug, warn};

use super::channel::PushMessage;
use super::parked::Then;
use super::sip::SipClient;
use crate::address;
use crate::event_loop::{EventLoop, Internal};
use crate::handle::push::PushError;
use crate::handle::push_sessions::{PushSessionClient, PushSessionOptions, PushSessionReport};
use crate::handle::{Event, Reply};
use crate::network::{Purpose, Target};
use crate::push::sessions::{application_of, asks_of, identifiers_of, peer_name};
use crate::rpc::Failure;

/// How long a request may be taken up, in seconds.
const REQUEST_SECS: u64 = 60;

/// How long the operator's command waits for the clients.
const OPERATION_MAX: Duration = Duration::from_secs(10);

/// How long a client may take to say what it does: a frozen one looks connected, and is woken then.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Commands that wait, requests that may be taken up, and sessions that are open.
const OPERATIONS_MAX: usize = 16;
const REQUESTS_MAX: usize = 1_024;
const SESSIONS_MAX: usize = 65_536;

/// Extension that a gateway adds to a registration in its database: whose it is. What a device sends under this tag is dropped.
const USER_EXTENSION: u16 = 0x004e;

/// Longest encoded user.
const USER_BYTES_MAX: usize = 256;

/// A client being asked, or sent content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    operation: u64,
    pub(super) device: DeviceKey,
    /// The request; for content the one that goes out if nobody takes the content.
    nonce: SessionNonce,
}

/// What a phone has said to a request that it was brought by SIP.
#[derive(Debug)]
pub(crate) struct PhoneAnswer {
    nonce: SessionNonce,
    device: DeviceKey,
    status: SessionStatus,
    answers: Value,
}

/// A request that may be taken up.
#[derive(Debug)]
struct Sent {
    operation: u64,
    identity: UserId,
    /// The one client it is for; all of the identity's otherwise.
    device: Option<DeviceKey>,
    content: Vec<u8>,
    /// What was signed.
    payload: Vec<u8>,
    expires_at: UnixTime,
    taken_by: HashSet<DeviceKey>,
}

/// An operator's command that waits for clients.
#[derive(Debug)]
struct Operation {
    report: PushSessionReport,
    waiting: HashSet<DeviceKey>,
    until: Instant,
    reply: Reply<PushSessionReport, PushError>,
}

/// What the gateway knows of sessions. Those that are open end with the connection.
#[derive(Debug, Default)]
pub(crate) struct Hosted {
    sent: HashMap<SessionNonce, Sent>,
    open: HashMap<DeviceKey, SessionNonce>,
    operations: HashMap<u64, Operation>,
    counted: u64,
}

impl Hosted {
    pub(crate) fn peer_gone(&mut self, device: &DeviceKey) {
        self.open.remove(device);
    }

    /// Notes what a client does; `ends` if nothing more is awaited of it.
    fn note(&mut self, operation: u64, device: &DeviceKey, outcome: &str, reason: Option<String>, ends: bool) {
        let Some(operation) = self.operations.get_mut(&operation) else { return };
        let name = peer_name(device);
        // What a client says while it is asked comes after what it does, and may arrive before.
        if let Some(client) = operation.report.clients.iter_mut().find(|client| client.peer_id == name)
            && client.outcome != "open"
        {
            (client.outcome, client.reason) = (outcome.to_owned(), reason);
        }
        if ends {
            operation.waiting.remove(device);
        }
    }

    fn note_answers(&mut self, operation: u64, device: &DeviceKey, answers: Value) {
        let name = peer_name(device);
        let clients = self.operations.get_mut(&operation).into_iter().flat_map(|operation| &mut operation.report.clients);
        clients.filter(|client| client.peer_id == name).for_each(|client| client.answers = answers.clone());
    }

    /// Answers commands whose clients have all said what they do, or whose time is up.
    fn settle(&mut self, now: Instant) {
        let over = |operation: &Operation| operation.waiting.is_empty() || operation.until <= now;
        let numbers: Vec<u64> =
            self.operations.iter().filter(|(_, operation)| over(operation)).map(|(number, _)| *number).collect();
        for operation in numbers.into_iter().filter_map(|number| self.operations.remove(&number)) {
            operation.reply.send(Ok(operation.report));
        }
    }
}

/// Keeps a user's name with a registration: clients are found by it.
pub(super) fn with_user(mut registration: Registration, user: &UserId) -> Registration {
    let kept = registration.request.extensions.iter().filter(|extension| extension.tag != USER_EXTENSION);
    let kept = kept.fold(Extensions::none(), |kept, extension| kept.with(extension.tag, extension.bytes.clone()));
    registration.request.extensions = kept.with(USER_EXTENSION, wire::encode(user));
    registration
}

/// Whose it is.
pub(super) fn user_of(registration: &Registration) -> Option<UserId> {
    let bytes = registration.request.extensions.find(USER_EXTENSION)?;
    wire::decode(bytes, USER_BYTES_MAX).ok()
}

/// What a command asks for, checked.
struct Order {
    identity: UserId,
    identifiers: Vec<Identifier>,
    mode: Option<SessionMode>,
    application: Option<Activation>,
    asks: Asks,
    sends: Sends,
    content: Vec<u8>,
    server: Helper,
}

// Asking.
impl EventLoop {
    pub(crate) fn handle_session_operation(&mut self, options: &PushSessionOptions, reply: Reply<PushSessionReport, PushError>) {
        self.with_records(Then::Session { options: Box::new(options.clone()), reply });
    }

    pub(super) fn run_session_command(&mut self, options: &PushSessionOptions, reply: Reply<PushSessionReport, PushError>) {
        match self.begin_session_operation(options) {
            Ok((order, plan)) => self.run_session_operation(&order, &plan, reply),
            Err(error) => reply.send(Err(error)),
        }
    }

    fn begin_session_operation(&self, options: &PushSessionOptions) -> Result<(Order, SessionPlan), PushError> {
        let gateway = self.gateway.as_ref().ok_or(PushError::NotAGateway)?;
        if gateway.sessions.operations.len() >= OPERATIONS_MAX || gateway.sessions.sent.len() >= REQUESTS_MAX {
            return Err(PushError::NoPlan("too many requests at a time".into()));
        }
        let order = self.session_order(options)?;
        let clients = self.clients_of(&order.identity);
        let wanted = Wanted {
            identifiers: &order.identifiers,
            mode: order.mode,
            application: order.application.as_ref().map(|activation| activation.application.id.as_str()),
        };
        let plan = plan(&wanted, &clients).map_err(|error| PushError::NoPlan(error.to_string()))?;
        Ok((order, plan))
    }

    fn session_order(&self, options: &PushSessionOptions) -> Result<Order, PushError> {
        let invalid = |field, reason: String| PushError::InvalidSession { field, reason };
        let identity = self.labels.parse(&options.identity).map_err(|error| invalid("identity", error.to_string()))?;
        let mode = match options.mode.as_deref() {
            None => None,
            Some("A" | "a") => Some(SessionMode::One),
            Some("B" | "b") => Some(SessionMode::All),
            Some("C" | "c") => Some(SessionMode::Matching),
            Some(other) => return Err(invalid("mode", format!("{other:?} is none of A, B and C"))),
        };
        let when = if options.before { ActivateWhen::Before } else { ActivateWhen::After };
        let application = options.application.as_ref().map(application_of).transpose()?;
        let content = options.content.as_deref().unwrap_or_default().as_bytes().to_vec();
        if content.len() > SESSION_CONTENT_BYTES_MAX {
            return Err(invalid("content", format!("{} bytes, at most {SESSION_CONTENT_BYTES_MAX}", content.len())));
        }
        Ok(Order {
            identity,
            identifiers: identifiers_of(&options.devices)?,
            mode,
            application: application.map(|application| Activation { application, when }),
            asks: asks_of(&options.ask)?,
            sends: if options.register { Sends::REGISTRATION } else { Sends::default() },
            content,
            server: self.session_server(options.server.as_deref())?,
        })
    }

    /// Where clients connect: here, or where the operator says.
    fn session_server(&self, server: Option<&str>) -> Result<Helper, PushError> {
        let Some(text) = server else {
            let addresses = self.own_descriptor().map(|descriptor| descriptor.addresses).unwrap_or_default();
            return Ok(Helper { device: self.identity.device(), addresses: addresses.into_iter().take(2).collect() });
        };
        let invalid = || PushError::InvalidSession { field: "server", reason: "a multiaddress that ends in /p2p/PEER".into() };
        let multiaddress: Multiaddr = text.parse().map_err(|_| invalid())?;
        let peer = multiaddress.iter().find_map(|part| match part {
            libp2p::multiaddr::Protocol::P2p(peer) => Some(peer),
            _ => None,
        });
        let device = peer.and_then(|peer| address::device_key(&peer)).ok_or_else(invalid)?;
        Ok(Helper { device, addresses: address::to_wire(&multiaddress).into_iter().collect() })
    }

    /// The registered clients of a user.
    fn clients_of(&self, user: &UserId) -> Vec<KnownClient> {
        let now = self.now().unix;
        let found = self.gateway.as_ref().map_or_else(|| Ok(Vec::new()), |gateway| gateway.records.registrations_of_user(user));
        let found = found.inspect_err(|error| warn!(%error, "registrations not read")).unwrap_or_default();
        found.iter().filter(|known| known.expires_at >= now).map(|known| self.known_client(known)).collect()
    }

    fn known_client(&self, registration: &Registration) -> KnownClient {
        let device = registration.device();
        let request = &registration.request;
        let peer = address::peer_id(&device);
        let sessions = self.gateway.as_ref().map(|gateway| &gateway.sessions);
        KnownClient {
            device,
            identifiers: request.identifiers.iter().filter_map(|identifier| identifier.normal().ok()).collect(),
            applications: request.applications.clone(),
            terms: SessionTerms::of(request),
            has_session: sessions.is_some_and(|sessions| sessions.open.contains_key(&device)),
            is_connected: peer.is_some_and(|peer| self.peers.get(&peer).is_some_and(|known| known.chain.is_some())),
            can_be_woken: request
                .channels
                .iter()
                .any(|channel| matches!(channel, PushChannel::WebPush { .. } | PushChannel::Sip { .. })),
        }
    }

    fn run_session_operation(&mut self, order: &Order, plan: &SessionPlan, reply: Reply<PushSessionReport, PushError>) {
        let Some(gateway) = &mut self.gateway else { return reply.send(Err(PushError::NotAGateway)) };
        gateway.sessions.counted += 1;
        let number = gateway.sessions.counted;
        let clients = plan.clients.iter().map(|(device, step)| PushSessionClient {
            peer_id: peer_name(device),
            outcome: if matches!(step, ClientStep::Leave(_)) { "left" } else { "sent" }.to_owned(),
            reason: if let ClientStep::Leave(reason) = step { Some(reason.to_string()) } else { None },
            answers: Value::Null,
        });
        let report = PushSessionReport {
            mode: plan.mode.letter().to_string(),
            reason: plan.reason.to_string(),
            clients: clients.collect(),
        };
        let waiting = plan.clients.iter().filter(|(_, step)| !matches!(step, ClientStep::Leave(_))).map(|(device, _)| *device);
        let operation = Operation { report, waiting: waiting.collect(), until: Instant::now() + OPERATION_MAX, reply };
        gateway.sessions.operations.insert(number, operation);
        // One request for all, but for mode A, where each client has its own.
        let mut common = None;
        for (device, step) in &plan.clients {
            match step {
                ClientStep::Leave(_) => {}
                ClientStep::Deliver => {
                    let request = self.send_initiation(number, order, SessionMode::One, &[], *device);
                    self.push_to_session(number, order, *device, request.unverified().nonce);
                }
                ClientStep::Request { identifiers } => {
                    let request = match (&common, plan.mode) {
                        (Some(request), SessionMode::All | SessionMode::Matching) => Signed::clone(request),
                        (_, mode) => self.send_initiation(number, order, mode, identifiers, *device),
                    };
                    self.bring_initiation(number, *device, &request);
                    common = Some(request);
                }
            }
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.sessions.settle(Instant::now());
        }
    }

    /// Signs a request and remembers it.
    fn send_initiation(
        &mut self,
        operation: u64,
        order: &Order,
        mode: SessionMode,
        identifiers: &[Identifier],
        device: DeviceKey,
    ) -> Signed<SessionInitiation> {
        let me = self.identity.device();
        let now = self.now().unix;
        let is_here = order.server.device == me;
        let initiation = SessionInitiation {
            gateway: me,
            nonce: SessionNonce::random(&mut self.rng),
            created_at: now,
            expires_at: now.plus_secs(REQUEST_SECS),
            mode,
            identity: order.identity.clone(),
            identifiers: identifiers.to_vec(),
            server: order.server.clone(),
            application: order.application.clone(),
            asks: order.asks,
            sends: order.sends,
            // Only this gateway has it: with another server it travels in the request.
            content: if is_here { Vec::new() } else { order.content.clone() },
            extensions: Extensions::none(),
        };
        let nonce = initiation.nonce;
        let expires_at = initiation.expires_at;
        let request = Signed::sign(initiation, self.identity.device_key());
        let sent = Sent {
            operation,
            identity: order.identity.clone(),
            device: (mode == SessionMode::One).then_some(device),
            content: order.content.clone(),
            payload: wire::encode(&request),
            expires_at,
            taken_by: HashSet::new(),
        };
        if let Some(gateway) = &mut self.gateway {
            gateway.sessions.sent.insert(nonce, sent);
        }
        request
    }

    /// Brings a request to a client: on its stream if it is connected, or by its push service.
    fn bring_initiation(&mut self, operation: u64, device: DeviceKey, request: &Signed<SessionInitiation>) {
        let peer = address::peer_id(&device).filter(|peer| self.peers.get(peer).is_some());
        if let Some(peer) = peer {
            let message = SessionRequest { initiation: request.clone(), extensions: Extensions::none() };
            let nonce = request.unverified().nonce;
            let purpose = Purpose::SessionRequest(Asking { operation, device, nonce });
            return self.request(&Target::connected(peer), &message, purpose, ASK_TIMEOUT);
        }
        self.wake_for_session(device, &wire::encode(request));
    }

    /// Brings a request to a client by its push service. False if it has none.
    fn wake_for_session(&mut self, device: DeviceKey, payload: &[u8]) -> bool {
        let Some(registration) = self.registration_of(&device) else { return false };
        let Some(gateway) = &self.gateway else { return false };
        let message = PushMessage::new(registration.handle, payload, Urgency::High, REQUEST_SECS);
        let request = wire::decode::<Signed<SessionInitiation>>(payload, SessionRequest::LIMIT).ok();
        let mut is_on_its_way = false;
        // A short message says that something waits at the gateway, and a session request doesn't wait.
        let brings = |channel: &PushChannel| !matches!(channel, PushChannel::Stream | PushChannel::Sms { .. });
        for channel in registration.request.channels.into_iter().filter(brings) {
            let (services, message, request) = (gateway.services.clone(), message.clone(), request.clone());
            is_on_its_way = true;
            if let (PushChannel::Sip { address }, Some(request), Some(sip)) = (&channel, &request, &services.sip) {
                self.initiate_by_sip(sip.clone(), address.clone(), device, request.clone());
                continue;
            }
            tokio::spawn(async move {
                let outcome = match (&channel, &request) {
                    // Its server may know nothing of us, and speak the phone networks' form.
                    (PushChannel::Webhook { url, secret }, Some(request)) => {
                        services.webhook.send_initiation(url, secret, &message, request).await
                    }
                    (channel, _) => services.send(channel, &message).await,
                };
                debug!(way = channel.way().name(), ?outcome, "session request given to a push service");
            });
        }
        is_on_its_way
    }

    /// Asks a phone, whose answer says at once what it does.
    fn initiate_by_sip(&self, sip: SipClient, address: String, device: DeviceKey, request: Signed<SessionInitiation>) {
        let news = self.internal_sender.clone();
        tokio::spawn(async move {
            let Some((status, answers)) = sip.send_initiation(&address, &request).await else { return };
            let answer = PhoneAnswer { nonce: request.unverified().nonce, device, status, answers };
            // The event loop is gone only when the node is.
            let _ = news.send(Internal::SessionByPhone(answer)).await;
        });
    }

    pub(crate) fn handle_phone_answer(&mut self, answer: PhoneAnswer) {
        let PhoneAnswer { nonce, device, status, answers } = answer;
        let sent = self.gateway.as_ref().and_then(|gateway| gateway.sessions.sent.get(&nonce));
        let Some(operation) = sent.map(|sent| sent.operation) else { return };
        if let Some(gateway) = self.gateway.as_mut().filter(|_| answers.is_object()) {
            gateway.sessions.note_answers(operation, &device, answers);
        }
        let asking = Asking { operation, device, nonce };
        match status {
            SessionStatus::Opening => self.note_client(asking, "opening", None, false),
            SessionStatus::Asking => self.note_client(asking, "asking", None, true),
            SessionStatus::Ignored(reason) => self.note_client(asking, "ignored", Some(reason.to_string()), true),
            SessionStatus::Refused(reason) => self.note_client(asking, "refused", Some(reason.to_string()), true),
        }
    }

    fn push_to_session(&mut self, operation: u64, order: &Order, device: DeviceKey, nonce: SessionNonce) {
        let Some(peer) = address::peer_id(&device) else { return };
        let application: Option<Application> = order.application.as_ref().map(|activation| activation.application.clone());
        let message = SessionContent { nonce, application, content: order.content.clone(), extensions: Extensions::none() };
        let purpose = Purpose::SessionContent(Asking { operation, device, nonce });
        self.request(&Target::connected(peer), &message, purpose, ASK_TIMEOUT);
    }

    fn note_client(&mut self, asking: Asking, outcome: &str, reason: Option<String>, ends: bool) {
        if let Some(gateway) = &mut self.gateway {
            gateway.sessions.note(asking.operation, &asking.device, outcome, reason, ends);
            gateway.sessions.settle(Instant::now());
        }
    }

    pub(crate) fn session_request_answer(&mut self, asking: Asking, frame: &Frame) {
        match frame.parse::<SessionRequested>().map(|answer| answer.status) {
            Ok(SessionStatus::Opening) => self.note_client(asking, "opening", None, false),
            Ok(SessionStatus::Asking) => self.note_client(asking, "asking", None, true),
            Ok(SessionStatus::Ignored(reason)) => self.note_client(asking, "ignored", Some(reason.to_string()), true),
            Ok(SessionStatus::Refused(reason)) => self.note_client(asking, "refused", Some(reason.to_string()), true),
            Err(_) => {
                self.counters.malformed += 1;
                self.note_client(asking, "unreachable", Some("it doesn't speak of sessions".into()), true);
            }
        }
    }

    pub(crate) fn session_content_answer(&mut self, asking: Asking, frame: &Frame) {
        match frame.parse::<SessionContentTaken>().map(|answer| answer.result) {
            Ok(Ok(())) => self.note_client(asking, "delivered", Some("there is a session already".into()), true),
            Ok(Err(reason)) => {
                // It has slept since, say, and knows of no session: the next request opens one.
                if let Some(gateway) = self.gateway.as_mut().filter(|_| reason == SessionReason::UNKNOWN) {
                    gateway.sessions.open.remove(&asking.device);
                }
                self.note_client(asking, "refused", Some(reason.to_string()), true);
            }
            Err(_) => self.counters.malformed += 1,
        }
    }

    /// Nobody has said anything to a request, or to content: whoever sleeps is woken, and opens a session then.
    pub(crate) fn session_request_failure(&mut self, asking: Asking, failure: Failure) {
        let sessions = self.gateway.as_mut().map(|gateway| &mut gateway.sessions);
        let payload = sessions.and_then(|sessions| {
            sessions.open.remove(&asking.device);
            sessions.sent.get(&asking.nonce).map(|sent| sent.payload.clone())
        });
        self.with_records(Then::Wake { asking, payload: payload.unwrap_or_default(), failure });
    }

    pub(super) fn wake_silent_client(&mut self, asking: Asking, payload: &[u8], failure: Failure) {
        if !payload.is_empty() && self.wake_for_session(asking.device, payload) {
            return self.note_client(asking, "sent", Some("silent: its push service was asked to wake it".into()), false);
        }
        self.note_client(asking, "unreachable", Some(failure.to_string()), true);
    }

    pub(super) fn gateway_sessions_tick(&mut self, now: Now) {
        let Some(gateway) = &mut self.gateway else { return };
        gateway.sessions.settle(now.instant);
        // A client's clock may be off by as much as is taken for an honest one's.
        gateway
            .sessions
            .sent
            .retain(|_, sent| sent.expires_at.plus_secs(halloo_protocol::time::CLOCK_TOLERANCE_SECS) >= now.unix);
    }
}

// Being the server.
impl EventLoop {
    /// A client opens a session, or says why it won't.
    pub(crate) fn handle_session_open(&mut self, chain: Option<&VerifiedChain>, request: SessionOpen) -> SessionOpened {
        let status = match self.judge_session_open(chain, &request) {
            Ok((device, content)) => self.host_session(device, &request, content),
            Err(reason) => {
                debug!(%reason, "session refused");
                SessionOutcome::Refused(reason)
            }
        };
        SessionOpened { status, extensions: Extensions::none() }
    }

    fn judge_session_open(
        &mut self,
        chain: Option<&VerifiedChain>,
        request: &SessionOpen,
    ) -> Result<(DeviceKey, Option<Vec<u8>>), SessionReason> {
        let now = self.now().unix;
        let me = self.identity.device();
        let chain = chain.ok_or(SessionReason::NOT_CERTIFIED)?;
        let from = request.initiation.unverified().gateway;
        let initiation = request.initiation.verify(&from.0).map_err(|_| SessionReason::SIGNATURE)?;
        if chain.user.id != initiation.identity {
            return Err(SessionReason::NOT_CERTIFIED);
        }
        if initiation.server.device != me {
            return Err(SessionReason::UNKNOWN);
        }
        let registration = self.registration_of(&chain.device);
        let gateway = self.gateway.as_mut().ok_or(SessionReason::NOT_SERVED)?;
        if from == me {
            let sent = gateway.sessions.sent.get_mut(&initiation.nonce).ok_or(SessionReason::UNKNOWN)?;
            let is_for = sent.identity == chain.user.id && sent.device.is_none_or(|device| device == chain.device);
            if !is_for {
                return Err(SessionReason::OTHER_CLIENT);
            }
            if !sent.taken_by.insert(chain.device) {
                return Err(SessionReason::REPLAYED);
            }
            return Ok((chain.device, Some(sent.content.clone()).filter(|content| !content.is_empty())));
        }
        // Another gateway's request names us: it counts if the client itself has named that gateway to us.
        let named = registration.is_some_and(|known| other_gateways(&known.request).iter().any(|other| other.device == from));
        if !named {
            return Err(SessionReason::NOT_SUBSCRIBED);
        }
        if gateway.sessions.open.get(&chain.device) == Some(&initiation.nonce) {
            return Err(SessionReason::REPLAYED);
        }
        let late = now > initiation.expires_at.plus_secs(halloo_protocol::time::CLOCK_TOLERANCE_SECS);
        if late { Err(SessionReason::EXPIRED) } else { Ok((chain.device, None)) }
    }

    fn host_session(&mut self, device: DeviceKey, request: &SessionOpen, content: Option<Vec<u8>>) -> SessionOutcome {
        let nonce = request.initiation.unverified().nonce;
        let Some(gateway) = &mut self.gateway else { return SessionOutcome::Refused(SessionReason::NOT_SERVED) };
        let sessions = &mut gateway.sessions;
        let operation = sessions.sent.get(&nonce).map(|sent| sent.operation);
        let outcome = match &request.answers {
            Err(reason) => {
                if let Some(operation) = operation {
                    sessions.note(operation, &device, "refused", Some(reason.to_string()), true);
                }
                SessionOutcome::Refused(*reason)
            }
            Ok(_) if sessions.open.len() >= SESSIONS_MAX => SessionOutcome::Refused(SessionReason::BUSY),
            Ok(answers) => {
                sessions.open.insert(device, nonce);
                if let Some(operation) = operation {
                    sessions.note_answers(operation, &device, shown_answers(answers));
                    sessions.note(operation, &device, "open", None, true);
                }
                self.events.send(Event::PushSessionOpened { id: nonce.to_string(), peer_id: peer_name(&device) });
                SessionOutcome::Open { content }
            }
        };
        if let Some(gateway) = &mut self.gateway {
            gateway.sessions.settle(Instant::now());
        }
        outcome
    }
}

/// What a client has returned, as JSON.
fn shown_answers(answers: &SessionAnswers) -> Value {
    let applications = |known: &[Application]| {
        Value::Array(known.iter().map(|application| json!({ "id": application.id, "name": application.name })).collect())
    };
    let mut shown = serde_json::Map::new();
    if let Some(is_activated) = answers.is_activated {
        shown.insert("activated".into(), is_activated.into());
    }
    if let Some(known) = &answers.capabilities {
        let ways: Vec<String> = known.ways.iter().map(|way| format!("{way:?}").to_lowercase()).collect();
        let value = json!({
            "agent": known.agent, "applications": applications(&known.applications), "languages": known.languages, "ways": ways,
        });
        shown.insert("capabilities".into(), value);
    }
    if let Some(known) = &answers.preferences {
        let sessions = format!("{:?}", known.acceptance).to_lowercase();
        shown.insert("preferences".into(), json!({ "sessions": sessions, "unwanted": known.unwanted }));
    }
    if let Some(known) = &answers.security {
        let value = json!({ "clock": known.clock.to_string(), "certified_until": known.certified_until.to_string() });
        shown.insert("security".into(), value);
    }
    if let Some(known) = &answers.subscription {
        shown.insert("subscription".into(), json!({ "gateway": peer_name(&known.gateway), "applications": known.applications }));
    }
    Value::Object(shown)
}
