"""What the client makes of TensorFlow Serving's answers: codes and texts as it sends them."""

from __future__ import annotations

import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from tests.scripted_serving import Script, metadata, scripted_server, states

from redis_consumer.errors import (
    AccessDenied,
    BatchTooLarge,
    ConsumerError,
    InvalidModelInput,
    LeaseLost,
    ModelNotFound,
    ModelNotLoaded,
    OutOfMemory,
    PredictionFailed,
    ServerBusy,
    ServerNotReady,
)
from redis_consumer.job import ModelId
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Code = grpc.StatusCode
MODEL = ModelId("Nuclei", 3)
QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full"
IMAGE = np.ones((2, 4, 4, 1), np.float32)
NOT_FOUND = (Code.NOT_FOUND, "Servable not found for request: Specific(Nuclei, 3)")


@pytest.fixture
def script() -> Script:
    script = Script()
    script.say(
        messages.GET_MODEL_METADATA,
        metadata({"serving_default": {"x": (pb.DT_FLOAT, (-1, -1, -1, 1))}, "__saved_model_init_op": {}}),
    )
    reply = {"b": encode_tensor(IMAGE * 2, as_values=True), "a": encode_tensor(IMAGE)}
    script.say(messages.PREDICT, messages.write(pb.PredictResponse(), reply))
    script.say(messages.GET_MODEL_STATUS, (Code.NOT_FOUND, "Could not find any versions of model Nuclei"))
    return script


@pytest.fixture
def client(script: Script) -> Iterator[TensorFlowServing]:
    with scripted_server(script) as address:
        client = TensorFlowServing(address, timeout_seconds=20)
        yield client
        client.close()


def test_the_request_names_model_version_and_inputs(client: TensorFlowServing, script: Script) -> None:
    outputs = client.predict(MODEL, {"x": IMAGE})
    assert list(outputs) == ["a", "b"]
    np.testing.assert_array_equal(outputs["b"], IMAGE * 2)
    request = pb.PredictRequest.FromString(script.requests[-1][1])
    assert request.model_spec.name == "Nuclei"
    assert request.model_spec.version.value == 3
    assert not request.model_spec.signature_name
    np.testing.assert_array_equal(decode_tensor(request.inputs["x"].SerializeToString()), IMAGE)


@pytest.mark.parametrize(("version", "sent"), [(None, False), (0, True)])
def test_only_an_explicit_version_is_sent(
    client: TensorFlowServing,
    script: Script,
    version: int | None,
    sent: bool,  # noqa: FBT001 - a parameter
) -> None:
    client.predict(ModelId("Nuclei", version), {"x": IMAGE})
    for method, request in script.requests:
        kind = pb.PredictRequest if method == messages.PREDICT else pb.GetModelMetadataRequest
        assert kind.FromString(request).model_spec.HasField("version") is sent


def test_the_signature_is_asked_for_once(client: TensorFlowServing, script: Script) -> None:
    for _ in range(3):
        client.predict(MODEL, {"x": IMAGE})
    client.describe(MODEL)
    assert script.calls(messages.GET_MODEL_METADATA) == 1


def test_the_signature_is_asked_for_again_after_a_refused_input(client: TensorFlowServing, script: Script) -> None:
    client.describe(MODEL)
    script.say(messages.PREDICT, (Code.INVALID_ARGUMENT, "input size does not match signature"))
    for _ in range(2):
        with pytest.raises(InvalidModelInput):
            client.predict(MODEL, {"x": IMAGE})
    assert script.calls(messages.GET_MODEL_METADATA) == 2


@pytest.mark.parametrize("data_type", [pb.DT_HALF, pb.DT_BFLOAT16, pb.DT_UINT8, pb.DT_INT64, pb.DT_DOUBLE])
def test_inputs_are_sent_in_the_type_of_the_signature(
    client: TensorFlowServing, script: Script, data_type: int
) -> None:
    script.say(messages.GET_MODEL_METADATA, metadata({"serving_default": {"x": (data_type, (-1,))}}))
    client.predict(MODEL, {"x": np.array([1.0, 2.0])})
    sent = pb.PredictRequest.FromString(script.requests[-1][1]).inputs["x"]
    assert sent.dtype == data_type
    assert decode_tensor(sent.SerializeToString()).tolist() == [1, 2]


