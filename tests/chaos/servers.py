"""The Redis side of chaos: one server with a durable log, or a master with a replica and three Sentinels.

Both can be hurt, and both keep the append-only files of every server that ever was master.  They know no job.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel
from tests.acceptance.bench import wait_until
from tests.chaos import aof

from redis_consumer.testing.servers import HOST, free_port, start_redis, start_sentinel

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from redis_consumer.testing.servers import Server

DURABLE = (
    ("--appendonly", "yes"),
    ("--auto-aof-rewrite-percentage", "0"),
    ("--aof-use-rdb-preamble", "no"),
    ("--aof-timestamp-enabled", "yes"),
    ("--repl-diskless-sync-delay", "0"),
)
MASTER = "mymaster"
SENTINELS = 3
DOWN_AFTER_MILLISECONDS = 2000
"""With less, a master on a busy machine is taken for dead while it lives: another fault than the one that is meant."""
IGNORANT_SHARE = 0.25
"""How often an old master comes back as a master: the Sentinels take ten seconds to put it right."""
ANSWER_SECONDS = 2.0
"""How long a frontend waits for Redis."""
CLIENT: dict[str, Any] = {
    "decode_responses": True,
    "socket_timeout": ANSWER_SECONDS,
    # A push that is sent again would open a finished job anew: whoever pushes must not repeat it unseen.
    "retry": Retry(NoBackoff(), 0),
}


class Site(Protocol):
    """Where the jobs are: what workers and frontends connect to, and what can be done to it."""

    replicas: int
    """How many servers beside the master hold what was acknowledged."""

    def port(self) -> int:
        """Return the port that `REDIS_PORT` names: Redis itself, or a Sentinel."""

    def connect(self) -> Any:
        """Return redis-py's client of whoever is master now; it finds the next one by itself."""

    def restart(self) -> None:
        """End the server in order and start it again; return when it answers."""

    def crash(self, rng: Random) -> float:
        """Kill the master and bring things to where they can be hurt again; return when writes were taken again."""

    def depose(self) -> None:
        """Make another server the master while the old one lives."""

    def pid(self) -> int:
        """Return the process id of the master."""

    def stop(self) -> None:
        """End everything; the files stay."""

    def logs(self) -> list[Path]:
        """Return the folders of append-only files, one for each history, after `stop`."""


class Single:
    """One server.  `loses_seconds` is how much of its log a crash takes with it, as a machine that loses power."""

    replicas = 0

    def __init__(self, folder: Path, *, fsync: str, loses_seconds: float = 0.0) -> None:
        self._folder = folder
        self._options = options(fsync)
        self._loses_seconds = loses_seconds
        self._port = free_port()
        self._server = start_redis(folder, self._port, *self._options)

    def port(self) -> int:
        """See `Site.port`."""
        return self._port

    def pid(self) -> int:
        """See `Site.pid`."""
        return self._server.pid

    def connect(self) -> Any:
        """See `Site.connect`."""
        return redis.Redis(HOST, self._port, **CLIENT)

    def restart(self) -> None:
        """See `Site.restart`."""
        self._server.stop()
        self._start()

    def crash(self, rng: Random) -> float:  # noqa: ARG002 - one server has no choice
        """See `Site.crash`."""
        self._server.kill()
        if self._loses_seconds:
            last = aof.files(self._folder / "appendonlydir")[1][-1]
            last.write_bytes(aof.cut_before(last.read_bytes(), time.time() - self._loses_seconds))
        self._start()
        return time.time()

    def depose(self) -> None:
        """See `Site.depose`."""
        raise NotImplementedError("there is no other")

    def stop(self) -> None:
        """See `Site.stop`."""
        self._server.stop()

    def logs(self) -> list[Path]:
        """See `Site.logs`."""
        return [self._folder / "appendonlydir"]

    def _start(self) -> None:
        self._server = start_redis(self._folder, self._port, *self._options)
        wait_until(lambda: answers(self._port), "Redis")


