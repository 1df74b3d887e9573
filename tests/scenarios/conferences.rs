//! Goal: people are added to a call and everybody hears everybody, contacts or not; whoever leaves comes back; whoever isn't vouched for stays
//! outside; and the others talk on when one vanishes. Method: real daemons that take calls of contacts alone, each with a tone of its own;
//! what each records must hold the tones of exactly the others.

use std::path::PathBuf;
use std::time::Duration;

use halloo_protocol::call::conference::{ConferenceId, ConferencePart, Introduction, Participant};
use halloo_protocol::call::{CallId, CallInvite, CallTimers, Invite, InviteAnswer, InviteStatus, Origin, Reason, SealedInvite};
use halloo_protocol::event::EventKind;
use halloo_protocol::id::ConversationId;
use halloo_protocol::key::SecretKey;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};
use halloo_tests::attacker::{Attacker, Forger, device_secret, key, now, record_key, stranger_hello};
use halloo_tests::audio::{assert_heard_all, assert_heard_together, write_tone};
use halloo_tests::cli::{Invocation, Running};
use halloo_tests::network::{befriend, text};
use halloo_tests::{Daemon, Network, Plan, User, eventually};
use rand::SeedableRng;
use serde_json::Value;

/// Far longer than anything here takes: nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Longer than any of these conferences: a tone that ended would be missed.
const TONE: Duration = Duration::from_secs(240);

/// Packets that come over a leg in five seconds: enough to hear whoever sends them beside the others, on a machine that has other things to do.
const ENOUGH_PACKETS: u64 = 250;

/// The tones, by place in the plan. None is near a multiple of another.
const TONES_HZ: [f64; 8] = [440.0, 587.0, 740.0, 932.0, 1_109.0, 1_319.0, 1_567.0, 1_865.0];

/// Tones and recordings of everybody.
struct Files(tempfile::TempDir);

impl Files {
    fn new(count: usize) -> Self {
        let files = Self(tempfile::tempdir().expect("a temporary directory"));
        for (index, hertz) in TONES_HZ.iter().take(count).enumerate() {
            write_tone(&files.tone(index), *hertz, TONE);
        }
        files
    }

    fn tone(&self, index: usize) -> PathBuf {
        self.0.path().join(format!("tone-{index}.wav"))
    }

    fn heard(&self, index: usize) -> PathBuf {
        self.0.path().join(format!("heard-{index}.wav"))
    }

    fn args(&self, index: usize) -> [String; 4] {
        let path = |path: PathBuf| path.display().to_string();
        ["--play".to_owned(), path(self.tone(index)), "--record".to_owned(), path(self.heard(index))]
    }

    /// That the recording of one holds the tones of all of these others, and not its own.
    #[track_caller]
    fn assert_heard(&self, index: usize, others: impl IntoIterator<Item = usize>) {
        let others: Vec<f64> = others.into_iter().filter(|other| *other != index).map(|other| TONES_HZ[other]).collect();
        assert_heard_together(&self.heard(index), &others, TONES_HZ[index]);
    }
}

/// A network in which all but the first answer by themselves, and the first is everybody's only contact.
fn network(files: &Files, names: &[&str], more: &[&str]) -> Network {
    let mut plan = Plan::new(names.iter().chain(more).copied()).contacts_only();
    for (index, name) in names.iter().enumerate().skip(1) {
        plan = plan.args(name, ["--answer".to_owned(), "auto".to_owned()].into_iter().chain(files.args(index)));
    }
    let network = plan.start();
    for index in 1..names.len() {
        network.befriend(&network.users[0], &network.users[index]);
    }
    network
}

fn dial(from: &User, to: &User, files: &Files) -> Running {
    Invocation::new(from.home()).args(["call", &to.username]).args(files.args(0)).start()
}

/// The id of the call that somebody has placed.
#[track_caller]
fn dialled(from: &Daemon) -> String {
    let id = text(&from.wait_event(PATIENCE, "call_dialing", |_| true), "call_id");
    from.wait_event(PATIENCE, "call_answered", |event| event["call_id"] == id.as_str());
    id
}

