//! Two devices and what can happen between them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::id::ConversationId;
use crate::identity::UserId;
use crate::key::{DeviceKey, IdentityKey, PublicKey, SecretKey};
use crate::message::{Envelope, MessageBody, TEXT_BYTES_MAX};
use crate::test_identity::NOW;
use crate::wire::{self, Frame};

/// How often one message may be encrypted anew before the test calls it endless.
const HEALS_MAX: u32 = 4;

fn envelope(number: u64, text: &str) -> Envelope {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    Envelope {
        id: MessageId(id),
        conversation: ConversationId([1; 16]),
        counter: number,
        sent_at: NOW,
        body: MessageBody::Text(text.to_owned()),
        extensions: Extensions::none(),
    }
}

fn pair(from: u8, to: u8) -> Pair {
    let part = |number: u8| (IdentityKey(PublicKey([number; 32])), DeviceKey(PublicKey([number + 100; 32])));
    let (a, b) = (part(from), part(to));
    Pair::of((&UserId::Key(a.0), &a.0, &a.1), (&UserId::Key(b.0), &b.0, &b.1))
}

/// A copy at its sender.
#[derive(Clone)]
struct Copy {
    envelope: Envelope,
    sealed: Option<SealedMessage>,
    heals: u32,
    is_done: bool,
}

/// A device as its disk holds it. A clone is a backup.
#[derive(Clone)]
struct Device {
    number: u8,
    account: Vec<u8>,
    sessions: BTreeMap<SessionId, Vec<u8>>,
    spent: BTreeSet<SessionId>,
    received: BTreeMap<MessageId, u32>,
    outbox: BTreeMap<MessageId, Copy>,
    above: Option<u32>,
}

/// What the reader answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Accepted,
    Duplicate,
    Unopened(Unopened),
}

impl Device {
    fn new(number: u8) -> Self {
        Self {
            number,
            account: Account::new(NOW).to_bytes().to_vec(),
            sessions: BTreeMap::new(),
            spent: BTreeSet::new(),
            received: BTreeMap::new(),
            outbox: BTreeMap::new(),
            above: None,
        }
    }

    fn account(&self) -> Account {
        Account::from_bytes(&self.account).expect("as stored")
    }

    fn load(&self) -> Sessions {
        Sessions::from_rows(self.sessions.values().map(Vec::as_slice))
    }

    fn store(&mut self, sessions: &Sessions) {
        self.sessions = sessions.iter().map(|(id, bytes)| (id, bytes.to_vec())).collect();
    }

    /// A key that nobody else gets.
    fn one_time(&mut self) -> [u8; 32] {
        let mut account = self.account();
        let key = account.issue(1, &SecretKey::from_bytes([self.number; 32]), NOW).remove(0);
        self.account = account.to_bytes().to_vec();
        key.unverified().key
    }

    fn write(&mut self, number: u64) -> MessageId {
        let envelope = envelope(number, &format!("message {number}"));
        let id = envelope.id;
        self.outbox.insert(id, Copy { envelope, sealed: None, heals: 0, is_done: false });
        id
    }

    /// The bytes to send: encrypted once.
    fn sealed(&mut self, id: &MessageId, to: &mut Self, with_one_time: bool) -> SealedMessage {
        let copy = self.outbox[id].clone();
        if let Some(sealed) = copy.sealed {
            return sealed;
        }
        let mut sessions = self.load();
        if !sessions.can_send() {
            let one_time = (with_one_time && copy.heals == 0).then(|| to.one_time());
            sessions.start(&self.account(), &to.account().keys(), one_time, self.above).expect("good keys");
        }
        let sealed = sessions.encrypt(&pair(self.number, to.number), &copy.envelope).expect("a session");
        self.store(&sessions);
        self.outbox.get_mut(id).expect("there").sealed = Some(sealed.clone());
        sealed
    }

    fn receive(&mut self, from: u8, message: &SealedMessage) -> Answer {
        if self.received.contains_key(&message.id) {
            return Answer::Duplicate;
        }
        let (mut sessions, mut account) = (self.load(), self.account());
        let between = pair(from, self.number);
        let opened = if sessions.knows(&message.session) {
            sessions.open(&between, message).map(|envelope| Opened { envelope, by_fallback: false })
        } else {
            sessions.accept(&mut account, &between, message, |id| self.spent.contains(id))
        };
        match opened {
            Ok(opened) => {
                self.store(&sessions);
                self.account = account.to_bytes().to_vec();
                if opened.by_fallback {
                    self.spent.insert(message.session);
                }
                assert_eq!(opened.envelope.id, message.id);
                *self.received.entry(message.id).or_default() += 1;
                Answer::Accepted
            }
            Err(OpenError::Unopened(_)) => Answer::Unopened(self.load().unopened(message)),
            Err(error) => panic!("{error}"),
        }
    }

