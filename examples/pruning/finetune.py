"""The video quality net for ``whet prune``, and how it learns again what it lost: distillation on its own generator.

    cd examples/pruning
    whet prune finetune:net --finetune finetune:finetune --data test.npz ... -o pruned/

The pruned net learns from the unpruned one's answers (Hinton, Vinyals, Dean, 2015) and from the labels, on frames of
*training* scenes; the frames in ``--data`` are of other scenes. Most epochs see crops, as when the net was trained, and
the last a share of the whole frames, so that the norms' statistics are those of what it will judge.
"""

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "video_quality"))

from model import SIZE, example_input, trained
from train import CROP, batch_of, frames_on_disk

FRAMES, SEED = 4200, 1
"""Frames of 600 training scenes; generated once (half a minute on two cores) into the folder for temporary files."""
EPOCHS, LAST_EPOCHS = 1, 5
"""Passes over crops: after every removal but the last, and after the last."""
WHOLE = 1400
"""Whole frames seen at the end of a step."""
BATCH, RATE, DECAY, SOFTNESS = 32, 1.5e-3, 0.02, 2.0
FOLDER = Path(tempfile.gettempdir()) / "whet-video-quality"


def net() -> tuple[nn.Module, Tensor]:
    """The trained network and an example input: what ``whet prune`` calls."""
    return trained(), example_input(2)


def finetune(model: nn.Module, data: Any, stage: Any) -> nn.Module:
    """Train ``model`` after channels have left it; what ``whet prune --finetune`` calls between the steps.

    Args:
        model: the pruned network, to be trained in place.
        data: samples of ``--data`` that may be learnt from; not used, because the generator gives as many as one likes.
        stage: where the pruning stands: ``index``, ``steps``, ``ratio``, ``seed``, ``parent``, ``say(words)``.
    """
    del data
    stage.say(f"generating {FRAMES} training frames")
    frames = frames_on_disk(FOLDER, SEED, FRAMES)
    rng = np.random.default_rng(stage.seed)
    epochs = LAST_EPOCHS if stage.index == stage.steps else EPOCHS
    parts = [(CROP, rng.permutation(FRAMES)) for _ in range(epochs)] + [(SIZE, rng.permutation(FRAMES)[:WHOLE])]
    work = [(crop, rows[at : at + BATCH]) for crop, rows in parts for at in range(0, len(rows) - BATCH + 1, BATCH)]
    model.to(memory_format=torch.channels_last).train()
    parent = stage.parent.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    whole, done, shown = sum(crop * crop * len(rows) for crop, rows in work), 0, 0.0
    for place, (crop, rows) in enumerate(work):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(done / whole / 0.05, 1.0) * (1 + math.cos(math.pi * done / whole)) / 2
        x = batch_of(frames.x, rows, crop, rng)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                taught = parent(x)
            loss = _loss(model(x), taught, torch.from_numpy(frames.label[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done, shown = done + crop * crop * len(rows), 0.95 * shown + 0.05 * float(loss.detach())
        if place % 20 == 0:
            stage.say(f"batch {place + 1} of {len(work)}, loss {shown / (1 - 0.95 ** (place + 1)):.3f}")
    return model.to(memory_format=torch.contiguous_format).eval()


def _loss(answer: tuple[Tensor, Tensor], taught: tuple[Tensor, Tensor], label: Tensor) -> Tensor:
    """Cross entropy with the labels and with the softened answers of the unpruned net, and its quality."""
    logits, grade = (value.float() for value in answer)
    wanted, quality = (value.float() for value in taught)
    soft = functional.kl_div(
        functional.log_softmax(logits / SOFTNESS, 1), functional.log_softmax(wanted / SOFTNESS, 1),
        reduction="batchmean", log_target=True,
    )  # fmt: skip
    near = functional.smooth_l1_loss(grade, quality, beta=0.1)
    return 0.5 * functional.cross_entropy(logits, label) + SOFTNESS**2 * soft + 2.0 * near
