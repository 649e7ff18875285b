//! Sender signatures: single addresses of From, each confirmed by its owner through a mailed link.

use std::sync::Arc;

use super::confirmation::{self, Claim, Letter};
use super::domains::{has_keys, is_full, public, return_path_of};
use super::identity::{
    DomainAttributes, SignatureAttributes, SignatureInfo, SignaturePatch, folded,
};
use super::outside::Outside;
use super::public_mailboxes::is_public;
use super::rules::{Refused, Rule, has_control, shown};
use super::store::SignatureRow;
use super::{Change, ChangeError, Settings};
use crate::clock::UnixMs;
use crate::limits;
use crate::mail::Mailbox;
use crate::sign::WholeKey;

/// What a link is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It would confirm this signature.
    Good(Arc<SignatureInfo>),
    /// It has done so, or another one has.
    Used(Arc<SignatureInfo>),
    Expired,
    /// Not ours, changed, or its signature is gone.
    Unknown,
}

impl Settings {
    pub fn signature(&self, id: u32) -> Result<Arc<SignatureInfo>, Refused> {
        let snapshot = self.accounts.load();
        snapshot.signature(id).cloned().ok_or_else(unknown)
    }

    pub fn signature_of(&self, address: &str) -> Result<Arc<SignatureInfo>, Refused> {
        let address = Mailbox::parse(address, true).map_err(|_| unknown())?;
        let snapshot = self.accounts.load();
        let found = snapshot.signature_of(&folded(&address));
        found.cloned().ok_or_else(unknown)
    }

    /// Makes a signature and mails its link. When that mail cannot be sent there is no signature.
    pub async fn create_signature(
        &self,
        new: &SignaturePatch,
        outside: &dyn Outside,
        now: UnixMs,
    ) -> Result<Arc<SignatureInfo>, ChangeError> {
        let address = address_of(new.address.as_deref())?;
        let mut attributes = SignatureAttributes::default();
        apply(new, &address, &mut attributes)?;
        if attributes.name.is_empty() {
            let message = "The 'Name' of the sender signature is required.";
            return Err(Refused::new(Rule::SignatureField, message).into());
        }
        self.may_sign(&address)?;
        let snapshot = self.accounts.load();
        let known = snapshot.domain_named(address.domain());
        let keys = match known.is_some_and(|d| d.declared || has_keys(&d.keys)) {
            true => None,
            false => Some(self.first_keys(None).await?),
        };
        let signature = {
            let _one = self.changing.lock().await;
            self.may_sign(&address)?;
            let domain_id = self.domain_for(&address, keys, now).await?;
            let row = SignatureRow {
                id: 0,
                address: address.as_str().to_owned(),
                folded: folded(&address),
                domain_id,
                confirmed: None,
                attributes,
                created: now,
            };
            let created = self.store.create_signature(&row).await;
            let id = self.noting(created)?.ok_or_else(|| taken(&address))?;
            self.changed(Change::Domain(domain_id)).await?;
            self.changed(Change::Signature(id)).await?;
            self.signature(id)?
        };
        if let Err(error) = self.post_link(&signature, outside, now).await {
            self.delete_signature(signature.id).await?;
            return Err(error);
        }
        Ok(signature)
    }

