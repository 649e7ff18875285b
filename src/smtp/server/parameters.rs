//! ESMTP parameters of MAIL and RCPT. An unknown, repeated or malformed one is refused, never ignored: a client that asked
//! for something must not believe that it got it (threats-and-faults §2.1).

use std::time::Duration;

use crate::clock::{UnixMs, parse_rfc3339};
use crate::limits;
use crate::mail::{BodyType, DsnNotify, DsnRecipient, DsnReturn, Hold, Reply};
use crate::smtp::reply;

/// What MAIL asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// RFC 1870 §4: the client's own count. Saturated: over `u64` is over every limit.
    pub size: Option<u64>,
    pub body: Option<BodyType>,
    pub smtputf8: bool,
    pub ret: Option<DsnReturn>,
    /// RFC 3461 §4.4, still in xtext.
    pub envelope_id: Option<String>,
    /// RFC 4865 §4.
    pub hold: Option<Hold>,
    /// RFC 2852 §4.1, mode R.
    pub deliver_by: Option<Duration>,
    auth: bool,
}

impl MailParameters {
    pub fn parse(text: &str) -> Result<Self, Reply> {
        let mut found = Self::default();
        for parameter in text.split_ascii_whitespace() {
            found.take(parameter)?;
        }
        Ok(found)
    }

    fn take(&mut self, parameter: &str) -> Result<(), Reply> {
        let (keyword, value) = split(parameter)?;
        match keyword.to_ascii_uppercase().as_str() {
            "SIZE" => once(&mut self.size, value.and_then(size)),
            "BODY" => once(&mut self.body, Some(body(value)?)),
            "SMTPUTF8" if value.is_none() && !self.smtputf8 => {
                self.smtputf8 = true;
                Ok(())
            }
            "SMTPUTF8" => Err(reply::BAD_PARAMETER),
            "RET" => once(
                &mut self.ret,
                match value {
                    Some(v) if v.eq_ignore_ascii_case("FULL") => Some(DsnReturn::Full),
                    Some(v) if v.eq_ignore_ascii_case("HDRS") => Some(DsnReturn::Headers),
                    _ => None,
                },
            ),
            "ENVID" => once(&mut self.envelope_id, value.and_then(envelope_id)),
            "HOLDFOR" => once(&mut self.hold, value.and_then(hold_for)),
            "HOLDUNTIL" => once(&mut self.hold, value.and_then(hold_until)),
            "BY" => {
                let span = deliver_by(value.ok_or(reply::BAD_PARAMETER)?)?;
                once(&mut self.deliver_by, Some(span))
            }
            // RFC 4954 §5: to be taken by every server with AUTH; who vouches for whom upstream is not recorded here.
            "AUTH" => {
                let sound = value.is_some_and(|v| v == "<>" || decode_xtext(v).is_some());
                if !sound || self.auth {
                    return Err(reply::BAD_PARAMETER);
                }
                self.auth = true;
                Ok(())
            }
            _ => Err(reply::UNKNOWN_PARAMETER),
        }
    }
}

impl MailParameters {
    /// RFC 4865 §4: held no longer than EHLO has said, and not into the past, which is a mistake of somebody's clock.
    pub fn check_hold(&self, now: UnixMs) -> Result<(), Reply> {
        let max = limits::SCHEDULE_MAX;
        match self.hold {
            Some(Hold::For(span)) if span > max => Err(reply::HOLD_TOO_LONG),
            Some(Hold::Until(at)) if at > now + max.as_secs() * 1_000 => Err(reply::HOLD_TOO_LONG),
            Some(Hold::Until(at)) if at < now => Err(reply::HOLD_PASSED),
            _ => Ok(()),
        }
    }
}

