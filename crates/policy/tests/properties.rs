//! Untrusted input of the policies: no bytes cause a panic, and every text has one meaning.

use penstock_policy::document;
use penstock_policy::idempotency::{IdempotencyKey, Outcome};
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_bytes_are_a_key_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(key) = IdempotencyKey::parse(&bytes) {
            prop_assert!((1..=255).contains(&key.as_str().len()));
            prop_assert!(key.as_str().bytes().all(|b| (0x20..0x7f).contains(&b)));
        }
    }

    #[test]
    fn every_key_can_be_quoted_and_means_the_same(text in "[ -~]{1,255}") {
        let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let key = IdempotencyKey::parse(quoted.as_bytes());
        prop_assert_eq!(key.as_ref().map(IdempotencyKey::as_str), Ok(text.as_str()));
        if let Ok(bare) = IdempotencyKey::parse(text.as_bytes())
            && !text.starts_with('"')
            && text.trim() == text
        {
            prop_assert_eq!(bare.as_str(), text);
        }
    }

    #[test]
    fn any_bytes_are_a_record_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Some(outcome) = Outcome::decode(&bytes) {
            prop_assert_eq!(Outcome::decode(&outcome.encode()), Some(outcome));
        }
    }

    #[test]
    fn any_text_is_a_policy_or_a_sentence(text in "[\\[\\]a-z_=\"0-9 .\n-]{0,200}") {
        for said in [
            document::quota(&text).err(),
            document::idempotency(&text).err(),
            document::usage(&text).err(),
        ]
        .into_iter()
        .flatten()
        {
            prop_assert!(!said.is_empty());
        }
    }
}
