from __future__ import annotations

import hashlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from redis_consumer.consumers import ImageConsumer
from redis_consumer.job import Job
from redis_consumer.results.provenance import deciding_settings, digest, fields_of, software
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_settings_are_those_of_the_consumer_type_as_one_writes_them() -> None:
    environ = {"NUCLEAR_MODEL": "Mine:3", "REDIS_PASSWORD": "hush", "CONSUMER_TYPE": "segmentation"}
    told = deciding_settings(Settings.from_environ(environ))
    assert told["NUCLEAR_MODEL"] == "Mine:3"
    assert "POLARIS_MODEL" not in told
    assert "hush" not in str(told)
    again = Settings.from_environ({**told, "CONSUMER_TYPE": "segmentation"})
    assert deciding_settings(again) == told


def test_a_consumer_of_ones_own_may_read_any_of_them() -> None:
    told = deciding_settings(Settings.from_environ({"CONSUMER_TYPE": "mine:Mine"}))
    assert told.keys() >= {"NUCLEAR_MODEL", "POLARIS_MODEL", "MAX_DISTANCE"}
    assert not told.keys() & {"REDIS_HOST", "STORAGE_BUCKET", "TF_HOST", "AWS_SECRET_ACCESS_KEY"}


def test_fields_are_those_that_say_something_without_secrets() -> None:
    fields = {"label": " ", "scale": "2", "url": "https://me:hush@host/a.tif?signature=hush"}
    assert fields_of(Job("q:a:1", "q", fields)) == {"scale": "2", "url": "https://host/a.tif"}


@pytest.mark.parametrize("content", [b"", b"image" * 100_000])
def test_the_digest_is_that_of_the_whole_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_the_package_of_a_consumer_of_ones_own_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("lab_analysis")
    monkeypatch.setitem(sys.modules, "lab_analysis", package)
    mine = type("Mine", (ImageConsumer,), {"__module__": "lab_analysis.nuclei"})
    assert "lab_analysis" not in software(mine), "it has none"
    monkeypatch.setattr(package, "__version__", "1.2", raising=False)
    assert software(mine) == {**software(ImageConsumer), "lab_analysis": "1.2"}
