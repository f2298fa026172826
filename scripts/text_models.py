#!/usr/bin/env python3
"""Makes tests/data/texts: three tiny models that read text, in the layout of a Hugging Face export, and golden.json, which
has what ONNX Runtime and the package `tokenizers` answer with them. No package on PyPI was found with a small text classifier,
cross-encoder or tagger with its tokenizer; these are real graphs with weights that are computed here.

    toxic      counts of words, weighed: two independent labels (sigmoid)
    overlap    how much of the first text is in the second (cross-encoder, one logit)
    people     names and places by their words (token classification, IOB)

    python3 -m venv .venv && .venv/bin/pip install tokenizers==0.23.3 numpy onnx==1.23.2 onnxruntime==1.32.0
    .venv/bin/python scripts/text_models.py
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

TO = pathlib.Path(__file__).resolve().parent.parent / "tests/data/texts"
WORDS = """the a of in is are you it this that and to cat dog sat on mat rug lay sun moon tax law court rate bank paid
bad awful stupid idiot hate kill hurt nice good kind love ann bob carla berlin paris oslo met lives went with from not very
water river boat fish bread oven bake flour sea blue red green car road drive train fast slow . , ! ? ' 1 2 3""".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SUFFIXES = ["##s", "##ed", "##ing", "##ly"]
INSULT, THREAT = {"bad": 1, "awful": 2, "stupid": 5, "idiot": 6, "hate": 3}, {"kill": 7, "hurt": 5, "hate": 2}
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
OPSET, IR_VERSION = 14, 8


def tokenizer():
    vocabulary = {piece: number for number, piece in enumerate(SPECIAL + WORDS + SUFFIXES)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(SPECIAL)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made, vocabulary


def save(name, nodes, weights, output, config, toml):
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", "T"]) for n in ("input_ids", "attention_mask", "token_type_ids")]
    graph = helper.make_graph(
        nodes, name, inputs, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="penstock")
    onnx.checker.check_model(made, full_check=True)
    folder = TO / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    onnx.save(made, folder / "1" / "model.onnx")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "adapter.json").write_text('{ "max_tokens": 64 }\n')
    (folder / "model.toml").write_text(toml)
    return made.SerializeToString()


def contract(description, output, adapter, more=""):
    inputs = "".join(f'\n[[inputs]]\nname = "{n}"\ndatatype = "INT64"\nshape = ["N", "T"]\n' for n in ("input_ids", "attention_mask", "token_type_ids"))
    return f'''description = "{description}"
{inputs}
[[outputs]]
name = "logits"
datatype = "FP32"
shape = {json.dumps(output)}

[axes.T]
min = 2
max = 64

[adapter]
name = "{adapter}"
config = "adapter.json"
tokenizer = "tokenizer.json"
model_config = "config.json"

[limits]
max_items = 8
{more}'''


