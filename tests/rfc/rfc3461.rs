//! DSN.

use posthaste::mail::{DsnNotify, DsnReturn};

use crate::support::Setup;

#[test]
fn the_parameters_are_kept_as_given() {
    let mut d = Setup::trusted().connect();
    assert!(d.keywords().contains(&"DSN".to_owned()));
    d.expect("MAIL FROM:<ada@example.com> RET=HDRS ENVID=QQ+2B1", "250 ");
    d.expect(
        "RCPT TO:<bob@example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob+2Bx@example.net",
        "250 ",
    );
    d.expect("RCPT TO:<carol@example.net> NOTIFY=NEVER", "250 ");
    d.expect("DATA", "354 ");
    d.expect("x\r\n.", "250 ");
    let envelope = &d.messages[0].submission.envelope;
    assert_eq!(envelope.ret, Some(DsnReturn::Headers));
    assert_eq!(envelope.envelope_id.as_deref(), Some("QQ+2B1"));
    let bob = &envelope.recipients[0].dsn;
    assert_eq!(
        bob.notify,
        Some(DsnNotify {
            success: true,
            failure: true,
            delay: false
        })
    );
    assert_eq!(
        bob.original_recipient.as_deref(),
        Some("rfc822;Bob+2Bx@example.net")
    );
    assert_eq!(envelope.recipients[1].dsn.notify, Some(DsnNotify::NEVER));
}

#[test]
fn malformed_parameters_are_refused() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("MAIL FROM:<> RET=SOME", "501 5.5.4 ");
    d.expect("MAIL FROM:<> ENVID=a+zz", "501 5.5.4 ");
    d.expect("MAIL FROM:<>", "250 ");
    d.expect("RCPT TO:<b@example.net> NOTIFY=NEVER,DELAY", "501 5.5.4 ");
    d.expect("RCPT TO:<b@example.net> ORCPT=b@example.net", "501 5.5.4 ");
}
