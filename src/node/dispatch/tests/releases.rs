//! When a message's segment may go.

use super::*;
use crate::clock::Clock;
use crate::spool::Log;
use crate::spool::disk::memory::{Fault, MemoryDisk};

#[tokio::test]
async fn a_recipient_lets_go_of_its_message_when_its_end_is_durable_and_not_before() {
    let disk = MemoryDisk::new();
    let options = Options {
        mail_segment: 64 << 10,
        event_segment: 64 << 10,
        reserve: 0,
        refuse_below: 0,
        ..Options::new("/data")
    };
    let clock = Clock::start();
    let spool = Spool::open(Arc::new(disk.clone()), options, clock, &mut Nothing).unwrap();
    let append = async |log: &Log| {
        let parts = [&[0; 100][..]];
        let appended = log.append_held(kind::MESSAGE, 0, &parts, 1, None).await;
        appended.unwrap().await
    };
    let (mail, event) = (append(&spool.mail).await.unwrap().position(), append);
    let mut releases = Releases::default();
    let first = event(&spool.events).await.unwrap().position();
    // Written, and never synced.
    disk.fail(1, Fault::EioFromHere);
    let second = spool.events.durable();
    assert!(event(&spool.events).await.is_err());
    for event in [first, second] {
        spool.mail.hold(mail, 1);
        releases.0.push_back(Release { event, mail });
    }
    assert_eq!(spool.mail.stat().live, 3);
    releases.run(&spool);
    assert_eq!((spool.mail.stat().live, releases.0.len()), (2, 1));
}
