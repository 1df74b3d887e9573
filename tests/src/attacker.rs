//! A peer that speaks the overlay protocol and says what it likes.
//!
//! It uses the node's transports and streams, and none of its judgement: any hello, any frame, any
//! body. Tests that forge certificates and records make them with [`Forger`], from an identity that
//! was really enrolled, so that nothing but the one thing under test is wrong.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use halloo::behaviour::BehaviourEvent;
use halloo::streams;
use halloo::swarm::{NodeSwarm, SwarmOptions, build_swarm};
use halloo_protocol::directory::{DeviceEntry, EntryParts, Lease, Place, Reachability, RecordKey, UnverifiedRecord};
use halloo_protocol::identity::{
    Chain, DeviceCertificate, DeviceCertificateParams, RecoveryPhrase, SigningCertificate, UserCertificate, UserChain, UserId,
};
use halloo_protocol::kademlia::{
    FindNode, FindRecord, Nodes, RecordAnswer, RecordOutcome, Store, StoreAnswer, StoreOutcome, StoreRefusal,
};
use halloo_protocol::key::{AuthorityKey, DeviceKey, IdentityKey, SecretKey};
use halloo_protocol::message::{Content, Envelope};
use halloo_protocol::node::{Address, Descriptor, Hello, LoadClass, Roles, Transport};
use halloo_protocol::session::{Account, Pair, Sessions};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Extensions, Frame, FrameKind, Message, Signed};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId};
use tokio::runtime::Runtime;

use crate::network::{Network, User, text};

/// Longest wait for a connection, an answer, or news that were asked for: what a node has missed it repeats after some seconds.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(45);

/// The slot of forged devices' certificates: not the first, which the user's real device has.
const SLOT: u8 = 1;

/// A raw peer, connected to one victim.
pub struct Attacker {
    runtime: Runtime,
    swarm: NodeSwarm,
    victim: PeerId,
    next_id: u32,
    next_slot: u16,
    /// Frames that came and nobody has asked for yet.
    inbox: Vec<Frame>,
}

