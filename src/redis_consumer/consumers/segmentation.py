"""The Kiosk's own image jobs: `image` (one image, one model) and `segmentation` (a model for each role)."""

from __future__ import annotations

import math
import re
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

import numpy as np

from redis_consumer.arrays import Labels
from redis_consumer.consumers.channels import Choice, named_channels, nuclear_channel
from redis_consumer.consumers.image import ImageConsumer
from redis_consumer.consumers.predict import image_axes, only_input
from redis_consumer.errors import JobRejected
from redis_consumer.job import Status
from redis_consumer.processing import POST_PROCESSES, PRE_PROCESSES, chain, takes_boxes, warm_up
from redis_consumer.processing.rescale import resize, scaled_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Image, Result
    from redis_consumer.images import ImageHeader
    from redis_consumer.job import Job, ModelId
    from redis_consumer.settings import Settings

ROLES = ("nuclei", "cytoplasm", "phase")
"""What the positions of `channels` stand for on the segmentation queue."""
LABELS = ("nuclei", "phase", "cytoplasm")
"""What the numbers of the field `label` stand for, from 0: as they were while consumers read it.

The Kiosk's last release counts phase and cytoplasm the other way round, in tables that nothing uses.
"""

Given = TypeVar("Given")
Made = TypeVar("Made")


class ImageFileConsumer(ImageConsumer):
    """One image by one model: scale, pre-process, predict, post-process, scale back.

    Fields of the job, each with a default where it is blank: `model_name` and `model_version`, `scale`,
    `preprocess_function` and `postprocess_function` (names of `redis_consumer.processing`, joined by commas),
    `cuts` and `field_size`, `channels`, `dimension_order`; and `label`, what the image shows, which chooses the
    model where no other is named.
    """

    default_preprocess: ClassVar[str] = "histogram_normalization"
    default_postprocess: ClassVar[str] = "deep_watershed"

    @staticmethod
    def warm_up() -> None:
        """Load the libraries of the array functions."""
        warm_up()

    def analyze(self, image: Image, job: Job) -> Result:
        """Do the whole job; the result has the size of `image`."""
        return self.segment([(self.job_model() or self.labelled_model(job, image), image)], job)

    def segment(self, parts: Sequence[tuple[ModelId, Image]], job: Job, names: tuple[str, ...] = ()) -> Result:
        """Do the same for each model and its image, all of one size; the results become features (last axis).

        `names` may say what each of them is.
        """
        names_of_steps = {
            "preprocess_function": job.get("preprocess_function", self.default_preprocess),
            "postprocess_function": job.get("postprocess_function", self.default_postprocess),
        }
        prepare = steps(job, "preprocess_function", self.default_preprocess, PRE_PROCESSES)
        finish = partial(steps, job, "postprocess_function", self.default_postprocess, POST_PROCESSES)
        finish()  # a name that is none is refused before anything is predicted
        cuts, field_size = whole_number(job, "cuts", 0), whole_number(job, "field_size", 61)
        boxes = takes_boxes(names_of_steps["postprocess_function"])
        if boxes and cuts:
            raise JobRejected(f"The field 'cuts' is {cuts}: allowed is 0 where boxes are predicted")
        scale = self.scale(job, parts[0][1])
        self.work.parameters |= {**names_of_steps, "scale": scale, "cuts": cuts, "field_size": field_size}
        check_zoom([image for _, image in parts], scale, self._tools().settings.max_image_pixels)
        prepared = deque(understood(prepare, zoomed(image, scale)) for _, image in parts)
        predict = self.predict_whole if boxes else partial(self.predict_with, cuts=cuts, field_size=field_size)
        results = []
        for model, image in parts:
            # Taken out: the image for one model need not be there while the labels of the next one are made.
            ready = self.predictor().fitted(model, prepared.popleft()) if boxes else prepared.popleft()
            size = (ready.shape[1], ready.shape[2])
            outputs = predict(model, ready)
            del ready
            results.append(unzoomed(understood(finish(size=size), outputs), image.shape[1:3]))
            del outputs
        return features(results, names)

    def scale(self, job: Job, image: Image) -> float:
        """Return the job's zoom; where it is blank that which a model finds, if the settings say so, else 1."""
        settings = self._tools().settings
        if job.get("scale") or not settings.scale_detect_enabled:
            return job_scale(job, settings)
        model = settings.scale_detect_model
        scale = understood(lambda seen: self.predictor().detect_scale(model, seen), image)
        if not settings.min_scale <= scale <= settings.max_scale:
            raise JobRejected(
                f"The model {model} finds the scale {scale:g}: allowed is a number from {settings.min_scale:g} to "
                f"{settings.max_scale:g}; name one in the field 'scale'"
            )
        self.work.note(scale=scale)
        return scale

    def labelled_model(self, job: Job, image: Image) -> ModelId:
        """Return the model for what the job's `label` says; where it is blank, for what a model sees, or the default.

        A type with a model of its own has that for every label.
        """
        settings = self._tools().settings
        if self.model or not (job.get("label") or settings.label_detect_enabled):
            return self.default_model()
        return (settings.nuclear_model, settings.phase_model, settings.cytoplasm_model)[self.label(job, image)]

    def label(self, job: Job, image: Image) -> int:
        """Return what the image shows, an index into `LABELS`: the job's word, else what a model sees."""
        if text := job.get("label"):
            return checked_label(text, f"The field 'label' is {text!r}")
        model = self._tools().settings.label_detect_model
        label = understood(lambda seen: self.predictor().detect_label(model, seen), image)
        checked_label(str(label), f"The model {model} finds the label {label}")
        self.work.note(label=label)
        return label

    def choose(self, picture: ImageHeader) -> Choice:
        """Return the channels that the job names; else all, or the nuclei's where the model takes one channel."""
        choice = super().choose(picture)
        if choice.origin == "job" or len(choice.indexes) == 1:
            return choice
        model = self.job_model() or self.default_model()
        _, _, taken = image_axes(model, only_input(model, self._inputs(model)))
        return nuclear_channel(picture) if taken == 1 else choice


