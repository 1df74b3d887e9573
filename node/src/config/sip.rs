//! `[sip]`: the edge for ordinary phones.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::trunk::{DiallingConfig, TrunkConfig};

/// Settings of the SIP edge. Without an address it doesn't run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SipConfig {
    /// Where phones connect by UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Where phones connect by TLS; needs a certificate and its key.
    pub listen_tls: Vec<SocketAddr>,
    /// The certificate chain, a PEM file.
    pub certificate: Option<PathBuf>,
    /// The certificate's key, a PEM file.
    pub key: Option<PathBuf>,
    /// This machine's address from outside, where ports are forwarded to it.
    pub external: Option<IpAddr>,
    /// The first UDP port for phones' media, and how many follow.
    pub media_port: Option<u16>,
    /// See [`SipConfig::media_port`].
    pub media_ports: Option<u16>,
    /// The account that is the gateway to the telephone network, `name@authority`: a user for this alone.
    pub telephone: Option<String>,
    /// How numbers are dialled where the gateway is.
    pub dialling: DiallingConfig,
    /// Accounts at telephone providers, by name.
    pub trunk: BTreeMap<String, TrunkConfig>,
    /// The gateway that wakes phones' apps (RFC 8599), as peer id or multiaddress; without it the account's own, or one that is known.
    pub push_gateway: Option<String>,
}

impl SipConfig {
    /// Files seen from the home.
    #[must_use]
    pub fn seen_from(mut self, home: &Path) -> Self {
        for file in [&mut self.certificate, &mut self.key] {
            *file = file.take().map(|file| home.join(file));
        }
        for trunk in self.trunk.values_mut() {
            for file in [&mut trunk.password_file, &mut trunk.roots] {
                *file = file.take().map(|file| home.join(file));
            }
        }
        self
    }

    /// Whether there is anything to listen on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.listen.is_empty() || !self.listen_tls.is_empty()
    }
}
