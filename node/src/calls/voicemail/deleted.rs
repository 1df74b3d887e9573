//! What the user has deleted, on whichever of their devices: it is deleted on all of them, also where it comes only later.
//!
//! Told along with what was read of the conversation, as an extension of those marks; so a device that was away hears of it as it hears of that.

use bincode::{Decode, Encode};
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::{Correspondent, MARKS_PER_ITEM_MAX};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Extensions};
use tracing::{debug, warn};

use super::{Key, Stage};
use crate::event_loop::EventLoop;
use crate::store::{StoreError, VALUE_BYTES_MAX};

/// Extension of what was read of a conversation: recordings in it that the user has deleted, device and number of each. No counter sets, which close
/// gaps when they get long: what lies in a gap here is to stay.
const DELETED_EXTENSION: u16 = 0x0001;

/// Most bytes of it: so many of a key and a number.
const DELETED_BYTES_MAX: usize = 8 + MARKS_PER_ITEM_MAX * (32 + 9);

/// Deletions remembered, or as many as fit in a value; the oldest fall out. Own devices hear of one within days, and recordings are tried for 30.
const DELETED_MAX: usize = 512;

const DELETED: &str = "deleted voicemail";

/// A deleted recording: it is named by the number of its message, which is all that other devices need to have in common.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Deletion {
    with: UserId,
    device: DeviceKey,
    counter: u64,
    at: UnixTime,
}

/// All that are remembered.
#[derive(Debug, Default)]
pub(super) struct Deletions(Vec<Deletion>);

impl Deletions {
    fn has(&self, with: &UserId, device: &DeviceKey, counter: u64) -> bool {
        self.0.iter().any(|known| known.counter == counter && known.device == *device && known.with == *with)
    }

    /// True if that was news.
    fn add(&mut self, deletion: Deletion) -> bool {
        if self.has(&deletion.with, &deletion.device, deletion.counter) {
            return false;
        }
        self.0.push(deletion);
        self.0.sort_by_key(|known| known.at);
        while self.0.len() > DELETED_MAX || wire::encoded_len(&self.0) > VALUE_BYTES_MAX {
            self.0.remove(0);
        }
        true
    }

    /// The newest of one conversation.
    fn of(&self, with: &UserId) -> Vec<(DeviceKey, u64)> {
        let of_user = self.0.iter().rev().filter(|known| known.with == *with);
        of_user.take(MARKS_PER_ITEM_MAX).map(|known| (known.device, known.counter)).collect()
    }
}

impl EventLoop {
    pub(super) fn load_deletions(&mut self) {
        match self.store.read::<_, StoreError>(|view| view.setting_value(DELETED)) {
            Ok(known) => self.voicemail.deletions = Deletions(known.unwrap_or_default()),
            Err(error) => warn!(%error, "deleted voicemail not restored from the database"),
        }
    }

    fn keep_deletions(&self) {
        let known = &self.voicemail.deletions.0;
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(DELETED, known)) {
            warn!(%error, "deleted voicemail isn't remembered");
        }
    }

    /// The user has deleted a recording here: own other devices do as well.
    pub(super) fn note_deleted(&mut self, key: &Key) {
        let at = self.now().unix;
        let Some(row) = self.voicemail.entries.get(key).map(|entry| &entry.row).filter(|row| row.incoming) else { return };
        let Some(counter) = row.told.as_ref().map(|told| told.counter) else { return };
        let with = row.with.clone();
        if self.voicemail.deletions.add(Deletion { with: with.clone(), device: key.0, counter, at }) {
            self.keep_deletions();
            self.share_conversation(&Correspondent::User(with));
        }
    }

    /// What own devices are told beside what was read of a conversation.
    pub(crate) fn deleted_voicemail(&self, with: &Correspondent) -> Extensions {
        let deleted = with.user().map(|user| self.voicemail.deletions.of(user)).unwrap_or_default();
        if deleted.is_empty() { Extensions::none() } else { Extensions::none().with(DELETED_EXTENSION, wire::encode(&deleted)) }
    }

    /// The same, as another own device or the vault says it. Merging it twice changes nothing.
    pub(crate) fn merge_deleted_voicemail(&mut self, with: &Correspondent, extensions: &Extensions) {
        let (Some(user), Some(bytes)) = (with.user(), extensions.find(DELETED_EXTENSION)) else { return };
        let deleted = match wire::decode::<Vec<(DeviceKey, u64)>>(bytes, DELETED_BYTES_MAX) {
            Ok(deleted) => deleted,
            Err(error) => return debug!(%error, "what an own device has deleted can't be read"),
        };
        let at = self.now().unix;
        let mut is_news = false;
        for (device, counter) in deleted {
            is_news |= self.voicemail.deletions.add(Deletion { with: user.clone(), device, counter, at });
        }
        if is_news {
            self.keep_deletions();
            let known: Vec<Key> = self.voicemail.rows().filter(|row| row.with == *user).map(super::Row::key).collect();
            known.iter().for_each(|key| self.drop_deleted(key));
        }
    }

    /// Takes a recording off the disk that was deleted on another device.
    pub(super) fn drop_deleted(&mut self, key: &Key) {
        let Some(row) = self.voicemail.entries.get(key).map(|entry| &entry.row) else { return };
        let is_here = row.incoming && row.stage() != Stage::Deleted;
        let Some(counter) = row.told.as_ref().filter(|_| is_here).map(|told| told.counter) else { return };
        if self.voicemail.deletions.has(&row.with, &key.0, counter) {
            self.drop_audio(key, Stage::Deleted, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::{IdentityKey, PublicKey};

    use super::*;

    #[test]
    fn the_newest_deletions_are_remembered_and_told_by_conversation() {
        let user = |number| UserId::Key(IdentityKey(PublicKey([number; 32])));
        let device = DeviceKey(PublicKey([9; 32]));
        let deletion = |number, counter| Deletion { with: user(number), device, counter, at: UnixTime(counter) };
        let mut known = Deletions::default();
        assert!(known.add(deletion(1, 7)) && !known.add(deletion(1, 7)) && known.add(deletion(2, 7)));
        assert_eq!(known.of(&user(1)), [(device, 7)]);
        assert!(known.of(&user(3)).is_empty());
        for counter in 8..8 + DELETED_MAX as u64 {
            known.add(deletion(1, counter));
        }
        assert_eq!(known.0.len(), DELETED_MAX);
        assert!(!known.has(&user(1), &device, 7) && known.has(&user(1), &device, 8 + DELETED_MAX as u64 - 1));
        // What is left out of a long list is told by none, and stays deleted here.
        let told = known.of(&user(1));
        assert_eq!((told.len(), told[0]), (MARKS_PER_ITEM_MAX, (device, 8 + DELETED_MAX as u64 - 1)));
        let many: Vec<(DeviceKey, u64)> = vec![(device, u64::MAX); MARKS_PER_ITEM_MAX];
        assert!(wire::encode(&many).len() <= DELETED_BYTES_MAX);
    }
}
