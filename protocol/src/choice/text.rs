//! The policy as a person writes it: TOML, version 1.
//!
//! ```toml
//! version = 1
//! utc_offset = "+02:00"                 # for times of day; UTC without it
//!
//! [groups]
//! family = ["alice@example", "carol@example"]
//!
//! [[rule]]
//! name = "family at night"
//! when = { events = ["call"], from = ["family"], between = "22:00-07:00", days = ["mon", "tue"], presence = ["dnd"] }
//! targets = ["device:bob's phone"]
//! escalate_after = 20                   # seconds
//!
//! [[rule]]
//! targets = ["in-use", "laptop", "desktop"]
//! count = 1
//! escalate_after = 15
//! then = [{ targets = ["nearest"], escalate_after = 10 }]
//! ```
//!
//! The first rule whose conditions all hold decides. What isn't known is refused, with its line.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::decide::{LAST_STAGE_SECS, Presence};
use super::policy::{
    CALLERS_MAX, CallerRef, DAY_MINUTES, Days, DeviceRef, NAME_BYTES_MAX, POLICY_TEXT_BYTES_MAX, Policy, PresenceSet, RULES_MAX,
    Rule, STEPS_MAX, Step, TARGETS_MAX, Target, When,
};
use crate::directory::DeviceKind;
use crate::event::EventKind;
use crate::wire::Extensions;

/// The only version there is.
const VERSION: u32 = 1;

/// How long targets have if the policy doesn't say, in seconds: some five rings.
const ESCALATE_AFTER_SECS: u16 = 20;

