//! `/data-removals`: the shape of the answers and every error code.

use std::sync::Mutex;

use super::*;
use crate::http::AdminError;
use crate::http::api::removals::{Removal, Removals, Requesting};

/// Remembers what was requested; the first is done.
#[derive(Default)]
pub(in crate::http) struct FakeRemovals(Mutex<Vec<Removal>>);

impl Removals for FakeRemovals {
    fn request(&self, removal: Removal) -> Requesting<'_> {
        let mut requests = self.0.lock().unwrap();
        requests.push(removal);
        let id = match requests.len() {
            4 => Err(AdminError::Unavailable("the book is full".into())),
            id => Ok(id as u64),
        };
        Box::pin(async move { id })
    }

    fn is_done(&self, id: u64) -> Option<bool> {
        let known = (1..=self.0.lock().unwrap().len() as u64).contains(&id);
        known.then_some(id == 1)
    }
}

#[tokio::test]
async fn a_removal_is_pending_until_it_is_done_and_every_error_has_its_code() {
    let fixture = Fixture::new().await;
    let body = json!({ "RequestedBy": "dpo@shop.example", "RequestedFor": "Cy@Example.com", "NotifyWhenCompleted": true });
    let post = async |body: Value| fixture.account("POST", "/data-removals", body).await;
    let get = async |id: &str| {
        let path = format!("/data-removals/{id}");
        fixture.account("GET", &path, Value::Null).await
    };
    get("1").await.refused(422, 1301);
    assert_eq!(
        post(body).await.ok(),
        json!({ "ID": 1, "Status": "Pending" })
    );
    let quiet = json!({ "requestedby": "dpo@shop.example", "requestedfor": "bo@example.com" });
    assert_eq!(
        post(quiet.clone()).await.ok(),
        json!({ "ID": 2, "Status": "Pending" })
    );
    assert_eq!(get("1").await.ok(), json!({ "ID": 1, "Status": "Done" }));
    assert_eq!(
        get("2/").await.ok(),
        json!({ "ID": 2, "Status": "Pending" })
    );
    {
        let requests = fixture.removals.0.lock().unwrap();
        assert_eq!(requests[0].requested_for.as_str(), "Cy@Example.com");
        assert_eq!(
            requests[0].notify.as_ref().unwrap().as_str(),
            "dpo@shop.example"
        );
        assert_eq!(requests[1].notify, None);
    }
    for wrong in [
        json!({}),
        json!({ "RequestedBy": "dpo@shop.example" }),
        json!({ "RequestedFor": "bo@example.com" }),
        json!({ "RequestedBy": "dpo@shop.example", "RequestedFor": "nobody" }),
        json!({ "RequestedBy": "", "RequestedFor": "bo@example.com" }),
    ] {
        post(wrong).await.refused(422, 1300);
    }
    for wrong in ["3", "0", "-1", "x"] {
        get(wrong).await.refused(422, 1301);
    }
    post(quiet.clone()).await.ok();
    let full = post(quiet).await;
    assert_eq!(full.headers["retry-after"], "60");
    full.refused(503, 100);
    // It concerns all servers.
    let (_, token) = fixture.shop().await;
    let nobody = fixture
        .server(&token, "GET", "/data-removals/1", Value::Null)
        .await;
    nobody.refused(401, 10);
}
