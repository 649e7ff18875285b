//! Manners towards DNS blocklists, which belong to others: few questions a second, and none twice within a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::check::{Answer, Question};
use crate::clock::Clock;
use crate::limits;
use crate::route::Records;

pub(super) struct Lists {
    zones: Vec<String>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the next question may go out.
    next: Option<Instant>,
    known: HashMap<Question, (Answer, Instant)>,
}

impl Lists {
    pub(super) fn new(zones: Vec<String>, clock: Clock) -> Self {
        Self {
            zones,
            clock,
            state: Mutex::default(),
        }
    }

    /// Any question; those to lists wait for their turn.
    pub(super) async fn ask(&self, records: &Records, question: &Question, end: Instant) -> Answer {
        if !self.is_to_list(question) {
            return records.look_up(question).await;
        }
        let now = self.clock.instant();
        let at = {
            let mut state = self.lock();
            if let Some(answer) = state.known(question, now) {
                return answer;
            }
            match state.turn(now, end) {
                Some(at) => at,
                None => return Answer::Failed("too many questions to lists at the moment".into()),
            }
        };
        tokio::time::sleep_until(at.into()).await;
        let answer = records.look_up(question).await;
        self.lock().keep(question, &answer, self.clock.instant());
        answer
    }

    fn is_to_list(&self, question: &Question) -> bool {
        let below = |zone: &String| {
            let rest = question.name.strip_suffix(zone.as_str());
            rest.is_some_and(|rest| rest.ends_with('.'))
        };
        self.zones.iter().any(below)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn known(&self, question: &Question, now: Instant) -> Option<Answer> {
        let (answer, until) = self.known.get(question)?;
        (*until > now).then(|| answer.clone())
    }

    /// `None`: it would come too late.
    fn turn(&mut self, now: Instant, end: Instant) -> Option<Instant> {
        let at = self.next.unwrap_or(now).max(now);
        if at >= end {
            return None;
        }
        self.next = Some(at + Duration::from_secs(1) / limits::DNSBL_QUERIES_PER_SECOND);
        Some(at)
    }

    fn keep(&mut self, question: &Question, answer: &Answer, now: Instant) {
        if let Answer::Failed(_) = answer {
            return;
        }
        if self.known.len() >= limits::DNSBL_ANSWERS_MAX {
            self.known.retain(|_, (_, until)| *until > now);
        }
        if self.known.len() < limits::DNSBL_ANSWERS_MAX {
            let until = now + limits::DNSBL_MEMORY;
            self.known.insert(question.clone(), (answer.clone(), until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Kind;

    #[test]
    fn lists_are_asked_so_often_a_second_and_not_twice_for_the_same() {
        let start = Clock::start().instant();
        let mut state = State::default();
        let question = |name: &str| Question {
            name: name.into(),
            kind: Kind::A,
        };
        let end = start + Duration::from_secs(2);
        let turns: Vec<Instant> = std::iter::from_fn(|| state.turn(start, end)).collect();
        assert_eq!(turns.len(), 2 * limits::DNSBL_QUERIES_PER_SECOND as usize);
        assert!(turns.is_sorted() && turns[0] == start);

        let failed = Answer::Failed("SERVFAIL".into());
        state.keep(&question("a.list.test"), &Answer::NoSuchName, start);
        state.keep(&question("b.list.test"), &failed, start);
        let late = start + limits::DNSBL_MEMORY;
        assert_eq!(
            state.known(&question("a.list.test"), start),
            Some(Answer::NoSuchName)
        );
        assert_eq!(state.known(&question("a.list.test"), late), None);
        assert_eq!(state.known(&question("b.list.test"), start), None);
        for n in 0..limits::DNSBL_ANSWERS_MAX + 10 {
            state.keep(
                &question(&format!("{n}.list.test")),
                &Answer::NoSuchName,
                start,
            );
        }
        assert_eq!(state.known.len(), limits::DNSBL_ANSWERS_MAX);
        state.keep(&question("new.list.test"), &Answer::NoSuchName, late);
        assert_eq!(state.known.len(), 1);
    }
}
