//! What tells a sleeping device of an event whose content is too long for a push: who, what kind, which message. The content waits in its mailboxes.
//!
//! Plain: `length u16 big endian || Signed<EventNotice> || zeros`, padded so that the sealed whole has [`NOTICE_BYTES`]. Sealed as letters are
//! ([`crate::mailbox`]), with info `halloo notice 1`. What fits is pushed as a letter itself, and nothing has to be fetched.

use std::fmt;

use bincode::{Decode, Encode};

use crate::call::HpkeKeyRing;
use crate::event::EventKind;
use crate::id::MessageId;
use crate::identity::{Chain, TrustStore, VerifiedChain};
use crate::key::{DeviceKey, SecretKey};
use crate::mailbox::{LetterError, SealLetterError, open_signed, seal_signed};
use crate::time::UnixTime;
use crate::wire::{Body, Extensions, Signed};

/// The one size of a sealed notice.
pub const NOTICE_BYTES: usize = 1_024;

const SEAL_INFO: &[u8] = b"halloo notice 1";

/// "I have left something for you." Signed by the sender's device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EventNotice {
    /// Who has.
    pub chain: Chain,
    /// Which device is meant: a notice can't be sealed on to another.
    pub recipient: DeviceKey,
    /// What kind of event it is.
    pub event: EventKind,
    /// The message that waits.
    pub message: MessageId,
    /// When it was written.
    pub sent_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for EventNotice {
    const KIND: u16 = 0x0503;
    const LIMIT: usize = NOTICE_BYTES;
}

/// An [`EventNotice`], sealed to one device.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedNotice(Vec<u8>);

impl fmt::Debug for SealedNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedNotice({} bytes)", self.0.len())
    }
}

impl SealedNotice {
    /// Signs `notice` with the sender's device key and seals it to `hpke_key`, the key in the recipient's entry.
    ///
    /// # Errors
    /// [`SealLetterError`] if it doesn't fit or the key is none.
    pub fn seal(
        notice: EventNotice,
        device: &SecretKey,
        hpke_key: &[u8; 32],
        rng: &mut impl rand::CryptoRng,
    ) -> Result<Self, SealLetterError> {
        let recipient = notice.recipient;
        Ok(Self(seal_signed(notice, &recipient, device, hpke_key, (&[NOTICE_BYTES], SEAL_INFO), rng)?))
    }

    /// Takes bytes that arrived; what they are shows on opening. `None` if their size is another than a notice's.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() == NOTICE_BYTES).then_some(Self(bytes))
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Opens and checks: seal, form, recipient, chain, signature. `now` is the corrected time. Gives the notice and who wrote it.
    ///
    /// # Errors
    /// [`LetterError`].
    pub fn open(
        &self,
        keys: &HpkeKeyRing,
        me: &DeviceKey,
        now: UnixTime,
        trust: &TrustStore,
    ) -> Result<(EventNotice, VerifiedChain), LetterError> {
        let signed: Signed<EventNotice> = open_signed(&self.0, NOTICE_BYTES, SEAL_INFO, keys, me)?;
        let claimed = signed.unverified();
        if claimed.recipient != *me {
            return Err(LetterError::WrongRecipient(claimed.recipient));
        }
        let sender = claimed.chain.verify(now, trust)?;
        let notice = signed.verify(&sender.device.0)?;
        Ok((notice.clone(), sender))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::call::HpkeKeyPair;
    use crate::test_identity::{Authority, NOW, Person};

    fn sealed(from: &Person, to: &Person, hpke: &HpkeKeyPair) -> SealedNotice {
        let notice = EventNotice {
            chain: from.chain.clone(),
            recipient: to.device(),
            event: EventKind::VOICEMAIL,
            message: MessageId([7; 16]),
            sent_at: NOW,
            extensions: Extensions::none(),
        };
        SealedNotice::seal(notice, &from.device_key, &hpke.public(), &mut ChaCha20Rng::seed_from_u64(1)).expect("fits")
    }

    #[test]
    fn only_the_device_meant_opens_it_and_it_says_who_wrote() {
        let authority = Authority::new(1);
        let (alice, bob, carol) = (authority.person("alice", 10), authority.person("bob", 20), authority.person("carol", 30));
        let hpke = HpkeKeyPair::from_bytes(&[7; 32]).expect("any scalar is a key");
        let sealed = sealed(&alice, &bob, &hpke);
        assert_eq!(sealed.as_bytes().len(), NOTICE_BYTES);
        let keys = HpkeKeyRing::new(hpke, NOW);
        let (notice, sender) = sealed.open(&keys, &bob.device(), NOW, &authority.trust()).expect("it is bob's");
        assert_eq!((notice.message, notice.event, sender.device), (MessageId([7; 16]), EventKind::VOICEMAIL, alice.device()));
        let others = sealed.open(&keys, &carol.device(), NOW, &authority.trust());
        assert_eq!(others.unwrap_err(), LetterError::NotForMe);
        let unknown = sealed.open(&keys, &bob.device(), NOW, &Authority::new(9).trust());
        assert!(matches!(unknown, Err(LetterError::Chain(_))), "{unknown:?}");
        for position in [0, 1, 40, NOTICE_BYTES - 1] {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[position] ^= 1;
            let changed = SealedNotice::from_bytes(bytes).expect("as long");
            assert!(changed.open(&keys, &bob.device(), NOW, &authority.trust()).is_err(), "byte {position}");
        }
        assert_eq!(SealedNotice::from_bytes(vec![1; NOTICE_BYTES - 1]), None);
    }
}
