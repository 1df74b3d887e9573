//! Identities in other systems that this authority has seen to be its users': hinted at in certificates, if the user wishes it.
//!
//! They are known by the operator's word, or by a proof that stands by itself ([`super::proofs`]). The operator's word goes before: what is taken back by it no proof brings back. A
//! hint counts no longer than its proof: a certificate with it ends when that does, and in the proof's last week there is none.
//!
//! What is taken back, by the operator or since whoever proved it isn't trusted any more, is in no new certificate, and a revocation list says that the hints of those that there are count no more.

use halloo_protocol::authority::{CertifyWish, Refusal, RefusalCode, RenewRequest};
use halloo_protocol::identity::{INDICATORS_MAX, RevokedSerial, SignedRevocationList, Username};
use halloo_protocol::linked::{Indicator, LinkedId};
use halloo_protocol::time::UnixTime;

use bincode::{Decode, Encode};
use tracing::warn;

use super::proofs::ProofIssuer;
use super::revoke::RevokeError;
use super::{Authority, REVOCATIONS_SETTING, refuse};
use crate::handle::authority::AuthorityError;
use crate::handle::problem::NodeError;
use crate::store::{LogEvent, StoreError, Transaction, View};

/// Identities known of one user.
const CERTIFIED_MAX: usize = 8;

/// Why an operator's word isn't taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertifyError {
    #[error("no such user")]
    Unknown,
    #[error("{CERTIFIED_MAX} identities are certified for this user already")]
    TooMany,
    #[error("the operator has taken it back")]
    TakenBack,
    #[error(transparent)]
    List(#[from] RevokeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CertifyError {
    pub(crate) fn into_handle(self, username: String) -> AuthorityError {
        match self {
            Self::Unknown => AuthorityError::UnknownUser { username },
            Self::TooMany | Self::TakenBack => AuthorityError::InvalidOption { field: "id", reason: self.to_string() },
            Self::List(_) | Self::Store(_) => AuthorityError::Node(NodeError::Internal { detail: self.to_string() }),
        }
    }
}

/// How often a user may change what a certificate hints at, in a day.
const CHANGES_A_DAY: u8 = 6;
const DAY_SECS: u64 = 86_400;

/// In its last seven days a proof brings no hint: a certificate that ended with it would have to be renewed too soon.
pub(super) const HINT_SECS_MIN: u64 = 7 * DAY_SECS;

/// Identities of one user that the operator has taken back; beyond, the one taken back first counts as never heard of.
const TAKEN_BACK_MAX: usize = 64;

/// What is known of an identity besides that it is a user's by the operator's word.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
enum Word {
    /// It is by a proof, which counts until then.
    Proved(UnixTime),
    /// It isn't, by the operator's word.
    TakenBack,
    /// It is by a proof of this issuer, which counts until then.
    ProvedBy(UnixTime, ProofIssuer),
}

impl Word {
    /// Until when a proof counts, if it is one.
    const fn until(&self) -> Option<UnixTime> {
        match self {
            Self::Proved(until) | Self::ProvedBy(until, _) => Some(*until),
            Self::TakenBack => None,
        }
    }

    /// Who has proved it, as far as that is known: earlier versions kept it for nothing but what names its provider itself.
    fn issuer(&self, id: &LinkedId) -> Option<ProofIssuer> {
        match self {
            Self::ProvedBy(_, issuer) => Some(issuer.clone()),
            Self::Proved(_) => ProofIssuer::of_id(id),
            Self::TakenBack => None,
        }
    }
}

/// An identity that is a user's.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct CertifiedId {
    id: LinkedId,
    indicator: Indicator,
    /// The user wishes that their certificate hints at it.
    is_wanted: bool,
    /// When the day began in which they have changed that so often: each change is another certificate.
    changed_since: UnixTime,
    changes: u8,
}

impl CertifiedId {
    /// Whether a certificate that hasn't ended may hint at it: it is wished, or was, before another wish and another certificate.
    const fn may_be_hinted(&self) -> bool {
        self.is_wanted || self.changes > 0
    }
}

fn setting(name: &Username) -> String {
    format!("authority certified {name}")
}

fn known(tx: &View, name: &Username) -> Result<Vec<CertifiedId>, StoreError> {
    Ok(tx.setting_value(&setting(name))?.unwrap_or_default())
}

