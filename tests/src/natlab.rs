//! A small internet of network namespaces: one public network, homes behind NAT.
//!
//! ```text
//!   server 5.0.1.1/16 ─┐
//!                      ├─ public (a namespace with a bridge)
//!   nat-a  5.0.11.1 ───┤
//!   nat-b  5.0.12.1 ───┘
//!   nat-a ── 192.168.11.0/24 ── home-a 192.168.11.2
//! ```
//!
//! Routers masquerade and, as home routers do, drop what nobody inside asked for, also towards
//! themselves: a stranger's packet must not take the port that the host's own would get. Public
//! addresses are taken from 5.0.0.0/16, so that nodes don't need `--lab`, a /24 for each machine; nothing leaves the namespaces.
//! Names carry the process id, and namespaces go away on drop, also when the test panics.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::daemon::{Daemon, Launch};
use crate::network::{ANYONE, AUTHORITY, User, enrol_user_in, infrastructure_roles, invite};

/// How long a user who joins may take: finding out that nobody can dial one takes its time.
pub const READY_TIME_MAX: Duration = Duration::from_secs(90);

/// Tells labs of one process apart.
static LABS: AtomicU32 = AtomicU32::new(0);

/// The public network's first two octets.
const PUBLIC: &str = "5.0";

/// A laboratory; its namespaces end with it.
#[derive(Debug)]
pub struct NatLab {
    prefix: String,
    namespaces: Vec<String>,
}

/// A machine in the laboratory.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its network namespace.
    pub namespace: String,
    /// Its own address; private behind a NAT.
    pub address: String,
}

impl Machine {
    /// How a daemon is started on this machine, listening at `address` by QUIC and TCP.
    #[must_use]
    pub fn launch(&self, address: &str) -> Launch {
        let launch = Launch { namespace: Some(self.namespace.clone()), ..Launch::default() };
        launch.args(["--listen", &format!("/ip4/{address}/udp/0/quic-v1"), "--listen", &format!("/ip4/{address}/tcp/0")])
    }

    /// Starts an authority with every role of infrastructure on this machine, which must be public. `config` is added to its own.
    #[track_caller]
    #[must_use]
    pub fn serve(&self, folder: &Path, config: &str) -> Daemon {
        let mut server = Daemon::init(folder, "server", &format!("[authority]\nname = \"{AUTHORITY}\"\n{config}"));
        server.start(self.launch(&self.address).args(infrastructure_roles()));
        server
    }

    /// Enrols a user of whom anybody may want something, and starts their daemon on this machine, at all its addresses, with nothing but the
    /// invite to show the way. It isn't ready yet.
    #[track_caller]
    #[must_use]
    pub fn enrol(&self, folder: &Path, server: &Daemon, name: &str, args: &[&str]) -> User {
        self.enrol_at("0.0.0.0", folder, server, name, args)
    }

    /// The same with a daemon that listens at one address.
    #[track_caller]
    #[must_use]
    pub fn enrol_at(&self, address: &str, folder: &Path, server: &Daemon, name: &str, args: &[&str]) -> User {
        let mut user = enrol_user_in(Some(&self.namespace), folder, name, ANYONE, &invite(server));
        user.spawn(self.launch(address).args(args.iter().copied()));
        user
    }

    /// [`Machine::enrol`], and waits until the daemon is ready.
    #[track_caller]
    #[must_use]
    pub fn join(&self, folder: &Path, server: &Daemon, name: &str, args: &[&str]) -> User {
        let mut user = self.enrol(folder, server, name, args);
        user.wait_ready(READY_TIME_MAX);
        user
    }
}

impl NatLab {
    /// An empty public network.
    ///
    /// # Panics
    /// If this process may not make network namespaces, saying what is needed.
    #[track_caller]
    #[must_use]
    pub fn new() -> Self {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("hl{}-{number}", std::process::id());
        let mut lab = Self { prefix, namespaces: Vec::new() };
        require("ip", "-V", "iproute2");
        require("nft", "--version", "nftables");
        let public = lab.namespace("pub");
        Self::ip(&public, "link add bridge type bridge");
        Self::ip(&public, "link set bridge up");
        lab
    }

    /// A machine with a public address; `host` is its third octet.
    #[track_caller]
    pub fn public_machine(&mut self, name: &str, host: u8) -> Machine {
        let namespace = self.namespace(name);
        let address = self.plug_in(&namespace, host);
        Machine { namespace, address }
    }

    /// A machine at home: alone behind a router whose public address is 5.0.`host`.1, and which keeps the ports of what goes out.
    #[track_caller]
    pub fn home_machine(&mut self, name: &str, host: u8) -> Machine {
        self.machine_behind(name, host, NAT_RULES)
    }

