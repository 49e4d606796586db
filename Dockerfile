# The worker as a container.  It needs no write access but to /tmp, no root, and no network but Redis, the storage and
# the model server.  docs/kubernetes.md says how to run it.

# Not the slim one: it has the C compiler that the array functions want.
FROM python:3.13-bookworm AS build

RUN python -m venv /opt/redis-consumer
COPY pyproject.toml hatch_build.py README.md LICENSE /src/
COPY src /src/src
RUN /opt/redis-consumer/bin/pip install --no-cache-dir --disable-pip-version-check "/src[fast,outputs]" \
    && /opt/redis-consumer/bin/python -c "import redis_consumer.processing.kernels.compiled"


FROM python:3.13-slim-bookworm

# PYTHONDONTWRITEBYTECODE: what pip compiled is read, and nothing is written beside it.
ENV PATH=/opt/redis-consumer/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /usr/src/app
COPY consume-redis-events.py ./
COPY --from=build /opt/redis-consumer /opt/redis-consumer

# A number, so that Kubernetes can see that it is not root.
USER 10001:10001

# The first signal drains for DRAIN_SECONDS (25): give it longer than that (docker stop --time 45).
STOPSIGNAL SIGTERM

# No shell around it: the signal reaches the worker.  The Kiosk's chart sets no command and no arguments.
CMD ["python", "consume-redis-events.py"]
