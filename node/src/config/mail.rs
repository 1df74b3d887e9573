//! `[mail]`: mail accounts that this device watches for all devices of its user.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Most accounts.
pub(crate) const ACCOUNTS_MAX: usize = 8;

/// Mail accounts, and where a mail server delivers copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MailConfig {
    /// Where this device takes mail by SMTP and LMTP, to tell of it; it isn't kept. Whoever reaches it can have the user told of anything: a loopback
    /// address, unless `listen_to_others` is set.
    pub listen: Option<SocketAddr>,
    /// Other machines may reach `listen`.
    pub listen_to_others: bool,
    /// Accounts to watch by IMAP, at most 8.
    pub account: Vec<MailAccount>,
}

/// A mail account that is watched by IMAP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailAccount {
    /// What the user calls it.
    pub name: String,
    /// `HOST:PORT` of the IMAP server.
    pub server: String,
    /// TLS from the first byte. Without it only a server on this machine is spoken to.
    #[serde(default = "yes")]
    pub tls: bool,
    /// TLS begins after the greeting (RFC 3501 section 6.2.1), not with the first byte.
    #[serde(default)]
    pub starttls: bool,
    /// A PEM file with certificates trusted besides Mozilla's list.
    pub roots: Option<PathBuf>,
    /// User name there.
    pub user: String,
    /// A file with the password alone, readable by its owner alone.
    pub password_file: PathBuf,
    /// Folder.
    #[serde(default = "inbox")]
    pub folder: String,
}

/// A mail server that takes mail for others, by SMTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpConfig {
    /// `HOST:PORT`.
    pub server: String,
    /// TLS from the first byte. Without it, and without `starttls`, only a server on this machine is spoken to.
    #[serde(default)]
    pub tls: bool,
    /// TLS begins after the greeting (RFC 3207).
    #[serde(default)]
    pub starttls: bool,
    /// A PEM file with certificates trusted besides Mozilla's list.
    pub roots: Option<PathBuf>,
    /// User name there, if it asks for one.
    pub user: Option<String>,
    /// A file with the password alone, readable by its owner alone.
    pub password_file: Option<PathBuf>,
    /// Who the mail is from: `halloo@example.org`.
    pub from: String,
}

impl SmtpConfig {
    /// Relative paths are seen from `home`.
    #[must_use]
    pub fn seen_from(mut self, home: &Path) -> Self {
        self.password_file = self.password_file.as_ref().map(|path| home.join(path));
        self.roots = self.roots.as_ref().map(|path| home.join(path));
        self
    }
}

const fn yes() -> bool {
    true
}

fn inbox() -> String {
    "INBOX".to_owned()
}

impl MailConfig {
    /// Relative paths are seen from `home`.
    #[must_use]
    pub fn seen_from(mut self, home: &Path) -> Self {
        for account in &mut self.account {
            account.password_file = home.join(&account.password_file);
            account.roots = account.roots.as_ref().map(|path| home.join(path));
        }
        self
    }
}
