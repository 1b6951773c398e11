"""Decide whether a source returned the stored bytes, and on what evidence. Pure.

Evidence is the SHA-256 in the object's metadata, or a checksum that the writer sent and the site kept. An ETag is the
site's own statement about the received bytes: it is compared, but is no evidence. A second read is no evidence either.
"""

from __future__ import annotations

from rempart.errors import IntegrityError
from rempart.replication.plan import Voucher
from rempart.sites.digests import Digests, may_be_md5
from rempart.sites.port import Checks, ObjectInfo


def vouch(where: str, info: ObjectInfo, checks: Checks | None, came: Digests, *, md5_etags: bool) -> Voucher:
    """Return the evidence for the received bytes. Raises IntegrityError if they differ from the record.

    `checks`: the site's checksums of the body, needed only without the writer's record. `md5_etags`: the site is proven
    to return the MD5 as ETag.
    """
    if info.sha256:
        if info.sha256 != came.sha256:
            raise _altered(where, came, f"the writer recorded {info.sha256[:12]}…")
        return "writer"
    if checks is None:
        return "none"
    if checks.sha256:
        if checks.sha256 != came.sha256:
            raise _altered(where, came, f"the writer sent the checksum {checks.sha256[:12]}…")
        return "checksum"
    if checks.composite and _is_regular(checks):
        if checks.composite != came.composite:
            raise _altered(where, came, f"the writer sent checksums of parts ({checks.composite})")
        return "checksum of parts"
    comparable = md5_etags and may_be_md5(info.etag) and not checks.encrypted
    if "-" in info.etag and not _is_regular(checks):
        comparable = False  # the lengths of its parts are not known
    if comparable and info.etag != came.etag:
        raise _altered(where, came, f"the bytes have the ETag {came.etag}, but the site reports {info.etag}")
    return "none"


def _is_regular(checks: Checks) -> bool:
    """Return whether the first part has the length of all parts but the last."""
    count = checks.etag.rpartition("-")[2]
    return bool(checks.part) and count == str(-(-checks.size // checks.part))


def _altered(where: str, came: Digests, why: str) -> IntegrityError:
    return IntegrityError(
        f"{where}: SHA-256 {came.sha256[:12]}…, {why}",
        "The source's copy is damaged and was not copied. Restore it from its replica.",
    )
