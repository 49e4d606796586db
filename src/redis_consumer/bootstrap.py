"""The composition root: the only file that knows which adapters are used."""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import grpc

from redis_consumer.client import Client
from redis_consumer.consumers import CONSUMERS, Consumer, Tools
from redis_consumer.consumers.plugins import find_consumer
from redis_consumer.errors import StorageUnavailable
from redis_consumer.middleware import Every, Heartbeat, Once, wrapped
from redis_consumer.models.batching import BatchLimits
from redis_consumer.models.patience import PatientModelServer
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.queues.redis import RedisJobQueue, RedisSubmitter
from redis_consumer.queues.sweeper import RedisSweeper
from redis_consumer.redis import RedisClient
from redis_consumer.storage.clients import StorageOptions
from redis_consumer.storage.object_store import ObjectStorage, open_storage
from redis_consumer.worker import Lane, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.settings import Settings
    from redis_consumer.worker import Companion

log = logging.getLogger(__name__)

SHORTEST_BACKOFF_SECONDS = 0.1
"""GRPC_BACKOFF=0 would ask a cold server without a pause."""


def build_worker(settings: Settings) -> Worker:
    """Return a worker that is ready to run.  SettingsError for whatever is wrong before the first job."""
    consumer_type = find_consumer(settings.consumer_type, CONSUMERS)
    storage = build_storage(settings)
    check_storage(storage)
    redis = build_redis(settings)
    stopping = threading.Event()
    server, limits = build_model_server(settings, stopping.wait), BatchLimits()
    heartbeat = Heartbeat(settings.lease_seconds)
    sweeper = RedisSweeper(redis, lease_seconds=settings.lease_seconds)
    sweeping = Every(settings.lease_seconds / 2, sweeper.sweep, "sweep")
    warming = Once(consumer_type.warm_up, "warm-up")
    process = secrets.token_hex(4)

    def tools(number: int) -> Tools:
        retries: deque[str] = deque()
        models = PatientModelServer(
            server,
            wait_seconds=settings.model_wait,
            max_retry=settings.max_retry if settings.max_retry > 0 else sys.maxsize,
            max_pause_seconds=max(settings.grpc_backoff, SHORTEST_BACKOFF_SECONDS),
            stop=stopping.is_set,
            on_retry=lambda error: retries.append(str(error)),
        )
        return Tools(build_queue(settings, redis, f"{process}-{number}"), models, settings, limits, retries)

    lanes = [
        build_lane(consumer_type, redis, storage, tools(number), heartbeat) for number in range(settings.concurrency)
    ]
    companions: list[Companion] = [heartbeat, sweeping, warming]
    return Worker(lanes, companions=companions, drain_seconds=settings.drain_seconds, stopping=stopping)


def build_lane(
    consumer_type: type[Consumer], redis: RedisClient, storage: ObjectStorage, tools: Tools, heartbeat: Heartbeat
) -> Lane:
    """Return one lane, with a consumer of its own."""
    consumer = consumer_type(redis, storage, tools.settings.queue, name=tools.settings.hostname)
    consumer.equip(tools)
    return Lane(tools.jobs, wrapped(consumer.handle, heartbeat.around(tools.jobs)))


def build_queue(settings: Settings, redis: RedisClient, lane: str) -> RedisJobQueue:
    """Return one lane's view of the queue."""
    return RedisJobQueue(
        redis,
        queue=settings.queue,
        lane=lane,
        pod=settings.hostname,
        lease_seconds=settings.lease_seconds,
        max_deliveries=settings.max_deliveries,
        wait_replicas=settings.redis_wait_replicas,
    )


def build_client(settings: Settings) -> Client:
    """Return a client that submits jobs where `build_worker` takes them."""
    submitter = RedisSubmitter(
        build_redis(settings), host=settings.hostname, wait_replicas=settings.redis_wait_replicas
    )
    return Client(submitter, build_storage(settings))


def build_redis(settings: Settings) -> RedisClient:
    """Return a connection to the Redis of the settings; nothing is sent yet."""
    return RedisClient(
        settings.redis_host,
        settings.redis_port,
        backoff=settings.redis_timeout,
        username=settings.redis_username,
        password=settings.redis_password,
        tls=settings.redis_tls,
        ca_certs=settings.redis_ca_certs,
    )


def build_storage(settings: Settings) -> ObjectStorage:
    """Return the bucket of the settings; nothing is sent yet."""
    options = StorageOptions(
        # Public results are a thing of gs:// alone, where the Kiosk's web page needs them.
        acl="private" if settings.output_acl == "private" else "",
        urls=settings.output_urls,
        endpoint=settings.aws_endpoint_url if settings.storage_bucket.startswith("s3://") else "",
        region=settings.aws_region,
        access_key_id=settings.aws_access_key_id,
        secret_access_key=settings.aws_secret_access_key,
        max_backoff=settings.storage_max_backoff,
    )
    return open_storage(settings.storage_bucket, options)


def check_storage(storage: ObjectStorage) -> None:
    """Refuse to start on a bucket that cannot work; one that merely does not answer may come back."""
    try:
        storage.check()
    except StorageUnavailable as error:
        log.warning("The start goes on without the storage: %s", error)
    if storage.public_results:
        log.warning("Results in %s can be read by everybody who has the link; OUTPUT_ACL=private ends it", storage)


def build_model_server(settings: Settings, pause: Callable[[float], object] = time.sleep) -> TensorFlowServing:
    """Return the model server of the settings; nothing is sent yet."""
    credentials = None
    if settings.tf_tls:
        roots = settings.tf_ca_certs.read_bytes() if settings.tf_ca_certs else None
        credentials = grpc.ssl_channel_credentials(roots)
    host = f"[{settings.tf_host}]" if ":" in settings.tf_host else settings.tf_host
    return TensorFlowServing(
        f"{host}:{settings.tf_port}",
        credentials=credentials,
        timeout_seconds=settings.grpc_timeout,
        describe_seconds=settings.metadata_expire_time,
        pause=pause,
    )
