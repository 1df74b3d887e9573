//! The way to the telephone network: what was dialled, who may dial it, by which trunk it goes, and what it may cost.
//!
//! A *telephone gateway* is a user of the overlay whose one device has trunks: accounts at SIP providers. Who calls a telephone number calls the
//! gateway, and says in the sealed invite which number is meant ([`crate::call::TelephonePart`]). The gateway knows the caller by certificate, and
//! decides:
//!
//! 1. Is the caller named by the owner? Nobody else learns anything ([`Plan::screen`]).
//! 2. What does the number mean here ([`number::DialPlan`]): international, national, local, or a short one; an emergency number is refused unless a
//!    trunk is set up for such calls.
//! 3. Which trunks lead there, in their order ([`Plan::route`]).
//! 4. Is it within what the owner lets people spend ([`guard::Ledger`])? The count is kept before anything leaves.
//!
//! Nothing here reads a clock, holds a socket or writes a file.

pub mod guard;
pub mod number;
mod plan;

pub use plan::{CallerId, Plan, Refusal, Route, TrunkFate, TrunkRule, fate_of, refusal_of};
