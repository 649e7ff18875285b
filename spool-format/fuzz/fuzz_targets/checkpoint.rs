#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| spool_format::fuzz::checkpoint(data));
