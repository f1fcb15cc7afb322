"""Every error Whet raises, in one tree.

::

    WhetError
    ├── UsageError            usage               exit 2   flags or settings that contradict each other or are unknown
    ├── TargetsNotMet         targets-not-met     exit 1   the search ended and no legal plan reaches the targets
    ├── InputError            bad-input           exit 3   something the user handed over cannot be used
    │   ├── ModelError        bad-model                    unreadable, truncated or empty model
    │   │   └── Unsupported   unsupported-model            a model we recognise and refuse, with the reason
    │   ├── DataError         bad-data                     samples or labels of the wrong shape, dtype or number
    │   ├── BundleError       bad-bundle                   a bundle folder that is damaged or of another major version
    │   └── TensorError       bad-tensor                   a request's tensor does not fit the model's inputs
    │       └── TooLarge      too-large                    a body, tensor or batch past its bound
    ├── EnvironmentLacks      environment         exit 4   the machine lacks something
    │   ├── MissingExtra      missing-extra                an optional package; names the install command
    │   ├── AddressInUse      address-in-use               a port somebody else listens on
    │   └── OutputError       cannot-write                 no permission, no space, path taken
    ├── PlanRefused           plan-refused        exit 3   a knob this runtime or host cannot honour
    ├── RuntimeFailed         runtime-failed      exit 3   the runtime raised; its own text is logged, not sent
    ├── CallFailed            call-failed         exit 4   a call of ours to a server did not succeed
    │   ├── Unreachable       unreachable                  nobody listens there, or the connection broke
    │   ├── TimedOut          timed-out                    no answer within the caller's patience
    │   └── WrongAnswer       wrong-answer                 against the protocol, or not the answer that is right
    └── ServingError          serving                      a request that a healthy server does not answer
        ├── NotFound          not-found                    no model or version of that name
        ├── NotReady          not-ready                    loading, unloading, or no worker has it
        ├── QueueFull         queue-full                   refused now; carries ``retry_after_s``
        ├── DeadlineExceeded  deadline-exceeded            cannot be met, or has passed
        ├── Cancelled         cancelled                    the caller left
        └── Forbidden         forbidden                    a control call this server does not take from this caller

A leaf's ``slug`` is stable: it names the error in logs, metrics and JSON. Wire codes live in one table per transport,
never here. A message names the thing, the value, the bound and the remedy.
"""


class WhetError(Exception):
    """Base of every error Whet raises. ``slug`` is stable; ``exit_code`` is what the command line returns."""

    slug = "whet"
    exit_code = 3


class UsageError(WhetError):
    """Flags or settings that are unknown or contradict each other."""

    slug = "usage"
    exit_code = 2


class TargetsNotMet(WhetError):  # noqa: N818  (the glossary's word)
    """No legal plan reaches the targets; the message names the nearest plan and what would have to give."""

    slug = "targets-not-met"
    exit_code = 1


class InputError(WhetError):
    """Something the user handed over cannot be used."""

    slug = "bad-input"


class ModelError(InputError):
    """A model that is unreadable, truncated, empty, or converts to nothing."""

    slug = "bad-model"


class Unsupported(ModelError):  # noqa: N818
    """A model that is recognised and refused; the message says why and what to do instead."""

    slug = "unsupported-model"


class DataError(InputError):
    """Samples or labels of the wrong shape, dtype or number."""

    slug = "bad-data"


class BundleError(InputError):
    """A bundle that is damaged, half-written or of another major version."""

    slug = "bad-bundle"


class TensorError(InputError):
    """A request's tensor does not fit the model's inputs: name, shape, dtype or size."""

    slug = "bad-tensor"


class TooLarge(TensorError):  # noqa: N818
    """A body, tensor or batch past its bound."""

    slug = "too-large"


class EnvironmentLacks(WhetError):  # noqa: N818
    """The machine lacks something Whet needs for what was asked."""

    slug = "environment"
    exit_code = 4


class MissingExtra(EnvironmentLacks):
    """An optional package is not installed; the message names the command that installs it."""

    slug = "missing-extra"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the optional package set '{extra}'. Install it: pip install 'whet[{extra}]'")
        self.extra = extra


class AddressInUse(EnvironmentLacks):
    """A port or socket path somebody else already listens on."""

    slug = "address-in-use"


class OutputError(EnvironmentLacks):
    """An output that cannot be written: permission, space, or a path that is taken."""

    slug = "cannot-write"


class PlanRefused(WhetError):  # noqa: N818
    """A knob of the plan that this runtime or host cannot honour, or whose read-back differs from the request."""

    slug = "plan-refused"


class RuntimeFailed(WhetError):  # noqa: N818
    """The runtime raised. Its own text is logged under an id that the message carries; it is never sent to a client."""

    slug = "runtime-failed"


class CallFailed(WhetError):  # noqa: N818
    """A call of ours to a server did not succeed; a server never raises this about its own work."""

    slug = "call-failed"
    exit_code = 4


class Unreachable(CallFailed):
    """Nobody listens at the address, or the connection broke before the answer was whole."""

    slug = "unreachable"


class TimedOut(CallFailed):
    """No answer came within the caller's patience."""

    slug = "timed-out"


class WrongAnswer(CallFailed):
    """The answer breaks the protocol, or is not the one that is right."""

    slug = "wrong-answer"


class ServingError(WhetError):
    """A request that a healthy server does not answer."""

    slug = "serving"


class NotFound(ServingError):  # noqa: N818
    """No model or version of that name."""

    slug = "not-found"


class NotReady(ServingError):  # noqa: N818
    """The model is loading or unloading, or no worker has it."""

    slug = "not-ready"


class QueueFull(ServingError):  # noqa: N818
    """The queue is at its bound: refused now, never parked."""

    slug = "queue-full"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServingError):  # noqa: N818
    """The request's deadline has passed, or cannot be met by the measured service times."""

    slug = "deadline-exceeded"


class Cancelled(ServingError):  # noqa: N818
    """The caller left before the request was computed."""

    slug = "cancelled"


class Forbidden(ServingError):  # noqa: N818
    """A control call that is switched off, or that lacks the administrator's token."""

    slug = "forbidden"
