//! One body for both kinds of records, and what only several processes of one database can show.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use halloo_protocol::capability::CapabilityRules;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey};
use halloo_protocol::push::registration::Registration;
use halloo_protocol::push::{DeliveredStatus, PushChannel, PushHandle, PushRegister};
use halloo_protocol::time::UnixTime;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::shared::{Joined, News, Opening, Outcome, Query, Shared, SharedError, open};
use super::{Embedded, GatewayRecords};
use crate::event_loop::Internal;
use crate::roles::gateway::sessions;
use crate::store::{PendingPush, Store};

#[path = "../../../../../tests/src/postgres.rs"]
#[allow(unreachable_pub, missing_docs, dead_code, clippy::expect_used, reason = "shared with the scenarios")]
mod postgres;

use postgres::Postgres;

const PATIENCE: Duration = Duration::from_secs(30);

fn device(number: u8) -> DeviceKey {
    DeviceKey(PublicKey([number; 32]))
}

fn identity() -> IdentityKey {
    IdentityKey(PublicKey([99; 32]))
}

fn far() -> UnixTime {
    UnixTime(4_000_000_000)
}

fn registration(number: u8, channels: &[&str]) -> Registration {
    let channels = channels.iter().map(|token| PushChannel::Fcm { token: (*token).into() }).collect();
    let known = Registration {
        handle: PushHandle([number; 32]),
        rules: CapabilityRules::new(device(number), identity(), 0),
        request: PushRegister::new(channels),
        expires_at: far(),
    };
    sessions::with_user(known, &UserId::Key(identity()))
}

fn push(number: u8) -> PendingPush {
    PendingPush { handle: vec![number; 32], due: UnixTime(1), expires_at: far(), content: vec![7; 64] }
}

/// A decision: what it needs is fetched, it is made, and what it changes is kept.
trait Decide {
    fn decide<T>(&mut self, query: Query, decision: impl FnOnce(&mut dyn GatewayRecords) -> T) -> T;
}

impl Decide for Embedded {
    fn decide<T>(&mut self, _query: Query, decision: impl FnOnce(&mut dyn GatewayRecords) -> T) -> T {
        decision(self)
    }
}

/// One process of a group.
struct Member {
    runtime: Runtime,
    shared: Shared,
    news: mpsc::Receiver<Internal>,
    joined: Joined,
    vapid: Vec<u8>,
    tickets: u64,
}

impl Member {
    fn open(url: &str, key_file: &Path, number: u8) -> Result<Self, SharedError> {
        Self::open_trusting(url, key_file, number, &[])
    }

    fn open_trusting(url: &str, key_file: &Path, number: u8, roots: &[Vec<u8>]) -> Result<Self, SharedError> {
        Self::open_with(url, key_file, number, roots, &Store::in_memory().unwrap())
    }

    fn open_with(url: &str, key_file: &Path, number: u8, roots: &[Vec<u8>], store: &Store) -> Result<Self, SharedError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, news) = mpsc::channel(1_024);
        let tls = crate::roles::gateway::http::tls_config(roots).unwrap();
        let vapid = [number; 32];
        let device = device(200 + number);
        let opening = Opening { url, password: None, key_file, tls, device, vapid: &vapid, store };
        let opened = runtime.block_on(open(opening, sender))?;
        let mut shared = opened.shared;
        shared.joined(&opened.joined);
        Ok(Self { runtime, shared, news, joined: opened.joined, vapid: opened.vapid, tickets: 0 })
    }

    /// Waits for news of one kind.
    fn hear<T>(&mut self, wanted: impl Fn(News) -> Option<T>) -> T {
        let news = &mut self.news;
        let heard = async {
            loop {
                if let Some(Internal::GatewayRecords(told)) = news.recv().await
                    && let Some(found) = wanted(*told)
                {
                    return found;
                }
            }
        };
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, heard).await }).expect("it is told")
    }

    fn try_decide<T>(&mut self, query: Query, decision: impl FnOnce(&mut dyn GatewayRecords) -> T) -> (T, Option<Outcome>) {
        self.tickets += 2;
        let ticket = self.tickets;
        assert!(self.shared.load(ticket, query));
        let world = self.hear(|news| match news {
            News::Loaded(told, world) if told == ticket => Some(world),
            _ => None,
        });
        self.shared.begin(*world.unwrap_or_default());
        let result = decision(&mut self.shared);
        let changes = self.shared.end();
        if changes.is_empty() {
            return (result, Some(Outcome::Done));
        }
        assert!(self.shared.commit(ticket + 1, changes));
        let outcome = self.hear(|news| match news {
            News::Committed(told, outcome) if told == ticket + 1 => Some(outcome),
            _ => None,
        });
        (result, outcome)
    }
}

