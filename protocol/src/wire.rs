//! The one codec of the overlay: bincode 2 with a limit on every decode.
//!
//! Configuration: little endian, variable-length integers, no trailing bytes. Signed bytes are kept as they arrived and never
//! encoded again to be verified, so a non-canonical encoding can't change what was signed.
//!
//! bincode alone can't grow: a field more and an old reader fails. So every signed body and every message ends in
//! [`Extensions`]; and a message the reader doesn't know costs one [`Frame`], never the stream.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::de::read::Reader;
use bincode::enc::write::SizeWriter;
use bincode::{Decode, Encode};

use crate::key::{PublicKey, SecretKey, Signature, SignatureError};

/// Name of the multiplexed stream protocol between two nodes. The number changes only when frames themselves change.
pub const OVERLAY_PROTOCOL: &str = "/halloo/overlay/1";

/// Largest frame on an overlay stream, header included. Bounds what a stranger can make us buffer per stream.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Largest body of a frame: [`FRAME_BYTES_MAX`] less kind (3), id (5) and length (5), rounded down.
pub const FRAME_BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - 16;

/// Most extensions one body may carry.
pub const EXTENSIONS_MAX: usize = 16;

/// Tags from here up must be understood by the reader; lower ones are kept and passed on unread.
pub const EXTENSION_CRITICAL_FROM: u16 = 0x8000;

/// Why bytes were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input is longer than the type's limit; nothing was parsed.
    #[error("{length} bytes exceed the limit of {limit}")]
    TooLarge {
        /// Bytes received.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The bytes aren't an encoding of the type.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Bytes were left over after the value.
    #[error("{0} bytes after the end of the value")]
    TrailingBytes(usize),
    /// A field holds a value its type forbids.
    #[error("invalid {field}: {reason}")]
    Invalid {
        /// Field name.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An extension that the sender says must be understood isn't known here.
    #[error("extension {0:#06x} must be understood and isn't")]
    UnknownCriticalExtension(u16),
    /// The object's type number isn't the one expected here.
    #[error("object kind {found:#06x} where {expected:#06x} was expected")]
    WrongKind {
        /// Kind in the bytes.
        found: u16,
        /// Kind wanted.
        expected: u16,
    },
    /// The object's version is newer than this reader.
    #[error("object kind {kind:#06x} has version {version}, newest known is {newest}")]
    UnknownVersion {
        /// Kind in the bytes.
        kind: u16,
        /// Version in the bytes.
        version: u16,
        /// Newest version this reader knows.
        newest: u16,
    },
}

impl DecodeError {
    /// A field whose value is out of range.
    pub fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }
}

type WireConfig<const LIMIT: usize> = Configuration<LittleEndian, Varint, Limit<LIMIT>>;

/// Memory a decode may claim: generous against the encoded size, since in memory a vector of small
/// structures is larger than on the wire, yet a constant.
const DECODE_CLAIM_MAX: usize = 4 * FRAME_BYTES_MAX;

fn config() -> WireConfig<DECODE_CLAIM_MAX> {
    bincode::config::standard().with_limit::<DECODE_CLAIM_MAX>()
}

/// Encodes a value. Infallible for the types of this crate: they hold nothing bincode can't write.
#[must_use]
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    // Encoding isn't limited: limits are the reader's defence, and builders check sizes with typed errors.
    bincode::encode_to_vec(value, bincode::config::standard()).unwrap_or_default()
}

/// Bytes [`encode`] would write, without writing them.
#[must_use]
pub fn encoded_len<T: Encode>(value: &T) -> usize {
    let mut size = SizeWriter::default();
    // Counting can't fail where encoding can't.
    let _ = bincode::encode_into_writer(value, &mut size, bincode::config::standard());
    size.bytes_written
}

