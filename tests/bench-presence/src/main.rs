//! `scripts/bench presence`: what spreading presence costs. Ours in virtual time, with the production machine; gossipsub with real nodes.

mod opponent;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use halloo_simulator::Latency;
use halloo_simulator::presence::rows::{self, Measured};
use halloo_simulator::presence::{Graph, Progress, Town, TownPlan};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Measures presence: 100 people with 50 contacts each, and larger networks with carriers.
#[derive(Debug, Parser)]
struct Arguments {
    /// Feeds all randomness of the simulation.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Without gossipsub.
    #[arg(long)]
    alone: bool,
    /// Gossipsub and nothing else.
    #[arg(long, conflicts_with = "alone")]
    theirs: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// People in the two graphs: 1,000 if not said.
    #[arg(long)]
    people: Option<usize>,
    /// People who come and go: 300 if not said.
    #[arg(long)]
    churn_people: Option<usize>,
    /// 10,000 people in the graphs, and 10,000 who come and go.
    #[arg(long)]
    long: bool,
    /// Contacts of each person in the large networks, but no more than a fifth of all.
    #[arg(long, default_value_t = 150)]
    contacts: usize,
    /// Only this one of the two graphs.
    #[arg(long)]
    graph: Option<Shape>,
    /// Has every heartbeat sent while people come and go, also those that say nothing: the same result, in more time.
    #[arg(long)]
    every_heartbeat: bool,
    /// How long people come and go.
    #[arg(long, default_value_t = 24)]
    hours: u32,
    /// Seconds between two updates of a person over gossipsub: what the machine holds.
    #[arg(long, default_value_t = 5.0)]
    gossipsub_every: f64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// 100 people, beside gossipsub.
    Small,
    /// How soon a phone has everything after coming online.
    Online,
    /// People come and go.
    Churn,
    /// Many people with carriers.
    Graphs,
}

/// Who knows whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Shape {
    /// Anybody.
    Random,
    /// Mostly people who know each other.
    Communities,
}

const LONG_PEOPLE: usize = 10_000;

const SMALL: (usize, usize, usize) = (100, 50, 16);

#[allow(clippy::print_stdout, reason = "the table is what the program is for")]
fn row(name: &str, reach: &str, ideal: &str, ours: &str) {
    println!("| {name} | {reach} | {ideal} | {ours} |");
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.theirs {
        return theirs(&arguments).await;
    }
    let wants = |part: Part| arguments.only.is_empty() || arguments.only.contains(&part);
    let people = |said: Option<usize>, usual: usize| said.unwrap_or(if arguments.long { LONG_PEOPLE } else { usual });
    if wants(Part::Small) {
        small(&arguments).await?;
    }
    if wants(Part::Online) {
        coming_online(&arguments);
    }
    if wants(Part::Churn) {
        churn(&arguments, people(arguments.churn_people, 300));
    }
    if wants(Part::Graphs) {
        for shape in [Shape::Random, Shape::Communities] {
            if arguments.graph.is_none_or(|wanted| wanted == shape) {
                large(&arguments, people(arguments.people, 1_000), shape);
            }
        }
    }
    Ok(())
}

/// How far a long run is, beside the tables.
#[allow(clippy::print_stderr, reason = "progress for who waits")]
fn tell(progress: &Progress) {
    // Pages of 4 KB on every machine that has this file.
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 4 / 1_024;
    let (minutes, messages, steps) = (progress.elapsed.as_secs() / 60, progress.messages, progress.steps);
    let seen = progress.seen.map_or_else(String::new, |seen| {
        format!(", wrong {} ({} there) of {} looks, {} changes", seen.wrong, seen.wrong_there, seen.looks, seen.changes)
    });
    eprintln!("{}: {minutes} min, {messages} messages, {steps} events, {resident} MiB{seen}", progress.phase);
}

