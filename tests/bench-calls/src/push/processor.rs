//! What a push costs a gateway's processor, beside the bare cost of its cryptography in the same run.
//!
//! The product's figure is the processor time of a gateway's own thread, the kernel's part included, while pushes come in over QUIC: a whole node, which
//! checks, keeps, encrypts, posts, and strikes off. Registrations are put into its database beforehand, in its own encoding. The HTTP exchange and the durable
//! record are measured apart, each alone on a thread, with the gateway's own client and store, in turns with the gateway.
//!
//! What the kernel takes to bring a page to a disk depends on who else writes to it, and is larger than everything that is compared here. So the database is in
//! memory where the gateway is set beside its cryptography, on both sides of the subtraction; what it takes on disk is stated.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use halloo::config::GatewayConfig;
use halloo::roles::gateway::webpush::{
    ReceiverKeys, Subscription, Urgency as WebUrgency, VapidKey, VapidSigner, VapidSubject, WebPushClient, WebPushConfig, encrypt,
};
use halloo::store::{PendingPush, Store, StoreError};
use halloo::streams::{Config, Event, Streams};
use halloo_protocol::capability::{
    Capability, CapabilityId, CapabilityProof, CapabilityRequest, CapabilityRules, Holder, Issuer, Limits, Service, verify,
};
use halloo_protocol::event::EventKind;
use halloo_protocol::key::{DeviceKey, IdentityKey, SecretKey};
use halloo_protocol::push::registration::{REGISTRATION_SECS, Registration};
use halloo_protocol::push::{
    OuterPayload, PushChannel, PushHandle, PushHints, PushPayload, PushRegister, PushSend, PushSent, PushStatus, Urgency,
};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Extensions, Frame, Signed};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder};
use tokio::sync::mpsc::{self, channel};

use super::postgres::Postgres;
use super::service::PushService;
use crate::lab::{Lab, Member, Part, eventually};
use crate::report::{Report, Row, median};
use crate::slow_link::SlowLink;

/// Frames that may wait; no more are under way at a time.
const QUEUE_MAX: usize = 4_096;

/// Peers that send: each may ask 400 things at once and a hundred a second.
const SENDERS: usize = 8;

/// Pushes under way at a time: as many as keep the gateway's thread busy. One with less to do is woken more often for each, which [`FEW`] shows: as many as it keeps
/// connections to one push service that speaks HTTP/1.1.
const AT_ONCE: u64 = 32;
const FEW: u64 = 4;

/// Pushes before any are counted.
const WARM_UP: usize = 100;

const PUSHES_MAX: usize = 3_000;

/// A sealed invite of the middle size class.
const SEALED_BYTES: usize = 1_800;

/// Times that each part alone is done in a turn.
const ALONE: usize = 300;

/// Turns; their medians count.
const TURNS: usize = 5;

/// Pushes whose record is on disk.
const ON_DISK: usize = 300;

/// A folder whose files are in memory.
const IN_MEMORY: &str = "/dev/shm";

const IDLE: Duration = Duration::from_secs(5);

const LIMIT: Duration = Duration::from_secs(60);

/// A device that is registered, and somebody who may push to it.
pub(super) struct Registered {
    pub(super) registration: Registration,
    holder: SecretKey,
    capability: Signed<Capability>,
}

fn now() -> UnixTime {
    UnixTime(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs())
}

impl Registered {
    pub(super) fn new(endpoint: &str, p256dh: [u8; 65], auth: [u8; 16]) -> Self {
        let key = || SecretKey::from_bytes(rand::random());
        let (device, holder, now) = (key(), key(), now());
        let id = DeviceKey(device.public());
        let capability = Capability {
            id: CapabilityId(rand::random()),
            issuer: Issuer::Device(id),
            service: Service::Push,
            holder: Holder::Key(holder.public()),
            limits: Limits { per_hour: 60, payload_bytes_max: 4_096 },
            epoch: 0,
            not_before: now.minus_secs(60),
            not_after: now.plus_secs(86_400),
            extensions: Extensions::none(),
        };
        let channel = PushChannel::WebPush { endpoint: endpoint.to_owned(), p256dh, auth };
        let registration = Registration {
            handle: PushHandle(rand::random()),
            rules: CapabilityRules::new(id, IdentityKey(key().public()), 0),
            request: PushRegister::new(vec![channel]),
            expires_at: now.plus_secs(REGISTRATION_SECS),
        };
        Self { registration, capability: Signed::sign(capability, &device), holder }
    }