/// Decodes a value from exactly `bytes`.
///
/// # Errors
/// [`DecodeError::TooLarge`] before anything is parsed if `bytes` is longer than `limit`;
/// [`DecodeError::TrailingBytes`] or [`DecodeError::Malformed`] otherwise. Memory claimed while decoding is bounded by
/// four times [`FRAME_BYTES_MAX`] whatever lengths the bytes announce.
pub fn decode<T: Decode<()>>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { length: bytes.len(), limit });
    }
    let (value, used) =
        bincode::decode_from_slice::<T, _>(bytes, config()).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if used != bytes.len() {
        return Err(DecodeError::TrailingBytes(bytes.len() - used));
    }
    Ok(value)
}

/// One extension of a body: a number, and bytes only those who know the number read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Extension {
    /// What it is. From [`EXTENSION_CRITICAL_FROM`] up: refuse the body if unknown.
    pub tag: u16,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The list that ends every body, so that bodies can grow.
///
/// Decoding refuses lists longer than [`EXTENSIONS_MAX`] and, since no critical extension exists yet, every critical one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode)]
pub struct Extensions(Vec<Extension>);

impl Extensions {
    /// No extensions: one zero byte on the wire.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Adds an extension; tags may repeat.
    #[must_use]
    pub fn with(mut self, tag: u16, bytes: Vec<u8>) -> Self {
        self.0.push(Extension { tag, bytes });
        self
    }

    /// The first extension with this tag.
    #[must_use]
    pub fn find(&self, tag: u16) -> Option<&[u8]> {
        self.0.iter().find(|extension| extension.tag == tag).map(|extension| extension.bytes.as_slice())
    }

    /// All extensions in order.
    pub fn iter(&self) -> impl Iterator<Item = &Extension> {
        self.0.iter()
    }
}

impl<Context> Decode<Context> for Extensions {
    fn decode<D: bincode::de::Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, bincode::error::DecodeError> {
        // The count is judged before anything is allocated for it.
        let count = u64::decode(decoder)?;
        if count > EXTENSIONS_MAX as u64 {
            return Err(bincode::error::DecodeError::OtherString(format!(
                "{count} extensions, at most {EXTENSIONS_MAX} allowed"
            )));
        }
        let list = (0..count).map(|_| Extension::decode(decoder)).collect::<Result<Vec<_>, _>>()?;
        if let Some(critical) = list.iter().find(|extension| extension.tag >= EXTENSION_CRITICAL_FROM) {
            return Err(bincode::error::DecodeError::OtherString(format!(
                "extension {:#06x} must be understood and isn't",
                critical.tag
            )));
        }
        Ok(Self(list))
    }
}
bincode::impl_borrow_decode!(Extensions);

/// What travels on an overlay stream: `uvarint length || kind || id || body`.
///
/// `id` pairs an answer with its request on the same stream: a request has a number its sender hasn't in use there,
/// its answer repeats it; a one-way notice has 0. A reader that doesn't know `kind` answers a request with
/// [`FrameKind::UNSUPPORTED`] and counts the frame.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Frame {
    /// Which message the body is.
    pub kind: FrameKind,
    /// Pairs an answer with its request; 0 for a notice.
    pub id: u32,
    /// The encoded message.
    pub body: Vec<u8>,
}

impl Frame {
    /// Encodes `message` as a frame of its kind.
    pub fn new<M: Message>(id: u32, message: &M) -> Self {
        Self { kind: M::KIND, id, body: encode(message) }
    }

    /// Length of the encoded frame around `message`, without making it.
    pub fn len_of<M: Message>(id: u32, message: &M) -> usize {
        let body = encoded_len(message);
        encoded_len(&M::KIND) + encoded_len(&id) + encoded_len(&(body as u64)) + body
    }

    /// Decodes the body as `M`.
    ///
    /// # Errors
    /// [`DecodeError::WrongKind`] if the frame is of another kind, or what is wrong with the body, field ranges included.
    pub fn parse<M: Message>(&self) -> Result<M, DecodeError> {
        if self.kind != M::KIND {
            return Err(DecodeError::WrongKind { found: self.kind.0, expected: M::KIND.0 });
        }
        let message: M = decode(&self.body, M::LIMIT)?;
        message.check()?;
        Ok(message)
    }
}

