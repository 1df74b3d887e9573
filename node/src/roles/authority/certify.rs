//! Identities in other systems that this authority has seen to be its users': hinted at in certificates, if the user wishes it.
//!
//! They are known by the operator's word, or by a proof that stands by itself ([`super::proofs`]). The operator's word goes before: what is taken back by it no proof brings back. A
//! hint counts no longer than its proof: a certificate with it ends when that does, and in the proof's last week there is none.

use halloo_protocol::authority::{CertifyWish, Refusal, RefusalCode, RenewRequest};
use halloo_protocol::identity::{INDICATORS_MAX, Username};
use halloo_protocol::linked::{Indicator, LinkedId};
use halloo_protocol::time::UnixTime;

use bincode::{Decode, Encode};

use super::{Authority, refuse};
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
    Store(#[from] StoreError),
}

impl CertifyError {
    pub(crate) fn into_handle(self, username: String) -> AuthorityError {
        match self {
            Self::Unknown => AuthorityError::UnknownUser { username },
            Self::TooMany | Self::TakenBack => AuthorityError::InvalidOption { field: "id", reason: self.to_string() },
            Self::Store(error) => AuthorityError::Node(NodeError::Internal { detail: error.to_string() }),
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

fn setting(name: &Username) -> String {
    format!("authority certified {name}")
}

fn known(tx: &View, name: &Username) -> Result<Vec<CertifiedId>, StoreError> {
    Ok(tx.setting_value(&setting(name))?.unwrap_or_default())
}

fn words_setting(name: &Username) -> String {
    format!("authority words {name}")
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
    let until = |certified: &CertifiedId| match word(&words, &certified.id) {
        Some(Word::Proved(until)) => Some(*until),
        _ => None,
    };
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
    all.retain(|certified| !matches!(word(&words, &certified.id), Some(Word::Proved(_))));
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
    /// The operator says that an identity is a user's, or with `None` that it isn't any more. Their next certificate follows; it hints at it once they have asked for that.
    ///
    /// # Errors
    /// [`CertifyError`].
    pub(crate) fn certify(
        &mut self,
        name: &Username,
        id: &LinkedId,
        indicator: Option<Indicator>,
        now: UnixTime,
    ) -> Result<(), CertifyError> {
        self.store.transaction(|tx| {
            if tx.name(name)?.is_none() {
                return Err(CertifyError::Unknown);
            }
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
                (Some(_), Some(_)) => return Ok(()),
                (None, None) if is_taken_back => return Ok(()),
                (None, None) => {}
                (Some(at), None) => drop(all.remove(at)),
                (None, Some(_)) if all.len() >= CERTIFIED_MAX => return Err(CertifyError::TooMany),
                (None, Some(indicator)) => {
                    let (id, is_wanted, changed_since, changes) = (id.clone(), false, now, 0);
                    all.push(CertifiedId { id, indicator, is_wanted, changed_since, changes });
                }
            }
            tx.put_setting_value(&setting(name), &all)?;
            let (name, is_certified) = (name.clone(), indicator.is_some());
            tx.log_authority(now, &LogEvent::Certified { name, id: id.to_string(), is_certified })?;
            Ok(())
        })
    }

    /// A proof says that an identity is a user's, until then. The operator's word stands before it.
    ///
    /// # Errors
    /// [`CertifyError`].
    pub(crate) fn prove(
        &mut self,
        name: &Username,
        id: &LinkedId,
        indicator: Indicator,
        until: UnixTime,
        now: UnixTime,
    ) -> Result<(), CertifyError> {
        self.store.transaction(|tx| {
            let (mut all, mut words) = (known(tx, name)?, words(tx, name)?);
            let is_known = all.iter().any(|certified| certified.id == *id);
            match word(&words, id) {
                Some(Word::TakenBack) => return Err(CertifyError::TakenBack),
                // By the operator, without end.
                None if is_known => return Ok(()),
                Some(Word::Proved(before)) if is_known && *before >= until => return Ok(()),
                _ => {}
            }
            words.retain(|(known, _)| known != id);
            words.push((id.clone(), Word::Proved(until)));
            if !is_known {
                // What is proved no more makes room.
                let is_over =
                    |certified: &CertifiedId| matches!(word(&words, &certified.id), Some(Word::Proved(until)) if *until < now);
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
            Ok(is_known && !matches!(word(&words, id), Some(Word::Proved(known)) if *known < until))
        })
    }

    /// Whether the operator has taken an identity back.
    pub(super) fn is_taken_back(&self, name: &Username, id: &LinkedId) -> Result<bool, StoreError> {
        self.store.read(|view| Ok(word(&words(view, name)?, id) == Some(&Word::TakenBack)))
    }
}

fn drop_oldest(words: &mut Vec<(LinkedId, Word)>) {
    let taken_back = words.iter().filter(|(_, word)| *word == Word::TakenBack).count();
    if taken_back > TAKEN_BACK_MAX
        && let Some(at) = words.iter().position(|(_, word)| *word == Word::TakenBack)
    {
        words.remove(at);
    }
}
