//! Splits JSON into the texts of its members and elements. Nothing is built from a body before its size was checked,
//! because a value of two bytes of text takes dozens of bytes in memory.

use crate::problem::rejected;
use penstock_core::Problem;
use penstock_tensor::Rejection;
use penstock_tensor::json::{Names, Scan, Scanner};
use serde::de::DeserializeOwned;

/// Returns the members of an object with their names and texts. `text` must be an object. Members that are `null`
/// count as absent.
pub(super) fn members(text: &str) -> Result<Vec<(String, &str)>, Problem> {
    let read = || -> Scan<Vec<(String, &str)>> {
        let mut scanner = Scanner::new(text.as_bytes());
        let mut names = Names::default();
        let mut found = Vec::new();
        let mut member = scanner.open_object(&mut names)?;
        while let Some(name) = member {
            if !scanner.skip_null()? {
                found.push((name.into_owned(), value(&mut scanner, text)?));
            }
            member = scanner.next_member(&mut names)?;
        }
        scanner.finish()?;
        Ok(found)
    };
    read().map_err(|error| rejected(Rejection::from(*error)))
}

/// Returns the members that are not `null`. Many clients write every optional member, and `null` for an unset one.
pub(super) fn present(text: &str) -> Result<Vec<(String, &str)>, Problem> {
    let mut found = members(text)?;
    found.retain(|(_, value)| kind(value) != b'n');
    Ok(found)
}

/// Returns the elements of an array; `None` if there are more than `most`. `text` must be an array.
pub(super) fn elements(text: &str, most: usize) -> Result<Option<Vec<&str>>, Problem> {
    let read = || -> Scan<Option<Vec<&str>>> {
        let mut scanner = Scanner::new(text.as_bytes());
        let mut found = Vec::new();
        let mut more = scanner.open_array()?;
        while more {
            if found.len() == most {
                return Ok(None);
            }
            found.push(value(&mut scanner, text)?);
            more = scanner.next_element()?;
        }
        scanner.finish()?;
        Ok(Some(found))
    };
    read().map_err(|error| rejected(Rejection::from(*error)))
}

/// Returns the text of the next value.
fn value<'t>(scanner: &mut Scanner<'t>, text: &'t str) -> Scan<&'t str> {
    // Skip leading white space, which is not part of the value.
    scanner.kind()?;
    let from = scanner.offset();
    scanner.skip_value()?;
    Ok(text.get(from..scanner.offset()).unwrap_or_default())
}

/// Parses a text as a type; `None` if it does not match.
pub(super) fn of<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// Returns the first byte, which identifies the kind of JSON value.
pub(super) fn kind(text: &str) -> u8 {
    let bytes = text.trim_start().as_bytes();
    bytes.first().copied().unwrap_or_default()
}