/// Two processes of one database take turns: each decision is made by the one that didn't make the last.
struct Turns(Vec<Member>);

impl Decide for Turns {
    fn decide<T>(&mut self, query: Query, decision: impl FnOnce(&mut dyn GatewayRecords) -> T) -> T {
        self.0.rotate_left(1);
        let (result, outcome) = self.0[0].try_decide(query, decision);
        assert_eq!(outcome, Some(Outcome::Done));
        result
    }
}

fn of_device(number: u8) -> Query {
    Query { devices: vec![device(number)], waiting_for: Some(device(number)), ..Query::default() }
}

/// What both kinds of records do.
fn keep_and_find(records: &mut impl Decide) {
    let of_handle = |number: u8| Query { handle: Some(PushHandle([number; 32])), ..Query::default() };
    records.decide(of_device(1), |records| {
        assert!(records.registrations_of(&device(1)).unwrap().is_empty());
        records.put_registration(&registration(1, &["a", "b"])).unwrap();
    });
    records.decide(of_device(2), |records| records.put_registration(&registration(2, &["c"])).unwrap());
    let found = records.decide(of_handle(1), |records| records.registration(&PushHandle([1; 32])).unwrap());
    assert_eq!(found, Some(registration(1, &["a", "b"])));
    assert_eq!(records.decide(of_handle(9), |records| records.registration(&PushHandle([9; 32])).unwrap()), None);
    let query = Query { user: Some(UserId::Key(identity())), ..Query::default() };
    let known = records.decide(query, |records| records.registrations_of_user(&UserId::Key(identity())).unwrap());
    assert_eq!(known.len(), 2, "all devices of the user");

    // A channel ends: what is left stays, and the device is told.
    let channel_ends = |left: Registration, name: u8| {
        move |records: &mut dyn GatewayRecords| records.end_channel(&left, &[name; 32], &[name]).unwrap()
    };
    records.decide(of_handle(1), channel_ends(registration(1, &["b"]), 1));
    assert_eq!(records.decide(of_device(1), |records| records.registrations_of(&device(1)).unwrap()), [registration(1, &["b"])]);
    records.decide(of_handle(1), channel_ends(registration(1, &[]), 2));
    let (left, mut notices) = records
        .decide(of_device(1), |records| (records.registrations_of(&device(1)).unwrap(), records.notices_of(&device(1)).unwrap()));
    notices.sort();
    assert_eq!((left.len(), notices), (0, vec![vec![1], vec![2]]));
    records.decide(of_device(1), |records| records.remove_notice(&device(1), &[1; 32]).unwrap());
    assert_eq!(records.decide(of_device(1), |records| records.notices_of(&device(1)).unwrap()), [vec![2]]);

    // What the user's devices tell.
    let own = identity().0;
    records.decide(of_device(2), |records| records.put_choice(&own, b"one").unwrap());
    records.decide(of_device(2), |records| records.put_choice(&own, b"two").unwrap());
    assert_eq!(records.decide(of_handle(2), |records| records.choice(&own).unwrap()).as_deref(), Some(&b"two"[..]));
    records.decide(of_device(2), |records| records.remove_choice(&own).unwrap());
    assert_eq!(records.decide(of_device(2), |records| records.choice(&own).unwrap()), None);
    assert!(records.decide(of_handle(2), |records| records.remove_registration(&PushHandle([2; 32])).unwrap()));
    assert!(!records.decide(of_handle(2), |records| records.remove_registration(&PushHandle([2; 32])).unwrap()));
}

