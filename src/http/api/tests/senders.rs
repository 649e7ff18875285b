//! `/senders`: its life, its links, and each of its error codes.

use super::*;
use crate::account::{Link, Refused, Rule, Standing};
use crate::limits;
use crate::mail::Mailbox;

fn standing(fixture: &Fixture, address: &str) -> Standing {
    let address = Mailbox::parse(address, true).unwrap();
    fixture.api.settings.accounts().standing(&address)
}

/// The token of the last link that was mailed.
fn last_link(fixture: &Fixture) -> String {
    let notice = fixture.outside.posted().pop().unwrap();
    let url = notice.text.lines().find(|line| line.starts_with("http"));
    let token = url.unwrap().rsplit_once("/confirm/").unwrap().1;
    token.to_owned()
}

#[tokio::test]
async fn a_signature_may_send_once_its_link_was_followed() {
    let fixture = Fixture::new().await;
    let new = json!({ "FromEmail": "Ada@Shop.Example", "name": "Ada", "ReplyToEmail": "re@shop.example",
        "ReturnPathDomain": "pm.shop.example", "ConfirmationPersonalNote": "It is me.\nBo" });
    let made = fixture.account("POST", "/senders/", new).await.ok();
    let keys = [
        "Confirmed",
        "ConfirmationPersonalNote",
        "CustomTrackingDomain",
        "DKIMPendingHost",
        "DKIMUpdateStatus",
        "Domain",
        "EmailAddress",
        "ID",
        "Name",
        "ReplyToEmailAddress",
        "ReturnPathDomain",
        "ReturnPathDomainCNAMEValue",
        "SPFHost",
        "SPFTextValue",
    ];
    for key in keys {
        assert!(!made[key].is_null(), "{key} of {made}");
    }
    assert_eq!(made.as_object().unwrap().len(), 26);
    assert_eq!(
        (&made["EmailAddress"], &made["Domain"]),
        (&json!("Ada@Shop.Example"), &json!("shop.example"))
    );
    assert_eq!(made["Confirmed"], false);
    let notice = fixture.outside.posted().pop().unwrap();
    assert_eq!(notice.to.as_str(), "Ada@Shop.Example");
    assert_eq!(notice.from.as_str(), "posthaste@mail.example.com");
    assert!(
        notice.text.contains("> It is me.\n> Bo\n"),
        "{}",
        notice.text
    );

    assert_eq!(
        standing(&fixture, "ada@shop.example"),
        Standing::Unconfirmed
    );
    let path = format!("/senders/{}", made["ID"]);
    let resent = fixture
        .account("POST", &format!("{path}/resend"), json!(null))
        .await;
    assert_eq!(
        resent.ok()["Message"],
        "Confirmation email for Sender Signature Ada@Shop.Example was re-sent."
    );
    assert_eq!(fixture.outside.posted().len(), 2);

    let settings = &fixture.api.settings;
    let (token, now) = (last_link(&fixture), fixture.api.clock.unix_ms());
    let valid_ms = limits::CONFIRMATION_VALID.as_millis() as u64;
    assert!(matches!(settings.link(&token, now), Link::Good(_)));
    let late = settings.follow_link(&token, now + valid_ms + 60_000).await;
    assert_eq!(late.unwrap(), Link::Expired);
    let mut forged = token.clone().into_bytes();
    forged[0] ^= 1;
    let forged = String::from_utf8(forged).unwrap();
    let forged = settings.follow_link(&forged, now).await;
    assert_eq!(forged.unwrap(), Link::Unknown);
    assert_eq!(
        standing(&fixture, "ada@shop.example"),
        Standing::Unconfirmed
    );
    let followed = settings.follow_link(&token, now).await;
    assert!(matches!(followed.unwrap(), Link::Good(_)));
    for (address, expected) in [
        ("ada@shop.example", Standing::MaySend),
        ("ADA@SHOP.example", Standing::MaySend),
        ("bo@shop.example", Standing::Unknown),
        ("ada@sub.shop.example", Standing::Unknown),
    ] {
        assert_eq!(standing(&fixture, address), expected, "{address}");
    }
    let again = settings.follow_link(&token, now).await;
    assert!(matches!(again.unwrap(), Link::Used(_)));
    let resend = fixture
        .account("POST", &format!("{path}/resend"), json!(null))
        .await;
    resend.refused(422, 506);

    let edit = json!({ "Name": "Ada L.", "ReplyToEmail": "", "ReturnPathDomain": null });
    let edited = fixture.account("PUT", &path, edit).await.ok();
    assert_eq!(
        (&edited["Name"], &edited["ReplyToEmailAddress"]),
        (&json!("Ada L."), &json!(""))
    );
    assert_eq!(edited["ReturnPathDomain"], "pm.shop.example");
    assert_eq!(edited["Confirmed"], true);
    assert_eq!(
        fixture.account("GET", &path, json!(null)).await.ok(),
        edited
    );
    let list = fixture.account("GET", "/senders?count=30&offset=0", json!(null));
    assert_eq!(
        list.await.ok(),
        json!({ "TotalCount": 1, "SenderSignatures": [{ "ID": made["ID"], "Domain": "shop.example",
            "EmailAddress": "Ada@Shop.Example", "ReplyToEmailAddress": "", "Name": "Ada L.", "Confirmed": true }] })
    );
    let removed = fixture.account("DELETE", &path, json!(null)).await.ok();
    assert_eq!(removed["Message"], "Signature Ada@Shop.Example removed.");
    assert_eq!(standing(&fixture, "ada@shop.example"), Standing::Unknown);
    // The link of a signature that is gone confirms nothing, not even another of the same address.
    let new = json!({ "FromEmail": "ada@shop.example", "Name": "Ada" });
    let again = fixture.account("POST", "/senders", new).await.ok();
    assert!(again["ID"].as_u64() > made["ID"].as_u64());
    let old = settings.follow_link(&token, now).await;
    assert_eq!(old.unwrap(), Link::Unknown);
}

