//! The client's side of push sessions: its terms, its decision on requests, and opening sessions.

use std::collections::{HashMap, VecDeque};

use bincode::{Decode, Encode};
use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::directory::Helper;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::hand_on::put_other_gateways;
use halloo_protocol::push::session::decision::{Client, Decision, Opening, decide};
use halloo_protocol::push::session::encapsulation::{Encapsulation, Reassembly};
use halloo_protocol::push::session::{
    Acceptance, ActivateWhen, Activation, Application, Asks, DeviceCapabilities, SecurityInformation, SeenNonces, Sends,
    SessionAnswers, SessionContent, SessionContentTaken, SessionInitiation, SessionNonce, SessionOpen, SessionOpened,
    SessionOutcome, SessionPreferences, SessionReason, SessionRequest, SessionRequested, SessionStatus, SessionTerms,
    Subscription,
};
use halloo_protocol::push::{APPLICATIONS_MAX, IDENTIFIERS_MAX, Identifier, PushRegister};
use halloo_protocol::wire::{self, Extensions, Frame, Signed};
use libp2p::PeerId;
use tracing::{debug, warn};

use super::GATEWAY_TIMEOUT;
use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::push::PushError;
use crate::handle::push_sessions::{
    PushAcceptance, PushApplication, PushSessionBrought, PushSessionCommand, PushSessionTaken, PushSettings, PushSettingsChange,
    PushSubscription,
};
use crate::handle::{Event, Reply};
use crate::network::Purpose;
use crate::rpc::Failure;
use crate::store::StoreError;

/// Requests that wait for the user's word; the oldest makes room.
const ASKING_MAX: usize = 16;

/// Gateways a device is subscribed to.
const SUBSCRIPTIONS_MAX: usize = 16;

/// Servers a device has a session with.
const SESSIONS_MAX: usize = 16;

/// Contents of sessions that are remembered, so that each is told once.
const TAKEN_MAX: usize = 64;

/// Messages of another bearer in one request of the local API.
const MESSAGES_MAX: usize = 64;

const SETTINGS: &str = "push settings";

/// What the user has set.
#[derive(Clone, Debug, Default, Encode, Decode)]
struct Settings {
    preferences: SessionPreferences,
    subscriptions: Vec<Subscription>,
    identifiers: Vec<Identifier>,
    applications: Vec<Application>,
}

/// A session that is being opened, or refused.
#[derive(Debug)]
pub(crate) struct OpeningSession {
    nonce: SessionNonce,
    server: DeviceKey,
    /// To be activated now; `None` for a refusal too.
    after: Option<Activation>,
    application: Option<Application>,
    is_refusal: bool,
    content: Vec<u8>,
}

/// What the device knows of its sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    settings: Settings,
    seen: SeenNonces,
    open: HashMap<DeviceKey, SessionNonce>,
    asking: VecDeque<Signed<SessionInitiation>>,
    taken: VecDeque<SessionNonce>,
    parts: Reassembly,
}

fn shown(application: &Application) -> PushApplication {
    PushApplication { id: application.id.clone(), name: application.name.clone() }
}

fn invalid(field: &'static str, reason: impl ToString) -> PushError {
    PushError::InvalidSession { field, reason: reason.to_string() }
}

/// The set of these names.
pub(crate) fn asks_of(names: &[String]) -> Result<Asks, PushError> {
    names.iter().try_fold(Asks::default(), |set, name| {
        let ask = Asks::named(name).ok_or_else(|| invalid("ask", format!("{name:?} is nothing that can be asked for")))?;
        Ok(set.with(ask))
    })
}

/// An application as the API writes it.
pub(crate) fn application_of(application: &PushApplication) -> Result<Application, PushError> {
    let text = format!("{}={}", application.id, application.name);
    Application::parse(&text).map_err(|error| invalid("application", error))
}

/// Identifiers as the API writes them.
pub(crate) fn identifiers_of(texts: &[String]) -> Result<Vec<Identifier>, PushError> {
    if texts.len() > IDENTIFIERS_MAX {
        return Err(invalid("identifiers", format!("{}, at most {IDENTIFIERS_MAX}", texts.len())));
    }
    texts.iter().map(|text| Identifier::parse(text).map_err(|error| invalid("identifiers", error))).collect()
}

