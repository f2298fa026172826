"""The load, the kills and the receiver of scripts/endure-operations, and what it prints. operations_history.py has the invariants."""
import argparse, base64, collections, heapq, http.client, http.server, itertools, json, os, random, select, shutil, signal, socket, subprocess, sys
import tempfile, threading, time
from operations_history import ACCEPTED, Call, End, Message, fault_of_message, faults, self_test

MODEL = "identity"
PREDICT = f"/v1/models/{MODEL}:predictAsync"
# Longest start: the first one compiles the components.
FIRST_START_S, START_S = 300, 60
# Longest wait for an answer, and for one poll. Both are longer than the server's own.
ANSWER_S, POLL_S = 60, 10
# Time before a call is sent again that was refused for now.
RETRY_S = 0.5
# Time between two bursts of calls.
BURST_S = 0.4
# Kills that come while the server starts, and messages that the receiver refuses at first.
KILL_AT_START, REFUSE = 0.1, 0.02
# Ids that are printed for each invariant.
PRINTED = 20

POLICY = """
[auth.anonymous]
scopes = ["*"]
from = "anywhere"

# A run that is cut off is tried again; with the usual 3 attempts an operation could fail by three kills.
[operations]
max_attempts = 16
lease_ms = 3000
workers = 4
max_per_tenant = {places}

# A call whose host died is taken over soon.
[idempotency]
lease_ms = 3000

[webhooks]
allow_hosts = ["127.0.0.1:{receiver}"]

[[webhooks.tenants]]
tenant = "anonymous"
secrets_file = {secret}
"""


class NotInTime(Exception):
    """The whole run took too long, or a server did not start."""


def free_port(draw):
    """A free port below those that the kernel gives to outgoing connections: a killed server finds it again."""
    for _ in range(1000):
        port = draw.randrange(20_001, 30_000)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise NotInTime("no port from 20001 to 30000 is free")


class Server:
    """`penstock up`, which can be killed and started again on its port and its stores."""

    def __init__(self, command, port, log, environment):
        self.command, self.port, self.environment = [*command, "--listen", f"127.0.0.1:{port}"], port, environment
        self.log, self.child = open(log, "ab"), None
        # Set while it serves. Once `gone` it never comes back.
        self.up, self.gone = threading.Event(), False

    def spawn(self):
        self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                      start_new_session=True, env=self.environment)

    def ready(self, limit_s):
        """Waits until it serves."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            if self.child.poll() is not None:
                raise NotInTime(f"the server ended with {self.child.returncode} at its start; {self.log.name} says why")
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            try:
                connection.request("GET", "/ready")
                if connection.getresponse().status == 200:
                    self.up.set()
                    return
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.02)
        raise NotInTime(f"the server was not ready within {limit_s} s; {self.log.name} says why")

    def kill(self):
        self.up.clear()
        self.child.kill()
        self.child.wait()

    def stop(self):
        """Ends it and the processes that it started."""
        self.up.clear()
        if self.child is None:
            return
        for number, limit_s in ((signal.SIGTERM, 30), (signal.SIGKILL, 5)):
            if self.child.poll() is None:
                self.child.send_signal(number)
                try:
                    self.child.wait(limit_s)
                except subprocess.TimeoutExpired:
                    continue
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.log.close()


class Receiver(http.server.ThreadingHTTPServer):
    """Takes webhooks and checks their signatures. It refuses some messages at their first arrival, so that they come again."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, seed, secret):
        super().__init__(("127.0.0.1", 0), Hook)
        self.draw, self.secret, self.lock = random.Random(f"{seed}/receiver"), secret, threading.Lock()
        self.messages, self.announced, self.invalid, self.refused = collections.defaultdict(list), set(), [], 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def take(self, headers, body):
        """Records a message, and returns the status of the answer."""
        fault = fault_of_message(self.secret, headers, body)
        try:
            message = json.loads(body)
            end = End(message["data"], "a message")
            if fault is None and message["type"] != f"operation.{end.state}":
                fault = f"its type is {message['type']}, and its operation {end.state}"
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            fault, end = fault or f"its body: {problem!r}", None
        with self.lock:
            if fault:
                self.invalid.append((headers.get("webhook-id", "a message"), fault))
                return 401
            before = self.messages[end.id]
            taken = bool(before) or self.draw.random() >= REFUSE
            self.refused += not taken
            before.append(Message(headers["webhook-id"], body, end, taken, end.id not in self.announced))
            return 204 if taken else 503


