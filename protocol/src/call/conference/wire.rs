//! What devices say about a conference: the word by which a stranger is let in, who is there, and what an invite adds.

use bincode::{Decode, Encode};

use super::PARTICIPANTS_MAX;
use crate::call::Reason;
use crate::call::invite::{Invite, VerifiedInvite};
use crate::id::{CallId, ConferenceId};
use crate::identity::{UserId, VerifiedChain};
use crate::key::{DeviceKey, IdentityKey, SecretKey, SignatureError, hash};
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, FrameKind, Message, Signed};

/// Longest validity of an [`Introduction`]: renewed at half of it for as long as both are there, so a word that got around is soon worth nothing.
pub const INTRODUCTION_SECS_MAX: u64 = 600;

/// Most others that an [`Attendance`] names: neither who says it nor who hears it is among them.
pub(super) const PRESENT_MAX: usize = PARTICIPANTS_MAX - 2;

/// Tag of the invite's extension that holds a [`ConferencePart`].
pub const CONFERENCE_EXTENSION: u16 = 0x0002;

/// Largest [`ConferencePart`]: a word and a few numbers.
const PART_BYTES_MAX: usize = 768;

impl ConferenceId {
    /// The conference that a call between two devices becomes when either adds somebody: both know the parts, so both mean the same one, even
    /// if they add somebody at the same moment.
    #[must_use]
    pub fn of_call(call: &CallId, caller: &DeviceKey, callee: &DeviceKey) -> Self {
        let digest = hash("halloo conference", &[&call.0, caller.as_bytes(), callee.as_bytes()]);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

/// Somebody who takes part: a user, on one device, as certificates say. Whoever is dialled or dials proves to be it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Participant {
    /// Who.
    pub user: UserId,
    /// Their identity key.
    pub identity: IdentityKey,
    /// The device they take part with.
    pub device: DeviceKey,
}

impl From<&VerifiedChain> for Participant {
    fn from(chain: &VerifiedChain) -> Self {
        Self { user: chain.user.id.clone(), identity: chain.user.identity, device: chain.device }
    }
}

/// A participant's word that somebody takes part. Signed by `by`. It is worth something to those who are in the conference with `by`, and to nobody
/// else, and for nothing but a leg of this conference.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Introduction {
    /// The conference.
    pub conference: ConferenceId,
    /// Who vouches, and signs.
    pub by: DeviceKey,
    /// For whom.
    pub participant: Participant,
    /// When it was said.
    pub issued_at: UnixTime,
    /// From then on it is worth nothing; at most [`INTRODUCTION_SECS_MAX`] later.
    pub expires_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for Introduction {
    const KIND: u16 = 0x0303;
    const LIMIT: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        if self.expires_at < self.issued_at || self.expires_at.secs_since(self.issued_at) > INTRODUCTION_SECS_MAX {
            let detail = format!("more than {INTRODUCTION_SECS_MAX} s after issue, or before it");
            return Err(DecodeError::invalid("expires_at", detail));
        }
        Ok(())
    }
}

/// An [`Introduction`] that the device it names has signed, in its time. Whether that device has a say is [`super::Conference::admit`]'s to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedIntroduction(Introduction);

impl VerifiedIntroduction {
    /// Checks signature and time.
    ///
    /// # Errors
    /// [`IntroductionError`].
    pub fn verify(signed: &Signed<Introduction>, now: UnixTime) -> Result<Self, IntroductionError> {
        let word = signed.verify(&signed.unverified().by.0)?;
        if word.issued_at.is_from_the_future(now) {
            return Err(IntroductionError::FromTheFuture(word.issued_at));
        }
        if now >= word.expires_at {
            return Err(IntroductionError::Expired(word.expires_at));
        }
        Ok(Self(word.clone()))
    }

    /// What it says.
    #[must_use]
    pub const fn introduction(&self) -> &Introduction {
        &self.0
    }
}

/// Why a word isn't believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IntroductionError {
    /// Not signed by the device it names.
    #[error("introduction: {0}")]
    Signature(#[from] SignatureError),
    /// Dated further ahead than clocks differ.
    #[error("the introduction is dated {0}, which hasn't come")]
    FromTheFuture(UnixTime),
    /// Too late.
    #[error("the introduction expired at {0}")]
    Expired(UnixTime),
}

/// Somebody to whom the speaker has a leg.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Present {
    /// Who.
    pub participant: Participant,
    /// When they came, as they say.
    pub since: UnixTime,
}

