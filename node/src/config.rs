//! The configuration file `config.toml`: what an operator sets once.
//!
//! Everything has a default; flags of `halloo run` win over the file. `halloo init` writes a
//! commented sample. Unknown keys are refused, so that a typing error is noticed.

mod gateway;
mod linked;
mod mail;
mod phone;
mod sensor;
mod sip;
mod sip_codes;
mod trunk;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use gateway::{ApnsConfig, DatabaseUrl, FcmConfig, GatewayConfig, SmsConfig};
pub(crate) use linked::PROVIDERS_MAX;
pub use linked::{ContactIdKind, ContactsConfig, LinkedConfig, ProviderConfig};
pub(crate) use mail::ACCOUNTS_MAX as MAIL_ACCOUNTS_MAX;
pub use mail::{MailAccount, MailConfig, SmtpConfig};
pub use phone::PhoneConfig;
pub use sensor::SensorConfig;
pub use sip::SipConfig;
pub use sip_codes::SipCodesConfig;
pub use trunk::{DiallingConfig, PrefixConfig, TrunkConfig, TrunkTransport};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on; empty: the node's defaults.
    pub listen: Vec<Multiaddr>,
    /// Nodes to join the network through, beside those already known.
    pub bootstrap: Vec<Multiaddr>,
    /// Roles to take whatever the node would decide by itself.
    pub roles: Vec<Role>,
    /// A local network or a test; see `halloo run --lab`.
    pub lab: bool,
    /// A PEM file with certificates trusted besides Mozilla's list where others are reached at `/tls/ws`.
    pub roots: Option<PathBuf>,
    /// Whether to look for peers on the local network by multicast.
    pub mdns: Option<bool>,
    /// Whether to ask the home router for a port.
    pub upnp: Option<bool>,
    /// Whether direct addresses are published for everybody who knows the name.
    pub publish_addresses: bool,
    /// Authorities by label: root keys.
    pub authorities: BTreeMap<String, RootKey>,
    /// Who the user is to others.
    pub profile: ProfileConfig,
    /// Who may do what, until `halloo privacy set` says otherwise.
    pub privacy: crate::handle::contacts::PrivacyChange,
    /// Calls.
    pub calls: CallsConfig,
    /// Files from others.
    pub files: FilesConfig,
    /// What this device is to the user's others.
    pub device: DeviceConfig,
    /// For whom this node relays, and how much.
    pub relay: RelayConfig,
    /// Settings of the authority role.
    pub authority: AuthorityConfig,
    /// Settings of the gateway role.
    pub gateway: GatewayConfig,
    /// Where this device's usage and nearness come from by themselves.
    pub sensor: SensorConfig,
    /// Mail accounts that are watched for this user's devices.
    pub mail: MailConfig,
    /// Whose word is taken for who somebody is in another system.
    pub linked: LinkedConfig,
    /// The edge for SIP phones.
    pub sip: SipConfig,
    /// Where the local API listens.
    pub api: ApiConfig,
    /// Where metrics are served, `IP:PORT`.
    pub metrics: Option<std::net::SocketAddr>,
    /// Switches for tests.
    pub debug: DebugConfig,
}

/// Switches for tests; none of them belongs on a real node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DebugConfig {
    /// Seconds added to the machine's clock, to see what a wrong clock does.
    pub clock_skew_secs: i64,
    /// How long certificates of devices linked here last, from an hour ago on; `None`: a year. To see them renewed.
    pub linked_certificate_secs: Option<u64>,
    /// With the gateway role: pushes are accepted and not brought, to see who finds out.
    pub gateway_drops: bool,
}

/// Who the user is to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileConfig {
    /// A name in any script; not unique.
    pub display_name: Option<String>,
    /// Languages the user reads, best first (BCP 47).
    pub languages: Vec<String>,
}

/// What this device is to the user's others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceConfig {
    /// Its name.
    pub name: Option<String>,
    /// Its kind.
    pub kind: Option<DeviceKind>,
}

/// Calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallsConfig {
    /// Whether a call rings while this device is in another; else the caller is told that it is busy.
    pub ring_when_busy: bool,
    /// Users whose calls ring although the user doesn't wish to be disturbed.
    pub may_disturb: Vec<String>,
    /// Media goes through a relay only, in calls out and in, so that the other end doesn't learn this device's addresses from it.
    pub relayed_only: bool,
    /// The gateway that calls to telephone numbers go through, `name@authority`; `None`: the one of `[sip]`, if there is one.
    pub telephone: Option<String>,
}

