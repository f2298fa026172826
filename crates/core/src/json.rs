//! JSON values as bytes.

use serde::Serialize;

/// Writes a value as compact JSON. `Value::to_string` gives the same bytes through the formatter, which takes four times as long in
/// WebAssembly. Panics for a map whose keys are not strings.
///
/// ```
/// let value = serde_json::json!({ "b": [1, 2.5, "ü\n"], "a": null });
/// assert_eq!(penstock_core::json::to_bytes(&value), value.to_string().into_bytes());
/// ```
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("the value has no map with keys that are not strings")
}

/// JSON text in visible ASCII, as a header's value must be. Other characters become JSON escapes.
///
/// ```
/// let text = penstock_core::json::to_ascii("a\u{7f}\u{e9}\u{1f600}\n");
/// assert_eq!(text, r#""a\u007f\u00e9\ud83d\ude00\n""#);
/// ```
pub fn to_ascii<T: Serialize + ?Sized>(value: &T) -> String {
    let text = String::from_utf8(to_bytes(value)).unwrap_or_default();
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        // A header has no control characters either; JSON escapes all but the one after `~` by itself.
        if matches!(c, ' '..='~') {
            ascii.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}