    fn push(&self, gateway: &DeviceKey) -> PushSend {
        let hints = PushHints { event: EventKind::VOICE_CALL, ttl_secs: 60, urgency: Urgency::High };
        let sealed: Vec<u8> = std::iter::repeat_with(rand::random).take(SEALED_BYTES).collect();
        let handle = self.registration.handle;
        let request_hash = PushSend::hash_of(&handle, &hints, &sealed);
        let id = self.capability.unverified().id;
        let proof = CapabilityProof::sign(id, *gateway, request_hash, now(), &self.holder);
        PushSend { handle, capability: self.capability.clone(), proof, hints, sealed, extensions: Extensions::none() }
    }
}

/// Processor time of a thread of this process, the kernel's part included.
fn thread_time(thread: &str) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
    let nanos = text.split(' ').next().context("no time")?.parse()?;
    Ok(Duration::from_nanos(nanos))
}

fn own_thread() -> Result<String> {
    let link = std::fs::read_link("/proc/thread-self")?;
    Ok(link.file_name().context("no thread")?.to_string_lossy().into_owned())
}

/// The threads that nodes have for themselves.
fn node_threads() -> Result<HashSet<String>> {
    let mut found = HashSet::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        if std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "halloo-node") {
            found.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// Microseconds of this thread's processor that each of [`ALONE`] rounds takes.
fn alone(mut round: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    for number in 0..ALONE / 10 {
        round(number)?;
    }
    let thread = own_thread()?;
    let before = thread_time(&thread)?;
    for number in 0..ALONE {
        round(number)?;
    }
    Ok((thread_time(&thread)? - before).as_secs_f64() * 1e6 / ALONE as f64)
}

/// A gateway whose records are in Debian's PostgreSQL beside one whose own database is on the same disk: what each takes for a push.
pub(crate) async fn measure_shared(link: &SlowLink, pushes: usize, report: &mut Report) -> Result<()> {
    link.bypass(true)?;
    let service = PushService::start().await?;
    let postgres = tokio::task::spawn_blocking(Postgres::start).await?;
    let (own, shared) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let pushes = (pushes.min(PUSHES_MAX) / TURNS).max(1);
    let mut embedded = Gateway::start(&service, own.path(), pushes * TURNS, None).await?;
    let mut in_group = Gateway::start(&service, shared.path(), pushes * TURNS, Some(&postgres.url())).await?;
    let (mut apart, mut together) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        apart.push(embedded.cost(&service, pushes, AT_ONCE).await?);
        let before = postgres.processor_secs();
        let cost = in_group.cost(&service, pushes, AT_ONCE).await?;
        together.push((cost, (postgres.processor_secs() - before) * 1e6 / pushes as f64));
    }
    embedded.stop().await?;
    in_group.stop().await?;
    link.bypass(false)?;
    let middle = |figures: Vec<f64>| median(&figures);
    let note = format!("{TURNS} turns of {pushes} pushes, {AT_ONCE} at a time, in turns with the other; its whole thread");
    let own_micros = middle(apart.iter().map(|cost| cost.micros).collect());
    let shared_micros = middle(together.iter().map(|(cost, _)| cost.micros).collect());
    let database = middle(together.iter().map(|(_, database)| *database).collect());
    report.add(Row::stated("a push at a gateway, its own database on disk: processor time", "µs", own_micros).note(note.clone()));
    report.add(Row::stated("a push at a gateway, PostgreSQL: processor time", "µs", shared_micros).note(note));
    report.add(
        Row::stated("the same, of PostgreSQL's own processes", "µs", database).note("as Debian starts it, on the same disk"),
    );
    report.add(Row::stated("PostgreSQL / its own database, the gateway's thread", "x", shared_micros / own_micros));
    let rate = |secs: Vec<f64>| pushes as f64 / median(&secs);
    report.add(
        Row::stated("pushes a second that passed, its own database", "", rate(apart.iter().map(|cost| cost.secs).collect()))
            .note("one push service that speaks HTTP/1.1, senders and service on the same cores"),
    );
    let passed = rate(together.iter().map(|(cost, _)| cost.secs).collect());
    report.add(Row::stated("pushes a second that passed, PostgreSQL", "", passed));
    Ok(())
}

