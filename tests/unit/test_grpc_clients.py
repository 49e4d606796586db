from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.scripted_serving import Script, metadata, scripted_server

from redis_consumer.errors import PredictionFailed
from redis_consumer.grpc_clients import GrpcClient, PredictClient
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import encode_tensor


@pytest.fixture
def script() -> Script:
    script = Script()
    inputs: dict[str, tuple[int, tuple[int, ...] | None]] = {
        "image": (int(pb.DT_HALF), (-1, 256, 256, 1)),
        "any": (int(pb.DT_INT64), None),
    }
    script.say(messages.GET_MODEL_METADATA, metadata({"serving_default": inputs}))
    script.say(messages.PREDICT, messages.write(pb.PredictResponse(), {"prediction": encode_tensor(np.arange(3))}))
    return script


def test_an_old_request_is_sent_with_the_dtypes_of_the_signature(script: Script) -> None:
    with scripted_server(script) as address:
        client = PredictClient(address, "Nuclei", 3)
        assert isinstance(client, GrpcClient)
        data = np.zeros((1, 256, 256, 1))
        found = client.predict(
            [
                {"in_tensor_name": "image", "in_tensor_dtype": "DT_HALF", "data": data},
                {"in_tensor_name": "any", "in_tensor_dtype": "DT_INT64", "data": [1]},
            ],
            request_timeout=20,
        )
    assert found["prediction"].tolist() == [0, 1, 2]
    sent = pb.PredictRequest.FromString(script.requests[-1][1])
    assert sent.model_spec.version.value == 3
    assert sent.inputs["image"].dtype == pb.DT_HALF


def test_the_metadata_are_nested_as_they_were(script: Script) -> None:
    with scripted_server(script) as address:
        found = PredictClient(address, "Nuclei", "3").get_model_metadata()
    inputs = found["metadata"]["signature_def"]["signatureDef"]["serving_default"]["inputs"]
    assert inputs["image"]["dtype"] == "DT_HALF"
    assert [dim["size"] for dim in inputs["image"]["tensorShape"]["dim"]] == ["-1", "256", "256", "1"]
    assert inputs["any"] == {"dtype": "DT_INT64", "tensorShape": {"unknownRank": True}}


def test_a_version_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="'latest'"):
        PredictClient("127.0.0.1:1", "Nuclei", "latest")


def test_the_settings_say_how_often_a_broken_prediction_is_tried(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_RETRY", "1")
    predict = messages.PREDICT
    script.say(predict, b"\x0a\x05abc")
    with scripted_server(script) as address:
        items: list[dict[str, Any]] = [
            {"in_tensor_name": "image", "data": np.zeros((1, 1, 1, 1))},
            {"in_tensor_name": "any", "data": 1},
        ]
        with pytest.raises(PredictionFailed, match="cannot be read"):
            PredictClient(address, "Nuclei", 3).predict(items)
    assert script.calls(predict) == 2
