"""The container's files agree with each other, with the program, and with what a DeepCell Kiosk expects."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from redis_consumer import __version__
from redis_consumer.health import ANSWER_SECONDS
from redis_consumer.settings import Settings
from redis_consumer.settings.declare import declarations

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
DOCUMENT = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")


def instructions(stage: str) -> list[tuple[str, str]]:
    """Return the instructions of a stage: name and arguments, continued lines joined."""
    lines = [line for line in stage.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


STAGES = [instructions(f"FROM {text}") for text in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]]
FINAL = STAGES[-1]


def last(name: str) -> str:
    return [rest for found, rest in FINAL if found == name][-1]


class TestDockerfile:
    def test_starts_what_the_kiosk_expects_where_it_expects_it(self) -> None:
        assert last("WORKDIR") == "/usr/src/app"
        assert last("CMD") == '["python", "consume-redis-events.py"]'  # without a shell, so that signals arrive
        assert "ENTRYPOINT" not in dict(FINAL)

    def test_is_not_root_and_kubernetes_can_tell(self) -> None:
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
        names = [name for name, _ in FINAL]
        assert names.index("USER") > max(i for i, name in enumerate(names) if name in {"COPY", "RUN"})

    def test_stops_by_the_signal_that_drains(self) -> None:
        assert last("STOPSIGNAL") == "SIGTERM"

    def test_writes_no_bytecode(self) -> None:
        assert "PYTHONDONTWRITEBYTECODE=1" in shlex.split(last("ENV"))

    def test_is_slim_and_all_stages_have_one_python(self) -> None:
        bases = [rest.split()[0] for stage in STAGES for name, rest in stage if name == "FROM"]
        assert len({base.replace("-slim", "") for base in bases}) == 1
        assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases[-1])

    def test_copies_what_is_there_and_the_context_lets_through(self) -> None:
        copies = [rest.split() for stage in STAGES for name, rest in stage if name == "COPY"]
        sources = {source for words in copies if not words[0].startswith("--from") for source in words[:-1]}
        ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        assert "*" in ignored
        assert sources == {line[1:] for line in ignored if line.startswith("!")}
        assert all((ROOT / source).exists() for source in sources)


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / "deploy/worker.yaml").read_text(encoding="utf-8"))
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    assert deployment["metadata"]["name"] == "segmentation-consumer"  # the Kiosk's metrics look for it
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    return spec


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    assert only["name"] == "redis-consumer"
    return dict(only)


class TestManifest:
    def test_its_variables_are_settings_and_right(self, container: dict[str, Any]) -> None:
        environ = {variable["name"]: variable["value"] for variable in container["env"]}
        known = {name.upper() for name in declarations(Settings)}
        assert environ.keys() <= known
        settings = Settings.from_environ(environ)
        assert settings.queue == settings.consumer_type == "segmentation"
        assert settings.health_port == container["ports"][0]["containerPort"]

    def test_the_grace_period_has_room_for_the_drain(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        environ = {variable["name"]: variable["value"] for variable in container["env"]}
        assert pod["terminationGracePeriodSeconds"] >= float(environ["DRAIN_SECONDS"]) + 15

    def test_the_worker_recycles_itself_before_the_kernel_does(self, container: dict[str, Any]) -> None:
        environ = {variable["name"]: variable["value"] for variable in container["env"]}
        limit = container["resources"]["limits"]["memory"]
        assert limit.endswith("Gi")
        assert float(environ["MAX_RSS_MB"]) * 10**6 < int(limit[:-2]) * 2**30

    def test_only_tmp_can_be_written(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]  # noqa: S108 - in the container
        assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == last("USER")

    def test_probes_ask_for_pages_that_there_are_and_wait_long_enough(self, container: dict[str, Any]) -> None:
        pages = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe")}
        assert set(pages.values()) == {"/live"}  # a probe that kills must not ask about others
        assert container["readinessProbe"]["httpGet"]["path"] == "/ready?except=model-server"
        assert container["readinessProbe"]["timeoutSeconds"] > ANSWER_SECONDS

    def test_the_tag_is_this_version(self, container: dict[str, Any]) -> None:
        image = container["image"]
        assert image.rpartition(":")[2] == __version__
        named = re.findall(r"[\w.]+/kiosk-redis-consumer:[\d.]+\d", DOCUMENT)
        assert set(named) == {image}

    def test_the_document_tells_its_numbers(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        assert f"`terminationGracePeriodSeconds` | {pod['terminationGracePeriodSeconds']} |" in DOCUMENT
        assert f"memory limit | {container['resources']['limits']['memory']} |" in DOCUMENT