/// What a process does with its own pushes.
fn keep_pushes(records: &mut impl Decide) {
    let number = records.decide(Query::default(), |records| records.add_pending(&push(1), &[1; 32]).unwrap());
    let other = records.decide(Query::default(), |records| records.add_pending(&push(2), &[2; 32]).unwrap());
    assert!(other > number);
    let later = PendingPush { due: UnixTime(9), ..push(1) };
    records.decide(Query::default(), |records| records.update_pending(number, &later).unwrap());
    assert_eq!(records.decide(Query::default(), |records| records.pending(number).unwrap()), Some(later));
    records.decide(Query::default(), |records| records.remove_pending(&[number, other], None).unwrap());
    assert_eq!(records.decide(Query::default(), |records| records.pending(number).unwrap()), None);
}

struct One(Member);

impl Decide for One {
    fn decide<T>(&mut self, query: Query, decision: impl FnOnce(&mut dyn GatewayRecords) -> T) -> T {
        let (result, outcome) = self.0.try_decide(query, decision);
        assert_eq!(outcome, Some(Outcome::Done));
        result
    }
}

#[test]
fn the_nodes_own_database_keeps_what_a_gateway_needs() {
    let mut embedded = Embedded::new(Store::in_memory().unwrap());
    keep_and_find(&mut embedded);
    keep_pushes(&mut embedded);
    embedded.put_registration(&Registration { expires_at: UnixTime(5), ..registration(3, &["x"]) }).unwrap();
    assert_eq!(embedded.purge(UnixTime(5)).unwrap(), []);
    assert_eq!(embedded.purge(UnixTime(6)).unwrap(), [identity().0]);
    assert_eq!(embedded.registration_count().unwrap(), 0);
}

fn key_file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("group.key")
}

#[test]
#[ignore = "long: PostgreSQL"]
fn two_processes_of_one_database_keep_what_a_gateway_needs() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    // Both find no tables, at the same time.
    let (url, file) = (postgres.url(), key_file(&folder));
    let opening = std::thread::spawn({
        let (url, file) = (url.clone(), file.clone());
        move || Member::open(&url, &file, 1)
    });
    let two = Member::open(&url, &file, 2).unwrap();
    let one = opening.join().unwrap().unwrap();
    assert_eq!(one.vapid, two.vapid, "one key for push services");
    keep_and_find(&mut Turns(vec![one, two]));
    keep_pushes(&mut One(Member::open(&url, &file, 3).unwrap()));
    let rows = postgres.sql("push", "SELECT count(*) FROM halloo_gateway.registration");
    assert_eq!(rows, "0");
}

/// A gateway that had all in its home: two devices, one of which is woken by Web Push, what they chose by, a notice and a push that wait.
fn home() -> Store {
    let store = Store::in_memory().unwrap();
    let mut embedded = Embedded::new(store.clone());
    let web = PushChannel::WebPush { endpoint: "https://push.example/2".into(), p256dh: [4; 65], auth: [5; 16] };
    let mut second = registration(2, &[]);
    second.request = PushRegister::new(vec![web]);
    embedded.put_registration(&registration(1, &["a"])).unwrap();
    embedded.put_registration(&second).unwrap();
    embedded.put_choice(&identity().0, b"by the nearest").unwrap();
    let notice = halloo_protocol::push::PushChannelGone {
        handle: PushHandle([1; 32]),
        fingerprint: [3; 32],
        way: halloo_protocol::push::PushWay::Sms,
        reason: halloo_protocol::push::ChannelEnd::UNREGISTERED,
        at: UnixTime(7),
        extensions: halloo_protocol::wire::Extensions::none(),
    };
    embedded.end_channel(&registration(1, &["a"]), &[3; 32], &halloo_protocol::wire::encode(&notice)).unwrap();
    embedded.add_pending(&push(1), &[8; 32]).unwrap();
    store
}

