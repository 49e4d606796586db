"""The job queue: a port, an adapter for Redis, and one in memory."""
