"""The one flow of an image job: load, analyse, deliver.

`ImageConsumer` is the rung for people's own analyses: array in, result out.  `consumer` makes one from a function.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Protocol

from redis_consumer.arrays import Labels, Spots
from redis_consumer.consumers.account import Account
from redis_consumer.consumers.base import TensorFlowServingConsumer
from redis_consumer.consumers.channels import Choice, default_channels, named_channels
from redis_consumer.consumers.predict import Predictor
from redis_consumer.consumers.work import Work, described, dim_order, image_limits
from redis_consumer.images.pixel_size import pixel_size_um
from redis_consumer.job import ModelId, Status
from redis_consumer.results import label_files, map_files, save_spots, writing
from redis_consumer.results.extras import FILES, PROVENANCE, Seen, write_extras
from redis_consumer.scikit import load_filters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from redis_consumer.archives import Made
    from redis_consumer.arrays import AnyArray, Image, Result
    from redis_consumer.images import ImageFile, ImageHeader, ImageLimits, OpenImage
    from redis_consumer.job import Job
    from redis_consumer.processing.tiling import PadMode
    from redis_consumer.results.tables import BlockedImage
    from redis_consumer.settings.schema import ExtraOutput


class Predict(Protocol):
    """Ask the model server: the analysis' default model, or another one."""

    def __call__(self, image: Image, model: str | ModelId | None = None) -> list[AnyArray]:
        """Return the outputs of the model, sorted by name, each of shape (T, Y, X, C) and the image's size."""


