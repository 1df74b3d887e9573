//! What a device knows of its vault at one mailbox, and what it does about it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bincode::{Decode, Encode};
use rand::Rng;

use super::chunk::OVERHEAD;
use super::{
    CHUNK_SIZE_CLASSES, ChunkId, ChunkMark, FETCH_MAX, HeldChunk, ITEM_BYTES_MAX, ItemKey, KEY_EPOCH, SealedChunk, VaultItem,
    VaultKeys, VaultPut, VaultPutStatus,
};
use crate::key::IdentityKey;
use crate::wire::Extensions;

/// Bytes of items up to which a chunk is filled. What changes is written as a whole chunk, so that fuller ones would cost more, and emptier ones
/// show better how many there are.
const FILL_BYTES: usize = CHUNK_SIZE_CLASSES[2] - OVERHEAD;

/// Conflicts in a row after which the device waits for its next turn: others write all the time.
const CONFLICTS_MAX: u32 = 8;

/// The user's state, encoded, as this device has it now.
#[derive(Clone, Debug, Default)]
pub struct LocalItems {
    items: BTreeMap<(u32, ItemKey), Local>,
}

#[derive(Clone, Debug)]
struct Local {
    item: VaultItem,
    digest: [u8; 16],
    bytes: usize,
}

impl LocalItems {
    /// Puts an item in. One that is too large for a chunk is left out, and `false` returned.
    pub fn insert(&mut self, item: VaultItem) -> bool {
        let bytes = item.encoded_len();
        if bytes > ITEM_BYTES_MAX {
            return false;
        }
        let digest = item.digest();
        self.items.insert((class_of(&item), item.key), Local { item, digest, bytes });
        true
    }

    /// True if exactly this is in it.
    #[must_use]
    pub fn holds(&self, item: &VaultItem) -> bool {
        self.items.get(&(class_of(item), item.key)).is_some_and(|local| local.digest == item.digest())
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Keys are apart from everything else: they are sealed under the root. 0 or 1.
fn class_of(item: &VaultItem) -> u32 {
    u32::from(item.kind != VaultItem::KEY)
}

/// A chunk as it was read or written last.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KnownChunk {
    version: u64,
    /// Of the key it is sealed under.
    epoch: u32,
    /// `None` if it couldn't be opened: it is left alone.
    items: Option<BTreeMap<ItemKey, [u8; 16]>>,
}

/// What is remembered over a restart, so that a vault isn't read as a whole each time.
pub type Known = BTreeMap<ChunkId, KnownChunk>;

/// What the owner is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaAction {
    /// Ask what is there; bring the answer to [`VaultReplica::handle_index`].
    Look,
    /// Ask for these; bring the answer to [`VaultReplica::handle_chunks`].
    Fetch(Vec<ChunkId>),
    /// Merge these into the user's state, and have the result on disk before anything else is done.
    Merge(Vec<VaultItem>),
    /// What this device has is wanted: [`VaultReplica::write`].
    WantItems,
    /// Ask for this; bring the answer to [`VaultReplica::handle_kept`].
    Put(Box<VaultPut>),
    /// Remember [`VaultReplica::known`] of these; those that aren't known any more are forgotten.
    Remember(Vec<ChunkId>),
    /// Both sides have the same. `is_whole`: no chunk had to be left alone.
    Done {
        /// True if everything there could be read.
        is_whole: bool,
    },
    /// Others write all the time: begin again later.
    Busy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Looking,
    Fetching { wanted: VecDeque<ChunkId>, marks: BTreeMap<ChunkId, u64> },
    Waiting,
    Putting { put: Box<VaultPut>, items: BTreeMap<ItemKey, [u8; 16]>, epoch: u32 },
}

/// One vault at one mailbox.
///
/// Contract: after every input take actions with [`VaultReplica::poll_action`] until `None`. A round begins with [`VaultReplica::look`] or
/// [`VaultReplica::changed`] and ends with [`ReplicaAction::Done`], [`ReplicaAction::Busy`] or [`VaultReplica::abort`].
#[derive(Clone, Debug)]
pub struct VaultReplica {
    known: Known,
    phase: Phase,
    /// False at a mailbox of another device's choice: it is only read.
    is_written: bool,
    conflicts: u32,
    actions: VecDeque<ReplicaAction>,
}

impl VaultReplica {
    /// With what is remembered. `is_written` is false for a vault that is read only.
    #[must_use]
    pub const fn new(known: Known, is_written: bool) -> Self {
        Self { known, phase: Phase::Idle, is_written, conflicts: 0, actions: VecDeque::new() }
    }

    /// What to remember of a chunk.
    #[must_use]
    pub fn known(&self, id: &ChunkId) -> Option<&KnownChunk> {
        self.known.get(id)
    }

    /// True if it is written.
    #[must_use]
    pub const fn is_written(&self) -> bool {
        self.is_written
    }

    /// Writes from now on.
    pub const fn set_written(&mut self, is_written: bool) {
        self.is_written = is_written;
    }

