//! Codes that were sent to addresses, and the authority's word for who has shown one.
//!
//! Nothing of it is kept over a restart: whoever waits for a code asks for another. Whoever has the authority send mail to strangers is bounded per address, per user, per
//! network, and in all; so is who guesses.

use std::collections::HashMap;
use std::time::Instant;

use halloo_protocol::authority::{CODE_DIGITS, CODE_SECS, CODE_TRIES, CodeRequest, CodeShow, CodeTag, Refusal, RefusalCode};
use halloo_protocol::identity::{TrustStore, UserId, VerifiedUser};
use halloo_protocol::key::{IdentityKey, PublicKey, hash};
use halloo_protocol::linked::{ADDRESS_WORD_SECS_MAX, AddressProof, AddressWord, LinkedId, System};
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};

use super::{Asker, Authority, NetworkGroup, refuse};
use crate::key_file;

/// Codes outstanding at once; beyond, nobody gets one until some have ended.
const OPEN_MAX: usize = 4_096;

/// How many codes are sent.
#[derive(Clone, Copy)]
struct Rates {
    /// To one address.
    address: Rate,
    /// For one user.
    user: Rate,
    /// For who asks from one network.
    network: Rate,
    total: Rate,
}

const MAIL: Rates = Rates {
    address: Rate { per_hour: 3, burst: 3 },
    user: Rate { per_hour: 6, burst: 6 },
    network: Rate { per_hour: 20, burst: 20 },
    total: Rate { per_hour: 1_000, burst: 200 },
};

/// Short messages cost money, and whoever has part of it asks for many.
const PHONE: Rates = Rates {
    address: Rate { per_hour: 2, burst: 2 },
    user: Rate { per_hour: 3, burst: 3 },
    network: Rate { per_hour: 6, burst: 6 },
    total: Rate { per_hour: 100, burst: 30 },
};

/// Numbers beside each other, which are one owner's: how many digits at the end don't count, and how many messages go to all of them.
const BLOCKS: [(usize, Rate); 2] = [(3, Rate { per_hour: 5, burst: 5 }), (5, Rate { per_hour: 20, burst: 10 })];

/// Addresses, users and networks whose rates are remembered.
const RATES_MAX: usize = 16_384;

/// An address's word begins so long before now, for readers whose clock is behind.
const EARLY_SECS: u64 = 3_600;

/// All who have no name.
const UNNAMED: IdentityKey = IdentityKey(PublicKey([0; 32]));

#[derive(Debug)]
struct Open {
    code: [u8; CODE_DIGITS],
    tries_left: u8,
    ends_at: UnixTime,
}

/// The codes that are out.
#[derive(Debug)]
pub(super) struct Codes {
    open: HashMap<(IdentityKey, LinkedId), Open>,
    addresses: RateLimiter<LinkedId>,
    users: RateLimiter<(System, IdentityKey)>,
    networks: RateLimiter<(System, NetworkGroup)>,
    /// By how the numbers begin.
    blocks: RateLimiter<String>,
    total: RateLimiter<System>,
}

impl Default for Codes {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            addresses: RateLimiter::new(RATES_MAX),
            users: RateLimiter::new(RATES_MAX),
            networks: RateLimiter::new(RATES_MAX),
            blocks: RateLimiter::new(RATES_MAX),
            total: RateLimiter::new(System::ALL.len()),
        }
    }
}

/// A code to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter {
    /// Where to.
    pub to: LinkedId,
    /// The code's digits.
    pub code: String,
    /// What its text is to have in it.
    pub tag: Option<CodeTag>,
}

impl std::fmt::Debug for Letter {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letter").finish_non_exhaustive()
    }
}

impl Codes {
    fn admit(&mut self, user: IdentityKey, linked: &LinkedId, network: Option<NetworkGroup>, now: Instant) -> bool {
        // A number costs what it costs, whichever way it is reached.
        let number = linked.dialled_number();
        let linked = number.as_ref().unwrap_or(linked);
        let system = linked.system();
        let rates = if system == System::Phone { PHONE } else { MAIL };
        // The widest last, so that one user who asks too often takes nothing from others.
        self.users.take(&(system, user), rates.user, now).is_ok()
            && self.addresses.take(linked, rates.address, now).is_ok()
            && network.is_none_or(|network| self.networks.take(&(system, network), rates.network, now).is_ok())
            && (system != System::Phone || self.admit_blocks(linked.address(), now))
            && self.total.take(&system, rates.total, now).is_ok()
    }

    fn admit_blocks(&mut self, number: &str, now: Instant) -> bool {
        BLOCKS.iter().all(|(digits, rate)| {
            let block = format!("{digits} {}", &number[..number.len().saturating_sub(*digits)]);
            self.blocks.take(&block, *rate, now).is_ok()
        })
    }

