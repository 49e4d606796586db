"""The flow of a job that has others do the segmentation: fan out, wait without a lane, gather, deliver.

Knows no movies and no spots.
"""

from __future__ import annotations

import datetime as dt
import shutil
import uuid
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from redis_consumer.consumers.account import Account
from redis_consumer.consumers.image import ImageConsumer
from redis_consumer.consumers.work import Work
from redis_consumer.errors import JobRejected
from redis_consumer.images import read_image
from redis_consumer.job import Status
from redis_consumer.results import safe_name, writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.archives import Entry
    from redis_consumer.arrays import AnyArray
    from redis_consumer.consumers.children import Children, ChildResult
    from redis_consumer.queues.base import Child, FieldValue
    from redis_consumer.settings.schema import ExtraOutput

    Output = tuple[Sequence[Entry], Mapping[ExtraOutput, Path]]
    """The files of the zip, and what goes beside it."""

ABOUT_THE_IMAGE = (
    *("channels", "dimension_order", "label", "cuts"),
    *("model_name", "model_version", "preprocess_function", "postprocess_function"),
)
"""Fields that say how the parent's own image is read, or what is done with it: of a child's they say nothing."""
NAME_BYTES = 150
"""Of the user's file name in the names of children: a file name has at most 255 bytes."""
AS_THEY_ARE = frozenset({"uint8", "uint16", "float32"})
"""Types that every reader of TIFFs knows; others become float32."""


class ParentConsumer(ImageConsumer):
    """Override `begin` and `gather`; what is around them is done here.

    Nothing is written twice and no child submitted twice, whoever dies when.
    """

    needs_model_server: ClassVar[bool] = False
    unspoken = frozenset({Status.PRE_PROCESSING, Status.POST_PROCESSING})

    def begin(self, children: Children) -> str:
        """Submit the children; return `Status.WAITING`, or the final status of a job that needs none."""
        raise NotImplementedError(f"{type(self).__name__} does not override begin ({children})")

    def gather(self, children: Children, results: Sequence[ChildResult]) -> Output:
        """Make the result of what the children left."""
        raise NotImplementedError(f"{type(self).__name__} does not override gather ({children}, {results})")

    def _consume(self, redis_hash: str) -> str:
        tools = self._tools()
        with Work(self.job, tools.jobs, self.storage, unspoken=self.unspoken) as self.work:
            self._account = Account(tools)
            children = self.children()
            if not children.submitted:
                self.work.note(started_at=self.get_current_timestamp())
                return self.begin(children)
            output = children.gathered(partial(self._finish, children), seconds=tools.settings.expire_time)
        if output is None:
            return Status.WAITING
        self.update_key(redis_hash, {"status": self.final_status, **output})
        return self.final_status

    def _finish(self, children: Children, results: Sequence[ChildResult]) -> dict[str, FieldValue]:
        try:
            files, extras = self.gather(children, results)
        except JobRejected:
            children.clear_away(results, seconds=self._tools().settings.expire_time)
            raise
        output = {**self.work.store(files, extras), **self._total_time()}
        self.update_key(self.job.key, output)
        return output

    def _total_time(self) -> dict[str, FieldValue]:
        """Return the seconds since the first visit; what the queue counts begins with the last."""
        if not (began := self.job.get("started_at")):
            return {}
        spent = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(began)
        return {"total_time": round(spent.total_seconds(), 3)}

    # Out.

    def part(
        self, children: Children, queue: str, image: AnyArray, place: int, what: str, fields: Mapping[str, str]
    ) -> Child:
        """Bring an image into the bucket and make a child of it: ``<uid>-<the user's name>-<what>.tif``.

        It goes by no name of the user's: the uid, the first of it, is that of the job and the `place`.
        """
        uid = uuid.uuid5(uuid.NAMESPACE_URL, f"{self.job.key}/{place}".encode(errors="replace").decode()).hex
        name = f"{uid}-{short_name(self.work.name)}-{what}.tif"
        folder = self.work.folder / "part"
        try:
            upload = children.upload(save_image(image, name, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        blank = dict.fromkeys(ABOUT_THE_IMAGE, "")
        return children.child(queue, name, {**blank, "input_file_name": upload.key, "url": upload.url, **fields})

    # Back.

    @contextmanager
    def fetched(self, children: Children, child: ChildResult) -> Iterator[list[Entry]]:
        """Give the files of a child's result, in their order, as long as they are looked at."""
        folder = self.work.folder / "result"
        try:
            yield children.fetch(child, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def short_name(name: str) -> str:
    """Return the user's file name without folders, cut to what fits into a longer name."""
    base = PurePosixPath(safe_name(name)).name or "image"
    return base.encode()[-NAME_BYTES:].decode(errors="ignore")


def save_image(image: AnyArray, name: str, folder: Path) -> Path:
    """Write (Y, X), (T, Y, X) or (T, Y, X, C) as a TIFF of a page for each frame that says what its axes are.

    RetryJob if the disk is full.
    """
    import tifffile

    kept = image if image.dtype.name in AS_THEY_ARE else image.astype(np.float32)
    axes = "TYXC" if image.ndim == 4 else "TYX"[-image.ndim :]  # noqa: PLR2004 - the four axes of the layout
    # Channels stay in their page, or else each row becomes one.
    planes = "contig" if axes.endswith("C") else None
    with writing(folder, name) as path:
        tifffile.imwrite(
            path, np.ascontiguousarray(kept), photometric="minisblack", planarconfig=planes, metadata={"axes": axes}
        )
    return path


def read_labels(path: str) -> npt.NDArray[np.int32]:
    """Return the label images of a child's TIFF, (T, Y, X); JobRejected for values that are no labels."""
    stored = read_image(path).stored
    with np.errstate(invalid="ignore"):  # what is no number is found out below
        labels = stored[..., 0].astype(np.int32)
    if stored.shape[-1] > 1 or not np.array_equal(labels, stored[..., 0]) or labels.min(initial=0) < 0:
        raise JobRejected(f"The file {PurePosixPath(path).name!r} that the job left is no label image")
    return labels
