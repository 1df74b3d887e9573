//! The control surface as a program sees it: real sockets, the real binary, and behind them an
//! event loop that answers what a table says.

mod api;
mod cli;
mod daemon;
mod events;
mod fake;
