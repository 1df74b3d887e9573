//! Letters that a mailbox keeps for others, box by box, with the sums that decide whether there is room.

use std::ops::Bound;

use bincode::{Decode, Encode};
use halloo_protocol::key::{DeviceKey, PublicKey};
use halloo_protocol::mailbox::{Account, Held, LetterId, SealedLetter};
use halloo_protocol::time::UnixTime;

use super::table::{Table, decode_sequence, decode_value};
use super::{StoreError, Transaction, View};

/// Letters looked at for one answer, at most: a frame holds fewer.
const LOOKED_AT_MAX: usize = 64;

/// A letter in its box.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LetterRow {
    /// Under whom it is counted.
    pub holder: PublicKey,
    /// True if it came through the narrow door.
    pub is_stranger: bool,
    /// Its sender's name for it.
    pub id: LetterId,
    /// When it was left.
    pub kept_at: UnixTime,
    /// When it is thrown away.
    pub until: UnixTime,
    /// The letter.
    pub letter: SealedLetter,
}

impl LetterRow {
    fn bytes(&self) -> u64 {
        self.letter.as_bytes().len() as u64
    }
}

/// What is kept already, as far as it decides on one letter more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailboxRoom {
    /// In the box.
    pub of_box: Held,
    /// In the box, from strangers.
    pub of_door: Held,
    /// In the box, from this holder.
    pub of_holder: Held,
    /// In all boxes.
    pub of_all: Held,
}

#[derive(Clone, Copy, Debug, Default, Encode, Decode)]
struct BoxSums {
    all: Held,
    door: Held,
    /// The newest letter's number. Numbers aren't used twice, or a late "that one is done" could strike off another letter.
    last_number: u64,
}

/// Where the sum over all boxes stands: no device's key is empty.
const SUM_OF_ALL: &[u8] = &[];

impl View {
    /// A device's box.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn mailbox_account(&self, device: &DeviceKey) -> Result<Option<Account>, StoreError> {
        self.get_value(Table::MailboxAccounts, device.as_bytes())
    }

    /// How many boxes there are.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn mailbox_account_count(&self) -> Result<u64, StoreError> {
        self.count(Table::MailboxAccounts)
    }

    /// Up to `limit` boxes, by device, from the one after `after` on.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn mailbox_accounts_after(&self, after: Option<&DeviceKey>, limit: usize) -> Result<Vec<Account>, StoreError> {
        let start = after.map_or(Bound::Unbounded, |device| Bound::Excluded(&device.as_bytes()[..]));
        let rows = self.range(Table::MailboxAccounts, (start, Bound::Unbounded), false, limit)?;
        rows.iter().map(|(_, bytes)| decode_value(Table::MailboxAccounts, bytes)).collect()
    }

    /// What is kept in a box, of a holder in it, and in all.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn mailbox_room(&self, device: &DeviceKey, holder: &PublicKey) -> Result<MailboxRoom, StoreError> {
        let sums = self.box_sums(device)?;
        Ok(MailboxRoom {
            of_box: sums.all,
            of_door: sums.door,
            of_holder: self.held(&of_holder(device, holder))?,
            of_all: self.held(SUM_OF_ALL)?,
        })
    }

    /// How many letters wait in a box.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn mailbox_waiting(&self, device: &DeviceKey) -> Result<u32, StoreError> {
        Ok(self.box_sums(device)?.all.letters)
    }

    /// How many letters wait in all boxes.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn letters_kept(&self) -> Result<u32, StoreError> {
        Ok(self.held(SUM_OF_ALL)?.letters)
    }

    /// True if a letter of this holder and id waits in the box.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn has_letter(&self, device: &DeviceKey, holder: &PublicKey, id: &LetterId) -> Result<bool, StoreError> {
        self.contains(Table::MailboxIds, &id_key(device, holder, id))
    }

    /// The oldest letters of a box with a number above `after`, as many as are within `bytes_max` (one in any case), and whether there are more.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn letters(&self, device: &DeviceKey, after: u64, bytes_max: usize) -> Result<(Vec<(u64, LetterRow)>, bool), StoreError> {
        let (start, end) = (letter_key(device, after), letter_key(device, u64::MAX));
        let bounds = (Bound::Excluded(&start[..]), Bound::Included(&end[..]));
        let rows = self.range(Table::MailboxLetters, bounds, false, LOOKED_AT_MAX + 1)?;
        let mut has_more = rows.len() > LOOKED_AT_MAX;
        let mut letters = Vec::new();
        let mut bytes = 0;
        for (key, value) in rows.into_iter().take(LOOKED_AT_MAX) {
            let row: LetterRow = decode_value(Table::MailboxLetters, &value)?;
            bytes += row.letter.as_bytes().len();
            if bytes > bytes_max && !letters.is_empty() {
                has_more = true;
                break;
            }
            letters.push((decode_sequence(Table::MailboxLetters, &key)?, row));
        }
        Ok((letters, has_more))
    }

    /// The numbers of up to `limit` letters of a box that are over at `now`, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn expired_letters(&self, device: &DeviceKey, now: UnixTime, limit: usize) -> Result<Vec<u64>, StoreError> {
        let rows = self.with_prefix(Table::MailboxLetters, device.as_bytes(), None, false, limit)?;
        let mut over = Vec::new();
        for (key, value) in rows {
            if decode_value::<LetterRow>(Table::MailboxLetters, &value)?.until <= now {
                over.push(decode_sequence(Table::MailboxLetters, &key)?);
            }
        }
        Ok(over)
    }

    fn box_sums(&self, device: &DeviceKey) -> Result<BoxSums, StoreError> {
        Ok(self.get_value(Table::MailboxSums, device.as_bytes())?.unwrap_or_default())
    }

    fn held(&self, key: &[u8]) -> Result<Held, StoreError> {
        Ok(self.get_value(Table::MailboxSums, key)?.unwrap_or_default())
    }
}