fn device_of(peer: &str) -> Result<DeviceKey, PushError> {
    let parsed = peer.parse::<PeerId>().ok().and_then(|peer| address::device_key(&peer));
    parsed.ok_or_else(|| invalid("gateway", "not a peer id"))
}

pub(crate) fn peer_name(device: &DeviceKey) -> String {
    address::peer_id(device).map_or_else(|| device.to_string(), |peer| peer.to_string())
}

// Settings.
impl EventLoop {
    /// Takes up what was set in earlier runs.
    pub(super) fn push_sessions_start(&mut self) {
        match self.store.read::<_, StoreError>(|view| view.setting_value::<Settings>(SETTINGS)) {
            Ok(settings) => self.push.sessions.settings = settings.unwrap_or_default(),
            Err(error) => warn!(%error, "push settings not restored from the database"),
        }
    }

    pub(crate) fn handle_push_sessions(&mut self, command: PushSessionCommand) {
        match command {
            PushSessionCommand::Settings(reply) => reply.send(Ok(self.push_settings())),
            PushSessionCommand::Change { change, reply } => {
                let changed = self.change_push_settings(change);
                reply.send(changed);
            }
            PushSessionCommand::Request { options, reply } => self.handle_session_operation(&options, reply),
            PushSessionCommand::Take { brought, reply } => {
                let taken = self.take_brought(&brought);
                reply.send(taken);
            }
            PushSessionCommand::Answer { id, choice, reply } => self.answer_session(&id, choice.accept, reply),
        }
    }

    fn push_settings(&self) -> PushSettings {
        let settings = &self.push.sessions.settings;
        let subscriptions = settings
            .subscriptions
            .iter()
            .map(|known| PushSubscription { gateway: peer_name(&known.gateway), applications: known.applications.clone() });
        let named = Asks::NAMED.iter().filter(|(ask, _)| settings.preferences.disclosed.contains(*ask));
        PushSettings {
            subscriptions: subscriptions.collect(),
            sessions: match settings.preferences.acceptance {
                Acceptance::Always => PushAcceptance::Always,
                Acceptance::Ask => PushAcceptance::Ask,
                Acceptance::Never => PushAcceptance::Never,
            },
            unwanted: settings.preferences.unwanted.clone(),
            disclose: named.map(|(_, name)| (*name).to_owned()).collect(),
            identifiers: settings.identifiers.iter().map(Identifier::text).collect(),
            applications: settings.applications.iter().map(shown).collect(),
        }
    }

    fn change_push_settings(&mut self, change: PushSettingsChange) -> Result<PushSettings, PushError> {
        let settings = changed(self.push.sessions.settings.clone(), change)?;
        self.store
            .transaction::<_, StoreError>(|tx| tx.put_setting_value(SETTINGS, &settings))
            .map_err(|error| invalid("settings", error))?;
        self.push.sessions.settings = settings;
        self.register_anew(None);
        Ok(self.push_settings())
    }

    /// Tells gateways what has changed: the next registration is made now. All of them, or one.
    fn register_anew(&mut self, gateway: Option<&DeviceKey>) {
        let known = self.push.registered.iter().filter(|known| gateway.is_none_or(|gateway| known.gateway.device == *gateway));
        let names: Vec<Vec<u8>> = known.map(|known| super::registration_name(&known.gateway.device, &known.channel)).collect();
        if !names.is_empty() {
            self.push.stale.extend(names);
            self.push.renew_at = Some(std::time::Instant::now());
        }
    }

    /// What a registration with `gateway` says besides its channels.
    pub(super) fn describe_device(&self, gateway: &DeviceKey, request: &mut PushRegister) {
        let settings = &self.push.sessions.settings;
        request.identifiers = settings.identifiers.clone();
        request.applications = settings.applications.iter().map(|application| application.id.clone()).collect();
        let subscription = settings.subscriptions.iter().find(|known| known.gateway == *gateway).cloned();
        let terms = SessionTerms { preferences: settings.preferences.clone(), subscription };
        let mut others: Vec<Helper> = Vec::new();
        for known in self.push.registered.iter().filter(|known| known.gateway.device != *gateway) {
            if !others.contains(&known.gateway) {
                others.push(known.gateway.clone());
            }
        }
        request.extensions = put_other_gateways(terms.put(std::mem::take(&mut request.extensions)), &others);
    }
}

