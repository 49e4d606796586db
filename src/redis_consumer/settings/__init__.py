"""The settings of one run: `Settings.from_environ(os.environ)`, read once by whoever starts the program."""

from redis_consumer.settings.reading import read_env_file
from redis_consumer.settings.render import Row, render_text
from redis_consumer.settings.schema import Settings

__all__ = ["Row", "Settings", "read_env_file", "render_text"]