def toxic(vocabulary):
    weights = np.zeros((len(vocabulary), 2), np.float32)
    for label, words in enumerate((INSULT, THREAT)):
        for word, weight in words.items():
            weights[vocabulary[word], label] = weight
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["each", "wide"], ["shown"]),
        helper.make_node("ReduceSum", ["shown", "middle"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["types"], ["second"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["second", "zero"], ["none"]),
        helper.make_node("Add", ["sum", "bias"], ["biased"]),
        helper.make_node("Add", ["biased", "none"], ["logits"]),
    ]
    constants = {"weights": weights, "last": np.array([2]), "middle": np.array([1]), "zero": np.zeros((1, 1), np.float32), "bias": np.array([-3, -4], np.float32)}
    config = {"id2label": {"0": "insult", "1": "threat"}, "problem_type": "multi_label_classification"}
    moderation = '\n[moderation.categories]\nharassment = "insult"\n"harassment/threatening" = { label = "threat", threshold = 0.8 }\n'
    return save("toxic", nodes, constants, ["N", 2], config, contract("Insults and threats by their words", ["N", 2], "text-classification", moderation))


def overlap(vocabulary):
    vectors = np.eye(len(vocabulary), dtype=np.float32)
    vectors[: len(SPECIAL)] = 0
    for word in "the a of in is are you it this that and to . , ! ? '".split():
        vectors[vocabulary[word]] *= 0.1
    nodes = [
        helper.make_node("Gather", ["vectors", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["mask", "types"], ["in_second"]),
        helper.make_node("Sub", ["mask", "in_second"], ["in_first"]),
    ]
    for which in ("first", "second"):
        nodes += [
            helper.make_node("Unsqueeze", [f"in_{which}", "last"], [f"wide_{which}"]),
            helper.make_node("Mul", ["each", f"wide_{which}"], [f"of_{which}"]),
            helper.make_node("ReduceSum", [f"of_{which}", "middle"], [f"sum_{which}"], keepdims=0),
        ]
    nodes += [
        helper.make_node("Min", ["sum_first", "sum_second"], ["common"]),
        helper.make_node("ReduceSum", ["common", "middle"], ["shared"], keepdims=1),
        helper.make_node("ReduceSum", ["sum_first", "middle"], ["all"], keepdims=1),
        helper.make_node("Add", ["all", "little"], ["some"]),
        helper.make_node("Div", ["shared", "some"], ["share"]),
        helper.make_node("Mul", ["share", "six"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "three"], ["logits"]),
    ]
    constants = {"vectors": vectors, "last": np.array([2]), "middle": np.array([1]), "little": np.array([[0.01]], np.float32), "six": np.array([[6]], np.float32), "three": np.array([[3]], np.float32)}
    return save("overlap", nodes, constants, ["N", 1], {"id2label": {"0": "LABEL_0"}}, contract("How much of the first text is in the second", ["N", 1], "cross-encoder"))


def people(vocabulary):
    weights = np.zeros((len(vocabulary), len(TAGS)), np.float32)
    weights[:, 0] = 2
    for tag, words in ((1, ["ann", "bob", "carla"]), (3, ["berlin", "paris", "oslo"])):
        for word in words:
            weights[vocabulary[word], tag] = 5
    weights[vocabulary["##s"], 2] = 4
    weights[vocabulary["##s"], 4] = 3
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["each"]),
        helper.make_node("Add", ["attention_mask", "token_type_ids"], ["some"]),
        helper.make_node("Cast", ["some"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["each", "wide"], ["logits"]),
    ]
    config = {"id2label": {str(number): tag for number, tag in enumerate(TAGS)}}
    return save("people", nodes, {"weights": weights, "last": np.array([2])}, ["N", "T", len(TAGS)], config, contract("Names and places by their words", ["N", "T", len(TAGS)], "token-classification"))


def main():
    made, vocabulary = tokenizer()
    texts = [
        "You are nice and kind.", "you STUPID idiot!", "I hate this awful boat", "Kill the moon, hurt it", "The cat sat on the mat.",
        "A dog lay on a red rug", "The bank paid the tax rate to the court", "bread, flour and an oven", "Idiots hated it", "hätE kïll", "bad " * 9,
    ]
    queries = ["cat on mat", "tax law", "bake bread", "kill"]
    tagged = ["Ann met Bob in Berlin.", "carla went from Paris to Oslo", "Bobs boat", "the sea is blue", "ANN lives, Bérlin"]
    run = lambda model, pairs: session_run(model, made, pairs)
    golden = {"texts": texts, "queries": queries, "tagged": tagged}
    sigmoid = lambda x: (1 / (1 + np.exp(-x.astype(np.float64)))).tolist()
    golden["toxic"] = sigmoid(run(toxic(vocabulary), texts))
    scorer = overlap(vocabulary)
    golden["overlap"] = [sigmoid(run(scorer, [(query, text) for text in texts])[:, 0]) for query in queries]
    tagger = people(vocabulary)
    golden["people"] = []
    for text in tagged:
        encoded = made.encode(text)
        best = run(tagger, [text])[0].argmax(-1)
        golden["people"].append([
            [TAGS[tag], *span] for tag, span, special in zip(best, encoded.offsets, encoded.special_tokens_mask) if not special and tag
        ])
    for name in ("toxic", "overlap", "people"):
        made.save(str(TO / name / "tokenizer.json"))
    (TO / "golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=True) + "\n")


def session_run(model, tokenizer, items):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    tokenizer.enable_padding(pad_id=0)
    encoded = tokenizer.encode_batch(items)
    tokenizer.no_padding()
    column = lambda read: np.array([read(one) for one in encoded], np.int64)
    feeds = {"input_ids": column(lambda e: e.ids), "attention_mask": column(lambda e: e.attention_mask), "token_type_ids": column(lambda e: e.type_ids)}
    return session.run(None, feeds)[0]


if __name__ == "__main__":
    main()