    /// A code for an address; one that the user had for it before counts no more.
    fn begin(&mut self, user: IdentityKey, linked: LinkedId, code: [u8; CODE_DIGITS], now: UnixTime) -> bool {
        self.open.retain(|_, open| open.ends_at >= now);
        let key = (user, linked);
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&key) {
            return false;
        }
        self.open.insert(key, Open { code, tries_left: CODE_TRIES, ends_at: now.plus_secs(CODE_SECS) });
        true
    }

    /// Whether that is the code; it counts once, and for few guesses.
    fn show(&mut self, user: IdentityKey, linked: &LinkedId, code: &str, now: UnixTime) -> Result<(), Refusal> {
        let key = (user, linked.clone());
        let gone = || refuse(RefusalCode::CODE_GONE, "there is no code for that address any more: ask for another");
        let open = self.open.get_mut(&key).filter(|open| open.ends_at >= now).ok_or_else(gone)?;
        // By their hashes: how long it takes says nothing of the code.
        let digest = |code: &[u8]| hash("halloo address code", &[code]);
        if digest(code.as_bytes()) == digest(&open.code) {
            self.open.remove(&key);
            return Ok(());
        }
        open.tries_left = open.tries_left.saturating_sub(1);
        if open.tries_left == 0 {
            self.open.remove(&key);
            return Err(gone());
        }
        Err(refuse(RefusalCode::CODE_WRONG, "that isn't the code that was sent"))
    }
}

impl Authority {
    /// Whoever has an address is to be sent a code.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub fn begin_code(
        &mut self,
        request: &CodeRequest,
        asker: &Asker,
        trust: &TrustStore,
        (now, unix): (Instant, UnixTime),
    ) -> Result<Letter, Refusal> {
        let user = asking_user(&request.chain, asker, trust, unix)?;
        let full = || refuse(RefusalCode::RATE_LIMITED, "too many codes were asked for lately; try later");
        // New identities without a name cost nothing: they are counted as one.
        let counted = if matches!(user.id, UserId::Key(_)) { UNNAMED } else { user.identity };
        if !self.codes.admit(counted, &request.linked, asker.network, now) {
            return Err(full());
        }
        let code = random_code().ok_or_else(|| refuse(RefusalCode::UNAVAILABLE, "no randomness"))?;
        if !self.codes.begin(user.identity, request.linked.clone(), code, unix) {
            return Err(full());
        }
        let code = code.iter().map(|digit| char::from(*digit)).collect();
        Ok(Letter { to: request.linked.clone(), code, tag: CodeTag::of(request) })
    }

    /// The authority's word for an address, for whoever shows its code.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub fn show_code(
        &mut self,
        request: &CodeShow,
        asker: &Asker,
        trust: &TrustStore,
        now: UnixTime,
    ) -> Result<AddressProof, Refusal> {
        let user = asking_user(&request.chain, asker, trust, now)?;
        self.codes.show(user.identity, &request.linked, &request.code, now)?;
        let not_before = now.minus_secs(EARLY_SECS);
        let word = AddressWord {
            user: user.id,
            identity: user.identity,
            linked: request.linked.clone(),
            not_before,
            not_after: not_before.plus_secs(ADDRESS_WORD_SECS_MAX),
            extensions: Extensions::none(),
        };
        Ok(AddressProof {
            authority: self.root,
            signing: self.signing.clone(),
            word: Signed::sign(word, &self.signing_key),
            extensions: Extensions::none(),
        })
    }
}

/// Who asks: a user whom somebody trusted vouches for, by one of their devices.
fn asking_user(
    chain: &halloo_protocol::identity::Chain,
    asker: &Asker,
    trust: &TrustStore,
    now: UnixTime,
) -> Result<VerifiedUser, Refusal> {
    let invalid = |detail: &str| refuse(RefusalCode::INVALID_REQUEST, detail);
    let verified = chain.verify(now, trust).map_err(|error| invalid(&error.to_string()))?;
    if verified.device != asker.device {
        return Err(invalid("the connection is another device's"));
    }
    Ok(verified.user)
}