pub(crate) async fn measure(link: &SlowLink, pushes: usize, report: &mut Report) -> Result<()> {
    link.bypass(true)?;
    let service = PushService::start().await?;
    let pushes = pushes.min(PUSHES_MAX);
    let memory = if Path::new(IN_MEMORY).is_dir() { tempfile::tempdir_in(IN_MEMORY)? } else { tempfile::tempdir()? };
    let turns = turns(&service, memory.path(), pushes / TURNS / 2).await?;
    let disk = tempfile::tempdir()?;
    let mut gateway = Gateway::start(&service, disk.path(), ON_DISK, None).await?;
    let on_disk = gateway.micros(&service, ON_DISK, AT_ONCE).await?;
    gateway.stop().await?;
    let sample = devices(&service, 1)?;
    let disk = disk.path().join("alone");
    let record_on_disk = tokio::task::spawn_blocking(move || durable(&sample, &disk)).await??;
    link.bypass(false)?;
    report_turns(&turns, pushes, report);
    report.add(
        Row::stated("the durable record on disk", "µs", record_on_disk)
            .note("the same two commits, with what else is written to that disk"),
    );
    report.add(
        Row::stated("pushes per second and core", "", 1e6 / on_disk)
            .note(format!("{on_disk:.0} µs a push, everything included, the database on disk")),
    );
    Ok(())
}

/// What a turn found, in microseconds a push.
struct Turn {
    product: f64,
    /// The same with few at a time.
    few: f64,
    bare: Bare,
    exchange: f64,
    record: f64,
}

impl Turn {
    /// The gateway without what is stated apart.
    const fn rest(&self) -> f64 {
        self.product - self.exchange - self.record
    }
}

async fn turns(service: &PushService, folder: &Path, pushes: usize) -> Result<Vec<Turn>> {
    let gateway_key = SecretKey::from_bytes(rand::random());
    let mut gateway = Gateway::start(service, folder, 2 * pushes * TURNS, None).await?;
    let mut turns = Vec::new();
    for number in 0..TURNS {
        let product = gateway.micros(service, pushes, AT_ONCE).await?;
        let few = gateway.micros(service, pushes, FEW).await?;
        let (service, sample, key) = (service.clone(), devices(service, ALONE)?, gateway_key.clone());
        let folder = folder.join(format!("alone-{number}"));
        let turn = tokio::task::spawn_blocking(move || {
            let bare = cryptography(&sample, &key)?;
            let exchange = http(&service, &sample[0])? - bare.encryption;
            anyhow::Ok(Turn { product, few, bare, exchange, record: durable(&sample, &folder)? })
        });
        turns.push(turn.await??);
    }
    gateway.stop().await?;
    Ok(turns)
}

