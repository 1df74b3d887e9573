//! Whom a node names that it has never met, and what comes of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use halloo_protocol::directory::{Place, RecordKey};
use halloo_protocol::kademlia::{
    Action, Answer, Config, Directory, EXTENSION_HEARSAY, Event, Failure, FindOptions, FindOutcome, FindRecord, FindResult,
    LocalNode, Mode, Nodes, REPLICAS, RecordAnswer, RecordOutcome, Request, RequestId, StoreAnswer, StoreOutcome,
};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::Descriptor;
use halloo_protocol::wire::{self, Extensions};

use crate::neighbourhood::{Lone, NODES, lone};
use crate::sampling::descriptors;

const REMOTE: FindOptions = FindOptions { mode: Mode::First, is_remote_only: true };

fn hearsay_in(answer: &RecordAnswer) -> Vec<Arc<Descriptor>> {
    let bytes = answer.extensions.find(EXTENSION_HEARSAY);
    bytes.map(|bytes| wire::decode(bytes, 8 * 1024).expect("a list of descriptors")).unwrap_or_default()
}

fn devices<'a>(nodes: impl IntoIterator<Item = &'a Arc<Descriptor>>) -> BTreeSet<DeviceKey> {
    nodes.into_iter().map(|node| node.device).collect()
}

fn absent(hearsay: Option<Vec<u8>>) -> RecordAnswer {
    let extensions = hearsay.map_or(Extensions::none(), |bytes| Extensions::none().with(EXTENSION_HEARSAY, bytes));
    RecordAnswer { outcome: RecordOutcome::Absent, closer: Vec::new(), extensions }
}