fn changed(mut settings: Settings, change: PushSettingsChange) -> Result<Settings, PushError> {
    if let Some(subscribe) = change.subscribe {
        let gateway = device_of(&subscribe.gateway)?;
        settings.subscriptions.retain(|known| known.gateway != gateway);
        settings.subscriptions.push(Subscription { gateway, applications: subscribe.applications });
    }
    if let Some(unsubscribe) = change.unsubscribe {
        let gateway = device_of(&unsubscribe)?;
        settings.subscriptions.retain(|known| known.gateway != gateway);
    }
    if let Some(sessions) = change.sessions {
        settings.preferences.acceptance = match sessions {
            PushAcceptance::Always => Acceptance::Always,
            PushAcceptance::Ask => Acceptance::Ask,
            PushAcceptance::Never => Acceptance::Never,
        };
    }
    if let Some(unwanted) = change.unwanted {
        settings.preferences.unwanted = unwanted;
    }
    if let Some(disclose) = change.disclose {
        settings.preferences.disclosed = asks_of(&disclose)?;
    }
    if let Some(identifiers) = change.identifiers {
        settings.identifiers = identifiers_of(&identifiers)?;
    }
    if let Some(applications) = change.applications {
        settings.applications = applications.iter().map(application_of).collect::<Result<_, _>>()?;
    }
    let has_too_many = settings.subscriptions.len() > SUBSCRIPTIONS_MAX
        || settings.applications.len() > APPLICATIONS_MAX
        || settings.subscriptions.iter().any(|known| known.applications.len() > APPLICATIONS_MAX);
    if has_too_many {
        return Err(invalid(
            "settings",
            format!("at most {SUBSCRIPTIONS_MAX} subscriptions and {APPLICATIONS_MAX} applications"),
        ));
    }
    settings.preferences.check().map_err(|error| invalid("unwanted", error))?;
    Ok(settings)
}

// Requests.
impl EventLoop {
    /// A gateway asks on the stream.
    pub(crate) fn handle_session_request(&mut self, request: &SessionRequest) -> SessionRequested {
        SessionRequested { status: self.take_initiation(&request.initiation, None), extensions: Extensions::none() }
    }

    /// A request that came by whatever bearer: decides on it and does what was decided.
    pub(super) fn take_initiation(&mut self, request: &Signed<SessionInitiation>, choice: Option<bool>) -> SessionStatus {
        let now = self.now().unix;
        let identity = self.identity.user_id();
        let sessions = &mut self.push.sessions;
        let is_new = if choice.is_some() { Ok(()) } else { sessions.seen.check(&request.unverified().nonce, now) };
        let open: Vec<DeviceKey> = sessions.open.keys().copied().collect();
        let client = Client {
            identity: &identity,
            identifiers: &sessions.settings.identifiers,
            applications: &sessions.settings.applications,
            preferences: &sessions.settings.preferences,
            subscriptions: &sessions.settings.subscriptions,
            sessions: &open,
            choice,
        };
        let decision = decide(request, &client, is_new, now);
        if let Decision::Ignore(reason) = decision {
            debug!(%reason, "session request ignored");
            return SessionStatus::Ignored(reason);
        }
        let initiation = request.unverified();
        if choice.is_none() {
            self.push.sessions.seen.note(initiation);
        }
        let (status, word, reason) = match &decision {
            Decision::Open(_) => (SessionStatus::Opening, "opening", None),
            Decision::Ask(_) => (SessionStatus::Asking, "asking", None),
            Decision::Refuse { reason, .. } => (SessionStatus::Refused(*reason), "refused", Some(reason.word().to_owned())),
            Decision::Ignore(reason) => return SessionStatus::Ignored(*reason),
        };
        self.events.send(Event::PushSessionRequested {
            id: initiation.nonce.to_string(),
            gateway: peer_name(&initiation.gateway),
            status: word.to_owned(),
            reason,
            application: initiation.application.as_ref().map(|activation| shown(&activation.application)),
        });
        match decision {
            Decision::Open(opening) => self.open_session(request, opening),
            Decision::Ask(_) => {
                let asking = &mut self.push.sessions.asking;
                while asking.len() >= ASKING_MAX {
                    asking.pop_front();
                }
                asking.push_back(request.clone());
            }
            Decision::Refuse { reason, tell: Some(server) } => self.say_to_server(request, &server, Err(reason), None),
            Decision::Refuse { tell: None, .. } | Decision::Ignore(_) => {}
        }
        status
    }

