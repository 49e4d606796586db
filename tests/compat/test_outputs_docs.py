"""What people copy from docs/outputs.md runs, as far as its libraries are installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
from tests.unit.consumers.lab import Lab, checkers

from redis_consumer.arrays import Image, Labels
from redis_consumer.consumers import Predict, consumer
from redis_consumer.results.extras import FILES
from redis_consumer.settings.schema import ExtraOutput

if TYPE_CHECKING:
    from redis_consumer.job import Job

PAGE = (Path(__file__).resolve().parents[2] / "docs/outputs.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def imported(block: str) -> list[str]:
    return re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)


@consumer("bright")
def bright(image: Image, job: Job, predict: Predict) -> Labels:  # noqa: ARG001 - the contract's parameters
    return Labels(np.greater(image, 100).astype(np.int32))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file beside a zip."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    lab.environ["EXTRA_OUTPUTS"] = ",".join(get_args(ExtraOutput))
    keys: dict[str, str] = json.loads(lab.run(bright, checkers((20, 30))).fields["extra_outputs"])
    return (lab.folder / "bucket" / keys["geojson"]).parent


@pytest.mark.parametrize(
    "block", BLOCKS, ids=[re.findall(r"^(?:import|from) (\w+)", b, re.MULTILINE)[-1] for b in BLOCKS]
)
def test_a_snippet_runs(results: Path, block: str) -> None:
    for library in imported(block):
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    ended = subprocess.run(
        [sys.executable, "-c", block], cwd=results, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout


def test_every_word_and_every_file_is_explained() -> None:
    for kind, name in FILES.items():
        assert f"| `{kind}` | `output/<uuid4>/{name}" in PAGE
