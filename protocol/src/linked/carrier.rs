//! What brings an association to the other side. Each can be switched off, on the side that is to take it and on the side that gives it.

use std::fmt;
use std::str::FromStr;

use super::decide::{Claim, Grounds, TrustDecision, TrustRequest, decide};

/// A way for an association to reach the other side, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Carrier {
    /// The set-up request has it: an invite, or what is said beside a message; a token for one call too.
    Request,
    /// The caller's certificate hints at it.
    Certificate,
    /// A presence document had it.
    Presence,
    /// It was seen at the account's own place.
    Place,
    /// It lies in the directory.
    Directory,
}

impl Carrier {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Request, Self::Certificate, Self::Presence, Self::Place, Self::Directory];

    /// Its name in configuration files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Certificate => "certificate",
            Self::Presence => "presence",
            Self::Place => "place",
            Self::Directory => "directory",
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No carrier has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected request, certificate, presence, place or directory")]
pub struct CarrierError;

impl FromStr for Carrier {
    type Err = CarrierError;

    fn from_str(text: &str) -> Result<Self, CarrierError> {
        Self::ALL.into_iter().find(|carrier| carrier.as_str() == text).ok_or(CarrierError)
    }
}

/// Carriers that are switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carriers(u8);

impl Default for Carriers {
    /// All of them.
    fn default() -> Self {
        Carrier::ALL.into_iter().collect()
    }
}

impl FromIterator<Carrier> for Carriers {
    fn from_iter<I: IntoIterator<Item = Carrier>>(carriers: I) -> Self {
        Self(carriers.into_iter().fold(0, |all, carrier| all | 1 << carrier as u8))
    }
}

impl Carriers {
    /// Whether one is switched on.
    #[must_use]
    pub const fn has(self, carrier: Carrier) -> bool {
        self.0 & (1 << carrier as u8) != 0
    }

    /// Those that are switched on, in order.
    pub fn iter(self) -> impl Iterator<Item = Carrier> {
        Carrier::ALL.into_iter().filter(move |carrier| self.has(*carrier))
    }
}

/// Decides by several claims, in order: the first that makes the caller a contact in a linked system counts. If none does, one that a look could change; else the first. Whatever
/// `request.claim` is, is not looked at.
pub fn decide_by_first(request: &TrustRequest<'_>, claims: &[Claim<'_>], grounds: &Grounds<'_>) -> TrustDecision {
    let by = |claim| decide(&TrustRequest { claim, ..*request }, grounds);
    let mut refused: Option<TrustDecision> = None;
    for claim in claims {
        let decision = by(Some(*claim));
        if decision.linked.is_ok() {
            return decision;
        }
        if refused.as_ref().is_none_or(|before| decision.takes_a_look && !before.takes_a_look) {
            refused = Some(decision);
        }
    }
    refused.unwrap_or_else(|| by(None))
}
