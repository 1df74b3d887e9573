//! Ringing this very device through the whole chain: to each of its gateways, from there by each of its channels, and back.
//!
//! A gateway can drop and delay what it is to deliver, and a push service can forget a subscription: neither is noticed until a call doesn't ring. So a device
//! tests its gateways by itself, once a day each and when one has become suspect, and turns to another where one takes pushes and brings none.

use std::time::{Duration, Instant};

use halloo_protocol::event::EventKind;
use halloo_protocol::id::MessageId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::{EventNotice, PushHints, PushReason, PushWay, SealedNotice, Urgency};
use halloo_protocol::time::Now;
use halloo_protocol::wire::Extensions;
use tracing::{debug, info, warn};

use super::{GATEWAYS_MAX, LOCAL_ENDPOINT, Push, Sending, WireChannel, gateway_name};
use crate::event_loop::EventLoop;
use crate::handle::push::{PushError, PushTest, PushTestGateway, PushTestStage, PushTestStep};
use crate::handle::{Event, Reply};

/// How long a test waits for what was pushed.
const WAIT: Duration = Duration::from_secs(15);

/// When a node tests its gateways for the first time by itself, how often afterwards, and how soon after a test that failed.
const FIRST_AFTER: Duration = Duration::from_secs(300);
const EVERY: Duration = Duration::from_secs(86_400);
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Tests in a row that a gateway fails before another one takes its place.
const FAILURES_MAX: u32 = 2;

const TTL_SECS: u32 = 60;

/// A test under way, and what is known of earlier ones.
#[derive(Debug, Default)]
pub(super) struct SelfTests {
    running: Option<Running>,
    next_at: Option<Instant>,
    /// Failures in a row.
    failures: Vec<(DeviceKey, u32)>,
}

#[derive(Debug)]
struct Running {
    id: MessageId,
    since: Instant,
    gateways: Vec<Tested>,
    /// Who asked; nobody did if the node tests by itself.
    replies: Vec<Reply<PushTest, PushError>>,
}

#[derive(Debug)]
struct Tested {
    gateway: DeviceKey,
    name: String,
    /// The gateway's first.
    stages: Vec<PushTestStage>,
    /// How it is to come; `None` until the gateway has answered.
    expected: Option<Vec<Arrival>>,
    arrived: Vec<Arrival>,
    /// Whether a push service's message comes to the node itself, so that its absence means something also when nobody is there to hand it over.
    has_own_service: bool,
}

/// By which way something came, as far as the device can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// On the gateway's stream.
    Stream,
    /// From a push service, or handed over by the application that it woke.
    Service,
}

impl Arrival {
    const fn of(way: PushWay) -> Self {
        match way {
            PushWay::Stream => Self::Stream,
            _ => Self::Service,
        }
    }

    const fn step(self) -> PushTestStep {
        match self {
            Self::Stream => PushTestStep::Stream,
            Self::Service => PushTestStep::Service,
        }
    }
}

impl Tested {
    fn note(&mut self, since: Instant, step: PushTestStep, ok: bool, detail: impl Into<String>) {
        let stage = PushTestStage { step, ok, at_ms: crate::diagnosis::millis(since.elapsed()), detail: detail.into() };
        // What the gateway says may come after what it sent.
        let place = if step == PushTestStep::Gateway { 0 } else { self.stages.len() };
        self.stages.insert(place, stage);
    }

    fn missing(&self) -> impl Iterator<Item = Arrival> {
        let expected = self.expected.iter().flatten().copied();
        expected.filter(|arrival| !self.arrived.contains(arrival))
    }

    fn is_over(&self) -> bool {
        self.expected.is_some() && self.missing().next().is_none()
    }

    /// Whether the gateway has done what can be seen from here without anybody handing payloads over.
    fn has_failed(&self) -> bool {
        let accepted = self.stages.iter().any(|stage| stage.step == PushTestStep::Gateway && stage.ok);
        let silent = self.missing().any(|missing| missing == Arrival::Stream || self.has_own_service);
        !accepted || silent
    }

    fn finish(mut self, since: Instant) -> PushTestGateway {
        let missing: Vec<Arrival> = self.missing().collect();
        for arrival in missing {
            let detail = match arrival {
                Arrival::Stream => "it didn't come on the stream",
                Arrival::Service if self.has_own_service => "the push service didn't bring it",
                Arrival::Service => "nobody handed it over: the application does that (halloo wake --payload)",
            };
            self.note(since, arrival.step(), false, detail);
        }
        let ok = !self.stages.is_empty() && self.stages.iter().all(|stage| stage.ok);
        PushTestGateway { gateway: self.name, ok, stages: self.stages }
    }
}

impl EventLoop {
    /// Rings this device through its gateways.
    pub(crate) fn handle_push_test(&mut self, reply: Reply<PushTest, PushError>) {
        if !self.push.registered.iter().any(super::Registered::is_live) {
            return reply.send(Err(PushError::NotRegistered));
        }
        match &mut self.push.tests.running {
            // One at a time: who comes later hears of the same.
            Some(running) => running.replies.push(reply),
            None => self.begin_push_test(vec![reply]),
        }
    }

