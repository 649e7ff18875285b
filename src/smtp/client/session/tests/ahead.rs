//! A transaction behind another, and hosts that cannot take what they offer.

use super::*;

const CHUNK: &str =
    "MAIL FROM:<a@from.test>\r\nRCPT TO:<b@to.test>\r\nBDAT 20 LAST\r\nSubject: x\r\n\r\n.dot\r\n";
const CHUNKED: &[&str] = &["PIPELINING", "CHUNKING", "ENHANCEDSTATUSCODES"];
/// Nothing tells what its answers belong to.
const CHUNKS: &[&str] = &["PIPELINING", "CHUNKING"];
const TAKEN: &str = "250 2.1.0 m\r\n250 2.1.5 r\r\n250 2.0.0 taken\r\n";

/// A session that has carried one message.
fn proven(keywords: &[&str]) -> Play {
    let mut play = Play::greeted(keywords);
    play.begins(&one());
    if keywords.contains(&"CHUNKING") {
        play.says(CHUNK).hears(TAKEN);
    } else {
        play.says(ONE_FLIGHT)
            .hears("250 m\r\n250 r\r\n354 go\r\n")
            .says(CONTENT);
        assert!(
            !play.session.may_begin(),
            "the host has answered no content yet"
        );
        play.hears("250 taken\r\n");
    }
    assert!(matches!(play.event(), Some(ClientEvent::Done(_))));
    play
}

fn one() -> Outbound {
    mail_to(&["b@to.test"])
}

fn sign(play: &Play) -> Option<(Habit, bool)> {
    play.session.sign().map(|sign| (sign.habit, sign.certain))
}

#[test]
fn the_next_envelope_follows_the_final_dot_in_the_same_flight() {
    let mut play = proven(&["PIPELINING"]);
    play.begins(&one()).says(ONE_FLIGHT);
    assert!(!play.session.may_begin());
    play.hears("250 m\r\n250 r\r\n354 go\r\n");
    assert_eq!(play.event(), Some(ClientEvent::Room));
    play.begins(&one())
        .says(&format!("{CONTENT}{ONE_FLIGHT}"))
        .hears("250 one\r\n")
        .verdicts(&["accepted 250 one"]);
    assert!(!play.session.may_begin(), "its content is not on its way");
    play.hears("250 m\r\n250 r\r\n354 go\r\n")
        .says(CONTENT)
        .hears("250 two\r\n");
    assert_eq!(play.event(), Some(ClientEvent::Room));
    play.verdicts(&["accepted 250 two"]).stays_open();
    assert!(play.session.is_ready());
}

#[test]
fn with_chunking_whole_transactions_follow_each_other() {
    let mut play = proven(CHUNKED);
    play.begins(&one());
    assert_eq!(play.event(), Some(ClientEvent::Room));
    play.says(CHUNK).begins(&one());
    assert!(!play.session.may_begin(), "two at most");
    // RFC 3030 §2: the BDAT before may be refused, and the state is then unknown.
    play.says(&format!("RSET\r\n{CHUNK}"))
        .hears("250 2.1.0 m\r\n250 2.1.5 r\r\n452 4.3.1 full\r\n")
        .verdicts(&["refused at the end of content 452 4.3.1 full"])
        .begins(&one())
        .says(&format!("RSET\r\n{CHUNK}"))
        .hears(&format!("250 2.0.0 reset\r\n{TAKEN}"))
        .verdicts(&["accepted 250 2.0.0 taken"])
        .hears(&format!("250 2.0.0 reset\r\n{TAKEN}"))
        .verdicts(&["accepted 250 2.0.0 taken"])
        .stays_open();
}

#[test]
fn without_status_codes_chunks_do_not_run_ahead() {
    let mut play = proven(CHUNKS);
    play.begins(&one()).says(CHUNK).stays_open();
    assert!(!play.session.may_begin());
}

#[test]
fn what_was_not_sent_is_not_ambiguous_when_the_connection_dies() {
    // The first content is out, of the second only the envelope.
    let mut play = proven(&["PIPELINING"]);
    play.begins(&one())
        .says(ONE_FLIGHT)
        .hears("250 m\r\n250 r\r\n354 go\r\n");
    play.event();
    play.begins(&one()).says(&format!("{CONTENT}{ONE_FLIGHT}"));
    play.session.handle_close();
    play.verdicts(&["ambiguous"]).verdicts(&["not reached"]);
    assert_eq!(sign(&play), Some((Habit::Ahead, false)));

    // Both contents are out; and a 421, behind which the host looks at nothing more.
    for (end, first, second) in [
        ("", "ambiguous", "ambiguous"),
        (
            "421 4.3.2 bye\r\n",
            "refused at MAIL 421 4.3.2 bye",
            "not reached",
        ),
    ] {
        let mut play = proven(CHUNKED);
        play.begins(&one()).says(CHUNK);
        play.event();
        play.begins(&one()).says(&format!("RSET\r\n{CHUNK}"));
        if end.is_empty() {
            play.session.handle_close();
        } else {
            play.hears(end);
        }
        play.verdicts(&[first]).verdicts(&[second]);
    }
}

