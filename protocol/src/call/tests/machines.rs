//! Single stories, each with its outcome at both ends.

use std::time::Instant;

use super::network::{CALL, CALLER, Conditions, Input, Network, device};
use crate::call::*;
use crate::wire::Extensions;

const GOOD: Conditions = Conditions { loss: 0.0, duplicates: 0.0, delay_ms_max: 50 };

fn signal(from: u8, sequence: u32, body: SignalBody) -> VerifiedSignal {
    let from = device(from);
    VerifiedSignal::unchecked(Signal { call: CALL, from, to: CALLER, sequence, body, extensions: Extensions::none() })
}

#[test]
fn first_accept_wins_and_the_others_stop_within_a_second() {
    let mut network = Network::new(3, GOOD, 1);
    network.at(5.0, Input::Answer(2));
    // Later by more than a message takes, and before it is told to stop.
    network.at(5.051, Input::Answer(3));
    network.run_until(6);
    assert!(!network.is_any_ringing());
    assert_eq!(network.caller.state(), CallerState::Connected(device(2)));
    assert_eq!(
        (network.outcome_at(1), network.outcome_at(3)),
        (Some(Outcome::AnsweredElsewhere), Some(Outcome::AnsweredElsewhere))
    );
    network.at(60.0, Input::DeviceHangUp(2));
    network.run_until(100);
    assert!(network.is_done());
    assert_eq!((network.outcome(), network.outcome_at(2)), (Some(Outcome::Completed), Some(Outcome::Completed)));
}

#[test]
fn media_are_connected_early_once_with_devices_that_ring() {
    let mut network = Network::new(3, GOOD, 20);
    for number in 1..=3 {
        network.at(1.0, Input::AnswerEarly(number));
        // A second one changes nothing.
        network.at(2.0, Input::AnswerEarly(number));
    }
    network.run_until(4);
    let mut early = network.connected_early.clone();
    early.sort_unstable();
    assert_eq!(early, [device(1), device(2), device(3)]);
    assert_eq!(network.caller.state(), CallerState::Ringing, "nobody has answered");
    assert!(network.media_started.is_empty());
    network.at(5.0, Input::Answer(2));
    network.run_until(6);
    assert_eq!(network.media_started, [device(2)]);
    assert!(!network.is_any_ringing());
    assert_eq!(network.caller.leg_state(&device(1)), Some(LegState::Stopped(Reason::ANSWERED_ELSEWHERE)));
}

#[test]
fn nothing_is_connected_early_after_the_answer_or_the_end() {
    let early = |sequence| {
        VerifiedSignal::unchecked(Signal {
            extensions: Signal::with_early_answer("v=0".into(), false),
            ..signal(1, sequence, SignalBody::Ringing).signal().clone()
        })
    };
    for input in [Input::Answer(1), Input::Answer(2), Input::Decline(1), Input::CallerHangUp] {
        let mut network = Network::new(2, GOOD, 21);
        network.at(1.0, input);
        network.run_until(2);
        let now = network.now;
        network.caller.handle_signal(&early(90), now);
        network.drain();
        assert!(network.connected_early.is_empty(), "{input:?}");
    }
    // Nor does a device connect early that has said no itself.
    let mut network = Network::new(2, GOOD, 22);
    network.run_until(1);
    let now = network.now;
    network.caller.handle_signal(&signal(1, 90, SignalBody::Decline { reason: Reason::BUSY }), now);
    network.caller.handle_signal(&early(91), now);
    network.drain();
    assert!(network.connected_early.is_empty());
}

#[test]
fn one_device_is_heard_while_it_rings() {
    let mut network = Network::new(3, GOOD, 24);
    network.at(1.0, Input::AnswerEarly(1));
    network.at(1.5, Input::SpeakEarly(2));
    network.at(2.0, Input::SpeakEarly(3));
    network.run_until(4);
    assert_eq!(network.connected_early.len(), 3);
    assert_eq!(network.heard_early, [device(2)], "the first that wants it, and no other");
    assert_eq!(network.caller.state(), CallerState::Ringing, "nobody has answered");
    network.at(5.0, Input::Answer(3));
    network.run_until(6);
    assert_eq!(network.media_started, [device(3)]);
}

