//! What is erased, and what is made again from the log: the tables say what a reader from the beginning would say.

use std::collections::BTreeMap;

use super::*;

/// All that the tables say, but for the keys.
async fn dump(activity: &Activity) -> BTreeMap<MessageId, (Entry, Vec<u64>)> {
    let mut all = BTreeMap::new();
    for stream in ["outbound", "broadcast"] {
        let search = Search {
            server: 1,
            stream: stream.into(),
            count: 10_000,
            ..Search::default()
        };
        let (total, found) = activity.search(&search).await.unwrap();
        assert_eq!(total, found.len() as u64);
        for entry in found {
            // Each is found by what it is shown with.
            let words = Search {
                recipient: entry
                    .about
                    .recipients
                    .iter()
                    .flatten()
                    .next()
                    .map(|r| r.email.clone()),
                from: Some(entry.about.from_address.clone()).filter(|from| !from.is_empty()),
                tag: Some(entry.about.tag.clone()).filter(|tag| !tag.is_empty()),
                metadata: entry.about.metadata.iter().take(1).cloned().collect(),
                subject: Some(entry.about.subject.clone()).filter(|subject| !subject.is_empty()),
                is_queued: Some(entry.is_queued),
                since: Some(entry.id.unix_ms()),
                until: Some(entry.id.unix_ms() + 1),
                ..search.clone()
            };
            let (_, by_words) = activity.search(&words).await.unwrap();
            assert!(by_words.contains(&entry), "{words:?}");
            let (again, positions) = activity.find(1, entry.id).await.unwrap().unwrap();
            assert_eq!(again, entry);
            all.insert(entry.id, (entry, positions));
        }
    }
    all
}

/// The rows of the tables that only numbers of scopes could make different.
async fn rows(activity: &Activity) -> Vec<String> {
    let pool = activity.reader().pool().unwrap();
    let mut all = Vec::new();
    for query in [
        "SELECT 'queued ' || server || stream || key || hex(q.id) FROM queued q JOIN scope s ON s.id = q.scope ORDER BY key",
        "SELECT 'settled ' || server || stream || key FROM settled q JOIN scope s ON s.id = q.scope ORDER BY key",
        "SELECT 'tally ' || server || stream || minute || ' ' || count || ' ' || queued FROM tally q JOIN scope s ON s.id = q.scope ORDER BY server, stream, minute",
        "SELECT 'message ' || server || stream || key || hex(m.id) || bare || about FROM message m JOIN scope s ON s.id = m.scope ORDER BY key",
        "SELECT 'event ' || message || ' ' || position FROM event ORDER BY message, position",
    ] {
        let found: Vec<String> = sqlx::query_scalar(query).fetch_all(&pool).await.unwrap();
        all.extend(found);
    }
    all
}

#[tokio::test]
async fn what_is_erased_is_gone_and_who_else_got_the_message_is_still_told() {
    let mut world = World::new();
    let sent = Sent {
        to: &["forgotten@example.com", "bo@example.com"],
        header: "From: a@shop.example\r\nSubject: Dear wordsecret\r\n",
        tag: Some("tagsecret"),
        ..SENT
    };
    let shared = world.accept(&sent).await;
    let alone = world
        .accept(&Sent {
            to: &["forgotten@example.com"],
            ..sent
        })
        .await;
    let other = world.accept(&SENT).await;
    let mut doomed = Vec::new();
    for (id, number) in [(shared, 0), (alone, 0)] {
        doomed.push(
            world
                .event(&about(id, &sent, EventKind::Delivered, number))
                .await,
        );
    }
    let kept = world
        .event(&about(shared, &sent, EventKind::Delivered, 1))
        .await;
    world.catch_up().await;
    assert!(holds(&world.dir, "wordsecret"));
    let mut mail = Vec::new();
    let records = world.spool.events.records_from(0).flatten();
    for (record, _) in records {
        let event = Event::decode(&record.payload).unwrap().unwrap();
        if event.recipient.starts_with("forgotten") && event.kind == EventKind::Accepted {
            doomed.push(record.position);
            mail.extend(event.mail_position);
        }
    }
    // In the order of an erasure, and once more since it may be ordered again.
    let reader = world.activity.reader();
    reader.forget(&doomed).await.unwrap();
    world.spool.erase(LogKind::Event, &doomed).unwrap();
    reader.forget(&doomed).await.unwrap();
    world.spool.erase(LogKind::Mail, &mail).unwrap();
    for word in ["forgotten", "wordsecret", "tagsecret"] {
        assert!(!holds(&world.dir, word), "{word}");
    }
    assert_eq!(world.activity.find(1, alone).await.unwrap(), None);
    let (entry, positions) = world.activity.find(1, shared).await.unwrap().unwrap();
    let bo = Recipient {
        email: "bo@example.com".into(),
        ..Recipient::default()
    };
    assert_eq!(
        entry.about,
        About {
            recipients: vec![None, Some(bo)],
            ..About::default()
        }
    );
    assert_eq!(positions, [kept]);
    assert!(world.activity.find(1, other).await.unwrap().is_some());
    let by = |search: Search| world.search(search);
    assert_eq!(
        by(Search {
            tag: Some("tagsecret".into()),
            ..Search::default()
        })
        .await
        .0,
        0
    );
    assert_eq!(
        by(Search {
            recipient: Some("bo@example.com".into()),
            ..Search::default()
        })
        .await
        .1,
        [shared]
    );
    let (again, _dir) = world.anew().await;
    assert_eq!(dump(&again).await, dump(&world.activity).await);
}