/// How the settings begin that have what is known of users' identities.
const WORDS: &str = "authority words ";

fn words_setting(name: &Username) -> String {
    format!("{WORDS}{name}")
}

fn words(tx: &View, name: &Username) -> Result<Vec<(LinkedId, Word)>, StoreError> {
    Ok(tx.setting_value(&words_setting(name))?.unwrap_or_default())
}

fn word<'a>(words: &'a [(LinkedId, Word)], id: &LinkedId) -> Option<&'a Word> {
    words.iter().find(|(known, _)| known == id).map(|(_, word)| word)
}

/// What a user's certificate is to hint at, and until when at most.
#[derive(Debug, Default)]
pub(super) struct Hints {
    pub(super) indicators: Vec<Indicator>,
    pub(super) until: Option<UnixTime>,
}

/// What a user's next certificate is to hint at.
pub(super) fn wanted(tx: &View, name: &Username, now: UnixTime) -> Result<Hints, StoreError> {
    let words = words(tx, name)?;
    let until = |certified: &CertifiedId| word(&words, &certified.id).and_then(Word::until);
    let lasts = |certified: &CertifiedId| until(certified).is_none_or(|until| until >= now.plus_secs(HINT_SECS_MIN));
    let known = known(tx, name)?;
    let hinted: Vec<&CertifiedId> =
        known.iter().filter(|certified| certified.is_wanted && lasts(certified)).take(INDICATORS_MAX).collect();
    let indicators = hinted.iter().map(|certified| certified.indicator).collect();
    Ok(Hints { indicators, until: hinted.into_iter().filter_map(until).min() })
}

/// What was proved was proved of a key that the name doesn't belong to any more. What the operator has said stays.
pub(super) fn drop_proved(tx: &Transaction, name: &Username) -> Result<(), StoreError> {
    let (mut all, mut words) = (known(tx, name)?, words(tx, name)?);
    all.retain(|certified| word(&words, &certified.id).and_then(Word::until).is_none());
    words.retain(|(_, word)| *word == Word::TakenBack);
    tx.put_setting_value(&setting(name), &all)?;
    tx.put_setting_value(&words_setting(name), &words)
}

/// Takes a user's wish for their next certificate.
pub(super) fn take_wish(
    tx: &Transaction,
    name: &Username,
    request: &RenewRequest,
    now: UnixTime,
) -> Result<Result<(), Refusal>, StoreError> {
    let wish = match CertifyWish::of(request) {
        Ok(None) => return Ok(Ok(())),
        Ok(Some(wish)) => wish,
        Err(error) => return Ok(Err(refuse(RefusalCode::INVALID_REQUEST, error.to_string()))),
    };
    let mut all = known(tx, name)?;
    let wanted = all.iter().filter(|certified| certified.is_wanted && certified.id != wish.id).count();
    let Some(certified) = all.iter_mut().find(|certified| certified.id == wish.id) else {
        let detail = format!("nothing shows here that {} is yours; the operator can certify it", wish.id);
        return Ok(if wish.is_wanted { Err(refuse(RefusalCode::NOT_PROVED, detail)) } else { Ok(()) });
    };
    if wish.is_wanted && wanted >= INDICATORS_MAX {
        let detail = format!("a certificate hints at {INDICATORS_MAX} identities at most");
        return Ok(Err(refuse(RefusalCode::INVALID_REQUEST, detail)));
    }
    if certified.is_wanted != wish.is_wanted {
        if now.secs_since(certified.changed_since) >= DAY_SECS {
            (certified.changed_since, certified.changes) = (now, 0);
        }
        if certified.changes >= CHANGES_A_DAY {
            return Ok(Err(refuse(
                RefusalCode::RATE_LIMITED,
                format!("that was changed {CHANGES_A_DAY} times today; try tomorrow"),
            )));
        }
        certified.changes += 1;
        certified.is_wanted = wish.is_wanted;
        tx.put_setting_value(&setting(name), &all)?;
    }
    Ok(Ok(()))
}

