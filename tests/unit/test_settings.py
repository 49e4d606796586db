from __future__ import annotations

import dataclasses
import json
import socket
from typing import TYPE_CHECKING

import pytest

from redis_consumer.errors import SettingsError
from redis_consumer.job import ModelId
from redis_consumer.settings import Settings, read_env_file, render_json, render_text
from redis_consumer.settings.declare import declarations

if TYPE_CHECKING:
    from pathlib import Path


def complaints(environ: dict[str, str], **layers: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(environ, **layers)
    return str(caught.value).splitlines()


def test_an_empty_environment_gives_the_kiosks_code_defaults() -> None:
    settings = Settings.from_environ({})
    assert (settings.consumer_type, settings.queue, settings.segmentation_queue) == ("image", "predict", "predict")
    assert (settings.redis_host, settings.redis_port, settings.redis_timeout) == ("redis-master", 6379, 3)
    assert (settings.tf_host, settings.tf_port, settings.tf_max_batch_size) == ("tf-serving", 8500, 64)
    assert (settings.grpc_timeout, settings.grpc_backoff, settings.max_retry) == (30, 3, 5)
    assert settings.storage_bucket == "s3://default-bucket"
    assert settings.nuclear_model == ModelId("NuclearSegmentation", 6)
    assert settings.phase_model == ModelId("PhaseCytoSegmentation", 0)
    assert (settings.division, settings.birth, settings.death) == (0.9, 0.99, 0.99)
    assert (settings.min_scale, settings.max_scale) == (0.1, 10)
    assert settings.hostname == socket.gethostname()


def test_the_direct_defaults_are_those_of_an_empty_environment() -> None:
    assert Settings() == Settings.from_environ({})


def test_the_kiosks_helm_values_are_accepted_as_they_are() -> None:
    settings = Settings.from_environ(
        {
            "INTERVAL": "1",
            "CONSUMER_TYPE": "segmentation",
            "QUEUE": "segmentation",
            "REDIS_HOST": "redis",
            "REDIS_PORT": "26379",
            "REDIS_SERVICE_HOST": "10.0.3.7",
            "TF_SERVING_PORT": "tcp://10.0.3.8:8500",
            "TF_MAX_BATCH_SIZE": "32",
            "GRPC_TIMEOUT": "20",
            "AWS_REGION": "NA",
            "AWS_ACCESS_KEY_ID": "NA",
            "AWS_SECRET_ACCESS_KEY": "specify_me",
            "GKE_COMPUTE_ZONE": "us-west1-b",
            "NUCLEAR_MODEL": "NuclearSegmentation:75",
            "TRACKING_MODEL": "NuclearTrackingInf:75",
            "DIVISION": "0.01",
            "CALIBAN_NORM": "True",
            "SCALE_DETECT_ENABLED": "false",
            "DRIFT_CORRECT_ENABLED": "false",
            "STORAGE_BUCKET": "gs://Deepcell-Output",
            "LOG_LEVEL": "debug",
        }
    )
    assert settings.redis_port == 26379
    assert settings.aws_region == "us-east-1"
    assert settings.aws_access_key_id == settings.aws_secret_access_key == ""
    assert settings.caliban_model == ModelId("NuclearTrackingInf", 75)
    assert settings.division == 0.01
    assert settings.caliban_norm is True
    assert settings.storage_bucket == "gs://deepcell-output"
    assert settings.log_level == "DEBUG"


@pytest.mark.parametrize(("text", "number"), [("1e+06", 1_000_000), ("32.0", 32), (" 7 ", 7), ("+3", 3)])
def test_whole_numbers_may_look_as_helm_prints_them(text: str, number: int) -> None:
    assert Settings.from_environ({"TF_MAX_BATCH_SIZE": text}).tf_max_batch_size == number


@pytest.mark.parametrize("text", ["32.5", "many", "nan", "inf", "1e400", "0", "-1", "0x10"])
def test_anything_else_is_no_whole_number(text: str) -> None:
    assert complaints({"TF_MAX_BATCH_SIZE": text}) == [
        f"TF_MAX_BATCH_SIZE is {text!r}; allowed is a whole number from 1"
    ]


@pytest.mark.parametrize("text", ["true", "1", "YES", "on", "y", "T"])
def test_true_has_many_spellings(text: str) -> None:
    assert Settings.from_environ({"REDIS_TLS": text}).redis_tls is True


@pytest.mark.parametrize("text", ["false", "0", "No", "off", "n", "F"])
def test_false_has_as_many(text: str) -> None:
    assert Settings.from_environ({"CALIBAN_NORM": text}).caliban_norm is False


@pytest.mark.parametrize("blank", ["", "   "])
def test_blank_means_not_set(blank: str) -> None:
    settings = Settings.from_environ({"QUEUE": blank, "NUCLEAR_MODEL": blank, "REDIS_PORT": blank})
    assert settings == Settings()
    assert settings.origins == {}


def test_all_wrong_values_are_reported_together_with_what_is_allowed() -> None:
    lines = complaints(
        {
            "REDIS_PORT": "70000",
            "QUEUE": "processing-segmentation",
            "HOSTNAME": "pod:1",
            "NUCLEAR_MODEL": "Nuclear:latest",
            "MESMER_COMPARTMENT": "membrane",
            "LOG_LEVEL": "loud",
            "AWS_ENDPOINT_URL": "minio:9000",
            "LEASE_SECONDS": "1",
        }
    )
    assert sorted(line.split(" is ")[0] for line in lines) == [
        "AWS_ENDPOINT_URL",
        "HOSTNAME",
        "LEASE_SECONDS",
        "LOG_LEVEL",
        "MESMER_COMPARTMENT",
        "NUCLEAR_MODEL",
        "QUEUE",
        "REDIS_PORT",
    ]
    assert "REDIS_PORT is '70000'; allowed is a whole number from 1 to 65535" in lines
    assert "MESMER_COMPARTMENT is 'membrane'; allowed is whole-cell or nuclear or both" in lines


@pytest.mark.parametrize("queue", ["a:b", "two words", "processing-x", ":", "a|b"])
def test_a_queue_name_never_takes_the_kiosks_own_keys(queue: str) -> None:
    (line,) = complaints({"QUEUE": queue})
    assert line.startswith(f"QUEUE is {queue!r}; allowed is a name without ':'")


def test_a_name_in_a_processing_list_has_no_bar() -> None:
    """The sweep's notes are `<list>|<job>`."""
    lines = complaints({"QUEUE": "a|b", "SEGMENTATION_QUEUE": "c|d", "HOSTNAME": "pod|1"})
    assert sorted(line.split(";")[0] for line in lines) == [
        "HOSTNAME is 'pod|1'",
        "QUEUE is 'a|b'",
        "SEGMENTATION_QUEUE is 'c|d'",
    ]


def test_a_queue_name_is_lower_cased() -> None:
    assert Settings.from_environ({"QUEUE": "Mesmer"}).queue == "mesmer"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("S3://My-Bucket/", "s3://my-bucket"),
        ("gs://cells", "gs://cells"),
        ("az://container", "az://container"),
        ("file:///Data/Cells", "file:///Data/Cells"),
        ("memory://", "memory://"),
        ("/Data/Cells", "/Data/Cells"),
        ("./cells", "./cells"),
        ("~/cells", "~/cells"),
    ],
)
def test_buckets_of_every_kind_are_accepted(given: str, kept: str) -> None:
    assert Settings.from_environ({"STORAGE_BUCKET": given}).storage_bucket == kept


