"""Names of objects: which keys are taken, which URLs are ours, where an object is found by a reader.

Pure text; knows no client library and sends nothing.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote, urlsplit

from redis_consumer.errors import JobRejected, SettingsError

KEY_BYTES = 1024
"""S3, GCS and Azure take no longer key."""
SEGMENT_BYTES = 255
"""A file name on Linux is no longer, and each segment becomes one at download."""

UNWANTED = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories that no name may have: control characters, lone surrogates, line and paragraph ends."""


class Cloud(StrEnum):
    """Who keeps the bucket; the value is the scheme of `STORAGE_BUCKET`."""

    S3 = "s3"
    GCS = "gs"
    AZURE = "az"
    FILE = "file"
    MEMORY = "memory"


def check_key(key: str) -> str:
    """Return `key` if it is a plain relative path, else JobRejected.

    Refused are empty keys and segments, ``.`` and ``..``, a leading or trailing ``/``, control characters,
    backslashes, and what is too long for the store or for a file name.
    """
    fault = _fault(key)
    if fault:
        raise JobRejected(f"The object name {key[:100]!r} is not allowed: {fault}")
    return key


def _fault(key: str) -> str:
    segments = key.split("/")
    tests = {
        "it is empty": not key.strip(),
        "it starts with '/'": key.startswith("/"),
        "it has a segment '.' or '..'": bool({".", ".."} & set(segments)),
        "it has an empty segment": "" in segments,
        "it has a control character or a backslash": "\\" in key or has_unwanted(key),
        f"it is longer than {KEY_BYTES} bytes": _size(key) > KEY_BYTES,
        f"one segment is longer than {SEGMENT_BYTES} bytes": max(map(_size, segments)) > SEGMENT_BYTES,
    }
    return next((fault for fault, found in tests.items() if found), "")


def has_unwanted(text: str) -> bool:
    """Return whether a letter is in one of the categories that no name may have."""
    return not text.isprintable() and any(unicodedata.category(letter) in UNWANTED for letter in text)


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))


def local_name(key: str) -> str:
    """Return the relative path of a download: the key without its first segment, if it has more than one."""
    return key.partition("/")[2] or key


def output_key(name: str, subdir: str | None) -> str:
    """Return ``output/[<subdir>/]<name>``; one leading ``/`` of `subdir` is dropped, as the Kiosk always did."""
    folder = (subdir or "").removeprefix("/").rstrip("/")
    return check_key("/".join(part for part in ("output", folder, name) if part))


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket, as `STORAGE_BUCKET` names it."""

    cloud: Cloud
    name: str
    """Bucket or container; the absolute folder for files; empty for memory."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``s3://name``, ``gs://name``, ``az://container``, ``file:///folder``, ``memory://`` or a bare path."""
        scheme, mark, rest = text.strip().partition("://")
        if not mark:
            scheme, rest = "file", text.strip()
        if scheme.lower() not in set(Cloud) or not (rest or scheme.lower() == Cloud.MEMORY):
            raise SettingsError(_allowed(text))
        cloud = Cloud(scheme.lower())
        if cloud is Cloud.FILE:
            return cls(cloud, str(Path(unquote(rest) if mark else rest).expanduser().absolute()))
        if cloud is Cloud.MEMORY:
            return cls(cloud, "")
        name = rest.rstrip("/").lower()  # bucket names have no capitals; the Kiosk's settings often do
        if not re.fullmatch(r"[a-z0-9][a-z0-9._\-]+", name):
            raise SettingsError(_allowed(text))
        return cls(cloud, name)

    def __str__(self) -> str:
        return f"{self.cloud}://{self.name}"


def _allowed(text: str) -> str:
    return (
        f"STORAGE_BUCKET is {text!r}: allowed are s3://name, gs://name, az://container, file:///folder, "
        "memory:// and the path of a folder"
    )


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # brackets without an IPv6 address
        return ""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Keys to URLs and back, for one bucket."""

    bucket: Bucket
    endpoint: str = ""
    """Base address in place of the cloud's own, without the bucket; for Azure with the account."""
    region: str = ""

    def url(self, key: str) -> str:
        """Return the address under which readers find `key`."""
        return f"{self._base()}/{quote(key, safe='/~')}"

    def key(self, text: str) -> str:
        """Return `text` if it is a key, the decoded key if it is an URL of this bucket; else JobRejected."""
        if "://" not in text:
            return check_key(text)
        for pattern in self._patterns():
            match = re.match(pattern, text)
            if match:
                return check_key(unquote(text[match.end() :].partition("?")[0]))
        # The path of a folder is nobody's business.
        ours = f" {str(self.bucket)!r}" if self.bucket.cloud is not Cloud.FILE else ""
        raise JobRejected(f"The address at {_host(text)[:100]!r} is not one of the bucket{ours}")

    def _base(self) -> str:
        name = self.bucket.name
        match self.bucket.cloud:
            case Cloud.FILE:
                return Path(name).as_uri()
            case Cloud.MEMORY:
                return "memory://"
            case Cloud.GCS:
                return f"{self.endpoint or 'https://storage.googleapis.com'}/{name}"
            case Cloud.AZURE:
                return f"{self.endpoint}/{name}"
            case Cloud.S3:
                # The path style of the global address reaches us-east-1 only.
                dot_region = f".{self.region}" if self.region not in ("", "us-east-1") else ""
                return f"{self.endpoint or f'https://s3{dot_region}.amazonaws.com'}/{name}"

    def _patterns(self) -> list[str]:
        """Return what may stand before the key in an URL of this bucket: ours, and the cloud's other spellings."""
        name = re.escape(self.bucket.name)
        own = [re.escape(f"{self._base()}/"), re.escape(f"{self.bucket}/")]
        match self.bucket.cloud:
            case Cloud.S3:
                host = r"s3(?:[.-][a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?"
                return [*own, rf"https?://{host}/{name}/", rf"https?://{name}\.{host}/"]
            case Cloud.GCS:
                hosts = r"storage\.(?:googleapis|cloud\.google)\.com"
                return [*own, rf"https?://{hosts}/{name}/", rf"https?://{name}\.storage\.googleapis\.com/"]
            case _:
                return own
