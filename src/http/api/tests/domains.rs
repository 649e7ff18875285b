//! `/domains`: its life, and each of its error codes.

use super::*;
use crate::account::{Refused, Rule, Standing};
use crate::mail::Mailbox;

fn standing(fixture: &Fixture, address: &str) -> Standing {
    let address = Mailbox::parse(address, true).unwrap();
    fixture.api.settings.accounts().standing(&address)
}

fn text<'v>(body: &'v Value, key: &str) -> &'v str {
    body[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} of {body}"))
}

#[tokio::test]
async fn a_domain_with_two_keys_says_what_to_publish_for_both() {
    let fixture = Fixture::new().await;
    let new = json!({ "Name": "two.example", "DKIMEd25519": true });
    let made = fixture.account("POST", "/domains", new).await.ok();
    let keys = made["DKIMKeys"].as_array().unwrap();
    assert_eq!(keys.len(), 2, "{made}");
    assert_eq!(keys[0]["Host"], made["DKIMPendingHost"]);
    assert_eq!(
        (&keys[1]["Algorithm"], &keys[1]["State"]),
        (&json!("ed25519"), &json!("pending"))
    );
    for key in keys {
        fixture
            .outside
            .publish(text(key, "Host"), text(key, "TextValue"));
    }
    let verify = format!("/domains/{}/verifydkim", made["ID"]);
    let verified = fixture.account("PUT", &verify, json!(null)).await.ok();
    assert_eq!(verified["DKIMUpdateStatus"], "Verified");
    assert_eq!(verified["DKIMKeys"][1]["State"], "active");
    let one = json!({ "Name": "one.example" });
    let one = fixture.account("POST", "/domains", one).await.ok();
    assert_eq!(one.get("DKIMKeys"), None);
}