#[test]
fn few_legs_are_early() {
    let count = u8::try_from(EARLY_LEGS_MAX).expect("few") + 2;
    let mut network = Network::new(count, GOOD, 23);
    for number in 1..=count {
        network.at(1.0, Input::AnswerEarly(number));
    }
    network.run_until(3);
    assert_eq!(network.connected_early.len(), EARLY_LEGS_MAX);
    network.at(4.0, Input::Answer(count));
    network.run_until(6);
    assert_eq!(network.caller.state(), CallerState::Connected(device(count)), "the others as ever");
}

#[test]
fn a_decline_by_one_device_is_a_decline_everywhere() {
    let mut network = Network::new(2, GOOD, 2);
    network.at(3.0, Input::Decline(1));
    network.run_until(4);
    assert_eq!(network.outcome(), Some(Outcome::Declined));
    assert_eq!((network.outcome_at(1), network.outcome_at(2)), (Some(Outcome::Declined), Some(Outcome::Declined)));
}

#[test]
fn what_another_own_device_says_stops_the_ringing_though_the_caller_does_not() {
    // The caller hears nothing more of device 1, which has declined; device 2 knows from it and tells.
    let mut network = Network::new(2, GOOD, 14);
    network.run_until(1);
    network.conditions.loss = 1.0;
    network.at(2.0, Input::Decline(1));
    network.run_until(3);
    network.conditions.loss = 0.0;
    let now = network.now;
    let second = network.devices.get_mut(&device(2)).and_then(|here| here.call.as_mut()).expect("rings");
    second.handle_own_device(Reason::DECLINED_ELSEWHERE, now);
    network.drain();
    network.run_until(4);
    assert_eq!((network.outcome(), network.outcome_at(2)), (Some(Outcome::Declined), Some(Outcome::Declined)));

    let mut network = Network::new(2, GOOD, 15);
    network.run_until(1);
    let now = network.now;
    let second = network.devices.get_mut(&device(2)).and_then(|here| here.call.as_mut()).expect("rings");
    second.handle_own_device(Reason::ANSWERED_ELSEWHERE, now);
    network.drain();
    network.at(2.0, Input::Answer(1));
    network.run_until(4);
    assert_eq!(network.outcome_at(2), Some(Outcome::AnsweredElsewhere));
    assert_eq!(network.caller.state(), CallerState::Connected(device(1)), "whose answer it is tells it");
}

/// Two devices ring, and refuse one after the other: while one is left it rings on; how it ends then.
#[track_caller]
fn both_refuse(reason: Reason, ends: (Outcome, Reason)) {
    let mut network = Network::new(2, GOOD, 16);
    network.run_until(1);
    let now = network.now;
    network.caller.handle_signal(&signal(1, 90, SignalBody::Decline { reason }), now);
    assert_eq!(network.caller.state(), CallerState::Ringing);
    network.caller.handle_signal(&signal(2, 90, SignalBody::Decline { reason }), now);
    assert_eq!(network.caller.state(), CallerState::Ended(ends.0, ends.1));
}

#[test]
fn a_device_that_takes_no_calls_of_the_caller_leaves_the_others_ringing() {
    both_refuse(Reason::NOT_ALLOWED, (Outcome::Declined, Reason::NOT_ALLOWED));
}

#[test]
fn a_phone_that_is_nowhere_is_not_reached_whatever_else_rang() {
    both_refuse(Reason::PHONE_NOT_HERE, (Outcome::Unreachable, Reason::PHONE_NOT_HERE));
}

/// A caller that has invited one device, while a newer record may still come.
fn one_invited(now: Instant) -> CallerCall {
    let timers = CallTimers::default();
    CallerCall::new(CallerParams { call: CALL, me: CALLER, devices: vec![device(1)], is_lookup_pending: true, timers }, now)
}

/// Whoever rings by a record from the cache asks the directory too; what comes of that may be later than the device's refusal.
#[test]
fn a_device_that_has_refused_is_not_invited_once_more_by_a_newer_record() {
    for reason in [Reason::PHONE_NOT_HERE, Reason::NO_ANSWER, Reason::TOO_MANY, Reason::EXPIRED, Reason::UNKNOWN_CALL] {
        for on_stream in [false, true] {
            let now = Instant::now();
            let mut caller = one_invited(now);
            if on_stream {
                caller.handle_invite_status(device(1), InviteStatus::Refused(reason), now);
            } else {
                caller.handle_invite_status(device(1), InviteStatus::Ringing, now);
                caller.handle_signal(&signal(1, 1, SignalBody::Decline { reason }), now);
            }
            assert!(caller.is_waiting(), "a device may be new");
            assert!(!caller.add_device(device(1), now), "{reason}");
            assert!(caller.add_device(device(2), now));
            caller.handle_unreachable(device(2), Reason::UNREACHABLE, now);
            assert!(caller.add_device(device(2), now), "it has said nothing");
            caller.handle_unreachable(device(2), Reason::UNREACHABLE, now);
            caller.finish_lookup(now);
            assert!(caller.is_ended(), "{reason}");
        }
    }
    let now = Instant::now();
    let mut caller = one_invited(now);
    caller.handle_invite_status(device(1), InviteStatus::NotForMe, now);
    assert!(caller.add_device(device(1), now), "with a newer record's key it may open its invite");
}

