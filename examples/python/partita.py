"""Hands inputs to a running Partita cluster and takes its answers, as numpy arrays.

    import partita

    with partita.Cluster("out/report.json", input="/run/partita-hall-cam/socket",
                         output="/run/partita-hall-hub/socket") as cluster:
        scores = cluster.infer(picture)                # one input, one answer
        for scores in cluster.stream(pictures):        # several at a time, answers in order
            ...
        print(cluster.status())                        # counters, as Prometheus reads them

Each device's process serves programs of its machine over a Unix socket (`--socket`, or the systemd unit's runtime
folder). Inputs go to the device that holds the input, answers come from the one that holds the output; a socket on another
machine is reached through `ssh -L`. The report that `compile` writes says what goes in and what comes out.

Every input has exactly one record: what became of it. `infer` raises `NoAnswer` for one that was late or failed, and `Lost`
for one that was under way when a device that this program talks to ended: nobody can say what became of that one. When the
device is there again, the same object goes on with it; until then `submit` waits, as long as an input may take.
"""

import collections
import json
import pathlib
import socket
import struct
import threading
import time
import zlib

import numpy

__all__ = ["Answer", "Cluster", "Lost", "Mismatch", "NoAnswer", "Record"]

# runtime-rt/src/frame.rs: magic, version, kind, plan hash, inference, message, sender, route, length, two checksums.
_HEADER = struct.Struct("<2sBBQIHBBII")
_MAGIC, _VERSION, _CLIENT = b"Pt", 1, 255
_HELLO, _INPUT, _OUTPUT, _STOP, _STATUS, _SUBSCRIBE, _BUDGET, _RECORD, _RESET = 1, 3, 4, 6, 10, 12, 13, 14, 15
_WANTS_ANSWERS = 1
_MOST_BYTES = 1 << 30

# runtime-rt/src/node/inputs.rs, `Record::emit`.
_RECORD_BYTES = struct.Struct("<I4BIfQ")
_OUTCOMES = ["full", "exit", "variant", "late", "failed: no route", "failed: stopped"]

_PORT_ALIGNMENT_BYTES = 8
_ELEMENTS = {
    "f32": "<f4", "f64": "<f8", "f16": "<f2", "i64": "<i8", "i32": "<i4", "i16": "<i2", "i8": "i1",
    "u64": "<u8", "u32": "<u4", "u16": "<u2", "u8": "u1", "bool": "?",
}

# Answers to other programs' inputs arrive, too; so many are kept.
_KEPT_ANSWERS = 256

# Seconds between two tries to reach a device that has gone: first and longest.
_CALLS = (0.02, 0.5)

# So long after its record, and after its device is there again, an answer that was under way may still come.
_LATE_ANSWER = 0.5


class Mismatch(ValueError):
    """What was handed in, or the device at the other end, is not what the report says."""


Record = collections.namedtuple("Record", "outcome route exit confidence tries took_us")
Record.__doc__ = """What became of an input: `full`, `exit`, `variant`, `late`, `failed: why`; the route it took, the exit at which
it ended and the confidence there (or None), how often it was tried, and microseconds from its acceptance."""

Answer = collections.namedtuple("Answer", "outputs record")
Answer.__doc__ = "The model's outputs by name, and the record of the input."


class NoAnswer(RuntimeError):
    """An input was late or failed; `record` says which."""

    def __init__(self, record):
        super().__init__(f"{record.outcome}, after {record.tries} tries and {record.took_us / 1000:.1f} ms")
        self.record = record


class Lost(ConnectionError):
    """A device that this program talks to ended while an input was under way."""


class _Tensor:
    def __init__(self, described):
        self.name, self.shape = described["name"], tuple(described["shape"])
        if described["element"] not in _ELEMENTS:
            raise Mismatch(f"`{self.name}` has elements of {described['element']}, which numpy has not")
        self.dtype = numpy.dtype(_ELEMENTS[described["element"]])
        self.size = int(numpy.prod(self.shape, dtype=numpy.int64)) * self.dtype.itemsize

    def bytes_of(self, value):
        value = numpy.asarray(value)
        if value.shape != self.shape and value.shape != self.shape[1:]:
            raise Mismatch(f"`{self.name}` is {list(value.shape)}, the model takes {list(self.shape)}")
        if value.dtype != self.dtype and not numpy.can_cast(value.dtype, self.dtype, "same_kind"):
            raise Mismatch(f"`{self.name}` is of {value.dtype}, the model takes {self.dtype}")
        return numpy.ascontiguousarray(value, self.dtype).tobytes()


