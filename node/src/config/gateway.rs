//! `[gateway]`: by which services of others a gateway may deliver.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Settings of the gateway role. Without a service's part the gateway refuses channels of that service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Whom push services contact about this gateway: a `mailto:` or `https:` URI (RFC 8292 section 2.1).
    pub contact: Option<String>,
    /// A PEM file with certificates trusted besides Mozilla's list, for services run in-house.
    pub roots: Option<PathBuf>,
    /// A PostgreSQL database in place of the node's own, which several gateways may share: `postgresql://USER@HOST:PORT/DATABASE`.
    pub database: Option<DatabaseUrl>,
    /// A file with the password alone, in place of one in the URL.
    pub database_password_file: Option<PathBuf>,
    /// The key that gateways of one database share; `None`: `gateway-group.key` in the home, made by the first of them.
    pub database_key: Option<PathBuf>,
    /// Firebase Cloud Messaging.
    pub fcm: Option<FcmConfig>,
    /// The Apple Push Notification service.
    pub apns: Option<ApnsConfig>,
    /// Short messages.
    pub sms: Option<SmsConfig>,
}

/// Where a database is. It may hold a password, and isn't printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl")
    }
}

/// Firebase Cloud Messaging.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FcmConfig {
    /// The JSON file of a service account that may send messages.
    pub service_account: PathBuf,
    /// In place of `https://fcm.googleapis.com`.
    pub endpoint: Option<String>,
}

/// The Apple Push Notification service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApnsConfig {
    /// The signing key, a `.p8` file.
    pub key_file: PathBuf,
    /// Its id: 10 letters and digits.
    pub key_id: String,
    /// The team's id: 10 letters and digits.
    pub team_id: String,
    /// In place of `https://api.push.apple.com`.
    pub endpoint: Option<String>,
    /// In place of `https://api.sandbox.push.apple.com`.
    pub sandbox_endpoint: Option<String>,
}

/// A provider of short messages, reached by HTTP.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmsConfig {
    /// Where; it may hold `{number}` and `{text}`.
    pub url: String,
    /// `POST` (default), `PUT` or `GET`.
    pub method: Option<String>,
    /// Headers, such as `Content-Type` and `Authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body, with `{number}` and `{text}`, or `{text_hex}` for a provider that takes binary messages. Values are escaped as JSON or form, by
    /// the content type. Where codes are sent it may hold `{code}`, for a provider that has the text.
    #[serde(default)]
    pub body: String,
    /// A file with the provider's key alone, readable by its owner alone: what `{secret}` stands for in URL, headers and body.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// The statuses by which the provider says that it has taken a message; without any, 200 to 299.
    #[serde(default)]
    pub success: Vec<u16>,
    /// Short messages an hour at most, to all numbers together.
    #[serde(default = "per_hour_max")]
    pub per_hour_max: u32,
}

/// A few families' worth; each costs money.
const fn per_hour_max() -> u32 {
    100
}

impl SmsConfig {
    /// Relative paths are seen from `home`.
    #[must_use]
    pub fn seen_from(mut self, home: &Path) -> Self {
        self.secret_file = self.secret_file.as_ref().map(|path| home.join(path));
        self
    }
}

/// Headers and body hold the provider's key.
impl fmt::Debug for SmsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmsConfig").field("per_hour_max", &self.per_hour_max).finish_non_exhaustive()
    }
}

impl GatewayConfig {
    /// Relative paths are seen from `home`.
    #[must_use]
    pub fn seen_from(mut self, home: &Path) -> Self {
        let paths = [
            self.roots.as_mut(),
            self.database_password_file.as_mut(),
            self.database_key.as_mut(),
            self.fcm.as_mut().map(|fcm| &mut fcm.service_account),
            self.apns.as_mut().map(|apns| &mut apns.key_file),
            self.sms.as_mut().and_then(|sms| sms.secret_file.as_mut()),
        ];
        for path in paths.into_iter().flatten() {
            *path = home.join(&path);
        }
        self
    }
}