#[test]
#[ignore = "long: PostgreSQL"]
fn what_a_gateway_had_in_its_home_is_carried_over_into_the_database_that_it_shares_from_now_on() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let open = |number, store: &Store| Member::open_with(&postgres.url(), &key_file(&folder), number, &[], store).unwrap();
    let left = |store: &Store| Embedded::new(store.clone()).registration_count().unwrap();
    let first = home();
    let mut one = open(1, &first);
    let held: Vec<PendingPush> = one.joined.pushes.iter().map(|(_, push)| push.clone()).collect();
    assert_eq!(held, [push(1)], "what was accepted goes out");
    for number in [1, 2] {
        let (found, _) = one.try_decide(of_device(number), |records| records.registrations_of(&device(number)).unwrap());
        assert_eq!(found.iter().map(|known| known.handle).collect::<Vec<_>>(), [PushHandle([number; 32])]);
    }
    let ((choice, notices), _) =
        one.try_decide(of_device(1), |records| (records.choice(&identity().0).unwrap(), records.notices_of(&device(1)).unwrap()));
    assert_eq!((choice.as_deref(), notices.len()), (Some(&b"by the nearest"[..]), 1));
    let embedded = Embedded::new(first.clone());
    assert_eq!((left(&first), embedded.all_pending(9).unwrap().len(), embedded.choice(&identity().0).unwrap()), (0, 0, None));
    // The next number is another one.
    let (number, outcome) = one.try_decide(Query::default(), |records| records.add_pending(&push(4), &[9; 32]).unwrap());
    assert!(outcome == Some(Outcome::Done) && one.joined.pushes.iter().all(|(known, _)| *known != number));

    // At its next start nothing is carried again, though the home is as it was before the first.
    let (before, _) = one.try_decide(of_device(1), |records| {
        records.put_registration(&registration(1, &["newer"])).unwrap();
    });
    drop((before, one));
    let second = home();
    let mut again = open(1, &second);
    let (found, _) = again.try_decide(of_device(1), |records| records.registrations_of(&device(1)).unwrap());
    assert_eq!(found, [registration(1, &["newer"])], "what is there is newer");
    assert_eq!(again.joined.pushes.len(), 2, "the push that was carried over once, and the other one");
    assert_eq!(left(&second), 0);

    // Subscriptions of another key for push services stay where they are: the group couldn't use them.
    let third = home();
    drop(open(3, &third));
    assert_eq!(left(&third), 1);
}