#[tokio::test]
async fn signatures_and_the_domain_share_its_keys() {
    let fixture = Fixture::new().await;
    let sign = async |address: &str| {
        let new = json!({ "FromEmail": address, "Name": "x" });
        fixture.account("POST", "/senders", new).await.ok()
    };
    let (ada, bo) = (
        sign("ada@shop.example").await,
        sign("bo@shop.example").await,
    );
    assert_eq!(ada["DKIMPendingHost"], bo["DKIMPendingHost"]);
    let list = fixture.account("GET", "/domains", json!(null)).await.ok();
    assert_eq!(list["TotalCount"], 1, "only the declared one: {list}");
    let new = json!({ "Name": "shop.example" });
    let domain = fixture.account("POST", "/domains", new).await.ok();
    assert_eq!(domain["DKIMPendingTextValue"], ada["DKIMPendingTextValue"]);
    let host = domain["DKIMPendingHost"].as_str().unwrap();
    fixture
        .outside
        .publish(host, domain["DKIMPendingTextValue"].as_str().unwrap());
    let path = format!("/domains/{}", domain["ID"]);
    let verify = format!("{path}/verifydkim");
    fixture.account("PUT", &verify, json!(null)).await.ok();
    let sender = format!("/senders/{}", ada["ID"]);
    let ada = fixture.account("GET", &sender, json!(null)).await.ok();
    assert_eq!(ada["DKIMVerified"], true);
    // Not confirmed, but the whole domain may send.
    assert_eq!(standing(&fixture, "ada@shop.example"), Standing::MaySend);
    let renew = format!("{sender}/requestnewdkim");
    let renewed = fixture.account("POST", &renew, json!(null)).await.ok();
    assert_eq!(renewed["ErrorCode"], 0);
    assert_eq!(
        fixture
            .account("POST", &renew, json!(null))
            .await
            .refused(422, 505),
        "This DKIM is already being renewed."
    );
    // Without the domain its signatures stay, and adding it again asks for its proof again.
    fixture.account("DELETE", &path, json!(null)).await.ok();
    assert_eq!(
        standing(&fixture, "ada@shop.example"),
        Standing::Unconfirmed
    );
    let new = json!({ "Name": "shop.example" });
    let domain = fixture.account("POST", "/domains", new).await.ok();
    assert_eq!(
        standing(&fixture, "ada@shop.example"),
        Standing::Unconfirmed,
        "{domain}"
    );
    assert_eq!(domain["DKIMVerified"], false);
    for id in [&ada["ID"], &bo["ID"]] {
        let path = format!("/senders/{id}");
        fixture.account("DELETE", &path, json!(null)).await.ok();
    }
    fixture.account("DELETE", &path, json!(null)).await.ok();
    assert_eq!(fixture.api.settings.accounts().load().domains().count(), 1);
}

