//! What was said: found by its words, taken out and brought back as one encrypted file.
//!
//! The index stands in the database beside the messages and is written with them, in one transaction. Messages of before are indexed in steps
//! after the start, a few at a time.

pub(crate) mod archive;
mod words;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::message::Correspondent;
use halloo_protocol::time::Now;
use tracing::{debug, warn};

use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::history::{Found, FoundMessages, HistoryCommand, HistoryError, Moved, SearchOptions};
use crate::handle::problem::NodeError;
use crate::store::{MessageRow, StoreError, Transaction, View};

/// Where it is kept which messages of before are still to be indexed.
const BACKLOG: &str = "search backlog";

/// Messages of before that are indexed in one step; a step is one transaction, at each tick.
const STEP: usize = 64;

/// Messages looked at for one search.
const LOOKED_AT_MAX: usize = 20_000;

/// Finds of the beginning of a word that are considered.
const BEGINNINGS_MAX: usize = 50_000;

/// Finds read at once.
const PAGE: usize = 256;

/// Longest text to search for, in bytes.
const QUERY_BYTES_MAX: usize = 1_024;

/// Messages after `next` up to `end` aren't indexed yet.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct Backlog {
    next: u64,
    end: u64,
}

/// How far the index is, and what runs.
#[derive(Debug, Default)]
pub(crate) struct HistoryState {
    backlog: Option<Backlog>,
    is_loaded: bool,
    /// One file is written or read at a time.
    moving: Option<tokio::task::AbortHandle>,
    next_at: Option<Instant>,
}

/// Notes the words of a message that is being kept.
pub(crate) fn index(tx: &Transaction, number: u64, row: &MessageRow) -> Result<(), StoreError> {
    match crate::messages::text_of(row) {
        Some(text) => tx.index_message(number, words::words(&text)),
        None => Ok(()),
    }
}

impl EventLoop {
    pub(crate) fn history_tick(&mut self, now: Now) {
        /// Between two steps, so that a long history doesn't hold up what a person is waiting for.
        const EVERY: Duration = Duration::from_millis(250);
        if self.history.next_at.is_some_and(|at| at > now.instant) {
            return;
        }
        self.history.next_at = Some(now.instant + EVERY);
        if let Err(error) = self.index_some() {
            warn!(%error, "messages not indexed");
        }
    }

    /// Indexes the next few messages of before.
    fn index_some(&mut self) -> Result<(), StoreError> {
        if !std::mem::replace(&mut self.history.is_loaded, true) {
            self.history.backlog = Some(self.store.transaction::<_, StoreError>(|tx| {
                if let Some(backlog) = tx.setting_value::<Backlog>(BACKLOG)? {
                    return Ok(backlog);
                }
                let backlog = Backlog { next: 0, end: tx.newest_message()? };
                tx.put_setting_value(BACKLOG, &backlog)?;
                Ok(backlog)
            })?);
        }
        let Some(backlog) = self.history.backlog.filter(|backlog| backlog.next < backlog.end) else { return Ok(()) };
        let next = self.store.transaction::<_, StoreError>(|tx| {
            let rows = tx.messages_after(backlog.next, STEP)?;
            let mut next = Backlog { next: backlog.end, ..backlog };
            for (number, row) in rows.iter().take_while(|(number, _)| *number <= backlog.end) {
                index(tx, *number, row)?;
                next.next = *number;
            }
            tx.put_setting_value(BACKLOG, &next)?;
            Ok(next)
        })?;
        debug!(done = next.next, of = next.end, "messages indexed");
        self.history.backlog = Some(next);
        Ok(())
    }

    pub(crate) fn handle_history(&mut self, command: HistoryCommand) {
        match command {
            HistoryCommand::Search { text, options, reply } => reply.send(self.search(&text, &options)),
            HistoryCommand::Export { path, passphrase, reply } => self.move_history(Way::Out, path, passphrase, reply),
            HistoryCommand::Import { path, passphrase, reply } => self.move_history(Way::In, path, passphrase, reply),
        }
    }

