//! All sessions with one device, and which of them is used.

use vodozemac::olm::OlmMessage;
use zeroize::Zeroizing;

use super::ratchet::{Pair, Session, parse, started_by};
use super::{Account, PreKeys, SealedMessage, SessionId, Unopened};
use crate::message::Envelope;
use crate::wire::DecodeError;

/// Most sessions with one device: both ends may have started one at once, and messages in a former one may be on their way.
pub const SESSIONS_PER_DEVICE_MAX: usize = 4;

/// Why something isn't encrypted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// There is no session to use: start one.
    #[error("no session with the device")]
    NoSession,
    /// It doesn't fit.
    #[error("the message is {0} bytes too long to be encrypted")]
    TooLong(usize),
    /// What the recipient publishes as keys is none.
    #[error("the recipient's keys aren't usable")]
    RecipientKeys,
}

/// Why something isn't read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its keys aren't here: a session lost, a message read before, too many skipped. The sender may encrypt it anew.
    #[error("the message doesn't open: {0}")]
    Unopened(String),
    /// It opened, and it is between other devices.
    #[error("the message is between other devices")]
    WrongPair,
    /// It opened, and what is inside isn't well formed.
    #[error("message: {0}")]
    Malformed(#[from] DecodeError),
}

/// A first message that was read, and what of the state changed with it.
#[derive(Debug)]
pub struct Opened {
    /// The message.
    pub envelope: Envelope,
    /// The session was started with the fallback key: remember its name until the key is destroyed, for the same message would start it
    /// again. Else a one-time key was used up: store the account.
    pub by_fallback: bool,
}

/// All sessions with one device.
///
/// Contract: what [`Sessions::encrypt`], [`Sessions::open`] and [`Sessions::accept`] return is worth nothing before all of [`Sessions::iter`] is stored in its place.
#[derive(Debug, Default)]
pub struct Sessions {
    list: Vec<Session>,
}

impl Sessions {
    /// From what is stored. What can't be read is passed over: a session more is started.
    #[must_use]
    pub fn from_rows<'a>(rows: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let list = rows.into_iter().filter_map(|row| Session::from_bytes(row).ok());
        Self { list: list.take(SESSIONS_PER_DEVICE_MAX).collect() }
    }

    /// Every session, for storage.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, Zeroizing<Vec<u8>>)> {
        self.list.iter().map(|session| (session.id(), session.to_bytes()))
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// True if there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The highest generation known; 0 if there is no session.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.list.iter().map(Session::generation).max().unwrap_or(0)
    }

    /// True if there is a session to send with.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.chosen().is_some()
    }

    /// The session both ends choose once both know the same ones: the latest generation, and of two that were started at once the one with
    /// the lower name.
    fn chosen(&self) -> Option<usize> {
        let usable = self.list.iter().enumerate().filter(|(_, session)| !session.is_retired());
        usable.max_by_key(|(_, session)| rank(session)).map(|(position, _)| position)
    }

    /// Starts a session with the device, of a generation above all that are known and above `above`.
    ///
    /// # Errors
    /// [`SealError::RecipientKeys`].
    pub fn start(
        &mut self,
        account: &Account,
        keys: &PreKeys,
        one_time: Option<[u8; 32]>,
        above: Option<u32>,
    ) -> Result<SessionId, SealError> {
        let known = self.list.iter().map(Session::generation).max();
        let generation = known.max(above).map_or(0, |known| known.saturating_add(1));
        let session = Session::start(account, keys, one_time, generation)?;
        let id = session.id();
        self.insert(session);
        Ok(id)
    }

    /// Encrypts `envelope` in the chosen session.
    ///
    /// # Errors
    /// [`SealError`]; nothing has changed then.
    pub fn encrypt(&mut self, pair: &Pair, envelope: &Envelope) -> Result<SealedMessage, SealError> {
        let session = self.chosen().and_then(|position| self.list.get_mut(position));
        session.ok_or(SealError::NoSession)?.encrypt(pair, envelope)
    }

    /// True if there is a session of this name: what comes in it is for [`Sessions::open`], anything else for [`Sessions::accept`].
    #[must_use]
    pub fn knows(&self, id: &SessionId) -> bool {
        self.list.iter().any(|session| session.id() == *id)
    }

    /// Reads a message that came in a session that is known.
    ///
    /// # Errors
    /// [`OpenError`]; throw the sessions away then, and go on with what is stored.
    pub fn open(&mut self, pair: &Pair, message: &SealedMessage) -> Result<Envelope, OpenError> {
        message.check()?;
        let sealed = parse(message)?;
        let session = self.list.iter_mut().find(|session| session.id() == message.session);
        let session = session.ok_or_else(|| OpenError::Unopened("no such session".into()))?;
        let envelope = session.decrypt(pair, &message.id, &sealed)?;
        let given_up = session.is_retired().then(|| rank(session));
        let chosen = self.chosen().and_then(|position| self.list.get(position)).map(rank);
        if given_up > chosen && chosen.is_some() {
            // The other side holds on to what was given up here, and would choose it before the one used here: one above both is started.
            self.retire_all();
        }
        Ok(envelope)
    }

    /// Reads a message that starts a session. `is_spent` says whether one of this name was started with the fallback key before.
    ///
    /// # Errors
    /// [`OpenError`]; throw the sessions and the account away then, and go on with what is stored.
    pub fn accept(
        &mut self,
        account: &mut Account,
        pair: &Pair,
        message: &SealedMessage,
        is_spent: impl FnOnce(&SessionId) -> bool,
    ) -> Result<Opened, OpenError> {
        message.check()?;
        let OlmMessage::PreKey(first) = &parse(message)? else {
            return Err(OpenError::Unopened("no such session".into()));
        };
        let (id, key) = started_by(first);
        if id != message.session {
            return Err(DecodeError::invalid("session", "another one inside than outside").into());
        }
        let by_one_time = account.is_one_time(&key);
        if !by_one_time && is_spent(&id) {
            return Err(OpenError::Unopened("its session has been here and is gone".into()));
        }
        let (session, envelope) = Session::accept(account, pair, message, first)?;
        self.insert(session);
        Ok(Opened { envelope, by_fallback: !by_one_time })
    }

    /// What to say of a message that didn't open.
    #[must_use]
    pub fn unopened(&self, message: &SealedMessage) -> Unopened {
        Unopened { session: message.session, generation: self.generation() }
    }

    /// The other side couldn't read something in this session: unless that is known already, nothing is sent in any of the present sessions any
    /// more, so that the next is of a higher generation, which both ends then choose. Going over to another one of those that are known
    /// would leave the other side where it is.
    pub fn give_up(&mut self, id: &SessionId) {
        if self.list.iter().any(|session| session.id() == *id && !session.is_retired()) {
            self.retire_all();
        }
    }

    /// Sends nothing more in any of the present sessions; what comes in them is still read.
    pub fn retire_all(&mut self) {
        self.list.iter_mut().for_each(Session::retire);
    }

    /// Takes a session in. Beyond [`SESSIONS_PER_DEVICE_MAX`] the one least likely to be used again goes, never the new one.
    fn insert(&mut self, session: Session) {
        if self.list.len() >= SESSIONS_PER_DEVICE_MAX {
            let lowest = self.list.iter().enumerate().min_by_key(|(_, session)| (!session.is_retired(), rank(session)));
            if let Some(position) = lowest.map(|(position, _)| position) {
                self.list.swap_remove(position);
            }
        }
        self.list.push(session);
    }
}

fn rank(session: &Session) -> (u32, std::cmp::Reverse<SessionId>) {
    (session.generation(), std::cmp::Reverse(session.id()))
}
