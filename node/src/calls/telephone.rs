//! Calls to telephone numbers, and from them: what the dialler says is turned into a call of a gateway, and a gateway's device judges who calls.

use halloo_protocol::call::{InviteStatus, Reason, TelephonePart, VerifiedInvite};
use halloo_protocol::trunk::number::{Dialled, is_tel_uri};
use tracing::debug;

use super::incoming::Rung;
use crate::event_loop::EventLoop;
use crate::handle::calls::{CallError, DialOptions};
use crate::handle::problem::NodeError;

/// What an invite has to do with the telephone network, once it may ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telephone {
    /// This gateway is to call a number, for somebody whom its owner has named.
    Dialled,
    /// A gateway calls, for somebody there.
    Caller,
}

/// For lists and events.
pub(super) fn words(part: &TelephonePart) -> String {
    match part {
        TelephonePart::Dial(number) | TelephonePart::From(Some(number)) => number.to_string(),
        TelephonePart::From(None) => "withheld".to_owned(),
    }
}

impl EventLoop {
    /// Makes a call to `tel:` one to a gateway, with the number in its invite; unless it is known who that is here.
    pub(super) fn resolve_telephone(&self, options: &mut DialOptions) -> Result<(), CallError> {
        if options.linked.is_some() || !options.users.iter().any(|user| is_tel_uri(user)) {
            return Ok(());
        }
        let unsupported = |what| Err(CallError::Node(NodeError::Unsupported { what }));
        let [number] = options.users.as_slice() else { return unsupported("calling several users at once") };
        if options.is_video() {
            return unsupported("video calls to a telephone");
        }
        options.telephone = Some(TelephonePart::Dial(Dialled::parse(number)?));
        let gateway = options.via.clone().or_else(|| self.settings.calls.telephone.clone());
        options.users = vec![gateway.ok_or(CallError::NoGateway)?];
        Ok(())
    }

    /// What an invite has to do with the telephone network, or why it doesn't ring: a number is called by a gateway alone, and only for whom its owner has
    /// named. Nothing is kept of what is refused.
    pub(super) fn judge_telephone(&mut self, invite: &VerifiedInvite) -> Result<Option<Telephone>, Rung> {
        let number = match TelephonePart::of(invite.invite()) {
            Ok(None) => return Ok(None),
            Ok(Some(TelephonePart::From(_))) => return Ok(Some(Telephone::Caller)),
            Ok(Some(TelephonePart::Dial(number))) => number,
            Err(_) => {
                self.counters.malformed += 1;
                return Err(refused(Reason::INVALID, "what it says of a telephone can't be read".to_owned()));
            }
        };
        let Some(plan) = &self.settings.telephone else {
            return Err(refused(Reason::TELEPHONE_NO_GATEWAY, Reason::TELEPHONE_NO_GATEWAY.to_string()));
        };
        match plan.screen(&self.labels.display(invite.caller_id()), &number) {
            Ok(()) => Ok(Some(Telephone::Dialled)),
            Err(refusal) => {
                debug!(%refusal, "a telephone call is refused");
                Err(refused(refusal.reason(), refusal.to_string()))
            }
        }
    }
}

fn refused(reason: Reason, words: String) -> Rung {
    Rung { status: InviteStatus::Refused(reason), call: None, from: None, refusal: Some(words), held_secs: None }
}