    fn begin_push_test(&mut self, replies: Vec<Reply<PushTest, PushError>>) {
        let (id, since) = (MessageId::random(&mut self.rng), Instant::now());
        let addresses = self.push_addresses();
        let gateways = addresses.iter().take(GATEWAYS_MAX).map(|address| Tested {
            gateway: address.gateway.device,
            name: gateway_name(&address.gateway),
            stages: Vec::new(),
            expected: None,
            arrived: Vec::new(),
            has_own_service: self.push.registered.iter().any(|known| {
                known.gateway.device == address.gateway.device
                    && matches!(&known.channel, WireChannel::WebPush { endpoint, .. } if endpoint.starts_with(LOCAL_ENDPOINT))
            }),
        });
        self.push.tests.running = Some(Running { id, since, gateways: gateways.collect(), replies });
        let (me, user) = (self.identity.device(), self.identity.user_id());
        let hints = PushHints { event: EventKind::SELF_TEST, ttl_secs: TTL_SECS, urgency: Urgency::High };
        for address in addresses.iter().take(GATEWAYS_MAX) {
            // Each its own: gateways that share a database keep the same push once.
            let Some(sealed) = self.sealed_to_myself(id) else { return self.end_push_test() };
            let sending = Sending::Test { gateway: address.gateway.device };
            let push = Push { user: Some(&user), hints, sealed: &sealed, sending };
            if self.push_through(address, &me, &push).is_none() {
                self.push_test_answered(address.gateway.device, Err("what this device published of it can't be used".into()));
            }
        }
    }

    fn sealed_to_myself(&mut self, message: MessageId) -> Option<Vec<u8>> {
        let notice = EventNotice {
            chain: self.identity.chain().clone(),
            recipient: self.identity.device(),
            event: EventKind::SELF_TEST,
            message,
            sent_at: self.now().unix,
            extensions: Extensions::none(),
        };
        let sealed = SealedNotice::seal(notice, self.identity.device_key(), &self.hpke.public(), &mut self.rng);
        sealed.inspect_err(|error| warn!(%error, "no self-test")).ok().map(|sealed| sealed.as_bytes().to_vec())
    }

    /// A gateway has answered, or hasn't.
    pub(super) fn push_test_answered(&mut self, gateway: DeviceKey, answer: Result<Vec<PushWay>, String>) {
        let Some(running) = &mut self.push.tests.running else { return };
        let since = running.since;
        let Some(tested) = running.gateways.iter_mut().find(|tested| tested.gateway == gateway) else { return };
        match answer {
            Ok(ways) => {
                let mut expected: Vec<Arrival> = ways.into_iter().map(Arrival::of).collect();
                expected.dedup();
                tested.note(since, PushTestStep::Gateway, true, "accepted");
                tested.expected = Some(expected);
            }
            Err(reason) => {
                tested.note(since, PushTestStep::Gateway, false, reason);
                tested.expected = Some(Vec::new());
            }
        }
        self.check_push_test();
    }

    /// The test's own push has come.
    pub(super) fn push_test_arrived(&mut self, id: MessageId, gateway: DeviceKey, arrival: Arrival) {
        let Some(running) = self.push.tests.running.as_mut().filter(|running| running.id == id) else { return };
        let since = running.since;
        let Some(tested) = running.gateways.iter_mut().find(|tested| tested.gateway == gateway) else { return };
        if !tested.arrived.contains(&arrival) {
            tested.arrived.push(arrival);
            tested.note(since, arrival.step(), true, "arrived, opened, rings");
        }
        self.check_push_test();
    }

    fn check_push_test(&mut self) {
        if self.push.tests.running.as_ref().is_some_and(|running| running.gateways.iter().all(Tested::is_over)) {
            self.end_push_test();
        }
    }

    fn end_push_test(&mut self) {
        let Some(running) = self.push.tests.running.take() else { return };
        let since = running.since;
        let mut failed = Vec::new();
        for tested in &running.gateways {
            self.push.tests.failures.retain(|(known, _)| *known != tested.gateway || tested.has_failed());
            if tested.has_failed() {
                failed.push(tested.gateway);
            }
        }
        let gateways: Vec<PushTestGateway> = running.gateways.into_iter().map(|tested| tested.finish(since)).collect();
        let ok = !gateways.is_empty() && gateways.iter().all(|gateway| gateway.ok);
        debug!(ok, failed = failed.len(), "push self-test");
        self.push.tests.next_at = Some(Instant::now() + if failed.is_empty() { EVERY } else { AGAIN_AFTER });
        for reply in running.replies {
            reply.send(Ok(PushTest { ok, gateways: gateways.clone() }));
        }
        // Without a network no gateway can be blamed.
        let is_online = |gateway: &DeviceKey| self.peers.iter().any(|(_, known)| known.device != *gateway);
        let blamed: Vec<DeviceKey> = failed.into_iter().filter(is_online).collect();
        for gateway in blamed {
            self.gateway_failed_test(gateway);
        }
    }

