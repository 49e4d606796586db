"""The queue on a real server: what others see of it, and what it does when things break."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis
from hypothesis import given, settings, strategies as st

from redis_consumer.errors import LeaseLost, QueueUnavailable, SettingsError
from redis_consumer.queues.base import Child, Place
from redis_consumer.queues.lua import Scripts, _text
from redis_consumer.queues.redis import RedisJobQueue, RedisSubmitter
from redis_consumer.queues.redis_admin import RedisJobAdmin
from redis_consumer.queues.sweeper import FORGET_MILLISECONDS, RedisSweeper
from redis_consumer.redis import RedisClient
from redis_consumer.testing.servers import Server, start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from redis_consumer.job import Job

QUEUE = "segmentation"
OWN_LIST = "processing-segmentation:lane-1:pod-1"
LONG = 20.0
LEASES, SEEN, LISTS = "redis-consumer:leases", "redis-consumer:seen", "redis-consumer:lists"
DUE = "redis-consumer:due"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[RedisClient]:
    client = RedisClient(server.host, server.port)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def lane(client: RedisClient) -> Iterator[RedisJobQueue]:
    lane = open_lane(client)
    yield lane
    lane.close()


def open_lane(client: RedisClient, **settings: Any) -> RedisJobQueue:
    return RedisJobQueue(client, queue=QUEUE, **{"lane": "lane-1", "pod": "pod-1"} | settings)


def submit(client: RedisClient, name: str = "cells.tif", **fields: str) -> str:
    return RedisSubmitter(client, host="frontend").submit(QUEUE, name, fields)


def claimed(lane: RedisJobQueue) -> Job:
    job = lane.claim(timeout=LONG)
    assert job is not None
    return job


def sweeper(client: RedisClient) -> RedisSweeper:
    """One whose quiet period at the start is over."""
    sweeper = RedisSweeper(client, lease_seconds=0)
    sweeper.sweep()
    return sweeper


def run_out(client: RedisClient, zset: str) -> None:
    client.zadd(zset, dict.fromkeys(client.zrange(zset, 0, -1), 1))


class TestWhatOthersSee:
    def test_a_held_job_stands_in_a_list_that_ends_in_the_pods_name(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        key = submit(client)
        claimed(lane)
        assert client.lrange(OWN_LIST, 0, -1) == [key]
        assert client.llen(QUEUE) == 0

    def test_only_lists_are_called_processing(self, client: RedisClient, lane: RedisJobQueue) -> None:
        for name in ("a.tif", "b.tif"):
            submit(client, name)
        lane.settle(claimed(lane), "failed", {"reason": "no"})
        claimed(lane)
        assert [client.type(key) for key in client.keys("processing-*")] == ["list"]
        others = set(client.keys("*")) - set(client.keys("processing-*")) - set(client.keys(f"{QUEUE}:*"))
        assert all(key.startswith("redis-consumer:") for key in others)

    def test_no_list_stays_behind(self, client: RedisClient, lane: RedisJobQueue) -> None:
        submit(client)
        lane.settle(claimed(lane), "done", {})
        assert client.keys("processing-*") == []
        assert client.zcard(LEASES) == 0

    def test_a_final_hash_does_not_expire_and_our_record_does(self, client: RedisClient, lane: RedisJobQueue) -> None:
        key = submit(client)
        lane.settle(claimed(lane), "done", {})
        assert client.ttl(key) == -1
        assert client.ttl(f"redis-consumer:job:{key}") > 3600

    def test_the_final_fields_appear_together(self, client: RedisClient, lane: RedisJobQueue) -> None:
        key = submit(client)
        job = claimed(lane)
        lane.update(job, {"status": "done", "output_url": "https://host/x.zip", "output_file_name": "output/x.zip"})
        assert "output_url" not in client.hgetall(key)
        lane.settle(job, "done", {})
        assert {"output_url", "output_file_name", "finished_at"} <= set(client.hgetall(key))

    def test_a_failed_job_is_among_the_dead_letters_without_secrets(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        secrets = {"api_token": "t0p", "Password": "t0p", "url": "https://me:t0p@host/x.tif?X-Signature=t0p"}
        key = submit(client, channels="0,1", **secrets)
        lane.settle(claimed(lane), "failed", {"reason": "GET https://host/a?sig=t0p gave 403"})
        letter = client.hget("redis-consumer:dead", key)
        assert "t0p" not in letter
        fields = json.loads(letter)["fields"]
        assert (fields["channels"], fields["url"]) == ("0,1", "https://host/x.tif")
        assert fields["reason"] == "GET https://host/a gave 403"

    @pytest.mark.parametrize(
        ("address", "shown"),
        [
            ("https://user:p@ss@host/x", "https://host/x"),
            ("redis://:pa/ss@host:6379/0", "redis://host:6379/0"),
            ("redis://:pa?s#s@host:6379/0", "redis://host:6379/0"),
            ("GET https://host/k?sig=abc)SECRET failed", "GET https://host/k failed"),
            ("'https://host/k?sig=a'b\"SECRET", "'https://host/k"),
            ("'https://host/x' and me@host", "'https://host/x' and me@host"),
            ("https://host/x?mail=me@host next", "https://host/x next"),
        ],
    )
    def test_a_dead_letter_shows_addresses_bare(
        self, client: RedisClient, lane: RedisJobQueue, address: str, shown: str
    ) -> None:
        key = submit(client, url=address)
        lane.settle(claimed(lane), "failed", {"reason": "x"})
        assert json.loads(client.hget("redis-consumer:dead", key))["fields"]["url"] == shown

    def test_a_job_that_was_given_up_is_a_dead_letter_too(self, client: RedisClient) -> None:
        lane = open_lane(client, max_deliveries=1)
        key = submit(client)
        lane.release(claimed(lane), Place.BACK)
        assert lane.claim(timeout=0) is None
        assert json.loads(client.hget("redis-consumer:dead", key))["fields"]["status"] == "failed"

    @settings(deadline=None)
    @given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis adds the zone
    def test_time_stamps_are_those_of_python(self, server: Server, moment: datetime) -> None:
        client = RedisClient(server.host, server.port)
        seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
        written = client.eval(
            _text("prelude") + "\nreturn iso(ARGV[1] + 0, ARGV[2] + 0)", 0, seconds, moment.microsecond
        )
        client.close()
        assert written == moment.isoformat(timespec="microseconds")


class TestCost:
    def test_a_job_with_four_statuses_costs_at_most_ten_commands(
        self, server: Server, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        for name in ("first.tif", "second.tif"):
            submit(client, name)
        run_segmentation(lane)  # loads the scripts
        with Commands(server, client) as commands:
            run_segmentation(lane)
        assert len(commands.seen) <= 10, commands.seen

    def test_an_idle_claim_costs_two_commands(self, server: Server, client: RedisClient, lane: RedisJobQueue) -> None:
        for _ in range(2):  # connections of its own and of the client
            lane.claim(timeout=0.01)
        with Commands(server, client) as commands:
            lane.claim(timeout=0.01)
        assert [name.upper() for name in commands.seen] == ["EVALSHA", "BLMOVE"]


def run_segmentation(lane: RedisJobQueue) -> None:
    job = claimed(lane)
    for status in ("pre-processing", "predicting", "post-processing", "saving-results"):
        lane.update(job, {"status": status})
    lane.settle(job, "done", {"output_url": "https://host/x.zip"})


class Commands:
    """What clients send to a server meanwhile, scripts counted as one; and what the scripts do, whole."""

    def __init__(self, server: Server, client: RedisClient) -> None:
        self.seen: list[str] = []
        self.inside: list[str] = []
        self._client = client
        self._own = RedisClient(server.host, server.port)

    def __enter__(self) -> Self:
        self._monitor = self._own.monitor()
        self._monitor.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.ask("ECHO", "over")  # on a connection that is there
        for event in self._monitor.listen():
            if event["command"] == "ECHO over":
                break
            if event["client_type"] == "lua":
                self.inside.append(event["command"])
            else:
                self.seen.append(event["command"].split()[0])
        self._monitor.__exit__(None, None, None)
        self._own.close()


class TestManyFields:
    """More than Lua passes to a function."""

    @pytest.mark.parametrize(("count", "writes"), [(2000, 1), (9000, 5)])
    @pytest.mark.parametrize("status", ["done", "failed"])
    def test_the_status_is_written_with_the_last_of_them(
        self, server: Server, client: RedisClient, lane: RedisJobQueue, count: int, writes: int, status: str
    ) -> None:
        key = submit(client)
        job = claimed(lane)
        fields = {f"field_{i}": str(i) for i in range(count)}
        with Commands(server, client) as commands:
            lane.settle(job, status, fields)
        assert client.hgetall(key).items() >= {**fields, "status": status}.items()
        written = [command for command in commands.inside if command.startswith(f"HSET {key} ")]
        assert [f" status {status}" in command for command in written] == [False] * (writes - 1) + [True]

    @pytest.mark.parametrize("hash_is", ["there", "expired"])
    def test_a_job_with_many_is_replayed(self, client: RedisClient, lane: RedisJobQueue, hash_is: str) -> None:
        key = submit(client)
        fields = {f"field_{i}": str(i) for i in range(9000)}
        client.hset(key, mapping=fields)
        lane.settle(claimed(lane), "failed", {"reason": "x"})
        if hash_is == "expired":
            client.delete(key)
        assert RedisJobAdmin(client).replay(key, by="me") == "replayed"
        assert client.hgetall(key).items() >= {**fields, "status": "new"}.items()
        assert claimed(lane).key == key


class TestBrokenEntries:
    def test_an_entry_that_is_no_hash_is_dropped(self, client: RedisClient, lane: RedisJobQueue) -> None:
        client.set("a string", "1")
        client.lpush(QUEUE, "a string")
        key = submit(client)
        assert claimed(lane).key == key
        assert client.get("a string") == "1"

    def test_a_name_that_is_not_utf_8_is_worked_off(self, client: RedisClient, lane: RedisJobQueue) -> None:
        key = b"segmentation:caf\xe9.tif:1"
        client.hset(key, mapping={"status": "new", "original_name": b"caf\xe9.tif"})
        client.lpush(QUEUE, key)
        lane.settle(claimed(lane), "done", {})
        assert client.hget(key, "status") == "done"
        assert client.keys("processing-*") == []

    def test_a_hash_without_a_status_is_a_job(self, client: RedisClient, lane: RedisJobQueue) -> None:
        client.hset("odd", "input_file_name", "uploads/a.tif")
        client.lpush(QUEUE, "odd")
        assert claimed(lane).key == "odd"


class TestOwnList:
    def test_what_was_moved_and_not_claimed_comes_first(self, client: RedisClient, lane: RedisJobQueue) -> None:
        keys = [submit(client, f"{i}.tif") for i in range(3)]
        for _ in range(2):
            client.lmove(QUEUE, OWN_LIST, "RIGHT", "LEFT")
        for key in keys:
            assert claimed(lane).key == key
            lane.settle(claimed(open_lane(client)), "done", {})

    def test_close_puts_it_back_in_order(self, client: RedisClient, lane: RedisJobQueue) -> None:
        keys = [submit(client, f"{i}.tif") for i in range(3)]
        for _ in range(2):
            client.lmove(QUEUE, OWN_LIST, "RIGHT", "LEFT")
        lane.close()
        assert client.lrange(QUEUE, 0, -1) == keys[::-1]
        assert not client.exists(OWN_LIST)

    def test_a_closed_lane_claims_nothing(self, client: RedisClient, lane: RedisJobQueue) -> None:
        submit(client)
        lane.close()
        assert lane.claim(timeout=LONG) is None


class TestJanitor:
    """It takes entries out of lists of pods that it believes dead, and pushes them to the queue: two commands."""

    def test_a_heartbeat_puts_the_entry_back(self, client: RedisClient, lane: RedisJobQueue) -> None:
        key = submit(client)
        job = claimed(lane)
        client.lrem(OWN_LIST, 1, key)
        lane.heartbeat(job)
        lane.heartbeat(job)
        assert client.lrange(OWN_LIST, 0, -1) == [key]

    def test_a_running_job_that_it_queued_again_is_not_run_twice(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        key = submit(client)
        job = claimed(lane)
        client.lrem(OWN_LIST, 1, key)
        client.lpush(QUEUE, key)
        lane.heartbeat(job)
        other = open_lane(client, lane="lane-2", pod="pod-2")
        assert other.claim(timeout=0) is None
        lane.settle(job, "done", {})
        other.close()

    def test_before_the_heartbeat_the_other_lane_takes_over(self, client: RedisClient, lane: RedisJobQueue) -> None:
        key = submit(client)
        job = claimed(lane)
        client.lrem(OWN_LIST, 1, key)
        client.lpush(QUEUE, key)
        other = open_lane(client, lane="lane-2", pod="pod-2")
        theirs = claimed(other)
        with pytest.raises(LeaseLost):
            lane.settle(job, "done", {})
        other.settle(theirs, "done", {})

    def test_a_job_is_found_though_it_took_the_entry_before_the_claim_and_died(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        lane.claim(timeout=0)
        key = "segmentation:cells.tif:1"  # of the frontend: nobody registered it
        client.hset(key, "status", "new")
        assert lane._claim(key) is None
        sweep = sweeper(client)
        for _ in range(3):
            sweep.sweep()
            time.sleep(0.01)
        assert client.lrange(QUEUE, 0, -1) == [key]

    def test_a_job_is_found_though_the_janitor_died_with_its_entry(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        key = submit(client)
        claimed(lane)
        client.lrem(OWN_LIST, 1, key)
        run_out(client, LEASES)
        assert sweeper(client).sweep() == 1
        assert client.lrange(QUEUE, 0, -1) == [key]


class TestRegistry:
    """A job that we put into a queue is found again, though a lane and the janitor died over its entry."""

    def test_a_job_that_is_claimed_leaves_it(self, client: RedisClient, lane: RedisJobQueue) -> None:
        submit(client)
        claimed(lane)
        assert client.keys("redis-consumer:submitted:*") == []

    def test_a_job_that_was_never_claimed_comes_back(self, client: RedisClient, lane: RedisJobQueue) -> None:
        lane.claim(timeout=0)
        key = submit(client)
        assert swept_after_a_loss(client) == [key]

    def test_a_parent_that_was_woken_comes_back_with_its_own_word(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        key = submit(client)
        lane.update(parent := claimed(lane), {"status": "my-own-word"})
        lane.release(parent, Place.WAITING, seconds=0)
        sweeper(client).sweep()
        assert swept_after_a_loss(client) == [key]

    def test_a_job_that_a_lane_gave_back_at_its_end_comes_back(
        self, client: RedisClient, lane: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The answer to its claim was lost: so the lane did not begin it, and Redis has it as started."""
        key = submit(client)
        run = lane._scripts.run

        def unanswered(name: str, *keys: str, **more: Any) -> Any:
            reply = run(name, *keys, **more)
            if name == "claim":
                raise QueueUnavailable("no answer")
            return reply

        monkeypatch.setattr(lane._scripts, "run", unanswered)
        with pytest.raises(QueueUnavailable):
            lane.claim(timeout=0)
        assert client.hget(key, "status") == "started"
        lane.close()
        assert client.hget(key, "status") == "new"
        assert swept_after_a_loss(client) == [key]

    def test_a_job_that_an_original_consumer_took_is_left_to_it(self, client: RedisClient, lane: RedisJobQueue) -> None:
        lane.claim(timeout=0)
        key = submit(client)
        client.hset(key, "status", "started")
        assert swept_after_a_loss(client) == []


