//! What can be wrong with a remote site.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Trouble {
    /// A recipient is taken from this time after its first attempt on, from the same source.
    Greylists {
        delay_ms: u64,
    },
    /// More messages of one source in a minute get 4yz.
    Throttles {
        per_minute: usize,
    },
    /// More connections of one source than this get 421.
    FewConnections {
        count: usize,
    },
    /// Takes its time for each answer.
    Tarpits {
        ms: u64,
    },
    /// Closes each connection before the first command until then, giving no reason.
    DropsEarly {
        until: UnixMs,
    },
    /// One of our sources is not welcome.
    Dislikes {
        source: IpAddr,
        at_mail: bool,
    },
    /// Every third answer to a content is lost; the mail was taken.
    LosesAnswers,
    /// Breaks off anywhere.
    Resets,
    /// Says 421 anywhere, and closes.
    ShutsDown,
    /// Answers twice, now and then.
    Doubles,
    /// Sessions without work are closed early, without a word.
    ClosesIdle,
    /// Closes the session after each message.
    OneMessage,
    /// Offers CHUNKING and does not know BDAT.
    NoBdat,
    /// Offers PIPELINING and forgets what comes behind a command.
    ForgetsPipelined,
    /// Forgets what comes behind the end of a content.
    ForgetsAhead,
    /// Some recipients do not exist, some are over quota for now.
    Picky,
    FewRecipients {
        count: usize,
    },
    /// Some contents are refused, for now or for good.
    RefusesContent,
    /// Answers that are none, now and then.
    Babbles,
    /// Never takes anything.
    Never {
        at_mail: bool,
    },
}

impl Trouble {
    pub(super) fn some(rng: &mut fastrand::Rng, setup: &Setup) -> Self {
        let until = START + rng.u64(0..6 * HOUR);
        let sources = setup.config.sources().count();
        let source = setup.config.sources().nth(rng.usize(0..sources));
        let source = source.and_then(|(_, source)| source.v4);
        match rng.u8(0..20) {
            0 | 1 => Self::Greylists {
                delay_ms: rng.u64(1..20) * MINUTE,
            },
            2 => Self::Throttles {
                per_minute: rng.usize(1..10),
            },
            3 => Self::FewConnections {
                count: rng.usize(1..4),
            },
            4 => Self::Tarpits {
                ms: rng.u64(1..400) * SECOND,
            },
            5 => Self::DropsEarly { until },
            6 => Self::Dislikes {
                source: IpAddr::V4(source.unwrap_or(std::net::Ipv4Addr::LOCALHOST)),
                at_mail: rng.bool(),
            },
            7 => Self::LosesAnswers,
            8 => Self::Resets,
            9 => Self::ShutsDown,
            10 => Self::Doubles,
            11 => Self::ClosesIdle,
            12 => Self::OneMessage,
            13 => Self::NoBdat,
            14 => Self::ForgetsPipelined,
            15 => Self::ForgetsAhead,
            16 => Self::Picky,
            17 => Self::FewRecipients {
                count: rng.usize(1..4),
            },
            18 => match rng.bool() {
                true => Self::RefusesContent,
                false => Self::Babbles,
            },
            _ => Self::Never {
                at_mail: rng.bool(),
            },
        }
    }
}
