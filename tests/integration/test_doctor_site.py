"""The doctor of sites on real servers: SeaweedFS, rclone, moto, and a lying one. Each lie is found."""

from __future__ import annotations

import dataclasses
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from botocore.exceptions import ClientError

from rempart.deployment.setup.preflight import port_is_free
from rempart.errors import CapabilityMissing, ClockSkewed
from rempart.flows.doctor import doctor_site
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import Connection
from rempart.sites.capabilities import CAPABILITIES, CLAIMED, CapabilityRecord, missing
from rempart.sites.probes.run import run
from rempart.sites.probes.scratch import open_scratch
from rempart.sites.s3.client import open_client
from tests.integration.own_servers import own_servers
from tests.lying import Answer, LyingSite, Request, Upstream, custom, error, lying_site

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two sites of these tests' own, and a ledger in memory."""
    with own_servers(tmp_path_factory.mktemp("doctor"), ["site-primary", "site-haven"]) as servers:
        yield Platform(servers.stack.config, servers.connections, ledger_=MemoryLedger())


def probed(url: str, login: str, password: str) -> CapabilityRecord:
    connection = Connection("s3_x", "aws", login=login, password=password, extra={"endpoint_url": url})
    return run(open_client("x", connection, "us-east-1", attempts=1), "x", f"doctor-{secrets.token_hex(3)}", NOW)


def outcomes(record: CapabilityRecord) -> dict[str, str]:
    return {proof.capability: proof.outcome for proof in record.proofs}


def free_port() -> int:
    return next(port for port in range(10000 + secrets.randbelow(3000), 15000) if port_is_free(port))


def answers(port: int) -> bool:
    try:
        urlopen(f"http://127.0.0.1:{port}", timeout=30)
    except HTTPError:
        return True  # it refuses, so it runs
    except OSError:
        return False
    return True


@contextmanager
def served(*command: str, port: int) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not answers(port):
            assert time.monotonic() < until, f"{command[0]} does not answer at port {port}"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def in_same_folder(program: str) -> str:
    return str(Path(sys.executable).with_name(program))


