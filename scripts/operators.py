#!/usr/bin/env python3
"""Serves ONNX's operator tests and compares the answers with the golden outputs, over HTTP as bytes and as JSON.

usage: operators.py --server PENSTOCK --data FOLDER --backend NAME [--only PATTERN] [--known FILE [--write]] [--out FILE]

FOLDER holds one folder for each test: model.onnx and test_data_set_*/{input,output}_*.pb. Each becomes a model whose
contract has the lengths of its first data set. What came of each test is a line: status, test, reason.

  right    every data set is answered as the golden outputs say, as bytes and as JSON
  sample   the same, with the test's own input as sample.json: the server asked for one, because no made-up input runs
  apart    the answer is apart from the golden one for a reason in APART, and is what that reason says
  wrong    an answer differs
  refused  the model is not served, or the call is refused with a 4xx status; the reason is the server's
  first-run  the model is refused because made-up input does not run, and a sample cannot be given
  error    a call is answered with a 5xx status
  crashed  the server ended
  unloadable  ONNX Runtime for Python does not load it either (with --denominator)

A contract allows NaN and infinity at inputs that have some in the test's data. Three kinds of golden outputs are not
compared number by number: see CORRECTED, dropped_out() and TOLERANCES.
"""
import argparse, fnmatch, glob, http.client, json, os, re, shutil, struct, sys, tempfile, time

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto as T, numpy_helper

from served import Connection, Server

# ONNX's element types that tensors carry, under the protocol's names.
NAMES = {T.FLOAT: "FP32", T.UINT8: "UINT8", T.INT8: "INT8", T.UINT16: "UINT16", T.INT16: "INT16", T.INT32: "INT32",
         T.INT64: "INT64", T.STRING: "BYTES", T.BOOL: "BOOL", T.FLOAT16: "FP16", T.DOUBLE: "FP64", T.UINT32: "UINT32",
         T.UINT64: "UINT64", T.BFLOAT16: "BF16", T.INT2: "INT2", T.UINT2: "UINT2", T.INT4: "INT4", T.UINT4: "UINT4",
         T.FLOAT8E4M3FN: "FP8E4M3FN", T.FLOAT8E4M3FNUZ: "FP8E4M3FNUZ", T.FLOAT8E5M2: "FP8E5M2", T.FLOAT8E5M2FNUZ: "FP8E5M2FNUZ"}
DTYPES = {"FP32": np.float32, "UINT8": np.uint8, "INT8": np.int8, "UINT16": np.uint16, "INT16": np.int16,
          "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_, "FP16": np.float16, "FP64": np.float64,
          "UINT32": np.uint32, "UINT64": np.uint64, "INT2": np.int8, "UINT2": np.uint8, "INT4": np.int8, "UINT4": np.uint8}
