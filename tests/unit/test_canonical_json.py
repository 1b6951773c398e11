"""Canonical JSON: the vectors of RFC 8785, values without a canonical form, and the bytes that the platform writes."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from types import MappingProxyType

import pytest

from rempart.canonical_json import LARGEST, NotCanonical, encode, read


@pytest.mark.parametrize(
    ("bits", "text"),
    [  # RFC 8785, appendix B
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555554", "333333333.33333325"),
        ("41b3de4355555555", "333333333.3333333"),
        ("41b3de4355555556", "333333333.3333334"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_are_printed_as_the_rfc_says(bits: str, text: str) -> None:
    assert encode(struct.unpack(">d", bytes.fromhex(bits))[0]) == text.encode()


def test_the_rfcs_samples() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\x0f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert encode(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    keys = {"€": 1, "\r": 2, "\ufb33": 3, "1": 4, "😀": 5, "\x80": 6, "ö": 7}
    assert list(json.loads(encode(keys)).values()) == [2, 4, 6, 7, 1, 5, 3]


def test_a_record_keeps_its_bytes() -> None:
    """Written and hashed by the release before the library: a hash of yesterday's ledger stays what it is."""
    record = {
        "v": 1, "seq": 7, "at": "2026-11-02T04:05:06.789012Z", "kind": "replication", "subject": "primary->haven",
        "prev": "0" * 64, "key": "5f2c", "body": MappingProxyType({
            "objects": 12, "bytes": 2**53 - 1, "seconds": 61.5, "lag_p50": 1.0, "throughput": 1e-7, "rate": 1e21,
            "whole": -0.0, "failed": False, "at": None, "buckets": ("lake", "artifacts"),
            "words": 'é "\\" \t\x1f\x7f 😀', "é": {"b": [], "a": {}},
        }),
    }  # fmt: skip
    assert (
        hashlib.sha256(encode(record)).hexdigest() == "49bdb786c98259b1e3ed50975c9d9733e00852e2b05aef963da9c07559eb68ae"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"metrics": {"mae": math.nan}}, "metrics.mae is not a finite number"),
        ({"metrics": [1, math.inf]}, r"metrics\[1\] is not a finite number"),
        ({"a": LARGEST + 1}, "a is an integer beyond"),
        ({"a": [-LARGEST - 1]}, r"a\[0\] is an integer beyond"),
        ({"a": {1: 2}}, "a has a key that is a int"),
        ({"a": b"x"}, "a is a bytes"),
        ({"a": "\ud800"}, "a holds half of a surrogate"),
        ({"a": {"\ud800": 1}}, "a key of a holds half of a surrogate"),
        ({"\ud800": 1}, "a key of the value itself holds half of a surrogate"),
        (b"x", "the value itself is a bytes"),
    ],
)
def test_what_has_no_canonical_form_is_named_by_its_path(value: object, message: str) -> None:
    with pytest.raises(NotCanonical, match=message):
        encode(value)


def test_text_is_read_back_to_the_value_that_gives_the_same_bytes() -> None:
    assert encode({"whole": LARGEST, "beyond": 1e16}) == b'{"beyond":10000000000000000,"whole":9007199254740991}'
    found = read('{"beyond": 10000000000000000, "whole": 9007199254740991}')
    assert found == {"beyond": 1e16, "whole": LARGEST} and encode(found) == encode({"whole": LARGEST, "beyond": 1e16})
    for text in ("NaN", "[Infinity]", "{", "1e999", "[-1e400]", "1" * 400):
        with pytest.raises(ValueError):
            read(text)
