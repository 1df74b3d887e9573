//! `halloo-relay` as its users have it: a process with arguments, a configuration file, signals, and clients of other makers;
//! and the library as a node has it.
//!
//! Loopback and ports the system gives only.

mod browser;
mod clients;
mod command_line;
mod harness;
mod library;
mod serving;
mod telephone;
