//! The dialogue without a socket: what the host says, what we say, what comes of it.

mod ahead;
mod model;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::mail::{DsnNotify, DsnRecipient, DsnReturn};
use crate::smtp::client::reply::Malformed;

struct Play {
    session: ClientSession,
    now: Instant,
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn some_instant() -> Instant {
    Instant::now()
}

fn timeouts() -> Timeouts {
    let s = Duration::from_secs;
    Timeouts {
        connect: s(30),
        banner: s(300),
        command: s(300),
        data: s(120),
        block: s(180),
        dot: s(600),
    }
}

impl Play {
    fn start() -> Self {
        Self::avoiding(Avoid::default())
    }

    fn avoiding(avoid: Avoid) -> Self {
        let settings = Settings {
            ehlo: "mta.test".into(),
            starttls: true,
            avoid,
            timeouts: Arc::new(timeouts()),
        };
        let now = some_instant();
        Self {
            session: ClientSession::new(now, settings),
            now,
        }
    }

    /// Greeted by a host with these EHLO keywords.
    fn greeted(keywords: &[&str]) -> Self {
        let mut play = Self::start();
        play.greets(keywords);
        play
    }

    fn greets(&mut self, keywords: &[&str]) {
        let play = self;
        play.hears("220 mx.test\r\n").says("EHLO mta.test\r\n");
        let mut lines = vec!["mx.test"];
        lines.extend(keywords);
        let last = lines.len() - 1;
        for (i, line) in lines.iter().enumerate() {
            let separator = if i == last { ' ' } else { '-' };
            play.hears(&format!("250{separator}{line}\r\n"));
        }
        assert_eq!(play.event(), Some(ClientEvent::Ready));
    }

    fn hears(&mut self, text: &str) -> &mut Self {
        let heard = self.session.handle_input(self.now, text.as_bytes());
        assert_eq!(heard, Ok(()), "{text:?}");
        self
    }

    fn breaks_at(&mut self, text: &str, why: OutOfStep) -> &mut Self {
        let heard = self.session.handle_input(self.now, text.as_bytes());
        assert_eq!(heard, Err(why), "{text:?}");
        self
    }

    fn takes(&mut self) -> String {
        let mut out = Vec::new();
        self.session.poll_output(&mut out);
        String::from_utf8(out.concat()).unwrap()
    }

    /// The output is exactly this, and is written.
    fn says(&mut self, expected: &str) -> &mut Self {
        assert_eq!(self.takes(), expected);
        self.session.handle_written(self.now, expected.len());
        self
    }

    fn begins(&mut self, mail: &Outbound) -> &mut Self {
        self.session.begin(self.now, mail);
        self
    }

    fn event(&mut self) -> Option<ClientEvent> {
        self.session.poll_event()
    }

    #[track_caller]
    fn verdicts(&mut self, expected: &[&str]) -> &mut Self {
        let event = match self.event() {
            Some(ClientEvent::Room) => self.event(),
            other => other,
        };
        match event {
            Some(ClientEvent::Done(verdicts)) => {
                let found: Vec<String> = verdicts.iter().map(shown).collect();
                assert_eq!(found, expected);
            }
            other => panic!("{other:?} instead of verdicts {expected:?}"),
        }
        self
    }

    #[track_caller]
    fn ends(&mut self, expected: &str) {
        match self.event() {
            Some(ClientEvent::Ended(ending)) => assert_eq!(ending.to_string(), expected),
            other => panic!("{other:?} instead of {expected:?}"),
        }
        assert_eq!(self.takes(), "");
        assert_eq!(self.session.poll_timeout(), None);
    }

    fn stays_open(&mut self) -> &mut Self {
        assert_eq!(self.event(), None);
        self
    }
}

fn shown(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accepted { reply } => format!("accepted {reply}"),
        Verdict::Refused { stage, reply } => format!("refused at {stage} {reply}"),
        Verdict::Unsendable(obstacle) => format!("unsendable {obstacle:?}"),
        Verdict::Surplus => "surplus".into(),
        Verdict::Unanswered { content_sent: true } => "ambiguous".into(),
        Verdict::Unanswered {
            content_sent: false,
        } => "unanswered".into(),
        Verdict::NotReached => "not reached".into(),
    }
}

