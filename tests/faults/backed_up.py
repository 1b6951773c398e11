"""A platform on the stack with buckets and a ledger of its own, to back up and attack."""

import dataclasses

from rempart.backup.points import points
from rempart.flows.backup import back_up as flow
from tests.buckets import own_buckets


def own_platform(platform, proven_ledger, own_continuity, monkeypatch):
    """Four of the stack's databases, without the largest; empty buckets of the test's at both sites."""
    monkeypatch.setattr(flow, "DATABASES", ("continuity", "mlflow", "feast_offline", "ledger"))
    # the databases are those of all tests: another one may have trained a model whose files are in other buckets
    monkeypatch.setattr(flow.postgresql, "decided_champions", lambda session: {})
    located = flow.postgresql.model_locations
    with own_buckets(platform, "fault") as buckets:
        monkeypatch.setattr(
            flow.postgresql,
            "model_locations",
            lambda session: [model for model in located(session) if f"//{buckets.artifacts}/" in model[2]],
        )
        settings = platform.config.model_copy(update={"buckets": buckets})
        yield dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_continuity)


def stored(platform) -> tuple[str, ...]:
    return points.list(platform.site("haven", "personal"), platform.config.buckets.backups)


class Flipped:
    """A real site of which one version of one key has another bit at each read."""

    def __init__(self, site, key, version):
        self._site, self._key, self._version = site, key, version

    def __getattr__(self, name):
        return getattr(self._site, name)

    def fetch(self, bucket, key, **how):
        info, body = self._site.fetch(bucket, key, **how)
        if (key, info.version_id) == (self._key, self._version):
            body = body[:60] + bytes([body[60] ^ 1]) + body[61:]
        return info, body


def small_platform(standing, monkeypatch):
    """Of one database, and with leases of the test's own."""
    monkeypatch.setattr(flow, "DATABASES", ("ledger",))
    return standing