#[test]
fn a_device_that_was_given_up_says_why_and_does_not_ring_after_that() {
    for (reason, ends) in [
        (Reason::BUSY, (Outcome::Busy, Reason::BUSY)),
        (Reason::NOT_ALLOWED, (Outcome::Declined, Reason::NOT_ALLOWED)),
        (Reason::PHONE_NOT_HERE, (Outcome::Unreachable, Reason::PHONE_NOT_HERE)),
    ] {
        let now = Instant::now();
        let mut caller = one_invited(now);
        caller.handle_unreachable(device(1), Reason::UNREACHABLE, now);
        caller.handle_signal(&signal(1, 2, SignalBody::Decline { reason }), now);
        caller.handle_signal(&signal(1, 1, SignalBody::Ringing), now);
        caller.handle_invite_status(device(1), InviteStatus::Duplicate, now);
        caller.finish_lookup(now);
        assert_eq!(caller.state(), CallerState::Ended(ends.0, ends.1), "{reason}");
    }
}

#[test]
fn a_busy_device_leaves_the_others_ringing_and_all_busy_is_busy() {
    for way in [InviteWay::Stream, InviteWay::Push] {
        let mut network = Network::new(2, GOOD, 3);
        for number in 1..=2 {
            let here = network.devices.get_mut(&device(number)).expect("device");
            here.way = way;
            here.is_busy = number == 1;
        }
        network.run_until(2);
        assert_eq!(network.caller.leg_state(&device(1)), Some(LegState::Busy));
        assert_eq!(network.caller.state(), CallerState::Ringing);
        network.at(3.0, Input::Answer(2));
        network.run_until(5);
        assert_eq!(network.caller.state(), CallerState::Connected(device(2)));

        let mut network = Network::new(1, GOOD, 4);
        let here = network.devices.get_mut(&device(1)).expect("device");
        (here.is_busy, here.way) = (true, way);
        network.run_until(2);
        assert_eq!(network.outcome(), Some(Outcome::Busy));
    }
}

#[test]
fn nobody_answers_and_nobody_rings_for_ever() {
    let mut network = Network::new(2, GOOD, 5);
    network.run_until(59);
    assert!(network.is_any_ringing());
    network.run_until(61);
    assert!(!network.is_any_ringing());
    assert_eq!((network.outcome(), network.outcome_at(1)), (Some(Outcome::NoAnswer), Some(Outcome::NoAnswer)));
    network.run_until(80);
    assert!(network.is_done());
}

#[test]
fn unreachable_is_told_as_soon_as_every_way_has_failed() {
    let mut network = Network::new(2, Conditions { loss: 1.0, ..GOOD }, 6);
    network.at(0.5, Input::Unreachable(1));
    network.run_until(1);
    assert_eq!(network.outcome(), None);
    network.at(1.5, Input::Unreachable(2));
    network.run_until(2);
    assert_eq!(network.outcome(), Some(Outcome::Unreachable));
    // And by the deadline when nothing at all is heard.
    let mut silent = Network::new(2, Conditions { loss: 1.0, ..GOOD }, 7);
    silent.run_until(11);
    assert_eq!(silent.outcome(), None);
    silent.run_until(12);
    assert_eq!(silent.outcome(), Some(Outcome::Unreachable));
}

#[test]
fn a_call_without_devices_is_unreachable_once_the_lookup_is_over() {
    let now = std::time::Instant::now();
    let params =
        CallerParams { call: CALL, me: CALLER, devices: Vec::new(), is_lookup_pending: true, timers: CallTimers::default() };
    let mut call = CallerCall::new(params, now);
    assert_eq!(call.state(), CallerState::Dialling);
    assert!(call.add_device(device(1), now));
    assert!(!call.add_device(device(1), now), "once");
    call.handle_unreachable(device(1), Reason::UNREACHABLE, now);
    assert_eq!(call.state(), CallerState::Dialling, "the look-up may find more");
    assert!(call.add_device(device(1), now), "a newer record: once more");
    call.handle_unreachable(device(1), Reason::UNREACHABLE, now);
    call.finish_lookup(now);
    assert_eq!(call.state(), CallerState::Ended(Outcome::Unreachable, Reason::UNREACHABLE));
    assert!(!call.add_device(device(2), now));
}

