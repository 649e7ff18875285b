//! Segments are nothing: the same octets give the same replies, the same messages and the same end, however they are cut.
//! Smuggling lives from servers of which this is not true.

use crate::support::{Message, Setup};

/// What a run came to. Where the stream waits for an answer before it goes on, cutting must not change the order either.
#[derive(Debug, PartialEq, Eq)]
struct Course {
    said: String,
    messages: Vec<Message>,
    closed: bool,
}

fn run<'a>(setup: &Setup, segments: impl Iterator<Item = &'a [u8]>) -> Course {
    let mut d = setup.clone().connect();
    let mut said = d.send("");
    for segment in segments {
        said += &d.send(segment);
    }
    Course {
        said,
        messages: std::mem::take(&mut d.messages),
        closed: d.closed,
    }
}

fn check(setup: &Setup, stream: &[u8]) -> Course {
    let whole = run(setup, std::iter::once(stream));
    for cut in 0..=stream.len() {
        let (a, b) = stream.split_at(cut);
        assert_eq!(run(setup, [a, b].into_iter()), whole, "cut at {cut}");
    }
    for size in [1, 2, 3, 5, 7] {
        assert_eq!(run(setup, stream.chunks(size)), whole, "pieces of {size}");
    }
    // Two cuts, around every place: an end of data that begins in one segment, goes on in the next and ends in the third.
    for cut in 0..stream.len().saturating_sub(3) {
        for width in 1..=3 {
            let (a, rest) = stream.split_at(cut);
            let (b, c) = rest.split_at(width);
            assert_eq!(run(setup, [a, b, c].into_iter()), whole, "{cut}+{width}");
        }
    }
    whole
}

#[test]
fn a_busy_dialogue_is_the_same_however_it_is_cut() {
    let stream = "EHLO client.example\r\n\
        AUTH LOGIN\r\nYXBw\r\nc2VjcmV0\r\n\
        MAIL FROM:<ada@example.com> SIZE=100 BODY=8BITMIME\r\n\
        RCPT TO:<bob@example.net>\r\nRCPT TO:<nobody>\r\n\
        DATA\r\nSubject: hi\r\n\r\n..dots\r\n.\u{fc}\r\n...\r\n\r\n.\r\n\
        MAIL FROM:<>\r\nRCPT TO:<bob@example.net>\r\n\
        BDAT 7\r\n.\r\n.\r\n\n\
        RSET\r\n\
        MAIL FROM:<>\r\nRCPT TO:<bob@example.net>\r\n\
        BDAT 8\r\na\r\n.\r\n.b\r\nBDAT 4 LAST\r\n\r\n.c\
        BDAT 6\r\nQUIT\r\n\
        NOOP\nRSET\r\n\
        WIZ\r\nQUIT\r\nNOOP\r\n";
    let course = check(&Setup::inside_tls(), stream.as_bytes());
    assert!(course.closed);
    assert_eq!(course.messages.len(), 2, "{}", course.said);
    assert_eq!(
        course.messages[0].content,
        "Subject: hi\r\n\r\n.dots\r\n\u{fc}\r\n..\r\n\r\n".as_bytes()
    );
    assert_eq!(course.messages[1].content, b"a\r\n.\r\n.b\r\n.c");
    assert!(course.messages[0].eight_bit && !course.messages[1].eight_bit);
}

#[test]
fn every_attempt_to_smuggle_is_refused_however_it_is_cut() {
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r\n.\r",
        "\r.\r\n",
        "\r\n.\r\r\n",
        "\r\r\n.\n",
        "\0\n.\n",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
    ] {
        let stream = format!(
            "EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\nx{end}MAIL FROM:<evil@example.com>\r\nRCPT TO:<c@example.net>\r\nDATA\r\nevil\r\n.\r\nQUIT\r\n"
        );
        let course = check(&Setup::trusted(), stream.as_bytes());
        assert!(course.messages.is_empty(), "{end:?}: {}", course.said);
        assert!(course.said.contains("\r\n550 5.6.0 "), "{end:?}");
        assert!(course.closed);
    }
}
