//! Whole-system behaviour: real daemons, real sockets, real deadlines. One module per scenario.
//!
//! `HALLOO_SEED` repeats a run, `HALLOO_TEST_LOG` sets the daemons' log filter, `HALLOO_BIN` tests another binary.

mod access;
mod adversary;
mod attackers;
mod call_setup;
mod call_traces;
mod clock_offset;
mod conferences;
mod contacts;
mod conversations;
mod device_choice;
mod devices;
mod devices_publish_together;
mod early_media;
mod extensions;
mod files;
mod groups;
mod hand_over;
mod hidden_addresses;
mod history;
mod mailboxes;
mod message_delivery;
mod message_soak;
mod moving_calls;
mod nat_calls;
mod nat_relay;
mod nat_table;
mod partition;
mod presence;
mod push_gateways;
mod push_messages;
mod push_wakeup;
mod receipts;
mod relay_operator;
mod relay_owners;
mod revocation_spread;
mod ringing;
mod story;
mod testnet_tour;
mod twenty_daemons;
mod vault;
mod video_calls;
mod voicemail;
