//! Sources that do not work, or are refused everywhere.

use super::*;

const FIRST: SourceId = SourceId(1);
const OTHER: SourceId = SourceId(2);
const MINUTE: u64 = 60 * SECOND;

impl Bench {
    /// The session ends, and says that of its source.
    fn troubled(&mut self, given: &Given, trouble: Trouble) {
        let own = matches!(trouble, Trouble::Missing | Trouble::Proxy);
        let scope = if own {
            Scope::Source
        } else {
            Scope::SiteFromSource
        };
        self.scheduler
            .source_trouble(self.now, given.session, trouble, "in words");
        self.failed(given, scope);
    }

    fn state(&self, source: SourceId) -> Option<StopCause> {
        let rows = self.scheduler.sources(self.now);
        let row = rows.iter().find(|row| row.source == source).unwrap();
        row.stop.as_ref().map(|stop| stop.why)
    }

    /// Messages to so many sites of their own; what their first connections are, by source.
    fn sites(&mut self, count: u64, name: &str) -> Vec<Given> {
        for n in 0..count {
            self.insert(BULK, &format!("{name}{n}.test"), n * 8, 0);
        }
        all_given(&self.work())
    }
}

fn from(source: SourceId, all: &[Given]) -> Vec<Given> {
    let mine = all.iter().filter(|g| g.opened_from == Some(source));
    mine.cloned().collect()
}

#[test]
fn a_source_without_its_address_is_out_at_once_and_its_mail_leaves_by_another_unattempted() {
    let mut bench = Bench::new();
    let first = bench.sites(40, "d");
    let of_first = from(FIRST, &first);
    bench.troubled(&of_first[0], Trouble::Missing);
    assert_eq!(bench.state(FIRST), Some(StopCause::Missing));
    for given in &of_first[1..] {
        bench.troubled(given, Trouble::Missing);
    }
    let again = all_given(&bench.work());
    assert_eq!(again.len(), of_first.len(), "each goes again at once");
    assert!(again.iter().all(|given| given.opened_from == Some(OTHER)));
    assert_eq!(bench.counts().1, 0, "no attempt was counted");
    bench.scheduler.source_found(bench.now, FIRST);
    assert_eq!(bench.state(FIRST), None);
    assert!(!from(FIRST, &bench.sites(60, "e")).is_empty());
    let changes = bench.scheduler.take_source_changes();
    let told: Vec<_> = changes.iter().map(|c| c.stop.is_some()).collect();
    assert_eq!(told, [true, false], "twenty failures are one piece of news");
}

#[test]
fn a_dead_proxy_is_tried_by_one_connection_at_a_time_ever_more_seldom_and_no_site_is_blamed() {
    let mut bench = Bench::new();
    // The pool has no other source.
    bench.insert(TX, "one.test", 8, 0);
    bench.insert(TX, "two.test", 16, 0);
    for given in all_given(&bench.work()) {
        bench.troubled(&given, Trouble::Proxy);
    }
    assert!(bench.work().is_empty());
    let row = &bench.scheduler.explain_domain("one.test")[0];
    assert!(
        matches!(&row.reasons[..], [Reason::SourceStops { stop: Some(stop), .. }] if stop.why == StopCause::Proxy),
        "{:?}",
        row.reasons
    );
    let mut waits = Vec::new();
    for _ in 0..4 {
        let before = bench.now;
        let trial = only_given(&bench.work_until(START + DAY));
        waits.push((bench.now - before) / SECOND);
        bench.troubled(&trial, Trouble::Proxy);
    }
    assert_eq!(waits, [5, 10, 20, 40]);
    let trial = only_given(&bench.work_until(START + DAY));
    bench.delivered(&trial);
    assert_eq!(bench.state(SourceId(0)), None);
    assert_eq!(
        all_given(&bench.work()).len(),
        1,
        "the other site at once: it had no back-off"
    );
}

#[test]
fn a_source_that_five_sites_refuse_in_a_row_is_out_and_comes_back_by_a_trial() {
    let mut bench = Bench::new();
    let of_first = from(FIRST, &bench.sites(40, "d"));
    for given in &of_first[..4] {
        bench.troubled(given, Trouble::Refused);
    }
    assert_eq!(bench.state(FIRST), None, "four may be chance");
    bench.troubled(&of_first[4], Trouble::Refused);
    assert_eq!(bench.state(FIRST), Some(StopCause::Refused));
    let row = &bench.scheduler.sources(bench.now)[1];
    assert!(
        row.last_trouble
            .as_ref()
            .is_some_and(|(_, text)| &**text == "in words")
    );
    let mates = all_given(&bench.work());
    assert!(!mates.is_empty() && mates.iter().all(|g| g.opened_from == Some(OTHER)));
    bench.now += MINUTE;
    let trial = from(FIRST, &bench.sites(60, "e"));
    assert_eq!(trial.len(), 1, "one connection tries");
    bench.troubled(&trial[0], Trouble::Refused);
    assert!(from(FIRST, &bench.sites(60, "f")).is_empty());
    bench.now += 2 * MINUTE;
    let trial = from(FIRST, &bench.sites(60, "g"));
    assert_eq!(trial.len(), 1);
    bench.delivered(&trial[0]);
    assert_eq!(bench.state(FIRST), None);
    assert!(from(FIRST, &bench.sites(60, "h")).len() > 5);
}

#[test]
fn one_dead_site_a_dead_network_and_a_node_offline_take_no_source_out() {
    // One site, however often.
    let mut bench = Bench::new();
    for round in 0..10 {
        bench.insert(BULK, "dead.test", 800 + round * 8, 0);
        for given in all_given(&bench.work_until(bench.now + 30 * MINUTE)) {
            bench.troubled(&given, Trouble::Unanswered);
        }
    }
    assert_eq!((bench.state(FIRST), bench.state(OTHER)), (None, None));
    // A network in which other hosts answer in between.
    let mut bench = Bench::new();
    let of_first = from(FIRST, &bench.sites(80, "d"));
    assert!(of_first.len() > 20);
    for (n, given) in of_first.iter().enumerate() {
        match n % 5 {
            4 => bench.delivered(given),
            _ => bench.troubled(given, Trouble::Refused),
        }
    }
    assert_eq!(bench.state(FIRST), None);
    // Nobody reaches anything.
    let mut bench = Bench::new();
    for given in bench.sites(80, "d") {
        bench.troubled(&given, Trouble::Unanswered);
    }
    assert_eq!((bench.state(FIRST), bench.state(OTHER)), (None, None));
    // But when the other source does, it is this one.
    let mut bench = Bench::new();
    let all = bench.sites(80, "d");
    for given in from(FIRST, &all) {
        bench.troubled(&given, Trouble::Unanswered);
    }
    assert_eq!(
        bench.state(FIRST),
        None,
        "as long as nobody is known to do better"
    );
    bench.now += SECOND;
    bench.delivered(&from(OTHER, &all)[0]);
    let later = bench.sites(60, "e");
    bench.troubled(&from(FIRST, &later)[0], Trouble::Unanswered);
    assert_eq!(bench.state(FIRST), Some(StopCause::Refused));
}
