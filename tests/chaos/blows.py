"""What faults do to the world, and the moment from which recovery is counted.

Each is a function that hurts, waits as long as it must, mends what does not mend itself, and returns a `Blow`.
"""

from __future__ import annotations

import hashlib
import signal
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from os import kill
from typing import TYPE_CHECKING, NamedTuple

from tests.chaos.fleet import DISK_BYTES, LEASE_SECONDS
from tests.chaos.proxy import Loss, Spell

from redis_consumer.queues import lua

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from random import Random

    from tests.chaos.fleet import Fleet
    from tests.chaos.models import Models
    from tests.chaos.proxy import Proxy
    from tests.chaos.servers import Site

LOSS_SECONDS = 15.0
"""How long a reply to lose is waited for: each script comes often under load, a release only when there is cause."""


class Hurt(NamedTuple):
    """What can be hurt."""

    site: Site
    fleet: Fleet
    models: Models


@dataclass(frozen=True)
class Blow:
    """A fault that was injected."""

    began: float
    """Seconds since the epoch."""
    over: float
    """When recovery starts to count: of a kill or a stop the moment itself, of an outage its end."""
    pods: frozenset[str] | None
    """The workers that were hit; None for all."""


# Workers.


def kill_worker(hurt: Hurt, rng: Random) -> Blow:
    """SIGKILL in the middle of a job; a worker of another name takes the place."""
    pod = hurt.fleet.choose(rng, busy=True)
    now = time.time()
    hurt.fleet.kill(pod)
    hurt.fleet.start(pod.lanes)
    return Blow(now, now, frozenset({pod.name}))


def stop_worker(hurt: Hurt, rng: Random) -> Blow:
    """SIGSTOP past the lease, then SIGCONT: the worker goes on with a job that is somebody else's."""
    pod = hurt.fleet.choose(rng, busy=True)
    now = time.time()
    pod.child.process.send_signal(signal.SIGSTOP)
    time.sleep(LEASE_SECONDS * rng.uniform(1.3, 2.5))
    pod.child.process.send_signal(signal.SIGCONT)
    return Blow(now, now, frozenset({pod.name}))


def rolling_restart(hurt: Hurt, rng: Random) -> Blow:
    """SIGTERM to every worker in turn, after its successor was started."""
    began, pods = time.time(), hurt.fleet.pods()
    for pod in rng.sample(pods, len(pods)):
        hurt.fleet.replace(pod)
    return Blow(began, time.time(), frozenset(pod.name for pod in pods))


def skew_clock(hurt: Hurt, rng: Random) -> Blow:
    """A worker is replaced by one whose clock is minutes off."""
    pod, began = hurt.fleet.choose(rng), time.time()
    skewed = hurt.fleet.replace(pod, skew_seconds=rng.choice((-1, 1)) * rng.uniform(120, 3600))
    return Blow(began, time.time(), frozenset({pod.name, skewed.name}))


def fill_disk(hurt: Hurt, rng: Random) -> Blow:
    """The disk for temporary files of one worker is full for a while."""
    if why := hurt.fleet.no_disks:
        raise NotInjected(f"no worker can have a small disk of its own here: {why}")
    pod = hurt.fleet.choose(rng, busy=True)
    began, seconds, filler = time.time(), rng.uniform(1, 2), pod.disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while time.time() < began + seconds:
            try:
                file.write(bytes(DISK_BYTES))
            except OSError:  # full, which is what is wanted; files that end make room
                time.sleep(0.01)
    filler.unlink()
    return Blow(began, time.time(), frozenset({pod.name}))


# Redis.


def restart_redis(hurt: Hurt, rng: Random) -> Blow:  # noqa: ARG001 - every fault takes one
    """An orderly restart."""
    began = time.time()
    hurt.site.restart()
    return Blow(began, time.time(), None)


def crash_redis(hurt: Hurt, rng: Random) -> Blow:
    """SIGKILL of the master, and whatever brings it or another one back."""
    began = time.time()
    return Blow(began, hurt.site.crash(rng), None)


def depose_master(hurt: Hurt, rng: Random) -> Blow:  # noqa: ARG001 - same
    """A failover while the old master lives: for a while there are two, and a reader may ask the wrong one."""
    began = time.time()
    hurt.site.depose()
    return Blow(began, time.time(), None)


def freeze_redis(hurt: Hurt, rng: Random) -> Blow:
    """The server takes connections and answers nothing for longer than a lease, and than some clients wait."""
    began, pid = time.time(), hurt.site.pid()
    kill(pid, signal.SIGSTOP)
    try:
        time.sleep(rng.uniform(LEASE_SECONDS, 3 * LEASE_SECONDS))
    finally:
        kill(pid, signal.SIGCONT)
    return Blow(began, time.time(), None)


def fill_redis(hurt: Hurt, rng: Random) -> Blow:
    """Redis refuses every write for a while, since it is out of memory."""
    began = time.time()
    with hurt.site.connect() as asked:
        asked.config_set("maxmemory", 1)
        time.sleep(rng.uniform(0.5, 2 * LEASE_SECONDS))
        asked.config_set("maxmemory", 0)
    return Blow(began, time.time(), None)


def cut_clients(hurt: Hurt, rng: Random) -> Blow:
    """The server ends every connection, blocked ones too, a few times."""
    began = time.time()
    for _ in range(rng.randint(1, 5)):
        with hurt.site.connect() as asked:
            asked.execute_command("CLIENT", "KILL", "TYPE", "normal")
        time.sleep(rng.uniform(0, 0.2))
    return Blow(began, time.time(), None)