    fn open_session(&mut self, request: &Signed<SessionInitiation>, opening: Opening) {
        let nonce = request.unverified().nonce;
        let before = opening.activate.as_ref().is_some_and(|activation| activation.when == ActivateWhen::Before);
        if let Some(activation) = opening.activate.as_ref().filter(|_| before) {
            self.tell_activated(nonce, &activation.application);
        }
        let answers = self.session_answers(&opening, request.unverified());
        let after = opening.activate.filter(|_| !before);
        if opening.sends.contains(Sends::REGISTRATION) {
            self.register_anew(Some(&opening.server.device));
        }
        self.say_to_server(request, &opening.server, Ok(answers), after);
    }

    fn tell_activated(&self, nonce: SessionNonce, application: &Application) {
        self.events.send(Event::PushApplicationActivated { id: nonce.to_string(), application: shown(application) });
    }

    fn session_answers(&self, opening: &Opening, initiation: &SessionInitiation) -> SessionAnswers {
        let settings = &self.push.sessions.settings;
        let disclosed = settings.preferences.disclosed;
        let sends_capabilities = opening.sends.contains(Sends::CAPABILITIES) && disclosed.contains(Asks::CAPABILITIES);
        let capabilities = (opening.returns.contains(Asks::CAPABILITIES) || sends_capabilities).then(|| DeviceCapabilities {
            agent: concat!("halloo ", env!("CARGO_PKG_VERSION")).to_owned(),
            applications: settings.applications.clone(),
            languages: self.settings.languages.iter().take(8).map(|language| language.chars().take(35).collect()).collect(),
            ways: self.push.registered.iter().take(4).map(|known| known.channel.way()).collect(),
        });
        let security = opening.returns.contains(Asks::SECURITY).then(|| SecurityInformation {
            clock: self.now().unix,
            certified_until: self.identity.chain().device.unverified().not_after,
        });
        let subscription = settings.subscriptions.iter().find(|known| known.gateway == initiation.gateway).cloned();
        SessionAnswers {
            is_activated: opening.activate.as_ref().map(|activation| activation.when == ActivateWhen::Before),
            capabilities,
            preferences: opening.returns.contains(Asks::PREFERENCES).then(|| settings.preferences.clone()),
            security,
            subscription: subscription.filter(|_| opening.returns.contains(Asks::SUBSCRIPTIONS)),
        }
    }

    fn say_to_server(
        &mut self,
        request: &Signed<SessionInitiation>,
        server: &Helper,
        answers: Result<SessionAnswers, SessionReason>,
        after: Option<Activation>,
    ) {
        let Some(target) = self.strange_helper_target(server) else { return };
        let initiation = request.unverified();
        let opening = OpeningSession {
            nonce: initiation.nonce,
            server: server.device,
            after,
            application: initiation.application.as_ref().map(|activation| activation.application.clone()),
            is_refusal: answers.is_err(),
            content: initiation.content.clone(),
        };
        let message = SessionOpen { initiation: request.clone(), answers, extensions: Extensions::none() };
        self.request(&target, &message, Purpose::SessionOpen(Box::new(opening)), GATEWAY_TIMEOUT);
    }

    pub(crate) fn session_open_answer(&mut self, opening: OpeningSession, frame: &Frame) {
        let outcome = match frame.parse::<SessionOpened>() {
            Ok(opened) => opened.status,
            Err(_) => return self.counters.malformed += 1,
        };
        match outcome {
            _ if opening.is_refusal => {}
            SessionOutcome::Refused(reason) => debug!(%reason, "the server opens no session"),
            SessionOutcome::Open { content } => {
                let sessions = &mut self.push.sessions;
                if sessions.open.len() < SESSIONS_MAX {
                    sessions.open.insert(opening.server, opening.nonce);
                }
                let (id, peer_id) = (opening.nonce.to_string(), peer_name(&opening.server));
                self.events.send(Event::PushSessionOpened { id, peer_id });
                if let Some(activation) = &opening.after {
                    self.tell_activated(opening.nonce, &activation.application);
                }
                let content = content.unwrap_or(opening.content);
                if !content.is_empty() {
                    self.tell_content(opening.nonce, &opening.server, opening.application.as_ref(), &content);
                }
            }
        }
    }