#[test]
fn cancel_stops_the_ringing_and_a_late_invite_does_not_ring() {
    let mut network = Network::new(2, GOOD, 8);
    let late = network.in_flight.pop().expect("the invite of device 2");
    network.at(2.0, Input::CallerHangUp);
    network.run_until(5);
    assert_eq!((network.outcome(), network.outcome_at(1)), (Some(Outcome::Cancelled), Some(Outcome::Cancelled)));
    network.deliver(late.1);
    network.run_until(30);
    assert_eq!(network.device(2).rang, 0);
    assert!(network.is_done());
}

#[test]
fn a_push_that_rings_after_the_call_was_answered_is_stopped_at_once() {
    let mut network = Network::new(2, GOOD, 9);
    network.devices.get_mut(&device(2)).expect("device").way = InviteWay::Push;
    let late = network.in_flight.pop().expect("the invite of device 2");
    network.at(1.0, Input::Answer(1));
    network.run_until(30);
    // The signal that replaced device 2 was taken for a call unknown there; play a device that has forgotten it.
    network.devices.get_mut(&device(2)).expect("device").was_cancelled = false;
    network.deliver(late.1);
    network.run_until(31);
    assert_eq!(network.device(2).rang, 1);
    assert_eq!(network.outcome_at(2), Some(Outcome::AnsweredElsewhere));
    assert_eq!(network.caller.state(), CallerState::Connected(device(1)));
}

#[test]
fn cancel_and_accept_that_cross_end_the_same_at_both_ends() {
    for (cancel_at, answer_at) in [(2.0, 2.001), (2.001, 2.0), (2.0, 2.0)] {
        let mut network = Network::new(1, Conditions { delay_ms_max: 500, ..GOOD }, 10);
        network.at(cancel_at, Input::CallerHangUp);
        network.at(answer_at, Input::Answer(1));
        network.run_until(60);
        assert!(network.is_done());
        assert_eq!((network.outcome(), network.outcome_at(1)), (Some(Outcome::Cancelled), Some(Outcome::Cancelled)));
    }
}

#[test]
fn media_that_never_come_up_fail_the_call_at_both_ends() {
    let mut network = Network::new(1, GOOD, 11);
    network.auto_media = false;
    network.at(1.0, Input::Answer(1));
    network.run_until(20);
    assert_eq!(network.outcome(), None);
    network.run_until(22);
    assert_eq!((network.outcome(), network.outcome_at(1)), (Some(Outcome::Failed), Some(Outcome::Failed)));
}

#[test]
fn strangers_to_the_call_and_nonsense_are_not_taken() {
    let mut network = Network::new(1, GOOD, 12);
    network.run_until(1);
    let now = network.now;
    let accept = SignalBody::Accept { answer: "x".into() };
    assert_eq!(network.caller.handle_signal(&signal(9, 1, accept), now), SignalStatus::UnknownCall);
    let cancel = SignalBody::Cancel { reason: Reason::CANCELLED };
    assert_eq!(network.caller.handle_signal(&signal(1, 7, cancel), now), SignalStatus::Refused(Reason::INVALID));
    assert_eq!(network.caller.state(), CallerState::Ringing);
    let call = network.devices.get_mut(&device(1)).and_then(|here| here.call.as_mut()).expect("rings");
    let foreign = signal(9, 1, SignalBody::Cancel { reason: Reason::CANCELLED });
    assert_eq!(call.handle_signal(&foreign, now), SignalStatus::UnknownCall);
    assert_eq!(call.state(), CalleeState::Ringing);
}

#[test]
fn candidates_reach_the_other_end_once_and_a_flood_is_bounded() {
    let mut network = Network::new(1, GOOD, 13);
    network.run_until(1);
    let now = network.now;
    let mut taken = 0;
    for sequence in 1..2_000 {
        let candidate = signal(1, sequence, SignalBody::Candidate { candidate: "c".into() });
        for _ in 0..2 {
            network.caller.handle_signal(&candidate, now);
        }
        while let Some(action) = network.caller.poll_action() {
            taken += usize::from(matches!(action, CallerAction::AddCandidate { .. }));
        }
    }
    assert_eq!(taken, 512);
    for number in 0..1_000 {
        network.caller.add_local_candidate(device(1), format!("candidate {number}"), now);
    }
    let sent = std::iter::from_fn(|| network.caller.poll_action()).count();
    assert!(sent <= 48, "{sent}");
}

