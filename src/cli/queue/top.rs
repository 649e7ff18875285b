//! `posthaste queue top`: what waits, live in a terminal. Plain escape sequences; one frame where there is no terminal.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use super::ls::{By, name};
use crate::cli::client::AdminClient;
use crate::cli::{Failure, Found, Place};
use crate::clock::Clock;
use crate::config::parse_duration;
use crate::http::wire;

#[derive(Args)]
#[command(
    after_help = "Keys: s sorts by size, a by age, r by rate; q ends. OUT/S: recipients whose attempt ended them, a second; +-/S: change of those that \
wait.\n\nExamples:\n  posthaste queue top\n  posthaste queue top --by site --sort rate --every 5s"
)]
pub(in crate::cli) struct Top {
    #[command(flatten)]
    place: Place,
    /// What a row is about.
    #[arg(long, value_enum, default_value_t = By::Domain)]
    by: By,
    #[arg(long, value_enum, default_value_t = Sort::Size)]
    sort: Sort,
    /// Time between two frames.
    #[arg(long, value_name = "TIME", default_value = "2s")]
    every: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    Size,
    Age,
    Rate,
}

/// What the frame before said of a row: outcomes, and who waited.
type Before = HashMap<(Option<String>, String), (u64, u64)>;

struct Line {
    row: wire::CensusRow,
    /// A second; `None`: the first that is seen of it.
    out: Option<f64>,
    change: Option<f64>,
}

impl Top {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let every = parse_duration(&self.every);
        let every = every.map_err(|e| Failure::usage(format!("--every: {e}")))?;
        let every = every.max(Duration::from_millis(200));
        let client = AdminClient::new(&self.place.data_dir()?)?;
        let (stdin, mut stdout) = (io::stdin(), io::stdout());
        if !stdin.is_terminal() || !stdout.is_terminal() {
            let lines = rows(&client, self.by, &Before::new(), None)?;
            let frame = frame(&client, lines, self.sort, ROWS, usize::MAX)?;
            for line in frame {
                writeln!(stdout, "{line}")?;
            }
            return Ok(Found::All);
        }
        let clock = Clock::start();
        let _screen = Screen::enter()?;
        let (mut before, mut sort, mut seen) = (Before::new(), self.sort, None);
        loop {
            let now = clock.instant();
            let passed = seen.map(|seen| now.duration_since(seen).as_secs_f64());
            let lines = rows(&client, self.by, &before, passed)?;
            before = lines
                .iter()
                .map(|line| (key(&line.row), (line.row.outcomes, total(&line.row))))
                .collect();
            seen = Some(now);
            // Some terminals do not know their size and say 0.
            let size = termios::tcgetwinsize(&stdout);
            let size = size.ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
            let (high, wide) =
                size.map_or((24, 80), |size| (size.ws_row.into(), size.ws_col.into()));
            let mut text = "\x1b[H".to_owned();
            for line in frame(&client, lines, sort, usize::max(high, 8) - 5, wide)? {
                text += &line;
                text += "\x1b[K\r\n";
            }
            write!(stdout, "{text}\x1b[J")?;
            stdout.flush()?;
            let next = now + every;
            while clock.instant() < next {
                // Comes back after a tenth of a second without a key.
                let mut pressed = [0; 1];
                let count = stdin.lock().read(&mut pressed)?;
                match pressed.first().filter(|_| count > 0) {
                    // Ctrl-C comes as a key.
                    Some(b'q' | b'Q' | 3) => return Ok(Found::All),
                    Some(b's') => sort = Sort::Size,
                    Some(b'a') => sort = Sort::Age,
                    Some(b'r') => sort = Sort::Rate,
                    _ => continue,
                }
                break;
            }
        }
    }
}