@pytest.mark.parametrize("given", ["cells", "ftp://cells", "s3://", "gs://bucket/folder", "file://Data", "s3:/cells"])
def test_a_bucket_that_is_none_stops_the_start(given: str) -> None:
    (line,) = complaints({"STORAGE_BUCKET": given})
    assert line.startswith(f"STORAGE_BUCKET is {given!r}; allowed is s3://bucket, gs://bucket")


def test_kubernetes_service_links_are_understood() -> None:
    settings = Settings.from_environ({"REDIS_PORT": "tcp://10.0.0.1:6380", "TF_PORT": "tcp://10.0.0.2:8501"})
    assert (settings.redis_host, settings.redis_port) == ("10.0.0.1", 6380)
    assert (settings.tf_host, settings.tf_port) == ("10.0.0.2", 8501)
    assert settings.origins["redis_host"] == "service link"


def test_a_service_link_loses_against_every_explicit_value() -> None:
    link = {"REDIS_PORT": "tcp://10.0.0.1:6379"}
    settings = Settings.from_environ(link, env_file={"REDIS_HOST": "mine", "REDIS_PORT": "7000"})
    assert (settings.redis_host, settings.redis_port) == ("mine", 7000)
    assert Settings.from_environ({**link, "REDIS_HOST": "redis"}).redis_host == "redis"


