"""`from redis_consumer import settings` and then `settings.<NAME>`: what consumers of the original program do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from redis_consumer import settings
from redis_consumer.errors import SettingsError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TF_HOST", "TF_PORT", "NUCLEAR_MODEL", "TRACKING_MODEL", "CALIBAN_MODEL", "MULTIPLEX_MODEL", "CUTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TF_HOST", "tf-serving"),
        ("TF_PORT", 8500),
        ("TF_MAX_BATCH_SIZE", 64),
        ("GRPC_TIMEOUT", 30),
        ("SCALE_DETECT_ENABLED", False),
        ("POLARIS_THRESHOLD", 0.95),
        ("NUCLEAR_MODEL", "NuclearSegmentation:6"),
        ("TRACKING_MODEL", "NuclearTrackingInf:6"),
        ("MULTIPLEX_MODEL", "MultiplexSegmentation:9"),
        ("EMPTY_QUEUE_TIMEOUT", 5),
        ("DO_NOTHING_TIMEOUT", 0.5),
        ("TF_TENSOR_NAME", "image"),
        ("REDIS_CA_CERTS", ""),
    ],
)
def test_a_name_has_its_old_value_and_type(name: str, value: object) -> None:
    found = getattr(settings, name)
    assert found == value
    assert type(found) is type(value)


def test_the_environment_is_read_when_the_name_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUCLEAR_MODEL", "Mine:75")
    assert settings.NUCLEAR_MODEL == "Mine:75"
    model, version = settings.NUCLEAR_MODEL.split(":")
    assert (model, version) == ("Mine", "75")
    monkeypatch.setenv("TF_PORT", "9000")
    assert settings.TF_PORT == 9000
    monkeypatch.setenv("CUTS", "2")
    assert settings.CUTS == 2


def test_an_older_name_gives_its_own_variable_or_else_the_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIBAN_MODEL", "New:2")
    assert settings.TRACKING_MODEL == "New:2"
    monkeypatch.setenv("TRACKING_MODEL", "Old:1")
    assert settings.TRACKING_MODEL == "Old:1"
    assert settings.CALIBAN_MODEL == "New:2"


def test_a_consumers_own_variable_is_given_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBI_MODEL", "MibiSegmentation:3")
    assert settings.MIBI_MODEL == "MibiSegmentation:3"


def test_a_name_that_nobody_set_says_so() -> None:
    with pytest.raises(AttributeError, match="no 'MIBI_MODEL_2': it is no setting, and no variable"):
        _ = settings.MIBI_MODEL_2
    assert not hasattr(settings, "MIBI_MODEL_2")
    assert not hasattr(settings, "mibi_model")
    assert getattr(settings, "MIBI_MODEL_2", "Default:1") == "Default:1"


@pytest.mark.parametrize(("name", "text"), [("TF_PORT", "eighty"), ("CUTS", "few")])
def test_a_wrong_value_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError, match=f"{name} is '{text}'; allowed is a whole number"):
        getattr(settings, name)


@pytest.mark.parametrize(("path", "kept"), [("/a/b/", "a/b"), ("a/b", "a/b"), ("//a//", "a"), ("", ""), ("/", "")])
def test_strip_takes_the_slashes_off_the_ends(path: str, kept: str) -> None:
    strip: Any = settings._strip
    assert strip(path) == kept


def test_importing_reads_no_environment_and_nothing_heavy() -> None:
    code = (
        "import sys; import redis_consumer.settings;"
        "heavy = {'numpy', 'redis', 'grpc', 'obstore', 'skimage', 'scipy', 'dotenv'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"TF_PORT": "wrong"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
