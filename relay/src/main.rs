//! `halloo-relay`: reads arguments and the configuration file, sets up logging, serves until a signal comes.
//!
//! Stdout has one line, `ready` with the addresses served, once they are. Exit codes: 0 told to stop, 1 it failed,
//! 2 wrong usage or configuration.

use std::fs;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgAction, Parser, ValueEnum};
use halloo_relay::config::{Config, ConfigFile, Secret, StaticUser};
use halloo_relay::peer_filter::Cidr;
use halloo_relay::quota::ServiceClass;
use halloo_relay::server::{Protocol, Server};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

/// STUN and TURN server: tells clients behind NATs the address they are seen at, and relays for those who can't do without.
///
/// Without users and secrets only STUN is served.
#[derive(Debug, Parser)]
#[command(name = "halloo-relay", version)]
struct Arguments {
    /// Settings in TOML; flags go before them.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// UDP address to serve, several times for several [default: 0.0.0.0:3478 and [::]:3478].
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,

    /// Threads that serve UDP [default: one for each core, 8 at most].
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,

    /// TCP address to serve, several times for several [default: none].
    #[arg(long, value_name = "IP:PORT")]
    listen_tcp: Vec<SocketAddr>,

    /// TLS address to serve, several times for several; wants --tls-cert and --tls-key [default: none].
    #[arg(long, value_name = "IP:PORT")]
    listen_tls: Vec<SocketAddr>,

    /// Certificate chain for TLS, PEM.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Private key for TLS, PEM.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Address of this machine to relay at, once for each family [default: the one listened on].
    #[arg(long, value_name = "IP")]
    relay_ip: Vec<IpAddr>,

    /// The same as peers see it, where a NAT that keeps ports is in between [default: the same].
    #[arg(long, value_name = "IP")]
    external_ip: Vec<IpAddr>,

    /// Relayed ports [default: 49152-65535].
    #[arg(long, value_name = "MIN-MAX", value_parser = ports)]
    ports: Option<(u16, u16)>,

    /// Scope of the credentials [default: halloo].
    #[arg(long, value_name = "TEXT")]
    realm: Option<String>,

    /// A user who may relay, several times for several. Others on this machine can see it: the file is the better place.
    #[arg(long, value_name = "NAME:PASSWORD", value_parser = user)]
    user: Vec<StaticUser>,

    /// Secret of time-limited credentials. Others on this machine can see a flag: a file or the environment is the better place.
    #[arg(long, value_name = "SECRET", env = "HALLOO_RELAY_AUTH_SECRET", hide_env_values = true)]
    auth_secret: Option<String>,

    /// File with secrets of time-limited credentials, one a line.
    #[arg(long, value_name = "FILE")]
    auth_secret_file: Option<PathBuf>,

    /// Address range peers may be in although it isn't public, several times for several.
    #[arg(long, value_name = "CIDR")]
    allow_peer: Vec<Cidr>,

    /// Let peers have any address, loopback and private ones too: only for tests and closed networks.
    #[arg(long)]
    lab: bool,

    /// Lift the limits of bandwidth and packets, of users and in total.
    #[arg(long)]
    unlimited: bool,

    /// How long allocations may go on after SIGTERM; a second signal ends at once [default: 60].
    #[arg(long, value_name = "SECONDS")]
    drain: Option<u32>,

    /// Serve counters for Prometheus at http://IP:PORT/metrics [default: off].
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,

    /// Log more, to stderr; twice: every datagram. RUST_LOG goes before it.
    #[arg(short, action = ArgAction::Count)]
    verbose: u8,

