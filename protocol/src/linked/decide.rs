//! May somebody who isn't a contact here do something, because they are one elsewhere? One pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::association::{Association, AssociationError};
use super::carrier::Carrier;
use super::id::LinkedId;
use super::part::LinkedPart;
use super::proof::{ProofError, TrustedProofs, verify_proof};
use super::sighting::{KnownAssociations, SEEN_SECS_FRESH, SIGHTING_SECS_FRESH};
use super::slow::Indicator;
use super::token::{TOKEN_SECS_MAX, TokenPart};
use crate::call::CallId;
use crate::contact::privacy::{self, Because, Decision, Kind, PrivacySettings, Relation};
use crate::identity::UserId;
use crate::key::IdentityKey;
use crate::time::UnixTime;

/// The contact lists of the user's own accounts: by account, who is in it, and by what name.
pub type ContactLists = BTreeMap<LinkedId, BTreeMap<LinkedId, Option<String>>>;

/// Which contact elsewhere an indicator stands for: those of this user's own contacts whose slow hashes are known.
pub type Indicated = BTreeMap<Indicator, LinkedId>;

/// What is decided by.
#[derive(Clone, Copy, Debug)]
pub struct Grounds<'a> {
    /// Who is in the user's own contact lists.
    pub lists: &'a ContactLists,
    /// Accounts among them of which nobody is to learn that they are this user's: as if they weren't linked.
    pub hidden: &'a BTreeSet<LinkedId>,
    /// What was seen of identities elsewhere.
    pub known: &'a KnownAssociations,
    /// Whose proofs are taken.
    pub trusted: TrustedProofs<'a>,
    /// Who may do what.
    pub settings: &'a PrivacySettings,
    /// How old a sighting may be: [`SIGHTING_SECS_FRESH`] first, and once it was tried to look again, [`SIGHTING_SECS_MAX`](super::SIGHTING_SECS_MAX).
    pub sighting_secs_max: u64,
    /// Now.
    pub now: UnixTime,
}

impl<'a> Grounds<'a> {
    fn lists(&self) -> impl Iterator<Item = (&'a LinkedId, &'a BTreeMap<LinkedId, Option<String>>)> {
        let hidden = self.hidden;
        self.lists.iter().filter(move |(account, _)| !hidden.contains(*account))
    }

    fn list(&self, account: &LinkedId) -> Option<&'a BTreeMap<LinkedId, Option<String>>> {
        self.lists.get(account).filter(|_| !self.hidden.contains(account))
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct TrustRequest<'a> {
    /// Who wants something; their chain was verified.
    pub user: &'a UserId,
    /// Their identity key, of that chain.
    pub identity: &'a IdentityKey,
    /// What they are to this user here.
    pub relation: Relation,
    /// What they want.
    pub kind: Kind,
    /// What they say of a linked system, if they do.
    pub claim: Option<Claim<'a>>,
}

/// What somebody says of a linked system.
#[derive(Clone, Copy, Debug)]
pub enum Claim<'a> {
    /// An association of theirs, which their place shows too, or with a proof that stands by itself.
    Association(&'a LinkedPart),
    /// A token for this call.
    Token {
        /// What they say of it.
        part: &'a TokenPart,
        /// Which call.
        call: CallId,
        /// What the server has shown under it at their place; `None` before it was asked.
        shown: Option<Option<[u8; 32]>>,
    },
    /// Nothing but the hints in the caller's certificate, which their chain has brought: their authority's word, which is trusted for their name too.
    Certificate {
        /// The hints.
        indicators: &'a [Indicator],
        /// What they can stand for.
        contacts: &'a Indicated,
    },
    /// Nothing at all: what a contact elsewhere showed before, in a presence document or at their place.
    Seen(Carrier),
}

impl Claim<'_> {
    /// Whether a look at a place could change what comes of it: the claim says at which.
    const fn names_a_place(&self) -> bool {
        matches!(self, Self::Association(_) | Self::Token { .. } | Self::Seen(_))
    }
}

