//! The receiver's half: pulls what was accepted, whenever the sender's device is there.
//!
//! A transfer is in one of three positions ([`Link`]): waiting to try, asking whether it may go on, or up. What it knows of blocks outlives
//! lost connections; after a restart it is made anew from the chunks the database says are had.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use halloo_protocol::file::{
    Block, ChunkHash, FileAccept, FileAccepted, FileData, FileEnd, FileHashList, FileHashes, FileId, FileRead, FileRefusal,
    Layout, Pace, Pull, PullStep, Written,
};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::wire::{Extensions, Frame, Message};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::disk::{self, What, WriteJob};
use super::{Entry, Live, Meter, Row};
use crate::address;
use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::files::FileState;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::StoreError;

/// Files fetched at the same time; further ones wait for their turn. Bounds memory to as many times 1 MiB.
const RECEIVING_MAX: usize = 4;

/// Transfers that remember their blocks while the sender is away. Beyond that they start anew from the database.
const REMEMBERED_MAX: usize = 64;

/// Jobs a writing thread may have before it: every block under way, every chunk they complete, and the few others.
const JOBS_MAX: usize = 2 * Pace::BLOCKS_MAX + 8;

/// How long an answer may take. A block may wait behind others in a slow path.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads without any answer after which a transfer pauses.
const LOST_IN_A_ROW_MAX: u32 = 16;

/// First and longest pause before a sender that is away is tried again; its coming back is noticed by itself.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A sender that is busy, or whose record is being looked up.
const RETRY_SOON: Duration = Duration::from_secs(2);

/// After the disk refused, here or there: a person has to do something.
const RETRY_DISK: Duration = Duration::from_secs(30);

/// What is verified is made safe after so much of it, or so long.
const SYNC_BYTES: u64 = 8 * 1024 * 1024;
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// Over how long the ration of relayed bytes holds.
const RATION_OVER: Duration = Duration::from_secs(3_600);

/// Longest time for which bytes of a limited rate are saved up: a transfer is looked at every 250 ms when nothing else happens.
const BURST: Duration = Duration::from_millis(500);

/// Bytes that may be asked for, where the user has set a limit.
#[derive(Debug)]
pub(super) struct Limiter {
    at: Instant,
    bytes: f64,
}

impl Limiter {
    pub(super) const fn new(now: Instant) -> Self {
        Self { at: now, bytes: 0.0 }
    }

    /// True if something may be asked for now.
    fn is_open(&mut self, per_sec: Option<u64>, now: Instant) -> bool {
        let Some(per_sec) = per_sec else { return true };
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let per_sec = per_sec as f64;
        let more = now.saturating_duration_since(self.at).as_secs_f64() * per_sec;
        self.at = now;
        self.bytes = (self.bytes + more).min(per_sec * BURST.as_secs_f64());
        self.bytes > 0.0
    }

    /// So much was asked for; the debt of a last block is paid by the next ones.
    fn spend(&mut self, bytes: u32) {
        self.bytes -= f64::from(bytes);
    }
}

/// What may come through relays, which carry signalling for others: no more than three quarters of one circuit in the time for which a relay
/// grants one, so that the rest of it is there for messages.
#[derive(Debug)]
pub(super) struct Ration {
    since: Instant,
    used: u64,
}

impl Ration {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, used: 0 }
    }

    /// When there is more; `None` if there is some now.
    fn until(&mut self, max: u64, now: Instant) -> Option<Instant> {
        if now.saturating_duration_since(self.since) >= RATION_OVER {
            *self = Self::new(now);
        }
        (self.used >= max).then(|| self.since + RATION_OVER)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Waiting,
    Asking,
    Up,
}