fn mail_to(recipients: &[&str]) -> Outbound {
    Outbound {
        reverse_path: "a@from.test".into(),
        recipients: recipients
            .iter()
            .map(|path| OutboundRecipient {
                forward_path: (*path).into(),
                ..OutboundRecipient::default()
            })
            .collect(),
        content: vec![Bytes::from_static(b"Subject: x\r\n\r\n.dot\r\n")].into(),
        ..Outbound::default()
    }
}

const ONE_FLIGHT: &str = "MAIL FROM:<a@from.test>\r\nRCPT TO:<b@to.test>\r\nDATA\r\n";
const CONTENT: &str = "Subject: x\r\n\r\n..dot\r\n.\r\n";

#[test]
fn with_pipelining_a_message_takes_two_flights() {
    let mut play = Play::greeted(&["PIPELINING", "8BITMIME"]);
    for _ in 0..2 {
        play.begins(&mail_to(&["b@to.test"]))
            .says(ONE_FLIGHT)
            .hears("250 a\r\n250 b\r\n354 go\r\n")
            .says(CONTENT)
            .hears("250 2.0.0 queued\r\n")
            .verdicts(&["accepted 250 2.0.0 queued"])
            .stays_open();
    }
    play.session.quit(play.now);
    play.says("QUIT\r\n").hears("221 bye\r\n").ends("closed");
}

#[test]
fn without_pipelining_each_command_waits_for_its_reply() {
    let mut play = Play::greeted(&[]);
    play.begins(&mail_to(&["b@to.test", "c@to.test"]))
        .says("MAIL FROM:<a@from.test>\r\n")
        .hears("250 ok\r\n")
        .says("RCPT TO:<b@to.test>\r\n")
        .hears("550 5.1.1 no\r\n")
        .says("RCPT TO:<c@to.test>\r\n")
        .hears("250 ok\r\n")
        .says("DATA\r\n")
        .hears("354 go\r\n")
        .says(CONTENT)
        .hears("250 ok\r\n")
        .verdicts(&["refused at RCPT 550 5.1.1 no", "accepted 250 ok"]);
}

#[test]
fn with_chunking_a_small_message_takes_one_flight_and_dots_stay_single() {
    let mut play = Play::greeted(&["PIPELINING", "CHUNKING", "SIZE 1000"]);
    play.begins(&mail_to(&["b@to.test"]))
        .says("MAIL FROM:<a@from.test> SIZE=20\r\nRCPT TO:<b@to.test>\r\nBDAT 20 LAST\r\nSubject: x\r\n\r\n.dot\r\n")
        .hears("250 a\r\n250 b\r\n250 done\r\n")
        .verdicts(&["accepted 250 done"]);
}

#[test]
fn with_chunking_alone_content_waits_for_a_recipient() {
    let mut play = Play::greeted(&["CHUNKING", "ENHANCEDSTATUSCODES"]);
    play.begins(&mail_to(&["b@to.test"]))
        .says("MAIL FROM:<a@from.test>\r\n")
        .hears("250 a\r\n")
        .says("RCPT TO:<b@to.test>\r\n")
        .hears("250 b\r\n")
        .says("BDAT 20 LAST\r\nSubject: x\r\n\r\n.dot\r\n")
        .hears("452 4.3.1 full\r\n")
        .verdicts(&["refused at the end of content 452 4.3.1 full"])
        // RFC 3030: what the host holds after a refused BDAT is not known.
        .begins(&mail_to(&["b@to.test"]))
        .says("RSET\r\n")
        .hears("250 ok\r\n")
        .says("MAIL FROM:<a@from.test>\r\n");
}

#[test]
fn each_recipient_has_its_own_answer() {
    let mut play = Play::greeted(&["PIPELINING"]);
    play.begins(&mail_to(&["b@t.test", "c@t.test", "d@t.test"]));
    play.takes();
    let len = play.session.given - play.session.written;
    play.session
        .handle_written(play.now, usize::try_from(len).unwrap());
    play.hears("250 m\r\n250 b\r\n450 4.2.0 later\r\n550 5.1.1 never\r\n354 go\r\n")
        .says(CONTENT)
        .hears("250 taken\r\n")
        .verdicts(&[
            "accepted 250 taken",
            "refused at RCPT 450 4.2.0 later",
            "refused at RCPT 550 5.1.1 never",
        ]);
}

