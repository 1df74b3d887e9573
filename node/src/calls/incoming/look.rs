//! Calls of those who may be contacts in a linked system: held until their place there was looked at.

use super::*;

impl EventLoop {
    /// Holds a call of somebody who may be a contact in a linked system, until their place there was looked at.
    pub(super) fn hold_for_look(&mut self, sealed: &SealedInvite, arrival: Arrival, invite: &VerifiedInvite) -> Option<Rung> {
        let held_secs = self.is_held_for_look(sealed, arrival, invite)?;
        debug!(call = %invite.invite().call.short(), "held until the caller's place in the linked system was looked at");
        Some(Rung { status: InviteStatus::Ringing, call: None, from: None, refusal: None, held_secs: Some(held_secs) })
    }

    /// The caller's place was looked at: rings, or refuses. On a stream it was answered that it is held, so either is told by a signal.
    pub(crate) fn ring_after_look(&mut self, sealed: &SealedInvite, arrival: Arrival, call: CallId) {
        let rung = self.ring(sealed, arrival);
        match rung.status {
            InviteStatus::Ringing => {
                let incoming = self.calls.incoming.get_mut(&call).filter(|incoming| !incoming.is_held());
                if let Some(incoming) = incoming.filter(|_| arrival.way == InviteWay::Stream) {
                    incoming.machine.ring(Instant::now());
                    self.drive_incoming(call);
                }
            }
            InviteStatus::Refused(reason) if arrival.way == InviteWay::Stream => self.refuse_after_look(sealed, arrival, reason),
            InviteStatus::Busy if arrival.way == InviteWay::Stream => self.refuse_after_look(sealed, arrival, Reason::BUSY),
            // A stranger who pushed isn't told that the device is awake.
            InviteStatus::Refused(_) | InviteStatus::Busy | InviteStatus::Duplicate | InviteStatus::NotForMe => {}
        }
    }

    pub(super) fn refuse_after_look(&mut self, sealed: &SealedInvite, arrival: Arrival, reason: Reason) {
        let opened = sealed.open(&self.hpke, &self.identity.device(), self.now().unix, &self.trust);
        let Ok(invite) = opened else { return };
        let call = invite.invite().call;
        if self.calls.incoming.contains_key(&call) || self.calls.incoming.len() >= CALLS_MAX {
            return;
        }
        let (params, target) = self.callee(&invite, arrival.way);
        let machine = CalleeCall::refuse(params, reason, Instant::now());
        let mut incoming = self.new_incoming(&invite, machine, target, arrival);
        incoming.archived = true;
        self.calls.incoming.insert(call, incoming);
        self.drive_incoming(call);
    }

    /// Who a caller is in a linked system: the contact there as whom they are let in, or whom a contact here is there.
    pub(super) fn linked_peer(&mut self, invite: &VerifiedInvite) -> Option<LinkedPeer> {
        if let Some(contact) = self.linked_caller(invite) {
            let by = Some(contact.carrier.as_str().to_owned());
            return Some(LinkedPeer { id: contact.id.to_string(), name: contact.name, by });
        }
        // A contact here, who is one there too.
        let caller = &invite.caller().user;
        self.linked_peer_of(&caller.id).filter(|_| self.linked_identity(&caller.id) == Some(caller.identity))
    }
}
