"""Load generation: arrival processes, a runner, targets (engine, HTTP, gRPC), and a launcher for servers of our own."""

from whet.load.bench import BenchRequest, bench
from whet.load.http import HttpTarget
from whet.load.inprocess import EngineTarget
from whet.load.launcher import Server
from whet.load.result import RunResult
from whet.load.rows import latency_rows, summary_rows
from whet.load.rpc import GrpcTarget
from whet.load.runner import Scenario, Target, run

__all__ = [
    "BenchRequest",
    "EngineTarget",
    "GrpcTarget",
    "HttpTarget",
    "RunResult",
    "Scenario",
    "Server",
    "Target",
    "bench",
    "latency_rows",
    "run",
    "summary_rows",
]