impl Attacker {
    /// Connects to the victim's address (which ends in `/p2p/ID`), under this device key, saying `hello` first.
    ///
    /// # Panics
    /// If there is no connection in time.
    #[track_caller]
    #[must_use]
    pub fn connect(address: &str, device: &SecretKey, hello: &Hello) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let keypair = halloo::address::keypair(device).expect("32 bytes are a key");
        let swarm = {
            let _entered = runtime.enter();
            build_swarm(keypair, SwarmOptions::lab()).expect("a swarm")
        };
        let address: Multiaddr = address.parse().expect("the daemon listens on a multiaddress");
        let victim = address.iter().find_map(peer_part).expect("the address ends in /p2p/ID");
        let mut attacker = Self { runtime, swarm, victim, next_id: 1, next_slot: 0, inbox: Vec::new() };
        let hello = wire::encode(&Frame::new(0, hello));
        let first = hello.clone();
        attacker.swarm.behaviour_mut().streams.set_hello(Arc::new(move || first.clone()));
        {
            let _entered = attacker.runtime.enter();
            attacker.swarm.dial(address).expect("the address can be dialled");
        }
        attacker
            .drive("a connection", |attacker| attacker.swarm.behaviour().streams.is_connected(&attacker.victim).then_some(()));
        // Streams open with the first frame, and without one the victim hears nothing.
        attacker.send_bytes(hello);
        attacker.drive("a hello", |attacker| attacker.inbox.iter().any(|frame| frame.kind == Hello::KIND).then_some(()));
        attacker
    }

    /// Sends one frame of any content.
    ///
    /// # Panics
    /// If there is no connection.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: Vec<u8>) {
        let victim = self.victim;
        if let Err(error) = self.swarm.behaviour_mut().streams.send(victim, None, bytes) {
            panic!("the attacker can't send: {error}");
        }
    }

    /// Sends a notice.
    #[track_caller]
    pub fn notify<M: Message>(&mut self, message: &M) {
        self.send_bytes(wire::encode(&Frame::new(0, message)));
    }

    /// Sends a request with any kind and body, and waits for the answer with its number.
    ///
    /// # Panics
    /// If none comes in time.
    #[track_caller]
    pub fn ask_raw(&mut self, kind: FrameKind, body: Vec<u8>) -> Frame {
        let id = self.send_request(kind, body);
        self.wait_answer(id)
    }

    /// Sends a request and doesn't wait; its number.
    #[track_caller]
    pub fn send_request(&mut self, kind: FrameKind, body: Vec<u8>) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.send_bytes(wire::encode(&Frame { kind, id, body }));
        id
    }

    /// The answer to the request with this number.
    ///
    /// # Panics
    /// If none comes in time.
    #[track_caller]
    pub fn wait_answer(&mut self, id: u32) -> Frame {
        self.drive("an answer", |attacker| {
            let position = attacker.inbox.iter().position(|frame| frame.kind.is_answer() && frame.id == id)?;
            Some(attacker.inbox.swap_remove(position))
        })
    }

    /// Asks and understands the answer.
    ///
    /// # Errors
    /// The answer, if it is of another kind: unsupported, busy.
    ///
    /// # Panics
    /// If none comes in time.
    #[track_caller]
    pub fn ask<M: Message, A: Message>(&mut self, message: &M) -> Result<A, Frame> {
        let answer = self.ask_raw(M::KIND, wire::encode(message));
        answer.parse().map_err(|_| answer)
    }

    /// Asks the victim for a record.
    ///
    /// # Panics
    /// If the answer is no record answer.
    #[track_caller]
    pub fn find_record(&mut self, key: RecordKey) -> Option<UnverifiedRecord> {
        let question = FindRecord { key, have_hash: None, want: 0, extensions: Extensions::none() };
        let answer: RecordAnswer = self.ask(&question).unwrap_or_else(|frame| panic!("no record answer but {frame:?}"));
        match answer.outcome {
            RecordOutcome::Found(bytes) => Some(UnverifiedRecord::from_bytes(&bytes).expect("a node passes on what is a record")),
            RecordOutcome::Same | RecordOutcome::Absent => None,
        }
    }

    /// Asks the victim to keep a record, and what it says to that.
    ///
    /// # Errors
    /// The reason and the words it refuses with.
    ///
    /// # Panics
    /// If the answer is no store answer.
    #[track_caller]
    pub fn store(&mut self, record: &UnverifiedRecord) -> Result<(), (StoreRefusal, String)> {
        self.store_bytes(wire::encode(record))
    }

    /// [`Attacker::store`] of any bytes.
    ///
    /// # Errors
    /// The reason and the words the victim refuses with.
    #[track_caller]
    pub fn store_bytes(&mut self, record: Vec<u8>) -> Result<(), (StoreRefusal, String)> {
        let request = Store { record, extensions: Extensions::none() };
        let answer: StoreAnswer = self.ask(&request).unwrap_or_else(|frame| panic!("no store answer but {frame:?}"));
        match answer.outcome {
            StoreOutcome::Accepted => Ok(()),
            StoreOutcome::Refused { reason, detail } => Err((reason, detail)),
        }
    }

    /// A number for a topic of presence, not used on this connection before.
    pub fn next_slot(&mut self) -> u16 {
        let slot = self.next_slot;
        self.next_slot += 1;
        slot
    }

    /// Shows `look` every frame that comes or has come, until it gives a value. Each is shown once and then dropped, unless it answers something.
    ///
    /// # Panics
    /// If it gives none in time.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&Frame) -> Option<T>) -> T {
        self.drive(what, |attacker| {
            let (answers, notices) = std::mem::take(&mut attacker.inbox).into_iter().partition(|frame| frame.kind.is_answer());
            attacker.inbox = answers;
            let notices: Vec<Frame> = notices;
            notices.iter().fold(None, |found, frame| found.or_else(|| look(frame)))
        })
    }

    /// Everything that came unasked so far.
    pub fn inbox(&self) -> &[Frame] {
        &self.inbox
    }

    /// Answers requests as `answer` says, until `is_done`. How many it answered.
    ///
    /// # Panics
    /// If the connection is gone.
    #[track_caller]
    pub fn serve(&mut self, is_done: impl Fn() -> bool, answer: impl Fn(&Frame) -> Option<(FrameKind, Vec<u8>)>) -> usize {
        let mut answered = 0;
        while !is_done() {
            self.idle(Duration::from_millis(5));
            for frame in std::mem::take(&mut self.inbox) {
                let Some((kind, body)) = frame.kind.is_request().then(|| answer(&frame)).flatten() else { continue };
                answered += 1;
                self.send_bytes(wire::encode(&Frame { kind, id: frame.id, body }));
            }
        }
        answered
    }

    /// Behaves as a directory server that is empty, for a while.
    pub fn serve_for(&mut self, time: Duration) {
        let until = std::time::Instant::now() + time;
        self.serve(|| std::time::Instant::now() >= until, deny_everything);
    }

    /// Lets the connection live for a while: sends what is queued, takes what comes.
    pub fn idle(&mut self, time: Duration) {
        let Self { runtime, swarm, inbox, .. } = self;
        runtime.block_on(async {
            let deadline = tokio::time::Instant::now() + time;
            while let Ok(event) = tokio::time::timeout_at(deadline, swarm.select_next_some()).await {
                keep_frame(inbox, event);
            }
        });
    }

    /// Whether the victim still talks to us.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.swarm.behaviour().streams.is_connected(&self.victim)
    }

    #[track_caller]
    fn drive<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = std::time::Instant::now() + ANSWER_TIME_MAX;
        loop {
            if let Some(value) = done(self) {
                return value;
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let Self { runtime, swarm, inbox, .. } = self;
            let event = runtime.block_on(async { tokio::time::timeout(left, swarm.select_next_some()).await });
            match event {
                Ok(event) => keep_frame(inbox, event),
                Err(_elapsed) => panic!("the attacker got no {what} within {ANSWER_TIME_MAX:?}"),
            }
        }
    }
}

