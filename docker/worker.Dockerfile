# Worker, engine and chat: docker build -f docker/worker.Dockerfile -t bitsmith-worker .
# For NVIDIA GPUs: --build-arg VARIANT=cuda -t bitsmith-worker-cuda. torch brings CUDA along; the node brings the driver.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG VARIANT=cpu
ARG EXTRAS=worker,serving,engine,adapters,eval,otel
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG SOURCE_DATE_EPOCH=0
# pip reads the last one the other way round: 0 is no byte code, which finish-environment makes.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=0
WORKDIR /src
COPY docker/build-requirements.txt docker/
RUN python -m venv /opt/build && /opt/build/bin/pip install --quiet -r docker/build-requirements.txt && python -m venv /opt/bitsmith
ENV PATH=/opt/bitsmith/bin:/opt/build/bin:$PATH
COPY requirements.lock ./
COPY docker/install-torch docker/
RUN docker/install-torch /opt/bitsmith/bin/python "${VARIANT}"
COPY pyproject.toml ./
COPY docker docker
RUN docker/programs/list-requirements pyproject.toml "${EXTRAS}" > /tmp/requirements.txt \
    && pip install --quiet -c requirements.lock -r /tmp/requirements.txt
COPY . .
RUN hatchling build -t wheel -d /tmp/wheel && pip install --quiet --no-deps /tmp/wheel/*.whl \
    && docker/programs/make-smoke-model /opt/bitsmith/models/bitsmith-smoke \
    && docker/programs/finish-environment /opt/bitsmith

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bitsmith-worker" \
      org.opencontainers.image.description="Bitsmith's worker, engine and serving" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# tini takes in what torchrun's processes leave behind; libgomp1 is torch's. Versions are the base image's affair.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends tini libgomp1 && rm -rf /var/lib/apt/lists/* /var/log/* \
    && groupadd --gid 10001 bitsmith \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin bitsmith \
    && install -d -o 10001 -g 10001 /scratch /hub /cache
COPY --from=build /opt/bitsmith /opt/bitsmith
ENV PATH=/opt/bitsmith/bin:$PATH PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    BITSMITH_WORKER_SCRATCH=/scratch BITSMITH_WORKER_MODELS=/opt/bitsmith/models HF_HOME=/hub \
    BITSMITH_SERVING_HOST=0.0.0.0 BITSMITH_SERVING_CACHE=/cache
USER 10001:10001
WORKDIR /tmp
# One attempt's files; downloads of base models; models that are chatted with. Each may be lost at any time.
VOLUME ["/scratch", "/hub", "/cache"]
EXPOSE 8001
# A worker has no port to ask, and one that hangs loses its lease. compose.yaml has a check for serving.
HEALTHCHECK NONE
ENTRYPOINT ["tini", "--"]
CMD ["bitsmith-worker"]
