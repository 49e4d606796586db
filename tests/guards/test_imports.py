"""What is imported before the first claim, counted by packages: each that is not needed costs every start of a worker.

Whatever else a job needs is loaded beside the lanes once these claim (`Consumer.warm_up`), or with the first file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

NEEDED = {"grpcio", "hiredis", "numpy", "obstore", "protobuf", "redis", "stamina", "tenacity", "typing_extensions"}
"""Packages without which no worker can claim a job."""
LIGHT = {
    "lazy-loader": "how scikit-image puts its loading off",
    "scikit-image": "its front, which loads no part",
    "scipy": "its front, which loads no part",
    "cryptography": "redis-py looks for it, where somebody has installed it",
    "async-timeout": "redis-py takes from it what Python has itself since 3.11.3",
    "setuptools": "Python loads a file of its own, where somebody has installed it",
}
"""Further ones that may be there, and why they cost next to nothing."""
FRONTS = {"scipy", "skimage"}
PROGRAM = """
import json, sys
from redis_consumer.cli import main
from redis_consumer.worker import Worker

Worker.run = lambda _: print(json.dumps(sorted(sys.modules)))  # in place of lanes and what runs beside them
main(["run"])
"""


@pytest.fixture(scope="module", params=["segmentation", "image", "mesmer", "caliban", "polaris", "zip"])
def modules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of all modules that a worker of this type has before its first claim."""
    folder: Path = tmp_path_factory.mktemp("bucket")
    environ = {"STORAGE_BUCKET": str(folder), "CONSUMER_TYPE": request.param, "LOG_LEVEL": "ERROR"}
    ended = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    names: list[str] = json.loads(ended.stdout)
    return names


def test_packages_at_start(modules: list[str]) -> None:
    owners, allowed = packages_distributions(), {*NEEDED, *LIGHT, "kiosk-redis-consumer"}
    found = [owners.get(name.partition(".")[0], ()) for name in modules]
    # Packages may share a name, as all of Google's do: one of them is needed then, others are only installed.
    extra = {owner for of_name in found if allowed.isdisjoint(of_name) for owner in of_name}
    assert not extra, (
        f"before the first claim a worker has imported {sorted(extra)}: allowed are {sorted(NEEDED)}.  Import the "
        "others in the function that needs them, or name them in `warm_up` of the consumer"
    )


def test_fronts_at_start(modules: list[str]) -> None:
    parts = {name for name in modules if name.partition(".")[0] in FRONTS and is_public_part(name)}
    assert not parts, (
        f"before the first claim a worker has imported {sorted(parts)}: of these two allowed is the front alone, which "
        "loads its parts at their first use.  Write `scipy.ndimage.label(...)`, not `from scipy import ndimage`"
    )


def is_public_part(name: str) -> bool:
    """Return whether a module is a part that has something to do: not the front, nor what belongs to it."""
    part = name.split(".")[1:2]
    return part not in ([], ["version"]) and not part[0].startswith("_")