/// A transfer that runs.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) worker: u64,
    link: Link,
    retry: Duration,
    lost: u32,
    hashes: Vec<ChunkHash>,
    jobs: Option<mpsc::Sender<WriteJob>>,
    pull: Option<Pull>,
    is_syncing: bool,
    sync_at: Option<Instant>,
    is_placing: bool,
    /// It waits for a direct path, or for the ration of relayed bytes.
    is_rationed: bool,
}

impl Receiving {
    /// Bytes that are here and verified.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.pull.as_ref().map(Pull::verified_bytes)
    }
}

/// What was asked of a sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileRequest {
    id: FileId,
    worker: u64,
    asked: Asked,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Accept,
    Hashes,
    Read { offset: u64, length: u32 },
}

impl EventLoop {
    /// What an earlier run had of a file.
    pub(super) fn stored_bytes(&self, row: &Row) -> u64 {
        let progress = self.store.read::<_, StoreError>(|view| view.file_progress(&row.id())).ok().flatten().unwrap_or_default();
        Pull::new(row.offer.layout(), &progress, Pace::BLOCKS_MAX).verified_bytes()
    }

    pub(super) fn receiving_tick(&mut self, now: Instant) {
        let is_up = |entry: &&Entry| matches!(&entry.live, Live::Receiving(receiving) if receiving.link != Link::Waiting);
        let mut room = RECEIVING_MAX.saturating_sub(self.files.entries.values().filter(is_up).count());
        let mut due: Vec<(Instant, FileId)> = Vec::new();
        let (mut syncs, mut direct) = (Vec::new(), Vec::new());
        for (id, entry) in &self.files.entries {
            let is_coming = entry.row.incoming && entry.row.state() == FileState::Accepted;
            match &entry.live {
                Live::Nothing if is_coming && entry.retry_at <= now => due.push((entry.retry_at, *id)),
                Live::Receiving(receiving) => {
                    if receiving.link == Link::Waiting && entry.retry_at <= now {
                        due.push((entry.retry_at, *id));
                    } else if receiving.is_rationed && entry.row.device.is_some_and(|device| self.is_direct(&device)) {
                        direct.push((now, *id));
                    }
                    if receiving.sync_at.is_some_and(|at| at <= now) {
                        syncs.push(*id);
                    }
                }
                _ => {}
            }
        }
        for id in syncs {
            self.sync_file(&id);
        }
        due.extend(direct);
        due.sort_unstable();
        for (_, id) in due {
            if room == 0 {
                return;
            }
            room -= 1;
            self.begin_receiving(&id, now);
        }
    }

    fn is_direct(&self, device: &DeviceKey) -> bool {
        address::peer_id(device).is_some_and(|peer| self.swarm.behaviour().streams.is_direct(&peer))
    }

    fn is_relayed(&self, device: &DeviceKey) -> bool {
        let known = address::peer_id(device).and_then(|peer| self.peers.get(&peer));
        known.is_some_and(|known| known.relayed)
    }

    /// Asks the sender's device whether it may go on.
    fn begin_receiving(&mut self, id: &FileId, now: Instant) {
        let Some(entry) = self.files.entries.get(id) else { return };
        let row = entry.row.clone();
        let Some(device) = row.device else { return };
        let target = address::peer_id(&device)
            .filter(|peer| self.swarm.is_connected(peer))
            .map(Target::connected)
            .or_else(|| self.cached_target(&row.with, &device));
        let Some(target) = target else {
            self.file_waits(id, RETRY_SOON, None);
            return self.resolve_user(&row.with, Waiter::Messages);
        };
        if matches!(entry.live, Live::Nothing) {
            self.forget_a_waiting_transfer();
            let receiving = self.fresh_receiving(&row);
            let Some(entry) = self.files.entries.get_mut(id) else { return };
            entry.meter = Meter::new(now, entry.bytes);
            entry.live = Live::Receiving(Box::new(receiving));
        }
        let Some(receiving) = self.receiving(id) else { return };
        receiving.link = Link::Asking;
        receiving.is_rationed = false;
        let worker = receiving.worker;
        let request = FileAccept { id: *id, extensions: Extensions::none() };
        let purpose = Purpose::File(FileRequest { id: *id, worker, asked: Asked::Accept });
        self.request(&target, &request, purpose, TIMEOUT);
    }

