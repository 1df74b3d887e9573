//! Limits: how much a source address may cause before it is known who it is ([`source`]), and how much a user may use
//! once it is known ([`share`]).

pub(crate) mod share;
pub mod source;

pub use share::{Limits, ServiceClass, Usage};
pub use source::{RateLimit, SourceRates};
