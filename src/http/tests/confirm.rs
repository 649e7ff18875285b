//! The pages behind confirmation links, and domains and signatures over the admin socket.

use super::*;

const SENDER: &str = r#"{"address":"ada@shop.example","name":"<script>Ada</script> & \"co\""}"#;

#[tokio::test]
async fn looking_at_a_link_confirms_nothing_and_its_button_does_once() {
    let served = serve("").await;
    let made = served.socket("POST", "/admin/v1/senders", SENDER).await;
    assert_eq!(status(&made), 201, "{made}");
    let notice = served.outside.posted().pop().unwrap();
    let url = notice.text.lines().find(|line| line.starts_with("http"));
    let path = url
        .unwrap()
        .split_at(url.unwrap().find("/confirm/").unwrap())
        .1;
    let confirmed = async || {
        let path = "/admin/v1/senders/ADA@shop.example";
        body::<wire::SenderSignature>(&served.socket("GET", path, "").await).confirmed
    };
    for method in ["GET", "HEAD", "GET"] {
        let page = served.http(method, path, "").await;
        assert_eq!(status(&page), 200, "{page}");
        let lower = page.to_ascii_lowercase();
        assert!(
            lower.contains("default-src 'none'") && lower.contains("no-store"),
            "{page}"
        );
        if method == "GET" {
            assert!(page.contains("<form method=\"post\">"), "{page}");
            assert!(
                page.contains("&lt;script&gt;Ada&lt;/script&gt; &amp; &quot;co&quot;"),
                "{page}"
            );
            assert!(!page.contains("<script>"), "{page}");
        }
    }
    for method in ["PUT", "DELETE", "OPTIONS"] {
        assert_eq!(
            status(&served.http(method, path, "").await),
            405,
            "{method}"
        );
    }
    let place = path.len() - 5;
    let other = if path.as_bytes()[place] == b'A' {
        "B"
    } else {
        "A"
    };
    let forged = format!("{}{other}{}", &path[..place], &path[place + 1..]);
    for wrong in [
        forged.as_str(),
        "/confirm/x",
        "/confirm/%00",
        "/confirm/..%2f..",
        &format!("{path}A"),
    ] {
        for method in ["GET", "POST"] {
            assert_eq!(
                status(&served.http(method, wrong, "").await),
                404,
                "{wrong}"
            );
        }
    }
    // Links are for the world, not for the socket of operators.
    assert_eq!(status(&served.socket("POST", path, "").await), 404);
    assert!(!confirmed().await);
    let page = served.http("POST", path, "").await;
    assert!(page.contains("<h1>Confirmed</h1>"), "{page}");
    assert!(confirmed().await);
    for method in ["GET", "POST"] {
        let page = served.http(method, path, "").await;
        assert!(page.contains("<h1>Already confirmed</h1>"), "{page}");
    }
}

#[tokio::test]
async fn operators_add_prove_change_and_delete_domains_and_senders() {
    let served = serve("").await;
    let domains = "/admin/v1/domains";
    let made = served
        .socket(
            "POST",
            domains,
            r#"{"name":"Shop.example","return_path":"pm.shop.example"}"#,
        )
        .await;
    assert_eq!(status(&made), 201, "{made}");
    let made: wire::Domain = body(&made);
    let record = made.dkim_pending.clone().unwrap();
    served.outside.publish(&record.name, &record.text);
    served
        .outside
        .alias_to("pm.shop.example", &made.return_path_target);
    let one = "/admin/v1/domains/SHOP.example";
    served.outside.fail(Some("no name server"));
    let said = served.socket("POST", &format!("{one}/verify"), "").await;
    assert_eq!(status(&said), 503, "{said}");
    assert!(
        body::<wire::Failure>(&said)
            .message
            .contains("no name server")
    );
    served.outside.fail(None);
    let verified: wire::Domain = body(&served.socket("POST", &format!("{one}/verify"), "").await);
    assert!(verified.may_send && verified.dkim_verified && verified.return_path_verified);
    let rotated: wire::Domain = body(
        &served
            .socket("POST", &format!("{one}/rotate-dkim"), "")
            .await,
    );
    assert!(rotated.dkim_pending.is_some() && rotated.dkim_active.is_some());
    let again = served
        .socket("POST", &format!("{one}/rotate-dkim"), "")
        .await;
    assert_eq!(status(&again), 409, "{again}");
    let edited: wire::Domain = body(&served.socket("PATCH", one, r#"{"return_path":""}"#).await);
    assert_eq!(edited.return_path, None);
    let by_id = format!("{domains}/{}", made.id);
    assert_eq!(
        body::<wire::Domain>(&served.socket("GET", &by_id, "").await),
        edited
    );
    let listed: wire::Domains = body(&served.socket("GET", domains, "").await);
    assert_eq!(listed.domains, [edited]);

    served.socket("POST", "/admin/v1/senders", SENDER).await;
    let one_sender = "/admin/v1/senders/ada@shop.example";
    let edited = served
        .socket(
            "PATCH",
            one_sender,
            r#"{"name":"Ada","reply_to":"re@shop.example"}"#,
        )
        .await;
    let edited: wire::SenderSignature = body(&edited);
    assert_eq!(
        (edited.name.as_str(), edited.reply_to.as_deref()),
        ("Ada", Some("re@shop.example"))
    );
    let resent = served
        .socket("POST", &format!("{one_sender}/resend"), "")
        .await;
    assert_eq!((status(&resent), served.outside.posted().len()), (200, 2));
    assert_eq!(status(&served.socket("DELETE", one_sender, "").await), 204);
    assert_eq!(status(&served.socket("GET", one_sender, "").await), 404);
    assert_eq!(status(&served.socket("DELETE", one, "").await), 204);
    assert_eq!(status(&served.socket("GET", one, "").await), 404);
    let unknown = served
        .socket("POST", domains, r#"{"nmae":"x.example"}"#)
        .await;
    assert_eq!(status(&unknown), 400, "{unknown}");
}
