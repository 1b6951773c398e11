"""Send alerts to a webhook or a mailbox. A failed alert raises, and the next round sends it again."""

from __future__ import annotations

import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Any, Protocol
from urllib.parse import urlsplit

from rempart import __version__
from rempart.backup.watch.alarm import News
from rempart.errors import ConfigError, WatchError
from rempart.flows.monitoring.watch_file import LOOPBACK, Mail, Webhook, checked_webhook, secret

SECONDS = 30.0
RUNBOOK = "docs/runbooks/missing-heartbeat.md"


class Message(Protocol):
    """What is sent: one line, a text for people, JSON for programs, and the time."""

    @property
    def at(self) -> datetime: ...
    @property
    def subject(self) -> str: ...
    @property
    def text(self) -> str: ...
    def as_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Alert:
    """Alert of one round for one recipient: the site, the time, and the news."""

    site: str
    at: datetime
    news: Sequence[News]

    @property
    def subject(self) -> str:
        """Return one line: the red checks, or that all are green again."""
        red = [change.verdict.kind for change in self.news if not change.verdict.ok]
        green = [change.verdict.kind for change in self.news if change.verdict.ok]
        parts = [f"{what}: {', '.join(kinds)}" for what, kinds in (("RED", red), ("green again", green)) if kinds]
        return f"Rempart: {'; '.join(parts)}"

    @property
    def text(self) -> str:
        """Return the alert as text for people."""
        lines = [
            f"{change.verdict.kind} is {change.what} ({change.verdict.state}): {change.verdict.detail}"
            for change in self.news
        ]
        lines += [f"Checked at {self.at:%Y-%m-%d %H:%M:%S} UTC at site '{self.site}'."]
        if any(not change.verdict.ok for change in self.news):
            lines += [f"What to do: {RUNBOOK}"]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the alert as JSON for programs; chat servers show `text`."""
        return {
            "source": "rempart watch",
            "site": self.site,
            "at": self.at.isoformat(),
            "text": f"{self.subject}\n{self.text}",
            "runbook": RUNBOOK,
            "news": [
                {
                    "kind": change.verdict.kind,
                    "what": change.what,
                    "state": change.verdict.state,
                    "detail": change.verdict.detail,
                    "last_heartbeat": change.verdict.at.isoformat() if change.verdict.at else None,
                }
                for change in self.news
            ],
        }


def deliver(name: str, recipient: Webhook | Mail, alert: Message, environment: Mapping[str, str]) -> None:
    """Send the alert to one recipient. Raises WatchError, ConfigError, without secrets and webhook paths."""
    if isinstance(recipient, Webhook):
        _post(name, recipient, alert, environment)
    else:
        _mail(name, recipient, alert, environment)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would send the token to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(name: str, webhook: Webhook, alert: Message, environment: Mapping[str, str]) -> None:
    url = webhook.url or _url_in(environment, str(webhook.url_env))
    host = urlsplit(url).hostname
    where = f"alert '{name}': POST to {host}"
    headers = {"Content-Type": "application/json", "User-Agent": f"rempart-watch/{__version__}"}
    if webhook.token_env:
        headers["Authorization"] = f"Bearer {secret(environment, webhook.token_env)}"
    body = json.dumps(alert.as_json()).encode()
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 # http(s): checked
    proxies = [urllib.request.ProxyHandler({})] if host in LOOPBACK else []
    try:
        with urllib.request.build_opener(_NoRedirect, *proxies).open(request, timeout=SECONDS) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as cause:
        hint = "Check the URL, and the token if one is required; redirects are not followed."
        raise WatchError(f"{where}: it answered {cause.code}", hint) from None
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "reason", cause)
        raise WatchError(
            f"{where}: no answer ({type(reason).__name__})", "Check the host, this machine's network and certificates."
        ) from None


def _url_in(environment: Mapping[str, str], variable: str) -> str:
    try:
        return checked_webhook(secret(environment, variable))
    except ValueError as cause:
        raise ConfigError(
            f"The environment variable {variable} holds no URL of a webhook: {cause}", "Correct it."
        ) from None


def _mail(name: str, mail: Mail, alert: Message, environment: Mapping[str, str]) -> None:
    where = f"alert '{name}': mail by {mail.host}:{mail.port}"
    password = secret(environment, mail.password_env) if mail.password_env else ""
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = alert.subject, mail.sender, mail.to
    message["Date"], message["Message-ID"] = format_datetime(alert.at), make_msgid(domain="rempart.invalid")
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(alert.text)
    context = ssl.create_default_context()
    try:
        with (
            smtplib.SMTP_SSL(mail.host, mail.port, timeout=SECONDS, context=context)
            if mail.tls == "tls"
            else smtplib.SMTP(mail.host, mail.port, timeout=SECONDS)
        ) as server:
            if mail.tls == "starttls":
                server.starttls(context=context)
            if mail.user:
                server.login(mail.user, password)
            server.send_message(message)
    except smtplib.SMTPResponseException as cause:
        told = f"it answered {cause.smtp_code}"
        raise WatchError(f"{where}: {told}", "Check user, password and sender at the mail server.") from None
    except smtplib.SMTPNotSupportedError:
        raise WatchError(
            f"{where}: it offers no STARTTLS, or no log-in", "Say `tls: tls` (port 465), or ask its operator."
        ) from None
    except smtplib.SMTPRecipientsRefused:
        raise WatchError(f"{where}: it refused the recipient", "Correct `to`, or ask the server's operator.") from None
    except (OSError, ValueError) as cause:  # of smtplib too: SMTPException is an OSError
        raise WatchError(
            f"{where}: no answer ({type(cause).__name__})", "Check the host, this machine's network and certificates."
        ) from None
