"""One job's workbench: load the image, report, deliver the result.  Knows files and fields, no analysis."""

from __future__ import annotations

import datetime as dt
import io
import json
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self

from redis_consumer.archives import Made, zip_files, zip_in_memory
from redis_consumer.images import ImageFile, ImageHeader, ImageLimits, OpenImage, open_image, open_ome_zarr
from redis_consumer.images.axes import CHANNELS, FRAMES
from redis_consumer.job import Status
from redis_consumer.results import safe_name
from redis_consumer.storage.base import Content
from redis_consumer.storage.folders import objects_below

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from redis_consumer.images.source import BinaryFile
    from redis_consumer.job import Job
    from redis_consumer.queues.base import FieldValue, JobQueue
    from redis_consumer.settings import Settings
    from redis_consumer.settings.schema import ExtraOutput
    from redis_consumer.storage.base import Storage

TIME_FIELDS = {
    Status.STARTED: "download_time",
    Status.PRE_PROCESSING: "preprocess_time",
    Status.PREDICTING: "prediction_time",
    Status.POST_PROCESSING: "postprocess_time",
    Status.SAVING_RESULTS: "upload_time",
}
"""The field that takes the seconds of each stage."""

PROGRESS_SECONDS = 1.0
"""`progress` is written at most this often: nobody polls faster."""
LARGE_BYTES = 2**25
"""Larger files are read by ranges, where that is wanted; smaller ones at once."""
SMALL_BYTES = 2**23
"""Results that are no larger, before they are zipped, are zipped in memory."""
ZARR = ".zarr"
UPLOADS = 8
"""Under way at once for one job: a label image as OME-Zarr has an object for each chunk."""


