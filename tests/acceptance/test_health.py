"""Health and limits of a worker as a process: probes, metrics, a job that hangs, memory that grows."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.bench import discs, exit_code, text_of, wait_for, wait_until

from redis_consumer.testing.servers import HOST, free_port, start_redis

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.bench import Bench

    from redis_consumer.demo.stack import Child

pytestmark = pytest.mark.slow

IMAGE, _ = discs(220, 200)
CONSUMERS = '''
import ctypes, threading, time
from redis_consumer.consumers import Consumer

class Patient(Consumer):
    """Never returns from some jobs, and lets others work."""
    def _consume(self, redis_hash):
        if self.job.get("original_name") == "hang.tif":
            threading.Event().wait()
        return self.final_status

class Slow(Consumer):
    """Returns too late, and would be done."""
    def _consume(self, redis_hash):
        if self.job.get("original_name") == "slow.tif":
            time.sleep(3)
        return self.final_status

class Wedged(Consumer):
    """Is in C and holds the interpreter."""
    def _consume(self, redis_hash):
        ctypes.PyDLL(None).sleep(600)

class Hog(Consumer):
    """Keeps what it read."""
    kept = []
    def _consume(self, redis_hash):
        self.kept.append(bytearray(b"x") * 300_000_000)
        return self.final_status
'''


@pytest.fixture(scope="module")
def site(bench: Bench) -> Path:
    folder = bench.folder / "health-site"
    folder.mkdir()
    (folder / "trouble.py").write_text(CONSUMERS)
    return folder


def get(port: int, page: str, seconds: float = 10.0) -> tuple[int, str]:
    """Return status and content; 0 if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/{page}", timeout=seconds) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def looked_at(port: int, page: str) -> Any:
    return json.loads(get(port, page)[1])


def becomes(port: int, page: str, status: int, worker: Child) -> None:
    wait_until(lambda: get(port, page)[0] == status, f"{status} of /{page}", worker)


def test_a_worker_tells_how_it_is_and_what_it_did(bench: Bench) -> None:
    port = free_port()
    worker = bench.worker("told", QUEUE="told", HEALTH_PORT=str(port))
    becomes(port, "ready", 200, worker)
    assert looked_at(port, "ready") == {"redis": "ok", "storage": "ok", "model-server": "ok"}
    assert set(looked_at(port, "live").values()) == {"ok"}
    good, bad = bench.push("told", bench.upload(IMAGE)), bench.push("told", bench.upload(b"no image", "bad.tif"))
    bench.done(good)
    bench.failed(bad)
    counted = 'redis_consumer_jobs_total{error="JobRejected",status="failed"} 1.0'
    wait_until(lambda: counted in get(port, "metrics")[1], counted, lambda: get(port, "metrics")[1])
    metrics = get(port, "metrics")[1]
    assert 'redis_consumer_jobs_total{error="",status="done"} 1.0' in metrics
    assert 'redis_consumer_stage_seconds_count{stage="predicting"} 1.0' in metrics
    assert "redis_consumer_claim_latency_seconds_count 2.0" in metrics
    assert 'redis_consumer_queue_jobs{queue="told"} 0.0' in metrics
    health = bench.command("health", HEALTH_PORT=str(port))
    assert health.returncode == 0, health.stdout
    assert "ready\tmodel-server\tok" in health.stdout


def test_an_outage_of_redis_makes_it_unready_and_never_dead(bench: Bench, tmp_path: Path) -> None:
    port = free_port()
    with start_redis(tmp_path / "redis") as first:
        worker = bench.worker("outage", QUEUE="outage", HEALTH_PORT=str(port), REDIS_PORT=str(first.port))
        becomes(port, "ready", 200, worker)
    becomes(port, "ready", 503, worker)
    state = looked_at(port, "ready")
    assert state == {"redis": "does not answer", "storage": "ok", "model-server": "ok"}
    health = bench.command("health", "--ready", HEALTH_PORT=str(port))
    assert health.returncode == 1
    wait_for(worker, "next try in 5.0 s")  # by now it backs off as far as it does
    assert set(looked_at(port, "live").values()) == {"ok"}
    with start_redis(tmp_path / "again", first.port) as second:
        becomes(port, "ready", 200, worker)
        again = bench.on_redis(second.port)
        again.done(again.push("outage", bench.upload(IMAGE)))
        worker.stop()


