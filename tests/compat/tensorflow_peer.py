"""The TensorFlow side of test_tensorflow.py: runs in an environment of its own, with TensorFlow and its messages.

``decode FOLDER`` decodes every serialized TensorProto there, ``client ADDRESS`` talks to a server of the exam
models and of ``Same`` with TensorFlow's messages, ``serve FOLDER`` serves SavedModels in process.
"""

from __future__ import annotations

import importlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

tf: Any = importlib.import_module("tensorflow")
predict: Any = importlib.import_module("tensorflow_serving.apis.predict_pb2")
metadata: Any = importlib.import_module("tensorflow_serving.apis.get_model_metadata_pb2")
status: Any = importlib.import_module("tensorflow_serving.apis.get_model_status_pb2")
saved_model: Any = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2")

PREDICTION = "/tensorflow.serving.PredictionService/"
VERSIONS = (1, 2)


def decode(folder: Path) -> None:
    """Decode ``NAME.DTYPE.pb`` with TensorFlow's own decoder into ``NAME.npy``, or ``NAME.error`` if it refuses."""
    for path in folder.glob("*.pb"):
        name, number, _ = path.name.split(".")
        dtype = tf.dtypes.as_dtype(int(number))
        try:
            tensor = tf.io.parse_tensor(path.read_bytes(), dtype)
        except tf.errors.InvalidArgumentError as error:
            (folder / f"{name}.error").write_text(str(error))
            continue
        if dtype.is_quantized:
            tensor = tf.bitcast(tensor, {"qint8": tf.int8, "quint8": tf.uint8, "qint32": tf.int32}[dtype.name])
        array = (tf.cast(tensor, tf.float32) if dtype == tf.bfloat16 else tensor).numpy()
        np.save(folder / f"{name}.npy", np.array(array, "S") if dtype == tf.string else array)


def client(address: str) -> None:
    """Ask our server with TensorFlow's messages; an AssertionError ends the process."""
    with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:

        def call(path: str, request: Any, reply: Any) -> Any:
            return channel.unary_unary(path, lambda message: message.SerializeToString(), reply.FromString)(
                request, timeout=30
            )

        image = np.arange(60, dtype=np.float32).reshape(2, 5, 6, 1)
        request = predict.PredictRequest()
        request.model_spec.name = "Exam"
        request.model_spec.version.value = 1
        values = tf.compat.v1.make_tensor_proto(image)
        typed = values.__class__(dtype=values.dtype, tensor_shape=values.tensor_shape, float_val=image.ravel())
        for sent in (values, typed):
            request.inputs["image"].CopyFrom(sent)
            reply = call(PREDICTION + "Predict", request, predict.PredictResponse)
            np.testing.assert_array_equal(tf.make_ndarray(reply.outputs["doubled"]), image * 2)
            np.testing.assert_array_equal(tf.make_ndarray(reply.outputs["bright"]), image + 1)
            assert reply.model_spec.version.value == 1
        described = metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        described.model_spec.name = "Exam"
        found = call(PREDICTION + "GetModelMetadata", described, metadata.GetModelMetadataResponse)
        signatures = metadata.SignatureDefMap()
        assert found.metadata["signature_def"].Unpack(signatures)
        signature = signatures.signature_def["serving_default"]
        assert tf.dtypes.as_dtype(signature.inputs["image"].dtype) == tf.float32
        assert tf.TensorShape(signature.inputs["image"].tensor_shape).as_list() == [None, None, None, 1]
        asked = status.GetModelStatusRequest()
        asked.model_spec.name = "Exam"
        states = call("/tensorflow.serving.ModelService/GetModelStatus", asked, status.GetModelStatusResponse)
        assert [s.version for s in states.model_version_status] == [2, 1]
        assert {s.state for s in states.model_version_status} == {status.ModelVersionStatus.AVAILABLE}


