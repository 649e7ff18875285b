//! [`BounceType`]: what became of a recipient in Postmark's words (reference §5.4).

use crate::outcome::CauseClass;

macro_rules! bounce_types {
    ($($variant:ident $code:literal $name:literal $description:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum BounceType { $($variant,)* }

        impl BounceType {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }

            pub fn code(self) -> u32 {
                match self { $(Self::$variant => $code,)* }
            }

            /// For people.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }
        }
    };
}

bounce_types! {
    HardBounce 1 "Hard bounce" "The server was unable to deliver your message (ex: unknown user, mailbox not found).",
    Transient 2 "Message delayed" "The server could not deliver your message for now (ex: the remote host is slow or full); it goes on trying.",
    Unsubscribe 16 "Unsubscribe request" "The recipient asked to be unsubscribed.",
    Subscribe 32 "Subscribe request" "Somebody asked to be subscribed.",
    AutoResponder 64 "Auto responder" "An automatic answer (ex: out of office, on holiday).",
    AddressChange 128 "Address change" "The recipient announced a new address.",
    DnsError 256 "DNS error" "The recipient's domain could not be resolved, or not for now.",
    SpamNotification 512 "Spam notification" "The message was refused, or blocked by the recipient, as spam or bulk mail.",
    OpenRelayTest 1024 "Open relay test" "The report is a test for open relays.",
    Unknown 2048 "Unknown" "The reason could not be told from the remote host's words.",
    SoftBounce 4096 "Soft bounce" "The server was unable to deliver your message for now (ex: mailbox full, too much mail, message too large).",
    VirusNotification 8192 "Virus notification" "The remote host found the message infected.",
    ChallengeVerification 16384 "Spam challenge verification" "The recipient's system asks the sender to prove himself.",
    BadEmailAddress 100000 "Invalid email address" "The address is not valid.",
    SpamComplaint 100001 "Spam complaint" "The recipient reported the message as spam.",
    ManuallyDeactivated 100002 "Manually deactivated" "The address was deactivated by hand.",
    Unconfirmed 100003 "Registration not confirmed" "The recipient has not confirmed the registration.",
    Blocked 100006 "ISP block" "The remote host refused the message for its content, its policy, or the address it came from.",
    SMTPApiError 100007 "SMTP API error" "The message was accepted over SMTP and then refused here.",
    InboundError 100008 "Processing failed" "The inbound hook could not be delivered.",
    DMARCPolicy 100009 "DMARC Policy" "The message was refused because of the policy that the From domain publishes.",
    TemplateRenderingFailed 100010 "Template rendering failed" "The template could not be rendered.",
}

impl BounceType {
    /// Of what ended, or will be tried again, for that cause (`bounce-and-shaping.md` §1.1).
    pub fn of(cause: CauseClass, temporary: bool) -> Self {
        use CauseClass::*;
        match cause {
            AutoReply => Self::AutoResponder,
            Challenge => Self::ChallengeVerification,
            AddressChange => Self::AddressChange,
            Complaint => Self::SpamComplaint,
            Unsubscribe => Self::Unsubscribe,
            Subscribe => Self::Subscribe,
            OpenRelayTest => Self::OpenRelayTest,
            _ if temporary => Self::Transient,
            RecipientUnknown | RecipientDisabled | DomainNoMail => Self::HardBounce,
            AddressInvalid => Self::BadEmailAddress,
            RecipientFull | RecipientRate | RemoteSystem | Greylisted | RateLimited
            | TooManyConnections | MessageTooBig | Expired | Deadline | Network | LocalSystem
            | RoutingLoop => Self::SoftBounce,
            DomainUnknown | Dns => Self::DnsError,
            Blocklisted | Reputation | ContentPolicy | PtrRequired | TlsRequired | RelayDenied
            | SenderInvalid | AuthFailed => Self::Blocked,
            ContentSpam => Self::SpamNotification,
            Virus => Self::VirusNotification,
            DmarcPolicy => Self::DMARCPolicy,
            SubmissionRefused => Self::SMTPApiError,
            Deactivated => Self::ManuallyDeactivated,
            Unconfirmed => Self::Unconfirmed,
            InboundFailed => Self::InboundError,
            TemplateFailed => Self::TemplateRenderingFailed,
            Protocol | Ambiguous | Damaged | Admin | Sender | Unknown => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Act;
    use crate::mail::staged::STAGED;

    #[test]
    fn each_test_address_has_a_cause_that_is_of_its_type() {
        for staged in &STAGED {
            let cause = CauseClass::parse(staged.cause).unwrap();
            let bounce_type = BounceType::of(cause, staged.act == Act::Delay);
            assert_eq!(bounce_type.as_str(), staged.name);
        }
        // A complaint is no bounce.
        assert_eq!(STAGED.len(), BounceType::ALL.len() - 1);
    }
}