    /// Form of the log on stderr.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Whose fault it is that the program can't go on.
enum Failure {
    Usage(anyhow::Error),
    Operation(anyhow::Error),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(&arguments);
    let (error, code) = match run(arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Operation(error)) => (error, 1),
        Err(Failure::Usage(error)) => (error, 2),
    };
    // A closed stderr leaves nobody to tell. Complaints about TOML end with a line break of their own.
    let _ = writeln!(io::stderr(), "halloo-relay: {}", format!("{error:#}").trim_end());
    ExitCode::from(code)
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let config = configure(arguments).map_err(Failure::Usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime").map_err(Failure::Operation)?;
    runtime.block_on(serve(config)).map_err(Failure::Operation)
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let range = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    range.ok_or_else(|| format!("{text:?} is no range such as 49152-65535"))
}

fn user(text: &str) -> Result<StaticUser, String> {
    // The text isn't repeated: half of it is a password.
    let (name, password) = text.split_once(':').ok_or("a user is NAME:PASSWORD")?;
    Ok(StaticUser { name: name.to_owned(), password: Secret(password.to_owned()), class: ServiceClass::Normal })
}

fn configure(arguments: Arguments) -> anyhow::Result<Config> {
    let mut config = match &arguments.config {
        Some(path) => {
            ConfigFile::read(path).and_then(Config::try_from).with_context(|| format!("configuration {}", path.display()))?
        }
        None => Config::default(),
    };
    replace(&mut config.listen, arguments.listen);
    replace(&mut config.listen_tcp, arguments.listen_tcp);
    replace(&mut config.listen_tls, arguments.listen_tls);
    replace(&mut config.relay_ips, arguments.relay_ip);
    replace(&mut config.external_ips, arguments.external_ip);
    config.tls_certificate = arguments.tls_cert.or(config.tls_certificate);
    config.tls_key = arguments.tls_key.or(config.tls_key);
    config.threads = arguments.threads.unwrap_or(config.threads);
    config.ports = arguments.ports.unwrap_or(config.ports);
    config.realm = arguments.realm.unwrap_or(config.realm);
    config.users.extend(arguments.user);
    config.auth_secrets.extend(arguments.auth_secret.map(Secret));
    if let Some(path) = &arguments.auth_secret_file {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        config.auth_secrets.extend(text.lines().filter(|line| !line.is_empty()).map(|line| Secret(line.to_owned())));
    }
    config.allowed_peers.extend(arguments.allow_peer);
    config.is_lab |= arguments.lab;
    if arguments.unlimited {
        config.limits.user_bytes_per_sec = 0;
        config.limits.user_packets_per_sec = 0;
        config.limits.total_bytes_per_sec = 0;
        config.limits.total_packets_per_sec = 0;
    }
    config.drain = arguments.drain.map_or(config.drain, |secs| Duration::from_secs(u64::from(secs)));
    config.metrics = arguments.metrics.or(config.metrics);
    config.check()?;
    Ok(config)
}

/// What the command line names takes the place of what the file names.
fn replace<T>(setting: &mut Vec<T>, given: Vec<T>) {
    if !given.is_empty() {
        *setting = given;
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before "ready", so that whoever waits for it can already send the signal.
    let (shutdown, again) = signals().context("cannot wait for signals")?;
    let server = Server::bind(config)?;
    announce(&server).context("cannot write to stdout")?;
    let metrics = server.metrics();
    tokio::select! {
        result = server.run(shutdown) => result?,
        () = again => {}
    }
    info!(totals = ?metrics.snapshot(), "stopped");
    Ok(())
}

/// One line, addresses as URIs (RFC 7064, RFC 7065): `ready stun:192.0.2.7:3478 turn:192.0.2.7:3478 turns:192.0.2.7:5349?transport=tcp`.
fn announce(server: &Server) -> io::Result<()> {
    let mut line = String::from("ready");
    let schemes: &[&str] = if server.serves_turn() { &["stun", "turn"] } else { &["stun"] };
    for (protocol, address) in server.endpoints() {
        let (secure, transport) = match protocol {
            Protocol::Udp => ("", ""),
            Protocol::Tcp => ("", "?transport=tcp"),
            Protocol::Tls => ("s", "?transport=tcp"),
        };
        for scheme in schemes {
            line += &format!(" {scheme}{secure}:{address}{transport}");
        }
    }
    if let Some(address) = server.metrics_address() {
        line += &format!(" http://{address}/metrics");
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// The first signal to stop, and the second one.
fn signals() -> io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (second, mut seconds) = tokio::sync::watch::channel(0_u8);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                Some(()) = terminate.recv() => "SIGTERM",
                Some(()) = interrupt.recv() => "SIGINT",
                else => return,
            };
            info!("told to stop by {name}");
            second.send_modify(|count| *count = count.saturating_add(1));
        }
    });
    let mut firsts = seconds.clone();
    // The sender lives as long as signals can come.
    let first = async move { drop(firsts.wait_for(|count| *count >= 1).await) };
    let again = async move { drop(seconds.wait_for(|count| *count >= 2).await) };
    Ok((first, again))
}

fn start_logging(arguments: &Arguments) {
    let level = match arguments.verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match arguments.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
