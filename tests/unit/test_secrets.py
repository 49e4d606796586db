"""Passwords and signatures stay out of what people are shown; a whole worker: `tests/acceptance/test_secrets.py`."""

from __future__ import annotations

import json

import pytest

from redis_consumer.bootstrap import build_redis
from redis_consumer.consumers import TensorFlowServingConsumer
from redis_consumer.errors import JobRejected, SettingsError, reason_of, without_secrets
from redis_consumer.job import Job
from redis_consumer.redis import RedisClient, translate
from redis_consumer.settings import Settings
from redis_consumer.settings.declare import declarations
from redis_consumer.settings.reading import MASK, without_login
from redis_consumer.settings.render import render_json, render_text
from redis_consumer.storage.clients import StorageOptions
from redis_consumer.storage.keys import Addresses, Bucket
from redis_consumer.storage.object_store import open_storage

HUSH = "hush-hush"
SECRETS = {name.upper(): f"{HUSH}-{name}" for name, declared in declarations(Settings).items() if declared.secret}


def test_the_secrets_are_known() -> None:
    assert set(SECRETS) == {"REDIS_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_settings_never_show_a_secret() -> None:
    settings = Settings.from_environ(SECRETS)
    rows = settings.explain()
    for shown in (repr(settings), str(settings), render_text(rows), render_json(rows)):
        assert HUSH not in shown
    masked = {row["name"]: row["value"] for row in json.loads(render_json(rows)) if row["name"] in SECRETS}
    assert masked == dict.fromkeys(SECRETS, MASK)
    assert {name: getattr(settings, name.lower()) for name in SECRETS} == SECRETS


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STORAGE_BUCKET", f"s3://key:{HUSH}@bucket"),
        ("STORAGE_BUCKET", f"https://account.blob.core.windows.net/images?sig={HUSH}"),
        ("REDIS_HOST", f"redis://:{HUSH}@redis"),
        ("TF_HOST", f"https://user:{HUSH}@serving"),
        ("AWS_ENDPOINT_URL", f"http://user:{HUSH}@minio:9000"),
        ("AWS_ENDPOINT_URL", f"http://minio:9000/?token={HUSH}"),
    ],
)
def test_a_wrong_address_is_told_without_its_login(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({variable: value})
    assert str(caught.value).startswith(f"{variable} is '")
    assert HUSH not in str(caught.value)


def test_only_the_login_is_hidden() -> None:
    assert without_login("redis://:pass@redis:6379/0") == f"redis://{MASK}@redis:6379/0"
    assert without_login("https://host/a?b=c&d=e") == f"https://host/a?{MASK}"
    assert without_login("Nuclear:six") == "Nuclear:six"


def test_clients_do_not_show_what_they_were_given() -> None:
    settings = Settings.from_environ(SECRETS)
    options = StorageOptions(access_key_id=HUSH, secret_access_key=HUSH)
    redis = build_redis(settings)
    storage = open_storage("memory://", options)
    for shown in map(repr, (options, storage, redis)):
        assert HUSH not in shown


def test_an_error_of_redis_does_not_tell_the_password() -> None:
    client = RedisClient("127.0.0.1", 1, password=HUSH, timeout_seconds=0.2)
    with pytest.raises(Exception, match="does not answer") as caught, client.translated() as master:
        master.ping()
    seen: BaseException | None = caught.value
    while seen:
        assert HUSH not in str(seen) + repr(seen)
        seen = seen.__cause__ or seen.__context__
    assert translate(ValueError("mine"), "redis:6379") is None


@pytest.mark.parametrize(
    "address",
    [
        f"https://user:{HUSH}@example.org/uploads/a.tif",
        f"https://example.org/uploads/a.tif?X-Amz-Signature={HUSH}",
        f"https://s3.amazonaws.com/images/uploads/../a.tif?X-Amz-Signature={HUSH}",
        f"s3://images/uploads//a.tif?X-Amz-Signature={HUSH}",
    ],
)
def test_a_refused_address_is_told_without_login_and_signature(address: str) -> None:
    with pytest.raises(JobRejected) as caught:
        Addresses(Bucket.parse("s3://images")).key(address)
    assert HUSH not in reason_of(caught.value)


def test_an_archive_in_the_wrong_queue_is_told_without_its_login() -> None:
    address = f"https://user:{HUSH}@example.org/uploads/cells.zip"
    consumer = TensorFlowServingConsumer(RedisClient("127.0.0.1", 1), open_storage("memory://"), "image")
    with pytest.raises(JobRejected, match=r"Invalid filetype for \"image\" job: 'cells\.zip'") as caught:
        consumer.handle(Job("image:cells.zip:1", "image", {"input_file_name": address}))
    assert HUSH not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:p@{HUSH}@host/x failed",
        f"redis://:pa/{HUSH}@host:6379/0",
        f"https://user:p?{HUSH}@host/x",
        f"GET https://host/a?sig=abc){HUSH}",
        f"""GET https://host/a?X-Amz-Signature=a'b"{HUSH} failed""",
        f"https://host/a#token={HUSH}",
    ],
)
def test_addresses_lose_logins_and_signatures_whatever_letters_they_have(text: str) -> None:
    assert HUSH not in without_secrets(text)
    assert "host" in without_secrets(text)
