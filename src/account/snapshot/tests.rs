//! Who is recognised by what, and what an exchange of snapshots changes.

use super::*;
use crate::account::model::{Attributes, StreamInfo, StreamText};
use crate::config::{MessageIdPolicy, Notify, PoolId, SendersPolicy, StreamKind};

const GUID: &str = "2bcc50cb-72c6-4ae5-954a-dffc01667789";
const CHALLENGE: &str = "<1896.697170952@postoffice.reston.mci.net>";

fn server(id: u32, name: &str) -> ServerInfo {
    ServerInfo {
        id,
        name: name.into(),
        declared: false,
        message_id: MessageIdPolicy::Keep,
        senders: SendersPolicy::Any,
        notify: Notify::None,
        sandbox: false,
        attributes: Attributes::default(),
        created: 0,
        streams: vec![StreamInfo {
            id: "outbound".into(),
            kind: StreamKind::Transactional,
            text: StreamText::default(),
            pool_name: None,
            pool: Some(PoolId(0)),
            retention: None,
            retry: Default::default(),
            ambiguous: Default::default(),
            created: 0,
            updated: None,
            archived_at: None,
        }],
        tokens: Vec::new(),
        webhooks: Vec::new(),
    }
}

fn key() -> Arc<NodeKey> {
    Arc::new(NodeKey::derive(&[7; 32]).unwrap())
}

fn credential(
    kind: TokenKind,
    user: &str,
    secret: &str,
    server: Option<u32>,
) -> (Lookup, Credential) {
    let stream = (kind == TokenKind::Smtp).then(|| "outbound".into());
    let credential = Credential {
        kind,
        user: user.into(),
        secret: secret.into(),
        server,
        stream,
        label: format!("{kind:?} of {server:?}").into(),
        rate: None,
        usage: Arc::default(),
    };
    (key().lookup(user), credential)
}

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::new(key());
    let app = [
        credential(TokenKind::Server, "app-token", "app-token", Some(1)),
        credential(TokenKind::Server, GUID, GUID, Some(1)),
    ];
    snapshot.put_server(server(1, "app"), app);
    let shop = [credential(TokenKind::Smtp, "access", "secret", Some(2))];
    snapshot.put_server(server(2, "shop"), shop);
    snapshot.put_account_tokens(
        Vec::new(),
        [credential(TokenKind::Account, "account-token", "", None)],
    );
    snapshot
}

#[test]
fn a_server_token_is_user_name_and_password_and_an_smtp_token_is_two() {
    let accounts = Accounts::new(snapshot());
    let check = |user: &str, password: &str, server: Option<u32>| {
        let sender = accounts.authenticate(user, password);
        assert_eq!(sender.map(|s| s.server.id), server, "{user} {password}");
    };
    check("app-token", "app-token", Some(1));
    check(GUID, &GUID.to_ascii_uppercase(), Some(1));
    check("access", "secret", Some(2));
    for (user, password) in [
        ("app-token", GUID),
        ("app", "app-token"),
        ("", ""),
        ("app-token", "app-token "),
        ("APP-TOKEN", "APP-TOKEN"),
        ("access", "access"),
        ("secret", "secret"),
        ("access", ""),
        ("account-token", "account-token"),
        ("account-token", ""),
        (
            "00000000-0000-0000-0000-00000000000x",
            "00000000-0000-0000-0000-00000000000x",
        ),
    ] {
        check(user, password, None);
    }
    let sender = accounts.authenticate("access", "secret").unwrap();
    assert_eq!(sender.stream.as_deref(), Some("outbound"));
}

