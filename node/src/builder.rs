//! Starting a node: settings, and the way from them to a running event loop.

use std::path::{Path, PathBuf};
use std::time::Instant;

use halloo_protocol::call::{HpkeKeyPair, HpkeKeyRing};
use halloo_protocol::clock::ClockEstimator;
use halloo_protocol::directory::DeviceKind;
use halloo_protocol::identity::TrustStore;
use halloo_protocol::kademlia::LocalNode;
use halloo_protocol::key::AuthorityKey;
use halloo_protocol::node::Roles;
use halloo_protocol::time::UnixTime;
use libp2p::Multiaddr;
use tokio::sync::mpsc;

use crate::circuits::RelayLimits;
use crate::event_loop::{ClockSource, Counters, EventLoop, INTERNAL_MAX};
use crate::handle::authority::EnrolmentPolicy;
use crate::handle::{self, Node};
use crate::identity::LocalIdentity;
use crate::labels::Labels;
use crate::network::Peers;
use crate::reach::Reach;
use crate::roles::relay::MediaRelayConfig;
use crate::rpc::Rpc;
use crate::store::Store;
use crate::swarm::{SwarmOptions, build_counted_swarm};

/// How a node answers calls by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AutoAnswer {
    /// A WAV file that is sent instead of silence.
    pub play: Option<PathBuf>,
    /// A WAV file that receives what is heard; later calls overwrite it.
    pub record: Option<PathBuf>,
    /// A file whose video is sent in video calls.
    pub play_video: Option<PathBuf>,
    /// A file that receives the other end's video; later calls overwrite it.
    pub record_video: Option<PathBuf>,
}

impl AutoAnswer {
    pub(crate) fn video_files(&self) -> crate::calls::media::video::VideoFiles {
        crate::calls::media::video::VideoFiles { play: self.play_video.clone(), record: self.record_video.clone() }
    }
}

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) listen: Vec<Multiaddr>,
    pub(crate) bootstrap: Vec<Multiaddr>,
    pub(crate) roles: Roles,
    pub(crate) authorities: Vec<(String, AuthorityKey)>,
    pub(crate) lab: bool,
    pub(crate) mdns: bool,
    pub(crate) upnp: bool,
    pub(crate) publish_addresses: bool,
    pub(crate) relay_for_others: bool,
    pub(crate) relayed_calls: bool,
    pub(crate) early_media: bool,
    pub(crate) relay_limits: RelayLimits,
    pub(crate) media_relay: Option<MediaRelayConfig>,
    pub(crate) display_name: Option<String>,
    pub(crate) languages: Vec<String>,
    pub(crate) privacy: crate::handle::contacts::PrivacyChange,
    pub(crate) device_name: String,
    pub(crate) device_kind: DeviceKind,
    pub(crate) authority_name: Option<String>,
    pub(crate) enrolment: EnrolmentPolicy,
    pub(crate) answer: Option<AutoAnswer>,
    pub(crate) calls: crate::config::CallsConfig,
    pub(crate) telephone: Option<std::sync::Arc<halloo_protocol::trunk::Plan>>,
    /// Phones ring here: calls to one of them alone may be for this device.
    pub(crate) has_phones: bool,
    pub(crate) api: Option<String>,
    pub(crate) clock_skew_secs: i64,
    pub(crate) linked_certificate_secs: Option<u64>,
    pub(crate) gateway_drops: bool,
    pub(crate) lease_secs: u64,
    pub(crate) home: Option<PathBuf>,
    /// A PEM file with certificates of servers of WebSockets.
    pub(crate) web_roots: Option<PathBuf>,
    pub(crate) freezable: bool,
    pub(crate) publishes: bool,
    pub(crate) announce: Vec<Multiaddr>,
    pub(crate) memory: bool,
    pub(crate) files: crate::config::FilesConfig,
    pub(crate) gateway: crate::config::GatewayConfig,
    pub(crate) mail: crate::config::MailConfig,
    pub(crate) linked: crate::config::LinkedConfig,
    pub(crate) authority_mail: Option<crate::config::SmtpConfig>,
    pub(crate) authority_phone: Option<crate::config::PhoneConfig>,
    pub(crate) authority_sip: Option<crate::config::SipCodesConfig>,
    pub(crate) sensor: crate::config::SensorConfig,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            bootstrap: Vec::new(),
            roles: Roles::default(),
            authorities: Vec::new(),
            lab: false,
            mdns: true,
            upnp: true,
            publish_addresses: false,
            relay_for_others: false,
            relayed_calls: false,
            early_media: true,
            relay_limits: RelayLimits::default(),
            media_relay: None,
            display_name: None,
            languages: Vec::new(),
            privacy: crate::handle::contacts::PrivacyChange::default(),
            device_name: String::new(),
            device_kind: DeviceKind::default(),
            authority_name: None,
            enrolment: EnrolmentPolicy::Invite,
            answer: None,
            calls: crate::config::CallsConfig::default(),
            telephone: None,
            has_phones: false,
            api: None,
            clock_skew_secs: 0,
            linked_certificate_secs: None,
            gateway_drops: false,
            lease_secs: halloo_protocol::directory::DEVICE_LEASE_SECS_MAX,
            home: None,
            web_roots: None,
            freezable: false,
            publishes: true,
            announce: Vec::new(),
            memory: false,
            files: crate::config::FilesConfig::default(),
            gateway: crate::config::GatewayConfig::default(),
            mail: crate::config::MailConfig::default(),
            linked: crate::config::LinkedConfig::default(),
            authority_mail: None,
            authority_phone: None,
            authority_sip: None,
            sensor: crate::config::SensorConfig::default(),
        }
    }
}

