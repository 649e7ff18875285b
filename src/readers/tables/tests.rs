//! The framework, with tables that write down one row for each event.

use proptest::prelude::*;
use sqlx::Row as _;
use tempfile::TempDir;

use super::*;
use crate::mail::MessageId;
use crate::spool::disk::memory::MemoryDisk;
use crate::spool::{Damage, Frame, LogKind, Options, Replay, Spool};

struct Notes;

impl Tables for Notes {
    const NAME: &'static str = "notes";
    const VERSION: i64 = 1;
    const SCHEMA: &'static str =
        "CREATE TABLE note (position INTEGER PRIMARY KEY, recipient TEXT NOT NULL) STRICT";
    const FACTS: usize = 4;
    type Fact = (u64, String);

    fn wants(&self, kind: EventKind) -> bool {
        kind == EventKind::Bounced
    }

    fn fact(&self, position: u64, event: &Event<'_>) -> Option<(u64, String)> {
        Some((position, event.recipient.to_owned()))
    }

    async fn apply(
        &self,
        tables: &mut SqliteConnection,
        facts: Vec<(u64, String)>,
    ) -> Result<(), sqlx::Error> {
        for (position, recipient) in facts {
            sqlx::query("INSERT INTO note VALUES ($1, $2)")
                .bind(position as i64)
                .bind(recipient)
                .execute(&mut *tables)
                .await?;
        }
        Ok(())
    }

    async fn expire(&self, _: &mut SqliteConnection, _: UnixMs) -> Result<(), sqlx::Error> {
        Ok(())
    }

    async fn forget(&self, _: &mut SqliteConnection, _: &[u64]) -> Result<(), sqlx::Error> {
        Ok(())
    }
}

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, _: &Damage) {}
}

/// A spool in memory.
pub(crate) fn spool(clock: Clock) -> Arc<Spool> {
    let mut options = Options::new(PathBuf::from("/data"));
    options.mail_segment = 1 << 20;
    options.event_segment = 256 << 10;
    (options.reserve, options.refuse_below, options.warn_below) = (0, 0, 0);
    let disk = Arc::new(MemoryDisk::new());
    Arc::new(Spool::open(disk, options, clock, &mut Nothing).unwrap())
}

pub(crate) async fn append(spool: &Spool, event: &Event<'_>) -> u64 {
    let mut payload = Vec::new();
    event.encode(&mut payload);
    let ticket = spool
        .events
        .append(spool_format::kind::EVENT, 0, &[&payload], None)
        .await
        .unwrap();
    let position = ticket.position();
    ticket.await.unwrap();
    position
}

/// Everything that tables hold, the cursor apart.
pub(crate) async fn contents(pool: &SqlitePool) -> Vec<String> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'cursor' AND name NOT LIKE 'sqlite_%' ORDER BY name",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut all = Vec::new();
    for name in names {
        let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)")
            .bind(&name)
            .fetch_all(pool)
            .await
            .unwrap();
        let quoted: Vec<_> = columns.iter().map(|c| format!("quote({c})")).collect();
        let query = format!("SELECT {} AS line FROM {name}", quoted.join(" || ' ' || "));
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .fetch_all(pool)
            .await
            .unwrap();
        let mut lines: Vec<String> = rows
            .iter()
            .map(|row| format!("{name}: {}", row.get::<String, _>("line")))
            .collect();
        lines.sort();
        all.append(&mut lines);
    }
    all
}

/// Has a reader made again, and sees to it that it then says what it said. It is to be running.
pub(crate) async fn assert_rebuilt_equals_live<T: Tables>(reader: &Arc<TableReader<T>>) {
    let generation = reader.standing().generation;
    let live = contents(&reader.pool().unwrap()).await;
    reader.rebuild().unwrap();
    while reader.standing().generation == generation {
        reader.step_once().await;
    }
    assert_eq!(contents(&reader.pool().unwrap()).await, live);
}

impl<T: Tables> TableReader<T> {
    /// Reads on until there is no more.
    pub(crate) async fn catch_up(self: &Arc<Self>) {
        while self.step().await.unwrap() {}
    }

    pub(crate) async fn step_once(self: &Arc<Self>) {
        self.step().await.unwrap();
    }

    pub(crate) async fn step_fails(self: &Arc<Self>) -> String {
        self.step().await.unwrap_err().to_string()
    }
}

fn reader(spool: &Spool, dir: &TempDir) -> Arc<TableReader<Notes>> {
    let kept = Duration::from_secs(86_400);
    Arc::new(TableReader::new(
        Notes,
        &spool.events,
        dir.path(),
        kept,
        Clock::start(),
    ))
}

fn bounced(number: u16) -> Event<'static> {
    Event {
        kind: EventKind::Bounced,
        at: 1_772_460_912_000 + u64::from(number),
        message_id: MessageId::new(1, &[1; 10]),
        recipient: "cy@example.com",
        recipient_number: number,
        ..Event::nothing()
    }
}