@pytest.mark.parametrize(
    ("environ", "bucket"),
    [
        ({"GKE_BUCKET": "cells"}, "gs://cells"),
        ({"GCLOUD_STORAGE_BUCKET": "cells"}, "gs://cells"),
        ({"AWS_S3_BUCKET": "cells"}, "s3://cells"),
        ({"GKE_BUCKET": "gs://cells"}, "gs://cells"),
        ({"CLOUD_PROVIDER": "aws", "AWS_S3_BUCKET": "amazon", "GKE_BUCKET": "google"}, "s3://amazon"),
        ({"CLOUD_PROVIDER": "GKE", "AWS_S3_BUCKET": "amazon", "GKE_BUCKET": "google"}, "gs://google"),
        ({"GKE_BUCKET": "old", "STORAGE_BUCKET": "az://new"}, "az://new"),
    ],
)
def test_the_bucket_settings_before_2021_still_name_the_bucket(environ: dict[str, str], bucket: str) -> None:
    assert Settings.from_environ(environ).storage_bucket == bucket


def test_old_model_names_are_aliases_and_the_new_name_wins() -> None:
    assert Settings.from_environ({"MULTIPLEX_MODEL": "Old:1"}).mesmer_model == ModelId("Old", 1)
    both = {"MULTIPLEX_MODEL": "Old:1", "MESMER_MODEL": "New:2"}
    assert Settings.from_environ(both).mesmer_model == ModelId("New", 2)


def test_a_wrong_alias_is_named_by_itself() -> None:
    (line,) = complaints({"TRACKING_MODEL": "a b"})
    assert line.startswith("TRACKING_MODEL is 'a b'; allowed is a model as Name:version")


def test_a_model_without_version_is_the_latest() -> None:
    assert Settings.from_environ({"NUCLEAR_MODEL": "Mine"}).nuclear_model == ModelId("Mine")


def test_overrides_win_over_the_environment_and_that_over_the_file() -> None:
    layers = {"QUEUE": "file", "TF_HOST": "file", "REDIS_HOST": "file"}
    settings = Settings.from_environ(
        {"QUEUE": "environment", "TF_HOST": "environment"}, overrides={"QUEUE": "override"}, env_file=layers
    )
    assert (settings.queue, settings.tf_host, settings.redis_host) == ("override", "environment", "file")
    sources = {row.name: row.source for row in settings.explain()}
    assert (sources["QUEUE"], sources["TF_HOST"]) == ("--set", "environment")
    assert (sources["REDIS_HOST"], sources["TF_PORT"]) == ("env file", "default")


def test_an_override_by_an_older_name_wins_too() -> None:
    settings = Settings.from_environ({"CALIBAN_MODEL": "A:1"}, overrides={"TRACKING_MODEL": "B:2"})
    assert settings.caliban_model == ModelId("B", 2)
    assert settings.origins["caliban_model"] == "--set, TRACKING_MODEL"


