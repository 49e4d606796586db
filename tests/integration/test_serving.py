"""The embedded model server over the loopback, asked with TensorFlow Serving's messages: codes and texts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from tests.onnx_models import HALF, INT64, STRING, save_exam, save_exams, save_identity, save_sum

from redis_consumer.errors import BatchTooLarge, InvalidModelInput, MissingExtra, SettingsError
from redis_consumer.job import ModelId
from redis_consumer.models.batching import predict_batches
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.serving.gate import Gate
from redis_consumer.serving.onnx import OnnxModel
from redis_consumer.serving.refusal import Refusal
from redis_consumer.serving.repository import Repository
from redis_consumer.serving.server import EmbeddedServer
from redis_consumer.serving.service import Service
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from redis_consumer.arrays import AnyArray

Code = grpc.StatusCode
X: AnyArray = np.ones((3, 2), np.float32)
COUNT = "input size does not match signature"
MISSING_ALIAS = (
    "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value "
    "provided. Inputs expected to be in the request {a}, or default input alias set: "
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_exams(tmp_path_factory.mktemp("models"))
    save_identity(folder, "Same")
    save_identity(folder, "Half", HALF)
    save_identity(folder, "Text", STRING)
    save_identity(folder, "Whole", INT64, ())
    save_sum(folder, "Sum")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    server = EmbeddedServer(folder, max_batch_size=4, poll_seconds=0.1)
    port = server.start()
    yield f"127.0.0.1:{port}"
    server.stop()


@pytest.fixture(scope="module")
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


def ask(channel: grpc.Channel, method: str, request: bytes) -> bytes:
    reply: bytes = channel.unary_unary(method, None, None)(request, timeout=30)
    return reply


def refused(channel: grpc.Channel, method: str, request: bytes) -> tuple[Code, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ask(channel, method, request)
    return caught.value.code(), caught.value.details() or ""


def request(
    name: str = "Same",
    inputs: Mapping[str, AnyArray] | None = None,
    *,
    output_filter: tuple[str, ...] = (),
    **spec: Any,
) -> bytes:
    head = pb.PredictRequest(model_spec=pb.ModelSpec(name=name, **spec), output_filter=output_filter)
    arrays = {"x": X} if inputs is None else inputs
    return messages.write(head, {key: encode_tensor(array) for key, array in arrays.items()})


def test_the_reply_is_what_stock_tensorflow_serving_sends(channel: grpc.Channel) -> None:
    reply = pb.PredictResponse.FromString(ask(channel, messages.PREDICT, request()))
    assert reply.model_spec.name == "Same"
    assert reply.model_spec.version.value == 1
    assert reply.model_spec.signature_name == "serving_default"
    assert list(reply.outputs["y"].float_val) == [1.0] * 6
    assert not reply.outputs["y"].tensor_content
    assert [dim.size for dim in reply.outputs["y"].tensor_shape.dim] == [3, 2]


def test_the_version_asked_for_answers_and_is_named(channel: grpc.Channel) -> None:
    image = {"image": np.zeros((1, 2, 2, 1), np.float32)}
    for version, expected in ((None, 2), (1, 1), (2, 2)):
        chosen = None if version is None else Int64Value(value=version)
        reply = pb.PredictResponse.FromString(ask(channel, messages.PREDICT, request("Exam", image, version=chosen)))
        assert reply.model_spec.version.value == expected
        assert set(reply.outputs["bright"].float_val) == {float(expected)}


def test_an_output_filter_chooses(channel: grpc.Channel) -> None:
    image = {"image": np.zeros((1, 2, 2, 1), np.float32)}
    data = ask(channel, messages.PREDICT, request("Exam", image, output_filter=("doubled",)))
    assert list(pb.PredictResponse.FromString(data).outputs) == ["doubled"]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("Half", np.array([[0.5, -2]], np.float16)),
        ("Text", np.array([[b"a", "ö".encode()]], object)),
        ("Same", np.zeros((0, 2), np.float32)),
    ],
)
def test_other_types_and_empty_batches_pass(channel: grpc.Channel, name: str, array: AnyArray) -> None:
    _, tensors = messages.read(pb.PredictResponse, ask(channel, messages.PREDICT, request(name, {"x": array})))
    back = decode_tensor(tensors["y"])
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"", Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (b"\x0a\x05abc", Code.INTERNAL, "Exception deserializing request!"),
        (request(""), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (request("Nope"), Code.NOT_FOUND, "Servable not found for request: Latest(Nope)"),
        (
            request(version=Int64Value(value=7)),
            Code.NOT_FOUND,
            "Servable not found for request: Specific(Same, 7)",
        ),
        (
            request(version=Int64Value(value=0)),
            Code.NOT_FOUND,
            "Servable not found for request: Specific(Same, 0)",
        ),
        (
            request(version_label="stable"),
            Code.INVALID_ARGUMENT,
            "Unrecognized servable version label: stable",
        ),
        (
            request(signature_name="SIG"),
            Code.FAILED_PRECONDITION,
            'Serving signature key "SIG" not found.',
        ),
        (
            request(inputs={"x": X, "a": X}),
            Code.INVALID_ARGUMENT,
            f"{COUNT}: 2!=1 len({{a,x}}) != len({{x}}). Sent extra: {{a}}. Missing but required: {{}}.",
        ),
        (
            request(inputs={}),
            Code.INVALID_ARGUMENT,
            f"{COUNT}: 0!=1 len({{}}) != len({{x}}). Sent extra: {{}}. Missing but required: {{x}}.",
        ),
        (
            request(inputs={"a": X}),
            Code.INVALID_ARGUMENT,
            MISSING_ALIAS,
        ),
        (
            request(output_filter=("z",)),
            Code.INVALID_ARGUMENT,
            "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
        ),
        (request(output_filter=("y", "y")), Code.INVALID_ARGUMENT, "duplicate output tensor alias: y"),
        (
            request(inputs={"x": X.astype(np.int64)}),
            Code.INVALID_ARGUMENT,
            "Expects arg[0] to be float but int64 is provided",
        ),
        (
            request("Sum", {"a": X, "b": X.astype(np.float16)}),
            Code.INVALID_ARGUMENT,
            "Expects arg[1] to be float but half is provided",
        ),
        (
            request(inputs={"x": np.ones((5, 2), np.float32)}),
            Code.INVALID_ARGUMENT,
            "Task size 5 is larger than maximum input batch size 4",
        ),
        (
            request("Whole", {"x": np.array(1)}),
            Code.INVALID_ARGUMENT,
            "Batching Run() input tensors must have at least one dimension",
        ),
        (
            request("Sum", {"a": X, "b": X[:1]}),
            Code.INVALID_ARGUMENT,
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        (
            request(inputs={"x": np.ones((3, 5), np.float32)}),
            Code.INVALID_ARGUMENT,
            "input x has shape [3, 5], the signature says [-1, 2]",
        ),
        (
            request(inputs={"x": np.ones(3, np.float32)}),
            Code.INVALID_ARGUMENT,
            "input x has shape [3], the signature says [-1, 2]",
        ),
    ],
)
def test_predict_refuses_in_the_words_of_tensorflow_serving(
    channel: grpc.Channel, data: bytes, code: Code, text: str
) -> None:
    assert refused(channel, messages.PREDICT, data) == (code, text)


def test_a_malformed_tensor_is_named(channel: grpc.Channel) -> None:
    tensor = pb.TensorProto(dtype=pb.DT_FLOAT, tensor_content=b"abc")
    head = pb.PredictRequest(model_spec=messages.model_spec("Same"), inputs={"x": tensor})
    found = refused(channel, messages.PREDICT, head.SerializeToString())
    assert found == (Code.INVALID_ARGUMENT, "tensor parsing error: x")


def test_one_value_does_not_fill_the_servers_memory(channel: grpc.Channel) -> None:
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=10**6)] * 2)
    tensor = pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape, float_val=[1.0])
    head = pb.PredictRequest(model_spec=messages.model_spec("Same"), inputs={"x": tensor})
    assert refused(channel, messages.PREDICT, head.SerializeToString())[0] is Code.INVALID_ARGUMENT


def test_what_the_model_cannot_compute_is_the_inputs_fault(channel: grpc.Channel) -> None:
    code, text = refused(channel, messages.PREDICT, request("Sum", {"a": X, "b": np.ones((3, 5), np.float32)}))
    assert code is Code.INVALID_ARGUMENT
    assert "Add" in text


def test_unknown_methods_are_not_implemented(channel: grpc.Channel) -> None:
    path = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    assert refused(channel, path, b"")[0] is Code.UNIMPLEMENTED


def test_the_metadata_describe_the_signature(channel: grpc.Channel) -> None:
    question = pb.GetModelMetadataRequest(model_spec=messages.model_spec("Exam"), metadata_field=["signature_def"])
    data = ask(channel, messages.GET_MODEL_METADATA, question.SerializeToString())
    reply = pb.GetModelMetadataResponse.FromString(data)
    assert reply.model_spec.version.value == 2
    found = reply.metadata["signature_def"]
    assert found.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signature = pb.SignatureDefMap.FromString(found.value).signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    image = signature.inputs["image"]
    assert (image.name, image.dtype) == ("serving_default_image:0", pb.DT_FLOAT)
    assert [dim.size for dim in image.tensor_shape.dim] == [-1, -1, -1, 1]
    assert sorted(signature.outputs) == ["bright", "doubled"]


@pytest.mark.parametrize(
    ("spec", "fields", "code", "text"),
    [
        (None, ["signature_def"], Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (
            "Nope",
            [],
            Code.INVALID_ARGUMENT,
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        ("Nope", ["FOO"], Code.INVALID_ARGUMENT, "Metadata field FOO is not supported"),
        ("", ["signature_def"], Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        ("Nope", ["signature_def"], Code.NOT_FOUND, "Servable not found for request: Latest(Nope)"),
    ],
)
def test_metadata_refuses_in_the_words_of_tensorflow_serving(
    channel: grpc.Channel, spec: str | None, fields: list[str], code: Code, text: str
) -> None:
    model_spec = None if spec is None else messages.model_spec(spec)
    question = pb.GetModelMetadataRequest(model_spec=model_spec, metadata_field=fields)
    assert refused(channel, messages.GET_MODEL_METADATA, question.SerializeToString()) == (code, text)


def test_the_states_are_told_highest_first(channel: grpc.Channel) -> None:
    question = pb.GetModelStatusRequest(model_spec=messages.model_spec("Exam"))
    data = ask(channel, messages.GET_MODEL_STATUS, question.SerializeToString())
    statuses = pb.GetModelStatusResponse.FromString(data).model_version_status
    available = pb.ModelVersionStatus.AVAILABLE
    assert [(s.version, s.state) for s in statuses] == [(2, available), (1, available)]
    assert all(s.HasField("status") and not s.status.error_message for s in statuses)


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        (None, Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (messages.model_spec("Nope"), Code.NOT_FOUND, "Could not find any versions of model Nope"),
        (messages.model_spec(""), Code.NOT_FOUND, "Could not find any versions of model "),
        (messages.model_spec("Exam", 7), Code.NOT_FOUND, "Could not find version 7 of model Exam"),
    ],
)
def test_status_refuses_in_the_words_of_tensorflow_serving(
    channel: grpc.Channel, spec: pb.ModelSpec | None, code: Code, text: str
) -> None:
    question = pb.GetModelStatusRequest(model_spec=spec)
    assert refused(channel, messages.GET_MODEL_STATUS, question.SerializeToString()) == (code, text)


@pytest.mark.parametrize("name", ["", "ModelService", "PredictionService"])
def test_the_health_service_knows_tensorflow_servings_names(channel: grpc.Channel, name: str) -> None:
    data = ask(channel, messages.HEALTH_CHECK, pb.HealthCheckRequest(service=name).SerializeToString())
    assert pb.HealthCheckResponse.FromString(data).status == pb.HealthCheckResponse.SERVING


def test_the_health_of_anything_else_is_not_known(channel: grpc.Channel) -> None:
    question = pb.HealthCheckRequest(service="tensorflow.serving.PredictionService")
    assert refused(channel, messages.HEALTH_CHECK, question.SerializeToString())[0] is Code.NOT_FOUND


def test_a_full_queue_is_refused_in_the_words_of_tensorflow_serving(folder: Path) -> None:
    repository = Repository(folder, lambda path: OnnxModel(path, threads=1))
    repository.refresh()
    gate = Gate(1, 0)
    service = Service(repository, gate, max_batch_size=None)
    with gate.enter(), pytest.raises(Refusal, match=r"^The batch scheduling queue") as caught:
        service.predict(request())
    assert caught.value.code is Code.UNAVAILABLE
    assert service.predict(request())


def test_without_a_maximum_any_batch_is_one_run(folder: Path) -> None:
    server = EmbeddedServer(folder)
    client = TensorFlowServing(f"127.0.0.1:{server.start()}", timeout_seconds=20)
    tiles = np.arange(200, dtype=np.float32).reshape(100, 2)
    np.testing.assert_array_equal(client.predict(ModelId("Same"), {"x": tiles})["y"], tiles)
    assert client.predict(ModelId("Whole"), {"x": np.array(5)})["y"] == 5
    client.close()
    server.stop()


def test_the_client_learns_how_much_the_server_takes(address: str) -> None:
    client = TensorFlowServing(address, timeout_seconds=20)
    tiles = np.arange(20, dtype=np.float32).reshape(10, 2)
    with pytest.raises(BatchTooLarge) as caught:
        client.predict(ModelId("Same"), {"x": tiles})
    assert caught.value.limit == 4
    found = predict_batches(client, ModelId("Same"), tiles, batch_size=8, in_flight=2)
    np.testing.assert_array_equal(found["y"], tiles)
    client.close()


def test_large_images_pass_both_ways(address: str) -> None:
    client = TensorFlowServing(address, timeout_seconds=60)
    image = np.random.default_rng(0).random((4, 1024, 1024, 1), np.float32)  # 16 MiB: over gRPC's own 4 MiB
    np.testing.assert_array_equal(client.predict(ModelId("Exam"), {"image": image})["doubled"], image * 2)
    client.close()


def test_versions_come_go_and_break_while_it_runs(tmp_path: Path) -> None:
    save_exam(tmp_path, 1)
    server = EmbeddedServer(tmp_path, poll_seconds=0.05)
    client = TensorFlowServing(f"127.0.0.1:{server.start()}", timeout_seconds=20)
    exam, image = ModelId("Exam"), {"image": np.zeros((1, 1, 1, 1), np.float32)}
    save_exam(tmp_path, 7, directory="00007")
    broken = tmp_path / "Exam" / "9" / "model.onnx"
    broken.parent.mkdir()
    broken.write_bytes(b"no model")
    until(lambda: {7: 30, 9: 50}.items() <= {v: s.state for v, s in client.states(exam).items()}.items())
    assert client.predict(exam, image)["bright"] == 7
    assert client.states(exam)[9].status.error_message
    shutil.rmtree(tmp_path / "Exam" / "00007")
    until(lambda: client.states(exam)[7].state == pb.ModelVersionStatus.END)
    assert client.predict(exam, image)["bright"] == 1
    with pytest.raises(InvalidModelInput):
        client.predict(exam, {"wrong": image["image"]})
    client.close()
    server.stop()


def test_a_missing_folder_and_a_taken_port_stop_the_start(tmp_path: Path, address: str) -> None:
    with pytest.raises(SettingsError, match="is not a folder"):
        EmbeddedServer(tmp_path / "none").start()
    taken = int(address.rpartition(":")[2])
    server = EmbeddedServer(tmp_path)
    with pytest.raises(SettingsError, match=f"127.0.0.1:{taken}"):
        server.start(port=taken)
    server.stop()


@pytest.mark.parametrize("name", ["max_batch_size", "max_in_flight", "threads"])
def test_a_number_below_one_stops_the_start(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')} is 0: allowed"):
        EmbeddedServer(tmp_path, **{name: 0})


def test_without_onnx_runtime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"kiosk-redis-consumer\[demo\]"):
        EmbeddedServer(tmp_path).start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_listens_and_ends_on_a_signal(folder: Path, number: signal.Signals) -> None:
    script = textwrap.dedent(f"""
        from pathlib import Path
        from redis_consumer.serving.server import serve_models
        serve_models(Path({str(folder)!r}), host="127.0.0.1", port=0, max_batch_size=4, max_in_flight=1,
                     threads=1, announce=lambda text: print(text, flush=True))
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": ""}
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:2] == ["listening", "on"]
        client = TensorFlowServing(words[2], timeout_seconds=20)
        assert client.ready(ModelId("Same"))
        client.close()
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate(timeout=30)


def until(condition: Any) -> None:
    ends_at = time.monotonic() + 30
    while True:
        try:
            if condition():
                return
        except KeyError:
            pass
        assert time.monotonic() < ends_at
        time.sleep(0.05)
