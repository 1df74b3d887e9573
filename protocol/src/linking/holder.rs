//! The device that has the identity key: one code, one try.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::code::LinkCode;
use super::grant::{LinkGrant, LinkRequest};
use super::keys::{Exchange, LinkKeys, Use};
use super::messages::{
    ConfirmStatus, LinkConfirm, LinkConfirmed, LinkDone, LinkFinished, LinkReason, LinkStart, LinkStarted, StartStatus,
};
use crate::key::DeviceKey;
use crate::wire::{self, Extensions};

/// How long a code is open, in seconds: long enough to walk to the other device and type.
pub const LINK_SECS: u64 = 300;

/// Devices that may be between beginning and proving at the same time.
const SESSIONS_MAX: usize = 4;

/// How long one may be.
const SESSION_MAX: Duration = Duration::from_secs(30);

/// Beginnings a code allows; each costs two multiplications on the curve. A person needs one.
const STARTS_MAX: u32 = 32;

/// How long the new device has to say that it has everything.
const DONE_MAX: Duration = Duration::from_secs(60);

/// What the person is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderEvent {
    /// A device has begun.
    Asked {
        /// Which.
        device: DeviceKey,
    },
    /// A device proved to know another code than this one, which is burnt.
    WrongCode {
        /// Which.
        device: DeviceKey,
    },
    /// A device knows the code, and couldn't be given what it needs; the code is used up.
    Failed {
        /// Which.
        device: DeviceKey,
    },
    /// A device was certified; it has yet to say that it is done.
    Granted {
        /// Which.
        device: DeviceKey,
        /// What it says of itself.
        request: LinkRequest,
    },
    /// It is done.
    Linked {
        /// Which.
        device: DeviceKey,
    },
    /// A device was certified, and hasn't said that it is done.
    Unconfirmed {
        /// Which.
        device: DeviceKey,
    },
    /// Nobody came in time.
    TimedOut,
}

struct Session {
    device: DeviceKey,
    keys: LinkKeys,
    until: Instant,
}

enum State {
    Open { code: LinkCode, until: Instant, sessions: Vec<Session>, starts: u32 },
    Granted { session: Session },
    Over,
}

/// The holder's side of one code.
///
/// Contract: requests of peers go to the `handle_*` of their type, together with the device key that the connection has proved; the answer goes back
/// on that connection. Take events with [`LinkHolder::poll_event`]; wake it at [`LinkHolder::poll_timeout`].
pub struct LinkHolder {
    me: DeviceKey,
    state: State,
    events: VecDeque<HolderEvent>,
}

impl LinkHolder {
    /// Opens a code at the device `me`.
    #[must_use]
    pub fn new(code: LinkCode, me: DeviceKey, now: Instant) -> Self {
        let until = now + Duration::from_secs(LINK_SECS);
        Self { me, state: State::Open { code, until, sessions: Vec::new(), starts: 0 }, events: VecDeque::new() }
    }

    /// A device begins; `seed` must be random and used once.
    pub fn handle_start(&mut self, from: DeviceKey, message: &LinkStart, seed: [u8; 32], now: Instant) -> LinkStarted {
        let status = match self.begin(from, message, seed, now) {
            Ok(element) => StartStatus::Started { element },
            Err(reason) => StartStatus::Refused(reason),
        };
        LinkStarted { status, extensions: Extensions::none() }
    }

    fn begin(
        &mut self,
        from: DeviceKey,
        message: &LinkStart,
        seed: [u8; 32],
        now: Instant,
    ) -> Result<[u8; super::keys::ELEMENT_BYTES], LinkReason> {
        self.handle_timeout(now);
        let State::Open { code, until, sessions, starts } = &mut self.state else { return Err(LinkReason::CLOSED) };
        sessions.retain(|session| session.until > now && session.device != from);
        if sessions.len() >= SESSIONS_MAX || *starts >= STARTS_MAX {
            return Err(LinkReason::BUSY);
        }
        *starts += 1;
        let exchange = Exchange::begin(code, from, self.me, false, seed);
        let element = exchange.element();
        let keys = exchange.finish(&message.element).ok_or(LinkReason::INVALID)?;
        sessions.push(Session { device: from, keys, until: (now + SESSION_MAX).min(*until) });
        self.events.push_back(HolderEvent::Asked { device: from });
        Ok(element)
    }

