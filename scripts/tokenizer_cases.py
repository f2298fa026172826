#!/usr/bin/env python3
"""Writes crates/adapters/tests/data/tokenizers.json: small tokenizers of every kind, and what the package `tokenizers`
makes of a table of texts with each. The tokenizers are trained here, on the texts themselves.

    python3 -m venv .venv && .venv/bin/pip install tokenizers==0.23.3
    .venv/bin/python scripts/tokenizer_cases.py

With FILE arguments it prints the cases of those tokenizer.json files in the same form.
"""

import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

DATA = pathlib.Path(__file__).resolve().parent.parent / "crates/adapters/tests/data"
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def texts():
    """The texts: scripts, marks, blanks, code, and text made at random from all of it."""
    table = json.loads((DATA / "wordpiece.json").read_text())["texts"]
    # Characters that Unicode assigned after the package's tables were made are left out.
    own = [text for text, _ in table if "unassigned" not in text and "tag " not in text]
    own += [
        "def main():\n    return {'a': [1, 2, 3]}\n\n\n# done   ",
        "tabs\t\tand   three   blanks \n \n end ",
        "I'm you're WE'LL he'd They've IT'S don't",
        "12345678 1.5e-10 ١٢٣ Ⅷ ½",
        "New  York\u00a0City \u3000 end",
        "\u1112\u1161\u11ab\u1100\u116e\u11a8 e\u0301\u0323 \u0928\u093c \u212b \u2126 \ufb01 \u1e9b\u0323",
        "<tool> call</tool> x<tool>y  <sep>  z wordy word words",
        "▁already ▁▁ marked▁",
    ]
    rng = random.Random(7)
    letters = sorted({c for text in own for c in text})
    words = [word for text in own for word in text.split(" ") if word]
    for _ in range(60):
        own.append(" ".join(rng.choice(words) for _ in range(rng.randrange(1, 8))))
    for _ in range(40):
        own.append("".join(rng.choice(letters) for _ in range(rng.randrange(1, 24))))
    return own


def trained(name, model, trainer, corpus, normalizer=None, splitter=None, post=None, added=()):
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator(corpus, trainer)
    if added:
        tokenizer.add_tokens(list(added))
    if post is not None:
        tokenizer.post_processor = post(tokenizer)
    return name, tokenizer


def bert(tokenizer):
    return processors.BertProcessing(("[SEP]", tokenizer.token_to_id("[SEP]")), ("[CLS]", tokenizer.token_to_id("[CLS]")))


def roberta(tokenizer):
    return processors.RobertaProcessing(("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>")))


def template(tokenizer):
    names = ["<s>", "</s>"]
    return processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:1 </s>:1", special_tokens=[(n, tokenizer.token_to_id(n)) for n in names]
    )


def prefix(tokenizer):
    step = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return processors.Sequence([processors.ByteLevel(trim_offsets=False), step])


