//! Devices and a mailbox in random orders: what anybody writes, everybody has in the end.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::contact::Secret32;
use crate::key::{IdentityKey, SecretKey};
use crate::time::UnixTime;
use crate::wire::{self, Extensions};

const KIND: u16 = 900;

fn identity() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

fn user() -> IdentityKey {
    IdentityKey(identity().public())
}

fn keys() -> VaultKeys {
    VaultKeys::new(Some(VaultRoot::of(&identity())), [])
}

/// As the role does it, without a disk.
#[derive(Default)]
struct Mailbox {
    chunks: BTreeMap<ChunkId, (u64, SealedChunk)>,
    version: u64,
}

impl Mailbox {
    fn index(&self) -> Vec<ChunkMark> {
        self.chunks.iter().map(|(id, (version, _))| ChunkMark { id: *id, version: *version }).collect()
    }

    fn fetch(&self, ids: &[ChunkId]) -> Vec<HeldChunk> {
        let held = ids.iter().filter_map(|id| {
            let (version, chunk) = self.chunks.get(id)?;
            Some(HeldChunk { mark: ChunkMark { id: *id, version: *version }, chunk: chunk.clone() })
        });
        held.take(1).collect()
    }

    fn put(&mut self, put: &VaultPut) -> VaultPutStatus {
        let held = self.chunks.get(&put.id).map_or(0, |(version, _)| *version);
        if held != put.base {
            return VaultPutStatus::Conflict { version: held };
        }
        self.version += 1;
        match &put.chunk {
            Some(chunk) => {
                chunk.check().expect("a size class");
                self.chunks.insert(put.id, (self.version, chunk.clone()));
            }
            None => {
                self.chunks.remove(&put.id);
            }
        }
        VaultPutStatus::Kept { version: self.version }
    }
}

/// A device whose state is sets that only grow.
struct Device {
    replica: VaultReplica,
    keys: VaultKeys,
    sets: BTreeMap<u16, BTreeSet<u16>>,
    rng: ChaCha20Rng,
    /// The answer that is under way, as it will be when it arrives.
    inbox: Option<Answer>,
    disk: Known,
    is_done: bool,
}

enum Answer {
    Index(Vec<ChunkMark>),
    Chunks(Vec<HeldChunk>),
    Kept(VaultPutStatus),
}

