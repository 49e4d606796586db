"""The name under which container images start the worker: configured by the environment alone."""

import sys

from redis_consumer.cli import main

if __name__ == "__main__":
    sys.exit(main(["run"]))
