"""A running server and connections to it, for the scripts that serve models of others and compare the answers."""
import http.client, json, os, re, shutil, subprocess, tempfile, threading, time

# Everyone on this machine may call.
POLICY = '[auth.anonymous]\nscopes = ["*"]\nfrom = "anywhere"\n'


class Server:
    """`penstock up` on a free port, with its own stores. Servers share their compiled components in the folder `compiled`."""

    def __init__(self, binary, models, arguments, compiled, policy=""):
        self.state = tempfile.mkdtemp()
        files = {name: os.path.join(self.state, name) for name in ("penstock.toml", "runtime.toml", "default.kv")}
        with open(files["penstock.toml"], "w") as file:
            file.write(POLICY + policy)
        with open(files["runtime.toml"], "w") as file:
            file.write(f'[key_value_store.default]\ntype = "penstock"\npath = {json.dumps(files["default.kv"])}\n')
        command = [binary, "up", "--listen", "127.0.0.1:0", "--models", models, "--policy", files["penstock.toml"],
                   "--runtime-config-file", files["runtime.toml"], "--state-dir", compiled, *arguments]
        self.child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
        self.log, self.port = [], None
        self.reader = threading.Thread(target=self.follow, daemon=True)
        self.reader.start()
        until = time.time() + 300
        while self.port is None and self.child.poll() is None and time.time() < until:
            time.sleep(0.05)

    def follow(self):
        for line in self.child.stderr:
            self.log.append(line.rstrip())
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found and self.port is None:
                self.port = int(found[1])

    def said(self, pattern):
        """The text of the last matching line of the log."""
        found = [match[1] for line in list(self.log) if (match := re.search(pattern, line))]
        return found[-1] if found else None

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(30)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        shutil.rmtree(self.state, ignore_errors=True)


class Connection:
    """A connection that is kept and opened again where it was closed."""

    def __init__(self, server):
        self.server, self.connection = server, None

    def ask(self, method, path, headers={}, body=None):
        """Status, headers with names in lower case, and body."""
        for attempt in (0, 1):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)
                self.connection.request(method, path, body, headers)
                answer = self.connection.getresponse()
                raw = answer.read()
                return answer.status, {name.lower(): value for name, value in answer.getheaders()}, raw
            except (http.client.HTTPException, OSError):
                self.connection = None
                if attempt or self.server.child.poll() is not None:
                    raise
