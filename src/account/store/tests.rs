//! What lasts over a restart, what is never reused, and that the files hold no token in clear.

use sqlx::Row;

use super::*;
use crate::account::Settings;
use crate::account::identity::DomainAttributes;
use crate::account::keys::{DkimKeys, KeyState};
use crate::account::model::{Attributes, TokenKind};
use crate::config::{Config, MessageIdPolicy, SendersPolicy};
use crate::mail::Domain;
use crate::sign::{Algorithm, WholeKey};

fn new(name: &str) -> ServerRow {
    ServerRow {
        id: 0,
        name: name.into(),
        declared: false,
        senders: SendersPolicy::Any,
        message_id: MessageIdPolicy::Replace,
        sandbox: true,
        attributes: Attributes {
            strict: true,
            rate: Some("5/m".parse().unwrap()),
            ..Attributes::default()
        },
        created: 1_000,
    }
}

fn token(kind: TokenKind, server_id: Option<u32>, secret: &str) -> NewTokenRow<'_> {
    NewTokenRow {
        kind,
        server_id,
        stream: None,
        name: "",
        access_key: None,
        secret,
        rate: None,
    }
}

#[tokio::test]
async fn servers_and_tokens_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let id = store.create_server(&new("app"), false).await.unwrap();
    assert_eq!(id, Some(1));
    assert_eq!(store.create_server(&new("app"), false).await.unwrap(), None);
    let made = NewTokenRow {
        stream: Some("outbound"),
        access_key: Some("PH-access"),
        rate: Some("7/s".parse().unwrap()),
        ..token(TokenKind::Smtp, id, "secret key")
    };
    let token = store.create_token(&made, 2_000).await.unwrap();
    store.note_uses(&[(token, 3_000)]).await.unwrap();
    store.probe(4_000).await.unwrap();
    store.close().await;
    let store = Store::open(dir.path()).await.unwrap();
    let kept = store.servers(None).await.unwrap();
    assert_eq!(
        kept,
        [ServerRow {
            id: 1,
            ..new("app")
        }]
    );
    assert_eq!(store.servers(Some(2)).await.unwrap(), []);
    assert_eq!(store.streams(id).await.unwrap().len(), 3);
    let tokens = store.tokens(id).await.unwrap();
    assert_eq!(tokens[0].secret.as_deref(), Some("secret key"));
    assert_eq!(tokens[0].access_key.as_deref(), Some("PH-access"));
    assert_eq!(
        (tokens[0].created, tokens[0].last_used),
        (2_000, Some(3_000))
    );
    assert_eq!(tokens[0].rate.unwrap().to_string(), "7/s");
}

#[tokio::test]
async fn ids_begin_at_one_and_are_never_reused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    for (name, id) in [("a", 1), ("b", 2)] {
        let made = store.create_server(&new(name), false).await.unwrap();
        assert_eq!(made, Some(id));
    }
    let made = token(TokenKind::Server, Some(2), "text");
    assert_eq!(store.create_token(&made, 0).await.unwrap(), 1);
    store.delete_server(2).await.unwrap();
    let made = store.create_server(&new("c"), false).await.unwrap();
    assert_eq!(made, Some(3));
    let made = token(TokenKind::Server, Some(3), "text");
    assert_eq!(store.create_token(&made, 0).await.unwrap(), 2);
    assert_eq!(store.tokens(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_revoked_token_stays_as_a_row_and_keeps_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let made = token(TokenKind::Account, None, "text");
    let id = store.create_token(&made, 5).await.unwrap();
    store.revoke_token(id, 9).await.unwrap();
    store.revoke_token(id, 10).await.unwrap();
    let kept = store.account_tokens().await.unwrap();
    assert_eq!(
        (kept[0].revoked, kept[0].secret.as_deref()),
        (Some(9), None)
    );
}

#[tokio::test]
async fn no_token_stands_in_the_files_in_clear_nor_in_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let id = store.create_server(&new("app"), false).await.unwrap();
    let texts = ["a token of the server", "a token of the account"];
    for (kind, owner, text) in [
        (TokenKind::Server, id, texts[0]),
        (TokenKind::Account, None, texts[1]),
    ] {
        store
            .create_token(&token(kind, owner, text), 5)
            .await
            .unwrap();
    }
    let copy = dir.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    let again = store.backup(&copy).await.unwrap_err().to_string();
    assert!(again.contains("exists already"), "{again}");
    store.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for text in texts {
            let found = memchr::memmem::find(&bytes, text.as_bytes());
            assert!(found.is_none(), "{}", path.display());
        }
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
    // The copy is a store.
    let restored = tempfile::tempdir().unwrap();
    std::fs::copy(&copy, restored.path().join(FILE)).unwrap();
    std::fs::copy(
        dir.path().join("node.key"),
        restored.path().join("node.key"),
    )
    .unwrap();
    let store = Store::open(restored.path()).await.unwrap();
    let tokens = store.tokens(id).await.unwrap();
    assert_eq!(tokens[0].secret.as_deref(), Some(texts[0]));
}

