"""The model server: a port, an adapter for TensorFlow Serving, and one in memory."""
