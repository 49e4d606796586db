"""Tracking."""
from redis_consumer.tracking.linking import link