    fn answered(&mut self, id: &MessageId, answer: Answer) {
        let Some(copy) = self.outbox.get_mut(id) else { return };
        match answer {
            Answer::Accepted | Answer::Duplicate => copy.is_done = true,
            Answer::Unopened(unopened) => {
                if copy.is_done || copy.sealed.as_ref().is_none_or(|sealed| sealed.session != unopened.session) {
                    return;
                }
                copy.sealed = None;
                copy.heals += 1;
                assert!(copy.heals <= HEALS_MAX, "this doesn't heal");
                self.above = self.above.max(Some(unopened.generation));
                let mut sessions = self.load();
                sessions.give_up(&unopened.session);
                self.store(&sessions);
            }
        }
    }

    fn chosen(&self) -> Option<SessionId> {
        let mut sessions = self.load();
        sessions.encrypt(&pair(1, 2), &envelope(1, "x")).ok().map(|sealed| sealed.session)
    }
}

fn deliver(from: &mut Device, to: &mut Device, id: &MessageId) {
    for _ in 0..=HEALS_MAX {
        let sealed = from.sealed(id, to, true);
        let answer = to.receive(from.number, &sealed);
        from.answered(id, answer);
        if from.outbox[id].is_done {
            return;
        }
    }
    panic!("not delivered");
}

#[test]
fn two_devices_talk_and_a_copy_is_one_ciphertext() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let first = a.write(1);
    let sealed = a.sealed(&first, &mut b, true);
    assert_eq!(sealed, a.sealed(&first, &mut b, true), "encrypted once");
    assert!(matches!(sealed.ciphertext, Ciphertext::First(_)));
    assert_eq!(b.receive(1, &sealed), Answer::Accepted);
    assert_eq!(b.receive(1, &sealed), Answer::Duplicate);
    assert_eq!(b.account().issued_count(), 0, "a one-time key is gone with its first use");
    let answer = b.write(2);
    deliver(&mut b, &mut a, &answer);
    let third = a.write(3);
    let sealed = a.sealed(&third, &mut b, true);
    assert!(matches!(sealed.ciphertext, Ciphertext::Later(_)));
    assert_eq!(b.receive(1, &sealed), Answer::Accepted);
    assert_eq!((a.sessions.len(), b.sessions.len()), (1, 1));
}

#[test]
fn sizes_say_little_and_the_longest_fits() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let id = a.write(1);
    deliver(&mut a, &mut b, &id);
    let mut sessions = a.load();
    let mut size = |text: &str| sessions.encrypt(&pair(1, 2), &envelope(9, text)).expect("fits").ciphertext.as_bytes().len();
    assert_eq!(size("a"), size(&"a".repeat(100)));
    assert!(size(&"a".repeat(TEXT_BYTES_MAX)) < 20_480);
    for class in PLAIN_SIZE_CLASSES {
        let overhead = 41 + 46;
        assert!(size(&"a".repeat(class - overhead)) <= class + 256);
    }
    assert!(matches!(sessions.encrypt(&pair(1, 2), &envelope(9, &"a".repeat(PLAIN_BYTES_MAX))), Err(SealError::TooLong(_))));
}

/// Bytes of a frame with a short text: in the clear, in a first message, in a later one. Stated in `docs/performance.md`.
#[test]
fn what_encryption_costs_on_the_wire_is_known() {
    use crate::message::{Content, MessageDeliver};
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let frame = |content| wire::encode(&Frame::new(7, &MessageDeliver { content, extensions: Extensions::none() })).len();
    let plain = frame(Content::Plain(envelope(1, "message 1")));
    let (one, two) = (a.write(1), a.write(2));
    let first = frame(Content::Sealed(a.sealed(&one, &mut b, true)));
    deliver(&mut a, &mut b, &one);
    let answer = b.write(3);
    deliver(&mut b, &mut a, &answer);
    let later = frame(Content::Sealed(a.sealed(&two, &mut b, true)));
    assert_eq!((plain, first, later), (55, 471, 365));
}

