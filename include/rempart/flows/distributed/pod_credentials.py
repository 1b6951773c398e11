"""Grant the pods of a Spark job their credentials for its site, as `job_credentials` of the site declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from typing import Any

from rempart.errors import PlacementDenied, SparkError
from rempart.settings.config import Config, Connection, Connections
from rempart.sites.s3 import sessions
from rempart.sovereignty.places import decide_site
from rempart.sovereignty.policy import Decision
from rempart.spark.order import SparkOrder
from rempart.training import data_rights

MARGIN = timedelta(minutes=30)
"""Time by which a session outlasts `spark.timeout`: images are pulled after it begins, and clocks differ."""
_FOLDERS = 6
"""Folders of a bucket that a session's policy names; more are joined to one above them."""


def missing(config: Config, site: str) -> str:
    """Return why no pod may have data of this site, or an empty text."""
    declared = config.sites[site].job_credentials is not None
    return "" if declared else f"sites.{site}.job_credentials is not declared"


def grant(
    config: Config,
    connections: Connections,
    record: Callable[[Decision], None],
    order: SparkOrder,
    stored: tuple[str, str],
    attempt: int,
    timeout: timedelta,
    today: date,
) -> tuple[Connection, str]:
    """Return the connection of the order's site for one attempt, and a description of it that may be shown.

    `stored`: bucket and key of the order, which the credentials must be able to read.
    Raises PlacementDenied if `job_credentials` of the site is not declared; SiteError and its kinds.
    """
    name = order.site.name
    if lacking := missing(config, name):
        raise PlacementDenied(
            f"Spark job {order.order_id} may not run in a pool: {lacking}",
            "Declare there what jobs get: session (with a role), connection or platform: docs/how-to/gpu-pools.md.",
        )
    declared = config.sites[name]
    offered, own = declared.job_credentials, connections(declared.connection)
    if offered is None or offered.kind == "platform":
        return own, f"{name}: the site's own key (connection {declared.connection}), which the owner chose to give"
    if offered.connection:
        return connections(offered.connection), f"{name}: the key of connection {offered.connection}"
    decision = decide_site(config, order.classification, "data", name, on=today, endpoint=own.extra.get("endpoint_url"))
    record(decision)
    request = sessions.Request(
        name=f"spark-{order.order_id}-{attempt}",
        policy=data_rights.text(policy(order)),
        seconds=int((timeout + MARGIN).total_seconds()),
        must=stored,
        must_not=order.output.bucket,
    )
    session, until = sessions.assume(name, own, order.site.region, offered, request, decision)
    return session, f"{name}: a session until {until.isoformat(timespec='seconds')}, limited to the job's folders"


def policy(order: SparkOrder) -> dict[str, Any]:
    """Return what a job needs of its site, as an IAM policy: it reads the folders of its inputs, and reads, writes and
    lists its own place. It deletes nothing.

    Folders and not objects: an order can have thousands of inputs, and a session's policy has 2048 characters. Raises
    SparkError for a folder whose name would match more than itself.
    """
    own = _arn(order.output.bucket, order.key("")) + "*"
    inputs: dict[str, set[str]] = {}
    for each in order.inputs:
        inputs.setdefault(each.bucket, set()).add(_folder(each.key))
    reads = [_arn(bucket, folder) + "*" for bucket, keys in sorted(inputs.items()) for folder in _joined(keys)]
    listed = {"Condition": {"StringLike": {"s3:prefix": [f"{order.key('')}*"]}}}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [*reads, own]},
            {"Effect": "Allow", "Action": ["s3:PutObject", "s3:AbortMultipartUpload"], "Resource": [own]},
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [_arn(order.output.bucket)]} | listed,
        ],
    }


def _joined(folders: Iterable[str]) -> list[str]:
    """Return the folders without those inside of others, or the one folder that has all if they are many."""
    kept: list[str] = []
    for folder in sorted(folders):
        if not kept or not folder.startswith(kept[-1]):
            kept.append(folder)
    return kept if len(kept) <= _FOLDERS else [_above(kept)]


def _above(folders: Sequence[str]) -> str:
    """Return the lowest folder that has all of these; empty if only the whole bucket has."""
    common = []
    for names in zip(*(folder.split("/")[:-1] for folder in folders), strict=False):
        if len(set(names)) > 1:
            break
        common.append(f"{names[0]}/")
    return "".join(common)


def _folder(key: str) -> str:
    return key[: key.rfind("/") + 1]


def _arn(bucket: str, key: str | None = None) -> str:
    if not bucket or key == "" or set(bucket + (key or "")) & set("*?$"):
        raise SparkError(
            f"make the session of a Spark job: its rights cannot be limited to '{bucket}/{key}'",
            "Deliver objects below a folder, with names that contain none of *?$.",
        )
    return f"arn:aws:s3:::{bucket}" + ("" if key is None else f"/{key}")
