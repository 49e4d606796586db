"""From layers of text to values: which layer wins, what old names mean, and what is wrong.  Knows few variables."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis_consumer.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from redis_consumer.settings.declare import Declared

MASK = "****"
_LINK = re.compile(r"tcp://(?P<host>[^\s/:]+):(?P<port>\d+)")
_LINKED = ("REDIS", "TF")
_OTHER_CLOUD = {"aws": ("GKE_BUCKET", "GCLOUD_STORAGE_BUCKET"), "gke": ("AWS_S3_BUCKET",)}


@dataclass(frozen=True, slots=True)
class Layer:
    """Variables from one place."""

    origin: str
    variables: Mapping[str, str]

    def get(self, variable: str) -> str:
        """Return the text, stripped; empty where the variable is not set."""
        return self.variables.get(variable, "").strip()


@dataclass(frozen=True, slots=True)
class Hit:
    """The text that counts for a setting."""

    variable: str
    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class Found:
    """What the layers say; attributes that no layer sets are in none of these."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)


def find_all(declared: Mapping[str, Declared[Any]], layers: Sequence[Layer]) -> Found:
    """Read every setting from the first layer that sets it; `layers` come strongest first."""
    found = Found(problems=list(_unknown(declared, layers[0])))
    cleaned = clean(layers)
    for name, setting in declared.items():
        hit = find(name, setting, cleaned)
        if hit is None:
            continue
        try:
            found.values[name] = setting.kind.parse(hit.text)
            found.origins[name] = hit.origin
        except ValueError:
            found.problems.append(complaint(hit, setting))
            found.wrong.add(name)
    return found


def find(name: str, setting: Declared[Any], layers: Sequence[Layer]) -> Hit | None:
    """Return what the strongest layer says about one setting, under its own or an older name."""
    variable = name.upper()
    for layer in layers:
        if text := layer.get(variable):
            return Hit(variable, text, layer.origin)
        for alias, template in setting.aliases.items():
            if text := layer.get(alias):
                return Hit(alias, text if "://" in text else template.format(text), f"{layer.origin}, {alias}")
    return None


def clean(layers: Sequence[Layer]) -> list[Layer]:
    """Take out what is not meant as a setting; add, as the weakest layer, what service links tell.

    Kubernetes gives each pod ``REDIS_PORT=tcp://10.0.0.1:6379`` where a Service is called `redis`.
    """
    return [*(_meant(layer) for layer in layers), Layer("service link", _links(layers))]


def complaint(hit: Hit, setting: Declared[Any]) -> str:
    """Return the line that says what is wrong."""
    shown = MASK if setting.secret else repr(without_login(hit.text))
    return f"{hit.variable} is {shown}; allowed is {setting.kind.allowed}"


def without_login(text: str) -> str:
    """Mask what stands before an ``@`` or behind a ``?``: addresses are pasted with their passwords and signatures."""
    return re.sub(r"\?.*", f"?{MASK}", re.sub(r"[^\s/]+@", f"{MASK}@", text))


def read_env_file(path: str | Path) -> dict[str, str]:
    """Return the variables of a file of ``NAME=VALUE`` lines, quoted as in a shell, nothing expanded."""
    from dotenv.parser import parse_stream  # only commands that are given a file need it

    try:
        with Path(path).open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise SettingsError(f"The env file {str(path)!r} cannot be read: {reason}") from error
    for binding in bindings:
        if binding.error or (binding.key and binding.value is None):
            line = binding.original.line
            raise SettingsError(f"The env file {str(path)!r} is wrong in line {line}; allowed is NAME=VALUE")
    return {binding.key: binding.value or "" for binding in bindings if binding.key}


def _unknown(declared: Mapping[str, Declared[Any]], overrides: Layer) -> Iterator[str]:
    """Yield the overrides that name no setting: unlike an environment, they hold nothing of anybody else's."""
    known = {name.upper() for name in declared}
    known.update(alias for setting in declared.values() for alias in setting.aliases)
    for variable in overrides.variables:
        if variable not in known:
            near = get_close_matches(variable.upper(), sorted(known), n=1)
            hint = f"; did you mean {near[0]}?" if near else "; `redis-consumer settings` lists them"
            yield f"{variable} is no setting{hint}"


def _meant(layer: Layer) -> Layer:
    """Drop service links, and the bucket of the cloud that CLOUD_PROVIDER does not name."""
    dropped = set(_OTHER_CLOUD.get(layer.get("CLOUD_PROVIDER").lower(), ()))
    dropped.update(f"{prefix}_PORT" for prefix in (*_LINKED, "HEALTH") if _is_link(layer, prefix))
    return Layer(layer.origin, {name: text for name, text in layer.variables.items() if name not in dropped})


def _is_link(layer: Layer, prefix: str) -> bool:
    return bool(_LINK.fullmatch(layer.get(f"{prefix}_PORT")))


def _links(layers: Sequence[Layer]) -> dict[str, str]:
    told: dict[str, str] = {}
    for prefix in _LINKED:
        for layer in layers:
            if link := _LINK.fullmatch(layer.get(f"{prefix}_PORT")):
                told.setdefault(f"{prefix}_HOST", link["host"])
                told.setdefault(f"{prefix}_PORT", link["port"])
    return told
