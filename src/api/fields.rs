//! The fields of a request, read one by one so that each fault names its field.
//!
//! JSON objects and query strings both become [`Fields`]. A reader takes what it knows;
//! [`Fields::finish`] refuses what is left. Ranges are the services' to judge; types are judged here.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::error::Error;

/// Most characters of a foreign text that an error repeats.
const MAX_QUOTED_CHARS: usize = 64;

/// What a request body is read into.
pub(super) trait FromFields: Sized {
    /// Takes every field that the request may have.
    fn from_fields(fields: &mut Fields) -> Result<Self, Error>;
}

/// What a call that may be repeated under an idempotency key is told by.
pub(super) trait Canonical: FromFields {
    /// What was asked for, however it was written: with every default spelled out. A repeat under an
    /// idempotency key is told by it, on other nodes and by later versions too.
    fn canonical(&self) -> Value;
}

/// The fields of one object that have not been read yet.
#[derive(Debug)]
pub(super) struct Fields {
    values: Map<String, Value>,
    /// Where the object stands in the body, such as `locks[2].`; empty at the top.
    prefix: String,
}

impl Fields {
    /// The fields of a JSON body; an empty body has none.
    pub(super) fn from_json(body: &[u8]) -> Result<Self, Error> {
        if body.is_empty() {
            return Ok(Self { values: Map::new(), prefix: String::new() });
        }
        let text = std::str::from_utf8(body).map_err(|_| Error::bad_request("body", "the body is not UTF-8"))?;
        let Object(values) = serde_json::from_str(text).map_err(|error| {
            Error::bad_request("body", format!("the body is not the expected JSON object: {error}"))
        })?;
        Ok(Self { values, prefix: String::new() })
    }

