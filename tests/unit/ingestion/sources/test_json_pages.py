"""An answer of a service is parsed only if its parts fit into memory, whatever its size in bytes."""

from __future__ import annotations

import json

import pytest

from rempart.ingestion.sources.web import json_rows


@pytest.mark.parametrize("part", ["1e1", "{}", "[]", '"a"', "null"])
def test_an_answer_of_too_many_parts_is_refused_before_it_is_parsed(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 1000
    monkeypatch.setattr(json_rows, "MOST_PARTS", most)
    monkeypatch.setattr(json, "loads", lambda *given, **more: pytest.fail("it was parsed"))
    with pytest.raises(json_rows.NotRows, match="more than 1,000 values; ask for smaller pages"):
        json_rows.parse(f'[{{"a":[{",".join([part] * most)}]}}]'.encode(), None)


def test_an_answer_at_the_limit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'[{"a":1.50},{"a":2}]'
    monkeypatch.setattr(json_rows, "MOST_PARTS", 4)
    assert list(json_rows.lines(json_rows.parse(body, None), ["a"])) == [b'{"a":1.50}', b'{"a":2}']
    monkeypatch.setattr(json_rows, "MOST_PARTS", 3)
    with pytest.raises(json_rows.NotRows):
        json_rows.parse(body, None)
