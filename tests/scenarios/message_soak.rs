//! Goal: every message arrives exactly once, in order per sender, on all devices, whoever is killed when. Method: two users, one with two devices,
//! write to each other while their daemons, and a node that keeps letters, are killed with -9 and started again at random moments, from a
//! printed seed; at the end one mailbox is gone for good.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use halloo_tests::cli::Invocation;
use halloo_tests::{Daemon, Plan, User, eventually, seed};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// How long the last messages may take when everybody is up again. Retries come at most a minute apart.
const SETTLED_TIME_MAX: Duration = Duration::from_secs(150);

/// Messages for which one who was killed stays down at most.
const DOWN_MAX: usize = 8;

struct Soak {
    rng: StdRng,
    /// Texts by sending device, in order.
    sent: BTreeMap<usize, Vec<String>>,
    kills: u32,
}

/// Two devices of one user, one of another, and the node that keeps letters.
struct Devices {
    all: Vec<Daemon>,
    keeper: Daemon,
    /// The other user, by device.
    peer: Vec<String>,
}

impl Devices {
    /// One of the users' devices, or behind them the keeper.
    fn get(&mut self, place: usize) -> &mut Daemon {
        self.all.get_mut(place).unwrap_or(&mut self.keeper)
    }
}

fn send(from: &Daemon, to: &str, text: &str) {
    let body = json!({"to": to, "text": text});
    from.api().post("/v1/messages", &body).unwrap_or_else(|error| panic!("{} didn't take {text:?}: {error}", from.name()));
}

fn list(of: &Daemon, with: &str) -> Result<Value, String> {
    of.api().get(&format!("/v1/messages?with={with}&limit=1000"))
}

impl Soak {
    fn run(&mut self, devices: &mut Devices, count: usize, kill_one_in: u32) {
        // Who is down, and for how many more messages.
        let mut down: Option<(usize, usize)> = None;
        for number in 0..count {
            down = match down {
                Some((place, 0)) => {
                    devices.get(place).restart();
                    None
                }
                Some((place, left)) => Some((place, left - 1)),
                None => None,
            };
            let up: Vec<usize> = (0..devices.all.len()).filter(|place| devices.all[*place].is_running()).collect();
            let from = up[self.rng.random_range(0..up.len())];
            let text = format!("{} says {number:04}", devices.all[from].name());
            // What was taken is on disk, however soon it is killed.
            send(&devices.all[from], &devices.peer[from], &text);
            self.sent.entry(from).or_default().push(text);
            if down.is_none() && self.rng.random_ratio(1, kill_one_in) {
                self.kills += 1;
                // Half of the time the sender, at the worst moment.
                let place = if self.rng.random_ratio(1, 2) { from } else { self.rng.random_range(0..=devices.all.len()) };
                devices.get(place).kill();
                down = Some((place, self.rng.random_range(0..DOWN_MAX)));
            }
        }
        if let Some((place, _)) = down {
            devices.get(place).restart();
        }
    }

    /// True if a device has all it should, once, and in order.
    fn check(&self, devices: &Devices, place: usize) -> Result<(), String> {
        let listed = list(&devices.all[place], &devices.peer[place])?;
        let texts: Vec<&str> =
            listed["messages"].as_array().into_iter().flatten().filter_map(|entry| entry["text"].as_str()).collect();
        for (from, expected) in &self.sent {
            let start = format!("{} says", devices.all[*from].name());
            let found: Vec<&str> = texts.iter().copied().filter(|text| text.starts_with(&start)).collect();
            if found != *expected {
                let missing: Vec<_> = expected.iter().filter(|text| !found.contains(&text.as_str())).take(5).collect();
                let counts = format!("{} of {} from {}", found.len(), expected.len(), devices.all[*from].name());
                return Err(format!(
                    "{}: {counts}; missing {missing:?}; is in order: {}",
                    devices.all[place].name(),
                    found.is_sorted()
                ));
            }
        }
        Ok(())
    }
}

fn soak(count: usize, kill_one_in: u32) {
    let rng = seed::rng();
    let keepers = ["keeper"];
    let plan =
        keepers.into_iter().fold(Plan::new(["alice", "bob", "keeper"]), |plan, keeper| plan.args(keeper, ["--role", "mailbox"]));
    let mut network = plan.start();
    network.befriend(&network.users[0], &network.users[1]);
    let config = format!("lab = true\n{}", halloo_tests::network::ANYONE);
    let (mut second, _) = Daemon::init_with(network.folder(), "bob2", &config, Some(&network.users[1].phrase));
    let bob = network.users[1].username.clone();
    Invocation::new(second.home()).args(["enrol", &bob, "--invite", &network.invite()]).run().ok();
    second.start(network.launch("bob2"));
    eventually(SETTLED_TIME_MAX, "alice knows both devices of bob", || {
        let found = network.users[0].api().get(&format!("/v1/users/{bob}?fresh=true&settled=true"))?;
        if found["devices"].as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(found.to_string()) }
    });
    let users: Vec<User> = std::mem::take(&mut network.users);
    let alice = users[0].username.clone();
    let mut daemons: Vec<Daemon> = users.into_iter().map(User::into_daemon).collect();
    let keeper = daemons.pop().expect("three users");
    daemons.push(second);
    let mut devices = Devices { all: daemons, keeper, peer: vec![bob.clone(), alice.clone(), alice] };
    let mut soak = Soak { rng, sent: BTreeMap::new(), kills: 0 };
    let started = Instant::now();
    soak.run(&mut devices, count, kill_one_in);
    // One mailbox is gone for good, with what it had.
    devices.keeper.kill();
    for place in 0..devices.all.len() {
        eventually(SETTLED_TIME_MAX, "everything is there once and in order", || soak.check(&devices, place));
    }
    let elapsed = started.elapsed().as_secs_f32();
    eprintln!("{count} messages, {} kills, all there after {elapsed:.1} s", soak.kills);
}

#[test]
fn sixty_messages_survive_kills() {
    soak(60, 8);
}

#[test]
#[ignore = "minutes: run by scripts/test --long"]
fn a_thousand_messages_survive_kills() {
    soak(1_000, 20);
}
