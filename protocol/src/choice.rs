//! Which of a user's devices an event goes to: one pure decision, made alike by every device of the user and by the gateways.
//!
//! 1. Each device says of itself whether it is in use, how near its user is and what it can show ([`DeviceReport`]); own devices tell each other
//!    ([`DeviceReports`]), and a device tells its gateways ([`PushChoice`]).
//! 2. The user writes a policy ([`Policy::parse`]): rules in order, each with targets, and whom to try when nobody answers. It travels among own
//!    devices as text ([`PolicyText`]), and to gateways without names ([`Policy::for_gateway`]).
//! 3. An event comes. Whoever has to decide puts together what is known ([`Inputs`]) and asks [`decide`], which gives stages: who hears it at once, and
//!    who later unless somebody has answered. Kept inputs can be judged anew under another policy.
//! 4. A device whose turn comes later takes the call in and is silent until then; a gateway holds the push ([`PushWithdraw`] takes it back).
//!
//! Whatever is missing or wrong, an event reaches every device in the end: a policy sets the order and never brings silence.

mod decide;
mod messages;
mod policy;
mod report;
#[cfg(test)]
mod tests;
mod text;
mod wake;

pub use decide::{
    Because, Candidate, Choice, Decision, Delivery, Event, Inputs, LAST_STAGE_SECS, Mismatch, PassedOver, Presence, Reach, Stage,
    decide,
};
pub use messages::{
    ChoiceStatus, DeviceReports, EXTENSION_HELD, HELD_SECS_MAX, OwnReport, PolicyText, PushChoice, PushChosen, PushWithdraw,
    PushWithdrawn, held_for, with_held,
};
pub use policy::{
    CallerRef, Days, DeviceRef, POLICY_TEXT_BYTES_MAX, Policy, PresenceSet, RULES_MAX, Rule, STEPS_MAX, Step, TARGETS_MAX,
    Target, When,
};
pub use report::{Attributes, DeviceReport, FORMATS_MAX, MacAddress, Proximity, REPORTS_MAX, Reports, STALE_SECS, Screen, Usage};
pub use text::PolicyError;
pub use wake::{MAGIC_PACKET_BYTES, magic_packet};
