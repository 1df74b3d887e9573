//! What an invite says of a linked system: as whom the caller calls, and whom.

use bincode::{Decode, Encode};

use super::association::Association;
use super::id::LinkedId;
use super::proof::{PROOF_BYTES_MAX, PROOF_EXTENSION};
use crate::call::Invite;
use crate::wire::{self, DecodeError, Extensions, Signed};

/// Tag of the invite's extension that holds a [`LinkedPart`].
pub const LINKED_EXTENSION: u16 = 0x000b;

/// Largest [`LinkedPart`].
const PART_BYTES_MAX: usize = 1_280 + PROOF_BYTES_MAX;

/// The caller calls somebody whom they know in another system. It is inside the seal, so only the callee reads it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkedPart {
    /// The caller's word for who they are there.
    pub association: Signed<Association>,
    /// Who the callee is there.
    pub callee: LinkedId,
    /// Room to grow.
    pub extensions: Extensions,
}

impl LinkedPart {
    /// The caller's word, with its proof where that stands by itself, for this callee.
    #[must_use]
    pub fn new(association: Signed<Association>, proof: Option<Vec<u8>>, callee: LinkedId) -> Self {
        let extensions = proof.into_iter().fold(Extensions::none(), |list, proof| list.with(PROOF_EXTENSION, proof));
        Self { association, callee, extensions }
    }

    /// The proof of the association, where that stands by itself.
    #[must_use]
    pub fn proof(&self) -> Option<&[u8]> {
        self.extensions.find(PROOF_EXTENSION)
    }

    /// The invite's extensions with this among them.
    #[must_use]
    pub fn add_to(&self, extensions: Extensions) -> Extensions {
        extensions.with(LINKED_EXTENSION, wire::encode(self))
    }

    /// What an invite says. Whoever can't read it judges the invite as that of a stranger.
    ///
    /// # Errors
    /// [`DecodeError`] if it says something that can't be read.
    pub fn of(invite: &Invite) -> Result<Option<Self>, DecodeError> {
        Self::of_extensions(&invite.extensions)
    }

    /// The same of an invite's extensions.
    ///
    /// # Errors
    /// As [`LinkedPart::of`].
    pub fn of_extensions(extensions: &Extensions) -> Result<Option<Self>, DecodeError> {
        extensions.find(LINKED_EXTENSION).map(|bytes| wire::decode(bytes, PART_BYTES_MAX)).transpose()
    }
}
