"""Part of the proof in containers: PostgreSQL accepts only TLS connections, with verified certificates.

The server of the wheel is built without TLS. A TLS proxy with a certificate therefore takes the server's name in a
container, and the server moves to a network that no other container is in. The platform's containers get the TLS
settings through libpq's own variables, as a pod does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from bench.outside import make_pair
from rempart.deployment.setup.preflight import DEFAULT_PORTS

TLS_PROXY, PORT = "tls", DEFAULT_PORTS["postgresql"]
ASIDE = "tls"
DATABASES = ("mlflow", "feast_online", "ledger")
"""Those that are restored beside the platform's own."""
SERVICES = (
    "mlflow",
    "api-server",
    "scheduler",
    "dag-processor",
    "triggerer",
    "scorer",
    "worker",
    "cli",
    "restore",
)
"""Who connects to PostgreSQL, beside airflow-init."""
_CERTIFICATE = "/run/tls/postgres.crt"
_TRIED = f"""
import psycopg
from rempart.settings.config import environment_connections
one = environment_connections("pg_backup")
for host, mode in (("postgres", "disable"), ("{TLS_PROXY}", "verify-full"), ("postgres", "verify-full")):
    try:
        psycopg.connect(host=host, port={PORT}, user=one.login, password=one.password, dbname="ledger", sslmode=mode)
        print("let in")
    except psycopg.OperationalError as refusal:
        print(" ".join(str(refusal).split()))
"""
Check = Callable[[str, bool, str], None]


class Containers(Protocol):
    """What `docker compose` can do here."""

    def run(self, *words: str, timeout: float = ...) -> Any: ...
    def must(self, *words: str) -> str: ...


def override(root: Path, folder: Path) -> Path:
    """Write the certificate and a compose file beside the project's own; that file."""
    made = folder / "tls"
    made.mkdir()
    pair = make_pair(made, "postgres")
    for file in (pair.certificate, pair.key):
        file.chmod(0o444)  # the folder of the proof is closed to others
    text = f"""
x-verified: &verified
  environment: {{PGSSLMODE: verify-full, PGSSLROOTCERT: {_CERTIFICATE}}}
  volumes: ["{pair.certificate}:{_CERTIFICATE}:ro"]

services:
  postgres:
    networks: !override {{behind: {{aliases: [server]}}}}
  {TLS_PROXY}:
    image: rempart/airflow:${{REMPART_TAG:-local}}
    command: [python, /run/front.py, "{PORT}", {_CERTIFICATE}, /run/tls/postgres.key, server, "{PORT}"]
    user: "50000:0"
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    pull_policy: never
    volumes:
      - {pair.certificate}:{_CERTIFICATE}:ro
      - {pair.key}:/run/tls/postgres.key:ro
      - {root / "tests" / "tls_proxy.py"}:/run/front.py:ro
    networks: {{behind: {{}}, data: {{aliases: [postgres]}}}}
    healthcheck:
      test: [CMD, bash, -c, "exec 3<>/dev/tcp/127.0.0.1/{PORT}"]
      interval: 5s
      start_period: 60s
      start_interval: 1s
    depends_on: {{postgres: {{condition: service_healthy}}}}
  airflow-init:
    <<: *verified
    depends_on: {{{TLS_PROXY}: {{condition: service_healthy}}}}
"""
    text += "".join(f"  {name}: *verified\n" for name in SERVICES) + "\nnetworks:\n  behind: {internal: true}\n"
    file = folder / "tls.yml"
    file.write_text(text, encoding="utf-8")
    return file


def look(compose: Containers, check: Check) -> float:
    """After the demo, whose chain, backup and drill went through the front. Seconds that the restore took."""
    told = compose.must("logs", "--no-log-prefix", "airflow-init")
    lines = [line for line in told.splitlines() if "pg_dump" in line]
    check("pg_dump reads PostgreSQL by TLS alone", any("verify-full" in line for line in lines), " ".join(lines))
    before = compose.must("logs", "--no-log-prefix", TLS_PROXY).splitlines()
    began = time.monotonic()
    only = [word for name in DATABASES for word in ("--only", f"database:{name}")]
    words = ("run", "--rm", "--no-deps", "-T", "restore", "rempart", "restore", "--aside", ASIDE, *only, "--yes")
    done = compose.run(*words, timeout=300)
    seconds = round(time.monotonic() - began, 1)
    last = " ".join((done.stdout + done.stderr).strip().splitlines()[-2:])
    check("a restore goes through it", done.returncode == 0 and f"{len(DATABASES)} databases" in last, last)
    carried, refused = (sum(line.endswith(word) for line in before) for word in ("carried", "refused"))
    check(
        "every connection of chain, backup and drill went by TLS",
        carried > 0 and refused == 0,
        f"{carried}, {refused} refused",
    )
    done = compose.run("run", "--rm", "--no-deps", "-T", "cli", "python", "-c", _TRIED, timeout=120)
    answers = [*done.stdout.strip().splitlines(), "", "", ""]
    ok = "TLS only" in answers[0] and "does not match host name" in answers[1] and answers[2] == "let in"
    check("a client without TLS is refused, and so is another name", ok, "; ".join(answers[:3]) + done.stderr[-200:])
    return seconds
