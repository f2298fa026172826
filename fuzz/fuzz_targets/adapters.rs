//! Content for the adapters: no panic, and what an adapter makes of it is what its model's contract takes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_adapters::{Adapter, Blob, Builtin, Item, Part, Step};
use std::sync::LazyLock;

const SENTENCE: &str = r###"{"max_tokens":16,"dimensions":2,
    "vocabulary":"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n##a\n##b\n.\n"}"###;

struct Adapters(Vec<Builtin>);
// SAFETY: libFuzzer runs a target on one thread.
unsafe impl Sync for Adapters {}
unsafe impl Send for Adapters {}

static ADAPTERS: LazyLock<Adapters> = LazyLock::new(|| {
    let image = include_bytes!("../../models/cls/image.json");
    let open = |name, config: &[u8]| Builtin::open(name, config).unwrap_or_else(|e| panic!("{e}"));
    Adapters(vec![
        open("digits", b""),
        open("image", image),
        open("silero-vad", b""),
        open("sentence", SENTENCE.as_bytes()),
    ])
});

fuzz_target!(|bytes: &[u8]| {
    let Some((which, body)) = bytes.split_first() else {
        return;
    };
    let adapters = &ADAPTERS.0;
    let adapter = &adapters[usize::from(which % 8) % adapters.len()];
    let tokens: Vec<u32> = body.iter().map(|b| u32::from(*b) % 12).collect();
    let blob = Blob {
        media_type: None,
        body,
    };
    // Two of the same, so that a batch is made.
    let part = match (which / 8 % 2, std::str::from_utf8(body)) {
        (0, Ok(text)) if matches!(adapter, Builtin::Sentence(_)) => Part::Text(text),
        (1, _) if matches!(adapter, Builtin::Sentence(_)) => Part::Tokens(&tokens),
        _ => Part::Bytes(blob),
    };
    let items = [Item { parts: vec![part] }, Item { parts: vec![part] }];
    match adapter.prepare(&items) {
        Ok(Step::Tensors(tensors)) => assert!(tensors.iter().all(|tensor| tensor.is_consistent())),
        Ok(Step::Answers(answers)) => assert_eq!(answers.len(), items.len()),
        Err(refusal) => assert!(refusal.item < 2),
    }
});