#[test]
fn mail_that_cannot_be_sent_waits_for_its_turn_to_be_told() {
    let mut play = proven(CHUNKED);
    play.begins(&one()).says(CHUNK);
    play.event();
    play.begins(&mail_to(&["é@to.test"]))
        .says("")
        .stays_open()
        .hears("250 2.1.0 m\r\n250 2.1.5 r\r\n554 5.7.1 no\r\n")
        .verdicts(&["refused at the end of content 554 5.7.1 no"])
        .verdicts(&["unsendable SmtpUtf8"])
        // No RSET was sent for it, so it is due.
        .begins(&one())
        .says(&format!("RSET\r\n{CHUNK}"));
}

#[test]
fn all_recipients_refused_with_the_content_in_flight() {
    let mut play = proven(CHUNKED);
    for last in [
        "503 5.5.1 no recipients\r\n",
        "554 5.5.1 none\r\n",
        "250 2.0.0 ok\r\n",
    ] {
        play.begins(&one());
        let flight = play.takes();
        play.session.handle_written(play.now, flight.len());
        while play.event().is_some() {}
        if flight.starts_with("RSET") {
            play.hears("250 2.0.0 ok\r\n");
        }
        play.hears(&format!("250 2.1.0 m\r\n550 5.1.1 no\r\n{last}"))
            .verdicts(&["refused at RCPT 550 5.1.1 no"]);
    }
}

#[test]
fn a_host_that_does_not_know_bdat_is_left_before_it_reads_content_as_commands() {
    for (code, known) in [
        (500, false),
        (502, false),
        (503, false),
        (550, true),
        (554, true),
    ] {
        let mut play = Play::greeted(CHUNKS);
        play.begins(&one()).says(CHUNK);
        let answers = format!("250 m\r\n250 r\r\n{code} no\r\n");
        if known {
            play.hears(&answers)
                .verdicts(&[&format!("refused at the end of content {code} no")]);
        } else {
            play.breaks_at(&answers, OutOfStep::NoChunking { code })
                .verdicts(&["unanswered"]);
            assert_eq!(sign(&play), Some((Habit::Chunking, true)));
        }
    }
    let mut play = Play::avoiding(Avoid {
        chunking: true,
        ..Avoid::default()
    });
    play.greets(CHUNKED);
    play.begins(&one()).says(ONE_FLIGHT);
}

#[test]
fn a_reply_too_many_is_found_before_anything_is_taken_for_delivered() {
    // MAIL answered twice: the answer to RCPT stands where that to the content belongs.
    let mut play = Play::greeted(CHUNKED);
    play.begins(&one())
        .says(CHUNK)
        .breaks_at(
            "250 2.1.0 m\r\n250 2.1.0 m\r\n250 2.1.5 r\r\n",
            OutOfStep::Misplaced { code: 250 },
        )
        .verdicts(&["ambiguous"]);
    assert_eq!(sign(&play), Some((Habit::Pipelining, true)));

    // Without status codes, together with the reply that then comes last.
    let mut play = Play::greeted(CHUNKS);
    play.begins(&one())
        .says(CHUNK)
        .breaks_at(
            "250 m\r\n250 m\r\n250 r\r\n554 refused\r\n",
            OutOfStep::Early,
        )
        .verdicts(&["ambiguous"]);
    // A good-bye may follow.
    let mut play = Play::greeted(CHUNKS);
    play.begins(&one())
        .says(CHUNK)
        .hears("250 m\r\n250 r\r\n250 taken\r\n421 4.3.2 enough\r\n")
        .verdicts(&["accepted 250 taken"]);

    // Without PIPELINING too: the second answer to RCPT comes when the content is on its way (found by tests/sim).
    let mut play = Play::greeted(&["CHUNKING", "ENHANCEDSTATUSCODES"]);
    play.begins(&one())
        .says("MAIL FROM:<a@from.test>\r\n")
        .hears("250 2.1.0 m\r\n")
        .says("RCPT TO:<b@to.test>\r\n")
        .hears("250 2.1.5 r\r\n")
        .says("BDAT 20 LAST\r\nSubject: x\r\n\r\n.dot\r\n")
        .breaks_at("250 2.1.5 r\r\n", OutOfStep::Misplaced { code: 250 })
        .verdicts(&["ambiguous"]);
    assert_eq!(sign(&play), Some((Habit::Chunking, true)));

    // With DATA the 354 is not where it belongs, and no recipient is blamed for what another was told.
    let mut play = Play::greeted(&["PIPELINING"]);
    play.begins(&mail_to(&["b@to.test", "c@to.test"]));
    let flight = play.takes();
    play.session.handle_written(play.now, flight.len());
    play.breaks_at(
        "250 m\r\n250 m\r\n550 5.1.1 b\r\n250 c\r\n",
        OutOfStep::Unexpected { code: 250 },
    )
    .verdicts(&["unanswered", "unanswered"]);
    assert_eq!(sign(&play), Some((Habit::Pipelining, true)));
}

