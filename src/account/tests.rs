//! Servers of the configuration and servers made by people, side by side.

use super::*;
use crate::config::{MessageIdPolicy, SendersPolicy};

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

fn new(name: &str) -> NewServer {
    NewServer {
        name: name.into(),
        senders: SendersPolicy::Verified,
        message_id: MessageIdPolicy::Keep,
        sandbox: false,
    }
}

#[tokio::test]
async fn declared_and_created_servers_live_together_and_changes_are_seen_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, first) = Settings::open(config(dir.path(), FILE), 0).await.unwrap();
    assert_eq!(first, None);
    let accounts = settings.accounts();
    let app = accounts
        .authenticate("configured-token", "configured-token")
        .unwrap();
    assert_eq!(app.server.id, 1);
    assert_eq!(app.server.stream("outbound").unwrap().pool, Some(PoolId(0)));
    assert_eq!(app.server.stream("broadcast").unwrap().pool, None);

    let shop = settings.create_server(&new("shop"), 0).await.unwrap();
    assert_eq!(shop.id, 2);
    let (row, token) = settings
        .create_token(Some("shop"), Some("outbound"), 0)
        .await
        .unwrap();
    let sender = accounts.authenticate(&token, &token).unwrap();
    assert_eq!(
        (sender.server.id, sender.stream.as_deref()),
        (2, Some("outbound"))
    );
    let (_, second) = settings.create_token(Some("app"), None, 0).await.unwrap();
    assert_eq!(
        accounts.authenticate(&second, &second).unwrap().server.id,
        1
    );

    settings.revoke_token(row.id, 1).await.unwrap();
    assert!(accounts.authenticate(&token, &token).is_none());
    assert!(
        settings
            .create_token(Some("nobody"), None, 0)
            .await
            .is_err()
    );
    assert!(
        settings
            .create_token(Some("shop"), Some("news"), 0)
            .await
            .is_err()
    );
    assert!(accounts.is_verified(&crate::mail::Domain::parse("example.com").unwrap()));
}

#[tokio::test]
async fn a_declared_server_keeps_its_id_and_is_gone_when_the_file_no_longer_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, _) = Settings::open(config(dir.path(), FILE), 0).await.unwrap();
    let other = FILE.replace("\"app\"", "\"other\"");
    settings
        .reload(config(dir.path(), &other), 0)
        .await
        .unwrap();
    let accounts = settings.accounts();
    assert!(accounts.server("app").is_none());
    assert_eq!(accounts.server("other").unwrap().id, 2);
    assert_eq!(settings.servers().await.unwrap().len(), 1);
    assert!(settings.create_server(&new("other"), 0).await.is_err());
    assert_eq!(settings.create_server(&new("app"), 0).await.unwrap().id, 1);
    assert_eq!(accounts.server("app").unwrap().streams.len(), 3);
    settings.reload(config(dir.path(), FILE), 0).await.unwrap();
    assert_eq!(accounts.server("app").unwrap().id, 1);
    assert_eq!(
        accounts.server_with_id(1).unwrap().name,
        accounts.server("app").unwrap().name
    );
}

#[tokio::test]
async fn a_fixed_id_is_taken_and_never_changed() {
    let dir = tempfile::tempdir().unwrap();
    let fixed = |id: u32| FILE.replace("name = \"app\"", &format!("id = {id}\nname = \"app\""));
    let (settings, _) = Settings::open(config(dir.path(), &fixed(7)), 0)
        .await
        .unwrap();
    assert_eq!(settings.accounts().server("app").unwrap().id, 7);
    assert_eq!(settings.create_server(&new("next"), 0).await.unwrap().id, 8);
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
    assert!(accounts.is_account_token(&first.account));
    assert!(!accounts.is_account_token(&first.server));
    settings.close().await;
    let (settings, again) = Settings::open(config, 0).await.unwrap();
    assert_eq!(again, None);
    assert!(
        settings
            .accounts()
            .authenticate(&first.server, &first.server)
            .is_some()
    );
}
