//! What the user calls buddies, whatever they call themselves: kept in the account's home.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tracing::warn;

/// Names kept for one account.
const NAMES_MAX: usize = 1_000;

/// Names by user.
#[derive(Debug)]
pub(super) struct Names {
    file: PathBuf,
    names: BTreeMap<String, String>,
}

impl Names {
    /// Those of an earlier run; none if there are none, or they can't be read.
    pub(super) fn read(file: PathBuf) -> Self {
        let bytes = std::fs::read(&file).ok();
        let names = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { file, names }
    }

    pub(super) fn of(&self, user: &str) -> Option<&str> {
        self.names.get(user).map(String::as_str)
    }

    /// Another name for a buddy, or none. False if there is no room.
    pub(super) fn set(&mut self, user: &str, name: Option<String>) -> bool {
        let name = name.filter(|name| !name.trim().is_empty());
        if self.names.get(user) == name.as_ref() {
            return true;
        }
        match name {
            Some(_) if self.names.len() >= NAMES_MAX && !self.names.contains_key(user) => return false,
            Some(name) => drop(self.names.insert(user.to_owned(), name)),
            None => drop(self.names.remove(user)),
        }
        let written = serde_json::to_vec(&self.names).map_err(|error| error.to_string());
        let written = written.and_then(|bytes| crate::home::write_secret(&self.file, &bytes).map_err(|error| error.to_string()));
        if let Err(error) = written {
            warn!(%error, "names of buddies aren't kept");
        }
        true
    }
}
