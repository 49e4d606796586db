"""Names, addresses and options of the storage; what it does with a real store stands in contracts and integration."""

from __future__ import annotations

import os
from pathlib import Path

import obstore
import pytest
from hypothesis import given, strategies as st
from obstore.store import MemoryStore

from redis_consumer.errors import JobRejected, SettingsError
from redis_consumer.storage.clients import StorageOptions
from redis_consumer.storage.keys import Addresses, Bucket, Cloud, check_key, local_name, output_key
from redis_consumer.storage.object_store import open_storage


class TestBucket:
    @pytest.mark.parametrize(
        ("text", "cloud", "name"),
        [
            ("s3://my-bucket", Cloud.S3, "my-bucket"),
            ("GS://Deepcell-Output/", Cloud.GCS, "deepcell-output"),
            ("az://container", Cloud.AZURE, "container"),
            ("file:///data/my%20bucket", Cloud.FILE, "/data/my bucket"),
            ("/data/My Bucket", Cloud.FILE, "/data/My Bucket"),
            ("memory://", Cloud.MEMORY, ""),
        ],
    )
    def test_what_is_a_bucket(self, text: str, cloud: Cloud, name: str) -> None:
        assert Bucket.parse(text) == Bucket(cloud, name)

    def test_a_bare_path_is_made_absolute(self) -> None:
        assert Bucket.parse("bucket") == Bucket(Cloud.FILE, str(Path.cwd() / "bucket"))
        assert Bucket.parse("~/bucket") == Bucket(Cloud.FILE, str(Path.home() / "bucket"))

    @pytest.mark.parametrize("text", ["", "ftp://x", "s3://", "s3://a/b", "gs://a b", "file://", "https://x.org/b"])
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(SettingsError, match=r"^STORAGE_BUCKET is '.*': allowed are s3://name, gs://name"):
            Bucket.parse(text)

    def test_a_missing_folder_stops_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="there is no such folder"):
            open_storage(str(tmp_path / "missing"))
        storage = open_storage(str(tmp_path))
        storage.check()
        tmp_path.rmdir()
        with pytest.raises(SettingsError, match="there is no such folder"):
            storage.check()


class TestKeys:
    @given(st.text(max_size=40))
    def test_a_key_that_we_take_is_taken_by_the_store_and_stays_in_its_folder(self, key: str) -> None:
        try:
            check_key(key)
        except JobRejected:
            return
        obstore.put(MemoryStore(), key, b"")
        assert not Path(local_name(key)).is_absolute()
        assert ".." not in Path(local_name(key)).parts

    @given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\\"), max_size=40))
    @pytest.mark.parametrize("bucket", ["s3://bkt", "gs://bkt", "memory://", "file:///my%20data"])
    def test_an_url_gives_back_its_key(self, bucket: str, name: str) -> None:
        key = "uploads/" + (name.replace("/", "_").strip(".") or "x")
        addresses = Addresses(Bucket.parse(bucket))
        assert addresses.key(addresses.url(key)) == key
        assert addresses.key(key) == key or "://" in key

    def test_the_local_name_drops_the_first_segment(self) -> None:
        assert [local_name(key) for key in ("a/b/c.tif", "a/b", "a")] == ["b/c.tif", "b", "a"]

    def test_uploads_go_below_output(self) -> None:
        assert output_key("x.zip", None) == "output/x.zip"
        assert output_key("x.tif", "/a/b") == "output/a/b/x.tif"
        with pytest.raises(JobRejected, match="segment"):
            output_key("x.tif", "../a")


