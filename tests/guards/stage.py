"""A worker between three servers that count: Redis commands, calls of the model server, requests to the bucket.

The worker is the program's own, built from settings, on a thread of the test.  The servers are real: Valkey, whose
MONITOR tells every command; a gRPC server; and S3 as far as a job needs it.
"""

from __future__ import annotations

import http.server
import io
import re
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import redis
import tifffile
from tests.acceptance.tap import Tap
from tests.scripted_serving import Script, metadata, scripted_server

from redis_consumer.bootstrap import build_worker
from redis_consumer.job import FINAL
from redis_consumer.queues import lua
from redis_consumer.settings import Settings
from redis_consumer.testing.servers import HOST, Server, start_redis
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.tap import Command

    from redis_consumer.arrays import AnyArray

QUEUE, BUCKET = "segmentation", "kiosk-bucket"
TILE = 512
"""Side of what the models take."""
BY_THE_CLOCK = frozenset({"progress", "heartbeat", "sweep"})
"""Commands of which a longer job has more."""
WAIT_SECONDS = 40.0
"""For everything that is waited for: the machine may be busy."""
LOOK_SECONDS = 0.005


class CountingS3(http.server.BaseHTTPRequestHandler):
    """Objects are put, and got as a whole or a range; each request is kept."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[Request]] = []

    def do_GET(self) -> None:
        content = self.objects.get(self.path)
        first, last = map(int, re.findall(r"\d+", self.headers.get("Range", f"0-{len(content or b'') - 1}")))
        body = (content or b"")[first : last + 1]
        self.requests.append(Request("GET", self.path, len(body)))
        self._answer(206 if content else 404, body, f"bytes {first}-{first + len(body) - 1}/{len(content or b'')}")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append(Request("PUT", self.path, len(body)))
        self.objects[self.path] = body
        self._answer(200)

    def _answer(self, status: int, body: bytes = b"", place: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
        if place:
            self.send_header("Content-Range", place)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


class Request(NamedTuple):
    """One request to the bucket."""

    verb: str
    path: str
    size: int
    """Bytes of the object that travelled."""


@dataclass(frozen=True)
class Costs:
    """What a job asked of the servers around the worker."""

    commands: Counter[str]
    """Redis commands by name, scripts by theirs; without those that go by the clock."""
    calls: Counter[str]
    """Calls of the model server by their method."""
    requests: list[Request]
    """To the bucket."""


class Stage:
    """The servers, and a worker of one lane."""

    def __init__(self, server: Server, address: str, endpoint: str, script: Script) -> None:
        self._server = server
        self._address = address
        self._endpoint = endpoint
        self._script = script
        # Its types are unions of bytes and text, awaited or not.
        self._client: Any = redis.Redis(server.host, server.port, decode_responses=True, single_connection_client=True)
        self._tap = Tap(server.host, server.port)
        self._heard = 0

    def close(self) -> None:
        self._tap.close()
        self._client.close()

    @contextmanager
    def worker(self, **variables: str) -> Iterator[None]:
        """Run a worker; `variables` win over those that it needs to find everybody."""
        worker = build_worker(Settings.from_environ({**self._environ(), **variables}))
        thread = threading.Thread(target=worker.run, name="worker", daemon=True)
        self._heard = len(self._tap.commands)
        thread.start()
        try:
            self._wait_for_the_lane()
            yield
        finally:
            worker.stop()
            thread.join(WAIT_SECONDS)
        assert not thread.is_alive()

    def cost(self, image: bytes, **fields: str) -> Costs:
        """Return what a job with this image costs, up to the wait for the next job; it must end well."""
        CountingS3.objects[f"/{BUCKET}/uploads/x.tif"] = image
        CountingS3.requests.clear()
        self._script.requests.clear()
        self._heard = len(self._tap.commands)
        key = f"{QUEUE}:x.tif:{uuid.uuid4()}"
        given = {"status": "new", "original_name": "x.tif", "input_file_name": "uploads/x.tif", **fields}
        self._client.hset(key, mapping=given)
        self._client.lpush(QUEUE, key)
        until(lambda: self._client.hget(key, "status") in FINAL, f"the end of {key}")
        self._wait_for_the_lane()
        assert self._client.hget(key, "status") == "done", self._client.hget(key, "reason")
        methods = (method.rpartition("/")[2] for method, _ in self._script.requests)
        return Costs(Counter(map(meaning, self.said())), Counter(methods), list(CountingS3.requests))

    def idle(self, turns: int) -> list[Command]:
        """Return what the worker sends while its lane looks for a job so many times in vain."""
        self._heard = len(self._tap.commands)
        until(lambda: len(self._looks()) > turns, "the lane to look again")
        first, last = self._looks()[0], self._looks()[turns]
        return self.said()[first + 1 : last + 1]

    def _looks(self) -> list[int]:
        return [place for place, command in enumerate(self.said()) if meaning(command) == "blmove"]

    def said(self) -> list[Command]:
        """Return what the worker sent since the last job began, but for what goes by the clock, or inside a script."""
        token = uuid.uuid4().hex
        self._client.echo(token)
        until(lambda: self._tap.saw("echo", token), "the tap")
        heard = self._tap.commands[self._heard :]
        besides = {"lua", heard[-1].client}
        return [command for command in heard if command.client not in besides and meaning(command) not in BY_THE_CLOCK]

    def _wait_for_the_lane(self) -> None:
        until(lambda: [meaning(command) for command in self.said()][-1:] == ["blmove"], "the lane to wait for a job")

    def _environ(self) -> dict[str, str]:
        host, _, port = self._address.rpartition(":")
        return {
            "REDIS_HOST": self._server.host,
            "REDIS_PORT": str(self._server.port),
            "QUEUE": QUEUE,
            "CONSUMER_TYPE": "segmentation",
            "TF_HOST": host,
            "TF_PORT": port,
            "STORAGE_BUCKET": f"s3://{BUCKET}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_ENDPOINT_URL": self._endpoint,
            **{f"{role}_MODEL": f"{role}:1" for role in ("NUCLEAR", "CYTOPLASM", "PHASE")},
        }


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Start the servers, and end them."""
    CountingS3.objects.clear()
    with ExitStack() as stack:
        server = stack.enter_context(start_redis(folder))
        script = model_script()
        address = stack.enter_context(scripted_server(script))
        s3 = stack.enter_context(http.server.ThreadingHTTPServer((HOST, 0), CountingS3))
        threading.Thread(target=s3.serve_forever, name="s3", daemon=True).start()
        stack.callback(s3.shutdown)
        made = Stage(server, address, f"http://{HOST}:{s3.server_port}", script)
        stack.callback(made.close)
        yield made


