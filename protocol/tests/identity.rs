//! What a chain, and a revocation list, is refused for. Goal: every link that can be forged, moved, outdated or taken back is.

mod support;

use halloo_protocol::identity::{
    Chain, ChainError, DEVICE_CERTIFICATE_SECS_MAX, DeviceCertificate, TrustStore, USER_CERTIFICATE_SECS, UserChain,
};
use halloo_protocol::key::AuthorityKey;
use halloo_protocol::time::{CLOCK_TOLERANCE_SECS, UnixTime};
use halloo_protocol::wire::{self, Body, Signed};
use support::*;

fn verify(chain: &Chain) -> Result<(), ChainError> {
    chain.verify(NOW, &trust()).map(|_| ())
}

fn with_user(user: UserChain) -> Chain {
    Chain { user, ..chain(0, 0) }
}

fn with_device(certificate: DeviceCertificate) -> Chain {
    Chain { device: Signed::sign(certificate, &identity_secret(0)), ..chain(0, 0) }
}

#[test]
fn an_honest_chain_holds_and_says_who_and_where() {
    let verified = chain(0, 3).verify(NOW, &trust()).expect("holds");
    assert_eq!(verified.user.id, alice_id());
    assert_eq!((verified.device, verified.slot), (device(3), 3));
    assert_eq!(verified.not_after, user_certificate(0, 1).not_after, "the first certificate to end");
    let other = chain(0, 0).verify(NOW, &trust()).expect("holds");
    assert_ne!(verified.place, other.place, "each slot has its place");
}

#[test]
fn an_identity_without_authority_has_no_place() {
    let verified = with_user(UserChain::Key(identity(0))).verify(NOW, &TrustStore::new()).expect("needs no authority");
    assert_eq!(verified.place, None);
    let error = with_user(UserChain::Key(identity(1))).verify(NOW, &trust()).expect_err("another identity's device");
    assert!(matches!(error, ChainError::DeviceSignature(_)));
}

#[test]
fn each_signature_must_be_the_right_one() {
    let UserChain::Named { root, signing, user } = user_chain(0, 1) else { unreachable!("built with a name") };
    let forged_signing = UserChain::Named { root, signing: forged(signing_certificate()), user: user.clone() };
    assert!(matches!(verify(&with_user(forged_signing)), Err(ChainError::SigningSignature(_))));
    let forged_user = UserChain::Named { root, signing: signing.clone(), user: forged(user_certificate(0, 1)) };
    assert!(matches!(verify(&with_user(forged_user)), Err(ChainError::UserSignature(_))));
    let root_for_signing =
        UserChain::Named { root, signing: signing.clone(), user: Signed::sign(user_certificate(0, 1), &support::root()) };
    assert!(matches!(verify(&with_user(root_for_signing)), Err(ChainError::UserSignature(_))), "roots don't sign users");
    let forged_device = Chain { device: forged(device_certificate(0, 1)), ..chain(0, 0) };
    assert!(matches!(verify(&forged_device), Err(ChainError::DeviceSignature(_))));
    let by_itself = Chain { device: Signed::sign(device_certificate(0, 1), &device_secret(0)), ..chain(0, 0) };
    assert!(matches!(verify(&by_itself), Err(ChainError::DeviceSignature(_))), "a device can't certify itself");
    let stranger = AuthorityKey(secret(3).public());
    let unknown = UserChain::Named { root: stranger, signing, user };
    assert_eq!(verify(&with_user(unknown)), Err(ChainError::UnknownAuthority(stranger)));
}

#[test]
fn times_are_kept_at_every_link() {
    let late = NOW.plus_secs(CLOCK_TOLERANCE_SECS + 1);
    let user = |change: fn(&mut halloo_protocol::identity::UserCertificate)| {
        let mut certificate = user_certificate(0, 1);
        change(&mut certificate);
        verify(&with_user(user_chain_of(certificate)))
    };
    assert!(matches!(user(|c| c.not_after = NOW.minus_secs(1)), Err(ChainError::UserExpired(_))));
    assert_eq!(user(|c| c.not_after = NOW), Ok(()), "the end is inclusive");
    assert!(matches!(user(|c| c.not_before = NOW.plus_secs(CLOCK_TOLERANCE_SECS + 1)), Err(ChainError::UserNotYet(_))));
    assert_eq!(user(|c| c.not_before = NOW.plus_secs(CLOCK_TOLERANCE_SECS)), Ok(()), "clocks differ");
    let ended = DeviceCertificate { not_after: NOW.minus_secs(1), ..device_certificate(0, 1) };
    assert!(matches!(verify(&with_device(ended)), Err(ChainError::DeviceExpired(_))));
    let ahead = DeviceCertificate { not_before: late, not_after: late, ..device_certificate(0, 1) };
    assert!(matches!(verify(&with_device(ahead)), Err(ChainError::DeviceNotYet(_))));
    for (not_before, not_after) in [(UnixTime(0), NOW.minus_secs(1)), (late, UnixTime(u64::MAX))] {
        let mut signing = signing_certificate();
        (signing.not_before, signing.not_after) = (not_before, not_after);
        let user = UserChain::Named {
            root: authority(),
            signing: Signed::sign(signing, &root()),
            user: Signed::sign(user_certificate(0, 1), &signing_key()),
        };
        assert!(matches!(verify(&with_user(user)), Err(ChainError::SigningExpired { .. })));
    }
}

/// What is out of range doesn't decode, whoever signed it.
fn decodes<T: Body>(value: T) -> bool {
    wire::decode::<Signed<T>>(&wire::encode(&forged(value)), 4_096).is_ok()
}

