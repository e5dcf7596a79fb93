# Ray's head, its workers and the deploying one-shot: docs/guide/compose.md.
#
#   docker build --file deploy/docker/ray.Dockerfile --tag mongars-ray:0.1.0 .
#
# RAY_HEAD_IMAGE gives the operating system, Python 3.11 and, for GPUs, CUDA's libraries. The Ray that
# runs is not the base's: our locked requirements go into an environment of their own, so client,
# operator and cluster always agree on the version. Even RAY_HEAD_IMAGE=rayproject/ray:2.9.3-py311-cu121
# runs the Ray that pyproject.toml pins, on that image's CUDA 12.1.
# To pin the base exactly, append its digest: RAY_HEAD_IMAGE=rayproject/ray:TAG@sha256:DIGEST
ARG RAY_HEAD_IMAGE=rayproject/ray:2.60.0-py311-cpu

FROM ${RAY_HEAD_IMAGE} AS build
# Nothing runs from this stage.
# hadolint ignore=DL3002
USER 0
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
RUN python -m pip install --no-deps --no-build-isolation --editable . \
    && python -m compileall -q src modules scripts
# Every node finds the base model in its own image: no download when a replica starts.
ENV MONGARS_CACHE=/opt/mongars/models
RUN --mount=type=secret,id=pip,target=/etc/pip.conf python -m scripts.provision_models
COPY deploy/docker/health.py deploy/docker/base_image.py ./

FROM ${RAY_HEAD_IMAGE}
ARG RAY_HEAD_IMAGE
USER 0
COPY --from=build /opt/venv /opt/venv
# The base's user `ray` adds models to a volume that begins as this folder.
COPY --from=build --chown=1000:1000 /opt/mongars /opt/mongars
COPY --from=build /app /app
# The operator starts Ray through a login shell, which forgets PATH; /usr/local/bin it keeps. Python is
# not linked but called: through a link it looks for its environment beside the link, and finds none.
RUN ln --symbolic --force /opt/venv/bin/ray /opt/venv/bin/serve /usr/local/bin/ \
    && printf '#!/bin/sh\nexec /opt/venv/bin/python "$@"\n' > /usr/local/bin/python \
    && chmod 0755 /usr/local/bin/python \
    && printf "export PATH=/opt/venv/bin:\$PATH\n" > /etc/profile.d/mongars.sh \
    && install --directory --owner=1000 --group=1000 --mode=0750 \
       /var/lib/mongars /var/lib/mongars-registry
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    MONGARS_RAY_BASE=${RAY_HEAD_IMAGE} \
    MONGARS_HOME=/var/lib/mongars \
    MONGARS_CACHE=/opt/mongars/models \
    LLM_ADAPTER_REGISTRY_PATH=/var/lib/mongars-registry
# The base's own user `ray`, whose files these are; named by number so that Kubernetes can check it.
USER 1000:1000
EXPOSE 6379 8000 8265
CMD ["ray", "start", "--head", "--block", "--disable-usage-stats"]
