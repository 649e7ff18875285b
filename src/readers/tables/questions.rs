//! Questions to the tables, in turn.
//!
//! Promises: the reader never waits for one; of a server few are under way at once and a bounded number waits, so that others get
//! theirs; one that takes longer than [`limits::READER_QUESTION_TIME`] is given up, also where whoever asked has gone. What is
//! over a bound hears so at once or after a bounded time, and may ask again.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;
use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Trouble;
use crate::clock::Clock;
use crate::limits;

/// A connection to ask with, for as long as it is kept.
pub struct Question {
    connection: PoolConnection<Sqlite>,
    _turn: OwnedSemaphorePermit,
}

impl Deref for Question {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Question {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

pub(super) struct Questions {
    /// That one may take.
    time: Duration,
    turns: Turns,
}

/// Turns of each server that asks; as many keep one as ask.
#[derive(Default)]
pub struct Turns(Mutex<FxHashMap<u32, Weak<Semaphore>>>);

impl Questions {
    pub(super) fn new(time: Duration) -> Self {
        Self {
            time,
            turns: Turns::default(),
        }
    }

    pub(super) async fn ask(
        &self,
        server: u32,
        askers: &SqlitePool,
        clock: Clock,
    ) -> Result<Question, Trouble> {
        let turn = self.turns.take(server).await?;
        let mut connection = askers.acquire().await?;
        let until = clock.instant() + self.time;
        // Whoever asks after it sets his own.
        let mut handle = connection.lock_handle().await?;
        handle.set_progress_handler(STEPS, move || clock.instant() < until);
        drop(handle);
        Ok(Question {
            connection,
            _turn: turn,
        })
    }
}

impl Turns {
    /// Kept as long as whatever it is for takes.
    pub async fn take(&self, server: u32) -> Result<OwnedSemaphorePermit, Trouble> {
        let turn = self.of(server)?.acquire_owned();
        let turn = tokio::time::timeout(limits::READER_QUESTION_WAIT, turn).await;
        // Nobody closes it.
        turn.ok().and_then(Result::ok).ok_or(Trouble::Busy)
    }

    fn of(&self, server: u32) -> Result<Arc<Semaphore>, Trouble> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = match all.get(&server).and_then(Weak::upgrade) {
            Some(turns) => turns,
            None => {
                all.retain(|_, turns| turns.strong_count() > 0);
                let turns = Arc::new(Semaphore::new(limits::READER_QUESTIONS_AT_ONCE));
                all.insert(server, Arc::downgrade(&turns));
                turns
            }
        };
        // Each who waits or asks keeps it, and we do.
        match Arc::strong_count(&turns) > limits::READER_QUESTIONS_OF_ONE {
            true => Err(Trouble::Busy),
            false => Ok(turns),
        }
    }
}

/// Of SQLite's machine, between two looks at the time: less than a millisecond.
const STEPS: i32 = 10_000;

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;

    const ENDLESS: &str =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n";

    async fn endless(questions: &Questions, pool: &SqlitePool) -> Trouble {
        let mut question = match questions.ask(1, pool, Clock::start()).await {
            Ok(question) => question,
            Err(trouble) => return trouble,
        };
        let asked = sqlx::query_scalar::<_, i64>(ENDLESS);
        asked.fetch_one(&mut *question).await.unwrap_err().into()
    }

    #[tokio::test]
    async fn one_server_that_asks_for_too_much_hears_so_and_the_others_get_their_turn() {
        let pool = SqlitePoolOptions::new().max_connections(limits::READER_QUESTIONS);
        let pool = pool.connect("sqlite::memory:").await.unwrap();
        let questions = Arc::new(Questions::new(Duration::from_millis(20)));
        let all: Vec<_> = (0..limits::READER_QUESTIONS_OF_ONE)
            .map(|_| {
                let (questions, pool) = (Arc::clone(&questions), pool.clone());
                tokio::spawn(async move { endless(&questions, &pool).await })
            })
            .collect();
        let asking = || {
            let turns = questions.turns.0.lock().unwrap();
            turns.get(&1).map_or(0, Weak::strong_count)
        };
        while asking() < limits::READER_QUESTIONS_OF_ONE {
            tokio::task::yield_now().await;
        }
        let surplus = endless(&questions, &pool).await;
        assert!(matches!(surplus, Trouble::Busy), "{surplus}");
        // While two of them are under way.
        let mut other = questions.ask(2, &pool, Clock::start()).await.unwrap();
        let one: i64 = sqlx::query_scalar("SELECT 1")
            .fetch_one(&mut *other)
            .await
            .unwrap();
        assert_eq!(one, 1);
        for asked in all {
            let trouble = asked.await.unwrap();
            // On a machine that is busy with others it may be no turn in time.
            let is_bounded = matches!(trouble, Trouble::TooLong | Trouble::Busy);
            assert!(is_bounded, "{trouble}");
        }
        // Nothing is left of it, and whoever asks now has all of his time.
        let mut again = questions.ask(1, &pool, Clock::start()).await.unwrap();
        let one = sqlx::query_scalar::<_, i64>("SELECT 1");
        assert_eq!(one.fetch_one(&mut *again).await.unwrap(), 1);
        assert_eq!(questions.turns.0.lock().unwrap().len(), 2);
    }
}