class TestAddresses:
    @pytest.mark.parametrize(
        ("bucket", "options", "url"),
        [
            ("s3://bkt", {}, "https://s3.amazonaws.com/bkt/output/a%20b.zip"),
            ("s3://bkt", {"region": "us-east-1"}, "https://s3.amazonaws.com/bkt/output/a%20b.zip"),
            ("s3://bkt", {"region": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com/bkt/output/a%20b.zip"),
            ("s3://bkt", {"endpoint": "http://minio:9000"}, "http://minio:9000/bkt/output/a%20b.zip"),
            ("gs://bkt", {}, "https://storage.googleapis.com/bkt/output/a%20b.zip"),
            ("az://bkt", {"endpoint": "https://acc.blob.core.windows.net"}, "https://acc.blob.core.windows.net/bkt/output/a%20b.zip"),
            ("/data/b c", {}, "file:///data/b%20c/output/a%20b.zip"),
            ("memory://", {}, "memory:///output/a%20b.zip"),
        ],
    )  # fmt: skip
    def test_where_readers_look(self, bucket: str, options: dict[str, str], url: str) -> None:
        assert Addresses(Bucket.parse(bucket), **options).url("output/a b.zip") == url

    @pytest.mark.parametrize(
        ("bucket", "url"),
        [
            ("s3://my-bkt", "https://my-bkt.s3.amazonaws.com/uploads/a%20b.tif"),
            ("s3://my-bkt", "https://my-bkt.s3.eu-west-1.amazonaws.com/uploads/a%20b.tif?X-Amz-Signature=1%2F2"),
            ("s3://my-bkt", "https://my-bkt.s3-us-west-2.amazonaws.com/uploads/a%20b.tif"),
            ("s3://my-bkt", "https://my-bkt.s3.dualstack.us-west-2.amazonaws.com/uploads/a%20b.tif"),
            ("s3://my-bkt", "https://s3.amazonaws.com/my-bkt/uploads/a%20b.tif"),
            ("s3://my-bkt", "https://s3-eu-west-1.amazonaws.com/my-bkt/uploads/a%20b.tif"),
            ("s3://my-bkt", "https://s3.cn-north-1.amazonaws.com.cn/my-bkt/uploads/a%20b.tif"),
            ("s3://my-bkt", "s3://my-bkt/uploads/a%20b.tif"),
            ("gs://my-bkt", "https://storage.googleapis.com/my-bkt/uploads/a%20b.tif"),
            ("gs://my-bkt", "https://my-bkt.storage.googleapis.com/uploads/a%20b.tif"),
            ("gs://my-bkt", "https://storage.cloud.google.com/my-bkt/uploads/a%20b.tif"),
            ("gs://my-bkt", "gs://my-bkt/uploads/a%20b.tif"),
        ],
    )
    def test_every_spelling_of_an_own_url(self, bucket: str, url: str) -> None:
        assert Addresses(Bucket.parse(bucket)).key(url) == "uploads/a b.tif"

    @pytest.mark.parametrize(
        "url",
        [
            "https://s3.amazonaws.com/other/uploads/x.tif",
            "https://other.s3.amazonaws.com/uploads/x.tif",
            "https://s3.amazonaws.com.evil.org/my-bkt/uploads/x.tif",
            "https://evil.org/s3.amazonaws.com/my-bkt/x.tif",
            "https://evil-my-bkt.s3.amazonaws.com/uploads/x.tif",
            "https://storage.googleapis.com/my-bkt/uploads/x.tif",
            "gs://my-bkt/uploads/x.tif",
            "file:///etc/passwd",
            "://",
        ],
    )
    def test_other_urls_are_refused(self, url: str) -> None:
        with pytest.raises(JobRejected, match="is not one of the bucket 's3://my-bkt'"):
            Addresses(Bucket.parse("s3://my-bkt")).key(url)

    @pytest.mark.parametrize("tail", ["", "..%2F..%2Fx", "%2Fetc/passwd", "a%00b", "a%5Cb"])
    def test_what_a_url_hides_is_checked(self, tail: str) -> None:
        with pytest.raises(JobRejected, match="The object name"):
            Addresses(Bucket.parse("gs://my-bkt")).key(f"https://storage.googleapis.com/my-bkt/{tail}")


class TestOptions:
    def test_the_environment_is_left_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "specify_me")
        open_storage("s3://bkt")
        assert os.environ["AWS_ACCESS_KEY_ID"] == "specify_me"

    def test_explicit_keys_win(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from the chain")
        options = StorageOptions(region="eu-west-1", access_key_id="mine", secret_access_key="own", urls="signed")  # noqa: S106 - no secret
        assert "X-Amz-Credential=mine%2F" in open_storage("s3://bkt", options).url("x/y")

    def test_secrets_do_not_show(self) -> None:
        options = StorageOptions(access_key_id="AKIA1", secret_access_key="hush")  # noqa: S106 - no secret
        assert "AKIA1" not in repr(options)
        assert "hush" not in repr(options)

    @pytest.mark.parametrize("bucket", ["memory://", "."])
    def test_what_cannot_be_signed_is_refused_at_the_start(self, bucket: str) -> None:
        with pytest.raises(SettingsError, match=r"OUTPUT_URLS is 'signed': .* has no signed links"):
            open_storage(bucket, StorageOptions(urls="signed"))
        with pytest.raises(SettingsError, match="OUTPUT_URLS is 'sealed': allowed are 'plain' and 'signed'"):
            open_storage(bucket, StorageOptions(urls="sealed"))

    def test_azure_needs_an_account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
        with pytest.raises(SettingsError, match="AZURE_STORAGE_ACCOUNT_NAME is missing"):
            open_storage("az://container")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acc")
        assert open_storage("az://container").url("x/y") == "https://acc.blob.core.windows.net/container/x/y"

    @pytest.mark.parametrize("bucket", ["s3://bkt", "memory://", "."])
    def test_results_are_public_on_gs_alone(self, bucket: str) -> None:
        assert not open_storage(bucket).public_results