class Work:
    """The workbench of one job, to be left as a context: it has a folder of its own where one is needed."""

    def __init__(self, job: Job, jobs: JobQueue, storage: Storage, *, unspoken: Collection[Status] = ()) -> None:
        self.job = job
        self.result = str(uuid.uuid4())
        """Names the archive, and the folder of what stands beside it."""
        self.input: Path | None = None
        """The image as downloaded; None where it was not: it is no file (OME-Zarr), or was read by ranges."""
        self.started_at = dt.datetime.now(dt.UTC)
        self.parameters: dict[str, object] = {}
        """What the analysis uses, defaults filled in: it tells them as it goes, for the provenance."""
        self._jobs = jobs
        self._storage = storage
        self._unspoken = unspoken
        self._stage = Status.STARTED
        self._since = time.monotonic()
        self._seconds: dict[Status, float] = {}
        self._unwritten: dict[str, FieldValue] = {}
        self._progress_at = 0.0
        self._opened = ExitStack()
        self._made = ExitStack()
        self._left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._made.close()
        self._left = True

    @cached_property
    def folder(self) -> Path:
        """The folder, made when it is first asked for: most jobs leave the disk alone."""
        if self._left:  # nobody would remove it
            raise RuntimeError(f"The folder of job {self.job.key} is gone")
        return Path(self._made.enter_context(tempfile.TemporaryDirectory(prefix="redis-consumer-")))

    def enter(self, stage: Status, fields: dict[str, FieldValue] | None = None) -> None:
        """Begin a stage: its word, the seconds of the one that ends, and `fields`, in one write.

        A stage in `unspoken` has no word among the readers of this queue: its fields go with the next one.
        """
        if stage == self._stage:
            return
        self._unwritten |= {**self._ended(), **(fields or {})}
        self._stage = stage
        if stage not in self._unspoken:
            # Before results are stored the lane waits for the answer: one that lost its job would leave them there.
            write = self._jobs.update if stage == Status.SAVING_RESULTS else self._jobs.announce
            write(self.job, {"status": stage, **self._unwritten})
            self._unwritten = {}

    def note(self, **fields: FieldValue) -> None:
        """Write fields with the next stage."""
        self._unwritten |= fields

    def noted(self) -> dict[str, FieldValue]:
        """Return the fields that wait for the next stage, for one who writes them; they wait no longer."""
        fields, self._unwritten = {**self._unwritten, **self._ended()}, {}
        return fields

    def progress(self, done: float) -> None:
        """Report how much is done, from 0 to 1: at most once a second, the end of it with the next stage."""
        if done < 1:
            self._update_now_and_then({"progress": int(100 * done)})
        else:
            self.note(progress=100)

    def demand_lease(self) -> None:
        """Raise LeaseLost where the job is no longer ours; asked at most once a second, in what takes minutes."""
        self._update_now_and_then({})

    def _update_now_and_then(self, fields: dict[str, FieldValue]) -> None:
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            self._jobs.update(self.job, fields)

    def fetch(self) -> Path:
        """Download the job's input; return its path."""
        path = Path(self._storage.download(self.job.require("input_file_name"), self.folder / "input"))
        if shown := self._shown():
            path = path.replace(path.with_name(shown))
        self.input = path
        return path

    @contextmanager
    def open(self, limits: ImageLimits, *, by_ranges: bool = False) -> Iterator[OpenImage]:
        """Give the job's image, its header checked, before its pixels are read: while the context lasts.

        It is downloaded first; with `by_ranges` a large one is not, and what is not read does not travel.  An OME-Zarr
        image is read chunk by chunk either way.
        """
        axes, key, name = self.job.get("dimension_order"), self.job.require("input_file_name"), self._shown()
        with ExitStack() as stack:
            self._opened = stack
            if is_zarr(key):
                yield open_ome_zarr(objects_below(self._storage, key), name=name, axes=axes, limits=limits)
                return
            file: Path | BinaryFile
            if by_ranges:
                ranges = stack.enter_context(self._storage.open(key))
                file = stack.enter_context(io.BytesIO(ranges.read())) if ranges.size <= LARGE_BYTES else ranges
            else:
                file = self.fetch()
            yield stack.enter_context(open_image(file, axes=axes, limits=limits, name=name))

    def close(self) -> None:
        """Close the image that `open` gives, before the context ends: what was read of its file is memory, too."""
        self._opened.close()

    def load(self, settings: Settings) -> ImageFile:
        """Download and read the job's image; what it was taken for is written with the stage that begins."""
        with self.open(image_limits(settings)) as image:
            picture = image.read()
        self.enter(Status.PRE_PROCESSING, described(picture))
        return picture

    def deliver(self, files: Iterable[tuple[str | Made, str]], extras: Mapping[ExtraOutput, Path] | None = None) -> str:
        """Store files, as `store` does, and finish the job's hash; return the status."""
        self._jobs.update(self.job, {"status": Status.DONE, **self.store(files, extras)})
        return Status.DONE

    def store(
        self, files: Iterable[tuple[str | Made, str]], extras: Mapping[ExtraOutput, Path] | None = None
    ) -> dict[str, FieldValue]:
        """Zip files and upload; return what the hash of a job that is done says.

        Files are given as (path or what makes them, name in the archive).
        `extras` are files, or folders of files, that go beside the zip, never into it, below ``output/<uuid4>/``;
        the field `extra_outputs` lists their keys.
        """
        upload = self._storage.upload(self._zipped(list(files)))
        done: dict[str, FieldValue] = {
            "output_url": upload.url,
            "output_file_name": upload.key,
            "total_jobs": 1,
            "progress": 100,
        }
        if extras:
            done["extra_outputs"] = json.dumps({kind: self._upload(path) for kind, path in extras.items()})
        return {**self.noted(), **done}

    def _zipped(self, files: Sequence[tuple[str | Made, str]]) -> str | Content:
        name = f"{self.result}.zip"
        made = [file for file, _ in files if isinstance(file, Made)]
        if len(made) == len(files) and sum(file.size for file in made) <= SMALL_BYTES:
            return Content(name, zip_in_memory(files))
        return zip_files(files, self.folder / name)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage up to now: download, preprocess, prediction, postprocess, upload."""
        running = time.monotonic() - self._since
        spent = {**self._seconds, self._stage: self._seconds.get(self._stage, 0.0) + running}
        return {TIME_FIELDS[stage].removesuffix("_time"): round(seconds, 6) for stage, seconds in spent.items()}

    def _upload(self, path: Path) -> str:
        """Upload a file, or a folder file by file, beside the archive; return the key, or what its keys begin with."""
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        folders = [str(PurePosixPath(self.result, file.parent.relative_to(path.parent))) for file in files]
        pool = ThreadPoolExecutor(UPLOADS)
        try:
            uploads = list(pool.map(self._storage.upload, files, folders))
        finally:
            pool.shutdown(cancel_futures=True)
        return uploads[0].key.removesuffix(str(files[0].relative_to(path.parent))) + path.name

    @property
    def name(self) -> str:
        """The name that results carry: the user's own, folders included, or the key's."""
        return self.job.get("original_name") or PurePosixPath(self.job.get("input_file_name")).name

    def _shown(self) -> str:
        """Return what errors call the image: the user knows it by this name, not by its key in the bucket."""
        return PurePosixPath(safe_name(self.name)).name

    def _ended(self) -> dict[str, FieldValue]:
        """Close the running stage; its seconds, added up where it ran more than once."""
        now = time.monotonic()
        spent = self._seconds.get(self._stage, 0.0) + now - self._since
        self._seconds[self._stage] = spent
        self._since = now
        return {TIME_FIELDS[self._stage]: round(spent, 6)}


def is_zarr(key: str) -> bool:
    """Return whether an input is an OME-Zarr image by its name: the folder ``x.zarr``, or a folder in it."""
    path = PurePosixPath(key.lower())
    return path.suffix == ZARR or (not path.suffix and any(part.endswith(ZARR) for part in path.parts))


def image_limits(settings: Settings) -> ImageLimits:
    """Return how large an image may be that is analysed in one piece."""
    return ImageLimits(
        height=settings.max_image_height,
        width=settings.max_image_width,
        frames=settings.max_image_frames,
        pixels=settings.max_image_pixels,
    )


def described(picture: ImageHeader) -> dict[str, FieldValue]:
    """Return what is written into the job about its image: axes in the file's order, who named them, and sizes."""
    fields: dict[str, FieldValue] = {
        "image_axes": picture.axes,
        "image_axes_from": picture.axes_from,
        "image_shape": ",".join(map(str, picture.shape)),
    }
    return {**fields, "image_others": picture.others} if picture.others else fields


def dim_order(picture: ImageHeader) -> str:
    """Return the field `dim_order`: the axes of the file for DeepCell Label, which opens the same file.

    In the file's order, those of length 1 left out, in the letters that the Kiosk's page uses: Y, X, C, and B for
    frames of any kind.
    """
    letters = {**dict.fromkeys(FRAMES, "B"), **dict.fromkeys(CHANNELS, "C"), "Y": "Y", "X": "X"}
    long = zip(picture.axes, picture.shape, strict=True)
    return "".join(letters[letter] for letter, size in long if size > 1 or letter in "YX")
