//! Servers of the configuration and servers made by people, side by side; the rules of each change.

use super::*;
use crate::config::PoolId;

const FILE: &str = r#"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{ name = "tx1", ip = "192.0.2.10" }]
[[server]]
name = "app"
senders = "any"
tokens = ["configured-token"]
[[domain]]
name = "example.com"
"#;

fn config(dir: &Path, text: &str) -> Arc<Config> {
    let file = dir.join("posthaste.toml");
    Arc::new(Config::parse(text, &file, Some(dir), &|_| None).unwrap())
}

async fn open(dir: &Path, text: &str) -> Settings {
    let (settings, first) = Settings::open(config(dir, text), 0).await.unwrap();
    assert_eq!(first, None);
    settings
}

fn named(name: &str) -> ServerPatch {
    ServerPatch {
        name: Some(name.into()),
        ..ServerPatch::default()
    }
}

fn rule<T: std::fmt::Debug>(result: Result<T, ChangeError>) -> Rule {
    match result.unwrap_err() {
        ChangeError::Refused(refused) => refused.rule,
        ChangeError::Store(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn declared_and_created_servers_live_together_and_changes_are_seen_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    let accounts = settings.accounts();
    let app = accounts
        .authenticate("configured-token", "configured-token")
        .unwrap();
    assert_eq!(app.server.id, 1);
    assert_eq!(app.server.stream("outbound").unwrap().pool, Some(PoolId(0)));
    assert_eq!(app.server.stream("broadcast").unwrap().pool, None);

    let shop = settings.create_server(&named("shop"), 0).await.unwrap();
    assert_eq!((shop.id, shop.streams.len()), (2, 3));
    assert_eq!(shop.attributes.inbound_hash.len(), 32);
    let new = NewToken {
        stream: Some("outbound".into()),
        ..NewToken::default()
    };
    let made = settings.create_token(Some(2), &new, 0).await.unwrap();
    let token = made.secret;
    let sender = accounts.authenticate(&token, &token).unwrap();
    assert_eq!(
        (sender.server.id, sender.stream.as_deref()),
        (2, Some("outbound"))
    );
    let plain = NewToken::default();
    let second = settings.create_token(Some(1), &plain, 0).await.unwrap();
    let second = accounts.authenticate(&second.secret, &second.secret);
    assert_eq!(second.unwrap().server.id, 1);

    let id = made.info.id.unwrap();
    assert_eq!(
        rule(settings.revoke_token(Some(1), id, 1).await),
        Rule::TokenUnknown,
        "another server's"
    );
    settings.revoke_token(Some(2), id, 1).await.unwrap();
    assert_eq!(
        rule(settings.revoke_token(Some(2), id, 1).await),
        Rule::TokenUnknown
    );
    assert!(accounts.authenticate(&token, &token).is_none());
    assert!(accounts.renew(&sender).is_none());
    assert_eq!(
        rule(settings.create_token(Some(9), &plain, 0).await),
        Rule::ServerUnknown
    );
    let from = Mailbox::parse("anybody@Example.com", false).unwrap();
    assert_eq!(accounts.standing(&from), Standing::MaySend);
}

#[tokio::test]
async fn a_declared_server_keeps_its_id_and_is_gone_when_the_file_no_longer_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    let other = FILE.replace("\"app\"", "\"other\"");
    settings
        .reload(config(dir.path(), &other), 0)
        .await
        .unwrap();
    let accounts = settings.accounts();
    assert!(accounts.server("app").is_none());
    assert_eq!(accounts.server("other").unwrap().id, 2);
    assert_eq!(accounts.load().servers().count(), 1);
    assert_eq!(
        rule(settings.create_server(&named("other"), 0).await),
        Rule::ServerNameTaken
    );
    assert_eq!(
        settings.create_server(&named("app"), 0).await.unwrap().id,
        1
    );
    assert_eq!(accounts.server("app").unwrap().streams.len(), 3);
    settings.reload(config(dir.path(), FILE), 0).await.unwrap();
    assert_eq!(accounts.server("app").unwrap().id, 1);
    assert_eq!(accounts.server_with_id(1).unwrap().name.as_ref(), "app");
}

#[tokio::test]
async fn a_fixed_id_is_taken_and_never_changed() {
    let dir = tempfile::tempdir().unwrap();
    let fixed = |id: u32| FILE.replace("name = \"app\"", &format!("id = {id}\nname = \"app\""));
    let settings = open(dir.path(), &fixed(7)).await;
    assert_eq!(settings.accounts().server("app").unwrap().id, 7);
    let next = settings.create_server(&named("next"), 0).await.unwrap();
    assert_eq!(next.id, 8);
    let refused = settings.reload(config(dir.path(), &fixed(9)), 0).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))));
    assert_eq!(settings.accounts().server("app").unwrap().id, 7);
    let taken = FILE.replace("name = \"app\"", "id = 8\nname = \"third\"");
    assert!(matches!(
        settings.reload(config(dir.path(), &taken), 0).await,
        Err(StoreError::Conflict(_))
    ));
}

