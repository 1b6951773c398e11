"""A request is sent as often as `attempts` says. A probe must send each request once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError

from rempart.settings.config import Connection
from rempart.sites.probes.run import run
from rempart.sites.s3.client import open_client
from tests.scripted_site import Answer, ScriptedRequest, refusal, scripted_site


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_request_is_sent_as_often_as_attempts_says(attempts: int) -> None:
    asked: list[ScriptedRequest] = []

    def busy(request: ScriptedRequest) -> Answer:
        asked.append(request)
        return refusal("SlowDown", 503)

    with scripted_site(busy) as site:
        connection = Connection("s3_primary", "aws", login="a", password="b", extra={"endpoint_url": site.endpoint})
        client = open_client("primary", connection, "local-1", attempts=attempts)
        with pytest.raises(ClientError):
            client.head_object(Bucket="b", Key="k")
    assert len(asked) == attempts


def test_a_probe_of_one_attempt_sends_each_request_once() -> None:
    asked: list[ScriptedRequest] = []

    def busy(request: ScriptedRequest) -> Answer:
        asked.append(request)
        return refusal("SlowDown", 503)

    with scripted_site(busy) as site:
        connection = Connection("s3_primary", "aws", login="a", password="b", extra={"endpoint_url": site.endpoint})
        client = open_client("primary", connection, "local-1", attempts=1)
        with pytest.raises(Exception, match="HeadBucket"):
            run(client, "primary", "doctor", datetime(2026, 1, 5, tzinfo=UTC))
    assert len(asked) == 1, [(request.method, request.path) for request in asked]