/// Somebody, as a contact in a linked system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedContact {
    /// Who they are there.
    pub id: LinkedId,
    /// The name that this user has given them there.
    pub name: Option<String>,
    /// In whose contact list they are: this user's own account.
    pub account: LinkedId,
    /// What has shown it.
    pub carrier: Carrier,
}

/// Why somebody isn't taken for a contact in a linked system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotLinked {
    /// They don't say that they are.
    NothingSaid,
    /// What they show is somebody else's word, or nobody's.
    NotTheirs,
    /// What they show isn't in order by itself.
    Association(AssociationError),
    /// They mean an account that this user hasn't linked.
    OtherAccount,
    /// This user's contact list there doesn't have them.
    NotInList,
    /// Their place wasn't looked at, or too long ago.
    NotSeen,
    /// Nothing stands at their place.
    NotShown,
    /// Their place names another user: the identity that they claim is somebody else's.
    OtherUser,
    /// What stands at their place doesn't hold.
    Shown(AssociationError),
    /// The token's time is over, or longer than one may count.
    TokenTime,
    /// None of the hints in their certificate stands for a contact.
    NotIndicated,
    /// The token is for another call, another callee, or another user.
    OtherEvent,
    /// What they show comes with a proof that isn't taken.
    Proof(ProofError),
}

impl fmt::Display for NotLinked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingSaid => f.write_str("says nothing of a linked system"),
            Self::NotTheirs => f.write_str("what they show of a linked system is not their own word"),
            Self::Association(error) => write!(f, "what they show of a linked system doesn't hold: {error}"),
            Self::OtherAccount => f.write_str("means an account that isn't linked here"),
            Self::NotInList => f.write_str("isn't in the contact list of the linked system"),
            Self::NotSeen => f.write_str("what they show in the linked system couldn't be looked at"),
            Self::NotShown => f.write_str("shows no association in the linked system"),
            Self::OtherUser => f.write_str("the identity in the linked system belongs to somebody else"),
            Self::Shown(error) => write!(f, "what they show in the linked system doesn't hold: {error}"),
            Self::NotIndicated => f.write_str("their certificate hints at nobody in a contact list of a linked system"),
            Self::TokenTime => f.write_str("the token of the linked system has no time left"),
            Self::OtherEvent => f.write_str("the token of the linked system is for something else"),
            Self::Proof(error) => write!(f, "what they show of a linked system isn't proved: {error}"),
        }
    }
}

impl NotLinked {
    /// Whether a look at the place of whom they claim to be could change it.
    ///
    /// True as well where it couldn't, if the caller isn't to learn that: whether somebody is in a contact list is nobody's business.
    #[must_use]
    pub const fn takes_a_look(self) -> bool {
        matches!(self, Self::NotInList | Self::NotSeen | Self::NotShown | Self::OtherUser | Self::Shown(_) | Self::OtherEvent)
    }
}

/// What was decided, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct TrustDecision {
    /// The decision.
    pub decision: Decision,
    /// As whom they are shown, or why not as a contact in a linked system.
    pub linked: Result<LinkedContact, NotLinked>,
    /// Whether the place should be looked at, and the decision be made again.
    pub takes_a_look: bool,
}

impl fmt::Display for TrustDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.linked, self.decision.because) {
            (Ok(contact), Because::Linked) => {
                let LinkedContact { id, account, carrier, .. } = contact;
                write!(f, "{}: {id} of {account}, by the {carrier}", self.decision.because)
            }
            (Err(NotLinked::NothingSaid), because) => because.fmt(f),
            (Err(why), because @ Because::NotAContact) => write!(f, "{because}; {why}"),
            (_, because) => because.fmt(f),
        }
    }
}

