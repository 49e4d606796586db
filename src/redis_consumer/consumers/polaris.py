"""Spots in cells, as the Kiosk's queue `polaris` does them: spots and cells found by jobs, and brought together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from redis_consumer.arrays import Labels
from redis_consumer.consumers.channels import default_channels, named_channels
from redis_consumer.consumers.parent import ParentConsumer, read_labels
from redis_consumer.errors import JobRejected
from redis_consumer.job import Status
from redis_consumer.results.cells import save_spots_in_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from redis_consumer.consumers.channels import Choice
    from redis_consumer.consumers.children import Children, ChildResult
    from redis_consumer.consumers.parent import Output
    from redis_consumer.images import ImageFile, ImageHeader
    from redis_consumer.queues.base import Child
    from redis_consumer.spots import Points

    Planes = npt.NDArray[np.int32]

SegmentationType = Literal["none", "cell culture", "tissue"]
ROLES = ("spots", "nuclei", "cytoplasm")
"""What the positions of the field `channels` stand for."""
SPOT, SEGMENTATION, MESMER = "spot", "segmentation", "mesmer"
"""The queues of the children: the Kiosk has no setting for them."""
CHILDREN_SHARE = 80
"""Percent of the progress; to gather and to store have the rest."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one child looks at."""

    queue: str
    channels: tuple[int, ...]
    roles: str = ""
    """Its field `channels`."""
    order: str = "BXY"
    """Its field `dimension_order`."""


class PolarisConsumer(ParentConsumer):
    """The spots of each frame, or batch entry, of an image, and the cells in which they lie.

    Fields of the job, each with a default where it is blank: `segmentation_type` (`none`), `channels` (by position:
    spots, nuclei, cytoplasm; else the first ones), `scale` (the setting `POLARIS_SCALE`), `dimension_order`.
    """

    def begin(self, children: Children) -> str:
        """Submit a child for the spots, and one or two for the cells."""
        kind = segmentation_type(self.job.get("segmentation_type"))
        picture = self.work.load(self._tools().settings)
        choice = self.choose(picture)
        parts = parts_of(kind, choice)
        self.work.note(segmentation_type=kind, **choice.fields(picture.channel_names))
        self.work.enter(Status.PREDICTING)
        submitted = (partial(self._part, children, picture, part, place) for place, part in enumerate(parts))
        # Before the share is known, no child that ends can tell its parent's progress.
        return children.submit(submitted, children_share=CHILDREN_SHARE)

    def choose(self, picture: ImageHeader) -> Choice:
        """Return the channel of each role: those that the job names, else the first ones."""
        parts = self.channel_parts()
        if len(parts) > len(ROLES):
            raise JobRejected(
                f"The field 'channels' names {len(parts)} roles: allowed are {len(ROLES)} ({', '.join(ROLES)})"
            )
        if any(parts):
            return named_channels(parts, picture)
        choice = default_channels(picture)
        return replace(choice, positions=choice.positions[: len(ROLES)])

    def _part(self, children: Children, picture: ImageFile, part: Part, place: int) -> Child:
        image = picture.stored[..., list(part.channels)]
        fields = {
            "channels": part.roles,
            "dimension_order": part.order,
            "scale": self.job.get("scale") or str(self._tools().settings.polaris_scale),
        }
        seen = image if len(part.channels) > 1 else image[..., 0]
        return self.part(children, part.queue, seen, place, f"{part.queue}-image", fields)

    def gather(self, children: Children, results: Sequence[ChildResult]) -> Output:
        """Put the spots of the first child into the cells of the others."""
        for child in results:
            if not child.is_done:
                raise JobRejected(told(child, child.reason))
        settings = self._tools().settings
        picture = self.work.load(settings) if settings.extra_outputs else None
        spots, *cells = results
        points = self._points(children, spots)
        features = [plane for child in cells for plane in self._features(children, child, len(points))]
        labels = joined(features)
        self.work.enter(Status.SAVING_RESULTS)
        files = save_spots_in_cells(points, labels, self.work.name, self.work.folder / "output")
        return files, self.extras(picture, labels) if picture else {}

    def _points(self, children: Children, child: ChildResult) -> list[Points]:
        """Return the spots of each image, (N, 2)."""
        with self.fetched(children, child) as files:
            found = [read_points(path) for path, name in files if PurePosixPath(name).suffix == ".npy"]
        if not found:
            raise JobRejected(told(child, "The job left no points"))
        return found

    def _features(self, children: Children, child: ChildResult, images: int) -> list[Planes]:
        """Return the label images of one child by feature, each (T, Y, X).

        A job on `segmentation` has one feature, and a file for each image of the batch; one on `mesmer` has a file
        for each feature.
        """
        with self.fetched(children, child) as files:
            planes = [read_labels(path) for path, _ in files]
        if not planes:
            raise JobRejected(told(child, "The job left no label images"))
        if queue_of(child) != MESMER:
            check_sizes(child, planes)
            planes = [np.concatenate(planes)]
        if any(len(plane) != images for plane in planes):
            found = " and ".join(str(len(plane)) for plane in planes)
            raise JobRejected(told(child, f"The job left {found} label images: expected are {images}"))
        check_sizes(child, planes)
        return planes