#[tokio::test]
async fn a_domain_may_send_once_its_key_is_published_and_keys_follow_one_another() {
    let fixture = Fixture::new().await;
    let new = json!({ "Name": "Shop.Example", "returnPathDOmain": "PM-bounces.shop.example" });
    let made = fixture.account("POST", "/domains", new).await.ok();
    let keys = [
        "CustomTrackingDomain",
        "CustomTrackingDomainCNAMEValue",
        "CustomTrackingVerified",
        "DKIMHost",
        "DKIMPendingHost",
        "DKIMPendingTextValue",
        "DKIMRevokedHost",
        "DKIMRevokedTextValue",
        "DKIMTextValue",
        "DKIMUpdateStatus",
        "DKIMVerified",
        "ID",
        "Name",
        "ReturnPathDomain",
        "ReturnPathDomainCNAMEValue",
        "ReturnPathDomainVerified",
        "SPFHost",
        "SPFTextValue",
        "SPFVerified",
        "SafeToRemoveRevokedKeyFromDNS",
        "WeakDKIM",
    ];
    assert_eq!(made.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
    assert!(made.as_object().unwrap().values().all(|v| !v.is_null()));
    assert_eq!(text(&made, "Name"), "shop.example");
    assert_eq!(text(&made, "ReturnPathDomain"), "pm-bounces.shop.example");
    assert_eq!(
        text(&made, "ReturnPathDomainCNAMEValue"),
        "mail.example.com"
    );
    assert_eq!(text(&made, "DKIMUpdateStatus"), "Pending");
    assert_eq!(text(&made, "DKIMHost"), "");
    let first = text(&made, "DKIMPendingHost").to_owned();
    assert!(first.ends_with("pm._domainkey.shop.example"), "{first}");
    let record = text(&made, "DKIMPendingTextValue").to_owned();
    assert!(record.starts_with("k=rsa; p=MIIBIjANBgkqhki"), "{record}");

    let path = format!("/domains/{}", made["ID"]);
    let verify = format!("{path}/verifyDkim");
    let put = async |path: &str| fixture.account("PUT", path, json!(null)).await;
    let rotate = format!("{path}/rotateDKIM");
    let post = async |path: &str| fixture.account("POST", path, json!(null)).await;
    assert_eq!(
        post(&rotate).await.refused(422, 505),
        "This DKIM is already being renewed."
    );
    // Not there yet, and no answer: nothing changes.
    assert_eq!(put(&verify).await.ok(), made);
    fixture.outside.fail(Some("the name server sleeps"));
    let said = put(&verify).await.refused(500, 709);
    assert!(said.contains("the name server sleeps"), "{said}");
    let said = put(&format!("{path}/verifyReturnPath")).await;
    assert!(said.refused(500, 523).contains("nothing has changed"));
    assert_eq!(fixture.account("GET", &path, json!(null)).await.ok(), made);
    assert_eq!(standing(&fixture, "a@shop.example"), Standing::Unknown);
    fixture.outside.fail(None);
    fixture.outside.publish(&first, "k=rsa; p=another");
    assert_eq!(put(&verify).await.ok(), made);

    fixture.outside.publish(&first, &record);
    let verified = put(&verify).await.ok();
    assert_eq!(verified["DKIMVerified"], true);
    assert_eq!(text(&verified, "DKIMUpdateStatus"), "Verified");
    assert_eq!(
        (
            text(&verified, "DKIMHost"),
            text(&verified, "DKIMTextValue")
        ),
        (&*first, &*record)
    );
    assert_eq!(text(&verified, "DKIMPendingHost"), "");
    for (address, expected) in [
        ("anybody@shop.example", Standing::MaySend),
        ("Any.Body@SHOP.example", Standing::MaySend),
        ("a@sub.shop.example", Standing::Unknown),
        ("a@example", Standing::Unknown),
    ] {
        assert_eq!(standing(&fixture, address), expected, "{address}");
    }

    let rotated = post(&rotate).await.ok();
    let second = text(&rotated, "DKIMPendingHost").to_owned();
    assert_ne!(first, second);
    assert_eq!(text(&rotated, "DKIMHost"), first);
    assert_eq!(rotated.get("SPFHost"), None);
    post(&rotate).await.refused(422, 505);
    assert_eq!(text(&put(&verify).await.ok(), "DKIMHost"), first);
    let record = text(&rotated, "DKIMPendingTextValue");
    fixture.outside.publish(&second, record);
    let verified = put(&verify).await.ok();
    assert_eq!(
        (
            text(&verified, "DKIMHost"),
            text(&verified, "DKIMRevokedHost")
        ),
        (&*second, &*first)
    );
    assert_eq!(verified["SafeToRemoveRevokedKeyFromDNS"], false);

    // A record that is lost later stops no mail, and no key is rotated from one that does not work.
    fixture.outside.withdraw(&second);
    let lost = put(&verify).await.ok();
    assert_eq!(lost["DKIMVerified"], false);
    let told = fixture.outside.told();
    assert!(
        told.last()
            .is_some_and(|told| told.starts_with("Paused shop.example ")),
        "{told:?}"
    );
    assert_eq!(standing(&fixture, "a@shop.example"), Standing::MaySend);
    post(&rotate).await.refused(422, 508);
    fixture.outside.publish(&second, record);
    assert_eq!(put(&verify).await.ok()["DKIMVerified"], true);

    let removed = fixture.account("DELETE", &path, json!(null)).await.ok();
    assert_eq!(
        removed,
        json!({ "ErrorCode": 0, "Message": "Domain shop.example removed." })
    );
    assert_eq!(standing(&fixture, "a@shop.example"), Standing::Unknown);
    // The same name is another domain, with another id, and begins anew.
    let new = json!({ "Name": "shop.example" });
    let again = fixture.account("POST", "/domains", new).await.ok();
    assert!(again["ID"].as_u64() > made["ID"].as_u64());
    assert_eq!(again["DKIMVerified"], false);
}

#[tokio::test]
async fn a_return_path_is_an_alias_of_ours_and_spf_is_what_the_dns_says() {
    let fixture = Fixture::new().await;
    let new = json!({ "Name": "shop.example" });
    let made = fixture.account("POST", "/domains", new).await.ok();
    let path = format!("/domains/{}", made["ID"]);
    let verify = format!("{path}/verifyreturnpath");
    let put = async |path: &str, body: Value| fixture.account("PUT", path, body).await;
    let verified =
        async || put(&verify, json!(null)).await.ok()["ReturnPathDomainVerified"].clone();
    assert_eq!(verified().await, false);
    let edit = json!({ "ReturnPathDomain": "bounces.shop.example" });
    put(&path, edit.clone()).await.ok();
    assert_eq!(verified().await, false);
    fixture
        .outside
        .alias_to("bounces.shop.example", "mail.other.example");
    assert_eq!(verified().await, false);
    fixture
        .outside
        .alias_to("bounces.shop.example", "Mail.Example.com");
    assert_eq!(verified().await, true);
    // The same once more changes nothing, another has to be verified.
    assert_eq!(
        put(&path, edit).await.ok()["ReturnPathDomainVerified"],
        true
    );
    let other = json!({ "returnpathdomain": "other.shop.example" });
    let other = put(&path, other).await.ok();
    assert_eq!(other["ReturnPathDomainVerified"], false);
    let none = put(&path, json!({ "ReturnPathDomain": "" })).await.ok();
    assert_eq!(none["ReturnPathDomain"], "");

    let spf = format!("{path}/verifyspf");
    let verify = async || fixture.account("POST", &spf, json!(null)).await;
    assert_eq!(verify().await.ok()["SPFVerified"], false);
    fixture.outside.publish("shop.example", "v=spf1 a -all");
    fixture.outside.fail(Some("SERVFAIL"));
    verify().await.refused(500, 523);
    fixture.outside.fail(None);
    assert_eq!(
        verify().await.ok(),
        json!({ "SPFVerified": true, "SPFHost": "shop.example", "SPFTextValue": "v=spf1 a mx include:mail.example.com ~all" })
    );
    let list = fixture.account("GET", "/domains?count=1&OFFSET=1", json!(null));
    let list = list.await.ok();
    assert_eq!(
        list,
        json!({ "TotalCount": 2, "Domains": [{ "ID": made["ID"], "Name": "shop.example", "SPFVerified": true,
            "DKIMVerified": false, "WeakDKIM": false, "ReturnPathDomainVerified": false }] })
    );
}

#[tokio::test]
async fn each_error_of_domains_has_its_code() {
    let fixture = Fixture::new().await;
    let post = async |body: Value| fixture.account("POST", "/domains", body).await;
    let made = post(json!({ "Name": "bücher.example" })).await.ok();
    assert_eq!(made["Name"], "xn--bcher-kva.example");
    let path = format!("/domains/{}", made["ID"]);
    let long = format!("{}.example", "a.".repeat(124));
    for (body, code) in [
        (json!({ "Name": "gmail.com" }), 503),
        (json!({ "Name": "Mail.GMail.com" }), 503),
        (json!({ "Name": "BÜCHER.example" }), 512),
        (json!({ "Name": "xn--bcher-kva.EXAMPLE" }), 512),
        (json!({}), 514),
        (json!({ "Name": "  " }), 514),
        (json!({ "Name": long }), 515),
        (json!({ "Name": "localhost" }), 516),
        (json!({ "Name": "192.0.2.1" }), 516),
        (json!({ "Name": "[192.0.2.1]" }), 516),
        (json!({ "Name": "a..example" }), 516),
        (json!({ "Name": "a b.example" }), 516),
        (json!({ "Name": "x.example'; DROP TABLE domain; --" }), 516),
        (json!({ "Name": "x.example\r\nBcc: a@b.example" }), 516),
        (json!({ "Name": "ada@x.example" }), 516),
        (
            json!({ "Name": "x.example", "ReturnPathDomain": "x.example" }),
            511,
        ),
        (
            json!({ "Name": "x.example", "ReturnPathDomain": "badx.example" }),
            511,
        ),
        (
            json!({ "Name": "x.example", "ReturnPathDomain": "pm.other.example" }),
            511,
        ),
        (json!({ "Name": 1 }), 403),
        (json!({ "Name": ["x.example"] }), 403),
        (
            json!({ "Name": "x.example", "ReturnPathDomain": true }),
            403,
        ),
    ] {
        let shown = body.to_string();
        let said = post(body).await;
        assert_eq!((said.status, said.code()), (422, code), "{shown}");
    }
    // What the configuration declares is there, verified, and changed there only.
    let said = post(json!({ "Name": "Declared.example" })).await;
    let said = said.refused(422, 512);
    assert!(said.contains("configuration file"), "{said}");
    let declared = fixture.account("GET", "/domains/1", json!(null)).await.ok();
    assert_eq!(
        (&declared["Name"], &declared["DKIMVerified"]),
        (&json!("declared.example"), &json!(true))
    );
    for (method, path, body) in [
        ("PUT", "/domains/1", json!({ "ReturnPathDomain": "" })),
        ("DELETE", "/domains/1", json!(null)),
        ("POST", "/domains/1/rotatedkim", json!(null)),
    ] {
        let said = fixture.account(method, path, body).await;
        let said = said.refused(422, 513);
        assert!(said.contains("configuration file"), "{said}");
    }
    let verify = fixture.account("PUT", "/domains/1/verifydkim", json!(null));
    assert_eq!(verify.await.ok(), declared);

    let put = async |body: Value| fixture.account("PUT", &path, body).await;
    put(json!({})).await.refused(422, 502);
    put(json!(null)).await.refused(422, 502);
    put(json!({ "ReturnPathDomain": "no" }))
        .await
        .refused(422, 511);
    let tracking = format!("{path}/verifyCustomTracking");
    let tracking = fixture.account("PUT", &tracking, json!(null)).await;
    tracking.refused(422, 523);
    for query in ["count=0", "count=501", "count=-1", "offset=-1", "count=x"] {
        let list = fixture
            .account("GET", &format!("/domains?{query}"), json!(null))
            .await;
        list.refused(422, 500);
    }
    for id in ["99", "0", "-1", "x", "4294967296", "1%27%20OR%201=1"] {
        for (method, rest) in [
            ("GET", ""),
            ("PUT", ""),
            ("DELETE", ""),
            ("PUT", "/verifydkim"),
            ("PUT", "/verifyreturnpath"),
            ("PUT", "/verifycustomtracking"),
            ("POST", "/verifyspf"),
            ("POST", "/rotatedkim"),
        ] {
            let body = json!({ "ReturnPathDomain": "" });
            let said = fixture
                .account(method, &format!("/domains/{id}{rest}"), body)
                .await;
            said.refused(422, 510);
        }
    }
    let full = Refused::new(Rule::DomainCount, "full");
    assert_eq!(ApiError::from(full).code, Code(614));
    let (_, token) = fixture.shop().await;
    let stranger = fixture.server(&token, "GET", "/domains", json!(null)).await;
    stranger.refused(401, 10);
}
