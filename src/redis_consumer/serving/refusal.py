"""How this server says no: with TensorFlow Serving's codes and texts."""

from __future__ import annotations

import grpc

_MAX_BYTES = 1024


class Refusal(Exception):
    """A call ends with this code and this text."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def details(self) -> str:
        """The text as it is sent: cut to 1024 bytes, as TensorFlow Serving does."""
        text = str(self).encode()
        return str(self) if len(text) <= _MAX_BYTES else text[:_MAX_BYTES].decode(errors="ignore") + "...TRUNCATED"


def invalid(text: str) -> Refusal:
    """Return a refusal of the request itself."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, text)


def not_found(text: str) -> Refusal:
    """Return a refusal because the model or the version is not there, or not yet."""
    return Refusal(grpc.StatusCode.NOT_FOUND, text)
