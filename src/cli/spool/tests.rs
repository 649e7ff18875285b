//! What the inspection commands say of spools made by hand, compared with what is true of them.

mod world;

use std::collections::{BTreeMap, BTreeSet};

use clap::Parser;
use spool_format::{LogKind, SegmentHeader, SegmentImage, kind, scan};

use super::at::Past;
use super::ls::Ls;
use super::message::State;
use super::show::Shown;
use super::stat::Waiting;
use super::verify::Verify;
use super::*;
use crate::cli::audit::{Audited, Wanted, audit};
use crate::cli::logs::{Chain, Live};
use crate::event::EventKind;
use world::{START, World};

#[derive(Parser)]
struct Of<T: Args> {
    #[command(flatten)]
    args: T,
}

fn parse<T: Args>(words: &[&str]) -> T {
    Of::<T>::parse_from([&["x"], words].concat()).args
}

fn ls(world: &World, words: &[&str]) -> Vec<MessageRow> {
    let mut rows = Vec::new();
    let ls: Ls = parse(words);
    ls.each(world.path(), world.now, &mut |row| {
        rows.push(row.clone());
        Ok(())
    })
    .unwrap();
    rows
}

fn ids(rows: &[MessageRow]) -> Vec<String> {
    rows.iter().map(|row| row.message_id.clone()).collect()
}

/// The state of each recipient who had come by then and not ended.
fn true_queue(world: &World, at: u64) -> BTreeMap<(String, usize), State> {
    let mut queue = BTreeMap::new();
    for message in world.messages.iter().filter(|m| m.accepted_at <= at) {
        for (number, life) in message.lives.iter().enumerate() {
            let state = life.state(at);
            if state.is_live() {
                queue.insert((message.text(), number), state);
            }
        }
    }
    queue
}

#[test]
fn every_command_agrees_with_what_is_true_whatever_the_node_did() {
    let mut checkpoints = 0;
    for seed in 0..15 {
        let mut world = World::new(seed);
        world.live_on(60 + 20 * seed as usize);
        let context = format!("seed {seed}");
        check_ls(&world, &context);
        check_stat(&world, &context);
        check_at(&world, &context);
        check_show(&world, &context);
        check_audit(&world, &context);
        let (findings, summary) = parse::<Verify>(&[]).check(world.path()).unwrap();
        checkpoints += Chain::newest(world.path()).map_or(0, |chain| chain.files().len());
        assert!(
            summary.sound && summary.in_doubt == 0,
            "{context}: {findings:?}"
        );
    }
    assert!(checkpoints > 10, "{checkpoints}");
}

fn check_ls(world: &World, context: &str) {
    let mut live: Vec<_> = world.messages.iter().filter(|m| m.is_live()).collect();
    live.sort_by_key(|m| m.position);
    let expected: Vec<String> = live.iter().map(|m| m.text()).collect();
    let rows = ls(world, &["--state", "live"]);
    assert_eq!(ids(&rows), expected, "{context}");
    for (row, message) in rows.iter().zip(&live) {
        assert_eq!(row.position, message.position, "{context}");
        let alive = message.lives.iter().filter(|l| l.ended.is_none()).count();
        assert_eq!(
            (row.live, row.recipients),
            (Some(alive), message.lives.len()),
            "{context}"
        );
    }
    // Page by page.
    let mut paged = Vec::new();
    let mut after = None::<u64>;
    loop {
        let position = after.unwrap_or(0).to_string();
        let mut words = vec!["--state", "live", "--limit", "3"];
        if after.is_some() {
            words.extend(["--after", &position]);
        }
        let page = ls(world, &words);
        let Some(last) = page.last() else { break };
        after = Some(last.position);
        paged.extend(ids(&page));
    }
    assert_eq!(paged, expected, "{context}");
    // Everything that is kept, by state.
    for state in ["ready", "deferred", "delivered", "bounced", "expired"] {
        let found: BTreeSet<String> = ids(&ls(world, &["--state", state])).into_iter().collect();
        let has =
            |m: &&world::Message| m.lives.iter().any(|l| l.state(world.now).as_str() == state);
        let there: BTreeSet<String> = world
            .messages
            .iter()
            .filter(has)
            .map(|m| m.text())
            .collect();
        assert!(found.is_subset(&there), "{context}: {state}");
        if matches!(state, "ready" | "deferred") {
            assert_eq!(found, there, "{context}: {state}");
        }
    }
    let domain = ids(&ls(world, &["--state", "live", "--domain", "D1.example"]));
    let waits = |m: &&&world::Message| {
        m.lives
            .iter()
            .any(|l| l.domain == "d1.example" && l.ended.is_none())
    };
    assert_eq!(
        domain,
        live.iter()
            .filter(waits)
            .map(|m| m.text())
            .collect::<Vec<_>>()
    );
}

