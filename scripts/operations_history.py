"""What happened to operations, as their clients and receivers saw it, and the invariants that must hold. It is pure: no server, no clock."""
import base64, collections, hashlib, hmac, random, time

# Seconds by which the time of a message may differ from the clock, as in the libraries of Standard Webhooks.
TOLERANCE_S = 300
# Shares of the calls. A call is made up from the seed and its number, so a seed gives the same calls in every run.
KEYED, AGAIN, WEBHOOK, CANCEL, POLL, LARGE = 0.5, 0.5, 0.25, 0.15, 0.2, 0.1
# Items of a large call. Its run takes long enough to be cut off by a kill.
LARGE_ITEMS = 200
# The source of an end that a 202 shows.
ACCEPTED = "a 202"


class Call:
    """One call: what it sends, and the answers that it got."""

    def __init__(self, seed, number):
        draw = random.Random(f"{seed}/{number}")
        items = LARGE_ITEMS if draw.random() < LARGE else 1
        # Whole numbers below 2^24 are exact in FP32. The first two numbers tell which call it is.
        self.rows = [[number, item, draw.randrange(1 << 24), draw.randrange(1 << 24)] for item in range(items)]
        self.number = number
        self.key = f"endure-{seed}-{number}" if draw.random() < KEYED else None
        # Keyed calls that are sent again after their 202: seconds until then.
        self.again_s = draw.choice([0, 0.5, 5]) if self.key and draw.random() < AGAIN else None
        self.webhook = draw.random() < WEBHOOK
        self.cancel = draw.random() < CANCEL
        self.poll = draw.random() < POLL
        # The ids in its 202s, in their order, and the times that it was sent without an answer.
        self.ids, self.unanswered = [], 0
        # Whether an answer to its cancellation said that it is cancelled.
        self.cancelled = False


class End:
    """The end of an operation, as an answer or a message shows it."""

    def __init__(self, operation, source="an answer"):
        self.source = source
        metadata = operation.get("metadata", {})
        self.id, self.state, self.time = metadata.get("id"), metadata.get("state"), metadata.get("end_time")
        self.attempt, self.done = metadata.get("attempt"), operation.get("done") is True
        self.webhook, self.error = metadata.get("webhook"), operation.get("error")
        predictions = (operation.get("response") or {}).get("predictions")
        self.rows = [one.get("b") for one in predictions] if isinstance(predictions, list) else None

    def same(self, other):
        # A repeated call that finds its operation gets a 202, which shows the end without the result.
        rows = other.rows if self.source == ACCEPTED and self.rows is None else self.rows
        return (self.state, self.time, rows) == (other.state, other.time, other.rows)

    def __str__(self):
        rows = "no result" if self.rows is None else f"a result of {len(self.rows)} items that begins with {self.rows[:1]}"
        return f"{self.source}: {self.state} at {self.time}, {rows}"


class Message:
    """A webhook that arrived: its id, its bytes, the end that it announces, and whether the receiver took it."""

    def __init__(self, webhook_id, body, end, taken, before_announce=True):
        self.webhook_id, self.body, self.end, self.taken = webhook_id, body, end, taken
        self.before_announce = before_announce


