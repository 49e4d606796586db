"""Lanes may need several parts of scikit-image at the same moment, each for the first time."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import threading
from concurrent.futures import ThreadPoolExecutor
from redis_consumer.scikit import ski

needed = ["morphology.reconstruction", "segmentation.watershed", "feature.peak_local_max", "measure.regionprops"]
together = threading.Barrier(len(needed))

def use(name):
    together.wait()
    part, function = name.split(".")
    return getattr(getattr(ski, part), function)

with ThreadPoolExecutor(len(needed)) as pool:
    print([function.__name__ for function in pool.map(use, needed)])
"""


@pytest.mark.parametrize("_attempt", range(3))
def test_parts_load_in_several_threads_at_once(_attempt: int) -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "['reconstruction', 'watershed', 'peak_local_max', 'regionprops']"