    /// One that fails again and again is replaced, where there is another.
    fn gateway_failed_test(&mut self, gateway: DeviceKey) {
        let failures = &mut self.push.tests.failures;
        let count = match failures.iter_mut().find(|(known, _)| *known == gateway) {
            Some((_, count)) => {
                *count = count.saturating_add(1);
                *count
            }
            None => {
                failures.push((gateway, 1));
                1
            }
        };
        if count < FAILURES_MAX {
            return;
        }
        let name = gateway_name(&halloo_protocol::directory::Helper { device: gateway, addresses: Vec::new() });
        let replaced = self.replace_gateway(&gateway);
        info!(gateway = %name, replaced, "the gateway brings no pushes");
        let what = if replaced {
            "another one is to take its place"
        } else {
            "no other is known: halloo push register .. --gateway PEER"
        };
        let detail = format!("gateway {name} failed {count} tests in a row: its pushes didn't come back; {what}");
        self.events.send(Event::Warning { code: "push-gateway-silent".into(), detail });
        if replaced {
            self.push.tests.failures.retain(|(known, _)| *known != gateway);
        }
    }

    /// Ends a test whose time is over, and begins one when it is time.
    pub(super) fn push_tests_tick(&mut self, now: Now) {
        let tests = &mut self.push.tests;
        if tests.running.as_ref().is_some_and(|running| now.instant.saturating_duration_since(running.since) >= WAIT) {
            return self.end_push_test();
        }
        let next_at = *tests.next_at.get_or_insert(now.instant + FIRST_AFTER);
        if next_at <= now.instant && tests.running.is_none() {
            tests.next_at = Some(now.instant + EVERY);
            if !self.push.registered.is_empty() && !self.is_revoked() {
                self.begin_push_test(Vec::new());
            }
        }
    }

    /// What a person is told of a test's push, if one of them asked for it.
    pub(super) fn tell_self_test(&self, notice: &EventNotice) {
        let running = self.push.tests.running.as_ref().filter(|running| running.id == notice.message);
        if running.is_none_or(|running| running.replies.is_empty()) {
            return;
        }
        let user = self.identity.user_id();
        self.events.send(Event::MessageWaiting {
            message_id: notice.message.to_string(),
            from: self.labels.display(&user),
            kind: notice.event.to_string(),
            notice: self.notice(crate::wording::Sentence::Event(notice.event), &user),
        });
    }
}

/// What a gateway's refusal means to somebody who tests.
pub(super) fn refusal(reason: PushReason) -> String {
    format!("refused: {reason}")
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::PublicKey;

    use super::*;

    fn tested(has_own_service: bool) -> Tested {
        Tested {
            gateway: DeviceKey(PublicKey([1; 32])),
            name: "gateway".into(),
            stages: Vec::new(),
            expected: None,
            arrived: Vec::new(),
            has_own_service,
        }
    }

    #[test]
    fn a_gateway_that_takes_pushes_and_brings_none_has_failed() {
        let since = Instant::now();
        let mut silent = tested(false);
        assert!(!silent.is_over(), "it hasn't answered");
        silent.note(since, PushTestStep::Gateway, true, "accepted");
        silent.expected = Some(vec![Arrival::Stream]);
        assert!(!silent.is_over() && silent.has_failed());
        let shown = silent.finish(since);
        assert!(!shown.ok);
        assert_eq!(
            shown.stages.iter().map(|stage| (stage.step, stage.ok)).collect::<Vec<_>>(),
            [(PushTestStep::Gateway, true), (PushTestStep::Stream, false)]
        );
    }

    #[test]
    fn what_the_application_has_to_hand_over_isnt_the_gateways_fault() {
        let since = Instant::now();
        for (has_own_service, is_failure) in [(false, false), (true, true)] {
            let mut tested = tested(has_own_service);
            tested.note(since, PushTestStep::Gateway, true, "accepted");
            tested.expected = Some(vec![Arrival::Service]);
            assert_eq!(tested.has_failed(), is_failure);
            assert!(!tested.finish(since).ok, "it is told all the same");
        }
        let mut refused = tested(false);
        refused.note(since, PushTestStep::Gateway, false, "refused");
        refused.expected = Some(Vec::new());
        assert!(refused.is_over() && refused.has_failed());
        assert!(!refused.finish(since).ok);
    }

    #[test]
    fn what_has_come_by_every_way_is_well() {
        let since = Instant::now();
        let mut tested = tested(true);
        tested.note(since, PushTestStep::Gateway, true, "accepted");
        tested.expected = Some(vec![Arrival::Stream, Arrival::Service]);
        for arrival in [Arrival::Stream, Arrival::Service] {
            tested.arrived.push(arrival);
            tested.note(since, arrival.step(), true, "arrived");
        }
        assert!(tested.is_over() && !tested.has_failed() && tested.finish(since).ok);
    }
}