    fn forget_a_waiting_transfer(&mut self) {
        let remembered = self.files.entries.values().filter(|entry| matches!(entry.live, Live::Receiving(_))).count();
        if remembered < REMEMBERED_MAX {
            return;
        }
        let is_waiting =
            |entry: &&mut Entry| matches!(&entry.live, Live::Receiving(receiving) if receiving.link == Link::Waiting);
        if let Some(entry) = self.files.entries.values_mut().find(is_waiting) {
            entry.live = Live::Nothing;
        }
    }

    fn fresh_receiving(&mut self, row: &Row) -> Receiving {
        let stored = self.store.read::<_, StoreError>(|view| view.file_hashes(&row.id())).unwrap_or_default();
        let (hashes, _) = stored.as_chunks::<32>();
        let hashes = if row.offer.layout().check_hashes(&row.offer.root, hashes).is_ok() { hashes.to_vec() } else { Vec::new() };
        Receiving {
            worker: self.files.next_worker(),
            link: Link::Waiting,
            retry: RETRY_MIN,
            lost: 0,
            hashes,
            jobs: None,
            pull: None,
            is_syncing: false,
            sync_at: None,
            is_placing: false,
            is_rationed: false,
        }
    }

    fn receiving(&mut self, id: &FileId) -> Option<&mut Receiving> {
        match &mut self.files.entries.get_mut(id)?.live {
            Live::Receiving(receiving) => Some(receiving),
            _ => None,
        }
    }

    /// The transfer a request belonged to, if it still runs.
    fn receiving_of(&mut self, request: &FileRequest) -> Option<&mut Receiving> {
        self.receiving(&request.id).filter(|receiving| receiving.worker == request.worker)
    }

    /// Lets a transfer wait; what is under way won't come.
    fn file_waits(&mut self, id: &FileId, pause: Duration, why: Option<String>) {
        let retry_at = Instant::now() + pause;
        if let Some(entry) = self.files.entries.get_mut(id) {
            entry.retry_at = retry_at;
        }
        if let Some(receiving) = self.receiving(id) {
            receiving.link = Link::Waiting;
            receiving.lost = 0;
            if let Some(pull) = &mut receiving.pull {
                pull.handle_disconnected();
            }
        }
        if why.is_some() {
            self.set_file_problem(id, why);
        }
    }

    /// The sender isn't there: it is tried again, less and less often.
    fn sender_is_away(&mut self, id: &FileId) {
        let Some(receiving) = self.receiving(id) else { return };
        let pause = receiving.retry;
        receiving.retry = (pause * 2).min(RETRY_MAX);
        let row = self.row_of(id).ok().and_then(|row| Some((row.with.clone(), row.device?)));
        self.file_waits(id, pause, Some("the sender's device can't be reached now".into()));
        if let Some((with, _)) = row {
            // It may have moved.
            self.forget_cached(&with);
            self.resolve_user(&with, Waiter::Messages);
        }
    }

    /// A peer has said who it is: what it sends goes on at once.
    pub(crate) fn files_peer_greeted(&mut self, peer: libp2p::PeerId) {
        let Some(device) = self.peers.get(&peer).map(|known| known.device) else { return };
        let now = Instant::now();
        for entry in self.files.entries.values_mut() {
            let is_coming = entry.row.incoming && entry.row.state() == FileState::Accepted && entry.row.device == Some(device);
            if is_coming {
                entry.retry_at = entry.retry_at.min(now);
                if let Live::Receiving(receiving) = &mut entry.live {
                    receiving.retry = RETRY_MIN;
                }
            }
        }
    }

