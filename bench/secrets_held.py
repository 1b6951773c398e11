"""Compare the secrets in each container's file and processes with the table of secrets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from rempart.deployment.setup import environment, process_secrets
from rempart.settings.config import Config

SERVICES = {
    **{name: f"airflow-{name}" for name in ("api-server", "scheduler", "dag-processor", "triggerer")},
    "mlflow": "mlflow",
    "landing-watch": "landing-watch",
    "scorer": "scorer",
}
_NAMES = (
    "cut -d= -f1 /var/lib/rempart/secrets.env; echo --;"
    " cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | cut -d= -f1 | sort -u"
)


class Containers(Protocol):
    """The calls of `docker compose` that this module needs."""

    def inside(self, service: str, script: str) -> tuple[int, str]: ...


def kinds(names: str, config: Config) -> set[str]:
    """Return the kinds of secrets in variables of these names, one a line."""
    settings = {f"AIRFLOW__{key}": kind for key, (_, kind) in environment.SECRET_SETTINGS.items()}
    found = (settings.get(name) or process_secrets.kind(name, config) for name in names.splitlines())
    return {kind for kind in found if kind}


def look(
    compose: Containers, config: Config, secrets: Mapping[str, str], check: Callable[[str, bool, str], None]
) -> None:
    """Check that each container's file holds the kinds of the table, and that no process of it holds another."""
    known = kinds("\n".join(secrets), config)
    for service, process in SERVICES.items():
        wanted = process_secrets.held(process, config) & known
        _, told = compose.inside(service, _NAMES)
        file, _, running = told.partition("--\n")
        mounted, held = kinds(file, config), kinds(running, config)
        more = sorted((mounted | held) - wanted)
        detail = f"more: {', '.join(more)}" if more else f"{len(mounted)} of {len(known)} kinds of secrets"
        check(f"{service} holds the secrets of the table and no other", mounted == wanted and not more, detail)
