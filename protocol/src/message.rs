//! Messages: the envelope, its acknowledgement, read receipts, and the order in which they are shown.
//!
//! A message goes from one device to every device of the recipient, over a stream whose hello has shown who the sender is, so the envelope
//! doesn't repeat the name. Each copy is acknowledged by itself ([`MessageAck`]) and repeated until then ([`Outbox`]).
//!
//! Receivers know a message again by (sender device, id) and order what one device sent by its counter ([`Inbox`]); a missing counter is a gap,
//! worth asking for.
//!
//! What can't be delivered is left in the device's mailboxes ([`crate::mailbox`]), and tried on.

mod inbox;
mod outbox;
#[cfg(test)]
mod tests;

use bincode::{Decode, Encode};

use crate::call::Reason;
use crate::contact::ContactSignal;
use crate::file::FileSignal;
pub use crate::id::{ConversationId, MessageId};
use crate::time::UnixTime;
use crate::wire::{DecodeError, Extensions, FrameKind, Message};
pub use inbox::{INBOX_DEVICES_MAX, INBOX_IDS_PER_DEVICE_MAX, Inbox, Received};
pub use outbox::{CopyState, MessageState, OUTBOX_MESSAGES_MAX, Outbox, OutboxAction, OutboxError, OutboxItem, OutboxTimers};

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
    /// Checks lengths after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        match &self.body {
            MessageBody::Text(text) if text.len() > TEXT_BYTES_MAX => {
                Err(DecodeError::invalid("text", format!("{} bytes, at most {TEXT_BYTES_MAX}", text.len())))
            }
            MessageBody::Text(_) if self.counter == 0 => Err(DecodeError::invalid("counter", "counters start at 1")),
            MessageBody::Text(_) => Ok(()),
            MessageBody::Contact(signal) => signal.check(),
            MessageBody::File(signal) => signal.check(),
        }
    }
}

/// A message on its way to one device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MessageDeliver {
    /// The message.
    pub envelope: Envelope,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MessageDeliver {
    const KIND: FrameKind = FrameKind(0x0020);
    // A profile's picture and the keys that go with it.
    const LIMIT: usize = 40_960;

    fn check(&self) -> Result<(), DecodeError> {
        self.envelope.check()
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

/// "These were read", from a device of the recipient to the device that sent them. A notice: losing one is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReadReceipt {
    /// The conversation.
    pub conversation: ConversationId,
    /// The messages, at most [`RECEIPT_IDS_MAX`].
    pub ids: Vec<MessageId>,
    /// When.
    pub read_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl ReadReceipt {
    /// Checks counts after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if it names too many messages.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.ids.len() > RECEIPT_IDS_MAX {
            return Err(DecodeError::invalid("ids", format!("{}, at most {RECEIPT_IDS_MAX}", self.ids.len())));
        }
        Ok(())
    }
}

impl Message for ReadReceipt {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0021);
    const LIMIT: usize = 2_048;

    fn check(&self) -> Result<(), DecodeError> {
        Self::check(self)
    }
}