def tokenizers():
    corpus = texts()
    berts = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    robertas = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    small = {"vocab_size": 900, "show_progress": False}
    wordpiece = lambda: models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100)
    yield trained(
        "bert-uncased", wordpiece(), trainers.WordPieceTrainer(special_tokens=berts, **small), corpus,
        normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), bert,
    )
    yield trained(
        "bert-cased", wordpiece(), trainers.WordPieceTrainer(special_tokens=berts, **small), corpus,
        normalizers.BertNormalizer(lowercase=False, strip_accents=False), pre_tokenizers.BertPreTokenizer(), bert,
    )
    yield trained(
        "nfkd-strip-accents", wordpiece(), trainers.WordPieceTrainer(special_tokens=berts, **small), corpus,
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()]),
        pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]), bert,
        added=[AddedToken("<tool>", normalized=False), AddedToken("word", single_word=True, normalized=True)],
    )
    yield trained(
        "roberta", models.BPE(), trainers.BpeTrainer(special_tokens=robertas, initial_alphabet=bytes_, **small), corpus,
        None, pre_tokenizers.ByteLevel(add_prefix_space=False), roberta,
        added=[AddedToken("<sep>", lstrip=True, rstrip=True, normalized=False)],
    )
    yield trained(
        "gpt2-prefix-nfc", models.BPE(), trainers.BpeTrainer(special_tokens=robertas, initial_alphabet=bytes_, **small), corpus,
        normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=True), None,
    )
    for name, pattern in (("cl100k", CL100K), ("o200k", O200K)):
        yield trained(
            name, models.BPE(ignore_merges=True), trainers.BpeTrainer(special_tokens=robertas, initial_alphabet=bytes_, **small), corpus,
            None,
            pre_tokenizers.Sequence([
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]),
            prefix,
        )
    yield trained(
        "bpe-suffix", models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", fuse_unk=True),
        trainers.BpeTrainer(special_tokens=robertas, end_of_word_suffix="</w>", limit_alphabet=80, **small), corpus,
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]), pre_tokenizers.WhitespaceSplit(), roberta,
    )
    llama = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    hexes = [f"<0x{byte:02X}>" for byte in range(256)]
    llama.train_from_iterator(
        [text.replace(" ", "▁ ") for text in corpus],
        trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>", *hexes], limit_alphabet=70, **{**small, "vocab_size": 1100}),
    )
    spec = json.loads(llama.to_str())
    # The 256 bytes are ordinary pieces there, and no added tokens.
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    llama = Tokenizer.from_str(json.dumps(spec))
    llama.post_processor = template(llama)
    yield "llama-byte-fallback", llama
    for name, scheme, split in (("unigram-always", "always", True), ("unigram-first", "first", True), ("unigram-whole", "always", False)):
        yield trained(
            name, models.Unigram(), trainers.UnigramTrainer(special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", **small), corpus,
            normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]),
            pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split), template,
            added=[AddedToken("<tool>", normalized=False)],
        )
    splits = [
        ("removed", pre_tokenizers.Split(Regex("[,.]"), "removed")),
        ("previous", pre_tokenizers.Split("a", "merged_with_previous")),
        ("next", pre_tokenizers.Split("a", "merged_with_next")),
        ("contiguous", pre_tokenizers.Punctuation("contiguous")),
        ("inverted", pre_tokenizers.Split(Regex(r"\w+"), "isolated", invert=True)),
        ("digits", pre_tokenizers.Digits(individual_digits=False)),
        ("delimiter", pre_tokenizers.CharDelimiterSplit("e")),
    ]
    for name, splitter in splits:
        yield trained(
            f"words-{name}", models.WordLevel(unk_token="[UNK]"),
            trainers.WordLevelTrainer(special_tokens=berts, vocab_size=300, show_progress=False), corpus, normalizers.NFD(), splitter,
        )


def case(name, tokenizer, table):
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rows = []
    for index, text in enumerate(table):
        encoded = tokenizer.encode(text)
        rows.append([text, None, None, encoded.ids, encoded.type_ids])
        if index % 6 == 0:
            other = table[(index * 7 + 3) % len(table)]
            most = [None, 12, 9, 30][index // 6 % 4]
            if most:
                tokenizer.enable_truncation(most)
            encoded = tokenizer.encode(text, other)
            rows.append([text, other, most, encoded.ids, encoded.type_ids])
            tokenizer.no_truncation()
    return {"name": name, "tokenizer": json.loads(tokenizer.to_str()), "rows": rows}


def main():
    table = texts()
    if len(sys.argv) > 1:
        cases = [case(path, Tokenizer.from_file(path), table) for path in sys.argv[1:]]
        json.dump(cases, sys.stdout, ensure_ascii=True)
        return
    cases = [case(name, tokenizer, table) for name, tokenizer in tokenizers()]
    to = DATA / "tokenizers.json"
    to.write_text(json.dumps(cases, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(f"{to}: {len(cases)} tokenizers, {sum(len(case['rows']) for case in cases)} rows, {to.stat().st_size} bytes")


if __name__ == "__main__":
    main()