#[test]
#[ignore = "long: PostgreSQL"]
fn whoever_is_slower_decides_again_and_one_push_is_kept_once() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let open = |number| Member::open(&postgres.url(), &key_file(&folder), number).unwrap();
    let (mut one, mut two) = (open(1), open(2));
    let add = |records: &mut dyn GatewayRecords| records.put_registration(&registration(1, &["a"])).unwrap();
    assert_eq!(one.try_decide(of_device(1), add).1, Some(Outcome::Done));
    // Decided by nothing, where there is something by now.
    assert_eq!(two.try_decide(Query::default(), add).1, Some(Outcome::Conflict));
    let newer = |records: &mut dyn GatewayRecords| records.put_registration(&registration(1, &["b"])).unwrap();
    assert_eq!(two.try_decide(of_device(1), newer).1, Some(Outcome::Done));

    // The caller has asked both: the one that was first has it.
    let keep = |records: &mut dyn GatewayRecords| records.add_pending(&push(1), &[5; 32]).unwrap();
    let (number, outcome) = one.try_decide(Query::default(), keep);
    assert_eq!(outcome, Some(Outcome::Done));
    assert_eq!(two.try_decide(Query::default(), keep).1, Some(Outcome::Known(None)));

    // The device's stream is at the other, which finds the push, brings it, and has the first one told.
    let (found, _) = two.try_decide(of_device(1), |records| records.registrations_of(&device(1)).unwrap().len());
    assert_eq!(found, 1);
    let query = of_device(1);
    two.tickets += 2;
    assert!(two.shared.load(two.tickets, query));
    let world = two.hear(|news| if let News::Loaded(_, world) = news { world } else { None });
    assert_eq!(world.pushes, [(number, push(1))]);
    two.shared.remove_pending(&[number], Some(DeliveredStatus::Ringing)).unwrap();
    let told = one.hear(|news| if let News::Brought(number, status) = news { Some((number, status)) } else { None });
    assert_eq!(told, (number, DeliveredStatus::Ringing));
    assert_eq!(postgres.sql("push", "SELECT count(*) FROM halloo_gateway.push"), "0");

    // Asked for by one, heard by the other.
    two.hear(|news| if let News::Group(Some(others), _) = news { Some(others) } else { None });
    one.shared.set_group(Some(vec![halloo_protocol::directory::Helper { device: device(7), addresses: vec![] }]), None);
    one.shared.ask(11, device(1));
    two.shared.note_connected(device(1), |_| true);
    let (asked, index) = two.hear(|news| if let News::Asked(number, index) = news { Some((number, index)) } else { None });
    assert_eq!((asked, two.shared.connected(&index)), (11, Some(device(1))));
}

#[test]
#[ignore = "long: PostgreSQL"]
fn what_a_process_left_behind_is_taken_over_once() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let open = |number| Member::open(&postgres.url(), &key_file(&folder), number).unwrap();
    let (mut one, mut two, mut three) = (open(1), open(2), open(3));
    let keep = |records: &mut dyn GatewayRecords| records.add_pending(&push(1), &[5; 32]).unwrap();
    let (number, outcome) = one.try_decide(Query::default(), keep);
    assert_eq!(outcome, Some(Outcome::Done));
    drop(one);
    let adopted = |news| if let News::Adopted(pushes) = news { Some(pushes) } else { None };
    let taken = |member: &mut Member| {
        let mut found = Vec::new();
        while let Ok(Internal::GatewayRecords(news)) = member.news.try_recv() {
            found.extend(adopted(*news).into_iter().flatten());
        }
        found
    };
    let mut owners = eventually(|| {
        let found = [taken(&mut two), taken(&mut three)].concat();
        (!found.is_empty()).then_some(found)
    });
    // Nobody comes later.
    std::thread::sleep(Duration::from_secs(15));
    owners.extend([taken(&mut two), taken(&mut three)].concat());
    assert_eq!(owners, [(number, push(1))]);
    // A process that starts again takes up what it had itself, at once.
    let mut again = open(4);
    let (number, _) = again.try_decide(Query::default(), |records| records.add_pending(&push(2), &[6; 32]).unwrap());
    drop(again);
    let again = open(4);
    assert_eq!(again.joined.pushes, [(number, push(2))]);
}

