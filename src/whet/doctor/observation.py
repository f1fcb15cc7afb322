"""What was seen of a server over an interval, or of a bundle: plain values, so that recorded ones can be judged too."""

from dataclasses import dataclass, field

from whet.plan import Plan


@dataclass(frozen=True, slots=True)
class HostSeen:
    """The host, as the server's processes see it.

    Attributes:
        cores: logical CPUs that may be busy at once.
        physical: physical cores behind them.
        quota: CPUs' worth of time granted, or None.
        threads_per_core: logical CPUs on one core.
        nodes: NUMA nodes of the host.
        isa: instruction sets, as the kernel names them.
    """

    cores: int
    physical: int
    quota: float | None = None
    threads_per_core: int = 1
    nodes: int = 1
    isa: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """One worker process over the interval.

    Attributes:
        index: of the worker.
        cpu_s: CPU seconds used.
        connections: open HTTP connections.
        cores: CPUs it may use at once, by its mask and quota; None where it is not on this machine.
        planned: compute threads its plans may run at the same time, or None.
        waited_s: seconds its threads were ready to run and no CPU was free, or None.
        remote: share of its memory on NUMA nodes none of its CPUs is on, 0 to 1, or None.
        ceiling: oneDNN's ceiling in its environment, or empty.
    """

    index: int
    cpu_s: float = 0.0
    connections: int = 0
    cores: int | None = None
    planned: int | None = None
    waited_s: float | None = None
    remote: float | None = None
    ceiling: str = ""


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """One version of a model over the interval; times are sums over answered requests, seconds.

    Attributes:
        name: of the model.
        requests: answered.
        rows: samples in them.
        refused: slug -> requests refused.
        decode_s: bytes to tensors.
        queue_s: waiting for a lane.
        compute_s: computing.
        encode_s: tensors to bytes.
        batches: computed.
        batch_rows: samples in them, without padding.
        padded: samples of padding.
        lanes: batches that can be computed at the same time.
        busy_s: lanes' time spent computing, summed.
        plan: how it runs, or None where that is not known.
        artifact: folder of its artifact, or empty.
        images: image inputs that need preprocessing.
        precision: of the weights, or empty.
        weight_bytes: size of the model's files, or None.
        tuned_here: its plan was chosen by measurement on a host like this one.
        batching_gain: speed with batches over speed without, as the search measured, or None.
        bound: ``memory``, ``compute`` or empty, as the search measured.
    """

    name: str
    requests: int = 0
    rows: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    decode_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    encode_s: float = 0.0
    batches: int = 0
    batch_rows: int = 0
    padded: int = 0
    lanes: int = 0
    busy_s: float = 0.0
    plan: Plan | None = None
    artifact: str = ""
    images: int = 0
    precision: str = ""
    weight_bytes: int | None = None
    tuned_here: bool = False
    batching_gain: float | None = None
    bound: str = ""

    @property
    def spent_s(self) -> float:
        """Time of the stages of all answered requests."""
        return self.decode_s + self.queue_s + self.compute_s + self.encode_s


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything a diagnosis may rest on.

    Attributes:
        subject: URL or folder.
        kind: ``server`` or ``bundle``.
        seconds: length of the interval; 0 for a bundle.
        host: the host, or None where the server is elsewhere.
        workers: the processes.
        models: what they serve.
        periods: quota periods of the most throttled control group.
        throttled: of them, those that ended throttled.
        throttled_s: seconds its CPUs stood still.
        others: CPUs' worth of time that other processes used, or None.
        bandwidth_gbs: memory bandwidth of the host as measured, 10**9 bytes a second, or None.
        unseen: what could not be read, and why.
    """

    subject: str
    kind: str = "server"
    seconds: float = 0.0
    host: HostSeen | None = None
    workers: tuple[WorkerSeen, ...] = ()
    models: tuple[ModelSeen, ...] = ()
    periods: int = 0
    throttled: int = 0
    throttled_s: float = 0.0
    others: float | None = None
    bandwidth_gbs: float | None = None
    unseen: tuple[str, ...] = ()
