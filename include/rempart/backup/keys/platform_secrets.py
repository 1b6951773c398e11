"""Store the platform's secrets in a restore point: everything besides data that a bare machine needs to run the
platform.

JSON of {"environment": {NAME: value}}: connections as Airflow reads them from AIRFLOW_CONN_<NAME>, the key with which
Airflow encrypts its database, and the embedded stack's other secrets. It exists only encrypted, or in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from rempart.errors import IntegrityError

FERNET_KEYS = ("REMPART_AIRFLOW_FERNET_KEY", "AIRFLOW__CORE__FERNET_KEY")
"""Names of Airflow's key: in the embedded stack's file, and in Airflow's environment."""
CANARY = "rempart_drill_canary"
"""Airflow variable that drills read from a restored database."""
CANARY_VALUE = "Airflow encrypted this, and a restore can read it."
_PREFIX = "AIRFLOW_CONN_"


def in_use(file: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the platform's secrets: from the embedded stack's file, else from this process's environment."""
    if file:
        return dict(file)
    return {name: value for name, value in environment.items() if name.startswith(_PREFIX) or name in FERNET_KEYS}


def encode(environment: Mapping[str, str]) -> bytes:
    """Encode the secrets. Never log the result."""
    return json.dumps({"environment": dict(sorted(environment.items()))}).encode()


def decode(body: bytes) -> dict[str, str]:
    """Raises IntegrityError, which quotes nothing of it."""
    try:
        return {str(name): str(value) for name, value in json.loads(body)["environment"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(
            "read the secrets of the restore point: they do not have the form of a backup",
            "Choose another restore point.",
        ) from None


def has_fernet_key(environment: Mapping[str, str]) -> bool:
    """Return whether these secrets decrypt Airflow's database."""
    return any(environment.get(name) for name in FERNET_KEYS)