    pub(crate) fn file_answer(&mut self, request: FileRequest, frame: &Frame) {
        if self.receiving_of(&request).is_none() {
            return;
        }
        let id = request.id;
        let refused = match request.asked {
            Asked::Accept => frame.parse::<FileAccepted>().map(|answer| {
                if answer.refused.is_none() {
                    self.transfer_is_up(&id);
                }
                answer.refused
            }),
            Asked::Hashes => frame.parse::<FileHashList>().map(|answer| {
                if answer.refused.is_none() {
                    self.hashes_came(&id, &answer.hashes);
                }
                answer.refused
            }),
            Asked::Read { offset, length } => frame.parse::<FileData>().map(|answer| match answer.refused {
                None => {
                    self.block_came(&id, Block { offset, length }, answer.bytes);
                    None
                }
                Some(FileRefusal::BUSY) => {
                    self.block_lost(&id, offset);
                    None
                }
                refused => refused,
            }),
        };
        match refused {
            Ok(None) => {}
            Ok(Some(refusal)) => self.sender_refuses(&id, refusal),
            Err(error) => {
                debug!(%id, %error, "answer about a file");
                self.counters.malformed += 1;
                self.file_waits(&id, RETRY_DISK, Some("the sender's device doesn't speak as it should".into()));
            }
        }
    }

    fn sender_refuses(&mut self, id: &FileId, refusal: FileRefusal) {
        match refusal {
            FileRefusal::BUSY => self.file_waits(id, RETRY_SOON, Some(refusal.to_string())),
            FileRefusal::UNREADABLE => self.file_waits(id, RETRY_DISK, Some(refusal.to_string())),
            FileRefusal::TAKEN => self.end_file_quietly(id, FileState::Elsewhere, Some(refusal.to_string()), None),
            other => self.end_file_quietly(id, FileState::Failed, Some(other.to_string()), None),
        }
    }

    pub(crate) fn file_failure(&mut self, request: FileRequest, failure: Failure) {
        if self.receiving_of(&request).is_none() {
            return;
        }
        let id = request.id;
        debug!(%id, %failure, asked = ?request.asked, "file");
        match (request.asked, failure) {
            (Asked::Read { offset, .. }, Failure::Timeout | Failure::Busy | Failure::Overloaded) => {
                self.block_lost(&id, offset);
                let has_gone = self.receiving(&id).is_some_and(|receiving| {
                    receiving.lost += 1;
                    receiving.lost >= LOST_IN_A_ROW_MAX
                });
                if has_gone {
                    if let Some(device) = self.row_of(&id).ok().and_then(|row| row.device) {
                        self.drop_if_silent(&device, TIMEOUT);
                    }
                    self.sender_is_away(&id);
                }
            }
            (_, Failure::Busy | Failure::Overloaded) => self.file_waits(&id, RETRY_SOON, None),
            (_, Failure::Unsupported) => {
                self.file_waits(&id, RETRY_MAX, Some("the sender's device knows nothing of files".into()));
            }
            // All that was under way fails with it: the first one says it.
            _ if self.receiving(&id).is_some_and(|receiving| receiving.link == Link::Waiting) => {}
            _ => self.sender_is_away(&id),
        }
    }

    /// The sender's device is there and agrees.
    fn transfer_is_up(&mut self, id: &FileId) {
        let Ok(row) = self.row_of(id).cloned() else { return };
        let Some(receiving) = self.receiving(id) else { return };
        receiving.link = Link::Up;
        receiving.retry = RETRY_MIN;
        receiving.lost = 0;
        let is_listed = receiving.hashes.len() as u64 == u64::from(row.offer.layout().chunks());
        self.set_file_problem(id, None);
        if is_listed { self.list_is_whole(id, &row) } else { self.ask_hashes(id, &row) }
    }

