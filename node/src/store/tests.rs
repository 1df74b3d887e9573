use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use halloo_protocol::directory::RecordKey;
use halloo_protocol::identity::{UserId, Username};
use halloo_protocol::key::{AuthorityKey, DeviceKey, IdentityKey, PublicKey};
use halloo_protocol::time::UnixTime;

use super::*;

const NOW: UnixTime = UnixTime(1_000_000);

/// Home directory for the child of `acknowledged_writes_survive_a_kill`.
const CHILD_HOME: &str = "HALLOO_TEST_STORE_HOME";

fn device(number: u8) -> DeviceKey {
    DeviceKey(PublicKey([number; 32]))
}

fn identity(number: u8) -> IdentityKey {
    IdentityKey(PublicKey([number; 32]))
}

fn user(name: &str) -> UserId {
    UserId::Named { authority: AuthorityKey(PublicKey([1; 32])), name: Username::new(name).expect("valid") }
}

fn store() -> Store {
    Store::in_memory().expect("memory is there")
}

fn message(id: u32, direction: Direction, with: &str) -> MessageRow {
    MessageRow {
        id: id.to_be_bytes().to_vec(),
        direction,
        conversation: user(with).into(),
        at: UnixTime(u64::from(id)),
        content: format!("text {id}").into_bytes(),
    }
}

#[test]
fn what_was_written_is_there_after_reopening() -> Result<(), StoreError> {
    let home = tempfile::tempdir().expect("temporary directory");
    let store = Store::open(home.path())?;
    store.transaction(|tx| {
        tx.put_setting("name", b"Alice")?;
        tx.put_setting_value("count", &7u64)?;
        tx.put_revocation_list(&AuthorityKey(PublicKey([5; 32])), b"list")?;
        tx.change_replicas(&[
            ReplicaChange::Put(RecordKey([1; 32]), b"one".to_vec()),
            ReplicaChange::Put(RecordKey([2; 32]), b"two".to_vec()),
            ReplicaChange::Remove(RecordKey([1; 32])),
        ])
    })?;
    drop(store);
    let store = Store::open(home.path())?;
    store.read(|view| {
        assert_eq!(view.setting("name")?.as_deref(), Some(&b"Alice"[..]));
        assert_eq!(view.setting_value::<u64>("count")?, Some(7));
        assert_eq!(view.setting("other")?, None);
        assert_eq!(view.revocation_lists()?, [(AuthorityKey(PublicKey([5; 32])), b"list".to_vec())]);
        assert_eq!(view.replicas()?, [(RecordKey([2; 32]), b"two".to_vec())]);
        Ok::<_, StoreError>(())
    })
}

#[test]
fn a_transaction_that_fails_leaves_nothing() -> Result<(), StoreError> {
    let store = store();
    let failed: Result<(), StoreError> = store.transaction(|tx| {
        tx.put_setting("name", b"Alice")?;
        Err(StoreError::Full { table: "test", limit: 0 })
    });
    assert!(matches!(failed, Err(StoreError::Full { .. })));
    assert_eq!(store.read(|view| view.setting("name"))?, None);
    Ok(())
}

#[test]
fn a_second_opener_is_refused_by_name() -> Result<(), StoreError> {
    let home = tempfile::tempdir().expect("temporary directory");
    let _first = Store::open(home.path())?;
    let error = Store::open(home.path()).expect_err("the first holds it");
    assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(DATABASE_FILE), "{error}");
    Ok(())
}

#[test]
fn a_newer_database_is_refused_and_left_alone() -> Result<(), StoreError> {
    let home = tempfile::tempdir().expect("temporary directory");
    Store::open(home.path())?.transaction(|tx| tx.put_setting_value(SCHEMA_SETTING, &(SCHEMA_VERSION + 1)))?;
    for _ in 0..2 {
        let error = Store::open(home.path()).expect_err("newer");
        assert!(matches!(error, StoreError::TooNew { found, .. } if found == SCHEMA_VERSION + 1), "{error:?}");
    }
    Ok(())
}

#[test]
fn a_damaged_file_is_refused_with_advice() -> Result<(), StoreError> {
    let home = tempfile::tempdir().expect("temporary directory");
    let path = home.path().join(DATABASE_FILE);
    std::fs::write(&path, b"this is no database at all, but long enough to look at ".repeat(100)).expect("writes");
    let error = Store::open(home.path()).expect_err("damaged");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("move it away") && error.to_string().contains(DATABASE_FILE), "{error}");

    std::fs::remove_file(&path).expect("removes");
    Store::open(home.path())?.transaction(|tx| tx.put_setting("x", &[1; 10_000]))?;
    let whole = std::fs::read(&path).expect("reads");
    std::fs::write(&path, &whole[..whole.len() / 3]).expect("writes");
    let error = Store::open(home.path()).expect_err("cut short");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");

    let error = Store::open(&home.path().join("missing")).expect_err("no directory");
    assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
    Ok(())
}

