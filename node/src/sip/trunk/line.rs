//! One trunk: the way to the provider's server, and the registration there.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halloo_protocol::sip::client::{AuthError, ClientAuth, Registration, Standing};
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::transaction::{Flow, Transport};
use halloo_protocol::sip::uri::escape_user;
use rustls::pki_types::ServerName;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::{TrunkConfig, TrunkTransport};
use crate::handle::Node;
use crate::handle::sip::SipTrunkState;
use crate::sip::dialog::{USER_AGENT, contact, token};
use crate::sip::transport::Connector;
use crate::sip::wire::Wire;

/// How long a provider may take to answer a REGISTER.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long it may take to say goodbye to a provider when the node ends, which waits for it.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// How often an address translator is reminded of the flow: half of the 60 s after which the hastier ones forget it.
const PING_EVERY: Duration = Duration::from_secs(25);

/// How often the server's name is looked up where nothing is registered.
const LOOK_UP_EVERY: Duration = Duration::from_secs(300);

/// Addresses of a server's name that count.
const ADDRESSES_MAX: usize = 16;

#[derive(Debug, Default)]
struct State {
    flow: Option<Flow>,
    /// The server's addresses, as its name was looked up last.
    ips: Vec<IpAddr>,
    standing: Standing,
    /// Why the last call couldn't be carried.
    call_failure: Option<String>,
}

