//! The decision: what is known, and a policy, make stages of devices, each device with its reason.

use std::cmp::Reverse;
use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::policy::{CallerRef, DAY_MINUTES, DeviceRef, Policy, Rule, Step, Target, When};
use super::report::{DeviceReport, STALE_SECS, Usage};
use crate::directory::{DEVICES_MAX, DeviceKind};
use crate::event::EventKind;
use crate::key::DeviceKey;
use crate::time::UnixTime;
use crate::wire::DecodeError;

/// When everybody has been told at the latest, in seconds: a caller waits for a minute, and the last ones need time to answer too.
pub const LAST_STAGE_SECS: u16 = 45;

/// What counts as near where no metres are told, and as far.
const NEAR_METRES: u16 = 5;
const FAR_METRES: u16 = 1_000;

/// The user's presence, as the user chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// Offline.
    Offline,
    /// Online.
    Online,
    /// Away.
    Away,
    /// Not to be disturbed.
    Dnd,
}

impl Presence {
    /// The state of this word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "offline" => Self::Offline,
            "online" => Self::Online,
            "away" => Self::Away,
            "dnd" => Self::Dnd,
            _ => return None,
        })
    }
}

/// Whether a device can be told now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// It is connected to whoever decides, or is that device itself.
    Connected,
    /// A gateway can wake it.
    Wakeable,
    /// Nothing is known.
    Unknown,
}

/// What has come.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Event {
    /// What kind of event.
    pub kind: EventKind,
    /// Who it is from, by every name under which that is known here; empty: not known.
    pub callers: Vec<CallerRef>,
    /// MIME type of what is to be shown, if there is something.
    pub format: Option<String>,
}

/// A device of the user, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Candidate {
    /// The device.
    pub device: DeviceKey,
    /// What its user calls it.
    pub name: Option<String>,
    /// What machine it is, if its report doesn't say.
    pub kind: Option<DeviceKind>,
    /// Its newest report.
    pub report: Option<DeviceReport>,
    /// Whether it can be told now.
    pub reach: Reach,
}

/// Everything a decision is made from, but the policy: what is kept to explain it later.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Inputs {
    /// The event.
    pub event: Event,
    /// When it came.
    pub at: UnixTime,
    /// The user's presence, if known.
    pub presence: Option<Presence>,
    /// All devices of the user that are known, at most [`DEVICES_MAX`].
    pub candidates: Vec<Candidate>,
}

impl Inputs {
    /// Checks what was kept.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`].
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.candidates.len() > DEVICES_MAX {
            return Err(DecodeError::invalid("candidates", format!("{}, at most {DEVICES_MAX}", self.candidates.len())));
        }
        self.candidates.iter().filter_map(|candidate| candidate.report.as_ref()).try_for_each(DeviceReport::check)
    }
}

/// Why a device was chosen for its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// There is no policy: all devices.
    NoPolicy,
    /// No rule applies: all devices.
    NoRule,
    /// The rule says all.
    All,
    /// It is in use.
    InUse,
    /// It is the nearest.
    Nearest,
    /// It is on, and of a kind the rule names.
    Kind,
    /// The rule names it.
    Named,
    /// It can show what those chosen can't.
    CanShow,
    /// Nobody the rule names fits: all devices.
    NobodyFits,
    /// None of those before has answered.
    NotAnswered,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPolicy => "there is no policy, so every device is told",
            Self::NoRule => "no rule applies, so every device is told",
            Self::All => "the rule tells every device",
            Self::InUse => "it is in use",
            Self::Nearest => "it is the nearest",
            Self::Kind => "it is on, and of a kind the rule names",
            Self::Named => "the rule names it",
            Self::CanShow => "it can show what the chosen device can't",
            Self::NobodyFits => "no device fits the rule, so every device is told",
            Self::NotAnswered => "nobody before has answered",
        })
    }
}

/// What a device gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The event itself.
    Content,
    /// A word on where it is shown.
    Prompt {
        /// The device that shows it.
        shown_on: DeviceKey,
    },
}

/// One device's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The device.
    pub device: DeviceKey,
    /// What it gets.
    pub delivery: Delivery,
    /// Why.
    pub because: Because,
    /// The same for a person, with what was known.
    pub words: String,
}

/// Devices that are told together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// How long after the event, in seconds; the first is always 0.
    pub after_secs: u16,
    /// Who, the best first.
    pub choices: Vec<Choice>,
}

