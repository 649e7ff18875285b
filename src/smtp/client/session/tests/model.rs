//! The session against a model of a remote host, in all combinations of what hosts offer, refuse and mishandle, with octets
//! arriving in any portions and the connection ending anywhere. The model knows what it took and for whom; the session
//! must never claim more, nor deny it.

use std::collections::BTreeSet;

use super::*;

/// What the host is like, and what goes wrong.
#[derive(Clone, Copy, Debug, Default)]
struct Nature {
    pipelining: bool,
    chunking: bool,
    enhanced: bool,
    refuses: Refuses,
    /// At the reply with this number something happens.
    fault: Option<(usize, Fault)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Refuses {
    #[default]
    Nothing,
    Mail,
    EveryRecipient,
    SomeRecipients,
    Data,
    Content,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Nothing is answered or done from here on.
    Closes,
    /// It did what it was asked, and the answer is lost with everything behind it.
    LosesAnswer,
    Says421,
    AnswersTwice,
    TalksNonsense,
}

struct Host {
    nature: Nature,
    input: Vec<u8>,
    replies: Vec<u8>,
    count: usize,
    closed: bool,
    mail: bool,
    /// (message, recipient) of the envelope.
    recipients: Vec<(usize, usize)>,
    in_data: bool,
    /// Everybody that it took a content for.
    taken: BTreeSet<(usize, usize)>,
    refused: BTreeSet<(usize, usize)>,
}

impl Host {
    fn new(nature: Nature) -> Self {
        Self {
            nature,
            input: Vec::new(),
            replies: Vec::new(),
            count: 0,
            closed: false,
            mail: false,
            recipients: Vec::new(),
            in_data: false,
            taken: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    fn keywords(nature: Nature) -> Vec<&'static str> {
        let all = [
            (nature.pipelining, "PIPELINING"),
            (nature.chunking, "CHUNKING"),
            (nature.enhanced, "ENHANCEDSTATUSCODES"),
        ];
        all.into_iter().filter(|k| k.0).map(|k| k.1).collect()
    }

    fn reply(&mut self, code: u16, status: &str) {
        let status = if self.nature.enhanced { status } else { "" };
        let line = format!("{code} {status}said\r\n");
        let number = self.count;
        self.count += 1;
        match self.nature.fault.filter(|fault| fault.0 == number) {
            None => self.replies.extend(line.bytes()),
            Some((_, Fault::AnswersTwice)) => self.replies.extend(line.repeat(2).bytes()),
            Some((_, Fault::TalksNonsense)) => self.replies.extend(b"what?\r\n"),
            Some((_, Fault::Says421)) => {
                self.replies.extend(b"421 4.3.2 bye\r\n");
                self.closed = true;
            }
            Some((_, Fault::Closes | Fault::LosesAnswer)) => self.closed = true,
        }
    }

    /// Whether the fault strikes before the next command is carried out.
    fn strikes_now(&self) -> bool {
        let strikes =
            |f: (usize, Fault)| f.0 == self.count && matches!(f.1, Fault::Closes | Fault::Says421);
        self.nature.fault.is_some_and(strikes)
    }

    fn run(&mut self) {
        while !self.closed {
            if self.in_data {
                let end = memchr::memmem::find(&self.input, b"\r\n.\r\n").map(|at| at + 5);
                let end = if self.input.starts_with(b".\r\n") {
                    Some(3)
                } else {
                    end
                };
                let Some(end) = end else { return };
                let content: Vec<u8> = self.input.drain(..end).collect();
                self.in_data = false;
                let content = String::from_utf8(content).unwrap();
                self.content(&content.replace("\r\n..", "\r\n."), ".\r\n");
                continue;
            }
            let Some(end) = memchr::memmem::find(&self.input, b"\r\n") else {
                return;
            };
            let line = String::from_utf8(self.input[..end].to_vec()).unwrap();
            if let Some(len) = line.strip_prefix("BDAT ") {
                let len: usize = len.strip_suffix(" LAST").unwrap().parse().unwrap();
                if self.input.len() < end + 2 + len {
                    return;
                }
                self.input.drain(..end + 2);
                let content: Vec<u8> = self.input.drain(..len).collect();
                let content = String::from_utf8(content).unwrap();
                self.content(&content, "");
                continue;
            }
            self.input.drain(..end + 2);
            self.command(&line);
        }
    }

    fn command(&mut self, line: &str) {
        let refuses = self.nature.refuses;
        if line == "RSET" {
            (self.mail, self.recipients) = (false, Vec::new());
            self.reply(250, "2.0.0 ");
        } else if line == "QUIT" {
            self.count += 1;
            let fault = self.nature.fault.filter(|fault| fault.0 + 1 == self.count);
            self.closed |= matches!(fault, Some((_, Fault::Closes | Fault::LosesAnswer)));
            if !self.closed {
                self.replies.extend(b"221 bye\r\n");
                self.closed = true;
            }
        } else if line.starts_with("MAIL") {
            assert!(!self.mail, "a second MAIL within a transaction");
            match refuses {
                Refuses::Mail => self.reply(550, "5.7.1 "),
                _ => {
                    (self.mail, self.recipients) = (true, Vec::new());
                    self.reply(250, "2.1.0 ");
                }
            }
        } else if let Some(path) = line.strip_prefix("RCPT TO:<") {
            let (index, rest) = path.split_once('@').unwrap();
            let message = rest.split_once('.').unwrap().0;
            let key = (message.parse().unwrap(), index.parse().unwrap());
            let no = match refuses {
                Refuses::EveryRecipient => true,
                Refuses::SomeRecipients => key.1 % 2 == 0,
                _ => false,
            };
            if !self.mail {
                self.reply(503, "5.5.1 ");
            } else if no {
                self.refused.insert(key);
                self.reply(550, "5.1.1 ");
            } else {
                self.recipients.push(key);
                self.reply(250, "2.1.5 ");
            }
        } else if line == "DATA" {
            if self.recipients.is_empty() {
                self.reply(503, "5.5.1 ");
            } else if refuses == Refuses::Data {
                self.reply(451, "4.3.0 ");
            } else {
                let strikes = self.strikes_now();
                self.reply(354, "");
                self.in_data = !strikes;
            }
        } else {
            panic!("{line:?} reached the host as a command");
        }
    }

    fn content(&mut self, content: &str, end: &str) {
        let recipients = std::mem::take(&mut self.recipients);
        self.mail = false;
        if recipients.is_empty() {
            return self.reply(503, "5.5.1 ");
        }
        let message = recipients[0].0;
        assert_eq!(
            content,
            format!("{}{end}", text(message)),
            "another content"
        );
        if self.nature.refuses == Refuses::Content {
            return self.reply(554, "5.6.0 ");
        }
        if !self.strikes_now() {
            self.taken.extend(recipients);
        }
        self.reply(250, "2.0.0 ");
    }
}

fn text(message: usize) -> String {
    format!("Subject: {message}\r\n\r\n.a line\r\nMAIL FROM:<x@y.test>\r\n.\r\nlast {message}\r\n")
}

fn mail(message: usize, recipients: usize) -> Outbound {
    let paths: Vec<String> = (0..recipients)
        .map(|index| format!("{index}@{message}.test"))
        .collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    Outbound {
        content: vec![Bytes::from(text(message))].into(),
        ..mail_to(&paths)
    }
}

/// One dialogue of several messages. `cut`: the connection ends when the session has heard so many octets of replies.
struct Dialogue {
    play: Play,
    host: Host,
    rng: fastrand::Rng,
    sizes: Vec<usize>,
    begun: usize,
    verdicts: Vec<Vec<Verdict>>,
    heard: usize,
    cut: Option<usize>,
    ended: bool,
}

impl Dialogue {
    fn run(nature: Nature, sizes: &[usize], seed: u64, cut: Option<usize>) -> Self {
        let mut dialogue = Self {
            play: Play::greeted(&Host::keywords(nature)),
            host: Host::new(nature),
            rng: fastrand::Rng::with_seed(seed),
            sizes: sizes.to_vec(),
            begun: 0,
            verdicts: Vec::new(),
            heard: 0,
            cut,
            ended: false,
        };
        for _ in 0..100_000 {
            if dialogue.ended || dialogue.verdicts.len() == sizes.len() {
                dialogue.judge();
                return dialogue;
            }
            dialogue.turn();
        }
        panic!("the dialogue does not come to an end");
    }

