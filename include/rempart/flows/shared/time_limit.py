"""Run questions to servers side by side, none longer than a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypeVar

from rempart.errors import RempartError, SiteUnavailable

Answer = TypeVar("Answer")

SITE_SECONDS = 20.0
"""Seconds within which a site answers a question of a person in need. Its client waits longer (`sites.s3.client`)."""
_open: list[Future[object]] = []
"""Questions of this process that nobody waits for any more."""


def answers(questions: Mapping[str, Callable[[], Answer]], seconds: float) -> dict[str, Answer | BaseException]:
    """Return for each question its answer, its exception, or a TimeoutError after `seconds` for all together.

    A question without an answer goes on in a daemon thread (`goes_on`).
    """
    asked = {name: asking(name, question) for name, question in questions.items()}
    until, found = time.monotonic() + seconds, dict[str, Answer | BaseException]()
    for name, future in asked.items():
        try:
            found[name] = future.exception(max(0.0, until - time.monotonic())) or future.result()
        except TimeoutError:
            found[name] = TimeoutError(f"no answer within {seconds:.0f} s")
            _open[:] = [each for each in _open if not each.done()]
            _open.append(future)  # type: ignore[arg-type] # only asked whether it is done
    return found


def answer_of_site(question: Callable[[], Answer], what: str, seconds: float | None = None) -> Answer:
    """Return the answer of a site, or raise its exception. Raises SiteUnavailable after `seconds` (`SITE_SECONDS`)."""
    found = answers({what: question}, SITE_SECONDS if seconds is None else seconds)[what]
    if isinstance(found, TimeoutError):
        raise SiteUnavailable(f"{what}: {found}", "Wait until it answers, or look at it: `rempart site doctor`.")
    if isinstance(found, BaseException):
        raise found
    return found


def asking(name: str, question: Callable[[], Answer]) -> Future[Answer]:
    """Return the answer to come of a question that a daemon thread asks."""
    future: Future[Answer] = Future()
    threading.Thread(target=_answer, args=(question, future), name=f"ask-{name}", daemon=True).start()
    return future


def goes_on() -> bool:
    """Return whether a question still waits for its server.

    Such a process does not end by itself: Python waits for the threads that the question may have started in a pool.
    """
    return not all(future.done() for future in _open)


def reason(found: BaseException) -> str:
    """Return in words why a question has no answer: what an error of this platform says, else its text or its class.

    Raises it if it is a fault of the program: neither an error of this platform nor one of the system or the network.
    """
    if isinstance(found, RempartError):
        return found.what
    if not isinstance(found, OSError):  # TimeoutError is one
        raise found
    return str(found) or type(found).__name__


def _answer(question: Callable[[], Answer], to: Future[Answer]) -> None:
    try:
        to.set_result(question())
    except BaseException as error:
        to.set_exception(error)