#[allow(clippy::print_stdout, reason = "the table is what the program is for")]
async fn small(arguments: &Arguments) -> Result<()> {
    let (people, contacts, links) = SMALL;
    let seconds = Duration::from_secs;
    let plan = TownPlan::contacts_only(arguments.seed, people, contacts, links);
    let mut town = Town::new(plan);
    town.start(seconds(10));
    town.network.run_for(seconds(20));
    rows::steady(&mut town, seconds(1), seconds(5), seconds(3));
    let busy = rows::steady(&mut town, seconds(1), seconds(60), seconds(3));
    let quiet = rows::steady(&mut town, seconds(600), seconds(3_600), seconds(15));
    rows::steady(&mut town, seconds(1), seconds(5), seconds(3));
    let gone = rows::freeze(&mut town, 0.2, arguments.seed);
    let reachable = rows::reachable(&town);
    let frozen = rows::steady(&mut town, seconds(1), seconds(6), seconds(3));
    town.network.run_for(seconds(21));
    let (shown, all) = rows::silence_shown(&town, &gone);
    town.network.run_for(seconds(39));
    let after = rows::steady(&mut town, seconds(1), seconds(30), seconds(3));

    println!("\n{people} people, {contacts} contacts each, at most {links} connections, seed {}\n", arguments.seed);
    println!("| | reach | ideal | Halloo |");
    println!("| --- | --- | --- | --- |");
    print_small(&busy, &quiet, &frozen, &after, reachable);
    let silence = format!("{:.2}%", 100.0 * shown as f64 / all.max(1) as f64);
    row("silent loss: shown at living contacts after 30 s", "100%", "100%", &silence);
    if arguments.alone { Ok(()) } else { theirs(arguments).await }
}

/// The same people and connections over gossipsub.
#[allow(clippy::print_stdout, reason = "the table is what the program is for")]
async fn theirs(arguments: &Arguments) -> Result<()> {
    let (people, contacts, links) = SMALL;
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let graph = Graph::random(people, contacts, &mut rng);
    let connections = graph.connections(&vec![links; people], &mut rng);
    let every = Duration::from_secs_f64(arguments.gossipsub_every);
    let counted = opponent::run(&graph, &connections, every, every * 4).await?;
    let per_delivery = |count: u64| count as f64 / counted.delivered.max(1) as f64;
    println!("\n{people} people over gossipsub, an update each {every:?}\n");
    println!("| | gossipsub |");
    println!("| --- | --- |");
    println!("| copies per delivery | {:.2} |", per_delivery(counted.copies));
    println!("| bytes per delivery, encryption and idle traffic included | {:.0} |", per_delivery(counted.bytes));
    println!("| delivered | {:.2}% of {} |", 100.0 * counted.delivered as f64 / counted.owed.max(1) as f64, counted.owed);
    Ok(())
}

fn print_small(busy: &Measured, quiet: &Measured, frozen: &Measured, after: &Measured, reachable: f64) {
    let share = |measured: &Measured| format!("{:.3}%", 100.0 * measured.delivered as f64 / measured.owed.max(1) as f64);
    let hops = |measured: &Measured| format!("{:.2} / {}", measured.hops().0, measured.hops().1);
    let ideal_bytes = format!("{}", rows::DOCUMENT_FRAME_BYTES);
    row("busy: messages per delivery", "1.10", "1.00", &format!("{:.3}", busy.messages_per_delivery()));
    row("busy: bytes per delivery", "350", &ideal_bytes, &format!("{:.0}", busy.bytes_per_delivery()));
    row("busy: hops, mean / most", "2 / 4", "-", &hops(busy));
    row("busy: delivered", "100%", "100%", &share(busy));
    row("busy: median / slowest, ms", "", "-", &millis(busy));
    row("quiet (v): messages per delivery", "2.2", "1.00", &format!("{:.3}", quiet.messages_per_delivery()));
    row("quiet (v): bytes per delivery", "", &ideal_bytes, &format!("{:.0}", quiet.bytes_per_delivery()));
    row("quiet (v): hops, mean / most", "2 / 4", "-", &hops(quiet));
    row("quiet (v): delivered", "100%", "100%", &share(quiet));
    row("20% frozen: the living reached", "100%", &format!("{:.3}%", 100.0 * reachable), &share(frozen));
    let within = frozen.delays.iter().filter(|delay| **delay <= Duration::from_secs(2)).count();
    let within = format!("{:.3}%", 100.0 * within as f64 / frozen.owed.max(1) as f64);
    row("20% frozen: reached within 2 s", "100%", &format!("{:.3}%", 100.0 * reachable), &within);
    row("20% frozen: median / slowest, ms", "- / 2000", "-", &millis(frozen));
    row("afterwards: messages per delivery", "1.10", "1.00", &format!("{:.3}", after.messages_per_delivery()));
    row("afterwards: bytes per delivery", "350", &ideal_bytes, &format!("{:.0}", after.bytes_per_delivery()));
    row("afterwards: hops, mean / most", "2 / 4", "-", &hops(after));
    row("afterwards: delivered", "100%", "100%", &share(after));
    let exchanges = rows::exchanges_per_12_s(quiet, SMALL.0 * SMALL.2 / 2, Duration::from_secs(3_615));
    row("heartbeat exchanges per connection and 12 s", "1", "1", &format!("{exchanges:.2}"));
}

fn millis(measured: &Measured) -> String {
    let median = measured.delays.get(measured.delays.len() / 2).copied().unwrap_or_default();
    format!("{} / {}", median.as_millis(), measured.slowest.as_millis())
}

