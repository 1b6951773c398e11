"""The scorer's own role in PostgreSQL and its own keys at the sites: they read what it needs, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from rempart.errors import ConnectionMissing
from rempart.settings.config import SCORER, SCORER_READS, Config, Connection, Connections, reader


def reading(resolve: Connections, config: Config) -> Connections:
    """Return the connections of the scorer: those that only read, or the others of a server that has none.

    Connection `pg_x` of a database that the scorer reads is its own role's, and a site's is the key for outputs of
    training jobs. Others are as they were. Raises ConnectionMissing.
    """
    keys = {site.connection: reader(name) for name, site in config.sites.items()}

    def limited(name: str) -> Connection:
        database = name.removeprefix("pg_")
        try:
            if database != name and database in SCORER_READS:
                return replace(resolve(f"pg_{SCORER}"), schema=database)
            return resolve(keys.get(name, name))
        except ConnectionMissing:
            return resolve(name)

    return limited
