"""The bench: Redis, an S3 server, a model server and workers as separate processes on the loopback.

Workers get environment variables and nothing else.  Jobs are pushed as the Kiosk's frontend pushes them, with HMSET
and LPUSH, and nothing of ours is between the test and Redis.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import re
import subprocess
import sys
import time
import uuid
import zipfile
from contextlib import ExitStack
from copy import copy
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import redis
import tifffile
from obstore.store import LocalStore, S3Store
from tests.acceptance.tap import Tap
from tests.onnx_models import save_constants, save_mesmer, save_nuclei, save_pairs, save_spots, save_tracking

from redis_consumer.demo.stack import MODELS, Child, Keeper
from redis_consumer.testing.servers import HOST, free_port, start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt
    from tests.acceptance.tap import Command

    from redis_consumer.arrays import AnyArray

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 40.0
"""For everything that is waited for: the machine may be busy."""
LOOK_SECONDS = 0.02
DEMO_MODEL = MODELS / "NuclearSegmentation/1/model.onnx"
BUCKET = "kiosk-bucket"
FORBIDDEN = "uploads/forbidden"
"""What nobody may read in the S3 bucket."""
POLICY = f"""{{"Version": "2012-10-17", "Statement": [{{"Effect": "Deny", "Principal": "*",
"Action": "s3:GetObject", "Resource": "arn:aws:s3:::{BUCKET}/{FORBIDDEN}/*"}}]}}"""


class Programs:
    """Processes that are gone when the block is left, or when we die, and an S3 server among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: list[Child] = []
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for program in self.programs:
            if program.process.poll() is None:
                program.process.kill()  # quick; how a worker ends by itself has tests of its own
        self._cleanup.close()

    def _start(self) -> None:
        for name in ("tmp", "logs"):
            (self.folder / name).mkdir(parents=True)
        self._keeper = Keeper(self.folder)
        self._cleanup.callback(self._keeper.release)

    def start(self, name: str, command: list[str], environ: Mapping[str, str], *, cwd: Path | None = None) -> Child:
        """Start a process that has `environ` and hardly anything else; ended with the block at the latest."""
        log = self.folder / "logs" / f"{len(self.programs)}-{name}.log"
        bare = {"PATH": os.environ["PATH"], "TMPDIR": str(self.folder / "tmp")}
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**bare, **environ}
            )
        self._keeper.watch(process.pid)
        child = Child(name, process, log)
        self.programs.append(child)
        self._cleanup.callback(stop, child)
        return child

    def start_s3(self) -> Child:
        """Start an S3 server with an empty bucket; its log names every request and its status."""
        port = free_port()
        child = self.start("s3", [sys.executable, "-P", "-m", "moto.server", "-H", HOST, "-p", str(port)], {})
        self.endpoint = f"http://{HOST}:{port}"
        wait_until(lambda: answers(f"{self.endpoint}/moto-api/"), "the S3 server")
        put(f"{self.endpoint}/{BUCKET}")
        self.s3 = S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id="any",
            secret_access_key="any",  # noqa: S106 - moto takes any
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        return child

    def s3_environ(self, endpoint: str) -> dict[str, str]:
        """Return the variables of a worker that reaches the bucket at `endpoint`."""
        return {
            "STORAGE_BUCKET": f"s3://{BUCKET}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_ENDPOINT_URL": endpoint,
        }


