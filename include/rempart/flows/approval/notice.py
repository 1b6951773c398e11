"""Send a note that a candidate waits, to webhooks and mailboxes that are connections of Airflow.

The note names the model, the version, the time and a page. It holds no secret, no data and no person.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from rempart import __version__
from rempart.errors import ConfigError, RempartError
from rempart.flows.approval.ask import Question
from rempart.flows.monitoring import alerts
from rempart.flows.monitoring.watch_file import Mail, Webhook, checked_webhook
from rempart.settings.config import Connection, Connections

_URL, _TOKEN, _PASSWORD = "URL", "TOKEN", "PASSWORD"
"""Names under which a connection's secrets are handed to the sender, which reads them by name."""


@dataclass(frozen=True)
class Notice:
    """A candidate that waits: the model, the question's headline and state, the page that answers it."""

    model: str
    version: str
    subject: str
    told: str
    page: str
    at: datetime

    @property
    def text(self) -> str:
        return f"{self.told}.\nAnswer on this page, after you logged in: {self.page}"

    def as_json(self) -> dict[str, Any]:
        """Return the note as JSON for programs; chat servers show `text`."""
        return {
            "source": f"rempart {__version__}",
            "at": self.at.isoformat(),
            "model": self.model,
            "version": self.version,
            "text": f"{self.subject}\n{self.text}",
            "page": self.page,
        }


def recipient(connection: Connection) -> tuple[Webhook | Mail, dict[str, str]]:
    """Return a connection as a recipient of alerts, and its secrets by the names that the recipient reads. Pure.

    Type `http`: host, port, schema and the extra `path` make the address, the password is a bearer token. Type `smtp`:
    the extra has `from_email` and `to`. Raises ConfigError, which quotes no value.
    """
    extra, secrets = connection.extra, dict[str, str]()
    try:
        if connection.conn_type in ("http", "https"):
            scheme = connection.schema or ("https" if connection.conn_type == "https" else "http")
            at_port = f":{connection.port}" if connection.port else ""
            host = connection.host.split("://")[-1]
            secrets[_URL] = f"{scheme}://{host}{at_port}/{str(extra.get('path', '')).lstrip('/')}"
            if connection.password:
                secrets[_TOKEN] = connection.password
            checked_webhook(secrets[_URL])
            return Webhook(by="webhook", url_env=_URL, token_env=_TOKEN if connection.password else None), secrets
        if connection.conn_type == "smtp":
            if connection.password:
                secrets[_PASSWORD] = connection.password
            tls = "none" if extra.get("disable_tls") else "starttls" if extra.get("disable_ssl") else "tls"
            port = connection.port or {"tls": 465, "starttls": 587, "none": 25}[tls]
            user = {"user": connection.login, "password_env": _PASSWORD} if connection.password else {}
            given = {"by": "mail", "host": connection.host, "port": port, "tls": tls, **user}
            return Mail.model_validate({**given, "sender": extra.get("from_email"), "to": extra.get("to")}), secrets
    except ValidationError as cause:
        fields = ", ".join(sorted({str(error["loc"][0]) for error in cause.errors() if error["loc"]}))
        raise ConfigError(
            f"connection '{connection.name}' cannot receive notes: {fields or 'its values'} missing or not valid",
            "See docs/how-to/approve-a-model.md for the fields of a webhook and of a mailbox.",
        ) from None
    except ValueError as cause:
        raise ConfigError(
            f"connection '{connection.name}' cannot receive notes: {cause}", "Set its schema to https, or correct it."
        ) from None
    raise ConfigError(
        f"connection '{connection.name}' cannot receive notes: its type is '{connection.conn_type}'",
        "Use a connection of type http (a webhook) or smtp (a mailbox).",
    )


def notify(connections: Connections, now: datetime, model: str, question: Question, page: str) -> list[str]:
    """Send a note to each of the question's connections, and return their names.

    Each is tried; then the first failure is raised. Raises WatchError, ConfigError, ConnectionMissing.
    """
    notice = Notice(model, question.version, question.subject, question.told, page, now)
    failed: list[RempartError] = []
    sent: list[str] = []
    for name in question.notify:
        try:
            to, secrets = recipient(connections(name))
            alerts.deliver(name, to, notice, secrets)
            sent.append(name)
        except RempartError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return sent
