"""`redis-consumer demo` as its user meets it: results on disk, a table, an exit code, and nothing left running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image

from redis_consumer.demo.score import score
from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.nuclei import Cells, simulate
from redis_consumer.demo.stack import MODELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_consumer.demo.simulation.nuclei import FieldOfView

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="process trees are read from /proc"),
    pytest.mark.skipif(not any(MODELS.glob("*/*/model.onnx")), reason="the model of the demo is not there"),
]

END_SECONDS = 60.0


class Process(NamedTuple):
    """A process that no later one can be mistaken for."""

    pid: int
    born: str
    parent: int
    state: str

    @property
    def command(self) -> str:
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def all_processes() -> Iterator[Process]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        words = stat.rpartition(")")[2].split()
        yield Process(int(entry.name), words[19], int(words[1]), words[0])


class Demo:
    """A running demo, and every process that it ever started."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.output = folder / "out"
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.text = folder / "stdout.txt"
        self.errors = folder / "stderr.txt"
        command = [sys.executable, "-m", "redis_consumer", "demo", "--output", str(self.output), *words]
        environ = {**os.environ, "TMPDIR": str(self.tmp), "REDIS_PASSWORD": "of another server"}
        with self.text.open("wb") as out, self.errors.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environ, start_new_session=True)
        self.family: set[tuple[int, str]] = set()

    def look(self) -> list[Process]:
        """Return the demo's living descendants."""
        known, found = {self.process.pid}, []
        for process in sorted(all_processes(), key=lambda one: int(one.born)):
            if process.parent in known and process.state != "Z":
                known.add(process.pid)
                found.append(process)
        self.family |= {(one.pid, one.born) for one in found}
        return found

    def alive(self) -> list[int]:
        """Return what lives of all that was ever seen."""
        return [one.pid for one in all_processes() if (one.pid, one.born) in self.family and one.state != "Z"]

    def wait_until(self, met: Callable[[], bool]) -> None:
        deadline = time.monotonic() + END_SECONDS
        while not met():
            self.look()
            assert time.monotonic() < deadline, f"{self.text.read_text()}\n{self.errors.read_text()}"
            time.sleep(0.05)

    def wait_for(self, words: str) -> None:
        def printed() -> bool:
            assert self.process.poll() is None, f"{self.text.read_text()}\n{self.errors.read_text()}"
            return words in self.text.read_text()

        self.wait_until(printed)

    def end(self) -> int:
        """Return the exit code, and make sure that nothing is left."""
        self.wait_until(lambda: self.process.poll() is not None)
        assert len(self.family) >= 3, "Redis, model server and worker were not seen"
        # After a violent death the others need a moment to notice.
        self.wait_until(lambda: not self.alive())
        self.wait_until(lambda: not any(self.tmp.iterdir()))
        return self.process.returncode

    def find(self, words: str) -> int:
        """Return the process whose command has these words."""
        return next(one.pid for one in self.look() if words in one.command)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def run(*words: str | Path) -> Demo:
        started.append(Demo(tmp_path, *map(str, words)))
        return started[-1]

    yield run
    for demo in started:
        demo.look()
        demo.process.kill()
        demo.process.wait(END_SECONDS)
        for pid in demo.alive():
            os.kill(pid, signal.SIGKILL)


def field_of_view(seed: int) -> FieldOfView:
    cells = Cells(count=12, diameter=26, clustering=0.1, debris=0, defocused=0)
    return simulate((256, 256), cells=cells, microscope=Microscope(), seed=seed)


def write(path: Path, field: FieldOfView) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, field.image)
    return path


def test_every_image_gets_its_zip_its_labels_and_its_picture(tmp_path: Path, start: Callable[..., Demo]) -> None:
    fields = {"cells": field_of_view(1), "cells-2": field_of_view(2)}
    one = write(tmp_path / "one/cells.tif", fields["cells"])
    two = write(tmp_path / "two/cells.tif", fields["cells-2"])
    demo = start(one, two)
    assert demo.end() == 0
    assert sorted(path.name for path in demo.output.iterdir()) == sorted(
        f"{name}{ending}" for name in fields for ending in (".zip", "_labels.tif", "_overlay.png")
    )
    for name, field in fields.items():
        with zipfile.ZipFile(demo.output / f"{name}.zip") as archive:
            assert archive.namelist() == ["cells_batch_0_feature_0.tif"]
        labels = tifffile.imread(demo.output / f"{name}_labels.tif")
        assert labels.dtype == np.uint16
        assert score(labels, field.labels).f1 > 0.8
        with Image.open(demo.output / f"{name}_overlay.png") as picture:
            pixels = np.asarray(picture)
        assert (pixels != pixels[..., :1]).any(), "no outline in the picture"
        row = next(line for line in demo.text.read_text().splitlines() if str(demo.output / f"{name}.zip") in line)
        assert re.search(rf"{name} +256 x 256 +{np.unique(labels).size - 1}( +\d+\.\d\d){{3}}", row)