#[test]
fn a_message_of_one_pair_is_of_no_other() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let id = a.write(1);
    let sealed = a.sealed(&id, &mut b, true);
    let open = |pair: &Pair, sealed: &SealedMessage| b.load().accept(&mut b.account(), pair, sealed, |_| false).map(|_| ());
    assert_eq!(open(&pair(3, 2), &sealed), Err(OpenError::WrongPair), "passed on by a third");
    assert_eq!(open(&pair(1, 3), &sealed), Err(OpenError::WrongPair));
    let other_id = SealedMessage { id: MessageId([7; 16]), ..sealed.clone() };
    assert!(matches!(open(&pair(1, 2), &other_id), Err(OpenError::Malformed(_))));
    let other_session = SealedMessage { session: SessionId([7; 16]), ..sealed.clone() };
    assert!(matches!(open(&pair(1, 2), &other_session), Err(OpenError::Malformed(_))));
    let mut bytes = sealed.ciphertext.as_bytes().to_vec();
    let middle = bytes.len() - 40;
    bytes[middle] ^= 1;
    let changed = SealedMessage { ciphertext: Ciphertext::First(bytes), ..sealed.clone() };
    assert!(open(&pair(1, 2), &changed).is_err());
    let nonsense = SealedMessage { ciphertext: Ciphertext::Later(vec![9; 40]), ..sealed.clone() };
    assert!(open(&pair(1, 2), &nonsense).is_err());
    assert_eq!(open(&pair(1, 2), &sealed), Ok(()));
}

#[test]
fn a_first_message_to_the_fallback_key_starts_one_session_once() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let id = a.write(1);
    let sealed = a.sealed(&id, &mut b, false);
    assert_eq!(b.receive(1, &sealed), Answer::Accepted);
    // Whoever kept the message plays it again after everything else is forgotten.
    b.received.clear();
    b.sessions.clear();
    assert!(matches!(b.receive(1, &sealed), Answer::Unopened(_)), "the ratchet isn't set back");
    b.spent.clear();
    assert_eq!(b.receive(1, &sealed), Answer::Accepted, "that memory is what stood against it");
}

/// Whether whoever has taken a device, with everything it holds, opens a message that was sent before.
fn opens_afterwards(device: &Device, message: &SealedMessage) -> bool {
    let between = pair(1, 2);
    device.load().open(&between, message).is_ok()
        || device.load().accept(&mut device.account(), &between, message, |_| false).is_ok()
        || Sessions::default().accept(&mut device.account(), &between, message, |_| false).is_ok()
}

#[test]
fn what_was_read_opens_no_more_with_what_both_hold_afterwards() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let ids: Vec<MessageId> = (1..=3).map(|number| a.write(number)).collect();
    let sealed: Vec<SealedMessage> = ids.iter().map(|id| a.sealed(id, &mut b, true)).collect();
    for message in &sealed {
        assert!(opens_afterwards(&b, message), "before it was read it opens, of course");
    }
    for message in &sealed {
        assert_eq!(b.receive(1, message), Answer::Accepted);
    }
    for message in &sealed {
        assert!(!opens_afterwards(&b, message) && !opens_afterwards(&a, message));
    }
}

#[test]
fn what_was_started_with_the_fallback_key_opens_no_more_once_that_is_destroyed() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let id = a.write(1);
    let sealed = a.sealed(&id, &mut b, false);
    assert_eq!(b.receive(1, &sealed), Answer::Accepted);
    let mut account = b.account();
    assert!(account.maintain(NOW.plus_secs(FALLBACK_KEY_SECS)));
    assert!(!account.maintain(NOW.plus_secs(FALLBACK_KEY_SECS + 1)));
    b.account = account.to_bytes().to_vec();
    assert!(opens_afterwards(&b, &sealed), "while the former key exists, first messages can be opened");
    assert!(account.maintain(NOW.plus_secs(2 * FALLBACK_KEY_SECS + 1)));
    b.account = account.to_bytes().to_vec();
    assert!(!opens_afterwards(&b, &sealed) && !opens_afterwards(&a, &sealed));
}

#[test]
fn two_that_start_at_once_send_in_the_same_session_afterwards() {
    for one_time in [false, true] {
        let (mut a, mut b) = (Device::new(1), Device::new(2));
        let (from_a, from_b) = (a.write(1), b.write(2));
        let (first, second) = (a.sealed(&from_a, &mut b, one_time), b.sealed(&from_b, &mut a, one_time));
        assert_eq!((b.receive(1, &first), a.receive(2, &second)), (Answer::Accepted, Answer::Accepted));
        assert_eq!(a.chosen(), b.chosen());
    }
}

#[test]
fn more_than_olm_keeps_is_encrypted_anew() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let ids: Vec<MessageId> = (1..=60).map(|number| a.write(number)).collect();
    for id in &ids {
        a.sealed(id, &mut b, true);
    }
    for id in ids.iter().rev() {
        deliver(&mut a, &mut b, id);
    }
    assert!(ids.iter().all(|id| b.received.get(id) == Some(&1)));
    assert!(ids.iter().map(|id| a.outbox[id].heals).sum::<u32>() >= 1);
}

