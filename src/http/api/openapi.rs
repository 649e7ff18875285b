//! `GET /openapi.json`: the table of routes as an OpenAPI 3.1 document.
//!
//! Made from what answers: request schemas from the fields that bodies are read against, answer schemas from specimens that
//! the answering code itself wrote. By hand and not by a crate, because those describe handlers by attributes beside the
//! code, which nothing keeps true; here a route that is not in the table does not exist.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::json::Field;
use super::{Access, Api, Ask, Route, call, reply, routes};

pub(super) static ROUTES: &[Route] = &[Route {
    method: Method::GET,
    path: "/openapi.json",
    access: Access::Nobody,
    about: "This document.",
    query: &[],
    body: &[],
    specimen: || "{}".into(),
    call: call!(document),
}];

async fn document(api: Api, _: Ask) -> Result<String, ApiError> {
    reply(&describe(&api.settings.config().public_url()))
}

fn describe(url: &str) -> Value {
    let mut paths = Map::new();
    for route in routes() {
        let entry = paths.entry(route.path).or_insert_with(|| json!({}));
        entry[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    let token = |header: &str| json!({ "type": "apiKey", "in": "header", "name": header });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Posthaste",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Paths, query keys and body keys are matched without regard to case. Unknown keys are ignored, null is not given.",
        },
        "servers": [{ "url": url }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "ServerToken": token("X-Postmark-Server-Token"),
                "AccountToken": token("X-Postmark-Account-Token"),
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["ErrorCode", "Message"],
                    "properties": {
                        "ErrorCode": { "type": "integer" },
                        "Message": { "type": "string" },
                    },
                },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let in_path = route.path.split('/').filter_map(|segment| {
        let name = segment.strip_prefix('{')?.strip_suffix('}')?;
        Some(
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }),
        )
    });
    let in_query = route.query.iter().map(|field| {
        json!({
            "name": field.name,
            "in": "query",
            "required": field.required,
            "description": field.about,
            "schema": { "type": field.kind.schema() },
        })
    });
    let specimen: Value = serde_json::from_str(&(route.specimen)()).unwrap_or_default();
    let error = |about: &str| {
        json!({
            "description": about,
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
        })
    };
    let mut operation = json!({
        "summary": route.about,
        "operationId": operation_id(route),
        "parameters": in_path.chain(in_query).collect::<Vec<_>>(),
        "responses": {
            "200": {
                "description": "Done.",
                "content": { "application/json": { "schema": schema_of(&specimen), "example": specimen } },
            },
            "422": error("Refused; ErrorCode says why."),
        },
        "security": match route.access {
            Access::Server | Access::Send(_) => json!([{ "ServerToken": [] }]),
            Access::Account => json!([{ "AccountToken": [] }]),
            Access::Nobody => json!([]),
        },
    });
    if route.access != Access::Nobody {
        operation["responses"]["401"] = error("No token, or not the right one (ErrorCode 10).");
        operation["responses"]["429"] = error("Too fast; Retry-After says when to come back.");
        operation["responses"]["503"] =
            error("Not possible now (ErrorCode 100); Retry-After may say when to come back.");
    }
    if !route.body.is_empty() {
        let one = schema_of_body(route.body);
        let schema = match route.access {
            Access::Send(sending) if sending.list => json!({ "type": "array", "items": one }),
            _ => one,
        };
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": schema } },
        });
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let words = route.path.split(['/', '-', '.']).filter(|w| !w.is_empty());
    let tamed = words.map(|word| word.trim_matches(['{', '}']));
    let mut id = route.method.as_str().to_ascii_lowercase();
    for word in tamed {
        id.push('_');
        id.push_str(word);
    }
    id
}

fn schema_of_body(fields: &[Field]) -> Value {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|field| {
            let schema = json!({ "type": field.kind.schema(), "description": field.about });
            (field.name.to_owned(), schema)
        })
        .collect();
    let required: Vec<&str> = fields
        .iter()
        .filter(|f| f.required)
        .map(|f| f.name)
        .collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

/// What an answer like this one looks like.
fn schema_of(specimen: &Value) -> Value {
    match specimen {
        Value::Null => json!({ "type": ["string", "null"] }),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(_) => json!({ "type": "integer" }),
        Value::String(_) => json!({ "type": "string" }),
        Value::Array(items) => {
            let items = items.first().map_or_else(|| json!({}), schema_of);
            json!({ "type": "array", "items": items })
        }
        Value::Object(fields) => {
            let properties: Map<String, Value> = fields
                .iter()
                .map(|(key, value)| (key.clone(), schema_of(value)))
                .collect();
            json!({ "type": "object", "properties": properties })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_once_with_its_fields_and_an_answer() {
        let document = describe("https://mail.example.com");
        let paths = document["paths"].as_object().unwrap();
        let described: usize = paths.values().map(|p| p.as_object().unwrap().len()).sum();
        assert_eq!(described, routes().count());
        let create = &document["paths"]["/servers"]["post"];
        let schema = &create["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(schema["required"][0], "Name");
        let answer = &create["responses"]["200"]["content"]["application/json"];
        assert_eq!(answer["schema"]["properties"]["ApiTokens"]["type"], "array");
        for route in routes() {
            let specimen: Value = serde_json::from_str(&(route.specimen)()).unwrap();
            assert!(
                specimen.is_object() || specimen.is_array(),
                "{}",
                route.path
            );
            assert!(!route.about.is_empty(), "{}", route.path);
        }
    }
}