fn check_stat(world: &World, context: &str) {
    let mut live = Live::gather(world.path(), progress).unwrap();
    let mut waiting = Waiting::by_domain(world.now);
    live.each(&mut |message, names| {
        waiting.count(message, names);
        Ok(std::ops::ControlFlow::Continue(()))
    })
    .unwrap();
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for message in &world.messages {
        for life in message.lives.iter().filter(|l| l.ended.is_none()) {
            *expected.entry(life.domain.clone()).or_default() += 1;
        }
    }
    let rows = waiting.into_rows(100);
    assert_eq!(rows[0].total, expected.values().sum::<u64>(), "{context}");
    let found = rows[1..]
        .iter()
        .map(|row| (row.name.clone(), row.total))
        .collect();
    assert_eq!(expected, found, "{context}");
    assert!(
        rows.iter()
            .all(|row| row.ages.iter().sum::<u64>() == row.total)
    );
}

fn check_at(world: &World, context: &str) {
    let first = world.messages.first().map_or(START, |m| m.accepted_at);
    for part in 0..=4 {
        let at = first + (world.now - first) * part / 4;
        let past = Past::by_domain(world.path(), at).unwrap();
        let found: BTreeMap<(String, usize), State> = past
            .waiting
            .iter()
            .map(|(key, waited)| {
                let id = MessageId::from_bytes(key.message).to_string();
                (
                    (id, usize::from(key.number)),
                    State::live(waited.next_attempt, at),
                )
            })
            .collect();
        // Of an erased event only its kind and time are left.
        let erased: BTreeSet<String> = world
            .messages
            .iter()
            .filter(|m| m.erased)
            .map(|m| m.text())
            .collect();
        let kept = |queue: BTreeMap<(String, usize), State>| -> BTreeMap<_, _> {
            queue
                .into_iter()
                .filter(|((id, _), _)| !erased.contains(id))
                .collect()
        };
        let expected = true_queue(world, at);
        assert!(found.keys().eq(expected.keys()), "{context}");
        assert_eq!(kept(found), kept(expected), "{context}");
    }
}

fn check_show(world: &World, context: &str) {
    for message in world.messages.iter().step_by(7) {
        let id: IdPrefix = message.text().parse().unwrap();
        let found = Finder::new(world.path(), progress)
            .find(&id, u64::MAX)
            .unwrap();
        assert_eq!(found.len(), 1, "{context}");
        let shown = Shown::new(&found[0], world.now);
        let accepted = message.lives.len();
        let later: usize = message
            .lives
            .iter()
            .map(|l| l.deferred.len() + usize::from(l.ended.is_some()))
            .sum();
        assert_eq!(shown.events.len(), accepted + later, "{context}");
        assert!(shown.events.windows(2).all(|pair| pair[0].id < pair[1].id));
        let states: Vec<&str> = shown.envelope_recipients.iter().map(|r| r.state).collect();
        let expected: Vec<&str> = message
            .lives
            .iter()
            .map(|l| l.state(world.now).as_str())
            .collect();
        assert_eq!(states, expected, "{context}");
    }
}

fn audited(world: &World, content: bool, chain: Option<&str>) -> Audited {
    let wanted = Wanted {
        content,
        chain: chain.map(|chain| chain.parse().unwrap()),
        ..Wanted::default()
    };
    audit(world.path(), wanted, &mut |_| Ok(())).unwrap()
}

fn check_audit(world: &World, context: &str) {
    let lives = world.messages.iter().flat_map(|m| &m.lives);
    let alive = lives.clone().filter(|l| l.ended.is_none()).count() as u64;
    let accepted = lives.count() as u64;
    for content in [false, true] {
        let Audited {
            verdict, offences, ..
        } = audited(world, content, None);
        assert_eq!(offences, [], "{context}");
        assert!(verdict.is_proof(), "{context}: {verdict:?}");
        assert_eq!(
            (verdict.sums.accepted, verdict.sums.live),
            (accepted, alive),
            "{context}"
        );
    }
}

#[test]
fn a_planted_second_outcome_and_a_lost_recipient_are_found() {
    let mut world = World::new(4);
    for _ in 0..3 {
        world.accept();
    }
    world.now += 1_000;
    world.event(0, 0, EventKind::Delivered, &[]);
    world.event(0, 0, EventKind::Bounced, &[]);
    // Of a message that nobody has written down.
    world.messages[1].id[15] ^= 1;
    world.event(1, 0, EventKind::Accepted, &[]);
    world.messages[2].id[15] ^= 1;
    world.event(2, 0, EventKind::Delivered, &[]);
    world.store();
    let found = audited(&world, false, None);
    let mut named: Vec<_> = found.offences.iter().map(|o| o.offence).collect();
    named.sort_unstable();
    assert_eq!(named, ["invented", "lost", "two_outcomes"]);
    assert!(!found.verdict.is_proof());
}

