//! Proofs in users' wishes: the authority looks at those that stand by themselves, by what its own node trusts.
//!
//! The hint is a piece of a slow hash, which takes half a second: it is computed off the event loop, one at a time, and whoever wishes is told to ask again meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::authority::{CertifyWish, EnrolGrant, Refusal, RefusalCode, RenewRequest};
use halloo_protocol::identity::{UserId, Username};
use halloo_protocol::key::{AuthorityKey, IdentityKey};
use halloo_protocol::linked::{
    ASSOCIATION_SECS_MAX, AddressProof, Association, AssociationError, LinkedId, ProofError, ProofMethod, ProviderToken, System,
    TrustedProofs, verify_proof,
};
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Frame, Signed};
use tracing::warn;

use super::certify::HINT_SECS_MIN;
use super::{Asker, Authority, answer, refuse};
use crate::event_loop::EventLoop;
use crate::store::{NameState, StoreError};

/// Identities that one user may have looked at, and all together; a person has a few.
const USER_RATE: Rate = Rate { per_hour: 1, burst: 6 };
const TOTAL_RATE: Rate = Rate { per_hour: 600, burst: 60 };

/// Users whose rates are remembered.
const USERS_MAX: usize = 16_384;

/// Identities whose hashes users wait for, and how long.
const WAITING_MAX: usize = 32;
const WAIT_AT_MOST: Duration = Duration::from_secs(120);

/// By whose word something is proved.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum ProofIssuer {
    /// An OpenID Connect provider's.
    Provider(String),
    /// An authority's.
    Authority(AuthorityKey),
}

impl ProofIssuer {
    /// By whose word a proof that was checked shows what it shows.
    fn of(said: &Association, proof: &[u8]) -> Option<Self> {
        if said.method == ProofMethod::AUTHORITY_WORD {
            return AddressProof::read(proof).ok().map(|proof| Self::Authority(proof.authority));
        }
        Self::of_id(&ProviderToken::read(proof).ok()?.subject().ok()?)
    }

    /// The provider that an identity names itself.
    pub(super) fn of_id(id: &LinkedId) -> Option<Self> {
        let is_there = id.system() == System::Oidc;
        let (issuer, _) = id.address().split_once('#').filter(|_| is_there)?;
        Some(Self::Provider(issuer.to_owned()))
    }

    /// Whether their word is taken.
    pub(super) fn is_trusted(&self, trusted: TrustedProofs<'_>) -> bool {
        match self {
            Self::Provider(issuer) => trusted.providers.get(issuer).is_some_and(|provider| !provider.clients.is_empty()),
            Self::Authority(root) => trusted.authorities.is_trusted(root),
        }
    }
}

/// An identity that a user has proved to be theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proved {
    pub(super) name: Username,
    pub(super) identity: IdentityKey,
    pub(super) id: LinkedId,
    /// How long the proof counts.
    pub(super) until: UnixTime,
    /// By whose word.
    pub(super) issuer: ProofIssuer,
}

/// Why what a wish shows proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum NotProved {
    #[error(transparent)]
    Association(#[from] AssociationError),
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error("what is shown is somebody else's")]
    OtherUser,
    #[error("what is shown is about another identity")]
    OtherIdentity,
    #[error("what shows it ends within a week")]
    EndsSoon,
    #[error("the operator has taken it back")]
    TakenBack,
}

/// A wish that isn't granted.
#[derive(Debug)]
pub(crate) struct WishRefused {
    refusal: Refusal,
    /// What is wrong with its proof, if that is it.
    proof: Option<ProofError>,
}

impl From<Refusal> for WishRefused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, proof: None }
    }
}

impl From<WishRefused> for Refusal {
    fn from(refused: WishRefused) -> Self {
        refused.refusal
    }
}

impl NotProved {
    fn into_refused(self, id: &LinkedId) -> WishRefused {
        let refusal = refuse(RefusalCode::NOT_PROVED, format!("{id}: {self}; the operator can certify it"));
        let proof = match self {
            Self::Proof(error) => Some(error),
            _ => None,
        };
        WishRefused { refusal, proof }
    }
}

/// Whose identities are being hashed.
#[derive(Debug)]
pub(super) struct Proofs {
    waiting: BTreeMap<(IdentityKey, LinkedId), Instant>,
    users: RateLimiter<IdentityKey>,
    total: RateLimiter<()>,
}

impl Default for Proofs {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), users: RateLimiter::new(USERS_MAX), total: RateLimiter::new(1) }
    }
}

