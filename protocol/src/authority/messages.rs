//! Requests to an authority and its answers.

use bincode::{Decode, Encode};

use super::bootstrap::SignedBootstrapList;
use super::invite_code::InviteSecret;
use crate::identity::{
    Chain, ChainError, KeySuccession, REVOCATION_LIST_BYTES_MAX, SignedRevocationList, TrustStore, UserChain, UserId, Username,
    VerifiedUser,
};
use crate::key::{AuthorityKey, DeviceKey, IdentityKey, SecretKey};
use crate::linked::{Association, LinkedId, PROOF_BYTES_MAX};
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, FRAME_BODY_BYTES_MAX, FrameKind, Message, Signed};

/// How far an asker's clock may be from the authority's. Wide, since a first start may come before the clock was ever set, and
/// harmless: a request kept back for an hour gives its own identity its own name.
pub const ENROL_CLOCK_TOLERANCE_SECS: u64 = 3_600;

/// "`identity` wants to be `name`." Signed by that identity key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EnrolRequestBody {
    /// Whom it asks: another authority can't use the request.
    pub authority: AuthorityKey,
    /// The name wanted.
    pub name: Username,
    /// The key to bind it to, which signs this.
    pub identity: IdentityKey,
    /// The device that asks: the connection has to be its own, so a copied request is worth nothing.
    pub device: DeviceKey,
    /// The invite's secret; `None` for open enrolment, a repeated request or a change of key.
    pub invite: Option<InviteSecret>,
    /// The former key's word that `identity` succeeds it, when the name is known under another key.
    pub succession: Option<Signed<KeySuccession>>,
    /// The asker's clock.
    pub at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for EnrolRequestBody {
    const KIND: u16 = 0x0110;
    const LIMIT: usize = 2_048;
}

/// What [`EnrolRequest::new`] needs.
#[derive(Clone, Debug)]
pub struct EnrolParams {
    /// Whom to ask.
    pub authority: AuthorityKey,
    /// The name wanted.
    pub name: Username,
    /// The device that asks.
    pub device: DeviceKey,
    /// The invite's secret.
    pub invite: Option<InviteSecret>,
    /// The former key's word, for a change of key.
    pub succession: Option<Signed<KeySuccession>>,
}

/// Asks for a name. Answered by [`EnrolAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EnrolRequest {
    /// The signed wish.
    pub body: Signed<EnrolRequestBody>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for EnrolRequest {
    const KIND: FrameKind = FrameKind(0x0050);
    const LIMIT: usize = 3 * 1024;
}

impl EnrolRequest {
    /// Signs the wish with the identity key.
    #[must_use]
    pub fn new(params: EnrolParams, identity: &SecretKey, now: UnixTime) -> Self {
        let body = EnrolRequestBody {
            authority: params.authority,
            name: params.name,
            identity: IdentityKey(identity.public()),
            device: params.device,
            invite: params.invite,
            succession: params.succession,
            at: now,
            extensions: Extensions::none(),
        };
        Self { body: Signed::sign(body, identity), extensions: Extensions::none() }
    }
}

/// Asks for a fresh certificate of the name in `chain`, for the same key. Any device of the user may ask: the connection shows that it
/// is the chain's device. The user certificate in it may have expired. Answered by [`EnrolAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RenewRequest {
    /// The device's chain.
    pub chain: Chain,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Tag of a RenewRequest's extension that holds a [`CertifyWish`].
pub const CERTIFY_EXTENSION: u16 = 0x0001;

/// Largest [`CertifyWish`].
const WISH_BYTES_MAX: usize = 2_560;

/// What the asker's next certificate is to hint at, or no more ([`UserCertificate::indicators`](crate::identity::UserCertificate::indicators)).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CertifyWish {
    /// Which identity in another system.
    pub id: LinkedId,
    /// Whether it is to be hinted at.
    pub is_wanted: bool,
    /// The asker's word that it is theirs; not needed where the authority knows.
    pub association: Option<Signed<Association>>,
    /// What shows it, by the association's method. At most [`PROOF_BYTES_MAX`].
    pub proof: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl CertifyWish {
    /// The request's extensions with this among them.
    #[must_use]
    pub fn add_to(&self, extensions: Extensions) -> Extensions {
        extensions.with(CERTIFY_EXTENSION, wire::encode(self))
    }

    /// What a request wishes.
    ///
    /// # Errors
    /// [`DecodeError`] if it can't be read.
    pub fn of(request: &RenewRequest) -> Result<Option<Self>, DecodeError> {
        let Some(bytes) = request.extensions.find(CERTIFY_EXTENSION) else { return Ok(None) };
        let wish: Self = wire::decode(bytes, WISH_BYTES_MAX)?;
        if wish.proof.len() > PROOF_BYTES_MAX {
            return Err(DecodeError::invalid("proof", format!("{} bytes", wish.proof.len())));
        }
        Ok(Some(wish))
    }
}

