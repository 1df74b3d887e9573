//! Whom a node names that it has never met, and what comes of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use halloo_protocol::directory::{Place, RecordKey};
use halloo_protocol::kademlia::{
    Action, Answer, Config, EXTENSION_HEARSAY, Event, Failure, FindOptions, FindOutcome, FindRecord, FindResult, Mode, REPLICAS,
    RecordAnswer, RecordOutcome, Request, RequestId,
};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::Descriptor;
use halloo_protocol::wire::{self, Extensions};

use crate::neighbourhood::{Lone, lone};
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
    fn strangers(&self, key: &RecordKey) -> Vec<Arc<Descriptor>> {
        let mut strangers = descriptors(&self.others[REPLICAS..]);
        strangers.sort_by_key(|node| Place(key.0).distance(&node.place));
        strangers
    }

    /// Whom it asks for the record of a key now, and the result if it has one.
    fn goes_on(&mut self, key: RecordKey) -> (Vec<(DeviceKey, RequestId)>, Option<FindResult>) {
        let (mut asked, mut found) = (Vec::new(), None);
        while let Some(action) = self.directory.poll_action() {
            match action {
                Action::Send { to, id, request: Request::FindRecord(find) } if find.key == key => asked.push((to.device, id)),
                Action::Event(Event::Found { result, .. }) if result.key == key => found = Some(result),
                _ => {}
            }
        }
        (asked, found)
    }

    fn asks(&mut self, key: RecordKey) -> Vec<(DeviceKey, RequestId)> {
        self.goes_on(key).0
    }

    fn answers(&mut self, id: RequestId, answer: RecordAnswer) {
        self.directory.handle_answer(self.now, &self.trust, id, Ok(Answer::Record(answer)));
    }
}

#[test]
fn who_has_not_got_a_record_names_apart_whom_it_knows_by_hearsay() {
    let mut lone = lone(Config::default());
    let key = lone.key_of(1);
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
    let key = lone.key_of(1);
    let named = lone.strangers(&key)[..3].to_vec();
    let before = lone.directory.table_counts();
    lone.directory.find_record(lone.now, key, REMOTE);
    let asked = lone.asks(key);
    let known: BTreeSet<_> = lone.neighbours.iter().map(|chain| chain.device).collect();
    assert!(asked.iter().all(|(to, _)| known.contains(to)), "{asked:?}");
    lone.answers(asked[0].1, absent(Some(wire::encode(&named))));
    let then: BTreeSet<_> = lone.asks(key).into_iter().map(|(to, _)| to).collect();
    assert!(then.contains(&named[0].device), "the nearest of them is asked next");
    assert_eq!(lone.directory.table_counts(), before, "hearsay goes no further");
    assert_eq!(hearsay_in(&lone.asked_for(key, 16)), []);
}

/// Nobody answers of those that a neighbour has invented or been told: two are tried, and the look-up ends among those who live.
#[test]
fn who_passes_invented_nodes_on_costs_two_requests() {
    let mut lone = lone(Config::default());
    let key = lone.key_of(1);
    let invented: Vec<_> = lone.strangers(&key)[..8].to_vec();
    lone.directory.find_record(lone.now, key, REMOTE);
    let mut tried = BTreeSet::new();
    let mut is_told = false;
    for _ in 0..2_000 {
        let (asked, result) = lone.goes_on(key);
        if let Some(result) = result {
            assert_eq!(tried.len(), 2, "{tried:?}");
            assert!(matches!(result.outcome, FindOutcome::Inconclusive | FindOutcome::Absent), "{result:?}");
            return;
        }
        for (to, id) in asked {
            if invented.iter().any(|node| node.device == to) {
                tried.insert(to);
                lone.directory.handle_answer(lone.now, &lone.trust, id, Err(Failure::Unreachable));
            } else {
                let hearsay = (!is_told).then(|| wire::encode(&invented));
                is_told = true;
                lone.answers(id, absent(hearsay));
            }
        }
        lone.now.instant += Duration::from_millis(10);
        lone.directory.handle_timeout(lone.now);
    }
    panic!("the look-up goes on for ever");
}

#[test]
fn hearsay_that_can_not_be_read_is_no_answer() {
    let node = |lone: &Lone| lone.strangers(&lone.key_of(1))[0].clone();
    let mut lone = lone(Config::default());
    let nine = wire::encode(&vec![node(&lone); 9]);
    let mut long = Descriptor::clone(&node(&lone));
    long.addresses = vec![long.addresses[0].clone(); 64];
    for broken in [nine, wire::encode(&[long]), vec![1], vec![0xff; 64]] {
        lone.now.instant += Duration::from_secs(60);
        let key = lone.key_of(1);
        lone.directory.find_record(lone.now, key, REMOTE);
        let (_, id) = lone.asks(key)[0];
        let before = lone.directory.counters().invalid_answers;
        lone.answers(id, absent(Some(broken)));
        assert_eq!(lone.directory.counters().invalid_answers, before + 1);
        lone.goes_on(key);
    }
}

/// Beside the first that is asked, where nobody is known who is near: an answer over an open connection takes half as long.
#[test]
fn connected_nodes_are_asked_beside_the_first_where_nobody_near_is_known() {
    let asked = |knows_near: bool| {
        let mut lone = lone(Config::default());
        let key = lone.key_of(1);
        if knows_near {
            let near = lone.strangers(&key)[..2].to_vec();
            lone.directory.add_hearsay(lone.now, near);
        }
        let neighbours = lone.neighbours[..6].to_vec();
        neighbours.iter().for_each(|neighbour| lone.connect(neighbour, 0));
        let connected: BTreeSet<_> = neighbours.iter().map(|chain| chain.device).collect();
        lone.directory.find_record(lone.now, key, REMOTE);
        let asked: BTreeSet<_> = lone.asks(key).into_iter().map(|(to, _)| to).collect();
        asked.intersection(&connected).count()
    };
    assert_eq!((asked(false), asked(true)), (6, 1), "guides if nobody near is known; else one of the nearest who is connected");
}
