//! Settings: [`Config`] for embedders, [`ConfigFile`] for the TOML file that `halloo-relay --config` reads.
//!
//! The file may leave out everything; what it names and isn't known is an error, so that a misspelt limit isn't silently
//! without effect. `halloo-relay.toml` beside this crate's `Cargo.toml` shows every key with its default.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::auth::credentials::SECRETS_MAX;
use crate::auth::{Credentials, Users};
use crate::defaults;
use crate::handler::REALM_BYTES_MAX;
use crate::peer_filter::Cidr;
use crate::quota::{Limits, RateLimit, ServiceClass};

/// A text that isn't printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A user with a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticUser {
    /// The name.
    pub name: String,
    /// The password.
    pub password: Secret,
    /// When it gets tight.
    pub class: ServiceClass,
}

/// A certificate and its key for TLS, both DER. Debug output hides the key.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate.
    pub certificate: Vec<u8>,
    /// The private key, PKCS #8.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").field("certificate", &self.certificate.len()).field("key", &"..").finish()
    }
}

/// How a server behaves.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// UDP addresses to serve, all of which have to be free. Empty: [`defaults::LISTEN`], less the families the machine
    /// doesn't have. Port 0 takes a free port.
    pub listen: Vec<SocketAddr>,
    /// Threads that serve UDP, each with a socket at each address. Default: one for each core, [`defaults::THREADS_MAX`] at most.
    pub threads: NonZeroUsize,
    /// Whether UDP is received and sent in batches, by threads of its own. Only on Linux; elsewhere, and without it, each packet
    /// takes a call, and everything is done by the runtime that [`Server::run`](crate::server::Server::run) runs in.
    pub is_batched: bool,
    /// TCP addresses to serve. Default: none.
    pub listen_tcp: Vec<SocketAddr>,
    /// TLS addresses to serve. Default: none.
    pub listen_tls: Vec<SocketAddr>,
    /// Certificate chain for TLS, a PEM file.
    pub tls_certificate: Option<PathBuf>,
    /// Private key for TLS, a PEM file.
    pub tls_key: Option<PathBuf>,
    /// Certificate and key for TLS that an embedder has at hand, instead of the two files.
    pub tls_identity: Option<TlsIdentity>,
    /// Addresses of this machine to relay at, the first of each family. Empty: those listened on.
    pub relay_ips: Vec<IpAddr>,
    /// The same as peers see them, where a NAT is in between. Empty: the same.
    pub external_ips: Vec<IpAddr>,
    /// First and last relayed port.
    pub ports: (u16, u16),
    /// Scope of the credentials.
    pub realm: String,
    /// Users with passwords. With neither users nor secrets it is a STUN server.
    pub users: Vec<StaticUser>,
    /// Secrets of those who make time-limited credentials.
    pub auth_secrets: Vec<Secret>,
    /// For tests and closed networks: peers may have any address of a single machine.
    pub is_lab: bool,
    /// Ranges peers may be in although they aren't public.
    pub allowed_peers: Vec<Cidr>,
    /// Ranges peers may not be in.
    pub refused_peers: Vec<Cidr>,
    /// TCP address to serve counters at, as `http://ADDRESS/metrics`. Anyone who reaches it can read them. Default: none.
    pub metrics: Option<SocketAddr>,
    /// What users may use.
    pub limits: Limits,
    /// How often one source address is answered before it is known who it is.
    pub rate_limit: RateLimit,
    /// Source addresses remembered for that: 32 bytes each.
    pub sources_max: u32,
    /// TCP and TLS connections at a time.
    pub streams_max: u32,
    /// TCP and TLS connections of one address at a time.
    pub streams_per_address_max: u32,
    /// Longest time an allocation lasts without a refresh.
    pub lifetime_max: Duration,
    /// How long a nonce is good.
    pub nonce_lifetime: Duration,
    /// How long allocations may go on after the server was told to stop.
    pub drain: Duration,
    /// Where new clients are sent meanwhile.
    pub alternate: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            threads: defaults::threads(),
            is_batched: true,
            listen_tcp: Vec::new(),
            listen_tls: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            tls_identity: None,
            relay_ips: Vec::new(),
            external_ips: Vec::new(),
            ports: defaults::RELAYED_PORTS,
            realm: defaults::REALM.to_owned(),
            users: Vec::new(),
            auth_secrets: Vec::new(),
            is_lab: false,
            allowed_peers: Vec::new(),
            refused_peers: Vec::new(),
            metrics: None,
            limits: Limits::default(),
            rate_limit: RateLimit { per_sec: defaults::RESPONSES_PER_SOURCE_PER_SEC, burst: defaults::RESPONSE_BURST_PER_SOURCE },
            sources_max: defaults::SOURCES_MAX,
            streams_max: defaults::STREAMS_MAX,
            streams_per_address_max: defaults::STREAMS_PER_ADDRESS_MAX,
            lifetime_max: defaults::LIFETIME_MAX,
            nonce_lifetime: defaults::NONCE_LIFETIME,
            drain: defaults::DRAIN,
            alternate: None,
        }
    }
}