    fn ask_hashes(&mut self, id: &FileId, row: &Row) {
        let Some(receiving) = self.receiving(id) else { return };
        let from = u32::try_from(receiving.hashes.len()).unwrap_or(u32::MAX);
        let worker = receiving.worker;
        let request = FileHashes { id: *id, from, extensions: Extensions::none() };
        self.ask_sender(row, &request, FileRequest { id: *id, worker, asked: Asked::Hashes });
    }

    fn ask_sender<M: Message>(&mut self, row: &Row, message: &M, request: FileRequest) {
        if let Some(peer) = row.device.and_then(|device| address::peer_id(&device)) {
            self.request(&Target::connected(peer), message, Purpose::File(request), TIMEOUT);
        }
    }

    fn hashes_came(&mut self, id: &FileId, hashes: &[ChunkHash]) {
        let Ok(row) = self.row_of(id).cloned() else { return };
        let chunks = row.offer.layout().chunks() as usize;
        let Some(receiving) = self.receiving(id) else { return };
        let is_sane = !hashes.is_empty() && receiving.hashes.len() + hashes.len() <= chunks;
        if !is_sane {
            return self.sender_lies(id);
        }
        receiving.hashes.extend_from_slice(hashes);
        if receiving.hashes.len() < chunks {
            return self.ask_hashes(id, &row);
        }
        let bytes = receiving.hashes.as_flattened().to_vec();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_file_hashes(id, &bytes)) {
            warn!(%error, "hashes of a file not kept");
        }
        self.list_is_whole(id, &row);
    }

    fn sender_lies(&mut self, id: &FileId) {
        self.end_file_quietly(id, FileState::Failed, Some(FileEnd::CORRUPT.to_string()), Some(FileEnd::CORRUPT));
    }

    /// All hashes are there: with the part file open, blocks are asked for.
    fn list_is_whole(&mut self, id: &FileId, row: &Row) {
        let layout = row.offer.layout();
        let Some(receiving) = self.receiving(id) else { return };
        if layout.check_hashes(&row.offer.root, &receiving.hashes).is_err() {
            return self.sender_lies(id);
        }
        if receiving.jobs.is_some() {
            return self.pump_file(id);
        }
        let worker = receiving.worker;
        let expects = self.store.read::<_, StoreError>(|view| view.file_progress(id)).ok().flatten().is_some();
        let teller = disk::Teller { id: *id, worker, sender: self.internal_sender.clone() };
        let part = PathBuf::from(row.part.clone().unwrap_or_default());
        let jobs = disk::receive_file(teller, part, layout, expects, JOBS_MAX);
        if let Some(receiving) = self.receiving(id) {
            receiving.jobs = Some(jobs);
        }
    }

    pub(super) fn receiving_news(&mut self, id: &FileId, what: What) {
        match what {
            What::Opened { is_fresh } => self.part_is_open(id, is_fresh),
            What::Written { offset } => self.block_written(id, offset),
            What::Verified { chunk, is_good } => self.chunk_verified(id, chunk, is_good),
            What::Synced(chunks) => self.chunks_synced(id, &chunks),
            What::Placed(path) => self.file_is_placed(id, &path),
            What::Failed(error) => self.disk_refuses(id, &error),
            _ => {}
        }
    }

    fn part_is_open(&mut self, id: &FileId, is_fresh: bool) {
        let Ok(row) = self.row_of(id).cloned() else { return };
        let progress = if is_fresh {
            // From now on what the database says is about this part file.
            let empty = Pull::new(row.offer.layout(), &[], Pace::BLOCKS_MAX).progress().to_vec();
            if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_file_progress(id, &empty)) {
                return self.disk_refuses(id, &std::io::Error::other(error.to_string()));
            }
            empty
        } else {
            self.store.read::<_, StoreError>(|view| view.file_progress(id)).ok().flatten().unwrap_or_default()
        };
        let Some(receiving) = self.receiving(id) else { return };
        let pull = Pull::new(row.offer.layout(), &progress, Pace::BLOCKS_MAX);
        let is_done = pull.step() == PullStep::Done;
        receiving.pull = Some(pull);
        if is_done { self.place_file(id) } else { self.pump_file(id) }
    }

    /// Asks for as many blocks as may be under way.
    fn pump_file(&mut self, id: &FileId) {
        let Ok(row) = self.row_of(id).cloned() else { return };
        let now = Instant::now();
        let is_relayed = row.device.is_some_and(|device| self.is_relayed(&device));
        if is_relayed && let Some(until) = self.files.ration.until(self.settings.files.relayed_bytes_per_hour, now) {
            let why = "no direct path to the sender's device, and what may go through relays in an hour is used up".to_owned();
            self.file_waits(id, until.saturating_duration_since(now), Some(why));
            if let Some(receiving) = self.receiving(id) {
                receiving.is_rationed = true;
            }
            return;
        }
        loop {
            let Some(receiving) = self.receiving(id).filter(|receiving| receiving.link == Link::Up) else { return };
            let worker = receiving.worker;
            if !self.files.limiter.is_open(self.settings.files.bytes_per_sec_max, now) {
                return;
            }
            let Some(pull) = self.receiving(id).and_then(|receiving| receiving.pull.as_mut()) else { return };
            let have = pull.verified_bytes();
            let Some(Block { offset, length }) = pull.poll_block(now) else { return };
            self.files.limiter.spend(length);
            let read = FileRead { id: *id, offset, length, have, extensions: Extensions::none() };
            let asked = Asked::Read { offset, length };
            self.ask_sender(&row, &read, FileRequest { id: *id, worker, asked });
        }
    }

    fn block_came(&mut self, id: &FileId, block: Block, bytes: Vec<u8>) {
        let device = self.row_of(id).ok().and_then(|row| row.device);
        if device.is_some_and(|device| self.is_relayed(&device)) {
            self.files.ration.used = self.files.ration.used.saturating_add(u64::from(block.length));
        }
        let Some(receiving) = self.receiving(id) else { return };
        receiving.lost = 0;
        let is_wanted = receiving.pull.as_mut().is_some_and(|pull| pull.handle_block(block.offset, bytes.len(), Instant::now()));
        if is_wanted {
            self.give_job(id, WriteJob::Write { offset: block.offset, bytes });
        }
        self.pump_file(id);
    }

    fn block_lost(&mut self, id: &FileId, offset: u64) {
        if let Some(pull) = self.receiving(id).and_then(|receiving| receiving.pull.as_mut()) {
            pull.handle_lost(offset, Instant::now());
        }
        // Asked for again by the next answer or tick, not at once: whoever is busy isn't helped by haste.
    }

    /// Its queue has room for everything that can be under way, so a full one means that the thread is gone.
    fn give_job(&mut self, id: &FileId, job: WriteJob) {
        let given =
            self.receiving(id).and_then(|receiving| receiving.jobs.as_ref()).is_some_and(|jobs| jobs.try_send(job).is_ok());
        if !given {
            self.disk_refuses(id, &std::io::Error::other("the thread that writes is gone"));
        }
    }

    fn block_written(&mut self, id: &FileId, offset: u64) {
        let Some(receiving) = self.receiving(id) else { return };
        let Some(pull) = receiving.pull.as_mut() else { return };
        if let Written::Verify(chunk) = pull.handle_written(offset) {
            let hash = receiving.hashes.get(chunk as usize).copied().unwrap_or_default();
            self.give_job(id, WriteJob::Verify { chunk, hash });
        }
        self.pump_file(id);
    }

    fn chunk_verified(&mut self, id: &FileId, chunk: u32, is_good: bool) {
        let Some(receiving) = self.receiving(id) else { return };
        let Some(pull) = receiving.pull.as_mut() else { return };
        if !is_good {
            warn!(%id, chunk, "a chunk of a file doesn't match its hash");
        }
        if pull.handle_verified(chunk, is_good).is_err() {
            return self.sender_lies(id);
        }
        if pull.is_all_verified() || pull.unsynced_bytes() >= SYNC_BYTES {
            self.sync_file(id);
        } else if is_good && receiving.sync_at.is_none() {
            receiving.sync_at = Some(Instant::now() + SYNC_AFTER);
        }
        self.pump_file(id);
    }

    fn sync_file(&mut self, id: &FileId) {
        let Some(receiving) = self.receiving(id).filter(|receiving| !receiving.is_syncing) else { return };
        receiving.sync_at = None;
        let Some(pull) = &receiving.pull else { return };
        let chunks: Vec<u32> = pull.unsynced().collect();
        if !chunks.is_empty() {
            receiving.is_syncing = true;
            self.give_job(id, WriteJob::Sync(chunks));
        }
    }

    fn chunks_synced(&mut self, id: &FileId, chunks: &[u32]) {
        let Some(receiving) = self.receiving(id) else { return };
        receiving.is_syncing = false;
        let Some(pull) = receiving.pull.as_mut() else { return };
        let step = pull.handle_synced(chunks);
        let (is_more, is_all) = (pull.unsynced_bytes() > 0, pull.is_all_verified());
        let progress = pull.progress().to_vec();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_file_progress(id, &progress)) {
            return self.disk_refuses(id, &std::io::Error::other(error.to_string()));
        }
        match step {
            PullStep::Done => self.place_file(id),
            PullStep::Going if is_all => self.sync_file(id),
            PullStep::Going if is_more => {
                if let Some(receiving) = self.receiving(id) {
                    receiving.sync_at.get_or_insert_with(|| Instant::now() + SYNC_AFTER);
                }
            }
            PullStep::Going => {}
        }
    }

    fn place_file(&mut self, id: &FileId) {
        let Some(path) = self.row_of(id).ok().and_then(|row| row.path.clone()) else { return };
        let Some(receiving) = self.receiving(id) else { return };
        if !std::mem::replace(&mut receiving.is_placing, true) {
            self.give_job(id, WriteJob::Place(disk::Target { path: PathBuf::from(path) }));
        }
    }

    fn file_is_placed(&mut self, id: &FileId, path: &std::path::Path) {
        if let Some(entry) = self.files.entries.get_mut(id) {
            entry.row.path = path.to_str().map(str::to_owned).or_else(|| entry.row.path.take());
        }
        self.end_file_quietly(id, FileState::Done, None, Some(FileEnd::RECEIVED));
    }

    /// What was fetched stays where it is; the disk is tried again.
    fn disk_refuses(&mut self, id: &FileId, error: &std::io::Error) {
        warn!(%id, %error, "a file can't be written");
        let now = Instant::now();
        if let Some(entry) = self.files.entries.get_mut(id) {
            entry.live = Live::Nothing;
            entry.retry_at = now + RETRY_DISK;
            entry.meter.rate = None;
        }
        let why = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "the disk is full".to_owned(),
            std::io::ErrorKind::NotFound => "the directory it is to go to isn't there".to_owned(),
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                "its directory can't be written".to_owned()
            }
            _ => format!("it can't be written: {error}"),
        };
        self.set_file_problem(id, Some(why));
    }

    /// Blocks that were lost are asked for again, however quiet it is otherwise.
    pub(super) fn pump_all_files(&mut self) {
        let up = |entry: &Entry| matches!(&entry.live, Live::Receiving(receiving) if receiving.link == Link::Up);
        let ids: Vec<FileId> = self.files.entries.iter().filter(|(_, entry)| up(entry)).map(|(id, _)| *id).collect();
        for id in ids {
            self.pump_file(&id);
        }
    }
}

/// Where blocks end is where chunks end.
const _: () = assert!(Layout::CHUNK_BYTES_MIN.is_multiple_of(Layout::BLOCK_BYTES as u64));
