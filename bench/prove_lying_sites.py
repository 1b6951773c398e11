"""Proof: whatever a site lies, no operation claims a success that the bytes refute, and each converges.

    make prove-lying-sites ARGS="--quick" runs each operation with its worst faults
    make prove-lying-sites ARGS="--only replicate,drill --fault I8" chooses

Each fault of the tests' lying site (tests/lying) is combined with each operation that makes a request which the fault
can answer. The other cells are *not reachable*, according to the request log of an honest run. Each cell begins with
the same small platform (bench/lying_ground.py). The operation runs through the lying site, in a process of its own and
with a time limit. If it claims success, the claim is compared with the bytes of the real sites. No operation may exceed
the time limit. Then the site stops lying, and the same operation must succeed with the right result.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import lying_ground as on
from bench.lying_ground import Ground, Made
from bench.lying_matrix import NOT_REACHABLE, REFERENCE, Outcome, page, read, summary, table, write
from bench.lying_operations import OPERATIONS, Cell, Operation, fresh, unequal
from rempart.errors import RempartError
from rempart.flows.backup.mend_links import mend
from rempart.flows.backup.point_store import store_at
from rempart.settings import config
from tests.lying import FAULTS, Fault, lying_site

FORK = multiprocessing.get_context("fork")
LIMIT = 900.0
"""Time limit in seconds for one run of an operation: longer than a storm of refusals, shorter than an endless
listing.
"""
WORKERS = 3
"""Number of processes, each with its own servers: a cell mostly waits for servers to start."""
Wanted = tuple[str, str, str]
"""A fault, an operation, and the lying site."""
ONE_KEY = {"P5-read", "P5-write"}
QUICK = (
    ("P7-put", "ingest"),
    ("I9-unrecorded", "replicate"),
    ("L1-empty", "replicate"),
    ("I11-link-altered", "back up"),
    ("I11-segment-lost", "export evidence"),
    ("I10-single", "verify"),
    ("I10-single", "drill"),
    ("I12-version", "erase"),
    ("I13-get", "restore"),
    ("P3-ignored", "doctor"),
)
"""Each operation, with the faults that harm it most. Each other fault has a test (docs/reference/faults.md)."""


def _in_child(act: Callable[[Path], object], folder: Path, seconds: float) -> dict[str, Any]:
    """Return the result of an act in a process of its own; None if it was killed after this many seconds."""
    file = folder / "told.json"
    file.unlink(missing_ok=True)
    process = FORK.Process(target=act, args=(file,))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return json.loads(file.read_text("utf-8")) if file.is_file() else {"verdict": "RED no answer", "message": ""}


def _run(operation: Operation, cell: Cell) -> tuple[str, str, list[str]]:
    """Return how an operation ended (green, refused, traceback), its message, and the differences from its claim."""
    try:
        claim = operation.act(cell)
    except (RempartError, on.Noticed, on.Pending) as error:
        return "refused", " ".join(f"{getattr(error, 'what', error)} {getattr(error, 'hint', '')}".split())[:400], []
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"[:300], []
    return "green", "", operation.wrong(cell, claim)


def _cell(ground: Ground, made: Made, operation: Operation, fault: Fault | None, where: str, file: Path) -> None:
    """Run one cell, in a process of its own."""
    on.small_parts()
    told: dict[str, Any] = {"verdict": "RED endless", "message": "", "hits": 0}
    began = time.monotonic()

    def tell(**more: Any) -> None:
        told.update(more, seconds=round(time.monotonic() - began, 1))
        file.write_text(json.dumps(told), "utf-8")

    def stop() -> None:
        tell(hits=len(site.hits()) if fault else 0)
        os._exit(3)

    with ExitStack() as held:
        sites = {
            name: held.enter_context(lying_site(ground.endpoint(name), client=ground.client(name))) for name in on.SITES
        }
        platform = ground.made_again(made, {name: started.url for name, started in sites.items()})
        cell, site = Cell(ground, made, platform), sites[where]
        operation.before(cell)
        if fault:
            cell.notes["fault"] = fault.name
            site.switch_on(fault, one_key=fault.name in ONE_KEY)
        watch = threading.Timer(LIMIT, stop)
        watch.daemon = True
        watch.start()
        how, message, wrong = _run(operation, cell)
        hits = len(site.hits())
        tell(message=message or "; ".join(wrong)[:300], hits=hits, first=how)
        if fault is None:
            requests = [
                [name, info.operation, info.bucket, info.key] for name, proxy in sites.items() for info in proxy.log
            ]
            tell(verdict=how, log=requests, message=message or "; ".join(wrong))
            os._exit(0)
        watch.cancel()
        if how == "traceback" or wrong:
            tell(verdict=f"RED {'traceback' if how == 'traceback' else 'false green'}")
        site.switch_off()
        cell.notes.clear()
        watch = threading.Timer(LIMIT, lambda: (tell(verdict="RED endless afterwards"), os._exit(3)))
        watch.daemon = True
        watch.start()
        later = fresh(cell)
        again, words, differs = _settled(operation, later)
        if told["verdict"].startswith("RED endless"):
            if again == "green" and not differs:
                repaired = ", then repaired" if later.notes.get("repaired") else ""
                tell(verdict=("refused" if how == "refused" else "withstood") + repaired)
            else:
                tell(
                    verdict="RED does not converge",
                    message=f"{told['message']} THEN {words or '; '.join(differs)}"[:600],
                )
        os._exit(0)


def _settled(operation: Operation, cell: Cell) -> tuple[str, str, list[str]]:
    """Run the operation again after the step that its message asks for: a repair, or the announced read-back."""
    how, message, wrong = _run(operation, cell)
    if how == "refused" and operation.name == "back up" and "backup repair" in message:
        real = cell.real()
        mend(store_at(real, real.site("haven", "internal")), dry_run=False, mark_lost=True)
        cell.notes["repaired"] = True
        how, message, wrong = _run(operation, fresh(cell))
    if how == "green" and operation.name == "replicate" and not wrong:
        settled = _run(OPERATIONS["verify"], fresh(cell))
        return settled[0], settled[1], settled[2] or _unequal_now(cell)
    return how, message, wrong


def _unequal_now(cell: Cell) -> list[str]:
    return unequal(cell, on.current(cell.ground, cell.platform, "primary"))


def honest_run(ground: Ground, made: Made, folder: Path, operation: Operation) -> dict[str, Any]:
    """Return the outcome of an operation at honest sites, and its requests."""
    ground.reset()
    return _in_child(lambda file: _cell(ground, made, operation, None, "haven", file), folder, 2 * LIMIT)


def faulty_run(ground: Ground, made: Made, folder: Path, operation: Operation, fault: Fault, site: str) -> Outcome:
    """Return the outcome of one cell."""
    ground.reset()
    told = _in_child(lambda file: _cell(ground, made, operation, fault, site, file), folder, 2 * LIMIT + 60)
    return Outcome(
        fault.name,
        operation.name,
        site,
        told["verdict"],
        told["message"],
        told.get("hits", 0),
        told.get("seconds", 0.0),
    )


def cells(ground: Ground, made: Made, folder: Path, wanted: Sequence[Wanted]) -> Iterator[Outcome]:
    """Yield every wanted cell; the log of an honest run shows the cells that no request reaches."""
    for name in dict.fromkeys(operation for _, operation, _ in wanted):
        operation = OPERATIONS[name]
        honest = honest_run(ground, made, folder, operation)
        show(
            f"{name}: an honest run is {honest.get('verdict')} in {honest.get('seconds')} s {honest.get('message', '')}"
        )
        if honest.get("verdict") != "green" or honest.get("message"):
            yield Outcome("none", name, "both", "RED the honest run is not green", str(honest.get("message")))
            continue
        for fault, site in [(FAULTS[fault], site) for fault, other, site in wanted if other == name]:
            if any(where == site and fault.is_for(request, key) for where, request, _, key in honest["log"]):
                found = faulty_run(ground, made, folder, operation, fault, site)
                show(f"  {fault.name} at {site}: {found.verdict} ({found.seconds} s) {found.message[:160]}")
            else:
                found = Outcome(fault.name, name, site, NOT_REACHABLE)
            yield found


def made_in_child(ground: Ground) -> Made | None:
    """Create the platform in a process of its own, whose threads and connections end with it; None if that fails."""
    ours, theirs = FORK.Pipe(duplex=False)
    maker = FORK.Process(target=lambda: theirs.send(on.make(ground)))
    maker.start()
    theirs.close()
    try:
        made: Made = ours.recv()
    except EOFError:
        return None
    finally:
        maker.join()
    return made


def work(wanted: Sequence[Wanted], tell: Callable[[Outcome], None]) -> None:
    """Run cells at servers of this process's own."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, on.ground(Path(name) / "var") as ground:
        if (made := made_in_child(ground)) is None:
            tell(Outcome("none", wanted[0][1], "both", "RED the platform could not be made"))
            return
        ground.save()
        show(f"a platform is made in {time.monotonic() - began:.0f} s")
        for outcome in cells(ground, made, Path(name), wanted):
            tell(outcome)