    /// True if no answer is awaited and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Chunks known to be there.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.known.len()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<ReplicaAction> {
        self.actions.pop_front()
    }

    /// Begins a round by looking. Nothing happens while one is under way.
    pub fn look(&mut self) {
        if self.is_idle() {
            self.conflicts = 0;
            self.start_looking();
        }
    }

    /// Begins a round by writing: the user's state has changed here. Nothing happens while one is under way, which writes too.
    pub fn changed(&mut self) {
        if self.is_idle() && self.is_written {
            self.conflicts = 0;
            self.want_items();
        }
    }

    /// Ends the round: the mailbox can't be reached, refuses, or says nonsense.
    pub fn abort(&mut self) {
        self.phase = Phase::Idle;
        self.actions.clear();
    }

    /// New keys are here: what couldn't be opened is read again.
    pub fn keys_changed(&mut self) {
        self.known.retain(|_, chunk| chunk.items.is_some());
    }

    fn start_looking(&mut self) {
        self.phase = Phase::Looking;
        self.actions.push_back(ReplicaAction::Look);
    }

    fn want_items(&mut self) {
        self.phase = Phase::Waiting;
        self.actions.push_back(ReplicaAction::WantItems);
    }

    /// What is there.
    pub fn handle_index(&mut self, marks: Vec<ChunkMark>) {
        if self.phase != Phase::Looking {
            return;
        }
        let marks: BTreeMap<ChunkId, u64> = marks.into_iter().map(|mark| (mark.id, mark.version)).collect();
        let gone: Vec<ChunkId> = self.known.keys().filter(|id| !marks.contains_key(id)).copied().collect();
        if !gone.is_empty() {
            self.known.retain(|id, _| marks.contains_key(id));
            self.actions.push_back(ReplicaAction::Remember(gone));
        }
        let is_news = |(id, version): &(&ChunkId, &u64)| self.known.get(id).is_none_or(|known| known.version != **version);
        let wanted: VecDeque<ChunkId> = marks.iter().filter(is_news).map(|(id, _)| *id).collect();
        self.fetch_next(wanted, marks);
    }

    fn fetch_next(&mut self, wanted: VecDeque<ChunkId>, marks: BTreeMap<ChunkId, u64>) {
        if wanted.is_empty() {
            return self.read_all();
        }
        let ids = wanted.iter().take(FETCH_MAX).copied().collect();
        self.actions.push_back(ReplicaAction::Fetch(ids));
        self.phase = Phase::Fetching { wanted, marks };
    }

    fn read_all(&mut self) {
        if self.is_written {
            return self.want_items();
        }
        self.finish();
    }

    fn finish(&mut self) {
        self.phase = Phase::Idle;
        let is_whole = self.known.values().all(|chunk| chunk.items.is_some());
        self.actions.push_back(ReplicaAction::Done { is_whole });
    }

    /// Chunks that were asked for. What opens is merged. An answer without any ends the fetching: they are gone, or kept back.
    pub fn handle_chunks(&mut self, chunks: Vec<HeldChunk>, identity: &IdentityKey, keys: &VaultKeys) {
        let Phase::Fetching { mut wanted, marks } = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        let asked: BTreeSet<ChunkId> = wanted.iter().take(FETCH_MAX).copied().collect();
        let mut merged = Vec::new();
        let mut had = BTreeSet::new();
        for HeldChunk { mark, chunk } in chunks {
            if !asked.contains(&mark.id) || !had.insert(mark.id) {
                continue;
            }
            let opened = chunk.check().ok().and_then(|()| chunk.open(identity, mark.id, keys).ok());
            let epoch = chunk.epoch().unwrap_or(KEY_EPOCH);
            let items = opened.as_ref().map(|items| items.iter().map(|item| (item.key, item.digest())).collect());
            self.known.insert(mark.id, KnownChunk { version: mark.version, epoch, items });
            merged.extend(opened.into_iter().flatten().filter(|item| (class_of(item) == 0) == (epoch == KEY_EPOCH)));
        }
        if !merged.is_empty() {
            self.actions.push_back(ReplicaAction::Merge(merged));
        }
        if had.is_empty() {
            return self.read_all();
        }
        self.actions.push_back(ReplicaAction::Remember(had.iter().copied().collect()));
        wanted.retain(|id| !had.contains(id));
        self.fetch_next(wanted, marks);
    }

    /// The user's state as this device has it, after [`ReplicaAction::WantItems`]: writes the next chunk that doesn't have it, or ends the round.
    pub fn write(&mut self, local: &LocalItems, identity: &IdentityKey, keys: &VaultKeys, rng: &mut impl Rng) {
        if self.phase != Phase::Waiting {
            return;
        }
        let Some(current) = keys.current().map(|key| key.epoch) else { return self.finish() };
        // Keys first: nothing is under a key that the recovery phrase doesn't lead to.
        let classes = [(0, KEY_EPOCH), (1, current)];
        let classes = classes.into_iter().filter(|(_, epoch)| *epoch != KEY_EPOCH || keys.has_root());
        for (class, epoch) in classes {
            if let Some(plan) = self.plan(local, class, epoch, rng) {
                return self.put(plan, epoch, identity, keys, rng);
            }
        }
        self.finish();
    }

    fn put(&mut self, plan: Plan<'_>, epoch: u32, identity: &IdentityKey, keys: &VaultKeys, rng: &mut impl Rng) {
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let content: Vec<VaultItem> = plan.items.iter().map(|local| local.item.clone()).collect();
        let chunk = match content.is_empty() {
            true => None,
            false => match SealedChunk::seal(&content, identity, plan.id, (keys, epoch), nonce) {
                Ok(chunk) => Some(chunk),
                // Items were measured before: this can't come, and if it does the round ends without harm.
                Err(_) => return self.finish(),
            },
        };
        let base = self.known.get(&plan.id).map_or(0, |known| known.version);
        let put = Box::new(VaultPut { id: plan.id, base, chunk, extensions: Extensions::none() });
        let items = plan.items.iter().map(|local| (local.item.key, local.digest)).collect();
        self.actions.push_back(ReplicaAction::Put(put.clone()));
        self.phase = Phase::Putting { put, items, epoch };
    }

    /// The first chunk that is to be written, and what belongs into it.
    fn plan<'a>(&self, local: &'a LocalItems, class: u32, epoch: u32, rng: &mut impl Rng) -> Option<Plan<'a>> {
        let of_class = |chunk: &KnownChunk| (chunk.epoch == KEY_EPOCH) == (class == 0);
        let chunks = || self.known.iter().filter(|(_, chunk)| of_class(chunk));
        // Where each item is; what stands in two chunks belongs to the first.
        let mut homes: BTreeMap<ItemKey, ChunkId> = BTreeMap::new();
        for (id, chunk) in chunks() {
            for key in chunk.items.iter().flat_map(BTreeMap::keys) {
                homes.entry(*key).or_insert(*id);
            }
        }
        let items = || local.items.range((class, ItemKey([0; 16]))..=(class, ItemKey([u8::MAX; 16]))).map(|(_, local)| local);
        let mut homeless: VecDeque<&Local> = items().filter(|item| !homes.contains_key(&item.item.key)).collect();
        let mut roomy = None;
        for (id, chunk) in chunks() {
            let Some(known) = &chunk.items else { continue };
            let at_home = |key: &&ItemKey| homes.get(key) == Some(id);
            let kept: Vec<&Local> = known.keys().filter(at_home).filter_map(|key| local.items.get(&(class, *key))).collect();
            let is_same = chunk.epoch == epoch
                && kept.len() == known.len()
                && kept.iter().all(|item| known.get(&item.item.key) == Some(&item.digest));
            let bytes: usize = kept.iter().map(|item| item.bytes).sum();
            if !is_same {
                return Some(Plan { id: *id, items: filled(kept, &mut homeless) });
            }
            let has_room = homeless.front().is_some_and(|next| bytes + next.bytes <= FILL_BYTES);
            if has_room && roomy.is_none() {
                roomy = Some((*id, kept));
            }
        }
        homeless.front()?;
        let (id, kept) = roomy.unwrap_or_else(|| (random_id(rng), Vec::new()));
        Some(Plan { id, items: filled(kept, &mut homeless) })
    }

    /// What became of the last put.
    pub fn handle_kept(&mut self, status: VaultPutStatus) {
        let Phase::Putting { put, items, epoch } = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        match status {
            VaultPutStatus::Kept { version } => {
                match put.chunk {
                    Some(_) => self.known.insert(put.id, KnownChunk { version, epoch, items: Some(items) }),
                    None => self.known.remove(&put.id),
                };
                self.conflicts = 0;
                self.actions.push_back(ReplicaAction::Remember(vec![put.id]));
                self.want_items();
            }
            VaultPutStatus::Conflict { .. } => {
                self.conflicts += 1;
                if self.conflicts > CONFLICTS_MAX {
                    return self.actions.push_back(ReplicaAction::Busy);
                }
                self.start_looking();
            }
            VaultPutStatus::Refused(_) => self.abort(),
        }
    }
}

struct Plan<'a> {
    id: ChunkId,
    items: Vec<&'a Local>,
}

/// What is kept as far as a chunk holds it, and what has no place yet as far as one is filled.
fn filled<'a>(kept: Vec<&'a Local>, homeless: &mut VecDeque<&'a Local>) -> Vec<&'a Local> {
    let mut items = Vec::new();
    let mut bytes = 0;
    for item in kept {
        // What has grown beyond a chunk finds a place in another one.
        if items.is_empty() || bytes + item.bytes <= FILL_BYTES {
            bytes += item.bytes;
            items.push(item);
        }
    }
    while let Some(next) = homeless.pop_front_if(|next| items.is_empty() || bytes + next.bytes <= FILL_BYTES) {
        bytes += next.bytes;
        items.push(next);
    }
    items
}

fn random_id(rng: &mut impl Rng) -> ChunkId {
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    ChunkId(id)
}
