"""``whet prune``: smaller nets out of a PyTorch module, each judged against the unpruned one on samples it never saw.

The unpruned net and every step become artifacts with the same inputs, outputs and surroundings, so that
``whet optimize OUT/unpruned --variant NAME=OUT/step-2`` lets them compete. PyTorch runs in a process of its own
(:mod:`whet.optimize.compress.prune.process`); here steps are sealed, counted and judged as they arrive.
"""

import hashlib
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from whet.errors import (
    DataError,
    InputError,
    MissingExtra,
    ModelError,
    OutputError,
    PlanRefused,
    RuntimeFailed,
    UsageError,
    WhetError,
)
from whet.host import Host, read_host
from whet.models.artifact import MANIFEST, Artifact, Lineage, seal
from whet.models.importers import import_model
from whet.models.inspect import inspect_model
from whet.optimize.accuracy import Metric, Verdict, choose_metric, judge
from whet.optimize.compress.child import converse
from whet.optimize.compress.prune import Export, Prune, Step, Told, Work, decode, encode
from whet.optimize.compress.prune.channels import multiple_for
from whet.optimize.data import Dataset, Split, open_data, split
from whet.optimize.gate import unranked
from whet.optimize.lab import Lab, capacity, paired
from whet.optimize.pool import Pool, materialise
from whet.optimize.prune_request import Net, PruneOutcome, PruneRequest, Say, message
from whet.optimize.trial import Bench
from whet.optimize.trial_words import Evaluate, Scored
from whet.plan import Plan
from whet.stats import paired_ratio

BLOCKS, BLOCK_S = 6, 0.4
"""How speed is compared: blocks of every net, interleaved, and seconds of each."""
EVALUATE_S = 600.0
DONE, NOT_MET, INTERRUPTED = 0, 1, 130


def prune(request: PruneRequest, work: Path, progress: Say) -> PruneOutcome:
    """Prune, fine-tune, export, judge and measure.

    Args:
        request: the job.
        work: an empty folder; the answer is made in it.
        progress: told what is being done.

    Raises:
        WhetError: the request, the module, the data or the machine do not allow it; says which and why.
    """
    request.check()
    run = _Run(request, work, progress)
    try:
        interrupted = False
        try:
            run.steps()
            run.speeds()
        except KeyboardInterrupt:
            if len(run.nets) < 2:
                raise
            interrupted = True
        return run.conclude(interrupted=interrupted)
    finally:
        run.lab.close()


