//! The tour: what the network can do, one stage after the other.
//!
//! A new capability joins with a function of its own and a line in [`tour`].

use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::network::{Network, Person, full_name};
use super::report::{Failure, Outcome, Report, ensure};
use crate::calls::media::tone::{dominant_frequency, write_tone};
use crate::handle::calls::{AnswerOptions, CallOutcome, CallPath, CallResult, DialOptions};
use crate::handle::contacts::ProfileChange;
use crate::handle::directory::{ResolveError, ResolveOptions};
use crate::handle::messages::MessageState;
use crate::handle::power::SuspendOptions;
use crate::handle::presence::{PresenceChange, PresenceState, PresenceView};
use crate::handle::push::{PushChannel, PushTarget};
use crate::handle::{Event, EventStream, Node};

/// How long a stage may take.
const STAGE_LIMIT: Duration = Duration::from_secs(60);

/// How long a message may take.
const MESSAGE_LIMIT: Duration = Duration::from_secs(15);

/// How long something that is announced by an event may take.
const EVENT_LIMIT: Duration = Duration::from_secs(15);

/// How long the talk of the voice call lasts.
const TALK: Duration = Duration::from_millis(2_500);

/// How long the talk of the call that wakes a device lasts.
const SHORT_TALK: Duration = Duration::from_millis(1_000);

/// What caller and callee play.
const CALLER_TONE_HZ: f64 = 440.0;
const CALLEE_TONE_HZ: f64 = 660.0;

/// How far a heard tone may be from the played one: the measurement is good to about one hertz.
const TONE_TOLERANCE_HZ: f64 = 5.0;

/// Look-ups after a death: all pairs in a small network, else so many at random.
const LOOK_UPS_MAX: usize = 50;

/// A user whose name nobody has.
const NOBODY: &str = "nobody-has-this-name";

/// Who plays whom.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) caller: String,
    pub(super) callee: String,
    pub(super) sleeper: String,
    pub(super) waker: String,
    pub(super) victim: String,
}

impl Cast {
    /// With four users and more all are different, but for the victim; with fewer they play several parts. At least two.
    pub(super) fn new(users: &[String]) -> Self {
        let part = |index: usize| users[index % users.len()].clone();
        Self { caller: part(0), callee: part(1), sleeper: part(2), waker: part(3), victim: part(users.len() - 1) }
    }
}

/// All stages, in order; a stage that fails does not keep the others from running.
pub(super) async fn tour(network: &mut Network, cast: &Cast, rng: &mut StdRng, report: &mut Report<'_>) {
    report.stage("look-up", STAGE_LIMIT, look_up(network, cast)).await;
    report.stage("contacts", STAGE_LIMIT, contacts(network, cast)).await;
    report.stage("presence", STAGE_LIMIT, presence(network, cast)).await;
    report.stage("messages", STAGE_LIMIT, messages(network, cast)).await;
    report.stage("voice call", STAGE_LIMIT, voice_call(network, cast)).await;
    report.stage("relayed call", STAGE_LIMIT, relayed_call(network, cast)).await;
    report.stage("voicemail", STAGE_LIMIT, voicemail(network, cast)).await;
    report.stage("push wake-up", STAGE_LIMIT, push_wake_up(network, cast)).await;
    report.stage("push test", STAGE_LIMIT, push_test(network, cast)).await;
    report.stage("a device dies", STAGE_LIMIT, device_dies(network, cast, rng)).await;
}

pub(super) fn node<'a>(network: &'a Network, name: &str) -> Result<&'a Node, Failure> {
    network.node(name).ok_or_else(|| Failure::new(format!("{name}'s node does not run")))
}

/// The names of people are enough: an identity and a device come back, and where nobody is, nobody.
async fn look_up(network: &Network, cast: &Cast) -> Outcome {
    let fresh = ResolveOptions { fresh: true, settled: false };
    let directory = node(network, &cast.caller)?;
    let found = directory.directory().resolve(&cast.callee, fresh).await?;
    person(network, &cast.callee)?.check(&found)?;
    let started = Instant::now();
    let missing = match directory.directory().resolve(NOBODY, fresh).await {
        Err(ResolveError::NotFound { replicas, .. }) => replicas,
        Err(error) => return Err(error.into()),
        Ok(found) => return Err(Failure::new(format!("{} was found and doesn't exist", found.username))),
    };
    Ok(format!(
        "{} found {} in {} ms with {} requests; a name nobody has: not found, said {missing} replicas in {} ms",
        cast.caller,
        found.username,
        found.elapsed_ms,
        found.requests,
        started.elapsed().as_millis(),
    ))
}