/// The parameters of RCPT.
pub fn parse_rcpt(text: &str, smtputf8: bool) -> Result<DsnRecipient, Reply> {
    let mut found = DsnRecipient::default();
    for parameter in text.split_ascii_whitespace() {
        let (keyword, value) = split(parameter)?;
        match keyword.to_ascii_uppercase().as_str() {
            "NOTIFY" => once(&mut found.notify, value.and_then(notify))?,
            "ORCPT" => once(
                &mut found.original_recipient,
                value.and_then(|v| original_recipient(v, smtputf8)),
            )?,
            _ => return Err(reply::UNKNOWN_PARAMETER),
        }
    }
    Ok(found)
}

/// RFC 3461 §4: `+` and two upper-case hex digits stand for one octet. `None` when malformed, or not text.
pub fn decode_xtext(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&octet, tail)) = rest.split_first() {
        rest = tail;
        match octet {
            b'+' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                let hex = |b: u8| matches!(b, b'0'..=b'9' | b'A'..=b'F');
                if !digits.iter().all(|&b| hex(b)) {
                    return None;
                }
                out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = tail;
            }
            b'!'..=b'~' if octet != b'=' => out.push(octet),
            _ => return None,
        }
    }
    let text = String::from_utf8(out).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

/// RFC 5321 §4.1.2: `esmtp-keyword ["=" esmtp-value]`; RFC 6531 §3.3 lets the value hold UTF-8.
fn split(parameter: &str) -> Result<(&str, Option<&str>), Reply> {
    let (keyword, value) = match parameter.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (parameter, None),
    };
    let named = keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
        && keyword
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let valued = value.is_none_or(|v| !v.is_empty() && !v.contains('='));
    if named && valued {
        Ok((keyword, value))
    } else {
        Err(reply::BAD_PARAMETER)
    }
}

/// RFC 4865 §4: one to nine digits, seconds.
fn hold_for(text: &str) -> Option<Hold> {
    digits(text).map(|seconds| Hold::For(Duration::from_secs(seconds)))
}

/// RFC 4865 §4, with erratum 2040: a date-time of RFC 3339 §5.6, which always has a zone.
fn hold_until(text: &str) -> Option<Hold> {
    let is_whole = text
        .as_bytes()
        .get(10)
        .is_some_and(|b| matches!(b, b'T' | b't'));
    let zoned = text.ends_with(['Z', 'z']) || text.get(19..)?.contains(['+', '-']);
    (is_whole && zoned)
        .then(|| parse_rfc3339(text))
        .flatten()
        .map(Hold::Until)
}

/// RFC 2852 §4.1: `by-time ";" by-mode [by-trace]`. Mode N and the trace ask for notices, which are not sent: refused, so that
/// nobody waits for one.
fn deliver_by(text: &str) -> Result<Duration, Reply> {
    let (time, mode) = text.split_once(';').ok_or(reply::BAD_PARAMETER)?;
    let unsigned = time.strip_prefix(['+', '-']).unwrap_or(time);
    let seconds = digits(unsigned).ok_or(reply::BAD_PARAMETER)?;
    match mode.to_ascii_uppercase().as_str() {
        // A time that has passed is not allowed in mode R.
        "R" | "RT" if seconds == 0 || time.starts_with('-') => Err(reply::BY_PASSED),
        "R" if Duration::from_secs(seconds) < limits::DELIVER_BY_MIN => Err(reply::BY_TOO_SOON),
        "R" => Ok(Duration::from_secs(seconds)),
        "RT" | "N" | "NT" => Err(reply::BY_NOTICE),
        _ => Err(reply::BAD_PARAMETER),
    }
}

/// One to nine of them.
fn digits(text: &str) -> Option<u64> {
    let sound = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    sound.then(|| text.parse().ok()).flatten()
}

fn once<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), Reply> {
    match (&slot, value) {
        (None, Some(value)) => {
            *slot = Some(value);
            Ok(())
        }
        _ => Err(reply::BAD_PARAMETER),
    }
}

/// RFC 1870 §3: up to twenty digits.
fn size(text: &str) -> Option<u64> {
    let sound = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    sound.then(|| text.parse().unwrap_or(u64::MAX))
}

