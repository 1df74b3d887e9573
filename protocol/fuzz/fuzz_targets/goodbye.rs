#![no_main]

halloo_protocol_fuzz::target!(bytes => halloo_protocol_fuzz::message::<halloo_protocol::node::Goodbye>(bytes));
