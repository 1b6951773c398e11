"""What the scorer counts, as text for Prometheus. A label is a name of ours, and never a value of a request."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Upper limits of the latency histogram's buckets."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]
Gauge = tuple[str, str, Mapping[Labels, float]]
"""Name, help, and the value by labels."""


@dataclass
class _Histogram:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    sum: float = 0.0


@dataclass
class Metrics:
    """Counters since the process began."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Requests for predictions, by pipeline and status."""
    rows: Counter[str] = field(default_factory=Counter)
    shadow_rows: Counter[str] = field(default_factory=Counter)
    shadow_dropped: Counter[str] = field(default_factory=Counter)
    shadow_failed: Counter[str] = field(default_factory=Counter)
    swaps: Counter[str] = field(default_factory=Counter)
    _latency: dict[str, _Histogram] = field(default_factory=dict)

    def answered(self, pipeline: str, status: int, rows: int, seconds: float) -> None:
        """Count a request for predictions."""
        self.requests[pipeline, status] += 1
        self.rows[pipeline] += rows
        histogram = self._latency.setdefault(pipeline, _Histogram())
        histogram.buckets[bisect_left(SECONDS, seconds)] += 1
        histogram.sum += seconds

    def text(self, gauges: Iterable[Gauge]) -> str:
        """Return everything as text."""
        return "\n".join([*self._lines(gauges), ""])

    def _lines(self, gauges: Iterable[Gauge]) -> Iterator[str]:
        by_status: dict[Labels, float] = {
            (("pipeline", name), ("status", str(status))): float(n) for (name, status), n in self.requests.items()
        }
        yield from family("rempart_scorer_requests_total", "counter", "Requests for predictions.", by_status)
        counters = (
            ("rows_total", "Rows that were predicted.", self.rows),
            ("shadow_rows_total", "Rows that a shadow predicted.", self.shadow_rows),
            ("shadow_dropped_total", "Rows that a shadow did not predict, because it was busy.", self.shadow_dropped),
            ("shadow_failed_total", "Rows that a shadow could not predict.", self.shadow_failed),
            ("swaps_total", "Changes of the version that answers.", self.swaps),
        )
        for name, told, counted in counters:
            values: dict[Labels, float] = {
                (("pipeline", pipeline),): float(number) for pipeline, number in counted.items()
            }
            yield from family(f"rempart_scorer_{name}", "counter", told, values)
        yield "# HELP rempart_scorer_seconds Time from a request for predictions to its answer."
        yield "# TYPE rempart_scorer_seconds histogram"
        for pipeline, histogram in self._latency.items():
            yield from _buckets(pipeline, histogram)
        for name, told, by_labels in gauges:
            yield from family(f"rempart_scorer_{name}", "gauge", told, by_labels)


def _buckets(pipeline: str, histogram: _Histogram) -> Iterator[str]:
    name, total = "rempart_scorer_seconds", 0
    for limit, number in zip((*map(str, SECONDS), "+Inf"), histogram.buckets, strict=True):
        total += number
        yield f"{name}_bucket{_braces((('pipeline', pipeline), ('le', limit)))} {total}"
    yield f"{name}_sum{_braces((('pipeline', pipeline),))} {histogram.sum:.6f}"
    yield f"{name}_count{_braces((('pipeline', pipeline),))} {total}"


def family(name: str, kind: str, told: str, values: Mapping[Labels, float]) -> Iterator[str]:
    """Yield the lines of a metric: its help, its kind, and a value for each labels."""
    yield f"# HELP {name} {told}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values.items():
        yield f"{name}{_braces(labels)} {value:.15g}"


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{told}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
