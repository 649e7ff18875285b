//! What may be missing from a log, and what may be broken in it, without anything being lost: what the headers and the void
//! records of its other segments say (FORMAT.md §5.7, §7.2, §7.4).

use spool_format::layout::PAGE_OFFSET;
use spool_format::{LogKind, SegmentHeader};

use super::Damage;
use super::files::SegmentFile;

/// A log as far as it was read.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Gaps<'a> {
    pub(in crate::cli) kind: LogKind,
    pub(in crate::cli) segments: &'a [SegmentFile],
    /// From void records.
    pub(in crate::cli) voids: &'a [(u64, u64)],
}

impl Gaps<'_> {
    /// Offset up to which a segment before the last was acknowledged: its size, or where recovery cut the log.
    pub(in crate::cli) fn end_of(&self, segment: &SegmentFile) -> u64 {
        if let Some(footer) = &segment.archive {
            return footer.raw_len;
        }
        let header = &segment.header;
        let next = header.next_position();
        let later = self.headers().filter(|h| h.number > header.number);
        let cut = later
            .filter(|h| h.previous_end < next && h.first_position >= next)
            .map(|h| h.previous_end)
            .min();
        cut.map_or(header.size, |end| {
            end.saturating_sub(header.first_position).max(PAGE_OFFSET)
        })
    }

    fn headers(&self) -> impl Iterator<Item = &SegmentHeader> {
        self.segments.iter().map(|segment| &segment.header)
    }

    /// Whether headers and void records together cover the range: one gap may have several reasons, such as segments that
    /// died and, behind them, spares that a crash left unused.
    pub(in crate::cli) fn covers(&self, from: u64, to: u64) -> bool {
        let headers = self.headers().map(|h| (h.previous_end, h.first_position));
        covered(headers.chain(self.voids.iter().copied()), from, to)
    }

    /// Whether the damage is what recovery has declared void.
    pub(in crate::cli) fn excuse(&self, damage: &Damage) -> bool {
        let Some(segment) = self
            .segments
            .iter()
            .find(|s| s.header.number == damage.segment)
        else {
            return false;
        };
        let first = segment.header.first_position;
        let (from, to) = (first + damage.offset, first + damage.offset + damage.len);
        if segment.archive.is_none() {
            return self.covers(from, to);
        }
        // The whole of an archived segment is void for the log; what recovery cut lies within one.
        let within =
            |void: &&(u64, u64)| void.0 > first && void.1 <= segment.header.next_position();
        covered(self.voids.iter().filter(within).copied(), from, to)
    }

    /// Numbers that are not there although their neighbours are, and that nothing says to be gone on purpose. The newest
    /// copy of a void record lies behind the gap, so only gaps in what was read are judged: `first` to `last`.
    pub(in crate::cli) fn missing(&self, first: u64, last: u64, known: &[Damage]) -> Vec<Damage> {
        // Archives of the mail log lie where the log has gaps; events are kept whole, in one form or the other.
        let whole = |s: &&SegmentFile| s.archive.is_none() || self.kind == LogKind::Event;
        let kept: Vec<&SegmentHeader> = self
            .segments
            .iter()
            .filter(whole)
            .map(|s| &s.header)
            .collect();
        let gap = |pair: &[&SegmentHeader]| {
            let (before, after) = (pair[0], pair[1]);
            let told = |d: &Damage| (before.number + 1..after.number).contains(&d.segment);
            let explained = after.number == before.number + 1
                || before.number < first
                || after.number > last
                || self.covers(before.next_position(), after.first_position)
                || known.iter().any(told);
            (!explained).then(|| Damage {
                segment: before.number + 1,
                offset: 0,
                len: after.first_position.saturating_sub(before.next_position()),
                reason: "missing segment".into(),
                acknowledged: true,
            })
        };
        kept.windows(2).filter_map(gap).collect()
    }
}

fn covered(ranges: impl Iterator<Item = (u64, u64)>, from: u64, to: u64) -> bool {
    let mut ranges: Vec<(u64, u64)> = ranges.collect();
    ranges.sort_unstable();
    let mut reached = from;
    for (start, end) in ranges {
        if start > reached {
            break;
        }
        reached = reached.max(end);
    }
    reached >= to
}