fn person<'a>(network: &'a Network, name: &str) -> Result<&'a Person, Failure> {
    network.person(name).ok_or_else(|| Failure::new(format!("there is no {name}")))
}

/// A contact sees what somebody chose to be; who is no contact doesn't.
async fn presence(network: &Network, cast: &Cast) -> Outcome {
    let (caller, callee) = (node(network, &cast.caller)?, node(network, &cast.callee)?);
    let mood = "back in five minutes";
    let started = Instant::now();
    callee.presence().set(PresenceChange { state: Some(PresenceState::Away), mood: Some(mood.to_owned()) }).await?;
    let seen = wait_presence(caller, &cast.callee, |seen| seen.state == PresenceState::Away && seen.mood == mood).await?;
    let took = started.elapsed();
    callee.presence().set(PresenceChange { state: Some(PresenceState::Online), mood: Some(String::new()) }).await?;
    wait_presence(caller, &cast.callee, |seen| seen.state == PresenceState::Online).await?;
    let refused = network.infrastructure().presence().get(full_name(&cast.callee)).await;
    ensure(refused.is_err(), || format!("a stranger sees {refused:?}"))?;
    Ok(format!(
        "{} saw {} away after {} ms, \"{}\"; a stranger sees nothing",
        cast.caller,
        cast.callee,
        took.as_millis(),
        seen.mood
    ))
}