/// RFC 6152 §3. BINARYMIME (RFC 3030 §3) is not offered: content must be lines, since the next host may want DATA.
fn body(value: Option<&str>) -> Result<BodyType, Reply> {
    match value {
        Some(v) if v.eq_ignore_ascii_case("7BIT") => Ok(BodyType::SevenBit),
        Some(v) if v.eq_ignore_ascii_case("8BITMIME") => Ok(BodyType::EightBitMime),
        Some(_) => Err(reply::UNKNOWN_PARAMETER),
        None => Err(reply::BAD_PARAMETER),
    }
}

/// RFC 3461 §4.4: up to 100 octets of xtext for printable ASCII.
fn envelope_id(text: &str) -> Option<String> {
    let decoded = decode_xtext(text)?;
    (text.len() <= 100 && decoded.is_ascii()).then(|| text.to_owned())
}

/// RFC 3461 §4.1.
fn notify(text: &str) -> Option<DsnNotify> {
    let mut found = DsnNotify::NEVER;
    if text.eq_ignore_ascii_case("NEVER") {
        return Some(found);
    }
    for word in text.split(',') {
        let slot = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut found.success,
            "FAILURE" => &mut found.failure,
            "DELAY" => &mut found.delay,
            _ => return None,
        };
        if std::mem::replace(slot, true) {
            return None;
        }
    }
    Some(found)
}

