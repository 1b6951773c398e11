"""Keep the order of entries in listing pages as the server wrote them.

botocore separates versions from delete markers and so loses their order, which is the order of events; it also takes
several times as long. So its client returns the entries of a page in the order of the XML.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from rempart.sites.answers import NotUnderstood
from rempart.sites.port import ObjectInfo

ENTRIES = "RempartEntries"
"""Key of an answer's dictionary: its entries as ObjectInfo, in order."""
_KINDS = ("Contents", "Version", "DeleteMarker")
_ROOTS = ("ListBucketResult", "ListVersionsResult")


def keep_order(client: Any) -> None:
    """Make a boto3 client return the entries of its listings in order."""
    for operation in ("ListObjectsV2", "ListObjectVersions"):
        client.meta.events.register(f"before-parse.s3.{operation}", _read_page)


def _read_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    if response_dict["status_code"] != 200:
        return
    # expat bounds what entities may grow to; botocore parses the same bytes with the same parser
    try:
        root = ElementTree.fromstring(response_dict["body"])  # noqa: S314
    except ElementTree.ParseError as cause:
        raise NotUnderstood(f"a page is not valid XML ({cause})") from cause
    if (name := root.tag.rpartition("}")[2]) not in _ROOTS:
        raise NotUnderstood(f"a page is a {name[:40]}, not a listing")
    quoted = any(child.tag.endswith("EncodingType") and child.text == "url" for child in root)
    infos: list[ObjectInfo] = []
    others = []
    for entry in root:
        kind = entry.tag.rpartition("}")[2]
        if kind in _KINDS:
            infos.append(_info(kind, entry, quoted))
        else:
            others.append(entry)
    customized_response_dict[ENTRIES] = infos
    root[:] = others  # what is left is small: botocore reads the page's own facts from it
    response_dict["body"] = ElementTree.tostring(root)


def _info(kind: str, entry: ElementTree.Element, quoted: bool) -> ObjectInfo:
    facts = {child.tag.rpartition("}")[2]: child.text or "" for child in entry}
    version = facts.get("VersionId")
    try:
        return ObjectInfo(
            unquote_plus(facts["Key"]) if quoted else facts["Key"],
            int(facts.get("Size") or 0),
            datetime.fromisoformat(facts["LastModified"]),
            None if version in (None, "null") else version,
            facts.get("ETag", "").strip('"'),
            marker=kind == "DeleteMarker",
        )
    except KeyError as cause:
        raise NotUnderstood(f"an entry of the listing lacks {cause.args[0]}") from cause
    except ValueError as cause:
        raise NotUnderstood(f"an entry of the listing has an invalid size or time ({kind})") from cause