    fn turn(&mut self) {
        while let Some(event) = self.play.event() {
            match event {
                ClientEvent::Done(verdicts) => self.verdicts.push(verdicts),
                ClientEvent::Ended(_) => self.ended = true,
                _ => {}
            }
        }
        if self.ended {
            return;
        }
        let may_begin = self.play.session.may_begin() && self.begun < self.sizes.len();
        if may_begin && (self.play.session.is_ready() || self.rng.bool()) {
            let next = mail(self.begun, self.sizes[self.begun]);
            self.begun += 1;
            self.play.begins(&next);
        }
        let mut out = Vec::new();
        self.play.session.poll_output(&mut out);
        let out = out.concat();
        // What leaves reaches the host in portions.
        let mut rest = &out[..];
        while !rest.is_empty() {
            let some = self.rng.usize(1..=rest.len().min(40));
            let (now, later) = rest.split_at(some);
            self.host.input.extend_from_slice(now);
            self.play.session.handle_written(self.play.now, some);
            rest = later;
            if self.rng.bool() {
                self.host.run();
                self.hear();
                if self.play.session.phase == Phase::Ended {
                    // Nothing more is written then.
                    break;
                }
            }
        }
        if !self.host.nature.pipelining {
            let lines = memchr::memmem::find_iter(&out, b"\r\n").count();
            let content = out.starts_with(b"BDAT") || out.starts_with(b"Subject");
            assert!(lines <= 1 || content, "more than one command at a time");
        }
        self.host.run();
        self.hear();
        if self.host.closed && self.host.replies.is_empty() && !self.ended {
            self.play.session.handle_close();
        }
    }

