"""Write a psql script that prepares the platform's databases in an operator's PostgreSQL. A person runs it once.

It needs a role that may create roles and databases, which operators grant their customers. Passwords are SCRAM
verifiers (RFC 5802, in PostgreSQL's format), which grant no access by themselves.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping

from rempart.deployment.setup.paths import Stack
from rempart.settings.config import DATABASES, SCORER, SCORER_READS, parse_connection

_ITERATIONS = 4096
"""PostgreSQL's own iteration count; the passwords are random and long."""


def verifier(password: str, salt: bytes) -> str:
    """Return the server's verifier of a password of printable ASCII. A verifier is not enough to log in."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ITERATIONS)
    client = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, client, server)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def script(stack: Stack, secrets: Mapping[str, str], salt: bytes | None = None) -> str:
    """Return the script. Safe to run again; rights that only a superuser can grant come last, and may fail."""
    lines = [
        "-- Written by `rempart stack init --kubernetes`. Run it as a role that may create roles and databases:",
        '--   psql "host=... dbname=postgres user=..." -f databases.sql',
        (
            "-- Run it again after passwords were renewed. It contains no password, only the verifiers that the "
            "server stores."
        ),
        "\\set ON_ERROR_STOP on",
        "",
    ]
    for role in stack.config.roles:
        password = parse_connection(f"pg_{role}", secrets[f"AIRFLOW_CONN_PG_{role.upper()}"]).password
        lines += [
            _unless("pg_roles", "rolname", role, f"CREATE ROLE {role} LOGIN"),
            f"ALTER ROLE {role} LOGIN PASSWORD '{verifier(password, salt or os.urandom(16))}';",
            f"GRANT {role} TO CURRENT_USER;",
        ]
    lines += [
        _unless("pg_roles", "rolname", "ledger_owner", "CREATE ROLE ledger_owner NOLOGIN"),
        "GRANT ledger_owner TO CURRENT_USER;",
        "ALTER ROLE drill CREATEDB;",
    ]
    for name in DATABASES:
        owner = "ledger_owner" if name == "ledger" else name
        reads = f", {SCORER}" if name in SCORER_READS else ""
        lines += [
            "",
            _unless("pg_database", "datname", name, f"CREATE DATABASE {name} OWNER {owner}"),
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;",
            f"GRANT CONNECT ON DATABASE {name} TO {name}, backup{reads}, CURRENT_USER;",
        ]
    for name in SCORER_READS:
        text = (stack.root / "include" / "sql" / "platform" / f"{name}.sql").read_text(encoding="utf-8")
        lines += ["", f"\\connect {name}", text.rstrip()]
    lines += [
        "",
        "RESET ROLE;",
        "\\set ON_ERROR_STOP off",
        "-- Backups read every table. If this is refused, ask the operator to run it.",
        "GRANT pg_read_all_data TO backup;",
    ]
    return "\n".join(lines) + "\n"


def _unless(catalogue: str, column: str, name: str, statement: str) -> str:
    """Return a statement that psql runs if a row is missing. All its words come from this module."""
    return f"SELECT '{statement}' WHERE NOT EXISTS (SELECT FROM {catalogue} WHERE {column} = '{name}') \\gexec"  # noqa: S608
