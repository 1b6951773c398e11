"""Attacks on each kind of port by a client without credentials, as data; and the table of answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ORIGIN = "http://evil.example"
PAGE = {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
"""Headers that a browser sends with a request that a page of another site makes."""
LETS_IN = range(200, 400)


@dataclass(frozen=True)
class Attack:
    """One request: its endpoint, sender and content.

    `plain`: the answer reveals nothing, whatever its status. `strict`: only 401, 403 and 405 count as a refusal, for a
    sender who may do other things at the endpoint.
    """

    endpoint: str
    who: str
    what: str
    order: Mapping[str, Any]
    plain: bool = False
    strict: bool = False


def text(value: str, number: int = 1) -> str:
    """Return a string shorter than 128 bytes as a field of a protobuf message, in hexadecimal."""
    encoded = value.encode()
    return bytes([number << 3 | 2, len(encoded)]).hex() + encoded.hex()


SITE_CALLS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "master-grpc": (
        ("/master_pb.Seaweed/CollectionList", "0801"),
        ("/master_pb.Seaweed/Assign", "0801"),
        ("/master_pb.Seaweed/CollectionDelete", text("{bucket}")),
    ),
    "volume-grpc": (
        ("/volume_server_pb.VolumeServer/VolumeServerStatus", ""),
        ("/volume_server_pb.VolumeServer/DeleteCollection", text("{bucket}")),
    ),
    "filer-grpc": (
        ("/filer_pb.SeaweedFiler/ListEntries", text("/buckets")),
        ("/filer_pb.SeaweedFiler/LookupDirectoryEntry", text("/buckets") + text("{bucket}", 2)),
        ("/filer_pb.SeaweedFiler/DeleteCollection", text("{bucket}")),
    ),
    "s3-grpc": (("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", text("", 7)),),
}
"""Calls of SeaweedFS's gRPC services that read, write or delete; `{bucket}` stands for an existing bucket."""
SITE_PAGES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "master": (
        ("GET", "/dir/status"),
        ("GET", "/dir/assign"),
        ("GET", "/cluster/status"),
        ("POST", "/submit"),
        ("GET", "/col/delete?collection={bucket}"),
        ("POST", "/col/delete?collection={bucket}"),
    ),
    "volume": (("GET", "/status"), ("GET", "/1,01637037d6"), ("POST", "/1,01637037d6"), ("DELETE", "/1,01637037d6")),
    "filer": (("GET", "/"), ("GET", "/buckets/"), ("POST", "/buckets/x"), ("DELETE", "/buckets/{bucket}")),
}
S3_REQUESTS = (
    ("GET", "/"),
    ("GET", "/{bucket}"),
    ("GET", "/{bucket}/{key}"),
    ("PUT", "/{bucket}/intruder"),
    ("POST", "/{bucket}?delete"),
    ("POST", "/{bucket}"),
    ("DELETE", "/{bucket}/{key}"),
    ("DELETE", "/{bucket}"),
    ("PUT", "/{bucket}?policy"),
    ("POST", "/?Action=AssumeRole&RoleArn=arn:aws:iam::000000000000:role/jobs&RoleSessionName=x&Version=2011-06-15"),
    ("POST", "/?Action=CreateUser&UserName=x&Version=2010-05-08"),
    ("GET", "/metrics"),
    ("GET", "/debug/pprof/"),
)
"""Unsigned requests to an S3 port."""


def lets_in(attack: Attack, answer: Mapping[str, Any]) -> bool:
    """Return whether the attack succeeded: the answer gave or took something that needs credentials, or none came in
    time.
    """
    if "timed out" in str(answer["text"]):
        return True  # unknown is no refusal
    if attack.plain:
        return False
    if "refusal" in attack.order:
        return not (answer["text"].startswith(attack.order["refusal"]) or "Error" in answer["text"])
    return answer["status"] not in (401, 403, 405) if attack.strict else answer["status"] in LETS_IN


