#![no_main]

halloo_protocol_fuzz::target!(bytes => halloo_protocol_fuzz::signed::<halloo_protocol::identity::UserCertificate>(bytes));
