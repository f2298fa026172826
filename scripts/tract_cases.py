#!/usr/bin/env python3
"""Writes operator tests that ONNX's own suite lacks, in its layout. ONNX Runtime is the reference.
Called by scripts/tract-conformance. usage: tract_cases.py FOLDER"""
import os, sys
import numpy as np, onnx, onnxruntime as ort
from onnx import helper as h, numpy_helper as nh

OUT = sys.argv[1]
rng = np.random.default_rng(7)
F, I, L = np.float32, np.int32, np.int64
INF, NAN = np.inf, np.nan


def write(name, model, values):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    expected = session.run(None, {name: values[name] for name in names})
    folder = os.path.join(OUT, f"test_own_{name}", "test_data_set_0")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "..", "model.onnx"), "wb") as file:
        file.write(model.SerializeToString())
    for kind, tensors in (("input", [values[name] for name in names]), ("output", expected)):
        for index, tensor in enumerate(tensors):
            with open(os.path.join(folder, f"{kind}_{index}.pb"), "wb") as file:
                file.write(nh.from_array(np.asarray(tensor)).SerializeToString())


def case(name, op, values, outputs=1, opset=17, domain="", skip=(), **attributes):
    """A graph of one node; every value but the first is a constant. None leaves an input out."""
    names = ["" if value is None else f"x{index}" for index, value in enumerate(values)]
    node = h.make_node(op, names, ["" if index in skip else f"y{index}" for index in range(outputs)], domain=domain, **attributes)
    first = values[0]
    inputs = [h.make_tensor_value_info("x0", h.np_dtype_to_tensor_dtype(first.dtype), first.shape)]
    constants = [nh.from_array(np.asarray(v), n) for n, v in zip(names[1:], values[1:]) if v is not None]
    outs = [h.make_empty_tensor_value_info(n) for n in node.output if n]
    graph = h.make_graph([node], name, inputs, outs, constants)
    sets = [h.make_opsetid("", opset)] + ([h.make_opsetid(domain, 3 if domain == "ai.onnx.ml" else 1)] if domain else [])
    model = h.make_model(graph, opset_imports=sets, ir_version=8)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False)
        if all(o.type.tensor_type.elem_type for o in inferred.graph.output):
            model = inferred
        else:
            raise ValueError("no type")
    except Exception:
        model.graph.ClearField("output")
        types = {"TreeEnsembleClassifier": [7, 1], "LinearClassifier": [7, 1]}.get(op, [1] * outputs)
        model.graph.output.extend(h.make_tensor_value_info(n, t, None) for n, t in zip(node.output, types) if n)
    try:
        write(name, model, {"x0": first})
    except Exception as error:
        print(f"left out {name}: {str(error)[:120]}", file=sys.stderr)


f = lambda *shape: rng.standard_normal(shape).astype(F)

# Recurrent layers.
for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    for direction in ("forward", "reverse", "bidirectional"):
        d = 2 if direction == "bidirectional" else 1
        x, w, r, b = f(5, 2, 3), f(d, gates * 4, 3), f(d, gates * 4, 4), f(d, 2 * gates * 4)
        outputs = 3 if op == "LSTM" else 2
        more = dict(hidden_size=4, direction=direction)
        low = f"{op.lower()}_{direction}"
        case(low, op, [x, w, r, b], outputs, **more)
        case(f"{low}_no_bias", op, [x, w, r], outputs, **more)
        case(f"{low}_only_last", op, [x, w, r, b], 2, skip=(0,), **more)
        case(f"{low}_clip", op, [x * 4, w, r, b], outputs, clip=0.2, **more)
        case(f"{low}_lengths", op, [x, w, r, b, np.array([5, 3], I)], outputs, **more)
        case(f"{low}_full_lengths", op, [x, w, r, b, np.array([5, 5], I)], outputs, **more)
        case(f"{low}_initial", op, [x, w, r, b, None, f(d, 2, 4)], outputs, **more)
        kinds = {"LSTM": ["Sigmoid", "Relu", "Tanh"], "GRU": ["Sigmoid", "Relu"], "RNN": ["Relu"]}[op]
        case(f"{low}_relu", op, [x, w, r, b], outputs, activations=kinds * d, **more)
        plain = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[op]
        case(f"{low}_named_defaults", op, [x, w, r, b], outputs, activations=plain * d, **more)
        other = {"LSTM": ["HardSigmoid", "Tanh", "Tanh"], "GRU": ["HardSigmoid", "Tanh"], "RNN": ["Sigmoid"]}[op]
        case(f"{low}_other", op, [x, w, r, b], outputs, activations=other * d, **more)
        if op == "GRU":
            case(f"{low}_linear_before_reset", op, [x, w, r, b], outputs, linear_before_reset=1, **more)
        if op == "LSTM":
            case(f"{low}_input_forget", op, [x, w, r, b], outputs, input_forget=1, **more)
            case(f"{low}_initial_cell", op, [x, w, r, b, None, f(d, 2, 4), f(d, 2, 4)], outputs, **more)
            case(f"{low}_peepholes", op, [x, w, r, b, None, None, None, f(d, 12)], outputs, **more)