fn eventually<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "long: PostgreSQL"]
fn a_database_that_goes_away_refuses_and_is_regained_with_what_was_kept() {
    let (mut postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let mut one = Member::open(&postgres.url(), &key_file(&folder), 1).unwrap();
    let (number, outcome) = one.try_decide(Query::default(), |records| records.add_pending(&push(1), &[5; 32]).unwrap());
    assert_eq!(outcome, Some(Outcome::Done));
    postgres.stop();
    let (_, outcome) = one.try_decide(Query::default(), |records| records.add_pending(&push(2), &[6; 32]).unwrap());
    assert_eq!(outcome, None, "not kept, and not told as kept");
    // What nobody waits for is done when it is back.
    one.shared.update_pending(number, &PendingPush { due: UnixTime(77), ..push(1) }).unwrap();
    postgres.run();
    let owned = one.hear(|news| match news {
        News::Owned(owned) if !owned.numbers.is_empty() => Some(owned),
        _ => None,
    });
    assert_eq!(owned.numbers, [number]);
    let compared = one.shared.compare(&owned);
    assert!(compared.missing.is_empty() && compared.lost.is_empty(), "{compared:?}");
    eventually(|| {
        let mut two = Member::open(&postgres.url(), &key_file(&folder), 2).unwrap();
        let query = Query { push: Some(number), ..Query::default() };
        assert!(two.shared.load(1, query));
        let world = two.hear(|news| if let News::Loaded(_, world) = news { world } else { None });
        world.pushes.iter().any(|(_, push)| push.due == UnixTime(77)).then_some(())
    });
    let (_, outcome) = one.try_decide(Query::default(), |records| records.add_pending(&push(3), &[7; 32]).unwrap());
    assert_eq!(outcome, Some(Outcome::Done));
}

#[test]
#[ignore = "long: PostgreSQL"]
fn a_database_that_cannot_be_used_is_named_with_what_to_do() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let open = |url: &str, file: &str| {
        let said = Member::open(url, &folder.path().join(file), 1).map(|_| ()).unwrap_err().to_string();
        assert!(!said.contains("opensesame"), "{said}");
        said
    };
    let url = postgres.url();
    let nobody = url.replace(&format!(":{}/", postgres.port()), ":1/");
    assert!(open(&nobody, "key").contains("isn't reached"), "{}", open(&nobody, "key"));
    let said = open(&url.replace("opensesame@", "wrong@"), "key");
    assert!(said.contains("user and password"), "{said}");
    let said = open(&url.replace("/push", "/other"), "key");
    assert!(said.contains("createdb"), "{said}");
    assert!(open("mysql://a:opensesame@b", "key").contains("postgresql://"));
    assert!(open(&url.replace("halloo:opensesame@", "halloo@"), "key").contains("password"));

    drop(Member::open(&url, &folder.path().join("key"), 1).unwrap());
    let said = open(&url, "another");
    assert!(said.contains("gateway-group.key"), "{said}");
    super::shared::GroupKey::create(&folder.path().join("foreign")).unwrap();
    assert!(open(&url, "foreign").contains("another key"));
    // Nobody who reads the database learns who is registered.
    let mut member = Member::open(&url, &folder.path().join("key"), 1).unwrap();
    member.try_decide(of_device(1), |records| records.put_registration(&registration(1, &["a-token-of-hers"])).unwrap());
    let dump = postgres.sql("push", "SELECT * FROM halloo_gateway.registration");
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    for secret in [hex(b"a-token-of-hers"), hex(&[1; 32]), hex(&[99; 32])] {
        assert!(!dump.contains(&secret) && dump.len() > 100, "{secret}");
    }
    // What somebody else writes there is passed over.
    postgres.sql("push", "UPDATE halloo_gateway.registration SET content = '\\x00'");
    assert_eq!(member.try_decide(of_device(1), |records| records.registrations_of(&device(1)).unwrap().len()).0, 0);
    postgres.sql("push", "ALTER TABLE halloo_gateway.registration ALTER COLUMN content TYPE text USING 'text'");
    drop(member);
    let mut member = Member::open(&url, &folder.path().join("key"), 1).unwrap();
    assert_eq!(member.try_decide(of_device(1), |records| records.registrations_of(&device(1)).unwrap().len()).0, 0);
    drop(member);
    postgres.sql("push", "UPDATE halloo_gateway.setting SET value = '\\x00000009' WHERE name = 'schema'");
    assert!(open(&url, "key").contains("newer version"), "{}", open(&url, "key"));
}

