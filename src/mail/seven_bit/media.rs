//! What a part says of itself, and what that means for it.

use crate::mail::mime::{MediaType, token};

/// RFC 2045 §6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As it is: 7bit, 8bit, binary.
    SevenBit,
    Other,
}

impl Encoding {
    /// Of the field's value, unfolded.
    pub(super) fn of(value: &str) -> Self {
        let (word, _) = token(value);
        match word.to_ascii_lowercase().as_str() {
            "7bit" | "8bit" | "binary" | "" => Self::SevenBit,
            _ => Self::Other,
        }
    }
}

/// How a part is re-encoded, by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    Multipart {
        boundary: Option<String>,
        digest: bool,
    },
    /// multipart/signed
    Signed,
    /// message/rfc822
    Message,
    /// message/partial and message/external-body, which are always seven bits.
    Fragment,
    /// Everything else is octets.
    Leaf,
}

impl Treatment {
    pub(super) fn of(media_type: &MediaType) -> Self {
        match (media_type.kind.as_str(), media_type.subtype.as_str()) {
            ("multipart", "signed") => Self::Signed,
            ("multipart", subtype) => Self::Multipart {
                boundary: media_type.boundary(),
                digest: subtype == "digest",
            },
            ("message", "rfc822" | "news") => Self::Message,
            ("message", "partial" | "external-body") => Self::Fragment,
            _ => Self::Leaf,
        }
    }

    /// Of a part that does not say its type.
    pub(super) fn without(in_digest: bool) -> Self {
        match in_digest {
            true => Self::Message,
            false => Self::Leaf,
        }
    }
}
