"""Train the network on its generator, and measure it on scenes it has never seen.

    python examples/video_quality/train.py --work DIR

DIR holds the generated frames and a checkpoint after every epoch; a run that was interrupted goes on from there.
Distortions are local and live at pixel scale, so most epochs train on unscaled crops and only the last on whole
frames. Half an hour on two cores. Writes ``weights.npz`` and ``metrics.json`` beside this script.
"""

import argparse
import json
import math
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import av
import numpy as np
import PIL
import torch
from degrade import CLASSES
from generator import SPLITS, Frames, make_frames
from measure import Scores, score
from model import SIZE, build, normalise, save, trained
from numpy.typing import NDArray
from stills import names
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
CROP_EPOCHS, WHOLE_EPOCHS, CROP = 14, 5, 144
BATCH, RATE, DECAY, SMOOTHING, GRADE_WEIGHT = 32, 2e-3, 0.03, 0.05, 2.0
WATCHED = 210  # frames at the end of the training split that are only watched


def frames_on_disk(folder: Path, seed: int, count: int) -> Frames:
    """The training frames, generated once into a memory map."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, columns = folder / f"train-{seed}-{count}.npy", folder / f"train-{seed}-{count}.npz"
    if not columns.exists():
        into = np.lib.format.open_memmap(pixels, "w+", np.uint8, (count, SIZE, SIZE, 3))
        made = make_frames(seed, "train", count, stills=True, workers=2, into=into)
        into.flush()
        beside = columns.with_name(f"~{columns.name}")
        np.savez(beside, **{name: column for name, column in made._asdict().items() if name != "x"})
        beside.replace(columns)
    with np.load(columns) as stored:
        return Frames(np.load(pixels, mmap_mode="r"), **{name: stored[name] for name in stored.files})


def batch_of(frames: NDArray[np.uint8], rows: NDArray[np.int64], crop: int, rng: np.random.Generator) -> torch.Tensor:
    """Frames of one batch, each cropped and mirrored its own way."""
    out = np.empty((len(rows), crop, crop, 3), np.uint8)
    for at, row in enumerate(rows):
        y, x = rng.integers(0, SIZE - crop + 1, 2)
        part = frames[row, y : y + crop, x : x + crop]
        if rng.random() < 0.5:
            part = part[:, ::-1]
        if rng.random() < 0.5:
            part = part[::-1]
        out[at] = part
    return normalise(out)


def rate_at(done: float) -> float:
    """Learning rate after a share ``done`` of all work: a short warm-up, then a cosine to zero."""
    return RATE * min(done / 0.04, 1.0) * (1 + math.cos(math.pi * done)) / 2


class Trainer:
    """A network, its optimizer and how far they are."""

    def __init__(self, frames: Frames, checkpoint: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.frames, self.checkpoint, self.seed = frames, checkpoint, seed
        self.model = build().to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=DECAY)
        self.epoch, self.seconds = 0, 0.0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.epoch, self.seconds = state["epoch"], state["seconds"]

    def run(self, rows: NDArray[np.int64], watched: Frames) -> None:
        """Train to the end, keeping every epoch."""
        work = [CROP] * CROP_EPOCHS + [SIZE] * WHOLE_EPOCHS
        while self.epoch < len(work):
            start = perf_counter()
            loss = self._epoch(rows, work[self.epoch], work)
            self.epoch, self.seconds = self.epoch + 1, self.seconds + perf_counter() - start
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            beside = self.checkpoint.with_suffix(".tmp")
            torch.save({**state, "epoch": self.epoch, "seconds": self.seconds}, beside)
            beside.replace(self.checkpoint)
            seen = measure(self.model, watched)
            print(f"epoch {self.epoch}/{len(work)} loss {loss:.4f} {self.seconds:.0f} s, watched: {seen}", flush=True)

    def _epoch(self, rows: NDArray[np.int64], crop: int, work: list[int]) -> float:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(rows)
        steps, total = len(order) // BATCH, 0.0
        self.model.train()
        for step in range(steps):
            # a whole frame is three crops of work: the schedule follows the work, not the epochs
            before = sum(size * size for size in work[: self.epoch]) + crop * crop * step / steps
            for group in self.optimizer.param_groups:
                group["lr"] = rate_at(before / sum(size * size for size in work))
            total += self._step(order[step * BATCH : (step + 1) * BATCH], crop, rng)
        self.model.eval()
        return total / steps

    def _step(self, rows: NDArray[np.int64], crop: int, rng: np.random.Generator) -> float:
        x = batch_of(self.frames.x, rows, crop, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits, grade = self.model(x)
        label, wanted = torch.from_numpy(self.frames.label[rows]), torch.from_numpy(self.frames.quality[rows])
        loss = functional.cross_entropy(logits.float(), label, label_smoothing=SMOOTHING)
        if crop == SIZE:  # a score belongs to the whole frame; a crop may hold its best or worst part
            loss = loss + GRADE_WEIGHT * functional.smooth_l1_loss(grade.float()[:, 0], wanted, beta=0.1)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


@torch.inference_mode()
def measure(model: nn.Module, frames: Frames) -> Scores:
    """Judge a set in f32 and score the answers."""
    parts = [model(normalise(frames.x[at : at + 32])) for at in range(0, len(frames.x), 32)]
    logits, grades = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return score(logits, grades[:, 0], frames.label, frames.quality)


def record(given: argparse.Namespace, seconds: float, train: Frames) -> dict[str, Any]:
    """Measure the stored network on the held-out sets; everything ``metrics.json`` says."""
    model = trained()
    sets = {"test": make_frames(given.test_seed, "test", given.test_frames, workers=2)}
    if names("held-out"):
        sets["photos"] = make_frames(given.test_seed, "photos", 210, workers=2)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "classes": list(CLASSES),
        "training": {
            "seed": given.seed,
            "frames": len(train.label) - WATCHED,
            "scenes": len(np.unique(train.scene)) - WATCHED // len(CLASSES),
            "first_scene": SPLITS["train"],
            "stills": [path.name for path in names("training")],
            "epochs": {"crops": CROP_EPOCHS, "crop_pixels": CROP, "whole_frames": WHOLE_EPOCHS},
            "seconds": round(seconds),
        },
        "held_out": {
            name: {
                "seed": given.test_seed,
                "frames": len(part.label),
                "scenes": len(np.unique(part.scene)),
                "first_scene": int(part.scene[0]),
                **measure(model, part).as_dict(CLASSES),
            }
            for name, part in sets.items()
        },
        "parameters": sum(value.numel() for value in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "av": av.__version__,
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for frames and checkpoints")
    parser.add_argument("--seed", type=int, default=1, help="of scenes, weights and batches (default 1)")
    parser.add_argument("--frames", type=int, default=9030, help="training frames, watched ones included")
    parser.add_argument("--test-seed", type=int, default=7)
    parser.add_argument("--test-frames", type=int, default=1400)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    frames = frames_on_disk(given.work, given.seed, given.frames)
    split = given.frames - WATCHED
    watched = Frames(*(column[split:] for column in frames))
    trainer = Trainer(frames, given.work / f"checkpoint-{given.seed}.pt", given.seed)
    trainer.run(np.arange(split), watched)
    save(trainer.model, HERE / "weights.npz")
    metrics = record(given, trainer.seconds, frames)
    (HERE / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(metrics["held_out"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
