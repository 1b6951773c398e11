"""List the sites: operator, jurisdiction, role, whether each answers now, lag, and newest restore point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.flows.shared import time_limit

if TYPE_CHECKING:
    from rempart.settings.config import Config, Connections
    from rempart.web.facts import CockpitFacts

AT_MOST = 5.0
"""Seconds within which a site sends the next bytes, or counts as silent."""
HEAD = ("SITE", "OPERATOR", "JURISDICTION", "ROLE", "ENDPOINT", "ANSWERS", "LAG", "NEWEST RESTORE POINT")


@dataclass(frozen=True)
class SiteEntry:
    """A site. `owner`: jurisdiction of the operator's ultimate owner. `replica_of`: sites whose objects it replicates.

    `silent`: why it does not answer; None if it answers. `lag_seconds` of the replica now; None if unknown or no
    replica. `point`: the newest restore point that is there.
    """

    name: str
    operator: str
    jurisdiction: str
    owner: str
    active: bool
    replica_of: tuple[str, ...]
    endpoint: str
    silent: str | None
    lag_seconds: float | None
    lag_objective_seconds: float | None
    point: str | None
    point_at: datetime | None


def entries(facts: CockpitFacts, endpoints: Mapping[str, str], silent: Mapping[str, str | None]) -> list[SiteEntry]:
    """Return every site of rempart.yaml. Pure. `endpoints` and `silent`, by site: host, and why it does not answer."""
    from rempart.web.facts import Unknown
    from rempart.web.read_models import loss
    from rempart.web.read_models.overview import places
    from rempart.web.read_models.points import standing

    pairs = () if isinstance(facts.config, Unknown) else facts.config.replication
    found = []
    for place in places(facts, facts.at):
        if place.kind != "site":
            continue
        lags = [loss.lag(facts, pair, facts.at) for pair in pairs if pair.target == place.name]
        known = [lag for lag in lags if lag.seconds is not None]
        worst = max(known, key=lambda lag: lag.seconds or 0.0, default=None)
        point = next((record for record in standing(facts) if record.body["site"] == place.name), None)
        found.append(
            SiteEntry(
                place.name,
                place.operator,
                place.jurisdiction,
                place.owner_jurisdiction,
                place.active,
                tuple(lag.source for lag in lags),
                endpoints.get(place.name, ""),
                silent.get(place.name),
                worst.seconds if worst else None,
                worst.objective_seconds if worst else None,
                point.subject if point else None,
                datetime.fromisoformat(str(point.body["created_at"])) if point else None,
            )
        )
    return found


def lines(found: Sequence[SiteEntry], now: datetime) -> Iterator[str]:
    """Yield the table of sites, and why a site does not answer. Pure."""
    from rempart.cli.views import text

    yield from text.table(HEAD, (_row(entry, now) for entry in found))
    for entry in found:
        if entry.silent:
            yield f"{entry.name} does not answer: {entry.silent}. Check it with `rempart site doctor {entry.name}`."


def silent_lines(silent: Mapping[str, str | None], active: str) -> Iterator[str]:
    """Yield a line for each site that does not answer, with what a person does now. Pure."""
    for name, why in silent.items():
        if why and name == active:
            yield f"NO ANSWER from site '{name}', the active site: {why}. Follow docs/runbooks/primary-is-gone.md."
        elif why:
            yield f"NO ANSWER from site '{name}': {why}. Run `rempart site doctor {name}` (docs/runbooks/replica.md)."


def _row(entry: SiteEntry, now: datetime) -> tuple[str, ...]:
    from rempart.cli.views import text

    replica = f"replica of {', '.join(entry.replica_of)}" if entry.replica_of else ""
    role = ", ".join(part for part in ("active" if entry.active else "", replica) if part) or "-"
    late = entry.lag_seconds is not None and entry.lag_seconds > (entry.lag_objective_seconds or 0.0)
    lag = text.span(entry.lag_seconds) + (" LATE" if late else "") if entry.replica_of else "-"
    age = f"{entry.point} ({text.span((now - entry.point_at).total_seconds())} ago)" if entry.point_at else "none"
    owned = "" if entry.owner == entry.jurisdiction else f" (owner {entry.owner})"
    answers = "no" if entry.silent else "yes"
    return (entry.name, entry.operator, entry.jurisdiction + owned, role, entry.endpoint, answers, lag, age)


def ask(
    config: Config,
    connections: Connections,
    today: date,
    request: Callable[[str, object], object] | None = None,
    at_most: float = 2 * AT_MOST,
) -> dict[str, str | None]:
    """Return for each site why it does not answer; None if it does. All are asked at once, without credentials.

    `at_most`: seconds for all together, also for a site that sends its headers byte by byte.
    Any HTTP answer counts: `rempart site doctor` checks what a site can do. `request` takes URL and certificates.
    """
    names = list(config.sites)
    silent = partial(_silent, config, connections, today, request or _request)
    found = dict[str, str | None]()
    for name, answer in time_limit.answers({name: partial(silent, name) for name in names}, at_most).items():
        if isinstance(answer, TimeoutError):
            found[name] = str(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found[name] = answer
    return found


def _silent(
    config: Config, connections: Connections, today: date, request: Callable[[str, object], object], name: str
) -> str | None:
    import httpx

    from rempart.errors import RempartError
    from rempart.sovereignty.places import decide_site

    try:
        connection = connections(config.sites[name].connection)
    except RempartError as error:
        return error.what
    endpoint = connection.extra.get("endpoint_url")
    if not endpoint:
        return f"connection '{connection.name}' has no endpoint"
    if not host(endpoint):
        return f"the endpoint of connection '{connection.name}' is no URL"
    held = (decide_site(config, each, "data", name, on=today, endpoint=endpoint) for each in config.policy)
    if not any(decision.allowed for decision in held):
        return "it was not asked, because the policy allows no data at this endpoint"
    try:
        request(endpoint, connection.extra.get("ca_bundle", True))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return f"{host(endpoint)}: {type(error).__name__}"
    return None


def _request(url: str, verify: object) -> object:
    import ssl

    import httpx

    trusted = ssl.create_default_context(cafile=verify) if isinstance(verify, str) else bool(verify)
    with httpx.stream("GET", url, timeout=AT_MOST, verify=trusted, trust_env=False) as answer:  # a body may not end
        return answer.status_code


def host(endpoint: str) -> str:
    """Return host and port of an endpoint, without a user and a password in it; empty if it is no URL. Pure."""
    try:
        return urlsplit(endpoint).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def endpoint_hosts(config: Config, connections: Connections) -> dict[str, str]:
    """Return the host and port of each site's endpoint; empty for a connection that is missing."""
    from rempart.errors import RempartError

    found = {}
    for name, site in config.sites.items():
        try:
            found[name] = host(str(connections(site.connection).extra.get("endpoint_url", "")))
        except RempartError:
            found[name] = ""
    return found


def list_sites(
    as_json: AsJson = False,
) -> None:
    """Show each site: operator, jurisdiction, active or replica, endpoint, whether it answers, lag, restore point.

    Exit code 1: a site does not answer, or a source of these facts did not.

    Example:

        rempart site list
        rempart site list --json
    """
    from rempart.cli.views import facts, pipelines
    from rempart.flows.shared.platform import open_platform
    from rempart.web.read_models.messages import moment

    json_documents.begin(as_json)
    platform, gathered = open_platform(), facts.gather()
    config, connections = platform.config, platform.connections
    silent_sites = ask(config, connections, platform.clock().date())
    found = entries(gathered, endpoint_hosts(config, connections), silent_sites)
    if as_json:
        json_documents.show({"at": gathered.at, "unknown": gathered.unknown(), "sites": found})
    else:
        rendering.show((*lines(found, gathered.at), *pipelines.unknown(moment(gathered, gathered.at))))
    silent = any(entry.silent for entry in found)
    raise typer.Exit(1 if silent or not facts.complete(gathered) else 0)