# Elements of 8 bits with a point. ml_dtypes comes with onnx; it has a byte for each element of 2 and 4 bits, as Penstock has.
FP8 = {"FP8E4M3FN": ml_dtypes.float8_e4m3fn, "FP8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
       "FP8E5M2": ml_dtypes.float8_e5m2, "FP8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz}
# A server takes at most 1024 models, and one that ends costs the tests of its batch a second start.
BATCH = 200
# Seconds until the models of a batch have been tried; OpenVINO takes most of one for each.
LOADING = 240
# Characters of a reason in the lists.
LONGEST_REASON = 2000
# Relative and absolute, as onnx.backend.test compares; those of half precision are what two roundings differ in. The
# third is relative to the largest element: an element near 0 may be a sum of large ones (DFT), each with its rounding.
TOLERANCES = {"FP16": (1e-2, 1e-3, 0), "BF16": (2e-2, 2e-3, 0), "FP32": (1e-3, 1e-5, 1e-6), "FP64": (1e-3, 1e-7, 1e-14),
              **{name: (0, 0, 0) for name in ("FP8E4M3FN", "FP8E4M3FNUZ", "FP8E5M2", "FP8E5M2FNUZ")}}
# Tests whose golden outputs ONNX corrected after the release that holds them: QLinearMatMul wrapped around where the
# specification saturates, and Attention applied softcap and bias in another order. The reference implementation of the
# pinned later release gives the outputs to compare with.
CORRECTED = ["test_qlinearmatmul_?D_int8_float*", "test_attention_*_qk_matmul_bias*", "test_attention_*_qk_matmul_softcap"]


# Tests in which a runtime reads the specification otherwise than the golden output does, by backend: why, and what the
# answer is compared with instead. "runtime" is what ONNX Runtime's own Python package answers, "step" allows one step of
# quantisation where a value lies halfway between two.
HALFWAY = "adds the zero point before it rounds, or divides by multiplying: a value halfway between two steps takes the other"
CORNERS = "counts whole elements of the output for align_corners, and the golden output the length before it is rounded"
APART = [
    ("onnxruntime", "test_maxunpool_export_with_output_shape", "runtime",
     "takes indices as places in output_shape, and the golden output as places in the shape without it"),
    ("onnxruntime", "test_resize_downsample_scales_*_align_corners", "runtime", CORNERS),
    ("openvino", "test_resize_downsample_scales_*_align_corners", "runtime", CORNERS),
    ("openvino", "test_dynamicquantizelinear", "step", HALFWAY),
    ("openvino", "test_dynamicquantizelinear_expanded", "step", HALFWAY),
    ("openvino", "test_quantizelinear_uint16", "step", HALFWAY),
]


class Skip(Exception):
    """Why a test cannot be put to the server at all."""


class Tensor:
    def __init__(self, datatype, shape, data):
        self.datatype, self.shape, self.data = datatype, list(shape), data

    @staticmethod
    def of(array, element):
        if element not in NAMES:
            raise Skip(f"{T.DataType.Name(element)} is no type of the protocol")
        datatype = NAMES[element]
        if datatype == "BYTES":
            flat = [x if isinstance(x, bytes) else str(x).encode() for x in array.reshape(-1)]
            return Tensor(datatype, array.shape, b"".join(struct.pack("<I", len(x)) + x for x in flat))
        if datatype in ("INT2", "UINT2", "INT4", "UINT4"):
            array = array.astype(DTYPES[datatype])
        return Tensor(datatype, array.shape, np.ascontiguousarray(array).tobytes())

    def strings(self):
        found, at = [], 0
        while at < len(self.data):
            (n,) = struct.unpack_from("<I", self.data, at)
            found.append(self.data[at + 4:at + 4 + n])
            at += 4 + n
        return found

    def numbers(self):
        if self.datatype == "BF16":
            wide = np.frombuffer(self.data, np.uint16).astype(np.uint32) << 16
            return wide.view(np.float32)
        if self.datatype in FP8:
            return np.frombuffer(self.data, FP8[self.datatype]).astype(np.float32)
        return np.frombuffer(self.data, DTYPES[self.datatype])

    def is_finite(self):
        return self.datatype not in TOLERANCES or np.isfinite(self.numbers().astype(np.float64)).all()

    def as_json(self):
        """The elements as JSON has them, or None where it has no word for one of them."""
        if self.datatype == "BYTES":
            try:
                return [x.decode() for x in self.strings()]
            except UnicodeDecodeError:
                return None
        numbers = self.numbers()
        if not self.is_finite():
            return None
        return [x.item() for x in (numbers.astype(np.float64) if self.datatype in ("FP16", "BF16", *FP8) else numbers)]


def from_json(output):
    """A tensor of an output in JSON; None stands for numbers that are not finite."""
    datatype, data = output["datatype"], output["data"]
    if datatype == "BYTES":
        raw = b"".join(struct.pack("<I", len(x.encode())) + x.encode() for x in data)
    elif datatype == "BF16":
        wide = np.array([np.nan if x is None else x for x in data], np.float32).view(np.uint32)
        raw = (wide >> 16).astype(np.uint16).tobytes()
    elif datatype in FP8:
        raw = np.array([np.nan if x is None else x for x in data], np.float32).astype(FP8[datatype]).tobytes()
    elif datatype in TOLERANCES:
        raw = np.array([np.nan if x is None else x for x in data], DTYPES[datatype]).tobytes()
    else:
        raw = np.array(data, DTYPES[datatype]).tobytes()
    return Tensor(datatype, output["shape"], raw)


def array_of(proto):
    array = numpy_helper.to_array(proto)
    return Tensor.of(array, proto.data_type)


def read(path, info):
    """The tensors that carry one value of a test, by name. An empty dict stands for an optional that is not there."""
    kind = info.type.WhichOneof("value")
    raw = open(path, "rb").read()
    name = info.name
    if kind == "optional_type":
        inner = info.type.optional_type.elem_type
        proto = onnx.OptionalProto.FromString(raw)
        if proto.elem_type == onnx.OptionalProto.TENSOR and proto.HasField("tensor_value"):
            return {name: array_of(proto.tensor_value)}
        if proto.elem_type == onnx.OptionalProto.SEQUENCE and proto.HasField("sequence_value"):
            return sequence(name, proto.sequence_value, inner.sequence_type.elem_type.tensor_type.elem_type)
        return {}
    if kind == "sequence_type":
        inner = info.type.sequence_type.elem_type
        if inner.WhichOneof("value") != "tensor_type":
            raise Skip("a sequence of other than tensors")
        return sequence(name, onnx.SequenceProto.FromString(raw), inner.tensor_type.elem_type)
    if kind != "tensor_type":
        raise Skip(f"{kind} is no tensor, sequence or optional")
    return {name: array_of(onnx.TensorProto.FromString(raw))}


def sequence(name, proto, element):
    """The two tensors that carry a sequence: docs/TYPES.md."""
    if element not in NAMES:
        raise Skip(f"{T.DataType.Name(element)} is no type of the protocol")
    tensors = [array_of(one) for one in proto.tensor_values]
    axes = max((len(t.shape) for t in tensors), default=0)
    count = sum(int(np.prod(t.shape, dtype=np.int64)) for t in tensors)
    lengths = [t.shape + [-1] * (axes - len(t.shape)) for t in tensors]
    shapes = np.array(lengths, np.int64).reshape(len(tensors), axes)
    return {name: Tensor(NAMES[element], [count], b"".join(t.data for t in tensors)),
            f"{name}.shapes": Tensor("INT64", shapes.shape, shapes.tobytes())}


class Case:
    def __init__(self, folder):
        self.name, self.folder = os.path.basename(folder), folder
        self.served = re.sub(r"[^a-z0-9_-]", "-", self.name.lower())
        self.graph = onnx.load(os.path.join(folder, "model.onnx"), load_external_data=False).graph
        given = {one.name for one in self.graph.initializer}
        self.inputs = [one for one in self.graph.input if one.name not in given]
        self.outputs = list(self.graph.output)
        self.sets = []
        for data in sorted(glob.glob(os.path.join(folder, "test_data_set_*"))):
            values = lambda what, infos: [read(os.path.join(data, f"{what}_{i}.pb"), info) for i, info in enumerate(infos)]
            sent, given = values("input", self.inputs), values("output", self.outputs)
            if any(fnmatch.fnmatch(self.name, pattern) for pattern in CORRECTED):
                given = self.corrected(data)
            self.sets.append((sent, given))

    def corrected(self, data):
        """The outputs by ONNX's reference implementation."""
        from onnx.reference import ReferenceEvaluator
        return self.computed(data, ReferenceEvaluator(onnx.load(os.path.join(self.folder, "model.onnx"))))

    def by_runtime(self, data):
        """The outputs by ONNX Runtime's Python package."""
        import onnxruntime
        path = os.path.join(self.folder, "model.onnx")
        return self.computed(data, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]))

    def computed(self, data, engine):
        protos = [onnx.TensorProto.FromString(open(os.path.join(data, f"input_{i}.pb"), "rb").read())
                  for i, _ in enumerate(self.inputs)]
        feeds = {info.name: numpy_helper.to_array(proto) for info, proto in zip(self.inputs, protos)}
        found = engine.run(None, feeds)
        return [{info.name: Tensor.of(array, info.type.tensor_type.elem_type)} for info, array in zip(self.outputs, found)]

    def dropped_out(self, sent, got):
        """The fault of outputs that depend on chance: those of Dropout in training. None if they are sound."""
        values = {name: tensor.numbers() for tensors in sent for name, tensor in tensors.items()}
        node = self.graph.node[0]
        x, ratio = values[node.input[0]], float(values[node.input[1]].item()) if node.input[1] else 0.5
        y = got[node.output[0]].numbers()
        kept = np.isclose(y, x / (1 - ratio), rtol=1e-5)
        if not (kept | (y == 0)).all():
            return "an element is neither 0 nor scaled"
        if not 0 < kept.sum() < kept.size:
            return "all elements are dropped, or none"
        if len(node.output) > 1 and not (got[node.output[1]].numbers() == kept)[x != 0].all():
            return "the mask does not say which elements are dropped"
        return None

    def stepped(self, sent, got, wanted):
        """The fault of quantised outputs, except one step if a value lies halfway. None if they are sound."""
        values = {name: tensor.numbers() for tensors in sent for name, tensor in tensors.items()}
        x = values[self.inputs[0].name].astype(np.float64)
        scale = values[self.inputs[1].name] if len(self.inputs) > 1 else wanted[self.outputs[1].name].numbers()
        halfway = np.abs(np.abs(np.modf(x / scale.astype(np.float64))[0]) - 0.5) < 1e-4
        name = self.outputs[0].name
        steps = np.abs(got[name].numbers().astype(np.int64) - wanted[name].numbers().astype(np.int64))
        if (steps > halfway).any():
            return f"{name} is apart by {steps.max()} steps"
        rest = [differs(got[name], wanted[name]) for name in wanted if name != self.outputs[0].name]
        return next((fault for fault in rest if fault), None)

    def is_left_to_chance(self):
        return fnmatch.fnmatch(self.name, "test_training_dropout*") and "zero_ratio" not in self.name

    def write(self, models, backend, sample):
        """Makes a model of the test; with `sample`, the test's own input lies beside it."""
        folder = os.path.join(models, self.served)
        os.makedirs(os.path.join(folder, "1"))
        if sample:
            tensors = [pair for tensors in self.sets[0][0] for pair in tensors.items()]
            if any(tensor.as_json() is None for _, tensor in tensors):
                raise Skip("no sample: JSON has no NaN, infinity or bytes that are no UTF-8")
            body = {"inputs": [{"name": name, "datatype": tensor.datatype, "shape": tensor.shape, "data": tensor.as_json()}
                               for name, tensor in tensors]}
            json.dump(body, open(os.path.join(folder, "sample.json"), "w"))
        shutil.copy(os.path.join(self.folder, "model.onnx"), os.path.join(folder, "1", "model.onnx"))
        lines = [f'description = "ONNX operator test {self.name}"', "inputs = []" if not self.inputs else ""]
        sent, given = self.sets[0]
        for side, infos, values in (("inputs", self.inputs, sent), ("outputs", self.outputs, given)):
            for info, tensors in zip(infos, values):
                if not tensors and side == "inputs":
                    raise Skip("an optional input without a value, which ONNX Runtime's C interface cannot make")
                tensors = tensors or absent(info)
                for name, tensor in tensors.items():
                    shape = ", ".join(str(n) for n in tensor.shape)
                    # A second data set may have other lengths.
                    if len(self.sets) > 1:
                        shape = ", ".join(f'"{side[0]}{len(lines)}_{i}"' for i, _ in enumerate(tensor.shape))
                    optional = info.type.WhichOneof("value") == "optional_type" and side == "outputs"
                    non_finite = side == "inputs" and any(
                        name in tensors and not tensors[name].is_finite() for sent, _ in self.sets for tensors in sent)
                    lines += [f"[[{side}]]", f"name = {json.dumps(name)}", f'datatype = "{tensor.datatype}"',
                              f"shape = [{shape}]", "optional = true" if optional else "",
                              "allow_non_finite = true" if non_finite else ""]
        lines += ["[engine]", f'backend = "{backend}"', "lanes = 1"]
        open(os.path.join(folder, "model.toml"), "w").write("\n".join(lines) + "\n")


