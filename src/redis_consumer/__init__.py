"""A worker for image-analysis jobs: Redis in, model server, object storage, Redis out."""

__version__ = "0.1.0"
