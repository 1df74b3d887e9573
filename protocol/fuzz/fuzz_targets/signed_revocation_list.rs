#![no_main]

halloo_protocol_fuzz::target!(bytes => halloo_protocol_fuzz::plain::<halloo_protocol::identity::SignedRevocationList>(bytes, halloo_protocol::wire::FRAME_BYTES_MAX));
