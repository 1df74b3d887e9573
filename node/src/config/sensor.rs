//! `[sensor]`: where this device's usage and nearness come from by themselves.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A file or a command that says whether the device is in use and how near its user is, a line each time: `in-use`, `idle`, `locked`, `asleep`, `near`, `far`,
/// `metres=3`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SensorConfig {
    /// A file that another program writes; looked at every 2 s.
    pub file: Option<PathBuf>,
    /// A program and its arguments, run as long as the node does. Its standard output is read; it is started anew when it ends.
    pub command: Vec<String>,
}

impl SensorConfig {
    /// A relative file is seen from `home`.
    #[must_use]
    pub fn seen_from(mut self, home: &Path) -> Self {
        self.file = self.file.map(|file| home.join(file));
        self
    }
}
