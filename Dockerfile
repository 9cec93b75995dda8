# One image for every process of the service: compose.yaml shows them all. The processes of a library's user need no image of ours.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /build
# Everything pinned is compared with its hash; of that, what the service needs is installed, without an index.
COPY requirements.txt ./
RUN pip download --no-cache-dir --require-hashes --no-deps --requirement requirements.txt --dest wheels
COPY pyproject.toml README.md ./
COPY migrations migrations
COPY outbox outbox
RUN pip wheel --no-cache-dir --no-deps --wheel-dir wheels .
RUN python -m venv /opt/outbox \
    && /opt/outbox/bin/pip install --no-cache-dir --no-index --find-links wheels "dramatiq-outbox[service]"

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /srv/outbox --shell /usr/sbin/nologin outbox
COPY --from=build /opt/outbox /opt/outbox
WORKDIR /srv/outbox
COPY alembic.ini ./
COPY migrations migrations
COPY actors actors
COPY service service
ENV PATH=/opt/outbox/bin:$PATH \
    PYTHONPATH=/srv/outbox \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OUTBOX_APP=actors \
    LOG_FORMAT=json \
    API_HOST=0.0.0.0 \
    API_PORT=8000 \
    OUTBOX_HEALTH_HOST=0.0.0.0 \
    OUTBOX_HEALTH_PORT=9000
USER outbox
EXPOSE 8000 9000
# Words in brackets, no shell: SIGTERM reaches the process itself.
CMD ["python", "-m", "service", "api"]