#[test]
fn history_that_was_written_anew_is_found_by_its_digests_and_so_is_a_digest_that_was() {
    let mut world = World::new(5);
    world.live_on(300);
    let noted = audited(&world, false, None).verdict.digests;
    let chain = noted.chain.clone().unwrap();
    assert!(noted.agree > 3 && noted.entries >= noted.agree, "{noted:?}");
    world.live_on(100);
    assert!(audited(&world, true, Some(&chain)).verdict.is_proof());

    // Everything agrees in itself, and one recipient had another outcome.
    let number = world
        .events
        .sealed()
        .find(|n| world.events.path(*n).exists());
    let path = world.events.path(number.unwrap());
    let old = std::fs::read(&path).unwrap();
    let header = SegmentHeader::decode(&old).unwrap();
    let mut image = SegmentImage::new(header.clone());
    let mut changed = 0;
    for item in scan::sealed(&old, &header, header.size) {
        let scan::Item::Record(frame) = item else {
            panic!("{item:?}");
        };
        match frame.kind {
            kind::COMMIT => image.commit().map(drop).unwrap_or_default(),
            kind::PADDING => {}
            _ => {
                let mut payload = frame.payload.to_vec();
                if payload[0] == EventKind::Delivered.code() as u8 {
                    payload[0] = EventKind::Bounced.code() as u8;
                    changed += 1;
                }
                image.append(frame.kind, frame.flags, &payload).unwrap();
            }
        }
    }
    image.seal();
    assert!(changed > 0);
    std::fs::write(&path, image.bytes()).unwrap();
    let verdict = audited(&world, false, None).verdict;
    assert_eq!((verdict.offenders, verdict.damages), (0, 0), "{verdict:?}");
    assert_eq!(verdict.digests.changed.len(), 1, "{verdict:?}");
    assert!(!verdict.is_proof());

    // A file of digests that was made for it does not have the chain that was noted.
    std::fs::write(&path, &old).unwrap();
    world.events.forge(image.bytes());
    world.store();
    std::fs::write(&path, image.bytes()).unwrap();
    assert!(audited(&world, false, None).verdict.is_proof());
    let verdict = audited(&world, false, Some(&chain)).verdict;
    assert_eq!(verdict.digests.changed.len(), 1, "{verdict:?}");
}

#[test]
fn an_ambiguous_prefix_names_the_candidates_and_one_digit_more_decides() {
    let mut world = World::new(1);
    for _ in 0..5 {
        world.accept();
    }
    world.store();
    let place = Place {
        data_dir: Some(world.path().into()),
        ..Place::default()
    };
    let whole = world.messages[2].text();
    let failure = find_one(&place, &whole[..8].parse().unwrap(), u64::MAX).unwrap_err();
    assert!(failure.message.contains(&whole), "{}", failure.message);
    let found = find_one(&place, &whole.parse().unwrap(), u64::MAX).unwrap();
    assert_eq!(found.id, world.messages[2].id);
    assert!("019a".parse::<IdPrefix>().is_err() && "019a1f0z".parse::<IdPrefix>().is_err());
    let odd: IdPrefix = "019a1f0".parse().unwrap();
    assert_eq!(odd.to_string(), "019a1f0");
}

