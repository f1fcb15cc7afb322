"""A server on this machine: found by its port or a process id, asked over its control socket, watched in ``/proc``."""

import socket
import sys
from collections.abc import Mapping
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
        url: of its HTTP port, on this machine.
        workers: process ids by index.
        models: deployments, as the supervisor describes them; empty where it could not be asked.
        unseen: why something could not be read.
    """

    pid: int
    url: str
    workers: dict[int, int] = field(default_factory=dict)
    models: tuple[dict[str, Any], ...] = ()
    unseen: tuple[str, ...] = ()


def by_port(port: int, root: Path = ROOT) -> Found | None:
    """Return the server that listens on a TCP port of this machine, or None where it is another's or not visible."""
    tree = Tree(root)
    places = {inode: place for inode, place in _listening(tree).items() if place[1] == port}
    for parent, inode in _served(tree, places):
        return _ask(tree, parent, _url(places[inode]))
    return None


def by_pid(pid: int, root: Path = ROOT) -> Found:
    """Return the server that a process belongs to: the supervisor, or one of its workers.

    Raises:
        UsageError: no such process, or it is no server.
    """
    tree = Tree(root)
    if not tree.exists(f"proc/{pid}"):
        raise UsageError(f"there is no process {pid}; give the id of 'whet serve', its URL, or a bundle")
    places = _listening(tree)
    for parent, inode in _served(tree, places):
        if pid == parent or _parent(tree, pid) == parent:
            return _ask(tree, parent, _url(places[inode]))
    raise UsageError(f"process {pid} is no 'whet serve', as far as can be seen; give that one's id, or its URL")


def _served(tree: Tree, places: Mapping[int, tuple[str, int]]) -> list[tuple[int, int]]:
    """Return (supervisor, inode) of the sockets that a supervisor and a worker of it both hold: HTTP's."""
    found = []
    for worker in _processes(tree):
        parent = _parent(tree, worker)
        if parent is not None:
            shared = _sockets(tree, worker) & _sockets(tree, parent) & places.keys()
            found += [(parent, inode) for inode in sorted(shared)]
    return found


def _url(place: tuple[str, int]) -> str:
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place[0], place[0])  # noqa: S104  (read, not bound)
    return f"http://[{address}]:{place[1]}" if ":" in address else f"http://{address}:{place[1]}"


def _ask(tree: Tree, pid: int, url: str) -> Found:
    path = _control(tree, pid)
    if path is None:
        return Found(pid, url, unseen=(f"the control socket of process {pid} was not found: plans are unknown",))
    try:
        status = _call(path, "status")
    except (OSError, NotReady, msgspec.MsgspecError) as error:
        return Found(pid, url, unseen=(f"the control socket {path} cannot be asked ({error}): plans are unknown",))
    workers = {one["index"]: one["pid"] for one in status["workers"]}
    return Found(pid, url, workers, tuple(status["models"]))


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


def _listening(tree: Tree) -> dict[int, tuple[str, int]]:
    """Return (address, port) by inode of every listening TCP socket."""
    found = {}
    for name in ("tcp", "tcp6"):
        for line in tree.lines(f"proc/net/{name}")[1:]:
            words = line.split()
            if len(words) > 9 and words[3] == _LISTEN:
                address, _, port = words[1].partition(":")
                found[to_int(words[9]) or 0] = (_address(address), int(port, 16))
    return found


def _address(text: str) -> str:
    """Return the address behind the kernel's hexadecimal: words of 32 bits, each in the machine's byte order."""
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))


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


def _parent(tree: Tree, pid: int) -> int | None:
    """Return the supervisor of a process that is a worker, or None."""
    words = _words(tree, pid)
    if "whet.serve.worker" not in words or "--parent" not in words[:-1]:
        return None
    return to_int(words[words.index("--parent") + 1])


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
