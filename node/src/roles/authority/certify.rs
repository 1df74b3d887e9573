//! Identities in other systems that this authority has seen to be its users': hinted at in certificates, if the user wishes it.

use halloo_protocol::authority::{CertifyWish, Refusal, RefusalCode, RenewRequest};
use halloo_protocol::identity::{INDICATORS_MAX, Username};
use halloo_protocol::linked::{Indicator, LinkedId};
use halloo_protocol::time::UnixTime;

use bincode::{Decode, Encode};

use super::{Authority, refuse};
use crate::handle::authority::AuthorityError;
use crate::handle::problem::NodeError;
use crate::store::{LogEvent, StoreError, Transaction};

/// Identities known of one user.
const CERTIFIED_MAX: usize = 8;

/// Why an operator's word isn't taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertifyError {
    #[error("no such user")]
    Unknown,
    #[error("{CERTIFIED_MAX} identities are certified for this user already")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CertifyError {
    pub(crate) fn into_handle(self, username: String) -> AuthorityError {
        match self {
            Self::Unknown => AuthorityError::UnknownUser { username },
            Self::TooMany => AuthorityError::InvalidOption { field: "id", reason: self.to_string() },
            Self::Store(error) => AuthorityError::Node(NodeError::Internal { detail: error.to_string() }),
        }
    }
}

/// How often a user may change what a certificate hints at, in a day.
const CHANGES_A_DAY: u8 = 6;
const DAY_SECS: u64 = 86_400;

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

fn known(tx: &Transaction, name: &Username) -> Result<Vec<CertifiedId>, StoreError> {
    Ok(tx.setting_value(&setting(name))?.unwrap_or_default())
}

/// What a user's certificate is to hint at.
pub(super) fn wanted(tx: &Transaction, name: &Username) -> Result<Vec<Indicator>, StoreError> {
    let known = known(tx, name)?;
    Ok(known
        .into_iter()
        .filter(|certified| certified.is_wanted)
        .map(|certified| certified.indicator)
        .take(INDICATORS_MAX)
        .collect())
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
            match (before, indicator) {
                (Some(_), Some(_)) | (None, None) => return Ok(()),
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
}