/// Groups of a policy.
const GROUPS_MAX: usize = 32;

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Too long.
    #[error("{0} bytes, at most {POLICY_TEXT_BYTES_MAX}")]
    TooLong(usize),
    /// Not TOML, or with fields a policy doesn't have.
    #[error("line {line}: {reason}")]
    Syntax {
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A version this program doesn't read.
    #[error("version {0} isn't known; this program reads version {VERSION}")]
    Version(u32),
    /// A value is wrong.
    #[error("{place}: {reason}")]
    Value {
        /// Which rule or group, and which field.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    utc_offset: Option<String>,
    #[serde(default)]
    groups: BTreeMap<String, Vec<String>>,
    #[serde(default, rename = "rule")]
    rules: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    when: FileWhen,
    targets: Vec<String>,
    #[serde(default)]
    count: Option<u8>,
    #[serde(default)]
    escalate_after: Option<u16>,
    #[serde(default)]
    then: Vec<FileStep>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileWhen {
    #[serde(default)]
    events: Vec<String>,
    #[serde(default)]
    from: Option<Vec<String>>,
    #[serde(default)]
    between: Option<String>,
    #[serde(default)]
    days: Vec<String>,
    #[serde(default)]
    presence: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileStep {
    targets: Vec<String>,
    #[serde(default)]
    count: Option<u8>,
    #[serde(default)]
    escalate_after: Option<u16>,
}

impl Policy {
    /// Reads a policy from its text.
    ///
    /// # Errors
    /// [`PolicyError`], for people to read.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_TEXT_BYTES_MAX {
            return Err(PolicyError::TooLong(text.len()));
        }
        let file: File = toml::from_str(text).map_err(|error| syntax_error(text, &error))?;
        if file.version != VERSION {
            return Err(PolicyError::Version(file.version));
        }
        let minutes_ahead = file.utc_offset.as_deref().map_or(Some(0), minutes_ahead);
        let minutes_ahead = minutes_ahead.ok_or_else(|| value("utc_offset", "expected +HH:MM or -HH:MM"))?;
        within("groups", file.groups.len(), GROUPS_MAX)?;
        for (group, members) in &file.groups {
            within(&format!("group {group:?}"), members.len(), CALLERS_MAX)?;
            members.iter().try_for_each(|member| check_user(&format!("group {group:?}"), member))?;
        }
        within("rules", file.rules.len(), RULES_MAX)?;
        let rules = file.rules.into_iter().enumerate().map(|(index, rule)| rule_of(index, rule, &file.groups));
        Ok(Self { minutes_ahead, rules: rules.collect::<Result<_, _>>()?, extensions: Extensions::none() })
    }
}

fn syntax_error(text: &str, error: &toml::de::Error) -> PolicyError {
    let start = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
    PolicyError::Syntax { line, reason: error.message().lines().next().unwrap_or_default().to_owned() }
}

fn value(place: &str, reason: impl Into<String>) -> PolicyError {
    PolicyError::Value { place: place.to_owned(), reason: reason.into() }
}

fn within(place: &str, count: usize, max: usize) -> Result<(), PolicyError> {
    if count > max {
        return Err(value(place, format!("{count}, at most {max}")));
    }
    Ok(())
}

fn rule_of(index: usize, rule: FileRule, groups: &BTreeMap<String, Vec<String>>) -> Result<Rule, PolicyError> {
    let place = match rule.name.as_str() {
        "" => format!("rule {}", index + 1),
        name => format!("rule {} ({name:?})", index + 1),
    };
    within(&place, rule.name.len(), NAME_BYTES_MAX)?;
    within(&format!("{place}: then"), rule.then.len(), STEPS_MAX - 1)?;
    let first = FileStep { targets: rule.targets, count: rule.count, escalate_after: rule.escalate_after };
    let steps = std::iter::once(first).chain(rule.then).map(|step| step_of(&place, &step));
    Ok(Rule { name: rule.name, when: when_of(&place, rule.when, groups)?, steps: steps.collect::<Result<_, _>>()? })
}

fn when_of(place: &str, when: FileWhen, groups: &BTreeMap<String, Vec<String>>) -> Result<When, PolicyError> {
    let mut events = Vec::new();
    for word in &when.events {
        events.extend(events_of(word).ok_or_else(|| {
            value(
                &format!("{place}: events"),
                format!("{word:?} isn't call, voice-call, video-call, message, missed-call, contact-request or mail"),
            )
        })?);
    }
    events.sort_unstable();
    events.dedup();
    let between = when
        .between
        .as_deref()
        .map(|text| minutes_between(text).ok_or_else(|| value(&format!("{place}: between"), "expected HH:MM-HH:MM")));
    let mut days = Days::default();
    for word in &when.days {
        let day = Days::WORDS.iter().position(|known| known == word).and_then(|day| u8::try_from(day).ok());
        days = days.with(day.ok_or_else(|| value(&format!("{place}: days"), format!("{word:?} isn't one of mon to sun")))?);
    }
    let mut presence = PresenceSet::default();
    for word in &when.presence {
        let state = Presence::of_word(word);
        presence = presence.with(
            state.ok_or_else(|| value(&format!("{place}: presence"), format!("{word:?} isn't online, away, dnd or offline")))?,
        );
    }
    let callers = when.from.map(|from| callers_of(place, &from, groups)).transpose()?;
    Ok(When { events, callers, between: between.transpose()?, days, presence })
}

fn events_of(word: &str) -> Option<Vec<EventKind>> {
    if word == "call" {
        return Some(vec![EventKind::VOICE_CALL, EventKind::VIDEO_CALL]);
    }
    let kinds = [
        EventKind::VOICE_CALL,
        EventKind::VIDEO_CALL,
        EventKind::MESSAGE,
        EventKind::MISSED_CALL,
        EventKind::CONTACT_REQUEST,
        EventKind::MAIL,
    ];
    kinds.into_iter().find(|kind| kind.to_string() == word).map(|kind| vec![kind])
}

fn callers_of(place: &str, from: &[String], groups: &BTreeMap<String, Vec<String>>) -> Result<Vec<CallerRef>, PolicyError> {
    let place = format!("{place}: from");
    let mut callers = Vec::new();
    for word in from {
        match groups.get(word) {
            Some(members) => callers.extend(members.iter().cloned().map(CallerRef::Name)),
            None if word.contains(['@', ':']) => {
                check_user(&place, word)?;
                callers.push(CallerRef::Name(word.clone()));
            }
            None => return Err(value(&place, format!("{word:?} is neither a group of this policy nor a user, name@authority"))),
        }
    }
    callers.sort_unstable();
    callers.dedup();
    within(&place, callers.len(), CALLERS_MAX)?;
    Ok(callers)
}

fn check_user(place: &str, user: &str) -> Result<(), PolicyError> {
    if user.is_empty() || user.len() > NAME_BYTES_MAX || !user.contains(['@', ':']) {
        return Err(value(place, format!("{:?} isn't a user, name@authority", user.chars().take(64).collect::<String>())));
    }
    Ok(())
}

fn step_of(place: &str, step: &FileStep) -> Result<Step, PolicyError> {
    let in_targets = format!("{place}: targets");
    within(&in_targets, step.targets.len(), TARGETS_MAX)?;
    if step.targets.is_empty() {
        return Err(value(&in_targets, "none; \"all\" means every device"));
    }
    let count = step.count.unwrap_or(1);
    if count == 0 {
        return Err(value(&format!("{place}: count"), "0: at least one device is told"));
    }
    let escalate_after_secs = step.escalate_after.unwrap_or(ESCALATE_AFTER_SECS);
    if !(1..=LAST_STAGE_SECS).contains(&escalate_after_secs) {
        let reason = format!("{escalate_after_secs} s, expected 1 to {LAST_STAGE_SECS}: a call rings no longer than a minute");
        return Err(value(&format!("{place}: escalate_after"), reason));
    }
    let targets = step.targets.iter().map(|word| target_of(&in_targets, word)).collect::<Result<_, _>>()?;
    Ok(Step { targets, count, escalate_after_secs })
}

fn target_of(place: &str, word: &str) -> Result<Target, PolicyError> {
    if let Some(name) = word.strip_prefix("device:") {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(value(place, "\"device:\" is followed by a device's name"));
        }
        return Ok(Target::Device(DeviceRef::Name(name.to_owned())));
    }
    Ok(match word {
        "all" => Target::All,
        "in-use" => Target::InUse,
        "nearest" => Target::Nearest,
        "phone" => Target::Kind(DeviceKind::Phone),
        "tablet" => Target::Kind(DeviceKind::Tablet),
        "laptop" => Target::Kind(DeviceKind::Laptop),
        "desktop" => Target::Kind(DeviceKind::Desktop),
        "server" => Target::Kind(DeviceKind::Server),
        other => {
            let other: String = other.chars().take(64).collect();
            let known = "all, in-use, nearest, phone, tablet, laptop, desktop, server or device:NAME";
            return Err(value(place, format!("{other:?} isn't {known}")));
        }
    })
}

/// `+HH:MM` or `-HH:MM`, modulo a day.
fn minutes_ahead(text: &str) -> Option<u16> {
    let (sign, rest) = (text.get(..1)?, text.get(1..)?);
    let minutes = minute_of_day(rest)?;
    match sign {
        "+" => Some(minutes),
        "-" => Some((DAY_MINUTES - minutes) % DAY_MINUTES),
        _ => None,
    }
}

fn minutes_between(text: &str) -> Option<(u16, u16)> {
    let (from, until) = text.split_once('-')?;
    Some((minute_of_day(from.trim())?, minute_of_day(until.trim())?))
}

/// `HH:MM`
fn minute_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |part: &str| {
        let is_two = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        is_two.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}