class Hook(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if len(body) != int(self.headers.get("content-length") or 0):
            # The server was killed while it sent the message.
            self.close_connection = True
            return
        status = self.server.take({name.lower(): value for name, value in self.headers.items()}, body)
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass  # the server was killed

    def log_message(self, *_):
        pass


class Client:
    """One connection, which is opened again where it was closed."""

    def __init__(self, servers, number):
        self.servers, self.number, self.connection, self.server = servers, number, None, None

    def ask(self, method, path, headers=(), body=None):
        """Status, headers and JSON of the answer; `None` if none came."""
        left = [server for server in self.servers if not server.gone]
        server = left[self.number % len(left)]
        server.up.wait(5)
        try:
            # An idle connection with something to read was closed by a kill: a call on it was never sent.
            closed = self.connection is not None and self.connection.sock is not None and select.select([self.connection.sock], [], [], 0)[0]
            if self.connection is None or self.server is not server or closed:
                self.close()
                self.server = server
                self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S)
            self.connection.request(method, path, body, dict(headers))
            answer = self.connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            time.sleep(0.02)
            return None
        try:
            value = json.loads(raw)
        except ValueError:
            value = {}
        return answer.status, answer.headers, value if isinstance(value, dict) else {}

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Load:
    """Calls over many connections until enough are accepted, and everything that was seen of them."""

    def __init__(self, options, servers, receiver, deadline):
        self.options, self.servers, self.receiver, self.deadline = options, servers, receiver, deadline
        self.lock, self.problem = threading.Lock(), None
        self.calls, self.open_calls, self.accepted, self.busy = [], 0, 0, 0
        # Tasks that are due later: (time, order, function, its call).
        self.tasks, self.order = [], itertools.count()
        self.sightings, self.unexpected = collections.defaultdict(list), []
        self.counts, self.begun = collections.Counter(), time.monotonic()

    def run(self):
        """Returns when every call has its answers."""
        threads = [threading.Thread(target=self.connection, args=(number,), daemon=True) for number in range(self.options.connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0, self.deadline - time.monotonic()) + 1)
        if self.problem:
            raise self.problem
        if any(thread.is_alive() for thread in threads):
            raise NotInTime(f"{self.accepted} of {self.options.operations} operations were accepted in time")

    def connection(self, number):
        client = Client(self.servers, number)
        try:
            while not self.problem:
                task, over = self.next_task()
                if over:
                    return
                if time.monotonic() > self.deadline:
                    raise NotInTime(f"{self.accepted} of {self.options.operations} operations were accepted in time")
                if task is None:
                    time.sleep(0.01)
                    continue
                try:
                    task[0](client, task[1])
                finally:
                    with self.lock:
                        self.busy -= 1
        except Exception as problem:  # shown by `run`
            self.problem = self.problem or problem
        finally:
            client.close()

    def next_task(self):
        """The next task, or None; and whether everything is done."""
        now = time.monotonic()
        with self.lock:
            if self.tasks and self.tasks[0][0] <= now:
                self.busy += 1
                return heapq.heappop(self.tasks)[2:], False
            missing = self.options.operations - self.accepted - self.open_calls
            if missing > 0 and now >= self.due(len(self.calls)):
                call = Call(self.options.seed, len(self.calls))
                self.calls.append(call)
                self.open_calls += 1
                self.busy += 1
                return (self.submit, call), False
            return None, missing <= 0 and not (self.tasks or self.busy or self.open_calls)

    def due(self, number):
        """When a call is due. Calls come in bursts, so that some wait in the queue and can be cancelled."""
        if not self.options.rate:
            return 0
        burst = max(1, int(self.options.rate * BURST_S))
        return self.begun + number // burst * burst / self.options.rate

    def await_burst(self, more_s):
        """Waits until many calls are on their way, so that a kill cuts some off; at most for the time between two bursts."""
        until = time.monotonic() + BURST_S
        while self.busy < self.options.connections // 4 and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(more_s)

    def later(self, seconds, task, call):
        with self.lock:
            heapq.heappush(self.tasks, (time.monotonic() + seconds, next(self.order), task, call))

    def post(self, client, call):
        headers = {"content-type": "application/json"}
        if call.key:
            headers["idempotency-key"] = call.key
        if call.webhook:
            headers["webhook-url"] = f"http://127.0.0.1:{self.receiver.server_port}/{call.number}"
        return client.ask("POST", PREDICT, headers, json.dumps({"inputs": {"a": call.rows}}))

    def submit(self, client, call, again=False):
        """Sends a call. One with a key is sent until it has its 202."""
        answer = self.post(client, call)
        if answer and answer[0] == 202:
            one = answer[2].get("metadata", {}).get("id")
            with self.lock:
                call.ids.append(one)
                self.counts["replayed"] += "idempotency-replayed" in answer[1]
                if not again:
                    self.accepted += 1
                    self.open_calls -= 1
            self.see(answer[2], ACCEPTED)
            if again:
                return
            if call.again_s is not None:
                self.later(call.again_s, self.submit_again, call)
            if call.cancel:
                self.cancel(client, call)
            elif call.poll:
                self.poll(client, call)
            return
        retried = answer is None or answer[0] == 503 or (call.key and answer[0] == 409)
        with self.lock:
            if answer is None:
                self.counts["without an answer"] += 1
            else:
                self.counts[f"answered {answer[0]}"] += 1
            if answer is None or answer[0] == 503:
                call.unanswered += 1
            if not retried:
                self.unexpected.append((f"call {call.number}", f"it was answered {answer[0]}: {answer[2]}"))
            if not (retried and call.key) and not again:
                self.open_calls -= 1
                if not retried:
                    self.accepted += 1  # it does not come back, so the run ends
        if retried and call.key:
            self.later(RETRY_S, self.submit_again if again else self.submit, call)

    def submit_again(self, client, call):
        self.submit(client, call, again=True)

    def cancel(self, client, call):
        answer = client.ask("POST", f"/v1/operations/{call.ids[0]}:cancel", {"content-type": "application/json"}, "{}")
        if answer is None or answer[0] == 503:
            self.later(RETRY_S, self.cancel, call)
        elif answer[0] != 200:
            with self.lock:
                self.unexpected.append((call.ids[0], f"its cancellation was answered {answer[0]}: {answer[2]}"))
        else:
            end = self.see(answer[2], "a cancellation")
            with self.lock:
                call.cancelled = call.cancelled or (end.done and end.state == "cancelled")
                self.counts["cancellations answered"] += 1

    def poll(self, client, call):
        answer = client.ask("GET", f"/v1/operations/{call.ids[0]}", {"prefer": "wait=1"})
        if answer is None or answer[0] == 503:
            return
        if answer[0] != 200:
            with self.lock:
                self.unexpected.append((call.ids[0], f"a poll was answered {answer[0]}: {answer[2]}"))
        else:
            self.see(answer[2], "a poll")

    def see(self, operation, source):
        """Records an end."""
        end = End(operation, source)
        if end.done:
            with self.lock:
                self.sightings[end.id].append(end)
        return end


