//! Who may dial what by which trunk, and what becomes of it.

use std::collections::BTreeMap;

use super::guard::{Limits, Reached};
use super::number::{DialPlan, Dialled, Number, NumberError, Pattern};
use crate::call::Reason;

/// What a provider is told of who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerId {
    /// This number of the trunk's.
    Number(String),
    /// The account's own name at the provider, who fills in what belongs to it.
    Account,
    /// Nothing to whom is called (RFC 3323, RFC 3325 section 7); the provider knows the account.
    Anonymous,
}

/// What the owner has said of a trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkRule {
    /// Its name.
    pub name: String,
    /// Numbers that it carries.
    pub patterns: Vec<Pattern>,
    /// Who may use it, `name@authority`. Nobody else may.
    pub callers: Vec<String>,
    /// Whether emergency numbers go there.
    pub emergency: bool,
    /// What callers are shown as, unless `caller_ids` says otherwise.
    pub caller_id: CallerId,
    /// The same for single users.
    pub caller_ids: BTreeMap<String, CallerId>,
    /// What it may cost.
    pub limits: Limits,
}

impl TrunkRule {
    /// What a user is shown as. Nothing that the caller says has a part in it.
    #[must_use]
    pub fn caller_id_of(&self, user: &str) -> &CallerId {
        self.caller_ids.get(user).unwrap_or(&self.caller_id)
    }

    fn is_named(&self, user: &str) -> bool {
        self.callers.iter().any(|named| named == user)
    }
}

/// Why a telephone call isn't placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The owner hasn't named whoever calls.
    #[error("the owner of the telephone gateway hasn't named this user")]
    NotNamed,
    /// Not a number that can be dialled here.
    #[error("{0}")]
    Number(#[from] NumberError),
    /// A number that gets help, and no trunk is set up for it.
    #[error("{0} is an emergency number, and this gateway isn't set up for those: use another telephone")]
    Emergency(String),
    /// No trunk that this user may use leads there.
    #[error("no trunk for {0}")]
    NoTrunk(String),
    /// Within the day's limits no more is allowed.
    #[error("the spending limit is reached: {0}")]
    Limit(Reached),
    /// All trunks were tried.
    #[error("no trunk could carry the call")]
    TrunksFailed,
}

impl Refusal {
    /// What the caller's device is told.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NotNamed => Reason::TELEPHONE_NOT_NAMED,
            Self::Number(_) => Reason::TELEPHONE_NUMBER,
            Self::Emergency(_) => Reason::TELEPHONE_EMERGENCY,
            Self::NoTrunk(_) => Reason::TELEPHONE_NO_TRUNK,
            Self::Limit(_) => Reason::TELEPHONE_LIMIT,
            Self::TrunksFailed => Reason::TELEPHONE_FAILED,
        }
    }
}

/// Where a call may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What was dialled, as it goes to providers.
    pub number: Number,
    /// Whether it gets help; no limits hold then.
    pub is_emergency: bool,
    /// Trunks by their place in [`Plan::trunks`], in the order in which they are tried.
    pub trunks: Vec<usize>,
}

/// Everything that the owner has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How numbers are dialled here.
    pub dial_plan: DialPlan,
    /// The trunks, the preferred first.
    pub trunks: Vec<TrunkRule>,
}

impl Plan {
    /// Whether the owner has named this user for any trunk.
    #[must_use]
    pub fn is_named(&self, user: &str) -> bool {
        self.trunks.iter().any(|trunk| trunk.is_named(user))
    }