#[cfg(unix)]
#[test]
fn the_file_is_its_owners_alone() -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().expect("temporary directory");
    let _store = Store::open(home.path())?;
    let mode = std::fs::metadata(home.path().join(DATABASE_FILE)).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    Ok(())
}

#[test]
fn pins_report_a_changed_key_and_keep_the_old_one() -> Result<(), StoreError> {
    let store = store();
    store.transaction(|tx| {
        let alice = user("alice");
        assert_eq!(tx.pin(&alice, identity(1), 3, NOW)?, Pinned::New);
        assert_eq!(tx.pin(&alice, identity(1), 5, NOW.plus_secs(9))?, Pinned::Same);
        assert_eq!(tx.pin(&alice, identity(1), 4, NOW)?, Pinned::Same);
        let old = Pin { identity: identity(1), first_seen: NOW, serial: 5 };
        assert_eq!(tx.pin(&alice, identity(2), 9, NOW)?, Pinned::Changed { old });
        assert_eq!(tx.pin(&alice, identity(2), 9, NOW)?, Pinned::Changed { old }, "asking again changes nothing");
        tx.repin(&alice, identity(2), 9, NOW)?;
        assert_eq!(tx.pin(&alice, identity(2), 9, NOW)?, Pinned::Same);
        assert_eq!(tx.pins()?.len(), 1);
        Ok(())
    })
}

#[test]
fn the_address_book_keeps_those_seen_last() -> Result<(), StoreError> {
    let store = store();
    let extra = 5;
    store.transaction(|tx| {
        for number in 0..ADDRESS_BOOK_MAX + extra {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            let node = KnownNode { device: DeviceKey(PublicKey(key)), descriptor: vec![1], seen_at: UnixTime(number) };
            tx.put_known_node(&node)?;
        }
        // Seen again: the oldest left becomes the youngest.
        let mut again = tx.known_nodes(usize::MAX)?.pop().expect("there are some");
        assert_eq!(again.seen_at, UnixTime(extra));
        again.seen_at = NOW;
        tx.put_known_node(&again)?;
        let nodes = tx.known_nodes(usize::MAX)?;
        assert_eq!(nodes.len() as u64, ADDRESS_BOOK_MAX);
        assert_eq!(nodes[0], again);
        assert!(tx.remove_known_node(&again.device)?);
        assert!(!tx.remove_known_node(&again.device)?);
        assert_eq!(tx.known_nodes(3)?.len(), 3);
        Ok(())
    })
}

#[test]
fn cached_records_are_replaced_and_dated() -> Result<(), StoreError> {
    let store = store();
    let key = RecordKey([4; 32]);
    store.transaction(|tx| {
        tx.put_cached_record(&key, b"old", NOW)?;
        tx.put_cached_record(&key, b"new", NOW.plus_secs(1))
    })?;
    let record = store.read(|view| view.cached_record(&key))?.expect("cached");
    assert_eq!((record.record.as_slice(), record.fetched_at), (&b"new"[..], NOW.plus_secs(1)));
    assert_eq!(store.read(View::cached_records)?.len(), 1);
    Ok(())
}