#[test]
fn certificates_out_of_range_do_not_decode() {
    assert!(decodes(device_certificate(0, 1)));
    assert!(!decodes(DeviceCertificate { slot: 4, ..device_certificate(0, 1) }), "slots end at 3");
    let too_long = NOW.plus_secs(DEVICE_CERTIFICATE_SECS_MAX + 1);
    assert!(!decodes(DeviceCertificate { not_before: NOW, not_after: too_long, ..device_certificate(0, 1) }));
    assert!(!decodes(DeviceCertificate { not_before: NOW, not_after: NOW.minus_secs(1), ..device_certificate(0, 1) }));
    assert!(!decodes(DeviceCertificate { not_before: UnixTime(0), not_after: UnixTime(u64::MAX), ..device_certificate(0, 1) }));
    let mut user = user_certificate(0, 1);
    user.not_after = user.not_before.plus_secs(USER_CERTIFICATE_SECS + 1);
    assert!(!decodes(user));
    assert!(!decodes(revocation_list(1, &[5, 4], &[])), "serials ascend");
    assert!(!decodes(revocation_list(1, &[5, 5], &[])), "each once");
}

#[test]
fn a_revoked_user_and_all_their_devices_are_refused() {
    let mut trust = trust();
    assert_eq!(trust.apply_revocations(&by_signing_key(revocation_list(1, &[1], &[]))), Ok(true));
    for device in 0..3 {
        assert_eq!(chain(0, device).verify(NOW, &trust).err(), Some(ChainError::UserRevoked(1)));
    }
    let renewed = with_user(user_chain(0, 2));
    assert!(renewed.verify(NOW, &trust).is_ok(), "a list names serials, so an authority has to list every one that still runs");
    assert_eq!(trust.apply_revocations(&by_signing_key(revocation_list(1, &[], &[]))), Ok(false), "an equal number is no news");
    assert_eq!(trust.apply_revocations(&by_signing_key(revocation_list(0, &[], &[]))), Ok(false), "nor is a lower one");
    assert!(chain(0, 0).verify(NOW, &trust).is_err());
}

#[test]
fn lists_of_others_are_refused_and_change_nothing() {
    let mut trust = trust();
    let mut foreign = by_root(revocation_list(5, &[1], &[]));
    foreign.list = forged(revocation_list(5, &[1], &[]));
    assert!(matches!(trust.apply_revocations(&foreign), Err(ChainError::ListSignature(_))));
    let mut by_other = by_signing_key(revocation_list(5, &[1], &[]));
    by_other.signing = Some(forged(signing_certificate()));
    assert!(matches!(trust.apply_revocations(&by_other), Err(ChainError::SigningSignature(_))));
    let mut unknown = revocation_list(5, &[1], &[]);
    unknown.authority = AuthorityKey(secret(3).public());
    let unknown = halloo_protocol::identity::SignedRevocationList { signing: None, list: Signed::sign(unknown, &secret(3)) };
    assert!(matches!(trust.apply_revocations(&unknown), Err(ChainError::UnknownAuthority(_))));
    let mut outdated = revocation_list(5, &[1], &[]);
    outdated.issued_at = signing_certificate().not_after.plus_secs(1);
    assert!(matches!(trust.apply_revocations(&by_signing_key(outdated)), Err(ChainError::SigningExpired { .. })));
    assert_eq!(trust.revocation_number(&authority()), 0);
    assert!(chain(0, 0).verify(NOW, &trust).is_ok());
}

#[test]
fn the_root_takes_a_signing_key_back() {
    let mut trust = trust();
    assert_eq!(trust.apply_revocations(&by_root(revocation_list(2, &[], &[1]))), Ok(true));
    assert_eq!(chain(0, 0).verify(NOW, &trust).err(), Some(ChainError::SigningRevoked(1)));
    let by_revoked = by_signing_key(revocation_list(3, &[], &[]));
    assert_eq!(trust.apply_revocations(&by_revoked), Err(ChainError::SigningRevoked(1)));
    assert_eq!(trust.revocation_number(&authority()), 2);
}

#[test]
fn a_signing_key_cannot_take_signing_keys_back() {
    let mut trust = trust();
    assert_eq!(trust.apply_revocations(&by_signing_key(revocation_list(2, &[], &[1]))), Ok(true));
    assert!(chain(0, 0).verify(NOW, &trust).is_ok());
}

#[test]
fn a_stolen_signing_key_cannot_outnumber_the_root() {
    let mut trust = trust();
    // The thief un-revokes everybody with the highest number there is.
    assert_eq!(trust.apply_revocations(&by_signing_key(revocation_list(4, &[1], &[]))), Ok(true));
    let highest = revocation_list(NOW.0, &[], &[]);
    assert_eq!(trust.apply_revocations(&by_signing_key(highest)), Ok(true));
    assert!(!decodes(revocation_list(NOW.0 + 1, &[], &[])), "no number is above the seconds since 1970");
    // The root doesn't know that number.
    assert_eq!(trust.apply_revocations(&by_root(revocation_list(5, &[1], &[1]))), Ok(true));
    assert_eq!(trust.revocation_number(&authority()), 5);
    assert_eq!(chain(0, 0).verify(NOW, &trust).err(), Some(ChainError::SigningRevoked(1)));
    assert!(trust.apply_revocations(&by_signing_key(revocation_list(NOW.0, &[], &[]))).is_err(), "it stays out");
    assert_eq!(trust.apply_revocations(&by_root(revocation_list(5, &[1], &[1]))), Ok(false));
}
