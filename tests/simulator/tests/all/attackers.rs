//! Each attacker wins against a directory without our defences, and loses against ours.
//!
//! The directory without defences is generous otherwise: it knows every server, asks the nearest one after the other, believes the first answer
//! unverified and three denials, follows whom it is referred to, and waits ten seconds for a silent node.

#![allow(clippy::print_stdout, reason = "seeds and figures of a run, for whoever repeats it")]

use std::time::Duration;

use halloo_protocol::directory::{RecordKey, UnverifiedRecord};
use halloo_protocol::kademlia::{Answer, FindOptions, FindRecord, Mode, RecordOutcome, Reply, Request};
use halloo_protocol::wire::Extensions;
use halloo_simulator::directory::rows::{Sample, judge};
use halloo_simulator::directory::swarm::{Plan, Swarm};
use halloo_simulator::directory::{Behaviour, Lie};
use halloo_simulator::{Latency, NodeId, Settings};

const FIRST: FindOptions = FindOptions { mode: Mode::First, is_remote_only: true };
const SETTLED: FindOptions = FindOptions { mode: Mode::Settled, is_remote_only: true };

/// What a directory without defences makes of a look-up.
struct Naive {
    /// It took a record that isn't the owner's newest, or believed that there is none.
    is_fooled: bool,
    waited: Duration,
}

fn naive_find(swarm: &mut Swarm, by: NodeId, owner: NodeId) -> Naive {
    let key = swarm.network.world.identity(owner).key;
    let mut queue = swarm.closest(owner, 30);
    let (mut waited, mut denials) = (Duration::ZERO, 0);
    while denials < 3 && !queue.is_empty() {
        let node = queue.remove(0);
        waited += Duration::from_millis(200);
        match ask(swarm, node, by, key) {
            None => waited += Duration::from_secs(10),
            Some((RecordOutcome::Found(bytes), _)) => {
                let newest = swarm.network.world.newest_sequence(owner);
                let now = swarm.network.now().unix;
                let record =
                    UnverifiedRecord::from_bytes(&bytes).ok().and_then(|r| r.verify(now, &swarm.network.world.trust).ok());
                let is_right =
                    record.is_some_and(|r| r.key() == key && r.entries().any(|parts| parts.entry().sequence == newest));
                return Naive { is_fooled: !is_right, waited };
            }
            Some((_, closer)) => {
                denials += 1;
                queue.splice(0..0, closer);
            }
        }
    }
    Naive { is_fooled: true, waited }
}

/// One question, and the nodes it is referred to.
fn ask(swarm: &mut Swarm, node: NodeId, by: NodeId, key: RecordKey) -> Option<(RecordOutcome, Vec<NodeId>)> {
    let request = Request::FindRecord(FindRecord { key, have_hash: None, want: 16, extensions: Extensions::none() });
    let reply = swarm.network.with(node, |machine, world, now, _| machine.reply_to(world, now, by, request));
    match reply? {
        Reply::Answer(Answer::Record(answer)) => {
            let closer = answer.closer.iter().filter_map(|near| swarm.network.world.node_of(&near.device)).collect();
            Some((answer.outcome, closer))
        }
        _ => None,
    }
}

fn plan(seed: u64, servers: usize) -> Plan {
    println!("seed {seed}");
    halloo_simulator::prepare();
    let settings = Settings { latency: Latency::Fixed(Duration::from_millis(100)), ..Settings::default() };
    Plan { settings, ..Plan::servers(seed, servers) }
}

fn pairs(swarm: &mut Swarm, owners: &[NodeId], count: usize) -> Vec<(NodeId, NodeId)> {
    let mut pairs = Vec::new();
    while pairs.len() < count {
        let (by, owner) = (swarm.random_node(None), owners[pairs.len() % owners.len()]);
        if by != owner && matches!(swarm.network.machine(by).behaviour(), Behaviour::Honest) {
            pairs.push((by, owner));
        }
    }
    pairs
}

