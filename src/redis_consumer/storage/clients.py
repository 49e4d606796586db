"""The clients of obstore: which one a bucket needs, and what it is told.

Credentials are found by each cloud's own chain; only the old `AWS_*` variables are passed on, and only where
they say something.  Sends nothing.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, S3Store

from redis_consumer.errors import SettingsError
from redis_consumer.storage.keys import Bucket, Cloud

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import ClientConfig, ObjectStore, RetryConfig

NOT_GIVEN = frozenset({"", "na", "specify_me"})
"""What the Kiosk's charts write for "no value": then the cloud's own chain is asked."""
PUBLIC = {"x-goog-acl": "public-read"}
"""The header of a PUT that makes one object of GCS readable for everybody."""


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """What can be chosen beside the bucket itself."""

    acl: str = "public-read"
    """Who may read a result on gs://; ``private`` leaves it to the bucket.  Other clouds' are never public."""
    urls: str = "plain"
    """``plain`` or ``signed``: links that carry their permission for a week."""
    endpoint: str = ""
    """Base address in place of the cloud's own: MinIO and friends, emulators."""
    region: str = ""
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    connect_seconds: float = 5.0
    stall_seconds: float = 15.0
    """How long a download may stand still."""
    download_seconds: float = 600.0
    """How long a download may take as a whole."""
    request_seconds: float = 120.0
    """How long any other request may take, an upload's part among them: the answer to one may never come."""
    retry_seconds: float = 60.0
    """How long an operation is tried again before the job is given back."""
    max_backoff: float = 60.0
    """Longest wait between two tries."""

    def given(self, name: str) -> str:
        """Return the option as text; empty where it holds one of the old words for "no value"."""
        value = str(getattr(self, name)).strip()
        return "" if value.lower() in NOT_GIVEN else value


def open_client(bucket: Bucket, options: StorageOptions, extra: ClientConfig) -> ObjectStore:
    """Build the client.  obstore itself retries nothing: its default blocks a lane for up to three minutes."""
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=options.connect_seconds),
        "timeout": timedelta(seconds=options.request_seconds),
        **extra,
    }
    if options.endpoint.startswith("http://"):
        client["allow_http"] = True
    common: dict[str, Any] = {"client_options": client, "retry_config": _no_retries(options)}
    try:
        match bucket.cloud:
            case Cloud.S3:
                return _open_s3(bucket, options, common)
            case Cloud.GCS:
                return GCSStore(bucket.name, **_given(base_url=options.endpoint), **common)
            case Cloud.AZURE:
                return AzureStore(
                    bucket.name, account_name=_azure_account(), **_given(endpoint=options.endpoint), **common
                )
            case Cloud.FILE:
                check_folder(bucket.name)
                return LocalStore(bucket.name)
            case Cloud.MEMORY:
                return MemoryStore()
    except BaseError as error:
        cause = str(error).partition("\n")[0]
        raise SettingsError(f"STORAGE_BUCKET is {str(bucket)!r}: {cause}") from error


def _open_s3(bucket: Bucket, options: StorageOptions, common: dict[str, Any]) -> S3Store:
    values = {name: options.given(name) for name in ("endpoint", "region", "access_key_id", "secret_access_key")}
    with _placeholders_hidden():
        return S3Store(
            bucket.name,
            **_given(**values),
            virtual_hosted_style_request=False,
            unsigned_payload=not options.endpoint.startswith("http://"),  # TLS guards the content already
            **common,
        )


@contextmanager
def _placeholders_hidden() -> Iterator[None]:
    """Take the chart's words for "no value" out of the environment, which obstore reads by itself, for a moment."""
    names = [name for name in ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if name in os.environ]
    hidden = {name: os.environ.pop(name) for name in names if os.environ[name].strip().lower() in NOT_GIVEN}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _given(**values: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _no_retries(options: StorageOptions) -> RetryConfig:
    return {"max_retries": 0, "retry_timeout": timedelta(seconds=options.retry_seconds)}


def _azure_account() -> str:
    """Return the storage account, which the chain of obstore would find too, but which an address needs as well."""
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "").strip()
    if not account:
        raise SettingsError("AZURE_STORAGE_ACCOUNT_NAME is missing: az:// needs the name of the storage account")
    return account


def endpoint_of(bucket: Bucket, options: StorageOptions) -> str:
    """Return the base address that readers use, where it is not the same for everybody."""
    if bucket.cloud is Cloud.AZURE and not options.endpoint:
        return f"https://{_azure_account()}.blob.core.windows.net"
    return options.endpoint.rstrip("/")


def check_folder(name: str) -> None:
    """Raise SettingsError unless `name` is a folder that we may read and write."""
    if not Path(name).is_dir():
        raise SettingsError(f"STORAGE_BUCKET is {name!r}: there is no such folder")
    if not os.access(name, os.R_OK | os.W_OK | os.X_OK):
        raise SettingsError(f"STORAGE_BUCKET is {name!r}: the folder cannot be read and written")