impl Proofs {
    /// Whether a user may wait for an identity's hash; whoever does already asks again for nothing.
    fn admit(&mut self, proved: &Proved, now: Instant) -> Result<(), Refusal> {
        self.waiting.retain(|_, since| now.saturating_duration_since(*since) < WAIT_AT_MOST);
        let key = (proved.identity, proved.id.clone());
        if self.waiting.contains_key(&key) {
            return Ok(());
        }
        let may = self.waiting.len() < WAITING_MAX
            && self.users.take(&proved.identity, USER_RATE, now).is_ok()
            && self.total.take(&(), TOTAL_RATE, now).is_ok();
        if !may {
            return Err(refuse(RefusalCode::RATE_LIMITED, "too many identities are looked at; try again later"));
        }
        self.waiting.insert(key, now);
        Ok(())
    }

    fn done(&mut self, proved: &Proved) {
        self.waiting.remove(&(proved.identity, proved.id.clone()));
    }
}

fn internal(error: &StoreError) -> Refusal {
    tracing::error!(%error, "authority can't read");
    refuse(RefusalCode::UNAVAILABLE, "the authority has an internal problem; try again later")
}

impl Authority {
    /// What a wish proves. `None`: there is nothing to be looked at, or no need to: the wish is judged by what is known.
    ///
    /// # Errors
    /// [`WishRefused`]: what is shown proves nothing.
    pub(crate) fn judge_wish(
        &self,
        request: &RenewRequest,
        asker: &Asker,
        trusted: TrustedProofs<'_>,
        now: UnixTime,
    ) -> Result<Option<Proved>, WishRefused> {
        let Ok(Some(CertifyWish { id, is_wanted: true, association: Some(said), proof, .. })) = CertifyWish::of(request) else {
            return Ok(None);
        };
        // Whoever isn't who they say is told so when the request is judged.
        let Ok(user) = self.check_renewal(request, asker, now) else { return Ok(None) };
        let row = self.store.read::<_, StoreError>(|view| view.name(&user.name)).map_err(|error| internal(&error))?;
        if !row.is_some_and(|row| row.identity == user.identity && row.state == NameState::Active) || proof.is_empty() {
            return Ok(None);
        }
        if self.is_taken_back(&user.name, &id).map_err(|error| internal(&error))? {
            return Err(NotProved::TakenBack.into_refused(&id));
        }
        let shown = UserId::Named { authority: self.root(), name: user.name.clone() };
        let judged = judge(&said, &proof, (&shown, user.identity, &id), trusted, now);
        // What a proof that ends soon could show may be known for longer.
        let needed = judged.as_ref().map_or(now.plus_secs(HINT_SECS_MIN), |until| *until);
        if self.is_certified(&user.name, &id, needed).map_err(|error| internal(&error))? {
            return Ok(None);
        }
        let until = judged.map_err(|why| why.into_refused(&id))?;
        if until < now.plus_secs(HINT_SECS_MIN) {
            return Err(NotProved::EndsSoon.into_refused(&id));
        }
        let issuer = ProofIssuer::of(said.unverified(), &proof);
        let issuer = issuer.ok_or_else(|| NotProved::Proof(ProofError::Unreadable).into_refused(&id))?;
        Ok(Some(Proved { name: user.name.clone(), identity: user.identity, id, until, issuer }))
    }
}

/// Until when it is shown that `id` is this user's.
fn judge(
    association: &Signed<Association>,
    proof: &[u8],
    (user, identity, id): (&UserId, IdentityKey, &LinkedId),
    trusted: TrustedProofs<'_>,
    now: UnixTime,
) -> Result<UnixTime, NotProved> {
    let said = Association::verify(association, now)?;
    if said.user != *user || said.identity != identity {
        return Err(NotProved::OtherUser);
    }
    if said.linked != *id {
        return Err(NotProved::OtherIdentity);
    }
    let proved_at = verify_proof(said, Some(proof), trusted, now)?;
    let until = said.not_after.min(proved_at.plus_secs(ASSOCIATION_SECS_MAX));
    Ok(word_ends(said, proof).map_or(until, |end| until.min(end)))
}

/// When an authority's word that was checked shows nothing more: it has an end, and so has the key that signs it.
fn word_ends(said: &Association, proof: &[u8]) -> Option<UnixTime> {
    let proof = (said.method == ProofMethod::AUTHORITY_WORD).then(|| AddressProof::read(proof).ok()).flatten()?;
    Some(proof.word.unverified().not_after.min(proof.signing.unverified().not_after))
}

