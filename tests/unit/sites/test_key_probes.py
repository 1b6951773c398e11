"""Keys that a site confuses, distinguished from answers that never came."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ConnectionClosedError, EndpointConnectionError, IncompleteReadError

from rempart.sites.capabilities import CLAIMED
from rempart.sites.probes import listing
from rempart.sites.probes.run import attempt
from rempart.sites.probes.scratch import Scratch

CLOSED = ConnectionClosedError(endpoint_url="http://site")
NO_CONNECTION = EndpointConnectionError(endpoint_url="http://site")
FAULTS = [CLOSED, NO_CONNECTION, IncompleteReadError(actual_bytes=0, expected_bytes=1)]


@dataclass
class Client:
    """An S3 client over a dictionary. `altered` keys come back as another body, `cut` ones as the error `fault`."""

    altered: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    fault: BotoCoreError = CLOSED
    bodies: dict[str, bytes] = field(default_factory=dict)

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> dict[str, Any]:  # noqa: N803 - boto3's names
        self.bodies[Key] = Body
        return {}

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803 - boto3's names
        if Key.removeprefix("run/path/") in self.cut:
            raise self.fault
        found = b"another" if Key.removeprefix("run/path/") in self.altered else self.bodies[Key]
        return {"Body": io.BytesIO(found)}

    def list_objects_v2(self, **asked: Any) -> dict[str, Any]:
        return {"Contents": [{"Key": key} for key in sorted(self.bodies)], "IsTruncated": False}


def outcome(client: Client) -> str:
    return attempt("path keys", listing.path_keys, Scratch(client, "doctor", "run/", True, True)).outcome


def test_keys_that_are_kept_apart_are_proven() -> None:
    assert outcome(Client()) == "proven"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("cut", [(), ("trail",), ("a/b", "trail", "dual/b")])
def test_one_key_that_is_not_kept_apart_is_a_lie_whatever_becomes_of_the_others(
    cut: tuple[str, ...], fault: BotoCoreError
) -> None:
    assert outcome(Client(altered=("a//b",), cut=cut, fault=fault)) == CLAIMED


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_an_answer_that_never_came_leaves_it_open(fault: BotoCoreError) -> None:
    assert outcome(Client(cut=("trail",), fault=fault)) == "not run"