def lose_reply(hurt: Hurt, rng: Random, *, markers: Callable[[], list[bytes]], late: bool = False) -> Blow:
    """A command of one worker runs and its reply is lost; or it runs only after the worker gave it up (`late`)."""
    pod = hurt.fleet.choose(rng)
    loss = Loss(rng.choice(markers()), rng.uniform(0.2, 1.5 * LEASE_SECONDS) if late else 0)
    began = time.time()
    pod.redis.lose(loss)
    if not loss.happened.wait(LOSS_SECONDS):
        raise NotInjected(f"{pod.name} sent nothing to lose within {LOSS_SECONDS:g} s")
    return Blow(began, time.time(), frozenset({pod.name}))


def lose_settles(hurt: Hurt, rng: Random) -> Blow:
    """The replies to a settle and to its repetitions are lost, up to three times."""
    blows = [lose_reply(hurt, rng, markers=partial(scripts, "settle")) for _ in range(rng.randint(1, 3))]
    return Blow(blows[0].began, blows[-1].over, frozenset().union(*(blow.pods or () for blow in blows)))


# The network.


def cut_worker(hurt: Hurt, rng: Random) -> Blow:
    """All connections of one worker end, and for a moment there are no new ones."""
    pod, began = hurt.fleet.choose(rng, busy=True), time.time()
    with under(Spell(refusing=True), pod.proxies):
        for proxy in pod.proxies:
            proxy.cut(reset=rng.random() < 1 / 2)
        time.sleep(rng.uniform(0, LEASE_SECONDS / 2))
    return Blow(began, time.time(), frozenset({pod.name}))


def part_worker(hurt: Hurt, rng: Random) -> Blow:
    """One worker hears nothing more and is not told, for longer than a lease; then it is heard again."""
    pod, began = hurt.fleet.choose(rng, busy=True), time.time()
    with under(Spell(stalled=True), pod.proxies):
        time.sleep(LEASE_SECONDS * rng.uniform(1.2, 3))
    return Blow(began, began, frozenset({pod.name}))


def slow_worker(hurt: Hurt, rng: Random) -> Blow:
    """Everything that one worker says and hears takes long, for a while."""
    pod, began = hurt.fleet.choose(rng), time.time()
    with under(Spell(delay_seconds=rng.uniform(0.02, 0.3)), pod.proxies):
        time.sleep(rng.uniform(1, 2))
    return Blow(began, time.time(), frozenset({pod.name}))


# The object storage, as every worker sees it.


def refuse_storage(hurt: Hurt, rng: Random, *, status: int) -> Blow:
    """It answers every request with an error of its own."""
    began = time.time()
    with under(Spell(http_status=status), [pod.s3 for pod in hurt.fleet.pods()]):
        time.sleep(rng.uniform(1, 3))
    return Blow(began, time.time(), None)


def reset_storage(hurt: Hurt, rng: Random) -> Blow:
    """It resets connections again and again, in the middle of a transfer too."""
    began = time.time()
    ends = began + rng.uniform(1, 3)
    while time.time() < ends:
        for pod in hurt.fleet.pods():
            pod.s3.cut(reset=True)
        time.sleep(rng.uniform(0, 0.05))
    return Blow(began, time.time(), None)


def hang_storage(hurt: Hurt, rng: Random) -> Blow:
    """It takes requests and answers none; then it goes on, or ends the connections."""
    began, proxies = time.time(), [pod.s3 for pod in hurt.fleet.pods()]
    with under(Spell(stalled=True), proxies):
        time.sleep(rng.uniform(1, 2 * LEASE_SECONDS))
    if rng.random() < 1 / 2:
        for proxy in proxies:
            proxy.cut()
    return Blow(began, time.time(), None)


# The model server.


def kill_models(hurt: Hurt, rng: Random) -> Blow:
    """It is killed, and started again after a while; at first it is still loading."""
    began = time.time()
    hurt.models.kill()
    time.sleep(rng.uniform(0, 2))
    hurt.models.start("cold")
    time.sleep(rng.uniform(0, 1))
    hurt.models.be("ok")
    return Blow(began, time.time(), None)


def upset_models(hurt: Hurt, rng: Random, *, mood: str, seconds: tuple[float, float]) -> Blow:
    """It answers in another mood for a while."""
    began = time.time()
    hurt.models.be(mood)
    time.sleep(rng.uniform(*seconds))
    hurt.models.be("ok")
    return Blow(began, time.time(), None)


class NotInjected(Exception):
    """The world gave no occasion."""


@contextmanager
def under(spell: Spell, proxies: Iterable[Proxy]) -> Iterator[None]:
    """Put several proxies under a spell.  Workers that start meanwhile are spared."""
    with ExitStack() as spells:
        for proxy in proxies:
            spells.enter_context(proxy.under(spell))
        yield


def scripts(*names: str) -> list[bytes]:
    """Return how calls of these scripts look on the wire: the digest of their text."""
    return [hashlib.sha1(lua._text(name).encode()).hexdigest().encode() for name in names]  # noqa: S324 - Redis's


def moves() -> list[bytes]:
    """Return how what moves an entry looks on the wire: `register` takes one that waits, BLMOVE one that comes."""
    return [b"BLMOVE", *scripts("register")]
