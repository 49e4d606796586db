"""Large images: what a job costs as they grow, in processor time and memory, and what is seen of the seams.

Growth: one `segmentation` job each, from 512 x 512 to 16,384 x 16,384 pixels, by a worker of one lane with a model
server that answers at once (model_server.py) and a folder as the bucket.  Movies: the same with frames of 512 x 512.
The image is a tiled TIFF of simulated nuclei, read by ranges.

Seams: the demo's own model on simulated fields, once in one piece and once by blocks; counted are the objects that are
not the same, pixel for pixel.

``--full`` adds sizes, movies and seams; ``--models`` is a folder with the demo's model.
"""

from __future__ import annotations

import argparse
import sys
import time
import zipfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tables
import tifffile
from rig import HERE, OURS, Bench, cpu_seconds, resident_mb, running, spoken, stage

from redis_consumer.demo.simulation.nuclei import Cells, simulate
from redis_consumer.demo.stack import MODELS
from redis_consumer.job import FINAL
from redis_consumer.queues.redis import RedisSubmitter
from redis_consumer.testing.labels import differing_objects

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    Labels = npt.NDArray[Any]

SIDES, MORE_SIDES = (512, 2048, 4096, 16384), (1024, 8192)
FRAMES, MORE_FRAMES = (1, 16), (4, 60)
SEAM_SIDE, SEAM_NUCLEI, SEAM_SEEDS, MORE_SEEDS = 4096, 8000, (1,), (2, 3)
FIELD, NUCLEI = 2048, 1280
TILE = FRAME = 512
LOOK_SECONDS = 0.01
LONGEST_SECONDS = 1200.0
MODEL = "NuclearSegmentation:1"


@dataclass(frozen=True)
class Cost:
    """What one job took."""

    seconds: float
    cpu: float
    peak_mb: float
    idle_mb: float
    objects: int


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS)
    options = tables.parse(parser)
    field = simulated(FIELD, NUCLEI, seed=3)
    sides = sorted(SIDES + (MORE_SIDES if options.full else ()))
    counts = sorted(FRAMES + (MORE_FRAMES if options.full else ()))
    seeds = SEAM_SEEDS + (MORE_SEEDS if options.full else ())
    with stage() as servers:
        with model_server(servers, str(HERE / "model_server.py")) as bench:
            squares = [(side, measured(bench, field, 1, side)) for side in sides]
            movies = [(frames, measured(bench, field, frames, FRAME)) for frames in counts]
        with model_server(servers, "-m", "redis_consumer", "serve-models", str(options.models), "--port", "0") as bench:
            seams = [seam(bench, seed) for seed in seeds]
    show("Growth with the size of an image", [(f"{side} x {side}", side**2, cost) for side, cost in squares])
    show("Growth with the length of a movie", [(f"{n} x {FRAME} x {FRAME}", n * FRAME**2, cost) for n, cost in movies])
    tables.show("Seams", ("image", "objects", "not the same by blocks", "share, %"), seams)
    growth = [{"frames": n, "side": side, **asdict(cost)} for n, side, cost in all_of(squares, movies)]
    seam_share = sum(row[2] for row in seams) / sum(row[1] for row in seams)
    figures = {"growth": growth, "huge_peak_mb": squares[-1][1].peak_mb, "seam_share": seam_share}
    tables.hand_over(figures, options.json)


def all_of(squares: list[tuple[int, Cost]], movies: list[tuple[int, Cost]]) -> Iterator[tuple[int, int, Cost]]:
    """Yield frames, side and cost of everything that was measured."""
    yield from ((1, side, cost) for side, cost in squares)
    yield from ((frames, FRAME, cost) for frames, cost in movies)


def show(title: str, rows: Sequence[tuple[str, int, Cost]]) -> None:
    """Print a table of costs."""
    head = ("image", "nuclei", "s", "CPU s", "CPU s per 10^6 pixels", "memory before, MB", "most, MB")
    tables.show(
        f"{title} (one job each)",
        head,
        [(n, c.objects, c.seconds, c.cpu, c.cpu / pixels * 1e6, c.idle_mb, c.peak_mb) for n, pixels, c in rows],
    )


def measured(bench: Bench, field: Labels, frames: int, side: int) -> Cost:
    """Have a new worker do one job."""
    name = write(bench, field, frames, side)
    with bench.worker() as pid:
        done(bench, write(bench, field, 1, FRAME))  # loads everything
        idle, cpu, began = resident_mb(pid), cpu_seconds(pid), time.perf_counter()
        fields = done(bench, name)
        seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
        peak = resident_mb(pid, "VmHWM")
    return Cost(seconds, cpu, peak, idle, sum(highest(plane) for plane in results(bench, fields)))


