"""What a worker does for its callers, whichever transport they came by; the one place that measures.

An inference is a :class:`Call`: a transport subclasses it with how to answer, starts it, and the service sees it
through: find the model, decode, submit, answer, count. No transport touches a meter.
"""

import hmac
import time
from collections.abc import Callable
from typing import Any, Protocol

import whet
from whet.engine.request import Answer, Request
from whet.errors import Cancelled, Forbidden, NotFound, WhetError
from whet.models.artifact import Artifact
from whet.plan import Plan
from whet.serve.codes import known
from whet.serve.meters import Meter
from whet.serve.metrics import Fleet
from whet.serve.protocol import Question, Signature
from whet.serve.repository import Model, Repository
from whet.settings import ServeSettings
from whet.tensors import TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics", "schedule_policy")
_PLATFORMS = {
    "onnx": "onnx_onnxv1",
    "ir": "openvino_ir",
    "torchscript": "pytorch_torchscript",
    "pt2": "pytorch_pt2",
    "savedmodel": "tensorflow_savedmodel",
}


class Link(Protocol):
    """A worker's way to its supervisor, and through it to every worker.

    Attributes:
        fleet: what the supervisor last said about all workers.
    """

    fleet: Fleet

    async def ask(self, op: str, /, **args: Any) -> Any:
        """Ask the supervisor and return its result."""
        ...


class Service:
    """The models of this worker, and what the fleet says of itself."""

    def __init__(self, repository: Repository, settings: ServeSettings, link: Link) -> None:
        self.repository = repository
        self.link = link
        self.nobody = Meter("", "")
        self._token = settings.admin_token.encode()
        self._control = settings.repository_control
        self.max_json_bytes = settings.max_json_bytes
        self.timeout_s = settings.request_timeout_ms / 1e3 if settings.request_timeout_ms else None

    @property
    def ready(self) -> bool:
        """Every configured model is served by at least one worker (at first: by every worker)."""
        return self.link.fleet.ready

    def metadata(self) -> dict[str, Any]:
        """Return the server's metadata."""
        return {"name": "whet", "version": whet.__version__, "extensions": list(EXTENSIONS)}

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Return a model's metadata.

        Raises:
            NotFound: no such model or version.
            NotReady: it does not serve now.
        """
        model = self.repository.find(name, version)
        return {
            "name": model.name,
            "versions": [version] if version else self.repository.versions(name),
            "platform": platform(model.artifact),
            "inputs": [_tensor(spec) for spec in model.signature.inputs],
            "outputs": [_tensor(spec) for spec in model.signature.outputs],
        }

    def describe(self, name: str, version: str = "") -> dict[str, Any]:
        """Return everything a person wants to know of a model: its metadata, plan, origin and effective settings."""
        model = self.repository.find(name, version)
        plan: Plan = model.engine.plan
        return {
            **self.model_metadata(name, version),
            "version": model.version,
            "artifact": {"sha256": model.artifact.sha256, "precision": model.artifact.precision},
            "plan": {"id": plan.id, "words": str(plan), "why": model.deployment.why},
            "effective": {
                "precision": model.engine.effective.precision,
                "streams": model.engine.effective.streams,
                "threads": model.engine.effective.threads,
            },
            "infer": f"/v2/models/{name}/infer",
        }

    def authorize(self, token: str | bytes) -> None:
        """Let a repository call pass.

        Raises:
            Forbidden: such calls are off, or the token is not the configured one.
        """
        if not self._control:
            raise Forbidden("repository control is off; start the server with --repository-control to allow it")
        token = token.encode() if isinstance(token, str) else token
        if self._token and not hmac.compare_digest(token, self._token):
            raise Forbidden("the call needs the administrator's token: send 'Authorization: Bearer TOKEN'")

    async def index(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """Return name, version, state and reason of every model of every worker."""
        index: list[dict[str, str]] = await self.link.ask("index", ready=ready_only)
        return index

    async def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Return the protocol's statistics over all workers.

        Raises:
            NotFound: nothing was ever served under that name and version.
        """
        document: dict[str, Any] = await self.link.ask("statistics", name=name, version=version)
        if name and not document["model_stats"]:
            raise NotFound(f"model '{name[:200]}'{f' version {version[:200]!r}' if version else ''} is unknown")
        return document

    async def metrics(self) -> bytes:
        """Return Prometheus text over all workers."""
        text: str = await self.link.ask("metrics")
        return text.encode()


class Call:
    """One inference, from whole request to written answer; answered exactly once unless its caller leaves.

    A transport overrides :meth:`deliver` and :meth:`refuse`. On the loop's thread throughout.

    Args:
        service: of the worker.
        arrived: when the request began to arrive, seconds of ``time.monotonic()``: its deadline counts from then.
    """

    __slots__ = ("_arrived", "_began_ns", "_over", "_request", "_service", "model", "question")
    transport = ""

    def __init__(self, service: Service, arrived: float | None = None) -> None:
        self._service = service
        self._arrived = time.monotonic() if arrived is None else arrived
        self._began_ns = time.perf_counter_ns()
        self._over = False
        self._request: Request | None = None
        self.model: Model | None = None
        self.question: Question | None = None

    def deliver(self, model: Model, question: Question, answer: Answer) -> None:
        """Encode and send the answer."""
        raise NotImplementedError

    def refuse(self, error: WhetError) -> None:
        """Send the error."""
        raise NotImplementedError

    def start(
        self, name: str, version: str, decode: Callable[[Signature], Question], timeout_s: float | None = None
    ) -> None:
        """Find the model, decode the request and submit it.

        Args:
            name: of the model.
            version: of the model, or empty.
            decode: turns the request into a question, given the model's signature.
            timeout_s: what the transport's own deadline left when the request began to arrive, seconds.
        """
        try:
            self.model = model = self._service.repository.find(name, version)
            self.question = question = decode(model.signature)
            self._request = request = Request(question.inputs, self._done, priority=question.priority)
            limits = [one for one in (question.timeout_s, timeout_s, self._service.timeout_s) if one is not None]
            if limits:
                request.deadline = self._arrived + min(limits)
            request.decode_ns = time.perf_counter_ns() - self._began_ns
            model.engine.submit(request)
        except Exception as error:  # noqa: BLE001  (known() logs what is not of the tree)
            self._done(known(error))

    def leave(self) -> None:
        """Drop the work: the caller is gone."""
        if self._over:
            return
        self._over = True
        if self.model is not None and self._request is not None:
            self.model.engine.cancel(self._request)
        self._meter().failed(self.transport, Cancelled.slug, self._began_ns)

    def _done(self, outcome: Answer | WhetError) -> None:
        if self._over:
            return
        self._over = True
        if isinstance(outcome, Answer):
            assert self.model is not None
            assert self.question is not None
            assert self._request is not None
            start = time.perf_counter_ns()
            try:
                self.deliver(self.model, self.question, outcome)
            except Exception as error:  # noqa: BLE001  (known() logs what is not of the tree)
                outcome = known(error)
            else:
                outcome.timing.encode_ns = time.perf_counter_ns() - start
                self.model.meter.answered(self.transport, outcome.timing, self._request.rows, self._began_ns)
                return
        self.refuse(outcome)
        self._meter().failed(self.transport, outcome.slug, self._began_ns)

    def _meter(self) -> Meter:
        return self._service.nobody if self.model is None else self.model.meter


def platform(artifact: Artifact) -> str:
    """Return the protocol's name of what a model is made of."""
    return _PLATFORMS.get(artifact.format, artifact.format)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
