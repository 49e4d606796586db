"""`settings.<NAME>`, as old consumers read it: a module of values.  Nothing is read before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis_consumer.errors import SettingsError
from redis_consumer.job import ModelId
from redis_consumer.settings import kinds
from redis_consumer.settings.declare import declarations
from redis_consumer.settings.schema import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis_consumer.settings.declare import Kind

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Retired:
    """A variable that is accepted and changes nothing any more."""

    default: Value
    """What `settings.<NAME>` gives where the environment says nothing, and of which type."""
    reason: str
    """What took its place."""


RETIRED: Mapping[str, Retired] = {
    "EMPTY_QUEUE_TIMEOUT": Retired(5, "an idle worker hears of a job at once"),
    "INTERVAL": Retired(10, "a job that waits for its children is woken by the last one"),
    "DO_NOTHING_TIMEOUT": Retired(0.5, "a job that waits for its children holds no lane"),
    "CLOUD_PROVIDER": Retired("gke", "only says which of `GKE_BUCKET` and `AWS_S3_BUCKET` counts"),
    "GKE_COMPUTE_ZONE": Retired("us-west1-b", "never was read"),
    "DEBUG": Retired(False, "`LOG_LEVEL=DEBUG`"),
    "HASH_PREFIX": Retired("predict", "jobs are found by their queue"),
    "TF_TENSOR_NAME": Retired("image", "the model's signature says it"),
    "TF_TENSOR_DTYPE": Retired("DT_FLOAT", "the model's signature says it"),
    "DP_HOST": Retired("data-processing", "the worker processes images itself"),
    "DP_PORT": Retired(8080, "the worker processes images itself"),
    "NUCLEAR_POSTPROCESS": Retired("retinanet", "the job's field `postprocess_function`"),
    "PHASE_POSTPROCESS": Retired("retinanet-semantic", "the job's field `postprocess_function`"),
    "CYTOPLASM_POSTPROCESS": Retired("retinanet-semantic", "the job's field `postprocess_function`"),
    "CUTS": Retired(0, "the job's field `cuts`"),
    "SCALE_DETECT_SAMPLE": Retired(3, "every frame is looked at, of a large image the first"),
    "SCALE_RESHAPE_SIZE": Retired(216, "the model's signature says it"),
    "LABEL_DETECT_SAMPLE": Retired(3, "every frame is looked at, of a large image the first"),
    "LABEL_RESHAPE_SIZE": Retired(216, "the model's signature says it"),
    "DRIFT_CORRECT_ENABLED": Retired(False, "no consumer corrects drift"),
    "NEIGHBORHOOD_SCALE_SIZE": Retired(30, "the model's signature says it"),
    "TRACKING_SEGMENT_MODEL": Retired("panoptic:3", "frames are jobs of `SEGMENTATION_QUEUE`"),
    "TRACKING_POSTPROCESS_FUNCTION": Retired("retinanet", "frames are jobs of `SEGMENTATION_QUEUE`"),
}


_KINDS: Mapping[type, Kind[Any]] = {
    bool: kinds.boolean(),
    int: kinds.integer(),
    float: kinds.number(),
    str: kinds.text(),
}


def old_value(name: str, environ: Mapping[str, str]) -> Value:
    """Return a setting as the old module gave it: models as ``Name:version``, paths as text.

    Any other variable of the environment, such as a custom consumer's own model, is given as its text.
    AttributeError if there is no such thing; SettingsError if a setting is wrong.
    """
    text = environ.get(name, "").strip()
    attribute = _attribute_of(name)
    if name in RETIRED:
        return _retired(name, text)
    if attribute and (attribute.upper() == name or not text):
        return _plain(getattr(Settings.from_environ(environ), attribute))
    if text:
        return text
    raise AttributeError(
        f"redis_consumer.settings has no {name!r}: it is no setting, and no variable of the environment"
    )


def _attribute_of(variable: str) -> str | None:
    """Return the attribute behind a variable or an older name of it that is written alike."""
    for attribute, declared in declarations(Settings).items():
        if variable == attribute.upper() or declared.aliases.get(variable) == "{}":
            return attribute
    return None


def _retired(name: str, text: str) -> Value:
    kind = _KINDS[type(RETIRED[name].default)]
    try:
        value: Value = kind.parse(text) if text else RETIRED[name].default
    except ValueError:
        raise SettingsError(f"{name} is {text!r}; allowed is {kind.allowed}") from None
    return value


def _plain(value: Any) -> Value:
    if value is None:
        return ""
    plain: Value = str(value) if isinstance(value, ModelId | Path) else value
    return plain