def seam(bench: Bench, seed: int) -> tuple[str, int, int, float]:
    """Return a row: the objects of an image in one piece that are not those by blocks."""
    field = simulated(SEAM_SIDE, SEAM_NUCLEI, seed)
    (bench.folder / "bucket/uploads").mkdir(exist_ok=True)
    tifffile.imwrite(bench.folder / "bucket/uploads/seams.tif", field)
    whole, by_blocks = (labels_of(bench, limit) for limit in (SEAM_SIDE, SEAM_SIDE // 2))
    count = int(whole.max())
    missed, _ = differing_objects(whole, by_blocks)
    return f"{SEAM_SIDE} x {SEAM_SIDE}, seed {seed}", count, missed, 100 * missed / count


def labels_of(bench: Bench, limit: int) -> Labels:
    """Return the labels of the image by a worker whose pieces may be so large."""
    sides = {"MAX_IMAGE_HEIGHT": str(limit), "MAX_IMAGE_WIDTH": str(limit)}
    with bench.worker(**sides):
        (plane,) = results(bench, done(bench, "uploads/seams.tif"))
        return np.asarray(plane, np.int32)


def simulated(side: int, nuclei: int, seed: int) -> Labels:
    """Return a field of nuclei, (Y, X), uint16."""
    return np.asarray(simulate((side, side), cells=Cells(count=nuclei), seed=seed).image).reshape(side, side)


def write(bench: Bench, field: Labels, frames: int, side: int) -> str:
    """Put a tiled TIFF into the bucket, made of the tiles of a field, and return its key."""
    places = range(0, side, TILE)
    tiles = (
        np.rot90(field[y % FIELD :, x % FIELD :][:TILE, :TILE], y // FIELD + x // FIELD + frame)
        for frame in range(frames)
        for y in places
        for x in places
    )
    path = bench.folder / "bucket/uploads" / f"{frames}-{side}.tif"
    path.parent.mkdir(exist_ok=True)
    shape = (frames, side, side) if frames > 1 else (side, side)
    tifffile.imwrite(path, tiles, shape=shape, dtype=field.dtype, tile=(TILE, TILE), photometric="minisblack")
    return f"uploads/{path.name}"


def done(bench: Bench, image: str) -> dict[str, str]:
    """Have a job done, and return its fields."""
    order = "BYX" if image[len("uploads/")] != "1" and image[0] != "s" else ""
    fields = {"original_name": "field.tif", "input_file_name": image, "channels": "0", "dimension_order": order}
    key = RedisSubmitter(bench.client, host=OURS).submit("segmentation", "field.tif", fields)
    deadline = time.monotonic() + LONGEST_SECONDS
    while bench.client.hget(key, "status") not in FINAL:
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {key} takes longer than {LONGEST_SECONDS:.0f} s: see {bench.folder}")
        time.sleep(LOOK_SECONDS)
    found = dict(bench.client.hgetall(key))
    if found["status"] != "done":
        raise RuntimeError(f"the job is {found['status']}: {found.get('reason')}")
    return found


def results(bench: Bench, fields: dict[str, str]) -> Iterator[Labels]:
    """Yield the label images of a job, each in a file of its own as long as it is looked at; the archive is removed."""
    archive = bench.folder / "bucket" / fields["output_file_name"]
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            path = content.extract(name, bench.folder)
            yield tifffile.memmap(path, mode="r")
            Path(path).unlink()
    archive.unlink()


def highest(plane: Labels) -> int:
    """Return the highest label, a few rows at a time."""
    return int(max(plane[top : top + TILE].max() for top in range(0, len(plane), TILE)))


@contextmanager
def model_server(bench: Bench, *command: str) -> Iterator[Bench]:
    """Run a model server, and give the bench whose workers ask it."""
    log = bench.folder / f"models-{len(command)}.log"
    with running([sys.executable, *command], bench.environ, log) as process:
        port = spoken(log, r"listening on \S+:(\d+)", process)
        models = dict.fromkeys(("NUCLEAR_MODEL", "CYTOPLASM_MODEL", "PHASE_MODEL"), MODEL)
        yield replace(bench, environ={**bench.environ, "TF_HOST": "127.0.0.1", "TF_PORT": port, **models})


if __name__ == "__main__":
    main()