def absent(info):
    """The tensor for an optional output. Its lengths are not known."""
    inner = info.type.optional_type.elem_type
    if inner.WhichOneof("value") == "sequence_type":
        element = inner.sequence_type.elem_type.tensor_type.elem_type
        return {info.name: Tensor(NAMES[element], [1], b""), f"{info.name}.shapes": Tensor("INT64", [1, 1], b"")}
    return {info.name: Tensor(NAMES[inner.tensor_type.elem_type], [1], b"")}


def message(raw):
    try:
        body = json.loads(raw)
        error = body.get("error", body)
        return error if isinstance(error, str) else error.get("message", str(error))
    except ValueError:
        return raw[:200].decode(errors="replace")


def one_line(reason):
    """A reason on one line. One of enormous length keeps its end, because runtimes put the cause there."""
    reason = " ".join(reason.split())
    half = LONGEST_REASON // 2
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:half]} […] {reason[-half:]}"


def differs(got, wanted):
    """In words how a tensor differs from the golden one, or None."""
    if got.datatype != wanted.datatype:
        return f"{got.datatype} in place of {wanted.datatype}"
    # Over the protocol a scalar is an axis of one element.
    if got.shape != wanted.shape and not (wanted.shape == [] and got.shape == [1]):
        return f"shape {got.shape} in place of {wanted.shape}"
    if wanted.datatype == "BYTES":
        return None if got.strings() == wanted.strings() else f"{got.strings()[:3]} in place of {wanted.strings()[:3]}"
    got, wanted, of = got.numbers(), wanted.numbers(), wanted.datatype
    if of not in TOLERANCES:
        same = got == wanted
    else:
        relative, absolute, of_largest = TOLERANCES[of]
        got, wanted = got.astype(np.float64), wanted.astype(np.float64)
        absolute += of_largest * np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
        with np.errstate(invalid="ignore"):
            near = np.abs(got - wanted) <= absolute + relative * np.abs(wanted)
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted)) | near
    if same.all():
        return None
    at = int(np.argmin(same))
    return f"{got[at]} in place of {wanted[at]} at {at}, {int((~same).sum())} of {same.size} differ"