/// The legs that somebody has, whatever their state.
fn legs(of: &Daemon) -> Result<Vec<Value>, String> {
    let list = of.api().get("/v1/calls")?;
    let calls = list["calls"].as_array().cloned().unwrap_or_default();
    Ok(calls.into_iter().filter(|call| call["state"] != "ended").collect())
}

/// Waits until somebody has one leg with each of the others, and hears each.
#[track_caller]
fn talks_with(who: &User, others: &[&User]) -> Vec<Value> {
    // Counted from when all legs are there: those who are heard are heard together.
    let first = has_legs_with(who, others, |leg| received(leg) > 0);
    let before = |leg: &Value| first.iter().find(|first| first["call_id"] == leg["call_id"]).map(received);
    has_legs_with(who, others, |leg| received(leg) >= before(leg).unwrap_or_default() + ENOUGH_PACKETS)
}

/// Packets that have come over a leg.
fn received(leg: &Value) -> u64 {
    leg["media"]["packets_received"].as_u64().unwrap_or_default()
}

/// Waits until somebody has one leg with each of the others, and no other, all of which are as wanted.
#[track_caller]
fn has_legs_with(who: &User, others: &[&User], hears: impl Fn(&Value) -> bool) -> Vec<Value> {
    eventually(PATIENCE, &format!("{} hears all others", who.username), || {
        let legs = legs(who)?;
        let has_leg = |other: &&&User| {
            let with = legs.iter().filter(|leg| leg["users"][0] == other.username.as_str());
            with.clone().count() == 1 && with.clone().all(&hears)
        };
        let all = others.iter().filter(has_leg).count() == others.len() && legs.len() == others.len();
        if all { Ok(legs.clone()) } else { Err(format!("{legs:#?}")) }
    })
}

/// How often somebody has seen another come or go.
fn count(who: &Daemon, event: &str, other: &User) -> usize {
    let is_it = |seen: &&Value| seen["event"] == event && seen["username"] == other.username.as_str();
    who.events().iter().filter(is_it).count()
}

#[track_caller]
fn sees(who: &User, event: &str, other: &User, times: usize) {
    eventually(PATIENCE, &format!("{} sees {event} of {}", who.username, other.username), || {
        let seen = count(who, event, other);
        if seen >= times { Ok(()) } else { Err(format!("{seen} times")) }
    });
}

#[track_caller]
fn ended(who: &Daemon, calls: usize) {
    eventually(PATIENCE, "all calls are over", || {
        let over = who.events().iter().filter(|event| event["event"] == "call_ended").count();
        if over >= calls && legs(who)?.is_empty() { Ok(()) } else { Err(format!("{over} over, {:?}", legs(who)?)) }
    });
}