class Replicated:
    """A master, a replica and three Sentinels.  What was acknowledged after WAIT stands in both."""

    replicas = 1

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archive: list[Path] = []
        self._options = options("always")
        master, replica = free_port(), free_port()
        self._servers: dict[int, Server] = {}
        self._run(master)
        self._run(replica, "--replicaof", HOST, str(master))
        self._sentinels = [
            start_sentinel(folder / f"sentinel-{i}", {MASTER: master}, down_after_milliseconds=DOWN_AFTER_MILLISECONDS)
            for i in range(SENTINELS)
        ]
        wait_until(self._settled, "Sentinels that know each other and the replica")

    def port(self) -> int:
        """See `Site.port`."""
        return self._sentinels[0].port

    def pid(self) -> int:
        """See `Site.pid`."""
        return self._servers[self._master()].pid

    def connect(self) -> Any:
        """See `Site.connect`."""
        sentinel = self._ask()
        return sentinel.master_for(MASTER, **CLIENT)

    def restart(self) -> None:
        """See `Site.restart`."""
        raise NotImplementedError("a Sentinel would fail over")

    def crash(self, rng: Random) -> float:
        """Kill the master and wait for the next one; the old one comes back, knowing that it is a replica or not.

        With one replica, nothing is confirmed before it is back: that is when recovery begins.
        """
        old = self._master()
        self._servers.pop(old).kill()
        self._keep(old)
        wait_until(lambda: self._master() != old, "a failover")
        new = self._master()
        self._run(old, *(() if rng.random() < IGNORANT_SHARE else ("--replicaof", HOST, str(new))))
        wait_until(lambda: self._has_replica(new), "the old master as a replica")
        now = time.time()
        wait_until(self._settled, "Sentinels that know the old master as a replica")
        return now

    def depose(self) -> None:
        """Make the Sentinels fail over while the master lives; for ten seconds it does not know that it is none."""
        old = self._master()
        with redis.Redis(HOST, self.port(), socket_timeout=ANSWER_SECONDS) as asked:
            asked.sentinel_failover(MASTER)
        wait_until(lambda: self._master() != old, "a failover")
        wait_until(self._settled, "Sentinels that know the old master as a replica")

    def stop(self) -> None:
        """See `Site.stop`."""
        for server in [*self._sentinels, *self._servers.values()]:
            server.stop()

    def logs(self) -> list[Path]:
        """See `Site.logs`.

        A server that becomes a replica begins its log anew with a copy of everything; each is a history of its own.
        """
        return [*self._archive, *(self._files(port) for port in self._servers)]

    def _run(self, port: int, *more: str) -> None:
        self._servers[port] = start_redis(self._folder / str(port), port, *self._options, *more)

    def _files(self, port: int) -> Path:
        return self._folder / str(port) / "appendonlydir"

    def _keep(self, port: int) -> None:
        """Copy the log of a dead master: as a replica it will begin anew."""
        kept = self._folder / f"reign-{len(self._archive)}"
        shutil.copytree(self._files(port), kept)
        self._archive.append(kept)

    def _ask(self) -> Any:
        found: Any = Sentinel(  # type: ignore[no-untyped-call] # redis-py leaves it so
            [(HOST, sentinel.port) for sentinel in self._sentinels], sentinel_kwargs={"socket_timeout": ANSWER_SECONDS}
        )
        return found

    def _master(self) -> int:
        """Return the port of the master that the first Sentinel names: it is the one that workers ask."""
        with redis.Redis(HOST, self._sentinels[0].port, decode_responses=True, socket_timeout=ANSWER_SECONDS) as asked:
            _, port = asked.sentinel_get_master_addr_by_name(MASTER)
            return int(port)

    def _settled(self) -> bool:
        """Whether the master has its replica in step, and every Sentinel knows the master, the replica and the others.

        Before that they could not fail over.
        """
        with suppress(redis.RedisError, OSError, KeyError):
            master = self._master()
            return self._has_replica(master) and all(self._knows(one.port, master) for one in self._sentinels)
        return False

    @staticmethod
    def _has_replica(port: int) -> bool:
        """Whether a master has its replica in step."""
        with redis.Redis(HOST, port, decode_responses=True, socket_timeout=ANSWER_SECONDS) as asked:
            links: Any = asked.info("replication")
        return bool(links["role"] == "master" and links.get("slave0", {}).get("state") == "online")

    @staticmethod
    def _knows(port: int, master: int) -> bool:
        with redis.Redis(HOST, port, decode_responses=True, socket_timeout=ANSWER_SECONDS) as asked:
            state: Any = asked.sentinel_master(MASTER)
            replicas: Any = asked.sentinel_slaves(MASTER)
        ready = [one for one in replicas if not one["is_sdown"] and one["master-link-status"] == "ok"]
        return bool(
            state["port"] == master
            and state["num-other-sentinels"] == SENTINELS - 1
            and not state["is_sdown"]
            and len(ready) == 1
        )


def options(fsync: str) -> list[str]:
    """Return the command line of a server that keeps a log which `aof` can read."""
    return [word for pair in (*DURABLE, ("--appendfsync", fsync)) for word in pair]


def answers(port: int) -> bool:
    """Whether a server takes commands: not while it loads its files."""
    try:
        with redis.Redis(HOST, port, socket_timeout=ANSWER_SECONDS) as asked:
            return bool(asked.ping())
    except (redis.RedisError, OSError):
        return False