class Bench(Programs):
    """Servers that all tests share, and the workers that they start."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._workers: dict[str, list[Child]] = {}

    def _start(self) -> None:
        super()._start()
        for name in ("models", "bucket"):
            (self.folder / name).mkdir()
        server = start_redis(self.folder / "redis")
        self._cleanup.callback(server.stop)
        self.redis_port = server.port
        # Its types are unions of bytes and text, awaited or not.
        self.redis: Any = redis.Redis(HOST, server.port, decode_responses=True, socket_timeout=WAIT_SECONDS)
        self._cleanup.callback(self.redis.close)
        self.tap = Tap(HOST, server.port)
        self._cleanup.callback(self.tap.close)
        save_models(self.folder / "models")
        self.model_server = self.serve_models(self.folder / "models")
        self.start_s3()
        put(f"{self.endpoint}/{BUCKET}?policy", POLICY.encode())
        self.tf_port = self.port_of(self.model_server)
        self.local = LocalStore(self.folder / "bucket")
        self.local_url = (self.folder / "bucket").as_uri()

    # Processes.

    def check(self, queue: str) -> None:
        """Fail if nobody serves a queue any more, since its workers ended with an error."""
        workers = self._workers.get(queue, [])
        if workers and all((worker.process.poll() or 0) > 0 for worker in workers):
            raise AssertionError(f"no worker is left: {text_of(workers[-1])}")

    def serve_models(self, folder: Path, port: int = 0) -> Child:
        command = [sys.executable, "-P", "-m", "redis_consumer", "serve-models", str(folder), "--port", str(port)]
        return self.start("serve-models", command, {})

    def port_of(self, server: Child) -> int:
        found: list[int] = []

        def listens() -> bool:
            found.extend(int(port) for port in re.findall(r"listening on \S+:(\d+)\s", text_of(server)))
            return bool(found)

        wait_until(listens, "the model server", server)
        return found[0]

    def worker(self, name: str, **variables: str) -> Child:
        """Start a worker, as a container image does; it is not ready yet, and need not be."""
        command = [sys.executable, str(ROOT / "consume-redis-events.py")]
        child = self.start(name, command, self.environ(HOSTNAME=name, **variables))
        self._workers.setdefault(variables.get("QUEUE", "predict"), []).append(child)
        return child

    def environ(self, **variables: str) -> dict[str, str]:
        """Return the variables of a worker on the S3 bucket; `variables` win."""
        return {
            "REDIS_HOST": HOST,
            "REDIS_PORT": str(self.redis_port),
            "TF_HOST": HOST,
            "TF_PORT": str(self.tf_port),
            **self.s3_environ(self.endpoint),
            "NUCLEAR_MODEL": "NuclearSegmentation:1",
            **variables,
        }

    def command(
        self, *words: str | Path, seconds: float = WAIT_SECONDS, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `redis-consumer` to its end with a worker's variables, and those given."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "redis_consumer", *map(str, words)],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(self.folder / "tmp"), **self.environ(**variables)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def on_redis(self, port: int) -> Bench:
        """Return the same bench, but with jobs in another Redis."""
        other = copy(self)
        other.redis = redis.Redis(HOST, port, decode_responses=True, socket_timeout=WAIT_SECONDS)
        self._cleanup.callback(other.redis.close)
        return other

    # Jobs.

    def upload(self, image: AnyArray | bytes, name: str = "image.tif", *, local: bool = False, **tags: Any) -> str:
        """Bring a file into the bucket; return its key."""
        key = name if "/" in name else f"uploads/{uuid.uuid4().hex}/{name}"
        (self.local if local else self.s3).put(key, image if isinstance(image, bytes) else tiff(image, **tags))
        return key

    def push(self, queue: str, input_file_name: str | None, **fields: str | None) -> str:
        """Push a job word for word as the frontend does: one HMSET, one LPUSH; every field there, if blank.

        None leaves a field out.
        """
        key, values = job_hash(queue, input_file_name, **fields)
        self.redis.execute_command("HMSET", key, *[word for pair in values.items() for word in pair])
        self.redis.execute_command("LPUSH", queue, key)
        return key

    def wait(self, key: str, *statuses: str) -> dict[str, str]:
        """Return the job's fields once its status is final, or one of those given."""
        wanted = statuses or ("done", "failed")

        def reached() -> bool:
            self.check(key.partition(":")[0])
            return self.redis.hget(key, "status") in wanted

        wait_until(reached, f"{wanted} of {key}", lambda: self.fields(key))
        return self.fields(key)

    def fields(self, key: str) -> dict[str, str]:
        found: dict[str, str] = self.redis.hgetall(key)
        return found

    def done(self, key: str) -> dict[str, str]:
        """Return the fields of a job that ends well."""
        fields = self.wait(key)
        assert fields["status"] == "done", fields["reason"]
        return fields

    def failed(self, key: str) -> str:
        """Return the reason of a job that fails, as a person can use it."""
        fields = self.wait(key)
        assert fields["status"] == "failed", f"done: {fields['output_url']}"
        reason = fields["reason"]
        assert reason == reason.strip()
        assert "\n" not in reason
        assert "Traceback" not in reason
        assert str(self.folder) not in reason
        assert "/tmp" not in reason  # noqa: S108 - looked for, not used
        return reason

    def results(self, fields: Mapping[str, str]) -> dict[str, AnyArray]:
        """Return the images of a job's archive by name, in its order; proves what all readers rely on."""
        return {name: label_image(content) for name, content in self.entries(fields).items()}

    def entries(self, fields: Mapping[str, str]) -> dict[str, bytes]:
        """Return the files of a job's archive by name, in its order."""
        url, key = fields["output_url"], fields["output_file_name"]
        assert url.endswith(f"/{key}")
        assert re.fullmatch(r"output/[0-9a-f-]{36}\.zip", key)
        with zipfile.ZipFile(io.BytesIO(self.content(url, key))) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}

    def content(self, url: str, key: str) -> bytes:
        if url.startswith("file://"):
            with urlopen(url, timeout=WAIT_SECONDS) as reply:  # noqa: S310 - a file of ours
                return bytes(reply.read())
        assert url == f"{self.endpoint}/{BUCKET}/{key}"
        return bytes(self.s3.get(key).bytes())

    def processing_lists(self) -> dict[str, str]:
        """Return every key under `processing-`, and its type."""
        return {key: self.redis.type(key) for key in self.redis.scan_iter("processing-*")}

    def statuses(self, key: str) -> list[str]:
        """Return every word that the job's `status` took, in order."""
        return [fields["status"] for fields in self.writes(key) if "status" in fields]

    def heard(self) -> list[Command]:
        """Return every command that the server has executed up to now."""
        token = uuid.uuid4().hex
        self.redis.echo(token)
        wait_until(lambda: self.tap.saw("echo", token), "the tap")
        return list(self.tap.commands)

    def writes(self, key: str) -> Iterator[dict[str, str]]:
        """Return each write into a job's hash."""
        for command in self.heard():
            if command.words[0].lower() in {"hset", "hmset"} and command.words[1] == key:
                yield dict(zip(command.words[2::2], command.words[3::2], strict=True))