impl Authority {
    /// The operator says that an identity is a user's, or with `None` that it isn't any more. Their next certificate follows; it hints at it once they have asked for that. With `None` there may
    /// be a new list, to be spread: certificates hint at it that haven't ended.
    ///
    /// # Errors
    /// [`CertifyError`]; nothing is changed then.
    pub(crate) fn certify(
        &mut self,
        name: &Username,
        id: &LinkedId,
        indicator: Option<Indicator>,
        now: UnixTime,
    ) -> Result<Option<SignedRevocationList>, CertifyError> {
        let list = self.store.transaction(|tx| {
            let row = tx.name(name)?.ok_or(CertifyError::Unknown)?;
            let mut void = None;
            let mut all = known(tx, name)?;
            let before = all.iter().position(|certified| certified.id == *id);
            let mut words = words(tx, name)?;
            let is_taken_back = word(&words, id) == Some(&Word::TakenBack);
            words.retain(|(known, _)| known != id);
            if indicator.is_none() {
                words.push((id.clone(), Word::TakenBack));
                drop_oldest(&mut words);
            }
            tx.put_setting_value(&words_setting(name), &words)?;
            match (before, indicator) {
                (Some(_), Some(_)) => return Ok(None),
                (None, None) if is_taken_back => return Ok(None),
                (None, None) => {}
                (Some(at), None) => void = Some(all.remove(at)).filter(CertifiedId::may_be_hinted),
                (None, Some(_)) if all.len() >= CERTIFIED_MAX => return Err(CertifyError::TooMany),
                (None, Some(indicator)) => {
                    let (id, is_wanted, changed_since, changes) = (id.clone(), false, now, 0);
                    all.push(CertifiedId { id, indicator, is_wanted, changed_since, changes });
                }
            }
            tx.put_setting_value(&setting(name), &all)?;
            let (name, is_certified) = (name.clone(), indicator.is_some());
            tx.log_authority(now, &LogEvent::Certified { name, id: id.to_string(), is_certified })?;
            void.map_or(Ok(None), |_| self.void_hints(tx, &row.serials, now))
        })?;
        if list.is_some() {
            self.revocations.clone_from(&list);
        }
        Ok(list)
    }