/// What a host answers to one pipelined flight of one recipient, and the verdict.
#[test]
fn every_refusal_is_kept_with_its_stage() {
    let check = |answers: &str, content: Option<&str>, last: &str, verdict: &str| {
        let mut play = Play::greeted(&["PIPELINING"]);
        play.begins(&mail_to(&["b@to.test"]))
            .says(ONE_FLIGHT)
            .hears(answers);
        if let Some(content) = content {
            play.says(content);
        }
        play.hears(last).verdicts(&[verdict]).stays_open();
    };
    let mail = "refused at MAIL 550 5.7.1 not you";
    let (answers, verdict) = ("550 5.7.1 not you\r\n503 x\r\n503 x\r\n", mail);
    check(answers, None, "", verdict);
    let rcpt = "refused at RCPT 450 4.2.1 later";
    check("250 m\r\n450 4.2.1 later\r\n554 none\r\n", None, "", rcpt);
    // The host takes DATA although it refused everyone: it gets an empty message, whose fate does not matter.
    for last in ["250 ok\r\n", "554 no\r\n"] {
        check(
            "250 m\r\n450 4.2.1 later\r\n354 go\r\n",
            Some(".\r\n"),
            last,
            rcpt,
        );
        check(
            "550 5.7.1 not you\r\n250 x\r\n354 go\r\n",
            Some(".\r\n"),
            last,
            mail,
        );
    }
    check(
        "250 m\r\n250 r\r\n451 4.3.0 no\r\n",
        None,
        "",
        "refused at DATA 451 4.3.0 no",
    );
    check(
        "250 m\r\n250 r\r\n354 go\r\n",
        Some(CONTENT),
        "554 5.6.0 spam\r\n",
        "refused at the end of content 554 5.6.0 spam",
    );
}

#[test]
fn a_refused_data_is_followed_by_rset() {
    let mut play = Play::greeted(&["PIPELINING"]);
    play.begins(&mail_to(&["b@to.test"]))
        .says(ONE_FLIGHT)
        .hears("250 m\r\n250 r\r\n451 no\r\n")
        .verdicts(&["refused at DATA 451 no"])
        .begins(&mail_to(&["b@to.test"]))
        .says(&format!("RSET\r\n{ONE_FLIGHT}"))
        .hears("250 r\r\n250 m\r\n250 r\r\n354 go\r\n")
        .says(CONTENT)
        .hears("250 ok\r\n")
        .verdicts(&["accepted 250 ok"])
        .begins(&mail_to(&["b@to.test"]))
        .says(ONE_FLIGHT);
}

#[test]
fn recipients_beyond_the_hosts_number_are_surplus_only_behind_accepted_ones() {
    let check = |answers: &str, verdicts: &[&str]| {
        let mut play = Play::greeted(&["PIPELINING"]);
        play.begins(&mail_to(&["b@t.test", "c@t.test"]));
        let flight = play.takes();
        play.session.handle_written(play.now, flight.len());
        play.hears(answers)
            .says(CONTENT)
            .hears("250 ok\r\n")
            .verdicts(verdicts);
    };
    check(
        "250 m\r\n250 b\r\n452 too many\r\n354 go\r\n",
        &["accepted 250 ok", "surplus"],
    );
    check(
        "250 m\r\n250 b\r\n552 5.5.3 too many\r\n354 go\r\n",
        &["accepted 250 ok", "surplus"],
    );
    check(
        "250 m\r\n250 b\r\n452 4.2.2 mailbox full\r\n354 go\r\n",
        &["accepted 250 ok", "refused at RCPT 452 4.2.2 mailbox full"],
    );
    check(
        "250 m\r\n452 too many\r\n250 c\r\n354 go\r\n",
        &["refused at RCPT 452 too many", "accepted 250 ok"],
    );
}

#[test]
fn ehlo_falls_back_to_helo_and_then_nothing_is_pipelined() {
    let mut play = Play::start();
    play.hears("220 old\r\n")
        .says("EHLO mta.test\r\n")
        .hears("502 what\r\n")
        .says("HELO mta.test\r\n")
        .hears("250 old\r\n");
    assert_eq!(play.event(), Some(ClientEvent::Ready));
    play.begins(&mail_to(&["b@to.test"]))
        .says("MAIL FROM:<a@from.test>\r\n");
}

