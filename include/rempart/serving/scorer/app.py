"""The ASGI application: who may ask, what a request asks for, and its answer after the log has it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rempart.counts import counted
from rempart.errors import RempartError
from rempart.serving.entries import PredictionGroup, PredictionLog, PrivatePart, PublicPart
from rempart.serving.scorer import friendly, metrics, open_inference
from rempart.serving.scorer.batches import BatchAnswer
from rempart.serving.scorer.bodies import BodiesUnderWay, Body
from rempart.serving.scorer.clients import Client, Clients, key_in
from rempart.serving.scorer.deployments import Deployment, Deployments
from rempart.serving.scorer.friendly import Question, RandomBytes
from rempart.serving.scorer.http_server import WHOLE_ANSWER, Whole
from rempart.serving.scorer.metrics import Gauge, Labels, Metrics
from rempart.serving.scorer.patience import Patience
from rempart.serving.scorer.refusals import Refused, refused, unexpected
from rempart.serving.scorer.shadows import Shadows

ANSWER_SECONDS = 30.0
"""Seconds after which a request that still waits is refused."""
MOST_UNKNOWN = 50
"""Requests with unknown keys that wait for the ledger at once. Each holds a connection, and anybody can send one."""
logger = logging.getLogger(__name__)
Handler = Callable[[Request], Awaitable[Response]]
Asked = Callable[[str, bytes], tuple[Deployment, Question]]
"""Returns what the body of a request for a pipeline asks, and whom. Raises Refused."""


async def _never() -> None:
    """Return at once: nobody looks at a ledger."""


@dataclass
class Scorer:
    """What the application stands on. `place`: operator, node and process, for the log. `release`: of Rempart."""

    deployments: Deployments
    clients: Clients
    log: PredictionLog
    place: str
    release: str
    metrics: Metrics = field(default_factory=Metrics)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    looked: Callable[[], Awaitable[object]] = _never
    """Returns after the next look at the ledger: a key that is not known may be newer than the last one."""

    def __post_init__(self) -> None:
        self.shadows = Shadows(self.log, self.metrics)
        self._held, self._patience, self._random = BodiesUnderWay(), Patience(), RandomBytes()
        self._unknown = 0
        self.deployments.on_swap = self._count_swap

    def _count_swap(self, pipeline: str) -> None:
        self.metrics.swaps[pipeline] += 1

    def application(self) -> ASGIApp:
        """Return the ASGI application. Rows of our own protocol take no way through its routes."""
        routed = self._routed()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            prefix, _, pipeline = scope.get("path", "").rpartition("/")
            if prefix != "/predict" or not pipeline or scope["type"] != "http":
                await routed(scope, receive, send)
                return
            if scope["method"] != "POST":
                await _refusal(_misdirected(405))(scope, receive, send)
                return
            try:
                body = await self._answered(pipeline, scope, receive, self._predict)
            except Exception as cause:
                await _failure(cause)(scope, receive, send)
                return
            whole: Whole | None = scope.get("extensions", {}).get(WHOLE_ANSWER)
            if whole is None or not whole(body):
                await _json(body)(scope, receive, send)

        return application

    def _routed(self) -> Starlette:
        model = "/v2/models/{pipeline}"
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/metrics", self._metrics),
            ("GET", "/v2", self._server),
            ("GET", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", self._ready),
        ]
        for path in (model, f"{model}/versions/{{version}}"):
            routes += [
                ("GET", path, self._model),
                ("GET", f"{path}/ready", self._model_ready),
                ("POST", f"{path}/infer", self._infer),
            ]
        made = Starlette(
            routes=[Route(path, _safe(handler), methods=[method]) for method, path, handler in routes],
            exception_handlers={HTTPException: _no_route},
        )
        made.router.redirect_slashes = False  # it would send rows to the address of the Host header
        return made

    def _predict(self, pipeline: str, body: bytes) -> tuple[Deployment, Question]:
        return self.deployments.of(pipeline), friendly.question(body)

    async def _infer(self, request: Request) -> Response:
        def asked(pipeline: str, body: bytes) -> tuple[Deployment, Question]:
            if "inference-header-content-length" in request.headers:
                raise Refused(400, "read the request: it has binary tensors", "Send the tensors' data as JSON.")
            deployment = self._version(request)
            return deployment, open_inference.question(body, deployment.opened.inputs, deployment.opened.kept)

        return _json(await self._answered(request.path_params["pipeline"], request.scope, request.receive, asked))

    async def _answered(self, pipeline: str, scope: Scope, receive: Receive, asked: Asked) -> bytes:
        """Return the answer to a request for predictions, and count it. Raises Refused."""
        began, headers, body = time.perf_counter(), dict(scope["headers"]), Body(self._held)
        client = await self._client(headers.get(b"authorization"))
        self.clients.allowed(client, pipeline, time.monotonic())
        try:
            try:
                deployment, question = asked(pipeline, await body.read(headers, receive, self._patience))
                answer = await self._ask(client, pipeline, deployment, question, began)
            except RempartError as cause:
                raise refused(cause) from None
        except Refused as refusal:
            self.metrics.answered(pipeline, refusal.status, 0, time.perf_counter() - began)
            raise
        except Exception:  # it is answered with 500
            self.metrics.answered(pipeline, 500, 0, time.perf_counter() - began)
            raise
        finally:
            body.forget()
        self.metrics.answered(pipeline, 200, len(question.rows), time.perf_counter() - began)
        return answer

    async def _ask(
        self, client: Client, pipeline: str, deployment: Deployment, question: Question, began: float
    ) -> bytes:
        """Predict, log, and only then return the answer. Raises RempartError, Refused."""
        kept = deployment.kept.of(question.rows)

        def group(by: Deployment, predicted: BatchAnswer, ids: Sequence[str], *, returned: bool) -> PredictionGroup:
            public = PublicPart(
                self.clock(), pipeline, by.opened.version, by.opened.sha256, client.name, self.place,
                time.perf_counter() - began, returned, ids, predicted.outputs,
            )  # fmt: skip
            inputs = kept if by is deployment else by.kept.of(question.rows)
            return PredictionGroup(public, PrivatePart(inputs, predicted.names, predicted.features))

        ids, doing = friendly.new_ids(len(question.rows), self._random), "predict"
        try:
            with self._patience.limit(ANSWER_SECONDS):
                answer = await deployment.ask(question)
                doing = "log the predictions of"
                await self.log.write(group(deployment, answer, ids, returned=True))
        except TimeoutError:
            raise Refused(
                503,
                f"{doing} {counted(len(question.rows), 'row')}: no answer within {ANSWER_SECONDS:.0f} s",
                "Ask again later, or run more scorers.",
                {"Retry-After": "5"},
            ) from None
        if shadow := self.deployments.slots[pipeline].shadow:
            self.shadows.offer(
                pipeline,
                shadow,
                question,
                lambda by, predicted: group(by, predicted, friendly.new_ids(len(ids), self._random), returned=False),
            )
        opened = deployment.opened
        if question.named:
            return _encoded(friendly.answer(pipeline, opened.version, opened.sha256, ids, answer))
        return _encoded(
            open_inference.answer(
                pipeline, opened.version, question.id, opened.sha256, ids, answer.outputs, opened.outputs
            )
        )

    async def _client(self, authorization: bytes | None) -> Client:
        """Return who asks. A key that is newer than the last look at the ledger waits for the next one, if few wait.

        Raises Refused (401; 503 while nothing is known of clients).
        """
        if self.deployments.is_starting:
            raise Refused(
                503,
                "answer the request: the scorer starts, and did not read the ledger yet",
                "Ask again later.",
                {"Retry-After": "2"},
            )
        given = authorization.decode("latin-1") if authorization else None
        try:
            return self.clients.of(given)
        except Refused:
            if not key_in(given) or self._unknown >= MOST_UNKNOWN:
                raise
        self._unknown += 1
        try:
            await self.looked()
        finally:
            self._unknown -= 1
        return self.clients.of(given)

    async def _asks(self, request: Request) -> Client:
        return await self._client(dict(request.scope["headers"]).get(b"authorization"))

    def _version(self, request: Request) -> Deployment:
        """Return the deployment that a path names. Raises Refused (404)."""
        pipeline, version = request.path_params["pipeline"], request.path_params.get("version")
        deployment = self.deployments.of(pipeline)
        if version not in (None, deployment.opened.version):
            raise Refused(
                404,
                f"use version {version[:20]!r} of pipeline '{pipeline}': it is not the champion",
                f"Only the champion answers, now version {deployment.opened.version}: leave the version out.",
            )
        return deployment

    async def _server(self, request: Request) -> Response:
        self.clients.count(await self._asks(request), time.monotonic())
        return _json(_encoded(open_inference.server(self.release)))

    async def _model(self, request: Request) -> Response:
        self.clients.allowed(await self._asks(request), request.path_params["pipeline"], time.monotonic())
        opened = self._version(request).opened
        told = open_inference.model(request.path_params["pipeline"], opened.version, opened.inputs, opened.outputs)
        return _json(_encoded(told))

    async def _model_ready(self, request: Request) -> Response:
        self.clients.allowed(await self._asks(request), request.path_params["pipeline"], time.monotonic())
        told = {"name": request.path_params["pipeline"], "ready": bool(self._version(request))}
        return _json(_encoded(told))

    async def _live(self, request: Request) -> Response:
        return _json(_encoded({"live": True}))

    async def _ready(self, request: Request) -> Response:
        """Answer whether the champions answer, and since when nothing new is known of the ledger; no names."""
        known = self.deployments
        answering = sum(slot.champion is not None for slot in known.slots.values())
        told = {
            "ready": known.is_ready,
            "models": answering,
            "opening": sum(slot.is_opening for slot in known.slots.values()),
            "failing": sum(slot.is_failing for slot in known.slots.values()),
            "ledger_known_at": known.known_at.isoformat() if known.known_at else None,
            "ledger_answers": not known.fault,
        }
        return _json(_encoded(told), 200 if known.is_ready else 503)

    async def _metrics(self, request: Request) -> Response:
        self.clients.may_read_metrics(await self._asks(request), time.monotonic())
        known, now = self.deployments, self.clock()
        versions: dict[Labels, float] = {
            (
                ("pipeline", name),
                ("version", slot.champion.opened.version),
                ("sha256", slot.champion.opened.sha256),
            ): 1.0
            for name, slot in known.slots.items()
            if slot.champion
        }
        waiting: dict[Labels, float] = {
            (("pipeline", name),): float(slot.champion.batches.rows_waiting)
            for name, slot in known.slots.items()
            if slot.champion
        }
        faults: dict[Labels, float] = {
            (("pipeline", name),): float(slot.is_failing) for name, slot in known.slots.items()
        }
        age: dict[Labels, float] = {(): (now - known.known_at).total_seconds()} if known.known_at else {}
        gauges: tuple[Gauge, ...] = (
            ("version", "The version that answers.", versions),
            ("waiting_rows", "Rows that wait for a model.", waiting),
            ("failing", "Whether the champion by the ledger does not answer.", faults),
            ("ledger_age_seconds", "Seconds since the ledger was read.", age),
        )
        return Response(self.metrics.text(gauges), media_type=metrics.CONTENT_TYPE)


_encoded = msgspec.json.Encoder().encode


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _refusal(refusal: Refused) -> Response:
    return Response(refusal.body(), refusal.status, dict(refusal.headers), media_type="application/json")


def _safe(handler: Handler) -> Handler:
    """Return a handler that answers every failure with JSON."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as cause:
            return _failure(cause)

    return handle


def _failure(cause: Exception) -> Response:
    """Return the answer to a request that failed."""
    match cause:
        case Refused():
            return _refusal(cause)
        case ClientDisconnect():
            return Response(status_code=400)  # nobody reads it
    trace = cause.__traceback__  # the text of an exception may quote a value
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else "nowhere"
    logger.error("a request failed unexpectedly: %s in %s", type(cause).__name__, where)
    return _refusal(unexpected())


async def _no_route(request: Request, cause: Exception) -> Response:
    return _refusal(_misdirected(cause.status_code if isinstance(cause, HTTPException) else 404))


def _misdirected(status: int) -> Refused:
    what = {404: "there is no such address", 405: "the address has no such method"}.get(status, "it is not understood")
    hint = "Send POST /predict/PIPELINE, or use the Open Inference Protocol below /v2."
    return Refused(status, f"answer the request: {what}", hint)
