"""What an operator sees and does, with workers that run: retries, dead letters, cancel, a model server that is late."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.acceptance.bench import discs, exit_code, text_of, wait_for, wait_until
from tests.onnx_models import save_nuclei
from tests.scripted_serving import Script, metadata, scripted_server, states

from redis_consumer.testing.servers import free_port
from redis_consumer.wire import messages, serving_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.bench import Bench

pytestmark = pytest.mark.slow

IMAGE, _ = discs(220, 200)
CONSUMERS = '''
from redis_consumer.consumers import Consumer
from redis_consumer.errors import StorageUnavailable

class Flaky(Consumer):
    """Meets an outage the first time."""
    def _consume(self, redis_hash):
        if self.job.deliveries == 1:
            raise StorageUnavailable("The storage does not answer")
        return self.final_status

class Buggy(Consumer):
    """Has a bug until somebody mends it."""
    def _consume(self, redis_hash):
        if not self.redis.exists("mended"):
            raise ZeroDivisionError("at https://me:t0p@host/x?sig=t0p")
        return self.final_status
'''


@pytest.fixture(scope="module")
def site(bench: Bench) -> Path:
    folder = bench.folder / "operating-site"
    folder.mkdir()
    (folder / "operated.py").write_text(CONSUMERS)
    return folder


def told(bench: Bench, *words: str, code: int = 0) -> Any:
    """Run a command with --json; return what it printed."""
    ran = bench.command(*words, "--json")
    assert ran.returncode == code, ran.stderr
    return json.loads(ran.stdout)


def test_a_job_that_met_an_outage_stands_aside_where_everybody_sees_it_and_is_done(bench: Bench, site: Path) -> None:
    bench.worker("flaky-1", QUEUE="flaky", CONSUMER_TYPE="operated:Flaky", PYTHONPATH=str(site))
    key = bench.push("flaky", bench.upload(IMAGE))
    bench.done(key)
    moves = [command.words for command in bench.heard() if key in command.words]
    assert ("lpush", "processing-flaky:parked:flaky-1", key) in moves, "the autoscaler counts lists of this kind"
    assert bench.statuses(key) == ["new", "started", "new", "started", "done"]
    assert bench.redis.hget(f"redis-consumer:job:{key}", "deliveries") == "2"
    assert not [name for name in bench.processing_lists() if name.startswith("processing-flaky:")]


def test_a_dead_job_tells_why_and_lives_again(bench: Bench, site: Path) -> None:
    worker = bench.worker("buggy-1", QUEUE="buggy", CONSUMER_TYPE="operated:Buggy", PYTHONPATH=str(site))
    key = bench.push("buggy", bench.upload(IMAGE))
    assert bench.failed(key) == "ZeroDivisionError: at https://host/x"
    (row,) = told(bench, "dead", "list", "--queue", "buggy", "--since", "1h")
    assert (row["key"], row["error"]) == (key, "ZeroDivisionError")
    (letter,) = told(bench, "dead", "show", key)
    assert "in _consume" in letter["traceback"]
    assert "t0p" not in letter["traceback"] + text_of(worker)
    assert [(one["by"], one["how"]) for one in letter["deliveries"]] == [("buggy-1", "ZeroDivisionError")]
    assert letter["fields"]["input_file_name"].startswith("uploads/")

    bench.redis.set("mended", 1)
    bench.redis.delete(key)  # it has expired meanwhile
    assert bench.command("dead", "replay", key).returncode == 0
    bench.done(key)
    assert told(bench, "dead", "list", "--queue", "buggy") == []
    assert bench.fields(key)["input_file_name"] == letter["fields"]["input_file_name"]


def test_a_prediction_in_flight_ends_with_its_job(bench: Bench) -> None:
    script, asked = Script(), threading.Event()
    script.say(messages.GET_MODEL_METADATA, metadata({"serving_default": {"x": (pb.DT_FLOAT, (-1, -1, -1, 1))}}))
    script.say(messages.PREDICT, (grpc.StatusCode.INVALID_ARGUMENT, "over"))
    script.hold(messages.PREDICT, then=asked.set)
    with scripted_server(script) as address:
        variables = {"TF_PORT": address.rpartition(":")[2], "LEASE_SECONDS": "2", "GRPC_TIMEOUT": "600"}
        worker = bench.worker("cancelling-1", QUEUE="cancelling", **variables)
        key = bench.push("cancelling", bench.upload(IMAGE))
        assert asked.wait(40)
        (lane,) = [row for row in told(bench, "workers") if row["queue"] == "cancelling"]
        assert (lane["job"], lane["host"], lane["status"]) == (key, "cancelling-1", "predicting")
        assert bench.command("cancel", key, HOSTNAME="desk").returncode == 0
        assert bench.failed(key).endswith("on desk")
        fields = bench.fields(key)
        # The server still holds the first call; the lane is free all the same.
        asked.clear()
        bench.push("cancelling", bench.upload(IMAGE))
        assert asked.wait(40)
        assert f"Job {key} is no longer ours" in text_of(worker)
        script.let_go()
    assert bench.fields(key) == fields
    assert [row["error"] for row in told(bench, "dead", "list", "--text", key)] == ["Cancelled"]


def test_a_model_server_that_appears_later_costs_no_delivery(bench: Bench, tmp_path: Path) -> None:
    port = free_port()
    worker = bench.worker("belated-1", QUEUE="belated", TF_PORT=str(port), NUCLEAR_MODEL="Late:1")
    key = bench.push("belated", bench.upload(IMAGE))
    bench.wait(key, "predicting")
    wait_until(lambda: bench.redis.lrange("belated", 0, -1) == [], "the job to be with its lane")
    script = Script()
    script.say(messages.GET_MODEL_METADATA, (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(Late)"))
    script.say(messages.GET_MODEL_STATUS, states((1, pb.ModelVersionStatus.LOADING, "")))
    with scripted_server(script, port=port):  # there, but cold
        wait_until(lambda: script.calls(messages.GET_MODEL_STATUS) > 1, "the model to be asked for", worker)
        assert bench.fields(key)["status"] == "predicting"
    save_nuclei(tmp_path / "models", "Late", 1)
    bench.serve_models(tmp_path / "models", port)
    bench.done(key)
    assert bench.redis.hget(f"redis-consumer:job:{key}", "deliveries") == "1"


def test_the_operator_sees_queues_and_jobs(bench: Bench) -> None:
    bench.worker("seen-1", QUEUE="seen", TF_PORT=str(free_port()))
    running = bench.push("seen", bench.upload(IMAGE))
    bench.wait(running, "predicting")
    waiting = bench.push("seen", bench.upload(IMAGE))
    (queue,) = [row for row in told(bench, "queues") if row["queue"] == "seen"]
    assert (queue["waiting"], queue["running"], queue["parked"], queue["dead"]) == (1, 1, 0, 0)
    found = {row["job"]: row["place"] for row in told(bench, "jobs", "--queue", "seen")}
    assert found == {running: "running", waiting: "waiting"}
    assert bench.command("cancel", running, waiting).returncode == 0
    wait_until(lambda: [row["job"] for row in told(bench, "workers") if row["queue"] == "seen"] == [""], "an idle lane")


def test_without_any_worker_a_command_brings_jobs_back(bench: Bench) -> None:
    victim = bench.worker("swept-1", QUEUE="swept", TF_PORT=str(free_port()), LEASE_SECONDS="2")
    key = bench.push("swept", bench.upload(IMAGE))
    bench.wait(key, "predicting")
    victim.process.kill()
    exit_code(victim)
    wait_until(lambda: bench.command("sweep", LEASE_SECONDS="2").stdout == "1\n", "the lease to run out")
    assert bench.redis.lrange("swept", 0, -1) == [key]
    assert bench.fields(key)["status"] == "new"
    bench.redis.delete("swept")


def test_a_full_disk_fails_no_job(bench: Bench) -> None:
    """A worker that cannot write gives its jobs back; one that can does them."""
    small = bench.folder / "small-disk"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(small)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this needs the right to mount a file system")
    try:
        full = bench.worker("full-1", QUEUE="full", TMPDIR=str(small))
        key = bench.push("full", bench.upload(IMAGE))
        wait_for(full, f"Job {key} is new")
        bench.worker("roomy-1", QUEUE="full")
        bench.done(key)
        full.stop()
    finally:
        subprocess.run(["umount", str(small)], check=False, capture_output=True)
