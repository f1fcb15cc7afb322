"""Write a labelled set of frames: one ``.npz``, or a folder of PNGs with a ``labels.tsv``.

    python examples/video_quality/make_data.py --seed 7 --split test --frames 1200 -o test.npz
    python examples/video_quality/make_data.py --seed 7 --split calibration --frames 300 -o calibration/

The ``.npz`` holds ``x`` uint8 [N, 224, 224, 3] (RGB), ``label`` int64 [N], ``quality`` float32 [N],
``severity`` float32 [N] and ``scene`` int64 [N]. ``labels.tsv`` has a line a picture: file, class, quality, scene.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from degrade import CLASSES
from generator import SPLITS, Frames, make_frames
from PIL import Image


def write_npz(path: Path, frames: Frames) -> None:
    """Write one archive, beside its place first, so that nothing half-written is ever found there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as sink:
        try:
            np.savez(sink, **frames._asdict())
        except BaseException:
            Path(sink.name).unlink()
            raise
    Path(sink.name).chmod(0o644)
    Path(sink.name).replace(path)


def write_folder(path: Path, frames: Frames) -> None:
    """Write PNGs and ``labels.tsv`` into a new or empty folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        lines = []
        for row, pixels in enumerate(frames.x):
            name = f"{row:05d}.png"
            Image.fromarray(pixels).save(beside / name, compress_level=1)
            lines.append(f"{name}\t{frames.label[row]}\t{frames.quality[row]:.4f}\t{frames.scene[row]}\n")
        (beside / "labels.tsv").write_text("".join(lines), encoding="utf-8")
        beside.chmod(0o755)
        beside.replace(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def main(arguments: list[str] | None = None) -> int:
    """Parse, generate, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7, help="same seed, same frames (default 7)")
    parser.add_argument("--split", choices=list(SPLITS), required=True, help="no scene is in two splits")
    parser.add_argument("--frames", type=int, required=True, help="how many")
    parser.add_argument(
        "--stills", action="store_true", help="let training scenes film installed packages' photographs"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes; the frames do not depend on it (default 2)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="FILE.npz, or a new folder")
    given = parser.parse_args(arguments)
    if given.frames < 1 or given.seed < 0:
        parser.error("--frames must be at least 1 and --seed at least 0")
    folder = given.output.suffix != ".npz"
    if folder and given.output.exists() and not (given.output.is_dir() and not any(given.output.iterdir())):
        print(f"make_data: {given.output} exists and is not an empty folder; name another", file=sys.stderr)
        return 3
    start = perf_counter()
    try:
        frames = make_frames(given.seed, given.split, given.frames, stills=given.stills, workers=given.workers)
        (write_folder if folder else write_npz)(given.output, frames)
    except LookupError as error:
        print(f"make_data: {error}", file=sys.stderr)
        return 4
    except OSError as error:
        print(f"make_data: cannot write {given.output}: {error.strerror}", file=sys.stderr)
        return 3
    counts = np.bincount(frames.label, minlength=len(CLASSES))
    listed = ", ".join(f"{name} {count}" for name, count in zip(CLASSES, counts, strict=True))
    scenes = len(np.unique(frames.scene))
    print(f"{given.frames} frames of {scenes} scenes in {perf_counter() - start:.1f} s: {listed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