/// Why a node can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address can't be listened on.
    #[error("can't listen on {address}: {reason}")]
    Listen {
        /// The multiaddress.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// The device key isn't one.
    #[error("the device key can't be used")]
    DeviceKey,
    /// The network stack can't be built.
    #[error(transparent)]
    Swarm(#[from] crate::swarm::SwarmError),
    /// The database can't be used.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The authority role can't start.
    #[error("authority role: {0}")]
    Authority(String),
    /// Certificates that are to be trusted can't be read.
    #[error("roots: {0}")]
    Roots(String),
    /// The gateway role can't start.
    #[error("gateway role: {0}")]
    Gateway(String),
    /// A mail account, or where mail is taken, can't be used.
    #[error("{0}")]
    Mail(String),
    /// The node's thread or runtime can't start.
    #[error("can't start a thread")]
    Thread(#[source] std::io::Error),
    /// The identity can't be used.
    #[error(transparent)]
    Identity(#[from] crate::identity::LocalIdentityError),
    /// An authority's label can't be used.
    #[error(transparent)]
    Label(#[from] crate::labels::LabelError),
    /// More authorities than a node trusts.
    #[error(transparent)]
    Trust(#[from] halloo_protocol::identity::ChainError),
}

/// Builds a [`Node`]. The shortest use: `Node::builder(identity).spawn().await?`.
///
/// Defaults are those of an ordinary device on the internet; each setter says what else there is.
#[derive(Debug)]
#[must_use = "a builder does nothing until `spawn`"]
pub struct NodeBuilder {
    identity: LocalIdentity,
    store: Option<Store>,
    settings: Settings,
}

impl Node {
    /// Starts building a node for this identity.
    pub fn builder(identity: LocalIdentity) -> NodeBuilder {
        NodeBuilder { identity, store: None, settings: Settings::default() }
    }
}

impl NodeBuilder {
    /// Keeps state in this database. Default: in memory, gone with the node.
    pub fn store(mut self, store: Store) -> Self {
        self.store = Some(store);
        self
    }

    /// Listens here too. Default: UDP (QUIC) and TCP on any port, IPv4 and IPv6; in a lab on 127.0.0.1.
    pub fn listen(mut self, address: Multiaddr) -> Self {
        self.settings.listen.push(address);
        self
    }

    /// Joins the network through this node, beside those the database remembers. Needs no `/p2p/...` part.
    pub fn bootstrap(mut self, address: Multiaddr) -> Self {
        self.settings.bootstrap.push(address);
        self
    }

    /// Serves this, whatever the node would decide by itself. May be called several times.
    pub fn role(mut self, roles: Roles) -> Self {
        self.settings.roles = self.settings.roles.union(roles);
        // Whoever keeps letters for a device is named in its entry, and carries its presence too.
        if self.settings.roles.contains(Roles::MAILBOX) {
            self.settings.roles = self.settings.roles.union(Roles::CARRIER);
        }
        self
    }

    /// Trusts an authority and calls it `label`.
    pub fn authority(mut self, label: &str, root: AuthorityKey) -> Self {
        self.settings.authorities.push((label.to_owned(), root));
        self
    }

    /// A network on one machine: loopback and private addresses everywhere, published openly, no rules about network diversity, no mDNS,
    /// no UPnP. Default: off. Never on the internet: it gives away addresses.
    pub fn lab(mut self, lab: bool) -> Self {
        self.settings.lab = lab;
        if lab {
            self.settings.mdns = false;
            self.settings.upnp = false;
        }
        self
    }

    /// Certificates (PEM) that are trusted besides Mozilla's list when others are dialled at `/tls/ws`. Default: none.
    pub fn web_roots(mut self, file: Option<PathBuf>) -> Self {
        self.settings.web_roots = file;
        self
    }

    /// Finds peers on the local network by multicast. Default: on, off in a lab.
    pub fn mdns(mut self, on: bool) -> Self {
        self.settings.mdns = on;
        self
    }

    /// Asks the home router for a port. Default: on, off in a lab.
    pub fn upnp(mut self, on: bool) -> Self {
        self.settings.upnp = on;
        self
    }

    /// Publishes direct addresses in the open part of the directory entry, for everybody who knows the name. Default: off: others come
    /// through relays until they are contacts.
    pub fn publish_addresses(mut self, on: bool) -> Self {
        self.settings.publish_addresses = on;
        self
    }

    /// Relays signalling for everybody, without the other duties of the role. Default: off.
    pub fn relay_for_others(mut self, on: bool) -> Self {
        self.settings.relay_for_others = on;
        self
    }

    /// Media of calls, out and in, goes through a relay only, so that the other end doesn't learn this device's addresses from it. A call fails
    /// where no relay lends an address. Default: off.
    pub fn relayed_calls(mut self, on: bool) -> Self {
        self.settings.relayed_calls = on;
        self
    }

    /// Connects the media of a contact's call while it rings here, so that the first word is heard. Default: on. Where audio passes through an embedder
    /// ([`AnswerOptions::passthrough`](crate::handle::calls::AnswerOptions::passthrough)) it is connected anew at the answer, and nothing is gained by it.
    pub fn early_media(mut self, on: bool) -> Self {
        self.settings.early_media = on;
        self
    }

    /// How much signalling this node relays, if it does.
    pub fn relay_limits(mut self, limits: RelayLimits) -> Self {
        self.settings.relay_limits = limits;
        self
    }

    /// Relays media for others (TURN): see [`MediaRelayConfig`]. Default: off.
    pub fn media_relay(mut self, config: MediaRelayConfig) -> Self {
        self.settings.media_relay = Some(config);
        self
    }

    /// The name shown when this user calls.
    pub fn display_name(mut self, name: Option<String>) -> Self {
        self.settings.display_name = name;
        self
    }

    /// Languages the user reads, best first (BCP 47).
    pub fn languages(mut self, languages: Vec<String>) -> Self {
        self.settings.languages = languages;
        self
    }

    /// Who may do what, until [`Contacts::set_privacy`](crate::handle::contacts::Contacts::set_privacy) says otherwise. Default: contacts.
    pub fn privacy(mut self, privacy: crate::handle::contacts::PrivacyChange) -> Self {
        self.settings.privacy = privacy;
        self
    }

    /// What this device is called and what machine it is.
    pub fn device(mut self, name: &str, kind: DeviceKind) -> Self {
        name.clone_into(&mut self.settings.device_name);
        self.settings.device_kind = kind;
        self
    }

    /// Settings of the authority role: the label it suggests to those it invites, and who may enrol.
    pub fn authority_role(mut self, name: Option<String>, enrolment: EnrolmentPolicy) -> Self {
        self.settings.authority_name = name;
        self.settings.enrolment = enrolment;
        self
    }

    /// By which services of others the gateway role delivers; its files are read at the start. Default: Web Push, webhooks and the stream alone.
    pub fn gateway_role(mut self, gateway: crate::config::GatewayConfig) -> Self {
        self.settings.gateway = gateway;
        self
    }

    /// The mail server by which an authority sends codes to addresses. Default: none, and so no codes.
    pub fn authority_mail(mut self, mail: Option<crate::config::SmtpConfig>) -> Self {
        self.settings.authority_mail = mail;
        self
    }

    /// What an authority sends codes to telephones by, and to which. Default: none, and so no codes.
    pub fn authority_phone(mut self, phone: Option<crate::config::PhoneConfig>) -> Self {
        self.settings.authority_phone = phone;
        self
    }

    /// What an authority sends codes to SIP addresses by. Default: none, and so no codes.
    pub fn authority_sip(mut self, sip: Option<crate::config::SipCodesConfig>) -> Self {
        self.settings.authority_sip = sip;
        self
    }

    /// Providers whose word is taken for who somebody is in another system. Default: none.
    pub fn linked(mut self, linked: crate::config::LinkedConfig) -> Self {
        self.settings.linked = linked;
        self
    }

    /// Mail accounts to watch, and where to take mail; passwords are read at the start. Default: none.
    pub fn mail(mut self, mail: crate::config::MailConfig) -> Self {
        self.settings.mail = mail;
        self
    }

    /// Where the device's usage and nearness come from by themselves. Default: nowhere; they are said ([`Devices::report_usage`](crate::handle::devices::Devices::report_usage)).
    pub fn sensor(mut self, sensor: crate::config::SensorConfig) -> Self {
        self.settings.sensor = sensor;
        self
    }

    /// Answers every call by itself. Default: no.
    pub fn auto_answer(mut self, answer: Option<AutoAnswer>) -> Self {
        self.settings.answer = answer;
        self
    }

    /// When calls of others ring and when not. Default: not during another call, nor while the user doesn't wish to be disturbed.
    pub fn calls(mut self, calls: crate::config::CallsConfig) -> Self {
        self.settings.calls = calls;
        self
    }

    /// This node is the device of a telephone gateway: calls to telephone numbers ring at it, of those users and to those numbers that the plan allows.
    /// Default: such calls are refused.
    pub(crate) fn telephone_gateway(mut self, plan: Option<std::sync::Arc<halloo_protocol::trunk::Plan>>) -> Self {
        self.settings.telephone = plan;
        self
    }

    /// This node is a device for SIP phones: calls to one of them alone are for its edge to judge. Default: such calls are refused.
    pub(crate) fn phones(mut self, has_phones: bool) -> Self {
        self.settings.has_phones = has_phones;
        self
    }

    /// What the `ready` event says about where the local API listens.
    pub fn api_address(mut self, address: Option<String>) -> Self {
        self.settings.api = address;
        self
    }

    /// Lets the node's clock be wrong by so many seconds. For tests of what a wrong clock does.
    pub fn dangerous_clock_skew_secs(mut self, secs: i64) -> Self {
        self.settings.clock_skew_secs = secs;
        self
    }

    /// Where files from others land, and how much of them may come through relays. Default: [`FilesConfig`](crate::config::FilesConfig)'s.
    pub fn files(mut self, files: crate::config::FilesConfig) -> Self {
        self.settings.files = files;
        self
    }

    /// As a gateway, accepts pushes and brings none, for tests of who finds out. Default: no.
    pub fn dangerous_gateway_drops(mut self, on: bool) -> Self {
        self.settings.gateway_drops = on;
        self
    }

    /// Lets certificates of devices linked here last so long, from an hour ago on, instead of a year. For tests of their renewal.
    pub fn dangerous_linked_certificate_secs(mut self, secs: Option<u64>) -> Self {
        self.settings.linked_certificate_secs = secs;
        self
    }

    /// How long the device vouches for itself at a time, in seconds, 2 to 3,600, which is the default. For tests and benchmarks of what follows when a
    /// device has been silent for so long: every half of it costs a renewal at all replicas.
    pub fn dangerous_lease_secs(mut self, secs: u64) -> Self {
        self.settings.lease_secs = secs.clamp(2, halloo_protocol::directory::DEVICE_LEASE_SECS_MAX);
        self
    }

    /// Keeps the authority role's root key as a file in this directory, and files from others beside it, if nothing else is said. Default: the
    /// key in the database, and files in the platform's directory for downloads.
    pub fn home(mut self, home: PathBuf) -> Self {
        self.settings.home = Some(home);
        self
    }

    /// Gives the node a thread and a runtime of its own, which [`Node::suspend`] stops whole: no timer, no acknowledgement, no answer, as
    /// when an operating system freezes a process. Default: off; without it a suspended node's connections still answer pings.
    pub fn freezable(mut self, on: bool) -> Self {
        self.settings.freezable = on;
        self
    }

    /// Whether the node publishes its record. Default: yes. A node that runs only for a moment, to enrol, had better not: its addresses would
    /// stand in the directory when they lead nowhere any more.
    pub fn publish(mut self, on: bool) -> Self {
        self.settings.publishes = on;
        self
    }

    /// Others reach this node here, by the owner's word, as behind a port forwarded by hand: these addresses are told to others instead of
    /// those it listens on and those it seems to be seen at. May be called several times.
    pub fn announce(mut self, address: Multiaddr) -> Self {
        self.settings.announce.push(address);
        self
    }

    /// Adds libp2p's memory transport, for networks within a process: `/memory/N` can then be listened on and dialled.
    #[doc(hidden)]
    pub fn memory_transport(mut self, on: bool) -> Self {
        self.settings.memory = on;
        self
    }

    /// Starts the node in a task of its own. It ends with [`Node::shutdown`] or with the last handle.
    ///
    /// # Errors
    /// [`StartError`]: what can't be used or listened on. Dropping the future starts nothing.
    pub async fn spawn(self) -> Result<Node, StartError> {
        // One provider for the whole process; an embedder may have chosen another before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (node, commands, events) = handle::channel();
        let (internal_sender, internal) = mpsc::channel(INTERNAL_MAX);
        // Only a node that can sleep needs somebody to wake it. The service lives in the caller's runtime, which stays awake.
        let service = match self.settings.freezable {
            true => crate::push::local_service(internal_sender.clone()).await,
            false => None,
        };
        let ends = Ends { commands, events, internal, internal_sender, service };
        if self.settings.freezable {
            self.start_thread(ends).await?;
        } else {
            tokio::spawn(Box::pin(self.assemble(ends)).await?.run());
        }
        Ok(node)
    }

    async fn start_thread(self, ends: Ends) -> Result<(), StartError> {
        let (started, outcome) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("halloo-node".into());
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = started.send(Err(StartError::Thread(error)));
                    return;
                }
            };
            runtime.block_on(async move {
                match Box::pin(self.assemble(ends)).await {
                    Ok(event_loop) => {
                        let _ = started.send(Ok(()));
                        event_loop.run().await;
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            });
        };
        thread.spawn(run).map_err(StartError::Thread)?;
        outcome.await.unwrap_or_else(|_| Err(StartError::Thread(std::io::ErrorKind::Other.into())))
    }

    /// Builds everything; must run in the runtime that the node lives in. On the heap at once: each future that has the event loop in it, and each that has such a
    /// future in it, would take its size from the stack of whoever starts a node.
    async fn assemble(self, ends: Ends) -> Result<Box<EventLoop>, StartError> {
        let settings = self.settings;
        let store = match self.store {
            Some(store) => store,
            None => Store::in_memory()?,
        };
        let keypair = crate::address::keypair(self.identity.device_key()).ok_or(StartError::DeviceKey)?;
        let traffic = std::sync::Arc::default();
        let web_roots = settings.web_roots.as_deref().map(web_roots).transpose()?.unwrap_or_default();
        let mut swarm = build_counted_swarm(keypair, swarm_options(&settings), &traffic, &web_roots)?;
        for address in listen_addresses(&settings) {
            listen(&mut swarm, address)?;
        }
        let clock_source = ClockSource { skew_secs: settings.clock_skew_secs };
        let unix = clock_source.raw_unix();
        let (labels, trust) = trusted(&settings, &store, &self.identity)?;
        let mut rng = EventLoop::fresh_rng();
        let hpke = hpke_keys(&self.identity, unix, &mut rng)?;
        let instant = Instant::now();
        let now = halloo_protocol::time::Now { instant, unix };
        let sessions = crate::sessions::SessionsState::open(&store, now)?;
        let (mut seed, mut place_seed) = ([0; 32], [0; 8]);
        rand::Rng::fill_bytes(&mut rng, &mut seed);
        rand::Rng::fill_bytes(&mut rng, &mut place_seed);
        // Whether it serves is settled by the first tick, when roles and addresses are known.
        let local = LocalNode { device: self.identity.device(), place: self.identity.place(), is_serving: false };
        let numbers = crate::directory::own_numbers(&store)?;
        let contacts = crate::contacts::ContactsState::open(&store, settings.privacy, &mut rng, instant)?;
        let receipts = crate::receipts::ReceiptsState::open(&store)?;
        let groups = crate::groups::GroupsState::open(&store)?;
        let mut presence_seed = [0; 32];
        rand::Rng::fill_bytes(&mut rng, &mut presence_seed);
        let presence = crate::presence::PresenceState::open(&store, &self.identity, &settings, &contacts, presence_seed, now)?;
        let vault = crate::vault::VaultState::open(&store, &self.identity, instant)?;
        let event_loop = Box::new(EventLoop {
            directory: crate::directory::DirectoryState::new(local, settings.lab, seed, numbers, now),
            swarm,
            commands: ends.commands,
            events: ends.events,
            internal: ends.internal,
            internal_sender: ends.internal_sender,
            settings,
            identity: self.identity,
            hpke,
            labels,
            trust,
            clock: ClockEstimator::new(),
            clock_source,
            rng,
            peers: Peers::default(),
            rpc: Rpc::new(),
            traffic,
            failures: std::collections::VecDeque::new(),
            counters: Counters::default(),
            reach: Reach::new(u64::from_be_bytes(place_seed)),
            enrolment: crate::enrolment::EnrolmentState::default(),
            messages: crate::messages::MessagesState::default(),
            sessions,
            contacts,
            files: crate::files::FilesState::new(instant),
            voicemail: crate::calls::voicemail::VoicemailState::new(instant),
            history: crate::history::HistoryState::default(),
            devices: crate::devices::DevicesState::default(),
            receipts,
            groups,
            presence,
            calls: crate::calls::CallsState::default(),
            push: crate::push::PushState::new(ends.service),
            choice: crate::choice::ChoiceState::default(),
            mail: crate::mail::MailState::default(),
            linked: crate::linked::LinkedState::default(),
            authority: None,
            gateway: None,
            media_relay: None,
            relays_at_hand: crate::relays_at_hand::RelaysAtHand::default(),
            mailbox: None,
            mailboxes: crate::mailboxes::MailboxesState::default(),
            vault,
            vault_keeper: None,
            hand_overs: crate::roles::hand_over::HandOvers::default(),
            introductions: crate::roles::signal_pass::Introductions::default(),
            started: instant,
            started_at: unix,
            suspended_since: None,
            held: std::collections::VecDeque::new(),
            ready: false,
            tick_at: instant,
            housekeeping: crate::housekeeping::Housekeeping::new(instant, unix),
            leaving: None,
            store,
        });
        event_loop.with_roles(unix).await
    }
}

/// The event loop's ends of its channels.
struct Ends {
    commands: crate::handle::CommandReceiver,
    events: crate::handle::EventSender,
    internal: mpsc::Receiver<crate::event_loop::Internal>,
    internal_sender: mpsc::Sender<crate::event_loop::Internal>,
    service: Option<crate::push::receiver::LocalPushService>,
}

/// Largest file with certificates, in bytes.
const ROOTS_BYTES_MAX: u64 = 1_024 * 1_024;

pub(crate) fn web_roots(path: &Path) -> Result<Vec<Vec<u8>>, StartError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let failed = |reason: String| StartError::Roots(format!("{}: {reason}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > ROOTS_BYTES_MAX {
        return Err(failed(format!("{length} bytes, at most {ROOTS_BYTES_MAX}")));
    }
    let found = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    let roots: Result<Vec<_>, _> = found.map(|found| found.map(|certificate| certificate.to_vec())).collect();
    let roots = roots.map_err(|error| failed(error.to_string()))?;
    if roots.is_empty() { Err(failed("no certificate in it".to_owned())) } else { Ok(roots) }
}

/// The device's keys for sealed invites: those in the database, changed when they are due.
fn hpke_keys(identity: &LocalIdentity, now: UnixTime, rng: &mut rand::rngs::StdRng) -> Result<HpkeKeyRing, StartError> {
    let stored = identity.hpke_keys()?.and_then(|bytes| HpkeKeyRing::from_bytes(&bytes).ok());
    let mut ring = stored.unwrap_or_else(|| HpkeKeyRing::new(HpkeKeyPair::generate(rng), now));
    if ring.is_due(now) {
        ring.rotate(HpkeKeyPair::generate(rng), now);
    }
    ring.prune(now);
    identity.put_hpke_keys(&ring.to_bytes())?;
    Ok(ring)
}

impl EventLoop {
    /// Opens the roles that keep state of their own.
    async fn with_roles(mut self: Box<Self>, now: UnixTime) -> Result<Box<Self>, StartError> {
        if self.settings.roles.contains(Roles::AUTHORITY) {
            self.open_authority(now)?;
            self.open_code_ways().map_err(StartError::Authority)?;
        }
        if self.settings.roles.contains(Roles::GATEWAY) {
            let (home, device) = (self.settings.home.as_deref(), self.identity.device());
            let news = self.internal_sender.clone();
            let shared = crate::roles::gateway::open_records(&self.settings.gateway, home, device, &self.store, news).await?;
            self.open_gateway(shared)?;
        }
        // A node that is there for a moment, to enrol, tells nobody of anything.
        if self.settings.publishes {
            self.open_mail().map_err(StartError::Mail)?;
            crate::choice::sensor::start(&self.settings.sensor, &self.internal_sender);
        }
        if self.settings.roles.contains(Roles::MAILBOX) {
            self.open_mailbox_role();
        }
        if let Some(config) = self.settings.media_relay.clone() {
            self.open_media_relay(config);
        }
        Ok(self)
    }
}

fn swarm_options(settings: &Settings) -> SwarmOptions {
    SwarmOptions {
        relay_server: settings.roles.contains(Roles::RELAY) || settings.relay_for_others,
        autonat_server: settings.roles != Roles::default() && !settings.lab,
        mdns: settings.mdns,
        upnp: settings.upnp,
        lab: settings.lab,
        relay_limits: settings.relay_limits,
        memory: settings.memory,
        hide_listen: !settings.lab || !settings.announce.is_empty(),
        ..SwarmOptions::default()
    }
}

/// Where to listen when nothing is said.
fn listen_addresses(settings: &Settings) -> Vec<Multiaddr> {
    if !settings.listen.is_empty() {
        return settings.listen.clone();
    }
    let defaults: &[&str] = if settings.lab {
        &["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"]
    } else {
        &["/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0", "/ip6/::/udp/0/quic-v1", "/ip6/::/tcp/0"]
    };
    defaults.iter().filter_map(|address| address.parse().ok()).collect()
}

/// Listens; a busy port is an error now, not a warning later.
fn listen(swarm: &mut crate::swarm::NodeSwarm, address: Multiaddr) -> Result<(), StartError> {
    let is_default_v6 = address.to_string().starts_with("/ip6/::/");
    match swarm.listen_on(address.clone()) {
        Ok(_) => Ok(()),
        // A machine without IPv6 is no reason not to start.
        Err(error) if is_default_v6 => {
            tracing::debug!(%error, "no IPv6 here");
            Ok(())
        }
        Err(error) => Err(StartError::Listen { address, reason: error.to_string() }),
    }
}

/// What this home believes: its own authority, those it was told of, and the revocation lists it has seen.
fn trusted(settings: &Settings, store: &Store, identity: &LocalIdentity) -> Result<(Labels, TrustStore), StartError> {
    let mut labels = Labels::new();
    let mut trust = TrustStore::new();
    for (label, root) in crate::enrolment::known_authorities(store)?.into_iter().chain(settings.authorities.iter().cloned()) {
        labels.insert(&label, root)?;
        trust.trust(root)?;
    }
    if let Some(root) = identity.authority() {
        trust.trust(root)?;
        labels.set_home(root);
    }
    for (old, _) in crate::linked::merge::known(store)? {
        trust.retire(old);
    }
    for list in crate::enrolment::known_revocations(store)? {
        // A list that was stored was verified then; one of an authority no longer trusted is skipped.
        let _ = trust.apply_revocations(&list);
    }
    Ok((labels, trust))
}
