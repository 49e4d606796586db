"""A worker that knows passwords and signs links, at the level DEBUG: its log, reasons and keys in Redis tell none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
from tests.acceptance.bench import BUCKET, WAIT_SECONDS, text_of, wait_until
from tests.corpus.pictures import GOOD_PNG

from redis_consumer.testing.servers import HOST, start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.bench import Bench

    from redis_consumer.demo.stack import Child

pytestmark = pytest.mark.slow

PASSWORD, KEY, SECRET, FOREIGN = "hush-redis", "hush-key", "hush-secret", "hush-foreign"
SIGNATURE = "X-Amz-Signature"
PLAIN = {"preprocess_function": "none", "postprocess_function": "none"}


@pytest.fixture(scope="module")
def locked(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, dict[str, str]]]:
    """A bench whose Redis asks for a password, and the variables of a worker that knows it."""
    with start_redis(tmp_path_factory.mktemp("locked"), 0, "--requirepass", PASSWORD) as server:
        own = bench.on_redis(server.port)
        own.redis = redis.Redis(HOST, server.port, password=PASSWORD, decode_responses=True)
        yield (
            own,
            {
                "REDIS_PORT": str(server.port),
                "REDIS_PASSWORD": PASSWORD,
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "OUTPUT_URLS": "signed",
                "LOG_LEVEL": "DEBUG",
                "QUEUE": "locked",
            },
        )


@pytest.fixture(scope="module")
def worker(locked: tuple[Bench, dict[str, str]]) -> Child:
    bench, variables = locked
    return bench.worker("locked", **variables)


def test_logs_and_reasons_tell_no_secret(locked: tuple[Bench, dict[str, str]], worker: Child) -> None:
    bench, _ = locked
    image = bench.upload(GOOD_PNG)  # Pillow says a lot about it
    signed = f"{bench.endpoint}/{BUCKET}/{image}?{SIGNATURE}={FOREIGN}"
    good = [bench.done(bench.push("locked", key, original_name="a.tif", **PLAIN)) for key in (image, signed)]
    assert all(SIGNATURE in fields["output_url"] for fields in good)
    refused = [
        f"{bench.endpoint}/{BUCKET}/uploads/nothing.tif?{SIGNATURE}={FOREIGN}",
        f"https://user:{FOREIGN}@example.org/a.tif",
        f"https://user:{FOREIGN}@example.org/a.zip",
        f"https://example.org/a.tif?sig={FOREIGN}",
    ]
    for address in refused:
        reason = bench.failed(bench.push("locked", address, original_name="a.tif"))
        assert not hidden(reason)
    log = text_of(worker)
    assert "[DEBUG]" in log, "it does say more than usual"
    assert not hidden(log)
    assert SIGNATURE not in log


def test_redis_keeps_no_secret_but_the_links(locked: tuple[Bench, dict[str, str]], worker: Child) -> None:
    bench, _ = locked
    key = bench.push("locked", "uploads/nothing.tif")
    bench.failed(key)
    assert worker.process.poll() is None
    wait_until(lambda: bench.redis.llen("locked") == 0, "the last job")
    for found in bench.redis.scan_iter("*"):
        if not found.startswith("locked:"):  # the jobs: their addresses are their users' own
            assert not hidden(content(bench.redis, found)), found


def test_a_bug_is_logged_without_what_it_knew(locked: tuple[Bench, dict[str, str]], tmp_path: Path) -> None:
    bench, variables = locked
    (tmp_path / "broken.py").write_text(
        "from redis_consumer.consumers import TensorFlowServingConsumer\n"
        "class Broken(TensorFlowServingConsumer):\n"
        "    def _consume(self, redis_hash):\n"
        "        raise RuntimeError(f'{self.tools.settings!r} {self.storage!r} {self.redis!r}')\n"
    )
    own = {**variables, "QUEUE": "broken", "CONSUMER_TYPE": "broken:Broken", "PYTHONPATH": str(tmp_path)}
    broken = bench.worker("broken", **own)
    reason = bench.failed(bench.push("broken", "uploads/a.tif"))
    assert reason.startswith("RuntimeError: Settings(")
    assert not hidden(reason)
    assert "Traceback" in text_of(broken)
    assert not hidden(text_of(broken))


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_command_settings_masks_them(locked: tuple[Bench, dict[str, str]], form: list[str]) -> None:
    bench, variables = locked
    ended = bench.command("settings", *form, seconds=WAIT_SECONDS, **variables)
    assert ended.returncode == 0, ended.stderr
    assert "REDIS_PASSWORD" in ended.stdout
    assert not hidden(ended.stdout + ended.stderr)


def test_a_start_that_fails_tells_none(locked: tuple[Bench, dict[str, str]]) -> None:
    bench, variables = locked
    ended = bench.command("run", seconds=WAIT_SECONDS, **{**variables, "REDIS_PASSWORD": FOREIGN})
    assert ended.returncode == 2
    assert "refuses us" in ended.stderr
    assert not hidden(ended.stdout + ended.stderr)


def hidden(text: str) -> list[str]:
    """Return the secrets that a text tells."""
    return [secret for secret in (PASSWORD, KEY, SECRET, FOREIGN) if secret in text]


def content(client: Any, key: str) -> str:
    """Return everything that a key holds, as text."""
    read = {
        "string": client.get,
        "hash": client.hgetall,
        "list": lambda name: client.lrange(name, 0, -1),
        "set": client.smembers,
        "zset": lambda name: client.zrange(name, 0, -1),
        "stream": client.xrange,
    }
    return f"{key} {read[client.type(key)](key)}"