async fn wait_presence(of: &Node, user: &str, is_it: impl Fn(&PresenceView) -> bool) -> Result<PresenceView, Failure> {
    let deadline = Instant::now() + EVENT_LIMIT;
    loop {
        let seen = of.presence().get(full_name(user)).await?;
        if is_it(&seen) {
            return Ok(seen);
        }
        ensure(Instant::now() < deadline, || format!("the presence of {user} is seen as {seen:?}"))?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A stranger is refused; then they ask, and are contacts: each sees the other's profile.
async fn contacts(network: &Network, cast: &Cast) -> Outcome {
    let (caller, callee) = (node(network, &cast.caller)?, node(network, &cast.callee)?);
    let strange = caller.messages().send(&cast.callee, "Do I know you?").await?;
    let status = caller.messages().wait(&strange.id, MESSAGE_LIMIT).await?;
    ensure(status.state == MessageState::Failed, || format!("a stranger's message is {:?}", status.state))?;
    let mood = "on tour";
    let change = ProfileChange { mood: Some(mood.to_owned()), ..ProfileChange::default() };
    callee.contacts().set_profile(change).await?;
    let started = Instant::now();
    network.befriend(&cast.caller, &cast.callee).await?;
    let took = started.elapsed();
    if cast.sleeper != cast.callee || cast.waker != cast.caller {
        network.befriend(&cast.waker, &cast.sleeper).await?;
    }
    let mut seen = caller.contacts().get(&full_name(&cast.callee)).await?;
    let deadline = Instant::now() + EVENT_LIMIT;
    while seen.mood.as_deref() != Some(mood) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        seen = caller.contacts().get(&full_name(&cast.callee)).await?;
    }
    ensure(seen.mood.as_deref() == Some(mood), || format!("{} does not see the mood of {}", cast.caller, cast.callee))?;
    let numbers = (
        caller.contacts().fingerprint(&full_name(&cast.callee)).await?.safety_number,
        callee.contacts().fingerprint(&full_name(&cast.caller)).await?.safety_number,
    );
    ensure(numbers.0 == numbers.1, || "their safety numbers differ".to_owned())?;
    Ok(format!(
        "{} was refused, asked {}, and is a contact after {} ms; both see {}",
        cast.caller,
        cast.callee,
        took.as_millis(),
        numbers.0
    ))
}

async fn messages(network: &Network, cast: &Cast) -> Outcome {
    let there = message(network, &cast.caller, &cast.callee, "Hello, is anybody there?").await?;
    let back = message(network, &cast.callee, &cast.caller, "Yes. Good to read you!").await?;
    let (caller, callee) = (&cast.caller, &cast.callee);
    Ok(format!("{caller} to {callee} delivered in {} ms, the answer in {} ms", there.as_millis(), back.as_millis()))
}

/// Sends a message and sees it arrive.
async fn message(network: &Network, from: &str, to: &str, text: &str) -> Result<Duration, Failure> {
    let (from_node, to_node) = (node(network, from)?, node(network, to)?);
    let mut inbox = to_node.subscribe();
    let started = Instant::now();
    let sent = from_node.messages().send(to, text).await?;
    let status = from_node.messages().wait(&sent.id, MESSAGE_LIMIT).await?;
    let took = started.elapsed();
    let reason = || status.reason.clone().unwrap_or_default();
    let delivered = matches!(status.state, MessageState::Delivered | MessageState::Read);
    ensure(delivered, || format!("the message of {from} to {to} is {:?}: {}", status.state, reason()))?;
    let arrived = wait_for(&mut inbox, "the message", |event| match event {
        Event::MessageReceived { from, text, .. } => Some((from, text)),
        _ => None,
    });
    let (sender, read) = arrived.await?;
    ensure(sender == full_name(from) && read == text, || format!("{to} got another message than {from} wrote"))?;
    Ok(took)
}

async fn voice_call(network: &Network, cast: &Cast) -> Outcome {
    let files = network.scratch();
    let (caller_says, callee_says) = (files.join("caller.wav"), files.join("callee.wav"));
    let (caller_hears, callee_hears) = (files.join("caller-hears.wav"), files.join("callee-hears.wav"));
    write_tone(&caller_says, CALLER_TONE_HZ, TALK * 2, 48_000)?;
    write_tone(&callee_says, CALLEE_TONE_HZ, TALK * 2, 48_000)?;
    let options = DialOptions {
        play: Some(caller_says),
        record: Some(caller_hears.clone()),
        duration_ms: Some(crate::diagnosis::millis(TALK)),
        ..DialOptions::to(&cast.callee)
    };
    let answer = AnswerOptions { play: Some(callee_says), record: Some(callee_hears.clone()), ..AnswerOptions::default() };
    let (caller, callee) = (node(network, &cast.caller)?, node(network, &cast.callee)?);
    let events = callee.subscribe();
    let talked = call(caller, callee, events, options, answer).await?;
    let heard_there = check_tone(&callee_hears, CALLER_TONE_HZ, &cast.callee)?;
    let heard_here = check_tone(&caller_hears, CALLEE_TONE_HZ, &cast.caller)?;
    Ok(format!(
        "{} heard {heard_there:.1} Hz ({CALLER_TONE_HZ} played), {} heard {heard_here:.1} Hz ({CALLEE_TONE_HZ} played); {}",
        cast.callee,
        cast.caller,
        figures(&talked),
    ))
}

/// The same where no direct path shall be taken: through the infrastructure's media relay, whose owner sees who used it.
async fn relayed_call(network: &Network, cast: &Cast) -> Outcome {
    let (caller, callee) = (node(network, &cast.caller)?, node(network, &cast.callee)?);
    let heard = network.scratch().join("relayed.wav");
    let said = network.scratch().join("relayed-caller.wav");
    write_tone(&said, CALLER_TONE_HZ, TALK * 2, 48_000)?;
    let options = DialOptions {
        play: Some(said),
        duration_ms: Some(crate::diagnosis::millis(SHORT_TALK)),
        relayed_only: true,
        ..DialOptions::to(&cast.callee)
    };
    let answer = AnswerOptions { record: Some(heard.clone()), ..AnswerOptions::default() };
    let talked = call(caller, callee, callee.subscribe(), options, answer).await?;
    ensure(talked.path == Some(CallPath::Relayed), || format!("the call went another way: {:?}", talked.path))?;
    let tone = check_tone(&heard, CALLER_TONE_HZ, &cast.callee)?;
    let usage = network.infrastructure().relay_usage().await?;
    let ours = usage.users.iter().find(|user| user.user == Some(full_name(&cast.caller)));
    let used = ours.ok_or_else(|| Failure::new("the relay's owner doesn't see who used it"))?;
    ensure(used.bytes > 0, || "the relay's owner sees no bytes".to_owned())?;
    Ok(format!("{} heard {tone:.1} Hz; {} packets through the relay; {}", cast.callee, used.packets, figures(&talked)))
}

/// A call is declined, and what the caller leaves instead is heard.
async fn voicemail(network: &Network, cast: &Cast) -> Outcome {
    let (caller, callee) = (node(network, &cast.caller)?, node(network, &cast.callee)?);
    let (message, heard) = (network.scratch().join("message.wav"), network.scratch().join("voicemail.wav"));
    write_tone(&message, CALLER_TONE_HZ, TALK, 48_000)?;
    let (mut events, mut inbox) = (callee.subscribe(), callee.subscribe());
    let options = DialOptions { voicemail: Some(message), ..DialOptions::to(&cast.callee) };
    let declining = async {
        let call_id = wait_for(&mut events, "the call", |event| match event {
            Event::CallIncoming { call_id, .. } => Some(call_id),
            _ => None,
        });
        callee.calls().decline(&call_id.await?).await?;
        Ok::<_, Failure>(())
    };
    let dialling = async { Ok::<_, Failure>(caller.calls().dial(options).await?) };
    let (outcome, declined) = futures::future::join(dialling, declining).await;
    declined?;
    let left = outcome?.voicemail.ok_or_else(|| Failure::new("no voicemail was left"))?;
    let started = Instant::now();
    let arrived = wait_for(&mut inbox, "the voicemail", |event| match event {
        Event::VoicemailReceived { voicemail_id, .. } => Some(voicemail_id),
        _ => None,
    });
    let id = arrived.await?;
    ensure(id == left.id, || format!("{} got another voicemail", cast.callee))?;
    let took = started.elapsed();
    std::fs::write(&heard, callee.voicemail().wav(&id).await?)?;
    let tone = check_tone(&heard, CALLER_TONE_HZ, &cast.callee)?;
    callee.voicemail().mark_heard(&id).await?;
    let (callee, ms) = (&cast.callee, took.as_millis());
    Ok(format!("{callee} declined, had {} ms of voicemail {ms} ms later, and heard {tone:.1} Hz", left.duration_ms))
}

fn figures(call: &CallOutcome) -> String {
    let ms = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |ms| ms.to_string());
    let path = call.path.map_or_else(|| "unknown".to_owned(), |path| format!("{path:?}").to_lowercase());
    format!(
        "ringing after {} ms, audio {} ms after the answer, {path} path, round trip {} ms, loss {:.1}%",
        ms(call.ring_ms),
        ms(call.setup_ms),
        ms(call.rtt_ms),
        call.loss.unwrap_or(0.0) * 100.0,
    )
}