/// Number of a message type. Bit 15 is set in answers; bit 14 is set in notices, which get no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct FrameKind(pub u16);

impl FrameKind {
    /// Bit that marks an answer.
    pub const ANSWER: u16 = 0x8000;
    /// Bit that marks a notice.
    pub const NOTICE: u16 = 0x4000;
    /// Answer to a request whose kind the reader doesn't know, or whose body it can't read. Empty body.
    pub const UNSUPPORTED: Self = Self(Self::ANSWER);
    /// Answer to a request refused because the sender asks too much. Empty body.
    pub const BUSY: Self = Self(Self::ANSWER | 1);

    /// A request with an empty body that every node answers with [`FrameKind::UNSUPPORTED`], whoever asks: a sign of life.
    pub const SIGN_OF_LIFE: Self = Self(0x0001);

    /// True if the frame answers a request.
    #[must_use]
    pub const fn is_answer(self) -> bool {
        self.0 & Self::ANSWER != 0
    }

    /// True if the frame wants no answer.
    #[must_use]
    pub const fn is_notice(self) -> bool {
        self.0 & (Self::ANSWER | Self::NOTICE) == Self::NOTICE
    }

    /// True if the frame asks and awaits an answer.
    #[must_use]
    pub const fn is_request(self) -> bool {
        self.0 & (Self::ANSWER | Self::NOTICE) == 0
    }
}

/// A message that travels as a frame's body.
pub trait Message: Encode + Decode<()> {
    /// Its number.
    const KIND: FrameKind;
    /// Largest encoding accepted, in bytes.
    const LIMIT: usize;

    /// Checks field ranges after decoding; [`Frame::parse`] calls it, so no reader can forget.
    ///
    /// # Errors
    /// The field that is out of range.
    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// A body that is signed, alone of its kind under its own domain tag.
pub trait Body: Encode + Decode<()> {
    /// Type number; also selects the signature's domain.
    const KIND: u16;
    /// Newest version this code writes and reads.
    const VERSION: u16 = 1;
    /// Largest encoding accepted, in bytes.
    const LIMIT: usize;

    /// Checks field ranges after decoding.
    ///
    /// # Errors
    /// The field that is out of range.
    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// A signed object: kind, version, body bytes as sent, signature over them.
///
/// Decoding it checks everything but the signature, whose key is known only in context: call [`Signed::verify`] before believing it.
/// Equality compares the bytes. Layout: `kind u16 || version u16 || body length || body || signature (64)`.
#[derive(Clone, Debug)]
pub struct Signed<T> {
    version: u16,
    bytes: Vec<u8>,
    signature: Signature,
    value: T,
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.bytes == other.bytes && self.signature == other.signature
    }
}

impl<T> Eq for Signed<T> {}

impl<T: Body> Signed<T> {
    /// Signs `value`.
    pub fn sign(value: T, key: &SecretKey) -> Self {
        let bytes = encode(&value);
        let signature = key.sign(&Self::signed_bytes(T::VERSION, &bytes));
        Self { version: T::VERSION, bytes, signature, value }
    }

    /// Signs `value` with a key that isn't a [`SecretKey`]: `sign` gets the bytes to sign.
    pub(crate) fn sign_with(value: T, sign: impl FnOnce(&[u8]) -> Signature) -> Self {
        let bytes = encode(&value);
        let signature = sign(&Self::signed_bytes(T::VERSION, &bytes));
        Self { version: T::VERSION, bytes, signature, value }
    }

    /// Puts together what was signed elsewhere. Its bytes are those that [`Signed::sign`] makes of `value`: with others, or another signer's, the signature won't hold.
    ///
    /// # Errors
    /// As for decoding: [`DecodeError::TooLarge`], and what [`Body::check`] finds.
    pub(crate) fn from_parts(value: T, signature: Signature) -> Result<Self, DecodeError> {
        value.check()?;
        let bytes = encode(&value);
        if bytes.len() > T::LIMIT {
            return Err(DecodeError::TooLarge { length: bytes.len(), limit: T::LIMIT });
        }
        Ok(Self { version: T::VERSION, bytes, signature, value })
    }

