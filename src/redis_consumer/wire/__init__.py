"""TensorFlow Serving's messages without TensorFlow: the protos, their framing, arrays in and out of them."""