// In the running node.
impl EventLoop {
    /// Answers a peer who asks for a fresh certificate; the proof in a wish is looked at first.
    pub(crate) fn answer_renewal(&mut self, frame: &Frame, asker: &Asker) -> Frame {
        answer(frame, |request| self.renew_for_peer(request, asker))
    }

    fn renew_for_peer(&mut self, request: &RenewRequest, asker: &Asker) -> Result<EnrolGrant, Refusal> {
        let now = self.now().unix;
        let gone = || refuse(RefusalCode::UNAVAILABLE, "this node is no authority any more");
        // Signatures cost more than the rest of a request: it is counted before they are checked.
        self.authority.as_mut().ok_or_else(gone)?.admit(asker, now)?;
        self.prove_wish(request, asker)?;
        self.authority.as_mut().ok_or_else(gone)?.renew_admitted(request, asker, now)
    }

    /// Hints by whose word isn't trusted any more, as the configuration says, count no more, in new certificates and in those that there are.
    pub(crate) fn drop_untrusted_hints(&mut self, now: UnixTime) {
        let Some(mut authority) = self.authority.take() else { return };
        let dropped = authority.drop_untrusted(|issuer| issuer.is_trusted(self.trusted_proofs()), now);
        self.authority = Some(authority);
        match dropped {
            Ok(Some(list)) => {
                warn!(
                    "certificates hint at identities by the word of whom this authority doesn't trust any more: they are taken back"
                );
                self.handle_revocation_list(&list, None);
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "hints by whose word isn't trusted any more count as long as their certificates"),
        }
    }

    /// What a wish proves is known from then on.
    pub(super) fn prove_wish(&mut self, request: &RenewRequest, asker: &Asker) -> Result<(), Refusal> {
        let now = self.now().unix;
        let Some(authority) = self.authority.as_ref() else { return Ok(()) };
        let proved = match authority.judge_wish(request, asker, self.trusted_proofs(), now) {
            Ok(Some(proved)) => proved,
            Ok(None) => return Ok(()),
            Err(refused) => {
                // The provider may have a key that isn't known yet.
                refused.proof.into_iter().for_each(|error| self.look_for_keys(error));
                return Err(refused.refusal);
            }
        };
        let known = self.slow_known(&proved.id);
        let Some(authority) = self.authority.as_mut() else { return Ok(()) };
        if let Some(slow) = known {
            authority.proofs.done(&proved);
            let shown = authority.prove(&proved.name, &proved.id, slow.indicator, (proved.until, proved.issuer), now);
            return shown.map_err(|error| refuse(RefusalCode::NOT_PROVED, format!("{}: {error}", proved.id)));
        }
        authority.proofs.admit(&proved, Instant::now())?;
        // It is asked for again each time: there may have been no room to wait.
        let _later = self.slow_of(&proved.id);
        Err(refuse(RefusalCode::UNAVAILABLE, "the authority looks at it; ask again in a moment"))
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::SecretKey;

    use super::*;

    fn proved(seed: u8, number: u32) -> Proved {
        let name = Username::new("alice").expect("valid");
        let identity = IdentityKey(SecretKey::from_bytes([seed; 32]).public());
        let id = format!("mailto:a{number}@there.example").parse().expect("an address");
        let issuer = ProofIssuer::Authority(AuthorityKey(identity.0));
        Proved { name, identity, id, until: UnixTime(1), issuer }
    }

    #[test]
    fn hashes_are_few_for_one_user_and_at_once_and_asking_again_is_free() {
        let (mut proofs, now) = (Proofs::default(), Instant::now());
        let admitted = |proofs: &mut Proofs, seed, number| proofs.admit(&proved(seed, number), now).is_ok();
        assert_eq!((0..20).filter(|number| admitted(&mut proofs, 1, *number)).count(), 6);
        assert!((0..100).all(|_| admitted(&mut proofs, 1, 5)), "it waits already");
        assert!(admitted(&mut proofs, 2, 0), "others aren't kept out");
        proofs.done(&proved(1, 5));
        assert!(!admitted(&mut proofs, 1, 5), "another hash");
        let all = (3..200).filter(|seed| admitted(&mut proofs, *seed, 0)).count();
        assert_eq!(proofs.waiting.len(), WAITING_MAX, "{all}");
        assert!(proofs.admit(&proved(201, 0), now + WAIT_AT_MOST).is_ok(), "those that were never asked for again make room");
    }
}
