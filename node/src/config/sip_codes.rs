//! `[authority.sip]`: how an authority's codes reach SIP addresses.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A SIP account that codes are sent from, and its server, which passes them on to the addresses of the domains that are named. The authority speaks to no other.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SipCodesConfig {
    /// `HOST:PORT`; the port is 5061 if it isn't said, and 5060 without TLS.
    pub server: String,
    /// TLS from the first byte. Without it only a server on this machine is spoken to.
    #[serde(default = "yes")]
    pub tls: bool,
    /// A PEM file with certificates trusted besides Mozilla's list.
    pub roots: Option<PathBuf>,
    /// The domains of the addresses that codes are sent to, as the addresses write them, with a port where they have one.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Whom codes are from: `halloo@example.org`.
    pub from: String,
    /// The name that goes with the password, if it is another than the one in `from`.
    pub user: Option<String>,
    /// A file with the password alone, readable by its owner alone.
    pub password_file: Option<PathBuf>,
}

const fn yes() -> bool {
    true
}

impl SipCodesConfig {
    /// Relative paths are seen from `home`.
    #[must_use]
    pub fn seen_from(mut self, home: &Path) -> Self {
        self.password_file = self.password_file.as_ref().map(|path| home.join(path));
        self.roots = self.roots.as_ref().map(|path| home.join(path));
        self
    }
}