    /// The signature, of whomever.
    pub(crate) const fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`SignatureError`] if `key` didn't sign these bytes as an object of this kind and version.
    pub fn verify(&self, key: &PublicKey) -> Result<&T, SignatureError> {
        key.verify(&Self::signed_bytes(self.version, &self.bytes), &self.signature)?;
        Ok(&self.value)
    }

    /// The content, whoever signed it. For looking up whose key to verify with.
    pub const fn unverified(&self) -> &T {
        &self.value
    }

    /// The body's bytes as signed.
    pub fn body_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// [`crate::key::hash`] of the body's bytes under the domain `halloo body hash`: names this very statement.
    #[must_use]
    pub fn body_hash(&self) -> [u8; 32] {
        crate::key::hash("halloo body hash", &[&self.bytes])
    }

    fn signed_bytes(version: u16, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(body.len() + 32);
        message.extend_from_slice(b"halloo signed object\0");
        message.extend_from_slice(&T::KIND.to_be_bytes());
        message.extend_from_slice(&version.to_be_bytes());
        message.extend_from_slice(&(body.len() as u64).to_be_bytes());
        message.extend_from_slice(body);
        message
    }
}

impl<T: Body> Encode for Signed<T> {
    fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
        T::KIND.encode(encoder)?;
        self.version.encode(encoder)?;
        self.bytes.encode(encoder)?;
        self.signature.encode(encoder)
    }
}

impl<T: Body, Context> Decode<Context> for Signed<T> {
    fn decode<D: bincode::de::Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, bincode::error::DecodeError> {
        let refuse = |error: DecodeError| bincode::error::DecodeError::OtherString(error.to_string());
        let kind = u16::decode(decoder)?;
        if kind != T::KIND {
            return Err(refuse(DecodeError::WrongKind { found: kind, expected: T::KIND }));
        }
        let version = u16::decode(decoder)?;
        if version == 0 || version > T::VERSION {
            return Err(refuse(DecodeError::UnknownVersion { kind, version, newest: T::VERSION }));
        }
        let bytes = decode_body_bytes(decoder, T::LIMIT)?;
        let signature = Signature::decode(decoder)?;
        let value: T = decode(&bytes, T::LIMIT).map_err(refuse)?;
        value.check().map_err(refuse)?;
        Ok(Self { version, bytes, signature, value })
    }
}

/// A byte string whose announced length is judged before memory is taken for it.
fn decode_body_bytes<D: bincode::de::Decoder>(decoder: &mut D, limit: usize) -> Result<Vec<u8>, bincode::error::DecodeError> {
    let announced = u64::decode(decoder)?;
    let length = usize::try_from(announced).unwrap_or(usize::MAX);
    if length > limit {
        return Err(bincode::error::DecodeError::OtherString(DecodeError::TooLarge { length, limit }.to_string()));
    }
    decoder.claim_bytes_read(length)?;
    let mut bytes = vec![0; length];
    decoder.reader().read(&mut bytes)?;
    Ok(bytes)
}

