//! The new device.

use std::fmt;

use super::code::LinkCode;
use super::grant::{LinkGrant, LinkGrantError, LinkRequest};
use super::keys::{Exchange, LinkKeys, Use};
use super::messages::{ConfirmStatus, LinkConfirm, LinkConfirmed, LinkDone, LinkReason, LinkStart, LinkStarted, StartStatus};
use crate::key::{AuthorityKey, DeviceKey};
use crate::time::UnixTime;
use crate::wire::{self, Extensions};

/// Why a device wasn't linked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The holder says no.
    #[error("{0}")]
    Refused(LinkReason),
    /// The holder's answer doesn't fit: it doesn't know the code.
    #[error("the other device doesn't know the code: it is another device than the one that shows it, or somebody is in between")]
    NotProved,
    /// The holder's answer isn't one.
    #[error("the other device's answer can't be read")]
    Malformed,
    /// What it gave can't be used.
    #[error("what the other device gave can't be used: {0}")]
    Grant(#[from] LinkGrantError),
    /// An answer to something that wasn't asked now.
    #[error("an answer out of order")]
    OutOfOrder,
}

enum State {
    Started(Box<Exchange>),
    Confirmed(LinkKeys),
    Granted(LinkKeys),
    Over,
}

/// The joiner's side: [`LinkJoiner::begin`], [`LinkJoiner::handle_started`], [`LinkJoiner::handle_confirmed`], then, with everything on disk,
/// [`LinkJoiner::done`]. After an error it is over.
pub struct LinkJoiner {
    me: DeviceKey,
    root: Option<AuthorityKey>,
    state: State,
}

impl LinkJoiner {
    /// Begins with the code, for the device `me` at the device `holder`, which is the one that the connection leads to. `root` is the authority
    /// expected, if the link has said. `seed` must be random and used once.
    #[must_use]
    pub fn begin(
        code: &LinkCode,
        me: DeviceKey,
        holder: DeviceKey,
        root: Option<AuthorityKey>,
        seed: [u8; 32],
    ) -> (Self, LinkStart) {
        let exchange = Exchange::begin(code, me, holder, true, seed);
        let start = LinkStart { element: exchange.element(), extensions: Extensions::none() };
        (Self { me, root, state: State::Started(Box::new(exchange)) }, start)
    }

    /// The holder has begun too: proves the code, and says who we are.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn handle_started(&mut self, message: &LinkStarted, request: &LinkRequest) -> Result<LinkConfirm, JoinError> {
        let State::Started(exchange) = std::mem::replace(&mut self.state, State::Over) else { return Err(JoinError::OutOfOrder) };
        let element = match &message.status {
            StartStatus::Started { element } => element,
            StartStatus::Refused(reason) => return Err(JoinError::Refused(*reason)),
        };
        let keys = exchange.finish(element).ok_or(JoinError::Malformed)?;
        let sealed = keys.seal(Use::ToHolder, &wire::encode(request)).ok_or(JoinError::Malformed)?;
        let proof = keys.prove(Use::JoinerProof, &sealed);
        self.state = State::Confirmed(keys);
        Ok(LinkConfirm { proof, sealed, extensions: Extensions::none() })
    }

    /// The holder has proved the code and given what a device needs; verified.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn handle_confirmed(&mut self, message: &LinkConfirmed, now: UnixTime) -> Result<LinkGrant, JoinError> {
        let State::Confirmed(keys) = std::mem::replace(&mut self.state, State::Over) else { return Err(JoinError::OutOfOrder) };
        let (proof, sealed) = match &message.status {
            ConfirmStatus::Granted { proof, sealed } => (proof, sealed),
            ConfirmStatus::Refused(reason) => return Err(JoinError::Refused(*reason)),
        };
        if !keys.is_proved(Use::HolderProof, sealed, proof) {
            return Err(JoinError::NotProved);
        }
        let opened = keys.open(Use::ToJoiner, sealed).ok_or(JoinError::NotProved)?;
        let grant = LinkGrant::from_bytes(&opened).map_err(LinkGrantError::from)?;
        grant.verify(&self.me, self.root.as_ref(), now)?;
        self.state = State::Granted(keys);
        Ok(grant)
    }

    /// What tells the holder that everything is on disk; `None` before it was given.
    #[must_use]
    pub fn done(&self) -> Option<LinkDone> {
        let State::Granted(keys) = &self.state else { return None };
        Some(LinkDone { proof: keys.prove(Use::DoneProof, &[]), extensions: Extensions::none() })
    }
}

impl fmt::Debug for LinkJoiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Started(_) => "started",
            State::Confirmed(_) => "confirmed",
            State::Granted(_) => "granted",
            State::Over => "over",
        };
        f.debug_struct("LinkJoiner").field("state", &state).finish_non_exhaustive()
    }
}
