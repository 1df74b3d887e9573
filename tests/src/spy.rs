//! A helper that everybody may choose, and that keeps every byte it is given: directory node, mailbox, vault, carrier of presence, gossip neighbour.
//!
//! It does its work well enough to be chosen and kept, in a thread of its own, and never tells anybody what it holds. What it has been told is for the
//! test to look through.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use halloo::behaviour::BehaviourEvent;
use halloo::streams;
use halloo::swarm::{NodeSwarm, SwarmOptions, build_swarm};
use halloo_protocol::kademlia::{
    FindNode, FindRecord, LeaseAnswer, LeaseOutcome, Nodes, RecordAnswer, RecordOutcome, RenewLease, Store, StoreAnswer,
    StoreOutcome, SyncOffer, SyncWant,
};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::mailbox::{
    MailboxItems, MailboxKept, MailboxOpen, MailboxOpened, MailboxPut, MailboxTake, OpenStatus, PutStatus,
};
use halloo_protocol::node::{Address, Descriptor, LoadClass, Roles, Transport};
use halloo_protocol::presence::PresenceGossip;
use halloo_protocol::session::{KeysStatus, MailboxKeyFetch, MailboxKeyFetched, MailboxKeys, MailboxKeysKept};
use halloo_protocol::vault::{
    ChunkId, ChunkMark, HeldChunk, SealedChunk, VaultChunks, VaultFetch, VaultIndex, VaultKept, VaultLook, VaultPut,
    VaultPutStatus,
};
use halloo_protocol::wire::{self, Extensions, Frame, FrameKind, Message};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tokio::runtime::Runtime;

use crate::attacker::{Forger, now};

/// How long boxes are promised.
const BOX_SECS: u64 = 86_400;

/// How often it looks whether it is to end.
const TURN: Duration = Duration::from_millis(50);

/// A frame that somebody sent.
#[derive(Clone, Debug)]
pub struct Told {
    /// Which device.
    pub from: DeviceKey,
    /// What.
    pub frame: Frame,
    /// The same, as it came.
    pub bytes: Vec<u8>,
}

/// See the [module's documentation](self). It ends when dropped.
#[derive(Debug)]
pub struct Spy {
    told: Arc<Mutex<Vec<Told>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spy {
    /// Takes up its roles under a really certified identity, and meets the daemons at these addresses.
    ///
    /// # Panics
    /// If it can't listen.
    #[must_use]
    pub fn start(forger: &Forger, meets: Vec<String>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let keypair = halloo::address::keypair(&forger.device).expect("32 bytes are a key");
        let (port, swarm) = runtime.block_on(async {
            let mut swarm = build_swarm(keypair, SwarmOptions::lab()).expect("a swarm");
            swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("the loopback interface");
            let port = loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    break address.iter().find_map(tcp_port).expect("it listens on TCP");
                }
            };
            (port, swarm)
        });
        let roles = Roles::DIRECTORY.union(Roles::MAILBOX).union(Roles::CARRIER);
        let address = Address::V4 { ip: Ipv4Addr::LOCALHOST.octets(), port, transport: Transport::Tcp };
        let descriptor = Descriptor {
            device: forger.device_key(),
            place: forger.place(),
            roles,
            load: LoadClass(0),
            addresses: vec![address],
        };
        let hello = wire::encode(&Frame::new(0, &forger.hello(Some(descriptor))));
        let told = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (heard, ends) = (Arc::clone(&told), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || serve(&runtime, swarm, &hello, &meets, &heard, &ends));
        Self { told, is_over, thread: Some(thread) }
    }

    /// Everything it was told so far.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        lock(&self.told).clone()
    }

    /// What one kind of frame said, by device.
    #[must_use]
    pub fn said<M: Message>(&self) -> Vec<(DeviceKey, M)> {
        let told = lock(&self.told);
        told.iter()
            .filter(|told| told.frame.kind == M::KIND)
            .filter_map(|told| Some((told.from, told.frame.parse().ok()?)))
            .collect()
    }
}

impl Drop for Spy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ended = thread.join();
        }
    }
}

/// Whoever panicked while holding it has left whole frames.
fn lock(told: &Mutex<Vec<Told>>) -> MutexGuard<'_, Vec<Told>> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tcp_port(part: Protocol<'_>) -> Option<u16> {
    match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    }
}