class Killer(threading.Thread):
    """Kills a server after each of its lives and starts it again."""

    def __init__(self, options, load, server):
        super().__init__(daemon=True)
        self.load, self.server, self.every_s, self.draw = load, server, options.kill_every, random.Random(f"{options.seed}/killer")
        self.over, self.problem, self.kills, self.at_start, self.down_s = threading.Event(), None, 0, 0, []

    def run(self):
        try:
            while not self.over.wait(self.every_s * self.draw.uniform(0.5, 1.5)):
                self.load.await_burst(self.draw.uniform(0, 0.05))
                begun = time.monotonic()
                self.server.kill()
                self.kills += 1
                self.server.spawn()
                while self.draw.random() < KILL_AT_START and not self.over.wait(self.draw.uniform(0, 0.5)):
                    self.server.kill()
                    self.kills, self.at_start = self.kills + 1, self.at_start + 1
                    self.server.spawn()
                self.server.ready(START_S)
                self.down_s.append(time.monotonic() - begun)
        except Exception as problem:  # shown by `finish`
            self.problem = problem

    def finish(self):
        """Stops the kills. The server serves afterwards."""
        self.over.set()
        self.join()
        if self.problem:
            raise self.problem


class Ender(threading.Thread):
    """Kills a server for good as soon as half of the operations are accepted."""

    def __init__(self, load, server):
        super().__init__(daemon=True)
        self.load, self.server, self.kills, self.at_start, self.down_s = load, server, 0, 0, []

    def run(self):
        while self.load.accepted < self.load.options.operations // 2:
            if self.load.problem or time.monotonic() > self.load.deadline:
                return
            time.sleep(0.002)
        self.load.await_burst(0.01)
        self.server.gone = True
        self.server.kill()
        self.kills = 1

    def finish(self):
        self.join()