#[tokio::test]
async fn a_lost_node_key_or_a_broken_file_is_one_clear_sentence() {
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path()).await.unwrap().close().await;
    std::fs::remove_file(dir.path().join("node.key")).unwrap();
    let error = Store::open(dir.path()).await.err().unwrap().to_string();
    assert!(error.contains("restore node.key"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    NodeKey::create(dir.path()).unwrap();
    std::fs::write(dir.path().join(FILE), vec![b'x'; 8192]).unwrap();
    let error = Store::open(dir.path()).await.err().unwrap();
    assert!(matches!(error, StoreError::Unusable { .. }), "{error}");
    assert!(error.to_string().contains("backup"), "{error}");
}

#[tokio::test]
async fn a_store_of_the_first_version_keeps_its_servers_and_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let key = NodeKey::create(dir.path()).unwrap();
    let options = SqliteConnectOptions::new()
        .filename(dir.path().join(FILE))
        .create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let first = Migrator::with_migrations(migrations().iter().take(1).cloned().collect());
    first.run(&pool).await.unwrap();
    sqlx::query("INSERT INTO server VALUES (7, 'old', 'created', 'any', 'keep', 'live', 5)")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("INSERT INTO stream VALUES (7, 'outbound', 'transactional', NULL, NULL)")
        .execute(&pool)
        .await
        .unwrap();
    let insert = "INSERT INTO token (id, kind, server_id, lookup, sealed, created_unix_ms) VALUES ($1, $2, $3, $4, $5, 6)";
    for (id, kind, server, text) in [
        (40, "server", Some(7), "old token"),
        (41, "account", None, "old account token"),
    ] {
        sqlx::query(insert)
            .bind(id)
            .bind(kind)
            .bind(server)
            .bind(key.lookup(text).to_vec())
            .bind(key.seal(text).unwrap())
            .execute(&pool)
            .await
            .unwrap();
    }
    pool.close().await;
    let store = Store::open(dir.path()).await.unwrap();
    let server = store.servers(None).await.unwrap().pop().unwrap();
    assert_eq!((server.id, server.attributes.inbound_hash.len()), (7, 32));
    let stream = store.streams(None).await.unwrap().pop().unwrap();
    assert_eq!(
        (stream.created, stream.text.name.as_str()),
        (5, "Default Transactional Stream")
    );
    let tokens = store.tokens(None).await.unwrap();
    assert_eq!(tokens[0].secret.as_deref(), Some("old token"));
    assert_eq!(tokens[1].lookup, key.lookup("old account token"));
    let next = token(TokenKind::Account, None, "next");
    assert_eq!(store.create_token(&next, 0).await.unwrap(), 42);
    let gone = sqlx::query("SELECT count(*) FROM sqlite_master WHERE name = 'token'")
        .fetch_one(&store.pool)
        .await
        .unwrap();
    assert_eq!(gone.get::<i64, _>(0), 0);
}

#[tokio::test]
async fn a_private_key_is_read_back_with_the_node_key_only_and_ids_are_not_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let key = WholeKey::generate(Algorithm::Rsa).unwrap();
    let keyed = Keyed {
        selector: "one",
        key: &key,
    };
    let row = DomainRow {
        id: 0,
        name: "shop.example".into(),
        declared: false,
        listed: true,
        verified: None,
        attributes: DomainAttributes::default(),
        keys: DkimKeys::default(),
        created: 1,
    };
    let store = Store::open(dir.path()).await.unwrap();
    let keyed = [keyed];
    let first = store.create_domain(&row, &keyed).await.unwrap();
    store.delete_domain(first).await.unwrap();
    let id = store.create_domain(&row, &keyed).await.unwrap();
    assert!(id > first);
    let made = store.domains(Some(id)).await.unwrap().pop().unwrap();
    let pending = made.keys.first(KeyState::Pending).unwrap();
    let activated = store.activate_key(&made, pending, 2, 0).await;
    activated.unwrap();
    let found = store.active_keys(Some(id)).await.unwrap().pop().unwrap();
    assert_eq!(found.private.as_deref(), Some(&*key.private));
    assert!(store.active_keys(Some(first)).await.unwrap().is_empty());
    store.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let octets = std::fs::read(entry.unwrap().path()).unwrap();
        for part in key.private.as_bytes().chunks(40).filter(|p| p.len() == 40) {
            assert!(memchr::memmem::find(&octets, part).is_none());
        }
    }
}

