"""How far a degraded frame is from its clean original.

Both measures here are means of the structural similarity (SSIM) of the lumas over several scales:

    SSIM = mean over windows of  (2 mx my + C1)(2 cxy + C2) / ((mx^2 + my^2 + C1)(vx + vy + C2))

with means m, variances v and covariance c over 8 x 8 windows four pixels apart, C1 = (0.01 * 255)^2 and
C2 = (0.03 * 255)^2 (Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13(4), 2004). They are 1 for
an untouched frame, fall with every kind of degradation and know the content: noise costs more on a wall than on
gravel, blur costs more on print than on fog.

`similarity` looks at full and half resolution: whether anything changed that can be seen at all.
`quality`, the score to be predicted, looks at half, quarter and eighth resolution, where the weight of multi-scale SSIM
lies too (Wang, Simoncelli, Bovik, Asilomar 2003). At full resolution the score of a blurred frame depends mostly on the
finest texture it used to have; that is gone without trace, and nobody who sees only the frame can know it.
"""

import numpy as np
from numpy.typing import NDArray

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def luma(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """BT.601 luma of an RGB picture, float32 [height, width], 0 to 255."""
    return frame.astype(np.float32) @ LUMA


def _windows(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over 8 x 8 windows, four pixels apart; sides are multiples of four."""
    rows, columns = field.shape
    bands = field.reshape(rows // 4, 4, columns).sum(axis=1)  # one axis at a time: several times faster than both
    cells = bands[:, 0::4] + bands[:, 1::4] + bands[:, 2::4] + bands[:, 3::4]
    pairs = cells[:-1] + cells[1:]
    return (pairs[:, :-1] + pairs[:, 1:]) / np.float32(64)


def ssim(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Mean structural similarity of two lumas of one shape; higher is better, 1 at most."""
    mx, my = _windows(x), _windows(y)
    vx, vy = _windows(x * x) - mx * mx, _windows(y * y) - my * my
    cxy = _windows(x * y) - mx * my
    value = (2 * mx * my + C1) * (2 * cxy + C2) / ((mx * mx + my * my + C1) * (vx + vy + C2))
    return float(value.mean())


def _half(field: NDArray[np.float32]) -> NDArray[np.float32]:
    return (field[0::2, 0::2] + field[1::2, 0::2] + field[0::2, 1::2] + field[1::2, 1::2]) / np.float32(4)


def _scales(frame: NDArray[np.uint8], clean: NDArray[np.uint8], count: int) -> list[float]:
    """SSIM at full, half, quarter, ... resolution."""
    x, y = luma(frame), luma(clean)
    values = [ssim(x, y)]
    for _ in range(count - 1):
        x, y = _half(x), _half(y)
        values.append(ssim(x, y))
    return values


def similarity(frame: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    """How alike two pictures look close by, 1 at most; sides are multiples of eight.

    Args:
        frame: the picture as received, uint8 RGB.
        clean: the picture it should have been, same shape.
    """
    return float(np.mean(_scales(frame, clean, 2)))


def quality(frame: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    """The quality of ``frame``, 0 to 1, higher is better; sides are multiples of 32.

    Args:
        frame: the picture as received, uint8 RGB.
        clean: the picture it should have been, same shape.
    """
    return min(max(float(np.mean(_scales(frame, clean, 4)[1:])), 0.0), 1.0)