def swept_after_a_loss(client: RedisClient) -> list[str]:
    """Lose the entry at the exit, and return what stands in the queue some turns later."""
    sweep = sweeper(client)
    sweep.sweep()
    client.rpop(QUEUE)
    for _ in range(3):
        sweep.sweep()
        time.sleep(0.01)
    entries: list[str] = client.lrange(QUEUE, 0, -1)
    return entries


class TestChildren:
    def test_a_failover_that_undid_some_is_noticed(
        self, client: RedisClient, lane: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("redis_consumer.queues.redis.CHILDREN_AT_A_TIME", 2)
        key = submit(client)
        parent = claimed(lane)
        children = [Child(QUEUE, f"{i}.tif", {}) for i in range(3)]

        def failing_over() -> Iterator[Child]:
            yield from children[:2]
            client.delete(f"redis-consumer:children:{key}", f"redis-consumer:open-children:{key}", QUEUE)
            yield children[2]

        with pytest.raises(QueueUnavailable, match="forgot children"):
            lane.submit_children(parent, failing_over())
        assert client.hget(f"redis-consumer:job:{key}", "children") is None
        keys = lane.submit_children(parent, children)
        assert [name.split(":")[1] for name in keys] == [child.name for child in children]

    def test_the_end_of_the_last_wakes_no_parent_that_has_not_submitted_all(
        self, client: RedisClient, lane: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("redis_consumer.queues.redis.CHILDREN_AT_A_TIME", 1)

        def torn() -> Iterator[Child]:
            yield Child(QUEUE, "x.tif", {})
            raise OSError("a broken archive")

        submit(client)
        parent = claimed(lane)
        with pytest.raises(OSError, match="broken"):
            lane.submit_children(parent, torn())
        lane.release(parent, Place.LATER, seconds=1000)
        lane.settle(claimed(lane), "done", {})
        assert lane.claim(timeout=0) is None

    def test_many_parents_are_looked_after_by_and_by(self, client: RedisClient, lane: RedisJobQueue) -> None:
        """The server does nothing else meanwhile."""
        for number in range(8):
            submit(client, f"{number}.zip")
            parent = claimed(lane)
            lane.submit_children(parent, [Child("others", "x.tif", {})] * 200)
            lane.release(parent, Place.WAITING)
        run_out(client, DUE)
        left = []
        while overdue := client.zcount(DUE, "-inf", 1):
            left.append(overdue)
            lane.claim(timeout=0)
        assert left == [8, 3]

    def test_they_are_remembered_as_long_as_their_parent_is_worked_on(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        key = submit(client)
        lane.submit_children(parent := claimed(lane), [Child(QUEUE, "x.tif", {})])
        lane.release(parent, Place.WAITING)
        lane.settle(claimed(lane), "done", {})
        client.expire(f"redis-consumer:children:{key}", 100)
        assert claimed(lane).key == key
        assert client.ttl(f"redis-consumer:children:{key}") > 3600

    def test_those_that_are_submitted_during_a_cancel_are_cancelled(
        self, client: RedisClient, lane: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        submit(client)
        parent = claimed(lane)
        keys: list[str] = []
        admin = RedisJobAdmin(client)
        run = admin._scripts.run

        def late(*arguments: Any, **more: Any) -> Any:
            if not keys:
                keys.extend(lane.submit_children(parent, [Child(QUEUE, "x.tif", {})]))
            return run(*arguments, **more)

        monkeypatch.setattr(admin._scripts, "run", late)
        assert admin.cancel(parent.key, by="me") == [parent.key, *keys]


def test_a_replayed_job_does_not_expire(client: RedisClient, lane: RedisJobQueue) -> None:
    key = submit(client)
    lane.settle(claimed(lane), "failed", {"reason": "x"})
    client.expire(key, 3600)  # as the web page does once it has seen the end
    RedisJobAdmin(client).replay(key, by="me")
    assert client.ttl(key) == -1


class TestSweep:
    def test_a_turn_soon_after_another_is_left_out(self, client: RedisClient, lane: RedisJobQueue) -> None:
        sweeps = [RedisSweeper(client, lease_seconds=30, clock=count(step=31).__next__) for _ in range(2)]
        for sweep in sweeps:
            assert sweep.sweep() == 0  # the first look
        submit(client)
        claimed(lane)
        assert sweeps[0].sweep() == 0
        run_out(client, LEASES)
        assert [sweep.sweep() for sweep in sweeps] == [0, 0]
        client.set("redis-consumer:swept", 2**50)  # the clock of the server before this one was ahead
        assert sweeps[1].sweep() == 1

    def test_a_job_of_a_dead_lane_comes_back(self, client: RedisClient, lane: RedisJobQueue) -> None:
        key = submit(client)
        claimed(lane)
        sweep = sweeper(client)
        assert sweep.sweep() == 0
        run_out(client, LEASES)
        assert sweep.sweep() == 1
        assert client.lrange(QUEUE, 0, -1) == [key]
        assert client.keys("processing-*") == []

    def test_an_entry_that_nobody_claims_comes_back_after_a_lease_period(self, client: RedisClient) -> None:
        key = submit(client)
        assert open_lane(client).claim(timeout=0)  # registers the list
        other = submit(client, "other.tif")
        client.lmove(QUEUE, OWN_LIST, "RIGHT", "LEFT")
        sweep = RedisSweeper(client, lease_seconds=0.2)
        assert sweep.sweep() == 0
        time.sleep(0.25)
        assert sweep.sweep() == 0  # the first look
        assert sweep.sweep() == 0
        time.sleep(0.25)
        assert sweep.sweep() == 1
        assert client.lrange(QUEUE, 0, -1) == [other]
        assert client.lrange(OWN_LIST, 0, -1) == [key]

    def test_a_finished_job_does_not_come_back(self, client: RedisClient, lane: RedisJobQueue) -> None:
        key = submit(client)
        claimed(lane)
        client.hset(key, "status", "done")
        run_out(client, LEASES)
        assert sweeper(client).sweep() == 0
        assert client.llen(QUEUE) == 0
        assert client.keys("processing-*") == []

    def test_nothing_is_swept_in_the_first_lease_period_after_a_restart(self, tmp_path: Path) -> None:
        clock = [0.0]
        with start_redis(tmp_path, 0, "--appendonly", "yes") as first:
            client = RedisClient(first.host, first.port)
            sweep = RedisSweeper(client, lease_seconds=30, clock=lambda: clock[0])
            sweep.sweep()
            clock[0] += 31
            submit(client)
            claimed(open_lane(client))
            run_out(client, LEASES)
        with start_redis(tmp_path, first.port, "--appendonly", "yes"):
            with pytest.raises(QueueUnavailable):  # used a moment ago, the connection is not looked at
                sweep.sweep()
            assert [sweep.sweep(), sweep.sweep()] == [0, 0]
            clock[0] += 31
            assert sweep.sweep() == 1
            client.close()

    def test_an_empty_list_is_forgotten_after_a_day_only(self, client: RedisClient, lane: RedisJobQueue) -> None:
        lane.claim(timeout=0)
        sweep = sweeper(client)
        sweep.sweep()
        assert client.zrange(LISTS, 0, -1) == [OWN_LIST]
        client.zincrby(LISTS, -FORGET_MILLISECONDS - 1, OWN_LIST)
        sweep.sweep()
        assert client.exists(LISTS) == 0

    def test_sweeps_at_once_return_a_job_once(self, client: RedisClient) -> None:
        sweepers = [sweeper(client) for _ in range(4)]
        for i in range(5):
            submit(client, f"{i}.tif")
            open_lane(client, lane=f"dead-{i}").claim(timeout=0)
        run_out(client, LEASES)
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(lambda one: one.sweep(), sweepers)) == 5
        assert client.llen(QUEUE) == 5


class TestOutage:
    def test_a_cut_connection_costs_nothing(self, client: RedisClient, lane: RedisJobQueue) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lane.claim, timeout=LONG)
            cut_blocked(client)
            with pytest.raises(QueueUnavailable):
                waiting.result(LONG)
        key = submit(client)
        assert claimed(lane).key == key

    @pytest.mark.parametrize("more", [{"progress": 50}, None])
    def test_what_was_announced_outlives_a_cut_connection(
        self, server: Server, client: RedisClient, lane: RedisJobQueue, more: dict[str, int] | None
    ) -> None:
        key = submit(client)
        job = claimed(lane)
        with redis.Redis(server.host, server.port) as other:
            other.client_pause(int(1000 * LONG), all=False)  # of what writes: the announcement waits in the server
            lane.announce(job, {"status": "predicting", "note": "seen"})
            other.client_kill_filter(_type="normal", skipme=True)
            other.client_unpause()
        assert client.hget(key, "note") is None
        if more:
            lane.announce(job, more)
            assert client.hget(key, "note") == "seen"
        lane.settle(job, "done", {})
        assert client.hmget(key, "note", "status") == ["seen", "done"]

    def test_a_server_that_hangs_is_noticed_and_nothing_is_lost(self, tmp_path: Path) -> None:
        with start_redis(tmp_path) as server:
            client = RedisClient(server.host, server.port, timeout_seconds=0.3)
            lane = open_lane(client)
            key = submit(client)
            assert lane.claim(timeout=0)
            lane = open_lane(client)
            server.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, server.pid, os.WSTOPPED)
            with pytest.raises(QueueUnavailable, match=str(server.port)):
                lane.claim(timeout=0.1)
            server.process.send_signal(signal.SIGCONT)
            assert claimed(lane).key == key
            lane.close()
            client.close()

    def test_a_settle_outlives_a_restart_of_the_server(self, tmp_path: Path) -> None:
        with start_redis(tmp_path, 0, "--appendonly", "yes", "--appendfsync", "always") as first:
            client = RedisClient(first.host, first.port)
            lane = open_lane(client)
            key = submit(client)
            job = claimed(lane)
        with ThreadPoolExecutor(1) as pool:
            settling = pool.submit(lane.settle, job, "done", {})
            with start_redis(tmp_path, first.port, "--appendonly", "yes"):
                settling.result(LONG)
                assert client.hget(key, "status") == "done"
                lane.close()
                client.close()

    def test_a_settle_without_an_answer_is_asked_again_before_the_next_claim(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("redis_consumer.queues.redis.PATIENCE_SECONDS", 0.2)
        with start_redis(tmp_path, 0, "--appendonly", "yes", "--appendfsync", "always") as first:
            client = RedisClient(first.host, first.port)
            lane = open_lane(client)
            key, other = submit(client), submit(client, "other.tif")
            job = claimed(lane)
        with pytest.raises(QueueUnavailable):
            lane.settle(job, "done", {"output_url": "https://host/x.zip"})
        with start_redis(tmp_path, first.port, "--appendonly", "yes"):
            assert claimed(lane).key == other
            assert client.hget(key, "output_url") == "https://host/x.zip"
            client.close()

    def test_a_settle_that_never_works_does_not_hold_up_the_lane(
        self, client: RedisClient, lane: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = submit(client)
        run = lane._scripts.run

        def broken(name: str, *keys: str, **more: Any) -> Any:
            if name == "settle":
                raise redis.ResponseError("a fault of ours")
            return run(name, *keys, **more)

        monkeypatch.setattr(lane._scripts, "run", broken)
        with pytest.raises(redis.ResponseError):
            lane.settle(claimed(lane), "done", {})
        assert claimed(lane).key == key

    def test_who_ends_a_job_for_its_lane_waits_for_nothing(self, client: RedisClient, lane: RedisJobQueue) -> None:
        """As the time limit does it, while the lane itself may be reading an answer."""
        keys = [submit(client), submit(client)]
        job = claimed(lane)
        lane.announce(job, {"status": "predicting"})
        announced, deadline = lane._announced, time.monotonic() + LONG
        while client.hget(keys[0], "status") != "predicting":
            assert time.monotonic() < deadline
            time.sleep(0.001)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lane.settle, job, "failed", {"reason": "too long"}).result(LONG)
        assert announced is lane._announced is not None
        lane.announce(job, {"status": "post-processing"})  # the answer to the first was that it is ours
        with pytest.raises(LeaseLost):
            lane.update(job, {})
        assert client.hmget(keys[0], "status", "reason") == ["failed", "too long"]
        assert claimed(lane).key == keys[1]

    def test_an_announcement_that_never_works_fails_the_job_and_not_the_lane(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        key = submit(client)
        job = claimed(lane)
        lane.announce(job, {f"field {number}": number for number in range(9000)})  # more than Lua takes
        with pytest.raises(redis.ResponseError, match="unpack"):
            lane.update(job, {"status": "done"})
        lane.settle(job, "failed", {"reason": "a bug"})
        assert client.hget(key, "reason") == "a bug"

    def test_a_server_that_forgot_its_scripts_is_told_them_again(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        submit(client)
        job = claimed(lane)
        client.script_flush()
        lane.update(job, {"status": "predicting"})
        client.script_flush()
        lane.settle(job, "done", {})

    def test_a_full_server_is_unavailable(
        self, client: RedisClient, lane: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("redis_consumer.queues.redis.UPDATE_SECONDS", 0.2)
        submit(client)
        job = claimed(lane)
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(QueueUnavailable):
                lane.update(job, {"status": "predicting"})
        finally:
            client.config_set("maxmemory", 0)
        lane.update(job, {"status": "predicting"})


def test_a_server_that_is_too_old_is_named(tmp_path: Path) -> None:
    renamed = [word for name in ("LMOVE", "BLMOVE") for word in ("--rename-command", name, "")]
    with start_redis(tmp_path, 0, *renamed) as server:
        client = RedisClient(server.host, server.port)
        with pytest.raises(SettingsError, match="too old"):
            open_lane(client).claim(timeout=0)
        client.close()


def cut_blocked(client: RedisClient) -> None:
    """Cut the connection that waits in a BLMOVE, once there is one."""
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        for one in client.client_list():
            if one["cmd"] == "blmove" and "b" in one["flags"]:
                client.client_kill_filter(_id=one["id"])
                return
        time.sleep(0.01)
    pytest.fail("no client waits in a BLMOVE")


class TestReplicas:
    def test_what_is_asked_again_writes_again_or_wait_would_not_wait(self, client: RedisClient) -> None:
        scripts = Scripts(client)
        key = f"{QUEUE}:x.tif:1"
        token, failure = "t", "{}"
        client.lpush(OWN_LIST, key)

        def ask(name: str, *keys: str, args: Sequence[object]) -> None:
            for _ in range(2):
                before = client.info("persistence")["rdb_changes_since_last_save"]
                scripts.run(name, *keys, args=args)
                assert client.info("persistence")["rdb_changes_since_last_save"] > before, name

        ask("submit", key, QUEUE, args=["host"])
        ask("claim", key, OWN_LIST, args=[token, "pod-1", "1", 30000, 5])
        ask("submit_children", key, args=[token, "pod-1", 0, 1])
        ask("release", key, args=[token, "pod-1", "front", 0, 5, "how", failure])
        client.lpush(OWN_LIST, key)
        ask("claim", key, OWN_LIST, args=["t2", "pod-1", "1", 30000, 5])
        ask("settle", key, args=["t2", "pod-1", "done", failure])

    def test_a_write_that_no_replica_confirms_is_no_answer(self, tmp_path: Path) -> None:
        with start_redis(tmp_path / "master", 0, "--repl-diskless-sync-delay", "0") as master:
            client = RedisClient(master.host, master.port)
            lane = open_lane(client, wait_replicas=1)
            key = submit(client)
            with pytest.raises(QueueUnavailable, match="0 of 1"):
                lane.claim(timeout=0)
            with start_redis(tmp_path / "replica", 0, "--replicaof", master.host, str(master.port)):
                wait_for_replica(client)
                job = claimed(lane)
                assert (job.key, job.deliveries) == (key, 1)
                lane.settle(job, "done", {})
            lane.close()
            client.close()


def wait_for_replica(client: RedisClient) -> None:
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        replicas = client.info("replication")
        if replicas["connected_slaves"] == 1 and replicas["slave0"]["state"] == "online":
            return
        time.sleep(0.05)
    pytest.fail("no replica came")


def test_lanes_in_many_threads_share_a_client(client: RedisClient) -> None:
    keys = {submit(client, f"{i}.tif") for i in range(60)}
    done: list[str] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        lane = open_lane(client, lane=f"lane-{number}")
        while job := lane.claim(timeout=0):
            lane.heartbeat(job)
            lane.settle(job, "done", {})
            with lock:
                done.append(job.key)
        lane.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert sorted(done) == sorted(keys)
    assert client.keys("processing-*") == []


class TestSize:
    def test_a_job_whose_fields_are_too_large_to_read_fails_unread(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        key, other = submit(client, channels="x" * 17_000_000), submit(client, "other.tif")
        assert claimed(lane).key == other
        fields = client.hmget(key, "status", "reason")
        assert fields[0] == "failed"
        assert fields[1].startswith("The fields of the job take 17000")
        assert len(client.hget("redis-consumer:dead", key)) < 10_000

    def test_what_others_took_out_of_a_queue_is_not_remembered_for_ever(
        self, client: RedisClient, lane: RedisJobQueue
    ) -> None:
        keys = [submit(client, f"{i}.tif") for i in range(50)]
        client.delete(QUEUE, *keys)
        assert client.ttl(f"redis-consumer:submitted:{QUEUE}") > 0
        assert lane.claim(timeout=0) is None  # the lane is registered now
        sweeper = RedisSweeper(client, lease_seconds=0)
        for _ in range(3):
            sweeper.sweep()
        assert client.zcard(f"redis-consumer:submitted:{QUEUE}") == 0
