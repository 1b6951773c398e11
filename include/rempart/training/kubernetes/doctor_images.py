"""Check the images of a pool's jobs for `rempart pool doctor`: digest, and allowed registry. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from rempart.settings.config import Config
from rempart.sovereignty.places import decide_image, decide_pool
from rempart.sovereignty.policy import Decision
from rempart.sovereignty.pool_pods import image_at
from rempart.training.kubernetes.facts import PoolFinding


def runs_spark(config: Config, name: str) -> bool:
    """Return whether Spark jobs may be sent to a pool."""
    return config.spark.backend == "kubernetes" and name in (config.spark.gpu_pools or config.gpu_pools)


def is_for_spark(config: Config, name: str) -> bool:
    """Return whether Spark jobs are the only jobs that may be sent to a pool."""
    return runs_spark(config, name) and config.training.backend != "kubernetes"


def judge(config: Config, name: str, on: date) -> Iterator[PoolFinding]:
    """Yield the findings about the image of each kind of job that the pool is declared for."""
    if not is_for_spark(config, name):
        yield from _image(config, name, "image", "training.image", config.training.image, on)
    if runs_spark(config, name):
        yield from _image(config, name, "spark image", "spark.image", config.spark.image, on)


def _image(config: Config, name: str, check: str, key: str, declared: str | None, on: date) -> Iterator[PoolFinding]:
    image = image_at(config.gpu_pools[name], declared)
    if "@sha256:" not in image:
        remedy = (
            f"Set the job's image with its digest under {key} (name@sha256:...). `docker image inspect "
            "--format '{{.RepoDigests}}' IMAGE` shows the digest."
        )
        yield PoolFinding(check, "FAIL", f"'{image}' has no digest" if image else f"{key} is not declared", remedy)
        return
    asked = [
        classification
        for classification in config.policy
        if decide_pool(config, classification, "job", name, on=on).allowed
    ] or [*config.policy]
    against = [
        decision for decision in (decide_image(config, which, image, on=on) for which in asked) if not decision.allowed
    ]
    if not against:
        yield PoolFinding(check, "ok", f"{image}, from an allowed registry")
        return
    for decision in against:
        facts = "; ".join(f"{reason.rule}: {reason.fact}" for reason in decision.against)
        text = f"{image} may not run {decision.classification} jobs: {facts}"
        yield PoolFinding(check, "FAIL" if len(against) == len(asked) else "warn", text, remedies(decision))


def remedies(decision: Decision) -> str:
    """Return what helps against a denial."""
    found = " / ".join(dict.fromkeys(reason.remedy for reason in decision.against))
    return f"{found} Then check with `rempart policy show`."
