//! Servers: the object, its life, each error code.

use super::*;

#[tokio::test]
async fn a_server_is_made_read_changed_listed_and_deleted() {
    let fixture = Fixture::new().await;
    let new = json!({ "name": "Shop", "Color": "TURQOISE", "smtpapiactivated": true, "TrackLinks": "",
        "deliverytype": "Sandbox", "InboundHookUrl": "https://hooks.example.com/in", "Status": "ignored" });
    let made = fixture.account("POST", "/Servers/", new).await.ok();
    assert_eq!(made["ID"], 2);
    assert_eq!(
        (&made["Color"], &made["DeliveryType"]),
        (&json!("turquoise"), &json!("Sandbox"))
    );
    assert_eq!(made["ApiTokens"][0].as_str().unwrap().len(), 36);
    let hash = made["InboundHash"].as_str().unwrap();
    assert_eq!(
        made["InboundAddress"],
        format!("{hash}@inbound.mail.example.com")
    );
    assert_eq!(
        made["ServerLink"],
        "http://mail.example.com:8025/servers/2/streams"
    );
    // Every key of the reference's object, empty texts and not null.
    let keys = [
        "ApiTokens",
        "BounceHookUrl",
        "ClickHookUrl",
        "Color",
        "DeliveryHookUrl",
        "DeliveryType",
        "EnableSmtpApiErrorHooks",
        "ID",
        "InboundAddress",
        "InboundDomain",
        "InboundHash",
        "InboundHookUrl",
        "InboundSpamThreshold",
        "IncludeBounceContentInHook",
        "Name",
        "OpenHookUrl",
        "PostFirstOpenOnly",
        "RawEmailEnabled",
        "ServerLink",
        "SmtpApiActivated",
        "TrackLinks",
        "TrackOpens",
    ];
    assert_eq!(made.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
    assert!(made.as_object().unwrap().values().all(|v| !v.is_null()));

    let edit = json!({ "Name": "Shop 2", "TrackOpens": true, "InboundSpamThreshold": 9, "TrackLinks": "htmlonly",
        "EnableSmtpApiErrorHooks": true, "Color": null });
    let edited = fixture.account("PUT", "/servers/2", edit).await.ok();
    assert_eq!(
        (&edited["Name"], &edited["TrackOpens"]),
        (&json!("Shop 2"), &json!(true))
    );
    assert_eq!(
        (&edited["InboundSpamThreshold"], &edited["TrackLinks"]),
        (&json!(9), &json!("HtmlOnly"))
    );
    assert_eq!(
        (&edited["Color"], &edited["EnableSmtpApiErrorHooks"]),
        (&json!("turquoise"), &json!(true))
    );
    assert_eq!(
        fixture.account("GET", "/servers/2", Value::Null).await.ok(),
        edited
    );

    let token = edited["ApiTokens"][0].as_str().unwrap();
    let own = fixture
        .server(token, "GET", "/SERVER", Value::Null)
        .await
        .ok();
    assert_eq!(own, edited);
    let edit = json!({ "Name": "Mine", "EnableSmtpApiErrorHooks": false });
    let own = fixture.server(token, "PUT", "/server", edit).await.ok();
    assert_eq!(
        (&own["Name"], &own["EnableSmtpApiErrorHooks"]),
        (&json!("Mine"), &json!(true))
    );

    let list = fixture
        .account("GET", "/servers?Count=1&Offset=1", Value::Null)
        .await
        .ok();
    assert_eq!(
        (&list["TotalCount"], &list["Servers"][0]["Name"]),
        (&json!(2), &json!("Mine"))
    );
    let list = fixture
        .account("GET", "/servers?count=5&offset=0&name=mIN", Value::Null)
        .await
        .ok();
    assert_eq!(list["TotalCount"], 1);
    let removed = fixture
        .account("DELETE", "/servers/2", Value::Null)
        .await
        .ok();
    assert_eq!(
        removed,
        json!({ "ErrorCode": 0, "Message": "Server Mine removed." })
    );
    fixture
        .account("GET", "/servers/2", Value::Null)
        .await
        .refused(422, 601);
    fixture
        .server(token, "GET", "/server", Value::Null)
        .await
        .refused(401, 10);
}

#[tokio::test]
async fn each_error_of_servers_has_its_code() {
    let fixture = Fixture::new().await;
    fixture.shop().await;
    let account = async |method: &str, path: &str, body: Value, code: u64| {
        fixture.account(method, path, body).await.refused(422, code)
    };
    for page in [
        "count=0",
        "count=501&offset=0",
        "count=1&offset=-1",
        "count=x",
    ] {
        account("GET", &format!("/servers?{page}"), Value::Null, 600).await;
    }
    for id in ["0", "9", "x", "4294967296", "-1", "2'%20OR%20'1'='1"] {
        account("GET", &format!("/servers/{id}"), Value::Null, 601).await;
        account("DELETE", &format!("/servers/{id}"), Value::Null, 601).await;
        account(
            "PUT",
            &format!("/servers/{id}"),
            json!({ "Name": "x" }),
            601,
        )
        .await;
    }
    let inbound = json!({ "InboundDomain": "in.example.com" });
    fixture.account("PUT", "/servers/2", inbound).await.ok();
    account(
        "POST",
        "/servers",
        json!({ "Name": "b", "InboundDomain": "IN.example.com" }),
        602,
    )
    .await;
    account("POST", "/servers", json!({ "Name": "shop" }), 603).await;
    account("POST", "/servers", json!({ "Name": "app" }), 603).await;
    account("PUT", "/servers/2", json!({ "Name": "app" }), 603).await;
    account("DELETE", "/servers/1", Value::Null, 604).await;
    for url in [
        "x",
        "ftp://example.com/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://10.1.2.3/x",
        "https://localhost/",
        "https://a.localhost/",
        "http://169.254.169.254/latest",
        "http://[::ffff:10.0.0.1]/",
        "https://",
        "https://exa mple.com/",
        "http://2130706433/",
        "http://0x7f.0.0.1/",
        "https://e.com/\r\nX: y",
    ] {
        account("PUT", "/servers/2", json!({ "BounceHookUrl": url }), 606).await;
    }
    account("PUT", "/servers/2", json!({ "Color": "mauve" }), 607).await;
    for name in ["", " ", "a\nb", &"x".repeat(101)] {
        account("POST", "/servers", json!({ "Name": name }), 608).await;
    }
    account("POST", "/servers", json!({ "Color": "red" }), 608).await;
    for body in [Value::Null, json!({}), json!({ "Name": null })] {
        account("PUT", "/servers/2", body.clone(), 609).await;
        account("POST", "/servers", body, 609).await;
    }
    account(
        "PUT",
        "/servers/2",
        json!({ "InboundDomain": "no domain" }),
        610,
    )
    .await;
    for threshold in [-1, 31, 256] {
        account(
            "PUT",
            "/servers/2",
            json!({ "InboundSpamThreshold": threshold }),
            611,
        )
        .await;
    }
    account("PUT", "/servers/2", json!({ "TrackLinks": "Some" }), 612).await;
    account(
        "PUT",
        "/servers/2",
        json!({ "DeliveryType": "Sandbox" }),
        613,
    )
    .await;
    account(
        "POST",
        "/servers",
        json!({ "Name": "b", "DeliveryType": "Trial" }),
        613,
    )
    .await;
    let said = account("PUT", "/servers/1", json!({ "Name": "x" }), 615).await;
    assert!(
        said.contains("posthaste.toml") && said.contains("SIGHUP"),
        "{said}"
    );
    fixture
        .account("PATCH", "/servers/2", json!({}))
        .await
        .refused(405, 615);
}
