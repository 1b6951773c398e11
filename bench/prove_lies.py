"""Proof: whatever a site lies, no operation is green above what the bytes are, none is endless, and each converges.

    make prove-lies    ARGS="--quick" runs one fault of each class; ARGS="--only replicate,drill --fault I8" chooses

Every fault of the tests' lying site (tests/lying) is switched on for every operation that makes a request which the
fault can answer; the other cells are *not reachable*, by the request log of an honest run. A cell begins with the same
small platform (bench/lies_ground.py). The operation runs through the lying site, in a process of its own and within a
limit of time; a claim of success is held against the bytes of the real sites. Then the site tells the truth again, and
the same operation must be green, and right.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import lies_ground as on
from bench.lies_ground import Ground
from bench.lies_operations import OPERATIONS, Cell, Operation, fresh
from rempart import config
from rempart.errors import RempartError
from tests.lying import FAULTS, Fault, lying_site

LIMIT = 150.0
"""Seconds for one run of an operation: a storm of refusals is waited out, an endless listing is not."""
REFERENCE = Path("docs/reference/lies.md")
ONE_KEY = {"P5-read", "P5-write"}
QUICK = (
    ("I8-get", "replicate"),
    ("I10-single", "replicate"),
    ("I9-unrecorded", "replicate"),
    ("L7-tokens", "replicate"),
    ("L1-empty", "replicate"),
    ("I11-link-altered", "back up"),
    ("I11-segment-lost", "export evidence"),
    ("I13-get", "restore"),
    ("P7-delete", "erase"),
    ("P10-date", "doctor"),
    ("I12-etag", "doctor"),
    ("P3-ignored", "doctor"),
)
"""One cell of each class of faults, each at the operation that it harms most."""


@dataclass(frozen=True)
class Outcome:
    """What came of a cell at one site. `verdict`: refused, withstood, or what is RED; `said`: the first run's words."""

    fault: str
    operation: str
    site: str
    verdict: str
    said: str = ""
    hits: int = 0
    seconds: float = 0.0

    @property
    def red(self) -> bool:
        return self.verdict.startswith("RED")


def _in_child(act: Callable[[Path], object], folder: Path, seconds: float) -> dict[str, Any]:
    """What an act writes into a file, in a process of its own; nothing if it was killed after so many seconds."""
    file = folder / "told.json"
    file.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=act, args=(file,))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return json.loads(file.read_text("utf-8")) if file.is_file() else {"verdict": "RED no answer", "said": ""}


def _run(operation: Operation, cell: Cell) -> tuple[str, str, list[str]]:
    """How an operation ended (green, refused, traceback), what it said, and what is not as it claims."""
    try:
        claim = operation.act(cell)
    except (RempartError, on.Noticed, on.Pending) as error:
        return "refused", " ".join(str(getattr(error, "what", error)).split())[:300], []
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"[:300], []
    return "green", "", operation.wrong(cell, claim)


def _cell(ground: Ground, state: Path, operation: Operation, fault: Fault | None, where: str, file: Path) -> None:
    """One cell, in a process of its own."""
    on.small_parts()
    told: dict[str, Any] = {"verdict": "RED endless", "said": "", "hits": 0}
    began = time.monotonic()

    def tell(**more: Any) -> None:
        told.update(more, seconds=round(time.monotonic() - began, 1))
        file.write_text(json.dumps(told), "utf-8")

    def stop() -> None:
        tell(hits=len(site.hits()) if fault else 0)
        os._exit(3)

    made = pickle.loads(state.read_bytes())  # noqa: S301 # written by this process's parent
    with ExitStack() as held:
        sites = {
            name: held.enter_context(lying_site(ground.endpoint(name), client=ground.client(name))) for name in on.SITES
        }
        platform = ground.made_again(made, {name: one.url for name, one in sites.items()})
        cell, site = Cell(ground, made, platform), sites[where]
        operation.before(cell)
        if fault:
            cell.notes["fault"] = fault.name
            site.switch_on(fault, one_key=fault.name in ONE_KEY)
        watch = threading.Timer(LIMIT, stop)
        watch.daemon = True
        watch.start()
        how, said, wrong = _run(operation, cell)
        hits = len(site.hits())
        tell(said=said or "; ".join(wrong)[:300], hits=hits, first=how)
        if fault is None:
            requests = [
                [name, one.operation, one.bucket, one.key] for name, proxy in sites.items() for one in proxy.log
            ]
            tell(verdict=how, log=requests, said=said or "; ".join(wrong))
            os._exit(0)
        watch.cancel()
        if how == "traceback" or wrong:
            tell(verdict=f"RED {'traceback' if how == 'traceback' else 'false green'}")
        site.switch_off()
        cell.notes.clear()
        watch = threading.Timer(LIMIT, lambda: (tell(verdict="RED endless afterwards"), os._exit(3)))
        watch.daemon = True
        watch.start()
        again, words, differs = _settled(operation, fresh(cell))
        if told["verdict"].startswith("RED endless"):
            if again == "green" and not differs:
                tell(verdict="refused" if how == "refused" else "withstood")
            else:
                tell(verdict="RED does not converge", said=f"{told['said']} THEN {words or '; '.join(differs)}"[:600])
        os._exit(0)


