//! A network of directory nodes: grown by real joins, churned, asked.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use halloo_protocol::directory::RecordKey;
use halloo_protocol::kademlia::{Config, Event, FindOptions, FindResult, PublishReport, QueryId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Behaviour, DirectoryNode, Left, Ring, Setup, Starting, World};
use crate::machine::NodeId;
use crate::network::{Network, Settings, State};

/// Servers a new node knows: what an invite names.
const INTRODUCERS: usize = 3;

/// Draws for them before a node starts with fewer.
const INTRODUCER_DRAWS: usize = 1_000;

/// Address-book entries that survive a restart.
const REMEMBERED: usize = 64;

/// How long anything asked for may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a swarm is made up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Feeds all randomness.
    pub seed: u64,
    /// Nodes that serve.
    pub servers: usize,
    /// Nodes behind NAT: they ask, can't be dialled and never serve.
    pub clients: usize,
    /// Time over which they join, one after the other.
    pub joins_over: Duration,
    /// How many of them join at the same moment, at least one.
    pub at_once: usize,
    /// Time after the last join until the network counts as grown.
    pub lingers: Duration,
    /// Whether new nodes know the first node alone, and not some at random.
    pub is_invited_by_first: bool,
    /// When nodes do what a start brings.
    pub starting: Starting,
    /// Whether everybody publishes a record.
    pub publishes: bool,
    /// The directory's settings.
    pub config: Config,
    /// The network's.
    pub settings: Settings,
}

impl Plan {
    /// `servers` nodes that join at ten a second and publish.
    #[must_use]
    pub fn servers(seed: u64, servers: usize) -> Self {
        Self {
            seed,
            servers,
            clients: 0,
            at_once: 1,
            joins_over: Duration::from_millis(100) * u32::try_from(servers).unwrap_or(u32::MAX),
            lingers: Duration::from_secs(30),
            is_invited_by_first: false,
            starting: Starting::default(),
            publishes: true,
            config: Config::default(),
            settings: Settings::default(),
        }
    }

    /// `count` nodes, of which a share can't be dialled, joining over ten minutes.
    #[must_use]
    pub fn blocked(seed: u64, count: usize, blocked: f64) -> Self {
        let clients = (count as f64 * blocked) as usize;
        Self { clients, joins_over: Duration::from_secs(600), ..Self::servers(seed, count - clients) }
    }
}

/// How long nodes stay, and how they go.
#[derive(Clone, Copy, Debug)]
pub struct Churn {
    /// Half of the sessions end before; lengths are exponential, so having been there long says nothing.
    pub median: Duration,
    /// Share of the sessions that end without a goodbye.
    pub silent: f64,
    /// Nodes that are away at any time, as a share of those that are there. Who leaves comes back when all these have.
    pub away: f64,
}

impl Default for Churn {
    /// One hour; half of the nodes just vanish; a quarter as many are away as are there.
    fn default() -> Self {
        Self { median: Duration::from_secs(3_600), silent: 0.5, away: 0.25 }
    }
}

/// One look-up that has ended.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asked.
    pub by: NodeId,
    /// Whose record.
    pub owner: NodeId,
    /// When it was asked for.
    pub at: Duration,
    /// What came back.
    pub result: FindResult,
}

/// A network of directory nodes.
#[derive(Debug)]
pub struct Swarm {
    /// The network.
    pub network: Network<DirectoryNode>,
    plan: Plan,
    rng: ChaCha8Rng,
    churn: Option<Churn>,
    departures: BinaryHeap<Reverse<(Duration, NodeId)>>,
    /// Away: servers, clients.
    away: [VecDeque<NodeId>; 2],
    /// Nodes that never leave: those measured.
    stays: BTreeSet<NodeId>,
    /// Publications that have ended, since last taken.
    pub published: Vec<(NodeId, PublishReport)>,
    found: BTreeMap<(NodeId, QueryId), FindResult>,
}