    /// Another machine in the home of one behind a router, with which it shares that router's public address. `host` is another number than the home's.
    #[track_caller]
    pub fn housemate(&mut self, name: &str, home: &Machine, host: u8) -> Machine {
        let (namespace, router) = (self.namespace(name), format!("{}r", home.namespace));
        Self::ip(&router, &format!("link add in{host} type veth peer name wan netns {namespace}"));
        Self::ip(&router, &format!("address add 192.168.{host}.1/24 dev in{host}"));
        Self::ip(&router, &format!("link set in{host} up"));
        for chain in ["forward", "input"] {
            let rule = format!("insert rule ip home {chain} iifname in{host} accept");
            Self::run(&["ip", "netns", "exec", &router, "nft", &rule]);
        }
        let address = Self::take_up(&namespace, "wan", host);
        Machine { namespace, address }
    }

    /// The same behind a router that takes another random port for every destination: nobody can tell another where it is seen.
    #[track_caller]
    pub fn symmetric_machine(&mut self, name: &str, host: u8) -> Machine {
        self.machine_behind(name, host, &NAT_RULES.replace("masquerade", "masquerade random,fully-random"))
    }

    /// The same behind a router that lets everybody in to the ports of what has gone out, and to all others.
    #[track_caller]
    pub fn cone_machine(&mut self, name: &str, host: u8) -> Machine {
        let inside = format!("192.168.{host}.2");
        let machine = self.machine_behind(name, host, NAT_RULES);
        let rules = format!(
            "table ip cone {{
               chain pre {{ type nat hook prerouting priority -100; iifname out meta l4proto udp dnat to {inside}; }}
             }}
             insert rule ip home forward ct status dnat accept"
        );
        Self::run(&["ip", "netns", "exec", &format!("{}r", machine.namespace), "nft", &rules]);
        machine
    }

    /// A machine at home whose router lets no UDP out.
    #[track_caller]
    pub fn tcp_machine(&mut self, name: &str, host: u8) -> Machine {
        let machine = self.home_machine(name, host);
        self.cut_off(&machine, "meta l4proto udp");
        machine
    }

    #[track_caller]
    fn machine_behind(&mut self, name: &str, host: u8, rules: &str) -> Machine {
        let home = self.namespace(name);
        self.connect_home(&home, &format!("{name}r"), host, rules, "wan");
        let address = Self::take_up(&home, "wan", host);
        Machine { namespace: home, address }
    }

    /// A router with the public address 5.0.`host`.1, and a link to it in the home, which isn't up yet.
    #[track_caller]
    fn connect_home(&mut self, home: &str, router: &str, host: u8, rules: &str, link: &str) {
        let router = self.namespace(router);
        self.plug_in(&router, host);
        Self::ip(&router, &format!("link add in type veth peer name {link} netns {home}"));
        Self::ip(&router, &format!("address add 192.168.{host}.1/24 dev in"));
        Self::ip(&router, "link set in up");
        Self::run(&["ip", "netns", "exec", &router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]);
        Self::run(&["ip", "netns", "exec", &router, "nft", rules]);
    }

    /// Brings a home's link up, with its address and route.
    #[track_caller]
    fn take_up(home: &str, link: &str, host: u8) -> String {
        let address = format!("192.168.{host}.2");
        Self::ip(home, &format!("address add {address}/24 dev {link}"));
        Self::ip(home, &format!("link set {link} up"));
        Self::ip(home, &format!("route add default via 192.168.{host}.1"));
        address
    }

    /// A second router for a home, that keeps ports as well; [`NatLab::switch_uplink`] goes over to it.
    #[track_caller]
    pub fn add_uplink(&mut self, name: &str, machine: &Machine, host: u8) {
        self.connect_home(&machine.namespace, &format!("{name}s"), host, NAT_RULES, "wan2");
    }

    /// The home leaves its first uplink for its second, at once: what was bound to the first address is of no use any more.
    #[track_caller]
    pub fn switch_uplink(&self, machine: &Machine, host: u8) {
        Self::ip(&machine.namespace, "link set wan down");
        Self::take_up(&machine.namespace, "wan2", host);
    }

    /// Has a home's router drop what `rule` says of packets on their way out, as nftables writes it: `ip daddr 5.0.1.1 meta l4proto udp`.
    #[track_caller]
    pub fn cut_off(&self, home: &Machine, rule: &str) {
        let router = format!("{}r", home.namespace);
        let rule = format!("insert rule ip home forward iifname in {rule} drop");
        Self::run(&["ip", "netns", "exec", &router, "nft", &rule]);
    }

    /// Has a home's router drop what any of the rules says of packets in both directions, until [`NatLab::unblock`].
    #[track_caller]
    pub fn block(&self, home: &Machine, rules: &[&str]) {
        let drops = rules.iter().map(|rule| format!("{rule} drop; ")).collect::<String>();
        let table = format!("table ip blocked {{\n  chain through {{ type filter hook forward priority -10; {drops} }}\n}}");
        Self::run(&["ip", "netns", "exec", &format!("{}r", home.namespace), "nft", &table]);
    }

    /// Ends [`NatLab::block`].
    #[track_caller]
    pub fn unblock(&self, home: &Machine) {
        Self::run(&["ip", "netns", "exec", &format!("{}r", home.namespace), "nft", "delete table ip blocked"]);
    }

    /// Splits the public network: nothing goes between these machines and those, in either direction, and nobody is told.
    #[track_caller]
    pub fn split(&self, these: &[&Machine], those: &[&Machine]) {
        let addresses: Vec<&str> = those.iter().map(|machine| machine.address.as_str()).collect();
        let addresses = addresses.join(", ");
        for machine in these {
            let rules = format!(
                "table ip split {{
  chain in {{ type filter hook input priority 0; ip saddr {{ {addresses} }} drop; }}
  chain out {{ type filter hook output priority 0; ip daddr {{ {addresses} }} drop; }}
}}"
            );
            Self::run(&["ip", "netns", "exec", &machine.namespace, "nft", &rules]);
        }
    }

    /// Ends [`NatLab::split`], for the same machines.
    #[track_caller]
    pub fn rejoin(&self, these: &[&Machine]) {
        for machine in these {
            Self::run(&["ip", "netns", "exec", &machine.namespace, "nft", "delete table ip split"]);
        }
    }

    /// Counts the packets that come to a machine from `address`, from now on: [`NatLab::seen`].
    #[track_caller]
    pub fn watch(&self, machine: &Machine, address: &str) {
        let rules = format!(
            "table ip watch {{
  counter seen {{ }}
  chain in {{ type filter hook input priority -10; ip saddr {address} counter name seen; }}
}}"
        );
        Self::run(&["ip", "netns", "exec", &machine.namespace, "nft", &rules]);
    }

    /// How many packets have come since [`NatLab::watch`].
    ///
    /// # Panics
    /// If nothing is watched there.
    #[track_caller]
    #[must_use]
    pub fn seen(&self, machine: &Machine) -> u64 {
        let list = ["netns", "exec", &machine.namespace, "nft", "list", "counter", "ip", "watch", "seen"];
        let output = Command::new("ip").args(list).output().expect("`ip` runs, as was seen before");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = shown.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no counter: {shown}"))
    }

    /// Whether `from` gets an answer from `address` within a second.
    #[must_use]
    pub fn reaches(&self, from: &Machine, address: &str) -> bool {
        // A TCP connection nobody takes is refused at once where there is a way, and hangs where there is none.
        let script = format!("exec 3<>/dev/tcp/{address}/9");
        let tried = Command::new("ip")
            .args(["netns", "exec", &from.namespace, "timeout", "1", "bash", "-c", &script])
            .output()
            .expect("`ip` runs, as was seen before");
        String::from_utf8_lossy(&tried.stderr).contains("Connection refused")
    }

    /// Connects a namespace to the public network.
    fn plug_in(&self, namespace: &str, host: u8) -> String {
        let public = self.namespaces.first().expect("the public network is made first");
        let address = format!("{PUBLIC}.{host}.1");
        Self::ip(namespace, &format!("link add out type veth peer name p{host} netns {public}"));
        Self::ip(public, &format!("link set p{host} master bridge up"));
        Self::ip(namespace, &format!("address add {address}/16 dev out"));
        Self::ip(namespace, "link set out up");
        address
    }

    #[track_caller]
    fn namespace(&mut self, name: &str) -> String {
        let namespace = format!("{}-{name}", self.prefix);
        let made = Command::new("ip").args(["netns", "add", &namespace]).output().expect("`ip` runs, as was seen before");
        assert!(
            made.status.success(),
            "can't make a network namespace: {}; this test needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)",
            String::from_utf8_lossy(&made.stderr).trim()
        );
        self.namespaces.push(namespace.clone());
        Self::ip(&namespace, "link set lo up");
        namespace
    }

    #[track_caller]
    fn ip(namespace: &str, arguments: &str) {
        let mut command = vec!["ip", "-n", namespace];
        command.extend(arguments.split(' '));
        Self::run(&command);
    }

    #[track_caller]
    fn run(command: &[&str]) {
        let output = Command::new(command[0]).args(&command[1..]).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
}

impl Default for NatLab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for NatLab {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            // Interfaces go with their namespace.
            let _removed = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

/// Masquerading, and no way in for what wasn't asked for.
const NAT_RULES: &str = "
table ip home {
  chain post { type nat hook postrouting priority 100; oifname out masquerade; }
  chain forward { type filter hook forward priority 0; policy drop;
    iifname in accept; ct state established,related accept; }
  chain input { type filter hook input priority 0; policy drop;
    iifname lo accept; iifname in accept; ct state established,related accept; }
}";

#[track_caller]
fn require(program: &str, argument: &str, package: &str) {
    let found = Command::new(program).arg(argument).output();
    assert!(found.is_ok_and(|output| output.status.success()), "`{program}` is missing: install {package} (scripts/setup does)");
}
