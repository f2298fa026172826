//! Reads the query and the body of a request, so that all their mistakes are found.

use penstock_core::violation::Violation;
use penstock_core::{Code, Problem};
use penstock_policy::auth::registry::{PageToken, RegistryError};
use penstock_policy::auth::scopes::Scope;
use penstock_policy::auth::settings::is_name;
use penstock_tensor::json::whole_number;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Most characters of an unknown name that a message repeats.
pub(crate) const MAX_ECHO_CHARS: usize = 64;

/// Seconds after which a failed store may work again.
pub(crate) const RETRY_AFTER_S: u32 = 1;

/// A refusal as an error of the catalogue.
pub fn problem(refused: RegistryError) -> Problem {
    let echo = |name: &str| -> String {
        name.chars()
            .take(MAX_ECHO_CHARS)
            .flat_map(char::escape_debug)
            .collect()
    };
    match refused {
        RegistryError::Invalid(faults) => invalid(faults),
        RegistryError::NoSuchTenant(tenant) => Problem::new(
            Code::UnknownResource,
            format!("there is no tenant `{}`", echo(&tenant)),
        ),
        RegistryError::NoSuchKey(id) => Problem::new(
            Code::UnknownResource,
            format!("there is no API key with the id `{}`", echo(&id)),
        ),
        RegistryError::TenantExists(tenant) => Problem::new(
            Code::AlreadyExists,
            format!("the tenant `{}` exists already", echo(&tenant)),
        ),
        RegistryError::Busy {
            doing,
            retry_after_s,
        } => Problem::new(
            Code::FailedPrecondition,
            format!(
                "{doing} by another request, or a request failed while doing so; try again later"
            ),
        )
        .retry_after(retry_after_s),
        RegistryError::Ended(why) | RegistryError::Full(why) => {
            Problem::new(Code::FailedPrecondition, why)
        }
        RegistryError::Store(why) => Problem::new(
            Code::StoreUnavailable,
            format!("the operation may or may not have been done: {why}"),
        )
        .retry_after(RETRY_AFTER_S),
    }
}

pub(super) fn invalid(faults: Vec<Violation>) -> Problem {
    let message = match faults.as_slice() {
        [one] => format!("the body is invalid: {}", one.message),
        several => format!("the body has {} errors", several.len()),
    };
    Problem::new(Code::InvalidBody, message).with_violations(faults, 0)
}

/// The parameters of a query. Names, ids and tokens need no percent-encoding, so it is not decoded.
pub(super) struct Query<'q>(pub(crate) Vec<(&'q str, &'q str)>);

impl<'q> Query<'q> {
    pub(super) fn of(query: Option<&'q str>, known: &[&str]) -> Result<Self, Problem> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        for pair in query.unwrap_or("").split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) || found.iter().any(|(other, _)| *other == name) {
                let takes = match known {
                    [] => "no parameter".to_owned(),
                    known => format!("each of {} once", known.join(", ")),
                };
                let message =
                    format!("the query has an unknown or repeated parameter; it accepts {takes}");
                return Err(Problem::new(Code::InvalidParameter, message));
            }
            found.push((name, value));
        }
        Ok(Self(found))
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<&'q str> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    }

    pub(crate) fn page(&mut self) -> Result<Option<PageToken>, Problem> {
        let read = |text| {
            PageToken::parse(text).ok_or_else(|| {
                let message =
                    "page_token is invalid; send the next_page_token of an earlier answer";
                Problem::new(Code::InvalidParameter, message)
            })
        };
        self.take("page_token").map(read).transpose()
    }

    pub(crate) fn tenant(&mut self) -> Result<Option<String>, Problem> {
        match self.take("tenant") {
            Some(tenant) if !is_name(tenant) => {
                let message = "tenant is not a valid tenant name";
                Err(Problem::new(Code::InvalidParameter, message))
            }
            tenant => Ok(tenant.map(str::to_owned)),
        }
    }
}

/// The members of a body that are still to be read, and the faults of those that were read.
pub(super) struct Body {
    pub(crate) members: Map<String, Value>,
    pub(crate) faults: Vec<Violation>,
}