def test_an_unknown_rank_takes_anything_and_a_scalar_takes_scalars(client: TensorFlowServing, script: Script) -> None:
    inputs: dict[str, tuple[int, tuple[int, ...] | None]] = {
        "any": (int(pb.DT_FLOAT), None),
        "scalar": (int(pb.DT_INT32), ()),
    }
    script.say(messages.GET_MODEL_METADATA, metadata({"serving_default": inputs}))
    assert [spec.shape for spec in client.describe(MODEL)] == [None, ()]
    client.predict(MODEL, {"any": IMAGE, "scalar": np.array(3)})
    with pytest.raises(InvalidModelInput, match=r"'scalar' has shape \(1,\), expected is \(\)"):
        client.predict(MODEL, {"any": IMAGE, "scalar": np.array([3])})


@pytest.mark.parametrize(
    ("signatures", "said"),
    [
        ({"other": {}}, r"\['other'\]"),
        ({"serving_default": {"x": (int(pb.DT_RESOURCE), ())}}, "DT_RESOURCE"),
    ],
)
def test_a_signature_that_cannot_be_used_is_refused(
    client: TensorFlowServing,
    script: Script,
    signatures: dict[str, dict[str, tuple[int, tuple[int, ...] | None]]],
    said: str,
) -> None:
    script.say(messages.GET_MODEL_METADATA, metadata(signatures))
    with pytest.raises(InvalidModelInput, match=said):
        client.describe(MODEL)


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (Code.UNAVAILABLE, QUEUE_FULL, ServerBusy),
        (Code.UNAVAILABLE, f"{QUEUE_FULL}; currently 10 batches enqueued and max_enqueued_batches is 10", ServerBusy),
        (Code.UNAVAILABLE, "failed to connect to all addresses; last error: refused", ServerNotReady),
        (Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted", ServerBusy),
        (Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue", ServerBusy),
        (Code.RESOURCE_EXHAUSTED, "OOM when allocating tensor with shape[1] and type float on /gpu:0", OutOfMemory),
        (Code.RESOURCE_EXHAUSTED, "2 root error(s) found. (0) Resource exhausted: OOM when allocating", OutOfMemory),
        (Code.RESOURCE_EXHAUSTED, "Out of memory while trying to allocate 4294967296 bytes.", OutOfMemory),
        (Code.RESOURCE_EXHAUSTED, "failed to allocate memory", OutOfMemory),
        (Code.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (5000000 vs. 4194304)", InvalidModelInput),
        (Code.INVALID_ARGUMENT, "Expects arg[0] to be float but int64 is provided", InvalidModelInput),
        (Code.FAILED_PRECONDITION, 'Serving signature key "serving_default" not found.', InvalidModelInput),
        (Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions", InvalidModelInput),
        (Code.FAILED_PRECONDITION, "Tensors with name 'x' from different tasks have", PredictionFailed),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", PredictionFailed),
        (Code.INTERNAL, "boom", PredictionFailed),
        (Code.UNIMPLEMENTED, "Method not found!", PredictionFailed),
        (Code.UNAUTHENTICATED, "who are you", AccessDenied),
        (Code.PERMISSION_DENIED, "not you", AccessDenied),
    ],
)  # fmt: skip
def test_refusals_are_told_apart_and_keep_their_text(
    client: TensorFlowServing, script: Script, code: Code, text: str, expected: type[ConsumerError]
) -> None:
    script.say(messages.PREDICT, (code, text))
    with pytest.raises(ConsumerError) as caught:
        client.predict(MODEL, {"x": IMAGE})
    assert type(caught.value) is expected
    assert text in str(caught.value)
    assert "Nuclei:3" in str(caught.value)


@pytest.mark.parametrize("wording", ["maximum input batch size", "maximum batch size"])
def test_a_batch_that_is_too_large_tells_the_limit(client: TensorFlowServing, script: Script, wording: str) -> None:
    script.say(messages.PREDICT, (Code.INVALID_ARGUMENT, f"Task size 64 is larger than {wording} 32"))
    with pytest.raises(BatchTooLarge) as caught:
        client.predict(MODEL, {"x": IMAGE})
    assert caught.value.limit == 32


def test_a_text_of_several_lines_becomes_one(client: TensorFlowServing, script: Script) -> None:
    script.say(messages.PREDICT, (Code.INVALID_ARGUMENT, "Matrix size-incompatible\n\t [[{{node x}}]]"))
    with pytest.raises(InvalidModelInput, match=r"Matrix size-incompatible \[\[\{\{node x"):
        client.predict(MODEL, {"x": IMAGE})


def test_a_model_that_is_not_found_is_one_that_no_state_is_known_of(client: TensorFlowServing, script: Script) -> None:
    script.say(messages.PREDICT, NOT_FOUND)
    with pytest.raises(ModelNotFound, match="Specific"):
        client.predict(MODEL, {"x": IMAGE})
    assert script.calls(messages.GET_MODEL_STATUS) == 1


@pytest.mark.parametrize("state", [pb.ModelVersionStatus.START, pb.ModelVersionStatus.LOADING])
def test_a_model_on_its_way_is_not_ready(client: TensorFlowServing, script: Script, state: int) -> None:
    script.say(messages.GET_MODEL_METADATA, NOT_FOUND)
    script.say(messages.GET_MODEL_STATUS, states((3, state, "")))
    with pytest.raises(ServerNotReady, match="loaded"):
        client.describe(MODEL)


def test_a_model_that_could_not_be_loaded_says_why(client: TensorFlowServing, script: Script) -> None:
    script.say(messages.PREDICT, NOT_FOUND)
    script.say(messages.GET_MODEL_STATUS, states((3, pb.ModelVersionStatus.END, "saved_model.pb is broken")))
    with pytest.raises(ModelNotLoaded, match=r"saved_model\.pb is broken"):
        client.predict(MODEL, {"x": IMAGE})


def test_a_server_that_cannot_tell_its_states_is_believed(client: TensorFlowServing, script: Script) -> None:
    script.say(messages.PREDICT, NOT_FOUND)
    script.say(messages.GET_MODEL_STATUS, (Code.UNIMPLEMENTED, "Method not found!"))
    with pytest.raises(ModelNotFound, match="Specific"):
        client.predict(MODEL, {"x": IMAGE})


def test_states_and_readiness_are_told(client: TensorFlowServing, script: Script) -> None:
    assert not client.ready(MODEL)
    available = pb.ModelVersionStatus.AVAILABLE
    script.say(messages.GET_MODEL_STATUS, states((2, available, ""), (1, pb.ModelVersionStatus.END, "")))
    assert client.ready(ModelId("Nuclei"))
    assert {v: s.state for v, s in client.states(ModelId("Nuclei")).items()}[2] == available


@pytest.mark.parametrize("reply", [b"\x0a\x05abc", b"\x0a\x09\x0a\x01y\x12\x04\x08\x01\x22\x05"])
def test_a_reply_that_cannot_be_read_is_a_failed_prediction(
    client: TensorFlowServing, script: Script, reply: bytes
) -> None:
    script.say(messages.PREDICT, reply)
    with pytest.raises(PredictionFailed, match="cannot be read"):
        client.predict(MODEL, {"x": IMAGE})


def test_nobody_there_is_not_ready(free_port: int) -> None:
    client = TensorFlowServing(f"127.0.0.1:{free_port}", timeout_seconds=20)
    with pytest.raises(ServerNotReady):
        client.predict(MODEL, {"x": IMAGE})
    client.close()


def test_a_call_in_flight_is_given_up_when_told_so(client: TensorFlowServing, script: Script) -> None:
    client.describe(MODEL)
    lost: list[LeaseLost] = []
    script.hold(messages.PREDICT, then=lambda: lost.append(LeaseLost("claimed by another")))
    ours = client.stopped_by(lambda: lost[0] if lost else None)
    with pytest.raises(LeaseLost, match="claimed by another"):
        ours.predict(MODEL, {"x": IMAGE})
    script.let_go()
    assert list(client.predict(MODEL, {"x": IMAGE})) == ["a", "b"]


@pytest.mark.parametrize("replies", [0, 2])
def test_a_server_that_does_not_reply_once_is_none(replies: int) -> None:
    _, service, verb = messages.GET_MODEL_METADATA.split("/")
    stream = grpc.unary_stream_rpc_method_handler(lambda _request, _context: iter([b""] * replies))
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {verb: stream}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        client = TensorFlowServing(f"127.0.0.1:{port}", timeout_seconds=20)
        with pytest.raises(PredictionFailed, match=f"{replies} replies, expected is one"):
            client.describe(MODEL)
        client.close()
        server.stop(0).wait()


def test_a_closed_client_is_not_ready(client: TensorFlowServing) -> None:
    client.close()
    with pytest.raises(ServerNotReady):
        client.predict(MODEL, {"x": IMAGE})


def test_messages_over_the_limit_are_refused_for_good(script: Script) -> None:
    with scripted_server(script) as address:
        client = TensorFlowServing(address, timeout_seconds=20, max_message_bytes=4096)
        with pytest.raises(InvalidModelInput, match="larger than max"):
            client.predict(MODEL, {"x": np.ones((1, 64, 64, 1), np.float32)})
        client.close()


def test_a_reply_over_the_limit_is_refused_for_good_and_in_one_line(script: Script) -> None:
    reply = {"y": encode_tensor(np.zeros((1, 64, 64, 1), np.float32))}
    script.say(messages.PREDICT, messages.write(pb.PredictResponse(), reply))
    with scripted_server(script) as address:
        client = TensorFlowServing(address, timeout_seconds=20, max_message_bytes=4096)
        with pytest.raises(InvalidModelInput, match=r"larger than max \(\d+ vs\. 4096\)") as caught:
            client.predict(MODEL, {"x": IMAGE})
        assert "\n" not in str(caught.value)
        client.close()


def test_a_refusal_for_now_leads_to_a_new_connection(client: TensorFlowServing, script: Script) -> None:
    client.predict(MODEL, {"x": IMAGE})
    assert len(script.peers) == 1
    good = script.answers[messages.PREDICT]
    script.say(messages.PREDICT, (Code.UNAVAILABLE, "The batch scheduling queue is full"), *good)
    with pytest.raises(ServerBusy):
        client.predict(MODEL, {"x": IMAGE})
    client.predict(MODEL, {"x": IMAGE})
    assert len(script.peers) == 2


def test_an_old_connection_is_renewed(script: Script) -> None:
    with scripted_server(script) as address:
        client = TensorFlowServing(address, timeout_seconds=20, recycle_seconds=0)
        client.predict(MODEL, {"x": IMAGE})
        client.predict(MODEL, {"x": IMAGE})
        client.close()
    assert len(script.peers) >= 2


def test_a_tls_server_is_reached_with_its_root_certificate(script: Script, tmp_path: Path) -> None:
    key, certificate = self_signed(tmp_path)
    server_credentials = grpc.ssl_server_credentials([(key, certificate)])
    with scripted_server(script, server_credentials) as address:
        port = address.rpartition(":")[2]
        client = TensorFlowServing(
            f"localhost:{port}",
            credentials=grpc.ssl_channel_credentials(root_certificates=certificate),
            timeout_seconds=20,
        )
        assert list(client.predict(MODEL, {"x": IMAGE})) == ["a", "b"]
        client.close()


def self_signed(folder: Path) -> tuple[bytes, bytes]:
    """Return key and certificate for localhost, made by the openssl command."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl command")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return key.read_bytes(), certificate.read_bytes()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