impl Device {
    fn new(seed: u64, keys: VaultKeys) -> Self {
        Self {
            replica: VaultReplica::new(Known::default(), true),
            keys,
            sets: BTreeMap::new(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            inbox: None,
            disk: Known::default(),
            is_done: false,
        }
    }

    fn local(&self) -> LocalItems {
        let mut local = LocalItems::default();
        for (name, set) in &self.sets {
            // As long as a contact.
            let value = wire::encode(&(name, set, vec![0_u8; 3_000]));
            assert!(local.insert(VaultItem::new(KIND, &name.to_be_bytes(), value)));
        }
        self.keys.iter().filter(|key| key.epoch > 1).for_each(|key| assert!(local.insert(key.to_item())));
        local
    }

    fn merge(&mut self, items: Vec<VaultItem>) {
        for item in items {
            match item.kind {
                VaultItem::KEY => {
                    let (key, _): (VaultKey, Extensions) = wire::decode(&item.value, 1_000).expect("a key");
                    if self.keys.insert(key) {
                        self.replica.keys_changed();
                    }
                }
                _ => {
                    let (name, set, _): (u16, BTreeSet<u16>, Vec<u8>) = wire::decode(&item.value, 50_000).expect("a set");
                    self.sets.entry(name).or_default().extend(set);
                }
            }
        }
    }

    /// One step: takes the answer that has come, and asks what follows.
    fn step(&mut self, mailbox: &mut Mailbox) {
        match self.inbox.take() {
            Some(Answer::Index(marks)) => self.replica.handle_index(marks),
            Some(Answer::Chunks(chunks)) => self.replica.handle_chunks(chunks, &user(), &self.keys),
            Some(Answer::Kept(status)) => self.replica.handle_kept(status),
            None if self.replica.is_idle() => self.replica.look(),
            None => {}
        }
        while let Some(action) = self.replica.poll_action() {
            match action {
                ReplicaAction::Look => self.inbox = Some(Answer::Index(mailbox.index())),
                ReplicaAction::Fetch(ids) => self.inbox = Some(Answer::Chunks(mailbox.fetch(&ids))),
                ReplicaAction::Put(put) => self.inbox = Some(Answer::Kept(mailbox.put(&put))),
                ReplicaAction::Merge(items) => self.merge(items),
                ReplicaAction::WantItems => {
                    let local = self.local();
                    self.replica.write(&local, &user(), &self.keys, &mut self.rng);
                }
                ReplicaAction::Remember(ids) => {
                    for id in ids {
                        match self.replica.known(&id) {
                            Some(known) => drop(self.disk.insert(id, known.clone())),
                            None => drop(self.disk.remove(&id)),
                        }
                    }
                }
                ReplicaAction::Done { .. } => self.is_done = true,
                ReplicaAction::Busy => {}
            }
        }
    }

    fn settle(&mut self, mailbox: &mut Mailbox) {
        self.is_done = false;
        for _ in 0..10_000 {
            self.step(mailbox);
            if self.is_done {
                return;
            }
        }
        panic!("a round that doesn't end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_at_once_is_everybodys_in_the_end(
        steps in prop::collection::vec((0..4_usize, 0..30_u16, 0..1_000_u16, 0..12_u8), 1..200),
        seed in any::<u64>(),
    ) {
        let mut mailbox = Mailbox::default();
        let mut devices: Vec<Device> = (0..3).map(|number| Device::new(seed.wrapping_add(number), keys())).collect();
        let mut all: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
        for (who, name, value, what) in steps {
            let Some(device) = devices.get_mut(who) else {
                // A mailbox that has lost its disk.
                if what == 0 {
                    mailbox = Mailbox { version: mailbox.version, ..Mailbox::default() };
                }
                continue;
            };
            match what {
                0..=3 => {
                    device.sets.entry(name).or_default().insert(value);
                    all.entry(name).or_default().insert(value);
                    device.replica.changed();
                }
                // Killed: what was under way is lost, what is known may be old.
                4 => {
                    device.replica = VaultReplica::new(device.disk.clone(), true);
                    device.inbox = None;
                }
                5 => {
                    let mut secret = [0; 32];
                    rand::Rng::fill_bytes(&mut device.rng, &mut secret);
                    device.keys.raise(Secret32::from_bytes(secret));
                }
                _ => device.step(&mut mailbox),
            }
        }
        // A key that is read in one round opens chunks in the next, and what they hold is written in that one.
        for _ in 0..6 {
            devices.iter_mut().for_each(|device| device.settle(&mut mailbox));
        }
        let newest = devices[0].keys.current().cloned();
        for device in &devices {
            prop_assert_eq!(&device.sets, &all);
            prop_assert_eq!(device.keys.current(), newest.as_ref());
        }
        // With nothing but the phrase.
        let mut fresh = Device::new(seed ^ 1, keys());
        fresh.settle(&mut mailbox);
        // What is under a key that was read only in this round is read in the next.
        fresh.settle(&mut mailbox);
        prop_assert_eq!(&fresh.sets, &all);
        for (_, chunk) in mailbox.chunks.values() {
            prop_assert!(chunk.epoch() == Some(KEY_EPOCH) || chunk.epoch() == newest.as_ref().map(|key| key.epoch));
        }
        let version = mailbox.version;
        devices.iter_mut().for_each(|device| device.settle(&mut mailbox));
        prop_assert_eq!(mailbox.version, version, "who has everything writes nothing");
    }
}

#[test]
fn a_thousand_contacts_are_packed() {
    let mut mailbox = Mailbox::default();
    let mut device = Device::new(1, keys());
    for name in 0..1_000 {
        device.sets.insert(name, BTreeSet::from([1]));
    }
    device.settle(&mut mailbox);
    assert!(mailbox.chunks.len() <= 1_000 / 7, "{} chunks", mailbox.chunks.len());
    let before = mailbox.version;
    device.sets.entry(500).or_default().insert(2);
    device.settle(&mut mailbox);
    assert_eq!(mailbox.version, before + 1, "a change is one chunk");
    device.sets.remove(&3);
    device.settle(&mut mailbox);
    assert_eq!(mailbox.version, before + 2, "what is forgotten goes");
    let mut fresh = Device::new(2, keys());
    fresh.settle(&mut mailbox);
    assert_eq!(fresh.sets, device.sets);
}

#[test]
fn who_was_removed_opens_nothing_new_and_destroys_nothing() {
    let mut mailbox = Mailbox::default();
    let mut first = Device::new(1, keys());
    first.sets.insert(1, BTreeSet::from([1]));
    first.settle(&mut mailbox);
    // Linked, without the identity key.
    let mut linked = Device::new(2, VaultKeys::new(None, keys().iter().cloned()));
    linked.settle(&mut mailbox);
    assert_eq!(linked.sets, first.sets);

    first.keys.raise(Secret32::from_bytes([9; 32]));
    first.sets.insert(2, BTreeSet::from([2]));
    first.settle(&mut mailbox);
    let held = mailbox.chunks.clone();
    linked.settle(&mut mailbox);
    assert!(!linked.sets.contains_key(&2), "sealed under a key it doesn't have");
    for (id, chunk) in &held {
        assert_eq!(mailbox.chunks.get(id), Some(chunk), "left alone");
    }
    first.settle(&mut mailbox);
    assert_eq!(first.sets.len(), 2);
}

#[test]
fn nobody_else_makes_or_moves_a_chunk() {
    let keys = keys();
    let (id, other) = (ChunkId([1; 16]), ChunkId([2; 16]));
    let items = [VaultItem::new(KIND, b"x", vec![1, 2, 3])];
    let sealed = SealedChunk::seal(&items, &user(), id, (&keys, 1), [5; 24]).expect("small");
    assert_eq!(sealed.as_bytes().len(), CHUNK_SIZE_CLASSES[0]);
    assert_eq!(sealed.open(&user(), id, &keys).as_deref(), Ok(&items[..]));
    assert_eq!(sealed.open(&user(), other, &keys), Err(ChunkError::Sealed), "in another's place");
    assert_eq!(sealed.open(&IdentityKey(SecretKey::from_bytes([8; 32]).public()), id, &keys), Err(ChunkError::Sealed));
    let stranger = VaultKeys::new(Some(VaultRoot::of(&SecretKey::from_bytes([8; 32]))), []);
    assert_eq!(sealed.open(&user(), id, &stranger), Err(ChunkError::Sealed));
    assert_eq!(sealed.open(&user(), id, &VaultKeys::default()), Err(ChunkError::NoKey(1)));
    for at in [0, 3, 4, 30, 100, sealed.as_bytes().len() - 1] {
        let mut bytes = sealed.as_bytes().to_vec();
        bytes[at] ^= 1;
        let altered = SealedChunk::from_bytes(bytes).expect("its length is right");
        assert!(altered.open(&user(), id, &keys).is_err(), "byte {at}");
    }
    assert!(SealedChunk::from_bytes(vec![0; 100]).is_err());
    let large = VaultItem::new(KIND, b"x", vec![0; CHUNK_BYTES_MAX]);
    assert!(matches!(
        SealedChunk::seal(std::slice::from_ref(&large), &user(), id, (&keys, 1), [5; 24]),
        Err(ChunkError::TooLarge(_))
    ));
    assert!(!LocalItems::default().insert(large));
    let largest = VaultItem::new(KIND, b"x", vec![0; ITEM_BYTES_MAX - 24]);
    let mut local = LocalItems::default();
    assert!(local.insert(largest.clone()));
    assert!(SealedChunk::seal(&[largest], &user(), id, (&keys, 1), [5; 24]).is_ok(), "what is taken in can be sealed");
}

#[test]
fn a_mailbox_bears_only_so_much() {
    let policy = VaultPolicy { vaults_max: 2, bytes_max: 100_000 };
    let now = UnixTime(1_800_000_000);
    let put = |bytes: usize| VaultPut {
        id: ChunkId([1; 16]),
        base: 0,
        chunk: (bytes > 0).then(|| SealedChunk::from_bytes(vec![0; bytes]).expect("a size class")),
        extensions: Extensions::none(),
    };
    let small = CHUNK_SIZE_CLASSES[0];
    let first = decide_put(&put(small), &VaultAccount::default(), 0, (0, 0), &policy, now).expect("there is room");
    assert_eq!(first, VaultAccount { chunks: 1, bytes: small as u64, version: now.0 * 1_024, seen_at: now });
    let crowded = decide_put(&put(small), &VaultAccount::default(), 0, (2, 0), &policy, now);
    assert_eq!(crowded, Err(VaultRefusal::MailboxFull));
    let full = decide_put(&put(small), &first, 0, (2, 99_000), &policy, now);
    assert_eq!(full, Err(VaultRefusal::MailboxFull));
    assert!(decide_put(&put(small), &first, small as u64, (2, 100_000), &policy, now).is_ok(), "what doesn't grow goes always");
    let gone = decide_put(&put(0), &first, small as u64, (2, 100_000), &policy, now).expect("less is fine");
    assert_eq!((gone.chunks, gone.bytes, gone.version), (0, 0, first.version + 1));
    let heavy = VaultAccount { chunks: 3, bytes: VAULT_BYTES_MAX, version: 9, seen_at: now };
    let roomy = VaultPolicy { vaults_max: 2, bytes_max: u64::MAX };
    assert_eq!(decide_put(&put(small), &heavy, 0, (1, 0), &roomy, now), Err(VaultRefusal::VaultFull));
    assert!(!first.is_over(now.plus_secs(VAULT_SECS)) && first.is_over(now.plus_secs(VAULT_SECS + 1)));
}
