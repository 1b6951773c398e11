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
"""Seconds after which a site that accepts a connection and says nothing counts as a site that does not answer."""


def answers(questions: Mapping[str, Callable[[], Answer]], seconds: float) -> dict[str, Answer | BaseException]:
    """Return for each question its answer, its exception, or a TimeoutError after `seconds` for all together.

    A question without an answer goes on in a daemon thread, which does not delay the end of the command.
    """
    asked: dict[str, Future[Answer]] = {}
    for name, question in questions.items():
        asked[name] = Future()
        threading.Thread(target=_answer, args=(question, asked[name]), name=f"ask-{name}", daemon=True).start()
    until, found = time.monotonic() + seconds, dict[str, Answer | BaseException]()
    for name, future in asked.items():
        try:
            found[name] = future.exception(max(0.0, until - time.monotonic())) or future.result()
        except TimeoutError:
            found[name] = TimeoutError(f"no answer within {seconds:.0f} s")
    return found


def answer(question: Callable[[], Answer], what: str, seconds: float) -> Answer:
    """Return the answer to a question about a site. Raises its error, or SiteUnavailable after `seconds`.

    A site that accepts connections and says nothing holds a request for minutes: 60 s for each of four attempts.
    """
    found = answers({what: question}, seconds)[what]
    if isinstance(found, TimeoutError):
        raise SiteUnavailable(f"{what}: {found}", "Check the site with `rempart site list`, then run again.")
    if isinstance(found, BaseException):
        raise found
    return found


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