impl Body {
    /// Reads the body of a request. An empty body has no members.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, Problem> {
        let mut faults = Vec::new();
        if bytes.iter().all(u8::is_ascii_whitespace) {
            let members = Map::new();
            return Ok(Self { members, faults });
        }
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let read = reader
            .deserialize_map(Members)
            .and_then(|read| reader.end().map(|()| read));
        let read = read.map_err(|e| match e.classify() {
            serde_json::error::Category::Data => Problem::new(
                Code::InvalidBody,
                "the body is not a JSON object; docs/KEYS.md lists the members of each request",
            ),
            _ => Problem::new(
                Code::MalformedJson,
                format!(
                    "the body is not JSON at line {}, column {}",
                    e.line(),
                    e.column()
                ),
            ),
        })?;
        let mut members = Map::new();
        for (name, value) in read {
            let pointer = pointer(&name);
            if members.insert(name, value).is_some() {
                let message = "the member appears twice";
                faults.push(Violation::new(pointer, "duplicate_member", "once", message));
            }
        }
        Ok(Self { members, faults })
    }

    pub(super) fn wrong(&mut self, name: &str, expected: &str) {
        let message = format!("`{name}` has the wrong type");
        let fault = Violation::new(pointer(name), "wrong_type", expected, message);
        self.faults.push(fault);
    }

    /// Notes a fault if the member is missing.
    pub(super) fn must(&mut self, name: &str) {
        if !self.members.contains_key(name) {
            let message = format!("`{name}` is missing");
            let fault = Violation::new(pointer(name), "missing", "the member", message);
            self.faults.push(fault);
        }
    }

    pub(crate) fn text(&mut self, name: &str, required: bool) -> String {
        if required {
            self.must(name);
        }
        match self.members.remove(name) {
            Some(Value::String(text)) => text,
            None => String::new(),
            Some(_) => {
                self.wrong(name, "a string");
                String::new()
            }
        }
    }

    pub(super) fn number(&mut self, name: &str) -> Option<u64> {
        let value = self.members.remove(name)?;
        // 4.0 is 4, as in every other body.
        let number = match &value {
            Value::Number(number) => whole_number(&number.to_string()),
            _ => None,
        };
        if number.is_none() {
            self.wrong(name, "a whole number, not negative");
        }
        number
    }

    /// Reads a member as a whole. `null` counts as absent. `expected` describes the right value.
    pub(super) fn read<T: serde::de::DeserializeOwned>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Option<T> {
        let value = self.members.remove(name).filter(|value| !value.is_null())?;
        match serde_json::from_value(value) {
            Ok(read) => Some(read),
            Err(e) => {
                let message = format!("`{name}` cannot be read: {e}");
                let fault = Violation::new(pointer(name), "wrong_type", expected, message);
                self.faults.push(fault);
                None
            }
        }
    }

    /// The same for a required member.
    pub(super) fn required<T: serde::de::DeserializeOwned>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Option<T> {
        match self.is_null(name) {
            true => {
                self.members.remove(name);
                self.wrong(name, expected);
                None
            }
            false => {
                self.must(name);
                self.read(name, expected)
            }
        }
    }

    /// Returns whether a member exists and is `null`.
    pub(super) fn is_null(&self, name: &str) -> bool {
        matches!(self.members.get(name), Some(Value::Null))
    }

    pub(crate) fn flag(&mut self, name: &str) -> bool {
        match self.members.remove(name) {
            Some(Value::Bool(flag)) => flag,
            None => false,
            Some(_) => {
                self.wrong(name, "true or false");
                false
            }
        }
    }

    pub(crate) fn scopes(&mut self, name: &str) -> Vec<Scope> {
        self.must(name);
        let entries = match self.members.remove(name) {
            Some(Value::Array(entries)) => entries,
            None => return Vec::new(),
            Some(_) => {
                self.wrong(name, "a list of scopes");
                return Vec::new();
            }
        };
        let mut scopes = Vec::new();
        for (at, entry) in entries.into_iter().enumerate() {
            let read = match entry {
                Value::String(text) => Scope::try_from(text),
                _ => Err("a scope is a string".to_owned()),
            };
            match read {
                Ok(scope) => scopes.push(scope),
                Err(message) => self.faults.push(Violation::new(
                    format!("{}/{at}", pointer(name)),
                    "invalid_scope",
                    "a route, optionally followed by a colon and a model, such as predict:magika",
                    message,
                )),
            }
        }
        scopes
    }

    /// Ends the reading and returns all faults: of the form, of the values, and of members that were not read.
    pub(super) fn end(mut self, of_values: Vec<Violation>) -> Result<(), Problem> {
        for name in self.members.keys() {
            let message = "the member is unknown";
            let fault = Violation::new(pointer(name), "unknown_member", "no such member", message);
            self.faults.push(fault);
        }
        for fault in of_values {
            // A member that could not be read has no value to be wrong.
            let known = |other: &Violation| other.pointer.starts_with(&fault.pointer);
            if !self.faults.iter().any(known) {
                self.faults.push(fault);
            }
        }
        let omitted = self
            .faults
            .len()
            .saturating_sub(penstock_core::violation::MAX_VIOLATIONS);
        self.faults
            .truncate(penstock_core::violation::MAX_VIOLATIONS);
        match self.faults.is_empty() {
            true => Ok(()),
            false => {
                let mut problem = invalid(self.faults);
                problem.violations_omitted = omitted as u64;
                Err(problem)
            }
        }
    }
}

/// The pointer of a member, whose name may be any text.
pub(crate) fn pointer(name: &str) -> String {
    let short: String = name.chars().take(MAX_ECHO_CHARS).collect();
    format!(
        "/{}",
        penstock_core::violation::escape_pointer_token(&short)
    )
}

/// Reads an object with all its members, including duplicates.
pub(crate) struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}
