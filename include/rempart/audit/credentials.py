"""Default, empty and weak secrets, and files that others may read. Pure. No value ever leaves this module."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rempart.audit.findings import AuditFinding, CheckResult, Severity
from rempart.settings.config import Connection, parse_connection

KNOWN = frozenset(
    [
        "admin",
        "administrator",
        "airflow",
        "change-me",
        "change_me",
        "changeit",
        "changeme",
        "default",
        "demo",
        "example",
        "guest",
        "letmein",
        "minio",
        "minio123",
        "minioadmin",
        "mlflow",
        "pass",
        "passw0rd",
        "password",
        "password1",
        "password123",
        "password1234",
        "postgres",
        "postgresql",
        "qwerty",
        "rempart",
        "root",
        "s3cr3t",
        "secret",
        "secret_key",
        "seaweedfs",
        "temporary_key",
        "test",
        "toor",
        "user",
        "username",
    ]
)
"""Defaults of the software that the platform is made of, and what people type instead of a password."""

LEAST_BITS = 64.0
"""Entropy in bits below which a secret is weak. A generated secret has about 128 or more."""

_SECRET_NAME = re.compile(r"(?<!PUBLIC)(?:^|_)(PASSWORD|PASSWD|SECRET|TOKEN|KEY|SECRET_KEY|JWT_SECRET|FERNET_KEY)\Z")
_OURS = ("AIRFLOW__", "MLFLOW_", "REMPART_", "WEED_")
_SECRET_EXTRA = re.compile(r"password|secret|token|private_key", re.IGNORECASE)


@dataclass(frozen=True)
class PrivateFile:
    """A file that holds secrets, and its permission bits."""

    path: str
    mode: int


def bits(secret: str) -> float:
    """Return an upper bound of a secret's entropy in bits, from the distribution of its characters: `aaaa` has none."""
    counts = Counter(secret)
    length = len(secret)
    return -sum(count * math.log2(count / length) for count in counts.values()) if length else 0.0


def weakness(secret: str, login: str = "") -> tuple[str, Severity] | None:
    """Return why a secret is weak, and how severe that is, or None."""
    if not secret:
        return "is empty", "high"
    if secret.lower() in KNOWN:
        return "is a known default", "critical"
    if login and secret.lower() == login.lower():
        return "is the same as its login", "critical"
    if bits(secret) < LEAST_BITS:
        return f"has at most {bits(secret):.0f} bits of entropy", "high" if bits(secret) < 32 else "medium"
    return None


def secrets_of(variables: Mapping[str, str]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Return each secret with its login, by the name of its holder, and the unreadable connections.

    A connection without login and password (it uses the identity of its machine) has no secret.
    """
    secrets: dict[str, tuple[str, str]] = {}
    unreadable = []
    for name, value in variables.items():
        if name.startswith("AIRFLOW_CONN_"):
            try:
                connection = parse_connection(name, value)
            except ValueError:
                unreadable.append(name)
                continue
            secrets |= _of_connection(name, connection)
        elif name.startswith(_OURS) and _SECRET_NAME.search(name):
            secrets[name] = (value, "")
    return secrets, unreadable


def _of_connection(name: str, connection: Connection) -> dict[str, tuple[str, str]]:
    extra = {
        f"{name} extra.{key}": (value, connection.login)
        for key, value in connection.extra.items()
        if isinstance(value, str) and _SECRET_EXTRA.search(key)
    }
    by_other_means = any(word in key for key in connection.extra for word in ("key", "cert", "token", "role", "kube"))
    if connection.password or (connection.login and not by_other_means):
        return {name: (connection.password, connection.login), **extra}
    return extra


def check(variables: Mapping[str, str], files: Sequence[PrivateFile], absent: Sequence[str] = ()) -> CheckResult:
    """Return findings about the secrets of the stack and of the environment, by name, and about their files."""
    secrets, unreadable = secrets_of(variables)
    findings = []
    for name, (secret, login) in secrets.items():
        if weak := weakness(secret, login):
            what, severity = f"The secret in {name} {weak[0]}", weak[1]
            remedy = (
                "Generate a secret of 20 random characters or more, and set it at the server and in the connection."
            )
            subject = name.lower().replace(" ", "-")
            where = "environment or secrets file"
            findings.append(AuditFinding(f"passwords/{subject}", severity, what, where, remedy))
    for name in unreadable:
        what = f"{name} is neither JSON nor a URI, so its password was not checked"
        remedy = "Write it in one of the two forms that Airflow documents for connection variables."
        findings.append(
            AuditFinding(f"passwords/{name.lower()}", "medium", what, "environment or secrets file", remedy)
        )
    for file in files:
        if file.mode & 0o077:
            what = f"Other users of this machine may read or write a file with secrets (mode {file.mode & 511:o})"
            remedy = "Set its mode to 600. Generate new secrets if another person may have used this machine."
            findings.append(AuditFinding(f"passwords/file-{file.path}", "high", what, file.path, remedy))
    looked = f"{len(secrets)} secrets and {len(files)} files with secrets"
    if absent:
        looked += f"; missing files: {', '.join(absent)}"
    return CheckResult("passwords", looked, tuple(findings))