#[test]
#[ignore = "long: scripts/test --long"]
fn three_hear_each_other_and_one_leaves_and_comes_back() {
    let files = Files::new(3);
    let mut network = network(&files, &["alice", "bob", "carol"], &[]);
    let [alice, bob, carol] = network.users();
    let call = dial(alice, bob, &files);
    let id = dialled(alice);
    let added = alice.cli(["calls", "add", &id, &carol.username]).ok();
    assert_eq!((&added["joined"], &added["username"]), (&true.into(), &carol.username.as_str().into()), "{added}");
    let again = alice.cli(["calls", "add", &id, &carol.username]);
    assert_eq!(again.code, 1, "carol takes part: {again:?}");

    // Bob and carol don't know each other, and are shown as introduced by alice.
    for (one, other) in [(&*bob, &*carol), (&*carol, &*bob)] {
        let is_other = |event: &Value| event["username"] == other.username.as_str();
        let joined = one.wait_event(PATIENCE, "conference_joined", is_other);
        assert_eq!((&joined["is_contact"], &joined["introduced_by"]), (&false.into(), &alice.username.as_str().into()));
        assert_eq!(joined["conference_id"], added["conference_id"]);
    }
    talks_with(alice, &[bob, carol]);
    let legs = talks_with(bob, &[alice, carol]);
    talks_with(carol, &[alice, bob]);
    let with_carol = legs.iter().find(|leg| leg["users"][0] == carol.username.as_str()).expect("just seen");
    assert_eq!(with_carol["introduced_by"], alice.username.as_str(), "{with_carol}");

    // Carol leaves, the others talk on, and she comes back by herself.
    let hers = text(&added, "call_id");
    assert_eq!(carol.cli(["calls", "hangup", &hers]).code, 0);
    sees(alice, "conference_left", carol, 1);
    sees(bob, "conference_left", carol, 1);
    ended(carol, 2);
    files.assert_heard(2, [0, 1]);
    talks_with(bob, &[alice]);
    let back = Invocation::new(carol.home()).args(["calls", "rejoin", &hers]).args(files.args(2)).run().ok();
    assert_eq!(back["joined"], true, "{back}");
    talks_with(carol, &[alice, bob]);
    sees(bob, "conference_joined", carol, 2);

    // Whoever has added the others may leave them alone.
    assert_eq!(alice.cli(["calls", "hangup", &id]).code, 0);
    assert_eq!(call.wait(PATIENCE).ok()["outcome"], "completed");
    sees(carol, "conference_left", alice, 1);
    talks_with(bob, &[carol]);
    let leg = text(&talks_with(carol, &[bob])[0], "call_id");
    assert_eq!(bob.cli(["calls", "hangup", &leg]).code, 0);
    ended(carol, 4);
    ended(bob, 3);
    ended(alice, 3);
    for index in 0..3 {
        files.assert_heard(index, 0..3);
    }

    // Nothing of it stays: they are no contacts, and don't ring at each other's.
    let contacts = bob.cli(["contact", "list"]).ok();
    assert!(!contacts.to_string().contains(&carol.username), "{contacts}");
    let refused = Invocation::new(carol.home()).args(["call", &bob.username]).run();
    assert_eq!(refused.code, 1, "{refused:?}");
    let rang = bob.events().iter().filter(|event| event["event"] == "call_incoming").count();
    assert_eq!(rang, 1, "only alice has rung");
}

#[test]
#[ignore = "long: scripts/test --long"]
fn two_who_add_the_same_person_at_once_have_one_leg_each_with_them() {
    let files = Files::new(3);
    let mut network = network(&files, &["alice", "bob", "carol"], &[]);
    network.befriend(&network.users[1], &network.users[2]);
    let [alice, bob, carol] = network.users();
    let call = dial(alice, bob, &files);
    let id = dialled(alice);
    let add = |who: &User| Invocation::new(who.home()).args(["calls", "add", &id, &carol.username]).start();
    let adding = [add(alice), add(bob)];
    for added in adding.map(|running| running.wait(PATIENCE)) {
        // Who asks a moment later may hear that it isn't needed any more.
        let is_there = added.code == 0 || added.last_error().contains("takes part already");
        assert!(is_there, "{added:?}");
    }
    talks_with(alice, &[bob, carol]);
    talks_with(bob, &[alice, carol]);
    talks_with(carol, &[alice, bob]);
    let rang = carol.events().iter().filter(|event| event["event"] == "call_incoming").count();
    assert_eq!(rang, 1, "carol is asked once");
    assert_eq!(alice.cli(["calls", "hangup", &id]).code, 0);
    call.wait(PATIENCE).ok();
}

#[test]
#[ignore = "long: scripts/test --long"]
fn when_one_is_killed_the_others_talk_on() {
    let files = Files::new(3);
    let mut network = network(&files, &["alice", "bob", "carol"], &[]);
    let [alice, bob, carol] = network.users();
    let _call = dial(alice, bob, &files);
    let id = dialled(alice);
    alice.cli(["calls", "add", &id, &carol.username]).ok();
    talks_with(bob, &[alice, carol]);
    talks_with(carol, &[alice, bob]);
    // The one who has brought the others together.
    alice.kill();
    sees(bob, "conference_left", alice, 1);
    sees(carol, "conference_left", alice, 1);
    // They hear each other still.
    let leg = text(&talks_with(bob, &[carol])[0], "call_id");
    assert_eq!(carol.cli(["calls", "hangup", &leg]).code, 0);
    ended(bob, 2);
    ended(carol, 2);
    files.assert_heard(1, [0, 2]);
    files.assert_heard(2, [0, 1]);
}

/// Somebody who calls for a leg with whatever word they like.
struct Intruder<'a> {
    forger: &'a Forger,
    connection: Attacker,
    recipient: halloo_protocol::key::DeviceKey,
    hpke_key: [u8; 32],
    last: u8,
}

