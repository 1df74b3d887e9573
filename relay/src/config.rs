//! Settings: [`Config`] for embedders, [`ConfigFile`] for the TOML file that `halloo-relay --config` reads.
//!
//! The file may leave out everything; what it names and isn't known is an error, so that a misspelt limit isn't silently
//! without effect. `halloo-relay.toml` beside this crate's `Cargo.toml` shows every key with its default.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::defaults;
use crate::quota::RateLimit;

/// How a server behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// UDP addresses to serve, all of which have to be free. Empty: [`defaults::LISTEN`], less the families the machine
    /// doesn't have. Port 0 takes a free port.
    pub listen: Vec<SocketAddr>,
    /// TCP address to serve counters at, as `http://ADDRESS/metrics`. Anyone who reaches it can read them. Default: none.
    pub metrics: Option<SocketAddr>,
    /// How often one source address is answered, by each socket.
    pub rate_limit: RateLimit,
    /// Source addresses remembered, by each socket: 32 bytes each.
    pub sources_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            metrics: None,
            rate_limit: RateLimit { per_sec: defaults::RESPONSES_PER_SOURCE_PER_SEC, burst: defaults::RESPONSE_BURST_PER_SOURCE },
            sources_max: defaults::SOURCES_MAX,
        }
    }
}

/// The file format. Keys are those of the TOML file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// [`Config::listen`].
    pub listen: Vec<SocketAddr>,
    /// [`Config::metrics`].
    pub metrics: Option<SocketAddr>,
    /// Table `[limits]`.
    pub limits: LimitsTable,
}

/// Table `[limits]` of the file: what isn't there keeps its default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsTable {
    /// [`RateLimit::per_sec`].
    pub responses_per_source_per_sec: Option<NonZeroU32>,
    /// [`RateLimit::burst`].
    pub response_burst_per_source: Option<NonZeroU32>,
    /// [`Config::sources_max`].
    pub sources_max: Option<NonZeroU32>,
}

/// Most source addresses a file may ask to remember: 512 MiB for each socket, beyond which a slip of the finger is likelier.
const SOURCES_MAX_MAX: u32 = 1 << 24;

/// Why a configuration file can't be used: all of these are its writer's to mend.
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
        let or = |value: Option<NonZeroU32>, default: u32| value.map_or(default, NonZeroU32::get);
        let sources_max = or(file.limits.sources_max, default.sources_max);
        if sources_max > SOURCES_MAX_MAX {
            return Err(ConfigError::TooManySources { value: sources_max });
        }
        Ok(Self {
            listen: file.listen,
            metrics: file.metrics,
            rate_limit: RateLimit {
                per_sec: or(file.limits.responses_per_source_per_sec, default.rate_limit.per_sec),
                burst: or(file.limits.response_burst_per_source, default.rate_limit.burst),
            },
            sources_max,
        })
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
        let text =
            "listen = ['192.0.2.1:1']\nmetrics = '127.0.0.1:2'\n[limits]\nresponses_per_source_per_sec = 3\nsources_max = 4";
        let config = config(text).unwrap();
        assert_eq!(config.listen, ["192.0.2.1:1".parse().unwrap()]);
        assert_eq!(config.metrics, Some("127.0.0.1:2".parse().unwrap()));
        assert_eq!(config.rate_limit, RateLimit { per_sec: 3, burst: defaults::RESPONSE_BURST_PER_SOURCE });
        assert_eq!(config.sources_max, 4);
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
        ] {
            let error = config(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text:?} gave {error:?}");
        }
    }
}
