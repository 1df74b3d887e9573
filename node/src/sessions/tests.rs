//! What is on disk, whatever happens between two writes.

use halloo_protocol::id::ConversationId;
use halloo_protocol::key::SecretKey;
use halloo_protocol::message::MessageBody;
use halloo_protocol::session::SessionId;

use super::*;

const NOW: UnixTime = UnixTime(1_800_000_000);
const ALICE: u8 = 1;
const BOB: u8 = 2;

fn device(number: u8) -> DeviceKey {
    DeviceKey(SecretKey::from_bytes([number; 32]).public())
}

fn pair(from: u8, to: u8) -> Pair {
    let identity = |number: u8| IdentityKey(PublicKey([number; 32]));
    let (one, other) = (identity(from), identity(to));
    Pair::of((&UserId::Key(one), &one, &device(from)), (&UserId::Key(other), &other, &device(to)))
}

fn envelope(number: u8) -> Envelope {
    Envelope {
        id: MessageId([number; 16]),
        conversation: ConversationId([9; 16]),
        counter: u64::from(number),
        sent_at: NOW,
        body: MessageBody::Text(format!("message {number}")),
        extensions: Extensions::none(),
    }
}

/// A device's database with its keys in it.
fn store() -> Store {
    let store = Store::in_memory().expect("memory");
    SessionsState::open(&store, Now { instant: Instant::now(), unix: NOW }).expect("opens");
    store
}

fn keys(store: &Store) -> PreKeys {
    store.read(stored_account).expect("readable").expect("there").keys()
}

/// Encrypts as the node does; `fails` ends the transaction before its commit.
fn seal(from: &Store, to: &Store, number: u8, fails: bool) -> Result<SealedMessage, SessionError> {
    let (bob, start) = (device(BOB), Some(Start { keys: keys(to), one_time: None }));
    from.transaction(|tx| {
        let row = tx.sealed_copy(&envelope(number).id, &bob)?.unwrap_or_default();
        let sealed = seal_copy(tx, &bob, &pair(ALICE, BOB), &envelope(number), row, start, NOW)?;
        match sealed {
            Sealing::Sealed(message) if !fails => Ok(*message),
            _ => Err(SessionError::Seal(SealError::NoSession)),
        }
    })
}

fn open(at: &Store, message: &SealedMessage, fails: bool) -> Result<Envelope, SessionError> {
    at.transaction(|tx| {
        let (envelope, _) = open_message(tx, &device(ALICE), &pair(ALICE, BOB), message, NOW)?;
        if fails { Err(SessionError::Seal(SealError::NoSession)) } else { Ok(envelope) }
    })
}

fn copy(at: &Store, number: u8) -> Option<SealedCopyRow> {
    at.read::<_, StoreError>(|view| view.sealed_copy(&MessageId([number; 16]), &device(BOB))).expect("readable")
}

#[test]
fn a_copy_is_on_disk_with_its_session_or_neither_is() {
    let (alice, bob) = (store(), store());
    let sessions = |at: &Store| at.read::<_, StoreError>(|view| view.sessions(&device(BOB))).expect("readable");
    assert!(seal(&alice, &bob, 1, true).is_err());
    assert_eq!((sessions(&alice).len(), copy(&alice, 1)), (0, None));
    let first = seal(&alice, &bob, 1, false).expect("sealed");
    assert_eq!(copy(&alice, 1).and_then(|row| row.message), Some(first.clone()));
    let before = sessions(&alice);
    assert!(seal(&alice, &bob, 2, true).is_err());
    assert_eq!(sessions(&alice), before, "the key of a message that wasn't kept is still to be used");
    let second = seal(&alice, &bob, 2, false).expect("sealed");
    assert_eq!((second.session, first.number, second.number), (first.session, 1, 2));
    assert_ne!(sessions(&alice), before);
    for message in [second, first] {
        assert!(open(&bob, &message, false).is_ok());
    }
}

#[test]
fn what_was_decrypted_survives_a_kill_before_it_is_dealt_with() {
    let (alice, bob) = (store(), store());
    let message = seal(&alice, &bob, 1, false).expect("sealed");
    assert!(open(&bob, &message, true).is_err(), "killed before the commit: as if it had never come");
    let opened =
        |at: &Store| at.read::<_, StoreError>(|view| view.opened_message(&device(ALICE), &message.id)).expect("readable");
    assert_eq!(opened(&bob), None);
    assert_eq!(open(&bob, &message, false).expect("opens"), envelope(1));
    assert!(matches!(open(&bob, &message, false), Err(SessionError::Open(OpenError::Unopened(_)))), "no key opens twice");
    assert_eq!(opened(&bob), Some(wire::encode(&envelope(1))), "but it is there");
    let finish = |at: &Store| at.transaction::<_, StoreError>(|tx| tx.finish_opened_message(&device(ALICE), &message.id, NOW));
    finish(&bob).expect("written");
    assert_eq!(opened(&bob), None);
    assert!(bob.read::<_, StoreError>(|view| view.has_seen(&device(ALICE), &message.id)).expect("readable"));
    assert!(!bob.transaction::<_, StoreError>(|tx| tx.is_first_copy(&device(ALICE), &message.id.0, NOW)).expect("written"));
}

#[test]
fn a_first_message_is_taken_once_by_name_of_its_session() {
    let (alice, bob) = (store(), store());
    let message = seal(&alice, &bob, 1, false).expect("sealed");
    open(&bob, &message, false).expect("opens");
    bob.transaction::<_, StoreError>(|tx| tx.remove_sessions(&device(ALICE))).expect("written");
    assert!(matches!(open(&bob, &message, false), Err(SessionError::Open(OpenError::Unopened(_)))));
    let forget = |until: UnixTime| bob.transaction::<_, StoreError>(|tx| tx.forget_spent_before(until, 10)).expect("written");
    forget(NOW);
    assert!(bob.read::<_, StoreError>(|view| view.is_session_spent(&message.session)).expect("readable"));
    forget(NOW.plus_secs(1));
    assert!(!bob.read::<_, StoreError>(|view| view.is_session_spent(&message.session)).expect("readable"));
}

