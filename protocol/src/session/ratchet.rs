//! One session, and what is inside its messages.
//!
//! Plain: `version (1) || generation u32 || pair (32) || length u32 || envelope || zeros`, numbers big endian, padded to one of
//! [`PLAIN_SIZE_CLASSES`].

use std::fmt;

use bincode::{Decode, Encode};
use vodozemac::Curve25519PublicKey;
use vodozemac::olm::{self, OlmMessage, PreKeyMessage};
use zeroize::Zeroizing;

use super::{Account, Ciphertext, OpenError, PreKeys, SealError, SealedMessage, SessionId};
use crate::id::MessageId;
use crate::identity::UserId;
use crate::key::{DeviceKey, IdentityKey, hash};
use crate::message::Envelope;
use crate::wire::{self, DecodeError, Extensions};

/// Sizes that what is encrypted can have: a sentence or a mark, an answer to a contact request, a page, the longest text, a profile with its picture.
/// Each fits the next size class of letters.
pub const PLAIN_SIZE_CLASSES: [usize; 6] = [256, 1_024, 3_584, 8_704, 18_432, PLAIN_BYTES_MAX];

/// Largest padded plain text.
pub const PLAIN_BYTES_MAX: usize = 40_448;

/// First byte of a plain text.
const PLAIN_VERSION: u8 = 1;

const HEADER_BYTES: usize = 1 + 4 + 32 + 4;

/// Largest stored session: five chains with 40 keys each that were skipped, as Olm keeps them.
const SESSION_BYTES_MAX: usize = 60 * 1_024;

/// Between which devices a message is, and whose they are. Both ends compute it; a message of any other pair doesn't open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pair([u8; 32]);

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair(..)")
    }
}

impl Pair {
    /// From a device of one user to a device of another, in this order.
    #[must_use]
    pub fn of(from: (&UserId, &IdentityKey, &DeviceKey), to: (&UserId, &IdentityKey, &DeviceKey)) -> Self {
        let (sender, recipient) = (wire::encode(from.0), wire::encode(to.0));
        let parts: [&[u8]; 6] = [&sender, from.1.as_bytes(), from.2.as_bytes(), &recipient, to.1.as_bytes(), to.2.as_bytes()];
        Self(hash("halloo session pair 1", &parts))
    }
}

/// A session with one device: the double ratchet's state. Secrets are wiped when dropped and never printed.
pub struct Session {
    olm: olm::Session,
    id: SessionId,
    generation: u32,
    sent: u64,
    is_retired: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, generation, sent, is_retired, .. } = self;
        write!(f, "Session({id}, generation {generation}, {sent} sent, retired {is_retired})")
    }
}

#[derive(Encode, Decode)]
struct Stored {
    pickle: Vec<u8>,
    generation: u32,
    sent: u64,
    is_retired: bool,
}

fn id_of(keys: &olm::SessionKeys) -> SessionId {
    let parts: [&[u8]; 3] = [keys.identity_key.as_bytes(), keys.base_key.as_bytes(), keys.one_time_key.as_bytes()];
    let digest = hash("halloo session id 1", &parts);
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    SessionId(id)
}

impl Session {
    /// Starts one with a device: with a one-time key of it, else with its fallback key.
    pub(super) fn start(
        account: &Account,
        keys: &PreKeys,
        one_time: Option<[u8; 32]>,
        generation: u32,
    ) -> Result<Self, SealError> {
        let identity = Curve25519PublicKey::from_bytes(keys.identity);
        let key = Curve25519PublicKey::from_bytes(one_time.unwrap_or(keys.fallback));
        let olm = account.olm.create_outbound_session(olm::SessionConfig::version_1(), identity, key);
        let olm = olm.map_err(|_| SealError::RecipientKeys)?;
        Ok(Self { id: id_of(&olm.session_keys()), olm, generation, sent: 0, is_retired: false })
    }

    /// Takes up one that the other side has started, with the message that started it.
    pub(super) fn accept(
        account: &mut Account,
        pair: &Pair,
        message: &SealedMessage,
        first: &PreKeyMessage,
    ) -> Result<(Self, Envelope), OpenError> {
        let config = olm::SessionConfig::version_1();
        let made = account.olm.create_inbound_session(config, first.identity_key(), first);
        let made = made.map_err(|error| OpenError::Unopened(error.to_string()))?;
        account.used(first.one_time_key().as_bytes());
        let plain = Zeroizing::new(made.plaintext);
        let (generation, envelope) = read_plain(&plain, pair, &message.id)?;
        let session = Self { id: id_of(&made.session.session_keys()), olm: made.session, generation, sent: 0, is_retired: false };
        Ok((session, envelope))
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// How many sessions were given up before this one; of two sessions the later one counts.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) const fn is_retired(&self) -> bool {
        self.is_retired
    }