#[test]
#[ignore = "long: PostgreSQL"]
fn a_database_under_tls_shows_a_certificate_for_its_name_that_is_trusted() {
    let (mut postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    postgres.serve_tls(&made.cert.pem(), &made.signing_key.serialize_pem());
    let roots = [made.cert.der().to_vec()];
    let by_name = format!("{}?sslmode=require", postgres.url().replace("127.0.0.1", "localhost"));
    let member = Member::open_trusting(&by_name, &key_file(&folder), 1, &roots).unwrap();
    // The server shows a connection a moment after it was made.
    let ssl = "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'halloo gateway'";
    let under_tls = eventually(|| Some(postgres.sql("push", ssl)).filter(|said| !said.is_empty()));
    assert_eq!(under_tls, "t");
    drop(member);
    let by_address = format!("{}?sslmode=require", postgres.url());
    for (url, roots) in [(&by_name, &[][..]), (&by_address, &roots[..])] {
        let said = Member::open_trusting(url, &key_file(&folder), 1, roots).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("certificate"), "{said}");
    }
}

/// A way to the database that loses an answer: what is asked with a certain number in it arrives, and what is answered doesn't.
#[derive(Clone, Default)]
struct Cutter {
    /// The number.
    armed: Arc<Mutex<Option<u64>>>,
    /// Whether the way is closed after that, and whether it is.
    closes: Arc<AtomicBool>,
    is_closed: Arc<AtomicBool>,
}

impl Cutter {
    /// Gives its port too.
    fn start(to: u16) -> (Self, u16) {
        let cutter = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let there = cutter.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if !there.is_closed.load(Ordering::SeqCst) {
                    there.join(client, TcpStream::connect(("127.0.0.1", to)).unwrap());
                }
            }
        });
        (cutter, port)
    }

    fn join(&self, client: TcpStream, server: TcpStream) {
        let is_doomed = Arc::new(AtomicBool::new(false));
        let (mut from, mut to, doom, cutter) =
            (client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&is_doomed), self.clone());
        std::thread::spawn(move || {
            pass(&mut from, &mut to, |bytes| {
                let mut armed = cutter.armed.lock().unwrap();
                let is_it = |number: u64| bytes.windows(8).any(|word| word == number.to_be_bytes());
                if armed.is_some_and(is_it) {
                    *armed = None;
                    doom.store(true, Ordering::SeqCst);
                }
                true
            });
        });
        let (mut from, mut to, cutter) = (server, client, self.clone());
        std::thread::spawn(move || {
            pass(&mut from, &mut to, |_| {
                let is_cut = is_doomed.load(Ordering::SeqCst);
                cutter.is_closed.fetch_or(is_cut && cutter.closes.load(Ordering::SeqCst), Ordering::SeqCst);
                !is_cut
            });
        });
    }
}