/// One call from dialling until both ends have ended it.
async fn call(
    caller: &Node,
    callee: &Node,
    mut events: EventStream,
    options: DialOptions,
    answer: AnswerOptions,
) -> Result<CallOutcome, Failure> {
    let answering = async {
        let call_id = wait_for(&mut events, "the call", |event| match event {
            Event::CallIncoming { call_id, .. } => Some(call_id),
            _ => None,
        });
        callee.calls().answer(&call_id.await?, answer).await?;
        wait_for(&mut events, "the end of the call", |event| match event {
            Event::CallEnded(ended) => Some(ended),
            _ => None,
        })
        .await
    };
    let dialling = async { Ok::<_, Failure>(caller.calls().dial(options).await?) };
    let (outcome, ended) = match futures::future::join(dialling, answering).await {
        // How the dial ended says more than that the callee saw nothing.
        (Ok(outcome), Err(_)) if outcome.outcome != CallResult::Completed => (outcome.clone(), outcome),
        (outcome, ended) => (outcome?, ended?),
    };
    let why = |outcome: &CallOutcome| outcome.reason.clone().unwrap_or_default();
    ensure(outcome.outcome == CallResult::Completed, || format!("the call ended {:?}: {}", outcome.outcome, why(&outcome)))?;
    ensure(ended.outcome == CallResult::Completed, || format!("the callee's end ended {:?}: {}", ended.outcome, why(&ended)))?;
    Ok(outcome)
}

fn check_tone(recording: &Path, expected_hz: f64, who: &str) -> Result<f64, Failure> {
    let mut reader = hound::WavReader::open(recording)?;
    let rate = reader.spec().sample_rate;
    let samples = reader.samples::<i16>().collect::<Result<Vec<_>, _>>()?;
    let heard = dominant_frequency(&samples, rate).ok_or_else(|| Failure::new(format!("{who} heard nothing")))?;
    ensure((heard - expected_hz).abs() <= TONE_TOLERANCE_HZ, || format!("{who} heard {heard:.1} Hz, not {expected_hz} Hz"))?;
    Ok(heard)
}

/// A device that is frozen whole is woken by a Web Push message for a call, which it rings from the message alone.
async fn push_wake_up(network: &Network, cast: &Cast) -> Outcome {
    let (sleeper, waker) = (node(network, &cast.sleeper)?, node(network, &cast.waker)?);
    let mut events = sleeper.subscribe();
    register_webpush(sleeper, &mut events).await?;
    sleeper.suspend(SuspendOptions::default()).await?;
    let events = sleeper.subscribe();
    let mut seen = sleeper.subscribe();
    let options = DialOptions { duration_ms: Some(crate::diagnosis::millis(SHORT_TALK)), ..DialOptions::to(&cast.sleeper) };
    let talked = call(waker, sleeper, events, options, AnswerOptions::default()).await?;
    let pushed = wait_for(&mut seen, "the push message", |event| match event {
        Event::CallIncoming { via_push, .. } => Some(via_push),
        _ => None,
    });
    ensure(pushed.await?, || format!("{} rang, but not from the push message", cast.sleeper))?;
    ensure(talked.via_push, || format!("{} was not told that a push woke {}", cast.waker, cast.sleeper))?;
    Ok(format!("{} slept, {} called, the push rang it; {}", cast.sleeper, cast.waker, figures(&talked)))
}