#[test]
fn a_refusal_before_mail_ends_the_session_in_the_hosts_words() {
    let check = |before: &[(&str, &str)], last: &str, ending: &str| {
        let mut play = Play::start();
        for (heard, said) in before {
            play.hears(heard).says(said);
        }
        play.hears(last).ends(ending);
    };
    let ehlo = ("220 hi\r\n", "EHLO mta.test\r\n");
    check(
        &[],
        "554 5.7.1 go away\r\n",
        "refused at the banner: 554 5.7.1 go away",
    );
    check(
        &[],
        "421 4.3.2 busy\r\n",
        "refused at the banner: 421 4.3.2 busy",
    );
    check(&[ehlo], "550 no\r\n", "refused at EHLO: 550 no");
    check(
        &[ehlo, ("500 what\r\n", "HELO mta.test\r\n")],
        "550 no\r\n",
        "refused at EHLO: 550 no",
    );
}

#[test]
fn starttls_forgets_what_was_offered_in_clear() {
    let mut play = Play::start();
    play.hears("220 hi\r\n")
        .says("EHLO mta.test\r\n")
        .hears("250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n")
        .says("STARTTLS\r\n")
        .hears("220 go\r\n");
    assert_eq!(play.event(), Some(ClientEvent::StartTls));
    play.session.handle_tls(play.now);
    play.says("EHLO mta.test\r\n")
        .hears("250-mx\r\n250 STARTTLS\r\n");
    assert_eq!(play.event(), Some(ClientEvent::Ready));
    assert!(play.session.tls());
    play.begins(&mail_to(&["b@to.test"]))
        .says("MAIL FROM:<a@from.test>\r\n");
}

#[test]
fn a_refused_starttls_goes_on_in_clear() {
    let mut play = Play::start();
    play.hears("220 hi\r\n")
        .says("EHLO mta.test\r\n")
        .hears("250-mx\r\n250 STARTTLS\r\n")
        .says("STARTTLS\r\n")
        .hears("454 4.7.0 not now\r\n");
    assert_eq!(play.event(), Some(ClientEvent::Ready));
    assert!(!play.session.tls());
}

#[test]
fn text_behind_the_starttls_reply_breaks_the_session() {
    let mut play = Play::start();
    play.hears("220 hi\r\n")
        .says("EHLO mta.test\r\n")
        .hears("250-mx\r\n250 STARTTLS\r\n")
        .says("STARTTLS\r\n")
        .breaks_at("220 go\r\n250 injected\r\n", OutOfStep::Early);
}

#[test]
fn octets_that_come_before_what_they_answer_break_the_session() {
    // Behind the banner's reply, and behind that of EHLO.
    Play::start().breaks_at("220 hi\r\n250 hello\r\n", OutOfStep::Early);
    Play::greeted(&[]).breaks_at("250 early\r\n", OutOfStep::Early);
    Play::greeted(&[]).breaks_at("2", OutOfStep::Early);

    // To commands that are formatted but not written.
    let mut play = Play::greeted(&["PIPELINING"]);
    play.begins(&mail_to(&["b@to.test"]))
        .breaks_at("250 early\r\n", OutOfStep::Early)
        .verdicts(&["unanswered"]);

    // The reply to the dot, together with the 354 or while content is being written.
    for early in ["250 taken\r\n", "2"] {
        let mut play = Play::greeted(&["PIPELINING"]);
        play.begins(&mail_to(&["b@to.test"]))
            .says(ONE_FLIGHT)
            .breaks_at(
                &format!("250 m\r\n250 r\r\n354 go\r\n{early}"),
                OutOfStep::Early,
            )
            .verdicts(&["unanswered"])
            .ends("the remote host broke the protocol at the end of content: it sent octets before we had sent what they answer");

        let mut play = Play::greeted(&["PIPELINING"]);
        play.begins(&mail_to(&["b@to.test"]))
            .says(ONE_FLIGHT)
            .hears("250 m\r\n250 r\r\n354 go\r\n");
        assert_eq!(play.takes(), CONTENT);
        play.session.handle_written(play.now, CONTENT.len() - 1);
        play.breaks_at(early, OutOfStep::Early)
            .verdicts(&["unanswered"]);
    }
}

#[test]
fn a_surplus_reply_breaks_the_session_but_not_the_verdict_before_it() {
    let mut play = Play::greeted(&["PIPELINING"]);
    play.begins(&mail_to(&["b@to.test"]))
        .says(ONE_FLIGHT)
        .hears("250 m\r\n250 r\r\n354 go\r\n")
        .says(CONTENT)
        .breaks_at("250 taken\r\n250 again\r\n", OutOfStep::Early)
        .verdicts(&["accepted 250 taken"])
        .ends("the remote host broke the protocol at the idle connection: it sent octets before we had sent what they answer");
}