#[test]
fn word_of_what_didnt_open_counts_for_the_copy_it_is_about() {
    let (alice, bob) = (store(), store());
    let message = seal(&alice, &bob, 1, false).expect("sealed");
    let tell = |number: u8, who: u8, session: SessionId| {
        let unopened = Unopened { session, generation: 4 };
        alice
            .transaction::<_, StoreError>(|tx| take_back(tx, &device(who), &MessageId([number; 16]), &unopened, NOW))
            .expect("written")
    };
    assert_eq!(tell(2, BOB, message.session), None, "about no message of ours");
    assert_eq!(tell(1, 3, message.session), None, "of a device it wasn't for");
    assert_eq!(tell(1, BOB, SessionId([7; 16])), None, "about a session it isn't in");
    assert_eq!(copy(&alice, 1).and_then(|row| row.message), Some(message.clone()), "the copy stands");
    let row = tell(1, BOB, message.session).expect("believed");
    assert_eq!((row.message, row.attempts, row.above, row.not_before), (None, 1, Some(4), NOW));
    assert_eq!(tell(1, BOB, message.session), None, "once");
    let again = seal(&alice, &bob, 1, false).expect("sealed");
    assert_ne!(again.session, message.session);
    assert_eq!(tell(1, BOB, message.session), None, "the session isn't used any more");
    assert_eq!(open(&bob, &again, false).expect("opens"), envelope(1));
    let sessions = alice.read::<_, StoreError>(|view| stored_sessions(view, &device(BOB))).expect("readable");
    assert_eq!(sessions.generation(), 5, "above what was told");
    // Whoever says so for ever waits longer and longer, and in vain in the end.
    let mut session = again.session;
    let mut pauses = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        let row = tell(1, BOB, session).expect("believed");
        pauses.push(row.not_before.secs_since(NOW));
        session = seal(&alice, &bob, 1, false).expect("sealed").session;
    }
    assert_eq!(pauses, [0, 2, 8, 32, 128, 512, 2_048, 3_600]);
    assert!(copy(&alice, 1).expect("there").attempts > ATTEMPTS_MAX, "given up");
}

#[test]
fn keys_that_failed_are_looked_up_before_they_are_tried_again_and_others_are_tried_at_once() {
    let start = Instant::now();
    let at = |secs: u64| Now { instant: start + Duration::from_secs(secs), unix: NOW.plus_secs(secs) };
    let [old, new] = [Account::new(NOW).keys(), Account::new(NOW).keys()];
    let failed = FailedKeys { keys: old, looked_up: start };
    let row = |attempts, pause| SealedCopyRow { message: None, attempts, not_before: NOW.plus_secs(pause), above: None };
    let third = row(3, 8);
    assert_eq!(due(&third, Some(&failed), Some(&old), false, at(7)), Due::Later);
    assert_eq!(due(&third, Some(&failed), Some(&new), false, at(1)), Due::Now, "published since");
    assert_eq!(due(&third, Some(&failed), Some(&old), false, at(8)), Due::LookUp);
    let looked_up = FailedKeys { looked_up: start + Duration::from_secs(8), ..failed };
    assert_eq!(due(&third, Some(&looked_up), Some(&old), false, at(9)), Due::Now, "there are no others");
    assert_eq!(due(&third, None, Some(&old), false, at(8)), Due::Now, "forgotten by a restart");
    assert_eq!(due(&third, Some(&failed), Some(&old), true, at(8)), Due::Now, "in a session that there is");
    assert_eq!(due(&row(1, 0), Some(&failed), Some(&old), false, at(60)), Due::Now, "the first time for this message");
}

#[test]
fn a_mailbox_gives_each_key_once_and_forgets_old_batches() {
    let (mailbox, bob) = (store(), device(BOB));
    let mut account = Account::new(NOW);
    let mut batch = |count| account.issue(count, &SecretKey::from_bytes([BOB; 32]), NOW);
    let (old, new) = (batch(3), batch(2));
    let put =
        |number, keys: &[_]| mailbox.transaction::<_, StoreError>(|tx| tx.put_mailbox_keys(&bob, number, keys)).expect("written");
    let take = || mailbox.transaction::<_, StoreError>(|tx| tx.take_mailbox_key(&bob)).expect("written");
    put(7, &old);
    assert_eq!(take().as_ref(), old.first());
    put(8, &new);
    assert_eq!(mailbox.read::<_, StoreError>(|view| view.mailbox_keys(&bob)).expect("readable"), (8, 2));
    assert_eq!((take().as_ref(), take().as_ref(), take()), (new.first(), new.get(1), None));
    assert_eq!(mailbox.read::<_, StoreError>(|view| view.mailbox_keys(&bob)).expect("readable"), (8, 0));
}

#[test]
fn a_removed_devices_sessions_are_gone() {
    let (alice, bob) = (store(), store());
    let message = seal(&alice, &bob, 1, false).expect("sealed");
    assert_eq!(alice.read::<_, StoreError>(|view| view.session_devices()).expect("readable"), [device(BOB)]);
    alice.transaction::<_, StoreError>(|tx| tx.remove_sessions(&device(BOB))).expect("written");
    assert_eq!(alice.read::<_, StoreError>(|view| view.session_devices()).expect("readable"), []);
    let later = seal(&alice, &bob, 2, false).expect("sealed");
    assert_ne!(message.session, later.session);
}
