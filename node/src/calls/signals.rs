//! What the two ends of a call say to each other: signed, sent until acknowledged.

use std::time::Instant;

use halloo_protocol::call::{CallSignal, PassStatus, Reason, Signal, SignalPass, SignalPassed, SignalStatus};
use halloo_protocol::wire::{Extensions, Frame, Signed};
use tracing::debug;

use super::{SIGNAL_TIMEOUT, SignalTarget};
use crate::event_loop::EventLoop;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;

impl EventLoop {
    /// A signal from the other end of a call.
    pub(crate) fn handle_call_signal(&mut self, signed: &Signed<Signal>) -> SignalStatus {
        use halloo_protocol::call::{SignalBody, VerifiedSignal};
        let me = self.identity.device();
        let signal = match VerifiedSignal::verify(signed, &me) {
            Ok(signal) => signal,
            Err(error) => {
                debug!(%error, "signal refused");
                self.counters.malformed += 1;
                return SignalStatus::Refused(Reason::INVALID);
            }
        };
        let call = signal.signal().call;
        let now = Instant::now();
        if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
            let status = outgoing.machine.handle_signal(&signal, now);
            self.drive_outgoing(call);
            return status;
        }
        if let Some(incoming) = self.calls.incoming.get_mut(&call) {
            let status = incoming.machine.handle_signal(&signal, now);
            self.drive_incoming(call);
            return status;
        }
        let withdrawn = match &signal.signal().body {
            SignalBody::Cancel { reason } => Some(*reason),
            SignalBody::Replaced { .. } => Some(Reason::ANSWERED_ELSEWHERE),
            _ => None,
        };
        if let Some(reason) = withdrawn {
            // It has overtaken its invite, which must not ring any more.
            let now = self.now().unix;
            self.calls.withdrawn.insert(signal.signal().from, call, reason, now);
        }
        SignalStatus::UnknownCall
    }

    /// Signs a signal and sends it; the machine repeats it until it is acknowledged.
    pub(super) fn send_signal(&mut self, signal: Signal, target: &Target) {
        let purpose = Purpose::Signal(SignalTarget { call: signal.call, device: signal.to, sequence: signal.sequence });
        let signed = Signed::sign(signal, self.identity.device_key());
        let message = CallSignal { signal: signed, extensions: Extensions::none() };
        self.request(target, &message, purpose, SIGNAL_TIMEOUT);
    }

    /// The same by way of whoever brought the invite, relay or gateway.
    pub(super) fn pass_signal(&mut self, signal: Signal, by: &Target) {
        let purpose = Purpose::SignalAsk(SignalTarget { call: signal.call, device: signal.to, sequence: signal.sequence });
        let signal = Signed::sign(signal, self.identity.device_key());
        self.request(by, &SignalPass { signal, extensions: Extensions::none() }, purpose, SIGNAL_TIMEOUT);
    }

    pub(crate) fn signal_answer(&mut self, target: SignalTarget, frame: &Frame) {
        let Ok(ack) = frame.parse::<halloo_protocol::call::CallSignalAck>() else {
            self.counters.malformed += 1;
            return;
        };
        self.signal_acknowledged(target, ack.status);
    }

    /// What others say that the device has said: that it has the signal is believed, so that it isn't said for ever. Anything else would end the
    /// call, which is the device's to say.
    pub(crate) fn signal_ask_answer(&mut self, target: SignalTarget, frame: &Frame) {
        match frame.parse::<SignalPassed>().map(|answer| answer.status) {
            Ok(PassStatus::Passed(SignalStatus::Taken)) => self.signal_acknowledged(target, SignalStatus::Taken),
            Ok(status) => debug!(call = %target.call.short(), ?status, "signal not passed on"),
            Err(_) => self.counters.malformed += 1,
        }
    }

    fn signal_acknowledged(&mut self, target: SignalTarget, status: SignalStatus) {
        let now = Instant::now();
        if let Some(outgoing) = self.calls.outgoing.get_mut(&target.call) {
            outgoing.machine.handle_ack(target.device, target.sequence, status, now);
            self.drive_outgoing(target.call);
        } else if let Some(incoming) = self.calls.incoming.get_mut(&target.call) {
            incoming.machine.handle_ack(target.device, target.sequence, status, now);
            self.drive_incoming(target.call);
        }
    }

    pub(crate) fn signal_failure(&mut self, target: SignalTarget, failure: Failure) {
        // The machine repeats it, and gives up by its own deadline.
        debug!(call = %target.call.short(), %failure, "signal not acknowledged");
    }
}
