"""Replicate one site to another: each object of the pair's buckets, verified at the far side, and the lag measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rempart.config import Config
from rempart.errors import ConfigError, PipelineError, SiteError, SiteUnavailable
from rempart.flows.doctor_site import require
from rempart.flows.platform import Platform
from rempart.pipeline import Pipeline, load_all
from rempart.replication.catalogue import catalogue_key, read, write
from rempart.replication.plan import Replica, folders_of, lag_seconds, plan, risks
from rempart.replication.transfer import transfer
from rempart.sections import Classification, ReplicationPair
from rempart.sites.capabilities import CapabilityRecord
from rempart.sovereignty.classification import highest
from rempart.training.checkpoints import is_checkpoint


@dataclass(frozen=True)
class ReplicationResult:
    """`objects` and `bytes` as the source lists them; `verified` of them were read back from the target and are equal.

    `copied` were put by this run; `kept` stand at the target though the source no longer has them; `failed` names
    `bucket/key` of what did not reach the target; `lag_seconds` is the age of the oldest change not yet there.
    """

    objects: int
    bytes: int
    copied: int
    verified: int
    kept: int
    failed: tuple[str, ...]
    lag_seconds: float


def classification_of(pipelines: Mapping[str, Pipeline | PipelineError]) -> Classification:
    """How to treat a bucket that all pipelines share: as its most protected data.

    Without any pipeline, and for one that does not load, that is `personal` at least: what they hold is not known.
    """
    loaded = pipelines.values()
    known: list[Classification] = [p.classification for p in loaded if not isinstance(p, PipelineError)]
    return highest(known if len(known) == len(loaded) > 0 else [*known, "personal"])


def physical_bucket(config: Config, logical: str) -> str:
    """The bucket's name at every site."""
    return str(getattr(config.buckets, logical))


def _pair(config: Config, source: str, target: str) -> ReplicationPair:
    for pair in config.replication:
        if (pair.source, pair.target) == (source, target):
            return pair
    declared = ", ".join(f"{pair.source} -> {pair.target}" for pair in config.replication) or "none"
    raise ConfigError(
        f"replication: the pair {source} -> {target} is not declared (declared: {declared})",
        "Add it to `replication` in rempart.yaml.",
    )


def replicate(platform: Platform, source: str, target: str) -> ReplicationResult:
    """Bring every new or changed object of the pair's buckets from `source` to `target`.

    Nothing is deleted at the target. A key that fails does not stop the others; then the call raises SiteError naming
    the failed keys (SiteUnavailable if each of them may work later). A listing that fails, or an empty one where
    objects were before, changes nothing. Writes evidence of kind `replication`. Raises PlacementDenied, ConfigError.
    """
    return replicate_buckets(platform, source, target, _pair(platform.config, source, target).buckets)[0]


def _unproven(able: CapabilityRecord, key: str, folders: set[str]) -> list[str]:
    """What a site was not proven able to do, and must be, to keep a key apart from others."""
    return sorted(name for name in risks(key, folders) if able.outcome(name) != "proven")


def _mixed_up(key: str, lacking: list[str], target: str) -> SiteError:
    return SiteError(
        f"site '{target}' may take {key[:80]!r} for another key: it was not proven to keep {', '.join(lacking)} apart",
        "Rename the object at the source, or replicate to a site that proves it (`rempart doctor site`).",
    )


def replicate_buckets(
    platform: Platform, source: str, target: str, names: Sequence[str]
) -> tuple[ReplicationResult, dict[str, tuple[Replica, ...]]]:
    """As `replicate`, for these logical buckets; also each bucket's replicas of what the source holds now."""
    classification = classification_of(load_all())
    from_site = platform.site(source, classification)
    to_site = platform.site(target, classification, "replica", beside=source)
    require(platform, from_site, "replication")
    able = require(platform, to_site, "replication")
    backups = platform.config.buckets.backups
    objects = size = copied = verified = kept = 0
    pending, failures = [], []
    replicas: dict[str, tuple[Replica, ...]] = {}
    for name in names:
        bucket, key = physical_bucket(platform.config, name), catalogue_key(source, name)
        catalogue = read(to_site, backups, key)
        # a job's checkpoints live for minutes and are learnt from data: they are not copied
        listing = tuple(one for one in from_site.list(bucket) if not is_checkpoint(one.key))
        wanted = plan(listing, tuple(to_site.list(bucket)), catalogue, f"{bucket} at site '{source}'")

        def checkpoint(done: tuple[Replica, ...], key: str = key, known: dict[str, Replica] = catalogue) -> None:
            write(to_site, backups, key, {**known, **{r.key: r for r in done}}.values())

        folders = folders_of(one.key for one in listing)
        lacking = {copy.source.key: _unproven(able, copy.source.key, folders) for copy in wanted.copies}
        copies = [copy for copy in wanted.copies if not lacking[copy.source.key]]
        done = transfer(from_site, to_site, bucket, copies, platform.clock, checkpoint)
        if done.replicas:
            checkpoint(done.replicas)
        replicas[name] = (*wanted.current, *done.replicas)
        objects += len(listing)
        size += sum(info.size for info in listing)
        copied += done.put
        verified += len(replicas[name])
        kept += len(wanted.kept)
        pending += [failure.source for failure in done.failures]
        failures += [(f"{bucket}/{failure.source.key}", failure.error) for failure in done.failures]
        for copy in wanted.copies:
            if why := lacking[copy.source.key]:
                pending.append(copy.source)
                failures.append((f"{bucket}/{copy.source.key}", _mixed_up(copy.source.key, why, target)))
    result = ReplicationResult(
        objects,
        size,
        copied,
        verified,
        kept,
        tuple(where for where, _ in failures),
        lag_seconds(pending, platform.clock()),
    )
    platform.ledger.append(
        "replication",
        f"{source}->{target}",
        {**asdict(result), "failed": list(result.failed[:100]), "failures": len(failures), "buckets": list(names)},
    )
    if failures:
        kind = SiteUnavailable if all(error.transient for _, error in failures) else SiteError
        shown = "\n".join(f"  {where}: {error.what}" for where, error in failures[:10])
        more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
        raise kind(
            f"{len(failures)} of {objects} objects did not reach site '{target}'"
            f" (lag {result.lag_seconds:.0f} s):\n{shown}{more}",
            f"The others did. First: {failures[0][1].hint} Then run the replication again (docs/runbooks/replica.md).",
        )
    return result, replicas
