//! `[authority.phone]`: how an authority's codes reach telephones.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::SmsConfig;

/// Short messages with codes. Whoever asks for one has the operator pay for it, so where they go is said here and nowhere assumed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PhoneConfig {
    /// How numbers begin that codes are sent to, with their country: `+49`.
    pub prefixes: Vec<String>,
    /// How numbers begin that none are sent to all the same: `+49900`. The longest prefix of a number counts.
    pub refused: Vec<String>,
    /// A provider with an HTTP interface.
    pub sms: Option<SmsConfig>,
    /// Instead of one, a program and its arguments, with `{number}`, `{text}` and `{code}` in them: run once for each message, without a shell. It has a minute, and says by its exit code 0 that it has taken the message.
    pub command: Vec<String>,
    /// A PEM file with certificates trusted besides Mozilla's list, for the provider.
    pub roots: Option<PathBuf>,
}

impl PhoneConfig {
    /// Relative paths are seen from `home`.
    #[must_use]
    pub fn seen_from(mut self, home: &Path) -> Self {
        self.roots = self.roots.as_ref().map(|path| home.join(path));
        self.sms = self.sms.map(|sms| sms.seen_from(home));
        self
    }
}
