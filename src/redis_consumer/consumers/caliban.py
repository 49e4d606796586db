"""Movies, as the Kiosk's queue `caliban` (once `tracking`) does them: frames segmented as jobs, cells tracked."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.consumers.parent import ParentConsumer, read_labels
from redis_consumer.consumers.trackers import tracker_by
from redis_consumer.errors import JobRejected
from redis_consumer.images import ImageFile
from redis_consumer.job import Status
from redis_consumer.results.tracks import save_tracks
from redis_consumer.results.trk import load_movies
from redis_consumer.scikit import load
from redis_consumer.tracking import link

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Tracks
    from redis_consumer.consumers.children import Children, ChildResult
    from redis_consumer.consumers.parent import Output
    from redis_consumer.consumers.trackers import Tracker
    from redis_consumer.job import ModelId
    from redis_consumer.queues.base import Child

    Movie = npt.NDArray[np.integer]

TRACK_FILES = (".trk", ".trks")
MOVIES = (*TRACK_FILES, ".tif", ".tiff")
SEGMENTATION_SHARE = 80
"""Percent of the progress; tracking has the rest."""


class CalibanConsumer(ParentConsumer):
    """The tracks of a movie, and who divided into whom.

    A ``.tif`` or ``.tiff`` is a movie of one channel; every frame becomes a job on `SEGMENTATION_QUEUE`.  A ``.trk``
    or ``.trks`` has the label images in it.  Fields of the job: `channels` (one; a movie of several must name it),
    `dimension_order`, and `scale`, which goes to the frames; as `tracking` also `model_name` and `model_version`.
    """

    def is_valid_hash(self, redis_hash: str | None) -> bool:
        """Return whether the input is a movie or a track file."""
        return redis_hash is not None and self._suffix in MOVIES

    @property
    def _suffix(self) -> str:
        name = self._redis_values.get("input_file_name") or ""
        if "://" in name:
            name = name.partition("?")[0]
        return PurePosixPath(name.strip()).suffix.lower()

    # Out.

    def begin(self, children: Children) -> str:
        """Submit the frames; a track file needs no segmentation, and is done at once."""
        if self._suffix in TRACK_FILES:
            return self.work.deliver(*self._output(*self._track_file()))
        self.tracking_model()  # a wrong name is said before anything is segmented
        picture = self.movie()
        frames = picture.stored[..., self.channel(picture)]
        parts = (partial(self._frame, children, frames[place], place) for place in range(len(frames)))
        # Before the share is known, no child that ends can tell its parent's progress.
        return children.submit(parts, children_share=SEGMENTATION_SHARE, **self.work.noted())

    def _frame(self, children: Children, frame: AnyArray, place: int) -> Child:
        fields = {"channels": "0,,", "dimension_order": "XY"}
        queue = self._tools().settings.segmentation_queue
        return self.part(children, queue, frame, place, f"tracking-frame-{place}", fields)

    def movie(self) -> ImageFile:
        """Return the movie; JobRejected for one frame."""
        picture = self.work.load(self._tools().settings)
        channels = picture.stored.shape[-1]
        hint = f"; its axes are {picture.axes}: say 'BXY' in 'dimension_order' if its channels are frames"
        self._check_frames(picture.name, len(picture.stored), hint if channels > 1 and not picture.is_rgb else "")
        return picture

    def channel(self, picture: ImageFile) -> int:
        """Return which channel is tracked, and note it in the job."""
        choice = self.choose(picture)
        if len(choice.indexes) != 1:
            raise JobRejected(
                f"The movie {picture.name!r} has {len(choice.indexes)} channels to track: expected is one; "
                "name it in the field 'channels', e.g. '0'"
            )
        self.work.note(**choice.fields(picture.channel_names))
        self.work.parameters["channels"] = choice.indexes
        return choice.indexes[0]

    def _check_frames(self, name: str, frames: int, hint: str = "") -> None:
        if frames < 2:  # noqa: PLR2004 - a link takes two
            raise JobRejected(f"The movie {name!r} has {frames} frame: expected are two or more{hint}")
        if frames > (allowed := self._tools().settings.max_image_frames):
            raise JobRejected(f"The movie {name!r} has {frames} frames: allowed are {allowed} (MAX_IMAGE_FRAMES)")

    def _track_file(self) -> tuple[Movie, ImageFile]:
        """Return the labels of a track file, and its movie."""
        path = self.work.fetch()
        movies = load_movies(path)
        if len(movies) != 1:
            raise JobRejected(f"The track file {path.name!r} has {len(movies)} movies: expected is one")
        ((raw, labels),) = movies
        self._check_frames(path.name, len(raw))
        return labels, ImageFile("TYXC", "metadata", raw.shape, raw.dtype, is_rgb=False, name=path.name, stored=raw)

    # Back.

    def gather(self, children: Children, results: Sequence[ChildResult]) -> Output:
        """Track what the frames' jobs found; the movie itself is read again only where somebody looks at it."""
        for place, child in enumerate(results):
            if not child.is_done:
                raise JobRejected(self._failed(place, child, child.reason))
        load()
        settings = self._tools().settings
        looked_at = settings.extra_outputs or self.tracking_model()
        picture = self.movie() if looked_at else None
        return self._output(self._labels(children, results), picture)

    def _labels(self, children: Children, results: Sequence[ChildResult]) -> Movie:
        """Return the label images of all frames, (T, Y, X)."""
        labels: Movie = np.zeros((0, 0, 0), np.uint16)
        for place, child in enumerate(results):
            try:
                frame = self._label_image(children, child)
            except JobRejected as error:
                raise JobRejected(self._failed(place, child, str(error))) from error
            if not place:
                labels = np.zeros((len(results), *frame.shape), np.uint16)
            if frame.shape != labels.shape[1:]:
                sizes = f"The labels have {frame.shape} pixels, those of the first frame {labels.shape[1:]}"
                raise JobRejected(self._failed(place, child, sizes))
            if frame.max(initial=0) > np.iinfo(labels.dtype).max:
                labels = labels.astype(np.int32)  # few movies need it, and it is twice the memory
            labels[place] = frame
        return labels

    def _label_image(self, children: Children, child: ChildResult) -> Movie:
        with self.fetched(children, child) as files:
            if len(files) != 1:
                raise JobRejected(f"The job left {len(files)} files: expected is one label image")
            images = read_labels(files[0].path)
        if len(images) != 1:
            raise JobRejected(f"The job left {len(images)} label images: expected is one")
        labels: Movie = images[0]
        return labels

    def _failed(self, place: int, child: ChildResult, reason: str) -> str:
        return f"Frame {place} of the movie {self.work.name!r} (job {child.key!r}): {reason}"

    # Tracking.

    def _output(self, labels: Movie, picture: ImageFile | None) -> Output:
        tracks = self.tracked(labels, picture)
        self.work.enter(Status.SAVING_RESULTS)
        files = save_tracks(tracks, self.work.name, self.work.folder / "output")
        return files, self.extras(picture, tracks) if picture else {}

    def tracked(self, labels: Movie, picture: ImageFile | None) -> Tracks:
        """Return the tracks of label images, by a tracking model or, where there is none, by distance and size."""
        model = self.tracking_model()
        self.work.enter(Status.PREDICTING)
        try:
            if model is None or picture is None:
                return self._by_distance(labels)
            return self._by_model(labels, picture, tracker_by(self._tools(), model))
        except ValueError as error:
            raise JobRejected(f"The movie {self.work.name!r} cannot be tracked: {error}") from error

    def tracking_model(self) -> ModelId | None:
        """Return the model that compares cells; None where one is set to `none`.

        The type `tracking` of the Kiosk's first years let the job name it.
        """
        settings = self._tools().settings
        named = self.job_model() if settings.consumer_type.lower() == "tracking" else None
        return named or (settings.caliban_model if settings.neighborhood_encoder else None)

    def _by_distance(self, labels: Movie) -> Tracks:
        distance = self._tools().settings.max_distance
        self.work.note(tracked_by="distance and size")
        self.work.parameters["max_distance"] = distance
        return link(labels, max_distance=distance)

    def _by_model(self, labels: Movie, picture: ImageFile, tracker: Tracker) -> Tracks:
        chosen = self.choose(picture).indexes  # of a track file it may be several: the model says what it takes
        everything = len(chosen) == picture.stored.shape[-1]
        movie = picture.stored if everything else picture.stored[..., chosen]
        self.work.note(tracked_by=" and ".join(map(str, tracker.models)))
        self.work.parameters.update(tracker.parameters)
        with ExitStack() as watched:
            for model in tracker.models:
                watched.enter_context(self._account.watching(model))
            tracks = tracker(movie, labels, self._progress)
        self.work.note(predict_retries=len(self._tools().retries))
        return tracks

    def _progress(self, done: float) -> None:
        before = SEGMENTATION_SHARE if self.job.get("children") else 0
        self.work.progress((before + (100 - before) * done) / 100)
