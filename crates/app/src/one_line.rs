//! Puts a message on one line, so that a stranger's text cannot begin a new line of the log.

/// Characters of one message: a trap's backtrace through all policies fits.
const MAX_CHARS: usize = 16_384;

/// Returns a message on one line. A trap's backtrace has many lines, and a log entry is one. Text of a caller or a
/// component can neither begin another line nor control a terminal.
pub fn one_line(message: &dyn std::fmt::Display) -> String {
    let text = message.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut line = String::with_capacity(text.len());
    for character in lines.join("; ").chars().take(MAX_CHARS) {
        if is_unseen(character) {
            line.extend(character.escape_unicode());
        } else {
            line.push(character);
        }
    }
    line
}

/// Characters that change the look of a line without being visible: control characters, line and paragraph separators,
/// and marks of direction.
fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_on_its_line_whatever_is_in_it() {
        for (text, line) in [
            ("plain é", "plain é"),
            ("  a\n\n   b\r\nc  ", "a; b; c"),
            ("a\rb", "a\\u{d}b"),
            ("\u{1b}[31mred\u{7f}\u{9b}", "\\u{1b}[31mred\\u{7f}\\u{9b}"),
            ("a\u{2028}b\u{202e}c\u{0}", "a\\u{2028}b\\u{202e}c\\u{0}"),
        ] {
            assert_eq!(one_line(&text), line);
        }
        let long = "\u{1}".repeat(2 * MAX_CHARS);
        assert_eq!(one_line(&long).len(), "\\u{1}".len() * MAX_CHARS);
    }
}
