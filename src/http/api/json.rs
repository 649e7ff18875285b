//! Bodies of the API: strict JSON on the outside, forgiving keys on the inside.
//!
//! Promises: nothing is guessed. Repeated keys, invalid UTF-8, lone surrogates, trailing text, NaN, deep nesting and floods
//! of keys are refused, whatever a client or an intermediary would have made of them. Keys are matched without regard to
//! case, as clients spell them (reference §1.1); `null` is "not given".

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::{ApiError, Code};
use crate::limits;

/// A key of a body, with the type that its value must have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    pub(super) about: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Flag,
    Number,
    Object,
    List,
    /// An object; an empty list is an empty one, as some languages write it.
    Map,
}

impl Kind {
    fn suits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Flag => value.is_boolean(),
            Self::Number => value.is_i64(),
            Self::Object => value.is_object(),
            Self::List => value.is_array(),
            Self::Map => value.is_object() || value.as_array().is_some_and(Vec::is_empty),
        }
    }

    /// Its name in JSON Schema.
    pub(super) fn schema(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Flag => "boolean",
            Self::Number => "integer",
            Self::Object | Self::Map => "object",
            Self::List => "array",
        }
    }
}

/// What a body says, by keys in lower case. Empty for no body, `{}` and `null`.
#[derive(Debug, Default)]
pub(super) struct Body(BTreeMap<String, Value>);

impl Body {
    /// Reads a body against the fields that its route knows; others are passed over.
    pub(super) fn read(octets: &[u8], fields: &[Field]) -> Result<Self, ApiError> {
        let trimmed = octets.trim_ascii();
        if trimmed.is_empty() {
            return Ok(Self::default());
        }
        let value = parse(trimmed, limits::JSON_KEYS_MAX)?;
        Self::of(value, fields)
    }

    /// Reads a list of bodies, for [`Body::of`].
    pub(super) fn list(octets: &[u8], keys_max: usize) -> Result<Vec<Value>, ApiError> {
        match parse(octets.trim_ascii(), keys_max)? {
            Value::Array(items) => Ok(items),
            _ => Err(wrong_fields(&["$".to_owned()])),
        }
    }

    /// A value against the fields that its route knows.
    pub(super) fn of(value: Value, fields: &[Field]) -> Result<Self, ApiError> {
        let body = match value {
            Value::Null => return Ok(Self::default()),
            // What some clients send for an empty one.
            Value::String(text) if text.is_empty() => return Ok(Self::default()),
            Value::Object(map) => Self::folded(map)?,
            _ => return Err(wrong_fields(&["$".to_owned()])),
        };
        let wrong: Vec<String> = fields
            .iter()
            .filter(|field| {
                let value = body.0.get(&field.name.to_ascii_lowercase());
                value.is_some_and(|value| !field.kind.suits(value))
            })
            .map(|field| format!("$.{}", field.name))
            .collect();
        match wrong.is_empty() {
            true => Ok(body),
            false => Err(wrong_fields(&wrong)),
        }
    }

    pub(super) fn folded(map: Map<String, Value>) -> Result<Self, ApiError> {
        let mut folded = BTreeMap::new();
        for (key, value) in map {
            if value.is_null() {
                continue;
            }
            let lower = key.to_ascii_lowercase();
            if folded.insert(lower, value).is_some() {
                return Err(wrong_fields(&[format!("$.{}", printable(&key))]));
            }
        }
        Ok(Self(folded))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(&name.to_ascii_lowercase())
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        Some(self.value(name)?.as_str()?.to_owned())
    }

    /// As [`Body::text`], but an empty one is not given: clients send `""` for words that they do not set.
    pub(super) fn word(&self, name: &str) -> Option<String> {
        self.text(name).filter(|text| !text.is_empty())
    }

    /// A value, taken out.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(&name.to_ascii_lowercase())
    }

    /// As [`Body::text`], taken out: long ones are not copied.
    pub(super) fn take_text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A list, taken out; empty if not given.
    pub(super) fn take_list(&mut self, name: &str) -> Vec<Value> {
        match self.take(name) {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.value(name)?.as_bool()
    }

    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.value(name)?.as_i64()
    }

    /// An object within, its keys folded likewise.
    pub(super) fn object(&self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.value(name) {
            Some(Value::Object(map)) => Self::folded(map.clone()).map(Some),
            _ => Ok(None),
        }
    }
}

pub(super) fn wrong_fields(paths: &[String]) -> ApiError {
    ApiError::new(
        Code(403),
        format!("Invalid request field(s): {}", paths.join(", ")),
    )
}

