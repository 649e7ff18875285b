//! SPF (RFC 7208): whether a domain's record permits an address.
//!
//! `record` reads a record, `expand` writes names out of its macros, [`evaluate`] is check_host() of §4. Limits are those of §4.6.4: ten
//! terms that ask the DNS, two answers without records, ten exchanges and ten names of a PTR; a name asked again costs
//! again. What a receiver would be told as *permerror* or *temperror* comes with what is wrong.
//!
//! Written here because no crate fits: those that evaluate bring a resolver of their own and a verifier of DKIM, DMARC and
//! ARC with it (mail-auth), are under the GPL (viaspf), or only take records apart (decon-spf).

mod evaluate;
mod expand;
mod record;

#[cfg(test)]
mod tests;

pub use evaluate::{Client, Outcome, Survey, Trouble, Verdict, evaluate, survey};

/// Whether a TXT record is an SPF record (§4.5), however well it is formed.
pub(super) fn is_record(text: &str) -> bool {
    let version = text.split(' ').next().unwrap_or_default();
    version.eq_ignore_ascii_case("v=spf1")
}