def call(connection, case, inputs, as_json):
    body = {"inputs": [], "parameters": {"binary_data_output": not as_json}}
    tail = b""
    for tensors in inputs:
        for name, tensor in tensors.items():
            entry = {"name": name, "datatype": tensor.datatype, "shape": tensor.shape}
            if as_json:
                entry["data"] = tensor.as_json()
            else:
                entry["parameters"] = {"binary_data_size": len(tensor.data)}
                tail += tensor.data
            body["inputs"].append(entry)
    head = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if as_json else {
        "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    status, answered, raw = connection.ask("POST", f"/v2/models/{case.served}/infer", headers, head if as_json else head + tail)
    if status != 200:
        return None, f"{status}: {message(raw)}"
    length = answered.get("inference-header-content-length")
    length = int(length) if length else len(raw)
    found, at = {}, length
    for output in json.loads(raw[:length])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = from_json(output)
        else:
            found[output["name"]] = Tensor(output["datatype"], output["shape"], raw[at:at + size])
            at += size
    return found, None


def judge(connection, case, apart=None):
    # The server answers before it has loaded everything.
    until, failed = time.time() + LOADING, rf"model {re.escape(case.served)}: not served: (.*)"
    while True:
        status, _, raw = connection.ask("GET", f"/v2/models/{case.served}/ready")
        reason = connection.server.said(failed)
        if status == 200 or reason or time.time() > until:
            break
        time.sleep(0.1)
    if status != 200:
        reason = reason or f"not ready after {LOADING} s: {message(raw)}"
        made_up = "fails its first run" in reason and "on sample.json" not in reason
        return ("first-run" if made_up else "refused"), reason
    for number, (inputs, outputs) in enumerate(case.sets):
        if apart == "runtime":
            outputs = case.by_runtime(os.path.join(case.folder, f"test_data_set_{number}"))
        wanted = {name: tensor for tensors in outputs for name, tensor in tensors.items()}
        finite = all(t.as_json() is not None for tensors in inputs for t in tensors.values())
        for as_json in [False, True] if finite else [False]:
            way = "JSON" if as_json else "bytes"
            got, refused = call(connection, case, inputs, as_json)
            if refused:
                return ("error" if refused.startswith("5") else "refused"), f"{way}: {refused}"
            if set(got) != set(wanted):
                return "wrong", f"{way}: outputs {sorted(got)} in place of {sorted(wanted)}"
            if case.is_left_to_chance() or apart == "step":
                fault = case.stepped(inputs, got, wanted) if apart else case.dropped_out(inputs, got)
                if fault:
                    return "wrong", f"{way}: {fault}"
                continue
            for name, tensor in wanted.items():
                if as_json and tensor.datatype in TOLERANCES and tensor.as_json() is None:
                    continue
                if as_json and tensor.datatype == "BYTES" and tensor.as_json() is None:
                    continue
                difference = differs(got[name], tensor)
                if difference:
                    return "wrong", f"{way}: {name}: {difference}"
    return "right", ""


def run(cases, options, results, sample=False):
    """Judges cases with one server; where it ends, with two for half of them each."""
    models = tempfile.mkdtemp()
    rest = []
    try:
        for case in cases:
            try:
                case.write(models, options.backend, sample)
                rest.append(case)
            except Skip as reason:
                results.setdefault(case.name, ("refused", str(reason)))
                shutil.rmtree(os.path.join(models, case.served), ignore_errors=True)
        if not rest:
            return
        server = Server(options.server, models, options.argument, os.path.join(tempfile.gettempdir(), "penstock-operators"))
        connection = Connection(server)
        try:
            while rest:
                case = rest[0]
                if server.port is None or server.child.poll() is not None:
                    break
                status, reason = judge(connection, case)
                for backend, pattern, how, why in APART:
                    if status == "wrong" and backend == options.backend and fnmatch.fnmatch(case.name, pattern):
                        status, reason = judge(connection, case, how)
                        if status == "right":
                            status, reason = "apart", f"{backend} {why}"
                if sample and status == "right":
                    status, reason = "sample", results[case.name][1]
                results[case.name] = status, reason
                rest.pop(0)
        except (http.client.HTTPException, OSError) as error:
            if server.child.poll() is None:
                results[rest.pop(0).name] = ("refused", f"no answer: {error}")
        finally:
            server.stop()
        ended = server.log[-3:]
    finally:
        shutil.rmtree(models, ignore_errors=True)
    if len(rest) == 1 and len(cases) == 1:
        results[rest[0].name] = ("crashed", " ".join(ended)[-300:])
    elif rest:
        middle = max(1, len(rest) // 2)
        run(rest[:middle], options, results, sample)
        run(rest[middle:], options, results, sample)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--only", default="*", help="patterns, separated by commas")
    parser.add_argument("--every", type=int, default=1, help="one of so many tests")
    parser.add_argument("--known")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--denominator", action="store_true", help="count what ONNX Runtime for Python loads")
    parser.add_argument("argument", nargs="*", help="for the server, after --")
    options = parser.parse_args()
    if options.write and (options.every != 1 or options.only != "*"):
        parser.error("--write needs all tests: leave out --every and --only")
    results, cases = {}, []
    for folder in sorted(glob.glob(os.path.join(options.data, "*")))[::options.every]:
        name = os.path.basename(folder)
        if not any(fnmatch.fnmatch(name, pattern) for pattern in options.only.split(",")):
            continue
        if not os.path.exists(os.path.join(folder, "model.onnx")):
            continue
        if options.denominator:
            import onnxruntime
            onnxruntime.set_default_logger_severity(4)
            try:
                onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"), providers=["CPUExecutionProvider"])
            except Exception as error:
                results[name] = ("unloadable", str(error))
                continue
        try:
            cases.append(Case(folder))
        except Skip as reason:
            results[name] = ("refused", str(reason))
    for at in range(0, len(cases), BATCH):
        run(cases[at:at + BATCH], options, results)
        # As the message asks.
        asked = [case for case in cases[at:at + BATCH]
                 if results[case.name][0] == "first-run" and "sample.json" in results[case.name][1]]
        if asked:
            run(asked, options, results, sample=True)
        print(f"{min(at + BATCH, len(cases))} of {len(cases)}", file=sys.stderr)
    lines = [f"{status}\t{name}\t{one_line(reason)}" for name, (status, reason) in sorted(results.items())]
    out = open(options.out, "w") if options.out else sys.stdout
    print("\n".join(lines), file=out, flush=True)
    count = {}
    for status, _ in results.values():
        count[status] = count.get(status, 0) + 1
    print(", ".join(f"{number} {status}" for status, number in sorted(count.items())), file=sys.stderr)
    if options.known:
        now = {name: status for name, (status, _) in results.items() if status not in ("right", "unloadable")}
        if options.write:
            with open(options.known, "w") as file:
                for name, status in sorted(now.items()):
                    print(f"{status}\t{name}\t{one_line(results[name][1])}", file=file)
            return
        known = dict(reversed(line.split("\t")[:2]) for line in open(options.known).read().splitlines() if line)
        known = {name: status for name, status in known.items() if name in results}
        worse = {name: status for name, status in now.items() if known.get(name) != status}
        better = [name for name in known if name not in now]
        for name, status in worse.items():
            print(f"{status}, and was {known.get(name, 'right')}: {name}: {results[name][1]}", file=sys.stderr)
        for name in better:
            print(f"right now: {name}; take it out of {options.known}", file=sys.stderr)
        if worse or better:
            sys.exit(1)


main()
