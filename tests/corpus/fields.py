"""Hash fields and names that somebody typed, pasted, or wrote to see what happens."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from tests.corpus.case import DONE, Case
from tests.corpus.tiffs import MEGA, smooth

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLAIN: Mapping[str, str | bytes] = {"preprocess_function": "none", "postprocess_function": "none"}

VALUES: dict[str, str | bytes] = {
    "empty": "",
    "blanks": " \t\r\n ",
    "huge": "9" * MEGA,
    "binary": b"\xff\xfe\x00\x80\xc3\x28",
    "NaN": "NaN",
    "infinite": "1e400",
    "negative": "-1",
    "fraction": "0.5.5",
    "list": "[1, 2]",
    "object": '{"__class__": "Trap"}',
    "control characters": "\x00\x07\x1b[31mred\x1b[0m",
    "lines": "1\n2026-01-01 [ERROR]: forged\r\nstatus done",
    "separators": "1\u2028\u2029\x85\x1c2",
    "Lua": "]] redis.call('FLUSHALL') --[[",
    "template": "{0.__class__.__mro__} %s%n ${jndi:ldap://x/} `id` $(id)",
    "path": "../../../../etc/passwd",
    "right to left": "\u202e\u2066gnol",
}
READ = {
    "scale": r"^The field 'scale' is ['\"]",
    "channels": r"^The field 'channels' names ['\"]",
    "cuts": r"^The fields? 'cuts'",
    "field_size": r"^The fields? ('cuts' and )?'field_size'",
    "model_name": r"^The fields 'model_name' and 'model_version' are wrong: model name ['\"]",
    "model_version": r"^The fields 'model_name' and 'model_version' are wrong: model version ['\"]",
    "dimension_order": r"^The field 'dimension_order' is ['\"]",
    "preprocess_function": r"^preprocess_function ['\"]",
    "postprocess_function": r"^postprocess_function ['\"]",
    "input_file_name": r"^(The object name ['\"]|Object ['\"].*['\"] is not in the bucket$)",
    "original_name": DONE,
}
"""Each field that the consumers read, and how the reason begins that refuses it."""
ALL_BLANK = dict.fromkeys(("empty", "blanks"), DONE)
OTHERWISE: dict[tuple[str, str], str] = {
    **{(field, value): DONE for field in READ for value in ALL_BLANK if field != "input_file_name"},
    **{("input_file_name", value): "^The field 'input_file_name' is missing or blank$" for value in ALL_BLANK},
    ("input_file_name", "template"): "^The address at ",
    # Counting from 0, of a picture with one channel.
    ("channels", "list"): r"^The field 'channels' names '\[1'",
}
BESIDE = {
    "cuts": PLAIN,
    "field_size": {**PLAIN, "cuts": "1"},
    "model_version": {**PLAIN, "model_name": "NuclearSegmentation"},
    "preprocess_function": {"postprocess_function": "none"},
    "postprocess_function": {"preprocess_function": "none"},
}
"""What else the job says, so that the field is read."""


def stack() -> bytes:
    """Return an image whose axes only `dimension_order` can tell."""
    file = io.BytesIO()
    np.save(file, np.stack([smooth()] * 2))
    return file.getvalue()


NAMES_OF_MODELS = frozenset({"NaN", "infinite", "fraction"})
"""Such a model may exist; that it does not is told after 10 s, and tried elsewhere."""


def fields() -> Iterator[Case]:
    """Give a job for every field and value."""
    for field, refusal in READ.items():
        for name, value in VALUES.items():
            if field == "model_name" and name in NAMES_OF_MODELS:
                continue
            end = OTHERWISE.get((field, name), refusal)
            yield Case(f"{field}: {name}", end, stack, {**BESIDE.get(field, PLAIN), field: value})


MORE = [
    Case("scale: 10 MB", READ["scale"], stack, {**PLAIN, "scale": "1" * 10 * MEGA}),
    Case("original_name: 10 MB", DONE, stack, {**PLAIN, "original_name": "x" * 10 * MEGA + ".tif"}),
    Case("scale: Arabic digits", DONE, stack, {**PLAIN, "scale": "\u0661"}),
    Case("cuts: 4301 digits", READ["cuts"], stack, {**PLAIN, "cuts": "1" * 4301}),
    Case("cuts: 400 digits", READ["cuts"], stack, {**PLAIN, "cuts": "1" * 400}),
    Case("cuts: superscript", READ["cuts"], stack, {**PLAIN, "cuts": "\u00b2"}),
    Case("channels: 4301 digits", READ["channels"], stack, {**PLAIN, "channels": "1" * 4301}),
    Case("channels: 10^5 times the same", r"^The field 'channels' names 100000 channels", stack,
         {**PLAIN, "channels": "0," * 10**5}),
    Case("model_version: 2^63", r"model version '9223372036854775808'", stack,
         {**PLAIN, "model_name": "NuclearSegmentation", "model_version": str(2**63)}),
    Case("model_version: 4301 digits", READ["model_version"], stack,
         {**PLAIN, "model_name": "NuclearSegmentation", "model_version": "1" * 4301}),
    Case("model_name: up and away", READ["model_name"], stack, {**PLAIN, "model_name": "../NuclearSegmentation"}),
    Case("preprocess_function: 10^5 steps", r"^preprocess_function names 100001 steps", stack,
         {"preprocess_function": "normalize," * 10**5, "postprocess_function": "none"}),
    Case("postprocess_function: 10^5 steps", r"^postprocess_function names 100001 steps", stack,
         {"preprocess_function": "none", "postprocess_function": "pixelwise," * 10**5}),
    Case("postprocess_function: twice the same", r"^The image cannot be processed", stack,
         {"preprocess_function": "none", "postprocess_function": "deep_watershed,deep_watershed"}),
    Case("dimension_order: one letter twice", READ["dimension_order"], stack, {**PLAIN, "dimension_order": "XXY"}),
]  # fmt: skip
"""Values that mean something to one field only."""

KEYS = {
    "up": "uploads/../../planted.tif",
    "from the root": "/etc/passwd",
    "dots alone": "..",
    "escaped dots": "uploads/%2e%2e/%2e%2e/planted.tif",
    "escaped slash": "uploads%2f..%2fplanted.tif",
    "backslashes": "uploads\\..\\planted.tif",
    "NUL": "uploads/a.tif\0.png",
    "line": "uploads/a\n.tif",
    "empty segment": "uploads//a.tif",
    "leading dash": "-rf",
    "home": "~/a.tif",
    "variable": "$HOME/a.tif",
    "wild card": "uploads/*",
    "very long": "uploads/" + "x" * 300,
    "very deep": "uploads/" + "x/" * 600 + "a",
    "right to left": "uploads/\u202efit.a",
    "device": "CON",
    "disk": "C:\\Windows\\a.tif",
    "share": "\\\\server\\share\\a.tif",
    "folder": "uploads/",
    "the bucket itself": ".",
}
ADDRESSES = {
    "a file": "file:///etc/passwd",
    "another host": "https://example.org/uploads/a.tif",
    "the cloud's own data": "http://169.254.169.254/latest/meta-data/iam",
    "gopher": "gopher://127.0.0.1:6379/_FLUSHALL",
    "data": "data://text/plain;base64,SGk=",
    "a password": "https://user:hush-hush@example.org/a.tif",
    "no host": "https://",
    "a broken host": "http://[::1/a.tif",
}
NAMES = [
    "../../../planted.tif",
    "/etc/planted.tif",
    "..",
    ".",
    "/",
    "C:\\planted.tif",
    "\\\\server\\share\\planted.tif",
    "%2e%2e%2fplanted.tif",
    "-rf.tif",
    "~root.tif",
    "CON.tif",
    "x" * 5000 + ".tif",
    "deep/" * 500 + "a.tif",
    "核" * 300 + ".tif",
    "\u202efit.exe",
    "a\0b.tif",
    "a\x1b[2Jb\u2028c.tif",
    "{feature}{0}%s.tif",
    "$(touch planted).tif",
    "a" + "\u0301" * 1000 + ".tif",
]


def names() -> Iterator[Case]:
    """Give a job for every name, of the object and of the image."""
    for name, key in KEYS.items():
        yield Case(f"key: {name}", READ["input_file_name"], stack, {**PLAIN, "input_file_name": key})
    for name, address in ADDRESSES.items():
        yield Case(f"address: {name}", r"^The address at '", stack, {**PLAIN, "input_file_name": address})
    for name in NAMES:
        yield Case(f"name: {name[:30]!r}", DONE, stack, {**PLAIN, "original_name": name})
