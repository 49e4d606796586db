"""`demo`, `serve-models` and `settings`: what needs no cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from redis_consumer.cli.options import (
    OK,
    add_settings_options,
    new_command,
    say,
    settings_of,
    start_logging,
)
from redis_consumer.demo.kinds import KINDS

if TYPE_CHECKING:
    import argparse

    from redis_consumer.cli.options import Commands


def add_demo(commands: Commands) -> None:
    """Add `demo`: the whole pipeline on this machine."""
    command = new_command(
        commands,
        "demo",
        "find nuclei and more in images: everything is started, shown and ended",
        """
        Starts Redis, a model server and workers on this machine, submits the images through them, and leaves for
        each the result zip and a picture of what was found.  Without images it takes simulated ones, of which is
        known what there is to find.

        examples:
          redis-consumer demo
          redis-consumer demo my-nuclei/*.tif --output found
          redis-consumer demo --type zip plates.zip
        """,
        demo,
    )
    command.add_argument("images", nargs="*", metavar="IMAGE", help="images, or archives of them for `zip`")
    command.set_defaults(several="images")
    command.add_argument(
        "--type", choices=tuple(KINDS), default="segmentation", help="of the jobs (default: %(default)s)"
    )
    command.add_argument("--output", type=Path, default=Path("demo-output"), metavar="DIR", help="default: demo-output")
    command.add_argument("--keep", action="store_true", help="leave it running and print how to connect")


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from redis_consumer.demo.run import run_demo

    images = [Path(image) for image in arguments.images]
    return run_demo(images, arguments.output, kind=arguments.type, keep=arguments.keep)


def add_serve_models(commands: Commands) -> None:
    """Add `serve-models`: the embedded model server."""
    command = new_command(
        commands,
        "serve-models",
        "serve ONNX models by TensorFlow Serving's gRPC API",
        """
        Serves DIR/<Name>/<version>/model.onnx.  New versions are found while it runs.

        examples:
          redis-consumer serve-models models
          redis-consumer serve-models models --port 0 --max-batch-size 32
        """,
        serve_models,
    )
    command.add_argument("directory", type=Path, metavar="DIR", help="folder of models")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=int, default=8500, help="0 takes a free one (default: %(default)s)")
    command.add_argument(
        "--max-batch-size",
        type=int,
        default=32,
        metavar="N",
        help="largest first axis of a request (default: %(default)s)",
    )
    command.add_argument(
        "--max-in-flight", type=int, default=4, metavar="N", help="requests computed at once (default: %(default)s)"
    )
    command.add_argument(
        "--threads", type=int, default=2, metavar="N", help="threads of one computation (default: %(default)s)"
    )


def serve_models(arguments: argparse.Namespace) -> int:
    """Serve until a signal."""
    from redis_consumer.serving.server import serve_models as serve

    start_logging("INFO")
    serve(
        arguments.directory,
        host=arguments.host,
        port=arguments.port,
        max_batch_size=arguments.max_batch_size,
        max_in_flight=arguments.max_in_flight,
        threads=arguments.threads,
        announce=say,
    )
    return OK


def add_settings(commands: Commands) -> None:
    """Add `settings`: what the program would run with."""
    command = new_command(
        commands,
        "settings",
        "print every setting, its value and where it came from",
        """
        Secrets are masked.  Exits with 2 if a setting is wrong.

        examples:
          redis-consumer settings
          redis-consumer settings --env-file worker.env --json
        """,
        show_settings,
    )
    command.add_argument("--json", action="store_true", help="print a list of objects")
    add_settings_options(command)


def show_settings(arguments: argparse.Namespace) -> int:
    """Print the settings."""
    from redis_consumer.settings import render_json, render_text

    render = render_json if arguments.json else render_text
    say(render(settings_of(arguments).explain()))
    return OK