impl Config {
    /// Whether anybody may allocate.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        !self.users.is_empty() || !self.auth_secrets.is_empty()
    }

    /// The users and secrets as an [`Authenticator`](crate::auth::Authenticator).
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        let mut users = Users::new(&self.realm);
        for user in &self.users {
            users.insert(&user.name, &user.password.0, user.class);
        }
        Credentials::new(users, self.auth_secrets.iter().map(|secret| secret.0.clone().into_bytes()))
    }

    /// Whether what was set goes together.
    ///
    /// # Errors
    /// [`ConfigError`] names what doesn't.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.realm.is_empty() || self.realm.len() > REALM_BYTES_MAX {
            return Err(ConfigError::Realm { bytes: self.realm.len() });
        }
        if self.ports.0 == 0 || self.ports.0 > self.ports.1 {
            return Err(ConfigError::Ports { first: self.ports.0, last: self.ports.1 });
        }
        if self.auth_secrets.len() > SECRETS_MAX {
            return Err(ConfigError::TooManySecrets { count: self.auth_secrets.len() });
        }
        if self.auth_secrets.iter().any(|secret| secret.0.is_empty()) {
            return Err(ConfigError::EmptySecret);
        }
        if let Some(user) = self.users.iter().find(|user| user.name.is_empty() || user.password.0.is_empty()) {
            return Err(ConfigError::User { name: user.name.clone() });
        }
        if self.limits.allocations_max > ALLOCATIONS_MAX_MAX {
            return Err(ConfigError::TooManyAllocations { value: self.limits.allocations_max });
        }
        if self.sources_max > SOURCES_MAX_MAX {
            return Err(ConfigError::TooManySources { value: self.sources_max });
        }
        let has_files = self.tls_certificate.is_some() && self.tls_key.is_some();
        if !self.listen_tls.is_empty() && !has_files && self.tls_identity.is_none() {
            return Err(ConfigError::TlsIncomplete);
        }
        Ok(())
    }
}

/// Most threads a file may ask for: no machine this is for has more cores.
const THREADS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("256 isn't 0");

/// The file format. Keys are those of the TOML file; what isn't there keeps its default.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// [`Config::listen`].
    pub listen: Vec<SocketAddr>,
    /// [`Config::threads`].
    pub threads: Option<NonZeroUsize>,
    /// [`Config::is_batched`].
    pub batched: Option<bool>,
    /// [`Config::listen_tcp`].
    pub listen_tcp: Vec<SocketAddr>,
    /// [`Config::metrics`].
    pub metrics: Option<SocketAddr>,
    /// Table `[tls]`.
    pub tls: TlsTable,
    /// Table `[turn]`.
    pub turn: TurnTable,
    /// Table `[peers]`.
    pub peers: PeersTable,
    /// Table `[limits]`.
    pub limits: LimitsTable,
}

