"""The platform as configured: sites, databases, ledger and model registry, opened on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rempart import config as configuration
from rempart.config import Classification, Config, Connection, Connections
from rempart.errors import PlacementDenied
from rempart.ledger.port import Ledger
from rempart.ledger.postgresql import PostgresqlLedger
from rempart.sites.port import Site
from rempart.sovereignty.policy import decide


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Platform:
    """What a flow needs to reach the world. Tests pass their own sites, ledger and clock."""

    config: Config
    connections: Connections
    clock: Callable[[], datetime] = utc_now
    sites: dict[str, Site] = field(default_factory=dict)
    ledger_: Ledger | None = None

    def site(self, name: str, classification: Classification) -> Site:
        """A site, if the policy allows data of this classification there. Raises PlacementDenied (and records it)."""
        decision = decide(self.config, classification, name)
        if not decision.allowed:
            self.ledger.append("denial", name, {"classification": classification, "reasons": list(decision.reasons)})
            raise PlacementDenied(
                f"{classification} data may not be placed at site '{name}': " + "; ".join(decision.reasons),
                f"Choose another site, or change policy.{classification} in rempart.yaml.",
            )
        if name not in self.sites:
            from rempart.sites.s3 import S3Site

            place = self.config.sites[name]
            self.sites[name] = S3Site(name, self.connections(place.connection), place.region)
        return self.sites[name]

    def active_site(self, classification: Classification) -> Site:
        """The site where pipelines read and write."""
        return self.site(self.config.active_site, classification)

    def database(self, name: str) -> Connection:
        """The connection of one platform database (`config.DATABASES`, or `backup` and `drill`)."""
        return self.connections(f"pg_{name}")

    def tracking(self) -> Connection:
        """The MLflow server's connection."""
        return self.connections("mlflow")

    @property
    def ledger(self) -> Ledger:
        return self.ledger_ or PostgresqlLedger(self.database("ledger"))


def open_platform(connections: Connections = configuration.environment_connections) -> Platform:
    """The platform of rempart.yaml, with connections from the environment unless another source is given."""
    return Platform(configuration.load(), connections)