    /// The fields of a query string, percent-encoded UTF-8.
    pub(super) fn from_query(query: &str) -> Result<Self, Error> {
        let mut values = Map::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode_query(name)?, decode_query(value)?);
            if values.contains_key(&name) {
                return Err(Error::bad_request(
                    quote(&name),
                    format!("the parameter '{}' is given twice", quote(&name)),
                ));
            }
            values.insert(name, Value::String(value));
        }
        Ok(Self { values, prefix: String::new() })
    }

    /// The name of a field as errors give it.
    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Takes a field; `null` counts as absent.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn missing(&self, name: &str) -> Error {
        let field = self.path(name);
        Error::bad_request(&field, format!("the field '{field}' is missing"))
    }

    fn mismatch(&self, name: &str, expected: &str, found: &Value) -> Error {
        let field = self.path(name);
        let found = quote(&found.to_string());
        Error::bad_request(&field, format!("the field '{field}' must be {expected}, not {found}"))
    }

    /// An integer of a JSON body, 0 or more.
    pub(super) fn integer(&mut self, name: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| self.mismatch(name, "an integer that is not negative or huge", &value))
    }

    /// An integer of a JSON body, of 64 bits with a sign.
    pub(super) fn signed(&mut self, name: &str) -> Result<Option<i64>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_i64().map(Some).ok_or_else(|| self.mismatch(name, "an integer of 64 bits with a sign", &value))
    }

    /// An integer of a query string, 0 or more.
    pub(super) fn query_integer(&mut self, name: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number =
            value.as_str().filter(|text| text.bytes().all(|c| c.is_ascii_digit())).and_then(|t| t.parse().ok());
        number.map(Some).ok_or_else(|| self.mismatch(name, "an integer that is not negative or huge", &value))
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mismatch(name, "a string", &other)),
        }
    }

    /// A text that must be there and is parsed.
    pub(super) fn required_parsed<T: TryFrom<String, Error: fmt::Display>>(&mut self, name: &str) -> Result<T, Error> {
        self.parsed(name)?.ok_or_else(|| self.missing(name))
    }

    /// A text that is parsed.
    pub(super) fn parsed<T: TryFrom<String, Error: fmt::Display>>(&mut self, name: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let parsed = T::try_from(text).map_err(|error| Error::bad_request(self.path(name), error.to_string()))?;
        Ok(Some(parsed))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let found = choices.iter().find(|(word, _)| value.as_str() == Some(word));
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        found.map(|(_, choice)| Some(*choice)).ok_or_else(|| self.mismatch(name, &words.join(" or "), &value))
    }

    /// A list of objects that must be there.
    pub(super) fn objects(&mut self, name: &str) -> Result<Vec<Fields>, Error> {
        let items = match self.take(name).ok_or_else(|| self.missing(name))? {
            Value::Array(items) => items,
            other => return Err(self.mismatch(name, "a list of objects", &other)),
        };
        let path = self.path(name);
        let of_item = |(index, item)| match item {
            Value::Object(values) => Ok(Self { values, prefix: format!("{path}[{index}].") }),
            other => Err(self.mismatch(&format!("{name}[{index}]"), "an object", &other)),
        };
        items.into_iter().enumerate().map(of_item).collect()
    }

    /// A list of texts that must be there.
    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, Error> {
        let items = match self.take(name).ok_or_else(|| self.missing(name))? {
            Value::Array(items) => items,
            other => return Err(self.mismatch(name, "a list of strings", &other)),
        };
        let of_item = |(index, item): (usize, Value)| match item {
            Value::String(text) => Ok(text),
            other => Err(self.mismatch(&format!("{name}[{index}]"), "a string", &other)),
        };
        items.into_iter().enumerate().map(of_item).collect()
    }

    /// An object whose values are all texts; an absent one is empty.
    pub(super) fn text_map(&mut self, name: &str) -> Result<BTreeMap<String, String>, Error> {
        let members = match self.take(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(members)) => members,
            Some(other) => return Err(self.mismatch(name, "an object of strings", &other)),
        };
        let of_member = |(key, value): (String, Value)| match value {
            Value::String(text) => Ok((key, text)),
            other => Err(self.mismatch(&format!("{name}.{}", quote(&key)), "a string", &other)),
        };
        members.into_iter().map(of_member).collect()
    }

    /// A field of JSON that is true or false.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.mismatch(name, "true or false", &other)),
        }
    }

    /// An integer of a JSON body in a range.
    pub(super) fn ranged(&mut self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Error> {
        let number = self.integer(name)?;
        number.map(|number| self.in_range(name, number, range)).transpose()
    }

    /// The number, or the error that tells the range.
    pub(super) fn in_range(&self, name: &str, number: u64, range: RangeInclusive<u64>) -> Result<u64, Error> {
        if range.contains(&number) {
            return Ok(number);
        }
        let field = self.path(name);
        let expected = match (*range.start(), *range.end()) {
            (least, u64::MAX) => format!("{least} or more"),
            (least, most) => format!("{least} to {most}"),
        };
        Err(Error::bad_request(&field, format!("{field} is {number}: expected {expected}")))
    }

    /// An error about a field of this object.
    pub(super) fn refuse(&self, name: &str, detail: &str) -> Error {
        let field = self.path(name);
        Error::bad_request(&field, format!("the field '{field}' {detail}"))
    }

    /// Refuses fields that nobody took.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) => {
                let field = self.path(&quote(name));
                Err(Error::bad_request(&field, format!("the field '{field}' is not known here")))
            }
        }
    }
}

/// The beginning of a foreign text, for an error.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn decode_query(text: &str) -> Result<String, Error> {
    let spaced = text.replace('+', " ");
    percent_decode(&spaced).ok_or_else(|| Error::bad_request("query", "the query string is not percent-encoded UTF-8"))
}

