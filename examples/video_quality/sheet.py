"""Draw ``classes.png``: three test scenes, every class of each side by side, at pixel scale.

python examples/video_quality/sheet.py
"""

import sys
from pathlib import Path

import numpy as np
from degrade import CLASSES
from generator import SPAN, SPLITS, samples_of
from PIL import Image, ImageDraw, ImageFont

SEED, SCENES, TILE, HEAD = 7, (4, 12, 22), 116, 16


def main() -> int:
    """Draw the sheet beside this script; returns the exit code."""
    sheet = Image.new("RGB", (TILE * len(CLASSES), HEAD + TILE * len(SCENES)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(CLASSES):
        draw.text((column * TILE + 3, 1), name, fill="black", font=ImageFont.load_default(12))
    for row, scene in enumerate(SCENES):
        for sample in samples_of(SEED, SPLITS["test"] * SPAN + scene):
            at = (sample.label * TILE, HEAD + row * TILE)
            sheet.paste(Image.fromarray(np.ascontiguousarray(sample.frame[54 : 54 + TILE, 54 : 54 + TILE])), at)
            draw.text(
                (at[0] + 3, at[1] + TILE - 14),
                f"{sample.quality:.2f}",
                fill="white",
                stroke_width=2,
                stroke_fill="black",
                font=ImageFont.load_default(11),
            )
    path = Path(__file__).resolve().with_name("classes.png")
    sheet.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