#[test]
fn where_nothing_tells_answers_apart_the_one_to_bdat_counts_once_quit_is_answered_in_its_place() {
    let doubtful = |heard: &str| {
        let mut play = Play::greeted(CHUNKS);
        play.begins(&one())
            .says(CHUNK)
            .hears(heard)
            .says("QUIT\r\n");
        assert!(!play.session.may_begin());
        play
    };
    // All in step: the host says the same to everything. From then on it gets DATA.
    for (last, verdict) in [
        ("250 ok\r\n", "accepted 250 ok"),
        ("554 no\r\n", "refused at the end of content 554 no"),
    ] {
        let mut play = doubtful(&format!("250 ok\r\n250 ok\r\n{last}"));
        play.hears("221 bye\r\n").verdicts(&[verdict]);
        assert_eq!(play.event(), Some(ClientEvent::Ended(Ending::Quit)));
        assert_eq!(sign(&play), Some((Habit::Chunking, true)));
    }
    // RCPT answered twice, and the content refused, or never answered.
    for late in ["554 refused\r\n", "250 taken\r\n"] {
        let mut play = doubtful("250 m\r\n250 r\r\n250 r\r\n");
        let code = late[..3].parse().unwrap();
        play.breaks_at(late, OutOfStep::Unplaced { code })
            .verdicts(&["ambiguous"]);
        assert_eq!(sign(&play), Some((Habit::Chunking, true)));
    }
    let mut play = doubtful("250 m\r\n250 m\r\n250 r\r\n");
    play.session.handle_close();
    play.verdicts(&["ambiguous"]);
    assert_eq!(sign(&play), Some((Habit::Chunking, true)));
    doubtful("250 m\r\n250 r\r\n250 r\r\n")
        .hears("421 4.3.2 bye\r\n")
        .verdicts(&["ambiguous"]);
    // Statuses are offered and not given.
    let mut play = Play::greeted(CHUNKED);
    play.begins(&one())
        .says(CHUNK)
        .hears("250 ok\r\n250 ok\r\n250 ok\r\n")
        .says("QUIT\r\n");
    // Where a 354 costs no more round trips there is one.
    let mut play = Play::greeted(&["CHUNKING"]);
    play.begins(&one())
        .says("MAIL FROM:<a@from.test>\r\n")
        .hears("250 m\r\n")
        .says("RCPT TO:<b@to.test>\r\n")
        .hears("250 r\r\n")
        .says("DATA\r\n");
}

#[test]
fn a_reply_that_is_none_is_held_against_its_recipient_alone() {
    let mut play = Play::greeted(&["PIPELINING"]);
    play.begins(&mail_to(&["b@t.test", "c@t.test", "d@t.test", "e@t.test"]));
    let flight = play.takes();
    play.session.handle_written(play.now, flight.len());
    play.breaks_at(
        "250 m\r\n250 b\r\n550 5.1.1 c\r\nwhat?\r\n",
        OutOfStep::Malformed(Malformed::NoCode),
    )
    .verdicts(&[
        "not reached",
        "refused at RCPT 550 5.1.1 c",
        "unanswered",
        "not reached",
    ]);
    assert_eq!(play.session.culprit(), Some(2));
    assert_eq!(sign(&play), None);
}

#[test]
fn what_came_behind_a_content_and_is_lost_is_not_sent_so_again() {
    // The host empties its input at the final dot: it never hears the second envelope.
    let mut play = proven(&["PIPELINING"]);
    play.begins(&one())
        .says(ONE_FLIGHT)
        .hears("250 m\r\n250 r\r\n354 go\r\n");
    play.event();
    play.begins(&one())
        .says(&format!("{CONTENT}{ONE_FLIGHT}"))
        .hears("250 one\r\n")
        .verdicts(&["accepted 250 one"]);
    play.now += Duration::from_secs(300);
    play.session.handle_timeout(play.now);
    play.verdicts(&["unanswered"]);
    assert_eq!(sign(&play), Some((Habit::Ahead, false)));
    // A reply too many that comes when nothing is under way; and a host that waited too long for us.
    for (late, expected) in [
        ("250 again\r\n", Some((Habit::Pipelining, true))),
        ("451 4.7.0 timeout waiting for client input\r\n", None),
    ] {
        let mut play = proven(&["PIPELINING"]);
        play.breaks_at(late, OutOfStep::Early);
        assert_eq!(sign(&play), expected);
    }
    // An idle connection that is closed says nothing about the host.
    let mut play = proven(&["PIPELINING"]);
    play.begins(&one()).says(ONE_FLIGHT);
    play.session.handle_close();
    assert_eq!(sign(&play), None);
}
