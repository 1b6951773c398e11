"""The platform's secrets as a restore point holds them: what a bare machine needs beside data to be the platform again.

JSON of {"environment": {NAME: value}}: connections as Airflow reads them from AIRFLOW_CONN_<NAME>, the key with which
Airflow encrypts what it keeps in its database, and the embedded stack's other secrets. It exists sealed, or in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from rempart.errors import IntegrityError

FERNET_KEYS = ("REMPART_AIRFLOW_FERNET_KEY", "AIRFLOW__CORE__FERNET_KEY")
"""Names of Airflow's key: in the embedded stack's file, and where Airflow itself looks."""
CANARY = "rempart_drill_canary"
"""Airflow's variable that is there to be read again from a restored database."""
CANARY_VALUE = "Airflow encrypted this, and a restore can read it."
_PREFIX = "AIRFLOW_CONN_"


def in_use(file: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The secrets of the platform: those of the embedded stack's file, else those of this process's environment."""
    if file:
        return dict(file)
    return {name: value for name, value in environment.items() if name.startswith(_PREFIX) or name in FERNET_KEYS}


def encode(environment: Mapping[str, str]) -> bytes:
    """Never log it."""
    return json.dumps({"environment": dict(sorted(environment.items()))}).encode()


def decode(body: bytes) -> dict[str, str]:
    """Raises IntegrityError, which quotes nothing of it."""
    try:
        return {str(name): str(value) for name, value in json.loads(body)["environment"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(
            "The secrets of the restore point cannot be read: they are not what a backup seals", "Choose another point."
        ) from None


def has_fernet_key(environment: Mapping[str, str]) -> bool:
    """Whether what Airflow encrypted in its database can be read with these."""
    return any(environment.get(name) for name in FERNET_KEYS)