fn printable(key: &str) -> String {
    let tame = |c: char| if c.is_control() { '?' } else { c };
    key.chars().take(50).map(tame).collect()
}

fn parse(octets: &[u8], keys_max: usize) -> Result<Value, ApiError> {
    let keys = Cell::new(keys_max);
    let mut reader = serde_json::Deserializer::from_slice(octets);
    let root = Strict {
        depth: 0,
        keys: &keys,
    };
    let parsed = root.deserialize(&mut reader).and_then(|value| {
        reader.end()?;
        Ok(value)
    });
    parsed.map_err(|error| {
        ApiError::new(
            Code(402),
            format!("The request's body is not valid JSON: {error}."),
        )
    })
}

/// Builds a value and counts on the way.
#[derive(Clone, Copy)]
struct Strict<'k> {
    depth: usize,
    /// That may still come.
    keys: &'k Cell<usize>,
}

impl Strict<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.depth < limits::JSON_DEPTH_MAX {
            true => Ok(Self {
                depth: self.depth + 1,
                ..self
            }),
            false => Err(E::custom("it is nested too deep")),
        }
    }

    /// Entries of lists cost as much as keys.
    fn one_more<E: Error>(self) -> Result<(), E> {
        match self.keys.get().checked_sub(1) {
            Some(left) => {
                self.keys.set(left);
                Ok(())
            }
            None => Err(E::custom("it has too many keys")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    /// `9.0` is a number that some languages write for 9.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let whole = value as i64;
        match (whole as f64).total_cmp(&value).is_eq() {
            true => Ok(whole.into()),
            false => Ok(Number::from_f64(value).map_or(Value::Null, Value::Number)),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(value) = from.next_element_seed(inner)? {
            self.one_more()?;
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            self.one_more()?;
            let value = from.next_value_seed(inner)?;
            if map.insert(key, value).is_some() {
                return Err(A::Error::custom("a key is repeated"));
            }
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        Field {
            name: "Name",
            kind: Kind::Text,
            required: true,
            about: "",
        },
        Field {
            name: "TrackOpens",
            kind: Kind::Flag,
            required: false,
            about: "",
        },
        Field {
            name: "Count",
            kind: Kind::Number,
            required: false,
            about: "",
        },
    ];

    fn code(text: &str) -> u16 {
        Body::read(text.as_bytes(), FIELDS).unwrap_err().code.0
    }

    #[test]
    fn keys_are_found_in_any_case_and_null_is_not_given() {
        let body = Body::read(
            br#" {"name":"\u00fc \/","TRACKOPENS":true,"count":9.0,"New":[1],"Color":null} "#,
            FIELDS,
        )
        .unwrap();
        assert_eq!(body.text("Name").as_deref(), Some("ü /"));
        assert_eq!(body.flag("TrackOpens"), Some(true));
        assert_eq!(body.number("Count"), Some(9));
        assert_eq!(body.text("Color"), None);
        for empty in ["", " ", "{}", "null", "\"\""] {
            assert!(Body::read(empty.as_bytes(), FIELDS).unwrap().is_empty());
        }
    }

    #[test]
    fn wrong_types_are_named_by_their_path() {
        let error = Body::read(br#"{"name":1,"trackopens":"true","Count":"9"}"#, FIELDS);
        assert_eq!(
            error.unwrap_err().message,
            "Invalid request field(s): $.Name, $.TrackOpens, $.Count"
        );
        for text in [
            "[]",
            "1",
            "\"x\"",
            r#"{"Name":"a","name":"b"}"#,
            r#"{"Count":9.5}"#,
        ] {
            assert_eq!(code(text), 403, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_or_too_much_of_it_is_refused() {
        let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
        let flood: String = (0..10_001).map(|n| format!("\"k{n}\":1,")).collect();
        let flood = format!("{{{}\"last\":1}}", flood);
        let list = format!("{{\"x\":[{}0]}}", "0,".repeat(10_001));
        for text in [
            "{",
            "{} x",
            r#"{"Name":"a"}{"#,
            r#"{"Name":"a","Name":"b"}"#,
            r#"{"Name":NaN}"#,
            r#"{"Name":"\ud800"}"#,
            r#"{'Name':'a'}"#,
            r#"{"Name":"a",}"#,
            "{\"Name\":\"a\nb\"}",
            &format!("{{\"x\":{deep}}}"),
            &flood,
            &list,
        ] {
            assert_eq!(code(text), 402, "{}", &text[..text.len().min(40)]);
        }
        let invalid = Body::read(b"{\"Name\":\"\xff\"}", FIELDS);
        assert_eq!(invalid.unwrap_err().code.0, 402);
    }
}
