"""The worker as a process: signals and sudden death, consumers of other people, commands."""

from __future__ import annotations

import json
import re
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import tifffile
from tests.acceptance.bench import discs, exit_code, objects, text_of, wait_until
from tests.guards.stage import model_script
from tests.howto import howto_blocks
from tests.scripted_serving import scripted_server

from redis_consumer.testing.servers import free_port
from redis_consumer.wire import messages

if TYPE_CHECKING:
    from tests.acceptance.bench import Bench

    from redis_consumer.demo.stack import Child

pytestmark = pytest.mark.slow

IMAGE, DISCS = discs(220, 200)
HIDDEN = "of-nobody-else"


# Signals and sudden death.


def test_sigterm_hands_a_waiting_job_back_to_the_front_and_counts_nothing(bench: Bench) -> None:
    worker = bench.worker("drained", QUEUE="drain", TF_PORT=str(free_port()))
    image = bench.upload(IMAGE)
    held, next_one = bench.push("drain", image), bench.push("drain", image)
    bench.wait(held, "predicting")
    worker.process.send_signal(signal.SIGTERM)
    assert exit_code(worker) == 0
    assert bench.redis.lrange("drain", 0, -1) == [next_one, held], "jobs are taken from the right"
    assert bench.fields(held)["status"] == "new"
    assert bench.redis.hget(f"redis-consumer:job:{held}", "deliveries") == "0"
    assert not [name for name in bench.processing_lists() if name.startswith("processing-drain:")]
    assert "Traceback" not in text_of(worker)
    bench.redis.delete("drain")


def test_a_second_signal_ends_calls_in_flight(bench: Bench) -> None:
    """Those of an image of many batches have threads, for which Python waits at its end."""
    script, asked = model_script(), threading.Event()
    script.hold(messages.PREDICT, then=asked.set)
    with scripted_server(script) as address:
        settings = {"TF_PORT": address.rpartition(":")[2], "TF_MAX_BATCH_SIZE": "16", "GRPC_TIMEOUT": "600"}
        worker = bench.worker("impatient", QUEUE="impatient", **settings)
        key = bench.push("impatient", bench.upload(discs(1100, 1100)[0]))
        assert asked.wait(30)
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGINT)  # another one, since two of a kind at once count as one
        assert exit_code(worker) == 0
        script.let_go()
    assert bench.fields(key)["status"] == "new"
    bench.redis.delete("impatient")


def test_sigterm_lets_a_job_end_that_is_nearly_done(bench: Bench) -> None:
    worker = bench.worker("finishing", QUEUE="finish")
    key = bench.push("finish", bench.upload(discs(700, 700)[0]))
    bench.wait(key, "predicting", "post-processing", "saving-results")
    worker.process.send_signal(signal.SIGTERM)
    assert exit_code(worker) == 0
    assert bench.fields(key)["status"] == "done"


def test_a_job_whose_worker_was_killed_is_done_by_another(bench: Bench) -> None:
    lease = {"QUEUE": "killed", "LEASE_SECONDS": "2"}
    victim = bench.worker("victim", TF_PORT=str(free_port()), **lease)
    key = bench.push("killed", bench.upload(IMAGE))
    bench.wait(key, "predicting")
    victim.process.kill()
    exit_code(victim)
    heir = bench.worker("heir", **lease)
    fields = bench.done(key)
    assert fields["identity_started"] == fields["updated_by"] == "heir"
    (labels,) = bench.results(fields).values()
    assert objects(labels) == DISCS
    assert bench.statuses(key).count("done") == 1
    assert bench.redis.hget(f"redis-consumer:job:{key}", "deliveries") == "2"
    wait_until(lambda: not any(name.startswith("processing-killed:") for name in bench.processing_lists()), "no entry")
    assert heir.process.poll() is None


# Consumers of other people.


class Rung(NamedTuple):
    """A consumer of docs/howto/custom-consumer.md: how it is named, and what its job is about."""

    consumer_type: str
    fields: dict[str, str]
    entry: str


RUNGS = {
    "function": Rung("nuclei", {}, "cells_feature_0.tif"),
    "class": Rung("my_lab.membranes:Membranes", {}, "cells_feature_0.tif"),
    "everything": Rung(
        "my_lab.mine.MyConsumer", {"model_name": "OneHead", "model_version": "1"}, "result_feature_0.tif"
    ),
}