/// Files from others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilesConfig {
    /// Where files land for which no place is named, seen from the home; `None`: the platform's directory for downloads, or `files` in the home.
    pub directory: Option<PathBuf>,
    /// Bytes a second that are fetched at most, all files together; `None`: as the path allows.
    pub bytes_per_sec_max: Option<u64>,
    /// Bytes of files fetched through relays in an hour, when there is no direct path.
    pub relayed_bytes_per_hour: u64,
}

impl Default for FilesConfig {
    fn default() -> Self {
        // Three quarters of what a circuit carries by default, in the time it lasts: the rest of it is for messages.
        Self {
            directory: None,
            bytes_per_sec_max: None,
            relayed_bytes_per_hour: crate::circuits::RelayLimits::default().circuit_bytes / 4 * 3,
        }
    }
}

/// For whom this node relays, and how much.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelayConfig {
    /// For whom.
    #[serde(rename = "for")]
    pub relay_for: RelayPolicy,
    /// Peers that hold a reservation at the same time.
    pub reservations_max: u32,
    /// Circuits open at the same time.
    pub circuits_max: u32,
    /// How long one circuit may last.
    pub circuit_secs_max: u32,
    /// How much one circuit may carry, both directions together.
    pub circuit_bytes_max: u64,
    /// UDP addresses at which media is relayed (TURN), one or a list; empty: the node's defaults.
    #[serde(deserialize_with = "one_or_more")]
    pub media_listen: Vec<std::net::SocketAddr>,
    /// Addresses at which media is relayed over TLS, one or a list; empty: the node's defaults.
    #[serde(deserialize_with = "one_or_more")]
    pub media_listen_tls: Vec<std::net::SocketAddr>,
    /// This machine's addresses as others see them, where ports are forwarded through a NAT.
    pub media_external: Vec<std::net::IpAddr>,
    /// Bytes of media a second, all users together.
    pub media_bytes_per_sec_max: u64,
    /// Addresses lent for media at the same time.
    pub media_allocations_max: u32,
    /// How long calls that are relayed may go on when the node shuts down.
    pub media_drain_secs: u32,
}

impl Default for RelayConfig {
    fn default() -> Self {
        let signalling = crate::circuits::RelayLimits::default();
        Self {
            relay_for: RelayPolicy::Off,
            reservations_max: u32::try_from(signalling.reservations).unwrap_or(u32::MAX),
            circuits_max: u32::try_from(signalling.circuits).unwrap_or(u32::MAX),
            circuit_secs_max: u32::try_from(signalling.circuit_duration.as_secs()).unwrap_or(u32::MAX),
            circuit_bytes_max: signalling.circuit_bytes,
            media_listen: Vec::new(),
            media_listen_tls: Vec::new(),
            media_external: Vec::new(),
            // A quarter of a good home connection's uplink: some 150 voice calls.
            media_bytes_per_sec_max: 3_000_000,
            media_allocations_max: 1_000,
            media_drain_secs: crate::roles::relay::MediaRelayConfig::DRAIN.as_secs() as u32,
        }
    }
}

/// Settings of the authority role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorityConfig {
    /// The label the authority calls itself, used in invites.
    pub name: Option<String>,
    /// Who may enrol; `None`: who has an invite.
    pub enrolment: Option<crate::handle::authority::EnrolmentPolicy>,
    /// The mail server by which codes are sent to addresses; `None`: none are.
    pub mail: Option<SmtpConfig>,
    /// What codes are sent to telephones by, and to which; `None`: none are.
    pub phone: Option<PhoneConfig>,
    /// What codes are sent to SIP addresses by; `None`: none are.
    pub sip: Option<SipCodesConfig>,
}

/// Where the local API listens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// `unix:PATH` or `IP:PORT`; `None`: a socket in the home.
    pub listen: Option<ApiAddress>,
}

/// What a node can serve to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Holds directory records.
    Directory,
    /// Relays circuits and media.
    Relay,
    /// Wakes sleeping devices, and keeps their messages.
    Gateway,
    /// Keeps messages for devices that aren't there.
    Mailbox,
    /// Gives out usernames.
    Authority,
}

impl Role {
    /// The role's name on the command line and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Relay => "relay",
            Self::Gateway => "gateway",
            Self::Mailbox => "mailbox",
            Self::Authority => "authority",
        }
    }
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeviceKind {
    /// A telephone: sleeps, runs on battery.
    Phone,
    /// A tablet.
    Tablet,
    /// A laptop.
    Laptop,
    /// A desktop computer.
    Desktop,
    /// A machine that is always on.
    Server,
}