impl std::fmt::Debug for Attacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attacker").field("victim", &self.victim).finish_non_exhaustive()
    }
}

/// What a directory server answers that holds nothing and knows nobody, or says so.
#[must_use]
pub fn deny_everything(frame: &Frame) -> Option<(FrameKind, Vec<u8>)> {
    let extensions = Extensions::none();
    Some(match frame.kind {
        FindRecord::KIND => {
            let answer = RecordAnswer { outcome: RecordOutcome::Absent, closer: Vec::new(), extensions };
            (RecordAnswer::KIND, wire::encode(&answer))
        }
        FindNode::KIND => (Nodes::KIND, wire::encode(&Nodes { closer: Vec::new(), extensions })),
        _ => (FrameKind::UNSUPPORTED, Vec::new()),
    })
}

fn peer_part(part: libp2p::multiaddr::Protocol<'_>) -> Option<PeerId> {
    match part {
        libp2p::multiaddr::Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

fn keep_frame(inbox: &mut Vec<Frame>, event: SwarmEvent<BehaviourEvent>) {
    let SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) = event else { return };
    let (streams::Event::Frame { bytes, .. } | streams::Event::Hello { bytes, .. }) = event else { return };
    inbox.extend(wire::decode::<Frame>(&bytes, wire::FRAME_BYTES_MAX));
}

/// Where a user's record is kept.
///
/// # Panics
/// If the authority doesn't tell its key.
#[track_caller]
#[must_use]
pub fn record_key(network: &Network, user: &User) -> RecordKey {
    let authority = network.authority.api().get("/v1/authority").expect("the authority shows itself");
    let authority = text(&authority, "key").parse().expect("a key");
    let name = user.username.split('@').next().and_then(|name| name.parse().ok()).expect("a username");
    RecordKey::of(&UserId::Named { authority, name })
}

/// Now, on this machine's clock.
#[must_use]
pub fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()))
}

/// A key that is different for every `number`.
#[must_use]
pub fn key(number: u64) -> SecretKey {
    SecretKey::from_bytes(halloo_protocol::key::hash("halloo test key", &[&number.to_be_bytes()]))
}