class _Model:
    """What a report says of the model's inputs and outputs, and of the plan."""

    def __init__(self, report):
        described = json.loads(pathlib.Path(report).read_text())
        self.plan_hash = int(described["plan"]["hash"], 16)
        self.inputs = [_Tensor(tensor) for tensor in described["model"]["inputs"]]
        self.outputs = [_Tensor(tensor) for tensor in described["model"]["outputs"]]

    def pack(self, values):
        if isinstance(values, dict):
            names = [tensor.name for tensor in self.inputs]
            if set(values) != set(names):
                raise Mismatch(f"inputs {sorted(values)}, the model takes {names}")
            values = [values[name] for name in names]
        elif len(self.inputs) == 1 and not isinstance(values, (list, tuple)):
            values = [values]
        if len(values) != len(self.inputs):
            raise Mismatch(f"{len(values)} inputs, the model takes {len(self.inputs)}")
        packed = b""
        for tensor, value in zip(self.inputs, values):
            packed += bytes(-len(packed) % _PORT_ALIGNMENT_BYTES) + tensor.bytes_of(value)
        return packed

    def unpack(self, data):
        outputs, first = {}, 0
        for tensor in self.outputs:
            first += -first % _PORT_ALIGNMENT_BYTES
            if first + tensor.size > len(data):
                raise Mismatch(f"an answer of {len(data)} bytes is shorter than the model's outputs")
            flat = numpy.frombuffer(data, tensor.dtype, tensor.size // tensor.dtype.itemsize, first)
            outputs[tensor.name] = flat.reshape(tensor.shape).copy()
            first += tensor.size
        return outputs


class _Device:
    """A connection to one device, made anew when it was lost; frames go to `heard` in a thread of its own, and so do the end of
    a connection (no kind, the error) and the beginning of the next (no kind, nothing)."""

    def __init__(self, path, plan_hash, heard):
        self.path, self.plan_hash, self._lock = str(path), plan_hash, threading.Lock()
        self.greetings, self.is_open, self.life, self.closed = [], False, 0, False
        self._open()
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    def _open(self):
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.connect(self.path)
            self._socket, self._stream = stream, stream.makefile("rb")
            kind, found, _, _, _ = self._receive()
            if kind != _HELLO:
                raise Mismatch(f"{self.path}: no device of Partita is there")
            if found != self.plan_hash:
                raise Mismatch(f"{self.path}: the device runs plan {found:016x}, the report is of {self.plan_hash:016x}")
            for kind, message, payload in [(_HELLO, 0, b""), *self.greetings]:
                self.send(kind, message=message, payload=payload)
            self.is_open = True
        except (OSError, ValueError):
            self.is_open = False
            stream.close()
            raise

    def greet(self, kind, message=0, payload=b""):
        """Says something now, and first on every further connection."""
        self.greetings.append((kind, message, payload))
        self.send(kind, message=message, payload=payload)

    def send(self, kind, inference=0, message=0, payload=b""):
        fields = (_MAGIC, _VERSION, kind, self.plan_hash, inference, message, _CLIENT, 0, len(payload))
        header = _HEADER.pack(*fields, zlib.crc32(payload))
        with self._lock:
            self._socket.sendall(header + struct.pack("<I", zlib.crc32(header)) + payload)

    def _read(self, count):
        data = self._stream.read(count)
        if len(data) < count:
            raise ConnectionError(f"{self.path}: the device closed the connection")
        return data

    def _receive(self):
        header = self._read(_HEADER.size)
        magic, version, kind, plan, inference, _, _, route, length, checksum = _HEADER.unpack(header)
        (of_header,) = struct.unpack("<I", self._read(4))
        if (magic, version) != (_MAGIC, _VERSION) or of_header != zlib.crc32(header) or length > _MOST_BYTES:
            raise Mismatch(f"{self.path}: what is there does not speak Partita's frames")
        payload = self._read(length)
        if zlib.crc32(payload) != checksum:
            raise Mismatch(f"{self.path}: a frame is damaged")
        return kind, plan, inference, route, payload

    def _listen(self, heard):
        while True:
            try:
                while True:
                    kind, _, inference, _, payload = self._receive()
                    heard(self, kind, inference, payload)
            except (OSError, ValueError) as error:
                self.is_open, self.life = False, self.life + 1
                self._socket.close()
                heard(self, None, 0, error)
            wait = _CALLS[0]
            while not self.is_open:
                if self.closed:
                    return
                time.sleep(wait)
                wait = min(2 * wait, _CALLS[1])
                try:
                    self._open()
                except Mismatch as error:
                    self.closed = True
                    heard(self, None, 0, error)
                    return
                except OSError:
                    pass
            heard(self, None, 0, None)

    def close(self):
        self.closed = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()


class Cluster:
    """A running cluster, as one program on it sees it. Several threads may use it.

    `report` is the bundle's report.json; `input` and `output` are the sockets of the devices that hold them (the same one if
    `output` is left out). `budget` is how many seconds an input may take before it is late.
    """

    def __init__(self, report, input, output=None, budget=60.0):
        self.model = _Model(report)
        self._changed = threading.Condition()
        # Of inputs that are waited for: which lives of their devices they were given to.
        self._numbers, self._records, self._waited = 0, {}, {}
        self._answers = collections.OrderedDict()
        self._status, self._error, self._back = None, None, {}
        self._input = _Device(input, self.model.plan_hash, self._heard)
        same = output is None or str(output) == str(input)
        self._output = self._input if same else _Device(output, self.model.plan_hash, self._heard)
        self._output.greet(_SUBSCRIBE, message=_WANTS_ANSWERS)
        self._input.greet(_BUDGET, payload=struct.pack("<Q", int(budget * 1e6)))
        self.budget = budget
        # A device that answers has heard the rest before.
        for device in {self._input, self._output}:
            self._ask_status(device)

    def _heard(self, device, kind, inference, payload):
        with self._changed:
            if kind is None and payload is not None:
                self._error = payload
            elif kind is None:
                self._back[device] = time.monotonic()
            elif kind == _OUTPUT:
                self._answers[inference] = payload
                while len(self._answers) > _KEPT_ANSWERS + len(self._waited):
                    self._answers.popitem(last=False)
            elif kind == _RECORD:
                number, outcome, route, tries, at_exit, exit, confidence, took_us = _RECORD_BYTES.unpack(payload)
                known = _OUTCOMES[outcome] if outcome < len(_OUTCOMES) else f"failed: outcome {outcome}"
                at = (exit, confidence) if at_exit else (None, None)
                self._records[inference] = (number, Record(known, route, *at, tries, took_us))
            elif kind == _STATUS:
                self._status = payload.decode()
            self._changed.notify_all()

    def _wait(self, ready, seconds):
        end = time.monotonic() + seconds
        with self._changed:
            while (found := ready()) is None:
                if not self._changed.wait(min(end - time.monotonic(), 0.5)) and time.monotonic() >= end:
                    raise TimeoutError(f"a device has been silent for {seconds:.0f} s")
            return found

    def _ask_status(self, device):
        with self._changed:
            self._status = None
        life = device.life
        device.send(_STATUS)

        def ready():
            if device.life != life:
                raise Lost(str(self._error))
            return self._status

        return self._wait(ready, 10.0)

    def _is_there(self, device):
        if device.closed:
            raise Lost(str(self._error))
        return True if device.is_open else None

    def submit(self, values):
        """Hands an input in and does not wait: `result` of what it returns does. Values are an array, a list in the order
        of the model's inputs, or a dict by name; a leading axis of one may be left out. Waits for a device that has gone, as
        long as an input may take."""
        packed = self.model.pack(values)
        end = time.monotonic() + self.budget
        while True:
            for device in {self._input, self._output}:
                self._wait(lambda: self._is_there(device), end - time.monotonic())
            life = self._input.life
            with self._changed:
                number, self._numbers = self._numbers, (self._numbers + 1) & 0xFFFFFFFF
                self._waited[number] = (life, self._output.life)
            try:
                self._input.send(_INPUT, inference=number, payload=packed)
                return number
            except OSError:
                # Half an input is none: it is handed in again when the device is there.
                with self._changed:
                    del self._waited[number]
                self._wait(lambda: self._input.life != life or None, end - time.monotonic())

    def result(self, number):
        """Waits for the record of an input and, if there is one, the answer. Raises `NoAnswer` if it was late or failed, and
        `Lost` if a device ended before it told."""
        with self._changed:
            of_input, of_output = self._waited[number]

        def record():
            found = self._records.pop(number, None)
            if found is None and self._input.life != of_input:
                raise Lost(f"{self._input.path}: the device ended while the input was under way")
            return found

        def answer():
            found = self._answers.pop(of_cluster, None)
            if found is None and self._output.life != of_output:
                back = self._back.get(self._output) if self._output.is_open else None
                if self._output.closed or back and time.monotonic() > max(back, recorded) + _LATE_ANSWER:
                    raise Lost(f"{self._output.path}: the device ended before it told the answer")
            return found

        try:
            of_cluster, known = self._wait(record, self.budget + 10.0)
            recorded = time.monotonic()
            if known.outcome == "late" or known.outcome.startswith("failed"):
                raise NoAnswer(known)
            data = self._wait(answer, self.budget + 10.0)
        finally:
            with self._changed:
                self._waited.pop(number, None)
        return Answer(self.model.unpack(data), known)

    def infer(self, values):
        """One input, its answer: an array if the model has one output, else a dict by name."""
        outputs = self.result(self.submit(values)).outputs
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def stream(self, inputs, in_flight=4):
        """Answers (`Answer`) to inputs, in their order, with so many under way at a time."""
        waiting = collections.deque()
        for values in inputs:
            waiting.append(self.submit(values))
            if len(waiting) >= in_flight:
                yield self.result(waiting.popleft())
        while waiting:
            yield self.result(waiting.popleft())

    def reset_states(self):
        """The next input finds states of zero, where the model keeps any (`compile --state`)."""
        self._input.send(_RESET)

    def status(self):
        """Counters of the device that holds the input, as Prometheus reads them."""
        return self._ask_status(self._input)

    def stop(self):
        """Orders both devices to end."""
        for device in {self._input, self._output}:
            device.closed = True
            device.send(_STOP)

    def close(self):
        for device in {self._input, self._output}:
            device.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
