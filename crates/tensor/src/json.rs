//! A strict pull scanner for untrusted JSON (RFC 8259).
//!
//! It is stricter than the grammar in four ways, because later code trusts its results. Member names must not repeat (§4
//! leaves their meaning open). Escaped surrogates must be paired. Arrays and objects nest at most [`MAX_DEPTH`] deep. An
//! object has at most [`MAX_MEMBERS`] members. `NaN`, `Infinity`, leading zeros, `+1`, `.5` and `1.` are refused with a
//! message that names them, because common encoders produce some of them.

use crate::number::{self, Decimal, Misspelt, Short};
use std::borrow::Cow;
use std::fmt;

/// The deepest nesting of arrays and objects together. No tensor nests as deep, and the recursion of
/// [`Scanner::skip_value`] fits the smallest stack.
pub const MAX_DEPTH: usize = 64;

/// The most members of one object. No body needs a tenth of it. It bounds the memory for finding repeated names.
pub const MAX_MEMBERS: usize = 1024;

/// A syntax error, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Offset in bytes from the start of the body.
    pub offset: usize,
    /// The rule, a stable word: `json_syntax`, `invalid_utf8`, `duplicate_member`, `too_deep` or
    /// `too_many_members`.
    pub rule: &'static str,
    /// A description of valid text at this place.
    pub expected: Cow<'static, str>,
    /// A description of the text that was found.
    pub found: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "byte {}: expected {}, found {}",
            self.offset, self.expected, self.found
        )
    }
}

impl std::error::Error for SyntaxError {}

/// The result of a scanner method. The error is boxed, so that a result takes one word in the hot loop.
pub type Scan<T> = Result<T, Box<SyntaxError>>;

/// The type of a JSON value, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An object, `{…}`.
    Object,
    /// An array, `[…]`.
    Array,
    /// A string, `"…"`.
    String,
    /// A number, which begins with `-` or a digit.
    Number,
    /// The word `true` or `false`.
    Boolean,
    /// The word `null`, for no value.
    Null,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Object => "an object",
            Kind::Array => "an array",
            Kind::String => "a string",
            Kind::Number => "a number",
            Kind::Boolean => "a boolean",
            Kind::Null => "null",
        })
    }
}

/// Parses a text that is one JSON number with an integer value of at least 0. `4`, `4.0` and `4e0` are the same integer, as
/// everywhere in requests.
pub fn whole_number(text: &str) -> Option<u64> {
    let mut scanner = Scanner::new(text.as_bytes());
    let number = scanner.number().ok()?.to_u64().ok()?;
    scanner.finish().ok()?;
    Some(number)
}

/// The names of one object's members so far, to find a repeated one. They are sorted once at the object's end, so n
/// members cost n log n for all names.
#[derive(Debug, Default)]
pub struct Names<'a> {
    seen: Vec<(Cow<'a, str>, usize)>,
}