def model_script() -> Script:
    """Return a model server with models of one channel and tiles of `TILE`, which see bright discs as nuclei."""
    script = Script()
    script.say(messages.GET_MODEL_METADATA, metadata({"serving_default": {"image": (1, (-1, TILE, TILE, 1))}}))
    script.make(messages.PREDICT, predicted)
    return script


def predicted(request: bytes) -> bytes:
    """Answer a request as TensorFlow Serving does: the foreground is what is bright, and so are the peaks."""
    _, tensors = messages.read(pb.PredictRequest, request)
    bright = np.clip(decode_tensor(tensors["image"]), 0, 1)
    reply = {name: encode_tensor(bright, as_values=True) for name in ("semantic_0", "semantic_1")}
    return messages.write(pb.PredictResponse(), reply)


def tiff(side: int, frames: int = 1) -> bytes:
    """Return a TIFF of uint16, frames of one channel, with a bright disc in each 64 x 64 pixels."""
    y, x = np.mgrid[:side, :side] % 64 - 32
    distance = np.hypot(y, x)
    plane = np.where(distance < 12, 40000 - 100 * distance, 100).astype(np.uint16)
    return written(np.tile(plane, (frames, 1, 1, 1)))


def written(array: AnyArray, **options: Any) -> bytes:
    """Return an array as a TIFF."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="minisblack", **options)
    return file.getvalue()


def meaning(command: Command) -> str:
    """Return the name of the script that a command runs, or its own."""
    if command.words[0] != "evalsha":
        return command.words[0]
    name = script_names()[command.words[1]]
    return "progress" if name == "update" and "progress" in command.words and "status" not in command.words else name


@cache
def script_names() -> dict[str, str]:
    """Return the queue's scripts by their hash."""
    scripts = Path(lua.__file__).with_name("scripts")
    return {lua._sha(path.stem): path.stem for path in scripts.glob("*.lua") if path.stem != "prelude"}


def until(met: Callable[[], bool], what: str) -> None:
    """Wait, but not for ever."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not met():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(LOOK_SECONDS)