    pub(crate) fn session_open_failure(&mut self, opening: OpeningSession, failure: Failure) {
        debug!(server = %peer_name(&opening.server), %failure, "no session: the server isn't reached");
    }

    fn tell_content(&mut self, nonce: SessionNonce, server: &DeviceKey, application: Option<&Application>, content: &[u8]) {
        let taken = &mut self.push.sessions.taken;
        while taken.len() >= TAKEN_MAX {
            taken.pop_front();
        }
        taken.push_back(nonce);
        self.events.send(Event::PushContent {
            id: nonce.to_string(),
            gateway: peer_name(server),
            application: application.map(shown),
            content: BASE64URL_NOPAD.encode(content),
        });
    }

    /// Content for a session that is open.
    pub(crate) fn handle_session_content(&mut self, peer: PeerId, message: SessionContent) -> SessionContentTaken {
        let server = self.peers.get(&peer).map(|known| known.device);
        let server = server.filter(|server| self.push.sessions.open.contains_key(server));
        let result = match server {
            None => Err(SessionReason::UNKNOWN),
            Some(_) if self.push.sessions.taken.contains(&message.nonce) => Err(SessionReason::REPLAYED),
            Some(server) => {
                self.tell_content(message.nonce, &server, message.application.as_ref(), &message.content);
                Ok(())
            }
        };
        SessionContentTaken { result, extensions: Extensions::none() }
    }

    /// Servers count on nobody who has slept: they ask anew, which must not be taken for a second session.
    pub(super) fn push_sessions_woken(&mut self) {
        self.push.sessions.open.clear();
    }

    /// A session ends with the connection.
    pub(crate) fn push_sessions_peer_gone(&mut self, device: &DeviceKey) {
        self.push.sessions.open.remove(device);
        if let Some(gateway) = &mut self.gateway {
            gateway.sessions.peer_gone(device);
        }
    }

    fn take_brought(&mut self, brought: &PushSessionBrought) -> Result<PushSessionTaken, PushError> {
        let way = Encapsulation::named(&brought.encapsulation)
            .ok_or_else(|| invalid("encapsulation", format!("{:?} isn't known", brought.encapsulation)))?;
        if brought.messages.is_empty() || brought.messages.len() > MESSAGES_MAX {
            return Err(invalid("messages", format!("{}, 1 to {MESSAGES_MAX}", brought.messages.len())));
        }
        let now = self.now().unix;
        let mut taken = None;
        for message in &brought.messages {
            let bytes = BASE64URL_NOPAD.decode(message.as_bytes()).map_err(|_| invalid("messages", "not base64url"))?;
            let parts = &mut self.push.sessions.parts;
            let request = way.take_segment(parts, &brought.sender, &bytes, now).map_err(|error| invalid("messages", error))?;
            taken = request.or(taken);
        }
        Ok(match taken {
            Some(request) => taken_word(self.take_initiation(&request, None)),
            None => PushSessionTaken { status: "incomplete".into(), reason: None },
        })
    }

    fn answer_session(&mut self, id: &str, accept: bool, reply: Reply<PushSessionTaken, PushError>) {
        let asking = &mut self.push.sessions.asking;
        let place = asking.iter().position(|request| request.unverified().nonce.to_string() == id);
        let Some(request) = place.and_then(|place| asking.remove(place)) else {
            return reply.send(Err(PushError::UnknownSession(id.chars().take(64).collect())));
        };
        let status = self.take_initiation(&request, Some(accept));
        reply.send(Ok(taken_word(status)));
    }
}

fn taken_word(status: SessionStatus) -> PushSessionTaken {
    let (status, reason) = match status {
        SessionStatus::Ignored(reason) => ("ignored", Some(reason)),
        SessionStatus::Opening => ("opening", None),
        SessionStatus::Asking => ("asking", None),
        SessionStatus::Refused(reason) => ("refused", Some(reason)),
    };
    PushSessionTaken { status: status.to_owned(), reason: reason.map(|reason| reason.word().to_owned()) }
}

/// A payload of a push service that is a request for a session, and no call.
pub(super) fn initiation_in(payload: &[u8]) -> Option<Signed<SessionInitiation>> {
    use halloo_protocol::wire::Message;
    wire::decode(payload, SessionRequest::LIMIT).ok()
}
