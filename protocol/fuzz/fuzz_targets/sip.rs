#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| halloo_protocol_fuzz::sip(bytes));
