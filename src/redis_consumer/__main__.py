"""``python -m redis_consumer`` is ``redis-consumer``."""

import sys

from redis_consumer.cli import main

if __name__ == "__main__":
    sys.exit(main())
