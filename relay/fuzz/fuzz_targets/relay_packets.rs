#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| halloo_relay_fuzz::packets(bytes));