/// The secret key of a device, as whoever steals it has it.
///
/// # Panics
/// If the home has none.
#[must_use]
pub fn device_secret(home: &Path) -> SecretKey {
    let text = std::fs::read_to_string(home.join("device.key")).expect("the key's file");
    let encoded = text.trim().rsplit(' ').next().expect("the last word is the key");
    let seed = data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()).expect("base64url");
    SecretKey::from_bytes(seed.try_into().expect("32 bytes"))
}

/// The hello of somebody without a name.
#[must_use]
pub fn stranger_hello() -> Hello {
    Hello {
        version: Hello::VERSION,
        features: 0,
        chain: None,
        descriptor: None,
        clock: now(),
        revocations: Vec::new(),
        extensions: Extensions::none(),
    }
}

/// Encrypts what a forged device writes to a real one, as a node does.
#[derive(Debug)]
pub struct Sealer {
    sessions: Sessions,
    pair: Pair,
}

impl Sealer {
    /// For the one device in `record`, in a session started with its fallback key.
    ///
    /// # Panics
    /// If the record's entry has no keys, or users have no names.
    #[must_use]
    pub fn new(forger: &Forger, record: &UnverifiedRecord) -> Self {
        let entry = record.entries.first().expect("a device").entry();
        let keys = entry.pre_keys.expect("it takes encrypted messages");
        let ((me, my_identity), (you, your_identity)) = (named(&forger.user), named(&record.user));
        let pair = Pair::of((&me, &my_identity, &forger.device_key()), (&you, &your_identity, &entry.device));
        let mut sessions = Sessions::default();
        sessions.start(&Account::new(now()), &keys, None, None).expect("good keys");
        Self { sessions, pair }
    }

    /// The message for the device.
    ///
    /// # Panics
    /// If it is too long.
    pub fn seal(&mut self, envelope: &Envelope) -> Content {
        Content::Sealed(self.sessions.encrypt(&self.pair, envelope).expect("fits"))
    }
}

fn named(user: &UserChain) -> (UserId, IdentityKey) {
    match user {
        UserChain::Named { root, user, .. } => {
            let certificate = user.unverified();
            (UserId::Named { authority: *root, name: certificate.name.clone() }, certificate.identity)
        }
        UserChain::Key(identity) => (UserId::Key(*identity), *identity),
    }
}

/// A user with all secrets in hand, who makes whatever they like of them.
#[derive(Debug)]
pub struct Forger {
    /// The identity key.
    pub identity: SecretKey,
    /// The chain down to the user, as the authority made it.
    pub user: UserChain,
    /// A device key.
    pub device: SecretKey,
}

impl Forger {
    /// From a user's recovery phrase and chain; `device` numbers a new device.
    ///
    /// # Panics
    /// If the words are no phrase.
    #[must_use]
    pub fn new(phrase: &str, user: UserChain, device: u64) -> Self {
        let identity = RecoveryPhrase::parse(phrase).expect("`halloo init` printed it").identity_key();
        Self { identity, user, device: key(device) }
    }

    /// A user of a test network, whose record is read from the network's authority.
    ///
    /// # Panics
    /// If the authority has no record of the user.
    #[track_caller]
    #[must_use]
    pub fn of_user(network: &Network, user: &User, device: u64) -> Self {
        let mut reader = Attacker::connect(&network.bootstrap(), &key(0x0e_0000 + device), &stranger_hello());
        let record = reader.find_record(record_key(network, user)).expect("the authority keeps the user's record");
        Self::new(&user.phrase, record.user, device)
    }

    /// The device's key.
    #[must_use]
    pub fn device_key(&self) -> DeviceKey {
        DeviceKey(self.device.public())
    }

    /// The user's name and identity key.
    #[must_use]
    pub fn named(&self) -> (UserId, IdentityKey) {
        named(&self.user)
    }

    /// A certificate for the device, in order in all parts.
    #[must_use]
    pub fn certificate(&self) -> Signed<DeviceCertificate> {
        let params = DeviceCertificateParams { device: self.device_key(), slot: SLOT, serial: 1, now: now() };
        Signed::sign(DeviceCertificate::new(params), &self.identity)
    }