    pub async fn edit_signature(
        &self,
        id: u32,
        patch: &SignaturePatch,
    ) -> Result<Arc<SignatureInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let signature = self.signature(id)?;
        let other =
            |given: &str| !Mailbox::parse(given, true).is_ok_and(|a| a == signature.address);
        if patch.address.as_deref().is_some_and(other) {
            let message = "The address of a sender signature cannot be changed: make another.";
            return Err(Refused::new(Rule::SignatureAddress, message).into());
        }
        let mut row = row_of(&signature);
        apply(patch, &signature.address, &mut row.attributes)?;
        let updated = self.store.update_signature(&row).await;
        self.noting(updated)?;
        self.changed(Change::Signature(id)).await?;
        Ok(self.signature(id)?)
    }

    pub async fn delete_signature(&self, id: u32) -> Result<Arc<SignatureInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let signature = self.signature(id)?;
        let domain = signature.domain_id;
        let deleted = self.store.delete_signature(id, domain).await;
        self.noting(deleted)?;
        self.changed(Change::Signature(id)).await?;
        self.changed(Change::Domain(domain)).await?;
        Ok(signature)
    }

    /// Mails the link once more.
    pub async fn resend_link(
        &self,
        id: u32,
        outside: &dyn Outside,
        now: UnixMs,
    ) -> Result<Arc<SignatureInfo>, ChangeError> {
        let signature = self.signature(id)?;
        if signature.confirmed.is_some() {
            let message = "This Sender Signature has already been confirmed.";
            return Err(Refused::new(Rule::SignatureConfirmed, message).into());
        }
        self.post_link(&signature, outside, now).await?;
        Ok(signature)
    }

    /// What a link says, without following it.
    pub fn link(&self, token: &str, now: UnixMs) -> Link {
        let Some(claim) = Claim::read(token) else {
            return Link::Unknown;
        };
        let Ok(signature) = self.signature(claim.id) else {
            return Link::Unknown;
        };
        match claim.is_ours(self.store.key(), &folded(&signature.address)) {
            false => Link::Unknown,
            true if signature.confirmed.is_some() => Link::Used(signature),
            true if now > claim.until => Link::Expired,
            true => Link::Good(signature),
        }
    }

    /// Follows a link: `Good` when this confirmed the signature.
    pub async fn follow_link(&self, token: &str, now: UnixMs) -> Result<Link, ChangeError> {
        let _one = self.changing.lock().await;
        let Link::Good(signature) = self.link(token, now) else {
            return Ok(self.link(token, now));
        };
        let confirmed = self.store.confirm_signature(signature.id, now).await;
        let confirmed = self.noting(confirmed)?;
        self.changed(Change::Signature(signature.id)).await?;
        Ok(match (confirmed, self.signature(signature.id)) {
            (true, Ok(signature)) => Link::Good(signature),
            (false, Ok(signature)) => Link::Used(signature),
            (_, Err(_)) => Link::Unknown,
        })
    }

    async fn post_link(
        &self,
        signature: &SignatureInfo,
        outside: &dyn Outside,
        now: UnixMs,
    ) -> Result<(), ChangeError> {
        let config = self.config.load_full();
        let folded = folded(&signature.address);
        self.postage.take(&folded, now).map_err(|seconds| {
            let message = format!(
                "Too many confirmation mails to '{}'; the next one may be sent in {seconds} s.",
                signature.address
            );
            Refused::new(Rule::TooManyNotices, message)
        })?;
        let until = now + limits::CONFIRMATION_VALID.as_millis() as UnixMs;
        let key = self.store.key();
        let token = confirmation::token(key, signature.id, until, &folded);
        let letter = Letter {
            from: &config.account.notices_from,
            to: &signature.address,
            name: &signature.attributes.name,
            note: &signature.attributes.note,
            url: &format!("{}{LINK_PATH}{token}", config.public_url()),
            until,
        };
        let posted = outside.post(letter.notice()).await;
        Ok(posted.map_err(|why| {
            let message = format!(
                "The confirmation mail to '{}' could not be sent: {why}.",
                signature.address
            );
            Refused::new(Rule::NotPosted, message)
        })?)
    }

    /// The domain's row, made when there is none. The caller holds the lock.
    async fn domain_for(
        &self,
        address: &Mailbox,
        keys: Option<Vec<WholeKey>>,
        now: UnixMs,
    ) -> Result<u32, ChangeError> {
        let snapshot = self.accounts.load();
        let known = snapshot.domain_named(address.domain());
        let usable = known.filter(|d| d.declared || has_keys(&d.keys));
        if let Some(domain) = usable {
            return Ok(domain.id);
        }
        let keys = match keys {
            Some(keys) => keys,
            // They were there a moment ago.
            None => self.first_keys(None).await?,
        };
        let attributes = DomainAttributes::default();
        self.store_domain(address.domain(), false, attributes, &keys, now)
            .await
    }

    fn may_sign(&self, address: &Mailbox) -> Result<(), Refused> {
        if is_public(address.domain()) {
            return Err(public(address.domain()));
        }
        let snapshot = self.accounts.load();
        if snapshot.signature_of(&folded(address)).is_some() {
            return Err(taken(address));
        }
        match snapshot.signatures().count() < limits::SIGNATURES_MAX {
            true => Ok(()),
            false => Err(Refused::new(
                Rule::SignatureCount,
                format!(
                    "There are {} sender signatures, which is the limit.",
                    limits::SIGNATURES_MAX
                ),
            )),
        }
    }
}