    fn search(&self, text: &str, options: &SearchOptions) -> Result<FoundMessages, HistoryError> {
        if text.len() > QUERY_BYTES_MAX {
            return Err(HistoryError::Query { reason: format!("{} bytes, at most {QUERY_BYTES_MAX}", text.len()) });
        }
        let with = options.with.as_deref().map(|with| self.parse_correspondent(with)).transpose()?;
        let query = words::query(text);
        if query.whole.is_empty() && query.beginning.is_none() {
            return Err(HistoryError::Query { reason: "there is no word in it".into() });
        }
        let limit = options.limit.unwrap_or(SearchOptions::LIMIT_DEFAULT).min(SearchOptions::LIMIT_MAX) as usize;
        let search = Search { query, with, limit };
        let (rows, is_complete) = self.store.read::<_, StoreError>(|view| search.run(view)).map_err(internal)?;
        let found = rows.iter().filter_map(|row| {
            let (with, group, message) = self.found_message(row)?;
            Some(Found { with, group, message })
        });
        let is_indexed = self.history.backlog.is_some_and(|backlog| backlog.next >= backlog.end);
        Ok(FoundMessages { messages: found.collect(), is_complete: is_complete && is_indexed })
    }

    /// Writes or reads a file in a thread of its own: it takes as long as the history is long, and a second for the passphrase.
    fn move_history(&mut self, way: Way, path: PathBuf, passphrase: archive::Passphrase, reply: Reply<Moved, HistoryError>) {
        if self.history.moving.as_ref().is_some_and(|moving| !moving.is_finished()) {
            return reply.send(Err(NodeError::LimitReached { what: "exports and imports", max: 1 }.into()));
        }
        let store = self.store.clone();
        let me = archive::Owner { user: self.identity.user_id(), device: self.identity.device() };
        let now = self.now().unix;
        let seed = self.random();
        let task = tokio::task::spawn_blocking(move || {
            reply.send(match way {
                Way::Out => archive::export(&store, &me, now, &path, &passphrase, seed),
                Way::In => archive::import(&store, &me, now, &path, &passphrase),
            });
        });
        self.history.moving = Some(task.abort_handle());
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Out,
    In,
}

fn internal(error: StoreError) -> HistoryError {
    HistoryError::Node(NodeError::Internal { detail: error.to_string() })
}

struct Search {
    query: words::Query,
    with: Option<Correspondent>,
    limit: usize,
}

impl Search {
    /// The newest messages that match, newest first, and whether every message was considered.
    fn run(&self, view: &View) -> Result<(Vec<MessageRow>, bool), StoreError> {
        // The longest word is the rarest, as a rule.
        match self.query.whole.iter().max_by_key(|word| word.len()) {
            Some(word) => self.run_by_word(view, word),
            None => self.run_by_beginning(view),
        }
    }

    fn run_by_word(&self, view: &View, word: &str) -> Result<(Vec<MessageRow>, bool), StoreError> {
        let mut found = Vec::new();
        let (mut before, mut looked_at) = (None, 0);
        loop {
            let page = view.messages_with(word, before, PAGE)?;
            for number in &page {
                looked_at += 1;
                if let Some(row) = self.matching(view, *number)? {
                    found.push(row);
                    if found.len() >= self.limit {
                        return Ok((found, true));
                    }
                }
            }
            before = page.last().copied();
            if page.len() < PAGE {
                return Ok((found, true));
            }
            if looked_at >= LOOKED_AT_MAX {
                return Ok((found, false));
            }
        }
    }

    fn run_by_beginning(&self, view: &View) -> Result<(Vec<MessageRow>, bool), StoreError> {
        let Some(beginning) = &self.query.beginning else { return Ok((Vec::new(), true)) };
        let finds = view.messages_with_prefix(beginning, BEGINNINGS_MAX)?;
        let mut is_complete = finds.len() < BEGINNINGS_MAX;
        let numbers: BTreeSet<u64> = finds.into_iter().collect();
        let mut found = Vec::new();
        for (looked_at, number) in numbers.into_iter().rev().enumerate() {
            if looked_at >= LOOKED_AT_MAX {
                is_complete = false;
                break;
            }
            found.extend(self.matching(view, number)?);
            if found.len() >= self.limit {
                break;
            }
        }
        Ok((found, is_complete))
    }

    /// The message, if it has all that is searched for.
    fn matching(&self, view: &View, number: u64) -> Result<Option<MessageRow>, StoreError> {
        for word in &self.query.whole {
            if !view.message_has(word, number)? {
                return Ok(None);
            }
        }
        let Some(row) = view.message(number)? else { return Ok(None) };
        if self.with.as_ref().is_some_and(|with| *with != row.conversation) {
            return Ok(None);
        }
        let begins = |beginning: &String| {
            let text = crate::messages::text_of(&row).unwrap_or_default();
            words::words(&text).iter().any(|word| word.starts_with(beginning.as_str()))
        };
        Ok(self.query.beginning.as_ref().is_none_or(begins).then_some(row))
    }
}
