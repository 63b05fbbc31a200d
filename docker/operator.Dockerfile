# The operator: docker build -f docker/operator.Dockerfile -t bitsmith-operator .
# See api.Dockerfile for how two builds come out the same.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS=operator,otel
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
COPY pyproject.toml requirements.lock ./
COPY docker docker
RUN docker/programs/list-requirements pyproject.toml "${EXTRAS}" > /tmp/requirements.txt \
    && pip install --quiet -c requirements.lock -r /tmp/requirements.txt
COPY . .
RUN hatchling build -t wheel -d /tmp/wheel && pip install --quiet --no-deps /tmp/wheel/*.whl \
    && docker/programs/finish-environment /opt/bitsmith

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bitsmith-operator" \
      org.opencontainers.image.description="Bitsmith's Kubernetes operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
RUN groupadd --gid 10001 bitsmith && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin bitsmith
COPY --from=build /opt/bitsmith /opt/bitsmith
ENV PATH=/opt/bitsmith/bin:$PATH PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
# Kubernetes asks it by the chart's probe; nothing else runs it.
HEALTHCHECK NONE
CMD ["bitsmith-operator"]