    /// Whether a call may be tried at all, before anything rings.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn screen(&self, user: &str, dialled: &Dialled) -> Result<(), Refusal> {
        self.route(user, dialled).map(|_| ())
    }

    /// By which trunks a user's call goes.
    ///
    /// # Errors
    /// [`Refusal`]. Who isn't named hears only that.
    pub fn route(&self, user: &str, dialled: &Dialled) -> Result<Route, Refusal> {
        if !self.is_named(user) {
            return Err(Refusal::NotNamed);
        }
        let number = self.number(dialled)?;
        let is_emergency = self.is_emergency(&number);
        let carries = |trunk: &TrunkRule| match is_emergency {
            true => trunk.emergency,
            false => trunk.patterns.iter().any(|pattern| pattern.matches(number.as_str())),
        };
        let usable = self.trunks.iter().enumerate().filter(|(_, trunk)| trunk.is_named(user) && carries(trunk));
        let trunks: Vec<usize> = usable.map(|(index, _)| index).collect();
        match (trunks.is_empty(), is_emergency) {
            (false, _) => Ok(Route { number, is_emergency, trunks }),
            (true, true) => Err(Refusal::Emergency(number.to_string())),
            (true, false) => Err(Refusal::NoTrunk(number.to_string())),
        }
    }

    /// What a number means here, for comparing numbers as providers write them.
    ///
    /// # Errors
    /// [`NumberError`].
    pub fn number(&self, dialled: &Dialled) -> Result<Number, NumberError> {
        let patterns = || self.trunks.iter().flat_map(|trunk| &trunk.patterns).filter(|pattern| pattern.is_short());
        self.dial_plan.number(dialled, |text| patterns().any(|pattern| pattern.matches(text)))
    }

    fn is_emergency(&self, number: &Number) -> bool {
        matches!(number, Number::Short(text) if self.dial_plan.emergency.contains(text))
    }
}

/// What a trunk's final answer means for the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrunkFate {
    /// This trunk can't: the next is tried.
    Next,
    /// What the network says of the number; another trunk would say the same.
    Over(Reason),
}

/// What becomes of a call after a trunk's final status, or `None` if nothing came.
///
/// A trunk that is out of order, full, or refuses the account is passed over. What whom is called says, or what is said of the number, is final:
/// nobody is rung twice, and a wrong number costs no second attempt.
#[must_use]
pub const fn fate_of(status: Option<u16>) -> TrunkFate {
    match status {
        None | Some(401 | 402 | 403 | 405..=408 | 420 | 421 | 481 | 494 | 500..=599) => TrunkFate::Next,
        Some(404 | 410 | 484 | 485 | 604) => TrunkFate::Over(Reason::TELEPHONE_UNKNOWN),
        Some(486 | 600) => TrunkFate::Over(Reason::BUSY),
        Some(480 | 487) => TrunkFate::Over(Reason::TELEPHONE_NO_ANSWER),
        Some(415 | 488 | 606) => TrunkFate::Over(Reason::MEDIA_FAILED),
        Some(603 | 607 | 608 | 433) => TrunkFate::Over(Reason::TELEPHONE_DECLINED),
        Some(_) => TrunkFate::Over(Reason::TELEPHONE_FAILED),
    }
}

/// The status and words for a phone whose telephone call a gateway has refused for this reason; `None` for reasons of other calls.
#[must_use]
pub const fn refusal_of(reason: Reason) -> Option<(u16, &'static str)> {
    match reason {
        Reason::TELEPHONE_NOT_NAMED => Some((403, "Not Named for the Telephone Gateway")),
        Reason::TELEPHONE_NUMBER => Some((484, "Not a Telephone Number")),
        Reason::TELEPHONE_EMERGENCY => Some((403, "No Emergency Calls Here")),
        Reason::TELEPHONE_NO_TRUNK => Some((404, "No Trunk for This Number")),
        Reason::TELEPHONE_LIMIT => Some((403, "Spending Limit Reached")),
        Reason::TELEPHONE_FAILED => Some((503, "No Trunk Could Carry the Call")),
        Reason::TELEPHONE_UNKNOWN => Some((404, "Unknown Telephone Number")),
        Reason::TELEPHONE_NO_ANSWER => Some((480, "No Answer")),
        Reason::TELEPHONE_DECLINED => Some((603, "Decline")),
        Reason::TELEPHONE_NO_GATEWAY => Some((404, "No Telephone Gateway")),
        _ => None,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