def test_an_archive_gets_its_zip_and_one_picture_of_all(tmp_path: Path, start: Callable[..., Demo]) -> None:
    fields = {"a/cells.tif": field_of_view(1), "b/cells.tif": field_of_view(2)}
    with zipfile.ZipFile(tmp_path / "plate.zip", "w") as archive:
        for name, field in fields.items():
            archive.write(write(tmp_path / name, field), name)
        archive.writestr("c/broken.tif", "this is no image")
    demo = start("--type", "zip", tmp_path / "plate.zip")
    assert demo.end() == 1
    assert sorted(path.name for path in demo.output.iterdir()) == ["plate.zip", "plate_overlay.png"]
    with zipfile.ZipFile(demo.output / "plate.zip") as archive:
        assert archive.namelist() == [name.replace(".tif", "_batch_0_feature_0.tif") for name in fields]
    text = demo.text.read_text()
    assert re.search(r"plate +2 images +\d+ ", text)
    assert "1 of 3 images failed" in text
    assert re.search(r"^plate: c/broken\.tif failed: The image 'broken\.tif' cannot be read", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "samples", "least"), [("mesmer", 2, 0.8), ("spot", 2, 0.8), ("polaris", 2, 0.7), ("tracking", 1, 0.9)]
)
def test_of_simulated_images_most_is_found(kind: str, samples: int, least: float, start: Callable[..., Demo]) -> None:
    demo = start("--type", kind)
    assert demo.end() == 0
    rows = re.findall(r"\d+ x \d+ +\d+ +(0\.\d+|1\.000) .*?(\S+)\.zip", demo.text.read_text())
    assert len(rows) == samples
    for f1, result in rows:
        assert float(f1) > least
        assert Path(f"{result}_overlay.png").exists()


def test_a_job_that_fails_is_shown_and_spoils_no_other(tmp_path: Path, start: Callable[..., Demo]) -> None:
    good = write(tmp_path / "good.tif", field_of_view(3))
    bad = tmp_path / "bad [i].tif"
    bad.write_text("this is no image")
    demo = start(bad, good)
    assert demo.end() == 1
    text = demo.text.read_text()
    assert re.search(r"^ *bad \[i\] .*failed: The image 'bad \[i\]\.tif' cannot be read", text, re.MULTILINE)
    assert (demo.output / "good_overlay.png").exists()
    assert not list(demo.output.glob("bad*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_demo_that_is_ended_leaves_nothing(
    tmp_path: Path, start: Callable[..., Demo], number: signal.Signals, code: int
) -> None:
    demo = start(write(tmp_path / "cells.tif", field_of_view(4)))
    demo.wait_for("are running")
    demo.look()
    demo.process.send_signal(number)
    assert demo.end() == code


def test_keep_says_how_to_connect_and_ends_at_ctrl_c(tmp_path: Path, start: Callable[..., Demo]) -> None:
    image = write(tmp_path / "cells.tif", field_of_view(5))
    demo = start("--keep", image)
    demo.wait_for("Ctrl-C ends everything")
    exported = dict(re.findall(r"export (\w+)=(\S+)", demo.text.read_text()))
    submit = [sys.executable, "-m", "redis_consumer", "submit", str(image), "--wait", "--timeout", "30"]
    done = subprocess.run(submit, env={**os.environ, **exported}, timeout=END_SECONDS, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"\tdone\t" in done.stdout
    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 0
    assert {"worker.log", "model-server.log"} <= {path.name for path in (demo.output / "logs").iterdir()}


@pytest.mark.parametrize(
    ("command", "name"),
    [("redis_consumer run", "The worker"), ("serve-models", "The model server"), ("-server", "Redis")],
)
def test_a_process_that_dies_ends_the_demo_with_its_name(
    tmp_path: Path, start: Callable[..., Demo], command: str, name: str
) -> None:
    demo = start(write(tmp_path / "cells.tif", field_of_view(6)))
    demo.wait_for("are running")
    os.kill(demo.find("serve-models"), signal.SIGSTOP)  # or the job might be done too soon
    demo.wait_for("predicting")
    os.kill(demo.find(command), signal.SIGKILL)
    assert demo.end() == 1
    lines = demo.errors.read_text().splitlines()
    assert lines[-1] == f"redis-consumer: {name} ended unexpectedly (killed by signal 9)"
    assert "Traceback" not in demo.errors.read_text()