impl Transaction {
    /// Opens a box, or changes it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_mailbox_account(&self, account: &Account) -> Result<(), StoreError> {
        self.put_value(Table::MailboxAccounts, account.rules.device.as_bytes(), account)
    }

    /// Closes a box and throws up to `limit` of its letters away; `true` once nothing is left of it.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn remove_mailbox_account(&self, device: &DeviceKey, limit: usize) -> Result<bool, StoreError> {
        let rows = self.with_prefix(Table::MailboxLetters, device.as_bytes(), None, false, limit)?;
        let is_last = rows.len() < limit;
        for (key, _) in rows {
            self.remove_letter(device, decode_sequence(Table::MailboxLetters, &key)?)?;
        }
        if is_last {
            self.remove(Table::MailboxSums, device.as_bytes())?;
            self.remove_mailbox_keys(device)?;
            self.remove(Table::MailboxAccounts, device.as_bytes())?;
        }
        Ok(is_last)
    }

    /// Puts a letter into a box and returns its number. The caller has seen that it isn't there and that there is room.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn add_letter(&self, device: &DeviceKey, row: &LetterRow) -> Result<u64, StoreError> {
        let mut sums = self.box_sums(device)?;
        let number = sums.last_number.saturating_add(1);
        sums.last_number = number;
        sums.all = sums.all.plus(row.bytes());
        if row.is_stranger {
            sums.door = sums.door.plus(row.bytes());
        }
        self.put_value(Table::MailboxSums, device.as_bytes(), &sums)?;
        let key = of_holder(device, &row.holder);
        self.put_value(Table::MailboxSums, &key, &self.held(&key)?.plus(row.bytes()))?;
        self.put_value(Table::MailboxSums, SUM_OF_ALL, &self.held(SUM_OF_ALL)?.plus(row.bytes()))?;
        self.put(Table::MailboxIds, &id_key(device, &row.holder, &row.id), &[])?;
        self.put_value(Table::MailboxLetters, &letter_key(device, number), row)?;
        Ok(number)
    }

    /// Throws a letter away; `false` if there is none of this number.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn remove_letter(&self, device: &DeviceKey, number: u64) -> Result<bool, StoreError> {
        let key = letter_key(device, number);
        let Some(row) = self.get_value::<LetterRow>(Table::MailboxLetters, &key)? else { return Ok(false) };
        self.remove(Table::MailboxLetters, &key)?;
        self.remove(Table::MailboxIds, &id_key(device, &row.holder, &row.id))?;
        let mut sums = self.box_sums(device)?;
        sums.all = sums.all.minus(row.bytes());
        if row.is_stranger {
            sums.door = sums.door.minus(row.bytes());
        }
        self.put_value(Table::MailboxSums, device.as_bytes(), &sums)?;
        let key = of_holder(device, &row.holder);
        let left = self.held(&key)?.minus(row.bytes());
        if left.letters == 0 {
            self.remove(Table::MailboxSums, &key)?;
        } else {
            self.put_value(Table::MailboxSums, &key, &left)?;
        }
        self.put_value(Table::MailboxSums, SUM_OF_ALL, &self.held(SUM_OF_ALL)?.minus(row.bytes()))?;
        Ok(true)
    }
}

fn letter_key(device: &DeviceKey, number: u64) -> Vec<u8> {
    [&device.as_bytes()[..], &number.to_be_bytes()].concat()
}

