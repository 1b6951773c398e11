"""What a reader of import errors gets to see."""

from __future__ import annotations

import pytest

from rempart.airflow_api import last_words

FRAMES = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    raise ValueError()\n'


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (f"{FRAMES}ModuleNotFoundError: No module named 'x'\n", "ModuleNotFoundError: No module named 'x'"),
        (
            f"{FRAMES}airflow.exceptions.AirflowClusterPolicyViolation: DAG a breaks 1 rule:\n1. [owner] t: no",
            "airflow.exceptions.AirflowClusterPolicyViolation: DAG a breaks 1 rule:\n1. [owner] t: no",
        ),
        (
            f"{FRAMES}KeyError: 1\n\nDuring handling ...\n{FRAMES}rempart.errors.ConfigError: what\n  What to do: hint",
            "rempart.errors.ConfigError: what\n  What to do: hint",
        ),
        (
            "DAG a breaks 2 rules of this platform:\n1. [owner] ...",
            "DAG a breaks 2 rules of this platform:\n1. [owner] ...",
        ),
    ],
)
def test_an_import_error_is_told_without_its_frames(trace: str, said: str) -> None:
    assert last_words(trace) == said