#[allow(clippy::print_stdout, reason = "the table is what the program is for")]
fn large(arguments: &Arguments, people: usize, shape: Shape) {
    let (carriers, contacts) = ((people / 50).max(2), arguments.contacts.min(people / 5));
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let (name, mut graph) = match shape {
        Shape::Random => ("random", Graph::random(people, contacts, &mut rng)),
        Shape::Communities => ("communities", Graph::communities(people, contacts, 75, contacts / 4, &mut rng)),
    };
    let clustering = graph.clustering(50, &mut rng);
    let phone = people - 1;
    graph.befriend(phone, 300, &mut rng);
    println!(
        "\n{people} people, {contacts} contacts each, {name} (clustering {clustering:.3}), {carriers} carriers, seed {}\n",
        arguments.seed
    );
    println!("| | reach | ideal | Halloo |");
    println!("| --- | --- | --- | --- |");
    let plan = TownPlan { tell: Some(tell), ..TownPlan::carried(arguments.seed, graph, carriers) };
    let measured = rows::carried(plan, phone);
    let all = &measured.all;
    let share = format!("{:.3}%", 100.0 * all.delivered as f64 / all.owed.max(1) as f64);
    row("messages per delivery (v)", "2.3", "1.00", &format!("{:.3}", all.messages_per_delivery()));
    row("bytes per delivery (v)", "", "", &format!("{:.0}", all.bytes_per_delivery()));
    row("delivered", "100%", "100%", &share);
    row("median / slowest, ms", "", "-", &millis(all));
    let connections = format!("{} (and 2 relays, 1 gateway)", measured.phone_connections);
    row("phone with 300 contacts: connections for presence", "8 in all", "-", &connections);
    row("phone: own messages per update received", "1.1", "0", &format!("{:.3}", measured.phone_messages));
    row("phone: newest documents after coming online", "", "", &measured.phone_fetch);
}

/// Round trips until a phone has the newest documents, in a network where each takes 100 ms.
#[allow(clippy::print_stdout, reason = "the table is what the program is for")]
fn coming_online(arguments: &Arguments) {
    println!("\n100 people more than contacts, 40 contacts each, 8 carriers, every round trip 100 ms, seed {}\n", arguments.seed);
    println!("| | reach | ideal | Halloo |");
    println!("| --- | --- | --- | --- |");
    for contacts in [300, 1_000] {
        let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
        let people = contacts + 100;
        let mut graph = Graph::random(people, 40, &mut rng);
        graph.befriend(people - 1, contacts, &mut rng);
        let latency = Latency::Fixed(Duration::from_millis(100));
        let fetched = rows::coming_online(TownPlan { latency, ..TownPlan::carried(arguments.seed, graph, 8) }, people - 1);
        let name = format!("newest documents of {contacts} contacts after coming online, handshake not counted");
        row(&name, if contacts == 300 { "2 round trips" } else { "shown working" }, "1", &fetched);
    }
}

/// Hours of coming and going, half of it without a word.
#[allow(clippy::print_stdout, reason = "the table is what the program is for")]
fn churn(arguments: &Arguments, people: usize) {
    let (contacts, carriers, hours) = (arguments.contacts.min(people / 5), (people / 50).max(8), arguments.hours);
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let graph = Graph::random(people, contacts, &mut rng);
    let hour = Duration::from_secs(3_600);
    let churn = rows::Churn { stays: hour * 2, away: hour, silent: 0.5 };
    let carried = TownPlan::carried(arguments.seed, graph, carriers);
    let plan = TownPlan { tell: Some(tell), is_tacit: !arguments.every_heartbeat, has_own_jitter: true, ..carried };
    let seen = rows::churn(plan, churn, hour * hours);
    println!(
        "\n{people} people, {contacts} contacts each, {carriers} carriers; {hours} h, {} comings and goings\n",
        seen.changes
    );
    println!("| | reach | ideal | Halloo |");
    println!("| --- | --- | --- | --- |");
    let wrong = format!("{:.4}%", 100.0 * seen.wrong as f64 / seen.looks.max(1) as f64);
    row("wrong for over 60 s, of viewer-contact time", "0.1%", "0", &wrong);
    row("of that, shown as there though gone", "", "0", &format!("{} of {}", seen.wrong_there, seen.wrong));
    row("messages per person and hour", "stated", "-", &format!("{:.0}", seen.messages));
    row("heartbeats per person and hour", "", "-", &format!("{:.0}", seen.heartbeats));
    let [one, other] = seen.digest;
    println!("\nrun {one:016x}{other:016x}, {} looks, {} events simulated", seen.looks, seen.steps);
}