/// Undoes percent-encoding; `None` if an escape is cut short or the result is not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// A JSON object in which no name stands twice: two readers would disagree on which one counts.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Object, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if map.insert(name.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("the field '{}' is given twice", quote(&name))));
                    }
                }
                Ok(Object(map))
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;

    fn field(result: Result<impl fmt::Debug, Error>) -> String {
        result.unwrap_err().details.field.unwrap()
    }

    fn json(text: &str) -> Fields {
        Fields::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn integers_are_neither_negative_nor_huge_nor_fractions_nor_strings() {
        for bad in ["-1", "1.5", "1.0", "1e3", "18446744073709551616", "\"5\"", "true", "[]"] {
            let mut fields = json(&format!(r#"{{"ttl_ms":{bad}}}"#));
            assert_eq!(field(fields.integer("ttl_ms")), "ttl_ms", "{bad}");
        }
        assert_eq!(json(r#"{"ttl_ms":5}"#).integer("ttl_ms").unwrap(), Some(5));
        assert_eq!(json(r#"{"ttl_ms":null}"#).integer("ttl_ms").unwrap(), None);
    }

    #[test]
    fn integers_with_a_sign_have_64_bits() {
        for (text, number) in [("-9223372036854775808", i64::MIN), ("9223372036854775807", i64::MAX), ("0", 0)] {
            assert_eq!(json(&format!(r#"{{"by":{text}}}"#)).signed("by").unwrap(), Some(number));
        }
        for bad in ["9223372036854775808", "-9223372036854775809", "1.0", "\"1\"", "1e3"] {
            assert_eq!(field(json(&format!(r#"{{"by":{bad}}}"#)).signed("by")), "by", "{bad}");
        }
        assert_eq!(json("{}").signed("by").unwrap(), None);
    }

    #[test]
    fn what_nobody_took_is_refused_by_name() {
        assert_eq!(field(json(r#"{"tll_ms":1}"#).finish()), "tll_ms");
        let mut fields = json(r#"{"locks":[{"name":"a"},{"nam":"b"}]}"#);
        let second = fields.objects("locks").unwrap().pop().unwrap();
        assert_eq!(field(second.finish()), "locks[1].nam");
    }

    #[test]
    fn a_body_that_is_no_object_or_repeats_a_name_is_refused() {
        for bad in ["[]", "1", "{", "{}{}", r#"{"a":1,"a":2}"#, "{\"a\":\"\u{0}\"}", "nul"] {
            assert_eq!(field(Fields::from_json(bad.as_bytes())), "body", "{bad}");
        }
        assert_eq!(field(Fields::from_json(b"{\"a\":\"\xff\"}")), "body");
    }

    #[test]
    fn required_fields_are_named_when_they_are_missing_or_malformed() {
        assert_eq!(field(json("{}").required_parsed::<SessionId>("session")), "session");
        assert_eq!(field(json(r#"{"session":"a b"}"#).required_parsed::<SessionId>("session")), "session");
        assert_eq!(json(r#"{"session":"ab"}"#).required_parsed::<SessionId>("session").unwrap().as_str(), "ab");
    }

    #[test]
    fn query_strings_are_decoded_strictly() {
        let mut fields = Fields::from_query("prefix=a%2Fb+c%C3%A9&limit=7").unwrap();
        assert_eq!(fields.text("prefix").unwrap().unwrap(), "a/b cé");
        assert_eq!(fields.query_integer("limit").unwrap(), Some(7));
        for bad in ["prefix=%ff", "prefix=%f", "prefix=%zz", "a=1&a=2"] {
            assert!(Fields::from_query(bad).is_err(), "{bad}");
        }
        assert_eq!(field(Fields::from_query("limit=-1").unwrap().query_integer("limit")), "limit");
        assert_eq!(field(Fields::from_query("limit=+1").unwrap().query_integer("limit")), "limit");
    }

    #[test]
    fn errors_repeat_only_the_beginning_of_what_was_sent() {
        let long = "x".repeat(10_000);
        let error = json(&format!(r#"{{"{long}":1}}"#)).finish().unwrap_err();
        assert!(error.detail.len() < 300);
    }
}