#[tokio::test]
async fn a_development_node_makes_its_tokens_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = Arc::new(Config::development(Some(dir.path())));
    let (settings, first) = Settings::open(config.clone(), 0).await.unwrap();
    let first = first.unwrap();
    let accounts = settings.accounts();
    let sender = accounts.authenticate(&first.server, &first.server).unwrap();
    assert_eq!((sender.server.id, &*sender.server.name), (1, "default"));
    assert!(accounts.http_account(&first.account, 0).is_some());
    assert!(accounts.http_account(&first.server, 0).is_none());
    let patch = StreamPatch::default();
    let refused = settings.create_stream(1, Some("news"), Some("Broadcasts"), &patch, 0);
    // There is no file to be told of.
    let said = refused.await.unwrap_err().to_string();
    assert!(said.contains("posthaste server create"), "{said}");
    settings.close().await;
    let (settings, again) = Settings::open(config, 0).await.unwrap();
    assert_eq!(again, None);
    let accounts = settings.accounts();
    assert!(
        accounts
            .authenticate(&first.server, &first.server)
            .is_some()
    );
    assert!(accounts.http_account(&first.account, 0).is_some());
}

#[tokio::test]
async fn what_the_file_declares_is_changed_in_the_file_and_the_refusal_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    let refused = settings.edit_server(1, &named("x"), 0).await.unwrap_err();
    assert!(refused.to_string().contains("posthaste.toml"), "{refused}");
    assert_eq!(rule(Err::<(), _>(refused)), Rule::ServerDeclared);
    assert_eq!(rule(settings.delete_server(1).await), Rule::ServerDelete);
    let stream = StreamPatch {
        name: Some("News".into()),
        ..StreamPatch::default()
    };
    let created = settings.create_stream(1, Some("news"), Some("Broadcasts"), &stream, 0);
    assert_eq!(rule(created.await), Rule::StreamDeclared);
    let edited = settings.edit_stream(1, "outbound", &stream, 0).await;
    assert_eq!(rule(edited), Rule::StreamDeclared);
    let archived = settings.archive_stream(1, "broadcast", 0).await;
    assert_eq!(rule(archived), Rule::StreamDeclared);
}

#[tokio::test]
async fn a_deleted_server_is_gone_with_its_tokens_and_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    settings.create_server(&named("shop"), 0).await.unwrap();
    let made = settings
        .create_token(Some(2), &NewToken::default(), 0)
        .await;
    let token = made.unwrap().secret;
    let accounts = settings.accounts();
    let sender = accounts.authenticate(&token, &token).unwrap();
    settings.delete_server(2).await.unwrap();
    assert!(accounts.renew(&sender).is_none() && accounts.server("shop").is_none());
    assert!(accounts.http_server(&token, 0).is_none());
    let next = settings.create_server(&named("shop"), 0).await.unwrap();
    assert_eq!(next.id, 3);
    assert!(next.tokens.is_empty());
}

#[tokio::test]
async fn streams_are_archived_and_come_back_within_45_days() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    settings.create_server(&named("shop"), 0).await.unwrap();
    let new = StreamPatch {
        name: Some("News".into()),
        ..StreamPatch::default()
    };
    let make = async |id: &str, kind: &str| {
        settings
            .create_stream(2, Some(id), Some(kind), &new, 0)
            .await
    };
    for n in 0..7 {
        make(&format!("s{n}"), "Transactional").await.unwrap();
    }
    assert_eq!(rule(make("s7", "Transactional").await), Rule::StreamCount);
    settings.archive_stream(2, "s0", 1_000).await.unwrap();
    assert_eq!(
        rule(settings.archive_stream(2, "s0", 2_000).await),
        Rule::StreamArchive
    );
    make("s7", "Broadcasts").await.unwrap();
    // Its id stays its own, and there must be room when it comes back.
    assert_eq!(rule(make("s0", "Broadcasts").await), Rule::StreamIdTaken);
    assert_eq!(
        rule(settings.unarchive_stream(2, "s0", 3_000).await),
        Rule::StreamCount
    );
    settings.archive_stream(2, "s7", 3_000).await.unwrap();
    let back = settings.unarchive_stream(2, "s0", 3_000).await.unwrap();
    assert_eq!(back.archived_at, None);
    let late = 3_000 + model::PURGE_AFTER_MS;
    assert_eq!(
        rule(settings.unarchive_stream(2, "s7", late).await),
        Rule::StreamPurged
    );
    assert_eq!(
        rule(settings.archive_stream(2, "inbound", 0).await),
        Rule::StreamArchiveDefault
    );
}

