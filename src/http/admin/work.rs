//! Verbs that take longer than a request may. They go on by themselves; whoever asked is told a number, and asks for the end.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Json, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{AdminBackend, AdminError, App, wire};
use crate::limits;

pub(in crate::http) struct Works {
    /// For so long a request waits.
    wait: Duration,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    last: u64,
    /// Those that took long; the latest [`limits::WORKS_MAX`].
    all: BTreeMap<u64, Work>,
}

type Work = Arc<tokio::sync::Mutex<Progress>>;
type Answer = Result<Value, AdminError>;

enum Progress {
    Running(JoinHandle<Answer>),
    Ended(Answer),
}

impl Works {
    pub(in crate::http) fn new(wait: Duration) -> Self {
        Self {
            wait,
            known: Mutex::default(),
        }
    }

    /// The answer of `verb`, or the number to ask for it.
    pub(super) async fn see_through<T: Serialize>(
        &self,
        verb: impl Future<Output = Result<T, AdminError>> + Send + 'static,
    ) -> Result<Response, AdminError> {
        let running = tokio::spawn(async move {
            serde_json::to_value(verb.await?).map_err(|error| AdminError::Failed(error.to_string()))
        });
        let work = Arc::new(tokio::sync::Mutex::new(Progress::Running(running)));
        match look(&work, self.wait).await {
            Some(answer) => answer.map(|value| Json(value).into_response()),
            None => Ok(goes_on(self.keep(work))),
        }
    }

    /// Forgotten are the oldest: their verbs go on all the same.
    fn keep(&self, work: Work) -> u64 {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.last += 1;
        let number = known.last;
        known.all.insert(number, work);
        if known.all.len() > limits::WORKS_MAX {
            known.all.pop_first();
        }
        number
    }

    fn get(&self, number: u64) -> Option<Work> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.all.get(&number).cloned()
    }
}

/// `None`: it is still at work.
async fn look(work: &Work, wait: Duration) -> Option<Answer> {
    let mut progress = work.lock().await;
    if let Progress::Running(running) = &mut *progress {
        let ended = tokio::time::timeout(wait, running).await.ok()?;
        let failed = |error: tokio::task::JoinError| Err(AdminError::Failed(error.to_string()));
        *progress = Progress::Ended(ended.unwrap_or_else(failed));
    }
    match &*progress {
        Progress::Ended(answer) => Some(answer.clone()),
        Progress::Running(_) => None,
    }
}

fn goes_on(work: u64) -> Response {
    let message = format!("still at work; GET /admin/v1/queue/running/{work} tells the end");
    let body = wire::Work { work, message };
    (StatusCode::ACCEPTED, Json(body)).into_response()
}

pub(super) async fn work<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(number): Path<u64>,
) -> Result<Response, AdminError> {
    let Some(work) = app.works.get(number) else {
        let unknown = format!("there is no work {number}, or it ended long ago");
        return Err(AdminError::NotFound(unknown));
    };
    match look(&work, app.works.wait).await {
        Some(answer) => answer.map(|value| Json(value).into_response()),
        None => Ok(goes_on(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_verb_that_takes_long_goes_on_and_its_end_is_told_as_often_as_it_is_asked_for() {
        let works = Works::new(limits::WORK_WAIT);
        let quick = works.see_through(async { Ok(1) }).await.unwrap();
        assert_eq!(quick.status(), StatusCode::OK);
        let no = || AdminError::Conflict("no".into());
        let refused = works.see_through::<u32>(async move { Err(no()) }).await;
        assert_eq!(refused.unwrap_err(), no());
        let works = Works::new(Duration::ZERO);
        let (end, ended) = tokio::sync::oneshot::channel::<u32>();
        let long = async move { ended.await.map_err(|_| AdminError::Failed("gone".into())) };
        let told = works.see_through(long).await.unwrap();
        assert_eq!(told.status(), StatusCode::ACCEPTED);
        let work = works.get(1).unwrap();
        assert_eq!(look(&work, works.wait).await, None);
        end.send(7).unwrap();
        for _ in 0..2 {
            let answer = look(&work, limits::WORK_WAIT).await;
            assert_eq!(answer, Some(Ok(Value::from(7))));
        }
        assert!(works.get(2).is_none());
    }
}