fn report_turns(turns: &[Turn], pushes: usize, report: &mut Report) {
    let middle = |figure: fn(&Turn) -> f64| median(&turns.iter().map(figure).collect::<Vec<_>>());
    let ratio = |turn: &Turn| turn.rest() / turn.bare.all;
    let (least, most) = turns.iter().map(ratio).fold((f64::MAX, f64::MIN), |(least, most), one| (least.min(one), most.max(one)));
    let encryption = middle(|turn| turn.bare.encryption);
    report.add(Row::stated("a push at the gateway, its cryptography alone: processor time", "µs", middle(|turn| turn.bare.all)).note(format!(
        "{ALONE} pushes of {SEALED_BYTES} bytes sealed: capability and proof, the outer part's signature, RFC 8291 ({encryption:.0} µs of it), cached VAPID token"
    )));
    report.add(Row::stated("a push at the gateway, everything: processor time", "µs", middle(|turn| turn.product)).note(format!(
        "{pushes} pushes, {AT_ONCE} at a time, the database in memory; its whole thread, QUIC and the kernel included, what it takes at rest subtracted"
    )));
    report.add(Row::stated("the same, fewer at a time", "µs", middle(|turn| turn.few)).note(format!("{FEW} at a time")));
    report.add(
        Row::stated("of it the HTTP exchange", "µs", middle(|turn| turn.exchange))
            .note("the gateway's client alone, HTTP/1.1 without TLS, without the encryption"),
    );
    report.add(
        Row::stated("of it the durable record", "µs", middle(|turn| turn.record))
            .note("kept, read and struck off, two commits, redb, the database in memory"),
    );
    report.add(Row::at_most("a push at the gateway without those two / its cryptography", "x", 1.5, 0.0, middle(|turn| turn.rest() / turn.bare.all)).note(
        format!(
            "{:.0} µs: QUIC, frames, registration looked up, limits, what is kept in memory, and the cryptography; median of {TURNS} turns, {least:.2} to {most:.2}",
            middle(Turn::rest)
        ),
    ));
}

/// Devices, registered with a push service.
fn devices(service: &PushService, count: usize) -> Result<Vec<Registered>> {
    let keys = ReceiverKeys::generate()?;
    Ok((0..count)
        .map(|number| Registered::new(&service.endpoint(&number.to_string()), keys.public_key(), *keys.auth()))
        .collect())
}

/// What pushes took.
struct Cost {
    /// The gateway's processor time for each, in microseconds.
    micros: f64,
    /// Until the push service had all, in seconds.
    secs: f64,
}

/// A gateway, and those who push.
struct Gateway {
    /// Whose thread is measured.
    member: Member,
    thread: String,
    device: DeviceKey,
    senders: Vec<Sender>,
    /// Not pushed to yet.
    devices: Vec<Registered>,
    /// Of a core, at rest.
    idle: f64,
    _lab: Lab,
}

impl Gateway {
    /// `database` is a PostgreSQL database, into which what is registered in the store is carried over.
    async fn start(service: &PushService, folder: &Path, pushes: usize, database: Option<&str>) -> Result<Self> {
        let mut devices = devices(service, pushes + WARM_UP)?;
        let store = Store::open(folder)?;
        store.transaction::<_, StoreError>(|tx| {
            devices.iter().map(|known| &known.registration).try_for_each(|registration| {
                tx.put_gateway_registration(&registration.handle.0, &registration.device(), &wire::encode(registration))
            })
        })?;
        let others = node_threads()?;
        let mut lab = Lab::new();
        let config = GatewayConfig {
            database: database.map(|url| serde_json::from_value(url.into())).transpose()?,
            database_key: database.map(|_| folder.join("group.key")),
            ..GatewayConfig::default()
        };
        let member = lab.join_as(Part::Gateway, store, config).await?;
        let thread = node_threads()?.difference(&others).next().cloned().context("the gateway has no thread of its own")?;
        let address: Multiaddr = member.node.status().await?.listen.first().context("not listening")?.parse()?;
        let peer: PeerId = member.peer_id.parse()?;
        let device = halloo::address::device_key(&peer).context("no device key")?;
        let address = if address.iter().any(|part| matches!(part, libp2p::multiaddr::Protocol::P2p(_))) {
            address
        } else {
            address.with_p2p(peer).map_err(|address| anyhow::anyhow!("{address}"))?
        };
        let mut senders = Vec::new();
        for _ in 0..SENDERS {
            senders.push(Sender::connect(&address, peer).await?);
        }
        let first = devices.split_off(pushes);
        send_all(service, &mut senders, (&first, AT_ONCE), &device).await?;
        let before = thread_time(&thread)?;
        tokio::time::sleep(IDLE).await;
        let idle = (thread_time(&thread)? - before).as_secs_f64() / IDLE.as_secs_f64();
        Ok(Self { member, thread, device, senders, devices, idle, _lab: lab })
    }