/// RFC 3461 §4.2: address type, `;`, xtext, up to 500 octets. RFC 6533 §3 adds the type `utf-8`, whose text may hold UTF-8
/// within a transaction that declared SMTPUTF8, and `\x{..}` escapes, which are ordinary characters here.
fn original_recipient(text: &str, smtputf8: bool) -> Option<String> {
    let (kind, address) = text.split_once(';')?;
    let atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let utf8 = kind.eq_ignore_ascii_case("utf-8");
    let sound = match address.is_ascii() {
        true => decode_xtext(address).is_some(),
        false => utf8 && smtputf8 && !address.chars().any(char::is_control),
    };
    (atom && !address.is_empty() && sound && text.len() <= 500).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_mail(text: &str, expected: Result<MailParameters, Reply>) {
        assert_eq!(MailParameters::parse(text), expected, "{text:?}");
    }

    #[test]
    fn the_parameters_of_mail_are_read() {
        check_mail("", Ok(MailParameters::default()));
        check_mail(
            "size=100 BODY=8bitmime SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<>",
            Ok(MailParameters {
                size: Some(100),
                body: Some(BodyType::EightBitMime),
                smtputf8: true,
                ret: Some(DsnReturn::Headers),
                envelope_id: Some("a+2Bb".into()),
                auth: true,
                ..MailParameters::default()
            }),
        );
        let over = MailParameters::parse("SIZE=99999999999999999999").unwrap();
        assert_eq!(over.size, Some(u64::MAX));
    }

    #[test]
    fn an_unknown_repeated_or_malformed_parameter_is_refused() {
        for text in ["X=1", "SIZES=1", "BODY=BINARYMIME", "MT-PRIORITY=1"] {
            check_mail(text, Err(reply::UNKNOWN_PARAMETER));
        }
        for text in [
            "SIZE=1 SIZE=1",
            "SIZE",
            "SIZE=",
            "SIZE=-1",
            "SIZE=1x",
            "SIZE=100000000000000000000",
            "BODY",
            "SMTPUTF8=1",
            "SMTPUTF8 SMTPUTF8",
            "RET=ALL",
            "ENVID=a+2b",
            "ENVID=a+0Ab",
            "AUTH",
            "=1",
            "-A=1",
            "ENVID=a=b",
        ] {
            check_mail(text, Err(reply::BAD_PARAMETER));
        }
        let long = format!("ENVID={}", "a".repeat(101));
        check_mail(&long, Err(reply::BAD_PARAMETER));
    }

    #[test]
    fn a_time_to_hold_until_and_a_time_to_deliver_by_are_read() {
        let hold = |hold| MailParameters {
            hold: Some(hold),
            ..MailParameters::default()
        };
        let seconds = Duration::from_secs;
        check_mail("HOLDFOR=86400", Ok(hold(Hold::For(seconds(86_400)))));
        let until = Ok(hold(Hold::Until(1_772_460_912_000)));
        check_mail("holduntil=2026-03-02T14:15:12Z", until.clone());
        check_mail("HOLDUNTIL=2026-03-02T15:15:12+01:00", until);
        for text in ["BY=+120;R", "BY=120;r"] {
            let by = MailParameters {
                deliver_by: Some(seconds(120)),
                ..MailParameters::default()
            };
            check_mail(text, Ok(by));
        }
        for text in ["BY=0;R", "BY=-5;R", "BY=-5;RT"] {
            check_mail(text, Err(reply::BY_PASSED));
        }
        for text in ["BY=120;N", "BY=-120;N", "BY=120;RT", "BY=0;NT"] {
            check_mail(text, Err(reply::BY_NOTICE));
        }
        for text in [
            "HOLDFOR=1 HOLDUNTIL=2026-03-02T14:15:12Z",
            "HOLDFOR=1 HOLDFOR=1",
            "HOLDFOR",
            "HOLDFOR=-1",
            "HOLDFOR=1234567890",
            "HOLDUNTIL=2026-03-02",
            "HOLDUNTIL=2026-03-02T14:15:12",
            "HOLDUNTIL=tomorrow",
            "BY=120",
            "BY",
            "BY=;R",
            "BY=120;X",
            "BY=120;RX",
            "BY=1234567890;R",
            "BY=1;R BY=2;R",
        ] {
            check_mail(text, Err(reply::BAD_PARAMETER));
        }
    }

    #[test]
    fn mail_is_held_neither_longer_than_announced_nor_into_the_past() {
        let now = 1_772_460_912_000;
        let check = |text, expected| {
            let parameters = MailParameters::parse(text).unwrap();
            assert_eq!(parameters.check_hold(now), expected, "{text}");
        };
        check("HOLDFOR=2592000", Ok(()));
        check("HOLDFOR=2592001", Err(reply::HOLD_TOO_LONG));
        check("HOLDUNTIL=2026-03-02T14:15:12Z", Ok(()));
        check("HOLDUNTIL=2026-03-02T14:15:11Z", Err(reply::HOLD_PASSED));
        check("HOLDUNTIL=2026-04-01T14:15:12Z", Ok(()));
        check("HOLDUNTIL=2026-04-01T14:15:13Z", Err(reply::HOLD_TOO_LONG));
    }

    #[test]
    fn the_parameters_of_rcpt_are_read() {
        let found = parse_rcpt("NOTIFY=success,DELAY ORCPT=rfc822;a+2Bb@c.example", false).unwrap();
        assert_eq!(
            found.notify,
            Some(DsnNotify {
                success: true,
                failure: false,
                delay: true
            })
        );
        assert_eq!(
            found.original_recipient.as_deref(),
            Some("rfc822;a+2Bb@c.example")
        );
        assert_eq!(
            parse_rcpt("NOTIFY=NEVER", false).unwrap().notify,
            Some(DsnNotify::NEVER)
        );
        assert!(parse_rcpt("ORCPT=utf-8;jürgen@example.com", true).is_ok());
    }

    #[test]
    fn malformed_parameters_of_rcpt_are_refused() {
        for text in [
            "NOTIFY=NEVER,DELAY",
            "NOTIFY=DELAY,DELAY",
            "NOTIFY=",
            "NOTIFY=DELAY NOTIFY=DELAY",
            "ORCPT=a@b.example",
            "ORCPT=rfc822;",
            "ORCPT=rfc822;a+b",
            "ORCPT=utf-8;jürgen@example.com",
        ] {
            assert_eq!(parse_rcpt(text, false), Err(reply::BAD_PARAMETER), "{text}");
        }
        assert_eq!(parse_rcpt("SIZE=1", false), Err(reply::UNKNOWN_PARAMETER));
    }
}