fn row_of(signature: &SignatureInfo) -> SignatureRow {
    SignatureRow {
        id: signature.id,
        address: signature.address.as_str().to_owned(),
        folded: folded(&signature.address),
        domain_id: signature.domain_id,
        confirmed: signature.confirmed,
        attributes: signature.attributes.clone(),
        created: signature.created,
    }
}

fn address_of(given: Option<&str>) -> Result<Mailbox, Refused> {
    let given = given.map(str::trim).unwrap_or_default();
    if given.is_empty() {
        return Err(Refused::new(
            Rule::SignatureField,
            "The 'FromEmail' of the sender signature is required.",
        ));
    }
    mailbox("FromEmail", given)
}

/// An address that mail can be sent to, at a whole domain.
fn mailbox(field: &str, given: &str) -> Result<Mailbox, Refused> {
    if given.chars().count() > FIELD_CHARS_MAX {
        return Err(too_long(field, FIELD_CHARS_MAX));
    }
    // The local-part in ASCII: the mail of a link must arrive wherever it goes (RFC 6531 is not everywhere).
    let parsed = Mailbox::parse(given, true).ok();
    let sound = parsed.filter(|a| is_full(a.domain()) && !a.needs_smtputf8());
    sound.ok_or_else(|| {
        Refused::new(
            Rule::SignatureAddress,
            format!("The '{field}' '{}' is no valid address.", shown(given)),
        )
    })
}

fn apply(
    patch: &SignaturePatch,
    address: &Mailbox,
    to: &mut SignatureAttributes,
) -> Result<(), Refused> {
    if let Some(name) = &patch.name {
        let name = name.trim();
        if name.is_empty() {
            return Err(Refused::new(
                Rule::SignatureField,
                "The 'Name' of the sender signature is required.",
            ));
        }
        if name.chars().count() > FIELD_CHARS_MAX {
            return Err(too_long("Name", FIELD_CHARS_MAX));
        }
        if has_control(name) {
            return Err(Refused::new(
                Rule::SignatureAddress,
                "The 'Name' of a sender signature has no control characters.",
            ));
        }
        to.name = name.to_owned();
    }
    if let Some(reply_to) = &patch.reply_to {
        to.reply_to = match reply_to.trim() {
            "" => String::new(),
            given => mailbox("ReplyToEmail", given)?.as_str().to_owned(),
        };
    }
    if let Some(given) = &patch.return_path {
        to.return_path = return_path_of(given, address.domain(), Rule::SignatureAddress)?;
    }
    if let Some(note) = &patch.note {
        if note.chars().count() > NOTE_CHARS_MAX {
            return Err(too_long("ConfirmationPersonalNote", NOTE_CHARS_MAX));
        }
        let odd = |c: char| c.is_control() && !matches!(c, '\r' | '\n' | '\t');
        if note.chars().any(odd) {
            return Err(Refused::new(
                Rule::SignatureAddress,
                "The 'ConfirmationPersonalNote' has no control characters.",
            ));
        }
        to.note.clone_from(note);
    }
    Ok(())
}

fn too_long(field: &str, chars_max: usize) -> Refused {
    Refused::new(
        Rule::SignatureLength,
        format!("The '{field}' has at most {chars_max} characters."),
    )
}

fn taken(address: &Mailbox) -> Refused {
    Refused::new(
        Rule::SignatureTaken,
        format!("A Sender Signature for '{address}' already exists."),
    )
}

fn unknown() -> Refused {
    Refused::new(
        Rule::SignatureUnknown,
        "The Sender Signature was not found.",
    )
}

/// Where the HTTP listener serves links.
pub const LINK_PATH: &str = "/confirm/";
const FIELD_CHARS_MAX: usize = 255;
const NOTE_CHARS_MAX: usize = 400;
