//! Giving and renewing names.

use halloo_protocol::authority::{
    ENROL_CLOCK_TOLERANCE_SECS, EnrolGrant, EnrolRequest, EnrolRequestBody, InviteSecret, Refusal, RefusalCode, RenewRequest,
};
use halloo_protocol::identity::{KeySuccession, RevokedSerial, USER_CERTIFICATE_SECS, UserCertificate, UserChain, Username};
use halloo_protocol::key::IdentityKey;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};

use super::certify::{Hints, drop_proved, take_wish, wanted};
use super::revoke::still_matters;
use super::signing::{BACKDATE_SECS, next_serial};
use super::{Asker, Authority, refuse};
use crate::key_file::{self, KeyFileError};
use crate::store::{LogEvent, NameRow, NameState, StoreError, Transaction};

/// A certificate younger than this is handed out again instead of a new one: bounds what a name costs, whatever its owner asks.
const REISSUE_AFTER_SECS: u64 = 86_400;

/// Changes of key one name may go through.
const SUCCESSIONS_MAX: usize = 16;

/// A request either gets its refusal, or something here is broken, which is told to the operator and not to the asker.
enum Failure {
    Refused(Refusal),
    Store(StoreError),
    Random(KeyFileError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Failure {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => return refusal,
            Self::Store(error) => tracing::error!(%error, "authority can't store"),
            Self::Random(error) => tracing::error!(%error, "authority can't draw random bytes"),
        }
        refuse(RefusalCode::UNAVAILABLE, "the authority has an internal problem; try again later")
    }
}

/// Everything about a certificate but its number and time.
struct Issue<'a> {
    name: &'a Username,
    identity: IdentityKey,
    placement: [u8; 32],
    hints: Hints,
}

impl Authority {
    /// Gives a name, gives the same certificate again to an asker who lost the answer, or moves a name to its owner's new key.
    ///
    /// # Errors
    /// [`Refusal`]: what is wrong, or that it has to be tried later.
    pub fn enrol(&mut self, request: &EnrolRequest, asker: &Asker, now: UnixTime) -> Result<EnrolGrant, Refusal> {
        self.admit(asker, now)?;
        let body = self.check_request(request, asker, now)?;
        let store = self.store.clone();
        let certificate = store.transaction(|tx| self.decide(tx, body, asker, now)).map_err(Failure::into_refusal)?;
        Ok(self.grant(certificate))
    }

    /// Gives a fresh certificate for the name in the asker's chain, to the same key.
    ///
    /// # Errors
    /// [`Refusal`]: what is wrong, or that it has to be tried later.
    pub fn renew(&mut self, request: &RenewRequest, asker: &Asker, now: UnixTime) -> Result<EnrolGrant, Refusal> {
        self.admit(asker, now)?;
        self.renew_admitted(request, asker, now)
    }

    /// The same for a request that was counted before.
    pub(super) fn renew_admitted(&mut self, request: &RenewRequest, asker: &Asker, now: UnixTime) -> Result<EnrolGrant, Refusal> {
        let user = self.check_renewal(request, asker, now)?;
        let store = self.store.clone();
        let certificate = store
            .transaction(|tx| {
                let unknown = || refuse(RefusalCode::NAME_UNKNOWN, format!("{} isn't known here", user.name));
                let row = tx.name(&user.name)?.ok_or_else(unknown)?;
                if row.identity != user.identity {
                    return Err(refuse(RefusalCode::NAME_TAKEN, format!("{} belongs to another key now", user.name)).into());
                }
                match row.state {
                    NameState::Active => {
                        take_wish(tx, &user.name, request, now)??;
                        self.reissue(tx, &user.name, row, now)
                    }
                    NameState::Freed => Err(freed(&user.name).into()),
                    NameState::Revoked => Err(revoked(&user.name).into()),
                }
            })
            .map_err(Failure::into_refusal)?;
        Ok(self.grant(certificate))
    }