fn rows(
    client: &AdminClient,
    by: By,
    before: &Before,
    passed: Option<f64>,
) -> Result<Vec<Line>, Failure> {
    let path = format!(
        "/admin/v1/queue/census?by={}&sort=size&limit={ROWS_ASKED}",
        by.word()
    );
    let census: wire::Census = client.get(&path)?;
    let lines = census.rows.into_iter().map(|row| {
        let known = before
            .get(&key(&row))
            .zip(passed.filter(|passed| *passed > 0.0));
        let rate = |now: u64, then: u64, passed: f64| (now as f64 - then as f64) / passed;
        Line {
            // Outcomes of a queue that was forgotten meanwhile are not counted any more.
            out: known.map(|((out, _), passed)| rate(row.outcomes, *out, passed).max(0.0)),
            change: known.map(|((_, waited), passed)| rate(total(&row), *waited, passed)),
            row,
        }
    });
    Ok(lines.collect())
}

/// The lines of one screen.
fn frame(
    client: &AdminClient,
    mut lines: Vec<Line>,
    sort: Sort,
    count_max: usize,
    wide: usize,
) -> Result<Vec<String>, Failure> {
    let status: wire::Status = client.get("/admin/v1/status")?;
    match sort {
        Sort::Size => {}
        Sort::Age => lines.sort_by(|a, b| {
            let age = |line: &Line| line.row.oldest_at.clone().unwrap_or("z".to_owned());
            age(a).cmp(&age(b))
        }),
        Sort::Rate => lines.sort_by(|a, b| {
            let rate = |line: &Line| line.out.unwrap_or(0.0);
            rate(b).total_cmp(&rate(a))
        }),
    }
    let word = match (status.ready, &status.reason) {
        (true, _) => "accepting".to_owned(),
        (false, Some(reason)) => format!("not accepting: {reason}"),
        (false, None) => "not accepting".to_owned(),
    };
    let recipients = status.recipients;
    let mut text = vec![
        format!("{}  {word}", status.hostname),
        format!(
            "{} ready, {} deferred, {} in flight; {} queues, {} sites, {} connections",
            recipients.ready,
            recipients.deferred,
            recipients.in_flight,
            status.queues,
            status.sites,
            status.delivery_connections
        ),
        String::new(),
        format!(
            "{:<12} {:<32} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  {:<20} WHY",
            "POOL", "NAME", "TOTAL", "READY", "DEFERRED", "IN FLIGHT", "OUT/S", "+-/S", "OLDEST"
        ),
    ];
    let shown = lines.iter().take(count_max).map(|line| {
        let row = &line.row;
        let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |r| format!("{r:.1}"));
        let codes = super::codes(&row.reasons);
        let oldest = row.oldest_at.as_deref().unwrap_or("-");
        format!(
            "{:<12} {:<32} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  {:<20} {}",
            row.pool.as_deref().unwrap_or("-"),
            name(row),
            total(row),
            row.ready,
            row.deferred,
            row.in_flight,
            rate(line.out),
            rate(line.change),
            oldest.get(..19).unwrap_or(oldest),
            codes.join(" ")
        )
    });
    text.extend(shown);
    let cut = |line: String| {
        // Names come from others: nothing of them steers the terminal.
        let clean = line.chars().filter(|c| !c.is_control());
        clean.take(wide).collect::<String>()
    };
    Ok(text.into_iter().map(cut).collect())
}

fn key(row: &wire::CensusRow) -> (Option<String>, String) {
    (row.pool.clone(), row.name.clone())
}

fn total(row: &wire::CensusRow) -> u64 {
    row.ready + row.deferred + row.in_flight
}

/// The terminal, taken over: keys come one by one and unseen, what was there before comes back at the end.
struct Screen {
    before: Termios,
}

impl Screen {
    fn enter() -> Result<Self, Failure> {
        let stdin = io::stdin();
        let refused = |e: rustix::io::Errno| Failure::disk(format!("the terminal refuses: {e}"));
        let before = termios::tcgetattr(&stdin).map_err(refused)?;
        let mut raw = before.clone();
        raw.local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 1;
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(refused)?;
        let screen = Self { before };
        // The other screen, without a cursor.
        write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut stdout = io::stdout();
        // Whoever closed the terminal needs none of it.
        let _ = write!(stdout, "\x1b[?25h\x1b[?1049l");
        let _ = stdout.flush();
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Rows of a frame where there is no terminal, and those that are asked for.
const ROWS: usize = 40;
const ROWS_ASKED: usize = 1_000;
