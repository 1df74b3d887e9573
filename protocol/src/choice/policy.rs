//! The policy as it is decided by: rules in order. Its text is read in [`super::text`].

use bincode::{Decode, Encode};

use super::decide::Presence;
use crate::directory::DeviceKind;
use crate::event::EventKind;
use crate::key::{DeviceKey, PublicKey};
use crate::wire::{DecodeError, Extensions};

/// Longest text of a policy, in bytes.
pub const POLICY_TEXT_BYTES_MAX: usize = 8 * 1024;

/// Most rules.
pub const RULES_MAX: usize = 32;

/// Most steps of a rule: its targets, and those tried after them.
pub const STEPS_MAX: usize = 4;

/// Most targets of a step.
pub const TARGETS_MAX: usize = 8;

/// Most callers a rule names, groups resolved.
pub(super) const CALLERS_MAX: usize = 64;

/// Most kinds of events a rule names.
const EVENTS_MAX: usize = 16;

/// Longest name of a rule, a device or a caller.
pub(super) const NAME_BYTES_MAX: usize = 320;

/// Minutes of a day.
pub(super) const DAY_MINUTES: u16 = 24 * 60;

/// How a policy names who calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum CallerRef {
    /// By name, `alice@example`, as the user's devices know her.
    Name(String),
    /// By the key that a gateway sees: the holder's of the capability it pushes with.
    Holder(PublicKey),
}

/// How a policy names a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum DeviceRef {
    /// By the name its user gave it.
    Name(String),
    /// By its key.
    Key(DeviceKey),
}

/// Days of the week. Empty means all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Days(pub u8);

impl Days {
    /// The words, from Monday on.
    pub const WORDS: [&'static str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

    /// Whether a day, 0 for Monday, is one of them.
    #[must_use]
    pub const fn contains(self, day: u8) -> bool {
        self.0 == 0 || self.0 >> day & 1 == 1
    }

    /// The same with one more.
    #[must_use]
    pub const fn with(self, day: u8) -> Self {
        Self(self.0 | 1 << day)
    }
}

/// States of presence. Empty means whatever the state is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PresenceSet(pub u8);

impl PresenceSet {
    /// The same with one more.
    #[must_use]
    pub const fn with(self, presence: Presence) -> Self {
        Self(self.0 | 1 << presence as u8)
    }

    /// Whether the state is one of them; an unknown one is none.
    #[must_use]
    pub fn contains(self, presence: Option<Presence>) -> bool {
        self.0 == 0 || presence.is_some_and(|presence| self.0 >> presence as u8 & 1 == 1)
    }
}

/// When a rule applies: all of its conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct When {
    /// Kinds of events; empty: all.
    pub events: Vec<EventKind>,
    /// Who it comes from; `None`: whoever.
    pub callers: Option<Vec<CallerRef>>,
    /// Minutes of the user's day, from and until; over midnight if the second is smaller.
    pub between: Option<(u16, u16)>,
    /// Days of the user's week.
    pub days: Days,
    /// The user's presence.
    pub presence: PresenceSet,
}

/// Whom an event goes to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Target {
    /// All devices.
    All,
    /// The one in use.
    InUse,
    /// The nearest.
    Nearest,
    /// One of this kind, if it is on.
    Kind(DeviceKind),
    /// This one.
    Device(DeviceRef),
}

/// Targets, and how long they have.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Step {
    /// Preferred first; as many devices as `count` says are taken from them in order.
    pub targets: Vec<Target>,
    /// How many devices; [`Target::All`] takes all whatever it says.
    pub count: u8,
    /// When the next step begins if nobody has answered, in seconds.
    pub escalate_after_secs: u16,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Rule {
    /// What the user calls it; may be empty.
    pub name: String,
    /// When it applies.
    pub when: When,
    /// Whom it chooses, and whom then. After the last come all others.
    pub steps: Vec<Step>,
}

/// Rules in order: the first that applies decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Policy {
    /// How many minutes the user's clock is ahead of UTC, modulo a day.
    pub minutes_ahead: u16,
    /// The rules.
    pub rules: Vec<Rule>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Policy {
    /// Checks counts, lengths and ranges.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for what is out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        at_most("rules", self.rules.len(), RULES_MAX)?;
        if self.minutes_ahead >= DAY_MINUTES {
            return Err(DecodeError::invalid("minutes_ahead", "a day or more"));
        }
        self.rules.iter().try_for_each(Rule::check)
    }

    /// The policy as a gateway gets it: callers by the keys it sees, devices by theirs, rules without names. `holders` gives a caller's keys, `device` the
    /// device of a name.
    #[must_use]
    pub fn for_gateway(&self, holders: impl Fn(&str) -> Vec<PublicKey>, device: impl Fn(&str) -> Option<DeviceKey>) -> Self {
        let mut policy = self.clone();
        for rule in &mut policy.rules {
            rule.name.clear();
            if let Some(callers) = &mut rule.when.callers {
                *callers = callers.iter().flat_map(|caller| without_name(caller, &holders)).take(CALLERS_MAX).collect();
            }
            for step in &mut rule.steps {
                step.targets.retain_mut(|target| match target {
                    Target::Device(DeviceRef::Name(name)) => match device(name) {
                        Some(key) => {
                            *target = Target::Device(DeviceRef::Key(key));
                            true
                        }
                        None => false,
                    },
                    _ => true,
                });
            }
        }
        policy
    }
}

fn without_name(caller: &CallerRef, holders: &impl Fn(&str) -> Vec<PublicKey>) -> Vec<CallerRef> {
    match caller {
        CallerRef::Name(name) => holders(name).into_iter().map(CallerRef::Holder).collect(),
        CallerRef::Holder(key) => vec![CallerRef::Holder(*key)],
    }
}

impl Rule {
    fn check(&self) -> Result<(), DecodeError> {
        at_most("rule name", self.name.len(), NAME_BYTES_MAX)?;
        at_most("steps", self.steps.len(), STEPS_MAX)?;
        at_most("events", self.when.events.len(), EVENTS_MAX)?;
        let callers = self.when.callers.as_deref().unwrap_or_default();
        at_most("callers", callers.len(), CALLERS_MAX)?;
        for caller in callers {
            if let CallerRef::Name(name) = caller {
                at_most("caller", name.len(), NAME_BYTES_MAX)?;
            }
        }
        if self.when.between.is_some_and(|(from, until)| from >= DAY_MINUTES || until >= DAY_MINUTES) {
            return Err(DecodeError::invalid("between", "later than a day"));
        }
        self.steps.iter().try_for_each(Step::check)
    }
}

impl Step {
    fn check(&self) -> Result<(), DecodeError> {
        at_most("targets", self.targets.len(), TARGETS_MAX)?;
        for target in &self.targets {
            if let Target::Device(DeviceRef::Name(name)) = target {
                at_most("device", name.len(), NAME_BYTES_MAX)?;
            }
        }
        Ok(())
    }
}

fn at_most(field: &'static str, count: usize, max: usize) -> Result<(), DecodeError> {
    if count > max {
        return Err(DecodeError::invalid(field, format!("{count}, at most {max}")));
    }
    Ok(())
}
