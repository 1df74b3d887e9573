//! Naming whom a node knows by hearsay alone.
//!
//! A node has met a hundred or two, and knows a thousand more because others named them. Asked for a record that it hasn't got it names those whom it has met; where one of the closest to the
//! key is known to it by hearsay it says that too, apart. The asker may ask them for this record. It doesn't remember them, so that hearsay goes no further than one step beyond whom it
//! was told to, and nobody is blamed for it. What the asker knows of a node, or hears from who has met it, counts instead.

use std::sync::Arc;

use super::known;
use super::messages::EXTENSION_HEARSAY;
use crate::node::Descriptor;
use crate::wire::{self, DecodeError, Extensions};

/// Most nodes that one answer names by hearsay: a replica set.
pub(super) const HEARSAY_MAX: usize = 8;

/// Their bytes at most: so many descriptors of at most 720 bytes, and room to grow.
const HEARSAY_BYTES_MAX: usize = 8 * 1_024;

/// Adds nodes known by hearsay to an answer to who asked with `asked`, but for those whom it marked as known.
pub(super) fn with_hearsay(asked: &Extensions, nodes: Vec<Arc<Descriptor>>, extensions: Extensions) -> Extensions {
    let (mut nodes, _) = known::leave_out(asked, nodes, Extensions::none());
    nodes.truncate(HEARSAY_MAX);
    if nodes.is_empty() { extensions } else { extensions.with(EXTENSION_HEARSAY, wire::encode(&nodes)) }
}

/// Whom an answer names by hearsay.
///
/// # Errors
/// [`DecodeError`] if that can't be read, or is more than [`HEARSAY_MAX`].
pub(super) fn named_in(extensions: &Extensions) -> Result<Vec<Arc<Descriptor>>, DecodeError> {
    let Some(bytes) = extensions.find(EXTENSION_HEARSAY) else { return Ok(Vec::new()) };
    let nodes: Vec<Arc<Descriptor>> = wire::decode(bytes, HEARSAY_BYTES_MAX)?;
    if nodes.len() > HEARSAY_MAX {
        return Err(DecodeError::invalid("hearsay", format!("{}, at most {HEARSAY_MAX}", nodes.len())));
    }
    nodes.iter().try_for_each(|node| node.check())?;
    Ok(nodes)
}