impl Lone {
    fn asked_for(&mut self, key: RecordKey, want: u8) -> RecordAnswer {
        let question = FindRecord { key, have_hash: None, want, extensions: Extensions::none() };
        match self.ask(Request::FindRecord(question)) {
            Answer::Record(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// All but the neighbours, the nearest to a key first.
    pub(crate) fn strangers(&self, key: &RecordKey) -> Vec<Arc<Descriptor>> {
        let mut strangers = descriptors(&self.others[REPLICAS..]);
        strangers.sort_by_key(|node| Place(key.0).distance(&node.place));
        strangers
    }

    /// Whom it asks for the record of a key now, and the result if it has one.
    fn goes_on(&mut self, key: RecordKey) -> (Vec<(Arc<Descriptor>, RequestId)>, Option<FindResult>) {
        let (mut asked, mut found) = (Vec::new(), None);
        while let Some(action) = self.directory.poll_action() {
            match action {
                Action::Send { to, id, request: Request::FindRecord(find) } if find.key == key => asked.push((to, id)),
                Action::Event(Event::Found { result, .. }) if result.key == key => found = Some(result),
                _ => {}
            }
        }
        (asked, found)
    }

    fn asks(&mut self, key: RecordKey) -> Vec<(Arc<Descriptor>, RequestId)> {
        self.goes_on(key).0
    }

    /// Publishes the record of a user, which the eight nearest take, as whoever is asked knows them all. So many of them prove their places.
    fn publishes(&mut self, user: usize, proved: usize) {
        let record = self.record_of(user);
        let (key, hash) = (record.key(), record.content_hash());
        let closer = self.strangers(&key)[..REPLICAS].to_vec();
        closer[..proved].iter().for_each(|node| self.meet_device(&node.device));
        self.directory.publish(self.now, record);
        let mut report = None;
        while let Some(action) = self.directory.poll_action() {
            let answer = match action {
                Action::Send { id, request: Request::FindNode(_), .. } => {
                    (id, Answer::Nodes(Nodes { closer: closer.clone(), extensions: Extensions::none() }))
                }
                Action::Send { id, request: Request::Store(_), .. } => {
                    let accepted = StoreAnswer {
                        outcome: StoreOutcome::Accepted,
                        holds: Some(hash),
                        record: None,
                        closer: Vec::new(),
                        extensions: Extensions::none(),
                    };
                    (id, Answer::Store(accepted))
                }
                Action::Event(Event::Published { report: of_this, .. }) => {
                    report = Some(of_this);
                    continue;
                }
                _ => continue,
            };
            self.directory.handle_answer(self.now, &self.trust, answer.0, Ok(answer.1));
        }
        assert_eq!(report.map(|report| report.accepted), Some(REPLICAS));
    }

    fn meet_device(&mut self, device: &DeviceKey) {
        let number = self.others.iter().position(|chain| chain.device == *device).expect("of the network");
        let chain = self.others[number].clone();
        // Numbered as in `sampling::descriptors`: of a network of its own.
        self.meet(&chain, NODES as usize + number);
    }

    fn answers(&mut self, id: RequestId, answer: RecordAnswer) {
        self.directory.handle_answer(self.now, &self.trust, id, Ok(Answer::Record(answer)));
    }
}

#[test]
fn who_has_not_got_a_record_names_apart_whom_it_knows_by_hearsay() {
    let mut lone = lone(Config::default());
    let key = lone.far_key();
    let strangers = lone.strangers(&key);
    assert_eq!(hearsay_in(&lone.asked_for(key, 16)), [], "it knows nobody by hearsay");
    lone.directory.add_hearsay(lone.now, strangers[..20].to_vec());

    let answer = lone.asked_for(key, 16);
    assert_eq!(devices(&hearsay_in(&answer)), devices(&strangers[..8]), "the eight nearest");
    assert!(devices(&answer.closer).is_disjoint(&devices(&strangers)), "it vouches for none of them");
    assert_eq!(hearsay_in(&lone.asked_for(key, 0)), [], "nobody is wanted");
    lone.from.device = strangers[0].device;
    assert_eq!(devices(&hearsay_in(&lone.asked_for(key, 16))), devices(&strangers[1..8]), "the asker knows itself");

    lone.now.instant += Duration::from_secs(31 * 60);
    assert_eq!(hearsay_in(&lone.asked_for(key, 16)), [], "nobody has named them for long");
}

#[test]
fn whom_somebody_names_by_hearsay_is_asked_and_not_remembered() {
    let mut lone = lone(Config::default());
    let key = lone.far_key();
    let named = lone.strangers(&key)[..3].to_vec();
    let before = lone.directory.table_counts();
    lone.directory.find_record(lone.now, key, REMOTE);
    let asked = lone.asks(key);
    let known: BTreeSet<_> = lone.neighbours.iter().map(|chain| chain.device).collect();
    assert!(asked.iter().all(|(to, _)| known.contains(&to.device)), "{asked:?}");
    lone.answers(asked[0].1, absent(Some(wire::encode(&named))));
    let then: BTreeSet<_> = lone.asks(key).into_iter().map(|(to, _)| to.device).collect();
    assert!(then.contains(&named[0].device), "the nearest of them is asked next");
    assert_eq!(lone.directory.table_counts(), before, "hearsay goes no further");
    assert_eq!(hearsay_in(&lone.asked_for(key, 16)), []);
}

/// How many of the nodes that `tellers` neighbours have been told of are asked, if all of them are dead.
fn dead_tried(tellers: usize) -> usize {
    let mut lone = lone(Config::default());
    let key = lone.far_key();
    let dead: Vec<_> = lone.strangers(&key)[..8].to_vec();
    lone.directory.find_record(lone.now, key, REMOTE);
    let mut tried = BTreeSet::new();
    let mut told = 0;
    for _ in 0..2_000 {
        let (asked, result) = lone.goes_on(key);
        if let Some(result) = result {
            assert!(matches!(result.outcome, FindOutcome::Inconclusive | FindOutcome::Absent), "{result:?}");
            return tried.len();
        }
        for (to, id) in asked {
            if dead.iter().any(|node| node.device == to.device) {
                tried.insert(to.device);
                lone.directory.handle_answer(lone.now, &lone.trust, id, Err(Failure::Unreachable));
            } else {
                let hearsay = (told < tellers).then(|| wire::encode(&dead));
                told += 1;
                lone.answers(id, absent(hearsay));
            }
        }
        lone.now.instant += Duration::from_millis(10);
        lone.directory.handle_timeout(lone.now);
    }
    panic!("the look-up goes on for ever");
}

#[test]
fn of_whom_one_knows_by_hearsay_two_are_tried_in_vain_and_more_if_others_name_them_too() {
    assert_eq!(dead_tried(1), 2, "they may be invented");
    let tried = dead_tried(3);
    assert!((4..=6).contains(&tried), "{tried}: three have named them");
}

/// Whoever lies about where somebody lives doesn't keep a look-up from the word of who has met them.
#[test]
fn who_has_met_a_node_corrects_hearsay_of_it() {
    let is_asked_rightly = |false_place: bool, is_asked_before: bool| {
        let mut lone = lone(Config::default());
        let key = lone.far_key();
        let right = lone.strangers(&key)[0].clone();
        let mut wrong = Descriptor::clone(&right);
        if false_place {
            wrong.place.0[31] ^= 1;
        } else {
            wrong.addresses = lone.strangers(&key)[1].addresses.clone();
        }
        lone.directory.find_record(lone.now, key, REMOTE);
        let mut waiting = lone.asks(key);
        let (_, first) = waiting.remove(0);
        lone.answers(first, absent(Some(wire::encode(&vec![wrong.clone()]))));
        let asked = lone.asks(key);
        let at_wrong = asked.iter().find(|(to, _)| **to == wrong).expect("nobody has said better yet");
        if is_asked_before {
            lone.directory.handle_answer(lone.now, &lone.trust, at_wrong.1, Err(Failure::Unreachable));
            waiting.extend(lone.asks(key));
        }
        let (_, second) = waiting.into_iter().find(|(to, _)| to.device != right.device).expect("another is asked");
        lone.answers(second, RecordAnswer { closer: vec![right.clone()], ..absent(None) });
        lone.asks(key).iter().any(|(to, _)| *to == right)
    };
    for (place, before) in [(false, false), (false, true), (true, false), (true, true)] {
        assert!(is_asked_rightly(place, before), "with a false place {place}, asked in vain before {before}");
    }
}

/// Whoever invents nodes beside a key doesn't make those who hold the record seem far from it, and what they hold doubtful.
#[test]
fn invented_nodes_do_not_make_a_record_doubtful() {
    let mut lone = lone(Config::default());
    let (key, record) = (lone.far_key(), lone.far_record());
    let invented = lone.strangers(&key)[..16].to_vec();
    lone.directory.find_record(lone.now, key, REMOTE);
    let asked = lone.asks(key);
    let liar = RecordAnswer { closer: invented[..8].to_vec(), ..absent(Some(wire::encode(&invented[8..].to_vec()))) };
    lone.answers(asked[0].1, liar);
    lone.asks(key);
    let found = RecordAnswer { outcome: RecordOutcome::Found(record), closer: Vec::new(), extensions: Extensions::none() };
    lone.answers(asked[1].1, found);
    let (then, result) = lone.goes_on(key);
    assert!(then.is_empty() && result.is_some_and(|result| result.record().is_some()), "nobody else has to be asked");
}

/// Nodes far from a key know nothing of who is near: that several say there is no record doesn't stand for as many paths.
#[test]
fn the_word_of_guides_ends_no_path() {
    let mut lone = lone(Config::default());
    let key = lone.far_key();
    let mut near = lone.others.clone();
    near.sort_by_key(|chain| Place(key.0).distance(&chain.place.expect("enrolled")));
    let colluders = near.drain(..REPLICAS).collect::<Vec<_>>();
    let met: Vec<_> = near.into_iter().skip(40).take(80).collect();
    met.iter().enumerate().for_each(|(number, chain)| lone.meet(chain, 100 + number));
    let guides = met[60..].to_vec();
    guides.iter().enumerate().for_each(|(number, chain)| lone.connect(chain, 160 + number));
    let guides: BTreeSet<_> = guides.iter().map(|chain| chain.device).collect();

    lone.directory.find_record(lone.now, key, REMOTE);
    let (mut guided, mut denied, mut first, mut others) = (0, 0, None, BTreeSet::new());
    for _ in 0..2_000 {
        let (asked, result) = lone.goes_on(key);
        if let Some(result) = result {
            assert_eq!(result.outcome, FindOutcome::Absent);
            assert!(guided >= 4 && others.len() >= 3, "{guided} guides and {} others say so", others.len());
            return;
        }
        for (to, id) in asked {
            let colluder = colluders.iter().position(|chain| chain.device == to.device);
            if let Some(number) = colluder {
                denied += 1;
                lone.meet(&colluders[number], 300 + number);
                lone.answers(id, absent(None));
            } else if guides.contains(&to.device) {
                guided += 1;
                lone.answers(id, absent(None));
            } else if first.is_none() {
                first = Some(to.device);
                lone.answers(id, RecordAnswer { closer: descriptors(&colluders), ..absent(None) });
            } else if denied == colluders.len() {
                others.insert(to.device);
                lone.answers(id, absent(None));
            } else {
                lone.directory.handle_answer(lone.now, &lone.trust, id, Err(Failure::Unreachable));
            }
        }
        lone.now.instant += Duration::from_millis(10);
        lone.directory.handle_timeout(lone.now);
    }
    panic!("the look-up goes on for ever");
}

#[test]
fn hearsay_that_can_not_be_read_is_no_answer() {
    let node = |lone: &Lone| lone.strangers(&lone.far_key())[0].clone();
    let mut lone = lone(Config::default());
    let nine = wire::encode(&vec![node(&lone); 9]);
    let mut long = Descriptor::clone(&node(&lone));
    long.addresses = vec![long.addresses[0].clone(); 64];
    for broken in [nine, wire::encode(&vec![long]), vec![1], vec![0xff; 64]] {
        lone.now.instant += Duration::from_secs(60);
        let key = lone.far_key();
        lone.directory.find_record(lone.now, key, REMOTE);
        let id = lone.asks(key)[0].1;
        let before = lone.directory.counters().invalid_answers;
        lone.answers(id, absent(Some(broken)));
        assert_eq!(lone.directory.counters().invalid_answers, before + 1);
        lone.goes_on(key);
    }
}

/// Beside the first that is asked, where nobody is known who is near: an answer over an open connection takes half as long.
#[test]
fn connected_nodes_are_asked_beside_the_first_where_nobody_near_is_known() {
    let asked = |known_near: usize, is_nearest_connected: bool| {
        let mut lone = lone(Config::default());
        let key = lone.far_key();
        let mut far = lone.others[REPLICAS..].to_vec();
        far.sort_by_key(|chain| std::cmp::Reverse(Place(key.0).distance(&chain.place.expect("enrolled"))));
        let connected = far[..10].to_vec();
        connected.iter().enumerate().for_each(|(number, chain)| lone.connect(chain, 100 + number));
        // Nearer, and still not near.
        let nearer = far[10..20].to_vec();
        nearer.iter().enumerate().for_each(|(number, chain)| lone.meet(chain, 200 + number));
        let near = lone.strangers(&key)[..known_near].to_vec();
        lone.directory.add_hearsay(lone.now, near);
        if is_nearest_connected {
            lone.connect(&nearer[9], 209);
        }
        let connected: BTreeSet<_> = connected.iter().map(|chain| chain.device).collect();
        lone.directory.find_record(lone.now, key, REMOTE);
        let asked: BTreeSet<_> = lone.asks(key).into_iter().map(|(to, _)| to.device).collect();
        (asked.intersection(&connected).count(), asked.difference(&connected).count())
    };
    for known_near in [0, 1] {
        let (guides, first) = asked(known_near, false);
        assert!(guides == 8 && first >= 1, "{guides} guides and {first} others, with {known_near} known who are near");
    }
    assert_eq!(asked(2, false).0, 0, "two are known who are near");
    assert_eq!(asked(0, true), (0, 1), "one of the nearest is connected, and asked first");
}

/// The eighth replica stands twice as far off as who is one almost surely. Whoever is named while somebody far off is waited for is asked at once.
#[test]
fn whom_a_guide_names_near_a_key_is_asked_though_one_farther_off_has_not_answered() {
    let mut lone = lone(Config::default());
    let key = lone.far_key();
    let bits = |node: &Place, other: &Place| node.distance(other).leading_zeros();
    let eighth = lone.neighbours[REPLICAS - 1].place.expect("enrolled");
    let core = bits(&lone.place, &eighth) + 1;
    let strangers = lone.strangers(&key);
    let named = strangers.iter().find(|node| bits(&Place(key.0), &node.place) + 1 == core).expect("one between").clone();
    let mut far = lone.others[REPLICAS..].to_vec();
    far.retain(|chain| bits(&Place(key.0), &chain.place.expect("enrolled")) + 1 < core);
    far.sort_by_key(|chain| std::cmp::Reverse(Place(key.0).distance(&chain.place.expect("enrolled"))));
    far[..3].iter().enumerate().for_each(|(number, chain)| lone.connect(chain, 100 + number));
    far[10..20].iter().enumerate().for_each(|(number, chain)| lone.meet(chain, 200 + number));
    lone.directory.find_record(lone.now, key, REMOTE);
    let guides: BTreeSet<_> = far[..3].iter().map(|chain| chain.device).collect();
    let asked = lone.asks(key);
    assert!(asked.len() > guides.len(), "guides, and one farther off than a replica: {asked:?}");
    let (_, guide) = asked.iter().find(|(to, _)| guides.contains(&to.device)).expect("a guide is asked").clone();
    lone.answers(guide, RecordAnswer { closer: vec![named.clone()], ..absent(None) });
    let then: BTreeSet<_> = lone.asks(key).into_iter().map(|(to, _)| to.device).collect();
    assert_eq!(then, BTreeSet::from([named.device]));
}

/// A client knows few nodes around itself, and by them takes the network for a small one, where nobody stands far from any key.
#[test]
fn a_client_tells_how_dense_the_network_is_by_who_keeps_its_record() {
    let mut lone = lone(Config::default());
    let key = lone.far_key();
    let local = LocalNode { device: lone.from.device, place: None, is_serving: false };
    lone.directory = Directory::new(Config::default(), local, [1; 32], lone.now.instant);
    let mut far = lone.others[1..].to_vec();
    far.sort_by_key(|chain| std::cmp::Reverse(Place(key.0).distance(&chain.place.expect("enrolled"))));
    // One in ten of all that are not near.
    let few: Vec<_> = far[..NODES as usize - 40].iter().step_by(10).cloned().collect();
    few.iter().enumerate().for_each(|(number, chain)| lone.meet(chain, 100 + number));
    few[..3].iter().enumerate().for_each(|(number, chain)| lone.connect(chain, 100 + number));
    let guides: BTreeSet<_> = few[..3].iter().map(|chain| chain.device).collect();
    let asked_guides = |lone: &mut Lone| {
        lone.now.instant += Duration::from_secs(60);
        lone.directory.find_record(lone.now, key, REMOTE);
        lone.asks(key).iter().filter(|(to, _)| guides.contains(&to.device)).count()
    };
    assert_eq!(asked_guides(&mut lone), 0, "by what it knows those nearest to the key are near");
    lone.publishes(1, REPLICAS - 1);
    assert_eq!(asked_guides(&mut lone), 0, "one of its replicas may stand anywhere");
    lone.publishes(1, REPLICAS);
    assert_eq!(asked_guides(&mut lone), 3, "by where its replicas stand they are far off");
    lone.publishes(1, REPLICAS);
    assert_eq!(asked_guides(&mut lone), 3, "and still are");
}

/// Two are near, and were silent when they were last asked.
#[test]
fn who_was_silent_near_a_key_makes_nobody_else_be_asked_and_no_guide_spared() {
    let mut lone = lone(Config::default());
    let key = lone.far_key();
    let mut far = lone.others[REPLICAS..].to_vec();
    far.sort_by_key(|chain| std::cmp::Reverse(Place(key.0).distance(&chain.place.expect("enrolled"))));
    far[..3].iter().enumerate().for_each(|(number, chain)| lone.connect(chain, 100 + number));
    far[10..20].iter().enumerate().for_each(|(number, chain)| lone.meet(chain, 200 + number));
    let guides: BTreeSet<_> = far[..3].iter().map(|chain| chain.device).collect();
    let silent: Vec<_> = lone.strangers(&key)[..2].iter().map(|node| node.device).collect();
    silent.iter().for_each(|device| lone.meet_device(device));
    lone.directory.find_record(lone.now, key, REMOTE);
    let mut asked = lone.asks(key);
    while let Some((to, id)) = asked.pop() {
        let answer = if silent.contains(&to.device) { Err(Failure::Timeout) } else { Ok(Answer::Record(absent(None))) };
        lone.directory.handle_answer(lone.now, &lone.trust, id, answer);
        asked.extend(lone.asks(key));
    }
    lone.now.instant += Duration::from_secs(60);
    lone.directory.find_record(lone.now, key, REMOTE);
    let asked = lone.asks(key);
    let devices: BTreeSet<_> = asked.iter().map(|(to, _)| to.device).collect();
    assert!(devices.is_superset(&guides), "guides are asked: {asked:?}");
    assert!(silent.iter().all(|device| !devices.contains(device)), "after all others: {asked:?}");
    for (_, id) in asked.iter().filter(|(to, _)| guides.contains(&to.device)) {
        lone.answers(*id, absent(None));
        let then = lone.asks(key);
        assert!(then.is_empty(), "as many as before are waited for: {then:?}");
    }
}
