//! Parts from own other devices: for one that was linked after a recording was left, to which its sender sends nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use halloo_protocol::key::DeviceKey;
use halloo_protocol::time::Now;
use halloo_protocol::voicemail::{VoicemailFetch, VoicemailPiece};
use halloo_protocol::wire::{Extensions, Frame};
use libp2p::PeerId;
use tracing::{debug, warn};

use super::{Key, Row, Stage, is_complete};
use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::network::Purpose;
use crate::rpc::Failure;
use crate::store::StoreError;

/// How long parts are waited for: most come from the sender, or lie in the mailbox.
const WAIT_SECS: u64 = 10;

/// The first pause after an own device that has nothing, or didn't answer; doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// How long a device has to answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchingPart {
    key: Key,
    index: u16,
}

/// Which device of this user is asked next for a recording, and when.
#[derive(Clone, Copy, Debug)]
struct Turn {
    at: Instant,
    pause: Duration,
    device: usize,
}

/// What is fetched, one part at a time. Turns are as many as recordings that are arriving, at most.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    turns: BTreeMap<Key, Turn>,
    is_asking: bool,
}

impl EventLoop {
    pub(super) fn fetch_voicemail(&mut self, now: Now) {
        if self.voicemail.fetches.is_asking || !self.contacts.has_own_devices() {
            return;
        }
        let is_lacking = |row: &Row| row.incoming && row.stage() == Stage::Arriving && row.told.is_some() && !is_complete(row);
        let entries = &self.voicemail.entries;
        self.voicemail.fetches.turns.retain(|key, _| entries.get(key).is_some_and(|entry| is_lacking(&entry.row)));
        let turns = &self.voicemail.fetches.turns;
        let is_due = |row: &&Row| {
            is_lacking(row)
                && now.unix >= row.kept_at.plus_secs(WAIT_SECS)
                && turns.get(&row.key()).is_none_or(|turn| turn.at <= now.instant)
        };
        let Some(row) = self.voicemail.rows().find(is_due) else { return };
        let (key, index) = (row.key(), u16::try_from(row.parts.trailing_ones()).unwrap_or_default());
        self.fetch_part(FetchingPart { key, index });
    }

    fn fetch_part(&mut self, part: FetchingPart) {
        let now = Instant::now();
        let turn = *self.voicemail.fetches.turns.entry(part.key).or_insert(Turn { at: now, pause: PAUSE_MIN, device: 0 });
        let own: Vec<DeviceKey> = self.contacts.own_devices().copied().collect();
        let me = self.identity.user_id();
        let Some(device) = own.get(turn.device % own.len().max(1)) else { return };
        let Some(target) = self.history_target(&me, device) else {
            self.next_turn(&part.key);
            return self.resolve_user(&me, Waiter::Messages);
        };
        let (from, voicemail) = part.key;
        let request = VoicemailFetch { device: from, voicemail, index: part.index, extensions: Extensions::none() };
        self.voicemail.fetches.is_asking = true;
        self.request(&target, &request, Purpose::VoicemailFetch(part), TIMEOUT);
    }

    /// Another device is asked the next time; after a pause once all were.
    fn next_turn(&mut self, key: &Key) {
        let count = self.contacts.own_devices().count().max(1);
        if let Some(turn) = self.voicemail.fetches.turns.get_mut(key) {
            turn.device += 1;
            if turn.device.is_multiple_of(count) {
                turn.at = Instant::now() + turn.pause;
                turn.pause = (turn.pause * 2).min(PAUSE_MAX);
            }
        }
    }

    pub(crate) fn voicemail_fetched(&mut self, part: FetchingPart, frame: &Frame) {
        self.voicemail.fetches.is_asking = false;
        match frame.parse::<VoicemailPiece>() {
            Ok(piece) if self.keep_piece(part, &piece.bytes) => {
                // The rest from the same device, without waiting for the next tick.
                let now = self.now();
                self.fetch_voicemail(now);
            }
            Ok(_) => self.next_turn(&part.key),
            Err(_) => {
                self.counters.malformed += 1;
                self.next_turn(&part.key);
            }
        }
    }

    pub(crate) fn voicemail_fetch_failure(&mut self, part: FetchingPart, failure: Failure) {
        debug!(%failure, "no part of a voicemail given");
        self.voicemail.fetches.is_asking = false;
        self.next_turn(&part.key);
    }

    /// True if it is the part that was wanted, and kept. Own devices keep no more than there is room for here.
    fn keep_piece(&mut self, FetchingPart { key, index }: FetchingPart, bytes: &[u8]) -> bool {
        let Some(entry) = self.voicemail.entries.get(&key) else { return false };
        let bit = 1_u32.checked_shl(index.into()).unwrap_or(0);
        let row = &entry.row;
        let is_wanted = row.stage() == Stage::Arriving
            && row.parts & bit == 0
            && row.told.as_ref().and_then(|told| told.voicemail.part_bytes(index.into())) == Some(bytes.len());
        if !is_wanted {
            return false;
        }
        let mut row = row.clone();
        row.parts |= bit;
        row.bytes = row.bytes.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let kept = self.store.transaction::<_, StoreError>(|tx| {
            tx.put_voicemail_part(&key.0, &key.1, index, bytes)?;
            row.put(tx)
        });
        if let Err(error) = kept {
            warn!(%error, "part of a voicemail not kept");
            return false;
        }
        if let Some(entry) = self.voicemail.entries.get_mut(&key) {
            entry.row = row;
        }
        self.complete_voicemail(&key);
        true
    }

    /// Another device of this user asks for a part. Nobody else gets any.
    pub(crate) fn handle_voicemail_fetch(&mut self, peer: PeerId, request: &VoicemailFetch) -> VoicemailPiece {
        let key = (request.device, request.voicemail);
        let asker = self.peers.get(&peer).and_then(|known| known.chain.as_ref());
        let is_own = asker
            .is_some_and(|asker| asker.user.identity == self.identity.identity() && asker.user.id == self.identity.user_id());
        let has_it = self.voicemail.entries.get(&key).is_some_and(|entry| entry.row.is_for_hearing());
        let bytes = if is_own && has_it {
            self.store.read::<_, StoreError>(|view| view.voicemail_part(&key.0, &key.1, request.index))
        } else {
            Ok(None)
        };
        VoicemailPiece { bytes: bytes.ok().flatten().unwrap_or_default(), extensions: Extensions::none() }
    }
}
