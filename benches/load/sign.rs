//! What the cryptographic library alone takes for a signature.

use std::hint::black_box;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rustix::time::{ClockId, clock_gettime};

pub(super) fn measure() {
    let (input, random) = ([7; 800], SystemRandom::new());
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let mut signature = vec![0; rsa.public_modulus_len()];
    let rsa_ms = each(2_000, || {
        let signed = rsa.sign(&RSA_PKCS1_SHA256, &random, &input, &mut signature);
        signed.expect("a signature");
    });
    let short = Ed25519KeyPair::generate().expect("a key");
    let short_ms = each(20_000, || {
        black_box(short.sign(&input));
    });
    println!("{rsa_ms:.4} {short_ms:.4}");
}

/// Milliseconds of the processor.
fn each(times: u32, mut work: impl FnMut()) -> f64 {
    let before = processor_ms();
    (0..times).for_each(|_| work());
    (processor_ms() - before) / f64::from(times)
}

fn processor_ms() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
