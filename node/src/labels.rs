//! This node's names for authorities, and usernames as people write them.
//!
//! An authority is its root key; `example` in `alice@example` is a label that is unique on this node only. What a user typed is turned into a
//! complete [`UserId`] here, and back into text for showing.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::identity::{UserId, Username};
use halloo_protocol::key::{AuthorityKey, IdentityKey, PublicKey};

use crate::handle::problem::UsernameError;

/// How a user without a name is written: `key:` and the identity key's base64url.
const KEY_PREFIX: &str = "key:";

/// Longest label, in characters.
const LABEL_CHARS_MAX: usize = 64;

/// Authorities by label.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    by_label: BTreeMap<String, AuthorityKey>,
    home: Option<AuthorityKey>,
}

/// A label can't be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Not a name by the rules of usernames.
    #[error("{0:?} can't be an authority's label")]
    Form(String),
    /// The label stands for another key already.
    #[error("{label} is already the label of another authority here, {known}")]
    Clash {
        /// The label.
        label: String,
        /// The key it stands for.
        known: AuthorityKey,
    },
}

impl Labels {
    /// No authority known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `root` a label. Giving the same again changes nothing.
    ///
    /// # Errors
    /// [`LabelError`] if the label is malformed or taken.
    pub fn insert(&mut self, label: &str, root: AuthorityKey) -> Result<(), LabelError> {
        let label = Self::check(label)?;
        match self.by_label.get(&label) {
            Some(known) if *known != root => Err(LabelError::Clash { label, known: *known }),
            _ => {
                self.by_label.insert(label, root);
                Ok(())
            }
        }
    }

    /// The label's normal form.
    ///
    /// # Errors
    /// [`LabelError::Form`].
    pub fn check(label: &str) -> Result<String, LabelError> {
        Username::new(label)
            .map(|name| name.to_string())
            .ok()
            .filter(|name| name.chars().count() <= LABEL_CHARS_MAX)
            .ok_or_else(|| LabelError::Form(label.chars().take(LABEL_CHARS_MAX).collect()))
    }

    /// Makes `root` the authority that names without `@` belong to.
    pub fn set_home(&mut self, root: AuthorityKey) {
        self.home = Some(root);
    }

    /// The home authority.
    #[must_use]
    pub const fn home(&self) -> Option<AuthorityKey> {
        self.home
    }

    /// The key a label stands for.
    #[must_use]
    pub fn authority(&self, label: &str) -> Option<AuthorityKey> {
        self.by_label.get(&Self::check(label).ok()?).copied()
    }

    /// All labels.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AuthorityKey)> {
        self.by_label.iter().map(|(label, key)| (label.as_str(), key))
    }

    /// The label of an authority; a fingerprint if it has none.
    #[must_use]
    pub fn label_of(&self, root: &AuthorityKey) -> String {
        self.by_label
            .iter()
            .find(|(_, key)| *key == root)
            .map_or_else(|| format!("unknown-{}", root.0.short()), |(label, _)| label.clone())
    }

    /// How a user is shown.
    #[must_use]
    pub fn display(&self, user: &UserId) -> String {
        match user {
            UserId::Named { authority, name } => format!("{name}@{}", self.label_of(authority)),
            UserId::Key(identity) => format!("{KEY_PREFIX}{}", BASE64URL_NOPAD.encode(identity.as_bytes())),
        }
    }

    /// Understands `name@authority`, `name` (of the home authority) or `key:...`.
    ///
    /// # Errors
    /// [`UsernameError`] saying what isn't understood.
    pub fn parse(&self, text: &str) -> Result<UserId, UsernameError> {
        let refuse = |reason: String| UsernameError::Invalid { username: text.chars().take(128).collect(), reason };
        if let Some(key) = text.strip_prefix(KEY_PREFIX) {
            let bytes = BASE64URL_NOPAD.decode(key.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let bytes = bytes.ok_or_else(|| refuse("after `key:` come 43 characters of base64url".into()))?;
            return Ok(UserId::Key(IdentityKey(PublicKey(bytes))));
        }
        let (name, authority) = match text.split_once('@') {
            Some((name, label)) => {
                let unknown = || UsernameError::UnknownAuthority { authority: label.chars().take(LABEL_CHARS_MAX).collect() };
                (name, self.authority(label).ok_or_else(unknown)?)
            }
            None => {
                let missing = || UsernameError::NoAuthority { username: text.chars().take(128).collect() };
                (text, self.home.ok_or_else(missing)?)
            }
        };
        let name = Username::new(name).map_err(|error| refuse(error.to_string()))?;
        Ok(UserId::Named { authority, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> AuthorityKey {
        AuthorityKey(PublicKey([number; 32]))
    }

    #[test]
    fn names_are_read_and_shown_with_this_nodes_labels() {
        let mut labels = Labels::new();
        assert!(labels.parse("alice").is_err());
        labels.insert("Example", key(1)).expect("free");
        labels.insert("other", key(2)).expect("free");
        labels.set_home(key(1));
        for (text, shown) in [("alice", "alice@example"), ("ALICE@example", "alice@example"), ("bob@OTHER", "bob@other")] {
            assert_eq!(labels.parse(text).map(|user| labels.display(&user)), Ok(shown.to_owned()));
        }
        for bad in ["", "@", "alice@", "alice@nowhere", "al ice@example", "a@b@c", "key:short"] {
            assert!(labels.parse(bad).is_err(), "{bad}");
        }
        let by_key = UserId::Key(IdentityKey(PublicKey([3; 32])));
        assert_eq!(labels.parse(&labels.display(&by_key)), Ok(by_key));
    }

    #[test]
    fn a_label_never_changes_its_meaning() {
        let mut labels = Labels::new();
        labels.insert("example", key(1)).expect("free");
        assert!(labels.insert("example", key(1)).is_ok());
        assert!(matches!(labels.insert("EXAMPLE", key(2)), Err(LabelError::Clash { .. })));
        assert!(matches!(labels.insert("no spaces", key(2)), Err(LabelError::Form(_))));
    }
}
