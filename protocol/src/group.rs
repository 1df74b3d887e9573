//! Groups: who is in one, by signed statements, and what members say to each other.
//!
//! A group is what its founder has signed ([`GroupGenesis`]), and statements about members ([`GroupStatement`]), each signed by a device under its
//! user's identity key. A [`Group`] is the set of those that have come; who is a member follows from the set alone ([`Group::view`]), so everybody who
//! has the same statements sees the same members, in whatever order they came, and whoever speaks at the same time as whom.
//!
//! 1. The founder signs the genesis; its hash is the group's id, so nobody else can found the same group.
//! 2. An admin adds a user ([`Change::Add`]) and sends everything said so far to the new member's devices, the new statement to everybody else's.
//! 3. Texts ([`GroupText`]) go from the sender's device to every member's device, one sealed copy each. They name what their sender knew of the group,
//!    in eight bytes; who knows otherwise asks ([`GroupAsk`]), and is given what they lack ([`GroupPart`]).
//! 4. An admin removes a user, or a user leaves: everybody is told, the one who goes too, and from then on there is no copy for them. That is all that
//!    keeps them from reading on, and it is enough: there is no key of the group that they could still hold.
//!
//! # Who may do what
//!
//! Everyone may leave. Admins add and remove. An admin has a rank, the founder's is 0, and may give and take ranks below their own only; so no two admins
//! can throw each other out. A statement names by which appointment its author is an admin ([`GroupStatement::right`]).
//!
//! # At the same time
//!
//! - Statements about one member are ordered by [`GroupStatement::round`], which is one more than the greatest its author knew. In one round removal
//!   comes after addition, and leaving after both: who is added and removed at once is out.
//! - Who loses a rank loses with it what they said as an admin that the remover hadn't seen ([`GroupStatement::seen`]): nobody can add people after
//!   their own removal by dating it back.
//! - A text counts by what its receiver knows when it comes: of somebody no longer a member it is refused, also if it was sent before, and its
//!   sender is told. Who has joined sees what is sent from then on by those who know of it.

mod state;
mod statement;
#[cfg(test)]
mod tests;

use bincode::{Decode, Encode};

pub use state::{Group, GroupError, GroupSigner, GroupView, MemberView};
pub use statement::{
    Attested, Change, GroupGenesis, GroupStatement, Member, RANK_MAX, ROUND_MAX, SEEN_MAX, StatementError, Vouched,
};

pub use crate::id::GroupId;
use crate::message::check_text;
use crate::wire::{self, DecodeError, Extensions};

/// Most members of a group, all of them counted.
pub const MEMBERS_MAX: usize = 64;

/// Longest name of a group, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Statements a group may hold: every member several times added, removed and appointed.
pub const STATEMENTS_MAX: usize = 1_024;

/// Of these, how many are kept for removals and leaving.
pub const STATEMENTS_RESERVED: usize = 128;

/// Statements of one user in one group.
pub const STATEMENTS_PER_AUTHOR_MAX: usize = 512;

/// Statements in one part.
pub const PART_STATEMENTS_MAX: usize = 128;

/// Bytes of statements in one part, so that it stays within a message.
pub const PART_BYTES_MAX: usize = 20 * 1024;

/// Something of what is said in a group about itself: the genesis, and some statements.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GroupPart {
    /// What founded it.
    pub genesis: Vouched<GroupGenesis>,
    /// At most [`PART_STATEMENTS_MAX`].
    pub statements: Vec<Vouched<GroupStatement>>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl GroupPart {
    /// Checks counts after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if there are too many statements.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.statements.len() > PART_STATEMENTS_MAX {
            return Err(DecodeError::invalid("statements", format!("{}, at most {PART_STATEMENTS_MAX}", self.statements.len())));
        }
        Ok(())
    }

    /// The group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        GroupGenesis::id(&self.genesis.statement)
    }

    /// Parts of at most the allowed size with all these statements; one without any if there are none.
    #[must_use]
    pub fn split(genesis: &Vouched<GroupGenesis>, statements: &[Vouched<GroupStatement>]) -> Vec<Self> {
        let part = |statements| Self { genesis: genesis.clone(), statements, extensions: Extensions::none() };
        let mut parts = Vec::new();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for statement in statements {
            let length = wire::encoded_len(statement);
            if !batch.is_empty() && (batch.len() >= PART_STATEMENTS_MAX || bytes + length > PART_BYTES_MAX) {
                parts.push(part(std::mem::take(&mut batch)));
                bytes = 0;
            }
            bytes += length;
            batch.push(statement.clone());
        }
        if !batch.is_empty() || parts.is_empty() {
            parts.push(part(batch));
        }
        parts
    }
}

/// What a sender knows of a group, in eight bytes: equal for equal statements.
pub type Digest = [u8; 8];

/// Said to all members.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GroupText {
    /// At most [`TEXT_BYTES_MAX`](crate::message::TEXT_BYTES_MAX) bytes.
    pub text: String,
    /// What the sender knew of the group.
    pub digest: Digest,
    /// Room to grow.
    pub extensions: Extensions,
}

/// "What else do you know of this group?"
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GroupAsk {
    /// The group.
    pub group: GroupId,
    /// The first eight bytes of the hashes of all statements the asker has; at most [`STATEMENTS_MAX`].
    pub have: Vec<Digest>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// What members say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum GroupSignal {
    /// A text; part of the conversation, whose id is the group's.
    Text(GroupText),
    /// What is said about members.
    Part(Box<GroupPart>),
    /// Asks for what is said about members.
    Ask(GroupAsk),
}

impl GroupSignal {
    /// Checks lengths and counts after decoding.
    ///
    /// # Errors
    /// [`DecodeError`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Text(text) => check_text(&text.text),
            Self::Part(part) => part.check(),
            Self::Ask(ask) if ask.have.len() > STATEMENTS_MAX => {
                Err(DecodeError::invalid("have", format!("{}, at most {STATEMENTS_MAX}", ask.have.len())))
            }
            Self::Ask(_) => Ok(()),
        }
    }

    /// The word for logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "group text",
            Self::Part(_) => "group part",
            Self::Ask(_) => "group ask",
        }
    }
}

/// Whether a user takes part in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Standing {
    /// Somebody who may not add this user has done so; the user hasn't said yet.
    Waiting,
    /// Takes part.
    Joined,
    /// Doesn't want to.
    Declined,
}

/// A user's answer to being in a group, the same on all their devices. The one with the greater round counts, then the greater answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct StandingMark {
    /// The group.
    pub group: GroupId,
    /// Of the statement that it answers, about this user: one that is added again is asked again.
    pub round: u32,
    /// The answer.
    pub standing: Standing,
}