impl DeviceKind {
    /// The kind's name on the command line and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Tablet => "tablet",
            Self::Laptop => "laptop",
            Self::Desktop => "desktop",
            Self::Server => "server",
        }
    }
}

/// For whom a node relays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RelayPolicy {
    /// Nobody.
    #[default]
    Off,
    /// The user's contacts.
    Contacts,
    /// Everyone.
    Everyone,
}

impl RelayPolicy {
    /// The policy's name on the command line and in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Contacts => "contacts",
            Self::Everyone => "everyone",
        }
    }
}

/// An authority's root key: 32 bytes, written `ed25519:` and base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootKey(pub [u8; 32]);

/// `NAME=KEY`, as `halloo run --authority` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAuthority {
    /// This node's label for the authority.
    pub name: String,
    /// Its root key.
    pub key: RootKey,
}

/// Where the local API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiAddress {
    /// A Unix socket; access by file mode.
    Unix(PathBuf),
    /// TCP; access by token.
    Tcp(std::net::SocketAddr),
}

/// A value in the file or on the command line can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ValueError(String);

const KEY_PREFIX: &str = "ed25519:";

impl FromStr for RootKey {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bytes = text
            .strip_prefix(KEY_PREFIX)
            .and_then(|encoded| data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?.try_into().ok());
        bytes.map(Self).ok_or_else(|| ValueError(format!("a key is `{KEY_PREFIX}` and 43 characters of base64url")))
    }
}

impl fmt::Display for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KEY_PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NamedAuthority {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, key) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty() && !name.contains('@'))
            .ok_or_else(|| ValueError("an authority is written NAME=KEY".to_owned()))?;
        Ok(Self { name: name.to_owned(), key: key.parse()? })
    }
}

impl FromStr for ApiAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(ValueError("unix: needs a path".to_owned())),
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None => text.parse().map(Self::Tcp).map_err(|_| ValueError("an API address is unix:PATH or IP:PORT".to_owned())),
        }
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

macro_rules! deserialize_from_str {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

deserialize_from_str!(RootKey, ApiAddress);

/// A value, or a list of values.
fn one_or_more<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore<T> {
        One(T),
        More(Vec<T>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    })
}

/// Why the file can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It isn't what it should be.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
}

impl Config {
    /// Reads the file; a missing one is an empty one.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            // One line for people: the parser's hints can have several.
            let message = error.message().trim().replace('\n', "; ");
            ConfigError::Syntax { path: path.to_owned(), line, message }
        })
    }
}

/// What `halloo init` asked for and the sample file shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleValues {
    /// Who the user is to others.
    pub profile: ProfileConfig,
    /// What this device is.
    pub device: DeviceConfig,
    /// For whom it relays.
    pub relay_for: RelayPolicy,
}

