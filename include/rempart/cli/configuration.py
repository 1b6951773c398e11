"""Check rempart.yaml for the commands that begin with it."""

from __future__ import annotations

from datetime import UTC, datetime

from rempart.cli import rendering
from rempart.counts import counted
from rempart.settings.config import Config


def check(*, quiet: bool = False) -> Config:
    """Validate rempart.yaml, say so unless `quiet`, warn of old facts, and return it. Raises ConfigError."""
    from rempart.deployment.setup import paths
    from rempart.settings import config
    from rempart.sovereignty import facts

    loaded = config.load()
    paths.ports_of(loaded, 0)  # ports may collide
    if not quiet:
        rendering.tell(f"{config.project_root() / 'rempart.yaml'}: valid ({counted(len(loaded.sites), 'site')})")
    old = facts.stale(facts.in_use(loaded), datetime.now(UTC).date(), loaded.audit.facts_max_age)
    for line in facts.summaries(old, loaded.audit.facts_max_age):
        rendering.tell(f"warning: {line}", err=True)
    return loaded