#[test]
fn keys_are_bounded_and_end() {
    let key = SecretKey::from_bytes([5; 32]);
    let mut account = Account::new(NOW);
    for _ in 0..10 {
        assert_eq!(account.issue(50, &key, NOW).len(), 50);
    }
    assert_eq!(account.issued_count(), ONE_TIME_KEYS_KEPT_MAX);
    let bytes = account.to_bytes();
    assert!(bytes.len() < 60_000, "{} bytes", bytes.len());
    let mut again = Account::from_bytes(&bytes).expect("as stored");
    assert_eq!(again.keys(), account.keys());
    assert!(again.maintain(NOW.plus_secs(ONE_TIME_KEY_SECS + 1)));
    assert_eq!(again.issued_count(), 0);
    assert!(Account::from_bytes(&[1, 2, 3]).is_err() && Session::from_bytes(&[1, 2, 3]).is_err());
    assert_ne!(again.keys().fallback, account.keys().fallback);
    assert_eq!(again.keys().identity, account.keys().identity);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write { by: bool, one_time: bool },
    Arrive { which: usize, again: bool },
    Lose { which: usize },
    Backup { of: bool },
    Restore { of: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), any::<bool>()).prop_map(|(by, one_time)| Step::Write { by, one_time }),
        6 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Step::Arrive { which, again }),
        1 => any::<usize>().prop_map(|which| Step::Lose { which }),
        1 => any::<bool>().prop_map(|of| Step::Backup { of }),
        1 => any::<bool>().prop_map(|of| Step::Restore { of }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    /// Whatever is reordered, lost, doubled or set back to a backup: what a sender still knows of arrives, once, without end to nobody, and both send
    /// in one session then.
    #[test]
    fn everything_arrives_once_and_the_two_agree(steps in prop::collection::vec(step(), 1..80)) {
        let mut devices = [Device::new(1), Device::new(2)];
        let mut backups = devices.clone();
        let mut on_the_way: Vec<(usize, SealedMessage)> = Vec::new();
        let mut number = 0;
        let mut used: BTreeMap<(bool, SessionId, u64), SealedMessage> = BTreeMap::new();
        let mut is_restored = false;
        for step in steps {
            match step {
                Step::Write { by, one_time } => {
                    number += 1;
                    let [a, b] = &mut devices;
                    let (from, to) = if by { (b, a) } else { (a, b) };
                    let id = from.write(number);
                    let sealed = from.sealed(&id, to, one_time);
                    let before = used.insert((by, sealed.session, sealed.number), sealed.clone());
                    prop_assert!(is_restored || before.is_none(), "a place in a session is used once");
                    on_the_way.push((usize::from(by), sealed));
                }
                Step::Arrive { which, again } if !on_the_way.is_empty() => {
                    let place = which % on_the_way.len();
                    let (from, sealed) = if again { on_the_way[place].clone() } else { on_the_way.swap_remove(place) };
                    let [a, b] = &mut devices;
                    let (from, to) = if from == 1 { (b, a) } else { (a, b) };
                    let answer = to.receive(from.number, &sealed);
                    from.answered(&sealed.id, answer);
                }
                Step::Lose { which } if !on_the_way.is_empty() => {
                    on_the_way.swap_remove(which % on_the_way.len());
                }
                Step::Backup { of } => backups[usize::from(of)] = devices[usize::from(of)].clone(),
                Step::Restore { of } => {
                    devices[usize::from(of)] = backups[usize::from(of)].clone();
                    is_restored = true;
                }
                Step::Arrive { .. } | Step::Lose { .. } => {}
            }
        }
        let [mut a, mut b] = devices;
        for _ in 0..2 {
            for (from, to) in [(0, 1), (1, 0)] {
                let (from, to) = if from < to { (&mut a, &mut b) } else { (&mut b, &mut a) };
                let open: Vec<MessageId> = from.outbox.iter().filter(|(_, copy)| !copy.is_done).map(|(id, _)| *id).collect();
                for id in open {
                    deliver(from, to, &id);
                    prop_assert_eq!(to.received.get(&id), Some(&1));
                }
            }
            // They go on, and nothing has to be healed any more in the second round.
            for _ in 0..3 {
                number += 1;
                let id = a.write(number);
                deliver(&mut a, &mut b, &id);
                number += 1;
                let id = b.write(number);
                deliver(&mut b, &mut a, &id);
            }
        }
        prop_assert!(a.received.values().chain(b.received.values()).all(|times| *times == 1));
        prop_assert_eq!(a.chosen(), b.chosen());
    }
}