def of_site(
    site: str, part: str, where: Mapping[str, Any], bucket: str, key: str, who: str, web: bool = False
) -> list[Attack]:
    """Return attacks on one port of a SeaweedFS server.

    `part`: as in the stack's ports, empty for S3. `web`: sent by a page.
    """

    def filled(value: str) -> str:
        return value.replace("{bucket}", bucket).replace("{key}", key)

    endpoint, headers = f"{site} {part}".strip(), PAGE if web else {}
    found = []
    if not part:
        for method, path in S3_REQUESTS:
            order = {**where, "how": "http", "method": method, "path": filled(path), "headers": headers}
            found.append(Attack(endpoint, who, f"{method} {path}", order))
        status = {**where, "how": "http", "path": "/status", "headers": headers}
        found.append(Attack(endpoint, who, "GET /status", status, plain=True))
        return found
    for method, path in SITE_PAGES.get(part, (("GET", "/"), ("POST", "/"))):
        for tls in (False, True):
            order = {**where, "how": "http", "method": method, "path": filled(path), "headers": headers, "tls": tls}
            found.append(Attack(endpoint, who, f"{method} {path}{' (TLS)' if tls else ''}", order))
    for path, message in () if web else SITE_CALLS.get(part, ()):
        sent = text(bucket) if message == text("{bucket}") else message.replace(text("{bucket}", 2), text(bucket, 2))
        for tls in (False, True):
            order = {**where, "how": "grpc", "path": path, "message": sent, "tls": tls}
            found.append(Attack(endpoint, who, f"{path}{' (TLS)' if tls else ''}", order))
    return found


@dataclass(frozen=True)
class Row:
    """One line of the table: the answers that a sender got at an endpoint, and those that he should not have got."""

    endpoint: str
    who: str
    tries: int
    answers: tuple[str, ...]
    let_in: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.tries > 0 and not self.let_in


def told(answer: Mapping[str, Any]) -> str:
    """Return an answer in one or two words, the same for all answers of its kind."""
    if answer["status"] is not None:
        return str(answer["status"])
    text = str(answer["text"])
    for part, word in _WORDS:
        if part.lower() in text.lower():
            return word
    return text[:40] or "closed"


_WORDS = (
    ("certificate_required", "asks for a certificate"),
    ("bad_certificate", "asks for a certificate"),
    ("permission denied", "not permitted"),
    ("HTTP/1.1 400", "400"),
    ("wrong_version", "no TLS"),
    ("record_layer", "no TLS"),
    ("eof", "closed"),
    ("reset", "closed"),
    ("closed", "closed"),
    ("disconnected", "closed"),
    ("timed out", "silent"),
    ("refused]", "nobody listens"),
    ("noauth", "asks for a password"),
    ("wrongpass", "wrong password"),
)


def row(endpoint: str, who: str, attacks: Sequence[Attack], answers: Sequence[Mapping[str, Any]]) -> Row:
    """The line of one endpoint and one attacker."""
    asked = list(zip(attacks, answers, strict=True))
    got = tuple(f"{attack.what}: {told(answer)}" for attack, answer in asked if lets_in(attack, answer))
    given = {told(answer) for attack, answer in asked if not attack.plain}
    plain = {f"{told(answer)} (nothing in it)" for attack, answer in asked if attack.plain}
    return Row(endpoint, who, len(asked), (*sorted(given), *sorted(plain)), got)


def rows(attacks: Sequence[Attack], answers: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The lines of the table, in the order in which endpoints and attackers first appear."""
    asked = list(zip(attacks, answers, strict=True))
    keys = dict.fromkeys((attack.endpoint, attack.who) for attack in attacks)
    found = []
    for endpoint, who in keys:
        part = [(attack, answer) for attack, answer in asked if (attack.endpoint, attack.who) == (endpoint, who)]
        found.append(row(endpoint, who, [attack for attack, _ in part], [answer for _, answer in part]))
    return found


def page(rows: Sequence[Row], head: str) -> str:
    """The table as Markdown."""
    lines = [f"{head}\n", "| port | attacker | tries | answers | let in |", "|---|---|---|---|---|"]
    for tried in rows:
        cells = (
            tried.endpoint,
            tried.who,
            str(tried.tries),
            ", ".join(tried.answers),
            "; ".join(tried.let_in) or "nothing",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def keep(rows: Sequence[Row], file: Path) -> None:
    """Write the lines as JSON, for the page."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([asdict(tried) for tried in rows], indent=1) + "\n", encoding="utf-8")


def recorded_rows(file: Path) -> list[Row]:
    """The lines that were written; none where nothing was."""
    if not file.is_file():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    return [
        Row(**{name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()})
        for recorded in found
    ]
