# The API process, the migrations and every other command: docs/guide/compose.md.
#
#   docker build --file deploy/docker/api.Dockerfile --tag mongars-api:0.1.0 .
#
# To pin the base exactly, append its digest: --build-arg PYTHON_IMAGE=python:TAG@sha256:DIGEST
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements/build.lock requirements/runtime.lock requirements/
# A package index of your own: --secret id=pip,src=pip.conf (it stays out of the image).
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python -m pip install --require-hashes --requirement requirements/build.lock \
    && python -m pip install --require-hashes --requirement requirements/runtime.lock
COPY pyproject.toml README.md LICENSE alembic.ini init_db.py serve_app.py ./
COPY src src
COPY modules modules
COPY scripts scripts
# Editable: alembic.ini finds the migrations below src.
RUN python -m pip install --no-deps --no-build-isolation --editable . \
    && python -m compileall -q src modules scripts
# The base model lies in the image: the embedded engine answers without a network.
ENV MONGARS_CACHE=/opt/mongars/models
RUN --mount=type=secret,id=pip,target=/etc/pip.conf python -m scripts.provision_models
COPY deploy/docker/health.py ./

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 1000 mongars \
    && useradd --uid 1000 --gid 1000 --no-create-home --shell /usr/sbin/nologin mongars \
    && install --directory --owner=1000 --group=1000 --mode=0750 \
       /var/lib/mongars /var/lib/mongars-registry
COPY --from=build /opt/venv /opt/venv
COPY --from=build --chown=1000:1000 /opt/mongars /opt/mongars
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MONGARS_HOST=0.0.0.0 \
    MONGARS_PORT=8080 \
    MONGARS_HOME=/var/lib/mongars \
    MONGARS_CACHE=/opt/mongars/models \
    LLM_ADAPTER_REGISTRY_PATH=/var/lib/mongars-registry
USER 1000:1000
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=6 \
    CMD ["python", "/app/health.py", "http://127.0.0.1:8080/readyz"]
CMD ["mongars", "api"]