    pub(super) fn retire(&mut self) {
        self.is_retired = true;
    }

    pub(super) fn encrypt(&mut self, pair: &Pair, envelope: &Envelope) -> Result<SealedMessage, SealError> {
        let plain = pad(self.generation, pair, &wire::encode(envelope))?;
        let sealed = self.olm.encrypt(plain.as_slice()).map_err(|_| SealError::RecipientKeys)?;
        self.sent = self.sent.saturating_add(1);
        let ciphertext = match &sealed {
            OlmMessage::PreKey(first) => Ciphertext::First(first.to_bytes()),
            OlmMessage::Normal(later) => Ciphertext::Later(later.to_bytes()),
        };
        let extensions = Extensions::none();
        Ok(SealedMessage { id: envelope.id, session: self.id, number: self.sent, ciphertext, extensions })
    }

    pub(super) fn decrypt(&mut self, pair: &Pair, id: &MessageId, sealed: &OlmMessage) -> Result<Envelope, OpenError> {
        let plain = self.olm.decrypt(sealed).map_err(|error| OpenError::Unopened(error.to_string()))?;
        let (_, envelope) = read_plain(&Zeroizing::new(plain), pair, id)?;
        Ok(envelope)
    }

    /// All of it, secrets included, for storage.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let stored = Stored {
            pickle: serde_json::to_vec(&self.olm.pickle()).unwrap_or_default(),
            generation: self.generation,
            sent: self.sent,
            is_retired: self.is_retired,
        };
        Zeroizing::new(wire::encode(&stored))
    }

    /// A session from [`Session::to_bytes`].
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let stored: Stored = wire::decode(bytes, SESSION_BYTES_MAX)?;
        let pickle = Zeroizing::new(stored.pickle);
        let pickle: olm::SessionPickle =
            serde_json::from_slice(&pickle).map_err(|error| DecodeError::invalid("session", error.to_string()))?;
        let olm = olm::Session::from_pickle(pickle);
        let Stored { generation, sent, is_retired, .. } = stored;
        Ok(Self { id: id_of(&olm.session_keys()), olm, generation, sent, is_retired })
    }
}

/// The Olm message in a sealed one, and the session it would start.
pub(super) fn parse(message: &SealedMessage) -> Result<OlmMessage, OpenError> {
    let malformed = |error: vodozemac::DecodeError| DecodeError::invalid("ciphertext", error.to_string());
    Ok(match &message.ciphertext {
        Ciphertext::First(bytes) => OlmMessage::PreKey(PreKeyMessage::from_bytes(bytes).map_err(malformed)?),
        Ciphertext::Later(bytes) => OlmMessage::Normal(olm::Message::from_bytes(bytes).map_err(malformed)?),
    })
}

/// The session that a first message starts, and the key it was made for.
pub(super) fn started_by(first: &PreKeyMessage) -> (SessionId, [u8; 32]) {
    (id_of(&first.session_keys()), first.one_time_key().to_bytes())
}

fn pad(generation: u32, pair: &Pair, envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let size = envelope.len() + HEADER_BYTES;
    let class = PLAIN_SIZE_CLASSES.into_iter().find(|class| size <= *class);
    let class = class.ok_or(SealError::TooLong(size.saturating_sub(PLAIN_BYTES_MAX)))?;
    let length = u32::try_from(envelope.len()).map_err(|_| SealError::TooLong(size))?;
    let mut plain = Zeroizing::new(Vec::with_capacity(class));
    plain.push(PLAIN_VERSION);
    plain.extend_from_slice(&generation.to_be_bytes());
    plain.extend_from_slice(&pair.0);
    plain.extend_from_slice(&length.to_be_bytes());
    plain.extend_from_slice(envelope);
    plain.resize(class, 0);
    Ok(plain)
}

fn read_plain(plain: &[u8], pair: &Pair, id: &MessageId) -> Result<(u32, Envelope), OpenError> {
    let malformed = || DecodeError::invalid("plain text", "shorter than it says");
    let (version, rest) = plain.split_first().ok_or_else(malformed)?;
    if *version != PLAIN_VERSION {
        return Err(DecodeError::invalid("plain text", format!("version {version}")).into());
    }
    let (generation, rest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
    let (between, rest) = rest.split_first_chunk::<32>().ok_or_else(malformed)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
    if *between != pair.0 {
        return Err(OpenError::WrongPair);
    }
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| malformed())?;
    let envelope: Envelope = wire::decode(rest.get(..length).ok_or_else(malformed)?, PLAIN_BYTES_MAX)?;
    envelope.check()?;
    if envelope.id != *id {
        return Err(DecodeError::invalid("id", "another one inside than outside").into());
    }
    Ok((u32::from_be_bytes(*generation), envelope))
}
