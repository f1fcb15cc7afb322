"""What goes wrong with a frame: seven classes, each with a severity from 0 (just past visible) to 1 (very bad).

Severity 0 is deliberately *not* "no change": a distortion too weak to be seen is not labelled as one. The constants
beside each function are those lower bounds; `generator` additionally raises the severity until the
frame's similarity to the clean one has fallen below `VISIBLE`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from codec import as_video, h264
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scenes import Rng, Scene

Pixels = NDArray[np.uint8]

CLASSES = ("pristine", "blur", "noise", "blockiness", "under_exposure", "over_exposure", "h264")
VISIBLE = 0.86  # similarity (`fullref.similarity`) a degraded frame stays below
CLIP = 4  # pictures in an encoded clip: one intra, then predicted ones; the last is the sample


class Moment(NamedTuple):
    """What a degradation works on: a scene, a time in it, and the clean picture of that time."""

    scene: Scene
    t: float
    clean: Pixels


def _between(low: float, high: float, severity: float) -> float:
    """Geometric interpolation: equal steps of severity are equal ratios."""
    return low * (high / low) ** severity


def gaussian_blur(frame: Pixels, sigma: float) -> Pixels:
    """Out of focus: a Gaussian of ``sigma`` pixels."""
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma)))


def motion_blur(frame: Pixels, length: float, angle: float) -> Pixels:
    """Camera shake: the mean along a line of ``length`` pixels in direction ``angle`` (radians)."""
    count, reach = max(round(length), 2), int(np.ceil(length / 2))
    padded = np.pad(frame, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = np.zeros(frame.shape, np.uint16)
    height, width = frame.shape[:2]
    for step in np.linspace(-length / 2, length / 2, count):
        y, x = reach + round(step * np.sin(angle)), reach + round(step * np.cos(angle))
        total += padded[y : y + height, x : x + width]
    return (total // count).astype(np.uint8)


def noise(frame: Pixels, sigma: float, rng: Rng, *, colour: bool) -> Pixels:
    """Sensor noise: Gaussian, deviation ``sigma`` of 255, the same in all channels or independent in each."""
    shape = frame.shape if colour else (*frame.shape[:2], 1)
    added = frame + rng.standard_normal(shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(added, 0, 255).astype(np.uint8)


def _dct_matrix() -> NDArray[np.float32]:
    """The orthonormal DCT-II of eight points, [8, 8]."""
    k, n = np.mgrid[0:8, 0:8]
    matrix = np.cos((2 * n + 1) * k * np.pi / 16) * np.sqrt(2 / 8)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


DCT = _dct_matrix()
# The luma table of the JPEG standard (ITU-T T.81, annex K.1): coarser steps for frequencies the eye misses.
TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)


def blockiness(frame: Pixels, step: float, offset: tuple[int, int] = (0, 0)) -> Pixels:
    """Coarse quantisation of every 8 x 8 block's DCT, as an intra codec without a deblocking filter does.

    Args:
        frame: uint8 RGB, sides multiples of eight.
        step: multiplier of the JPEG luma table; 1 is JPEG quality 50, 10 is quality 5.
        offset: rows and columns (0 to 7) by which the block grid is shifted, as after a crop.
    """
    dy, dx = offset
    rows, columns = frame.shape[0] + 8 * (dy > 0), frame.shape[1] + 8 * (dx > 0)
    pad = ((dy, rows - frame.shape[0] - dy), (dx, columns - frame.shape[1] - dx), (0, 0))
    ycc = np.asarray(Image.fromarray(np.pad(frame, pad, mode="edge")).convert("YCbCr")).astype(np.float32) - 128
    blocks = ycc.reshape(rows // 8, 8, columns // 8, 8, 3).transpose(0, 2, 4, 1, 3)
    table = TABLE * np.float32(step)
    coded = DCT.T @ (np.round((DCT @ blocks @ DCT.T) / table) * table) @ DCT
    back = coded.transpose(0, 3, 1, 4, 2).reshape(rows, columns, 3) + np.float32(128.5)
    image = Image.fromarray(np.clip(back, 0, 255).astype(np.uint8), "YCbCr").convert("RGB")
    return np.asarray(image)[dy : dy + frame.shape[0], dx : dx + frame.shape[1]]


def exposure(frame: Pixels, stops: float) -> Pixels:
    """Gain of ``2 ** stops`` in linear light (gamma 2.2), clipped where the sensor would."""
    levels = np.arange(256, dtype=np.float64) / 255
    curve = np.clip(levels**2.2 * 2.0**stops, 0, 1) ** (1 / 2.2)
    return np.round(curve * 255).astype(np.uint8)[frame]


def _pristine(moment: Moment, severity: float, rng: Rng) -> Pixels:
    del severity, rng
    return as_video(moment.clean)


def _blur(moment: Moment, severity: float, rng: Rng) -> Pixels:
    if rng.random() < 0.6:
        return as_video(gaussian_blur(moment.clean, _between(2.0, 5.5, severity)))
    return as_video(motion_blur(moment.clean, _between(8, 24, severity), rng.uniform(0, np.pi)))


def _noise(moment: Moment, severity: float, rng: Rng) -> Pixels:
    colour = bool(rng.random() < 0.5)
    return as_video(noise(moment.clean, _between(14, 50, severity), rng, colour=colour))


def _blockiness(moment: Moment, severity: float, rng: Rng) -> Pixels:
    dy, dx = rng.integers(0, 8, 2) * (rng.random() < 0.5)
    return as_video(blockiness(moment.clean, _between(6, 24, severity), (int(dy), int(dx))))


def _under(moment: Moment, severity: float, rng: Rng) -> Pixels:
    del rng
    return as_video(exposure(moment.clean, -_between(2.2, 4.5, severity)))


def _over(moment: Moment, severity: float, rng: Rng) -> Pixels:
    del rng
    return as_video(exposure(moment.clean, _between(1.8, 3.5, severity)))


def _h264(moment: Moment, severity: float, rng: Rng) -> Pixels:
    """Real encoding of the pictures that lead up to the moment, at a constant rate factor of 40 to 51.

    Only presets that keep the deblocking filter: without it H.264 at such rates is the blockiness class.
    """
    preset = ("superfast", "veryfast", "faster")[int(rng.integers(3))]
    clip = [moment.scene.frame(moment.t - back) for back in range(CLIP - 1, 0, -1)]
    return h264([*clip, moment.clean], 40 + 11 * severity, preset)


DEGRADATIONS: dict[str, Callable[[Moment, float, Rng], Pixels]] = {
    "pristine": _pristine,
    "blur": _blur,
    "noise": _noise,
    "blockiness": _blockiness,
    "under_exposure": _under,
    "over_exposure": _over,
    "h264": _h264,
}


def degrade(name: str, moment: Moment, severity: float, rng: Rng) -> Pixels:
    """Degrade one moment.

    Args:
        name: one of `CLASSES`.
        moment: what to degrade.
        severity: 0 (just past visible) to 1; ignored for ``pristine``.
        rng: draws the kind of blur, the noise itself, the block grid, the encoder's preset.

    Returns:
        The frame as received, uint8 RGB [SIZE, SIZE, 3].
    """
    return DEGRADATIONS[name](moment, severity, rng)
