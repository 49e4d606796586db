"""Tissue, as the Kiosk's queue `mesmer` (once `multiplex`) does it: whole cells and nuclei from two stains."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, get_args

import numpy as np

from redis_consumer.arrays import Labels
from redis_consumer.consumers.channels import Choice, default_channels, named_channels
from redis_consumer.consumers.fields import check_zoom, understood
from redis_consumer.consumers.large import Recipe
from redis_consumer.consumers.segmentation import ImageFileConsumer, knows_blocks, unzoomed, zoomed
from redis_consumer.errors import JobRejected
from redis_consumer.job import ModelId, Status
from redis_consumer.processing import mesmer_postprocess, multiplex_preprocess
from redis_consumer.settings.schema import Compartment

if TYPE_CHECKING:
    from redis_consumer.arrays import Image, Result
    from redis_consumer.images import ImageHeader, OpenImage
    from redis_consumer.job import Job

STAINS = ("nuclei", "membrane or cytoplasm")
"""What the model's two channels show."""


class MesmerConsumer(ImageFileConsumer):
    """One label image for each compartment: whole cells, nuclei, or both in this order.

    Fields of the job, each with a default where it is blank: `channels` (two, `STAINS` in this order; else the
    first two), `compartment`, `scale`, `model_name` and `model_version`, `dimension_order`.
    """

    unspoken = frozenset({Status.POST_PROCESSING})
    notes_axes = True
    stack = True

    def taken(self, image: OpenImage) -> OpenImage:
        """Return the job's image; pages that nobody explains are its channels."""
        return image if self.job.get("dimension_order") else pages_as_channels(image)

    def choose(self, picture: ImageHeader) -> Choice:
        """Return the two channels that the job names by index or name, else the first two."""
        wanted = [part for part in self.channel_parts() if part]
        if wanted:
            check_stains(len(wanted), "The field 'channels' names")
            return named_channels(wanted, picture)
        choice = default_channels(picture)
        if len(choice.positions) > len(STAINS):
            return Choice(choice.positions[: len(STAINS)], "rule")
        check_stains(len(choice.positions), f"The image {picture.name!r} has")
        return choice

    def analyze(self, image: Image, job: Job) -> Result:
        """Find the compartments that the job asks for; the result has the size of `image`."""
        compartment, scale = self.compartment(), self.scale(job, image)
        check_zoom(image.size, scale, self._tools().settings.max_image_pixels)
        self.work.parameters["scale"] = scale
        shape = image.shape[1:3]
        ready = understood(multiplex_preprocess, zoomed(image, scale))
        del image  # nobody else needs it
        outputs = self.predict_with(self.job_model() or self.default_model(), ready, pad_mode="constant")
        found = understood(partial(mesmer_postprocess, compartment=compartment), outputs)
        return Labels(np.asarray(unzoomed(found, shape), found.dtype), compartments(compartment))

    def compartment(self) -> Compartment:
        """Return the compartments that the job asks for."""
        compartment = checked_compartment(self.job.get("compartment", self._tools().settings.mesmer_compartment))
        self.work.parameters["compartment"] = compartment
        return compartment

    def parts(self, image: Image) -> tuple[list[tuple[ModelId, slice]], tuple[str, ...]]:  # noqa: ARG002 - nobody looks
        """Return the one model, which takes both channels, and the compartments that are found."""
        return [(self.job_model() or self.default_model(), slice(None))], compartments(self.compartment())

    def by_blocks(self) -> bool:
        """Return whether the job can be done block by block: it has the same steps always."""
        return knows_blocks(type(self))

    def recipe(self, scale: float) -> Recipe:
        """Return what is done with a large image, besides the model."""
        compartment = self.compartment()
        finish = partial(mesmer_postprocess, compartment=compartment)
        return Recipe("multiplex_preprocess", finish, len(compartments(compartment)), scale, "constant")

    def default_model(self) -> ModelId:
        """Return the model of this type, or the setting `MESMER_MODEL`."""
        return ModelId.parse(self.model) if self.model else self._tools().settings.mesmer_model


def pages_as_channels(image: OpenImage) -> OpenImage:
    """Return an image of one channel and several frames, of which the job says nothing, as one of several channels.

    Tissue comes as one field in many stains, mostly as a page each.  Of an image that says nothing the shortest of the
    three axes is that of the channels.  Of one that says it has frames these are, where there are two: many programs
    save two stains as two slices.
    """
    frames, _, _, channels = image.sizes
    silent = image.axes_from == "rule"
    two_slices = image.axes_from == "metadata" and frames == len(STAINS)
    if channels > 1 or frames == 1 or not (silent or two_slices):
        return image
    long = sorted(image.places.values())
    shortest = min(long, key=lambda axis: image.shape[axis]) if silent else image.places["T"]
    rows, columns = (axis for axis in long if axis != shortest)
    letters = list(image.axes)
    for letter, axis in (("Y", rows), ("X", columns), ("C", shortest)):
        letters[axis] = letter
    places = {"Y": rows, "X": columns, "C": shortest}
    return replace(image, places=places, axes="".join(letters), axes_from="rule")


def checked_compartment(text: str) -> Compartment:
    """Return `text` as a compartment, in any case, its words joined by ``-``, ``_`` or a blank.

    JobRejected tells what is allowed.
    """
    allowed: tuple[Compartment, ...] = get_args(Compartment)
    spelled = re.sub("[_ ]", "-", text.lower())
    for compartment in allowed:
        if compartment == spelled:
            return compartment
    raise JobRejected(f"The field 'compartment' is {text!r}: allowed are {', '.join(allowed)}")


def compartments(compartment: Compartment) -> tuple[str, ...]:
    """Return what the features of the result are called."""
    return ("whole-cell", "nuclear") if compartment == "both" else (compartment,)


def check_stains(count: int, given: str) -> None:
    """JobRejected, beginning with `given`, where these are not two channels."""
    if count != len(STAINS):
        channels = "channel" if count == 1 else "channels"
        raise JobRejected(f"{given} {count} {channels}: expected are {len(STAINS)}, {' and '.join(STAINS)}")
