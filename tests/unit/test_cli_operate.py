"""The operator's commands, on queues in memory; on a real server they are tried in tests/acceptance."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from redis_consumer import bootstrap, cli
from redis_consumer.cli.dead import moment
from redis_consumer.cli.tables import duration
from redis_consumer.demo.stack import neutral_environ
from redis_consumer.errors import Failure, QueueUnavailable
from redis_consumer.queues.base import Place
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.queues.memory_admin import MemoryJobAdmin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis_consumer.queues.admin import JobState

OUTAGE = Failure("StorageUnavailable", "The storage does not answer", "Traceback ...")


class Setup:
    """Two queues in memory."""

    def __init__(self) -> None:
        self.late = 0.0
        self.broker = MemoryBroker(clock=lambda: time.time() + self.late)
        self.submitter = MemorySubmitter(self.broker)

    def submit(self, name: str, queue: str = "segmentation") -> str:
        return self.submitter.submit(queue, name, {"original_name": name})

    def lane(self, queue: str = "segmentation") -> MemoryJobQueue:
        return MemoryJobQueue(self.broker, queue=queue, pod="pod-1")

    def fail(self, name: str, queue: str = "segmentation", failure: Failure = OUTAGE) -> str:
        key = self.submit(name, queue)
        lane = self.lane(queue)
        while (job := lane.claim(timeout=0)) and job.key != key:
            raise AssertionError("the queue must be empty")
        assert job
        lane.settle(job, "failed", {"reason": failure.reason}, failure)
        return key

    def status(self, key: str) -> str:
        return self.submitter.read(key).get("status", "missing")


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    made = Setup()
    monkeypatch.setattr(bootstrap, "build_admin", lambda _: MemoryJobAdmin(made.broker))
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    before = dict(os.environ)
    for name in before.keys() - neutral_environ().keys():
        del os.environ[name]
    os.environ["HOSTNAME"] = "desk"
    yield made
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> tuple[int, str]:
        code = cli.main(words)
        return code, capsys.readouterr().out

    return run


class TestLooking:
    def test_queues(self, setup: Setup, run: Any) -> None:
        setup.fail("0.tif")
        setup.submit("1.tif")
        setup.submit("2.tif")
        setup.lane().claim(timeout=0)
        code, text = run("queues")
        assert code == 0
        heading, line = text.splitlines()
        assert heading.split() == ["QUEUE", "WAITING", "RUNNING", "PARKED", "DEAD", "OLDEST"]
        assert line.split() == ["segmentation", "1", "1", "0", "1", "0s"]
        (row,) = json.loads(run("queues", "--json")[1])
        assert (row["waiting"], row["running"], row["dead"]) == (1, 1, 1)

    def test_workers(self, setup: Setup, run: Any) -> None:
        key = setup.submit("1.tif")
        lane = setup.lane()
        job = lane.claim(timeout=0)
        assert job
        lane.update(job, {"status": "predicting"})
        line = run("workers")[1].splitlines()[1]
        assert key in line
        assert {"segmentation", "pod-1", "predicting"} <= set(line.split())
        (row,) = json.loads(run("workers", "--json")[1])
        assert (row["job"], row["host"], row["deliveries"]) == (key, "pod-1", 1)

    def test_jobs_by_queue_and_place(self, setup: Setup, run: Any) -> None:
        failed = setup.fail("a b.tif")
        running, waiting = setup.submit("1.tif"), setup.submit("2.tif")
        other = setup.submit("3.tif", "mesmer")
        setup.lane().claim(timeout=0)
        rows = json.loads(run("jobs", "--json")[1])
        assert [(row["queue"], row["place"], row["job"]) for row in rows] == [
            ("mesmer", "waiting", other),
            ("segmentation", "running", running),
            ("segmentation", "waiting", waiting),
            ("segmentation", "failed", failed),
        ]
        assert rows[-1]["reason"] == OUTAGE.reason
        (row,) = json.loads(run("jobs", "--json", "--queue", "segmentation", "--place", "running")[1])
        assert row["fields"]["original_name"] == "1.tif"
        text = run("jobs", "--place", "failed")[1]
        assert failed in text
        assert OUTAGE.reason in text

    def test_the_dead_letters_are_read_once_for_all_queues(
        self, setup: Setup, run: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = [setup.fail("1.tif", queue) for queue in ("mesmer", "segmentation")]
        places: list[str] = []
        find = MemoryJobAdmin.find

        def counted(admin: MemoryJobAdmin, queues: Sequence[str], place: str, *, limit: int) -> list[JobState]:
            places.append(place)
            return find(admin, queues, place, limit=limit)

        monkeypatch.setattr(MemoryJobAdmin, "find", counted)
        assert [row["job"] for row in json.loads(run("jobs", "--json")[1])] == keys
        assert places.count("failed") == 1

    @pytest.mark.parametrize("limit", ["0", "-5", "many", "1.5"])
    def test_a_limit_is_a_number_from_1(self, capsys: pytest.CaptureFixture[str], limit: str) -> None:
        with pytest.raises(SystemExit) as error:
            cli.main(["jobs", f"--limit={limit}"])
        assert error.value.code == 2
        assert f"--limit: {limit!r}: allowed is a whole number from 1" in capsys.readouterr().err

    def test_a_limit_is_kept(self, setup: Setup, run: Any) -> None:
        keys = [setup.submit(f"{i}.tif") for i in range(3)]
        assert [row["job"] for row in json.loads(run("jobs", "--json", "--limit", "1")[1])] == keys[:1]

    def test_a_name_cannot_forge_a_line(self, setup: Setup, run: Any) -> None:
        setup.submit("a\nb\x1b[2J.tif")
        text = run("jobs")[1]
        assert len(text.splitlines()) == 2
        assert r"a\nb\x1b[2J.tif" in text

    def test_nothing_is_nothing(self, setup: Setup, run: Any) -> None:
        assert setup.broker.jobs == {}
        for command in ("queues", "workers", "jobs"):
            assert run(command) == (0, "")
            assert run(command, "--json") == (0, "[]\n")


class TestChanging:
    def test_cancel_says_who(self, setup: Setup, run: Any) -> None:
        key = setup.submit("1.tif")
        assert run("cancel", key) == (0, f"{key}\tcancelled\n")
        assert setup.submitter.read(key)["reason"] == "Cancelled by ada on desk"
        assert run("cancel", key, "unknown:1") == (1, f"{key}\tnot open\nunknown:1\tnot open\n")

    def test_requeue(self, setup: Setup, run: Any) -> None:
        key = setup.submit("1.tif")
        job = setup.lane().claim(timeout=0)
        assert job
        assert run("requeue", key) == (0, f"{key}\trequeued\n")
        assert setup.status(key) == "new"
        assert run("requeue", "unknown:1") == (1, "unknown:1\tmissing\n")

    def test_each_answer_is_told_at_once(
        self, setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = [setup.submit(f"{i}.tif") for i in range(2)]
        requeue = MemoryJobAdmin.requeue

        def lost(admin: MemoryJobAdmin, key: str, *, by: str) -> str:
            if key == keys[1]:
                raise QueueUnavailable("gone")
            return requeue(admin, key, by=by)

        monkeypatch.setattr(MemoryJobAdmin, "requeue", lost)
        assert cli.main(["requeue", *keys]) == 1
        assert capsys.readouterr() == (f"{keys[0]}\trequeued\n", "redis-consumer: gone\n")

    def test_what_redis_refuses_is_one_line(
        self, setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: Any, **__: Any) -> str:
            raise redis.ResponseError("WRONGTYPE Operation against a key\nof another kind")

        monkeypatch.setattr(MemoryJobAdmin, "requeue", refused)
        assert cli.main(["requeue", setup.submit("1.tif")]) == 1
        assert capsys.readouterr().err == (
            "redis-consumer: ResponseError: WRONGTYPE Operation against a key of another kind\n"
        )

    def test_a_user_without_a_name_is_the_host(self, setup: Setup, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody() -> str:
            raise KeyError("getpwuid(): uid not found: 10001")

        monkeypatch.setattr("getpass.getuser", nobody)
        run("cancel", key := setup.submit("1.tif"))
        assert setup.submitter.read(key)["reason"] == "Cancelled by desk"


class TestDead:
    @pytest.fixture
    def letters(self, setup: Setup) -> list[str]:
        """An outage two hours ago, a bug an hour ago on another queue, and an outage now."""
        setup.late = -7200
        first = setup.fail("first.tif")
        setup.late = -3600
        second = setup.fail("second.tif", "mesmer", Failure("ValueError", "ValueError: no pixels"))
        setup.late = 0
        return [first, second, setup.fail("third.tif")]

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ([], [0, 1, 2]),
            (["--queue", "mesmer"], [1]),
            (["--error", "StorageUnavailable"], [0, 2]),
            (["--since", "90m"], [1, 2]),
            (["--since", "5400s", "--before", "30m"], [1]),
            (["--text", "pixels"], [1]),
            (["--text", "third"], [2]),
            (["--text", "third", "--queue", "mesmer"], []),
        ],
    )
    def test_list_is_filtered(self, letters: list[str], run: Any, filters: list[str], found: list[int]) -> None:
        rows = json.loads(run("dead", "list", "--json", *filters)[1])
        assert [row["key"] for row in rows] == [letters[i] for i in found]

    def test_list_shows_when_and_why(self, letters: list[str], run: Any) -> None:
        lines = run("dead", "list")[1].splitlines()
        assert lines[0].split() == ["DIED", "ERROR", "JOB", "REASON"]
        assert letters[1] in lines[2]
        assert lines[2].endswith("ValueError: no pixels")

    def test_show_tells_everything(self, letters: list[str], run: Any) -> None:
        code, text = run("dead", "show", letters[0])
        assert code == 0
        for part in (OUTAGE.reason, "StorageUnavailable", "Traceback ...", "by pod-1", "original_name = 'first.tif'"):
            assert part in text
        (row,) = json.loads(run("dead", "show", letters[0], "--json")[1])
        assert row["deliveries"][0]["how"] == "StorageUnavailable"
        assert run("dead", "show", "unknown:1") == (1, "unknown:1\tno such dead letter\n")

    def test_show_leaves_the_terminal_alone(self, setup: Setup, run: Any) -> None:
        bad = Failure("ValueError\x1b[1m", "bad \x1b[2J\nagain", "Traceback ...\n  \x1b[31mred")
        key = setup.fail("a\x1b[31m\udcff.tif", failure=bad)
        text = run("dead", "show", key)[1]
        assert all(line.isprintable() for line in text.split("\n"))
        assert r"bad \x1b[2J\nagain" in text
        assert "\n  Traceback ...\n" in text
        assert run("dead", "show", "x\x1b[2J\n:1") == (1, "x\\x1b[2J\\n:1\tno such dead letter\n")

    def test_replay_by_name(self, setup: Setup, letters: list[str], run: Any) -> None:
        assert run("dead", "replay", letters[0]) == (0, f"{letters[0]}\treplayed\n")
        assert [setup.status(key) for key in letters] == ["new", "failed", "failed"]
        assert run("dead", "replay", letters[0]) == (1, f"{letters[0]}\tunknown\n")

    def test_replay_by_filter(self, setup: Setup, letters: list[str], run: Any) -> None:
        code, text = run("dead", "replay", "--error", "StorageUnavailable")
        assert (code, len(text.splitlines())) == (0, 2)
        assert [setup.status(key) for key in letters] == ["new", "failed", "new"]

    def test_purge(self, setup: Setup, letters: list[str], run: Any) -> None:
        assert run("dead", "purge", "--before", "90m") == (0, f"{letters[0]}\tpurged\n")
        assert run("dead", "purge", letters[0])[0] == 1
        assert run("dead", "purge", "--all")[0] == 0
        assert setup.broker.dead == {}
        assert setup.status(letters[0]) == "failed"

    @pytest.mark.parametrize("verb", ["replay", "purge"])
    @pytest.mark.parametrize("words", [[], ["a:1", "--all"], ["a:1", "--queue", "q"]])
    def test_nobody_means_everything_by_accident(
        self, setup: Setup, letters: list[str], run: Any, verb: str, words: list[str]
    ) -> None:
        assert run("dead", verb, *words)[0] == 2
        assert len(setup.broker.dead) == len(letters)

    @pytest.mark.parametrize("when", ["yesterday", "999999999d", "0001-01-01T00:00+14:00", "9999-12-31T23:00-02:00"])
    def test_a_time_that_is_none_is_wrong_use(self, capsys: pytest.CaptureFixture[str], when: str) -> None:
        with pytest.raises(SystemExit) as error:
            cli.main(["dead", "list", "--since", when])
        assert error.value.code == 2
        assert f"{when!r}: allowed are 90s, 30m, 12h, 7d" in capsys.readouterr().err

    def test_a_parked_job_is_no_dead_one(self, setup: Setup, run: Any) -> None:
        setup.submit("1.tif")
        lane = setup.lane()
        job = lane.claim(timeout=0)
        assert job
        lane.release(job, Place.LATER, seconds=100, failure=OUTAGE)
        assert run("dead", "list") == (0, "")
        assert "parked" in run("jobs")[1]


def test_times_are_compared_in_utc() -> None:
    assert moment("2026-01-31T12:00+02:00") == "2026-01-31T10:00:00+00:00"
    assert moment("2026-01-31") == "2026-01-31T00:00:00+00:00"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.4, "59s"), (60, "1m"), (7200, "2h"), (200_000, "2d")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