fn serve(runtime: &Runtime, mut swarm: NodeSwarm, hello: &[u8], meets: &[String], told: &Mutex<Vec<Told>>, is_over: &AtomicBool) {
    let first = hello.to_vec();
    swarm.behaviour_mut().streams.set_hello(Arc::new(move || first.clone()));
    let mut vaults = Vaults::default();
    runtime.block_on(async {
        for address in meets {
            let address: Multiaddr = address.parse().expect("the daemon listens on a multiaddress");
            swarm.dial(address).expect("the address can be dialled");
        }
        while !is_over.load(Ordering::Relaxed) {
            let Ok(event) = tokio::time::timeout(TURN, swarm.select_next_some()).await else { continue };
            let SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) = event else { continue };
            let (peer, bytes) = match event {
                streams::Event::Connected { peer, .. } => {
                    // Streams open with the first frame.
                    swarm.behaviour_mut().streams.keep(peer, halloo::streams::Keeper::Joining, true);
                    let _gone = swarm.behaviour_mut().streams.send(peer, None, hello.to_vec());
                    continue;
                }
                streams::Event::Frame { peer, bytes, .. } | streams::Event::Hello { peer, bytes, .. } => (peer, bytes),
                _ => continue,
            };
            let (Some(from), Ok(frame)) =
                (halloo::address::device_key(&peer), wire::decode::<Frame>(&bytes, wire::FRAME_BYTES_MAX))
            else {
                continue;
            };
            if let Some(answer) = answer(&frame, peer, &mut vaults) {
                let _gone = swarm.behaviour_mut().streams.send(peer, None, wire::encode(&answer));
            }
            lock(told).push(Told { from, frame, bytes });
        }
    });
}

#[derive(Debug, Default)]
struct Vaults {
    chunks: BTreeMap<(PeerId, [u8; 16]), (u64, SealedChunk)>,
    version: u64,
}

impl Vaults {
    fn index(&self, peer: PeerId) -> VaultIndex {
        let of_peer = self.chunks.iter().filter(|((owner, _), _)| *owner == peer);
        let chunks = of_peer.map(|((_, id), (version, _))| ChunkMark { id: ChunkId(*id), version: *version }).collect();
        VaultIndex { chunks, ..VaultIndex::default() }
    }

    fn fetch(&self, peer: PeerId, asked: &VaultFetch) -> VaultChunks {
        let find = |id: &ChunkId| {
            let (version, chunk) = self.chunks.get(&(peer, id.0))?;
            Some(HeldChunk { mark: ChunkMark { id: *id, version: *version }, chunk: chunk.clone() })
        };
        // One at a time always fits.
        VaultChunks { chunks: asked.ids.iter().find_map(find).into_iter().collect(), ..VaultChunks::default() }
    }

    fn put(&mut self, peer: PeerId, put: VaultPut) -> VaultKept {
        self.version += 1;
        match put.chunk {
            Some(chunk) => drop(self.chunks.insert((peer, put.id.0), (self.version, chunk))),
            None => drop(self.chunks.remove(&(peer, put.id.0))),
        }
        VaultKept { status: VaultPutStatus::Kept { version: self.version }, extensions: Extensions::none() }
    }
}

/// What a willing helper answers.
fn answer(frame: &Frame, peer: PeerId, vaults: &mut Vaults) -> Option<Frame> {
    let extensions = Extensions::none();
    let id = frame.id;
    Some(match frame.kind {
        // It lives, and says no more.
        PresenceGossip::KIND => Frame::new(0, &PresenceGossip::default()),
        MailboxOpen::KIND => {
            let status = OpenStatus::Opened { until: now().plus_secs(BOX_SECS), waiting: 0 };
            Frame::new(id, &MailboxOpened { status, extensions })
        }
        MailboxTake::KIND => Frame::new(id, &MailboxItems { items: Vec::new(), has_more: false, refused: None, extensions }),
        MailboxPut::KIND => {
            let until = frame.parse::<MailboxPut>().ok()?.until;
            Frame::new(id, &MailboxKept { status: PutStatus::Kept { until }, extensions })
        }
        MailboxKeys::KIND => {
            let asked = frame.parse::<MailboxKeys>().ok()?;
            let left = u32::try_from(asked.keys.len()).unwrap_or(0);
            Frame::new(id, &MailboxKeysKept { status: KeysStatus::Kept { batch: asked.batch, left }, extensions })
        }
        MailboxKeyFetch::KIND => Frame::new(id, &MailboxKeyFetched { key: None, refused: None, extensions }),
        VaultLook::KIND => Frame::new(id, &vaults.index(peer)),
        VaultFetch::KIND => Frame::new(id, &vaults.fetch(peer, &frame.parse().ok()?)),
        VaultPut::KIND => Frame::new(id, &vaults.put(peer, frame.parse().ok()?)),
        FindRecord::KIND => Frame::new(id, &RecordAnswer { outcome: RecordOutcome::Absent, closer: Vec::new(), extensions }),
        FindNode::KIND => Frame::new(id, &Nodes { closer: Vec::new(), extensions }),
        Store::KIND => {
            let answer =
                StoreAnswer { outcome: StoreOutcome::Accepted, holds: None, record: None, closer: Vec::new(), extensions };
            Frame::new(id, &answer)
        }
        RenewLease::KIND => Frame::new(id, &LeaseAnswer { outcome: LeaseOutcome::NeedRecord, extensions }),
        SyncOffer::KIND => {
            let offered = frame.parse::<SyncOffer>().ok()?;
            // All of it.
            Frame::new(id, &SyncWant { keys: offered.items.iter().map(|item| item.key).collect(), extensions })
        }
        kind if kind.is_request() => Frame { kind: FrameKind::UNSUPPORTED, id, body: Vec::new() },
        _ => return None,
    })
}