def test_seaweedfs_is_proven_for_every_purpose_and_its_odd_keys_are_found_out(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = MemoryLedger()
    own = dataclasses.replace(platform, ledger_=ledger)
    found = doctor_site.probe_sites(own, ["primary"])
    record = found["primary"]
    assert isinstance(record, CapabilityRecord)
    kept = {name for name, outcome in outcomes(record).items() if outcome != "proven"}
    assert kept == {"listing order", "path keys"}
    assert record.false_claims == ("path keys",)
    assert any("'a//b'" in line and CLAIMED in line for line in caplog.messages)
    assert doctor_site.exit_code(found) == 0
    assert json.loads(doctor_site.as_json(found))["sites"][0]["refused"]["replication"] == []
    evidence = ledger.find("capabilities", "primary")[0].body
    assert evidence["endpoint"].startswith("http://127.0.0.1") and len(evidence["proofs"]) == len(CAPABILITIES)
    assert platform.connections("s3_primary").password not in json.dumps(evidence)


def test_what_probes_wrote_is_gone_but_for_what_is_locked(platform: Platform) -> None:
    site = platform.site("primary", "public")
    site.probe(platform.config.buckets.doctor, NOW)
    left = [info.key.partition("/")[2] for info in site.list(platform.config.buckets.doctor)]
    assert set(left) <= {"locked", "locked-and-told"}


def test_a_probe_that_begins_beside_another_does_not_make_it_find_lies(platform: Platform) -> None:
    connection, bucket = platform.connections("s3_haven"), platform.config.buckets.doctor
    client = open_client("haven", connection, "eu", attempts=1)
    over = threading.Event()

    def begin_again_and_again() -> int:
        begun = 0
        while not over.is_set():
            open_scratch(client, bucket, datetime.now(UTC))
            begun += 1
        return begun

    with ThreadPoolExecutor(2) as pool:
        others = pool.submit(begin_again_and_again)
        try:
            record = run(client, "haven", bucket, datetime.now(UTC))
        finally:
            over.set()
        assert others.result() > 1
    assert record.false_claims == ("path keys",), "as of SeaweedFS alone"


@pytest.mark.full
def test_rclone_serving_a_folder_keeps_no_versions_and_ignores_conditions(tmp_path: Path) -> None:
    port, login, password = free_port(), secrets.token_hex(8), secrets.token_hex(16)
    options = ("--addr", f"127.0.0.1:{port}", "--auth-key", f"{login},{password}")
    with served(in_same_folder("rclone"), "serve", "s3", str(tmp_path), *options, port=port) as url:
        found = outcomes(probed(url, login, password))
    assert found["read-after-write"] == found["private"] == "proven"
    assert {found[name] for name in ("versions", "delete markers", "object lock")} == {"absent"}
    assert {found[name] for name in ("wrong digest refused", "conditional put")} == {CLAIMED}


@pytest.mark.full
def test_moto_lets_anybody_in_and_its_locks_give_way() -> None:
    port = free_port()
    with served(in_same_folder("moto_server"), "-p", str(port), port=port) as url:
        record = probed(url, "nobody", "anything")
    assert {"private", "wrong digest refused", "object lock"} <= set(record.false_claims)
    assert outcomes(record)["versions"] == "proven"
    lock = next(proof for proof in record.proofs if proof.capability == "object lock")
    assert "a shorter retention" in lock.found and "IS GONE" in lock.found


FALSE_CLAIMS = {  # by the capability that is only claimed: the faults, and the keys of its probe
    "wrong digest refused": (("I6-put",), "/altered$"),
    "conditional put": (("P3-ignored",), ""),
    "read-after-write": (("P7-put",), "/seen$"),
    "framing": (("I5-put",), "/framed$"),
    "listing pages": (("L1-end",), ""),
    "object lock": (("P7-delete", "K2-extend"), "/locked$"),
    "multipart": (("P7-complete",), ""),
    "retention told": (("K2-extend",), "/locked-and-told$"),
}


def switch_on(site: LyingSite, capability: str) -> None:
    faults, keys = FALSE_CLAIMS[capability]
    for fault in faults:
        site.switch_on(fault, key=keys)


@pytest.mark.parametrize(
    "false_claims",
    [
        ("wrong digest refused", "conditional put", "read-after-write"),  # I6, P3, P7
        pytest.param(("framing", "listing pages", "object lock"), marks=pytest.mark.full),  # I5
        pytest.param(("multipart", "retention told"), marks=pytest.mark.full),  # P7, K2
    ],
)
def test_i5_i6_p3_p7_each_of_three_lies_is_found_and_nothing_else_is_held_against_the_site(
    platform: Platform, false_claims: tuple[str, ...]
) -> None:
    real = platform.connections("s3_primary")
    client = open_client("primary", real, "local-1")
    honest = outcomes(probed(real.extra["endpoint_url"], real.login, real.password))
    with lying_site(real.extra["endpoint_url"], client=client) as site:
        for lie in false_claims:
            switch_on(site, lie)
        found = outcomes(probed(site.url, real.login, real.password))
    in_same_folder = (
        {"MD5 ETags"} & found.keys() if "multipart" in false_claims else set()
    )  # it sends an upload in parts, too
    assert {name for name in found if found[name] != honest[name]} - in_same_folder == set(false_claims)
    assert {found[name] for name in false_claims} == {CLAIMED}


def test_a_site_that_lies_is_refused_for_what_needs_the_truth(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    real = platform.connections("s3_haven")
    own = dataclasses.replace(platform, ledger_=MemoryLedger(), sites={})
    with lying_site(real.extra["endpoint_url"]) as proxy:
        switch_on(proxy, "read-after-write")

        def connections(name: str) -> Connection:
            found = platform.connections(name)
            through = dataclasses.replace(found, extra={**found.extra, "endpoint_url": proxy.url})
            return through if name == "s3_haven" else found

        through_lying_site = dataclasses.replace(own, connections=connections)
        site = through_lying_site.site("haven", "public")
        caplog.clear()
        with pytest.raises(CapabilityMissing, match=r"must not be used for replication: read-after-write: claims it"):
            doctor_site.require(through_lying_site, site, "replication")
        assert "probing site 'haven': it has no valid record" in caplog.messages[0]
        caplog.clear()
        with pytest.raises(CapabilityMissing):  # from the record: nobody probes again
            doctor_site.require(through_lying_site, site, "replication")
        assert not [record for record in caplog.records if record.name.startswith("rempart")]
    # the record was of another endpoint, so it says nothing of the real site
    assert doctor_site.last_record(own.ledger, platform.site("haven", "public")) is None


@pytest.mark.parametrize("fault", ["I10-complete", "P7-complete", "I8-complete"])
def test_i10_an_upload_that_is_complete_and_wrong_is_found(platform: Platform, fault: str) -> None:
    real = platform.connections("s3_primary")
    client = open_client("primary", real, "local-1")
    with lying_site(real.extra["endpoint_url"], fault, client=client) as site:
        record = probed(site.url, real.login, real.password)
    assert site.hits(fault)
    assert record.outcome("multipart") == ("not run" if fault == "I8-complete" else CLAIMED)
    assert any(text.startswith("multipart: ") for text in missing(record, "replication", NOW))


@pytest.mark.parametrize(
    "fault",
    [
        "L7-tokens",
        *(pytest.param(fault, marks=pytest.mark.full) for fault in ("L7-pages", "L7-falling", "L7-rising", "L1-loop")),
    ],
)
def test_l7_the_doctor_ends_and_names_pages_that_do_not(platform: Platform, fault: str) -> None:
    real = platform.connections("s3_primary")
    with lying_site(real.extra["endpoint_url"]) as site:
        site.switch_on(fault, key="(page/|probe-)$")  # its own old objects, too
        record = probed(site.url, real.login, real.password)
    found = next(proof for proof in record.proofs if proof.capability == "listing pages")
    assert found.outcome == CLAIMED and "pages" in found.found
    assert all(
        "listing pages: claims it" in missing(record, capability, NOW)[0] for capability in ("replication", "evidence")
    )


def test_i12_p10_missing_etags_and_a_wrong_clock_are_named(platform: Platform) -> None:
    real = platform.connections("s3_primary")
    with lying_site(real.extra["endpoint_url"], "I12-etag", "P10-date") as site:
        record = probed(site.url, real.login, real.password)
    found = {proof.capability: proof for proof in record.proofs}
    assert found["etags"].outcome == "absent" and "ETag" in found["etags"].found
    assert found["clock"].outcome == "absent" and "clock skew" in found["clock"].found
    assert "ahead of the clock of this machine" in found["clock"].found
    assert {"etags: absent", "clock: absent"} <= set(missing(record, "evidence", NOW))


def test_p10_a_site_that_refuses_us_for_the_clock_is_told_as_that(platform: Platform) -> None:
    real = platform.connections("s3_primary")
    with lying_site(real.extra["endpoint_url"], "P10-skew") as site, pytest.raises(ClockSkewed, match="clock"):
        through(platform, site.url).site("primary", "public").probe("doctor", NOW)


def through(platform: Platform, url: str) -> Platform:
    """The same platform with an empty ledger, which reaches its sites by another address."""

    def connections(name: str) -> Connection:
        found = platform.connections(name)
        return dataclasses.replace(found, extra={**found.extra, "endpoint_url": url})

    return dataclasses.replace(platform, ledger_=MemoryLedger(), sites={}, connections=connections)


def test_p9_a_probe_that_meets_slow_down_is_not_run_and_the_site_is_probed_again(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    real = platform.connections("s3_primary")
    slow = error(503, "SlowDown")

    def busy(request: Request, upstream: Upstream) -> Answer:
        private = request.method == "GET" and "authorization" not in request.headers
        refused = private or request.conditional or request.operation == "GetObjectTagging"
        return slow if refused else upstream.ask(request)

    with lying_site(real.extra["endpoint_url"], custom(busy)) as site:
        own = through(platform, site.url)
        primary = own.site("primary", "public")
        record = doctor_site.probe(own, primary)
        unknown = {name for name, outcome in outcomes(record).items() if outcome == "not run"}
        assert unknown == {"private", "conditional put", "tags"}
        site.switch_off()
        assert doctor_site.require(own, primary, "evidence").outcome("private") == "proven"
    assert "it was busy when it was probed" in caplog.text


@pytest.mark.parametrize("operation", ["GetObjectLockConfiguration", "PutBucketVersioning", "CreateBucket"])
def test_p9_a_site_that_is_busy_at_the_start_is_not_taken_for_one_without_locks(
    platform: Platform, operation: str
) -> None:
    real = platform.connections("s3_primary")
    busy = custom(lambda request, upstream: error(503, "SlowDown"), operation)
    if operation == "PutBucketVersioning":
        unlocked = custom(lambda request, upstream: error(404, "NotFound"), "GetObjectLockConfiguration")
    with lying_site(real.extra["endpoint_url"], busy) as site:
        if operation == "PutBucketVersioning":
            site.switch_on(unlocked)
        with pytest.raises(ClientError, match="SlowDown"):
            probed(site.url, real.login, real.password)