# Integers that do not fit 32 bits, or FP32.
big, near = np.array([[2_000_000_000] * 3, [5, 6, 7]], L), np.array([[2**53 + 1, 1, 2], [3, 4, 5]], L)
for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum"):
    for label, values in (("int64", big), ("int64_exact", near), ("int32", np.array([[70000, 3, -9], [5, 6, 7]], I)), ("negative", np.array([[-7, 2, -1], [5, -6, 7]], L)), ("fp64", rng.standard_normal((2, 3)))):
        if op == "ReduceSum":
            case(f"{op.lower()}_{label}", op, [values, np.array([1], L)], keepdims=0)
        else:
            case(f"{op.lower()}_{label}", op, [values], axes=[1], keepdims=0)
for op in ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Pow", "MatMul", "Equal", "Greater", "Less", "Sum", "Mean", "PRelu"):
    for label, a, b in (("int64", big, np.array([3, -2, 5], L)), ("int64_exact", near, np.array([1, 1, 1], L)), ("int32", np.array([[70000, 3, -9], [5, -6, 7]], I), np.array([70000, -2, 5], I)), ("negative", np.array([[-7, 7, -8], [5, -6, 7]], L), np.array([2, -2, 3], L)), ("fp64", rng.standard_normal((2, 3)), rng.standard_normal(3)), ("uint8", np.array([[200, 3, 9], [5, 6, 7]], np.uint8), np.array([100, 2, 5], np.uint8)), ("int8", np.array([[100, 3, -9], [5, 6, 7]], np.int8), np.array([100, 2, 5], np.int8))):
        if op == "MatMul":
            b = np.stack([b, b], axis=1)
        case(f"{op.lower()}_{label}", op, [a, b])
case("mod_fmod", "Mod", [f(2, 3) * 5, f(3)], fmod=1)
case("mod_fmod_int", "Mod", [np.array([[-7, 7, -8]], L), np.array([3, -3, 5], L)], fmod=1)
for op in ("Abs", "Neg", "Sign", "Relu", "Clip", "CumSum", "ArgMax", "ArgMin", "TopK", "Cast", "Gemm", "Identity"):
    if op == "CumSum":
        for label, values in (("int64", big), ("int32", np.array([[70000, 3, -9]], I)), ("fp64", rng.standard_normal((2, 3)))):
            case(f"cumsum_{label}", op, [values, np.array(1, L)])
            case(f"cumsum_{label}_reverse_exclusive", op, [values, np.array(1, L)], reverse=1, exclusive=1)
    elif op == "TopK":
        for label, values in (("int64", near), ("fp", f(2, 6)), ("ties", np.array([[1, 2, 2, 1, 2, 0]], F))):
            for largest in (0, 1):
                case(f"topk_{label}_{largest}", op, [values, np.array([2], L)], 2, largest=largest)
    elif op == "Cast":
        for to in (1, 2, 3, 6, 7, 9, 10, 11):
            for label, values in (("int64", np.array([3, -2, 0, 200], L)), ("fp", np.array([1.5, 2.5, -1.5, -0.5, 0.0, 3.99], F)), ("int32", np.array([300, -1, 0], I)), ("uint8", np.array([200, 0, 255], np.uint8)), ("int8", np.array([-1, 0, 127], np.int8))):
                if not (label == "fp" and to == 2):
                    case(f"cast_{label}_{to}", op, [values], to=to)
    elif op == "Gemm":
        case("gemm_int64", op, [big, np.stack([np.array([3, -2, 5], L)] * 2, axis=1)])
        case("gemm_scaled", op, [f(2, 3), f(4, 3), f(4)], alpha=0.5, beta=2.0, transB=1)
        case("gemm_bias_scalar", op, [f(3, 2), f(3, 4), np.array(2, F)], transA=1)
    elif op == "Clip":
        for label, values, low, high in (("int64", big, 4, 1_999_999_999), ("int64_exact", near, 2, 2**53 + 2)):
            case(f"clip_{label}", op, [values, np.array(low, L), np.array(high, L)])
        case("clip_crossed", op, [f(2, 3), np.array(2, F), np.array(1, F)])
    else:
        for label, values in (("int64", big), ("int64_exact", near), ("negative", np.array([[-7, 2, -1]], L)), ("ties", np.array([[1, 2, 2, 1]], F))):
            extra = {"axis": 1} if op.startswith("Arg") else {}
            case(f"{op.lower()}_{label}", op, [values], **extra)
            if extra:
                case(f"{op.lower()}_{label}_last", op, [values], select_last_index=1, **extra)
                case(f"{op.lower()}_{label}_flat", op, [values], keepdims=0, **extra)

