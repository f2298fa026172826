//! Decides how the messages of runtimes reach a caller: on one line, bounded, and without paths of this machine.

use crate::error::NnError;

/// The error of a run that was ended because it needed `wanted` bytes.
pub(crate) fn too_much_memory(wanted: usize, most: usize) -> NnError {
    NnError::too_large(format!(
        "the model's run needs {wanted} bytes of memory and may use {most}: send fewer or smaller items, or ask the \
         operator to raise models.run_memory_bytes, or run_memory_bytes of [engine] in model.toml"
    ))
}

/// The longest message that a backend may add to an error of ours. A longer one is cut in its middle: runtimes put the
/// place first and the reason last.
const MAX_BACKEND_MESSAGE_CHARS: usize = 480;

/// Characters of those that are kept from the message's beginning.
const MESSAGE_HEAD_CHARS: usize = 160;

/// Bytes of a message that are looked at, from its beginning and from its end.
const MAX_LOOKED_AT_BYTES: usize = 16 * 1024;

/// A backend's own message, fit for a caller: one line, bounded, and without the places in the runtime's
/// source or on this machine's disk that runtimes like to mention.
pub(crate) fn presentable(message: &str) -> String {
    let head_end = message.floor_char_boundary(MAX_LOOKED_AT_BYTES);
    let tail_start = message.ceil_char_boundary(message.len().saturating_sub(MAX_LOOKED_AT_BYTES));
    let whole = tail_start < head_end;
    let (head, tail) = match whole {
        true => (message, ""),
        false => (&message[..head_end], &message[tail_start..]),
    };
    let mut text = String::new();
    for word in head.split_whitespace().chain(tail.split_whitespace()) {
        // "/onnxruntime_src/onnxruntime/core/…/tensor.cc:42" and "/srv/models/m/1/model.onnx"; a node's name
        // ("/encoder/layer.0/MatMul") is worth keeping and has no file's ending.
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '/' && c != '.');
        let names_a_file = bare.contains('/')
            && (bare.starts_with("/onnxruntime_src")
                || [
                    ".cc", ".cpp", ".h", ".hpp", ".rs", ".onnx", ".so", ".data", "_data", ".xml",
                    ".bin",
                ]
                .iter()
                .any(|end| {
                    bare.split(':')
                        .next()
                        .is_some_and(|path| path.ends_with(end))
                        || bare.contains(&format!("{end}:"))
                }));
        if names_a_file {
            continue;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    cut_in_the_middle(text)
}

/// `text` without its middle if it is too long. Words stay whole, so that a number is never cut.
fn cut_in_the_middle(text: String) -> String {
    let chars = text.chars().count();
    if chars <= MAX_BACKEND_MESSAGE_CHARS {
        return text;
    }
    let byte = |at: usize| {
        text.char_indices()
            .nth(at)
            .map_or(text.len(), |(byte, _)| byte)
    };
    let tail_chars = MAX_BACKEND_MESSAGE_CHARS - MESSAGE_HEAD_CHARS;
    let (head_end, tail_start) = (byte(MESSAGE_HEAD_CHARS), byte(chars - tail_chars));
    // A word that is longer than its part of the message is cut all the same.
    let head = &text[..head_end];
    let head = head.rfind(' ').map_or(head, |space| &head[..space]);
    let tail = &text[tail_start..];
    let tail = tail.find(' ').map_or(tail, |space| &tail[space + 1..]);
    format!("{head} … {tail}")
}

/// Returns whether a run failed because of a value that the caller sent: an index, as far as runtimes say so.
pub(crate) fn blames_an_index(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "out of bounds",
        "out of data bounds",
        "out of range",
        "out-of-bounds",
        "invalid index",
        "invalid indices",
        "must be less than axis length",
    ]
    .iter()
    .any(|part| message.contains(part))
}

/// The message of a panic.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message");
    presentable(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backends_message_loses_its_paths_and_keeps_its_node_names() {
        let text = presentable(
            "Non-zero status code returned while running MatMul node. Name:'/encoder/layer.0/MatMul' Status Message: \
             /onnxruntime_src/onnxruntime/core/providers/cpu/math/matmul_helper.h:60 void Compute(...) \
             left operand\n cannot broadcast; Load model from /srv/models/m/1/model.onnx failed",
        );
        assert!(text.contains("'/encoder/layer.0/MatMul'"), "{text}");
        assert!(
            !text.contains("/onnxruntime_src") && !text.contains("/srv") && !text.contains('\n'),
            "{text}"
        );
        assert!(presentable(&"x".repeat(100_000)).chars().count() <= MAX_BACKEND_MESSAGE_CHARS + 3);
        assert!(
            presentable(&"x y ".repeat(10_000)).chars().count() <= MAX_BACKEND_MESSAGE_CHARS + 3
        );
    }

    #[test]
    fn a_long_message_keeps_its_cause_at_the_end_and_every_number_whole() {
        for filler in [100, 3_000, 100_000] {
            let message = format!(
                "Non-zero status code returned while running Gather node. Name:'Gather_12345' {} indices element out \
                 of data bounds, idx=123456789 must be within the inclusive range [-30522,30521]",
                "while at it ".repeat(filler / 12)
            );
            let text = presentable(&message);
            assert!(
                text.starts_with("Non-zero status code") && text.contains("'Gather_12345'"),
                "{text}"
            );
            assert!(
                text.ends_with("idx=123456789 must be within the inclusive range [-30522,30521]"),
                "{text}"
            );
            assert!(
                text.chars().count() <= MAX_BACKEND_MESSAGE_CHARS + 3,
                "{text}"
            );
        }
        let numbers: Vec<String> = (100_000..100_200).map(|n| n.to_string()).collect();
        let text = presentable(&numbers.join(" "));
        assert!(
            text.split(' ').all(|word| word == "…" || word.len() == 6),
            "{text}"
        );
        assert!(text.ends_with("100199"), "{text}");
    }
}
