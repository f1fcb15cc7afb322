"""A server on this machine: found by its port or a process id, asked over its control socket, watched in ``/proc``."""

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from whet.engine.environment import ISA_VARIABLE
from whet.errors import NotReady, UsageError
from whet.host import Host, read_host
from whet.host.files import Tree, to_int
from whet.host.topology import ROOT

PATIENCE_S = 5.0
"""How long the supervisor may take to answer on its control socket."""
_LISTEN = "0A"
_MOST_ANSWER = 64 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A server on this machine.

    Attributes:
        pid: of the supervisor.
        port: of HTTP.
        workers: process ids by index.
        models: deployments, as the supervisor describes them; empty where it could not be asked.
        unseen: why something could not be read.
    """

    pid: int
    port: int
    workers: dict[int, int] = field(default_factory=dict)
    models: tuple[dict[str, Any], ...] = ()
    unseen: tuple[str, ...] = ()


def by_port(port: int, root: Path = ROOT) -> Found | None:
    """Return the server that listens on a TCP port of this machine, or None where it is another's or not visible."""
    tree = Tree(root)
    inodes = {inode for inode, listens in _listening(tree).items() if listens == port}
    holders = [pid for pid in _processes(tree) if inodes & _sockets(tree, pid)]
    supervisors = [pid for pid in holders if not _is_worker(tree, pid)]
    return _ask(tree, supervisors[0], port) if supervisors else None


def by_pid(pid: int, root: Path = ROOT) -> Found:
    """Return the server that a process belongs to: the supervisor, or one of its workers.

    Raises:
        UsageError: no such process, or it is no server.
    """
    tree = Tree(root)
    if not tree.exists(f"proc/{pid}"):
        raise UsageError(f"there is no process {pid}; give the id of 'whet serve', its URL, or a bundle")
    if _is_worker(tree, pid):
        pid = to_int(_words(tree, pid)[_words(tree, pid).index("--parent") + 1]) or pid
    held, listening = _sockets(tree, pid), _listening(tree)
    ports = {inode: port for inode, port in listening.items() if inode in held}
    if not ports:
        raise UsageError(
            f"process {pid} listens on no TCP port that can be seen; give the id of 'whet serve', or its URL"
        )
    workers = [other for other in _processes(tree) if _is_worker(tree, other)]
    shared = [inode for inode in ports if any(inode in _sockets(tree, worker) for worker in workers)]
    return _ask(tree, pid, ports[shared[0] if shared else min(ports)])


def _ask(tree: Tree, pid: int, port: int) -> Found:
    path = _control(tree, pid)
    if path is None:
        return Found(pid, port, unseen=(f"the control socket of process {pid} was not found: plans are unknown",))
    try:
        status = _call(path, "status")
    except (OSError, NotReady, msgspec.MsgspecError) as error:
        return Found(pid, port, unseen=(f"the control socket {path} cannot be asked ({error}): plans are unknown",))
    workers = {one["index"]: one["pid"] for one in status["workers"]}
    return Found(pid, port, workers, tuple(status["models"]))


def _call(path: str, op: str) -> Any:
    """Ask the supervisor once: one JSON document a line, each way.

    Raises:
        NotReady: it does not answer, or answers with an error.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(path)
        sock.sendall(msgspec.json.encode({"id": 1, "op": op, "args": {}}) + b"\n")
        answer = bytearray()
        while not answer.endswith(b"\n") and len(answer) < _MOST_ANSWER:
            part = sock.recv(1 << 16)
            if not part:
                break
            answer += part
    document = msgspec.json.decode(bytes(answer) or b"null")
    if not isinstance(document, dict) or "result" not in document:
        raise NotReady(f"it did not answer '{op}'; try again")
    return document["result"]


def _control(tree: Tree, pid: int) -> str | None:
    """Return the path of the supervisor's control socket: the Unix socket it listens on under a name."""
    held = _sockets(tree, pid)
    for line in tree.lines("proc/net/unix"):
        words = line.split()
        # Num RefCount Protocol Flags Type St Inode Path; flag 0x10000 is a listening socket.
        if len(words) == 8 and to_int(words[6]) in held and words[3] == "00010000":
            return words[7]
    return None


def _listening(tree: Tree) -> dict[int, int]:
    """Return port by inode of every listening TCP socket."""
    found = {}
    for name in ("tcp", "tcp6"):
        for line in tree.lines(f"proc/net/{name}")[1:]:
            words = line.split()
            if len(words) > 9 and words[3] == _LISTEN:
                found[to_int(words[9]) or 0] = int(words[1].rpartition(":")[2], 16)
    return found


def _sockets(tree: Tree, pid: int) -> set[int]:
    found = set()
    for name in tree.names(f"proc/{pid}/fd"):
        try:
            target = str(Path(f"{tree.root}/proc/{pid}/fd/{name}").readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(to_int(target[8:-1]) or 0)
    return found


def _processes(tree: Tree) -> list[int]:
    return [int(name) for name in tree.names("proc") if name.isdigit()]


def _words(tree: Tree, pid: int) -> list[str]:
    return (tree.text(f"proc/{pid}/cmdline") or "").split("\0")


def _is_worker(tree: Tree, pid: int) -> bool:
    words = _words(tree, pid)
    return "whet.serve.worker" in words and "--parent" in words


@dataclass(frozen=True, slots=True)
class Process:
    """A worker process at one instant.

    Attributes:
        host: the host as this process sees it: its mask, its quota.
        ceiling: oneDNN's ceiling in its environment, or empty.
        waited_s: seconds its threads have waited for a CPU so far, or None.
        remote: share of its pages on NUMA nodes it has no CPU on, or None.
    """

    host: Host
    ceiling: str
    waited_s: float | None
    remote: float | None


def look(pid: int, root: Path = ROOT) -> Process:
    """Read a process; what cannot be read is empty or None."""
    tree = Tree(root)
    host = read_host(root, pid)
    variables = dict(
        entry.partition("=")[::2] for entry in (tree.text(f"proc/{pid}/environ") or "").split("\0") if "=" in entry
    )
    return Process(host, variables.get(ISA_VARIABLE, ""), waited(pid, root), _remote(tree, pid, host))


def waited(pid: int, root: Path = ROOT) -> float | None:
    """Return seconds the living threads of a process have been ready to run without a CPU (schedstat, field 2)."""
    tree = Tree(root)
    waits = []
    for tid in tree.names(f"proc/{pid}/task"):
        words = (tree.text(f"proc/{pid}/task/{tid}/schedstat") or "").split()
        if len(words) == 3 and (value := to_int(words[1])) is not None:
            waits.append(value / 1e9)
    return sum(waits) if waits else None


def _remote(tree: Tree, pid: int, host: Host) -> float | None:
    """Return the share of pages on nodes that none of the process's CPUs is on (numa(7), ``N<node>=<pages>``)."""
    if len(host.nodes) < 2:
        return None
    node_of = host.node_of()
    near = {node_of[cpu] for cpu in host.budget.cpus if cpu in node_of}
    local = total = 0
    for line in tree.lines(f"proc/{pid}/numa_maps"):
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        size = (to_int(fields.get("kernelpagesize_kB")) or 4) << 10
        for name, value in fields.items():
            if name[0] == "N" and name[1:].isdigit():
                held = (to_int(value) or 0) * size
                total += held
                local += held if int(name[1:]) in near else 0
    return 1 - local / total if total else None