#[test]
fn verify_names_the_message_that_damage_has_hit() {
    let mut world = World::new(2);
    while world.mail.sealed().end < 4 {
        world.now += 1_000;
        world.accept();
    }
    world.store();
    let path = world.path().join("spool/mail/0000000000000002.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    let hit = world
        .messages
        .iter()
        .find(|m| m.position > 12 * 4096 + 4096)
        .unwrap();
    let at = memchr::memmem::find(&bytes, &hit.payload).unwrap();
    bytes[at + hit.payload.len() - 1] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (findings, summary) = parse::<Verify>(&["--jobs", "2"])
        .check(world.path())
        .unwrap();
    assert!(!summary.sound);
    let finding = |text: &str| findings.iter().find(|f| f.finding.contains(text)).unwrap();
    assert_eq!(finding("does not verify").message_ids, [hit.text()]);
    assert_eq!(finding("does not verify").segment, Some(2));
    assert_eq!(finding("lost").message_ids, [hit.text()]);
}

#[test]
fn a_torn_tail_is_no_damage_and_a_missing_segment_is() {
    let mut world = World::new(3);
    while world.events.sealed().end < 4 || world.mail.sealed().end < 4 {
        world.now += 1_000;
        world.accept();
    }
    world.store();
    let last = format!("spool/mail/{:016x}.seg", world.mail.sealed().end);
    let last = world.path().join(last);
    let mut bytes = std::fs::read(&last).unwrap();
    let end = bytes
        .iter()
        .rposition(|b| *b != 0)
        .unwrap()
        .next_multiple_of(4096);
    bytes[end..end + 64].fill(0xAB);
    std::fs::write(&last, bytes).unwrap();
    let (findings, summary) = parse::<Verify>(&[]).check(world.path()).unwrap();
    assert!(summary.sound, "{findings:?}");
    std::fs::remove_file(world.path().join("spool/event/0000000000000002.seg")).unwrap();
    let (findings, summary) = parse::<Verify>(&[]).check(world.path()).unwrap();
    assert!(
        !summary.sound
            && findings
                .iter()
                .any(|f| f.finding.contains("missing segment"))
    );
}

/// A last segment whose first batch was damaged once passed for one that nobody has written to, and one that was cut for one
/// that ends there.
#[test]
fn damage_to_the_beginning_of_a_last_segment_and_its_cut_are_found() {
    let mut world = World::new(5);
    while world.events.sealed().end < 3 || world.mail.sealed().end < 3 {
        world.now += 1_000;
        world.accept();
    }
    let check = |log: &str, number: u64, break_it: &dyn Fn(&mut Vec<u8>), reason: &str| {
        world.store();
        let path = world.path().join(format!("spool/{log}/{number:016x}.seg"));
        let mut bytes = std::fs::read(&path).unwrap();
        break_it(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let (findings, _) = parse::<Verify>(&[]).check(world.path()).unwrap();
        let found = findings.iter().find(|f| {
            f.log == log
                && f.segment == Some(number)
                && (f.acknowledged || reason == "checksum")
                && f.finding.ends_with(reason)
        });
        assert!(found.is_some(), "{log} {reason}: {findings:?}");
    };
    for (log, number) in [
        ("mail", world.mail.sealed().end),
        ("event", world.events.sealed().end),
    ] {
        check(log, number, &|bytes| bytes[4096 + 20] ^= 1, "checksum");
        check(log, number, &|bytes| bytes.truncate(4096), "cut");
        check(log, number, &|bytes| bytes.truncate(4096 + 512), "cut");
    }
}

#[test]
fn records_of_later_versions_are_kept_and_broken_ones_reported() {
    let mut world = World::new(4);
    world.mail.append(START, 200, 0, b"of a later version");
    world.store();
    assert!(parse::<Verify>(&[]).check(world.path()).unwrap().1.sound);
    world.mail.append(START, kind::MESSAGE, 0, b"short");
    world.events.append(START, kind::EVENT, 0, b"short");
    world.store();
    let (findings, _) = parse::<Verify>(&[]).check(world.path()).unwrap();
    let logs: Vec<&str> = findings.iter().map(|f| f.log).collect();
    assert_eq!(logs, ["mail", "event"], "{findings:?}");
}

#[test]
fn a_message_is_shown_with_the_names_that_scripts_rely_on() {
    let mut world = World::new(5);
    world.accept_for(&["example.com".into()], 6);
    world.store();
    let id = IdPrefix::of(world.messages[0].id);
    let found = Finder::new(world.path(), progress)
        .find(&id, u64::MAX)
        .unwrap();
    let shown = serde_json::to_value(Shown::new(&found[0], world.now)).unwrap();
    for (key, value) in [
        ("at", "2026-03-02T14:15:12.000Z"),
        ("server", "app"),
        ("stream_type", "transactional"),
        ("pool", "tx"),
        ("reverse_path", "bounce@shop.example"),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    assert_eq!(shown["message_id"], world.messages[0].text());
    assert_eq!(shown["content_bytes"], 6);
    assert_eq!(shown["metadata"]["key"], "value");
    assert_eq!(shown["envelope_recipients"][0]["state"], "ready");
    assert_eq!(shown["events"][0]["kind"], "accepted");
    assert_eq!(shown["records"][0]["archived"], false);
}

#[test]
fn the_last_of_a_log_are_those_at_its_end_however_many_segments_they_take() {
    let mut world = World::new(6);
    for _ in 0..150 {
        world.now += 1_000;
        world.accept();
    }
    world.store();
    assert!(world.mail.sealed().end > 4 && LogKind::Mail != LogKind::Event);
    for count in [1, 40, 150, 500] {
        let rows = super::super::events::last_rows(
            world.path(),
            LogKind::Mail,
            count,
            |position, frame| (frame.kind == kind::MESSAGE).then_some(position),
        );
        let expected: Vec<u64> = world.messages.iter().map(|m| m.position).collect();
        let from = expected.len().saturating_sub(count);
        assert_eq!(rows, expected[from..]);
    }
}