impl Intruder<'_> {
    fn me(&self) -> Participant {
        let (user, identity) = self.forger.named();
        Participant { user, identity, device: self.forger.device_key() }
    }

    fn word(&self, by: &SecretKey, conference: ConferenceId, issued_at: UnixTime) -> Signed<Introduction> {
        let by_device = halloo_protocol::key::DeviceKey(by.public());
        let expires_at = issued_at.plus_secs(300);
        let participant = self.me();
        let word = Introduction { conference, by: by_device, participant, issued_at, expires_at, extensions: Extensions::none() };
        Signed::sign(word, by)
    }

    #[track_caller]
    fn ask_in(&mut self, conference: ConferenceId, word: Option<Signed<Introduction>>) -> InviteStatus {
        self.last += 1;
        let part = ConferencePart { conference, is_leg: true, since: now(), word, extensions: Extensions::none() };
        let invite = Invite {
            chain: self.forger.chain(),
            recipient: self.recipient,
            call: CallId([self.last; 16]),
            conversation: ConversationId([self.last; 16]),
            kind: EventKind::VOICE_CALL,
            display_name: "Mallory".into(),
            avatar: None,
            origin: Origin::default(),
            issued_at: now(),
            expires_at: now().plus_secs(CallTimers::default().ring.as_secs()),
            offer: "v=0".into(),
            extensions: part.add_to(Extensions::none()),
        };
        let mut rng = rand::rngs::StdRng::seed_from_u64(self.last.into());
        let sealed = SealedInvite::seal(invite, &self.forger.device, &self.hpke_key, &mut rng).expect("it fits");
        let message = CallInvite { sealed, extensions: Extensions::none() };
        self.connection.ask::<_, InviteAnswer>(&message).expect("an answer").status
    }
}

#[test]
fn a_stranger_without_a_good_word_stays_outside() {
    let files = Files::new(3);
    let mut network = network(&files, &["alice", "bob", "carol"], &["mallory"]);
    let forger = Forger::of_user(&network, &network.users[3], 1);
    network.users[3].kill();
    let key_of = record_key(&network, &network.users[1]);
    let mut reader = Attacker::connect(&network.bootstrap(), &key(0x0f_0000), &stranger_hello());
    let entry = reader.find_record(key_of).expect("bob's record").entries[0].entry.unverified().clone();
    let alices = device_secret(network.users[0].home());
    let [alice, bob, carol, _] = network.users();
    let call = dial(alice, bob, &files);
    let id = dialled(alice);
    let added = alice.cli(["calls", "add", &id, &carol.username]).ok();
    talks_with(bob, &[alice, carol]);
    let conference: ConferenceId = text(&added, "conference_id").parse().expect("an id");

    let address = bob.addresses().into_iter().next().expect("bob listens");
    let connection = Attacker::connect(&address, &forger.device, &forger.hello(None));
    let (recipient, hpke_key) = (entry.device, entry.hpke_key);
    let mut mallory = Intruder { forger: &forger, connection, recipient, hpke_key, last: 0 };
    let refused = InviteStatus::Refused(Reason::NOT_ALLOWED);
    assert_eq!(mallory.ask_in(conference, None), refused, "without a word");
    let own = mallory.word(&forger.device, conference, now());
    assert_eq!(mallory.ask_in(conference, Some(own)), refused, "on their own word");
    let late = mallory.word(&alices, conference, now().minus_secs(301));
    assert_eq!(mallory.ask_in(conference, Some(late)), refused, "on an expired one");
    let other = mallory.word(&alices, ConferenceId([9; 16]), now());
    assert_eq!(mallory.ask_in(conference, Some(other)), refused, "on one for another conference");
    let good = mallory.word(&alices, conference, now());
    let unknown = mallory.ask_in(ConferenceId([9; 16]), Some(good.clone()));
    assert_eq!(unknown, InviteStatus::Refused(Reason::NOT_IN_CONFERENCE), "into a conference bob isn't in");
    assert_eq!(legs(bob).map(|legs| legs.len()), Ok(2), "nobody has come in");

    // The same word, as long as the conference lasts, and afterwards.
    assert_eq!(mallory.ask_in(conference, Some(good.clone())), InviteStatus::Ringing, "on alice's good word");
    assert_eq!(bob.cli(["calls", "hangup", &id]).code, 0);
    ended(bob, 2);
    let over = mallory.ask_in(conference, Some(good));
    assert_eq!(over, InviteStatus::Refused(Reason::NOT_IN_CONFERENCE), "when it is over");
    assert_eq!(count(bob, "conference_joined", carol), 1);
    let rang = bob.events().iter().filter(|event| event["event"] == "call_incoming").count();
    assert_eq!(rang, 1, "only alice has rung");
    alice.cli(["calls", "hangup", &text(&added, "call_id")]);
    call.wait(PATIENCE).ok();
}