/// Why a rule doesn't apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mismatch {
    /// It is for other events.
    Event,
    /// It is for other callers.
    Caller,
    /// It is for certain callers, and who this one is isn't known here.
    UnknownCaller,
    /// It is for other days or hours.
    Time,
    /// It is for another presence.
    Presence,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event => "it is for other events",
            Self::Caller => "it is for other callers",
            Self::UnknownCaller => "it is for certain callers, and this one isn't known",
            Self::Time => "it is for other days or hours",
            Self::Presence => "it is for another presence",
        })
    }
}

/// A rule that was looked at and doesn't apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Its place, from 0.
    pub rule: usize,
    /// Why not.
    pub why: Mismatch,
}

/// Who is told, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Place of the rule that decided, from 0.
    pub rule: Option<usize>,
    /// Rules before it.
    pub passed_over: Vec<PassedOver>,
    /// In order of time. Every candidate is in exactly one.
    pub stages: Vec<Stage>,
}

impl Decision {
    /// When a device's turn is, and its part. A device that wasn't among the candidates is told at once.
    #[must_use]
    pub fn turn_of(&self, device: &DeviceKey) -> Option<(u16, &Choice)> {
        self.stages.iter().find_map(|stage| {
            stage.choices.iter().find(|choice| choice.device == *device).map(|choice| (stage.after_secs, choice))
        })
    }
}

/// Decides who is told, and when.
///
/// Each candidate is in exactly one stage, and the first stage begins at once and has somebody in it, if there are any. What isn't known of a device
/// excludes it from no stage but those that ask for just that.
#[must_use]
pub fn decide(inputs: &Inputs, policy: Option<&Policy>) -> Decision {
    let mut left: Vec<&Candidate> = Vec::new();
    for candidate in &inputs.candidates {
        if !left.iter().any(|known| known.device == candidate.device) {
            left.push(candidate);
        }
    }
    left.sort_by_key(|candidate| (rank(candidate, inputs.at), candidate.device));
    let mut passed_over = Vec::new();
    let mut applies = None;
    for (index, rule) in policy.into_iter().flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule))).enumerate() {
        match mismatch(&rule.1.when, inputs, rule.0.minutes_ahead) {
            Some(why) => passed_over.push(PassedOver { rule: index, why }),
            None => {
                applies = Some((index, rule.1));
                break;
            }
        }
    }
    let rule = applies.map(|(index, _)| index);
    let stages = match applies {
        Some((_, rule)) => stages_of(rule, left, inputs),
        None => {
            let because = if policy.is_some() { Because::NoRule } else { Because::NoPolicy };
            vec![(0, left.into_iter().map(|candidate| (candidate, because)).collect())]
        }
    };
    let stages = split_by_content(stages, inputs);
    Decision { rule, passed_over, stages }
}

type Chosen<'a> = Vec<(&'a Candidate, Because)>;

/// The steps of a rule, and all others at the end.
fn stages_of<'a>(rule: &Rule, mut left: Vec<&'a Candidate>, inputs: &Inputs) -> Vec<(u16, Chosen<'a>)> {
    let mut stages: Vec<(u16, Chosen<'a>)> = Vec::new();
    let mut after = 0;
    for step in &rule.steps {
        let chosen = choose(step, &left, inputs.at);
        if chosen.is_empty() {
            // Nobody fits: nobody is waited for.
            continue;
        }
        left.retain(|candidate| !chosen.iter().any(|(taken, _)| taken.device == candidate.device));
        stages.push((after, chosen));
        after = after.saturating_add(step.escalate_after_secs.max(1)).min(LAST_STAGE_SECS);
    }
    if !left.is_empty() {
        let because = if stages.is_empty() { Because::NobodyFits } else { Because::NotAnswered };
        let chosen = left.into_iter().map(|candidate| (candidate, because)).collect();
        match stages.last_mut().filter(|(last, _)| *last == after) {
            Some((_, last)) => last.extend::<Chosen<'a>>(chosen),
            None => stages.push((after, chosen)),
        }
    }
    stages
}

/// Takes as many devices as a step wants from its targets, in order.
fn choose<'a>(step: &Step, left: &[&'a Candidate], now: UnixTime) -> Chosen<'a> {
    let mut chosen: Chosen<'a> = Vec::new();
    let count = usize::from(step.count.max(1));
    for target in &step.targets {
        for candidate in fitting(target, left, now) {
            let is_new = !chosen.iter().any(|(taken, _)| taken.device == candidate.device);
            if is_new && (*target == Target::All || chosen.len() < count) {
                chosen.push((candidate, because_of(target)));
            }
        }
    }
    chosen
}