/// A release before keys of two algorithms has left it so: written by its own migrations, not by ours.
async fn store_of_schema_3(dir: &Path, keys: &[(&str, &str, &WholeKey)]) {
    let node_key = NodeKey::create(dir).unwrap();
    let options = SqliteConnectOptions::new()
        .filename(dir.join(FILE))
        .create_if_missing(true);
    let pool = SqlitePoolOptions::new().connect_with(options).await;
    let pool = pool.unwrap();
    let all = migrations();
    let first = all.iter().filter(|migration| migration.version <= 3);
    let first = Migrator::with_migrations(first.cloned().collect());
    first.run(&pool).await.unwrap();
    for (name, attributes) in [
        (
            "good.example",
            r#"{"dkim_found":true,"return_path":"pm.good.example","return_path_found":true}"#,
        ),
        ("gone.example", r#"{"dkim_found":false}"#),
        ("new.example", "{}"),
    ] {
        sqlx::query("INSERT INTO domain (name, origin, listed, verified_unix_ms, attributes, created_unix_ms) VALUES ($1, 'created', 1, 5, $2, 4)")
            .bind(name)
            .bind(attributes)
            .execute(&pool)
            .await
            .unwrap();
    }
    for (domain, state, key) in keys {
        sqlx::query("INSERT INTO dkim_key (domain_id, selector, state, public, sealed, since_unix_ms) SELECT id, $2, $2, $3, $4, 1000 FROM domain WHERE name = $1")
            .bind(domain)
            .bind(state)
            .bind(&key.public)
            .bind(node_key.seal(&key.private).unwrap())
            .execute(&pool)
            .await
            .unwrap();
    }
    pool.close().await;
}

#[tokio::test]
async fn keys_of_schema_3_sign_as_before_and_what_was_seen_of_them_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let key = || WholeKey::generate(Algorithm::Rsa).unwrap();
    let (old, good, next, gone, new) = (key(), key(), key(), key(), key());
    let keys = [
        ("good.example", "revoked", &old),
        ("good.example", "active", &good),
        ("good.example", "pending", &next),
        ("gone.example", "active", &gone),
        ("new.example", "pending", &new),
    ];
    store_of_schema_3(dir.path(), &keys).await;
    let store = Store::open(dir.path()).await.unwrap();
    let domains = store.domains(None).await.unwrap();
    let names: Vec<&str> = domains.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["good.example", "gone.example", "new.example"]);
    assert!(domains[0].attributes.return_path_found);
    let told: Vec<Vec<(&str, &str, u16)>> = domains
        .iter()
        .map(|row| {
            let keys = row.keys.iter();
            keys.map(|key| (&*key.selector, key.state_text(), key.bits))
                .collect()
        })
        .collect();
    assert_eq!(
        told,
        [
            vec![
                ("revoked", "revoked", 2048),
                ("active", "active", 2048),
                ("pending", "pending", 2048)
            ],
            vec![("active", "paused", 2048)],
            vec![("pending", "pending", 2048)],
        ]
    );
    for (row, key) in [(&domains[0], &good), (&domains[1], &gone)] {
        let found = store.active_keys(Some(row.id)).await.unwrap();
        assert_eq!(found[0].private.as_deref(), Some(&*key.private));
        let kept = row.keys.of(Algorithm::Rsa, KeyState::Active).unwrap();
        assert_eq!(kept.public, key.public);
    }

    // They go on: the next one follows, another of the other algorithm comes beside it, and no id is given again.
    let pending = domains[0].keys.first(KeyState::Pending).unwrap();
    store
        .activate_key(&domains[0], pending, 2_000, 0)
        .await
        .unwrap();
    let short = WholeKey::generate(Algorithm::Ed25519).unwrap();
    let keyed = Keyed {
        selector: "short",
        key: &short,
    };
    store
        .add_key(domains[0].id, &keyed, None, 3_000)
        .await
        .unwrap();
    let now = store
        .domains(Some(domains[0].id))
        .await
        .unwrap()
        .pop()
        .unwrap();
    let active = now.keys.of(Algorithm::Rsa, KeyState::Active).unwrap();
    assert_eq!(active.public, next.public);
    assert_eq!(now.keys.revoked().count(), 2);
    assert!(now.keys.of(Algorithm::Ed25519, KeyState::Pending).is_some());
    store.close().await;

    // The whole node's settings, from such a store.
    let config = Config::parse(
        "[node]\nhostname = \"mta.example\"\n",
        &dir.path().join("posthaste.toml"),
        Some(dir.path()),
        &|_| None,
    );
    let (settings, _) = Settings::open(Arc::new(config.unwrap()), 4_000)
        .await
        .unwrap();
    let snapshot = settings.accounts().load();
    let domain = Domain::parse("good.example").unwrap();
    let signing = snapshot.signing_keys(Some(&domain));
    let signing: Vec<&str> = signing.iter().map(|key| &*key.selector).collect();
    assert_eq!(signing, ["pending"]);
    assert_eq!(
        snapshot.bounce_domain(Some(&domain)),
        Some("pm.good.example")
    );
}