#[tokio::test]
async fn a_stream_is_bound_to_a_pool_of_its_kind_and_to_none_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    settings.create_server(&named("shop"), 0).await.unwrap();
    let pool = |name: &str| StreamPatch {
        pool: Some(name.into()),
        ..StreamPatch::default()
    };
    let edited = settings.edit_stream(2, "outbound", &pool("tx"), 5).await;
    assert_eq!(edited.unwrap().pool, Some(PoolId(0)));
    let wrong = settings.edit_stream(2, "broadcast", &pool("tx"), 5).await;
    assert_eq!(rule(wrong), Rule::Pool);
    let unknown = settings.edit_stream(2, "outbound", &pool("no"), 5).await;
    assert_eq!(rule(unknown), Rule::Pool);
    let edited = settings
        .edit_stream(2, "outbound", &pool("default"), 5)
        .await;
    assert_eq!(edited.unwrap().pool_name, None);
}

#[tokio::test]
async fn tokens_are_limited_and_smtp_tokens_need_a_stream_that_sends() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    settings.create_server(&named("shop"), 0).await.unwrap();
    for _ in 0..3 {
        let new = NewToken::default();
        settings.create_token(Some(2), &new, 0).await.unwrap();
    }
    let new = NewToken::default();
    let fourth = settings.create_token(Some(2), &new, 0).await;
    assert_eq!(rule(fourth), Rule::TokenCount);
    let smtp = |stream: Option<&str>| NewToken {
        kind: Some(TokenKind::Smtp),
        stream: stream.map(str::to_owned),
        ..NewToken::default()
    };
    for (stream, expected) in [
        (None, Rule::SmtpTokenStream),
        (Some("news"), Rule::SmtpTokenStream),
        (Some("inbound"), Rule::SmtpTokenInbound),
    ] {
        let made = settings.create_token(Some(2), &smtp(stream), 0).await;
        assert_eq!(rule(made), expected);
    }
    let outbound = smtp(Some("outbound"));
    let made = settings.create_token(Some(2), &outbound, 0).await.unwrap();
    let access = made.info.access_key.unwrap();
    let accounts = settings.accounts();
    let sender = accounts.authenticate(&access, &made.secret).unwrap();
    assert_eq!(sender.stream.as_deref(), Some("outbound"));
    for _ in 0..9 {
        settings.create_token(Some(2), &outbound, 0).await.unwrap();
    }
    let eleventh = settings.create_token(Some(2), &outbound, 0).await;
    assert_eq!(rule(eleventh), Rule::SmtpTokenCount);
    settings.archive_stream(2, "broadcast", 0).await.unwrap();
    let broadcast = smtp(Some("broadcast"));
    let archived = settings.create_token(Some(2), &broadcast, 0).await;
    assert_eq!(rule(archived), Rule::SmtpTokenArchived);
    let off = ServerPatch {
        smtp_api_activated: Some(false),
        ..ServerPatch::default()
    };
    settings.edit_server(2, &off, 0).await.unwrap();
    let off = settings.create_token(Some(2), &outbound, 0).await;
    assert_eq!(rule(off), Rule::SmtpTokenSmtpOff);
}

#[tokio::test]
async fn the_last_use_is_kept_over_changes_and_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    let made = settings
        .create_token(Some(1), &NewToken::default(), 0)
        .await;
    let (token, id) = made.map(|m| (m.secret, m.info.id.unwrap())).unwrap();
    let accounts = settings.accounts();
    let sender = accounts.authenticate(&token, &token).unwrap();
    accounts.count(&sender, 77_000).unwrap();
    settings
        .create_token(Some(1), &NewToken::default(), 0)
        .await
        .unwrap();
    let last = |settings: &Settings| settings.token(Some(1), id).unwrap().usage.last_used();
    assert_eq!(last(&settings), Some(77_000));
    settings.keep_up(80_000).await;
    settings.close().await;
    let settings = open(dir.path(), FILE).await;
    assert_eq!(last(&settings), Some(77_000));
}

#[tokio::test]
async fn a_start_on_a_store_damaged_anywhere_fails_and_names_the_way_back() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    for n in 0..50 {
        let name = format!("server {n}");
        settings.create_server(&named(&name), 0).await.unwrap();
    }
    settings.close().await;
    let database = dir.path().join(store::FILE);
    let sound = std::fs::read(&database).unwrap();
    // Written over behind the first page, where the tables are; cut within a page, and within the file.
    let mut inside = sound.clone();
    inside[4_096..].fill(0xa5);
    for damaged in [&inside[..], &sound[..5_000], &sound[..sound.len() / 2]] {
        std::fs::write(&database, damaged).unwrap();
        let opened = Settings::open(config(dir.path(), FILE), 0).await;
        let said = opened.err().map(|error| error.to_string());
        let said = said.unwrap_or_else(|| panic!("started with {} octets", damaged.len()));
        assert!(said.contains("posthaste account backup"), "{said}");
    }
    // As `posthaste account backup --help` says.
    std::fs::write(&database, &sound).unwrap();
    for companion in ["account.db-wal", "account.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(companion));
    }
    let settings = open(dir.path(), FILE).await;
    assert!(settings.accounts().server("server 49").is_some());
}