/// Eight digits, each as likely as any other.
fn random_code() -> Option<[u8; CODE_DIGITS]> {
    const RANGE: u64 = 100_000_000;
    loop {
        let number = u64::from_le_bytes(key_file::random_bytes().ok()?);
        // What is left over at the top would make some codes likelier.
        if number < u64::MAX - u64::MAX % RANGE {
            let digits = format!("{:08}", number % RANGE);
            return digits.as_bytes().try_into().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::SecretKey;

    use super::*;

    fn user(seed: u8) -> IdentityKey {
        IdentityKey(SecretKey::from_bytes([seed; 32]).public())
    }

    fn mail(text: &str) -> LinkedId {
        text.parse().expect("an address")
    }

    const CODE: [u8; CODE_DIGITS] = *b"01234567";
    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn code_of(refused: Result<(), Refusal>) -> Option<RefusalCode> {
        refused.err().map(|refusal| refusal.code)
    }

    #[test]
    fn a_code_counts_once_for_its_user_and_address_and_for_five_guesses() {
        let (alice, address) = (user(1), mail("mailto:alice@there.example"));
        let mut codes = Codes::default();
        assert!(codes.begin(alice, address.clone(), CODE, NOW));
        assert_eq!(code_of(codes.show(user(2), &address, "01234567", NOW)), Some(RefusalCode::CODE_GONE), "another user's");
        let other = mail("mailto:bob@there.example");
        assert_eq!(code_of(codes.show(alice, &other, "01234567", NOW)), Some(RefusalCode::CODE_GONE), "another address's");
        assert_eq!(code_of(codes.show(alice, &address, "0123456", NOW)), Some(RefusalCode::CODE_WRONG));
        assert_eq!(codes.show(alice, &address, "01234567", NOW), Ok(()));
        assert_eq!(code_of(codes.show(alice, &address, "01234567", NOW)), Some(RefusalCode::CODE_GONE), "once");

        codes.begin(alice, address.clone(), CODE, NOW);
        for guess in 0..u32::from(CODE_TRIES) {
            let code = code_of(codes.show(alice, &address, &format!("{guess:08}"), NOW));
            let last = guess + 1 == u32::from(CODE_TRIES);
            assert_eq!(code, Some(if last { RefusalCode::CODE_GONE } else { RefusalCode::CODE_WRONG }));
        }
        assert_eq!(code_of(codes.show(alice, &address, "01234567", NOW)), Some(RefusalCode::CODE_GONE), "guessed too often");

        codes.begin(alice, address.clone(), CODE, NOW);
        let late = NOW.plus_secs(CODE_SECS + 1);
        assert_eq!(code_of(codes.show(alice, &address, "01234567", late)), Some(RefusalCode::CODE_GONE), "its time is over");
    }

    #[test]
    fn mail_is_bounded_per_address_user_and_network_and_so_is_memory() {
        let now = Instant::now();
        let mut codes = Codes::default();
        let address = mail("mailto:alice@there.example");
        let admitted = (0..20).filter(|seed| codes.admit(user(*seed), &address, None, now)).count();
        assert_eq!(admitted, 3, "whoever asks");
        let mut codes = Codes::default();
        let to = |number: u32| mail(&format!("mailto:a{number}@there.example"));
        assert_eq!((0..20).filter(|number| codes.admit(user(1), &to(*number), None, now)).count(), 6);
        let network = NetworkGroup::of([192, 0, 2, 1].into());
        let mut codes = Codes::default();
        let admitted = (0..100).filter(|seed| codes.admit(user(*seed), &to(u32::from(*seed)), network, now)).count();
        assert_eq!(admitted, 20);
        let mut codes = Codes::default();
        assert_eq!((0..20).filter(|number| codes.admit(user(1), &phone(number * 1_000_000), network, now)).count(), 3, "dearer");
        assert_eq!((0..20).filter(|seed| codes.admit(user(*seed), &phone(7_000_000), None, now)).count(), 2);
        let admitted = (0..20).filter(|number| codes.admit(user(1), &to(100 + *number), None, now)).count();
        assert_eq!(admitted, 6, "mail is counted for itself");
        let mut codes = Codes::default();
        let begun = (0..OPEN_MAX as u32 + 10).filter(|number| codes.begin(user(1), to(*number), CODE, NOW)).count();
        assert_eq!((begun, codes.open.len()), (OPEN_MAX, OPEN_MAX));
        assert!(codes.begin(user(1), to(OPEN_MAX as u32 + 1), CODE, NOW.plus_secs(CODE_SECS + 1)), "old ones make room");
    }

    fn phone(number: u32) -> LinkedId {
        format!("tel:+4930{number:08}").parse().expect("a number")
    }

    #[test]
    fn few_short_messages_go_to_numbers_beside_each_other() {
        let now = Instant::now();
        let asked = |codes: &mut Codes, step: u32| {
            let admitted = (0..100u8).filter(|seed| codes.admit(user(*seed), &phone(u32::from(*seed) * step), None, now));
            admitted.count()
        };
        assert_eq!(asked(&mut Codes::default(), 1), 5, "of one thousand");
        assert_eq!(asked(&mut Codes::default(), 1_000), 10, "of a hundred thousand");
        assert_eq!(asked(&mut Codes::default(), 100_000), 30, "in all");
    }

    #[test]
    fn a_number_is_counted_as_one_whichever_way_it_is_reached() {
        let now = Instant::now();
        let mut codes = Codes::default();
        let spellings =
            ["tel:+4930123456", "sip:+4930123456@pbx.example", "sip:004930123456@pbx.example", "sip:49-30-123456@other.example"];
        let admitted = spellings.iter().zip(0u8..).filter(|(text, seed)| codes.admit(user(*seed), &mail(text), None, now));
        assert_eq!(admitted.count(), 2);
        let mut codes = Codes::default();
        let beside = |number: u32| mail(&format!("sip:+49301234{number:03}@pbx.example"));
        assert_eq!((0..100).filter(|number| codes.admit(user(*number), &beside((*number).into()), None, now)).count(), 5);
    }

    #[test]
    fn codes_are_digits() {
        let code = random_code().expect("randomness");
        assert!(code.iter().all(u8::is_ascii_digit));
    }
}
