fn main() {
    halloo_protocol::key::remember_verified(2_000_000);
    if std::env::args().count() > 3 { halloo_protocol::kademlia::share_records(); }
    let n: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let share: f64 = std::env::args().nth(2).unwrap().parse().unwrap();
    let start = std::time::Instant::now();
    let mut swarm = halloo_simulator::swarm::Swarm::grown(halloo_simulator::swarm::Plan::blocked(3, n, share));
    eprintln!("{:?} steps {}", start.elapsed(), swarm.network.steps());
    let before = swarm.network.traffic();
    swarm.run_for(std::time::Duration::from_secs(600));
    eprintln!("{:?} steps {}", start.elapsed(), swarm.network.steps());
    eprintln!("{:?}", swarm.network.traffic().since(&before));
    eprintln!("{}", std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmHWM")).collect::<String>());

    let nodes: Vec<_> = swarm.network.nodes().collect();
    let sum = |f: &dyn Fn(&halloo_simulator::directory::DirectoryNode) -> usize| nodes.iter().map(|n| f(swarm.network.machine(*n))).sum::<usize>() / nodes.len();
    eprintln!("live {} hints {} held {} bytes {} conns {} size {}", sum(&|m| m.directory.table_counts().0), sum(&|m| m.directory.table_counts().1), sum(&|m| m.directory.store_counts().0), sum(&|m| m.directory.store_counts().1), nodes.iter().map(|n| swarm.network.connections(*n)).sum::<usize>() / nodes.len(), std::mem::size_of::<halloo_simulator::directory::DirectoryNode>());
}