# Values that are no numbers, and infinite ones.
odd = np.array([[0.5, NAN, 2.0, -3.0], [INF, 1.0, -INF, 0.0]], F)
for op in ("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu", "Atan", "Asinh", "Celu"):
    case(f"nan_{op.lower()}", op, [odd], opset=20)
    case(f"infinite_{op.lower()}", op, [np.array([[INF, 1.0, -INF, -0.0]], F)], opset=20)
    case(f"large_{op.lower()}", op, [np.array([[88.0, 89.5, -88.0, -104.0, 1e-30, 1e30, -1e30, 0.0]], F)], opset=20)
for op in ("Add", "Mul", "Max", "Min", "Pow", "Equal", "Greater", "Less"):
    case(f"nan_{op.lower()}", op, [odd, np.array([1, 1, NAN, 2], F)])
case("nan_clip", "Clip", [odd, np.array(-1, F), np.array(1, F)])
case("nan_matmul", "MatMul", [odd, f(4, 3)])
for op in ("ReduceSum", "ReduceMean"):
    case(f"nan_{op.lower()}", op, [odd, np.array([1], L)], opset=18)
case("nan_where", "Where", [np.array([[True, False, True, False]]), odd, odd * 2])

# Softmax: rows that are masked whole, in part, and by the least FP32.
least = np.finfo(F).min
for op in ("Softmax", "LogSoftmax"):
    for opset in (11, 13):
        for label, rows in (("masked", [[-INF] * 4, [1, 2, -INF, 3]]), ("part", [[1, 2, -INF, -INF], [0, -INF, 3, 1]]), ("least", [[least] * 4, [1, 2, least, least]]), ("sum", [[least - 3, least, least, least + 2], [5, least, 2, 1]]), ("large", [[1000, 999, -1000, 0], [88, 89, 90, 1]]), ("infinite", [[INF, 1, 2, 3], [1, 2, 3, 4]]), ("nan", odd)):
            case(f"{op.lower()}_{label}_{opset}", op, [np.array(rows, F)], opset=opset, axis=1)
        case(f"{op.lower()}_default_{opset}", op, [f(2, 3, 4)], opset=opset)
        case(f"{op.lower()}_first_{opset}", op, [f(2, 3, 4)], opset=opset, axis=0)
        case(f"{op.lower()}_fp64_{opset}", op, [rng.standard_normal((2, 4))], opset=opset, axis=1)
        case(f"{op.lower()}_fp16_{opset}", op, [f(2, 4).astype(np.float16)], opset=opset, axis=1)
case("reducelogsumexp_masked", "ReduceLogSumExp", [np.array([[-INF] * 4, [1, 2, 3, 4]], F)], axes=[1])
case("reducelogsumexp_large", "ReduceLogSumExp", [np.array([[1000, 1001, 5, 0], [1, 2, 3, 4]], F)], axes=[1])
case("hardmax_ties", "Hardmax", [np.array([[1, 3, 3, 2]], F)], axis=1)

# Classical models.
ML = "ai.onnx.ml"
x = f(20, 3)


def forest(classes, ids, weights, **more):
    n = len(weights)
    trees = n // 2
    return dict(nodes_treeids=[t for t in range(trees) for _ in range(3)], nodes_nodeids=[0, 1, 2] * trees, nodes_featureids=[t % 3 for t in range(trees) for _ in range(3)],
                nodes_values=[0.1 * t for t in range(trees) for _ in range(3)], nodes_hitrates=[1.0] * 3 * trees, nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * trees,
                nodes_truenodeids=[1, 0, 0] * trees, nodes_falsenodeids=[2, 0, 0] * trees, nodes_missing_value_tracks_true=[0] * 3 * trees,
                class_treeids=[t for t in range(trees) for _ in range(2)], class_nodeids=[1, 2] * trees, class_ids=ids, class_weights=weights, classlabels_int64s=classes, **more)


