"""Arrays to bytes and back, against a plain copy of the same memory.

Each figure is the median CPU time of several runs in one process; the columns after the first are multiples of it.  The
goal is 3 for [16, 512, 512, 1].
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
import tables

from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis_consumer.arrays import AnyArray

SHAPES = [(1, 512, 512, 1), (16, 512, 512, 1), (1, 2048, 2048, 2)]
RUNS = 21


def build(array: AnyArray) -> bytes:
    """Return a request as we write it."""
    head = pb.PredictRequest(model_spec=messages.model_spec("NuclearSegmentation", 1))
    return messages.write(head, {"image": encode_tensor(array)})


def build_with_protobuf(array: AnyArray) -> bytes:
    """Return the same request written by protobuf alone."""
    request = pb.PredictRequest(model_spec=messages.model_spec("NuclearSegmentation", 1))
    tensor = request.inputs["image"]
    tensor.dtype = pb.DT_FLOAT
    tensor.tensor_shape.dim.extend(pb.TensorShapeProto.Dim(size=size) for size in array.shape)
    tensor.tensor_content = array.tobytes()
    return request.SerializeToString()


def reply_of(array: AnyArray, *, as_values: bool) -> bytes:
    """Return a reply of a model server, in tensor_content or in float_val."""
    return messages.write(pb.PredictResponse(), {"semantic_0": encode_tensor(array, as_values=as_values)})


def parse(reply: bytes) -> AnyArray:
    """Return the array of a reply as we read it."""
    _, tensors = messages.read(pb.PredictResponse, reply)
    return decode_tensor(tensors["semantic_0"])


def parse_with_protobuf(reply: bytes) -> AnyArray:
    """Return the same array read by protobuf alone."""
    tensor = pb.PredictResponse.FromString(reply).outputs["semantic_0"]
    return np.array(tensor.float_val, np.float32).reshape([dim.size for dim in tensor.tensor_shape.dim])


def median_seconds(works: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median of several runs of each.

    CPU time of this thread: one thread does all the work, and whatever else the machine does is left out.  They
    take turns; each has a run before it that is not timed, so that nobody pays for the memory that the one before
    gave back.
    """
    times: list[list[float]] = [[] for _ in works]
    for _ in range(RUNS):
        for work, found in zip(works, times, strict=True):
            work()
            began = time.thread_time()
            made = work()
            found.append(time.thread_time() - began)
            del made  # freed outside the time, as the next run would be charged for it
    return [statistics.median(found) for found in times]


def row(shape: tuple[int, ...]) -> list[str]:
    """Return the copy in milliseconds, and the others as multiples of it."""
    array = np.random.default_rng(0).random(shape, np.float32)
    content, values = reply_of(array, as_values=False), reply_of(array, as_values=True)
    np.testing.assert_array_equal(parse(content), array)
    np.testing.assert_array_equal(parse(values), array)
    # Apart from each other: protobuf's large pieces of memory come from and go back to the system, and whoever runs
    # next would pay for that.
    copy, *ours = median_seconds([array.copy, lambda: build(array), lambda: parse(content), lambda: parse(values)])
    again, *theirs = median_seconds(
        [array.copy, lambda: build_with_protobuf(array), lambda: parse_with_protobuf(values)]
    )
    ratios = [seconds / copy for seconds in ours] + [seconds / again for seconds in theirs]
    return [str(list(shape)), f"{copy * 1000:.2f}", *(f"{ratio:.1f}" for ratio in ratios)]


def main() -> None:
    """Print the table."""
    head = ["float32", "copy, ms", "build", "parse content", "parse float_val", "protobuf build", "protobuf parse"]
    note = f"CPU time, medians of {RUNS} runs in one process; multiples of a plain copy. {tables.machine()}"
    tables.show("Tensors to bytes and back", head, [row(shape) for shape in SHAPES], note)


if __name__ == "__main__":
    main()
