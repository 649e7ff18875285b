//! Test addresses: what becomes of mail to them is staged within the node, whatever the DNS says of their domains (Postmark's sandbox,
//! postmark-smtp §10).
//!
//! For each service domain D, `<type>@bounce-testing.D` bounces as that type and `blackhole.D` takes everything. The type may stand
//! in `X-PM-Bounce-Type` instead, which counts before the local-part. Pure: who delivers, refuses and writes it down asks here.

use super::address::Domain;
use super::{EnhancedStatus, Reply};

/// The domains for which mail is staged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestDomains {
    bounce: Vec<Domain>,
    sink: Vec<Domain>,
}

/// What one type of bounce is on the wire and in the event log.
#[derive(Debug, PartialEq, Eq)]
pub struct Staged {
    /// Postmark's word.
    pub name: &'static str,
    pub act: Act,
    /// Of the event.
    pub cause: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Deliver,
    /// For good: reply code, subject and detail of RFC 3463.
    Refuse(u16, u16, u16),
    /// Refused for now, and taken at the second attempt.
    Delay,
    /// Taken; what comes back by mail in life is told at once.
    Report,
}

impl TestDomains {
    /// Those of these service domains, and Postmark's own, which are never looked up.
    pub fn new<'a>(services: impl IntoIterator<Item = &'a Domain>) -> Self {
        let services = services.into_iter().map(Domain::as_str);
        let mut domains = Self::default();
        for service in services.chain([POSTMARK]) {
            for (list, label) in [
                (&mut domains.bounce, "bounce-testing"),
                (&mut domains.sink, "blackhole"),
            ] {
                // One that is too long for it has no test addresses.
                list.extend(Domain::parse(&format!("{label}.{service}")));
            }
        }
        domains
    }

    /// Whether mail to the domain stays within the node.
    pub fn holds(&self, domain: &str) -> bool {
        let mut all = self.bounce.iter().chain(&self.sink);
        all.any(|test| test.as_str() == domain)
    }

    /// What is staged for a recipient, as `local-part@domain`; `asked` is what the message's header field says.
    pub fn staged(&self, recipient: &str, asked: Option<&str>) -> Option<&'static Staged> {
        let (local, domain) = recipient.rsplit_once('@')?;
        let is = |test: &Domain| test.as_str().eq_ignore_ascii_case(domain);
        if self.sink.iter().any(is) {
            return Some(&TAKEN);
        }
        let bounces = self.bounce.iter().any(is);
        bounces.then(|| Staged::of(asked.unwrap_or(local)))
    }
}

impl Staged {
    /// Without regard to case and underscores. Who asks for nothing known gets a hard bounce, as at Postmark.
    pub fn of(word: &str) -> &'static Self {
        let plain: String = word.chars().filter(|c| !matches!(c, '_' | ' ')).collect();
        let mut all = STAGED.iter().chain([&TAKEN]);
        let found = all.find(|staged| staged.name.eq_ignore_ascii_case(&plain));
        found.unwrap_or(&STAGED[0])
    }

    /// As the host answers to RCPT, if it refuses.
    pub fn refusal(&self) -> Option<Reply> {
        let (class, code, subject, detail) = match self.act {
            Act::Deliver | Act::Report => return None,
            Act::Refuse(code, subject, detail) => (5, code, subject, detail),
            Act::Delay => (4, 451, 3, 0),
        };
        let status = EnhancedStatus::new(class, subject, detail);
        Some(Reply::new(code, Some(status), "As the test address asks"))
    }
}

const fn staged(name: &'static str, act: Act, cause: &'static str) -> Staged {
    Staged { name, act, cause }
}

/// Every type but for the complaint, which is no bounce.
pub static STAGED: [Staged; 21] = [
    staged("HardBounce", Act::Refuse(550, 1, 1), "recipient-unknown"),
    staged("Transient", Act::Delay, "remote-system"),
    staged("Unsubscribe", Act::Report, "unsubscribe"),
    staged("Subscribe", Act::Report, "subscribe"),
    staged("AutoResponder", Act::Report, "auto-reply"),
    staged("AddressChange", Act::Report, "address-change"),
    staged("DnsError", Act::Refuse(550, 4, 4), "dns"),
    staged("SpamNotification", Act::Refuse(550, 6, 0), "content-spam"),
    staged("OpenRelayTest", Act::Report, "open-relay-test"),
    staged("Unknown", Act::Refuse(550, 0, 0), "unknown"),
    staged("SoftBounce", Act::Refuse(552, 2, 2), "recipient-full"),
    staged("VirusNotification", Act::Refuse(550, 6, 0), "virus"),
    staged("ChallengeVerification", Act::Report, "challenge"),
    staged("BadEmailAddress", Act::Refuse(553, 1, 3), "address-invalid"),
    staged("ManuallyDeactivated", Act::Refuse(550, 0, 0), "deactivated"),
    staged("Unconfirmed", Act::Refuse(550, 0, 0), "unconfirmed"),
    staged("Blocked", Act::Refuse(550, 6, 0), "blocklisted"),
    staged("SMTPApiError", Act::Refuse(550, 0, 0), "submission-refused"),
    staged("InboundError", Act::Refuse(550, 0, 0), "inbound-failed"),
    staged("DMARCPolicy", Act::Refuse(550, 6, 0), "dmarc-policy"),
    staged(
        "TemplateRenderingFailed",
        Act::Refuse(550, 0, 0),
        "template-failed",
    ),
];
/// What a delayed message becomes, and what a sink does.
pub static TAKEN: Staged = staged("Delivered", Act::Deliver, "");
const POSTMARK: &str = "postmarkapp.com";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_address_says_what_it_stands_for() {
        let own = Domain::parse("mail.shop.example").unwrap();
        let tests = TestDomains::new([&own]);
        let name = |recipient: &str, asked| tests.staged(recipient, asked).map(|s| s.name);
        for (recipient, asked, expected) in [
            (
                "SoftBounce@bounce-testing.mail.shop.example",
                None,
                Some("SoftBounce"),
            ),
            (
                "hard_bounce@bounce-testing.postmarkapp.com",
                None,
                Some("HardBounce"),
            ),
            (
                "anything@Bounce-Testing.Postmarkapp.com",
                None,
                Some("HardBounce"),
            ),
            (
                "SpamComplaint@bounce-testing.postmarkapp.com",
                None,
                Some("HardBounce"),
            ),
            (
                "hardbounce@bounce-testing.postmarkapp.com",
                Some("smtp_api_error"),
                Some("SMTPApiError"),
            ),
            (
                "hardbounce@blackhole.postmarkapp.com",
                Some("SoftBounce"),
                Some("Delivered"),
            ),
            ("hardbounce@bounce-testing.shop.example", None, None),
            ("hardbounce@postmarkapp.com", None, None),
        ] {
            assert_eq!(name(recipient, asked), expected, "{recipient}");
        }
        assert!(tests.holds("blackhole.mail.shop.example") && !tests.holds("mail.shop.example"));
        assert_eq!(
            Staged::of("soft bounce").refusal().unwrap().to_string(),
            "552 5.2.2 As the test address asks"
        );
        assert_eq!(
            Staged::of("transient").refusal().unwrap().to_string(),
            "451 4.3.0 As the test address asks"
        );
        assert_eq!(Staged::of("AutoResponder").refusal(), None);
    }
}