    /// A device proves that it knows the code. If it does, `grant` makes what it is given; whatever happens, the code serves nobody else.
    pub fn handle_confirm(
        &mut self,
        from: DeviceKey,
        message: &LinkConfirm,
        now: Instant,
        grant: impl FnOnce(&LinkRequest) -> Option<LinkGrant>,
    ) -> LinkConfirmed {
        let status = match self.judge(from, message, now, grant) {
            Ok((proof, sealed)) => ConfirmStatus::Granted { proof, sealed },
            Err(reason) => ConfirmStatus::Refused(reason),
        };
        LinkConfirmed { status, extensions: Extensions::none() }
    }

    fn judge(
        &mut self,
        from: DeviceKey,
        message: &LinkConfirm,
        now: Instant,
        grant: impl FnOnce(&LinkRequest) -> Option<LinkGrant>,
    ) -> Result<([u8; 32], Vec<u8>), LinkReason> {
        self.handle_timeout(now);
        let State::Open { sessions, .. } = &mut self.state else { return Err(LinkReason::CLOSED) };
        // Who hasn't begun has no try.
        let position = sessions.iter().position(|session| session.device == from && session.until > now);
        let session = sessions.swap_remove(position.ok_or(LinkReason::CLOSED)?);
        let is_right = session.keys.is_proved(Use::JoinerProof, &message.sealed, &message.proof);
        let opened = session.keys.open(Use::ToHolder, &message.sealed).filter(|_| is_right);
        let Some(opened) = opened else {
            self.end(HolderEvent::WrongCode { device: from });
            return Err(LinkReason::WRONG_CODE);
        };
        let request = match LinkRequest::from_bytes(&opened) {
            Ok(request) => request,
            Err(_) => {
                self.end(HolderEvent::Failed { device: from });
                return Err(LinkReason::INVALID);
            }
        };
        let made = grant(&request).and_then(|grant| {
            let bytes = zeroize::Zeroizing::new(grant.to_bytes());
            let fits = bytes.len() <= super::grant::GRANT_BYTES_MAX;
            session.keys.seal(Use::ToJoiner, &bytes).filter(|_| fits)
        });
        let Some(sealed) = made else {
            self.end(HolderEvent::Failed { device: from });
            return Err(LinkReason::FAILED);
        };
        let proof = session.keys.prove(Use::HolderProof, &sealed);
        self.state = State::Granted { session: Session { until: now + DONE_MAX, ..session } };
        self.events.push_back(HolderEvent::Granted { device: from, request });
        Ok((proof, sealed))
    }

    /// The new device says that it is done.
    pub fn handle_done(&mut self, from: DeviceKey, message: &LinkDone) -> LinkFinished {
        let is_known = match &self.state {
            State::Granted { session } => session.device == from && session.keys.is_proved(Use::DoneProof, &[], &message.proof),
            State::Open { .. } | State::Over => false,
        };
        if is_known {
            self.end(HolderEvent::Linked { device: from });
        }
        LinkFinished { is_known, extensions: Extensions::none() }
    }

    /// When it wants to be woken; `None` when it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Open { until, .. } => Some(*until),
            State::Granted { session } => Some(session.until),
            State::Over => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            State::Open { until, .. } if *until <= now => self.end(HolderEvent::TimedOut),
            State::Granted { session } if session.until <= now => {
                let device = session.device;
                self.end(HolderEvent::Unconfirmed { device });
            }
            _ => {}
        }
    }

    /// The next thing to show.
    pub fn poll_event(&mut self) -> Option<HolderEvent> {
        self.events.pop_front()
    }

    /// True once nothing more can come of the code.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn end(&mut self, event: HolderEvent) {
        self.state = State::Over;
        self.events.push_back(event);
    }
}

impl fmt::Debug for LinkHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Open { .. } => "open",
            State::Granted { .. } => "granted",
            State::Over => "over",
        };
        f.debug_struct("LinkHolder").field("state", &state).finish_non_exhaustive()
    }
}

/// A request of 512 bytes stays within what its message may have.
const _: () = assert!(super::grant::REQUEST_BYTES_MAX < wire::FRAME_BODY_BYTES_MAX);
/// So does a grant, with what is around it.
const _: () = assert!(super::grant::GRANT_BYTES_MAX + super::keys::SEAL_OVERHEAD_BYTES + 256 < wire::FRAME_BODY_BYTES_MAX);