#[tokio::test]
async fn made_again_from_the_log_it_is_what_it_was() {
    for seed in 0..12 {
        let mut world = World::new();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut messages: Vec<(MessageId, Sent<'static>)> = Vec::new();
        for _ in 0..random.usize(20..60) {
            match random.u8(0..10) {
                0..=3 => {
                    let sent = Sent {
                        stream: ["outbound", "broadcast"][random.usize(..2)],
                        to: &["ada@example.com", "Bo@Example.com", "c@d.example"]
                            [..random.usize(1..=3)],
                        tag: [None, Some("a"), Some("b")][random.usize(..3)],
                        metadata: &[("k", "v"), ("l", "w")][..random.usize(..3)],
                        header: [
                            "From: x@y.example\r\nSubject: one two\r\n",
                            "Subject: two\r\n",
                            "",
                        ][random.usize(..3)],
                        age_ms: [0, 90_000][random.usize(..2)] + random.u64(..1_000),
                        ..SENT
                    };
                    let id = world.accept(&sent).await;
                    messages.push((id, sent));
                }
                4..=7 if !messages.is_empty() => {
                    let (id, sent) = &messages[random.usize(..messages.len())];
                    let kinds = [
                        EventKind::Deferred,
                        EventKind::Delivered,
                        EventKind::Bounced,
                        EventKind::Complained,
                        EventKind::Retried,
                    ];
                    let kind = kinds[random.usize(..kinds.len())];
                    let number = random.usize(..sent.to.len());
                    // Also of those that were erased: a complaint comes whenever it does.
                    world.event(&about(*id, sent, kind, number)).await;
                }
                8 => world.catch_up().await,
                _ if !messages.is_empty() => {
                    // Somebody is forgotten: his events, and the message.
                    world.catch_up().await;
                    let (id, sent) = &messages[random.usize(..messages.len())];
                    let number = random.usize(..sent.to.len()) as u16;
                    let of = |record: &Record| {
                        let event = Event::decode(&record.payload).ok()??;
                        (event.message_id == *id)
                            .then_some((event.recipient_number, event.mail_position))
                    };
                    let records: Vec<_> = world
                        .spool
                        .events
                        .records_from(0)
                        .flatten()
                        .map(|(record, _)| record)
                        .collect();
                    let events: Vec<_> = records
                        .iter()
                        .filter_map(|record| Some((record.position, of(record)?)))
                        .collect();
                    let doomed: Vec<_> = events
                        .iter()
                        .filter(|(_, (n, _))| *n == number)
                        .map(|(p, _)| *p)
                        .collect();
                    let mail: Vec<_> = events.iter().filter_map(|(_, (_, mail))| *mail).collect();
                    world.activity.reader().forget(&doomed).await.unwrap();
                    world.spool.erase(LogKind::Event, &doomed).unwrap();
                    world.spool.erase(LogKind::Mail, &mail).unwrap();
                }
                _ => {}
            }
        }
        world.catch_up().await;
        // As it is, and when the older half has gone, with what is known of erased ones.
        for kept in [KEPT, Duration::from_secs(50)] {
            world.retention.set(kept);
            let reader = world.activity.reader();
            let pool = reader.pool().unwrap();
            let mut tables = pool.acquire().await.unwrap();
            reader.tables().expire(&mut tables, 0).await.unwrap();
            drop(tables);
            let (again, _dir) = world.anew().await;
            assert_eq!(rows(&again).await, rows(&world.activity).await, "{seed}");
            assert_eq!(dump(&again).await, dump(&world.activity).await, "{seed}");
        }
    }
}