fn of_holder(device: &DeviceKey, holder: &PublicKey) -> Vec<u8> {
    [&device.as_bytes()[..], &holder.0].concat()
}

fn id_key(device: &DeviceKey, holder: &PublicKey, id: &LetterId) -> Vec<u8> {
    [&device.as_bytes()[..], &holder.0, &id.0].concat()
}

#[cfg(test)]
mod tests {
    use halloo_protocol::capability::CapabilityRules;
    use halloo_protocol::key::IdentityKey;

    use super::*;
    use crate::store::Store;

    const NOW: UnixTime = UnixTime(1_000_000);
    const BOB: DeviceKey = DeviceKey(PublicKey([1; 32]));
    const CAROL: DeviceKey = DeviceKey(PublicKey([2; 32]));

    fn row(holder: u8, id: u8, bytes: usize) -> LetterRow {
        LetterRow {
            holder: PublicKey([holder; 32]),
            is_stranger: holder > 100,
            id: LetterId([id; 16]),
            kept_at: NOW,
            until: NOW.plus_secs(u64::from(id)),
            letter: SealedLetter::from_bytes(vec![id; bytes]).expect("small"),
        }
    }

    fn held(letters: u32, bytes: u64) -> Held {
        Held { letters, bytes }
    }

    #[test]
    fn letters_wait_in_order_and_sums_follow() -> Result<(), StoreError> {
        let store = Store::in_memory()?;
        store.transaction(|tx| {
            assert_eq!((tx.add_letter(&BOB, &row(9, 1, 100))?, tx.add_letter(&BOB, &row(101, 2, 50))?), (1, 2));
            assert_eq!(tx.add_letter(&CAROL, &row(9, 1, 30))?, 1, "boxes count for themselves");
            tx.add_letter(&BOB, &row(9, 3, 100))
        })?;
        store.read(|view| {
            let room = view.mailbox_room(&BOB, &PublicKey([9; 32]))?;
            let expected =
                MailboxRoom { of_box: held(3, 250), of_door: held(1, 50), of_holder: held(2, 200), of_all: held(4, 280) };
            assert_eq!(room, expected);
            assert!(view.has_letter(&BOB, &PublicKey([9; 32]), &LetterId([1; 16]))?);
            assert!(!view.has_letter(&BOB, &PublicKey([8; 32]), &LetterId([1; 16]))?, "ids are the holder's own");
            let numbers = |after, bytes| {
                let (letters, has_more) = view.letters(&BOB, after, bytes)?;
                Ok::<_, StoreError>((letters.into_iter().map(|(number, _)| number).collect::<Vec<_>>(), has_more))
            };
            assert_eq!(numbers(0, 1_000)?, (vec![1, 2, 3], false));
            assert_eq!(numbers(1, 60)?, (vec![2], true));
            assert_eq!(numbers(0, 10)?, (vec![1], true), "one in any case");
            assert_eq!(numbers(3, 10)?, (vec![], false));
            Ok::<_, StoreError>(())
        })?;
        store.transaction(|tx| {
            assert!(tx.remove_letter(&BOB, 3)? && !tx.remove_letter(&BOB, 3)?);
            assert_eq!(tx.mailbox_room(&BOB, &PublicKey([9; 32]))?.of_holder, held(1, 100));
            assert_eq!(tx.add_letter(&BOB, &row(9, 4, 10))?, 4, "numbers aren't used twice");
            assert_eq!(tx.expired_letters(&BOB, NOW.plus_secs(2), 10)?, [1, 2]);
            Ok(())
        })
    }

    #[test]
    fn a_closed_box_leaves_nothing() -> Result<(), StoreError> {
        let store = Store::in_memory()?;
        let rules = CapabilityRules::new(BOB, IdentityKey(PublicKey([5; 32])), 1);
        let account = Account { rules, has_door: true, expires_at: NOW };
        store.transaction(|tx| {
            tx.put_mailbox_account(&account)?;
            for id in 0..5 {
                tx.add_letter(&BOB, &row(9, id, 10))?;
            }
            assert!(!tx.remove_mailbox_account(&BOB, 3)?, "a large box goes by and by");
            assert_eq!(tx.mailbox_account(&BOB)?.as_ref(), Some(&account));
            assert!(tx.remove_mailbox_account(&BOB, 3)?);
            assert_eq!(tx.mailbox_account(&BOB)?, None);
            assert_eq!(tx.mailbox_room(&BOB, &PublicKey([9; 32]))?, MailboxRoom::default());
            assert_eq!(tx.all(Table::MailboxIds)?.len() + tx.all(Table::MailboxLetters)?.len(), 0);
            Ok::<_, StoreError>(())
        })
    }
}
