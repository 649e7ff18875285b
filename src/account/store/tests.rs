//! What lasts over a restart, what is never reused, and that the files hold no token in clear.

use super::*;

fn new(name: &str) -> NewServer {
    NewServer {
        name: name.into(),
        senders: SendersPolicy::Any,
        message_id: MessageIdPolicy::Replace,
        sandbox: true,
    }
}

#[tokio::test]
async fn servers_and_tokens_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let server = store
        .create_server(&new("app"), false, 1_000)
        .await
        .unwrap();
    let (row, text) = store
        .create_token(Some(server.id), Some("outbound"), 2_000)
        .await
        .unwrap();
    store.close().await;
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(store.servers().await.unwrap(), [server]);
    assert_eq!(store.streams().await.unwrap().len(), 3);
    let tokens = store.tokens().await.unwrap();
    assert_eq!(tokens, [row]);
    assert_eq!(tokens[0].token.as_deref(), Some(text.as_str()));
}

#[tokio::test]
async fn ids_begin_at_one_and_are_never_reused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(
        store.create_server(&new("a"), false, 0).await.unwrap().id,
        1
    );
    assert_eq!(
        store.create_server(&new("b"), false, 0).await.unwrap().id,
        2
    );
    sqlx::query("DELETE FROM stream WHERE server_id = 2")
        .execute(&store.pool)
        .await
        .unwrap();
    sqlx::query("DELETE FROM server WHERE id = 2")
        .execute(&store.pool)
        .await
        .unwrap();
    assert_eq!(
        store.create_server(&new("c"), false, 0).await.unwrap().id,
        3
    );
    assert!(matches!(
        store.create_server(&new("a"), false, 0).await,
        Err(StoreError::Conflict(_))
    ));
}

#[tokio::test]
async fn a_revoked_token_stays_as_a_row_and_is_revoked_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let (row, _) = store.create_token(None, None, 5).await.unwrap();
    store.revoke_token(row.id, 9).await.unwrap();
    assert_eq!(store.tokens().await.unwrap()[0].revoked_unix_ms, Some(9));
    assert!(matches!(
        store.revoke_token(row.id, 10).await,
        Err(StoreError::NotFound(_))
    ));
}

#[tokio::test]
async fn no_token_stands_in_the_files_in_clear() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let (_, text) = store.create_token(None, None, 5).await.unwrap();
    store.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            memchr::memmem::find(&bytes, text.as_bytes()).is_none(),
            "{}",
            path.display()
        );
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
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
}