weights = [float(v) for v in rng.uniform(0, 0.3, 6)]
signed = [float(v) for v in rng.uniform(-2, 2, 6)]
for post in ("NONE", "LOGISTIC", "SOFTMAX"):
    for label, these in (("positive", weights), ("signed", signed)):
        case(f"trees_two_classes_one_score_{post.lower()}_{label}", "TreeEnsembleClassifier", [x], 2, domain=ML, **forest([0, 1], [0] * 6, these, post_transform=post))
        case(f"trees_two_classes_score_of_second_{post.lower()}_{label}", "TreeEnsembleClassifier", [x], 2, domain=ML, **forest([0, 1], [1] * 6, these, post_transform=post))
        case(f"trees_two_classes_both_{post.lower()}_{label}", "TreeEnsembleClassifier", [x], 2, domain=ML, **forest([0, 1], [0, 1] * 3, these, post_transform=post))
        case(f"trees_three_classes_{post.lower()}_{label}", "TreeEnsembleClassifier", [x], 2, domain=ML, **forest([4, 7, 9], [0, 1, 2, 0, 1, 2], these, post_transform=post))
case("trees_base_values", "TreeEnsembleClassifier", [x], 2, domain=ML, **forest([4, 7, 9], [0, 1, 2, 0, 1, 2], signed, base_values=[0.5, 0.1, -0.3]))
shape = {k: v for k, v in forest([0], [0] * 6, signed).items() if not k.startswith("class")}
targets = dict(target_treeids=[0, 0, 1, 1, 2, 2], target_nodeids=[1, 2] * 3, target_ids=[0] * 6, target_weights=signed, n_targets=1)
for aggregate in ("SUM", "AVERAGE", "MIN", "MAX"):
    case(f"trees_regressor_{aggregate.lower()}", "TreeEnsembleRegressor", [x], 1, domain=ML, aggregate_function=aggregate, **shape, **targets)
case("trees_regressor_base", "TreeEnsembleRegressor", [x], 1, domain=ML, base_values=[2.0], **shape, **targets)
line = [float(v) for v in rng.standard_normal(9)]
for post in ("NONE", "LOGISTIC", "SOFTMAX"):
    case(f"linear_two_{post.lower()}", "LinearClassifier", [x], 2, domain=ML, coefficients=line[:6], intercepts=[0.1, -0.1], classlabels_ints=[0, 1], post_transform=post, multi_class=0)
    case(f"linear_one_row_{post.lower()}", "LinearClassifier", [x], 2, domain=ML, coefficients=line[:3], intercepts=[0.1], classlabels_ints=[0, 1], post_transform=post, multi_class=0)
    case(f"linear_three_{post.lower()}", "LinearClassifier", [x], 2, domain=ML, coefficients=line, intercepts=[0.1, -0.1, 0.2], classlabels_ints=[5, 6, 7], post_transform=post, multi_class=1)
case("linear_regressor", "LinearRegressor", [x], 1, domain=ML, coefficients=line[:3], intercepts=[0.1])
case("linear_regressor_two", "LinearRegressor", [x], 1, domain=ML, coefficients=line[:6], intercepts=[0.1, 0.2], targets=2)
for norm in ("MAX", "L1", "L2"):
    case(f"normalizer_{norm.lower()}", "Normalizer", [x], 1, domain=ML, norm=norm)

# Pooling and resizing in the corners of their attributes.
image = f(1, 2, 7, 7)
for op in ("AveragePool", "MaxPool", "LpPool"):
    for pads in ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]):
        for ceil in (0, 1):
            for extra in ({}, {"count_include_pad": 1}, {"dilations": [2, 2]}):
                if "count_include_pad" in extra and op != "AveragePool":
                    continue
                label = "_".join([op.lower(), *map(str, pads), str(ceil), *extra])
                case(label, op, [image], opset=19, kernel_shape=[3, 3], strides=[2, 2], pads=pads, ceil_mode=ceil, **extra)
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        case(f"{op.lower()}_{auto.lower()}", op, [image], kernel_shape=[3, 3], strides=[2, 2], auto_pad=auto)
for mode in ("nearest", "linear", "cubic"):
    for how in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"):
        for scale in (2.0, 1.6, 0.6):
            for near_mode in ("round_prefer_floor", "floor", "ceil", "round_prefer_ceil") if mode == "nearest" else ("round_prefer_floor",):
                for extra in ({}, {"antialias": 1}, {"exclude_outside": 1}, {"cubic_coeff_a": -0.5}):
                    if extra and (mode == "nearest" or (mode == "linear" and "antialias" not in extra)):
                        continue
                    label = "_".join(["resize", mode, how, str(scale).replace(".", ""), near_mode, *extra])
                    case(label, "Resize", [image, None, np.array([1, 1, scale, scale], F)], opset=19, mode=mode, coordinate_transformation_mode=how, nearest_mode=near_mode, **extra)
