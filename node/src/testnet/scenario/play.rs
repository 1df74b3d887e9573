//! Playing a scenario: every step begins at its time, whatever the ones before are still waiting for.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::{Action, Answer, Call, Message, MessageExpectation, Resolve, ResolveExpectation, Scenario, Step, Who};
use crate::handle::calls::{AnswerOptions, CallError, CallOutcome, CallResult, DialOptions};
use crate::handle::directory::{ResolveError, ResolveOptions};
use crate::handle::messages::{MessageError, MessageState};
use crate::handle::power::SuspendOptions;
use crate::handle::{Event, EventStream, Node};
use crate::testnet::Stage;
use crate::testnet::network::{Network, Person, wait_ready};
use crate::testnet::report::{Failure, Outcome, Report, ensure, work};
use crate::testnet::tour::{node, register_webpush};

/// How long a step may take in any case: above the longest ringing.
const STEP_LIMIT: Duration = Duration::from_secs(200);

/// A step at work.
type Running<'a> = FuturesUnordered<BoxFuture<'a, Stage>>;

/// Plays all steps; every step is a stage of the report.
pub(in crate::testnet) async fn play(network: &mut Network, scenario: &Scenario, rng: &mut StdRng, report: &mut Report<'_>) {
    let stop = report.stop().clone();
    let started = tokio::time::Instant::now();
    let mut running = Running::new();
    for step in &scenario.steps {
        let mut wait = std::pin::pin!(tokio::time::sleep_until(started + step.at));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(stage) = running.next() => { report.finished(stage); }
                () = &mut wait => break,
            }
        }
        let name = step.to_string();
        report.started(&name);
        let begun = begin(network, scenario, step, rng).await;
        let stop = stop.clone();
        running.push(
            async move {
                let outcome = async { begun?.await };
                work(&name, STEP_LIMIT, &stop, outcome).await
            }
            .boxed(),
        );
    }
    while let Some(stage) = running.next().await {
        report.finished(stage);
    }
}

/// Does at once what a step changes; the future tells what came of it.
async fn begin(
    network: &mut Network,
    scenario: &Scenario,
    step: &Step,
    rng: &mut StdRng,
) -> Result<BoxFuture<'static, Outcome>, Failure> {
    match step.action.clone() {
        Action::Kill(who) => {
            let victims = choose(network, scenario, &who, rng)?;
            for victim in &victims {
                network.kill(victim).await?;
            }
            let told = format!("killed without goodbye: {}", victims.join(", "));
            Ok(async move { Ok(told) }.boxed())
        }
        Action::Restart(who) => restart(network, &who, rng).await,
        Action::Push(who) => each(network, scenario, &who, rng, |_, node| async move {
            let mut events = node.subscribe();
            register_webpush(&node, &mut events).await
        }),
        Action::Suspend(who) => each(network, scenario, &who, rng, |_, node| async move {
            node.suspend(SuspendOptions::default()).await?;
            Ok(())
        }),
        Action::Wake(who) => each(network, scenario, &who, rng, |_, node| async move {
            let woken = node.wake(None).await?;
            ensure(woken.was_suspended, || "it did not sleep".to_owned())
        }),
        Action::Revoke(who) => {
            let authority = network.infrastructure().clone();
            each(network, scenario, &who, rng, move |name, _| revoke(authority.clone(), name))
        }
        Action::Message(message) => Ok(send(node(network, &message.from)?.clone(), message).boxed()),
        Action::Resolve(resolve) => {
            let looking = node(network, &resolve.from)?.clone();
            Ok(look_up(looking, network.person(&resolve.to).cloned(), resolve).boxed())
        }
        Action::Call(call) => {
            let callee = network.node(&call.to).map(|callee| (callee.clone(), callee.subscribe()));
            Ok(place(node(network, &call.from)?.clone(), callee, call).boxed())
        }
    }
}

/// Whom a step means. A share is of all users, and falls on those that the scenario doesn't name.
fn choose(network: &Network, scenario: &Scenario, who: &Who, rng: &mut StdRng) -> Result<Vec<String>, Failure> {
    let percent = match who {
        Who::Names(names) => return Ok(names.clone()),
        Who::Percent(percent) => *percent,
    };
    let candidates: Vec<String> =
        network.running().filter(|name| !scenario.users.iter().any(|user| user == name)).map(str::to_owned).collect();
    let wanted = (network.users().count() * percent as usize).div_ceil(100);
    ensure(wanted <= candidates.len(), || {
        format!("{percent}% are {wanted} users, and only {} unnamed ones are running", candidates.len())
    })?;
    Ok(candidates.sample(rng, wanted).cloned().collect())
}

async fn restart(network: &mut Network, who: &Who, rng: &mut StdRng) -> Result<BoxFuture<'static, Outcome>, Failure> {
    let names = match who {
        Who::Names(names) => names.clone(),
        Who::Percent(percent) => {
            let dead: Vec<String> = network.users().filter(|name| network.node(name).is_none()).map(str::to_owned).collect();
            dead.sample(rng, (dead.len() * *percent as usize).div_ceil(100)).cloned().collect()
        }
    };
    let mut nodes = Vec::new();
    for name in &names {
        nodes.push((name.clone(), network.restart(name).await?));
    }
    let ready = async move {
        futures::future::try_join_all(nodes.iter().map(|(name, node)| wait_ready(node, name))).await?;
        Ok(format!("ready again under the same identity: {}", names.join(", ")))
    };
    Ok(ready.boxed())
}