/// Scans one JSON text from front to back, value by value. Every method first skips white space.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            depth: 0,
        }
    }

    /// Starts at `offset`, the start of a value that an earlier pass skipped.
    pub fn at(bytes: &'a [u8], offset: usize) -> Self {
        Self {
            bytes,
            at: offset.min(bytes.len()),
            depth: 0,
        }
    }

    /// Offset of the next byte to read.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The number of bytes that are not read yet.
    pub fn remaining_bytes(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[inline(always)]
    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Skips white space and returns the byte after it without consuming it.
    #[inline(always)]
    fn peek(&mut self) -> Option<u8> {
        match self.byte() {
            Some(byte) if byte > b' ' => Some(byte),
            _ => self.peek_after_space(),
        }
    }

    #[inline]
    fn peek_after_space(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    #[cold]
    #[inline(never)]
    fn unexpected<T>(&self, expected: &'static str) -> Scan<T> {
        self.fault(self.at, expected)
    }

    #[cold]
    #[inline(never)]
    fn fault<T>(&self, offset: usize, expected: &'static str) -> Scan<T> {
        let rest = self.bytes.get(offset..).unwrap_or_default();
        let found = match rest.first() {
            None => "the end of the body".to_owned(),
            Some(byte @ 0x20..=0x7E) => format!("'{}'", char::from(*byte)),
            Some(byte) => format!("byte 0x{byte:02X}"),
        };
        Err(Box::new(SyntaxError {
            offset,
            rule: "json_syntax",
            expected: expected.into(),
            found,
        }))
    }

    /// Like [`Self::unexpected`] at the start of a value, with help for the output of other languages' encoders.
    #[cold]
    #[inline(never)]
    fn no_value<T>(&self) -> Scan<T> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (expected, found) = match rest.first() {
            None if self.bytes.is_empty() => ("a JSON text", "an empty body"),
            Some(b'N') => ("a finite number (JSON has no NaN)", "'N'"),
            Some(b'I') => ("a finite number (JSON has no Infinity)", "'I'"),
            Some(b'+') => ("a number without a plus sign", "'+'"),
            Some(b'.') => ("a digit before the decimal point", "'.'"),
            Some(b'\'') => ("a string in double quotes", "a single quote"),
            Some(b']' | b'}') => {
                return self.unexpected("a value (JSON allows no trailing comma)");
            }
            Some(b'T' | b'F') => ("true or false in lower case", "a capital letter"),
            _ => return self.unexpected("a value"),
        };
        Err(Box::new(SyntaxError {
            offset: self.at,
            rule: "json_syntax",
            expected: expected.into(),
            found: found.to_owned(),
        }))
    }

    #[cold]
    #[inline(never)]
    fn misspelt<T>(&self, misspelt: Misspelt) -> Scan<T> {
        let negative = self.byte() == Some(b'-');
        let infinite = negative && self.bytes.get(misspelt.offset) == Some(&b'I');
        let expected = if infinite {
            "a finite number (JSON has no Infinity)"
        } else {
            misspelt.expected
        };
        self.fault(misspelt.offset, expected)
    }

    /// The type of the next value, without consuming it.
    #[inline]
    pub fn kind(&mut self) -> Scan<Kind> {
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Boolean),
            Some(b'n') => Ok(Kind::Null),
            _ => self.no_value(),
        }
    }

    /// The number of nested `[` here, and whether the innermost is empty. Reads ahead and consumes nothing.
    pub fn nesting(&self) -> (usize, bool) {
        let mut ahead = self.clone();
        let mut levels = 0;
        while levels <= MAX_DEPTH && ahead.peek() == Some(b'[') {
            ahead.at += 1;
            levels += 1;
        }
        (levels, levels > 0 && ahead.peek() == Some(b']'))
    }

    #[inline]
    fn deeper(&mut self) -> Scan<()> {
        if self.depth >= MAX_DEPTH {
            return Err(Box::new(SyntaxError {
                offset: self.at,
                rule: "too_deep",
                expected: format!("at most {MAX_DEPTH} levels of arrays and objects").into(),
                found: "one more".to_owned(),
            }));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn shallower(&mut self) {
        self.at += 1;
        self.depth = self.depth.saturating_sub(1);
    }

    /// Consumes the `[` of an array. True if an element follows; false if the array is empty, which ends it.
    #[inline]
    pub fn open_array(&mut self) -> Scan<bool> {
        if self.peek() != Some(b'[') {
            return self.unexpected("an array");
        }
        self.deeper()?;
        if self.peek() == Some(b']') {
            self.shallower();
            return Ok(false);
        }
        Ok(true)
    }

    /// Consumes the `,` or `]` after an element: true if another element follows, false if the array has ended.
    #[inline(always)]
    pub fn next_element(&mut self) -> Scan<bool> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(b']') => {
                self.shallower();
                Ok(false)
            }
            _ => self.unexpected("',' or ']' after an element"),
        }
    }

    /// Consumes `{` and the first member's name and colon. `None` if the object is empty, which ends it.
    pub fn open_object(&mut self, names: &mut Names<'a>) -> Scan<Option<Cow<'a, str>>> {
        if self.peek() != Some(b'{') {
            return self.unexpected("an object");
        }
        self.deeper()?;
        if self.peek() == Some(b'}') {
            self.shallower();
            return Ok(None);
        }
        self.member(names).map(Some)
    }

    /// After a member's value: consumes the next member's name and colon. `None` if the object has ended. Errors with
    /// `duplicate_member` at the object's end if a name was repeated.
    pub fn next_member(&mut self, names: &mut Names<'a>) -> Scan<Option<Cow<'a, str>>> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                if self.peek() == Some(b'}') {
                    return self.unexpected("a member name (JSON allows no trailing comma)");
                }
                self.member(names).map(Some)
            }
            Some(b'}') => {
                self.shallower();
                names.check()?;
                Ok(None)
            }
            _ => self.unexpected("',' or '}' after a member"),
        }
    }

    fn member(&mut self, names: &mut Names<'a>) -> Scan<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return self.unexpected("a member name in double quotes");
        }
        let offset = self.at;
        let name = self.string()?;
        if self.peek() != Some(b':') {
            return self.unexpected("':' after a member name");
        }
        self.at += 1;
        if names.seen.len() >= MAX_MEMBERS {
            return Err(Box::new(SyntaxError {
                offset,
                rule: "too_many_members",
                expected: format!("at most {MAX_MEMBERS} members in an object").into(),
                found: "one more".to_owned(),
            }));
        }
        names.seen.push((name.clone(), offset));
        Ok(name)
    }

    /// Consumes the text of a number. Errors if it breaks the grammar. The caller checks its magnitude.
    #[inline(always)]
    pub fn number(&mut self) -> Scan<Decimal<'a>> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return self.no_value();
        }
        match number::scan(self.bytes, self.at) {
            Ok((decimal, end)) => {
                self.at = end;
                Ok(decimal)
            }
            Err(misspelt) => self.misspelt(misspelt),
        }
    }

    /// Like [`Self::number`]; `None` if the next value is not a number.
    #[inline(always)]
    pub(crate) fn number_here(&mut self) -> Option<Scan<Decimal<'a>>> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => Some(self.number()),
            _ => None,
        }
    }

    /// Consumes elements of an array while they are short numbers that `take` accepts, each followed by a comma. Returns
    /// their number. The other methods read the rest, which has at least one element.
    #[inline(always)]
    pub(crate) fn short_numbers(&mut self, mut take: impl FnMut(Short<'a>) -> bool) -> u64 {
        let (bytes, mut at, mut count) = (self.bytes, self.at, 0);
        loop {
            let start = at + usize::from(bytes.get(at) == Some(&b' '));
            let Some(short) = number::scan_short(bytes, start) else {
                break;
            };
            if bytes.get(short.end) != Some(&b',') || !take(short) {
                break;
            }
            at = short.end + 1;
            count += 1;
        }
        self.at = at;
        count
    }

    /// Consumes the word `true` or `false`.
    pub fn boolean(&mut self) -> Scan<bool> {
        match self.peek() {
            Some(b't') => self.word(b"true", "true").map(|()| true),
            _ => self.word(b"false", "true or false").map(|()| false),
        }
    }

    /// Consumes `null` if it is the next value. An optional member may be `null`.
    pub fn skip_null(&mut self) -> Scan<bool> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.null().map(|()| true)
    }

    /// Consumes the word `null`.
    pub fn null(&mut self) -> Scan<()> {
        self.peek();
        self.word(b"null", "null")
    }

    fn word(&mut self, word: &[u8], expected: &'static str) -> Scan<()> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        let common = rest.iter().zip(word).take_while(|(a, b)| a == b).count();
        self.fault(self.at + common, expected)
    }

    /// Consumes a string and returns its characters; borrowed if it has no escapes.
    pub fn string(&mut self) -> Scan<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return self.unexpected("a string");
        }
        self.at += 1;
        let start = self.at;
        self.skip_plain();
        if self.byte() == Some(b'"') {
            let text = self.utf8(start)?;
            self.at += 1;
            return Ok(Cow::Borrowed(text));
        }
        let mut text = String::from(self.utf8(start)?);
        loop {
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(0..=0x1F) => {
                    return self
                        .unexpected("no control character in a string (escape it as \\u00XX)");
                }
                Some(_) => {
                    let start = self.at;
                    self.skip_plain();
                    text.push_str(self.utf8(start)?);
                }
                None => return self.unexpected("'\"' at the end of a string"),
            }
        }
    }

    /// Moves to the next quote, backslash or control character, or to the end.
    #[inline]
    fn skip_plain(&mut self) {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGHS: u64 = 0x8080_8080_8080_8080;
        // Eight bytes at a time: the high bit of a byte becomes set if the byte ends the run. It may also become set after
        // a true end; the loop below finds the first one exactly.
        while let Some(chunk) = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<8>())
        {
            let word = u64::from_le_bytes(*chunk);
            let quote = word ^ (ONES * b'"' as u64);
            let backslash = word ^ (ONES * b'\\' as u64);
            let stops = (quote.wrapping_sub(ONES) & !quote)
                | (backslash.wrapping_sub(ONES) & !backslash)
                | (word.wrapping_sub(ONES * 0x20) & !word);
            if stops & HIGHS != 0 {
                break;
            }
            self.at += 8;
        }
        while !matches!(self.byte(), None | Some(b'"' | b'\\' | 0..=0x1F)) {
            self.at += 1;
        }
    }

    /// The bytes from `start` to here as text.
    fn utf8(&self, start: usize) -> Scan<&'a str> {
        let bytes = self.bytes.get(start..self.at).unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|error| {
            let offset = start + error.valid_up_to();
            let byte = self.bytes.get(offset).copied().unwrap_or_default();
            Box::new(SyntaxError {
                offset,
                rule: "invalid_utf8",
                expected: "UTF-8".into(),
                found: format!("byte 0x{byte:02X}"),
            })
        })
    }

    /// Consumes one escape, at its backslash.
    fn escape(&mut self) -> Scan<char> {
        self.at += 1;
        let plain = match self.byte() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{C}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return self.unexpected("one of \" \\ / b f n r t u after a backslash"),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode_escape(&mut self) -> Scan<char> {
        let start = self.at;
        let first = self.four_hex_digits()?;
        if let Some(character) = char::from_u32(first) {
            return Ok(character);
        }
        const PAIR: &str = "a high and a low surrogate together";
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if !(0xD800..0xDC00).contains(&first) || !rest.starts_with(b"\\u") {
            return self.fault(start, PAIR);
        }
        self.at += 2;
        let second = self.four_hex_digits()?;
        if !(0xDC00..0xE000).contains(&second) {
            return self.fault(start, PAIR);
        }
        let scalar = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        match char::from_u32(scalar) {
            Some(character) => Ok(character),
            None => self.fault(start, PAIR),
        }
    }

    fn four_hex_digits(&mut self) -> Scan<u32> {
        let mut value = 0;
        for _ in 0..4 {
            let Some(digit) = self.byte().and_then(|byte| char::from(byte).to_digit(16)) else {
                return self.unexpected("four hexadecimal digits after \\u");
            };
            value = value * 16 + digit;
            self.at += 1;
        }
        Ok(value)
    }

    /// Consumes a value of any type, checking all of its syntax.
    pub fn skip_value(&mut self) -> Scan<()> {
        match self.kind()? {
            Kind::Number => self.number().map(|_| ()),
            Kind::String => self.string().map(|_| ()),
            Kind::Boolean => self.boolean().map(|_| ()),
            Kind::Null => self.null(),
            Kind::Array => {
                let mut more = self.open_array()?;
                while more {
                    self.skip_value()?;
                    more = self.next_element()?;
                }
                Ok(())
            }
            Kind::Object => {
                let mut names = Names::default();
                let mut member = self.open_object(&mut names)?;
                while member.is_some() {
                    self.skip_value()?;
                    member = self.next_member(&mut names)?;
                }
                Ok(())
            }
        }
    }

    /// Errors if anything but white space is left.
    pub fn finish(&mut self) -> Scan<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.unexpected("the end of the body"),
        }
    }
}

impl Names<'_> {
    fn check(&mut self) -> Scan<()> {
        self.seen.sort_unstable();
        for pair in self.seen.windows(2) {
            if let [(earlier, _), (later, offset)] = pair
                && earlier == later
            {
                return Err(Box::new(SyntaxError {
                    offset: *offset,
                    rule: "duplicate_member",
                    expected: "each member name once".into(),
                    found: format!("{:?} again", crate::excerpt::excerpt(later)),
                }));
            }
        }
        Ok(())
    }
}