class _Run:
    """A run under way: the unpruned net is exported and the samples are read when it is made."""

    def __init__(self, request: PruneRequest, work: Path, say: Say) -> None:
        self.request, self.work, self.say = request, work, say
        self.host: Host = read_host()
        self.store = work / "artifacts"
        self.multiple = request.multiple or multiple_for(self.host.processor.isa)
        shapes = tuple(request.options.input_shapes.values())
        self.export = Export(request.entry, shapes, request.outputs, work / "unpruned.onnx")
        say(f"calling {request.entry}")
        self.digest = self._talk(self.export).digest
        settings = {"parameters_sha256": self.digest, "onnx": "torch.onnx.export"}
        self.parent = self._sealed(
            work / "unpruned.onnx", (Lineage("import", request.entry, "torch.export", settings),)
        )
        self.dataset: Dataset = open_data(request.data, self.parent)
        self.split: Split = split(
            self.dataset,
            seed=request.seed,
            calibration=len(self.dataset),
            evaluation=request.evaluation,
            share=request.training_share,
        )
        if not self.split.evaluation:
            raise DataError(
                f"data '{request.data}' leaves no sample to judge on after {len(self.split.calibration)} of "
                f"{len(self.dataset)} were set aside to learn from; give more, or lower --training-share"
            )
        self.metric = choose_metric(request.metric, self.parent.outputs, labelled=self.dataset.labels is not None)
        self.judging = materialise(self.dataset, self.split.evaluation, self.parent, work / "evaluation")
        self.training: Pool | None = None
        if self.split.calibration:
            self.training = materialise(self.dataset, self.split.calibration, self.parent, work / "training")
        bench = Bench(self.host.budget.cpus, work, None)
        rng = random.Random(request.seed)  # noqa: S311
        self.lab = Lab(bench, self.judging.folder, {}, self.host.budget.cores, rng)
        self.nets = [self._counted("unpruned", self.parent)]
        self.reference: Scored | None = None

    def steps(self) -> None:
        """Let the process prune; take every step as it arrives.

        Raises:
            WhetError: the reason it ended early.
        """
        request = self.request
        names = [spec.name for spec in self.parent.outputs]
        work = Prune(
            entry=request.entry,
            shapes=self.export.shapes,
            outputs=request.outputs,
            digest=self.digest,
            artifact=self.parent.folder,
            pool=self.training.folder if self.training is not None else None,
            output=names.index(self.metric.output) if self.metric.output else None,
            finetune=request.finetune,
            ratio=request.ratio,
            steps=request.steps,
            importance=request.importance,
            scope=request.scope,
            multiple=self.multiple,
            keep=request.keep,
            seed=request.seed,
            folder=self.work,
            threads=self.host.budget.cores,
        )
        self._talk(work)

    def _talk(self, work: Work) -> Told:
        """Run the process to its end, take the steps it makes, and return what it said last."""
        last = Told()

        def line(text: bytes) -> None:
            nonlocal last
            last = decode(text, Told)
            if last.progress:
                self.say(last.progress)
            if last.step is not None:
                self._take(last.step)

        log = self.work / "log"
        module = "whet.optimize.compress.prune.process"
        code, took_s = converse(module, encode(work), line, cpus=self.host.budget.cpus, limit_s=0.0, log=log)
        if last.slug == MissingExtra.slug:
            raise MissingExtra("whet prune", "prune")
        if last.slug:
            kinds: dict[str, type[WhetError]] = {
                kind.slug: kind for kind in (UsageError, ModelError, DataError, InputError, OutputError)
            }
            raise kinds.get(last.slug, PlanRefused)(last.reason)
        if not last.finished:
            raise RuntimeFailed(f"pruning {self.request.entry} died after {took_s:.0f} s ({_how(code)}): {_tail(log)}")
        return last

    def _take(self, step: Step) -> None:
        """Seal, count and judge a step."""
        request = self.request
        if not any(layer.after < layer.before for layer in step.layers):
            raise PlanRefused(
                f"step {step.index} of {request.steps} removes nothing: no layer can lose {step.ratio:.0%} of its "
                f"channels in blocks of {self.multiple}; raise --ratio, lower --steps, or name a smaller --multiple"
            )
        before = self.nets[0]
        lineage = (*self.parent.lineage, self._lineage(step))
        made = self._counted(f"step-{step.index}", self._sealed(step.file, lineage), step)
        same = (self.parent.inputs, self.parent.outputs, self.parent.batched)
        if (made.artifact.inputs, made.artifact.outputs, made.artifact.batched) != same:
            raise PlanRefused(
                f"step {step.index} has other inputs or outputs than the unpruned net; --keep the layers behind them"
            )
        counts = {"parameters": [before.parameters, made.parameters], "gflop": [before.gflop, made.gflop]}
        step_lineage = replace(lineage[-1], settings={**lineage[-1].settings, **counts})
        made = replace(made, artifact=self._resealed(made.artifact, (*self.parent.lineage, step_lineage)))
        self.say(f"step {step.index} of {request.steps}: judging on {len(self.judging)} samples")
        self.nets.append(replace(made, verdict=self._judged(made)))

    def _lineage(self, step: Step) -> Lineage:
        request = self.request
        settings = {
            "step": step.index,
            "steps": request.steps,
            "ratio": step.ratio,
            "removed": round(step.removed, 4),
            "importance": request.importance,
            "scope": request.scope,
            "multiple": self.multiple,
            "channels": {layer.name: [layer.before, layer.after] for layer in step.layers},
            "left": step.left,
            "finetune": request.finetune or None,
            "seed": request.seed,
            "training_items": len(self.training) if self.training is not None else 0,
            "training_sha256": self._content(),
        }
        return Lineage("prune", self.parent.sha256, f"{request.importance} ({step.tool})", settings)

    def _content(self) -> str | None:
        if self.training is None:
            return None
        digest = hashlib.sha256()
        for index in self.split.calibration[: len(self.training)]:
            digest.update(self.dataset.fingerprint(index).encode())
        return digest.hexdigest()

    def _sealed(self, file: Path, lineage: tuple[Lineage, ...]) -> Artifact:
        """Import a file that the process wrote; what is around the net is the same for all of them."""
        options = replace(self.request.options, input_shapes={})
        made = import_model(file, options, self.store)
        preprocess = {name: value for name, value in made.lineage[0].settings.items() if name == "preprocess_sha256"}
        first = replace(lineage[0], settings={**lineage[0].settings, **preprocess})
        return self._resealed(made, (first, *lineage[1:]))

    def _resealed(self, artifact: Artifact, lineage: tuple[Lineage, ...]) -> Artifact:
        files = [path for path in artifact.folder.iterdir() if path.name != MANIFEST]
        return seal(replace(artifact, lineage=lineage), files, self.store)

    def _counted(self, label: str, artifact: Artifact, step: Step | None = None) -> Net:
        card = inspect_model(artifact)
        return Net(label, artifact, card.parameters, None if card.flops is None else card.flops / 1e9, step)

    def _plan(self, artifact: Artifact) -> Plan:
        self.lab.artifacts[artifact.sha256] = artifact
        return Plan(artifact.sha256, runtime="openvino", threads=self.host.budget.cores)

    def _judged(self, made: Net) -> Verdict:
        kept = self.work / "reference"
        if self.reference is None:
            self.reference = self._scored(self.parent, save=kept)
        found = self._scored(made.artifact, parent=kept)
        count = min(len(found.scores), len(self.reference.scores))
        labels = self.judging.labels
        return judge(
            made.label,
            self.metric,
            np.asarray(self.reference.scores[:count]),
            np.asarray(found.scores[:count]),
            max_drop=self.request.max_drop,
            labels=labels[:count] if labels is not None else None,
            noise={name: np.asarray(ratio[:count]) for name, ratio in found.noise.items()},
            seed=self.request.seed,
        )

    def _scored(self, artifact: Artifact, parent: Path | None = None, save: Path | None = None) -> Scored:
        metric: Metric = self.metric
        command = Evaluate(self.judging.folder, metric.name, metric.output, parent, save, EVALUATE_S)
        return self.lab.evaluate(self._plan(unranked(artifact, self.store)), command, 2 * EVALUATE_S)

    def speeds(self) -> None:
        """Compare every step's throughput with the unpruned net's, interleaved, all at the same default plan."""
        self.say("measuring speed")
        cases = [capacity(self._plan(net.artifact)) for net in self.nets]
        records = self.lab.round(cases, BLOCKS, BLOCK_S)
        for place, case in enumerate(cases[1:], start=1):
            one, two = paired(records[case.key], records[cases[0].key])
            if len(one) > 1:
                self.nets[place] = replace(self.nets[place], speed=paired_ratio(one, two, seed=self.request.seed))

    def conclude(self, *, interrupted: bool) -> PruneOutcome:
        """Lay the nets out under their labels, and say how it ended."""
        out = self.work / "out"
        document = self._document(interrupted=interrupted)
        try:
            out.mkdir()
            for net in self.nets:
                shutil.copytree(net.artifact.folder, out / net.label)
            (out / "pruned.json").write_bytes(msgspec.json.format(encode(document), indent=1))
        except OSError as error:
            raise OutputError(f"cannot write {out}: {error.strerror or error}; free space") from error
        passed = [net for net in self.nets if net.verdict is not None and net.verdict.passes]
        words = message(self.request, self.nets, passed)
        if interrupted:
            return PruneOutcome(out, document, INTERRUPTED, f"interrupted; the finished steps are kept: {words}")
        return PruneOutcome(out, document, DONE if passed else NOT_MET, words)

    def _document(self, *, interrupted: bool) -> dict[str, Any]:
        request = self.request
        return {
            "schema": 1,
            "entry": request.entry,
            "finetune": request.finetune or None,
            "ratio": request.ratio,
            "importance": request.importance,
            "scope": request.scope,
            "multiple": self.multiple,
            "seed": request.seed,
            "max_drop": request.max_drop,
            "data": {
                "words": self.dataset.words,
                "learnt_from": len(self.training) if self.training is not None else 0,
                "judged_on": len(self.judging),
                "grouped": self.split.grouped,
            },
            "host": {"fingerprint": self.host.fingerprint, **self.host.fingerprint_fields},
            "interrupted": interrupted,
            "nets": [net.row() for net in self.nets],
        }


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return " ".join(line.strip() for line in lines[-6:] if line.strip())[-300:] or "it said nothing"
