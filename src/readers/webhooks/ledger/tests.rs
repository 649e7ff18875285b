//! What the ledger keeps, for whom, and how long.

use super::*;
use crate::readers::webhooks::schedule::{Plan, Schedule};

async fn ledger() -> (tempfile::TempDir, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).await.unwrap();
    (dir, ledger)
}

/// One with an event that waits for its retry.
fn changes(cursor: u64) -> Changes {
    let plan = Plan::new(&crate::config::Webhooks::default());
    let mut changes = Schedule::new(plan, cursor, Health::default(), None, []).changes();
    let retry = Retry {
        class: Class::Event,
        attempts: 1,
        due: 9,
    };
    changes.retries.push((cursor - 8, Some(retry)));
    changes
}

async fn count(ledger: &Ledger, table: &str) -> i64 {
    let text = format!("SELECT count(*) FROM {table}");
    let counted = sqlx::query_scalar(sqlx::AssertSqlSafe(text));
    counted.fetch_one(&ledger.pool).await.unwrap()
}

#[tokio::test]
async fn a_hook_that_is_set_anew_begins_anew_and_one_that_comes_back_goes_on() {
    let (dir, ledger) = ledger().await;
    assert!(
        ledger
            .take_up("s1-bounce", Some(7))
            .await
            .unwrap()
            .is_none()
    );
    ledger
        .begin("s1-bounce", Some(7), 100, &changes(100))
        .await
        .unwrap();
    ledger.write("s1-bounce", &changes(100), &[]).await.unwrap();
    ledger.close().await;
    let ledger = Ledger::open(dir.path()).await.unwrap();
    let kept = ledger.take_up("s1-bounce", Some(7)).await.unwrap().unwrap();
    assert_eq!((kept.cursor, kept.retries.len()), (100, 1));
    // Set before times were kept of it.
    assert!(ledger.take_up("s1-bounce", None).await.unwrap().is_some());
    assert!(
        ledger
            .take_up("s1-bounce", Some(8))
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        (count(&ledger, "hook").await, count(&ledger, "retry").await),
        (0, 0)
    );
}

#[tokio::test]
async fn what_is_gone_for_long_is_forgotten_and_what_came_back_meanwhile_is_not() {
    let (_dir, ledger) = ledger().await;
    let day = 86_400_000;
    for key in ["1", "2", "3"] {
        ledger
            .begin(key, Some(7), 100, &changes(100))
            .await
            .unwrap();
        ledger.write(key, &changes(100), &[]).await.unwrap();
    }
    ledger.sweep(|key| key == "1", day).await.unwrap();
    ledger.sweep(|key| key == "1", 2 * day).await.unwrap();
    assert!(ledger.take_up("2", Some(7)).await.unwrap().is_some());
    ledger.sweep(|key| key != "3", 32 * day).await.unwrap();
    assert_eq!(
        (count(&ledger, "hook").await, count(&ledger, "retry").await),
        (2, 2)
    );
    assert!(ledger.take_up("3", Some(7)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_ledger_of_the_version_before_is_brought_up_and_one_that_is_damaged_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let old = SqlitePool::connect_with(options).await.unwrap();
    let was = include_str!("../schema.sql")
        .replace(
            "    replay_to_unix_ms INTEGER,\n",
            "    replay_to_unix_ms INTEGER\n",
        )
        .lines()
        .filter(|line| !line.contains(" created_unix_ms") && !line.contains(" gone_unix_ms"))
        .filter(|line| !line.contains(" began INTEGER"))
        .collect::<Vec<_>>()
        .join("\n");
    for step in [
        was.as_str(),
        "PRAGMA user_version = 1",
        "INSERT INTO hook (key, cursor) VALUES ('1', 64), ('s1-bounce', 64)",
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(step.to_owned()))
            .execute(&old)
            .await
            .unwrap();
    }
    old.close().await;
    let ledger = Ledger::open(dir.path()).await.unwrap();
    assert_eq!(
        ledger.take_up("1", Some(7)).await.unwrap().unwrap().cursor,
        64
    );
    // The first files of this version had no such table.
    assert_eq!(count(&ledger, "hour").await, 0);
    // A hook URL that was set while nobody looked.
    let other = ledger.take_up("s1-bounce", Some(7)).await.unwrap();
    assert!(other.is_none());
    ledger.close().await;
    for aside in ["db.bad", "db.bad2"] {
        std::fs::write(
            &path,
            b"no database, but of some length, so that it is looked at",
        )
        .unwrap();
        let ledger = Ledger::open(dir.path()).await.unwrap();
        assert_eq!(count(&ledger, "hook").await, 0);
        assert!(path.with_extension(aside).exists());
        ledger.close().await;
    }
}

#[tokio::test]
async fn a_ledger_of_a_later_version_is_left_alone() {
    let (dir, ledger) = ledger().await;
    ledger
        .begin("1", Some(7), 100, &changes(100))
        .await
        .unwrap();
    let later = sqlx::raw_sql("PRAGMA user_version = 4");
    later.execute(&ledger.pool).await.unwrap();
    ledger.close().await;
    let refused = Ledger::open(dir.path()).await.err();
    assert!(matches!(refused, Some(OpenError::Newer(4))));
    assert!(!dir.path().join("webhooks.db.bad").exists());
}

#[test]
fn only_what_says_that_the_file_is_bad_puts_it_aside() {
    let check = |code, expected| assert_eq!(is_passing(code), expected, "{code}");
    // SQLITE_NOMEM, SQLITE_IOERR_NOMEM, SQLITE_PROTOCOL, SQLITE_BUSY_SNAPSHOT, SQLITE_READONLY_DBMOVED.
    for code in [
        3,
        5,
        6,
        7,
        8,
        10,
        13,
        14,
        15,
        10 | 12 << 8,
        5 | 2 << 8,
        8 | 4 << 8,
    ] {
        check(code, true);
    }
    // SQLITE_ERROR, SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_CORRUPT_INDEX.
    for code in [1, 11, 26, 11 | 3 << 8] {
        check(code, false);
    }
}