#[test]
fn four_hear_exactly_each_other_though_one_comes_late_and_one_leaves() {
    let files = Files::new(4);
    let mut network = network(&files, &["alice", "bob", "carol", "dave"], &[]);
    let [alice, bob, carol, dave] = network.users();
    let call = dial(alice, bob, &files);
    let id = dialled(alice);
    assert_eq!(alice.cli(["calls", "add", &id, &carol.username]).ok()["joined"], true);
    talks_with(bob, &[alice, carol]);
    // Whoever isn't the first asks dave in, when the others have talked for a while.
    let hers = text(&legs(carol).expect("the list")[0], "call_id");
    befriend(carol, dave);
    assert_eq!(carol.cli(["calls", "add", &hers, &dave.username]).ok()["joined"], true);
    talks_with(alice, &[bob, carol, dave]);
    talks_with(bob, &[alice, carol, dave]);
    talks_with(carol, &[alice, bob, dave]);
    talks_with(dave, &[alice, bob, carol]);
    assert_eq!(carol.cli(["calls", "hangup", &hers]).code, 0);
    sees(dave, "conference_left", carol, 1);
    talks_with(dave, &[alice, bob]);
    talks_with(alice, &[bob, dave]);
    for (who, legs_seen) in [(&*bob, 3), (&*dave, 3)] {
        let leg = text(&legs(who).expect("the list")[0], "call_id");
        assert_eq!(who.cli(["calls", "hangup", &leg]).code, 0);
        ended(who, legs_seen);
    }
    call.wait(PATIENCE);
    for (index, who) in [&*alice, bob, carol, dave].into_iter().enumerate() {
        ended(who, 3);
        let others: Vec<f64> = (0..4).filter(|other| *other != index).map(|other| TONES_HZ[other]).collect();
        assert_heard_all(&files.heard(index), &others, TONES_HZ[index]);
    }
}

#[test]
#[ignore = "eight daemons, 28 legs: scripts/test --long"]
fn eight_hear_each_other_and_a_ninth_finds_no_room() {
    let files = Files::new(8);
    let names = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];
    let network = network(&files, &names, &["ivan"]);
    let users: Vec<&User> = network.users.iter().collect();
    network.befriend(users[0], users[8]);
    let call = dial(users[0], users[1], &files);
    let id = dialled(users[0]);
    for user in &users[2..8] {
        let added = users[0].cli(["calls", "add", &id, &user.username]).ok();
        assert_eq!(added["joined"], true, "{added}");
    }
    let others = |index: usize| -> Vec<&User> { (0..8).filter(|other| *other != index).map(|other| users[other]).collect() };
    for (index, user) in users.iter().enumerate().take(8) {
        talks_with(user, &others(index));
    }
    let full = users[0].cli(["calls", "add", &id, &users[8].username]);
    assert_eq!(full.code, 1, "eight are there: {full:?}");
    for user in &users[1..8] {
        let leg = text(&legs(user).expect("the list")[0], "call_id");
        assert_eq!(user.cli(["calls", "hangup", &leg]).code, 0);
    }
    call.wait(PATIENCE);
    for (index, user) in users.iter().enumerate().take(8) {
        ended(user, 7);
        let others: Vec<f64> = (0..8).filter(|other| *other != index).map(|other| TONES_HZ[other]).collect();
        // 28 legs of unoptimised daemons are more than a small machine has time for: not all at the same moment.
        assert_heard_all(&files.heard(index), &others, TONES_HZ[index]);
    }
}
