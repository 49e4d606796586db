from __future__ import annotations

import numpy as np
import pytest

from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.framing import MalformedMessage
from redis_consumer.wire.tensors import decode_tensor, encode_tensor


def test_protobuf_reads_the_request_that_we_write() -> None:
    head = pb.PredictRequest(model_spec=messages.model_spec("Nuclei", 3), output_filter=["y"])
    data = messages.write(head, {"x": encode_tensor(np.ones((2, 3), np.float32))})
    request = pb.PredictRequest.FromString(data)
    assert request.model_spec.name == "Nuclei"
    assert request.model_spec.version.value == 3
    assert list(request.output_filter) == ["y"]
    assert request.inputs["x"].tensor_content == np.ones(6, np.float32).tobytes()


def test_version_zero_is_present_and_no_version_is_absent() -> None:
    assert messages.model_spec("m", 0).SerializeToString() == b"\x0a\x01m\x12\x00"
    assert messages.model_spec("m").SerializeToString() == b"\x0a\x01m"


def test_a_reply_keeps_head_and_tensors_in_any_order() -> None:
    reply = pb.PredictResponse(model_spec=messages.model_spec("m", 7))
    reply.outputs["y"].CopyFrom(pb.TensorProto(dtype=pb.DT_INT32, int_val=[5]))
    head, tensors = messages.read(pb.PredictResponse, reply.SerializeToString())
    assert head.model_spec.version.value == 7
    assert decode_tensor(tensors["y"]) == 5


def test_the_last_of_two_equal_names_wins() -> None:
    first = messages.write(pb.PredictResponse(), {"y": encode_tensor(np.array(1.0))})
    second = messages.write(pb.PredictResponse(), {"y": encode_tensor(np.array(2.0))})
    _, tensors = messages.read(pb.PredictResponse, first + second)
    assert decode_tensor(tensors["y"]) == 2


def test_unknown_fields_are_skipped() -> None:
    data = messages.write(pb.PredictRequest(), {"x": encode_tensor(np.array(1.0))}) + b"\x32\x03abc\x3a\x00"
    head, tensors = messages.read(pb.PredictRequest, data)
    assert list(tensors) == ["x"]
    assert not head.HasField("model_spec")


@pytest.mark.parametrize("data", [b"\x0a\x05abc", b"\x0a\x03\x0a\x01\xff", b"\x12\x02\x0a\x05", b"\x00"])
def test_bytes_that_are_no_reply_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        messages.read(pb.PredictResponse, data)


def test_more_than_protobuf_can_carry_is_refused_before_it_is_copied() -> None:
    huge = np.broadcast_to(np.zeros(1, np.uint8), 2**31).data  # no memory behind it
    with pytest.raises(messages.MessageTooLarge, match="2147483647"):
        messages.write(pb.PredictRequest(), {"x": [huge]})
