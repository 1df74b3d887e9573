//! Messages: the envelope, its acknowledgement, read receipts, and the order in which they are shown.
//!
//! A message goes from one device to every device of the recipient, over a stream whose hello has shown who the sender is, so the envelope
//! doesn't repeat the name. It goes encrypted for the one device ([`crate::session`]); what strangers ask goes plain ([`Envelope::may_go_plain`]). Each
//! copy is acknowledged by itself ([`MessageAck`]) and repeated until then ([`Outbox`]).
//!
//! Receivers know a message again by (sender device, id) and order what one device sent by its counter. Which counters have come, and which were
//! read, are sets that grow ([`Marks`]): a missing one is a gap, and asked for ([`HistoryRequest`]).
//!
//! That messages were read is told by a [`ReadReceipt`], kept and repeated like any message; the user's own devices tell each other more
//! ([`OwnSignal`]). What goes on in groups is a body too ([`crate::group`]).
//!
//! That somebody is writing is a notice of its own ([`Composing`]), which nobody keeps.
//!
//! What can't be delivered is left in the device's mailboxes ([`crate::mailbox`]), and tried on.

mod composing;
mod counters;
mod outbox;
mod own;
#[cfg(test)]
mod tests;

use bincode::{Decode, Encode};

use crate::call::Reason;
use crate::contact::ContactSignal;
use crate::file::FileSignal;
use crate::group::GroupSignal;
pub use crate::id::{ConversationId, MessageId};
use crate::session::{MessagesUnopened, SealedMessage, Unopened};
use crate::time::UnixTime;
use crate::voicemail::{Voicemail, VoicemailSignal};
use crate::wire::{DecodeError, Extensions, FrameKind, Message};
pub use composing::{COMPOSING_SECS, COMPOSING_SECS_MAX, Composing};
pub use counters::{COUNTER_RANGES_MAX, CounterSet};
pub use outbox::{
    COPIES_MAX, Copy, CopyState, MessageState, OUTBOX_MESSAGES_MAX, OWN_ONLY_MAX, Outbox, OutboxAction, OutboxError, OutboxItem,
    OutboxTimers, RECIPIENTS_MAX, Recipient,
};
pub use own::{
    CALL_MARKS_MAX, CallFate, CallMark, CallMarks, ConversationMarks, Correspondent, HISTORY_BODY_BYTES_MAX, HISTORY_BYTES_MAX,
    HISTORY_ITEMS_MAX, HistoryItem, HistoryPage, HistoryQuery, HistoryRequest, MARKS_MAX, MARKS_PER_ITEM_MAX, Mark, Marks,
    OwnSignal, PROGRESS_MAX, Progress, ReadReceipt, STATE_ITEMS_MAX, StateItem, state_signals,
};

/// Longest text of a message, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Most messages one receipt is about.
pub const RECEIPT_IDS_MAX: usize = 64;

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum MessageBody {
    /// Plain text, at most [`TEXT_BYTES_MAX`].
    Text(String),
    /// What contacts, and those who want to become contacts, say to each other; not shown in the conversation.
    Contact(ContactSignal),
    /// What is said about files; not shown in the conversation.
    File(FileSignal),
    /// What members of a group say to each other.
    Group(Box<GroupSignal>),
    /// What devices of one user say to each other; not shown.
    Own(Box<OwnSignal>),
    /// What was read; not shown.
    Read(Box<ReadReceipt>),
    /// What a caller has left for somebody who didn't answer.
    Voicemail(Box<VoicemailSignal>),
}

impl MessageBody {
    /// True for what people say: it is part of the conversation and has a number in it. The rest are signals.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        match self {
            Self::Text(_) => true,
            Self::Group(signal) => matches!(**signal, GroupSignal::Text(_)),
            Self::Voicemail(signal) => matches!(**signal, VoicemailSignal::Left(_)),
            Self::Contact(_) | Self::File(_) | Self::Own(_) | Self::Read(_) => false,
        }
    }

    /// The text, where there is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Group(signal) => match &**signal {
                GroupSignal::Text(text) => Some(&text.text),
                _ => None,
            },
            Self::Contact(_) | Self::File(_) | Self::Own(_) | Self::Read(_) | Self::Voicemail(_) => None,
        }
    }

    /// What was recorded, where that is what it says.
    #[must_use]
    pub fn voicemail(&self) -> Option<&Voicemail> {
        match self {
            Self::Voicemail(signal) => match &**signal {
                VoicemailSignal::Left(voicemail) => Some(voicemail),
                VoicemailSignal::Part(_) => None,
            },
            _ => None,
        }
    }

    /// The word for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Contact(signal) => signal.name(),
            Self::File(signal) => signal.name(),
            Self::Group(signal) => signal.name(),
            Self::Own(signal) => signal.name(),
            Self::Read(_) => "read",
            Self::Voicemail(signal) => signal.name(),
        }
    }
}

