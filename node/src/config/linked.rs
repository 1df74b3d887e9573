//! `[linked]`: whose word is taken for who somebody is in another system, and how contacts there are asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use halloo_protocol::linked::{Carrier, CarrierError, Carriers};
use serde::Deserialize;

/// Most providers.
pub(crate) const PROVIDERS_MAX: usize = 16;

/// How often contacts are asked for, unless the configuration says otherwise, and at most.
const POLL_SECS: u64 = 900;
const POLL_SECS_MIN: u64 = 5;
/// An address book takes more to read.
const BOOK_SECS_MIN: u64 = 60;

/// Linked systems.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkedConfig {
    /// OpenID Connect providers whose word is taken, at most 16.
    pub provider: Vec<ProviderConfig>,
    /// What may bring an association here, and what brings one's own to others; all if absent.
    pub carriers: Option<Vec<CarrierName>>,
    /// How often an address book at a server is read, in seconds; at least 60, 900 if absent.
    pub book_secs: Option<u64>,
}

/// A carrier by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct CarrierName(Carrier);

impl TryFrom<String> for CarrierName {
    type Error = CarrierError;

    fn try_from(name: String) -> Result<Self, CarrierError> {
        name.parse().map(Self)
    }
}

/// An OpenID Connect provider.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// Its issuer, as its discovery document says it: `https://id.example.org`.
    pub issuer: String,
    /// The client id under which this node logs in there; tokens made for it count.
    pub client_id: Option<String>,
    /// A file with the client secret alone, readable by its owner alone, for providers that ask applications for one.
    pub client_secret_file: Option<PathBuf>,
    /// Further client ids whose tokens count: applications that have none made but for the user who logs in.
    #[serde(default)]
    pub clients: BTreeSet<String>,
    /// Domains for whose mail addresses its word is taken.
    #[serde(default)]
    pub mail_domains: BTreeSet<String>,
    /// Scopes to ask for beside `openid`, for the contacts.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// A PEM file with certificates trusted besides Mozilla's list.
    pub roots: Option<PathBuf>,
    /// Where the contacts of a user are.
    pub contacts: Option<ContactsConfig>,
}

/// How contacts are asked for: JSON over HTTPS with the user's access token. Pointers are those of RFC 6901.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContactsConfig {
    /// The first page.
    pub url: String,
    /// Pointer to the list.
    #[serde(default)]
    pub list: String,
    /// Pointer, in an entry, to who it is.
    pub id: String,
    /// What that is.
    #[serde(default)]
    pub kind: ContactIdKind,
    /// Pointer, in an entry, to the name.
    pub name: Option<String>,
    /// Pointer to the address of the next page: a URL at the same place as the first, or a text for `page_parameter`.
    pub next: Option<String>,
    /// Query parameter that takes what `next` points to, where that isn't a URL.
    pub page_parameter: Option<String>,
    /// How often they are asked for, in seconds; at least 5.
    #[serde(default = "poll_secs")]
    pub poll_secs: u64,
}

/// What names a contact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContactIdKind {
    /// The subject that the provider's tokens have for them.
    #[default]
    Subject,
    /// A mail address.
    Mail,
}

const fn poll_secs() -> u64 {
    POLL_SECS
}

impl ContactsConfig {
    /// How often they are asked for.
    pub(crate) fn poll(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.poll_secs.max(POLL_SECS_MIN))
    }
}

impl LinkedConfig {
    /// Those that are switched on.
    #[must_use]
    pub fn carriers(&self) -> Carriers {
        let named = self.carriers.as_ref();
        named.map_or_else(Carriers::default, |carriers| carriers.iter().map(|name| name.0).collect())
    }

    /// How often an address book at a server is read.
    pub(crate) fn book_every(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.book_secs.unwrap_or(POLL_SECS).max(BOOK_SECS_MIN))
    }

    /// Whether presence is sent in other systems, and others' is listened to there. Servers give others' presence only to whoever is shown as there, so the
    /// carrier has to be named for that: by default nobody is.
    #[must_use]
    pub fn is_present_elsewhere(&self) -> bool {
        self.carriers.is_some() && self.carriers().has(Carrier::Presence)
    }

    /// Relative paths are seen from `home`.
    #[must_use]
    pub fn seen_from(mut self, home: &Path) -> Self {
        for provider in &mut self.provider {
            provider.client_secret_file = provider.client_secret_file.as_ref().map(|path| home.join(path));
            provider.roots = provider.roots.as_ref().map(|path| home.join(path));
        }
        self
    }

    /// What is configured of an issuer.
    pub(crate) fn of(&self, issuer: &str) -> Option<&ProviderConfig> {
        self.provider.iter().take(PROVIDERS_MAX).find(|provider| provider.issuer == issuer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers show whoever sends presence: nobody is shown who hasn't asked for it.
    #[test]
    fn presence_elsewhere_has_to_be_named() {
        let of = |text: &str| toml::from_str::<LinkedConfig>(text).expect("parses");
        assert!(of("").carriers().has(Carrier::Presence) && !of("").is_present_elsewhere());
        assert!(!of("carriers = [\"request\", \"place\"]").is_present_elsewhere());
        assert!(of("carriers = [\"request\", \"presence\"]").is_present_elsewhere());
    }
}
