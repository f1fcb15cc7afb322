"""A connection without a socket, and a client that is another implementation of HTTP/2 (python-hyper's h2)."""

import itertools
import struct
from types import SimpleNamespace

import h2.config
import h2.connection
import h2.events
import h2.settings

from whet.errors import WhetError
from whet.serve.exchange import Limits
from whet.serve.h2.connection import Connection

PATH = "/inference.GRPCInferenceService/ModelInfer"
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "test"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


class Wire:
    """The transport: keeps what was written."""

    def __init__(self):
        self.out = bytearray()
        self.closed = self.aborted = self.paused = False

    def write(self, data):
        self.out += data

    def writelines(self, parts):
        for part in parts:
            self.out += part

    def get_extra_info(self, name):
        return None

    def close(self):
        self.closed = True

    def abort(self):
        self.aborted = self.closed = True

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


class Loop:
    """The loop: a clock that stands until it is moved; work for threads is done at once."""

    def __init__(self):
        self.now = 100.0

    def time(self):
        return self.now

    def run_in_executor(self, _, function, *args):
        try:
            result, error = function(*args), None
        except WhetError as raised:
            result, error = None, raised
        future = SimpleNamespace(cancelled=lambda: False, exception=lambda: error, result=lambda: result)
        return SimpleNamespace(add_done_callback=lambda callback: callback(future))


class Server:
    """The server of one connection, and the connection itself.

    ``handler`` answers at once with the message itself; set ``hold`` to keep the calls instead.
    """

    def __init__(self, *, hold=False, age_s=None, draining=False, **limits):
        self.limits = Limits(**({"body_bytes": 1 << 20, "header_bytes": 8 << 10} | limits))
        self.loop, self.scratch, self.draining = Loop(), bytearray(256 << 10), draining
        self.age_s, self.connections, self.calls, self.hold = age_s, set(), [], hold
        self.wire = Wire()
        self.connection = Connection(self)
        self.connection.connection_made(self.wire)

    def handler(self, stream):
        self.calls.append(stream)
        if not self.hold:
            stream.respond([bytes(stream.message)])

    def gone(self, connection):
        self.connections.discard(connection)

    def feed(self, data, cuts=()):
        """Deliver bytes, split at ``cuts``."""
        edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
        for first, last in itertools.pairwise(edges):
            for start in range(first, last, len(self.scratch)):
                part = data[start : min(last, start + len(self.scratch))]
                self.scratch[: len(part)] = part
                self.connection.buffer_updated(len(part))

    def take(self):
        out, self.wire.out = bytes(self.wire.out), bytearray()
        return out


class Client:
    """A client that shares nothing with the server, and keeps what each call was answered."""

    def __init__(self, server, settings=None):
        self.server = server
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        if settings:
            values = {h2.settings.SettingCodes[name]: value for name, value in settings.items()}
            self.h2.local_settings = h2.settings.Settings(client=True, initial_values=values)
            self.h2.max_inbound_frame_size = self.h2.local_settings.max_frame_size
        self.h2.initiate_connection()
        self.bodies, self.trailers, self.resets, self.ended, self.goaways = {}, {}, {}, set(), []
        self.turn()

    def turn(self, cuts=()):
        """Let both sides speak until neither has more to say; windows are widened as data is read."""
        while True:
            said = self.h2.data_to_send()
            if said:
                self.server.feed(said, cuts)
            answer = self.server.take()
            if answer:
                for event in self.h2.receive_data(answer):
                    self.note(event)
            if not said and not answer:
                return

    def note(self, event):
        number = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.DataReceived):
            self.bodies[number] = self.bodies.get(number, b"") + event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, number)
        elif isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            self.trailers.setdefault(number, {}).update(
                {name.decode(): value.decode() for name, value in event.headers}
            )
        elif isinstance(event, h2.events.StreamReset):
            self.resets[number] = event.error_code
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(number)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append((event.error_code, event.last_stream_id))

    def call(self, message, *, more=(), path=PATH, compressed=0, end=True, cuts=()):
        """Send one call, as far as windows allow; return its stream."""
        number = self.h2.get_next_available_stream_id()
        headers = [(name, path if name == ":path" else value) for name, value in HEADERS]
        self.h2.send_headers(number, [*headers, *more])
        self.send(number, framed(message, compressed), end=end, cuts=cuts)
        return number

    def send(self, number, data, *, end=True, cuts=()):
        view = memoryview(data)
        while True:
            self.turn(cuts)
            if number in self.resets or number in self.ended:
                return
            size = min(len(view), self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            self.h2.send_data(number, bytes(view[:size]), end_stream=end and size == len(view))
            view = view[size:]
            if not view:
                self.turn(cuts)
                return

    def answer(self, number):
        """Return the answered message, once the call has ended well."""
        assert self.trailers[number]["grpc-status"] == "0", self.trailers[number]
        assert number in self.ended
        compressed, length = struct.unpack(">BI", self.bodies[number][:5])
        assert not compressed
        message = self.bodies[number][5:]
        assert len(message) == length
        return message

    def status(self, number):
        assert number in self.ended
        return int(self.trailers[number]["grpc-status"]), self.trailers[number].get("grpc-message", "")


def framed(message, compressed=0):
    return struct.pack(">BI", compressed, len(message)) + message
