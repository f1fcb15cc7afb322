"""The process a net is pruned in: PyTorch, the user's code and their crashes stay out of everything else.

Reads one :data:`Work` from standard input, answers with lines of :class:`Told` on what was standard output.
"""

import copy
import importlib
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from whet.errors import MissingExtra, PlanRefused, UsageError, WhetError
from whet.optimize.compress.child import serve
from whet.optimize.compress.prune import Export, Prune, Step, Told, Work, decode, encode
from whet.optimize.compress.prune.samples import Stage, open_samples

Say = Callable[[Told], None]


def main() -> int:
    """Do one piece of work."""
    serve(_do, lambda error: encode(_refusal(error)))
    return 0


def _refusal(error: Exception) -> Told:
    if isinstance(error, WhetError):
        return Told(slug=error.slug, reason=str(error))
    words = " ".join(str(error).split())
    return Told(slug="plan-refused", reason=f"{type(error).__name__}: {words[:300]}")


def _do(request: bytes, write: Callable[[bytes], None]) -> None:
    work = decode(request, Work)

    def say(told: Told) -> None:
        write(encode(told))

    try:
        import torch
        import torch_pruning
    except ImportError:
        raise MissingExtra("whet prune", "prune") from None
    del torch_pruning
    torch.set_num_threads(work.threads if isinstance(work, Prune) else torch.get_num_threads())
    if isinstance(work, Export):
        _export(work, say)
    else:
        Pruning(work, say).run()


def _export(work: Export, say: Say) -> None:
    from whet.optimize.compress.prune.export import digest, load, write_onnx

    made = load(work.entry, work.shapes)
    say(Told(progress="exporting the unpruned net"))
    write_onnx(made.module, made.example or (), work.outputs, work.file, work.entry)
    say(Told(digest=digest(made.module), finished=True))


class Pruning:
    """One run, from the user's module to the last step.

    Args:
        work: what was asked.
        say: tells the parent process.
    """

    def __init__(self, work: Prune, say: Say) -> None:
        import torch

        from whet.optimize.compress.prune.export import digest, load

        self.work, self.say = work, say
        self.finetune = _function(work.finetune) if work.finetune else None
        made = load(work.entry, work.shapes)
        if digest(made.module) != work.digest:
            raise PlanRefused(
                f"{work.entry} returns other weights every time it is called; load them, or seed what draws them"
            )
        self.parent, self.example = made.module, made.example or ()
        for parameter in self.parent.parameters():
            parameter.requires_grad_(requires_grad=False)
        self.module = copy.deepcopy(self.parent)
        self.samples = open_samples(work.artifact, work.pool)
        self.originals: dict[str, int] = {}
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # filled memory finds bugs, and costs time

    def run(self) -> None:
        """Prune, fine-tune and export every step."""
        from whet.optimize.compress.prune.export import digest

        for index in range(1, self.work.steps + 1):
            self.say(Told(step=self._step(index)))
        if digest(self.parent) != self.work.digest:
            raise PlanRefused(f"{self.work.finetune} changed the unpruned net (stage.parent); it may only be asked")
        self.say(Told(finished=True))

    def _step(self, index: int) -> Step:
        import torch

        from whet.optimize.compress.prune.export import write_onnx
        from whet.optimize.compress.prune.groups import Wish, shrink

        work, began = self.work, time.monotonic()
        ratio, seed = work.ratio * index / work.steps, work.seed * 1000 + index
        torch.manual_seed(seed)
        self.say(Told(progress=f"step {index} of {work.steps}: removing channels by {work.importance}"))
        for parameter in self.module.parameters():
            parameter.requires_grad_(requires_grad=True)
        wish = Wish(work.importance, work.scope, work.multiple, work.keep, work.output)
        removal = shrink(self.module.eval(), self.example, ratio, self.originals, wish, self.samples)
        if self.finetune is not None:
            self._tune(self.finetune, Stage(index, work.steps, ratio, seed, self.parent, self._words(index)))
        self.say(Told(progress=f"step {index} of {work.steps}: exporting"))
        file = work.folder / f"step-{index}.onnx"
        with torch.no_grad():
            write_onnx(self.module.eval(), self.example, work.outputs, file, work.entry)
        whole = sum(layer.before for layer in removal.layers)
        return Step(
            index=index,
            ratio=ratio,
            removed=1.0 - sum(layer.after for layer in removal.layers) / whole,
            file=file,
            layers=removal.layers,
            left=removal.left,
            tool=f"torch-pruning {version('torch-pruning')}, torch {torch.__version__}",
            finetuned=self.finetune is not None,
            seconds=round(time.monotonic() - began, 1),
        )

    def _words(self, index: int) -> Callable[[str], None]:
        return lambda words: self.say(Told(progress=f"step {index} of {self.work.steps}: {words}"))

    def _tune(self, function: Callable[..., Any], stage: Stage) -> None:
        """Call the user's function; what it returns takes the place of the net, which must keep its shapes."""
        import torch

        shapes = _shapes(self.module)
        stage.say("fine-tuning")
        try:
            with torch.enable_grad():
                made = function(self.module, self.samples, stage)
        except WhetError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())[:300]
            raise PlanRefused(
                f"{self.work.finetune} raised {type(error).__name__}: {words}; fix the function"
            ) from error
        self.module = self.module if made is None else made
        if not isinstance(self.module, torch.nn.Module) or _shapes(self.module) != shapes:
            raise PlanRefused(f"{self.work.finetune} returned another net; it may change weights, never shapes")
        self.module.float()


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in getattr(module, "state_dict", dict)().items()}


def _function(name: str) -> Callable[..., Any]:
    """Return the user's function; load_entry has put the current folder on the path, but runs after this."""
    from pathlib import Path

    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    module, _, function = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except Exception as error:  # a stranger's module may raise anything
        raise UsageError(
            f"--finetune {name}: {type(error).__name__}: {error}; give module:function, importable from {Path.cwd()}"
        ) from error
    return found


if __name__ == "__main__":
    sys.exit(main())