impl Message for RenewRequest {
    const KIND: FrameKind = FrameKind(0x0051);
    const LIMIT: usize = 5 * 1024;
}

/// Why the authority doesn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct RefusalCode(pub u16);

impl RefusalCode {
    /// The request isn't for this authority, isn't signed by its key, or doesn't come from the device it names.
    pub const INVALID_REQUEST: Self = Self(1);
    /// The asker's clock is too far off.
    pub const CLOCK: Self = Self(2);
    /// This authority enrols by invitation only.
    pub const INVITE_REQUIRED: Self = Self(3);
    /// No such invite.
    pub const INVITE_UNKNOWN: Self = Self(4);
    /// The invite's time is over.
    pub const INVITE_EXPIRED: Self = Self(5);
    /// The invite was used as often as it may.
    pub const INVITE_USED_UP: Self = Self(6);
    /// The name belongs to another key.
    pub const NAME_TAKEN: Self = Self(7);
    /// The name was given up by its owner, and nobody else gets it.
    pub const NAME_FREED: Self = Self(8);
    /// The name was revoked for good.
    pub const NAME_REVOKED: Self = Self(9);
    /// The authority doesn't know the name.
    pub const NAME_UNKNOWN: Self = Self(10);
    /// The change of key isn't signed by the name's present key.
    pub const SUCCESSION_INVALID: Self = Self(11);
    /// The new key was the name's key before.
    pub const SUCCESSION_BACK: Self = Self(12);
    /// Too many requests lately; try later.
    pub const RATE_LIMITED: Self = Self(13);
    /// The authority can't sign or store at the moment; try later.
    pub const UNAVAILABLE: Self = Self(14);
    /// The authority hasn't seen it proved that an identity in another system is the asker's.
    pub const NOT_PROVED: Self = Self(15);
    /// It sends no codes to addresses of that kind.
    pub const ADDRESS_KIND: Self = Self(16);
    /// That isn't the code.
    pub const CODE_WRONG: Self = Self(17);
    /// There is no code for that address: its time is over, or it was guessed at too often.
    pub const CODE_GONE: Self = Self(18);

    /// True if the same request may succeed later.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::RATE_LIMITED | Self::UNAVAILABLE)
    }
}

/// A refusal: a number for programs and words for the person.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("the authority refuses: {detail}")]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// The same in English, with the facts.
    pub detail: String,
}

/// A name given, with what is new at the authority.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EnrolGrant {
    /// From the root to the user; always [`UserChain::Named`].
    pub chain: UserChain,
    /// The newest revocation list, if there is any.
    pub revocations: Option<SignedRevocationList>,
    /// The newest list of bootstrap nodes, if there is any.
    pub bootstrap: Option<SignedBootstrapList>,
}

/// Why a grant isn't what was asked for: the authority is broken or isn't the authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// The chain doesn't hold.
    #[error("the certificate doesn't hold: {0}")]
    Chain(#[from] ChainError),
    /// It names somebody else.
    #[error("the certificate is for {0:?}")]
    OtherUser(UserId),
    /// It binds the name to another key.
    #[error("the certificate is for the key {0}")]
    OtherKey(IdentityKey),
    /// A list in it is another authority's.
    #[error("a list in the answer is of authority {0}")]
    OtherAuthority(AuthorityKey),
}

impl EnrolGrant {
    /// Checks that the grant gives `user` to `identity`, judged at `now` by `trust`, in which the authority must be trusted, and that its
    /// lists are genuine.
    ///
    /// # Errors
    /// What isn't as asked for.
    pub fn verify(
        &self,
        user: &UserId,
        identity: &IdentityKey,
        now: UnixTime,
        trust: &TrustStore,
    ) -> Result<VerifiedUser, GrantError> {
        let verified = self.chain.verify(now, trust)?;
        if verified.id != *user {
            return Err(GrantError::OtherUser(verified.id));
        }
        if verified.identity != *identity {
            return Err(GrantError::OtherKey(verified.identity));
        }
        let lists = [
            self.revocations.as_ref().map(|list| list.verify().map(|list| list.authority)).transpose()?,
            self.bootstrap.as_ref().map(|list| list.verify().map(|list| list.authority)).transpose()?,
        ];
        for authority in lists.into_iter().flatten() {
            if !matches!(user, UserId::Named { authority: own, .. } if *own == authority) {
                return Err(GrantError::OtherAuthority(authority));
            }
        }
        Ok(verified)
    }
}

/// What became of a request for a name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EnrolResult {
    /// Given, or renewed.
    Granted(Box<EnrolGrant>),
    /// Not given.
    Refused(Refusal),
}

/// Answer to [`EnrolRequest`] and [`RenewRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EnrolAnswer {
    /// What became of it.
    pub result: EnrolResult,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for EnrolAnswer {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | 0x0050);
    // A full revocation list (48 KiB), a full bootstrap list (8 KiB) and certificates.
    const LIMIT: usize = FRAME_BODY_BYTES_MAX;
}

