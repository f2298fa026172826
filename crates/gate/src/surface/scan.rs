//! JSON taken apart into the texts of its members and elements, so that nothing is built of a body before somebody has
//! said how much of it there may be: a value in memory takes dozens of bytes where its text has two.

use crate::problem::rejected;
use penstock_core::Problem;
use penstock_tensor::Rejection;
use penstock_tensor::json::{Names, Scan, Scanner};
use serde::de::DeserializeOwned;

/// The members of an object, each with its name and its text; `text` must be an object. A member that is `null` counts as
/// left out.
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

/// The same without members whose value is `null`: many clients write every optional member, and `null` for those that
/// are not set.
pub(super) fn present(text: &str) -> Result<Vec<(String, &str)>, Problem> {
    let mut found = members(text)?;
    found.retain(|(_, value)| kind(value) != b'n');
    Ok(found)
}

/// The elements of an array, of which no more than `most` are looked at; `None` where there are more. `text` must be an
/// array.
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

/// The text of the next value.
fn value<'t>(scanner: &mut Scanner<'t>, text: &'t str) -> Scan<&'t str> {
    // Leading blanks belong to no value.
    scanner.kind()?;
    let from = scanner.offset();
    scanner.skip_value()?;
    Ok(text.get(from..scanner.offset()).unwrap_or_default())
}

/// What a text is, if it is of that form.
pub(super) fn of<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// The first byte, which tells what kind of value it is.
pub(super) fn kind(text: &str) -> u8 {
    let bytes = text.trim_start().as_bytes();
    bytes.first().copied().unwrap_or_default()
}
