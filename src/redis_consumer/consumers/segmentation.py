"""The Kiosk's own image jobs: `image` (one image, one model) and `segmentation` (a model for each role)."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from redis_consumer.arrays import Labels
from redis_consumer.consumers.channels import Choice, named_channels, nuclear_channel
from redis_consumer.consumers.fields import (
    check_zoom,
    check_zoomed_sides,
    checked_label,
    job_scale,
    steps,
    understood,
    whole_number,
)
from redis_consumer.consumers.image import ImageConsumer
from redis_consumer.consumers.large import LargeImage, LargeLabels, Recipe
from redis_consumer.consumers.predict import image_axes, only_input
from redis_consumer.errors import JobRejected
from redis_consumer.job import Status
from redis_consumer.processing import LOCAL, POST_PROCESSES, PRE_PROCESSES, takes_boxes, warm_up
from redis_consumer.processing.rescale import resize, scaled_size
from redis_consumer.processing.views import VIEWS
from redis_consumer.results import save_large_labels
from redis_consumer.results.label_images import LabelPlanes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Image, Result
    from redis_consumer.images import ImageHeader, ImageLimits, OpenImage
    from redis_consumer.job import Job, ModelId

ROLES = ("nuclei", "cytoplasm", "phase")
"""What the positions of `channels` stand for on the segmentation queue."""
IN_ONE_PIECE = frozenset({"analyze", "segment", "channels", "predict", "predict_with", "predict_whole", "extras"})
IN_BLOCKS = frozenset({"segment_large", "recipe"})
"""Methods that the one way of doing an image calls, and the other does not."""


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

    def analyze(self, image: Image, job: Job) -> Result:  # noqa: ARG002 - the contract's parameter
        """Do the whole job; the result has the size of `image`."""
        parts, names = self.parts(image)
        images = deque([(model, image[..., channels]) for model, channels in parts])
        del image  # of which views are in `images` alone, now
        return self.segment(images, names)

    def parts(self, image: Image) -> tuple[list[tuple[ModelId, slice]], tuple[str, ...]]:
        """Return a model for each part of the chosen channels, and what the features of the result are called.

        All channels are one part.
        """
        return [(self.job_model() or self.labelled_model(self.job, image), slice(None))], ()

    def segment(self, parts: deque[tuple[ModelId, Image]], names: tuple[str, ...] = ()) -> Result:
        """Do the same for each model and its image, all of one size; the results become features (last axis).

        `parts` is empty then: an image is let go of once it is prepared.  `names` may say what each of them is.
        """
        job, names_of_steps = self.job, self.step_names()
        prepare = steps(job, "preprocess_function", self.default_preprocess, PRE_PROCESSES)
        finish = partial(steps, job, "postprocess_function", self.default_postprocess, POST_PROCESSES)
        finish()  # a name that is none is refused before anything is predicted
        cuts, field_size = whole_number(job, "cuts", 0), whole_number(job, "field_size", 61)
        boxes = takes_boxes(names_of_steps["postprocess_function"])
        if boxes and cuts:
            raise JobRejected(f"The field 'cuts' is {cuts}: allowed is 0 where boxes are predicted")
        scale = self.scale(job, parts[0][1])
        self.work.parameters |= {**names_of_steps, "scale": scale, "cuts": cuts, "field_size": field_size}
        check_zoom(sum(image.size for _, image in parts), scale, self._tools().settings.max_image_pixels)
        shape = parts[0][1].shape[1:3]
        prepared: deque[tuple[ModelId, Image]] = deque()
        while parts:
            model, image = parts.popleft()
            prepared.append((model, understood(prepare, zoomed(image, scale))))
            del image
        results = []
        while prepared:
            # Taken out: the image for one model need not be there while the labels of the next one are made.
            model, ready = prepared.popleft()
            ready = self.predictor().fitted(model, ready) if boxes else ready
            size = (ready.shape[1], ready.shape[2])
            held = [ready]
            del ready  # the predictor lets go of it once it is sent: nobody else has it
            if boxes:
                outputs = self.predict_whole(model, held.pop())
            else:
                outputs = self.predict_with(model, held.pop(), cuts=cuts, field_size=field_size)
            results.append(unzoomed(understood(finish(size=size), outputs), shape))
            del outputs
        return features(results, names)

    def step_names(self) -> dict[str, str]:
        """Return the names of the steps, by the fields that may name them."""
        return {
            "preprocess_function": self.job.get("preprocess_function", self.default_preprocess),
            "postprocess_function": self.job.get("postprocess_function", self.default_postprocess),
        }

    # Images that are too large for one piece.

    def limits(self) -> ImageLimits:
        """Return how large an image may be: larger than one piece where the job can be done by blocks."""
        limits, side = super().limits(), self._tools().settings.max_large_side
        if not self.by_blocks() or side <= max(limits.height, limits.width):
            return limits
        return replace(limits, height=side, width=side, sides="MAX_LARGE_SIDE")

    def by_blocks(self) -> bool:
        """Return whether the job can be done block by block: its steps look at what is near alone."""
        prepare, finish = self.step_names().values()
        local = prepare in VIEWS and finish in LOCAL and not whole_number(self.job, "cuts", 0)
        return local and knows_blocks(type(self))

    def process(self, image: OpenImage) -> str:
        """Analyse the image, by blocks where it is too large for one piece, and deliver; return the status."""
        if not self.by_blocks() or is_one_piece(image, super().limits(), job_scale(self.job, self._tools().settings)):
            return super().process(image)
        self.prepare(image)
        large = LargeImage(image, self.work.folder / "planes", self._predicting, self.work.demand_lease)
        labels = understood(partial(self.segment_large, large), image)
        if labels.cut:
            self.logger.warning("Job %s: %d of %d objects may lack a part", self.job.key, labels.cut, labels.count)
        self.work.enter(Status.SAVING_RESULTS)
        name, folder = self.work.name, self.work.folder / "output"
        files = save_large_labels(labels.planes, name, folder, pattern=self.file_name, stack=self.stack)
        found = LabelPlanes(labels.planes, labels.names)
        return self.work.deliver(
            files, self.write_extras(image, image, found) if self._tools().settings.extra_outputs else {}
        )

    def segment_large(self, large: LargeImage, image: OpenImage) -> LargeLabels:
        """Do by blocks what `analyze` does in one piece."""
        indexes = self.chosen_channels(image).indexes
        sample = large.sample(indexes)
        parts, names = self.parts(sample)
        scale = self.scale(self.job, sample)
        chosen = [(model, indexes[channels]) for model, channels in parts]
        values = math.prod(image.sizes[:3]) * sum(len(channels) for _, channels in chosen)
        settings, piece = self._tools().settings, super().limits()
        check_zoom(values, scale, settings.max_image_pixels)
        # A row of tiles is in memory, all of it.  What is no larger than one piece may be zoomed as far as ever.
        longest = max(settings.max_large_side, math.ceil(max(piece.height, piece.width) * scale))
        check_zoomed_sides(image.sizes[1:3], scale, longest)
        self.work.parameters["scale"] = scale
        return replace(large.segment(chosen, self.recipe(scale)), names=names)

    def recipe(self, scale: float) -> Recipe:
        """Return what is done with a large image, besides the model."""
        names = self.step_names()
        self.work.parameters |= {**names, "cuts": 0, "field_size": whole_number(self.job, "field_size", 61)}
        return Recipe(names["preprocess_function"], POST_PROCESSES[names["postprocess_function"]], scale=scale)

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

    def parts(self, image: Image) -> tuple[list[tuple[ModelId, slice]], tuple[str, ...]]:  # noqa: ARG002 - nobody looks
        """Return the model of each role that the job names, its channel taken in turn; without any, nuclei."""
        settings = self._tools().settings
        models = dict(zip(ROLES, (settings.nuclear_model, settings.cytoplasm_model, settings.phase_model), strict=True))
        roles = tuple(role for role, part in zip(ROLES, self.channel_parts(), strict=False) if part)
        if not roles:
            return [(self.job_model() or self.default_model(), slice(None))], ()
        return [(self.job_model() or models[role], slice(i, i + 1)) for i, role in enumerate(roles)], roles


def knows_blocks(consumer_type: type[ImageFileConsumer]) -> bool:
    """Return whether blocks are done as this type does an image in one piece.

    Not where it overrides a step of that way alone: a large image would be analysed without it, and nobody told.
    """
    for base in consumer_type.__mro__:
        if vars(base).keys() & IN_BLOCKS:
            return True
        if vars(base).keys() & IN_ONE_PIECE:
            return False
    return False


def is_one_piece(image: ImageHeader, most: ImageLimits, scale: float) -> bool:
    """Return whether an image, and all of its frames together as they are zoomed, are no larger than one piece."""
    frames, height, width, _ = image.sizes
    pixels = frames * height * width * scale**2
    return height <= most.height and width <= most.width and pixels <= most.height * most.width


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