def in_parallel(servers, connections, things, work):
    """Calls `work(client, thing)` for all things over several connections, and returns the results by thing."""
    things, results, lock, problems = collections.deque(things), {}, threading.Lock(), []

    def connection(number):
        client = Client(servers, number)
        try:
            while not problems:
                with lock:
                    if not things:
                        return
                    thing = things.popleft()
                results[thing] = work(client, thing)
        except Exception as problem:
            problems.append(problem)
        finally:
            client.close()

    threads = [threading.Thread(target=connection, args=(number,), daemon=True) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return results


def read_end(client, one, deadline):
    """Waits for the end of an operation. Returns its last state, or None if it is unknown."""
    end = None
    while True:
        answer = client.ask("GET", f"/v1/operations/{one}", {"prefer": f"wait={POLL_S}"})
        if answer is not None and answer[0] == 404:
            return None
        if answer is not None and answer[0] == 200:
            end = End(answer[2], "the last poll")
            if end.done:
                return end
        if time.monotonic() > deadline:
            if end is None:
                raise NotInTime(f"{one} could not be read; the last answer is {answer}")
            return end
        time.sleep(0.05 if answer else 0.5)


def list_all(client, deadline):
    """The ids in the list of operations, all pages."""
    ids, page = set(), ""
    while time.monotonic() < deadline:
        answer = client.ask("GET", f"/v1/operations?page_size=200{page}")
        if answer is None or answer[0] != 200:
            time.sleep(0.5)
            continue
        ids.update(one["metadata"]["id"] for one in answer[2].get("operations", []))
        token = answer[2].get("next_page_token")
        if not token:
            return ids
        page = f"&page_token={token}"
    raise NotInTime("the list of operations was not read in time")


def undelivered(receiver, finals, hooked):
    """The ended operations whose message was not taken, or whose record does not say so yet."""
    with receiver.lock:
        taken = {one for one, messages in receiver.messages.items() if any(message.taken for message in messages)}
    ended = [one for one in hooked if finals.get(one) and finals[one].done]
    return [one for one in ended if one not in taken or (finals[one].webhook or {}).get("state") != "delivered"]


def await_webhooks(options, servers, receiver, finals, hooked, deadline):
    """Waits for the messages. The third attempt comes after five minutes: those of which two were lost are announced again, if their
    records say that an attempt will be made. Returns the number of these."""
    announced = 0
    for limit_s, announce in ((options.webhook_wait, True), (30, False)):
        until = min(deadline, time.monotonic() + limit_s)
        while (left := undelivered(receiver, finals, hooked)) and time.monotonic() < until:
            time.sleep(0.5)
            finals.update(in_parallel(servers, options.connections, left, lambda client, one: read_end(client, one, deadline)))
        if not left or not announce:
            break

        def send_again(client, one):
            answer = client.ask("POST", f"/v1/operations/{one}:announce", {"content-type": "application/json"}, "{}")
            return answer is not None and answer[0] == 200

        # A delivery without a later attempt in its record is a fault, and is left as it is. Those of a dead host are different: they
        # continue when any host starts, or here.
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        records = {one: finals[one].webhook or {} for one in left}
        pending = [one for one, record in records.items() if record.get("state") == "pending" and
                   (options.redis or record.get("next_attempt_time", "") > now)]
        with receiver.lock:
            receiver.announced.update(pending)
        announced = sum(in_parallel(servers, options.connections, pending, send_again).values())
    return announced


def start_redis(folder, draw):
    port = free_port(draw)
    child = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], cwd=folder,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 10
    while time.monotonic() < until and child.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as one:
                one.sendall(b"PING\r\n")
                if one.recv(64).startswith(b"+PONG"):
                    return child, f"redis://127.0.0.1:{port}/0"
        except OSError:
            time.sleep(0.02)
    child.kill()
    child.wait()
    raise NotInTime("redis-server did not start; run `redis-server --port 6390` to see why")