    /// The place that the certificates give the device.
    ///
    /// # Panics
    /// For a user without an authority: such users have no place.
    #[must_use]
    pub fn place(&self) -> Place {
        let UserChain::Named { user, .. } = &self.user else { panic!("who has no authority has no place") };
        Place::assigned(&user.unverified().placement, SLOT)
    }

    /// The device's chain.
    #[must_use]
    pub fn chain(&self) -> Chain {
        Chain { user: self.user.clone(), device: self.certificate() }
    }

    /// A hello that proves it all, and says `descriptor` of itself.
    #[must_use]
    pub fn hello(&self, descriptor: Option<Descriptor>) -> Hello {
        Hello { chain: Some(self.chain()), descriptor, ..stranger_hello() }
    }

    /// An entry for the device, in order in all parts.
    #[must_use]
    pub fn entry(&self, sequence: u64) -> DeviceEntry {
        let issued_at = now();
        DeviceEntry {
            device: self.device_key(),
            sequence,
            issued_at,
            expires_at: issued_at.plus_secs(86_400),
            addresses: Vec::new(),
            relays: Vec::new(),
            mailboxes: Vec::new(),
            keepers: Vec::new(),
            features: 0,
            hpke_key: [9; 32],
            pre_keys: None,
            sealed: None,
            extensions: Extensions::none(),
        }
    }

    /// The entry with certificate and lease, signed by the device.
    #[must_use]
    pub fn parts(&self, entry: DeviceEntry) -> EntryParts {
        self.parts_signed_by(entry, &self.device)
    }

    /// [`Forger::parts`], signed by whomever.
    #[must_use]
    pub fn parts_signed_by(&self, entry: DeviceEntry, signer: &SecretKey) -> EntryParts {
        let entry = Signed::sign(entry, signer);
        let lease = Lease {
            device: self.device_key(),
            entry_hash: entry.body_hash(),
            number: 1,
            reachability: Reachability::Direct,
            issued_at: entry.unverified().issued_at,
            until: entry.unverified().issued_at.plus_secs(600),
            extensions: Extensions::none(),
        };
        let lease = Some(Signed::sign(lease, signer));
        EntryParts { certificate: self.certificate(), entry, lease, keeper_lease: None }
    }

    /// A record of this one entry.
    #[must_use]
    pub fn record(&self, parts: EntryParts) -> UnverifiedRecord {
        UnverifiedRecord {
            user: self.user.clone(),
            successions: Vec::new(),
            tombstones: Vec::new(),
            entries: vec![parts],
            extensions: Extensions::none(),
        }
    }
}

/// The chain of a user under an authority of the test's own making, which nobody trusts.
#[must_use]
pub fn unknown_authority_chain(name: &str, identity: &SecretKey) -> UserChain {
    let (root, signing) = (key(0xa000), key(0xa001));
    let (not_before, not_after) = (now().minus_secs(3_600), now().plus_secs(86_400));
    let signing_certificate =
        SigningCertificate { key: signing.public(), serial: 1, not_before, not_after, extensions: Extensions::none() };
    let user = UserCertificate {
        name: name.parse().expect("the test's name is a username"),
        identity: IdentityKey(identity.public()),
        placement: [1; 32],
        serial: 1,
        not_before,
        not_after,
        linked: Vec::new(),
        extensions: Extensions::none(),
    };
    UserChain::Named {
        root: AuthorityKey(root.public()),
        signing: Signed::sign(signing_certificate, &root),
        user: Signed::sign(user, &signing),
    }
}

/// The descriptor a directory node says of itself.
#[must_use]
pub fn server_descriptor(device: DeviceKey, place: Place) -> Descriptor {
    // Nobody listens there: answers come over the connection that is open.
    let address = Address::V4 { ip: [127, 0, 0, 1], port: 9, transport: Transport::Quic };
    Descriptor { device, place, roles: Roles::DIRECTORY, load: LoadClass(0), addresses: vec![address] }
}