/// A device rings itself through its gateway and its push service, and sees how long each took.
async fn push_test(network: &Network, cast: &Cast) -> Outcome {
    let test = node(network, &cast.sleeper)?.push().test().await?;
    let gateway = test.gateways.first().ok_or_else(|| Failure::new("no gateway was tested"))?;
    let stages = gateway.stages.iter().map(|stage| format!("{:?} after {} ms", stage.step, stage.at_ms).to_lowercase());
    let stages = stages.collect::<Vec<_>>().join(", ");
    ensure(test.ok, || format!("a push does not come through: {:?}", test.gateways))?;
    Ok(format!("{} rang itself by its gateway: {stages}", cast.sleeper))
}

/// Registers Web Push with the node's own push service, and waits until the directory knows.
pub(super) async fn register_webpush(node: &Node, events: &mut EventStream) -> Result<(), Failure> {
    let channel = PushChannel::Webpush { endpoint: None, p256dh: None, auth: None };
    node.push().register(PushTarget { channel, gateway: None }).await?;
    wait_for(events, "the publication of the push registration", |event| matches!(event, Event::Published { .. }).then_some(()))
        .await
}

/// Waits for an event that `pick` takes.
pub(super) async fn wait_for<T>(events: &mut EventStream, what: &str, pick: impl Fn(Event) -> Option<T>) -> Result<T, Failure> {
    let picked = async {
        while let Some(record) = events.recv().await {
            if let Some(picked) = pick(record.event) {
                return Ok(picked);
            }
        }
        Err(Failure::new(format!("the node ended before {what}")))
    };
    let late = |_| Err(Failure::new(format!("{what} did not come within {} s", EVENT_LIMIT.as_secs())));
    tokio::time::timeout(EVENT_LIMIT, picked).await.unwrap_or_else(late)
}

/// A device ends without a goodbye; everybody else still finds everybody, the dead one's record included.
async fn device_dies(network: &mut Network, cast: &Cast, rng: &mut StdRng) -> Outcome {
    network.kill(&cast.victim).await?;
    let living: Vec<String> = network.running().map(str::to_owned).collect();
    let everybody = living.iter().chain(std::iter::once(&cast.victim));
    let mut pairs: Vec<(String, String)> = everybody
        .flat_map(|to| living.iter().map(move |from| (from.clone(), to.clone())))
        .filter(|(from, to)| from != to)
        .collect();
    pairs.shuffle(rng);
    pairs.truncate(LOOK_UPS_MAX);
    let started = Instant::now();
    for (from, to) in &pairs {
        let fresh = ResolveOptions { fresh: true, settled: false };
        let found = node(network, from)?.directory().resolve(to, fresh).await;
        let found = found.map_err(|error| Failure::new(format!("{from} looked for {to}: {error}")))?;
        person(network, to)?.check(&found)?;
    }
    let took = started.elapsed();
    let (sender, reader) = acquainted(&living, cast);
    let delivered = if sender == reader { None } else { Some(message(network, &sender, &reader, "Still here?").await?) };
    let message = delivered.map_or_else(String::new, |took| format!("; a message was delivered in {} ms", took.as_millis()));
    Ok(format!(
        "{} was killed without goodbye; {} of {} look-ups right, {:.1} ms each{message}",
        cast.victim,
        pairs.len(),
        pairs.len(),
        took.as_secs_f64() * 1_000.0 / pairs.len().max(1) as f64,
    ))
}

/// Two of the living who are contacts since the tour began; the same one twice if there are none.
fn acquainted(living: &[String], cast: &Cast) -> (String, String) {
    let pairs = [(&cast.caller, &cast.callee), (&cast.waker, &cast.sleeper)];
    let both = pairs.into_iter().find(|(one, other)| living.contains(one) && living.contains(other));
    both.map_or_else(|| (cast.caller.clone(), cast.caller.clone()), |(one, other)| (one.clone(), other.clone()))
}