def signature(secret, webhook_id, timestamp, body):
    """The `v1` signature of Standard Webhooks: HMAC-SHA256, in base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(hmac.new(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()).decode()


def fault_of_message(secret, headers, body, now=None):
    """What is wrong with the headers of a message, or None. Names of headers are in lower case."""
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if name not in headers:
            return f"it has no header {name}"
    timestamp = headers["webhook-timestamp"]
    if not timestamp.isdigit() or abs((time.time() if now is None else now) - int(timestamp)) > TOLERANCE_S:
        return f"its time is {timestamp}"
    expected = f"v1,{signature(secret, headers['webhook-id'], timestamp, body)}"
    signatures = headers["webhook-signature"].split(" ")
    if not any(hmac.compare_digest(one.encode(), expected.encode()) for one in signatures):
        return "no signature v1 is valid"
    return None


def faults(calls, finals, sightings, messages, listed):
    """Every broken invariant, as `(invariant, id or number of the call, what was seen)`.

    `finals` has the last answer for each id, or None if it was not found; `sightings` all ends seen before, by id; `messages` the
    webhooks that arrived, by id; `listed` the ids in the list of operations.
    """
    found = []
    owner = {one: call for call in calls for one in call.ids}
    by_number = {call.number: call for call in calls}
    made = collections.defaultdict(set)
    for call in calls:
        made[call.number].update(call.ids)
    for one in sorted(listed - owner.keys()):
        final = finals.get(one)
        # Only calls whose 202 is known are cancelled, so an operation without one has a result.
        number = int(final.rows[0][0]) if final and final.rows else None
        call = by_number.get(number)
        if call is None:
            found.append(("unknown operation", one, f"no call made it: {final}"))
        else:
            owner[one] = call
            made[number].add(one)
            if not call.unanswered:
                found.append(("made twice", one, f"call {number} has an operation beside that of its 202, {call.ids}"))
    for call in calls:
        ids = made[call.number]
        allowed = 1 if call.key or call.ids else call.unanswered
        if len(ids) > allowed:
            found.append(("made twice", f"call {call.number}", f"key {call.key}: {sorted(ids)}"))
    for one, call in sorted(owner.items()):
        final = finals.get(one)
        found.extend((what, one, seen) for what, seen in faults_of_one(call, final, sightings.get(one, []), messages.get(one, [])))
        if one not in listed:
            found.append(("lost", one, "the list does not have it"))
    for one in sorted(messages.keys() - owner.keys()):
        found.append(("webhook", one, "a message is about an operation that no call made"))
    return found


def faults_of_one(call, final, sightings, messages):
    """The broken invariants of one operation of a call."""
    if final is None:
        yield "lost", f"call {call.number}: it is not found"
        return
    if not final.done or final.state not in ("succeeded", "failed", "cancelled"):
        yield "never ended", f"call {call.number}: {final.state}, attempt {final.attempt}"
        return
    if final.state == "failed":
        yield "result lost", f"call {call.number} failed: {final.error}"
    if final.state == "succeeded" and final.rows != call.rows:
        yield "wrong result", f"call {call.number} sent {call.rows[:2]}… and got {(final.rows or [])[:2]}…"
    if final.state == "cancelled" and not call.cancel:
        yield "cancelled", f"call {call.number} is cancelled, and no client asked for it"
    for end in [*sightings, *(message.end for message in messages)]:
        if call.cancelled and end.state == "succeeded":
            yield "cancelled", f"call {call.number}: success was seen, and an answer said cancelled"
        if not end.same(final):
            yield "ended twice", f"call {call.number}: {end}; {final}"
    if call.cancelled and final.state != "cancelled":
        yield "cancelled", f"call {call.number} was answered as cancelled, and is {final.state}"
    if not call.webhook:
        if messages:
            yield "webhook", f"call {call.number} has a message and named no URL"
        return
    if not any(message.taken for message in messages):
        yield "webhook", f"call {call.number}: {len(messages)} messages arrived, and none was taken; its record is {final.webhook}"
    if len({message.webhook_id for message in messages}) > 1:
        yield "webhook", f"call {call.number}: its messages have different ids"
    # A message that is announced again is written anew from the operation.
    if len({message.body for message in messages if message.before_announce}) > 1:
        yield "webhook", f"call {call.number}: its messages differ"
    if (final.webhook or {}).get("state") != "delivered":
        yield "webhook", f"call {call.number}: its record does not say delivered: {final.webhook}"


def self_test():
    """Breaks each invariant in a history that is right, and checks that it is found."""
    def history():
        calls = [Call(7, number) for number in range(300)]
        finals, messages = {}, {}
        for call in calls:
            call.cancel = call.cancel and not call.webhook
            call.cancelled = call.cancel
            one = f"op_{call.number}"
            call.ids = [one, one]
            operation = {"done": True, "metadata": {"id": one, "state": "cancelled" if call.cancelled else "succeeded", "end_time": "t",
                                                    "attempt": 1, "webhook": {"state": "delivered"} if call.webhook else None}}
            if not call.cancelled:
                operation["response"] = {"predictions": [{"b": [float(value) for value in row]} for row in call.rows]}
            finals[one] = End(operation)
            if call.webhook:
                messages[one] = [Message(f"msg_{one}", b"{}", End(operation), False), Message(f"msg_{one}", b"{}", End(operation), True)]
        return calls, finals, {}, messages, set(finals)

    def of(calls, **wanted):
        return next(call for call in calls if all(bool(getattr(call, name)) == value for name, value in wanted.items()))

    def end(state, one="op_x", rows=None, when="t"):
        response = {"response": {"predictions": [{"b": row} for row in rows]}} if rows else {}
        return End({"done": state not in ("queued", "running"), "metadata": {"id": one, "state": state, "end_time": when}, **response})

    assert faults(*history()) == [], faults(*history())[:3]

    def breaks(invariant, change):
        calls, finals, sightings, messages, listed = history()
        listed = change(calls, finals, sightings, messages, listed) or listed
        names = {what for what, *_ in faults(calls, finals, sightings, messages, listed)}
        assert invariant in names, f"{invariant} is not found, only {names}"

    def changed(name, value, **wanted):
        """A change of one attribute of the final answer for a call."""
        return lambda calls, finals, *_: setattr(finals[of(calls, **wanted).ids[0]], name, value)

    breaks("lost", lambda calls, finals, *_: finals.pop("op_3") and None)
    breaks("lost", lambda calls, finals, sightings, messages, listed: listed - {"op_3"})
    breaks("never ended", changed("done", False, webhook=False))
    breaks("never ended", changed("state", "running", webhook=False))
    breaks("result lost", changed("state", "failed", cancel=False))
    breaks("wrong result", changed("rows", [[1.0, 2.0, 3.0, 4.0]], cancel=False))
    breaks("wrong result", changed("rows", None, cancel=False))
    breaks("cancelled", changed("state", "cancelled", cancel=False))
    breaks("cancelled", changed("state", "succeeded", cancelled=True))

    def seen(state, **wanted):
        def change(calls, finals, sightings, *_):
            one = of(calls, **wanted).ids[0]
            sightings[one] = [end(state, one, finals[one].rows, "another time" if state == finals[one].state else "t")]
        return change

    breaks("ended twice", seen("succeeded", cancel=False))
    breaks("ended twice", seen("failed", cancel=False))
    breaks("cancelled", seen("succeeded", cancelled=True))

    def another(calls, finals, sightings, messages, listed):
        call = of(calls, key=True, cancel=False)
        finals["op_y"] = end("succeeded", "op_y", [[float(value) for value in row] for row in call.rows])
        return listed | {"op_y"}

    breaks("made twice", another)
    breaks("made twice", lambda calls, *_: of(calls, key=True).ids.append("op_5"))

    def unanswered(calls, *rest):
        # An answer that was lost explains an operation of a call without a key, and no second one of a call with a key.
        of(calls, key=True, cancel=False).unanswered = 1
        return another(calls, *rest)

    breaks("made twice", unanswered)
    breaks("unknown operation", lambda calls, finals, sightings, messages, listed: listed | {"op_z"})
    breaks("webhook", lambda calls, finals, sightings, messages, listed: messages.pop(of(calls, webhook=True).ids[0]) and None)
    breaks("webhook", lambda calls, finals, sightings, messages, listed: messages[of(calls, webhook=True).ids[0]].pop() and None)
    breaks("webhook", lambda calls, finals, sightings, messages, listed: messages.update(op_2=[Message("m", b"", finals["op_2"], True)])
           if not calls[2].webhook else messages.pop("op_2") and None)

    def message(name, value):
        return lambda calls, finals, sightings, messages, listed: setattr(messages[of(calls, webhook=True).ids[0]][1], name, value)

    breaks("webhook", message("body", b"{ }"))
    breaks("webhook", message("webhook_id", "msg_other"))
    breaks("ended twice", message("end", end("failed")))
    breaks("webhook", changed("webhook", {"state": "failed"}, webhook=True))

    # A call without a key and without an answer may have made one operation.
    calls, finals, sightings, messages, listed = history()
    call = of(calls, key=False, cancel=False, webhook=False)
    call.ids, call.unanswered = [], 1
    assert faults(calls, finals, sightings, messages, listed) == []

    # The example of the specification of Standard Webhooks.
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    headers = {"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
               "webhook-signature": "v1a,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}
    assert fault_of_message(secret, headers, body, 1614265330) is None
    for fault in (fault_of_message(secret, headers, body + b" ", 1614265330), fault_of_message(secret, headers, body, 1614265330 + 301),
                  fault_of_message(secret, {**headers, "webhook-signature": "v1,AAAA"}, body, 1614265330),
                  fault_of_message(secret, {**headers, "webhook-id": "msg_other"}, body, 1614265330), fault_of_message(secret, {}, body)):
        assert fault
    print("each broken invariant is found")