    /// A list that says that what these certificates hint at counts no more. `None`, with a warning, if none can be made: that new certificates hint at nothing of it doesn't depend on it.
    fn void_hints(
        &self,
        tx: &Transaction,
        serials: &[RevokedSerial],
        now: UnixTime,
    ) -> Result<Option<SignedRevocationList>, CertifyError> {
        match self.next_list(&[], serials, now) {
            Ok(list) => {
                tx.put_setting_value(REVOCATIONS_SETTING, &list)?;
                Ok(Some(list))
            }
            Err(error @ (RevokeError::ListFull(_) | RevokeError::SigningExpired(_))) => {
                warn!(%error, "hints that are taken back are in no new certificate, and count in those that there are");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets what was proved by whom this authority's node doesn't trust any more. A new list, to be spread, if certificates hint at something of it.
    ///
    /// # Errors
    /// [`CertifyError`]; nothing is changed then.
    pub(crate) fn drop_untrusted(
        &mut self,
        is_trusted: impl Fn(&ProofIssuer) -> bool,
        now: UnixTime,
    ) -> Result<Option<SignedRevocationList>, CertifyError> {
        let list = self.store.transaction(|tx| {
            let mut serials = Vec::new();
            for setting in tx.setting_names(WORDS)? {
                let name = setting.strip_prefix(WORDS).and_then(|name| Username::new(name).ok());
                let Some(name) = name else { continue };
                if drop_untrusted_of(tx, &name, &is_trusted, now)? {
                    serials.extend(tx.name(&name)?.into_iter().flat_map(|row| row.serials));
                }
            }
            if serials.is_empty() {
                return Ok(None);
            }
            self.void_hints(tx, &serials, now)
        })?;
        if list.is_some() {
            self.revocations.clone_from(&list);
        }
        Ok(list)
    }

    /// A proof says that an identity is a user's, until then, by the word of an issuer. The operator's word stands before it.
    ///
    /// # Errors
    /// [`CertifyError`].
    pub(crate) fn prove(
        &mut self,
        name: &Username,
        id: &LinkedId,
        indicator: Indicator,
        (until, issuer): (UnixTime, ProofIssuer),
        now: UnixTime,
    ) -> Result<(), CertifyError> {
        self.store.transaction(|tx| {
            let (mut all, mut words) = (known(tx, name)?, words(tx, name)?);
            let is_known = all.iter().any(|certified| certified.id == *id);
            match word(&words, id) {
                Some(Word::TakenBack) => return Err(CertifyError::TakenBack),
                // By the operator, without end.
                None if is_known => return Ok(()),
                Some(word) if is_known && word.until() >= Some(until) => return Ok(()),
                _ => {}
            }
            words.retain(|(known, _)| known != id);
            words.push((id.clone(), Word::ProvedBy(until, issuer)));
            if !is_known {
                // What is proved no more makes room.
                let until = |certified: &CertifiedId| word(&words, &certified.id).and_then(Word::until);
                let is_over = |certified: &CertifiedId| until(certified).is_some_and(|until| until < now);
                all.retain(|certified| !is_over(certified));
                if all.len() >= CERTIFIED_MAX {
                    return Err(CertifyError::TooMany);
                }
                let (is_wanted, changed_since, changes) = (false, now, 0);
                all.push(CertifiedId { id: id.clone(), indicator, is_wanted, changed_since, changes });
                tx.put_setting_value(&setting(name), &all)?;
                tx.log_authority(now, &LogEvent::Certified { name: name.clone(), id: id.to_string(), is_certified: true })?;
            }
            words.retain(|(known, word)| *word == Word::TakenBack || all.iter().any(|certified| certified.id == *known));
            tx.put_setting_value(&words_setting(name), &words)?;
            Ok(())
        })
    }

    /// Whether an identity is known to be a user's for long enough, so that nothing needs to be shown.
    pub(super) fn is_certified(&self, name: &Username, id: &LinkedId, until: UnixTime) -> Result<bool, StoreError> {
        self.store.read(|view| {
            let words = words(view, name)?;
            let is_known = known(view, name)?.iter().any(|certified| certified.id == *id);
            let ends = word(&words, id).and_then(Word::until);
            Ok(is_known && ends.is_none_or(|ends| ends >= until))
        })
    }

    /// Whether the operator has taken an identity back.
    pub(super) fn is_taken_back(&self, name: &Username, id: &LinkedId) -> Result<bool, StoreError> {
        self.store.read(|view| Ok(word(&words(view, name)?, id) == Some(&Word::TakenBack)))
    }
}

/// Forgets what was proved of a user by whom nobody trusts any more. Whether a certificate may hint at something of it.
fn drop_untrusted_of(
    tx: &Transaction,
    name: &Username,
    is_trusted: impl Fn(&ProofIssuer) -> bool,
    now: UnixTime,
) -> Result<bool, StoreError> {
    let (mut all, mut words) = (known(tx, name)?, words(tx, name)?);
    let is_void = |(id, word): &(LinkedId, Word)| word.issuer(id).is_some_and(|issuer| !is_trusted(&issuer));
    let void: Vec<LinkedId> = words.iter().filter(|word| is_void(word)).map(|(id, _)| id.clone()).collect();
    if void.is_empty() {
        return Ok(false);
    }
    let is_hinted = all.iter().any(|certified| certified.may_be_hinted() && void.contains(&certified.id));
    all.retain(|certified| !void.contains(&certified.id));
    words.retain(|(id, _)| !void.contains(id));
    tx.put_setting_value(&setting(name), &all)?;
    tx.put_setting_value(&words_setting(name), &words)?;
    for id in void {
        tx.log_authority(now, &LogEvent::Certified { name: name.clone(), id: id.to_string(), is_certified: false })?;
    }
    Ok(is_hinted)
}

fn drop_oldest(words: &mut Vec<(LinkedId, Word)>) {
    let taken_back = words.iter().filter(|(_, word)| *word == Word::TakenBack).count();
    if taken_back > TAKEN_BACK_MAX
        && let Some(at) = words.iter().position(|(_, word)| *word == Word::TakenBack)
    {
        words.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_versions_kept_is_by_whom_the_identity_names() {
        let id = |text: &str| text.parse::<LinkedId>().expect("an identity");
        let word = Word::Proved(UnixTime(1));
        let provider = Some(ProofIssuer::Provider("https://id.example".to_owned()));
        assert_eq!(word.issuer(&id("oidc:https://id.example#Sub-1")), provider);
        assert_eq!(word.issuer(&id("mailto:alice@id.example")), None, "a provider's, or an authority's");
        assert_eq!(Word::TakenBack.issuer(&id("oidc:https://id.example#Sub-1")), None);
    }
}
