//! How a user gets a name: what is said between a node and the authority it enrols with.
//!
//! The parties are a *node* whose owner wants a name (or wants to keep it) and a node with the role *authority*.
//!
//! 1. The owner gets an [`InviteCode`] by any channel. It carries the authority's root key, so that nothing has to be trusted on
//!    first use, its address, a few nodes to join the network through, and a secret.
//! 2. The node connects and sends an [`EnrolRequest`], signed by the identity key, which shows that the asker holds it, and naming
//!    the device that asks, so that nobody else can use it.
//! 3. The authority answers with an [`EnrolAnswer`]: the [`UserChain`](crate::identity::UserChain), its newest revocation list and its
//!    signed list of bootstrap nodes; or a [`Refusal`].
//! 4. From the thirtieth day a device sends a [`RenewRequest`] on its own; the answer is the same.
//! 5. [`RevocationListRequest`] asks for the list by itself. Nodes usually have it from each other.
//!
//! 6. A user who wants others to know that a mail address is theirs asks for a code there ([`CodeRequest`]), and shows it ([`CodeShow`]).
//!
//! A client that crashed before it saw the answer asks again and gets the same certificate.

mod address;
mod bootstrap;
mod invite_code;
mod messages;

pub use address::{
    CODE_DIGITS, CODE_SECS, CODE_TRIES, CodeAnswer, CodeRequest, CodeResult, CodeShow, CodeShown, CodeTag, TAG_EXTENSION,
    WordResult, code_in, phone_code_text, sip_code_text,
};
pub use bootstrap::{BOOTSTRAP_NODES_MAX, BootstrapList, SignedBootstrapList};
pub use invite_code::{
    INVITE_BOOTSTRAP_MAX, INVITE_CODE_CHARS_MAX, INVITE_CODE_PREFIX, InviteCode, InviteCodeError, InviteSecret, LABEL_BYTES_MAX,
};
pub use messages::{
    CERTIFY_EXTENSION, CertifyWish, ENROL_CLOCK_TOLERANCE_SECS, EnrolAnswer, EnrolGrant, EnrolParams, EnrolRequest,
    EnrolRequestBody, EnrolResult, GrantError, Refusal, RefusalCode, RenewRequest, RevocationListAnswer, RevocationListRequest,
};
