"""An order of a Spark job for tests, with other fields where a test asks for them."""

from __future__ import annotations

from typing import Any

from rempart.sovereignty.job_permission import JobSite, Permission
from rempart.spark.order import InputObject, OutputPlace, SparkOrder, code_version

PLACE = JobSite(name="primary", connection="s3_primary", region="local-1")
PERMISSION = Permission(hosts={"primary": ("127.0.0.1",)}, until="2999-12-01", decision="d" * 64)
INPUT = InputObject(role="delivery", bucket="lake", key="raw/x.csv", sha256="a" * 64, bytes=3, name="x.csv")


def order(**changes: Any) -> SparkOrder:
    return SparkOrder(
        **{
            "do": "ingest",
            "pipeline": "stays_test",
            "classification": "personal",
            "pipelines": {"stays_test": "{}"},
            "site": PLACE,
            "inputs": (INPUT,),
            "output": OutputPlace(bucket="lake", prefix="spark/stays_test/"),
            "parameters": {"now": "2026-11-30T00:00:00+00:00"},
            "code_version": code_version(),
            "permission": PERMISSION,
            **changes,
        }
    )
