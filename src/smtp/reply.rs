//! Every reply of the submission server's dialogue, in one table. What `accept` and the spool refuse is turned into replies
//! by the other table, in `server/driver.rs`.
//!
//! Codes are those of RFC 5321 §4.2.3 and of `threats-and-faults.md`, statuses those of RFC 3463. RFC 2034 §4: greeting,
//! EHLO and 354 carry no status.

use crate::mail::Reply;

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $class:literal, $subject:literal, $detail:literal, $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Reply = Reply::fixed($code, $class, $subject, $detail, $text);)*
        /// For the check of the table.
        #[cfg(test)]
        const ALL: &[Reply] = &[$($name,)*];
    };
}

replies! {
    // Yes.
    BYE = 221, 2, 0, 0, "Bye";
    OK = 250, 2, 0, 0, "OK";
    SENDER_OK = 250, 2, 1, 0, "Sender OK";
    RECIPIENT_OK = 250, 2, 1, 5, "Recipient OK";
    HELP = 214, 2, 0, 0, "See RFC 5321; AUTH with a server token, MAIL, RCPT, DATA or BDAT";
    /// RFC 5321 §3.5.3: 252 is the answer of a server that does not verify.
    VRFY = 252, 2, 5, 0, "Cannot verify; send the message and see";
    READY_FOR_TLS = 220, 2, 0, 0, "Ready to start TLS";
    AUTHENTICATED = 235, 2, 7, 0, "Authentication successful";

    // Closing.
    TOO_MANY_ERRORS = 421, 4, 7, 0, "Too many errors";
    TOO_MANY_COMMANDS = 421, 4, 7, 0, "Too many commands without effect";
    TOO_MANY_AUTH_FAILURES = 421, 4, 7, 0, "Too many failed authentications";
    TIMED_OUT = 421, 4, 4, 2, "Timed out waiting for the client";
    STOPPING = 421, 4, 3, 2, "Shutting down, come back soon";
    TOO_MANY_CONNECTIONS = 421, 4, 3, 2, "Too many connections";
    INTERNAL_ERROR = 421, 4, 3, 0, "Internal error, come back later";
    NOT_SMTP = 554, 5, 5, 1, "This is an SMTP server";

    // Commands.
    UNRECOGNIZED = 500, 5, 5, 2, "Command not recognized";
    NOT_IMPLEMENTED = 502, 5, 5, 1, "Command not implemented";
    BAD_LINE = 500, 5, 5, 2, "A command is one line of text that ends with CRLF, without other control characters";
    LINE_TOO_LONG = 500, 5, 5, 2, "Line too long";
    BAD_ARGUMENTS = 501, 5, 5, 4, "Syntax error in arguments";
    NO_ARGUMENTS = 501, 5, 5, 4, "The command takes no arguments";
    BAD_HELLO = 501, 5, 5, 4, "EHLO and HELO take a host name or an address literal";
    HELLO_FIRST = 503, 5, 5, 1, "Send EHLO first";
    MAIL_FIRST = 503, 5, 5, 1, "Send MAIL first";
    RCPT_FIRST = 503, 5, 5, 1, "Send RCPT first";
    NO_VALID_RECIPIENTS = 554, 5, 5, 1, "No valid recipients";
    NESTED_MAIL = 503, 5, 5, 1, "Nested MAIL command";
    IN_TRANSACTION = 503, 5, 5, 1, "Not within a mail transaction";
    IN_CHUNKS = 503, 5, 5, 1, "Only BDAT may follow BDAT";
    DEAD_TRANSACTION = 503, 5, 5, 1, "The transaction has failed, send RSET";

    // Addresses and parameters.
    BAD_REVERSE_PATH = 501, 5, 1, 7, "Malformed sender address";
    BAD_FORWARD_PATH = 501, 5, 1, 3, "Malformed recipient address";
    SOURCE_ROUTE = 501, 5, 1, 3, "Source routes are not accepted";
    ADDRESS_LITERAL = 501, 5, 1, 3, "Address literals are not accepted";
    /// RFC 6531 §3.5.
    NEEDS_SMTPUTF8 = 553, 5, 6, 7, "The address needs SMTPUTF8 and well-formed characters";
    UNKNOWN_PARAMETER = 555, 5, 5, 4, "Parameter not recognized or not implemented";
    BAD_PARAMETER = 501, 5, 5, 4, "Malformed or repeated parameter";
    /// RFC 4865 §4.
    HOLD_TOO_LONG = 501, 5, 5, 4, "The message would be held longer than EHLO says";
    HOLD_PASSED = 501, 5, 5, 4, "The time to hold the message until has passed";
    /// RFC 2852 §4.1.
    BY_PASSED = 501, 5, 5, 4, "BY with mode R needs a time ahead";
    BY_TOO_SOON = 555, 5, 5, 4, "BY asks for less time than EHLO says";
    BY_NOTICE = 555, 5, 5, 4, "BY is taken with mode R only and without trace: no notices are sent";
    TOO_MANY_RECIPIENTS = 452, 4, 5, 3, "Too many recipients, send the rest in another transaction";
    TOO_BIG = 552, 5, 3, 4, "Message is larger than this server accepts";

    // Who may send.
    /// RFC 4954 §6.
    AUTH_REQUIRED = 530, 5, 7, 0, "Authentication required";
    RELAY_DENIED = 550, 5, 7, 1, "Relaying denied";
    TLS_REQUIRED = 538, 5, 7, 11, "Encryption required for authentication";
    AUTH_FAILED = 535, 5, 7, 8, "Authentication failed";
    AUTH_LOCKED = 454, 4, 7, 0, "Too many failed authentications from your address, try later";
    AUTH_TWICE = 503, 5, 5, 1, "Already authenticated";
    AUTH_MECHANISM = 504, 5, 5, 4, "Authentication mechanism not supported";
    AUTH_MALFORMED = 501, 5, 5, 2, "Malformed authentication exchange";
    /// RFC 4954 §4: the server begins this exchange.
    AUTH_NO_INITIAL = 501, 5, 7, 0, "The mechanism takes no initial response";
    AUTH_CANCELLED = 501, 5, 7, 0, "Authentication cancelled";
    AUTH_LINE_TOO_LONG = 500, 5, 5, 6, "Authentication exchange line is too long";

    // STARTTLS, XCLIENT.
    TLS_ACTIVE = 503, 5, 5, 1, "TLS is already active";
    TLS_INJECTION = 501, 5, 5, 4, "Nothing may follow STARTTLS before the handshake";
    XCLIENT_REFUSED = 550, 5, 7, 1, "XCLIENT is not allowed from your address";
    XCLIENT_LOGIN = 501, 5, 5, 4, "XCLIENT with an unknown login";

    // Content.
    BARE_CR = 550, 5, 6, 0, "Message contains a bare CR; lines end with CRLF";
    BARE_LF = 550, 5, 6, 0, "Message contains a bare LF; lines end with CRLF";
    NUL = 550, 5, 6, 0, "Message contains a NUL octet";
    LONG_LINE = 550, 5, 6, 0, "Message contains a line that is too long";
}

/// RFC 5321 §4.1.1.4.
pub const GO_AHEAD: &[u8] = b"354 End data with <CR><LF>.<CR><LF>\r\n";

/// Why content is refused, after its true end.
pub fn flaw(flaw: super::data::Flaw) -> Reply {
    use super::data::Flaw;
    match flaw {
        Flaw::BareCr => BARE_CR,
        Flaw::BareLf => BARE_LF,
        Flaw::Nul => NUL,
        Flaw::LongLine => LONG_LINE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_status_of_every_reply_are_of_one_class() {
        for reply in ALL {
            let status = reply.status.unwrap();
            assert_eq!(reply.code / 100, u16::from(status.class), "{reply}");
            assert!(!reply.text().contains(['\r', '\n']), "{reply}");
        }
    }
}