#[test]
fn a_device_that_waits_for_its_turn_is_neither_ringing_nor_gone() {
    let now = std::time::Instant::now();
    let timers = CallTimers::default();
    let params =
        || CallerParams { call: CALL, me: CALLER, devices: vec![device(1), device(2)], is_lookup_pending: false, timers };
    let held = |sequence| {
        let extensions = crate::choice::with_held(Extensions::none(), 20);
        VerifiedSignal::unchecked(Signal { extensions, ..signal(1, sequence, SignalBody::Ringing).signal().clone() })
    };
    let mut call = CallerCall::new(params(), now);
    call.handle_signal(&held(1), now);
    // A gateway keeps the push of the other, and no way leads there now.
    call.handle_kept(device(2));
    call.handle_unreachable(device(2), Reason::UNREACHABLE, now);
    for number in [1, 2] {
        assert_eq!(call.leg_state(&device(number)), Some(LegState::Held), "{number}");
    }
    call.handle_timeout(now + timers.reach);
    assert_eq!(call.state(), CallerState::Dialling, "nothing rings, and nothing is given up");
    let is_news = |call: &mut CallerCall| {
        std::iter::from_fn(|| call.poll_action()).any(|action| matches!(action, CallerAction::Ringing { .. }))
    };
    assert!(!is_news(&mut call));
    call.handle_signal(&signal(1, 2, SignalBody::Ringing), now);
    assert_eq!((call.state(), is_news(&mut call)), (CallerState::Ringing, true), "its turn");
    call.handle_signal(&held(3), now);
    assert_eq!(call.leg_state(&device(1)), Some(LegState::Ringing), "what comes late changes nothing");
    call.handle_signal(&signal(1, 4, SignalBody::Accept { answer: "v=0".into() }), now);
    let told: Vec<Signal> = std::iter::from_fn(|| call.poll_action())
        .filter_map(|action| if let CallerAction::Send(signal) = action { Some(signal) } else { None })
        .collect();
    assert!(told.iter().any(|signal| signal.to == device(2) && matches!(signal.body, SignalBody::Replaced { .. })), "{told:?}");

    // Where nobody's turn comes, nobody has answered: they were there.
    let mut call = CallerCall::new(params(), now);
    call.handle_held(device(1), now);
    call.handle_held(device(2), now);
    call.handle_timeout(now + timers.ring);
    assert_eq!(call.state(), CallerState::Ended(Outcome::NoAnswer, Reason::NO_ANSWER));
}

#[test]
fn a_device_is_silent_until_its_turn_and_can_be_answered_before() {
    let now = std::time::Instant::now();
    let params = |way| CalleeParams {
        call: CALL,
        caller: CALLER,
        me: device(1),
        ring_for: std::time::Duration::from_secs(60),
        way,
        timers: CallTimers::default(),
    };
    let actions = |call: &mut CalleeCall| std::iter::from_fn(|| call.poll_action()).collect::<Vec<_>>();
    let mut call = CalleeCall::hold(params(InviteWay::Relay), 20, now);
    let first = actions(&mut call);
    let [CalleeAction::Send(signal)] = first.as_slice() else { panic!("{first:?}") };
    assert_eq!((&signal.body, crate::choice::held_for(&signal.extensions)), (&SignalBody::Ringing, Some(20)));
    assert!(call.ring(now));
    let turn = actions(&mut call);
    assert!(turn.contains(&CalleeAction::StartRinging), "{turn:?}");
    let told = |action: &CalleeAction| matches!(action, CalleeAction::Send(signal) if signal.extensions == Extensions::none());
    assert!(turn.iter().any(told), "{turn:?}");

    let mut call = CalleeCall::hold(params(InviteWay::Stream), 20, now);
    assert_eq!(actions(&mut call), [], "the answer to the invite says it");
    assert!(call.answer("v=0".into(), now));
    assert!(!call.ring(now), "answered");

    let mut call = CalleeCall::hold(params(InviteWay::Stream), 20, now);
    call.handle_own_device(Reason::ANSWERED_ELSEWHERE, now);
    assert!(!call.ring(now), "answered elsewhere");
}
