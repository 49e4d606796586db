"""Which versions of which models are there: ``DIR/<Name>/<version>/model.onnx``, watched while the server runs.

Every version in the folder is served, as the Kiosk configures TensorFlow Serving.  A version is a whole number,
leading zeros allowed; other names are passed over, so a model can be copied under another name and then renamed.
A new version is loaded before a vanished one is dropped.  One that cannot be loaded has ended, with the reason,
until its file changes; the others stay.  Knows no gRPC server.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from redis_consumer.serving.refusal import not_found
from redis_consumer.wire import serving_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Model = TypeVar("Model")

MODEL_FILE = "model.onnx"
_UNKNOWN = 2  # the error code of a failed load

State = pb.ModelVersionStatus
Key = tuple[str, int]
_Stamp = tuple[str, int, int]


@dataclass(frozen=True)
class _Entry(Generic[Model]):
    """What is known of a version.  `stamp` tells a file from one that replaced it."""

    state: int
    stamp: _Stamp
    model: Model | None = None
    error: str = ""


class Repository(Generic[Model]):
    """The models of a folder.  `load` makes a model of a file, and may raise anything.  Thread-safe."""

    def __init__(self, folder: Path, load: Callable[[Path], Model]) -> None:
        self._folder = folder
        self._load = load
        self._entries: dict[Key, _Entry[Model]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="model-watcher", daemon=True)
        self._poll_seconds = 1.0

    def start(self, *, poll_seconds: float = 1.0) -> None:
        """Load what is there, then keep watching."""
        self._poll_seconds = poll_seconds
        self.refresh()
        self._watcher.start()

    def stop(self) -> None:
        """Watch no more; a load in progress is waited for."""
        self._stopped.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def find(self, name: str, version: int | None) -> tuple[int, Model]:
        """Return a version and its model, the highest available one for None; Refusal (NOT_FOUND) otherwise."""
        with self._lock:
            served = {
                key[1]: entry.model
                for key, entry in self._entries.items()
                if key[0] == name and entry.model is not None
            }
        chosen = max(served, default=-1) if version is None else version
        if chosen not in served:
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise not_found(f"Servable not found for request: {wanted}")
        return chosen, served[chosen]

    def states(self, name: str, version: int | None) -> list[pb.ModelVersionStatus]:
        """Return the states of one version, or of all, highest first; Refusal (NOT_FOUND) where there is none."""
        with self._lock:
            known = {key[1]: entry for key, entry in self._entries.items() if key[0] == name}
        if not known:
            raise not_found(f"Could not find any versions of model {name}")
        if version is not None and version not in known:
            raise not_found(f"Could not find version {version} of model {name}")
        versions = sorted(known, reverse=True) if version is None else [version]
        return [_status(number, known[number]) for number in versions]

    def refresh(self) -> None:
        """Look at the folder once: load what is new or changed, then drop what is gone."""
        there = dict(self._scan())
        with self._lock:
            new = [key for key, path in there.items() if self._is_new(key, _stamp(path))]
            for key in new:
                self._entries[key] = _Entry(State.START, _stamp(there[key]))
        for key in sorted(new):
            self._load_version(key, there[key])
        with self._lock:
            for key in self._entries.keys() - there.keys():
                # Requests that run on it keep it alive; it goes with the last of them.
                self._entries[key] = _Entry(State.END, ("", 0, 0))

    def _is_new(self, key: Key, stamp: _Stamp) -> bool:
        entry = self._entries.get(key)
        return entry is None or (entry.state == State.END and entry.stamp != stamp)

    def _load_version(self, key: Key, path: Path) -> None:
        stamp = _stamp(path)
        self._set(key, _Entry(State.LOADING, stamp))
        try:
            self._set(key, _Entry(State.AVAILABLE, stamp, self._load(path)))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file, the others are served
            text = " ".join(str(error).split()).replace(str(self._folder), "")
            self._set(key, _Entry(State.END, stamp, error=f"{type(error).__name__}: {text}"))

    def _set(self, key: Key, entry: _Entry[Model]) -> None:
        with self._lock:
            self._entries[key] = entry

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            self.refresh()

    def _scan(self) -> Iterator[tuple[Key, Path]]:
        for path in sorted(self._folder.glob(f"*/*/{MODEL_FILE}")):
            version = path.parent.name
            if version.isascii() and version.isdigit():
                yield (path.parent.parent.name, int(version)), path


def _stamp(path: Path) -> _Stamp:
    with contextlib.suppress(OSError):  # gone since: the next look drops it
        found = path.stat()
        return str(path), found.st_mtime_ns, found.st_size
    return str(path), 0, 0


def _status(version: int, entry: _Entry[Model]) -> pb.ModelVersionStatus:
    status = pb.StatusProto(error_code=_UNKNOWN if entry.error else 0, error_message=entry.error)
    return pb.ModelVersionStatus(version=version, state=entry.state, status=status)  # type: ignore[arg-type] # enums are open