#[test]
fn cram_md5_proves_the_secret_for_one_challenge() {
    // The example of RFC 2195 §2.
    assert_eq!(
        cram_md5("tanstaaftanstaaf", CHALLENGE),
        "b913a602c7eda7a495b4e6e7334d3890"
    );
    let accounts = Accounts::new(snapshot());
    let check = |user: &str, challenge: &str, secret: &str, server: Option<u32>| {
        let digest = cram_md5(secret, CHALLENGE);
        for digest in [digest.clone(), digest.to_ascii_uppercase()] {
            let sender = accounts.authenticate_cram_md5(user, challenge, &digest);
            assert_eq!(sender.map(|s| s.server.id), server, "{user} {secret}");
        }
    };
    check("app-token", CHALLENGE, "app-token", Some(1));
    check("access", CHALLENGE, "secret", Some(2));
    let upper = GUID.to_ascii_uppercase();
    check(&upper, CHALLENGE, &upper, Some(1));
    check("app-token", "<another>", "app-token", None);
    check("app-token", CHALLENGE, GUID, None);
    check("nobody", CHALLENGE, "nobody", None);
    check("account-token", CHALLENGE, "account-token", None);
    check("account-token", CHALLENGE, "", None);
}

#[test]
fn over_http_each_kind_of_token_opens_its_own_half() {
    let accounts = Accounts::new(snapshot());
    let server = |token: &str| accounts.http_server(token, 1).map(|s| s.unwrap().id);
    assert_eq!(server("app-token"), Some(1));
    assert_eq!(server(&GUID.to_ascii_uppercase()), Some(1));
    assert_eq!(server("account-token"), None);
    assert_eq!(server("access"), None);
    assert_eq!(server("secret"), None);
    assert!(accounts.http_account("account-token", 1).is_some());
    assert!(accounts.http_account("app-token", 1).is_none());
    assert!(accounts.http_account("", 1).is_none());
}

#[test]
fn a_sender_is_renewed_with_the_settings_of_now_or_not_at_all() {
    let accounts = Accounts::new(snapshot());
    let sender = accounts.authenticate(GUID, GUID).unwrap();
    let mut changed = Snapshot::clone(&accounts.load());
    let mut app = server(1, "app");
    app.attributes.strict = true;
    changed.put_server(app, [credential(TokenKind::Server, GUID, GUID, Some(1))]);
    accounts.swap(changed);
    let renewed = accounts.renew(&sender).unwrap();
    assert!(renewed.server.attributes.strict && !sender.server.attributes.strict);

    let mut off = Snapshot::clone(&accounts.load());
    let mut app = server(1, "app");
    app.attributes.smtp_api_activated = false;
    off.put_server(app, [credential(TokenKind::Server, GUID, GUID, Some(1))]);
    accounts.swap(off);
    assert!(accounts.renew(&sender).is_none());
    assert!(accounts.authenticate(GUID, GUID).is_none());
    assert!(accounts.http_server(GUID, 1).is_some());

    accounts.swap(Snapshot::new(key()));
    assert!(accounts.renew(&sender).is_none());
    assert_eq!(&*sender.server.name, "app");
}

#[test]
fn the_limit_of_a_credential_names_itself_and_when_to_come_back() {
    let mut limited = snapshot();
    let mut app = server(1, "app");
    app.attributes.rate = Some("2/m".parse().unwrap());
    let (lookup, token) = credential(TokenKind::Server, "app-token", "app-token", Some(1));
    let own = Credential {
        rate: Some("1/h".parse().unwrap()),
        ..credential(TokenKind::Server, GUID, GUID, Some(1)).1
    };
    limited.put_server(app, [(lookup, token), (key().lookup(GUID), own)]);
    let accounts = Accounts::new(limited);
    let sender = accounts.authenticate("app-token", "app-token").unwrap();
    accounts.count(&sender, 1_000_000).unwrap();
    accounts.count(&sender, 1_000_000).unwrap();
    let refused = accounts.count(&sender, 1_000_000).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the limit of Server of Some(1), 2/m, is reached; come back in 31 s"
    );
    accounts.count(&sender, 1_030_000).unwrap();
    // Each credential has its own bucket, and its own limit goes before the server's.
    accounts.http_server(GUID, 1_000_000).unwrap().unwrap();
    let refused = accounts.http_server(GUID, 1_000_000).unwrap().unwrap_err();
    assert_eq!(refused.rate.to_string(), "1/h");
}
