//! Content on its way through a session: DATA to its dot, chunks by their count, and what was refused to its true end.

use crate::limits;
use crate::mail::Reply;
use crate::smtp::data::{Decoder, Flaw};
use crate::smtp::reply;

use super::super::submission::ContentFacts;
use super::{Awaited, Data, Event, Session, State, Step};

impl Session {
    pub(super) fn data_step<'a>(&mut self, mut data: Data, input: &'a [u8]) -> Option<Step<'a>> {
        if data.ended {
            return self.data_ended(data);
        }
        if input.is_empty() {
            self.state = State::Data(data);
            return None;
        }
        let piece = data.decoder.next(input);
        data.ended = piece.end;
        let mut event = None;
        if data.refusal.is_none() {
            data.refusal = self.objection(data.decoder.octets(), data.decoder.flaw());
            event = match &data.refusal {
                Some(_) => Some(Event::Abandon),
                None if piece.content.is_empty() => None,
                None => Some(Event::Content(piece.content)),
            };
        } else if data.decoder.octets() > limits::MESSAGE_SIZE_CAP {
            // The true end is not worth waiting for any longer; without it nothing more can be read as commands.
            self.transaction = None;
            self.close_after(&data.refusal.unwrap_or(reply::TOO_BIG));
            return Step::consumed(piece.consumed);
        }
        self.state = State::Data(data);
        Some(Step {
            consumed: piece.consumed,
            event,
        })
    }

    fn data_ended<'a>(&mut self, data: Data) -> Option<Step<'a>> {
        self.transaction = None;
        match data.refusal {
            Some(refusal) => {
                self.refuse(&refusal);
                Step::consumed(0)
            }
            None => {
                self.state = State::Awaiting(Awaited::Finish);
                Step::event(0, Event::EndOfContent(facts(&data.decoder)))
            }
        }
    }

    pub(super) fn chunk_step<'a>(
        &mut self,
        remaining: u64,
        last: bool,
        input: &'a [u8],
    ) -> Option<Step<'a>> {
        let Some(decoder) = self.transaction.as_mut().and_then(|t| t.chunks.as_mut()) else {
            panic!("a chunk of {remaining} octets without a transaction");
        };
        if remaining == 0 {
            return self.chunk_ended(last);
        }
        let piece = decoder.next(at_most(input, remaining));
        let (octets, flaw) = (decoder.octets(), decoder.flaw());
        let left = remaining - piece.consumed as u64;
        if let Some(refusal) = self.objection(octets, flaw) {
            self.swallow(left, refusal);
            return Step::event(piece.consumed, Event::Abandon);
        }
        self.state = State::Chunk {
            remaining: left,
            last,
        };
        let event = Event::Content(piece.content);
        match piece.consumed {
            0 => None,
            consumed => Step::event(consumed, event),
        }
    }

    fn chunk_ended<'a>(&mut self, last: bool) -> Option<Step<'a>> {
        if !last {
            self.say(&reply::OK);
            return Step::consumed(0);
        }
        let decoder = self.transaction.take().and_then(|t| t.chunks);
        let decoder = decoder.unwrap_or_else(Decoder::chunks);
        match self.objection(decoder.octets(), decoder.flaw_at_end()) {
            Some(refusal) => {
                self.refuse(&refusal);
                Step::event(0, Event::Abandon)
            }
            None => {
                self.state = State::Awaiting(Awaited::Finish);
                Step::event(0, Event::EndOfContent(facts(&decoder)))
            }
        }
    }

    pub(super) fn swallow_step<'a>(
        &mut self,
        remaining: u64,
        refusal: Reply,
        input: &'a [u8],
    ) -> Option<Step<'a>> {
        let swallowed = at_most(input, remaining).len();
        let left = remaining - swallowed as u64;
        if left == 0 {
            self.refuse(&refusal);
            return Step::consumed(swallowed);
        }
        self.state = State::Swallow {
            remaining: left,
            refusal,
        };
        match swallowed {
            0 => None,
            _ => Step::consumed(swallowed),
        }
    }

    /// Why content cannot be taken, if so.
    fn objection(&self, octets: u64, flaw: Option<Flaw>) -> Option<Reply> {
        match flaw {
            Some(flaw) => Some(reply::flaw(flaw)),
            None => (octets > self.settings.size_max).then_some(reply::TOO_BIG),
        }
    }

    /// Counts `chunk` octets away, then refuses. The transaction is dead until RSET.
    pub(super) fn swallow(&mut self, chunk: u64, refusal: Reply) {
        if let Some(transaction) = &mut self.transaction {
            transaction.dead = true;
        }
        self.state = State::Swallow {
            remaining: chunk,
            refusal,
        };
    }
}

/// The part of the input that belongs to a chunk.
fn at_most(input: &[u8], octets: u64) -> &[u8] {
    let octets = usize::try_from(octets).unwrap_or(usize::MAX);
    input.get(..octets).unwrap_or(input)
}

fn facts(decoder: &Decoder) -> ContentFacts {
    ContentFacts {
        octets: decoder.octets(),
        eight_bit: decoder.eight_bit(),
    }
}