def shares_of(wanted: Sequence[Wanted], workers: int) -> list[list[Wanted]]:
    """Return the cells of each process, none of them empty. Pure.

    All cells of an operation are in one process, which then makes its honest run once.
    """
    operations: dict[str, list[Wanted]] = {}
    for cell in wanted:
        operations.setdefault(cell[1], []).append(cell)
    shares: list[list[Wanted]] = [[] for _ in range(workers)]
    for cells_of_one in sorted(operations.values(), key=len, reverse=True):
        min(shares, key=len).extend(cells_of_one)
    return [share for share in shares if share]


def shared_out(wanted: Sequence[Wanted], workers: int) -> Iterator[Outcome]:
    """Yield the outcomes of all cells from several processes; a process that ends without its outcomes is red."""
    shares = shares_of(wanted, workers)
    on.load()
    outcomes = FORK.Queue()
    processes = [FORK.Process(target=work, args=(share, outcomes.put)) for share in shares]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes) or not outcomes.empty():
        try:
            yield outcomes.get(timeout=1)
        except queue.Empty:
            continue
    for process, share in zip(processes, shares, strict=True):
        if process.exitcode:
            yield Outcome("none", share[0][1], "both", f"RED a process ended with {process.exitcode}")


def show(line: str) -> None:
    print(line, flush=True)