@pytest.fixture(scope="module")
def elsewhere(bench: Bench) -> dict[str, Child]:
    """A package of somebody else's, installed in a folder of its own, and a worker for each of its consumers."""
    site = bench.folder / "site"
    package = site / "my_lab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    function, cls, everything = howto_blocks("python")
    for name, text in {"nuclei": function, "membranes": cls, "mine": everything}.items():
        (package / f"{name}.py").write_text(text)
    info = site / "my_lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0\n")
    (entry_points,) = howto_blocks("toml")
    assert entry_points.startswith('[project.entry-points."redis_consumer.consumers"]\n')
    group = entry_points.replace('[project.entry-points."redis_consumer.consumers"]', "[redis_consumer.consumers]")
    (info / "entry_points.txt").write_text(group.replace('"', ""))
    return {
        name: bench.worker(f"rung-{name}", QUEUE=f"rung-{name}", CONSUMER_TYPE=rung.consumer_type, PYTHONPATH=str(site))
        for name, rung in RUNGS.items()
    }


@pytest.mark.parametrize("name", RUNGS)
def test_a_consumer_of_the_howto_runs_in_a_package_of_its_own(
    bench: Bench, elsewhere: dict[str, Child], name: str
) -> None:
    rung = RUNGS[name]
    key = bench.push(f"rung-{name}", bench.upload(IMAGE), original_name="cells.tif", **rung.fields)
    fields = bench.done(key)
    ((entry, array),) = bench.results(fields).items()
    assert entry == rung.entry
    assert array.shape[-2:] == IMAGE.shape
    if name != "everything":  # it saves the prediction as it is
        assert objects(array) == DISCS
    assert fields["updated_by"] == f"rung-{name}"
    last = list(bench.writes(key))[-1]
    assert {"status", "output_url", "output_file_name", "finished_at", "total_time", "total_jobs"} <= last.keys()
    assert elsewhere[name].process.poll() is None


# Commands.


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    good, bad = tmp_path / "good cells.tif", tmp_path / "bad.tif"
    tifffile.imwrite(good, IMAGE)
    bad.write_text("this is no image")
    return good, bad


@pytest.mark.usefixtures("image_worker")
def test_submit_waits_and_fetches_the_result(bench: Bench, files: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "results"
    ended = bench.command(
        "submit", files[0], "scale=0.5", "--queue", "image", "--output", output, "--timeout", "30", "--json"
    )
    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads(ended.stdout)
    assert row["status"] == "done"
    assert row["file"] == str(output / "good cells.zip")
    assert Path(row["file"]).read_bytes()[:2] == b"PK"
    fields = bench.fields(row["job"])
    assert (fields["scale"], fields["original_name"]) == ("0.5", "good cells.tif")
    assert row["job"].startswith("image:good cells.tif:")

    looked = bench.command("status", row["job"], "--json")
    assert looked.returncode == 0, looked.stderr
    assert json.loads(looked.stdout) == [{"job": row["job"], **fields}]


@pytest.mark.usefixtures("image_worker")
def test_a_job_that_failed_is_told_by_the_exit_code(bench: Bench, files: tuple[Path, Path]) -> None:
    ended = bench.command("submit", *files, "--queue", "image", "--wait", "--timeout", "30")
    assert ended.returncode == 1, ended.stderr
    good, bad = (line.split("\t") for line in ended.stdout.splitlines())
    assert good[1] == "done"
    assert good[2].endswith(".zip")
    assert bad[1] == "failed"
    assert re.search("cannot be read", bad[2])

    looked = bench.command("status", good[0], bad[0], "image:nobody:1")
    assert looked.returncode == 1
    assert [line.split("\t")[1] for line in looked.stdout.splitlines()] == ["done", "failed", "missing"]


def test_submit_returns_at_once_unless_asked_to_wait(bench: Bench, files: tuple[Path, Path]) -> None:
    ended = bench.command("submit", files[0], "--queue", "nobody-serves-it")
    assert ended.returncode == 0, ended.stderr
    (key,) = ended.stdout.splitlines()
    assert bench.fields(key)["status"] == "new"
    bench.redis.delete("nobody-serves-it")


def test_settings_tells_where_each_value_is_from_and_hides_secrets(bench: Bench) -> None:
    ended = bench.command("settings", "--set", "CONCURRENCY=3", AWS_SECRET_ACCESS_KEY=HIDDEN)
    assert ended.returncode == 0, ended.stderr
    assert HIDDEN not in ended.stdout
    assert re.search(r"CONCURRENCY +3 +--set", ended.stdout)
    assert re.search(rf"REDIS_PORT +{bench.redis_port} +environment", ended.stdout)