for mode in ("nearest", "linear"):
    case(f"upsample_{mode}", "Upsample", [image, np.array([1, 1, 2, 2], F)], opset=9, mode=mode)
w = f(4, 2, 3, 3)
for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
    for strides in ([1, 1], [2, 2]):
        case(f"conv_{auto.lower()}_{strides[0]}", "Conv", [image, w], auto_pad=auto, strides=strides)
        case(f"convtranspose_{auto.lower()}_{strides[0]}", "ConvTranspose", [image, f(2, 4, 3, 3)], auto_pad=auto, strides=strides)
case("conv_dilated_group", "Conv", [image, f(4, 1, 3, 3), f(4)], group=2, dilations=[2, 2], pads=[2, 1, 0, 1])
case("convtranspose_padded", "ConvTranspose", [image, f(2, 4, 3, 3), f(4)], strides=[2, 2], output_padding=[1, 1], pads=[1, 0, 0, 1])
case("convtranspose_group", "ConvTranspose", [image, f(2, 2, 3, 3)], strides=[2, 2], group=2, dilations=[2, 2])
case("convtranspose_shape", "ConvTranspose", [image, f(2, 4, 3, 3)], strides=[2, 2], output_shape=[14, 14])
for mode in ("constant", "reflect", "edge", "wrap"):
    case(f"pad_{mode}", "Pad", [image, np.array([0, 0, 2, 1, 0, 0, 1, 3], L)], opset=19, mode=mode)
    case(f"pad_{mode}_negative", "Pad", [image, np.array([0, 0, -1, 1, 0, 0, 1, -2], L)], opset=19, mode=mode)

# Quantised.
for label, zero in (("uint8", np.uint8), ("int8", np.int8)):
    values = np.array([[-3.0, -0.25, 0.25, 0.75, 1.25, 300.0]], F)
    case(f"quantize_{label}", "QuantizeLinear", [values, np.array(0.5, F), np.array(3, zero)])
    case(f"quantize_axis_{label}", "QuantizeLinear", [f(2, 3) * 9, np.array([0.5, 0.1, 2.0], F), np.array([1, 2, 3], zero)], axis=1)
    a, b = rng.integers(0, 120, (2, 3)).astype(zero), rng.integers(0, 120, (3, 4)).astype(zero)
    case(f"matmulinteger_{label}", "MatMulInteger", [a, b, np.array(5, zero), np.array(7, zero)])
    case(f"matmulinteger_columns_{label}", "MatMulInteger", [a, b, np.array(5, zero), np.array([1, 2, 3, 4], zero)])
    case(f"qlinearmatmul_{label}", "QLinearMatMul", [a, np.array(0.1, F), np.array(5, zero), b, np.array(0.2, F), np.array(7, zero), np.array(3.0, F), np.array(9, zero)])
    case(f"convinteger_{label}", "ConvInteger", [rng.integers(0, 120, (1, 1, 5, 5)).astype(zero), rng.integers(0, 120, (1, 1, 3, 3)).astype(zero), np.array(3, zero), np.array(2, zero)], pads=[1, 1, 1, 1])
    case(f"dequantize_axis_{label}", "DequantizeLinear", [rng.integers(0, 120, (2, 3)).astype(zero), np.array([0.5, 0.1, 2.0], F), np.array([1, 2, 3], zero)], axis=1)
    case(f"qlinearconv_{label}", "QLinearConv", [rng.integers(0, 120, (1, 1, 5, 5)).astype(zero), np.array(0.1, F), np.array(3, zero), rng.integers(0, 120, (1, 1, 3, 3)).astype(zero), np.array(0.05, F), np.array(2, zero), np.array(4.0, F), np.array(11, zero)], pads=[1, 1, 1, 1])
case("dynamicquantize", "DynamicQuantizeLinear", [f(3, 4)], 3)
case("dynamicquantize_positive", "DynamicQuantizeLinear", [np.abs(f(3, 4)) + 2], 3)
for op in ("InstanceNormalization", "LayerNormalization"):
    case(op.lower(), op, [f(2, 3, 5), f(3) if op[0] == "I" else f(5), f(3) if op[0] == "I" else f(5)], epsilon=1e-2)
case("layernorm_axis", "LayerNormalization", [f(2, 3, 5), f(3, 5), f(3, 5)], axis=1)
