"""Run one round of the watch: read the heartbeats, judge them, notify the recipients.

Needs only watch.yaml and the network: neither Airflow nor PostgreSQL nor the primary site.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rempart import private_files
from rempart.backup.watch.alarm import after, due
from rempart.backup.watch.heartbeat import decode, key_of
from rempart.backup.watch.heartbeat_check import HeartbeatVerdict, ReceivedHeartbeat, Unheard, judge
from rempart.backup.watch.rpo import of_heartbeats
from rempart.errors import ObjectMissing, RempartError, SiteError, WatchError
from rempart.flows.monitoring import watch_file
from rempart.flows.monitoring.alerts import Alert, deliver
from rempart.flows.monitoring.watch_file import Watch, connection
from rempart.sites.port import Site
from rempart.sovereignty.policy import Reason, verdict

logger = logging.getLogger(__name__)

GREEN, RED, UNKNOWN = 0, 1, 2


@dataclass(frozen=True)
class Round:
    """Result of one round, with its `figure`. `undelivered`: alerts that did not arrive, with the reason.

    `fault` is the reason why the round has no verdict.
    """

    verdicts: tuple[HeartbeatVerdict, ...] = ()
    undelivered: tuple[str, ...] = ()
    figure: str = ""
    fault: RempartError | None = None

    @property
    def exit_code(self) -> int:
        """Return 0 if all is green, 1 if something is red, 2 if the site could not be read or an alert failed."""
        if self.fault or self.undelivered or any(judged.state == "unreadable" for judged in self.verdicts):
            return UNKNOWN
        return GREEN if all(judged.ok for judged in self.verdicts) else RED

    def lines(self) -> Iterator[str]:
        """Return the verdicts as text."""
        for judged in self.verdicts:
            yield f"{'ok ' if judged.ok else 'RED'} {judged.kind:<28} {judged.state:<11} {judged.detail}"
        if self.figure:
            yield f"    {self.figure}"


def open_site(settings: Watch, environment: Mapping[str, str]) -> Site:
    """Return the site that holds the heartbeats. Raises ConfigError, SiteError."""
    from rempart.sites.s3.site import S3Site

    # nothing is placed there, and the platform's policy is not at hand: its owner named the site in the file
    named = Reason(True, "watch.yaml", "heartbeats are read from the site that it names")
    permission = verdict("internal", "evidence", settings.site.name, [named])
    return S3Site(settings.site.name, connection(settings.site, environment), settings.site.region, permission)


def run_round(
    settings: Watch, site: Site, state: Path, environment: Mapping[str, str], clock: Callable[[], datetime]
) -> Round:
    """Run one round and send what is new since the last one.

    Each heartbeat is judged by the time at which it was read: a site may take minutes to answer, and one that is
    written meanwhile is not dated in the future. Raises WatchError if the state cannot be saved: the next round would
    send it again.
    """
    keys, limits = settings.public_keys(), settings.limits()
    seen, verdicts = dict[str, ReceivedHeartbeat | Unheard](), list[HeartbeatVerdict]()
    for kind, limit in limits.items():
        seen[kind] = look(site, settings.site.bucket, kind, keys)
        verdicts += judge(seen, {kind: limit}, clock())
    figure = of_heartbeats(seen, limits, now := clock())
    told, undelivered = read_state(state), []
    for name, recipient in settings.alerts.items():
        mine = told.get(name, {})
        if not (news := due(mine, verdicts, now, settings.remind)):
            continue
        try:
            deliver(name, recipient, Alert(settings.site.name, now, news), environment)
        except RempartError as error:
            undelivered.append(str(error))
            logger.warning("an alert did not reach '%s': %s", name, error)
            continue
        logger.info(
            "sent an alert to '%s': %s", name, ", ".join(f"{change.verdict.kind} is {change.what}" for change in news)
        )
        told[name] = after(mine, news, verdicts, now)
        write_state(state, {name: told.get(name, {}) for name in settings.alerts})
    if not settings.alerts:
        logger.warning("watch.yaml has no recipient under `alerts`: only the exit code reports")
    return Round(tuple(verdicts), tuple(undelivered), figure.line() if figure else "")


def look(site: Site, bucket: str, kind: str, keys: list[bytes]) -> ReceivedHeartbeat | Unheard:
    """Return a site's heartbeat of one kind."""
    try:
        info, body = site.fetch(bucket, key_of(kind))
    except ObjectMissing as error:
        return Unheard("missing", error.what)
    except SiteError as error:
        return Unheard("unreadable", error.what)
    try:
        return ReceivedHeartbeat(decode(kind, body, keys), info.modified)
    except ValueError as cause:
        return Unheard("forged", f"{bucket}/{key_of(kind)} is not trusted: {cause}")


def read_state(file: Path) -> dict[str, dict[str, datetime]]:
    """Return when each recipient was notified about each red kind; empty if unreadable, so that red is sent again."""
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: {kind: datetime.fromisoformat(at).astimezone(UTC) for kind, at in told.items()}
            for name, told in plain["told"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        logger.warning("%s cannot be read (%s): all red kinds are sent again", file, type(cause).__name__)
        return {}


def write_state(file: Path, notified: Mapping[str, Mapping[str, datetime]]) -> None:
    """Save the state of the notifications atomically. Raises WatchError."""
    plain = {name: {kind: at.isoformat() for kind, at in kinds.items()} for name, kinds in notified.items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        private_files.write(file, json.dumps({"told": plain}, indent=1, sort_keys=True) + "\n")
    except OSError as cause:
        raise WatchError(
            f"{file} cannot be written ({cause.strerror})",
            "Give the watch a folder of its own with `state` in watch.yaml, or --state: without it, alerts repeat.",
        ) from cause


def rounds(
    file: Path,
    state: Path | None,
    environment: Mapping[str, str],
    clock: Callable[[], datetime],
    pause: Callable[[], object],
) -> Iterator[Round]:
    """Yield one round after another, with a `pause` between two; a round that could not judge has a `fault`.

    A wrong file or variable is the fault of the only round, and ends the rounds without a pause.
    """
    try:
        settings = watch_file.load(file)
        site = open_site(settings, environment)
    except RempartError as error:
        yield Round(fault=error)
        return
    kept = state or file.parent / settings.state
    while True:
        try:
            found = run_round(settings, site, kept, environment, clock)
        except RempartError as error:
            found = Round(fault=error)
        yield found
        pause()