/// Who is there, as one device sees it, told to one other over their leg. Signed by `from`. Each replaces those with lower numbers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Attendance {
    /// The conference.
    pub conference: ConferenceId,
    /// The call that is the leg between the two.
    pub call: CallId,
    /// Who says it, and signs.
    pub from: DeviceKey,
    /// For whom.
    pub to: DeviceKey,
    /// Number among those over this leg, from 1 on.
    pub number: u32,
    /// When `from` came.
    pub since: UnixTime,
    /// Whom `from` has legs with, besides `to`; at most 6.
    pub present: Vec<Present>,
    /// `from`'s word for `to`: what `to` shows to the others.
    pub word: Signed<Introduction>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for Attendance {
    const KIND: u16 = 0x0304;
    const LIMIT: usize = 3_584;

    fn check(&self) -> Result<(), DecodeError> {
        if self.present.len() > PRESENT_MAX {
            return Err(DecodeError::invalid("present", format!("{} others, at most {PRESENT_MAX}", self.present.len())));
        }
        Ok(())
    }
}

/// An [`Attendance`] that the device it names has signed for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedAttendance(Attendance);

impl VerifiedAttendance {
    /// Checks recipient and signature. `None` if either is wrong.
    #[must_use]
    pub fn verify(signed: &Signed<Attendance>, me: &DeviceKey) -> Option<Self> {
        let claimed = signed.unverified();
        let verified = signed.verify(&claimed.from.0).ok()?;
        (verified.to == *me).then(|| Self(verified.clone()))
    }

    /// What it says.
    #[must_use]
    pub const fn attendance(&self) -> &Attendance {
        &self.0
    }
}

/// What is to be told to one other, before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttendanceDraft {
    pub(super) conference: ConferenceId,
    pub(super) call: CallId,
    pub(super) from: DeviceKey,
    pub(super) to: Participant,
    pub(super) number: u32,
    pub(super) since: UnixTime,
    pub(super) present: Vec<Present>,
    pub(super) issued_at: UnixTime,
}

impl AttendanceDraft {
    /// For whom.
    #[must_use]
    pub const fn to(&self) -> DeviceKey {
        self.to.device
    }

    /// The call that is the leg to them.
    #[must_use]
    pub const fn call(&self) -> CallId {
        self.call
    }

    /// Which it is; the acknowledgement is brought with it.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Signs the word, and the whole.
    #[must_use]
    pub fn sign(self, device: &SecretKey) -> Signed<Attendance> {
        let Self { conference, call, from, to, number, since, present, issued_at } = self;
        let recipient = to.device;
        let word = Introduction {
            conference,
            by: from,
            participant: to,
            issued_at,
            expires_at: issued_at.plus_secs(INTRODUCTION_SECS_MAX),
            extensions: Extensions::none(),
        };
        let word = Signed::sign(word, device);
        let extensions = Extensions::none();
        Signed::sign(Attendance { conference, call, from, to: recipient, number, since, present, word, extensions }, device)
    }
}

/// An [`Attendance`] on its way. Repeated until [`ConferenceNoticed`] comes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConferenceNotice {
    /// The attendance.
    pub attendance: Signed<Attendance>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for ConferenceNotice {
    const KIND: FrameKind = FrameKind(0x0036);
    const LIMIT: usize = Attendance::LIMIT + 512;
}

/// What the receiver did with an attendance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AttendanceStatus {
    /// Taken, now or before.
    Taken,
    /// There is no such leg here, or not yet.
    NoSuchLeg,
    /// Not taken.
    Refused(Reason),
}

/// Answer to [`ConferenceNotice`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConferenceNoticed {
    /// What happened.
    pub status: AttendanceStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for ConferenceNoticed {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | ConferenceNotice::KIND.0);
    const LIMIT: usize = 256;
}

/// What an invite says of the conference that it belongs to: an extension of the invite, signed and sealed with it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConferencePart {
    /// The conference.
    pub conference: ConferenceId,
    /// A leg between two who are both in the conference: it never rings. Otherwise a person is asked in.
    pub is_leg: bool,
    /// When the caller came.
    pub since: UnixTime,
    /// A participant's word for the caller.
    pub word: Option<Signed<Introduction>>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl ConferencePart {
    /// The invite's extensions with this among them.
    #[must_use]
    pub fn add_to(&self, extensions: Extensions) -> Extensions {
        extensions.with(CONFERENCE_EXTENSION, wire::encode(self))
    }

    /// What an invite says of a conference.
    ///
    /// # Errors
    /// [`DecodeError`] if it says something that can't be read: such an invite isn't an ordinary one.
    pub fn of(invite: &Invite) -> Result<Option<Self>, DecodeError> {
        let bytes = invite.extensions.find(CONFERENCE_EXTENSION);
        bytes.map(|bytes| wire::decode(bytes, PART_BYTES_MAX)).transpose()
    }

    /// The word, if it is good and for the invite's caller.
    ///
    /// # Errors
    /// [`IntroductionError`] if there is one and it isn't good.
    pub fn verified_word(
        &self,
        invite: &VerifiedInvite,
        now: UnixTime,
    ) -> Result<Option<VerifiedIntroduction>, IntroductionError> {
        let word = self.word.as_ref().map(|word| VerifiedIntroduction::verify(word, now)).transpose()?;
        Ok(word.filter(|word| word.0.participant == Participant::from(invite.caller())))
    }
}
