"""S5 and S10 at a SeaweedFS site: another user of the machine and a web page attack each of its ports and sockets.

The attacks are real: at a server without the platform's certificates and options they list, write and delete.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench.access_attacks import ORIGIN, Attack, lets_in, of_site
from rempart.deployment.servers import object_sites
from rempart.deployment.setup import environment, preflight, services, site_certificates
from rempart.errors import StackError
from rempart.sites.s3.site import S3Site
from tests.integration.own_servers import ROOT, Servers, own_servers

BUCKET, KEY, BODY = "landing", "kept", b"not yours"
NOBODY = 65534
SITE = "primary"


def attack(attacks: Sequence[Attack], uid: int | None = None) -> list[dict[str, Any]]:
    """What each is answered. With `uid`, as that user; without root, as this one, whom ports do not tell apart."""
    order = {"attacks": [dict(request.order) for request in attacks], "uid": uid if os.geteuid() == 0 else None}
    done = subprocess.run(
        [sys.executable, "-m", "bench.intruder"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return list(json.loads(done.stdout))


def attacks(servers: Servers, who: str, web: bool = False) -> list[Attack]:
    ports = {name: port for name, port in servers.stack.ports.items() if name.split(" ")[0] == SITE}
    return [
        request
        for name, port in ports.items()
        for request in of_site(SITE, name.partition(" ")[2], {"host": "127.0.0.1", "port": port}, BUCKET, KEY, who, web)
    ]


def let_in(asked: Sequence[Attack], answers: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{request.endpoint}: {request.what}: {answer['text']}"
        for request, answer in zip(asked, answers, strict=True)
        if lets_in(request, answer)
    ]


def site(servers: Servers) -> S3Site:
    connection = servers.connections("s3_primary")
    allowed = object_sites.permission(servers.stack, SITE, connection.extra["endpoint_url"])
    return S3Site(SITE, connection, "local-1", allowed)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with own_servers(tmp_path_factory.mktemp("ports") / "var", ("site-primary",)) as running:
        site(running).write(BUCKET, KEY, BODY)
        yield running


def test_s5_another_user_of_the_machine_reads_writes_and_deletes_nothing(servers: Servers) -> None:
    asked = attacks(servers, "another user")
    answers = attack(asked, NOBODY)
    assert len({request.endpoint for request in asked}) == 1 + len(preflight.SITE_INTERNALS)
    assert let_in(asked, answers) == []
    assert site(servers).read(BUCKET, KEY) == BODY


def test_s10_a_page_of_another_site_reads_writes_and_deletes_nothing(servers: Servers) -> None:
    asked = attacks(servers, "a web page", web=True)
    answers = attack(asked)
    assert let_in(asked, answers) == []
    readable = [
        f"{request.what}: {answer}"
        for request, answer in zip(asked, answers, strict=True)
        if answer.get("origin") == ORIGIN or (answer.get("origin") and lets_in(request, answer))
    ]
    assert not readable, "the page would read these answers"
    assert site(servers).read(BUCKET, KEY) == BODY


def test_s5_its_unix_sockets_ask_for_the_certificate_too(servers: Servers) -> None:
    """Their folder cannot be chosen. Root may open each; what it is told there is what a port tells."""
    ours = [port for part, port in servers.stack.ports.items() if part.startswith(SITE) and part.endswith("-grpc")]
    folder = Path("/tmp")  # SeaweedFS's own place
    sockets = {path for port in ours for path in folder.glob(f"seaweedfs-*-grpc-{port}.sock")}
    assert len(sockets) == 4
    asked = [
        request
        for path in sorted(sockets)
        for part in (f"{path.name.split('-')[1]}-grpc",)
        for request in of_site(SITE, part, {"unix": str(path)}, BUCKET, KEY, "root")
    ]
    assert let_in(asked, attack(asked)) == []
    if os.geteuid() == 0:
        refused = {answer["text"] for answer in attack(asked, NOBODY)}
        assert all("Permission denied" in told for told in refused), refused
    assert site(servers).read(BUCKET, KEY) == BODY


def test_a_certificate_of_another_site_opens_nothing(servers: Servers, tmp_path: Path) -> None:
    site_certificates.ensure(tmp_path / "other", SITE, datetime.now(UTC))  # the same name, another authority
    pair = [str(tmp_path / "other" / name) for name in site_certificates.FILES[1:]]
    own = [str(servers.stack.site_certificates(SITE) / name) for name in site_certificates.FILES[1:]]
    port = servers.stack.ports["primary master-grpc"]
    call = {"host": "127.0.0.1", "port": port, "how": "grpc", "path": "/master_pb.Seaweed/CollectionList", "tls": True}
    stranger, itself = attack(
        [
            Attack("primary master-grpc", "x", "list", {**call, "certificate": certificate})
            for certificate in (pair, own)
        ]
    )
    assert stranger["status"] is None and itself["status"] == 200


@pytest.fixture
def open_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """A site as SeaweedFS starts by itself: no certificates, and the master's HTTP port open."""
    real, options = environment.site, services.site_options

    def bare(*arguments: Any) -> dict[str, str]:
        return {
            name: value for name, value in real(*arguments).items() if not name.startswith(("WEED_GRPC", "WEED_HTTPS"))
        }

    def opened(*arguments: Any) -> tuple[str, ...]:
        return tuple(option for option in options(*arguments) if option != "-disableHttp")

    monkeypatch.setattr(environment, "site", bare)
    monkeypatch.setattr(services, "site_options", opened)
    monkeypatch.setattr(object_sites, "check_inner_ports", lambda *arguments: None)
    with own_servers(tmp_path / "var", ("site-primary",)) as running:
        monkeypatch.undo()
        yield running


def test_the_attacks_work_on_a_site_that_is_open_and_such_a_site_is_not_accepted(open_servers: Servers) -> None:
    asked = attacks(open_servers, "another user")
    site(open_servers).write(BUCKET, KEY, BODY)
    assert list((open_servers.stack.site_folder(SITE) / "data").glob(f"{BUCKET}_*.dat"))
    for how in ("GET /col/delete?collection={bucket}", "/master_pb.Seaweed/CollectionDelete"):
        (tried,) = [request for request in asked if request.what == how]
        (answer,) = attack([tried], NOBODY)
        assert lets_in(tried, answer), answer
    assert not list((open_servers.stack.site_folder(SITE) / "data").glob(f"{BUCKET}_*.dat")), "the objects are gone"
    reads = [
        request
        for request in asked
        if request.order["how"] == "grpc" and not request.order["tls"] and "Delete" not in request.what
    ]
    assert {
        read.endpoint for read, answer in zip(reads, attack(reads, NOBODY), strict=True) if lets_in(read, answer)
    } == {f"{SITE} {part}" for part in ("master-grpc", "volume-grpc", "filer-grpc", "s3-grpc")}
    with pytest.raises(StackError, match="accepts any client"):
        object_sites.check_inner_ports(open_servers.stack, SITE)