/// Decides whether somebody may do something.
///
/// Being a contact elsewhere makes a stranger more than one and changes nothing for anybody else: not for whom is blocked, and not for a contact's name that came
/// with another key.
pub fn decide(request: &TrustRequest<'_>, grounds: &Grounds<'_>) -> TrustDecision {
    let (linked, settings) = (judge(request, grounds), grounds.settings);
    let relation = match (request.relation, &linked) {
        (Relation::Stranger, Ok(_)) => Relation::Linked,
        (relation, _) => relation,
    };
    let decision = privacy::decide(settings, relation, request.kind);
    // Nobody is made to wait for what wouldn't help.
    let would_help = request.relation == Relation::Stranger
        && !decision.is_allowed
        && privacy::decide(settings, Relation::Linked, request.kind).is_allowed;
    let names_a_place = request.claim.as_ref().is_some_and(Claim::names_a_place);
    let takes_a_look = would_help && names_a_place && linked.as_ref().is_err_and(|why| why.takes_a_look());
    TrustDecision { decision, linked, takes_a_look }
}

fn judge(request: &TrustRequest<'_>, grounds: &Grounds<'_>) -> Result<LinkedContact, NotLinked> {
    match request.claim.ok_or(NotLinked::NothingSaid)? {
        Claim::Association(part) => judge_association(request, part, grounds),
        Claim::Token { part, call, shown } => judge_token(request, part, call, shown, grounds),
        Claim::Certificate { indicators, contacts } => judge_certificate(request, indicators, contacts, grounds),
        Claim::Seen(carrier) => judge_seen(request, carrier, grounds),
    }
}

fn judge_association(request: &TrustRequest<'_>, part: &LinkedPart, grounds: &Grounds<'_>) -> Result<LinkedContact, NotLinked> {
    let now = grounds.now;
    let is_theirs = |said: &Association| said.identity == *request.identity && said.user == *request.user;
    // Whose word it is comes first: others are told apart by their keys alone.
    let claimed = part.association.unverified();
    if !is_theirs(claimed) {
        return Err(NotLinked::NotTheirs);
    }
    Association::verify(&part.association, now).map_err(|error| match error {
        AssociationError::Signature(_) => NotLinked::NotTheirs,
        error => NotLinked::Association(error),
    })?;
    let list = grounds.list(&part.callee).ok_or(NotLinked::OtherAccount)?;
    // Before the list, so that a refusal for it is the same with every list.
    let by_itself = claimed.method.stands_by_itself();
    let verify = || verify_proof(claimed, part.proof(), grounds.trusted, now);
    let proved = by_itself.then(verify).transpose().map_err(NotLinked::Proof)?;
    let name = list.get(&claimed.linked).ok_or(NotLinked::NotInList)?;
    let (id, account) = (claimed.linked.clone(), part.callee.clone());
    let contact = LinkedContact { id, name: name.clone(), account, carrier: Carrier::Request };
    if let Some(proved_at) = proved {
        return judge_newer(claimed, proved_at, &part.callee, grounds).map(|()| contact);
    }
    let seen = grounds.known.get(&(part.callee.clone(), claimed.linked.clone()));
    let sighting = seen.filter(|sighting| sighting.counts(grounds.sighting_secs_max, now));
    let shown =
        sighting.ok_or(NotLinked::NotSeen)?.holds(now).map_err(|why| why.map_or(NotLinked::NotShown, NotLinked::Shown))?;
    if !is_theirs(shown) {
        return Err(NotLinked::OtherUser);
    }
    Ok(contact)
}

/// Whether nothing that is known of the identity counts more than what is proved: a later word of the same user, whatever it came by, for they have signed it; and
/// another user's that was proved later, in the same account.
fn judge_newer(claimed: &Association, proved_at: UnixTime, account: &LinkedId, grounds: &Grounds<'_>) -> Result<(), NotLinked> {
    for ((seen_over, _), sighting) in grounds.known.iter().filter(|((_, place), _)| *place == claimed.linked) {
        let Some(said) = sighting.association.as_ref().map(|signed| signed.unverified()) else { continue };
        let is_same_user = said.identity == claimed.identity && said.user == claimed.user;
        if is_same_user && said.serial > claimed.serial {
            sighting.holds(grounds.now).map_err(|why| why.map_or(NotLinked::NotShown, NotLinked::Shown))?;
        }
        if !is_same_user && seen_over == account && sighting.proved_at.unwrap_or(sighting.read_at) > proved_at {
            return Err(NotLinked::OtherUser);
        }
    }
    Ok(())
}

