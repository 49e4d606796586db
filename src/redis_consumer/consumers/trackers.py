"""Which tracker goes with a tracking model: the model's own inputs say it.  Knows no jobs and no files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from redis_consumer.errors import InvalidModelInput
from redis_consumer.models.batching import predict_together
from redis_consumer.tracking import (
    COMPARER_INPUTS,
    PAIR_INPUTS,
    Crops,
    PairRules,
    Rules,
    Sides,
    track,
    track_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Tracks
    from redis_consumer.consumers.base import Tools
    from redis_consumer.job import ModelId
    from redis_consumer.models.base import TensorSpec
    from redis_consumer.settings import Settings

    Floats = npt.NDArray[np.float32]
    Movie = npt.NDArray[np.integer]

EMBEDDINGS = 1
"""Which of the encoder's outputs, sorted by name; of one that has a single output it is that."""
NUMBERED_INPUTS = tuple(f"input{number}" for number in range(len(PAIR_INPUTS)))
"""What the inputs of pairwise models were called at first, in the same order."""

LINKING = ("max_distance", "track_length", "birth", "death", "division")
"""Settings whose defaults have changed since."""


class Tracker(Protocol):
    """Label images and their movie in, tracks out."""

    @property
    def models(self) -> tuple[ModelId, ...]:
        """All that it asks."""

    @property
    def parameters(self) -> dict[str, object]:
        """What it was made with, by the names of settings where there are such."""

    def __call__(self, movie: AnyArray, labels: Movie, progress: Callable[[float], object]) -> Tracks:
        """Return the tracks of `labels`, (T, Y, X), of a movie (T, Y, X, C); errors as `track` and the models."""


def tracker_by(tools: Tools, model: ModelId) -> Tracker:
    """Return the tracker that goes with a model, as the settings have it.

    InvalidModelInput where it is no tracking model, or one that needs an encoder and `NEIGHBORHOOD_ENCODER` is `none`.
    """
    inputs = {spec.name: spec for spec in tools.models.describe(model)}
    if set(inputs) == set(COMPARER_INPUTS):
        encoder = tools.settings.neighborhood_encoder
        if encoder is None:
            raise InvalidModelInput(f"Model {model} compares what an encoder says, and NEIGHBORHOOD_ENCODER is none")
        return ByEmbeddings(tools, encoder, model)
    for names in (PAIR_INPUTS, NUMBERED_INPUTS):
        if set(inputs) == set(names):
            specs = [inputs[name] for name in names]
            return ByPairs(tools, model, names, pair_rules(tools.settings, specs))
    raise InvalidModelInput(
        f"Model {model} is no tracking model: its inputs are {', '.join(inputs)}; expected are "
        f"{', '.join(COMPARER_INPUTS)}, or {', '.join(PAIR_INPUTS)}, or input0 to input{len(PAIR_INPUTS) - 1}"
    )


@dataclass(frozen=True)
class ByEmbeddings:
    """By the Kiosk's two models."""

    tools: Tools
    encoder: ModelId
    comparer: ModelId

    @property
    def models(self) -> tuple[ModelId, ...]:
        """The encoder, and the one that compares."""
        return self.encoder, self.comparer

    @property
    def rules(self) -> Rules:
        """As the settings have them."""
        settings = self.tools.settings
        return Rules(
            max_distance=settings.max_distance,
            track_length=settings.track_length,
            birth=settings.birth,
            death=settings.death,
            division=settings.division,
            crops=Crops(settings.appearance_dim, settings.crop_mode, settings.caliban_norm),
        )

    @property
    def parameters(self) -> dict[str, object]:
        """All of them are settings, which stand beside."""
        return {}

    def __call__(self, movie: AnyArray, labels: Movie, progress: Callable[[float], object]) -> Tracks:
        """See `track`."""
        encode, compare = Asked(self.tools, self.encoder, output=EMBEDDINGS), Asked(self.tools, self.comparer)
        return track(movie, labels, encode, compare, self.rules, progress)


@dataclass(frozen=True)
class ByPairs:
    """By a pairwise model of the Kiosk's first years."""

    tools: Tools
    model: ModelId
    names: Sequence[str]
    """Of its inputs, in the order of `PAIR_INPUTS`."""
    rules: PairRules

    @property
    def models(self) -> tuple[ModelId, ...]:
        """The one."""
        return (self.model,)

    @property
    def parameters(self) -> dict[str, object]:
        """All rules: their defaults are not those of the settings."""
        return asdict(self.rules)

    def __call__(self, movie: AnyArray, labels: Movie, progress: Callable[[float], object]) -> Tracks:
        """See `track_pairs`."""
        names = dict(zip(PAIR_INPUTS, self.names, strict=True))
        return track_pairs(movie, labels, Asked(self.tools, self.model, names), self.rules, progress)


def pair_rules(settings: Settings, inputs: Sequence[TensorSpec]) -> PairRules:
    """Return the rules for a pairwise model with these inputs, in the order of `PAIR_INPUTS`.

    Sizes that it fixes are the model's.  What nobody set has the default of these years, not that of today's models.
    """
    given = {name: getattr(settings, name) for name in LINKING if name in settings.origins}
    rules = PairRules(**given, normalized=settings.normalize_tracking)
    looks, around = (inputs[PAIR_INPUTS.index(f"{feature}_input1")] for feature in ("appearance", "neighborhood"))
    sides = Sides(_size(looks, 2) or rules.sides.appearance, _size(around, 2) or rules.sides.neighborhood)
    return replace(rules, track_length=_size(looks, 1) or rules.track_length, sides=sides)


def _size(spec: TensorSpec, axis: int) -> int | None:
    """Return the size of an axis, None for a free one."""
    return spec.shape[axis] if spec.shape and len(spec.shape) > axis else None


@dataclass(frozen=True)
class Asked:
    """A model on the server as a function: named arrays in, one array out, in as many requests as it needs."""

    tools: Tools
    model: ModelId
    names: Mapping[str, str] = field(default_factory=dict)
    """Of its inputs, where it calls them otherwise."""
    output: int = 0
    """Which one, of all sorted by name; or the last, if there are not so many."""

    def __call__(self, inputs: Mapping[str, Floats]) -> Floats:
        """Return the output for `inputs`, which belong together along their first axis."""
        made = predict_together(
            self.tools.models,
            self.model,
            {self.names.get(name, name): array for name, array in inputs.items()},
            batch_size=self.tools.settings.tf_max_batch_size,
            limits=self.tools.limits,
        )
        outputs = list(made.values())
        return np.asarray(outputs[min(self.output, len(outputs) - 1)], np.float32)
