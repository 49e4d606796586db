"""Every setting of the program, declared once; parsing, errors and tables follow from it."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from redis_consumer.errors import SettingsError
from redis_consumer.job import ModelId
from redis_consumer.settings import kinds
from redis_consumer.settings.declare import Group, declarations, setting
from redis_consumer.settings.reading import Layer, find_all
from redis_consumer.settings.render import Row, row_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set as AbstractSet
    from pathlib import Path

OutputAcl = Literal["public-read", "private"]
OutputUrls = Literal["plain", "signed"]
ExtraOutput = Literal["labels-zarr", "geojson", "table-csv", "table-parquet", "tracks-ctc", "tracks-trk", "provenance"]
Compartment = Literal["whole-cell", "nuclear", "both"]
CropMode = Literal["resize", "fixed"]

_WHOLE_CELLS = ("image", "segmentation")
_TRACKING = ("caliban", "tracking")
_MESMER = ("mesmer", "multiplex")
_PARENTS = (*_TRACKING, "polaris", "zip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run's settings, read once.  The variable of each is its name in capitals: `tf_host` is ``TF_HOST``."""

    # What to do, and how much at a time.
    consumer_type: str = setting(
        kinds.text(),
        "image",
        "What to do with the jobs: the name of a consumer, or `package.module:Class` of your own",
        group=Group.JOBS,
        common=True,
    )
    queue: str = setting(
        kinds.queue_name(),
        "predict",
        "The queue to take jobs from; for the type `zip` the base queue, whose `-zip` twin is then served",
        group=Group.JOBS,
        common=True,
    )
    concurrency: int = setting(
        kinds.integer(1, 256),
        1,
        "Lanes: jobs that this process works on at the same time",
        group=Group.JOBS,
        common=True,
    )
    hostname: str = setting(
        kinds.pod_name(),
        "",
        "This worker's name: ends its processing lists, and stands in `updated_by`; in Kubernetes the pod's",
        group=Group.JOBS,
        factory=socket.gethostname,
        default_text="the machine's name",
    )
    lease_seconds: float = setting(
        kinds.number(2, 86400),
        30.0,
        "A job whose worker is silent for so long goes back to its queue, s",
        group=Group.JOBS,
    )
    max_deliveries: int = setting(
        kinds.integer(1),
        5,
        "A job that was given out so often, and ended none of these times, fails",
        group=Group.JOBS,
        common=True,
    )
    drain_seconds: float = setting(
        kinds.number(0, 86400),
        25.0,
        "Time to finish jobs in after SIGTERM, s; the rest is handed back. Below the pod's grace period",
        group=Group.JOBS,
        common=True,
    )
    max_job_seconds: float = setting(
        kinds.number(0, 2_592_000),
        21_600.0,
        "A job that takes longer fails, s; waiting for the model server does not count. 0 for no limit",
        group=Group.JOBS,
        common=True,
    )
    max_rss_mb: float = setting(
        kinds.number(0),
        0.0,
        "A worker that is larger after a job (resident memory, MB) stops, to be started anew; 0 for no limit",
        group=Group.JOBS,
    )
    health_port: int = setting(
        kinds.integer(0, 65535),
        0,
        "Port for `/live`, `/ready` and `/metrics`; 0 for none",
        group=Group.JOBS,
        common=True,
    )
    segmentation_queue: str = setting(
        kinds.queue_name(), "predict", "Where the frames of a movie go", group=Group.JOBS, used_by=_TRACKING
    )
    expire_time: int = setting(
        kinds.integer(1),
        3600,
        "How long the children of a finished job stay in Redis, s",
        group=Group.JOBS,
        used_by=_PARENTS,
    )

    # Redis.
    redis_host: str = setting(
        kinds.server_name(),
        "redis-master",
        "Redis, Valkey or a Sentinel: it is asked which it is",
        group=Group.REDIS,
        common=True,
    )
    redis_port: int = setting(kinds.integer(1, 65535), 6379, "Its port", group=Group.REDIS, common=True)
    redis_username: str = setting(kinds.text(), "", "The user of Redis's access lists", group=Group.REDIS)
    redis_password: str = setting(kinds.text(), "", "The password", group=Group.REDIS, secret=True, common=True)
    redis_tls: bool = setting(
        kinds.boolean(), False, "Encrypt the connection, and check the certificate", group=Group.REDIS
    )
    redis_ca_certs: Path | None = setting(
        kinds.file(), None, "The authorities to trust (PEM), instead of the system's", group=Group.REDIS
    )
    redis_timeout: int = setting(
        kinds.integer(0), 3, "Longest pause between attempts to reach Redis again, s", group=Group.REDIS
    )
    redis_wait_replicas: int = setting(
        kinds.integer(0),
        0,
        "Replicas that must confirm a submit, claim, settle or release; 0 trusts the master's word",
        group=Group.REDIS,
    )

    # Object storage.
    storage_bucket: str = setting(
        kinds.bucket(),
        "s3://default-bucket",
        "Where images come from and results go",
        group=Group.STORAGE,
        aliases={"GKE_BUCKET": "gs://{}", "GCLOUD_STORAGE_BUCKET": "gs://{}", "AWS_S3_BUCKET": "s3://{}"},
        common=True,
    )
    storage_max_backoff: float = setting(
        kinds.number(0), 60.0, "Longest pause between attempts to reach the storage again, s", group=Group.STORAGE
    )
    output_acl: OutputAcl = setting(
        kinds.choice("public-read", "private"),
        "public-read",
        "Who may read a result's zip on gs://, which the Kiosk's web page needs; elsewhere it is always private",
        group=Group.STORAGE,
        common=True,
    )
    output_urls: OutputUrls = setting(
        kinds.choice("plain", "signed"),
        "plain",
        "The form of `output_url`; a signed one needs no login, and ends after a week",
        group=Group.STORAGE,
    )
    extra_outputs: tuple[ExtraOutput, ...] = setting(
        kinds.words("labels-zarr", "geojson", "table-csv", "table-parquet", "tracks-ctc", "tracks-trk", "provenance"),
        (),
        "Files beside a result's zip, listed in the field `extra_outputs`; `table-parquet` needs the extra `outputs`",
        group=Group.STORAGE,
    )
    aws_region: str = setting(
        kinds.cloud_text("us-east-1"), "us-east-1", "The bucket's region", group=Group.STORAGE, common=True
    )
    aws_access_key_id: str = setting(
        kinds.cloud_text(),
        "",
        "Key of an s3:// bucket; without one AWS's own chain is asked",
        group=Group.STORAGE,
        secret=True,
        common=True,
    )
    aws_secret_access_key: str = setting(
        kinds.cloud_text(), "", "Its secret", group=Group.STORAGE, secret=True, common=True
    )
    aws_endpoint_url: str = setting(
        kinds.http_url(), "", "A server that speaks S3, e.g. MinIO's; empty for AWS", group=Group.STORAGE, common=True
    )

    # The model server.
    tf_host: str = setting(kinds.server_name(), "tf-serving", "TensorFlow Serving", group=Group.SERVER, common=True)
    tf_port: int = setting(kinds.integer(1, 65535), 8500, "Its gRPC port", group=Group.SERVER, common=True)
    tf_tls: bool = setting(
        kinds.boolean(), False, "Encrypt the connection, and check the certificate", group=Group.SERVER
    )
    tf_ca_certs: Path | None = setting(
        kinds.file(), None, "The authorities to trust (PEM), instead of gRPC's", group=Group.SERVER
    )
    tf_max_batch_size: int = setting(
        kinds.integer(1),
        64,
        "Most tiles of 128 x 128 in one request; at most the server's own limit, which is learned if it is lower",
        group=Group.SERVER,
        common=True,
    )
    tf_min_model_size: int = setting(
        kinds.integer(1), 128, "Side of the tile that TF_MAX_BATCH_SIZE counts in, px", group=Group.SERVER
    )
    grpc_timeout: int = setting(
        kinds.integer(1), 30, "Time limit of one prediction, s", group=Group.SERVER, common=True
    )
    grpc_backoff: int = setting(kinds.integer(0), 3, "Pause before a prediction is tried again, s", group=Group.SERVER)
    max_retry: int = setting(
        kinds.integer(), 5, "Failed predictions that a job may retry; 0 or less for no limit", group=Group.SERVER
    )
    model_wait: float = setting(
        kinds.number(0),
        1800.0,
        "How long a job waits for a model server that is absent, loading or busy, s",
        group=Group.SERVER,
        common=True,
    )
    metadata_expire_time: int = setting(
        kinds.integer(1),
        30,
        "How long a model's signature is remembered before the server is asked again, s",
        group=Group.SERVER,
    )

    # Images.
    max_image_height: int = setting(
        kinds.integer(1), 2048, "Tallest image that is analysed in one piece, px", group=Group.IMAGES
    )
    max_image_width: int = setting(
        kinds.integer(1), 2048, "Widest image that is analysed in one piece, px", group=Group.IMAGES
    )
    max_large_side: int = setting(
        kinds.integer(1),
        32768,
        "Longest side of an image that is analysed block by block, where the job's steps can be done so, px",
        group=Group.IMAGES,
    )
    max_image_frames: int = setting(kinds.integer(1), 60, "Longest movie, frames", group=Group.IMAGES)
    max_image_pixels: int = setting(
        kinds.integer(1), 2**30, "Most values in one file, all frames and channels together", group=Group.IMAGES
    )
    max_archive_members: int = setting(
        kinds.integer(1), 10_000, "Most files in one zip, folders and system files not counted", group=Group.IMAGES
    )
    max_archive_bytes: int = setting(
        kinds.integer(1), 16 * 2**30, "Largest zip, all its files unpacked, bytes", group=Group.IMAGES
    )
    max_archive_ratio: int = setting(
        kinds.integer(1),
        1100,
        "How many times its size a zip may have unpacked; plain compression reaches 1032",
        group=Group.IMAGES,
    )
    max_scale: float = setting(kinds.positive(), 10.0, "Largest zoom a job may ask for", group=Group.IMAGES)
    min_scale: float = setting(
        kinds.positive(), 0.1, "Smallest zoom a job may ask for", group=Group.IMAGES, default_text="1 / MAX_SCALE"
    )
    scale_detect_enabled: bool = setting(
        kinds.boolean(),
        False,
        "Let a model find the zoom of jobs that name none",
        group=Group.IMAGES,
        used_by=(*_WHOLE_CELLS, *_MESMER),
    )
    scale_detect_model: ModelId = setting(
        kinds.model(),
        ModelId("ScaleDetection", 1),
        "The model that finds it",
        group=Group.IMAGES,
        used_by=(*_WHOLE_CELLS, *_MESMER),
    )
    label_detect_enabled: bool = setting(
        kinds.boolean(),
        False,
        "Let a model find what jobs without `label` show",
        group=Group.IMAGES,
        used_by=("image",),
    )
    label_detect_model: ModelId = setting(
        kinds.model(), ModelId("LabelDetection", 1), "The model that finds it", group=Group.IMAGES, used_by=("image",)
    )

    # Models by what they look at.
    nuclear_model: ModelId = setting(
        kinds.model(),
        ModelId("NuclearSegmentation", 6),
        "Nuclei: channel 0",
        group=Group.MODELS,
        used_by=_WHOLE_CELLS,
        common=True,
    )
    cytoplasm_model: ModelId = setting(
        kinds.model(),
        ModelId("CytoplasmSegmentation", 5),
        "Whole cells in fluorescence: channel 1",
        group=Group.MODELS,
        used_by=_WHOLE_CELLS,
        common=True,
    )
    phase_model: ModelId = setting(
        kinds.model(),
        ModelId("PhaseCytoSegmentation", 0),
        "Whole cells in phase contrast: channel 2",
        group=Group.MODELS,
        used_by=_WHOLE_CELLS,
    )
    mesmer_model: ModelId = setting(
        kinds.model(),
        ModelId("MultiplexSegmentation", 9),
        "Tissue: a nuclear and a membrane channel",
        group=Group.MODELS,
        aliases={"MULTIPLEX_MODEL": "{}"},
        used_by=_MESMER,
    )
    mesmer_compartment: Compartment = setting(
        kinds.choice("whole-cell", "nuclear", "both"),
        "whole-cell",
        "What to segment where the job's field `compartment` is blank",
        group=Group.MODELS,
        used_by=_MESMER,
    )

    # Tracking.
    caliban_model: ModelId | None = setting(
        kinds.model_or_none(),
        ModelId("NuclearTrackingInf", 6),
        "Says which cells of two frames are the same; `none` links cells by distance and size, without a model",
        group=Group.TRACKING,
        aliases={"TRACKING_MODEL": "{}"},
        used_by=_TRACKING,
    )
    neighborhood_encoder: ModelId | None = setting(
        kinds.model_or_none(),
        ModelId("NuclearTrackingNE", 6),
        "Describes a cell and its neighbours; `none` as in `CALIBAN_MODEL`",
        group=Group.TRACKING,
        used_by=_TRACKING,
    )
    max_distance: int = setting(
        kinds.integer(0),
        50,
        "Farthest that a cell moves from frame to frame, px",
        group=Group.TRACKING,
        used_by=_TRACKING,
    )
    track_length: int = setting(
        kinds.integer(1),
        8,
        "Frames of a track that the model sees",
        group=Group.TRACKING,
        used_by=_TRACKING,
        default_text="8; of a pairwise model its own, or 5",
    )
    division: float = setting(
        kinds.number(0, 1), 0.9, "Least probability of a division", group=Group.TRACKING, used_by=_TRACKING
    )
    birth: float = setting(
        kinds.number(0, 1),
        0.99,
        "Cost of a track that begins",
        group=Group.TRACKING,
        used_by=_TRACKING,
        default_text="0.99; with a pairwise model 0.95",
    )
    death: float = setting(
        kinds.number(0, 1),
        0.99,
        "Cost of a track that ends",
        group=Group.TRACKING,
        used_by=_TRACKING,
        default_text="0.99; with a pairwise model 0.95",
    )
    appearance_dim: int = setting(
        kinds.integer(1), 32, "Side of the crop that shows a cell, px", group=Group.TRACKING, used_by=_TRACKING
    )
    crop_mode: CropMode = setting(
        kinds.choice("resize", "fixed"),
        "resize",
        "How a cell is cropped: its box resized, or a window of fixed size",
        group=Group.TRACKING,
        used_by=_TRACKING,
    )
    caliban_norm: bool = setting(kinds.boolean(), True, "Normalize the crops", group=Group.TRACKING, used_by=_TRACKING)
    normalize_tracking: bool = setting(
        kinds.boolean(), True, "Normalize each frame; pairwise models only", group=Group.TRACKING, used_by=_TRACKING
    )

    # Spots.
    polaris_model: ModelId = setting(
        kinds.model(), ModelId("SpotDetection", 3), "Finds spots", group=Group.SPOTS, used_by=("spot",)
    )
    polaris_threshold: float = setting(
        kinds.number(0, 1), 0.95, "Least probability of a spot", group=Group.SPOTS, used_by=("spot",)
    )
    polaris_clip: bool = setting(
        kinds.boolean(), False, "Clip extreme intensities first", group=Group.SPOTS, used_by=("spot",)
    )
    polaris_scale: float = setting(
        kinds.positive(),
        0.38,
        "Zoom at which the cells around the spots are segmented",
        group=Group.SPOTS,
        used_by=("polaris",),
    )

    log_level: str = setting(
        kinds.log_level(), "INFO", "Least important message to print", group=Group.LOGS, common=True
    )

    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each value came from, by attribute: "environment", "--set", ...; no entry for a default."""

    @classmethod
    def from_environ(
        cls,
        environ: Mapping[str, str],
        *,
        overrides: Mapping[str, str] | None = None,
        env_file: Mapping[str, str] | None = None,
    ) -> Self:
        """Read every setting; `overrides` win over `environ`, and that over `env_file`.

        Blank means "not set".  SettingsError names each wrong variable, its value and what is allowed, one a line.
        """
        layers = [Layer("--set", overrides or {}), Layer("environment", environ), Layer("env file", env_file or {})]
        found = find_all(declarations(cls), layers)
        values = dict(found.values)
        if "max_scale" in values and "min_scale" not in found.origins:
            values["min_scale"] = 1 / values["max_scale"]
        settings = cls(**values, origins=found.origins)
        problems = [*found.problems, *settings._contradictions(found.wrong)]
        if problems:
            raise SettingsError("\n".join(problems))
        return settings

    def explain(self) -> list[Row]:
        """Return a row for each setting: its value, where that came from and what it means; secrets masked."""
        return [row_of(self, name, declared, self.origins) for name, declared in declarations(Settings).items()]

    def _contradictions(self, wrong: AbstractSet[str]) -> Iterator[str]:
        """Yield what does not go together, but for settings that are wrong by themselves."""
        if not {"crop_mode", "appearance_dim"} & wrong and self.crop_mode == "fixed" and self.appearance_dim % 2:
            yield f"APPEARANCE_DIM is {self.appearance_dim}; allowed is an even number with CROP_MODE=fixed"
        if not {"min_scale", "max_scale"} & wrong and self.min_scale > self.max_scale:
            yield f"MIN_SCALE is {self.min_scale:g}; allowed is a number up to MAX_SCALE, which is {self.max_scale:g}"
        if "redis_tls" not in wrong and self.redis_ca_certs and not self.redis_tls:
            yield f"REDIS_CA_CERTS is {str(self.redis_ca_certs)!r}; allowed is a file with REDIS_TLS=true only"
        if "tf_tls" not in wrong and self.tf_ca_certs and not self.tf_tls:
            yield f"TF_CA_CERTS is {str(self.tf_ca_certs)!r}; allowed is a file with TF_TLS=true only"
