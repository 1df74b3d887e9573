//! The callee's record looked up once more while a call is on its way: a device may be new, or have moved.

use super::*;

impl EventLoop {
    /// Asks the directory too, if the record was a cached one. The invites go first.
    pub(super) fn look_again(&mut self, call: CallId) {
        let Some(outgoing) = self.calls.outgoing.get_mut(&call).filter(|outgoing| outgoing.looks_again) else { return };
        outgoing.looks_again = false;
        let user = outgoing.progress.user.clone();
        self.resolve_user(&user, Waiter::DialAgain(call));
    }

    /// The second look-up for a dial has ended, with a record or without.
    pub(crate) fn dial_resolved_again(&mut self, call: CallId, found: Option<&DirectoryRecord>) {
        let devices = found.map_or(0, |record| record.entries().count());
        let detail = if found.is_some() {
            format!("{}, from the directory too", count_words(devices))
        } else {
            "nothing newer in the directory".to_owned()
        };
        self.note_stage(call, CallStageKind::LookUp, None, detail);
        if let Some(record) = found {
            self.invite_devices(call, record);
        }
        self.finish_dial_lookup(call);
    }

    /// The device can't open the invite: our copy of its record is old. Once, a fresh one is fetched. False if that was tried before.
    pub(super) fn look_up_again(&mut self, target: InviteTarget) -> bool {
        let InviteTarget { call, device, .. } = target;
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return false };
        let user = outgoing.progress.user.clone();
        let Some(leg) = outgoing.legs.get_mut(&device).filter(|leg| !leg.looked_up_again) else { return false };
        leg.looked_up_again = true;
        leg.push_at = None;
        outgoing.progress.note(CallStageKind::LookUp, Some(&device), "its record is fetched anew, for the key to seal to");
        self.forget_cached(&user);
        self.resolve_user(&user, Waiter::Redial(target));
        true
    }

    /// The second look-up has ended: with another key for the device the invite is made again, else the device is given up.
    pub(crate) fn redial_resolved(&mut self, target: InviteTarget, found: Result<DirectoryRecord, ResolveError>) {
        let InviteTarget { call, device, .. } = target;
        if self.invited_leg(target).is_none() {
            return;
        }
        let fresh = found.ok().and_then(|record| {
            let parts = record.entry(&device)?;
            let leg = self.new_leg(&record, parts)?;
            let known = self.calls.outgoing.get(&call)?.legs.get(&device)?;
            (known.hpke_key != leg.hpke_key).then_some(leg)
        });
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        match fresh {
            Some(leg) => {
                outgoing.put_leg(device, Leg { looked_up_again: true, ..leg });
                self.offer_to(call, device);
            }
            None => {
                outgoing.machine.handle_invite_status(device, InviteStatus::NotForMe, Instant::now());
                self.drive_outgoing(call);
            }
        }
    }

    /// The device isn't where its record says: it may have moved a moment ago, and not every replica knows. All are asked.
    pub(super) fn look_for_move(&mut self, target: InviteTarget) {
        let InviteTarget { call, device, .. } = target;
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        let user = outgoing.progress.user.clone();
        outgoing.progress.note(CallStageKind::LookUp, Some(&device), "not where its record says: all replicas are asked");
        self.resolve_user(&user, Waiter::Moved(target));
    }

    /// All replicas have been asked: the invite goes to where the device is now, or the way over the stream is at its end unless an invite is on its way.
    pub(crate) fn moved_resolved(&mut self, target: InviteTarget, found: Option<&DirectoryRecord>) {
        let InviteTarget { call, device, .. } = target;
        let fresh = found.and_then(|record| self.new_leg(record, record.entry(&device)?));
        let Some(leg) = self.invited_leg(target) else { return };
        let is_idle = leg.stream_way.end_search();
        let Some(fresh) = fresh.filter(|fresh| fresh.target.addresses != leg.target.addresses) else {
            if is_idle {
                leg.stream_way.give_up();
                self.check_unreachable(call, device);
            }
            return;
        };
        leg.target = fresh.target;
        leg.relay_way = RelayWay { is_asking: leg.relay_way.is_asking, ..fresh.relay_way };
        let (target, sealed) = (leg.target.clone(), leg.sealed.clone());
        let Some(outgoing) = self.calls.outgoing.get(&call) else { return };
        let is_wanted = outgoing.machine.leg_state(&device) == Some(LegState::Inviting);
        let is_silent = outgoing.legs.get(&device).is_some_and(|leg| self.is_leg_silent(leg));
        match sealed.filter(|_| is_wanted && is_idle) {
            Some(_) if is_silent => self.repeat_invite(call, device, true),
            Some(sealed) => self.send_invite(call, device, &target, &sealed),
            // The invite waits for whichever dial connects first.
            None if is_wanted => {
                self.dial_moved(&target);
                self.hand_over(call, device);
            }
            None => {}
        }
    }
}