impl Swarm {
    /// An empty swarm of this plan.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            network: Network::new(World::new(), plan.settings, plan.seed),
            rng: ChaCha8Rng::seed_from_u64(plan.seed ^ 0x5eed),
            plan,
            churn: None,
            departures: BinaryHeap::new(),
            away: [VecDeque::new(), VecDeque::new()],
            stays: BTreeSet::new(),
            published: Vec::new(),
            found: BTreeMap::new(),
        }
    }

    /// Grows the whole plan by real joins, and lets the last publications end.
    #[must_use]
    pub fn grown(plan: Plan) -> Self {
        let mut swarm = Self::new(plan);
        swarm.grow();
        swarm
    }

    /// Lets the whole plan join, one after the other.
    pub fn grow(&mut self) {
        let (servers, clients) = (self.plan.servers, self.plan.clients);
        let total = servers + clients;
        let start = self.network.elapsed();
        let mut clients_added = 0;
        for index in 0..total {
            // Clients are spread evenly among the servers, the first of which comes first.
            let is_client = index > 0 && (index * clients / total.max(1)) > clients_added;
            clients_added += usize::from(is_client);
            let share = (index - index % self.plan.at_once.max(1)) as f64 / total as f64;
            self.run_until(start + self.plan.joins_over.mul_f64(share));
            self.join(!is_client, Behaviour::Honest, None);
        }
        self.run_until(start + self.plan.joins_over + self.plan.lingers);
    }

    /// Enrols a node and starts it. `wanted` is where an attacker tries to get, with how many enrolments.
    pub fn join(&mut self, is_serving: bool, behaviour: Behaviour, wanted: Option<(RecordKey, u64)>) -> NodeId {
        let node = self.network.world.enrol(is_serving, wanted);
        let machine = self.machine(node, behaviour, Left::default());
        let added = self.network.add(machine, !is_serving);
        assert_eq!(added, node, "world and network count alike");
        self.network.start(node);
        self.collect();
        node
    }

    fn machine(&mut self, node: NodeId, behaviour: Behaviour, left: Left) -> DirectoryNode {
        let setup = Setup {
            config: self.plan.config.clone(),
            is_serving: self.network.world.is_serving(node),
            starting: self.plan.starting,
            publishes: self.plan.publishes,
            knows: self.introducers(node),
            left,
            behaviour,
        };
        let (seed, now) = (self.rng.random(), self.network.now());
        DirectoryNode::new(&self.network.world, node, setup, seed, now)
    }

    /// Servers that run, as an invite would name them.
    fn introducers(&mut self, but: NodeId) -> Vec<NodeId> {
        if self.plan.is_invited_by_first {
            return if but == NodeId(0) { Vec::new() } else { vec![NodeId(0)] };
        }
        let count = self.network.nodes().count();
        let mut chosen = Vec::new();
        // Where few serve many draws are in vain, and who knows nobody stays alone for good.
        for _ in 0..INTRODUCER_DRAWS {
            if chosen.len() >= INTRODUCERS || count == 0 {
                break;
            }
            let node = NodeId(u32::try_from(self.rng.random_range(0..count)).unwrap_or(0));
            if node != but && self.is_living_server(node) && !chosen.contains(&node) {
                chosen.push(node);
            }
        }
        chosen
    }

    fn is_living_server(&self, node: NodeId) -> bool {
        self.network.state(node) == State::Up && self.network.world.is_serving(node)
    }

    /// A running node at random, as a server or client or either.
    pub fn random_node(&mut self, is_serving: Option<bool>) -> NodeId {
        let count = u32::try_from(self.network.world.len()).unwrap_or(1);
        loop {
            let node = NodeId(self.rng.random_range(0..count));
            let fits = is_serving.is_none_or(|wanted| wanted == self.network.world.is_serving(node));
            if fits && self.network.state(node) == State::Up {
                return node;
            }
        }
    }

    /// Randomness for scenarios.
    pub const fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.rng
    }

    /// A node that never leaves.
    pub fn pin(&mut self, node: NodeId) {
        self.stays.insert(node);
    }

    /// Every node gets a session from now on; a share more is enrolled and away.
    pub fn begin_churn(&mut self, churn: Churn) {
        let running = self.network.running();
        for is_serving in [true, false] {
            let there = running.iter().filter(|node| self.network.world.is_serving(**node) == is_serving).count();
            for _ in 0..(there as f64 * churn.away) as usize {
                let node = self.network.world.enrol(is_serving, None);
                let machine = self.machine(node, Behaviour::Honest, Left::default());
                self.network.add(machine, !is_serving);
                self.away[usize::from(!is_serving)].push_back(node);
            }
        }
        self.churn = Some(churn);
        for node in running {
            self.plan_departure(node);
        }
    }

    fn plan_departure(&mut self, node: NodeId) {
        let Some(churn) = self.churn else { return };
        let draw: f64 = self.rng.random_range(f64::MIN_POSITIVE..1.0);
        let stays = churn.median.mul_f64(-draw.ln() / std::f64::consts::LN_2);
        self.departures.push(Reverse((self.network.elapsed() + stays, node)));
    }

    fn depart(&mut self, node: NodeId) {
        let Some(churn) = self.churn else { return };
        if self.stays.contains(&node) || self.network.state(node) != State::Up {
            return;
        }
        let says_goodbye = !self.rng.random_bool(churn.silent);
        self.network.stop(node, says_goodbye);
        let now = self.network.now();
        self.network.with(node, |machine, world, _, _| machine.pack_up(world, REMEMBERED, now));
        let side = usize::from(!self.network.world.is_serving(node));
        self.away[side].push_back(node);
        if let Some(next) = self.away[side].pop_front() {
            self.restart(next);
            self.plan_departure(next);
        }
    }

    /// Starts a node that is down, with what is left of its last run.
    pub fn restart(&mut self, node: NodeId) {
        let behaviour = self.network.machine(node).behaviour().clone();
        let left = self.network.with(node, |machine, _, _, _| machine.take_left());
        let machine = self.machine(node, behaviour, left);
        self.network.replace(node, machine);
        self.network.start(node);
    }

    /// Lets virtual time pass, with departures and returns.
    pub fn run_until(&mut self, end: Duration) {
        while let Some(Reverse((at, node))) = self.departures.peek().copied() {
            if at > end {
                break;
            }
            self.departures.pop();
            self.network.run_until(at);
            self.depart(node);
        }
        self.network.run_until(end);
        self.collect();
    }

    /// Lets virtual time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.network.elapsed() + time);
    }

    fn collect(&mut self) {
        for (node, event) in self.network.take_events() {
            match event {
                Event::Found { query, result } => {
                    self.found.insert((node, query), result);
                }
                Event::Published { report, .. } => self.published.push((node, report)),
                _ => {}
            }
        }
    }

    /// Looks `owner`'s record up from `by` and waits for the result.
    ///
    /// # Panics
    /// If the look-up doesn't end.
    pub fn find(&mut self, by: NodeId, owner: NodeId, options: FindOptions) -> FindResult {
        let mut asked = self.find_each(&[(by, owner)], Duration::ZERO, options);
        asked.pop().expect("every look-up ends").result
    }

    /// Starts a look-up every `pause` and waits for all results, in the order of asking. Who is gone by then isn't asked.
    pub fn find_each(&mut self, pairs: &[(NodeId, NodeId)], pause: Duration, options: FindOptions) -> Vec<Asked> {
        let start = self.network.elapsed();
        let mut waiting = Vec::new();
        for (index, (by, owner)) in pairs.iter().copied().enumerate() {
            self.run_until(start + pause * u32::try_from(index).unwrap_or(u32::MAX));
            if self.network.state(by) != State::Up {
                continue;
            }
            let key = self.network.world.identity(owner).key;
            let at = self.network.elapsed();
            let query = self.network.with(by, |node, world, now, out| node.find(world, now, key, options, out));
            waiting.push((by, owner, at, query));
        }
        let end = self.network.elapsed() + PATIENCE;
        let is_open = |swarm: &Self| {
            waiting
                .iter()
                .any(|(by, _, _, query)| !swarm.found.contains_key(&(*by, *query)) && swarm.network.state(*by) == State::Up)
        };
        self.collect();
        while is_open(self) && self.network.elapsed() < end {
            self.run_for(Duration::from_millis(500));
        }
        let ended = waiting.into_iter().filter_map(|(by, owner, at, query)| {
            let result = self.found.remove(&(by, query))?;
            Some(Asked { by, owner, at, result })
        });
        ended.collect()
    }

    /// The result of a look-up that has ended; given once.
    pub fn take_found(&mut self, by: NodeId, query: QueryId) -> Option<FindResult> {
        self.found.remove(&(by, query))
    }

    /// Publishes the node's record anew and waits for the report.
    ///
    /// # Panics
    /// If the publication doesn't end.
    pub fn publish(&mut self, node: NodeId) -> PublishReport {
        self.published.clear();
        self.network.with(node, |machine, world, now, out| machine.publish(world, now, out));
        let end = self.network.elapsed() + PATIENCE;
        while self.network.elapsed() < end {
            self.run_for(Duration::from_millis(100));
            if let Some((_, report)) = self.published.iter().find(|(by, _)| *by == node) {
                return report.clone();
            }
        }
        panic!("a publication must end");
    }

    /// Living nodes that hold `owner`'s record with this sequence number or a higher one.
    #[must_use]
    pub fn holders(&self, owner: NodeId, sequence: u64) -> Vec<NodeId> {
        let key = self.network.world.identity(owner).key;
        let holds = |node: &NodeId| {
            let machine = self.network.machine(*node);
            let held = machine.directory.held(&key);
            held.is_some_and(|record| record.entries().any(|parts| parts.entry().sequence >= sequence))
        };
        self.network.nodes().filter(|node| self.is_living_server(*node)).filter(holds).collect()
    }

    /// Living servers in the order of their distance to `owner`'s record.
    #[must_use]
    pub fn closest(&self, owner: NodeId, count: usize) -> Vec<NodeId> {
        let key = self.network.world.identity(owner).key;
        let mut servers: Vec<_> = self.network.nodes().filter(|node| self.is_living_server(*node)).collect();
        servers.sort_by_key(|node| key.distance(&self.network.world.identity(*node).descriptor.place));
        servers.truncate(count);
        servers
    }

    /// Makes a ring of the given nodes.
    pub fn collude(&mut self, members: Vec<NodeId>, victim: Option<RecordKey>, ages: bool) {
        let ring = std::sync::Arc::new(Ring { members: members.clone(), victim, ages });
        for member in members {
            let behaviour = Behaviour::Colluder(std::sync::Arc::clone(&ring));
            self.network.with(member, |machine, _, _, _| *machine.behaviour_mut() = behaviour);
        }
    }
}