    /// Some of the replies arrive.
    fn hear(&mut self) {
        let mut some = self.rng.usize(0..=self.host.replies.len());
        if let Some(cut) = self.cut {
            some = some.min(cut - self.heard);
        }
        self.heard += some;
        let replies: Vec<u8> = self.host.replies.drain(..some).collect();
        let _ = self.play.session.handle_input(self.play.now, &replies);
        if self.cut == Some(self.heard) {
            self.play.session.handle_close();
        }
    }

    fn judge(&mut self) {
        let Nature { fault, refuses, .. } = self.host.nature;
        let undisturbed = fault.is_none() && self.cut.is_none();
        if self.ended {
            assert_eq!(
                self.verdicts.len(),
                self.begun,
                "one report for each that was begun"
            );
        }
        for (message, verdicts) in self.verdicts.iter().enumerate() {
            assert_eq!(verdicts.len(), self.sizes[message]);
            for (index, verdict) in verdicts.iter().enumerate() {
                let key = (message, index);
                let taken = self.host.taken.contains(&key);
                let told = format!(
                    "{key:?} {verdict:?}, taken: {taken}, {:?}",
                    self.host.nature
                );
                match verdict {
                    Verdict::Accepted { .. } => assert!(taken, "{told}"),
                    Verdict::Refused { stage, .. } => {
                        assert!(!taken, "{told}");
                        let refused = self.host.refused.contains(&key);
                        assert!(
                            *stage != Stage::Rcpt
                                || refused
                                || refuses == Refuses::Mail
                                || matches!(fault, Some((_, Fault::Says421))),
                            "{told}"
                        );
                    }
                    Verdict::NotReached
                    | Verdict::Unanswered {
                        content_sent: false,
                    } => {
                        assert!(!taken && !undisturbed, "{told}");
                    }
                    Verdict::Unanswered { content_sent: true } => assert!(!undisturbed, "{told}"),
                    Verdict::Unsendable(_) | Verdict::Surplus => panic!("{told}"),
                }
            }
        }
    }
}

fn natures() -> impl Iterator<Item = Nature> {
    let refusals = [
        Refuses::Nothing,
        Refuses::Mail,
        Refuses::EveryRecipient,
        Refuses::SomeRecipients,
        Refuses::Data,
        Refuses::Content,
    ];
    (0..8u8).flat_map(move |bits| {
        refusals.into_iter().map(move |refuses| Nature {
            pipelining: bits & 1 != 0,
            chunking: bits & 2 != 0,
            enhanced: bits & 4 != 0,
            refuses,
            fault: None,
        })
    })
}

const SIZES: &[usize] = &[1, 3, 2, 1];

#[test]
fn every_host_that_keeps_to_the_rules_gets_everything_and_says_so() {
    for nature in natures() {
        for seed in 0..40 {
            let dialogue = Dialogue::run(nature, SIZES, seed, None);
            // One that says the same to everything is left with QUIT, and gets the rest with DATA.
            let refused = nature.chunking || nature.refuses == Refuses::Data;
            let doubtful = refused && nature.pipelining && !nature.enhanced;
            let whole = dialogue.verdicts.len() == SIZES.len();
            assert!(whole || doubtful && dialogue.ended, "{nature:?}");
        }
    }
}

/// Behind every octet of every reply.
#[test]
fn a_connection_that_ends_anywhere_loses_nothing_and_invents_nothing() {
    for nature in natures() {
        let whole = Dialogue::run(nature, SIZES, 1, None).heard;
        for cut in 1..whole {
            Dialogue::run(nature, SIZES, cut as u64, Some(cut));
        }
    }
}

#[test]
fn a_host_that_fails_at_any_reply_loses_nothing_and_invents_nothing() {
    for nature in natures() {
        for number in 0..24 {
            for fault in [
                Fault::Closes,
                Fault::LosesAnswer,
                Fault::Says421,
                Fault::TalksNonsense,
            ] {
                for seed in 0..4 {
                    let nature = Nature {
                        fault: Some((number, fault)),
                        ..nature
                    };
                    Dialogue::run(nature, SIZES, seed, None);
                }
            }
        }
    }
}

/// A reply too many at any place, with refusals behind it: nothing refused is taken for delivered.
#[test]
fn a_host_that_answers_twice_is_never_believed_to_have_taken_what_it_refused() {
    for nature in natures() {
        for number in 0..24 {
            for seed in 0..20 {
                let nature = Nature {
                    fault: Some((number, Fault::AnswersTwice)),
                    ..nature
                };
                Dialogue::run(nature, SIZES, seed, None);
            }
        }
    }
}
