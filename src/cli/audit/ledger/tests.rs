//! Stories of recipients, with room for all of them in memory and for one.

use proptest::prelude::*;

use super::*;
use EventKind::*;

const T: UnixMs = 1_772_460_912_907;

/// One thing that the logs say, of a recipient by number.
#[derive(Clone, Copy, Debug)]
enum Said {
    Record(u16),
    Event(EventKind, u16),
    /// From here on the audit reads what came meanwhile.
    Meanwhile,
}
use Said::*;

fn key(number: u16) -> RecipientKey {
    // Recipients of messages that came an hour apart.
    let came = T + HOUR_MS * u64::from(number / 3);
    let message = *MessageId::new(came, &[9; 10]).as_bytes();
    RecipientKey { message, number }
}

struct Heard {
    sums: Sums,
    hours: Vec<(UnixMs, Sums)>,
    offences: Vec<(u16, &'static str)>,
    runs: usize,
}

/// `entries_max`: as few entries in memory as that.
fn hear(story: &[Said], entries_max: usize, log_begins: u64) -> Heard {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::new(dir.path(), 0);
    ledger.entries_max = entries_max;
    for said in story {
        match *said {
            Record(number) => {
                // Those before it in the message are there too: records name all of them.
                let stream = ledger.number_of(("app", "outbound"));
                if let Some(entry) = ledger.entry(key(number), stream).unwrap() {
                    entry.flags |= RECORDED | KNOWN;
                }
            }
            Event(kind, number) => ledger
                .event(key(number), kind, T + 10, ("app", "outbound"))
                .unwrap(),
            Meanwhile => ledger.only_known(),
        }
    }
    let runs = ledger.scratch.written();
    let (mut hours, mut offences) = (Vec::new(), Vec::new());
    let mut hour = |at, _: &Stream, sums: &Sums| {
        hours.push((at, *sums));
        Ok(())
    };
    let mut offence = |found: Offence| {
        offences.push((found.recipient_number, found.offence));
        Ok(())
    };
    let judged = ledger.close(log_begins, &mut hour, &mut offence).unwrap();
    assert_eq!(judged.offences, offences.len() as u64);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let mut sums = Sums::default();
    for of_stream in judged.streams.values() {
        sums.add(of_stream);
    }
    Heard {
        sums,
        hours,
        offences,
        runs,
    }
}

fn check(story: &[Said], counts: [u64; 4], offences: &[(u16, &'static str)]) {
    let [accepted, delivered, bounced, live] = counts;
    for entries_max in [100, 1] {
        let heard = hear(story, entries_max, 0);
        let expected = Sums {
            accepted,
            delivered,
            bounced,
            live,
            ..Sums::default()
        };
        assert_eq!(heard.sums, expected, "{story:?}");
        assert_eq!(heard.offences, offences, "{story:?}");
    }
}

#[test]
fn every_recipient_is_counted_once_by_its_outcome_or_as_live() {
    let story = [
        Record(0),
        Record(1),
        Record(2),
        Event(Accepted, 0),
        Event(Deferred, 0),
        Event(Delivered, 0),
        Event(Accepted, 1),
        Event(Accepted, 3),
        Event(Bounced, 3),
        Event(BouncedLater, 0),
        Event(Complained, 0),
    ];
    check(&story, [4, 1, 1, 2], &[]);
    let hours = hear(&story, 100, 0).hours;
    let accepted: Vec<u64> = hours.iter().map(|(_, sums)| sums.accepted).collect();
    assert_eq!(accepted, [3, 1], "an hour apart");
    assert_eq!(hours[1].0 - hours[0].0, HOUR_MS);
}

#[test]
fn what_is_lost_doubled_invented_or_out_of_order_is_named() {
    let twice = [Record(0), Event(Delivered, 0), Event(Bounced, 0)];
    check(&twice, [1, 1, 0, 0], &[(0, "two_outcomes")]);
    let lost = [Event(Accepted, 0), Event(Deferred, 0)];
    check(&lost, [1, 0, 0, 0], &[(0, "lost")]);
    check(&[Event(Delivered, 0)], [1, 1, 0, 0], &[(0, "invented")]);
    let other = [Record(0), Event(Complained, 1)];
    check(&other, [1, 0, 0, 1], &[(1, "invented")]);
    let gone = [Event(Accepted, 0), Event(Delivered, 0)];
    check(&gone, [1, 1, 0, 0], &[]);
    for late in [Accepted, Deferred, Ambiguous] {
        let story = [Record(0), Event(Delivered, 0), Event(late, 0)];
        check(&story, [1, 1, 0, 0], &[(0, "out_of_order")]);
    }
    let again = [Record(0), Event(Accepted, 0), Event(Accepted, 0)];
    check(&again, [1, 0, 0, 1], &[(0, "out_of_order")]);
}

#[test]
fn an_outcome_whose_beginning_went_with_the_oldest_events_is_not_invented() {
    let heard = hear(&[Event(Delivered, 0)], 100, 1 << 20);
    assert_eq!((heard.sums.accepted, heard.offences), (1, vec![]));
    // Its message came after the first event that is there.
    let heard = hear(&[Event(Delivered, 0), Event(Delivered, 4)], 100, 1 << 20);
    assert_eq!(heard.offences, [(4, "invented")]);
}

#[test]
fn what_came_while_the_audit_ran_does_not_count_and_what_ended_does() {
    let story = [
        Event(Accepted, 0),
        Record(0),
        Record(1),
        Meanwhile,
        Event(Accepted, 1),
        Event(Delivered, 1),
        Event(Delivered, 0),
        Event(Accepted, 2),
        Event(Delivered, 2),
        Event(Delivered, 4),
    ];
    check(&story, [2, 2, 0, 0], &[]);
}

#[test]
fn only_those_that_came_since_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::new(dir.path(), T + 1);
    for number in [0, 3] {
        let outcome = ledger.event(key(number), Delivered, T, ("", ""));
        outcome.unwrap();
    }
    let mut found = Vec::new();
    let judged = ledger.close(0, &mut |_, _, _| Ok(()), &mut |offence| {
        found.push(offence.recipient_number);
        Ok(())
    });
    assert_eq!((judged.unwrap().offences, found), (1, vec![3]));
}

proptest! {
    /// Runs change nothing: whatever is said, in whatever order, with whatever room.
    #[test]
    fn room_for_one_entry_gives_the_same_as_room_for_all(
        story in prop::collection::vec((0u16..9, 0usize..10), 0..60),
        room in 1usize..5,
    ) {
        let story: Vec<Said> = story
            .into_iter()
            .map(|(number, what)| match EventKind::ALL.get(what) {
                Some(&kind) if what < 7 => Event(kind, number),
                _ if what == 9 => Event(Complained, number),
                _ => Record(number),
            })
            .collect();
        let (few, all) = (hear(&story, room, 0), hear(&story, 1_000, 0));
        prop_assert_eq!(all.runs, 0);
        prop_assert_eq!((few.sums, few.hours, few.offences), (all.sums, all.hours, all.offences));
    }
}