async fn count(reader: &TableReader<Notes>) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM note")
        .fetch_one(&reader.pool().unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn old_tables_go_on_and_answer_until_the_new_ones_are_complete() {
    let (spool, dir) = (spool(Clock::start()), TempDir::new().unwrap());
    for number in 0..20 {
        append(&spool, &bounced(number)).await;
    }
    let reader = reader(&spool, &dir);
    reader.catch_up().await;
    reader.rebuild().unwrap();
    assert_eq!(reader.rebuild(), Err(NotRebuilt::UnderWay));
    let mut steps = 0;
    while reader.standing().generation == 1 {
        append(&spool, &bounced(100 + steps)).await;
        assert!(reader.step().await.unwrap() || steps > 0);
        steps += 1;
        let standing = reader.standing();
        assert_eq!(
            standing.lag_bytes, 0,
            "the old ones, or the new ones, read on"
        );
        assert_eq!(count(&reader).await, 20 + i64::from(steps));
    }
    assert!(steps > 4, "a batch is four rows");
    assert_eq!(reader.standing().state, State::Following);
    let files: Vec<_> = std::fs::read_dir(dir.path().join("readers"))
        .unwrap()
        .collect();
    assert!(
        files.iter().all(|f| f
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("notes.2.db")),
        "{files:?}"
    );
    // Under the other name again.
    assert_rebuilt_equals_live(&reader).await;
    assert_eq!(reader.standing().generation, 3);
}

#[tokio::test]
async fn a_node_that_dies_while_tables_are_made_again_finds_those_that_are_whole() {
    let (spool, dir) = (spool(Clock::start()), TempDir::new().unwrap());
    for number in 0..20 {
        append(&spool, &bounced(number)).await;
    }
    let first = reader(&spool, &dir);
    first.catch_up().await;
    first.rebuild().unwrap();
    // After each step the node is killed: what it leaves is what is on disk then.
    let (mut steps, mut found) = (0, Vec::new());
    while first.standing().generation == 1 {
        first.step().await.unwrap();
        steps += 1;
        let copy = TempDir::new().unwrap();
        std::fs::create_dir(copy.path().join("readers")).unwrap();
        for file in std::fs::read_dir(dir.path().join("readers")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(
                file.path(),
                copy.path().join("readers").join(file.file_name()),
            )
            .unwrap();
        }
        let again = reader(&spool, &copy);
        again.step().await.unwrap();
        assert_eq!(count(&again).await, 20, "step {steps}");
        found.push(again.standing().generation);
        let left = std::fs::read_dir(copy.path().join("readers"))
            .unwrap()
            .count();
        assert!(left <= 3, "one file with its journal");
    }
    assert!(steps > 3 && found.ends_with(&[1, 2]), "{found:?}");
}

#[tokio::test]
async fn whoever_asks_holds_up_nothing_that_is_written() {
    let (spool, dir) = (spool(Clock::start()), TempDir::new().unwrap());
    let reader = reader(&spool, &dir);
    reader.catch_up().await;
    // As many as can ask at once look at the tables as they were, and go on looking.
    let mut questions = Vec::new();
    for server in 0..limits::READER_QUESTIONS {
        questions.push(reader.ask(server).await.unwrap());
    }
    let mut views = Vec::new();
    for question in &mut questions {
        let mut view = question.begin().await.unwrap();
        let none = "SELECT COUNT(*) FROM note";
        let none: i64 = sqlx::query_scalar(none)
            .fetch_one(&mut *view)
            .await
            .unwrap();
        assert_eq!(none, 0);
        let wrong = sqlx::query("DELETE FROM cursor").execute(&mut *view).await;
        assert!(wrong.is_err(), "a question changes nothing");
        views.push(view);
    }
    append(&spool, &bounced(1)).await;
    reader.catch_up().await;
    assert_eq!(count(&reader).await, 1);
    drop(views);
    drop(questions);
    // What was deleted is written over when nobody sees it any more.
    reader.forget(&[]).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whenever_it_is_stopped_and_made_again_each_event_is_one_row(
        steps in prop::collection::vec(0u8..4, 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (spool, dir) = (spool(Clock::start()), TempDir::new().unwrap());
            let mut reader = reader(&spool, &dir);
            let mut written = 0;
            for step in steps {
                match step {
                    0 | 1 => {
                        append(&spool, &bounced(written)).await;
                        written += 1;
                    }
                    2 => drop(reader.step().await.unwrap()),
                    _ => {
                        let _ = reader.rebuild();
                        reader.step().await.unwrap();
                        if written % 2 == 0 {
                            // Another life.
                            reader = self::reader(&spool, &dir);
                        }
                    }
                }
            }
            reader.catch_up().await;
            prop_assert_eq!(count(&reader).await, i64::from(written));
            assert_rebuilt_equals_live(&reader).await;
            Ok(())
        })?;
    }
}
