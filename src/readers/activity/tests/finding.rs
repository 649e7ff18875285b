//! Every filter of a search, alone and with others.

use super::*;

#[tokio::test]
async fn every_filter_finds_its_own_and_counts_them() {
    let mut world = World::new();
    let ours = world
        .accept(&Sent {
            tag: Some("welcome"),
            metadata: &[("Order", "881"), ("city", "Ulm")],
            to: &["Ada@Example.com", "zoe@example.com"],
            age_ms: 5_000,
            ..SENT
        })
        .await;
    let old = world
        .accept(&Sent {
            header: "From: other@shop.example\r\nSubject: \u{dc}ber uns\r\n",
            age_ms: 7_200_000,
            ..SENT
        })
        .await;
    let foreign = Sent {
        server: 2,
        tag: Some("welcome"),
        metadata: &[("order", "881")],
        ..SENT
    };
    world.accept(&foreign).await;
    let bulk = world
        .accept(&Sent {
            stream: "broadcast",
            tag: Some("welcome"),
            ..SENT
        })
        .await;
    world.event(&about(old, &SENT, EventKind::Bounced, 0)).await;
    world.catch_up().await;
    let text = |text: &str| Some(text.to_owned());
    let pair = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    let now = world.clock.unix_ms();
    let all = Search::default;
    for (search, expected) in [
        (all(), vec![ours, old]),
        (
            Search {
                recipient: text("ADA@example.COM"),
                ..all()
            },
            vec![ours, old],
        ),
        (
            Search {
                recipient: text("zoe@example.com"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                recipient: text("example.com"),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                from: text("other@shop.example"),
                ..all()
            },
            vec![old],
        ),
        (
            Search {
                tag: text("welcome"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                tag: text("Welcome"),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                metadata: pair("order", "881"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                metadata: pair("order", "88"),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                subject: text("PARCEL le"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                subject: text("ber UNS"),
                ..all()
            },
            vec![old],
        ),
        (
            Search {
                subject: text("arcel LEFT u"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                subject: text("\" OR *"),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                subject: text("..."),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                is_queued: Some(true),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                is_queued: Some(false),
                ..all()
            },
            vec![old],
        ),
        (
            Search {
                is_queued: Some(true),
                from: text("other@shop.example"),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                is_queued: Some(false),
                from: text("other@shop.example"),
                ..all()
            },
            vec![old],
        ),
        (
            Search {
                since: Some(now - 60_000),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                until: Some(now - 60_000),
                ..all()
            },
            vec![old],
        ),
        (
            Search {
                since: Some(ours.unix_ms()),
                until: Some(ours.unix_ms() + 1),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                since: Some(now - 60_000),
                recipient: text("ada@example.com"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                since: Some(now + 1),
                ..all()
            },
            vec![],
        ),
        (Search { count: 1, ..all() }, vec![ours]),
        (Search { offset: 1, ..all() }, vec![old]),
    ] {
        let wanted = Search {
            server: 1,
            stream: "outbound".into(),
            count: search.count.max(1),
            ..search.clone()
        };
        let found = match search.count {
            0 => world.search(search.clone()).await,
            _ => {
                let (total, found) = world.activity.search(&wanted).await.unwrap();
                (total, found.iter().map(|entry| entry.id).collect())
            }
        };
        let total = if search.count + search.offset > 0 {
            2
        } else {
            expected.len() as u64
        };
        assert_eq!(found, (total, expected), "{search:?}");
    }
    let broadcast = Search {
        server: 1,
        stream: "broadcast".into(),
        tag: text("welcome"),
        count: 9,
        ..all()
    };
    let (total, found) = world.activity.search(&broadcast).await.unwrap();
    assert_eq!((total, found[0].id), (1, bulk));
    let nowhere = Search {
        stream: "nowhere".into(),
        ..broadcast
    };
    assert_eq!(world.activity.search(&nowhere).await.unwrap(), (0, vec![]));
}

#[tokio::test]
async fn among_many_messages_words_of_a_subject_are_found() {
    let world = World::new();
    world.catch_up().await;
    let now = world.clock.unix_ms();
    let many = limits::ACTIVITY_SUBJECTS as u64 + 2;
    let facts = (0..many).map(|number| {
        let mut octets = [0; 10];
        octets[2..].copy_from_slice(&number.to_be_bytes());
        let about = About {
            subject: format!("The \u{dc}bliche of number{number}"),
            tag: ["even", "odd"][number as usize % 2].into(),
            ..About::default()
        };
        Fact::Message(Box::new(New {
            id: MessageId::new(now - 60_000, &octets),
            server: 1,
            stream: "outbound".into(),
            position: Some(0),
            about,
        }))
    });
    let pool = world.activity.reader().pool().unwrap();
    let mut tables = pool.acquire().await.unwrap();
    let made = write::apply(&mut tables, facts.collect()).await.unwrap();
    assert_eq!(made as u64, many);
    drop(tables);
    let count = async |subject: &str, tag: Option<&str>| {
        let search = Search {
            subject: Some(subject.into()),
            tag: tag.map(str::to_owned),
            ..Search::default()
        };
        world.search(search).await.0
    };
    assert_eq!(count("NUMBER77 \u{fc}bliche", None).await, 1);
    assert_eq!(count("umber77", None).await, 0);
    assert_eq!(count("-", None).await, 0);
    // Half of them are few enough to be looked through.
    let odd = (0..many).filter(|n| n % 2 == 1 && n.to_string().starts_with("77"));
    assert_eq!(count("umber77", Some("odd")).await, odd.count() as u64);
}