#[test]
fn messages_are_listed_by_conversation_and_wait_in_the_outbox() -> Result<(), StoreError> {
    let store = store();
    let sequences = store.transaction(|tx| {
        (0..10)
            .map(|id| {
                tx.add_message(&message(
                    id,
                    if id % 2 == 0 { Direction::Out } else { Direction::In },
                    if id < 8 { "bob" } else { "carol" },
                ))
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    assert!(sequences.is_sorted_by(|a, b| a < b));
    store.read(|view| {
        let bob = view.conversation(&user("bob").into(), None, 3)?;
        assert_eq!(bob.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), sequences[5..8]);
        let earlier = view.conversation(&user("bob").into(), Some(UnixTime(5)), 100)?;
        assert_eq!(earlier.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), sequences[..5]);
        assert!(view.conversation(&user("nobody").into(), None, 10)?.is_empty());
        assert_eq!(view.unfinished_messages(100)?.len(), 5);
        assert_eq!(view.last_messages(2)?[1].1, message(9, Direction::In, "carol"));
        Ok::<_, StoreError>(())
    })?;
    store.transaction(|tx| {
        assert_eq!(tx.add_message(&message(3, Direction::In, "bob"))?, sequences[3], "a known id keeps its place");
        assert!(tx.update_message(sequences[0], b"delivered")?);
        assert!(!tx.update_message(10_000, b"nothing there")?);
        assert!(tx.finish_message(sequences[0])?);
        assert_eq!(tx.unfinished_messages(1)?[0].0, sequences[2]);
        let (_, row) = tx.message_by_id(&0u32.to_be_bytes())?.expect("kept");
        assert_eq!(row.content, b"delivered");
        assert!(matches!(
            tx.add_message(&MessageRow { content: vec![0; VALUE_BYTES_MAX + 1], ..message(99, Direction::Out, "bob") }),
            Err(StoreError::TooLarge { .. })
        ));
        Ok(())
    })
}

#[test]
fn copies_of_a_message_are_recognised_by_sender_and_id() -> Result<(), StoreError> {
    let store = store();
    store.transaction(|tx| {
        assert!(tx.is_first_copy(&device(1), b"id", NOW)?);
        assert!(!tx.is_first_copy(&device(1), b"id", NOW)?);
        assert!(tx.is_first_copy(&device(2), b"id", NOW)?, "another sender may use the same id");
        Ok(())
    })
}

#[test]
fn calls_are_listed_newest_first_and_can_change() -> Result<(), StoreError> {
    let store = store();
    store.transaction(|tx| {
        let first = tx.add_call(b"ringing")?;
        let second = tx.add_call(b"missed")?;
        tx.update_call(first, b"completed")?;
        assert_eq!(tx.last_calls(10)?, [(second, b"missed".to_vec()), (first, b"completed".to_vec())]);
        Ok(())
    })
}

#[test]
fn registrations_are_bounded_per_device_and_follow_their_handle() -> Result<(), StoreError> {
    let store = store();
    store.transaction(|tx| {
        for number in 0..GATEWAY_REGISTRATIONS_PER_DEVICE_MAX {
            tx.put_gateway_registration(&[u8::try_from(number).expect("small")], &device(1), b"r")?;
        }
        assert!(matches!(tx.put_gateway_registration(b"one more", &device(1), b"r"), Err(StoreError::Full { .. })));
        tx.put_gateway_registration(&[0], &device(1), b"changed")?;
        assert_eq!(tx.gateway_registration(&[0])?, Some((device(1), b"changed".to_vec())));
        tx.put_gateway_registration(&[1], &device(2), b"moved")?;
        assert_eq!(tx.gateway_registrations_of(&device(1))?.len(), GATEWAY_REGISTRATIONS_PER_DEVICE_MAX - 1);
        assert_eq!(tx.gateway_registrations_of(&device(2))?, [(vec![1], b"moved".to_vec())]);
        assert!(tx.remove_gateway_registration(&[1])?);
        assert!(!tx.remove_gateway_registration(&[1])?);
        assert!(tx.gateway_registrations_of(&device(2))?.is_empty());

        tx.put_push_registration(b"webpush", b"endpoint")?;
        assert_eq!(tx.push_registrations()?, [(b"webpush".to_vec(), b"endpoint".to_vec())]);
        assert!(tx.remove_push_registration(b"webpush")?);
        Ok(())
    })
}

#[test]
fn pending_pushes_keep_their_order_and_numbers_are_not_reused() -> Result<(), StoreError> {
    let store = store();
    let push = PendingPush { handle: vec![1], due: NOW, expires_at: NOW.plus_secs(60), content: b"ring".to_vec() };
    store.transaction(|tx| {
        let first = tx.add_pending_push(&push)?;
        let second = tx.add_pending_push(&push)?;
        tx.update_pending_push(first, &PendingPush { due: NOW.plus_secs(5), ..push.clone() })?;
        let waiting = tx.pending_pushes(10)?;
        assert_eq!(waiting[0].1.due, NOW.plus_secs(5));
        assert!(tx.remove_pending_push(second)?);
        assert!(!tx.remove_pending_push(second)?);
        assert!(tx.add_pending_push(&push)? > second);
        Ok(())
    })
}

/// Not a test by itself: the child that `acknowledged_writes_survive_a_kill` starts and kills.
#[test]
fn child_that_acknowledges_writes() {
    let Some(home) = std::env::var_os(CHILD_HOME) else { return };
    let store = Store::open(Path::new(&home)).expect("opens");
    let kept = store.read(|view| view.unfinished_messages(usize::MAX)).expect("reads").len();
    let mut out = std::io::stdout();
    for number in u32::try_from(kept).expect("few").. {
        let sequence = store.transaction(|tx| tx.add_message(&message(number, Direction::Out, "bob"))).expect("commits");
        writeln!(out, "acknowledged {number} {sequence}").and_then(|()| out.flush()).expect("parent reads");
    }
}

#[test]
fn acknowledged_writes_survive_a_kill() -> Result<(), StoreError> {
    let home = tempfile::tempdir().expect("temporary directory");
    let mut total = 0;
    for round in 1..=3 {
        // A different number each round, so that the kill meets different moments; each goes on where the last was killed.
        let wanted = round * 40;
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "store::tests::child_that_acknowledges_writes", "--nocapture", "--test-threads=1"])
            .env(CHILD_HOME, home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts itself");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut acknowledged: Vec<(u32, u64)> = Vec::new();
        let mut line = String::new();
        while acknowledged.len() < wanted && output.read_line(&mut line).expect("readable") > 0 {
            acknowledged.extend(parse_acknowledgement(&line));
            line.clear();
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("ends");
        // What it said between our last look and its end counts as well.
        for line in output.lines().map_while(Result::ok) {
            acknowledged.extend(parse_acknowledgement(&line));
        }
        assert!(acknowledged.len() >= wanted, "only {} acknowledged", acknowledged.len());
        total += acknowledged.len();

        let store = Store::open(home.path())?;
        store.read(|view| {
            for (number, sequence) in &acknowledged {
                let found = view.message_by_id(&number.to_be_bytes())?;
                assert_eq!(found, Some((*sequence, message(*number, Direction::Out, "bob"))));
            }
            assert!(view.unfinished_messages(usize::MAX)?.len() >= total);
            assert!(view.conversation(&user("bob").into(), None, usize::MAX)?.len() >= total);
            Ok::<_, StoreError>(())
        })?;
    }
    Ok(())
}

/// A line cut off by the kill isn't an acknowledgement.
fn parse_acknowledgement(line: &str) -> Option<(u32, u64)> {
    let at = line.find("acknowledged ")?;
    let (number, sequence) = line[at..].trim_end().strip_prefix("acknowledged ")?.split_once(' ')?;
    Some((number.parse().ok()?, sequence.parse().ok()?))
}

/// Wherever a byte is wrong, opening ends in a store or in an error that names the file. (Whether the damage is noticed at once depends on
/// where it is: redb checks pages when it reads them.)
#[test]
fn a_wrong_byte_anywhere_ends_in_a_store_or_an_error() -> Result<(), StoreError> {
    let home = tempfile::tempdir().expect("temporary directory");
    let path = home.path().join(DATABASE_FILE);
    Store::open(home.path())?.transaction(|tx| tx.put_setting("name", b"Alice"))?;
    let whole = std::fs::read(&path).expect("reads");
    let mut refused = 0;
    // The header densely, the rest in samples.
    for at in (0..192).step_by(8).chain((192..whole.len()).step_by(whole.len() / 40)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&path, &damaged).expect("writes");
        if let Err(error) = Store::open(home.path()) {
            refused += 1;
            assert!(error.to_string().contains(DATABASE_FILE), "byte {at}: {error}");
        }
    }
    assert!(refused > 0);
    Ok(())
}

#[test]
fn lists_of_any_length_are_read_back_and_what_could_not_be_is_refused() -> Result<(), StoreError> {
    let store = Store::in_memory()?;
    let long: Vec<(u32, String)> = (0..2_000).map(|number| (number, "n".repeat(100))).collect();
    store.transaction::<_, StoreError>(|tx| {
        tx.put_setting_list("long", &long, 100)?;
        let whole = tx.put_setting_value("whole", &long);
        assert!(matches!(whole, Err(StoreError::TooLarge { .. })), "{whole:?}");
        assert_eq!(tx.setting_list::<(u32, String)>("long")?, long);
        // A shorter one leaves nothing of the longer one behind.
        tx.put_setting_list("long", &long[..150], 100)?;
        assert_eq!(tx.setting_list::<(u32, String)>("long")?, long[..150]);
        tx.put_setting_list("long", &long[..0], 100)?;
        assert_eq!(tx.setting_list::<(u32, String)>("long")?, []);
        assert_eq!(tx.setting_list::<(u32, String)>("none")?, []);
        Ok(())
    })
}