#[test]
fn an_answer_that_is_none_is_never_taken_for_one() {
    let check = |answers: &str, code: u16| {
        Play::greeted(&["PIPELINING"])
            .begins(&mail_to(&["b@to.test"]))
            .says(ONE_FLIGHT)
            .breaks_at(answers, OutOfStep::Unexpected { code })
            .verdicts(&["unanswered"]);
    };
    check("354 m\r\n", 354);
    check("250 m\r\n354 r\r\n", 354);
    check("250 m\r\n250 r\r\n250 d\r\n", 250);
    check("220 m\r\n", 220);
    check("221 m\r\n", 221);
    check("335 m\r\n", 335);
    Play::greeted(&["PIPELINING"])
        .begins(&mail_to(&["b@to.test"]))
        .says(ONE_FLIGHT)
        .breaks_at(
            "250-m\r\n550 m\r\n",
            OutOfStep::Malformed(Malformed::MixedCodes),
        )
        .verdicts(&["unanswered"]);
    Play::start().breaks_at("250 hi\r\n", OutOfStep::Unexpected { code: 250 });
}

#[test]
fn an_unreadable_answer_to_the_final_dot_is_an_answer_lost() {
    for answer in ["354 go on\r\n", "hello\r\n", "250-a\r\n550 b\r\n"] {
        let mut play = Play::greeted(&["PIPELINING"]);
        play.begins(&mail_to(&["b@to.test"]))
            .says(ONE_FLIGHT)
            .hears("250 m\r\n250 r\r\n354 go\r\n")
            .says(CONTENT);
        assert!(
            play.session
                .handle_input(play.now, answer.as_bytes())
                .is_err()
        );
        play.verdicts(&["ambiguous"]);
    }
}

#[test]
fn a_session_lost_at_the_last_octet_is_ambiguous_and_not_before() {
    for (written, verdict) in [
        (0, "unanswered"),
        (CONTENT.len() - 1, "unanswered"),
        (CONTENT.len(), "ambiguous"),
    ] {
        let mut play = Play::greeted(&["PIPELINING"]);
        play.begins(&mail_to(&["b@to.test"]))
            .says(ONE_FLIGHT)
            .hears("250 m\r\n250 r\r\n354 go\r\n");
        play.takes();
        play.session.handle_written(play.now, written);
        play.session.handle_close();
        play.verdicts(&[verdict])
            .ends("connection lost at the end of content");
    }
}

#[test]
fn a_421_is_the_hosts_word_at_any_stage() {
    let check = |before: &str, reply: &str, verdict: &str| {
        let mut play = Play::greeted(&["PIPELINING"]);
        play.begins(&mail_to(&["b@to.test"]))
            .says(ONE_FLIGHT)
            .hears(before);
        if before.contains("354") {
            play.says(CONTENT);
        }
        play.hears(reply).verdicts(&[verdict]);
    };
    let bye = "421 4.3.2 bye\r\n";
    check("", bye, "refused at MAIL 421 4.3.2 bye");
    check("250 m\r\n", bye, "refused at RCPT 421 4.3.2 bye");
    check("250 m\r\n250 r\r\n", bye, "refused at DATA 421 4.3.2 bye");
    check(
        "250 m\r\n250 r\r\n354 d\r\n",
        bye,
        "refused at the end of content 421 4.3.2 bye",
    );
    Play::greeted(&[])
        .hears(bye)
        .ends("refused at the idle connection: 421 4.3.2 bye");
}

