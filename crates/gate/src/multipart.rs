//! Reads `multipart/form-data` (RFC 7578), the form of uploads. The logic is pure: it knows no routes.
//!
//! The known crates read streams asynchronously, and the whole body is here. So this reader is small and strict: no preamble, no
//! nested parts, no transfer encodings, and a bound on everything but the contents.

/// The most parts of a body. An upload has two or three.
const MAX_PARTS: usize = 16;
/// The most bytes of the headers of a part.
const MAX_HEAD_BYTES: usize = 4 << 10;
/// The longest boundary (RFC 2046 §5.1.1).
const MAX_BOUNDARY_BYTES: usize = 70;

/// A part of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The name of the field.
    pub name: String,
    /// The name of the file, if the part is one.
    pub filename: Option<String>,
    /// The content as sent.
    pub content: &'a [u8],
}

/// Returns the boundary that a content type names; `None` if the type is another one or has no usable boundary.
///
/// ```
/// use penstock_gate::multipart::boundary;
/// assert_eq!(boundary("multipart/form-data; boundary=\"a b\"").as_deref(), Some("a b"));
/// assert_eq!(boundary("application/json"), None);
/// ```
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameter(parameters, "boundary")?;
    let allowed = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let fits = (1..=MAX_BOUNDARY_BYTES).contains(&boundary.len())
        && boundary.bytes().all(allowed)
        && !boundary.ends_with(' ');
    fits.then_some(boundary)
}

/// Divides a body into its parts. The error is a sentence for the caller.
pub fn parts<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Part<'a>>, String> {
    let opening = format!("--{boundary}");
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = body
        .strip_prefix(opening.as_bytes())
        .ok_or("the body does not begin with the boundary that Content-Type names")?;
    let mut parts = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        // White space may follow a boundary (RFC 2046).
        let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
        rest = rest.get(padding.count()..).unwrap_or_default();
        rest = rest
            .strip_prefix(b"\r\n")
            .ok_or("a boundary is not followed by a line break")?;
        if parts.len() == MAX_PARTS {
            return Err(format!("the body has more than {MAX_PARTS} parts"));
        }
        let head_end =
            find(rest, b"\r\n\r\n").ok_or("a part has no empty line after its headers")?;
        let (head, content) = rest.split_at(head_end);
        if head.len() > MAX_HEAD_BYTES {
            return Err(format!(
                "the headers of a part have more than {MAX_HEAD_BYTES} bytes"
            ));
        }
        let content = content.get(4..).unwrap_or_default();
        let end = find(content, delimiter.as_bytes())
            .ok_or("the body ends within a part; send its last boundary")?;
        let (content, after) = content.split_at(end);
        let (name, filename) = disposition(head)?;
        parts.push(Part {
            name,
            filename,
            content,
        });
        rest = after.get(delimiter.len()..).unwrap_or_default();
    }
}

/// The name and the file name in the headers of a part.
fn disposition(head: &[u8]) -> Result<(String, Option<String>), String> {
    let head = std::str::from_utf8(head).map_err(|_| "the headers of a part are not UTF-8")?;
    let mut found = None;
    for line in head.split("\r\n") {
        let (name, value) = line
            .split_once(':')
            .ok_or("a header of a part has no colon")?;
        if name.eq_ignore_ascii_case("content-transfer-encoding")
            && !matches!(value.trim(), "binary" | "8bit" | "7bit")
        {
            return Err("a part has a transfer encoding; send its bytes as they are".to_owned());
        }
        if name.eq_ignore_ascii_case("content-disposition") {
            found = Some(value.trim());
        }
    }
    let missing = "a part has no `Content-Disposition: form-data` with a name";
    let (kind, parameters) = found
        .and_then(|value| value.split_once(';'))
        .ok_or(missing)?;
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err(missing.to_owned());
    }
    let name = parameter(parameters, "name").ok_or(missing)?;
    Ok((
        unescaped(&name),
        parameter(parameters, "filename").map(|name| unescaped(&name)),
    ))
}