/// Devices that a target means, the best first.
fn fitting<'a>(target: &Target, left: &[&'a Candidate], now: UnixTime) -> Vec<&'a Candidate> {
    let mut fitting: Vec<&Candidate> = left.iter().copied().filter(|candidate| fits(target, candidate, now)).collect();
    match target {
        // Usage decides between devices that are in use only by who told it last.
        Target::Nearest => fitting.sort_by_key(|candidate| (metres(candidate, now), rank(candidate, now), candidate.device)),
        _ => fitting.sort_by_key(|candidate| (rank(candidate, now), candidate.device)),
    }
    fitting
}

fn fits(target: &Target, candidate: &Candidate, now: UnixTime) -> bool {
    match target {
        Target::All => true,
        Target::InUse => usage(candidate, now) == Some(Usage::InUse),
        Target::Nearest => metres(candidate, now).is_some() && usage(candidate, now) != Some(Usage::Off),
        Target::Kind(kind) => kind_of(candidate) == Some(*kind) && is_on(candidate, now),
        Target::Device(DeviceRef::Key(device)) => candidate.device == *device,
        Target::Device(DeviceRef::Name(name)) => candidate.name.as_deref() == Some(name),
    }
}

const fn because_of(target: &Target) -> Because {
    match target {
        Target::All => Because::All,
        Target::InUse => Because::InUse,
        Target::Nearest => Because::Nearest,
        Target::Kind(_) => Because::Kind,
        Target::Device(_) => Because::Named,
    }
}

/// Whether it is in use, as far as that can be known: silence for long is being off, unless it is connected, which is being on.
fn usage(candidate: &Candidate, now: UnixTime) -> Option<Usage> {
    let report = candidate.report.as_ref()?;
    let usage = report.usage?;
    match (is_stale(report, now), candidate.reach) {
        (false, _) => Some(usage),
        (true, Reach::Connected) => None,
        (true, _) => Some(Usage::Off),
    }
}

const fn is_stale(report: &DeviceReport, now: UnixTime) -> bool {
    now.secs_since(report.at) > STALE_SECS
}

fn is_on(candidate: &Candidate, now: UnixTime) -> bool {
    usage(candidate, now).map_or(candidate.reach == Reach::Connected, Usage::is_on)
}

fn kind_of(candidate: &Candidate) -> Option<DeviceKind> {
    candidate.report.as_ref().and_then(|report| report.attributes.kind).or(candidate.kind)
}

/// How far away its user is, if that was told lately.
fn metres(candidate: &Candidate, now: UnixTime) -> Option<u16> {
    let report = candidate.report.as_ref().filter(|report| !is_stale(report, now))?;
    let proximity = report.proximity?;
    Some(proximity.metres.unwrap_or(if proximity.is_near { NEAR_METRES } else { FAR_METRES }))
}

/// Smaller is better, whatever is asked for: in use before idle, near before far, told lately before long ago. What isn't known lies between.
fn rank(candidate: &Candidate, now: UnixTime) -> (u8, u16, Reverse<UnixTime>) {
    let usage = match usage(candidate, now) {
        Some(Usage::InUse) => 0,
        Some(Usage::Idle) => 1,
        Some(Usage::Locked) => 2,
        None => 3,
        Some(Usage::Asleep) => 4,
        Some(Usage::Off) => 5,
    };
    let at = candidate.report.as_ref().map_or(UnixTime(0), |report| report.at);
    (usage, metres(candidate, now).unwrap_or(FAR_METRES), Reverse(at))
}

/// Whether a device can show the event, if that is known.
fn can_show(candidate: &Candidate, event: &Event) -> Option<bool> {
    let attributes = &candidate.report.as_ref()?.attributes;
    let rings = if event.kind.is_call() { attributes.can_ring } else { None };
    let shows = event.format.as_ref().and_then(|format| attributes.shows(format));
    let sees = if event.kind == EventKind::VIDEO_CALL { attributes.screen.map(super::report::Screen::is_there) } else { None };
    let known = [rings, shows, sees];
    if known.contains(&Some(false)) { Some(false) } else { known.into_iter().flatten().next() }
}