#[tokio::test]
async fn ids_of_a_store_that_was_lost_are_not_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    let before = settings.create_server(&named("shop"), 0).await.unwrap();
    assert!(before.id < 10);
    settings.close().await;
    for name in ["account.db", "account.db-wal", "account.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(name));
    }
    let now = 1_800_000_000_000;
    let reopen = || Settings::open(config(dir.path(), FILE), now);
    let (settings, _) = reopen().await.unwrap();
    let declared = settings.accounts().server("app").unwrap().id;
    let after = settings.create_server(&named("shop"), now).await.unwrap();
    assert_eq!((declared, after.id), (64_310_401, 64_310_402));
    settings.close().await;
    // Found again, nothing is skipped any more.
    let (settings, _) = reopen().await.unwrap();
    let next = settings.create_server(&named("next"), now).await.unwrap();
    assert_eq!(next.id, 64_310_403);
}

#[tokio::test]
async fn ids_of_a_store_that_was_lost_are_not_given_again_by_a_command_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    settings.close().await;
    for name in ["account.db", "account.db-wal", "account.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(name));
    }
    let now = 1_800_000_000_000;
    // A command that only reads makes the store too.
    let offline = Settings::open_offline(config(dir.path(), ""), now).await;
    offline.unwrap().close().await;
    let settings = open(dir.path(), FILE).await;
    let made = settings.create_server(&named("shop"), now).await.unwrap();
    assert!(made.id >= 64_310_401, "{}", made.id);
}

/// The commands of a stopped node do not read its file, which may allow what is private.
#[tokio::test]
async fn offline_a_hook_url_may_lead_anywhere_and_the_call_decides() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), FILE).await.close().await;
    let private = ServerPatch {
        bounce_hook_url: Some("http://10.0.0.1:3000/".into()),
        ..named("shop")
    };
    let offline = Settings::open_offline(config(dir.path(), ""), 0).await;
    let offline = offline.unwrap();
    let made = offline.create_server(&private, 7).await.unwrap();
    let wrong = ServerPatch {
        bounce_hook_url: Some("ftp://10.0.0.1/".into()),
        ..named("other")
    };
    assert_eq!(rule(offline.create_server(&wrong, 7).await), Rule::HookUrl);
    offline.close().await;
    let settings = open(dir.path(), FILE).await;
    let other = ServerPatch {
        delivery_hook_url: private.bounce_hook_url,
        ..ServerPatch::default()
    };
    assert_eq!(
        rule(settings.edit_server(made.id, &other, 8).await),
        Rule::HookUrl
    );
}

#[tokio::test]
async fn a_full_disk_stops_changes_only_and_passes() {
    let dir = tempfile::tempdir().unwrap();
    let settings = open(dir.path(), FILE).await;
    let made = settings
        .create_token(Some(1), &NewToken::default(), 0)
        .await;
    let token = made.unwrap().secret;
    // What SQLite says when the disk is full, without filling one: no more pages than there are.
    let pool = settings.store.pool();
    let mut connections = vec![pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    for connection in &mut connections {
        sqlx::query("PRAGMA max_page_count = 1")
            .execute(&mut **connection)
            .await
            .unwrap();
    }
    drop(connections);
    let description = StreamPatch {
        description: Some("x".repeat(1_000)),
        ..StreamPatch::default()
    };
    let failed = async {
        for n in 0..100 {
            settings.create_server(&named(&format!("s{n}")), 0).await?;
            let id = settings.accounts().server(&format!("s{n}")).unwrap().id;
            settings
                .edit_stream(id, "outbound", &description, 0)
                .await?;
        }
        Ok::<_, ChangeError>(())
    };
    let error = failed.await.unwrap_err();
    assert!(matches!(error, ChangeError::Store(_)), "{error}");
    let trouble = settings.trouble().unwrap();
    assert!(trouble.contains("full"), "{trouble}");
    let accounts = settings.accounts();
    assert!(accounts.authenticate(&token, &token).is_some());
    assert!(accounts.http_server(&token, 1).is_some());
    let mut connections = vec![pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    for connection in &mut connections {
        sqlx::query("PRAGMA max_page_count = 1000000")
            .execute(&mut **connection)
            .await
            .unwrap();
    }
    drop(connections);
    settings.keep_up(5).await;
    assert_eq!(settings.trouble(), None);
    settings.create_server(&named("after"), 0).await.unwrap();
}