/// The authority's word doesn't count against that of the account's owner, where this is known.
fn judge_certificate(
    request: &TrustRequest<'_>,
    indicators: &[Indicator],
    contacts: &Indicated,
    grounds: &Grounds<'_>,
) -> Result<LinkedContact, NotLinked> {
    if indicators.is_empty() {
        return Err(NotLinked::NothingSaid);
    }
    let mut refused = NotLinked::NotIndicated;
    for id in indicators.iter().filter_map(|indicator| contacts.get(indicator)) {
        for (account, name) in grounds.lists().filter_map(|(account, list)| Some((account, list.get(id)?))) {
            let sighting = grounds.known.get(&(account.clone(), id.clone()));
            let shown = sighting.and_then(|sighting| sighting.association.as_ref()).map(|shown| shown.unverified());
            let is_theirs = shown.is_some_and(|said| said.identity == *request.identity && said.user == *request.user);
            match sighting.map(|sighting| sighting.holds(grounds.now)) {
                Some(Ok(_)) if !is_theirs => refused = NotLinked::OtherUser,
                // What somebody else has taken back may be this user's by now.
                Some(Err(Some(AssociationError::Revoked))) if is_theirs => {
                    refused = NotLinked::Shown(AssociationError::Revoked);
                }
                _ => {
                    let (id, name, account) = (id.clone(), name.clone(), account.clone());
                    return Ok(LinkedContact { id, name, account, carrier: Carrier::Certificate });
                }
            }
        }
    }
    Err(refused)
}

/// Whoever says nothing is looked for in what was seen; their place is looked at again if that was a while ago. What was proved by itself has no place that could show that it was taken
/// back: whoever means it shows it.
fn judge_seen(request: &TrustRequest<'_>, carrier: Carrier, grounds: &Grounds<'_>) -> Result<LinkedContact, NotLinked> {
    let (now, secs_max) = (grounds.now, grounds.sighting_secs_max);
    let secs_max = if secs_max <= SIGHTING_SECS_FRESH { SEEN_SECS_FRESH } else { secs_max };
    let mut refused = NotLinked::NothingSaid;
    for ((account, id), sighting) in grounds.known {
        let is_theirs = sighting.holds(now).is_ok_and(|said| said.identity == *request.identity && said.user == *request.user);
        let name = grounds.list(account).and_then(|list| list.get(id));
        let Some(name) = name.filter(|_| is_theirs && sighting.proved_at.is_none()) else { continue };
        if sighting.age_secs(now) <= secs_max {
            return Ok(LinkedContact { id: id.clone(), name: name.clone(), account: account.clone(), carrier });
        }
        refused = NotLinked::NotSeen;
    }
    Err(refused)
}

fn judge_token(
    request: &TrustRequest<'_>,
    part: &TokenPart,
    call: CallId,
    shown: Option<Option<[u8; 32]>>,
    grounds: &Grounds<'_>,
) -> Result<LinkedContact, NotLinked> {
    let now = grounds.now;
    if now > part.not_after || part.not_after.secs_since(now) > TOKEN_SECS_MAX {
        return Err(NotLinked::TokenTime);
    }
    let list = grounds.list(&part.callee).ok_or(NotLinked::OtherAccount)?;
    let name = list.get(&part.caller).ok_or(NotLinked::NotInList)?;
    let shown = shown.ok_or(NotLinked::NotSeen)?.ok_or(NotLinked::NotShown)?;
    if shown != part.commitment(request.user, request.identity, call) {
        return Err(NotLinked::OtherEvent);
    }
    let (id, account) = (part.caller.clone(), part.callee.clone());
    Ok(LinkedContact { id, name: name.clone(), account, carrier: Carrier::Request })
}
