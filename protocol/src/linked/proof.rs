//! Proofs that stand by themselves: bytes that travel with an association, and are verified without asking anybody.
//!
//! What is trusted is an input: the keys of providers that this user trusts ([`Providers`]), kept for as long as an association may count, so that a proof holds
//! when the provider has other keys by then, or is gone; and the authorities. A proof says that its user had the identity at some time. Whatever was said
//! later by the same user, or is proved later by another one, counts more.

use std::collections::BTreeMap;

use super::address_word::AddressProof;
use super::association::{Association, ProofMethod};
use super::id::System;
use super::provider_token::{ProviderToken, TrustedProvider};
use crate::identity::TrustStore;
use crate::time::UnixTime;

/// Tag of the extension of a [`LinkedPart`](super::LinkedPart) that holds the proof of its association.
pub const PROOF_EXTENSION: u16 = 0x0001;

/// Largest proof. An invite has to hold one beside everything else, and is itself bounded by what push services carry.
pub const PROOF_BYTES_MAX: usize = 1_536;

/// The providers that are trusted, by issuer.
pub type Providers = BTreeMap<String, TrustedProvider>;

/// Whose word is taken for an identity elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct TrustedProofs<'a> {
    /// OpenID Connect providers.
    pub providers: &'a Providers,
    /// Authorities, for mail addresses, telephone numbers and SIP addresses.
    pub authorities: &'a TrustStore,
}

/// Why a proof isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The association is proved in a way that isn't known, or not possible in its system.
    #[error("it isn't proved in a way that is known for that system")]
    Method,
    /// There is none.
    #[error("it comes without its proof")]
    Missing,
    /// It can't be read.
    #[error("the proof can't be read")]
    Unreadable,
    /// By a provider or an authority that isn't trusted here.
    #[error("its provider or authority isn't trusted here")]
    Issuer,
    /// Signed with no key that its provider has had.
    #[error("it is signed with a key that the provider isn't known to have had")]
    Key,
    /// Signed in another way than its key is for, or in none.
    #[error("it is signed in another way than the key is for")]
    Algorithm,
    /// The signature doesn't hold.
    #[error("its signature doesn't hold")]
    Signature,
    /// It was made for another application.
    #[error("it was made for an application that isn't trusted here")]
    Audience,
    /// It was made for somebody else, or for nothing of the kind.
    #[error("it was made for another user")]
    OtherUser,
    /// It is about another identity than the association.
    #[error("it is about another identity")]
    OtherIdentity,
    /// The mail address isn't verified, or not for the provider to verify.
    #[error("the provider doesn't answer for that mail address")]
    Mail,
    /// It is over, hasn't begun, or the association isn't from its time.
    #[error("its time is over, or the association's isn't in it")]
    Time,
}

/// Checks that `proof` shows that the identity of `said` is its user's. Gives when that was shown.
///
/// The association itself is judged elsewhere: its signature and its times aren't looked at but for how they relate to the proof's.
///
/// # Errors
/// [`ProofError`].
pub fn verify_proof(
    said: &Association,
    proof: Option<&[u8]>,
    trusted: TrustedProofs<'_>,
    now: UnixTime,
) -> Result<UnixTime, ProofError> {
    let is_possible = match said.method {
        ProofMethod::PROVIDER_TOKEN => matches!(said.linked.system(), System::Oidc | System::Mail),
        ProofMethod::AUTHORITY_WORD => matches!(said.linked.system(), System::Mail | System::Phone | System::Sip),
        _ => false,
    };
    if !is_possible {
        return Err(ProofError::Method);
    }
    let proof = proof.ok_or(ProofError::Missing)?;
    if said.method == ProofMethod::PROVIDER_TOKEN {
        ProviderToken::read(proof)?.verify(said, trusted.providers, now)
    } else {
        AddressProof::read(proof)?.verify(said, trusted.authorities, now)
    }
}