/// In a stage where nobody can show the event, whoever can joins it, and the others hear where it is shown.
fn split_by_content(mut stages: Vec<(u16, Chosen<'_>)>, inputs: &Inputs) -> Vec<Stage> {
    let cannot = |candidate: &Candidate| can_show(candidate, &inputs.event) == Some(false);
    let mut done = Vec::new();
    let mut index = 0;
    while index < stages.len() {
        let (after_secs, mut chosen) = std::mem::take(&mut stages[index]);
        index += 1;
        if chosen.is_empty() {
            continue;
        }
        if chosen.iter().all(|(candidate, _)| cannot(candidate))
            && let Some(shower) = take_shower(&mut stages[index..], inputs)
        {
            chosen.push((shower, Because::CanShow));
        }
        // Whoever is known to show it before who only may.
        let able = chosen.iter().map(|(candidate, _)| *candidate).filter(|candidate| !cannot(candidate));
        let shower =
            able.min_by_key(|candidate| can_show(candidate, &inputs.event) != Some(true)).map(|candidate| candidate.device);
        let choices = chosen.into_iter().map(|(candidate, because)| {
            let delivery = match shower {
                Some(shown_on) if cannot(candidate) => Delivery::Prompt { shown_on },
                // Nobody left can show it: better something than nothing.
                _ => Delivery::Content,
            };
            Choice { device: candidate.device, delivery, because, words: words(candidate, because, after_secs, inputs.at) }
        });
        done.push(Stage { after_secs, choices: choices.collect() });
    }
    done
}

/// Takes the best device that may be able to show the event out of the later stages.
fn take_shower<'a>(later: &mut [(u16, Chosen<'a>)], inputs: &Inputs) -> Option<&'a Candidate> {
    let able = |candidate: &Candidate| can_show(candidate, &inputs.event);
    let best = later.iter().flat_map(|(_, chosen)| chosen.iter().map(|(candidate, _)| *candidate));
    let best = best.filter(|candidate| able(candidate) != Some(false));
    let best = best.min_by_key(|candidate| (able(candidate) != Some(true), rank(candidate, inputs.at), candidate.device))?;
    for (_, chosen) in later.iter_mut() {
        chosen.retain(|(candidate, _)| candidate.device != best.device);
    }
    Some(best)
}

fn mismatch(when: &When, inputs: &Inputs, minutes_ahead: u16) -> Option<Mismatch> {
    if !when.events.is_empty() && !when.events.contains(&inputs.event.kind) {
        return Some(Mismatch::Event);
    }
    if let Some(callers) = &when.callers {
        if inputs.event.callers.is_empty() {
            return Some(Mismatch::UnknownCaller);
        }
        if !inputs.event.callers.iter().any(|caller| callers.contains(caller)) {
            return Some(Mismatch::Caller);
        }
    }
    let minutes = inputs.at.0 / 60 + u64::from(minutes_ahead);
    // An offset behind UTC is written as one ahead: a day less.
    let minutes = if minutes_ahead > DAY_MINUTES / 2 + 120 { minutes.saturating_sub(u64::from(DAY_MINUTES)) } else { minutes };
    let (day, minute) = (minutes / u64::from(DAY_MINUTES), minutes % u64::from(DAY_MINUTES));
    // The first of January 1970 was a Thursday.
    let weekday = u8::try_from((day + 3) % 7).unwrap_or(0);
    let is_within = when.between.is_none_or(|(from, until)| {
        let (from, until) = (u64::from(from), u64::from(until));
        if from <= until { (from..until).contains(&minute) } else { minute >= from || minute < until }
    });
    if !is_within || !when.days.contains(weekday) {
        return Some(Mismatch::Time);
    }
    (!when.presence.contains(inputs.presence)).then_some(Mismatch::Presence)
}

/// The reason with what was known of the device.
fn words(candidate: &Candidate, because: Because, after_secs: u16, now: UnixTime) -> String {
    let mut facts = Vec::new();
    match (usage(candidate, now), &candidate.report) {
        (Some(usage), Some(report)) => {
            let age = now.secs_since(report.at);
            facts.push(match usage {
                Usage::Off => format!("nothing was heard of it for {age} s"),
                usage => format!("{} {age} s ago", usage.as_str().replace('-', " ")),
            });
        }
        _ => facts.push("its use isn't known".to_owned()),
    }
    if let Some(metres) = metres(candidate, now) {
        let proximity = candidate.report.as_ref().and_then(|report| report.proximity);
        facts.push(match proximity.map(|proximity| (proximity.is_near, proximity.metres)) {
            Some((_, Some(_))) => format!("{metres} m away"),
            Some((true, None)) => "near".to_owned(),
            _ => "far".to_owned(),
        });
    }
    let turn = if after_secs == 0 { "at once".to_owned() } else { format!("after {after_secs} s, unless answered") };
    format!("{turn}: {because} ({})", facts.join(", "))
}