#[tokio::test]
async fn each_error_of_senders_has_its_code() {
    let fixture = Fixture::new().await;
    let post = async |body: Value| fixture.account("POST", "/senders", body).await;
    let new = |address: &str| json!({ "FromEmail": address, "Name": "x" });
    let made = post(new("ada@shop.example")).await.ok();
    let path = format!("/senders/{}", made["ID"]);
    let with = |key: &str, value: Value| {
        let mut body = new("bo@shop.example");
        body[key] = value;
        body
    };
    let note = "n".repeat(401);
    for (body, code) in [
        (new("ada@gmail.com"), 503),
        (new("ada@yahoo.co.uk"), 503),
        (new("ADA@SHOP.example"), 504),
        (json!({}), 520),
        (json!({ "Name": "x" }), 520),
        (json!({ "FromEmail": "bo@shop.example" }), 520),
        (with("Name", json!(" ")), 520),
        (with("Name", json!("n".repeat(256))), 521),
        (with("ConfirmationPersonalNote", json!(note)), 521),
        (new(&format!("bo@{}.example", "a.".repeat(130))), 521),
        (new("bo"), 522),
        (new("bo@localhost"), 522),
        (new("bo@[192.0.2.1]"), 522),
        (new("a@b@shop.example"), 522),
        (new("Bo <bo@shop.example>"), 522),
        (new("bo@shop.example\r\nBcc: x@y.example"), 522),
        (new("bo@shop.example, cy@shop.example"), 522),
        (new("jürgen@shop.example"), 522),
        (new("x' OR '1'='1"), 522),
        (with("Name", json!("x\r\nBcc: y@z.example")), 522),
        (with("ReplyToEmail", json!("no")), 522),
        (with("ReplyToEmail", json!("a@b.example\r\nX: y")), 522),
        (with("ReturnPathDomain", json!("pm.other.example")), 522),
        (with("ConfirmationPersonalNote", json!("a\u{0}b")), 522),
        (json!({ "FromEmail": 1, "Name": "x" }), 403),
        (with("ReplyToEmail", json!({})), 403),
    ] {
        let shown = body.to_string();
        let said = post(body).await;
        assert_eq!((said.status, said.code()), (422, code), "{shown}");
    }
    assert_eq!(
        fixture.outside.posted().len(),
        1,
        "no mail for any of these"
    );

    // Without its mail there is no signature; the next attempt finds no trace of it.
    fixture.outside.fail(Some("the disk is nearly full"));
    let said = post(new("bo@new.example")).await.refused(503, 100);
    assert!(said.contains("the disk is nearly full"), "{said}");
    let resend = format!("{path}/resend");
    let said = fixture.account("POST", &resend, json!(null)).await;
    said.refused(503, 100);
    fixture.outside.fail(None);
    post(new("bo@new.example")).await.ok();

    // Nobody's mailbox is filled.
    for _ in 1..limits::CONFIRMATIONS_PER_ADDRESS_HOUR {
        let said = fixture.account("POST", &resend, json!(null)).await;
        if said.status != 200 {
            break;
        }
    }
    let said = fixture.account("POST", &resend, json!(null)).await;
    let said = said.refused(429, 429);
    assert!(said.contains("may be sent in"), "{said}");
    let full = Refused::new(Rule::SignatureCount, "full");
    assert_eq!(ApiError::from(full).code, Code(614));

    let put = async |body: Value| fixture.account("PUT", &path, body).await;
    put(json!({})).await.refused(422, 502);
    put(json!({ "FromEmail": "bo@shop.example" }))
        .await
        .refused(422, 522);
    put(json!({ "FromEmail": "ADA@shop.example", "Name": "y" }))
        .await
        .refused(422, 522);
    put(json!({ "FromEmail": "ada@shop.example", "Name": "y" }))
        .await
        .ok();
    put(json!({ "Name": "" })).await.refused(422, 520);
    // At a declared domain there is no key of ours.
    let declared = post(new("cy@declared.example")).await.ok();
    assert_eq!(declared["DKIMVerified"], true);
    let renew = format!("/senders/{}/requestnewdkim", declared["ID"]);
    let renew = fixture.account("POST", &renew, json!(null)).await;
    renew.refused(422, 513);
    // Gone from the configuration, the domain has no key; nor may it send.
    fixture
        .reload(&FILE.replace("declared.example", "other.example"))
        .await;
    let renew = format!("/senders/{}/requestnewdkim", declared["ID"]);
    let renew = fixture.account("POST", &renew, json!(null)).await;
    renew.refused(500, 501);
    assert_eq!(standing(&fixture, "bo@declared.example"), Standing::Unknown);
    fixture
        .account("GET", "/domains/1", json!(null))
        .await
        .refused(422, 510);
    let new = json!({ "Name": "declared.example" });
    let adopted = fixture.account("POST", "/domains", new).await.ok();
    assert_eq!(
        (&adopted["ID"], &adopted["DKIMVerified"]),
        (&json!(1), &json!(false))
    );
    fixture.reload(FILE).await;
    assert_eq!(standing(&fixture, "bo@declared.example"), Standing::MaySend);
    let spf = fixture
        .account("POST", &format!("{path}/verifyspf"), json!(null))
        .await;
    assert_eq!(spf.ok()["SPFVerified"], false);
    for query in ["count=0", "count=501", "offset=-1"] {
        let list = fixture
            .account("GET", &format!("/senders?{query}"), json!(null))
            .await;
        list.refused(422, 500);
    }
    for id in ["99", "0", "x", "4294967296"] {
        for (method, rest) in [
            ("GET", ""),
            ("PUT", ""),
            ("DELETE", ""),
            ("POST", "/resend"),
            ("POST", "/verifyspf"),
            ("POST", "/requestnewdkim"),
        ] {
            let body = json!({ "Name": "x" });
            let said = fixture
                .account(method, &format!("/senders/{id}{rest}"), body)
                .await;
            said.refused(422, 501);
        }
    }
    let (_, token) = fixture.shop().await;
    let stranger = fixture.server(&token, "GET", "/senders", json!(null)).await;
    stranger.refused(401, 10);
}
