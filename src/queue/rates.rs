//! Rates and volumes of a path. What waits behind them waits for one time: the path's.

use crate::clock::UnixMs;
use crate::config::{PathLimits, Rate};

/// What a path with a rate or volume has used up. Rates are even: after each message its interval passes, and time that
/// passed unused is not made up for, so no stretch of time sees more than its share and one.
#[derive(Default)]
pub(super) struct Used {
    /// In microseconds: when the next message may go.
    message_from: u64,
    connection_from: u64,
    hour: Volume,
    day: Volume,
}

/// Messages since the first one of a period.
#[derive(Default)]
struct Volume {
    until: UnixMs,
    count: u32,
}

/// Which limit stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    MessageRate,
    ConnectionRate,
    MessagesPerHour,
    MessagesPerDay,
}

impl Used {
    /// When the next message may go, and what says so.
    pub(super) fn message_at(&self, limits: &PathLimits) -> (UnixMs, Pace) {
        let full = |volume: &Volume, max: Option<u32>| match max {
            Some(max) if volume.count >= max => volume.until,
            _ => 0,
        };
        let max = |set: &Option<crate::config::Set<u32>>| set.as_ref().map(|set| set.value);
        let times = [
            (self.message_from.div_ceil(1_000), Pace::MessageRate),
            (
                full(&self.hour, max(&limits.messages_per_hour)),
                Pace::MessagesPerHour,
            ),
            (
                full(&self.day, max(&limits.messages_per_day)),
                Pace::MessagesPerDay,
            ),
        ];
        times
            .into_iter()
            .max_by_key(|(at, _)| *at)
            .unwrap_or((0, Pace::MessageRate))
    }

    pub(super) fn connection_at(&self) -> UnixMs {
        self.connection_from.div_ceil(1_000)
    }

    pub(super) fn message(&mut self, now: UnixMs, limits: &PathLimits) {
        if let Some(rate) = &limits.message_rate {
            self.message_from = self.message_from.max(now * 1_000) + interval_us(rate.value);
        }
        for (volume, period) in [(&mut self.hour, HOUR_MS), (&mut self.day, 24 * HOUR_MS)] {
            if volume.until <= now {
                *volume = Volume {
                    until: now + period,
                    count: 0,
                };
            }
            volume.count = volume.count.saturating_add(1);
        }
    }

    pub(super) fn connection(&mut self, now: UnixMs, limits: &PathLimits) {
        if let Some(rate) = &limits.connection_rate {
            self.connection_from = self.connection_from.max(now * 1_000) + interval_us(rate.value);
        }
    }

    /// Until when a path without mail has to be remembered.
    pub(super) fn remembered_until(&self, limits: &PathLimits) -> UnixMs {
        let volume = |volume: &Volume, is_limited: bool| if is_limited { volume.until } else { 0 };
        self.message_at(limits)
            .0
            .max(self.connection_at())
            .max(volume(&self.hour, limits.messages_per_hour.is_some()))
            .max(volume(&self.day, limits.messages_per_day.is_some()))
    }
}

fn interval_us(rate: Rate) -> u64 {
    let period = rate.period().as_micros() as u64;
    period.div_ceil(u64::from(rate.count))
}

const HOUR_MS: u64 = 3_600_000;