def endure(options, folder, children):
    """Runs everything, prints the numbers and returns the broken invariants. Servers are added to `children`."""
    draw = random.Random(f"{options.seed}/ports")
    deadline = time.monotonic() + FIRST_START_S + options.limit
    secret = "whsec_" + base64.b64encode(random.Random(f"{options.seed}/secret").randbytes(32)).decode()
    receiver = Receiver(options.seed, secret)
    models, places = os.path.join(folder, "models"), {name: os.path.join(folder, name) for name in
                                                      ("penstock.toml", "runtime.toml", "default.kv", "secret")}
    shutil.copytree(os.path.join(options.models, MODEL), os.path.join(models, MODEL))
    with open(os.open(places["secret"], os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(secret + "\n")
    with open(places["penstock.toml"], "w") as file:
        file.write(POLICY.format(places=max(100_000, 4 * options.operations), receiver=receiver.server_port, secret=json.dumps(places["secret"])))
    store = f'type = "penstock"\npath = {json.dumps(places["default.kv"])}\n'
    if options.redis:
        redis, url = start_redis(folder, draw)
        children.append(redis)
        store = f'type = "redis"\nurl = "{url}"\n'
    with open(places["runtime.toml"], "w") as file:
        file.write(f"[key_value_store.default]\n{store}")
    compiled = os.path.abspath(os.path.join(options.work, "compiled"))
    command = [os.path.abspath(options.server), "up", "--app", options.app, "--models", models, "--policy", places["penstock.toml"],
               "--runtime-config-file", places["runtime.toml"], "--state-dir", compiled]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    servers = [Server(command, free_port(draw), os.path.join(folder, f"server-{number}.log"), environment)
               for number in range(2 if options.redis else 1)]
    for server in servers:
        children.append(server)
        server.spawn()
        server.ready(FIRST_START_S)

    deadline = time.monotonic() + options.limit
    load = Load(options, servers, receiver, deadline)
    trouble = Ender(load, servers[1]) if options.redis else Killer(options, load, servers[0])
    if options.redis or options.kill_every:
        trouble.start()
        try:
            load.run()
        finally:
            trouble.finish()
    else:
        load.run()
    accept_s = time.monotonic() - load.begun

    survivors, begun = servers[:1], time.monotonic()
    listed = list_all(Client(survivors, 0), deadline)
    known = {one for call in load.calls for one in call.ids}
    finals = in_parallel(survivors, options.connections, sorted(known | listed), lambda client, one: read_end(client, one, deadline))
    end_s = time.monotonic() - begun
    numbers = {int(final.rows[0][0]): one for one, final in finals.items() if final and final.rows}
    hooked = {one for call in load.calls if call.webhook for one in [*call.ids, *([numbers[call.number]] if call.number in numbers else [])]}
    announced = await_webhooks(options, survivors, receiver, finals, sorted(hooked), deadline)
    report(load, trouble, receiver, finals, (accept_s, end_s, time.monotonic() - begun), announced, len(listed - known))
    with receiver.lock:
        messages = {one: list(some) for one, some in receiver.messages.items() if some}
        found = [("webhook", one, f"a message is not valid: {fault}") for one, fault in receiver.invalid]
    found += [("answer", one, text) for one, text in load.unexpected]
    return found + faults(load.calls, finals, load.sightings, messages, listed)


def report(load, trouble, receiver, finals, times, announced, unknown):
    accept_s, end_s, drain_s = times
    ends = [final for final in finals.values() if final is not None]
    states = collections.Counter(end.state for end in ends)
    attempts = collections.Counter(end.attempt for end in ends)
    unkeyed = sum(1 for call in load.calls if not call.key and not call.ids)
    print(f"accepted     {load.accepted} operations over {load.options.connections} connections in {accept_s:.1f} s; seed {load.options.seed}")
    down = f"; {sorted(trouble.down_s)[len(trouble.down_s) // 2]:.2f} s (median) to {max(trouble.down_s):.2f} s without a server" if trouble.down_s else ""
    print(f"kill -9      {trouble.kills} times, {trouble.at_start} of them during a start{down}")
    print(f"keys         {sum(1 for call in load.calls if call.key)} calls; {load.counts['replayed']} answers were replays; "
          f"{sum(1 for call in load.calls if len(call.ids) > 1)} calls have two 202s or more")
    print(f"no answer    {load.counts['without an answer']} posts; {unkeyed} calls without a key stayed without one, and {unknown} operations "
          "are in the list that no 202 named")
    others = ", ".join(f"{count} {name}" for name, count in sorted(load.counts.items()) if name.startswith("answered"))
    if others:
        print(f"refused      {others}")
    bare = sum(1 for some in load.sightings.values() for end in some if end.source == ACCEPTED and end.state == "succeeded" and end.rows is None)
    if bare:
        print(f"202s         {bare} of repeated calls showed an end without its result")
    print(f"ends         {', '.join(f'{count} {state}' for state, count in sorted(states.items(), key=str))}; all were read {end_s:.1f} s after the last kill")
    print(f"cancelled    {sum(1 for call in load.calls if call.cancelled)} of {load.counts['cancellations answered']} cancellations came before the end")
    print(f"attempts     {', '.join(f'{count} took {number}' for number, count in sorted(attempts.items(), key=lambda one: one[0] or 0))}")
    with receiver.lock:
        messages = sum(map(len, receiver.messages.values()))
        print(f"webhooks     {messages} messages about {sum(1 for some in receiver.messages.values() if some)} operations; {receiver.refused} were refused at first, "
              f"{announced} announced again; over after {drain_s:.1f} s")


def main():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(prog="scripts/endure-operations", description="Accepts operations while the server is killed again and again.")
    parser.add_argument("--operations", type=int, help="operations to accept (10000)")
    parser.add_argument("--redis", type=int, metavar="N", help="accept N operations at two servers on one Redis; one dies for good half way")
    parser.add_argument("--connections", type=int, default=64, help="connections (64)")
    parser.add_argument("--kill-every", type=float, default=2, metavar="S", help="mean seconds that the server lives; 0: no kills (2)")
    parser.add_argument("--rate", type=float, default=250, help="calls that are due a second, in bursts; 0: no bound (250)")
    parser.add_argument("--webhook-wait", type=float, default=40, metavar="S",
                        help="seconds before messages with a later attempt are announced again; 400 waits for the third attempt (40)")
    parser.add_argument("--limit", type=float, default=900, metavar="S", help="longest run in seconds, without the first start (900)")
    parser.add_argument("--seed", type=int, default=None, help="the seed of the calls and kills; by default a new one")
    parser.add_argument("--server", default=os.path.join(root, "target/release/penstock"), help="the program")
    parser.add_argument("--app", default=os.path.join(root, "spin.toml"), help="its manifest")
    parser.add_argument("--models", default=os.path.join(root, "models"), help="the models directory, for `identity`")
    parser.add_argument("--work", default=os.path.join(root, "build/endure-operations"), help="the folder that keeps compiled components")
    parser.add_argument("--self-test", action="store_true", help="check the checks, without a server")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    if options.redis and options.operations:
        parser.error("--redis has the number of operations; leave out --operations")
    options.operations = options.redis or options.operations or 10_000
    if options.operations < 1 or options.connections < 1 or options.kill_every < 0 or options.rate < 0:
        parser.error("numbers must be positive")
    options.seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    os.makedirs(options.work, exist_ok=True)
    folder, children = tempfile.mkdtemp(prefix="penstock-endure-"), []
    try:
        found = endure(options, folder, children)
    except NotInTime as problem:
        found = [("not in time", "the run", str(problem))]
    finally:
        for child in reversed(children):
            if isinstance(child, Server):
                child.stop()
            else:
                child.kill()
                child.wait()
    if not found:
        shutil.rmtree(folder, ignore_errors=True)
        print("every invariant holds")
        return
    by_invariant = collections.defaultdict(list)
    for what, one, seen in found:
        by_invariant[what].append((one, seen))
    for what, some in sorted(by_invariant.items()):
        print(f"BROKEN: {what}, {len(some)} times", file=sys.stderr)
        for one, seen in some[:PRINTED]:
            print(f"    {one}: {seen}", file=sys.stderr)
        if len(some) > PRINTED:
            print(f"    and {len(some) - PRINTED} more", file=sys.stderr)
    sys.exit(f"error: {len(found)} faults with the seed {options.seed}; the stores and the logs of the servers are kept in {folder}")


if __name__ == "__main__":
    main()