class ImageConsumer(TensorFlowServingConsumer):
    """An analysis of one image.  Override `analyze`; loading, reporting, zipping and uploading are done."""

    model: ClassVar[str] = ""
    """Default model as ``Name:version``; blank for the setting `NUCLEAR_MODEL`."""
    unspoken: ClassVar[frozenset[Status]] = frozenset()
    """Stages that the readers of this queue have no word for."""
    notes_axes: ClassVar[bool] = False
    """Whether the readers of this queue want the field `dim_order`."""
    file_name: ClassVar[str] = "{name}_feature_{feature}.tif"
    """Name of each file in the result archive."""
    stack: ClassVar[bool] = False
    """Whether a single frame is saved as a stack of one."""

    work: Work
    _account: Account

    def analyze(self, image: Image, job: Job) -> Result:
        """Return label images or spots of `image`, float32 (T, Y, X, C); or any array of the same axes, saved as it is.

        `self.predict` asks the model server.  JobRejected says that the input is at fault.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override analyze (job {job.key}, {image.shape})")

    def predict(self, image: Image, model: str | ModelId | None = None) -> list[AnyArray]:  # type: ignore[override] # the old name takes name and version
        """Return the outputs of a model, sorted by name, each of shape (T, Y, X, C) and the image's size."""
        chosen = ModelId.parse(model) if isinstance(model, str) else model
        return self.predict_with(chosen or self.default_model(), image)

    def _consume(self, redis_hash: str) -> str:  # noqa: ARG002 - the old contract's parameter
        tools = self._tools()
        with Work(self.job, tools.jobs, self.storage, unspoken=self.unspoken) as self.work:
            self._account = Account(tools)
            with self.work.open(self.limits(), by_ranges=self.by_ranges()) as image:
                return self.process(self.taken(image))

    def limits(self) -> ImageLimits:
        """Return how large an image may be."""
        return image_limits(self._tools().settings)

    def by_ranges(self) -> bool:
        """Return whether the image is read by ranges where it is large; the extra outputs need all of the file."""
        return not self._tools().settings.extra_outputs

    def taken(self, image: OpenImage) -> OpenImage:
        """Return the job's image as this type takes it."""
        return image

    def process(self, image: OpenImage) -> str:
        """Analyse the image in one piece, and deliver; return the status."""
        picture = image.read()
        self.work.close()
        self.prepare(picture)
        pixels = [self.channels(picture)]
        # Only the extras look at the whole image again: else what is not analysed need not be kept meanwhile.
        kept = picture if self._tools().settings.extra_outputs else None
        del picture
        result = self.analyze(pixels.pop(), self.job)  # which may let go of them: nobody else has them
        self.work.enter(Status.SAVING_RESULTS)
        return self.work.deliver(self._save(result), self.extras(kept, result) if kept else {})

    def prepare(self, picture: ImageHeader) -> None:
        """Tell the job's readers that the image is there, and what it was taken for."""
        self.work.enter(Status.PRE_PROCESSING, described(picture))
        if self.notes_axes:
            self.work.note(dim_order=dim_order(picture))
        load_filters()

    def channels(self, picture: ImageFile) -> Image:
        """Return the channels to analyse, and note which in the job."""
        return picture.channels(self.chosen_channels(picture).indexes)

    def chosen_channels(self, picture: ImageHeader) -> Choice:
        """Choose the channels to analyse, and note which in the job."""
        choice = self.choose(picture)
        self.work.note(**choice.fields(picture.channel_names))
        self.work.parameters["channels"] = self.chosen(choice)
        return choice

    def choose(self, picture: ImageHeader) -> Choice:
        """Return the channels that the job names by index or name, else all of them.

        A grey picture that is saved in colour has one.  A colour picture is refused where nobody said which
        channel to take: its channels are no stains.
        """
        wanted = [part for part in self.channel_parts() if part]
        return named_channels(wanted, picture) if wanted else default_channels(picture)

    def chosen(self, choice: Choice) -> object:
        """Return what the provenance tells about the channels."""
        return choice.indexes

    def channel_parts(self) -> list[str]:
        """Return the field `channels`, cut at its commas."""
        return [part.strip() for part in self.job.get("channels").split(",")]

    def predict_with(
        self, model: ModelId, image: Image, *, cuts: int = 0, field_size: int = 61, pad_mode: PadMode = "reflect"
    ) -> list[AnyArray]:
        """Return the outputs of a model; `cuts`, `field_size`, `pad_mode` as in `redis_consumer.consumers.predict`."""
        held = [image]
        del image  # nobody but the predictor has it, if the caller does not
        with self._predicting(model) as predictor:
            return predictor.predict(model, held.pop(), cuts=cuts, field_size=field_size, pad_mode=pad_mode)

    def predict_whole(self, model: ModelId, image: Image) -> list[AnyArray]:
        """Return the outputs of a model for whole frames, of any shape (T, ...)."""
        with self._predicting(model) as predictor:
            return predictor.whole(model, image)

    @contextmanager
    def _predicting(self, model: ModelId) -> Iterator[Predictor]:
        """Give who asks the model server; what readers see of it is written around it."""
        self.work.enter(Status.PREDICTING)
        with self._account.watching(model):
            yield replace(self.predictor(), on_progress=self.work.progress)
        self.work.note(predict_retries=len(self._tools().retries))
        self.work.enter(Status.POST_PROCESSING)

    def predictor(self) -> Predictor:
        """Return who asks the model server, as the settings have it."""
        tools = self._tools()
        settings = tools.settings
        return Predictor(tools.models, settings.tf_max_batch_size, settings.tf_min_model_size, tools.limits)

    def extras(self, picture: ImageFile, result: object) -> dict[ExtraOutput, Path]:
        """Write what `EXTRA_OUTPUTS` asks for and this result has; return the file, or folder, of each.

        `result` is of any type; which has what stands in `redis_consumer.results.extras`.
        """
        return self.write_extras(picture, picture.pixels, result) if self._tools().settings.extra_outputs else {}

    def write_extras(
        self, picture: ImageHeader, pixels: Image | BlockedImage, result: object
    ) -> dict[ExtraOutput, Path]:
        """Do what `extras` does, for pixels that need not be in memory."""
        wanted, folder = self._tools().settings.extra_outputs, self.work.folder / "extras"
        frame_axis = "z" if "Z" in picture.axes else "t"
        seen = Seen(pixels, frame_axis, pixel_size_um(self.work.input) if self.work.input else None)
        written = write_extras(result, seen, wanted, folder)
        if PROVENANCE in wanted:
            text = self._account.told(self, self.work, picture, seen, result).to_json()
            with writing(folder, FILES[PROVENANCE]) as path:
                path.write_text(text, encoding="utf-8")
            written[PROVENANCE] = path
        return written

    def job_model(self) -> ModelId | None:
        """Return the model that the job names, if it names one."""
        name = self.job.get("model_name")
        return self.model_id(name, self.job.get("model_version")) if name else None

    def default_model(self) -> ModelId:
        """Return the model of this type, or the setting `NUCLEAR_MODEL`."""
        return ModelId.parse(self.model) if self.model else self._tools().settings.nuclear_model

    def _save(self, result: Result) -> Sequence[tuple[str | Made, str]]:
        if isinstance(result, Spots):
            return save_spots(result, self.work.name, self.work.folder / "output")
        # Not written to the disk before they are zipped: that took as long as zipping them.
        if isinstance(result, Labels):
            return label_files(result, self.work.name, pattern=self.file_name, stack=self.stack)
        return map_files(result, self.work.name, pattern=self.file_name, stack=self.stack)


def consumer(name: str, *, model: str = "") -> Callable[[Analysis], type[ImageConsumer]]:
    """Make a consumer type of a function ``(image, job, predict) -> Labels``.

    `name` is what logs call it; `model` its default model as ``Name:version``.  Use it by dotted path
    (``CONSUMER_TYPE=my_package.my_module:my_function``) or by an entry point.
    """

    def make(analysis: Analysis) -> type[ImageConsumer]:
        def analyze(self: ImageConsumer, image: Image, job: Job) -> Result:
            return analysis(image, job, self.predict)

        body = {"__doc__": analysis.__doc__, "__module__": analysis.__module__, "model": model, "analyze": analyze}
        return type(name, (ImageConsumer,), body)

    return make


class Analysis(Protocol):
    """An image analysis as a function."""

    def __call__(self, image: Image, job: Job, predict: Predict) -> Result:
        """Return the result for `image`, float32 (T, Y, X, C)."""
