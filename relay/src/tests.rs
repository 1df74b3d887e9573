//! The state machine as a whole, in virtual time and without sockets: packets in, packets out.

mod abuse;
mod data;
mod harness;
mod requests;
mod sequences;
mod spares;