    /// Whose certificate is to be renewed; whether the name is theirs the table says.
    pub(super) fn check_renewal<'a>(
        &self,
        request: &'a RenewRequest,
        asker: &Asker,
        now: UnixTime,
    ) -> Result<&'a UserCertificate, Refusal> {
        let UserChain::Named { root, user, .. } = &request.chain.user else {
            return Err(refuse(RefusalCode::INVALID_REQUEST, "the chain names nobody"));
        };
        let user = user.unverified();
        if *root != self.root {
            return Err(refuse(RefusalCode::INVALID_REQUEST, format!("this is authority {}, not {root}", self.root)));
        }
        // The user certificate needs no check: the table says to which key the name belongs, and that key vouches for the device.
        let device = request.chain.device.verify(&user.identity.0);
        if !device.is_ok_and(|certificate| certificate.device == asker.device && now <= certificate.not_after) {
            return Err(refuse(RefusalCode::INVALID_REQUEST, "the chain isn't that of the device that asks"));
        }
        Ok(user)
    }

    /// Counts a request, before anything is done for it.
    pub(super) fn admit(&mut self, asker: &Asker, now: UnixTime) -> Result<(), Refusal> {
        if self.limiter.admit_request(asker.network, &self.policy, now) {
            Ok(())
        } else {
            Err(refuse(RefusalCode::RATE_LIMITED, "too many requests; try again in a minute"))
        }
    }

    /// What can be said of a request without knowing any name.
    fn check_request<'a>(
        &self,
        request: &'a EnrolRequest,
        asker: &Asker,
        now: UnixTime,
    ) -> Result<&'a EnrolRequestBody, Refusal> {
        let body = request.body.unverified();
        if body.authority != self.root {
            let detail = format!("this is authority {}, not {}", self.root, body.authority);
            return Err(refuse(RefusalCode::INVALID_REQUEST, detail));
        }
        if body.device != asker.device {
            return Err(refuse(RefusalCode::INVALID_REQUEST, "the request names another device than the one that asks"));
        }
        if request.body.verify(&body.identity.0).is_err() {
            return Err(refuse(RefusalCode::INVALID_REQUEST, "the request isn't signed by the identity key it names"));
        }
        if body.at.0.abs_diff(now.0) > ENROL_CLOCK_TOLERANCE_SECS {
            return Err(refuse(RefusalCode::CLOCK, format!("your clock says {}, the authority's says {now}", body.at)));
        }
        if self.signing.unverified().not_after <= now {
            tracing::error!("the signing certificate has ended: bring the root key back");
            return Err(refuse(RefusalCode::UNAVAILABLE, "the authority can't sign at the moment; try again later"));
        }
        Ok(body)
    }

    fn decide(
        &mut self,
        tx: &Transaction,
        body: &EnrolRequestBody,
        asker: &Asker,
        now: UnixTime,
    ) -> Result<Signed<UserCertificate>, Failure> {
        let name = &body.name;
        match tx.name(name)? {
            None => self.give_new(tx, body, asker, now),
            Some(row) if row.state == NameState::Revoked => Err(revoked(name).into()),
            Some(row) if row.identity == body.identity && row.state == NameState::Active => self.reissue(tx, name, row, now),
            Some(row) if row.identity == body.identity => self.take_up_again(tx, body, row, asker, now),
            // The key it belonged to may come back; nobody else, signed over or not.
            Some(row) if row.state == NameState::Freed => Err(freed(name).into()),
            Some(row) => match &body.succession {
                None => Err(refuse(RefusalCode::NAME_TAKEN, format!("{name} belongs to another key")).into()),
                Some(succession) => self.succeed(tx, body, row, succession, now),
            },
        }
    }

    fn give_new(
        &mut self,
        tx: &Transaction,
        body: &EnrolRequestBody,
        asker: &Asker,
        now: UnixTime,
    ) -> Result<Signed<UserCertificate>, Failure> {
        self.check_admission(tx, body.invite.as_ref(), asker, now)?;
        let placement = key_file::random_bytes().map_err(Failure::Random)?;
        let (name, identity) = (&body.name, body.identity);
        let certificate = self.issue(tx, &Issue { name, identity, placement, hints: Hints::default() }, now)?;
        let serials = vec![serial_of(&certificate)];
        let row = NameRow {
            identity,
            placement,
            state: NameState::Active,
            former: Vec::new(),
            certificate: certificate.clone(),
            serials,
        };
        tx.put_name(name, &row)?;
        let serial = certificate.unverified().serial;
        tx.log_authority(now, &LogEvent::Enrolled { name: name.clone(), identity, serial })?;
        Ok(certificate)
    }

    /// Its owner gave the name up and wants it back: like a new name, but in its old place.
    fn take_up_again(
        &mut self,
        tx: &Transaction,
        body: &EnrolRequestBody,
        mut row: NameRow,
        asker: &Asker,
        now: UnixTime,
    ) -> Result<Signed<UserCertificate>, Failure> {
        self.check_admission(tx, body.invite.as_ref(), asker, now)?;
        row.state = NameState::Active;
        let certificate = self.issue_into(tx, &body.name, &mut row, now)?;
        let serial = certificate.unverified().serial;
        tx.log_authority(now, &LogEvent::Enrolled { name: body.name.clone(), identity: body.identity, serial })?;
        Ok(certificate)
    }

    /// The newest certificate once more while it is young, else a new one.
    fn reissue(
        &self,
        tx: &Transaction,
        name: &Username,
        mut row: NameRow,
        now: UnixTime,
    ) -> Result<Signed<UserCertificate>, Failure> {
        let newest = row.certificate.unverified();
        let age_secs = now.secs_since(newest.not_before.plus_secs(BACKDATE_SECS));
        // One that another signing key made, or that is from the future because a clock was set back, is of no use.
        let is_usable = row.certificate.verify(&self.signing.unverified().key).is_ok()
            && !newest.not_before.is_from_the_future(now)
            && now < newest.not_after
            && newest.indicators() == wanted(tx, name, now)?.indicators
            && !self.has_void_hints(newest.serial);
        if is_usable && age_secs < REISSUE_AFTER_SECS {
            return Ok(row.certificate);
        }
        let certificate = self.issue_into(tx, name, &mut row, now)?;
        tx.log_authority(now, &LogEvent::Renewed { name: name.clone(), serial: certificate.unverified().serial })?;
        Ok(certificate)
    }

    /// What this certificate hints at counts no more, whoever has been certified again meanwhile.
    fn has_void_hints(&self, serial: u64) -> bool {
        let list = self.revocations.as_ref().map(|list| list.list.unverified());
        list.is_some_and(|list| list.hints().iter().any(|hint| hint.serial == serial))
    }

    fn succeed(
        &self,
        tx: &Transaction,
        body: &EnrolRequestBody,
        mut row: NameRow,
        succession: &Signed<KeySuccession>,
        now: UnixTime,
    ) -> Result<Signed<UserCertificate>, Failure> {
        let said = succession.unverified();
        let fits = said.authority == self.root
            && said.name == body.name
            && said.old == row.identity
            && said.new == body.identity
            && !said.at.is_from_the_future(now)
            && succession.verify(&row.identity.0).is_ok()
            && said.verify_accepted().is_ok();
        if !fits {
            let detail = format!("the change of key isn't signed by the present and the new key of {}", body.name);
            return Err(refuse(RefusalCode::SUCCESSION_INVALID, detail).into());
        }
        if row.former.contains(&body.identity) {
            let detail = format!("{} belonged to this key before; a name never goes back to a former key", body.name);
            return Err(refuse(RefusalCode::SUCCESSION_BACK, detail).into());
        }
        if row.former.len() >= SUCCESSIONS_MAX {
            let detail = format!("{} has changed its key {SUCCESSIONS_MAX} times already", body.name);
            return Err(refuse(RefusalCode::SUCCESSION_INVALID, detail).into());
        }
        let old = std::mem::replace(&mut row.identity, body.identity);
        row.former.push(old);
        drop_proved(tx, &body.name)?;
        let certificate = self.issue_into(tx, &body.name, &mut row, now)?;
        let serial = certificate.unverified().serial;
        tx.log_authority(now, &LogEvent::Succeeded { name: body.name.clone(), old, new: body.identity, serial })?;
        Ok(certificate)
    }

    /// Whether a new name may be given at all: uses up the invite, or counts against open enrolment.
    fn check_admission(
        &mut self,
        tx: &Transaction,
        invite: Option<&InviteSecret>,
        asker: &Asker,
        now: UnixTime,
    ) -> Result<(), Failure> {
        let Some(secret) = invite else {
            if !self.policy.is_open {
                return Err(refuse(RefusalCode::INVITE_REQUIRED, "this authority enrols by invitation only").into());
            }
            if !self.limiter.admit_open(asker.network, &self.policy, now) {
                return Err(refuse(RefusalCode::RATE_LIMITED, "too many new names lately; try again in an hour").into());
            }
            return Ok(());
        };
        let digest = secret.digest();
        let unknown = || refuse(RefusalCode::INVITE_UNKNOWN, "the authority doesn't know this invite");
        let mut row = tx.invite(&digest)?.ok_or_else(unknown)?;
        if now > row.expires_at {
            return Err(refuse(RefusalCode::INVITE_EXPIRED, format!("the invite expired at {}", row.expires_at)).into());
        }
        row.uses_left = row
            .uses_left
            .checked_sub(1)
            .ok_or_else(|| refuse(RefusalCode::INVITE_USED_UP, "the invite was used as often as it may"))?;
        tx.put_invite(&digest, &row)?;
        Ok(())
    }

    /// Issues a certificate for a name that is in the table, and puts it there.
    fn issue_into(
        &self,
        tx: &Transaction,
        name: &Username,
        row: &mut NameRow,
        now: UnixTime,
    ) -> Result<Signed<UserCertificate>, Failure> {
        let issue = Issue { name, identity: row.identity, placement: row.placement, hints: wanted(tx, name, now)? };
        let certificate = self.issue(tx, &issue, now)?;
        row.serials.retain(|serial| still_matters(serial, now));
        row.serials.push(serial_of(&certificate));
        row.certificate = certificate.clone();
        tx.put_name(name, row)?;
        Ok(certificate)
    }

    fn issue(&self, tx: &Transaction, issue: &Issue<'_>, now: UnixTime) -> Result<Signed<UserCertificate>, Failure> {
        let not_before = now.minus_secs(BACKDATE_SECS);
        // A chain ends with its first link: a certificate that outlives the signing key's would promise too much.
        let not_after = not_before.plus_secs(USER_CERTIFICATE_SECS).min(self.signing.unverified().not_after);
        // And one that outlives what proves a hint of it.
        let not_after = issue.hints.until.map_or(not_after, |until| not_after.min(until));
        if not_after <= now {
            return Err(refuse(RefusalCode::UNAVAILABLE, "the authority can't sign at the moment; try again later").into());
        }
        let certificate = UserCertificate {
            name: issue.name.clone(),
            identity: issue.identity,
            placement: issue.placement,
            serial: next_serial(tx, now)?,
            not_before,
            not_after,
            linked: Vec::new(),
            extensions: UserCertificate::with_indicators(Extensions::none(), &issue.hints.indicators),
        };
        Ok(Signed::sign(certificate, &self.signing_key))
    }

    fn grant(&self, user: Signed<UserCertificate>) -> EnrolGrant {
        EnrolGrant {
            chain: UserChain::Named { root: self.root, signing: self.signing.clone(), user },
            revocations: self.revocations.clone(),
            bootstrap: self.bootstrap.clone(),
        }
    }
}

fn serial_of(certificate: &Signed<UserCertificate>) -> RevokedSerial {
    let certificate = certificate.unverified();
    RevokedSerial { serial: certificate.serial, until: certificate.not_after }
}

fn freed(name: &Username) -> Refusal {
    refuse(RefusalCode::NAME_FREED, format!("{name} was given up by its owner, and goes to nobody else"))
}

fn revoked(name: &Username) -> Refusal {
    refuse(RefusalCode::NAME_REVOKED, format!("{name} was revoked"))
}