/// Passes bytes on as long as it may.
fn pass(from: &mut TcpStream, to: &mut TcpStream, may_pass: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !may_pass(&buffer[..length]) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ended = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Adds a push; its commit's answer is lost on the way.
fn add_with_a_lost_answer(member: &mut Member, cutter: &Cutter, which: u8) -> (u64, Option<Outcome>) {
    member.tickets += 1;
    let ticket = member.tickets;
    member.shared.begin(super::shared::World::default());
    let number = member.shared.add_pending(&push(which), &[which; 32]).unwrap();
    *cutter.armed.lock().unwrap() = Some(number);
    let changes = member.shared.end();
    assert!(member.shared.commit(ticket, changes));
    let outcome = member.hear(|news| match news {
        News::Committed(told, outcome) if told == ticket => Some(outcome),
        _ => None,
    });
    assert!(cutter.armed.lock().unwrap().is_none(), "the answer was lost");
    (number, outcome)
}

#[test]
#[ignore = "long: PostgreSQL"]
fn a_commit_whose_answer_is_lost_is_asked_for_again_and_missed_if_it_was_not() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let (cutter, port) = Cutter::start(postgres.port());
    let url = postgres.url().replace(&format!(":{}/", postgres.port()), &format!(":{port}/"));
    let mut one = Member::open(&url, &key_file(&folder), 1).unwrap();
    let rows = || postgres.sql("push", "SELECT count(*) FROM halloo_gateway.push");

    // There is another connection: it is known to be there, once.
    let (first, outcome) = add_with_a_lost_answer(&mut one, &cutter, 1);
    assert_eq!((outcome, rows().as_str()), (Some(Outcome::Done), "1"));
    assert_eq!(one.shared.take_up(&[(first, push(1))]), [(first, push(1))]);

    // There is none: the caller is told to come again, and the row is there.
    cutter.closes.store(true, Ordering::SeqCst);
    let (second, outcome) = add_with_a_lost_answer(&mut one, &cutter, 2);
    assert_eq!((outcome, rows().as_str()), (None, "2"));
    one.shared.let_go(second);
    cutter.is_closed.store(false, Ordering::SeqCst);
    cutter.closes.store(false, Ordering::SeqCst);
    // Whoever comes again learns that it is known, and the gateway that it is its own.
    let again = eventually(|| {
        let keep = |records: &mut dyn GatewayRecords| records.add_pending(&push(2), &[2; 32]).unwrap();
        let (number, outcome) = one.try_decide(Query::default(), keep);
        one.shared.let_go(number);
        outcome
    });
    assert_eq!(again, Outcome::Known(Some(second)));
    // If nobody comes, it is missed when the rows are looked at.
    let owned = one.hear(|news| match news {
        News::Owned(owned) if owned.numbers.contains(&second) => Some(owned),
        _ => None,
    });
    let compared = one.shared.compare(&owned);
    assert_eq!((compared.missing, compared.lost), (vec![second], vec![]));
    one.tickets += 1;
    assert!(one.shared.load(one.tickets, Query { own: vec![second], ..Query::default() }));
    let world = one.hear(|news| if let News::Loaded(_, world) = news { Some(world) } else { None });
    assert_eq!(one.shared.take_up(&world.unwrap().pushes), [(second, push(2))]);
    // What is done with is struck, and not missed any more.
    one.shared.remove_pending(&[first, second], None).unwrap();
    eventually(|| (rows() == "0").then_some(()));
    assert_eq!(one.shared.take_up(&[(second, push(2))]), []);
    // What isn't here is another's, and may be handed over yet.
    one.shared.remove_pending(&[77], None).unwrap();
    assert_eq!(one.shared.take_up(&[(77, push(3))]), [(77, push(3))]);
}

#[test]
#[ignore = "long: PostgreSQL"]
fn signs_of_life_wait_for_no_commit_and_no_tidying() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let open = |number| Member::open(&postgres.url(), &key_file(&folder), number).unwrap();
    let (one, two) = (open(1), open(2));
    // A commit that takes long, and tables that nobody else gets at, for longer than a process may be silent.
    let held = "BEGIN; LOCK TABLE halloo_gateway.registration, halloo_gateway.choice;
        SELECT process FROM halloo_gateway.process FOR KEY SHARE; SELECT pg_sleep(14); COMMIT";
    std::thread::scope(|scope| {
        let holding = scope.spawn(|| postgres.sql("push", held));
        while !holding.is_finished() {
            let silent = "SELECT count(*) FROM halloo_gateway.process WHERE beat < now() - interval '8 seconds'";
            assert_eq!(postgres.sql("push", silent), "0");
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let mut numbers = [one.joined.process, two.joined.process];
    numbers.sort_unstable();
    let known = postgres.sql("push", "SELECT string_agg(process::text, ' ' ORDER BY process) FROM halloo_gateway.process");
    assert_eq!(known, format!("{} {}", numbers[0], numbers[1]), "nobody was taken for dead");
}