#[test]
fn liars_fool_whoever_believes_the_first_answer_and_not_us() {
    let mut swarm = Swarm::grown(plan(21, 70));
    let owners: Vec<_> = swarm.network.running().into_iter().take(20).collect();
    for owner in &owners {
        swarm.network.with(*owner, |machine, world, now, out| machine.publish(world, now, out));
    }
    swarm.run_for(Duration::from_secs(60));
    for number in 0..21 {
        let node = swarm.random_node(None);
        let lie = Lie::ALL[number % Lie::ALL.len()];
        swarm.network.with(node, |machine, _, _, _| *machine.behaviour_mut() = Behaviour::Liar(lie));
    }
    let pairs = pairs(&mut swarm, &owners, 60);
    let fooled = pairs.iter().filter(|(by, owner)| naive_find(&mut swarm, *by, *owner).is_fooled).count();
    assert!(fooled >= 6, "the attack works: {fooled} of 60");
    let first = swarm.find_each(&pairs, Duration::from_millis(50), FIRST);
    let settled = swarm.find_each(&pairs, Duration::from_millis(50), SETTLED);
    let (first, settled) = (judge(&swarm, &first), judge(&swarm, &settled));
    println!("without defences {fooled} of 60 wrong; ours {first:?}, settled {settled:?}");
    assert_eq!((first.invalid, first.missed), (0, 0));
    assert_eq!((settled.invalid, settled.superseded, settled.missed), (0, 0, 0));
}

#[test]
fn silent_nodes_stall_whoever_waits_for_them_and_not_us() {
    let mut swarm = Swarm::grown(plan(22, 60));
    let owners = swarm.network.running();
    for number in 0..24 {
        swarm.network.with(NodeId(2 * number), |machine, _, _, _| *machine.behaviour_mut() = Behaviour::Silent);
    }
    let pairs = pairs(&mut swarm, &owners, 60);
    let stalled =
        pairs.iter().filter(|(by, owner)| naive_find(&mut swarm, *by, *owner).waited >= Duration::from_secs(10)).count();
    let ours = Sample::of(&swarm.find_each(&pairs, Duration::from_millis(50), FIRST));
    println!("without defences {stalled} of 60 stalled; ours p99 {:?}", ours.time(0.99));
    assert!(stalled >= 12, "the attack works: {stalled}");
    assert_eq!(ours.found, 60);
    assert!(ours.time(1.0) <= Duration::from_secs(2), "{:?}", ours.time(1.0));
}

#[test]
fn colluders_around_a_name_hide_it_from_whoever_asks_the_nearest_and_not_from_us() {
    let mut swarm = Swarm::grown(Plan { publishes: false, ..plan(23, 135) });
    let victim = NodeId(7);
    let key = swarm.network.world.identity(victim).key;
    let members: Vec<_> = (0..15).map(|_| swarm.join(true, Behaviour::Honest, Some((key, 4)))).collect();
    swarm.run_for(Duration::from_secs(60));
    swarm.collude(members, Some(key), false);
    let report = swarm.publish(victim);
    swarm.run_for(Duration::from_secs(60));
    let pairs = pairs(&mut swarm, &[victim], 50);
    let fooled = pairs.iter().filter(|(by, owner)| naive_find(&mut swarm, *by, *owner).is_fooled).count();
    let asked = swarm.find_each(&pairs, Duration::from_millis(100), SETTLED);
    for missed in asked.iter().filter(|asked| asked.result.record().is_none()) {
        println!("missed: {:?}", missed.result);
    }
    let ours = Sample::of(&asked);
    println!("without defences {fooled} of 50 wrong; ours found {} of 50; {report:?}", ours.found);
    assert!(fooled >= 40, "the attack works: {fooled}");
    // Among so few nodes chance hides a crowd from some askers; the row with thousands of nodes says how many.
    assert!(ours.found >= 45, "{} of 50", ours.found);
}