/// One message as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    /// The message; the same at every device and in every repetition.
    pub id: MessageId,
    /// The conversation it belongs to.
    pub conversation: ConversationId,
    /// Number among the sending device's messages in this conversation, from 1 on.
    pub counter: u64,
    /// When the sender sent it, for showing; never for ordering what one device sent.
    pub sent_at: UnixTime,
    /// What it says.
    pub body: MessageBody,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Envelope {
    /// True if a device takes this message unencrypted: a contact request, which has to fit through a mailbox's narrow door, and which anybody may
    /// send anyway.
    #[must_use]
    pub const fn may_go_plain(&self) -> bool {
        matches!(&self.body, MessageBody::Contact(ContactSignal::Request(_)))
    }

    /// Checks lengths after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.counter == 0 && self.body.is_shown() {
            return Err(DecodeError::invalid("counter", "counters start at 1"));
        }
        match &self.body {
            MessageBody::Text(text) => check_text(text),
            MessageBody::Contact(signal) => signal.check(),
            MessageBody::File(signal) => signal.check(),
            MessageBody::Group(signal) => signal.check(),
            MessageBody::Own(signal) => signal.check(),
            MessageBody::Read(receipt) => receipt.check(),
            MessageBody::Voicemail(signal) => signal.check(),
        }
    }
}

/// Checks a text's length.
///
/// # Errors
/// [`DecodeError::Invalid`] if it is longer than [`TEXT_BYTES_MAX`].
pub(crate) fn check_text(text: &str) -> Result<(), DecodeError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(DecodeError::invalid("text", format!("{} bytes, at most {TEXT_BYTES_MAX}", text.len())));
    }
    Ok(())
}

/// What travels to one device, on a stream or as a letter.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Content {
    /// A message as it is.
    Plain(Envelope),
    /// A message encrypted for the device.
    Sealed(SealedMessage),
    /// No message: which of the reader's own messages didn't open here. In letters only.
    Unopened(MessagesUnopened),
}

impl Content {
    /// Checks lengths and counts after decoding.
    ///
    /// # Errors
    /// [`DecodeError`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Plain(envelope) => envelope.check(),
            Self::Sealed(message) => message.check(),
            Self::Unopened(unopened) => unopened.check(),
        }
    }
}

/// A message on its way to one device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MessageDeliver {
    /// The message.
    pub content: Content,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MessageDeliver {
    const KIND: FrameKind = FrameKind(0x0020);
    // A profile's picture and the keys that go with it.
    const LIMIT: usize = 40_960;

    fn check(&self) -> Result<(), DecodeError> {
        self.content.check()
    }
}

/// What a device did with a message. Sent after it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum DeliveryStatus {
    /// Kept.
    Accepted,
    /// Kept before.
    Duplicate,
    /// Not taken and not wanted again; [`Reason::TOO_MANY`] may be tried later.
    Refused(Reason),
    /// It doesn't open: encrypt it anew, in another session.
    Unopened(Unopened),
    /// The device takes such messages encrypted only: its entry says with which keys.
    Unencrypted,
}

/// Answer to [`MessageDeliver`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MessageAck {
    /// What happened.
    pub status: DeliveryStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MessageAck {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | MessageDeliver::KIND.0);
    const LIMIT: usize = 256;
}

/// "These have come", about messages that came by other ways than the sender's own stream. A notice: losing one is harmless, the sender's next try
/// is answered as a duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MessageDelivered {
    /// The messages, at most [`RECEIPT_IDS_MAX`].
    pub ids: Vec<MessageId>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MessageDelivered {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0022);
    const LIMIT: usize = 2_048;

    fn check(&self) -> Result<(), DecodeError> {
        if self.ids.len() > RECEIPT_IDS_MAX {
            return Err(DecodeError::invalid("ids", format!("{}, at most {RECEIPT_IDS_MAX}", self.ids.len())));
        }
        Ok(())
    }
}