    /// Processor time of each of so many pushes.
    async fn micros(&mut self, service: &PushService, pushes: usize, at_once: u64) -> Result<f64> {
        Ok(self.cost(service, pushes, at_once).await?.micros)
    }

    /// What so many pushes take.
    async fn cost(&mut self, service: &PushService, pushes: usize, at_once: u64) -> Result<Cost> {
        let now = self.devices.split_off(self.devices.len().saturating_sub(pushes));
        let (before, began) = (thread_time(&self.thread)?, Instant::now());
        send_all(service, &mut self.senders, (&now, at_once), &self.device).await?;
        let secs = began.elapsed().as_secs_f64();
        let used = (thread_time(&self.thread)? - before).as_secs_f64() - self.idle * secs;
        Ok(Cost { micros: used * 1e6 / now.len() as f64, secs })
    }

    async fn stop(self) -> Result<()> {
        Ok(self.member.node.shutdown().await?)
    }
}

/// Sends a push to each, a few at a time, and waits until the push service has all.
async fn send_all(
    service: &PushService,
    senders: &mut [Sender],
    (devices, at_once): (&[Registered], u64),
    gateway: &DeviceKey,
) -> Result<()> {
    let before = service.taken();
    // Proofs are dated, and signing them is the senders' work.
    let pushes: Vec<PushSend> = devices.iter().map(|device| device.push(gateway)).collect();
    let deadline = Instant::now() + LIMIT;
    let count = senders.len();
    for (number, push) in (0_u64..).zip(&pushes) {
        while number - (service.taken() - before).min(number) >= at_once {
            if Instant::now() > deadline {
                bail!("only {} of {number} pushes have come to the push service", service.taken() - before);
            }
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        let id = u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1);
        senders[usize::try_from(number)? % count].send(&Frame::new(id, push))?;
    }
    eventually("all pushes", async || Ok((service.taken() - before >= pushes.len() as u64).then_some(()))).await?;
    for sender in senders {
        sender.check()?;
    }
    // The last ones are struck off yet.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

/// Somebody who pushes, with nothing of a node but its streams.
struct Sender {
    frames: mpsc::Sender<Vec<u8>>,
    answers: mpsc::Receiver<Vec<u8>>,
}

impl Sender {
    async fn connect(address: &Multiaddr, gateway: PeerId) -> Result<Self> {
        let mut swarm: Swarm<Streams> = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_quic()
            .with_behaviour(|_| Streams::new(Config::default()))?
            .with_swarm_config(|config| config.with_idle_connection_timeout(LIMIT))
            .build();
        swarm.behaviour_mut().keep(gateway, halloo::streams::Keeper::Push, true);
        swarm.dial(address.clone())?;
        let connected = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::Behaviour(Event::Connected { .. }) => return Ok(()),
                    SwarmEvent::OutgoingConnectionError { error, .. } => bail!("no connection: {error}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, connected).await??;
        let (frames, mut to_send) = channel::<Vec<u8>>(QUEUE_MAX);
        let (answered, answers) = channel(QUEUE_MAX);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    frame = to_send.recv() => {
                        let Some(frame) = frame else { break };
                        if let Err(error) = swarm.behaviour_mut().send(gateway, None, frame) {
                            eprintln!("a push wasn't sent: {error}");
                        }
                    }
                    event = swarm.select_next_some() => {
                        if let SwarmEvent::Behaviour(Event::Frame { bytes, .. }) = event {
                            let _nobody_looks = answered.try_send(bytes);
                        }
                    }
                }
            }
        });
        Ok(Self { frames, answers })
    }

    fn send(&self, frame: &Frame) -> Result<()> {
        self.frames.try_send(wire::encode(frame)).context("the sender has ended, or is behind")
    }

    /// All answers so far are that the push was taken.
    fn check(&mut self) -> Result<()> {
        while let Ok(bytes) = self.answers.try_recv() {
            let frame: Frame = wire::decode(&bytes, 64 * 1_024)?;
            if !frame.kind.is_answer() {
                continue;
            }
            let status = frame.parse::<PushSent>()?.status;
            if !matches!(status, PushStatus::Accepted { .. }) {
                bail!("a push was refused: {status:?}");
            }
        }
        Ok(())
    }
}