def _settled(operation: Operation, cell: Cell) -> tuple[str, str, list[str]]:
    """The operation once more, and, where its green says that something is to be read back, that as well."""
    how, said, wrong = _run(operation, cell)
    if how == "green" and operation.name == "replicate" and not wrong:
        settled = _run(OPERATIONS["verify"], fresh(cell))
        return settled[0], settled[1], settled[2] or _unequal_now(cell)
    return how, said, wrong


def _unequal_now(cell: Cell) -> list[str]:
    from bench.lies_operations import unequal

    return unequal(cell, on.current(cell.ground, cell.platform, "primary"))


def cells(
    ground: Ground, state: Path, folder: Path, wanted: Sequence[tuple[str, str]], say: Callable[[str], object]
) -> Iterator[Outcome]:
    """Every cell that is wanted, in order; those that no request reaches are told from the log of an honest run."""
    for name in sorted({operation for _, operation in wanted}, key=list(OPERATIONS).index):
        operation = OPERATIONS[name]
        ground.reset()
        honest = _in_child(
            lambda file, one=operation: _cell(ground, state, one, None, "haven", file), folder, 2 * LIMIT
        )  # type: ignore[misc]
        say(f"{name}: an honest run is {honest.get('verdict')} in {honest.get('seconds')} s {honest.get('said', '')}")
        if honest.get("verdict") != "green" or honest.get("said"):
            yield Outcome("none", name, "both", "RED the honest run is not green", str(honest.get("said")))
            continue
        for fault in [FAULTS[fault] for fault, other in wanted if other == name]:
            reached = {site for site, made, _, key in honest["log"] if fault.is_for(made, key)}
            for site in operation.sites:
                if site not in reached:
                    yield Outcome(fault.name, name, site, "not reachable")
                    continue
                ground.reset()
                act = lambda file, one=operation, lie=fault, at=site: _cell(ground, state, one, lie, at, file)  # noqa: E731
                told = _in_child(act, folder, 2 * LIMIT + 60)  # type: ignore[arg-type]
                found = Outcome(
                    fault.name, name, site, told["verdict"], told["said"], told.get("hits", 0), told.get("seconds", 0.0)
                )
                say(f"  {fault.name} at {site}: {found.verdict} ({found.seconds} s) {found.said[:160]}")
                yield found


def table(found: Sequence[Outcome]) -> str:
    """The matrix in Markdown: one row for each fault, one column for each operation."""
    operations = [name for name in OPERATIONS if any(one.operation == name for one in found)]
    rows = ["| fault | " + " | ".join(operations) + " |", "|---" * (len(operations) + 1) + "|"]
    for fault in [name for name in FAULTS if any(one.fault == name for one in found)]:
        shown = []
        for operation in operations:
            here = [one for one in found if (one.fault, one.operation) == (fault, operation)]
            reached = [one for one in here if one.verdict != "not reachable"]
            worst = sorted(reached, key=lambda one: not one.red)
            shown.append(
                "; ".join(dict.fromkeys(f"{one.verdict}" for one in worst)) or ("not reachable" if here else "")
            )
        rows.append(f"| `{fault}` {FAULTS[fault].about} | " + " | ".join(shown) + " |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one fault of each class")
    parser.add_argument("--only", default="", help="these operations, separated by commas")
    parser.add_argument("--fault", default="", help="faults whose names begin so, separated by commas")
    chosen = parser.parse_args()
    wanted = list(QUICK) if chosen.quick else [(fault, name) for name in OPERATIONS for fault in FAULTS]
    if chosen.only:
        wanted = [one for one in wanted if one[1] in chosen.only.split(",")]
    if chosen.fault:
        wanted = [one for one in wanted if one[0].startswith(tuple(chosen.fault.split(",")))]
    began = time.monotonic()
    found: list[Outcome] = []
    target = config.var_dir() / "proof" / "lies.json"
    with tempfile.TemporaryDirectory() as name, on.ground(Path(name) / "var") as ground:
        folder, state = Path(name), Path(name) / "made"
        maker = multiprocessing.get_context("fork").Process(target=on.make, args=(ground, state))
        maker.start()
        maker.join(600)
        if not state.is_file():
            print("the platform could not be made")
            return 1
        ground.save()
        print(f"the platform is made in {time.monotonic() - began:.0f} s", flush=True)
        for outcome in cells(ground, state, folder, wanted, lambda line: print(line, flush=True)):
            found.append(outcome)
    seconds = round(time.monotonic() - began)
    red = [one for one in found if one.red]
    reached = [one for one in found if one.verdict != "not reachable"]
    print(table(found))
    for one in red:
        print(f"RED {one.fault} x {one.operation} at {one.site}: {one.verdict}. {one.said}")
    print(
        f"{len(reached)} cells were run, {len(found) - len(reached)} are not reachable, {len(red)} are red; {seconds} s"
    )
    checks = [
        {
            "what": f"{one.fault} x {one.operation} at {one.site}",
            "ok": not one.red,
            "detail": f"{one.verdict} {one.said}",
        }
        for one in reached
    ]
    figures = {"cells": [asdict(one) for one in found], "whole": not (chosen.quick or chosen.only or chosen.fault)}
    target.parent.mkdir(parents=True, exist_ok=True)
    report = {"name": "lies", "ok": not red, "seconds": seconds, "checks": checks, "figures": figures}
    target.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(f"written: {target}")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