/// Asks for an authority's newest revocation list, if newer than what the asker has. Any node may ask any node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RevocationListRequest {
    /// Whose list.
    pub authority: AuthorityKey,
    /// Number of the list the asker has; 0 for none.
    pub have: u64,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for RevocationListRequest {
    const KIND: FrameKind = FrameKind(0x0052);
    const LIMIT: usize = 512;
}

/// Answer to [`RevocationListRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RevocationListAnswer {
    /// A newer list, or `None` if there is none here.
    pub list: Option<SignedRevocationList>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for RevocationListAnswer {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | 0x0052);
    const LIMIT: usize = REVOCATION_LIST_BYTES_MAX + 2 * 1024;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{decode, encode};

    #[test]
    fn a_request_round_trips_and_shows_who_signed_it() {
        let identity = SecretKey::from_bytes([1; 32]);
        let params = EnrolParams {
            authority: AuthorityKey(SecretKey::from_bytes([2; 32]).public()),
            name: Username::new("alice").expect("valid"),
            device: DeviceKey(SecretKey::from_bytes([3; 32]).public()),
            invite: Some(InviteSecret([4; 16])),
            succession: None,
        };
        let request = EnrolRequest::new(params, &identity, UnixTime(1_000));
        let read: EnrolRequest = decode(&encode(&request), EnrolRequest::LIMIT).expect("decodes");
        assert_eq!(read, request);
        assert!(read.body.verify(&identity.public()).is_ok());
        assert!(read.body.verify(&SecretKey::from_bytes([9; 32]).public()).is_err());
    }

    /// The largest lists there can be have to pass through one frame.
    #[test]
    fn the_fullest_grant_fits_a_frame() {
        use crate::authority::{BOOTSTRAP_NODES_MAX, BootstrapList};
        use crate::directory::Place;
        use crate::identity::{RevocationList, RevokedSerial, SigningCertificate};
        use crate::node::{Address, Descriptor, LoadClass, Roles, Transport};

        let key = SecretKey::from_bytes([1; 32]);
        let authority = AuthorityKey(key.public());
        let now = UnixTime(1_800_000_000);
        let certificate = SigningCertificate {
            key: key.public(),
            serial: now.0,
            not_before: now,
            not_after: now.plus_secs(1_000),
            extensions: Extensions::none(),
        };
        let signing = Signed::sign(certificate, &key);
        let mut list = RevocationList {
            authority,
            number: 1,
            issued_at: now,
            users: Vec::new(),
            signing: Vec::new(),
            extensions: Extensions::none(),
        };
        while encode(&list).len() < RevocationList::LIMIT - 1_000 {
            let from = now.0 + list.users.len() as u64;
            list.users.extend((from..from + 100).map(|serial| RevokedSerial { serial, until: now }));
        }
        let address = Address::V6 { ip: [1; 16], port: 65_535, transport: Transport::Tcp };
        let node = Descriptor {
            device: DeviceKey(key.public()),
            place: Place([1; 32]),
            roles: Roles(u16::MAX),
            load: LoadClass(9),
            addresses: vec![address; crate::node::DESCRIPTOR_ADDRESSES_MAX],
        };
        let bootstrap = BootstrapList {
            authority,
            number: u64::MAX,
            nodes: vec![node; BOOTSTRAP_NODES_MAX],
            issued_at: now,
            extensions: Extensions::none(),
        };
        let grant = EnrolGrant {
            chain: UserChain::Key(IdentityKey(key.public())),
            revocations: Some(SignedRevocationList { signing: Some(signing.clone()), list: Signed::sign(list, &key) }),
            bootstrap: Some(SignedBootstrapList { signing, list: Signed::sign(bootstrap, &key) }),
        };
        let answer = EnrolAnswer { result: EnrolResult::Granted(Box::new(grant)), extensions: Extensions::none() };
        let bytes = encode(&answer);
        // What a named chain adds to a bare key is below 3 KiB.
        assert!(bytes.len() + 3 * 1024 <= EnrolAnswer::LIMIT, "{} bytes", bytes.len());
        assert_eq!(decode::<EnrolAnswer>(&bytes, EnrolAnswer::LIMIT).as_ref(), Ok(&answer));
    }

    #[test]
    fn refusals_say_whether_to_try_again() {
        assert!(RefusalCode::RATE_LIMITED.is_temporary());
        assert!(!RefusalCode::NAME_TAKEN.is_temporary());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode::<EnrolRequest>(&bytes, EnrolRequest::LIMIT);
            let _ = decode::<EnrolAnswer>(&bytes, EnrolAnswer::LIMIT);
            let _ = decode::<RenewRequest>(&bytes, RenewRequest::LIMIT);
            let _ = decode::<RevocationListRequest>(&bytes, RevocationListRequest::LIMIT);
            let _ = decode::<RevocationListAnswer>(&bytes, RevocationListAnswer::LIMIT);
        }
    }
}