#[test]
fn mail_that_a_host_cannot_take_is_not_sent_to_it() {
    let check = |keywords: &[&str], mail: &Outbound, verdict: &str| {
        let mut play = Play::greeted(keywords);
        play.begins(mail).says("").verdicts(&[verdict]).stays_open();
    };
    let mut eight_bit = mail_to(&["b@to.test"]);
    eight_bit.content = vec![Bytes::from_static("\r\né\r\n".as_bytes())].into();
    // Whatever accept noted.
    for noted in [true, false] {
        eight_bit.eight_bit = noted;
        check(&["PIPELINING"], &eight_bit, "unsendable EightBitMime(None)");
    }
    let mut international = mail_to(&["b@to.test"]);
    international.smtputf8 = true;
    check(&["8BITMIME"], &international, "unsendable SmtpUtf8");
    check(
        &["8BITMIME"],
        &mail_to(&["é@to.test"]),
        "unsendable SmtpUtf8",
    );
    check(
        &["SIZE 19"],
        &mail_to(&["b@to.test"]),
        "unsendable Size { limit_bytes: 19 }",
    );
    let mut bare = mail_to(&["b@to.test"]);
    bare.content = vec![Bytes::from_static(b"a\n.\nMAIL FROM:<>\r\n")].into();
    check(&[], &bare, "unsendable Content");
    check(&["CHUNKING"], &bare, "unsendable Content");
    check(
        &[],
        &mail_to(&["b@to.test>\r\nDATA\r\n"]),
        "unsendable Address",
    );
}

#[test]
fn one_recipient_that_cannot_be_named_does_not_hold_up_the_others() {
    Play::greeted(&["8BITMIME"])
        .begins(&mail_to(&["é@to.test", "b@bücher.test"]))
        .says("MAIL FROM:<a@from.test>\r\n")
        .hears("250 m\r\n")
        .says("RCPT TO:<b@xn--bcher-kva.test>\r\n")
        .hears("550 5.1.1 no\r\n")
        .verdicts(&["unsendable SmtpUtf8", "refused at RCPT 550 5.1.1 no"]);
}

#[test]
fn parameters_go_out_to_hosts_that_offer_them() {
    let mut mail = mail_to(&["é@to.test"]);
    mail.content = vec![Bytes::from_static("\r\né\r\n".as_bytes())].into();
    mail.eight_bit = true;
    mail.smtputf8 = true;
    mail.ret = Some(DsnReturn::Headers);
    mail.envelope_id = Some("id+2B1".into());
    mail.recipients[0].dsn = DsnRecipient {
        notify: Some(DsnNotify {
            success: false,
            failure: true,
            delay: true,
        }),
        original_recipient: Some("rfc822;b@to.test".into()),
    };
    Play::greeted(&["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "SIZE"])
        .begins(&mail)
        .says(
            "MAIL FROM:<a@from.test> SIZE=6 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+2B1\r\n\
             RCPT TO:<é@to.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;b@to.test\r\nDATA\r\n",
        );
}

#[test]
fn every_wait_has_its_own_time_and_a_slow_reply_does_not_stretch_it() {
    let s = Duration::from_secs;
    let mut play = Play::start();
    let start = play.now;
    let due = |play: &Play| play.session.poll_timeout().map(|t| t - play.now);
    assert_eq!(due(&play), Some(s(300)));
    play.now = start + s(100);
    play.hears("220-slow\r\n");
    assert_eq!(play.session.poll_timeout(), Some(start + s(300)));
    play.hears("220 host\r\n").says("EHLO mta.test\r\n");
    assert_eq!(due(&play), Some(s(300)));
    play.hears("250-mx\r\n250 PIPELINING\r\n");
    assert_eq!(due(&play), None);
    play.event();
    play.begins(&mail_to(&["b@to.test"])).says(ONE_FLIGHT);
    assert_eq!(due(&play), Some(s(300)));
    play.hears("250 m\r\n250 r\r\n");
    assert_eq!(due(&play), Some(s(120)));
    play.hears("354 go\r\n");
    assert_eq!(due(&play), Some(s(180)));
    play.says(CONTENT);
    assert_eq!(due(&play), Some(s(600)));
    play.session.handle_timeout(play.now + s(599));
    play.stays_open();
    play.session.handle_timeout(play.now + s(600));
    play.verdicts(&["ambiguous"])
        .ends("no answer in time at the end of content");
}

#[test]
fn a_host_that_answers_at_the_last_moment_each_time_is_given_up() {
    let mut play = Play::greeted(&["PIPELINING"]);
    let many: Vec<String> = (0..100).map(|i| format!("r{i}@to.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    play.begins(&mail_to(&many));
    let flight = play.takes();
    play.session.handle_written(play.now, flight.len());
    let mut answers = 0;
    while play.event().is_none() {
        play.now += Duration::from_secs(299);
        play.session.handle_timeout(play.now);
        let _ = play.session.handle_input(play.now, b"250 ok\r\n");
        answers += 1;
    }
    assert!(answers < 10, "{answers}");
}