def chosen_cells(chosen: argparse.Namespace) -> list[Wanted]:
    pairs = list(QUICK) if chosen.quick else [(fault, name) for name in OPERATIONS for fault in FAULTS]
    return [
        (fault, name, site)
        for fault, name in pairs
        for site in OPERATIONS[name].sites
        if (not chosen.only or name in chosen.only.split(","))
        and (not chosen.fault or fault.startswith(tuple(chosen.fault.split(","))))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each operation with its worst faults")
    parser.add_argument("--only", default="", help="these operations, separated by commas")
    parser.add_argument("--fault", default="", help="faults whose names begin so, separated by commas")
    parser.add_argument("--go-on", action="store_true", help="keep the outcomes of earlier runs, and run the others")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes, each with its own servers")
    parser.add_argument("--page", action="store_true", help=f"write {REFERENCE} from the last run, and run nothing")
    chosen = parser.parse_args()
    target = config.var_dir() / "proof" / "lying-sites.json"
    if chosen.page:
        (config.project_root() / REFERENCE).write_text(page(read(target)), "utf-8")
        return 0
    began = time.monotonic()
    found = read(target) if chosen.go_on else []
    known = {outcome.cell for outcome in found}
    wanted = [cell for cell in chosen_cells(chosen) if cell not in known]
    for outcome in shared_out(wanted, chosen.workers):
        found.append(outcome)
        write(target, found, time.monotonic() - began)
    show(table(found))
    for cell_outcome in found:
        if cell_outcome.red:
            show(f"RED {' x '.join(cell_outcome.cell)}: {cell_outcome.verdict}. {cell_outcome.message}")
    show(f"{summary(found)}; {time.monotonic() - began:.0f} s; written: {target}")
    return 1 if any(outcome.red for outcome in found) else 0


if __name__ == "__main__":
    sys.exit(main())