def test_an_unknown_override_is_refused_with_the_nearest_name() -> None:
    assert complaints({}, overrides={"TF_HSOT": "x", "qqq": "y"}) == [
        "TF_HSOT is no setting; did you mean TF_HOST?",
        "qqq is no setting; `redis-consumer settings` lists them",
    ]


def test_other_variables_of_the_environment_and_the_file_do_not_matter() -> None:
    assert Settings.from_environ({"PATH": "/bin"}, env_file={"MY_OWN_MODEL": "x"}) == Settings()


def test_the_smallest_scale_follows_the_largest() -> None:
    assert Settings.from_environ({"MAX_SCALE": "4"}).min_scale == 0.25
    assert Settings.from_environ({"MAX_SCALE": "4", "MIN_SCALE": "1"}).min_scale == 1


def test_settings_that_contradict_each_other_stop_the_start(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    environ = {"MIN_SCALE": "3", "MAX_SCALE": "2", "REDIS_CA_CERTS": str(ca), "TF_CA_CERTS": str(ca)}
    assert complaints(environ) == [
        "MIN_SCALE is 3; allowed is a number up to MAX_SCALE, which is 2",
        f"REDIS_CA_CERTS is {str(ca)!r}; allowed is a file with REDIS_TLS=true only",
        f"TF_CA_CERTS is {str(ca)!r}; allowed is a file with TF_TLS=true only",
    ]
    assert Settings.from_environ({"REDIS_CA_CERTS": str(ca), "REDIS_TLS": "1"}).redis_ca_certs == ca


def test_a_wrong_value_does_not_bring_a_second_complaint_with_it() -> None:
    assert len(complaints({"MAX_SCALE": "big", "MIN_SCALE": "20"})) == 1


@pytest.mark.parametrize(("given", "kept"), [("redis.svc", "redis.svc"), ("10.0.0.1", "10.0.0.1"), ("[::1]", "::1")])
def test_a_server_is_a_name_or_an_address(given: str, kept: str) -> None:
    assert Settings.from_environ({"REDIS_HOST": given}).redis_host == kept


@pytest.mark.parametrize("given", ["redis:6379", "redis://redis", "a b", "1::2::3"])
def test_a_server_with_a_port_or_a_scheme_stops_the_start(given: str) -> None:
    assert complaints({"TF_HOST": given}) == [
        f"TF_HOST is {given!r}; allowed is a host name or an IP address, without a port"
    ]


def test_a_certificate_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    (line,) = complaints({"REDIS_TLS": "1", "REDIS_CA_CERTS": str(tmp_path / "no.pem")})
    assert line.endswith("allowed is the path of a file that exists")


def test_secrets_are_shown_nowhere() -> None:
    secret = "hunter2"  # noqa: S105 - not a real one
    names = [name.upper() for name, declared in declarations(Settings).items() if declared.secret]
    assert {"REDIS_PASSWORD", "AWS_SECRET_ACCESS_KEY"} <= set(names)
    settings = Settings.from_environ(dict.fromkeys(names, secret))
    assert settings.redis_password == secret
    rows = settings.explain()
    assert secret not in repr(settings) + render_text(rows) + render_json(rows)
    assert {row.value for row in rows if row.name in names} == {"****"}
    assert {row.value for row in Settings().explain() if row.name in names} == {""}


def test_every_setting_is_explained_once_in_the_order_of_its_group() -> None:
    rows = Settings.from_environ({"QUEUE": "mesmer"}).explain()
    assert sorted(row.name.lower() for row in rows) == sorted(
        item.name for item in dataclasses.fields(Settings) if item.name != "origins"
    )
    groups = list(dict.fromkeys(row.group for row in rows))
    assert [row.group for row in rows] == sorted((row.group for row in rows), key=groups.index)
    row = next(row for row in rows if row.name == "QUEUE")
    assert (row.value, row.source, row.default) == ("mesmer", "environment", "predict")
    assert row.meaning


def test_text_and_json_say_the_same() -> None:
    rows = Settings.from_environ({"MODEL_WAIT": "60", "REDIS_TLS": "yes"}).explain()
    lines = [line.split(maxsplit=3) for line in render_text(rows).splitlines() if line.startswith("  ")]
    objects = json.loads(render_json(rows))
    assert [(line[0], line[1]) for line in lines] == [(row["name"], row["value"] or "-") for row in objects]
    assert ["MODEL_WAIT", "60", "environment"] in [line[:3] for line in lines]
    assert ["REDIS_TLS", "true", "environment"] in [line[:3] for line in lines]


def test_what_is_shown_as_a_value_is_read_back_as_the_same() -> None:
    settings = Settings.from_environ({"POLARIS_CLIP": "on", "MIN_SCALE": "0.5", "PHASE_MODEL": "P"})
    shown = {row.name: row.value for row in settings.explain()}
    assert Settings.from_environ(shown) == settings


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().queue = "other"  # type: ignore[misc]  # that is what is refused


def test_an_env_file_holds_variables_quoted_or_not_and_expands_nothing(tmp_path: Path) -> None:
    file = tmp_path / "worker.env"
    file.write_text("# worker\nQUEUE=mesmer\nexport TF_HOST='tf'\nREDIS_PASSWORD=\"a $HOME #b\"\nTF_PORT=\n")
    assert read_env_file(file) == {
        "QUEUE": "mesmer",
        "TF_HOST": "tf",
        "REDIS_PASSWORD": "a $HOME #b",
        "TF_PORT": "",
    }


@pytest.mark.parametrize("line", ["QUEUE", "QUEUE='mesmer", "just some words"])
def test_a_bad_line_in_an_env_file_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "worker.env"
    file.write_text(f"TF_HOST=tf\n{line}\n")
    with pytest.raises(SettingsError, match=r"worker\.env' is wrong in line 2; allowed is NAME=VALUE"):
        read_env_file(file)


def test_an_env_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.env' cannot be read: No such file"):
        read_env_file(tmp_path / "none.env")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not a text file in UTF-8"):
        read_env_file(tmp_path / "binary")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("geojson", ("geojson",)),
        (" Provenance, labels-zarr ,GEOJSON", ("labels-zarr", "geojson", "provenance")),
        ("geojson,geojson,", ("geojson",)),
        (",", ()),
        ("", ()),
    ],
)
def test_extra_outputs_are_words_joined_by_commas(given: str, kept: tuple[str, ...]) -> None:
    assert Settings.from_environ({"EXTRA_OUTPUTS": given}).extra_outputs == kept


@pytest.mark.parametrize("name", ["CALIBAN_MODEL", "TRACKING_MODEL", "NEIGHBORHOOD_ENCODER"])
def test_a_tracking_model_may_be_none(name: str) -> None:
    settings = Settings.from_environ({name: " None "})
    assert None in {settings.caliban_model, settings.neighborhood_encoder}
    assert "none" in {row.value for row in settings.explain()}


def test_a_fixed_crop_has_an_even_side() -> None:
    Settings.from_environ({"APPEARANCE_DIM": "15"})
    with pytest.raises(SettingsError, match="APPEARANCE_DIM is 15; allowed is an even number with CROP_MODE=fixed"):
        Settings.from_environ({"APPEARANCE_DIM": "15", "CROP_MODE": "fixed"})


@pytest.mark.parametrize("given", ["csv", "geojson;table-csv", "geojson,all"])
def test_an_unknown_extra_output_is_named_with_those_allowed(given: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({"EXTRA_OUTPUTS": given})
    assert str(caught.value) == (
        f"EXTRA_OUTPUTS is {given!r}; allowed is any of labels-zarr, geojson, table-csv, table-parquet, tracks-ctc, "
        "tracks-trk, provenance, joined by commas"
    )