/// Does the same to several nodes.
fn each<F>(
    network: &Network,
    scenario: &Scenario,
    who: &Who,
    rng: &mut StdRng,
    act: impl Fn(String, Node) -> F,
) -> Result<BoxFuture<'static, Outcome>, Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let names = choose(network, scenario, who, rng)?;
    let mut acts = Vec::new();
    for name in &names {
        acts.push(act(name.clone(), node(network, name)?.clone()));
    }
    let all = async move {
        futures::future::try_join_all(acts).await?;
        Ok(format!("done: {}", names.join(", ")))
    };
    Ok(all.boxed())
}

async fn revoke(authority: Node, name: String) -> Result<(), Failure> {
    authority.authority().revoke(&name).await?;
    Ok(())
}

async fn send(from: Node, message: Message) -> Outcome {
    let started = tokio::time::Instant::now();
    let outcome = async {
        let sent = from.messages().send(&message.to, &message.text).await?;
        from.messages().wait(&sent.id, message.within()).await
    };
    let (delivered, told) = match outcome.await {
        Ok(status) => {
            let reason = status.reason.map_or_else(String::new, |reason| format!(": {reason}"));
            let state = format!("{:?}", status.state).to_lowercase();
            (matches!(status.state, MessageState::Delivered | MessageState::Read), format!("{state}{reason}"))
        }
        Err(error @ (MessageError::TimedOut { .. } | MessageError::Resolve(_))) => (false, error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let told = format!("{told} after {} ms", started.elapsed().as_millis());
    ensure(delivered == (message.expect == MessageExpectation::Delivered), || told.clone())?;
    Ok(told)
}

async fn look_up(from: Node, person: Option<Person>, resolve: Resolve) -> Outcome {
    let options = ResolveOptions { fresh: true, settled: false };
    let directory = from.directory();
    let asking = directory.resolve(&resolve.to, options);
    let late = |_| Failure::new(format!("no answer within {} s", resolve.within().as_secs_f64()));
    let found = tokio::time::timeout(resolve.within(), asking).await.map_err(late)?;
    match (found, resolve.expect) {
        (Ok(found), ResolveExpectation::Found) => {
            let person = person.ok_or_else(|| Failure::new(format!("found {}, whom nobody enrolled", found.username)))?;
            person.check(&found)?;
            Ok(format!("found in {} ms with {} requests", found.elapsed_ms, found.requests))
        }
        (Err(error @ (ResolveError::NotFound { .. } | ResolveError::Revoked { .. })), ResolveExpectation::NotFound)
        | (Err(error @ ResolveError::Revoked { .. }), ResolveExpectation::Revoked) => Ok(error.to_string()),
        (Ok(found), _) => Err(Failure::new(format!("{} was found", found.username))),
        (Err(error), _) => Err(error.into()),
    }
}

async fn place(from: Node, callee: Option<(Node, EventStream)>, call: Call) -> Outcome {
    let duration_ms = Some(crate::diagnosis::millis(call.duration()));
    let options = DialOptions { duration_ms, ..DialOptions::to(&call.to) };
    let calls = from.calls();
    let dialling = calls.dial(options);
    let behaving = async {
        if let Some((node, events)) = callee {
            behave(&node, events, call.answer).await?;
        }
        // A callee that has done its part, or is not there, waits for the caller's result.
        std::future::pending::<Result<(), CallError>>().await
    };
    let outcome = tokio::select! {
        outcome = dialling => outcome?,
        Err(error) = behaving => return Err(error.into()),
    };
    let told = describe(&outcome);
    ensure(outcome.outcome == call.expect, || format!("{told}, expected {:?}", call.expect))?;
    ensure(call.via_push.is_none_or(|via_push| via_push == outcome.via_push), || {
        format!("{told}, woken by push: {}", outcome.via_push)
    })?;
    Ok(told)
}

async fn behave(callee: &Node, mut events: EventStream, answer: Answer) -> Result<(), CallError> {
    while let Some(record) = events.recv().await {
        let Event::CallIncoming { call_id, .. } = record.event else { continue };
        return match answer {
            Answer::Accept => callee.calls().answer(&call_id, AnswerOptions::default()).await,
            Answer::Decline => callee.calls().decline(&call_id).await,
            Answer::Ignore => Ok(()),
        };
    }
    Ok(())
}

fn describe(outcome: &CallOutcome) -> String {
    let ms = |name: &str, ms: Option<u64>| ms.map_or_else(String::new, |ms| format!(", {name} {ms} ms"));
    let reason = match (&outcome.reason, outcome.outcome) {
        (Some(reason), result) if result != CallResult::Completed => format!(" ({reason})"),
        _ => String::new(),
    };
    let push = if outcome.via_push { ", woken by push" } else { "" };
    let word = format!("{:?}", outcome.outcome).to_lowercase();
    format!("{word}{reason}{}{}{push}", ms("ringing after", outcome.ring_ms), ms("audio after", outcome.setup_ms))
}