def test_a_model_server_that_is_away_need_not_make_it_unready(bench: Bench) -> None:
    port = free_port()
    worker = bench.worker("cold", QUEUE="cold", HEALTH_PORT=str(port), TF_PORT=str(free_port()))
    becomes(port, "ready?except=model-server", 200, worker)
    assert looked_at(port, "ready")["model-server"] == "does not answer"
    assert get(port, "live")[0] == 200


def test_a_call_that_holds_the_interpreter_is_seen(bench: Bench, site: Path) -> None:
    port = free_port()
    worker = bench.worker(
        "wedged", QUEUE="wedged", CONSUMER_TYPE="trouble:Wedged", HEALTH_PORT=str(port), PYTHONPATH=str(site)
    )
    becomes(port, "live", 200, worker)
    bench.push("wedged", "uploads/any.tif")
    wait_until(lambda: get(port, "live", seconds=2.0)[0] == 0, "no answer", worker)
    assert bench.command("health", "--live", HEALTH_PORT=str(port)).returncode == 1
    worker.process.kill()


def test_a_job_that_hangs_fails_and_ends_the_worker_while_other_lanes_go_on(bench: Bench, site: Path) -> None:
    worker = bench.worker(
        "hung",
        QUEUE="hung",
        CONSUMER_TYPE="trouble:Patient",
        CONCURRENCY="2",
        MAX_JOB_SECONDS="5",
        DRAIN_SECONDS="1",
        PYTHONPATH=str(site),
    )
    key = bench.push("hung", "uploads/hang.tif")
    bench.done(bench.push("hung", "uploads/quick.tif"))
    assert bench.failed(key) == "The job took longer than MAX_JOB_SECONDS, 5 s"
    assert exit_code(worker) == 1
    assert f"A lane does not come back from job {key}: the worker ends" in text_of(worker)
    assert bench.statuses(key)[-1] == "failed"
    assert not [name for name in bench.processing_lists() if name.startswith("processing-hung:")]


def test_a_job_that_comes_back_late_stays_failed_and_the_lane_goes_on(bench: Bench, site: Path) -> None:
    limits = {"MAX_JOB_SECONDS": "2", "PYTHONPATH": str(site)}
    worker = bench.worker("slow", QUEUE="slow", CONSUMER_TYPE="trouble:Slow", **limits)
    key = bench.push("slow", "uploads/slow.tif")
    bench.failed(key)
    bench.done(bench.push("slow", "uploads/quick.tif"))
    assert bench.statuses(key).count("done") == 0
    assert worker.process.poll() is None


def test_a_worker_that_has_grown_ends_well_between_two_jobs(bench: Bench, site: Path) -> None:
    keys = [bench.push("grown", f"uploads/{name}.tif") for name in "ab"]
    variables = {"QUEUE": "grown", "CONSUMER_TYPE": "trouble:Hog", "MAX_RSS_MB": "300", "PYTHONPATH": str(site)}
    for key in keys:  # each worker does one, and its supervisor starts the next
        worker = bench.worker("grown", **variables)
        bench.done(key)
        assert exit_code(worker) == 0
        assert "MAX_RSS_MB is 300" in text_of(worker)
    assert [bench.redis.hget(f"redis-consumer:job:{key}", "deliveries") for key in keys] == ["1", "1"]
    assert not [name for name in bench.processing_lists() if name.startswith("processing-grown:")]


def test_probes_are_answered_while_the_worker_drains(bench: Bench, site: Path) -> None:
    port = free_port()
    variables = {"QUEUE": "draining", "CONSUMER_TYPE": "trouble:Patient", "PYTHONPATH": str(site)}
    worker = bench.worker("draining", HEALTH_PORT=str(port), **variables)
    key = bench.push("draining", "uploads/hang.tif")
    bench.wait(key, "started")
    worker.process.terminate()
    for _ in range(10):
        assert get(port, "live")[0] == 200
        time.sleep(0.2)
    worker.process.terminate()
    assert exit_code(worker) == 0
    assert bench.fields(key)["status"] == "new"
    bench.redis.delete("draining")
