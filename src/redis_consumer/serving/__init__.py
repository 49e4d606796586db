"""The embedded model server: TensorFlow Serving's gRPC API in front of ONNX Runtime.

For laptops, tests and the demo; production uses TensorFlow Serving itself.  `server` listens, `service` answers,
`repository` knows which versions are there, `onnx` runs one of them, `gate` bounds what runs and waits.
"""
