"""Accepted operations of Penstock beside accepted tasks of BentoML, in turn, under the same load of wrk. scripts/bench-bentoml starts it."""
import argparse, http.client, json, os, shutil, signal, socket, statistics, subprocess, sys, time
from served import Server

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEER = os.path.join(ROOT, "benches/peers/bentoml")
ROWS = [[1, 2, 3, 4]]
START_S, DRAIN_S = 120, 600
# Room for the operations of all rounds.
POLICY = "[operations]\nmax_per_tenant = 4194304\nmax_bytes_per_tenant = 549755813888\n"


def ask(port, method, path, body=None, headers={}):
    """Status and JSON of one request over its own connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body and json.dumps(body), {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        raw = answer.read()
        return answer.status, json.loads(raw) if raw[:1] in (b"{", b"[") else raw.decode(errors="replace")
    finally:
        connection.close()


def ready(port, path, ended):
    until = time.monotonic() + START_S
    while time.monotonic() < until and not ended():
        try:
            if ask(port, "GET", path)[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    sys.exit(f"error: the server on port {port} did not start")


class Penstock:
    name, path, status, body = "Penstock", "/v1/models/identity:predictAsync", 202, {"inputs": {"a": ROWS}}

    def __init__(self, options):
        models = os.path.join(options.scratch, "models")
        shutil.copytree(os.path.join(options.models, "identity"), os.path.join(models, "identity"))
        self.server = Server(options.server, models, ["--app", options.app], options.compiled, POLICY)
        if self.server.port is None:
            sys.exit("error: Penstock did not start:\n" + "\n".join(self.server.log[-20:]))
        self.port = self.server.port
        ready(self.port, "/ready", lambda: self.server.child.poll() is not None)

    def result(self):
        """Accepts one more and waits for its result: those before it have run then."""
        one = ask(self.port, "POST", self.path, self.body)[1]["metadata"]["id"]
        until = time.monotonic() + DRAIN_S
        while time.monotonic() < until:
            answer = ask(self.port, "GET", f"/v1/operations/{one}", headers={"prefer": "wait=20"})[1]
            if answer["done"]:
                return [prediction["b"] for prediction in answer["response"]["predictions"]]
        sys.exit("error: Penstock's operations did not end in time")

    def stop(self):
        self.server.stop()


class BentoML:
    name, path, status, body = "BentoML", "/predict/submit", 200, {"a": ROWS}

    def __init__(self, options):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.log = open(os.path.join(options.scratch, "bentoml.log"), "wb")
        self.child = subprocess.Popen([options.bentoml, "serve", "--quiet", "service:Identity", "--working-dir", PEER, "--host", "127.0.0.1",
                                       "--port", str(self.port)], stdout=self.log, stderr=self.log, start_new_session=True,
                                      env={**os.environ, "MODELS": options.models})
        try:
            ready(self.port, "/readyz", lambda: self.child.poll() is not None)
        except BaseException:
            self.stop()
            raise

    def result(self):
        one = ask(self.port, "POST", self.path, self.body)[1]["task_id"]
        until = time.monotonic() + DRAIN_S
        while time.monotonic() < until:
            if ask(self.port, "GET", f"/predict/status?task_id={one}")[1]["status"] == "completed":
                return ask(self.port, "GET", f"/predict/get?task_id={one}")[1]
            time.sleep(0.05)
        sys.exit("error: BentoML's tasks did not end in time")

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.child.pid, number)
                self.child.wait(10)
            except (subprocess.TimeoutExpired, ProcessLookupError):
                continue
        self.log.close()


def row(options, server):
    """Accepted a second."""
    command = ["wrk", "--threads", str(min(2, options.connections)), "--connections", str(options.connections), "--duration", f"{options.seconds}s",
               "--timeout", "30s", "--script", os.path.join(PEER, "accept.lua"), f"http://127.0.0.1:{server.port}{server.path}", "--",
               json.dumps(server.body, separators=(",", ":")), str(server.status)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    seen = json.loads(said.strip().splitlines()[-1])
    if seen["bad"] or seen["errors"] or not seen["good"]:
        sys.exit(f"error: {server.name} did not accept every call: {seen}")
    rate = seen["good"] / seen["seconds"]
    begun = time.monotonic()
    result = server.result()
    if result != [[float(value) for value in one] for one in ROWS]:
        sys.exit(f"error: {server.name} gave a wrong result: {result}")
    print(f"{server.name:<10} {rate:>9.0f} accepted/s  p50 {seen['p50_ms']:>8.2f} ms  p99 {seen['p99_ms']:>8.2f} ms; "
          f"the last had run {time.monotonic() - begun:.1f} s later", flush=True)
    return rate


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench-bentoml", description="Accepted operations beside the tasks that BentoML accepts.")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of a row (5)")
    parser.add_argument("--connections", type=int, default=64, help="connections (64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which the two take turns (3)")
    parser.add_argument("--server", required=True, help="the program")
    parser.add_argument("--bentoml", required=True, help="BentoML's program")
    parser.add_argument("--scratch", required=True, help="the folder for stores")
    parser.add_argument("--compiled", required=True, help="the folder of compiled components")
    parser.add_argument("--app", default=os.path.join(ROOT, "spin.toml"), help="Penstock's manifest")
    parser.add_argument("--models", default=os.path.join(ROOT, "models"), help="the models directory, for `identity`")
    options = parser.parse_args()
    os.makedirs(options.compiled, exist_ok=True)
    os.makedirs(os.environ["BENTOML_HOME"], exist_ok=True)
    servers, ratios = [], []
    try:
        for kind in (Penstock, BentoML):
            servers.append(kind(options))
            servers[-1].result()
        for _ in range(options.rounds):
            ours, theirs = (row(options, server) for server in servers)
            ratios.append(ours / theirs)
        print(f"    Penstock accepts {statistics.median(ratios):.1f} times as many (median of {len(ratios)} rounds, "
              f"{min(ratios):.1f} to {max(ratios):.1f}); {options.connections} connections")
    finally:
        for server in servers:
            server.stop()


if __name__ == "__main__":
    main()