def job_hash(queue: str, input_file_name: str | None, **fields: str | None) -> tuple[str, dict[str, str]]:
    """Return the name and the fields of a job as the frontend writes them."""
    name = fields.get("original_name") or PurePosixPath(input_file_name or "image.tif").name
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    blank = (
        "url",
        "dimension_order",
        "channels",
        "scale",
        "segmentation_type",
        "model_name",
        "model_version",
        "preprocess_function",
        "postprocess_function",
        "label",
    )
    given = {"original_name": name, "input_file_name": input_file_name, **dict.fromkeys(blank, ""), "cuts": "0"}
    stamps = {"status": "new", "created_at": now, "updated_at": now, "identity_upload": "frontend-5d8"}
    values = {**given, **stamps, **fields}
    return f"{queue}:{name}:{uuid.uuid4()}", {field: text for field, text in values.items() if text is not None}


def save_models(folder: Path) -> None:
    """Write stand-ins of the models.  The latest of nuclei sees nothing, so that a result tells who made it.

    Of scale and label there are none by the default names: where detection is off, nobody may ask for them.
    """
    for version in (1, 6):
        save_nuclei(folder, "NuclearSegmentation", version)
    save_nuclei(folder, "NuclearSegmentation", 7, threshold=1e6)
    save_nuclei(folder, "CytoplasmSegmentation", 5)
    save_nuclei(folder, "FixedSize", 1, size=128)
    save_nuclei(folder, "Membranes", 3)
    save_nuclei(folder, "OneHead", 1, heads=["prediction"])
    save_mesmer(folder, "MultiplexSegmentation", 9)
    save_spots(folder, "SpotDetection", 3)
    save_tracking(folder, "NuclearTrackingNE", "NuclearTrackingInf", 6)
    save_pairs(folder, "TrackingModel", 0)
    save_pairs(folder, "TrackingModel", 1, [f"input{number}" for number in range(8)])
    save_constants(folder, "FindsScale", 1, {"scale": np.array([0.5], np.float32)}, size=64)
    save_constants(folder, "FindsLabel", 1, {"label": np.array([0, 1, 0], np.float32)})
    save_constants(folder, "Classes", 1, {"prediction": one_cell(60, 60)})
    save_constants(folder, "Boxes", 1, two_boxes(60, 60))
    save_constants(folder, "BoxesAndDepth", 1, {**two_boxes(60, 60), **shallow(60, 60)})
    if DEMO_MODEL.exists():
        (folder / "Demo").symlink_to(DEMO_MODEL.parents[1])


