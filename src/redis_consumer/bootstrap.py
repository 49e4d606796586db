"""The composition root: the only file that knows which adapters are used."""

from __future__ import annotations

import logging
import secrets
import threading
from typing import TYPE_CHECKING

import grpc

from redis_consumer.client import Client
from redis_consumer.consumers import CONSUMERS, Consumer, Tools
from redis_consumer.consumers.plugins import find_consumer
from redis_consumer.errors import StorageUnavailable
from redis_consumer.middleware import Heartbeat, wrapped
from redis_consumer.models.patience import PatientModelServer
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.queues.redis import RedisJobQueue, RedisSubmitter
from redis_consumer.redis import RedisClient
from redis_consumer.storage.object_store import ObjectStorage, StorageOptions, open_storage
from redis_consumer.worker import Lane, Worker

if TYPE_CHECKING:
    from redis_consumer.models.base import ModelServer
    from redis_consumer.settings import Settings

log = logging.getLogger(__name__)


def build_worker(settings: Settings) -> Worker:
    """Return a worker that is ready to run.  SettingsError for whatever is wrong before the first job."""
    consumer_type = find_consumer(settings.consumer_type, CONSUMERS)
    storage = build_storage(settings)
    check_storage(storage)
    redis = build_redis(settings)
    stopping = threading.Event()
    models = build_models(settings, stopping)
    heartbeat = Heartbeat(settings.lease_seconds)
    process = secrets.token_hex(4)
    lanes = [
        build_lane(consumer_type, settings, redis, storage, models, heartbeat, f"{process}-{number}")
        for number in range(settings.concurrency)
    ]
    return Worker(lanes, companions=[heartbeat], drain_seconds=settings.drain_seconds, stopping=stopping)


def build_lane(
    consumer_type: type[Consumer],
    settings: Settings,
    redis: RedisClient,
    storage: ObjectStorage,
    models: ModelServer,
    heartbeat: Heartbeat,
    name: str,
) -> Lane:
    """Return one lane with a consumer and a queue view of its own."""
    jobs = RedisJobQueue(
        redis,
        queue=settings.queue,
        lane=name,
        pod=settings.hostname,
        lease_seconds=settings.lease_seconds,
        max_deliveries=settings.max_deliveries,
        wait_replicas=settings.redis_wait_replicas,
    )
    consumer = consumer_type(redis, storage, settings.queue, name=settings.hostname)
    consumer.equip(Tools(jobs, models, settings))
    return Lane(jobs, wrapped(consumer.handle, heartbeat.around(jobs)))


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


def build_models(settings: Settings, stopping: threading.Event) -> ModelServer:
    """Return the model server of the settings, behind the patience that a cold one needs."""
    credentials = None
    if settings.tf_tls:
        roots = settings.tf_ca_certs.read_bytes() if settings.tf_ca_certs else None
        credentials = grpc.ssl_channel_credentials(roots)
    server = TensorFlowServing(
        f"{settings.tf_host}:{settings.tf_port}",
        credentials=credentials,
        timeout_seconds=settings.grpc_timeout,
        describe_seconds=settings.metadata_expire_time,
    )
    return PatientModelServer(server, wait_seconds=settings.model_wait, max_retry=settings.max_retry, stop=stopping)
