"""Probe every capability of a site, one after the other, and report the outcomes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from rempart.sites.answers import NotUnderstood
from rempart.sites.capabilities import CAPABILITIES, CLAIMED, CapabilityRecord, Proof, complete
from rempart.sites.probes import history, listing, objects  # noqa: F401 # their probes register themselves
from rempart.sites.probes.scratch import (
    PROBES,
    Absent,
    FalseClaim,
    NotRun,
    Scratch,
    busy,
    code,
    open_scratch,
    proves,
    remove_leftovers,
)

logger = logging.getLogger(__name__)

SKEW_SECONDS = 60
BULK = 16 << 20
"""Bytes that are written and read for the throughput."""


@proves("clock")
def clock(at: Scratch) -> str:
    before = datetime.now(UTC)
    answer = at.client.head_bucket(Bucket=at.bucket)
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if not told:
        raise Absent("the site's answers have no Date header")
    skew = (parsedate_to_datetime(told).replace(tzinfo=UTC) - before).total_seconds()  # HTTP dates are in UTC
    if abs(skew) > SKEW_SECONDS:
        raise Absent(
            f"clock skew: the site's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} "
            "the clock of this machine"
        )
    return f"the clocks of the site and of this machine differ by {abs(skew):.0f} s"


def attempt(name: str, probe: Callable[[Scratch], str], at: Scratch) -> Proof:
    """Run one probe. An error that says nothing about the capability leaves it unknown."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        return Proof(name, "proven", probe(at))
    except FalseClaim as found:
        return Proof(name, CLAIMED, str(found))
    except (Absent, NotUnderstood) as found:
        return Proof(name, "absent", str(found))
    except NotRun as found:
        return Proof(name, "not run", str(found))
    except ClientError as error:
        if busy(error):
            return Proof(name, "not run", f"the answer to {error.operation_name} was {code(error)}")
        return Proof(name, "absent", f"{error.operation_name} is refused ({code(error)})")
    except (BotoCoreError, HTTPClientError, LookupError, TypeError, ValueError) as error:
        return Proof(name, "not run", f"the answer was invalid or did not arrive: {type(error).__name__}")


def throughput(at: Scratch) -> dict[str, float]:
    """Measure the MB/s of one writer and of one reader of a large object. Return nothing if that fails."""
    from botocore.exceptions import BotoCoreError, ClientError

    body = os.urandom(BULK)
    try:
        began = time.monotonic()
        at.put("bulk", body)
        written = time.monotonic()
        at.get("bulk")
        read = time.monotonic()
    except (ClientError, BotoCoreError, FalseClaim):
        return {}
    return {
        "write MB/s": round(BULK / 1e6 / (written - began), 1),
        "read MB/s": round(BULK / 1e6 / (read - written), 1),
    }


def run(client: Any, site: str, bucket: str, now: datetime) -> CapabilityRecord:
    """Probe a site through boto3's client, in a bucket of the doctor's own, and log each proof as it comes.

    Raises botocore's errors where that bucket cannot be had. What was locked stays for `scratch.LOCKED_FOR`.
    """
    at = open_scratch(client, bucket, now)
    proofs = []
    try:
        for capability in CAPABILITIES:
            proofs.append(attempt(capability.name, PROBES[capability.name], at))
            logger.info("%s", proofs[-1].line())
        figures = throughput(at)
    finally:
        remove_leftovers(at)
    return CapabilityRecord(site, client.meta.endpoint_url, now, complete(proofs), figures)