/// Undoes the escapes of HTML forms (`multipart/form-data` in the WHATWG's standard).
fn unescaped(name: &str) -> String {
    name.replace("%22", "\"")
        .replace("%0D", "\r")
        .replace("%0A", "\n")
}

/// The value of a parameter: a token, or a quoted string.
fn parameter(parameters: &str, wanted: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                (value.trim().to_owned(), after)
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

/// Reads a quoted string after its first quote. Returns the rest, too.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match characters.next() {
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                Some((_, other)) => value.extend(['\\', other]),
                None => return None,
            },
            other => value.push(other),
        }
    }
    None
}

/// The place of a text that begins with a carriage return.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let rest = bytes.get(from..)?;
        let at = from + rest.iter().position(|byte| *byte == b'\r')?;
        if bytes.get(at..)?.starts_with(wanted) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part<'a>(name: &str, filename: Option<&str>, content: &'a [u8]) -> Part<'a> {
        Part {
            name: name.to_owned(),
            filename: filename.map(str::to_owned),
            content,
        }
    }

    #[test]
    fn the_body_of_an_upload_is_divided_into_its_fields() {
        let body = b"--X\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--X \r\n\
            content-disposition: form-data; filename=\"a \\\"b%22.jsonl\"; name=file\r\nContent-Type: application/jsonl\r\n\r\n\
            {}\r\n--Y\r\n\r\n--X--\r\n";
        let parts = parts(body, "X").unwrap();
        assert_eq!(
            parts,
            [
                part("purpose", None, b"batch"),
                part("file", Some("a \"b\".jsonl"), b"{}\r\n--Y\r\n"),
            ]
        );
        assert_eq!(super::parts(b"--X--", "X"), Ok(Vec::new()));
    }

    #[test]
    fn the_boundary_is_a_token_or_quoted_and_not_too_long() {
        for (text, found) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            (
                "Multipart/Form-Data;charset=utf-8;Boundary=\"a;b\"",
                Some("a;b"),
            ),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/mixed; boundary=abc", None),
            ("multipart/form-data; boundary=\"abc", None),
            ("multipart/form-data; boundary=\"a \"", None),
        ] {
            assert_eq!(boundary(text).as_deref(), found, "{text}");
        }
        let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
        assert_eq!(boundary(&long), None);
    }

    #[test]
    fn a_body_that_is_not_whole_is_refused_with_the_reason() {
        for (body, reason) in [
            (&b""[..], "does not begin"),
            (b"--Y--", "does not begin"),
            (b"--Xabc", "line break"),
            (b"--X\r\nContent-Disposition: form-data; name=a", "empty line"),
            (b"--X\r\nContent-Disposition: form-data; name=a\r\n\r\nabc", "ends within"),
            (b"--X\r\nA: b\r\n\r\n\r\n--X--", "Content-Disposition"),
            (b"--X\r\nContent-Disposition: attachment; name=a\r\n\r\n\r\n--X--", "form-data"),
            (b"--X\r\nno\r\n\r\n\r\n--X--", "no colon"),
            (
                b"--X\r\nContent-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64\r\n\r\n\r\n--X--",
                "transfer encoding",
            ),
        ] {
            let error = parts(body, "X").unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let mut many = b"--X".to_vec();
        for _ in 0..=MAX_PARTS {
            many.extend(b"\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--X");
        }
        many.extend(b"--");
        assert!(parts(&many, "X").unwrap_err().contains("more than 16"));
    }

    proptest! {
        #[test]
        fn any_content_without_the_boundary_comes_back_as_it_was(content in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut body = b"--bound\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n".to_vec();
            body.extend(&content);
            body.extend(b"\r\n--bound--\r\n");
            prop_assert_eq!(parts(&body, "bound").unwrap(), [part("file", Some("f"), &content)]);
        }

        #[test]
        fn no_body_is_more_than_refused(body in prop::collection::vec(prop::sample::select(b"-X\r\n:; =\"\\name".to_vec()), 0..60)) {
            let _ = parts(&body, "X");
            let _ = boundary(&String::from_utf8_lossy(&body));
        }
    }
}