/// The commented sample that `halloo init` writes.
#[must_use]
pub fn sample(values: &SampleValues) -> String {
    let defaults = RelayConfig::default();
    let text = |value: &Option<String>, key: &str, example: &str| match value {
        Some(value) => format!("{key} = {}", toml::Value::from(value.as_str())),
        None => format!("# {key} = \"{example}\""),
    };
    let display_name = text(&values.profile.display_name, "display_name", "Alice Example");
    let languages = match values.profile.languages.as_slice() {
        [] => "# languages = [\"en\"]".to_owned(),
        some => format!("languages = {}", toml::Value::from(some.to_vec())),
    };
    let device_name = text(&values.device.name, "name", "Alice's laptop");
    let kind = values.device.kind.map(|kind| kind.name().to_owned());
    let device_kind = text(&kind, "kind", "laptop");
    format!(
        r#"# Halloo's configuration. Flags of `halloo run` win over what is written here;
# lines that begin with # show defaults or examples.

# Addresses to listen on.
# listen = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"]
# For networks that let nothing but HTTP out, a WebSocket too: "/ip4/0.0.0.0/tcp/8080/ws".

# Nodes to join the network through, beside those this node knows already.
# bootstrap = ["/dns4/node.example/tcp/4001/p2p/12D3KooW..."]

# Roles to take whatever the node would decide by itself:
# directory, relay, gateway, authority.
# roles = []

# A local network without contact to the outside, or a test.
# lab = false
# Look for peers on the local network by multicast; ask the home router for a port.
# mdns = true
# upnp = true
# Publish direct addresses for everybody who knows the name (else others come through relays).
# publish_addresses = false

# Where metrics are served.
# metrics = "127.0.0.1:9100"

# Who you are to others.
[profile]
{display_name}
{languages}

# Who may call you, call with video, write and send files, until `halloo privacy set` says otherwise:
# "nobody", "contacts", "linked" (contacts in a linked system too) or "anyone".
[privacy]
# call = "linked"
# video = "linked"
# message = "linked"
# file = "linked"

# What may tell you that a caller is a contact in a linked system, and tell others that you are theirs; all where nothing is said, but for presence in other systems.
[linked]
# carriers = ["request", "certificate", "presence", "place", "directory"]

# Whether calls ring during another call, and whose ring although you don't want to be disturbed (`halloo presence set dnd`).
[calls]
# ring_when_busy = false
# may_disturb = ["bob"]
# Whether media of calls, out and in, goes through a relay only, so that the other end doesn't see this device's addresses in it.
# relayed_only = false

# Where files from others land (seen from the home), how fast at most, and how much through relays in an hour while there is no direct path.
[files]
# directory = "files"
# bytes_per_sec_max = 1000000
# relayed_bytes_per_hour = {files_relayed}

# What this device is to your others.
[device]
{device_name}
{device_kind}

# For whom this node relays ("off", "contacts" or "everyone"), and how much at most.
[relay]
for = "{relay_for}"
# reservations_max = {reservations_max}
# circuits_max = {circuits_max}
# circuit_secs_max = {circuit_secs_max}
# circuit_bytes_max = {circuit_bytes_max}
# Calls (TURN): where it serves, this machine's addresses from outside if ports are forwarded to it, and how much a second.
# media_listen = ["0.0.0.0:3478", "[::]:3478"]
# For networks that let only TLS out, best at 443, where such networks let it out and the port is free.
# media_listen_tls = ["0.0.0.0:5349", "[::]:5349"]
# media_external = ["203.0.113.7"]
# media_bytes_per_sec_max = {media_bytes}
# media_allocations_max = {media_allocations}
# How long relayed calls may go on when the node shuts down: they look for another relay meanwhile.
# media_drain_secs = {media_drain}

# By which services a gateway may wake devices, beside Web Push and webhooks. Files are seen from the home.
[gateway]
# contact = "mailto:you@example.net"
# roots = "roots.pem"
# fcm.service_account = "fcm.json"
# apns.key_file = "AuthKey.p8"
# apns.key_id = "ABC123DEFG"
# apns.team_id = "DEF123GHIJ"
# sms.url = "https://sms.example/send"
# sms.headers = {{ Content-Type = "application/json", Authorization = "Bearer KEY" }}
# sms.body = '{{"to": "{{number}}", "text": "{{text}}"}}'
# sms.per_hour_max = 100

# Whether this device is in use and how near you are, for the push policy: from a file, or from what a command says line by line (in-use, idle, locked, asleep; near, far, metres=3).
[sensor]
# file = "/run/user/1000/presence"
# command = ["my-detector", "--follow"]

# Mail accounts that this device watches for all of yours, and where a mail server on this machine delivers copies (SMTP or LMTP).
# The password stands alone in a file of the home that nobody else may read (chmod 600).
[mail]
# listen = "127.0.0.1:2525"
# account = [{{ name = "work", server = "imap.example.org:993", user = "carol", password_file = "mail-work", folder = "INBOX" }}]

# Where SIP phones connect, by UDP and TCP, and by TLS with a certificate; files are seen from the home. Phones beyond this machine need an
# address that they reach. `halloo sip account add` makes accounts.
[sip]
# listen = ["127.0.0.1:5060"]
# listen_tls = ["0.0.0.0:5061"]
# certificate = "sip-certificate.pem"
# key = "sip-key.pem"
# external = "203.0.113.7"
# media_port = 16384
# media_ports = 200
# The gateway that wakes phones' apps (RFC 8599), as peer id or multiaddress; without it one that is known.
# push_gateway = "12D3KooW..."
# The account that is the gateway to the telephone network, and its trunks: see docs/sip.md.
# telephone = "phone@example"
# [sip.dialling]
# country = "49"
# area = "30"
# [sip.trunk.home]
# server = "sip.provider.example"
# username = "user"
# password_file = "trunk-home"
# callers = ["alice@example"]
# caller_id = "+4930123456"
# inbound = {{ "+4930123456" = "alice@example" }}

# Where the local API listens: "unix:PATH" or "IP:PORT" (TCP asks for the token in api-token).
[api]
# listen = "127.0.0.1:8790"

# Settings of the role authority.
[authority]
# name = "example"
# enrolment = "invite"
# By what codes are sent to addresses that users link: see docs/operations.md. A code to a telephone costs you money: name how numbers begin.
# mail = {{ server = "mail.example.org:465", tls = true, user = "halloo", password_file = "mail-password", from = "halloo@example.org" }}
# phone.prefixes = ["+49"]
# phone.sms = {{ url = "https://sms.example/send", headers = {{ Authorization = "Bearer {{secret}}" }}, body = "{{number}} {{text}}", secret_file = "sms-key" }}
# sip = {{ server = "sip.example.org:5061", domains = ["example.org"], from = "codes@example.org", password_file = "sip-password" }}

# Authorities you know, by your label for them: their root keys.
[authorities]
# example = "ed25519:..."
"#,
        relay_for = values.relay_for.name(),
        reservations_max = defaults.reservations_max,
        circuits_max = defaults.circuits_max,
        circuit_secs_max = defaults.circuit_secs_max,
        circuit_bytes_max = defaults.circuit_bytes_max,
        media_bytes = defaults.media_bytes_per_sec_max,
        media_allocations = defaults.media_allocations_max,
        media_drain = defaults.media_drain_secs,
        files_relayed = FilesConfig::default().relayed_bytes_per_hour,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_valid_and_keeps_what_was_asked_for() {
        let parse = |text: &str| Config::parse(text, Path::new("config.toml")).expect("parses");
        assert_eq!(parse(&sample(&SampleValues::default())), Config::default());
        let values = SampleValues {
            profile: ProfileConfig {
                display_name: Some("Al \"the\" \\ice\n".to_owned()),
                languages: vec!["en".to_owned(), "de".to_owned()],
            },
            device: DeviceConfig { name: Some("x".to_owned()), kind: Some(DeviceKind::Phone) },
            relay_for: RelayPolicy::Contacts,
        };
        let config = parse(&sample(&values));
        assert_eq!(config.profile, values.profile);
        assert_eq!(config.device, values.device);
        assert_eq!(config.relay.relay_for, RelayPolicy::Contacts);
    }

    #[test]
    fn every_commented_setting_of_the_sample_is_a_real_one() {
        let uncommented: String = sample(&SampleValues::default())
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if setting.contains(" = ") || setting.starts_with('[') => setting,
                _ => line,
            })
            .filter(|line| !line.contains("..."))
            .fold(String::new(), |text, line| text + line + "\n");
        let config = Config::parse(&uncommented, Path::new("x")).expect("parses");
        // Addresses are examples, not defaults.
        let relay =
            RelayConfig { media_listen: Vec::new(), media_listen_tls: Vec::new(), media_external: Vec::new(), ..config.relay };
        assert_eq!(relay, RelayConfig::default());
        assert_eq!(config.files.relayed_bytes_per_hour, FilesConfig::default().relayed_bytes_per_hour);
        assert!(config.api.listen.is_some() && config.metrics.is_some());
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line, word) in [
            ("lab = true\nlisten_on = []\n", 2, "listen_on"),
            ("\n\n[relay]\nfor = \"all\"\n", 4, "all"),
            ("[authorities]\nx = \"ed25519:abc\"\n", 2, "base64url"),
            ("listen = [\"nowhere\"]\n", 1, ""),
            ("lab = \n", 1, ""),
        ] {
            let error = Config::parse(text, Path::new("config.toml")).expect_err(text);
            let message = error.to_string();
            assert!(message.starts_with(&format!("config.toml:{line}: ")), "{message}");
            assert!(message.contains(word) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn addresses_and_keys_parse_as_they_print() {
        for text in ["unix:/run/x", "127.0.0.1:80", "[::1]:80"] {
            assert_eq!(text.parse::<ApiAddress>().expect(text).to_string(), text);
        }
        let key = RootKey([7; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        for text in ["", "unix:", "localhost:80", "127.0.0.1"] {
            assert!(text.parse::<ApiAddress>().is_err(), "{text}");
        }
        for text in ["x", "=ed25519:", &format!("a@b={key}"), &key.to_string()] {
            assert!(text.parse::<NamedAuthority>().is_err(), "{text}");
        }
    }
}