def two_boxes(height: int, width: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return what RetinaMask predicts for two objects, one in each half of an image: boxes, scores, classes, masks."""
    half = width // 2
    heads = {
        "prediction_0": [[1, 1, half - 2, height - 1], [half + 2, 1, width - 1, height - 1]],
        "prediction_1": [0.9, 0.8],
        "prediction_2": [0, 0],
        "prediction_3": np.full((2, 14, 14, 1), 0.9),
    }
    return {name: np.asarray(values, np.float32) for name, values in heads.items()}


def one_cell(height: int, width: int) -> npt.NDArray[np.float32]:
    """Return classes (Y, X, 3) of one round cell: the second is its inside, and the last one too."""
    rows, columns = np.mgrid[:height, :width]
    inside = np.exp(-((rows - height / 2) ** 2 + (columns - width / 2) ** 2) / 200)
    return np.stack([np.full_like(inside, 0.1), inside, inside], axis=-1).astype(np.float32)


def shallow(height: int, width: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return the further outputs of a semantic RetinaMask that sees background only."""
    steps = np.zeros((height, width, 4), np.float32)
    steps[..., 0] = 1
    return {"prediction_4": steps, "prediction_5": steps}


def discs(height: int, width: int, *, step: int = 50, radius: int = 12) -> tuple[AnyArray, int]:
    """Return an image (Y, X), uint16, of bright discs in rows and columns, and their number.

    They are domes: on a plateau it is the noise that decides how many maxima there are.
    """
    rows, columns = np.mgrid[:height, :width]
    fits_y, fits_x = height // step, width // step
    distance = np.hypot(rows % step - step / 2, columns % step - step / 2)
    dome = np.sqrt(np.clip(1 - (distance / radius) ** 2, 0, 1))
    dome[(rows >= fits_y * step) | (columns >= fits_x * step)] = 0
    noise = np.random.default_rng(1).normal(0, 20, dome.shape)
    return (300 + 3000 * dome + noise).astype(np.uint16), fits_y * fits_x


def tiff(image: AnyArray, **tags: Any) -> bytes:
    """Return the bytes of a TIFF file."""
    file = io.BytesIO()
    tifffile.imwrite(file, image, **({"photometric": "minisblack"} | tags))
    return file.getvalue()


def label_image(content: bytes) -> AnyArray:
    """Return the array of a result's file; proves the format that ImageJ and DeepCell Label read."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        assert file.pages.first.compression == tifffile.COMPRESSION.NONE
        array: AnyArray = file.asarray()
    assert array.dtype == np.float32
    return array


def objects(labels: AnyArray) -> int:
    """Return the number of objects in a label image."""
    assert np.array_equal(labels, np.round(labels))
    return int(np.count_nonzero(np.unique(labels)))


def text_of(child: Child) -> str:
    """Return what a process has printed."""
    return child.log.read_text(errors="replace")


def exit_code(child: Child) -> int:
    """Wait for the end of a process; return its exit code."""
    return child.process.wait(WAIT_SECONDS)


def stop(child: Child) -> None:
    if child.process.poll() is None:
        child.stop()


def wait_for(child: Child, words: str) -> None:
    """Wait until a process has printed these words."""
    wait_until(lambda: words in text_of(child), repr(words), child)


def wait_until(met: Callable[[], bool], what: str, told: Child | Callable[[], object] | None = None) -> None:
    """Wait, but not for ever; `told` says what to show then."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not met():
        dead = isinstance(told, Child) and told.process.poll() is not None and not met()
        if dead or time.monotonic() > deadline:
            shown = text_of(told) if isinstance(told, Child) else told() if told else ""
            raise AssertionError(f"waited in vain for {what}: {shown}")
        time.sleep(LOOK_SECONDS)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1):  # noqa: S310 - our own server
            return True
    except (URLError, OSError):
        return False


def put(url: str, content: bytes = b"") -> None:
    # The type is said, or else moto reads the body as a form.
    request = Request(url, method="PUT", data=content, headers={"Content-Type": "application/octet-stream"})  # noqa: S310 - our own server
    with urlopen(request, timeout=WAIT_SECONDS):  # noqa: S310 - same
        pass