class SegmentationConsumer(ImageFileConsumer):
    """The Kiosk's `segmentation` queue: one label image for each batch entry and role.

    The field `channels` gives the channel of each role (`ROLES`) by position, blanks allowed; wholly blank, the
    image is nuclei.
    """

    unspoken = frozenset({Status.POST_PROCESSING})
    file_name = "{name}_batch_{batch}_feature_{feature}.tif"

    def choose(self, picture: ImageHeader) -> Choice:
        """Return the channel of each role that the job names; without any, the channel of the nuclei."""
        parts = self.channel_parts()
        if len(parts) > len(ROLES):
            raise JobRejected(
                f"The field 'channels' names {len(parts)} roles: allowed are {len(ROLES)} ({', '.join(ROLES)})"
            )
        return named_channels(parts, picture) if any(parts) else super().choose(picture)

    def chosen(self, choice: Choice) -> object:
        """Return the channel of each role; without roles, the channels."""
        if choice.origin != "job":
            return choice.indexes
        return {role: index for role, index in zip(ROLES, choice.positions, strict=False) if index is not None}

    def analyze(self, image: Image, job: Job) -> Result:
        """Segment each role that the job names, its channel taken in turn; without any, the image is nuclei."""
        settings = self._tools().settings
        models = dict(zip(ROLES, (settings.nuclear_model, settings.cytoplasm_model, settings.phase_model), strict=True))
        roles = tuple(role for role, part in zip(ROLES, self.channel_parts(), strict=False) if part)
        if not roles:
            return self.segment([(self.job_model() or self.default_model(), image)], job)
        parts = [(self.job_model() or models[role], image[..., i : i + 1]) for i, role in enumerate(roles)]
        return self.segment(parts, job, roles)


def steps(
    job: Job,
    field: str,
    default: str,
    table: Mapping[str, Callable[[Given], Made]],
    size: tuple[int, int] | None = None,
) -> Callable[[Given], Made]:
    """Return the chain of steps that a field of the job names; `size` are the rows and columns of the image."""
    try:
        return chain(job.get(field, default), table, field, size)
    except ValueError as error:
        raise JobRejected(str(error)) from None


def understood(step: Callable[[Given], Made], given: Given) -> Made:
    """Return `step(given)`; what the step refuses is the input's fault."""
    try:
        return step(given)
    except ValueError as error:
        raise JobRejected(f"The image cannot be processed: {error}") from error


def job_scale(job: Job, settings: Settings) -> float:
    """Return the job's zoom (image pixel size / model pixel size); 1 where it is blank."""
    text = job.get("scale", "1")
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not settings.min_scale <= scale <= settings.max_scale:
        raise JobRejected(
            f"The field 'scale' is {text!r}: allowed is a number from {settings.min_scale:g} to {settings.max_scale:g}"
        )
    return scale


def checked_label(text: str, given: str) -> int:
    """Return `text` as an index into `LABELS`; JobRejected begins with `given` where it is none."""
    allowed = {str(number): number for number in range(len(LABELS))}
    if text not in allowed:
        raise JobRejected(f"{given}: allowed are " + ", ".join(f"{i} ({what})" for i, what in enumerate(LABELS)))
    return allowed[text]


def whole_number(job: Job, field: str, default: int) -> int:
    """Return a field that counts; JobRejected names it where it does not."""
    text = job.get(field, str(default))
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise JobRejected(f"The field {field!r} is {text!r}: allowed is a whole number from 0")
    return int(text)


def check_zoom(images: Sequence[Image], scale: float, allowed: int) -> None:
    """JobRejected where the images together, zoomed, have more values than an image may have."""
    values = sum(image.size for image in images) * scale**2
    if values > allowed:
        raise JobRejected(
            f"The field 'scale' is {scale:g}: the image would grow to {values:.0f} values, "
            f"allowed are {allowed} (MAX_IMAGE_PIXELS)"
        )


def zoomed(image: Image, scale: float) -> Image:
    """Return `image` at the model's pixel size: sides times `scale`, cut to whole pixels."""
    if scale == 1:
        return image
    return np.asarray(resize(image, scaled_size(image.shape[1:3], scale)), np.float32)


def unzoomed(result: AnyArray, shape: tuple[int, ...]) -> AnyArray:
    """Return a result at the size of the original image; labels stay labels."""
    if result.shape[1:3] == shape:
        return result
    return resize(result, (shape[0], shape[1]), labels=np.issubdtype(result.dtype, np.integer))


def features(results: Sequence[AnyArray], names: tuple[str, ...] = ()) -> Result:
    """Join results along the last axis: label images if all are whole numbers, else maps.

    `names` count where each result is one feature.
    """
    joined = results[0] if len(results) == 1 else np.concatenate(results, axis=-1)
    if not np.issubdtype(joined.dtype, np.integer):
        return joined
    fitting = names if len(names) == joined.shape[-1] else ()
    return Labels(cast("npt.NDArray[np.integer]", joined), fitting)