impl<'de, T: Body, Context> bincode::BorrowDecode<'de, Context> for Signed<T> {
    fn borrow_decode<D: bincode::de::BorrowDecoder<'de, Context = Context>>(
        decoder: &mut D,
    ) -> Result<Self, bincode::error::DecodeError> {
        Self::decode(decoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct Note {
        text: String,
        extensions: Extensions,
    }

    impl Body for Note {
        const KIND: u16 = 0x7fff;
        const LIMIT: usize = 100;
    }

    fn note(text: &str) -> Note {
        Note { text: text.into(), extensions: Extensions::none() }
    }

    #[test]
    fn signed_bytes_pass_through_unharmed_with_unknown_extensions() {
        let key = SecretKey::from_bytes([7; 32]);
        let value = Note { text: "hi".into(), extensions: Extensions::none().with(0x0123, vec![1, 2, 3]) };
        let sent = encode(&Signed::sign(value, &key));
        let received: Signed<Note> = decode(&sent, 1_000).expect("decodes");
        assert_eq!(received.verify(&key.public()).expect("verifies").extensions.find(0x0123), Some(&[1u8, 2, 3][..]));
        assert_eq!(encode(&received), sent);
    }

    #[test]
    fn critical_extensions_are_refused() {
        let value = Note { text: "hi".into(), extensions: Extensions::none().with(0x8001, vec![]) };
        let error = decode::<Note>(&encode(&value), 100).expect_err("must be refused");
        assert!(error.to_string().contains("0x8001"), "{error}");
    }

    #[test]
    fn wrong_key_changed_bytes_and_other_kind_are_refused() {
        #[derive(Debug, Encode, Decode)]
        struct Other {
            text: String,
            extensions: Extensions,
        }
        impl Body for Other {
            const KIND: u16 = 0x7ffe;
            const LIMIT: usize = 100;
        }
        let key = SecretKey::from_bytes([7; 32]);
        let signed = Signed::sign(note("pay 1"), &key);
        assert!(signed.verify(&SecretKey::from_bytes([8; 32]).public()).is_err());
        let mut bytes = encode(&signed);
        let position = bytes.iter().position(|&byte| byte == b'1').expect("text is in the clear");
        bytes[position] = b'9';
        let changed: Signed<Note> = decode(&bytes, 1_000).expect("still well formed");
        assert!(changed.verify(&key.public()).is_err());
        assert!(decode::<Signed<Other>>(&encode(&signed), 1_000).is_err());
        // Even with the kind rewritten the signature stands under another domain.
        let mut bytes = encode(&signed);
        let kind = encode(&Other::KIND);
        bytes[..kind.len()].copy_from_slice(&kind);
        let confused: Signed<Other> = decode(&bytes, 1_000).expect("same layout");
        assert!(confused.verify(&key.public()).is_err());
    }

    #[test]
    fn limits_hold_before_parsing_and_lengths_cannot_claim_memory() {
        assert!(matches!(decode::<Vec<u8>>(&[0; 101], 100), Err(DecodeError::TooLarge { length: 101, limit: 100 })));
        // A vector that announces 2^60 bytes.
        let mut huge = vec![253];
        huge.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(matches!(decode::<Vec<u8>>(&huge, 100), Err(DecodeError::Malformed(_))));
        assert!(matches!(decode::<u8>(&[1, 2], 100), Err(DecodeError::TrailingBytes(1))));
    }

    #[test]
    fn a_frame_checks_the_ranges_of_its_message() {
        #[derive(Debug, Encode, Decode)]
        struct Small {
            value: u8,
        }
        impl Message for Small {
            const KIND: FrameKind = FrameKind(0x3fff);
            const LIMIT: usize = 10;
            fn check(&self) -> Result<(), DecodeError> {
                if self.value < 3 { Ok(()) } else { Err(DecodeError::invalid("value", "not small")) }
            }
        }
        assert_eq!(Frame::new(1, &Small { value: 2 }).parse::<Small>().map(|small| small.value), Ok(2));
        assert!(matches!(Frame::new(1, &Small { value: 3 }).parse::<Small>(), Err(DecodeError::Invalid { field: "value", .. })));
    }

    #[test]
    fn lengths_are_known_without_encoding() {
        let value = note("a note of some length");
        assert_eq!(encoded_len(&value), encode(&value).len());
    }

    #[test]
    fn frame_kinds_say_what_they_want() {
        assert!(FrameKind(0x0010).is_request());
        assert!(FrameKind(0x4010).is_notice());
        assert!(FrameKind(0x8010).is_answer());
        assert!(!FrameKind::UNSUPPORTED.is_notice());
    }
}