/// A trunk.
#[derive(Debug)]
pub(in crate::sip) struct Line {
    pub(super) name: String,
    pub(super) config: TrunkConfig,
    pub(super) auth: ClientAuth,
    tls: Option<(TlsConnectorShown, ServerName<'static>)>,
    host: String,
    port: u16,
    /// The number of its socket for datagrams.
    pub(super) socket: Option<u64>,
    state: Mutex<State>,
    poke: Notify,
}

/// Prints nothing of what is trusted.
#[derive(Clone)]
struct TlsConnectorShown(TlsConnector);

impl std::fmt::Debug for TlsConnectorShown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl Line {
    /// As it is set up.
    pub(super) fn new(name: &str, config: TrunkConfig) -> Result<Self, String> {
        let default_port = if config.transport == TrunkTransport::Tls { 5_061 } else { 5_060 };
        let (host, port) = halloo_protocol::sip::uri::host_port_of(&config.server).map_err(|error| format!("server: {error}"))?;
        let password = config.password_file.as_deref().map(crate::mail::password).transpose()?;
        let password = password.unwrap_or_default();
        if password.contains(char::is_control) {
            return Err("password_file: more than a line".to_owned());
        }
        let user = config.auth_username.as_deref().unwrap_or(&config.username);
        let auth = ClientAuth::new(user, &password);
        let host = host.trim_matches(['[', ']']).to_owned();
        let tls = match config.transport {
            TrunkTransport::Tls => {
                let proved = ServerName::try_from(host.clone()).map_err(|_| "server: no name that a certificate proves")?;
                Some((TlsConnectorShown(crate::mail::connector(config.roots.as_deref())?), proved))
            }
            TrunkTransport::Udp | TrunkTransport::Tcp => None,
        };
        Ok(Self {
            name: name.to_owned(),
            auth,
            tls,
            host,
            port: port.unwrap_or(default_port),
            socket: None,
            state: Mutex::default(),
            poke: Notify::new(),
            config,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The domain in addresses at the provider.
    pub(super) fn domain(&self) -> &str {
        self.config.domain.as_deref().unwrap_or(&self.host)
    }

    /// `sip:USER@DOMAIN`
    pub(super) fn address_of(&self, user: &str) -> String {
        let domain = self.domain();
        let domain = if domain.contains(':') && !domain.starts_with('[') { format!("[{domain}]") } else { domain.to_owned() };
        format!("sip:{}@{domain}", escape_user(user))
    }

    pub(super) fn flow(&self) -> Option<Flow> {
        self.lock().flow
    }

    /// Whether the provider sends from there.
    pub(super) fn is_provider(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.config.addresses.contains(&source) || self.lock().ips.contains(&source)
    }

    /// Whether it is known to be out of order: others are tried first.
    pub(super) fn is_failed(&self) -> bool {
        matches!(self.lock().standing, Standing::Failed(_))
    }

    /// The connection is gone: another is made.
    pub(super) fn closed(&self) {
        self.lock().flow = None;
        self.poke.notify_one();
    }

    /// For the owner: how it stands, and why not better.
    pub(super) fn state(&self) -> (SipTrunkState, Option<String>) {
        let state = self.lock();
        match &state.standing {
            Standing::Failed(why) => (SipTrunkState::Failed, Some(why.clone())),
            Standing::Trying => (SipTrunkState::Trying, state.call_failure.clone()),
            Standing::Registered if self.config.register => (SipTrunkState::Registered, state.call_failure.clone()),
            Standing::Registered => (SipTrunkState::Ready, state.call_failure.clone()),
        }
    }

    /// What became of a call: the owner is told when it begins to fail.
    pub(super) fn note_call(&self, own: &Node, failure: Option<&str>) {
        let before = std::mem::replace(&mut self.lock().call_failure, failure.map(str::to_owned));
        if let (None, Some(why)) = (before, failure) {
            own.warn("sip-trunk", format!("trunk {} couldn't carry a call: {why}", self.name));
        }
    }

    /// The way to the server: a socket is always one, a connection is made anew if it is gone.
    async fn open(&self, connector: &Connector) -> Result<Flow, String> {
        let before = self.flow();
        if let (Some(flow), None) = (before, self.socket)
            && connector.is_open(flow)
        {
            return Ok(flow);
        }
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found = found.map_err(|error| format!("{}: {error}", self.host))?;
        let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
        // The socket is of one family.
        let is_v4 = self.config.listen.is_none_or(|listen| listen.is_ipv4());
        let usable = addresses.iter().filter(|address| self.socket.is_none() || address.is_ipv4() == is_v4);
        let mut last = format!("{}: no address that can be reached", self.host);
        for peer in usable {
            let opened = match self.socket {
                Some(connection) => Ok(Flow { transport: Transport::Udp, peer: *peer, connection }),
                None => {
                    let tls = self.tls.as_ref().map(|(tls, name)| (tls.0.clone(), name.clone()));
                    connector.connect(*peer, tls).await
                }
            };
            match opened {
                Ok(flow) => {
                    let mut state = self.lock();
                    state.ips = addresses.iter().map(|address| address.ip().to_canonical()).collect();
                    state.flow = Some(flow);
                    return Ok(flow);
                }
                Err(error) => last = format!("{peer}: {error}"),
            }
        }
        Err(last)
    }
}

/// Keeps a trunk usable until it is to be left; says goodbye then.
pub(super) async fn keep(line: Arc<Line>, wire: Wire, connector: Connector, own: Node, leave: CancellationToken) {
    let mut registrar = Registrar::new(&line);
    tokio::select! {
        () = leave.cancelled() => {}
        () = keep_up(&mut registrar, &line, &wire, &connector, &own) => {}
    }
    // A provider that doesn't answer sees the registration end by itself.
    let _ = tokio::time::timeout(LEAVE_MAX, registrar.leave(&line, &wire)).await;
}

/// Keeps it usable, for ever.
async fn keep_up(registrar: &mut Registrar, line: &Line, wire: &Wire, connector: &Connector, own: &Node) {
    loop {
        let pause = registrar.turn(line, wire, connector).await;
        tell(line, registrar.registration.standing(), own);
        let until = tokio::time::Instant::now() + pause;
        loop {
            let ping_at = tokio::time::Instant::now() + PING_EVERY;
            tokio::select! {
                () = line.poke.notified() => break,
                () = tokio::time::sleep_until(until.min(ping_at)) => {}
            }
            if tokio::time::Instant::now() >= until {
                break;
            }
            if let Some(flow) = line.flow() {
                wire.ping(flow).await;
            }
        }
    }
}

/// What is new is told, and kept for the list.
fn tell(line: &Line, standing: &Standing, own: &Node) {
    let before = std::mem::replace(&mut line.lock().standing, standing.clone());
    if before == *standing {
        return;
    }
    match standing {
        Standing::Failed(why) => {
            warn!(trunk = line.name, why, "a trunk to the telephone network is out of order");
            own.warn("sip-trunk", format!("trunk {} is out of order: {why}; it is tried again", line.name));
        }
        Standing::Registered => info!(trunk = line.name, "a trunk to the telephone network is ready"),
        Standing::Trying => {}
    }
}

/// Why a REGISTER has come to nothing.
enum Unregistered {
    NoAnswer,
    Denied(AuthError),
}

/// The registration's own dialogue with the server.
struct Registrar {
    auth: ClientAuth,
    registration: Registration,
    call_id: String,
    tag: String,
    cseq: u32,
}

impl Registrar {
    fn new(line: &Line) -> Self {
        let call_id = format!("{}@halloo", token());
        Self { auth: line.auth.clone(), registration: Registration::default(), call_id, tag: token(), cseq: 0 }
    }

    /// Does what is due; how long until the next time.
    async fn turn(&mut self, line: &Line, wire: &Wire, connector: &Connector) -> Duration {
        let flow = match line.open(connector).await {
            Ok(flow) => flow,
            Err(why) => {
                line.lock().flow = None;
                return self.registration.unreachable(&why);
            }
        };
        if !line.config.register {
            let answer = Message::answer(&Message::request("REGISTER", ""), 200, "OK", None);
            // Nothing is registered, and nothing fails: the way is there.
            self.registration.answered(&answer, "");
            return LOOK_UP_EVERY;
        }
        let Some(local) = wire.local(flow).await else {
            return self.registration.unreachable("the connection is gone");
        };
        let contact = contact(&line.config.username, local, flow);
        match self.ask(line, wire, flow, &contact, self.registration.secs()).await {
            Ok(answer) => self.registration.answered(&answer, &local.to_string()),
            Err(Unregistered::NoAnswer) => self.registration.unreachable("the server doesn't answer"),
            Err(Unregistered::Denied(error)) => self.registration.denied(error),
        }
    }

    /// Takes the registration back, if there is one: calls to the numbers needn't ring in vain until it ends.
    async fn leave(&mut self, line: &Line, wire: &Wire) {
        let Some(flow) = line.flow().filter(|_| line.config.register) else { return };
        if *self.registration.standing() != Standing::Registered {
            return;
        }
        let Some(local) = wire.local(flow).await else { return };
        let contact = contact(&line.config.username, local, flow);
        if self.ask(line, wire, flow, &contact, 0).await.is_err() {
            debug!(trunk = line.name, "a provider doesn't take leave");
        }
    }

    /// A REGISTER for so many seconds, and the answer that asks for no credentials any more.
    async fn ask(&mut self, line: &Line, wire: &Wire, flow: Flow, contact: &str, secs: u32) -> Result<Message, Unregistered> {
        // Two tries with credentials: the second where the nonce was over.
        for _ in 0..3 {
            let mut request = self.request(line, contact, secs);
            let has_credentials = self.auth.authorize(&mut request, &token());
            let answer = wire.ask(request, flow, ANSWER_MAX).await.map_err(|_no_answer| Unregistered::NoAnswer)?;
            debug!(trunk = line.name, status = answer.status(), secs, "registering");
            if !matches!(answer.status(), 401 | 407) {
                return Ok(answer);
            }
            self.auth.challenged(&answer, has_credentials).map_err(Unregistered::Denied)?;
        }
        Err(Unregistered::Denied(AuthError::Wrong))
    }

    fn request(&mut self, line: &Line, contact: &str, secs: u32) -> Message {
        self.cseq += 1;
        let own = line.address_of(&line.config.username);
        let mut request = Message::request("REGISTER", &format!("sip:{}", own.rsplit('@').next().unwrap_or_default()));
        request.add("max-forwards", "70");
        request.add("from", format!("<{own}>;tag={}", self.tag));
        request.add("to", format!("<{own}>"));
        request.add("call-id", self.call_id.as_str());
        request.add("cseq", format!("{} REGISTER", self.cseq));
        request.add("contact", contact);
        request.add("expires", secs.to_string());
        request.add("user-agent", USER_AGENT);
        request
    }
}