/// Table `[tls]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsTable {
    /// [`Config::listen_tls`].
    pub listen: Vec<SocketAddr>,
    /// [`Config::tls_certificate`].
    pub certificate: Option<PathBuf>,
    /// [`Config::tls_key`].
    pub key: Option<PathBuf>,
}

/// Table `[turn]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TurnTable {
    /// [`Config::realm`].
    pub realm: Option<String>,
    /// [`Config::relay_ips`].
    pub relay_ips: Vec<IpAddr>,
    /// [`Config::external_ips`].
    pub external_ips: Vec<IpAddr>,
    /// First of [`Config::ports`].
    pub port_first: Option<u16>,
    /// Last of [`Config::ports`].
    pub port_last: Option<u16>,
    /// [`Config::users`].
    pub users: Vec<UserTable>,
    /// [`Config::auth_secrets`].
    pub auth_secrets: Vec<Secret>,
    /// [`Config::lifetime_max`].
    pub lifetime_max_secs: Option<NonZeroU32>,
    /// [`Config::nonce_lifetime`].
    pub nonce_lifetime_secs: Option<NonZeroU32>,
    /// [`Config::drain`].
    pub drain_secs: Option<u32>,
    /// [`Config::alternate`].
    pub alternate: Option<SocketAddr>,
}

/// One user of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserTable {
    /// [`StaticUser::name`].
    pub name: String,
    /// [`StaticUser::password`].
    pub password: Secret,
    /// [`StaticUser::class`].
    #[serde(default)]
    pub class: ServiceClass,
}

/// Table `[peers]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeersTable {
    /// [`Config::is_lab`].
    pub lab: bool,
    /// [`Config::allowed_peers`].
    pub allowed: Vec<Cidr>,
    /// [`Config::refused_peers`].
    pub refused: Vec<Cidr>,
}

/// Table `[limits]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsTable {
    /// [`RateLimit::per_sec`].
    pub responses_per_source_per_sec: Option<NonZeroU32>,
    /// [`RateLimit::burst`].
    pub response_burst_per_source: Option<NonZeroU32>,
    /// [`Config::sources_max`].
    pub sources_max: Option<NonZeroU32>,
    /// [`Limits::allocations_max`].
    pub allocations_max: Option<u32>,
    /// [`Limits::allocations_per_user_max`].
    pub allocations_per_user_max: Option<u32>,
    /// [`Limits::allocations_per_address_max`].
    pub allocations_per_address_max: Option<u32>,
    /// [`Limits::permissions_max`].
    pub permissions_max: Option<u32>,
    /// [`Limits::channels_max`].
    pub channels_max: Option<u32>,
    /// [`Limits::user_bytes_per_sec`].
    pub user_bytes_per_sec: Option<u64>,
    /// [`Limits::user_packets_per_sec`].
    pub user_packets_per_sec: Option<u64>,
    /// [`Limits::address_bytes_per_sec`].
    pub address_bytes_per_sec: Option<u64>,
    /// [`Limits::address_packets_per_sec`].
    pub address_packets_per_sec: Option<u64>,
    /// [`Limits::total_bytes_per_sec`].
    pub total_bytes_per_sec: Option<u64>,
    /// [`Limits::total_packets_per_sec`].
    pub total_packets_per_sec: Option<u64>,
    /// [`Config::streams_max`].
    pub streams_max: Option<u32>,
    /// [`Config::streams_per_address_max`].
    pub streams_per_address_max: Option<u32>,
}

/// Most source addresses a file may ask to remember: 512 MiB for each socket, beyond which a slip of the finger is likelier.
const SOURCES_MAX_MAX: u32 = 1 << 24;

/// Most allocations: each has a port of its own.
const ALLOCATIONS_MAX_MAX: u32 = 65_535;

