//! Verification of addresses.

use crate::support::Setup;

#[test]
fn vrfy_verifies_nothing_and_expn_is_not_there() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("VRFY bob", "252 2.5.0 ");
    d.expect("VRFY", "501 5.5.4 ");
    d.expect("EXPN staff", "502 5.5.1 ");
}
