//! Pushes of a call: when a device is to be woken, and what gateways keep back for its turn.

use super::*;

impl EventLoop {
    /// A device has the invite, and rings later: its user has others ring first.
    pub(super) fn device_holds(&mut self, call: CallId, device: DeviceKey, secs: u16) {
        self.note_stage(
            call,
            CallStageKind::Choice,
            Some(&device),
            format!("has it, and rings in {secs} s: others are to ring before"),
        );
        if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
            if let Some(leg) = outgoing.legs.get_mut(&device) {
                leg.rang_on_stream = true;
            }
            outgoing.machine.handle_held(device, Instant::now());
            self.drive_outgoing(call);
        }
    }

    /// A gateway has the push, and sends it later.
    pub(crate) fn push_held(&mut self, call: CallId, device: DeviceKey, held: HeldPush, secs: u16) {
        let is_waiting = self.calls.outgoing.get(&call).is_some_and(|outgoing| outgoing.machine.is_waiting());
        if !is_waiting {
            return self.withdraw_push(held);
        }
        self.note_stage(
            call,
            CallStageKind::Choice,
            Some(&device),
            format!("its gateway wakes it in {secs} s: others are to ring before"),
        );
        if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
            if let Some(leg) = outgoing.legs.get_mut(&device) {
                leg.held_pushes.push(held);
            }
            outgoing.machine.handle_kept(device);
        }
    }

    /// The call is answered or over: gateways that hold pushes for it let them go.
    pub(super) fn withdraw_pushes(&mut self, call: CallId) {
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        let held: Vec<HeldPush> = outgoing.legs.values_mut().flat_map(|leg| leg.held_pushes.drain(..)).collect();
        held.into_iter().for_each(|held| self.withdraw_push(held));
    }

    /// Hands the invite to the gateways of devices whose time has come.
    pub(super) fn push_due(&mut self, call: CallId) {
        let now = Instant::now();
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        let mut due = Vec::new();
        for (device, leg) in &mut outgoing.legs {
            let waits = outgoing.machine.leg_state(device) == Some(LegState::Inviting);
            if let (Some(sealed), true) = (&leg.sealed, leg.push_at.is_some_and(|at| at <= now)) {
                leg.push_at = None;
                if waits {
                    due.push((*device, leg.gateways.clone(), sealed.clone()));
                }
            }
        }
        for (device, gateways, sealed) in due {
            let asked = self.push_invite(call, device, &gateways, &sealed);
            let pushes = asked.len();
            if let Some(leg) = self.calls.outgoing.get_mut(&call).and_then(|outgoing| outgoing.legs.get_mut(&device)) {
                leg.bearers.extend(asked);
                leg.pushes = pushes;
                leg.pushed |= pushes > 0;
            }
            self.note_stage(
                call,
                CallStageKind::Push,
                Some(&device),
                format!("{pushes} of its {} gateways asked", gateways.len()),
            );
        }
    }

    /// What a callee shows in a linked system was looked at again: devices that weren't woken by what was known before are.
    pub(crate) fn invite_by_new_leave(&mut self, call: CallId) {
        let Some(outgoing) = self.calls.outgoing.get_mut(&call).filter(|outgoing| outgoing.machine.is_waiting()) else { return };
        for leg in outgoing.legs.values_mut().filter(|leg| leg.pushes == 0 && !leg.rang_on_stream) {
            leg.gateways.clear();
        }
        let key = halloo_protocol::directory::RecordKey::of(&outgoing.progress.user);
        if let Some(record) = self.cached_record(&key).cloned() {
            self.invite_devices(call, &record);
        }
    }

    /// A gateway refused a push, or couldn't be reached.
    pub(crate) fn push_failed(&mut self, call: CallId, device: DeviceKey) {
        self.note_stage(call, CallStageKind::Push, Some(&device), "a gateway took no push");
        if let Some(leg) = self.calls.outgoing.get_mut(&call).and_then(|outgoing| outgoing.legs.get_mut(&device)) {
            leg.pushes = leg.pushes.saturating_sub(1);
        }
        self.check_unreachable(call, device);
    }
}