/// Microseconds.
struct Bare {
    all: f64,
    encryption: f64,
}

/// What the gateway can't do without.
fn cryptography(devices: &[Registered], gateway: &SecretKey) -> Result<Bare> {
    let id = DeviceKey(gateway.public());
    let pushes: Vec<PushSend> = devices.iter().map(|device| device.push(&id)).collect();
    let subscriptions: Vec<Subscription> = devices.iter().map(subscription).collect::<Result<_>>()?;
    let mut signer = VapidSigner::new(&VapidKey::generate()?, subject()?);
    let origin = subscriptions[0].origin();
    let now = now();
    let all = alone(|number| {
        let number = number % devices.len();
        let (push, registration) = (&pushes[number], &devices[number].registration);
        let asked = CapabilityRequest {
            capability: &push.capability,
            proof: &push.proof,
            service: Service::Push,
            request_hash: push.request_hash(),
            payload_bytes: push.sealed.len(),
            presenter: None,
        };
        verify(&asked, &registration.rules, &id, now)?;
        let outer = OuterPayload::new(id, push.hints.event, now, push.hints.ttl_secs, &push.sealed);
        let payload = PushPayload::new(outer, push.sealed.clone(), gateway)?.to_bytes();
        std::hint::black_box(signer.authorization(&origin, now.0));
        std::hint::black_box(encrypt(&subscriptions[number], &payload)?);
        Ok(())
    })?;
    let payload = vec![7; SEALED_BYTES + 200];
    let encryption = alone(|number| {
        std::hint::black_box(encrypt(&subscriptions[number % devices.len()], &payload)?);
        Ok(())
    })?;
    Ok(Bare { all, encryption })
}

fn subject() -> Result<VapidSubject> {
    Ok("mailto:bench@localhost".parse()?)
}

fn subscription(device: &Registered) -> Result<Subscription> {
    let Some(PushChannel::WebPush { endpoint, p256dh, auth }) = device.registration.request.channels.first() else {
        bail!("another channel")
    };
    Ok(Subscription::new(endpoint, *p256dh, *auth)?)
}

/// Microseconds of a thread that does nothing but post, encryption included; the push service is on other threads.
fn http(service: &PushService, device: &Registered) -> Result<f64> {
    let subscription = subscription(device)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config = WebPushConfig { lab: true, ..WebPushConfig::new(VapidKey::generate()?, subject()?) };
    let client = runtime.block_on(async { WebPushClient::new(config) })?;
    let payload = vec![7; SEALED_BYTES + 200];
    let opened = service.connections();
    let micros = alone(|_| {
        runtime.block_on(client.send(&subscription, &payload, 60, WebUrgency::High, None))?;
        Ok(())
    })?;
    if service.connections() > opened + 1 {
        eprintln!("{} connections for the HTTP exchange", service.connections() - opened);
    }
    Ok(micros)
}

/// Microseconds of what the database does for a push.
fn durable(devices: &[Registered], folder: &Path) -> Result<f64> {
    std::fs::create_dir_all(folder)?;
    let store = Store::open(folder)?;
    let push = PendingPush {
        handle: devices[0].registration.handle.0.to_vec(),
        due: now(),
        expires_at: now().plus_secs(60),
        content: vec![7; SEALED_BYTES + 450],
    };
    alone(|_| {
        let number = store.transaction::<_, StoreError>(|tx| tx.add_pending_push(&push))?;
        store.transaction::<_, StoreError>(|tx| {
            tx.pending_push(number)?;
            tx.remove_pending_push(number)
        })?;
        Ok(())
    })
}
