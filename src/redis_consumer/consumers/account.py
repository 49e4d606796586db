"""The account of a job: which models answered, and in the end everything that its provenance tells."""

from __future__ import annotations

import datetime as dt
from contextlib import contextmanager
from typing import TYPE_CHECKING

from redis_consumer.arrays import Labels, Spots, Tracks
from redis_consumer.results.extras import PROVENANCE
from redis_consumer.results.label_images import LabelPlanes
from redis_consumer.results.provenance import (
    Input,
    ModelUse,
    Provenance,
    deciding_settings,
    digest,
    fields_of,
    software,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_consumer.consumers.base import Consumer, Tools
    from redis_consumer.consumers.work import Work
    from redis_consumer.images import ImageHeader
    from redis_consumer.job import ModelId
    from redis_consumer.results.extras import Seen


class Account:
    """Of one job."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._served: dict[ModelId, set[int]] = {}

    @contextmanager
    def watching(self, model: ModelId) -> Iterator[None]:
        """Note which version of the model answers meanwhile.

        The latest one may change under the predictions: the server is asked before and after.  Nobody is asked where
        no provenance is wanted.
        """
        self._note(model)
        yield
        self._note(model)

    def _note(self, model: ModelId) -> None:
        if PROVENANCE in self._tools.settings.extra_outputs:
            version = self._tools.served_version(model)
            self._served.setdefault(model, set()).update(() if version is None else (version,))

    def told(self, consumer: Consumer, work: Work, picture: ImageHeader, seen: Seen, result: object) -> Provenance:
        """Return the whole of it, as it stands now."""
        settings = self._tools.settings
        return Provenance(
            consumer=f"{type(consumer).__module__}.{type(consumer).__qualname__}",
            worker=consumer.name,
            queue=work.job.queue,
            job=work.job.key,
            fields=fields_of(work.job),
            input=input_of(work, picture, seen),
            models=[ModelUse(m.name, m.version, tuple(sorted(served))) for m, served in self._served.items()],
            parameters=work.parameters,
            settings=deciding_settings(settings),
            objects=result.count() if isinstance(result, Labels | LabelPlanes | Spots | Tracks) else None,
            software=software(type(consumer)),
            seconds=work.seconds(),
            started_at=work.started_at.isoformat(),
            written_at=dt.datetime.now(dt.UTC).isoformat(),
        )


def input_of(work: Work, picture: ImageHeader, seen: Seen) -> Input:
    """Return what came: the file, and how it was understood."""
    return Input(
        key=fields_of(work.job)["input_file_name"],
        name=work.name,
        sha256=digest(work.input) if work.input else "",
        bytes=work.input.stat().st_size if work.input else 0,
        shape=picture.shape,
        dtype=str(picture.dtype),
        axes=picture.axes,
        axes_from=picture.axes_from,
        pixel_size_um=seen.pixel_size_um,
    )
