//! The log: to stderr only.

use std::io;

use tracing_subscriber::EnvFilter;

/// What other crates say at every step of theirs, and would drown what the node says.
const QUIET: &str = "turn_client_proto=warn,stun_proto=warn,turn_types=warn";

/// How much, and in which form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) verbose: u8,
    pub(super) json: bool,
}

/// Starts logging. A daemon logs its life, a client only what is wrong; `RUST_LOG` wins.
pub(super) fn start(settings: Settings, is_daemon: bool) {
    let level = match (settings.verbose, is_daemon) {
        (0, false) => "error",
        (0, true) => "warn,halloo=info",
        (1, _) => "info,halloo=debug",
        _ => "debug,halloo=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},{QUIET}")));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Started before: then another part of this process logs already, as in tests.
    let _before = if settings.json { subscriber.json().try_init() } else { subscriber.with_ansi(is_terminal()).try_init() };
}

fn is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
}
