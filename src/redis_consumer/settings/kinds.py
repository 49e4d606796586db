"""What variables may hold: numbers as Helm writes them, words, models, buckets.  Knows no variable by name."""

from __future__ import annotations

import ipaddress
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from redis_consumer.job import ModelId
from redis_consumer.settings.declare import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

Word = TypeVar("Word", bound=str)
Number = TypeVar("Number", int, float)

_TRUE = frozenset({"true", "1", "yes", "on", "y", "t"})
_FALSE = frozenset({"false", "0", "no", "off", "n", "f"})
_CLOUDS = ("s3", "gs", "az")
_PLACEHOLDERS = frozenset({"specify_me", "na"})


def text() -> Kind[str]:
    """Accept any text."""
    return Kind(str, "any text")


def integer(minimum: int | None = None, maximum: int | None = None) -> Kind[int]:
    """Accept a whole number, also as `1e+06` or `32.0`: Helm's templates print some so."""
    return Kind(_between(_whole, minimum, maximum), f"a whole number{_range(minimum, maximum)}")


def number(minimum: float | None = None, maximum: float | None = None) -> Kind[float]:
    """Accept a finite number."""
    return Kind(_between(_finite, minimum, maximum), f"a number{_range(minimum, maximum)}", "{:g}".format)


def positive() -> Kind[float]:
    """Accept a finite number above 0."""
    return Kind(_between(_finite, math.ulp(0.0), None), "a number above 0", "{:g}".format)


def boolean() -> Kind[bool]:
    """Accept true or false in any of the usual spellings and any case."""
    return Kind(_truth, "true or false (1/0, yes/no, on/off, y/n, t/f)", lambda value: str(value).lower())


def choice(*words: Word) -> Kind[Word]:
    """Accept one of the words, in any case."""

    def parse(given: str) -> Word:
        return next((word for word in words if word == given.lower()), None) or _refuse()

    return Kind(parse, " or ".join(words))


def words(*allowed: Word) -> Kind[tuple[Word, ...]]:
    """Accept any of the words, in any case and order, joined by commas; kept is the order of `allowed`."""

    def parse(given: str) -> tuple[Word, ...]:
        wanted = {part.strip().lower() for part in given.split(",")} - {""}
        return tuple(word for word in allowed if word in wanted) if wanted <= set(allowed) else _refuse()

    return Kind(parse, f"any of {', '.join(allowed)}, joined by commas", ",".join)


def log_level() -> Kind[str]:
    """Accept a level of the standard library's `logging`, in any case."""
    levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

    def parse(given: str) -> str:
        return given.upper() if given.upper() in levels else _refuse()

    return Kind(parse, ", ".join(levels))


def model() -> Kind[ModelId]:
    """Accept a model on the model server."""
    return Kind(ModelId.parse, "a model as Name:version, or Name alone for its latest version")


def model_or_none() -> Kind[ModelId | None]:
    """Accept a model on the model server, or the word `none`."""

    def parse(given: str) -> ModelId | None:
        return None if given.lower() == "none" else ModelId.parse(given)

    return Kind(parse, f"{model().allowed}; or none", lambda value: str(value or "none"))


def file() -> Kind[Path | None]:
    """Accept the path of a file that exists."""
    return Kind(_existing_file, "the path of a file that exists", lambda path: "" if path is None else str(path))


def cloud_text(otherwise: str = "") -> Kind[str]:
    """Accept any text; the Kiosk's place-holders `NA` and `specify_me` stand for `otherwise`."""
    return Kind(lambda given: otherwise if given.lower() in _PLACEHOLDERS else given, "any text")


def http_url() -> Kind[str]:
    """Accept the address of an HTTP server."""

    def parse(given: str) -> str:
        # It stands in the address of every result: a login in it would be everybody's.
        return given.rstrip("/") if re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", given) else _refuse()

    return Kind(parse, "an address that starts with http:// or https://, without a login")


def queue_name() -> Kind[str]:
    """Accept the name of a queue; it is lower-cased, as the Kiosk's janitor does.

    No ``|``, here and in the name of a pod: it ends the name of a processing list where the sweep notes its entries.
    """

    def parse(given: str) -> str:
        name = given.lower()
        return name if re.fullmatch(r"(?!processing-)[^\s:|]+", name) else _refuse()

    return Kind(parse, "a name without ':', vertical bars and spaces that does not start with 'processing-'")


def pod_name() -> Kind[str]:
    """Accept the name of a machine or pod; it ends the name of a processing list, after the last ``:``."""

    def parse(given: str) -> str:
        return given if re.fullmatch(r"[^\s:|]+", given) else _refuse()

    return Kind(parse, "a name without ':', vertical bars and spaces")


def server_name() -> Kind[str]:
    """Accept the name or IP address of a server, without a port."""

    def parse(given: str) -> str:
        return given if re.fullmatch(r"[^\s:/]+", given) else str(ipaddress.IPv6Address(given.strip("[]")))

    return Kind(parse, "a host name or an IP address, without a port")


def bucket() -> Kind[str]:
    """Accept an URL of a bucket, or a path that looks like one: `my-bucket` alone would be a folder here."""
    clouds = ", ".join(f"{scheme}://bucket" for scheme in _CLOUDS)
    return Kind(_bucket, f"{clouds}, file:///path, memory:// or a path that starts with '/', '.' or '~'")


def _bucket(given: str) -> str:
    if given.startswith(("/", ".", "~")):
        return given
    scheme, mark, rest = given.partition("://")
    scheme = scheme.lower()
    if mark and (scheme == "memory" or (scheme == "file" and rest.startswith("/"))):
        return f"{scheme}://{rest}"
    # Bucket names have no capitals in any cloud; the Kiosk's secrets often do.
    name = rest.rstrip("/").lower()
    return f"{scheme}://{name}" if scheme in _CLOUDS and re.fullmatch(r"[a-z0-9][a-z0-9._-]+", name) else _refuse()


def _whole(given: str) -> int:
    if re.fullmatch(r"[+-]?\d+", given):
        return int(given)
    value = float(given)
    return int(value) if value.is_integer() else _refuse()


def _finite(given: str) -> float:
    value = float(given)
    return value if math.isfinite(value) else _refuse()


def _truth(given: str) -> bool:
    lowered = given.lower()
    return lowered in _TRUE if lowered in _TRUE | _FALSE else _refuse()


def _existing_file(given: str) -> Path:
    path = Path(given).expanduser()
    return path if path.is_file() else _refuse()


def _between(parse: Callable[[str], Number], minimum: Number | None, maximum: Number | None) -> Callable[[str], Number]:
    def checked(given: str) -> Number:
        value = parse(given)
        low = minimum is not None and value < minimum
        high = maximum is not None and value > maximum
        return _refuse() if low or high else value

    return checked


def _range(minimum: float | None, maximum: float | None) -> str:
    low = "" if minimum is None else f" from {minimum:g}"
    return low if maximum is None else f"{low} to {maximum:g}"


def _refuse() -> NoReturn:
    raise ValueError("not allowed")
