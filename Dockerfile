# One image, three roles: code location (the default), webserver and daemon differ only in their command.
#
# The tag moves with Python's patch releases. For a reproducible build give the digest, too:
# docker build --build-arg PYTHON_IMAGE=python:3.12-slim-trixie@sha256:…
ARG PYTHON_IMAGE=python:3.12-slim-trixie

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

# Wheels only: a source distribution would need build tools that no lock file names.
# Without pip: the image needs no installer.
RUN python -m venv --without-pip /opt/loginetl
COPY requirements.txt /build/
RUN pip --python /opt/loginetl/bin/python install --only-binary :all: --require-hashes --no-deps -r /build/requirements.txt

# The build backend is locked like everything else, and is not part of the image.
COPY requirements-build.txt /build/
RUN pip install --only-binary :all: --require-hashes --no-deps -r /build/requirements-build.txt

# Last, because it changes most often.
COPY pyproject.toml README.md LICENSE /build/src/
COPY loginetl_assets /build/src/loginetl_assets
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /build/wheels /build/src \
 && pip --python /opt/loginetl/bin/python install --no-index --no-deps /build/wheels/loginetl-*.whl \
 && pip --python /opt/loginetl/bin/python check


FROM ${PYTHON_IMAGE}
# A fixed uid, so that the next image can read the volumes. Named volumes get the owner of the two directories.
RUN groupadd --gid 10001 loginetl \
 && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/loginetl \
      --shell /usr/sbin/nologin loginetl \
 && install -d -o loginetl -g loginetl -m 0700 /var/lib/loginetl \
 && install -d -o loginetl -g loginetl -m 0750 /var/lib/dagster

COPY --from=builder /opt/loginetl /opt/loginetl
COPY --chmod=0644 deploy/dagster.yaml deploy/workspace.yaml /opt/dagster/home/

ENV PATH=/opt/loginetl/bin:$PATH \
    DAGSTER_HOME=/opt/dagster/home \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/dagster/home
USER 10001:10001
EXPOSE 3000 4000

# For the default command; docker-compose.yml has the health checks of webserver and daemon.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 \
  CMD ["dagster", "api", "grpc-health-check", "--port", "4000"]
CMD ["dagster", "code-server", "start", "--host", "0.0.0.0", "--port", "4000", "--module-name", "loginetl_assets.definitions"]