def serve(folder: Path) -> None:
    """Serve the exam models, and ``Same`` for several dtypes, until standard input ends."""
    models = {("Exam", version): load(folder / f"exam{version}", exam(version)) for version in VERSIONS}
    for dtype in (tf.float16, tf.bfloat16, tf.uint8, tf.int64, tf.bool, tf.complex64):
        models["Same_" + dtype.name, 1] = load(folder / dtype.name, same(dtype))
    handlers = {"Predict": predictor(models), "GetModelMetadata": describer(models)}
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", -1)])
        service = grpc.method_handlers_generic_handler(
            "tensorflow.serving.PredictionService",
            {name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in handlers.items()},
        )
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        print(port, flush=True)  # noqa: T201 - what the test waits for
        sys.stdin.read()
        server.stop(0).wait()


def exam(version: int) -> Any:
    """Return the exam's model; the outputs are named in the order that is not the sorted one."""
    spec = tf.TensorSpec([None, None, None, 1], tf.float32, name="image")
    return tf.function(lambda image: {"doubled": image * 2, "bright": image + float(version)}, [spec])


def same(dtype: Any) -> Any:
    """Return a model that gives its input back."""
    return tf.function(lambda x: {"y": tf.identity(x)}, [tf.TensorSpec([None, 2], dtype, name="x")])


def load(folder: Path, function: Any) -> Any:
    """Save the function as a SavedModel, as users do, and load it again."""
    module = tf.Module()
    module.function = function
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function.get_concrete_function()})
    return folder, tf.saved_model.load(str(folder)), threading.Lock()


def predictor(models: dict[tuple[str, int], Any]) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        request = predict.PredictRequest.FromString(data)
        _, module, lock = find(models, request.model_spec, context)
        # TensorFlow's own decoder, not numpy's helper, as in TensorFlow Serving.
        inputs = {
            name: tf.io.parse_tensor(proto.SerializeToString(), tf.dtypes.as_dtype(proto.dtype))
            for name, proto in request.inputs.items()
        }
        with lock:
            outputs = module.signatures["serving_default"](**inputs)
        reply = predict.PredictResponse(model_spec=request.model_spec)
        for name, tensor in outputs.items():
            reply.outputs[name].CopyFrom(typed(tensor))
        return bytes(reply.SerializeToString())

    return answer


def typed(tensor: Any) -> Any:
    """Return a TensorProto with every element in its typed field, as stock TensorFlow Serving replies."""
    proto = tf.compat.v1.make_tensor_proto(tensor.numpy())
    flat = tensor.numpy().ravel()
    fields: dict[str, tuple[str, Any]] = {
        "float32": ("float_val", None),
        "float16": ("half_val", np.uint16),
        "bfloat16": ("half_val", np.uint16),
        "uint8": ("int_val", None),
        "int64": ("int64_val", None),
        "bool": ("bool_val", None),
        "complex64": ("scomplex_val", np.float32),
    }
    field, bits = fields[tensor.dtype.name]
    for other, _ in fields.values():
        proto.ClearField(other)
    proto.ClearField("tensor_content")
    getattr(proto, field).extend((flat if bits is None else flat.view(bits)).tolist())
    return proto


def describer(models: dict[tuple[str, int], Any]) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        request = metadata.GetModelMetadataRequest.FromString(data)
        folder, _, _ = find(models, request.model_spec, context)
        graph = saved_model.SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0]
        signatures = metadata.SignatureDefMap()
        for name, signature in graph.signature_def.items():
            signatures.signature_def[name].CopyFrom(signature)
        reply = metadata.GetModelMetadataResponse(model_spec=request.model_spec)
        reply.metadata["signature_def"].Pack(signatures)
        return bytes(reply.SerializeToString())

    return answer


def find(models: dict[tuple[str, int], Any], spec: Any, context: grpc.ServicerContext) -> Any:
    versions = [version for name, version in models if name == spec.name]
    chosen = spec.version.value if spec.HasField("version") else max(versions, default=-1)
    if chosen not in versions:
        context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {spec.name} {chosen}")
    return models[spec.name, chosen]


if __name__ == "__main__":
    command, argument = sys.argv[1:]
    if command == "client":
        client(argument)
    else:
        {"decode": decode, "serve": serve}[command](Path(argument))