def segmentation_type(text: str) -> SegmentationType:
    """Return what the job says; `none` where it is blank; JobRejected tells what is allowed."""
    allowed: tuple[SegmentationType, ...] = get_args(SegmentationType)
    for kind in allowed:
        if kind == (text.lower() or "none"):
            return kind
    raise JobRejected(f"The field 'segmentation_type' is {text!r}: allowed are {', '.join(allowed)}")


def parts_of(kind: SegmentationType, choice: Choice) -> list[Part]:
    """Return what becomes a child: the spots first, then the cells."""
    spots, nuclei, cytoplasm = (*choice.positions, None, None, None)[: len(ROLES)]
    if spots is None:
        raise JobRejected("The field 'channels' names no channel for the spots, which is the first of them")
    parts = [Part(SPOT, (spots,))]
    if kind == "cell culture":
        roles = ((nuclei, "0,"), (cytoplasm, ",0"))
        parts += [Part(SEGMENTATION, (channel,), text) for channel, text in roles if channel is not None]
        if len(parts) == 1:
            raise JobRejected("The job names no channel for the cells: 'cell culture' takes nuclei, cytoplasm or both")
    if kind == "tissue":
        if nuclei is None or cytoplasm is None:
            raise JobRejected("The job names no two channels for the cells: 'tissue' takes nuclei and cytoplasm")
        parts.append(Part(MESMER, (nuclei, cytoplasm), order="BXYC"))
    return parts


def queue_of(child: ChildResult) -> str:
    """Return the queue of a child: its key begins with it, whatever the user's file is called."""
    return child.key.partition(":")[0]


def told(child: ChildResult, reason: str) -> str:
    """Return why the whole job fails."""
    return f"The job on the queue {queue_of(child)!r} ({child.key!r}): {reason}"


def check_sizes(child: ChildResult, planes: Sequence[Planes]) -> None:
    """JobRejected where label images are not of one size."""
    if len({plane.shape[1:] for plane in planes}) > 1:
        raise JobRejected(told(child, f"The job left label images of sizes {[plane.shape[1:] for plane in planes]}"))


def joined(features: Sequence[Planes]) -> Labels | None:
    """Return label images (T, Y, X) as features of one result; None if there are none."""
    if not features:
        return None
    if len({plane.shape for plane in features}) > 1:
        raise JobRejected(f"The jobs left label images of sizes {[plane.shape[1:] for plane in features]}")
    return Labels(np.stack(features, axis=-1))


def read_points(path: str) -> Points:
    """Return the points (N, 2) of a child's ``.npy``; JobRejected for anything else."""
    name = PurePosixPath(path).name
    try:
        points = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise JobRejected(f"The file {name!r} that the job left cannot be read ({type(error).__name__})") from error
    if not points.size:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "fiu":  # noqa: PLR2004 - rows and columns
        raise JobRejected(f"The file {name!r} that the job left has no points: {points.dtype} of shape {points.shape}")
    return np.asarray(points, np.float64)