/// Why a configuration can't be used: all of these are its writer's to mend.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key or a value of the wrong kind.
    #[error(transparent)]
    Format(#[from] toml::de::Error),
    /// More memory than can be meant.
    #[error("limits.sources_max is {value}, at most {SOURCES_MAX_MAX} are possible")]
    TooManySources {
        /// The value.
        value: u32,
    },
    /// More allocations than ports.
    #[error("limits.allocations_max is {value}, at most {ALLOCATIONS_MAX_MAX} are possible")]
    TooManyAllocations {
        /// The value.
        value: u32,
    },
    /// No realm, or one too long for short answers.
    #[error("turn.realm has {bytes} bytes, 1 to {REALM_BYTES_MAX} are possible")]
    Realm {
        /// Its length.
        bytes: usize,
    },
    /// No range of ports.
    #[error("relayed ports {first} to {last} are no range")]
    Ports {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// More than are tried.
    #[error("turn.auth_secrets has {count} secrets, at most {SECRETS_MAX} are possible")]
    TooManySecrets {
        /// How many.
        count: usize,
    },
    /// A secret everybody knows.
    #[error("an auth secret is empty")]
    EmptySecret,
    /// No name or no password.
    #[error("user {name:?} needs a name and a password")]
    User {
        /// The name.
        name: String,
    },
    /// TLS addresses without what they need.
    #[error("tls is to be served and needs both a certificate and a key (tls.certificate, tls.key)")]
    TlsIncomplete,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError::Read`] or [`ConfigError::Format`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`ConfigError::Format`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Ok(toml::from_str(text)?)
    }
}

impl TryFrom<ConfigFile> for Config {
    type Error = ConfigError;

    fn try_from(file: ConfigFile) -> Result<Self, ConfigError> {
        let default = Self::default();
        let (turn, given) = (file.turn, file.limits);
        let secs = |value: Option<NonZeroU32>, default: Duration| {
            value.map_or(default, |secs| Duration::from_secs(u64::from(secs.get())))
        };
        let users = turn.users.into_iter().map(|user| StaticUser { name: user.name, password: user.password, class: user.class });
        let config = Self {
            listen: file.listen,
            threads: file.threads.map_or(default.threads, |threads| threads.min(THREADS_MAX)),
            is_batched: file.batched.unwrap_or(default.is_batched),
            listen_tcp: file.listen_tcp,
            listen_tls: file.tls.listen,
            tls_certificate: file.tls.certificate,
            tls_key: file.tls.key,
            tls_identity: None,
            relay_ips: turn.relay_ips,
            external_ips: turn.external_ips,
            ports: (turn.port_first.unwrap_or(default.ports.0), turn.port_last.unwrap_or(default.ports.1)),
            realm: turn.realm.unwrap_or(default.realm),
            users: users.collect(),
            auth_secrets: turn.auth_secrets,
            is_lab: file.peers.lab,
            allowed_peers: file.peers.allowed,
            refused_peers: file.peers.refused,
            metrics: file.metrics,
            limits: limits(&given, default.limits),
            rate_limit: RateLimit {
                per_sec: given.responses_per_source_per_sec.map_or(default.rate_limit.per_sec, NonZeroU32::get),
                burst: given.response_burst_per_source.map_or(default.rate_limit.burst, NonZeroU32::get),
            },
            sources_max: given.sources_max.map_or(default.sources_max, NonZeroU32::get),
            streams_max: given.streams_max.unwrap_or(default.streams_max),
            streams_per_address_max: given.streams_per_address_max.unwrap_or(default.streams_per_address_max),
            lifetime_max: secs(turn.lifetime_max_secs, default.lifetime_max),
            nonce_lifetime: secs(turn.nonce_lifetime_secs, default.nonce_lifetime),
            drain: turn.drain_secs.map_or(default.drain, |secs| Duration::from_secs(u64::from(secs))),
            alternate: turn.alternate,
        };
        config.check()?;
        Ok(config)
    }
}

fn limits(given: &LimitsTable, default: Limits) -> Limits {
    Limits {
        allocations_max: given.allocations_max.unwrap_or(default.allocations_max),
        allocations_per_user_max: given.allocations_per_user_max.unwrap_or(default.allocations_per_user_max),
        allocations_per_address_max: given.allocations_per_address_max.unwrap_or(default.allocations_per_address_max),
        permissions_max: given.permissions_max.unwrap_or(default.permissions_max),
        channels_max: given.channels_max.unwrap_or(default.channels_max),
        user_bytes_per_sec: given.user_bytes_per_sec.unwrap_or(default.user_bytes_per_sec),
        user_packets_per_sec: given.user_packets_per_sec.unwrap_or(default.user_packets_per_sec),
        address_bytes_per_sec: given.address_bytes_per_sec.unwrap_or(default.address_bytes_per_sec),
        address_packets_per_sec: given.address_packets_per_sec.unwrap_or(default.address_packets_per_sec),
        total_bytes_per_sec: given.total_bytes_per_sec.unwrap_or(default.total_bytes_per_sec),
        total_packets_per_sec: given.total_packets_per_sec.unwrap_or(default.total_packets_per_sec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, ConfigError> {
        ConfigFile::parse(text)?.try_into()
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(config("").unwrap(), Config::default());
    }

    #[test]
    fn the_sample_shows_the_defaults() {
        let sample = config(include_str!("../halloo-relay.toml")).unwrap();
        assert_eq!(sample, Config { listen: defaults::LISTEN.to_vec(), ..Config::default() });
    }

    #[test]
    fn values_are_taken() {
        let text = "listen = ['192.0.2.1:1']\nlisten_tcp = ['192.0.2.1:3']\nmetrics = '127.0.0.1:2'\n\
            [limits]\nresponses_per_source_per_sec = 3\nsources_max = 4\nuser_bytes_per_sec = 0\n\
            [turn]\nrealm = 'r'\nusers = [{ name = 'ann', password = 'p', class = 'first' }]\nauth_secrets = ['s']\nport_first = 5\n\
            drain_secs = 0\n[peers]\nlab = true\nallowed = ['10.0.0.0/8']";
        let config = config(text).unwrap();
        assert_eq!(config.listen, ["192.0.2.1:1".parse().unwrap()]);
        assert_eq!(config.listen_tcp, ["192.0.2.1:3".parse().unwrap()]);
        assert_eq!(config.metrics, Some("127.0.0.1:2".parse().unwrap()));
        assert_eq!(config.rate_limit, RateLimit { per_sec: 3, burst: defaults::RESPONSE_BURST_PER_SOURCE });
        assert_eq!((config.sources_max, config.limits.user_bytes_per_sec, config.ports), (4, 0, (5, 65_535)));
        assert_eq!((&*config.users[0].name, config.users[0].class), ("ann", ServiceClass::First));
        assert!(config.is_lab && config.has_credentials() && config.drain.is_zero());
    }

    #[test]
    fn what_is_unknown_or_impossible_is_refused_by_name() {
        for (text, named) in [
            ("lissten = []", "lissten"),
            ("realm = 'example.org'", "realm"),
            ("[limits]\nresponses_per_sec = 1", "responses_per_sec"),
            ("[limits]\nresponse_burst_per_source = 0", "response_burst_per_source"),
            ("listen = ['localhost']", "listen"),
            ("[limits]\nsources_max = 4_000_000_000", "sources_max"),
            ("[limits]\nallocations_max = 65_536", "allocations_max"),
            ("[turn]\nrealm = ''", "realm"),
            ("[turn]\nport_first = 9\nport_last = 8", "9 to 8"),
            ("[turn]\nusers = [{ name = 'ann' }]", "password"),
            ("[turn]\nusers = [{ name = 'ann', password = '' }]", "ann"),
            ("[turn]\nusers = [{ name = 'ann', password = 'p', class = 'best' }]", "best"),
            ("[turn]\nauth_secrets = ['']", "empty"),
            ("[turn]\nauth_secrets = ['1', '2', '3', '4', '5']", "5 secrets"),
            ("[peers]\nallowed = ['10.0.0.0/33']", "10.0.0.0/33"),
            ("[tls]\nlisten = ['127.0.0.1:0']", "certificate"),
        ] {
            let error = config(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = config("[turn]\nusers = [{ name = 'ann', password = 'hidden' }]\nauth_secrets = ['hidden']").unwrap();
        assert!(!format!("{config:?}").contains("hidden"));
    }
}
