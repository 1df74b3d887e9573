//! The address book: whose addresses are the contacts of own addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use halloo_protocol::linked::LinkedId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LinkError, LinkedCommand, Links};
use crate::handle::problem::NodeError;
use crate::handle::{Command, Reply};
use crate::timestamp::Timestamp;

/// A file to take the contacts of own addresses from, in the place of the book before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkBookOptions {
    /// A file of vCards on the node's machine; an absolute path.
    pub file: PathBuf,
}

/// A server (CardDAV) to take the contacts of own addresses from, in the place of the book before. The password is kept on this device, sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkBookServer {
    /// An address book, whose books there are, or the server: `https://dav.example.org/`.
    pub url: String,
    /// The user there.
    pub user: String,
    /// The password.
    pub password: String,
    /// A file on the node's machine with certificates that are trusted beside the usual ones; an absolute path.
    #[serde(default)]
    pub roots: Option<PathBuf>,
}

impl fmt::Debug for LinkBookServer {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkBookServer").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The address book.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkBook {
    /// Mail addresses, telephone numbers and SIP addresses in it.
    pub addresses: usize,
    /// Where it is from: a file, or a server's address; absent if there is none.
    #[serde(default)]
    pub source: Option<String>,
    /// The user at the server.
    #[serde(default)]
    pub user: Option<String>,
    /// Books that it has been read from.
    #[serde(default)]
    pub books: u32,
    /// When it was read last.
    #[serde(default)]
    pub read_at: Option<Timestamp>,
    /// Why it couldn't be read since. What is known goes on counting.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What the event loop can be asked about the address book.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum BookCommand {
    /// [`Links::book`]
    File { path: PathBuf, entries: BTreeMap<LinkedId, Option<String>>, reply: Reply<LinkBook, LinkError> },
    /// [`Links::book_server`]
    Server { options: Box<LinkBookServer>, reply: Reply<LinkBook, LinkError> },
    /// [`Links::show_book`]
    Show(Reply<LinkBook, LinkError>),
    /// [`Links::read_book_again`]
    Again(Reply<LinkBook, LinkError>),
    /// [`Links::forget_book`]
    Forget(Reply<LinkBook, LinkError>),
}

impl BookCommand {
    /// Refuses it, whatever it is.
    pub(crate) fn refuse(self, error: NodeError) {
        match self {
            Self::File { reply, .. } | Self::Server { reply, .. } => reply.send(Err(error.into())),
            Self::Show(reply) | Self::Again(reply) | Self::Forget(reply) => reply.send(Err(error.into())),
        }
    }
}

impl Links<'_> {
    /// Takes a file as the address book: who is in it are the contacts of own addresses.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn book(&self, options: LinkBookOptions) -> Result<LinkBook, LinkError> {
        let wrong = |reason: String| LinkError::Options { reason };
        let path = options.file.clone();
        let read = tokio::task::spawn_blocking(move || crate::linked::read_book_file(&options.file)).await;
        let entries = read.map_err(|error| wrong(error.to_string()))?.map_err(wrong)?;
        self.ask_book(|reply| BookCommand::File { path, entries, reply }).await
    }

    /// Takes the address books of a user at a server instead, and follows them. Answered once they were read; the book before counts until then.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn book_server(&self, options: LinkBookServer) -> Result<LinkBook, LinkError> {
        let options = Box::new(options);
        self.ask_book(|reply| BookCommand::Server { options, reply }).await
    }

    /// Where the address book is from, and how it stands.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn show_book(&self) -> Result<LinkBook, LinkError> {
        self.ask_book(BookCommand::Show).await
    }

    /// Reads the address book again, now.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn read_book_again(&self) -> Result<LinkBook, LinkError> {
        self.ask_book(BookCommand::Again).await
    }

    /// Forgets the address book, with the password of its server: own addresses have no contacts.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn forget_book(&self) -> Result<LinkBook, LinkError> {
        self.ask_book(BookCommand::Forget).await
    }

    async fn ask_book(&self, command: impl FnOnce(Reply<LinkBook, LinkError>) -> BookCommand) -> Result<LinkBook, LinkError> {
        self.0.ask(|reply| Command::Linked(LinkedCommand::Book(command(reply)))).await
    }
}
