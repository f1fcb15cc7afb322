"""Procedural moving scenes: what a camera could have filmed before anything went wrong with it.

A scene is a still canvas seen through a moving window (pan, rotation, zoom) with a few sprites that move on their
own. Canvases come in families; everything is drawn from one seeded generator, so a scene is a function of its key.

Scenes keep two promises the labels rest on: there are sharp edges everywhere (so that blur can be seen), and the
tones are spread around the middle of the range (so that under- and over-exposure can be told from a dark subject).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIZE = 224  # pixels a side of a frame
CANVAS = 384  # pixels a side of a canvas: room for a turned, moving window of SIZE

Rng = np.random.Generator
Pixels = NDArray[np.uint8]
Field = NDArray[np.float32]


@dataclass(frozen=True)
class Motion:
    """How the window moves; time ``t`` counts frames, from about -5 to 7.

    Attributes:
        start: centre of the window at t = 0, canvas pixels (x, y).
        velocity: pixels a frame (x, y).
        angle: rotation at t = 0, radians.
        spin: radians a frame.
        zoom: canvas pixels a frame pixel at t = 0.
        growth: relative change of the zoom a frame.
    """

    start: tuple[float, float]
    velocity: tuple[float, float]
    angle: float
    spin: float
    zoom: float
    growth: float


@dataclass(frozen=True)
class Sprite:
    """A small picture with its own straight path, in frame pixels and pixels a frame."""

    picture: Image.Image
    start: tuple[float, float]
    velocity: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """One scene: render any moment of it with `frame`."""

    ident: int
    family: str
    canvas: Image.Image
    motion: Motion
    sprites: tuple[Sprite, ...]

    def frame(self, t: float) -> Pixels:
        """The clean RGB picture at time ``t`` (frames), uint8 [SIZE, SIZE, 3]."""
        m = self.motion
        zoom = m.zoom * (1 + m.growth * t)
        a = zoom * np.cos(m.angle + m.spin * t)
        b = zoom * np.sin(m.angle + m.spin * t)
        half = (SIZE - 1) / 2
        reach = (abs(a) + abs(b)) * half + 2
        low, high = min(reach, CANVAS / 2), max(CANVAS - reach, CANVAS / 2)
        x = float(np.clip(m.start[0] + m.velocity[0] * t, low, high))
        y = float(np.clip(m.start[1] + m.velocity[1] * t, low, high))
        if a == 1 and b == 0:  # a plain pan needs no resampling
            left, top = round(x - half), round(y - half)
            return self._with_sprites(self.canvas.crop((left, top, left + SIZE, top + SIZE)), t)
        affine = (a, -b, x - (a - b) * half, b, a, y - (a + b) * half)
        image = self.canvas.transform((SIZE, SIZE), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
        return self._with_sprites(image, t)

    def _with_sprites(self, image: Image.Image, t: float) -> Pixels:
        for sprite in self.sprites:
            at = (round(sprite.start[0] + sprite.velocity[0] * t), round(sprite.start[1] + sprite.velocity[1] * t))
            image.paste(sprite.picture, at, sprite.picture)
        return np.asarray(image)


@lru_cache(maxsize=1)
def _grid() -> tuple[Field, Field]:
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)
    return x, y


@lru_cache(maxsize=1)
def _radius() -> Field:
    fy = np.fft.fftfreq(CANVAS)[:, None]
    fx = np.fft.rfftfreq(CANVAS)[None, :]
    radius = np.hypot(fy, fx).astype(np.float32)
    radius[0, 0] = 1.0
    return radius


def _fractal(rng: Rng, slope: float) -> Field:
    """A periodic random field with amplitude spectrum 1/f**slope, standardised, [CANVAS, CANVAS]."""
    shape = _radius().shape
    phase = rng.random(shape, dtype=np.float32) * np.float32(2 * np.pi)
    spectrum = (np.cos(phase) + 1j * np.sin(phase)) * _radius() ** -slope
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(CANVAS, CANVAS)).astype(np.float32)
    return (field - field.mean()) / (field.std() + 1e-6)


def _palette(rng: Rng, count: int = 5) -> Field:
    """Colours sorted by luma, float [256, 3]: a smooth ramp through ``count`` random colours."""
    colours = rng.uniform(20, 235, (count, 3))
    colours = colours[np.argsort(colours @ (0.299, 0.587, 0.114))]
    at = np.linspace(0, count - 1, 256)
    return np.stack([np.interp(at, np.arange(count), colours[:, c]) for c in range(3)], axis=1).astype(np.float32)


def _paint(field: Field, palette: Field) -> Pixels:
    """Colour a standardised field: +-2 standard deviations span the palette."""
    index = np.clip(field * 63.75 + 127.5, 0, 255).astype(np.uint8)
    return palette.astype(np.uint8)[index]


def _colour(rng: Rng) -> tuple[int, int, int]:
    r, g, b = rng.integers(10, 246, 3)
    return int(r), int(g), int(b)


def _natural(rng: Rng) -> Pixels:
    """The 1/f statistics of natural pictures, with level sets for contours."""
    field = _fractal(rng, rng.uniform(0.95, 1.5))
    if rng.random() < 0.5:
        steps = rng.integers(3, 7)
        field = 0.6 * np.round(field * steps / 2) * 2 / steps + 0.4 * field
    return _paint(field, _palette(rng))


def _gradient(rng: Rng) -> Pixels:
    """A smooth sweep of colour with a relief on it."""
    x, y = _grid()
    angle, waves = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 2.5)
    sweep = np.sin((x * np.cos(angle) + y * np.sin(angle)) * np.float32(2 * np.pi * waves / CANVAS))
    return _paint(1.2 * sweep + rng.uniform(0.15, 0.5) * _fractal(rng, rng.uniform(0.8, 1.3)), _palette(rng))


def _stripes(rng: Rng) -> Pixels:
    """Checkerboards, stripes and rings of random period and direction, edges one pixel wide."""
    x, y = _grid()
    angle, period = rng.uniform(0, np.pi), rng.uniform(9, 44)
    u = x * np.cos(angle) + y * np.sin(angle)
    v = y * np.cos(angle) - x * np.sin(angle)
    kind = rng.integers(3)
    if kind == 2:
        cx, cy = rng.uniform(0, CANVAS, 2)
        u = np.hypot(x - cx, y - cy)
    wave = np.sin(u * (2 * np.pi / period))
    if kind == 0:
        wave = wave * np.sin(v * (2 * np.pi / period))
    sharp = np.tanh(wave * (period / 4)).astype(np.float32)
    return _paint(sharp * rng.uniform(0.7, 1.3) + 0.5 * _fractal(rng, rng.uniform(1.1, 1.7)), _palette(rng))


def _facade(rng: Rng) -> Pixels:
    """Rectangles within rectangles: walls with rows of windows, hard straight edges of any size."""
    image = Image.fromarray(_paint(_fractal(rng, 1.6), _palette(rng)))
    draw = ImageDraw.Draw(image)
    x = 0
    while x < CANVAS:
        width, top = int(rng.integers(50, 130)), int(rng.integers(-20, 160))
        draw.rectangle((x, top, x + width, CANVAS), fill=_colour(rng))
        dx, dy = int(rng.integers(9, 29)), int(rng.integers(9, 33))
        pane, gap = _colour(rng), int(rng.integers(2, 6))
        for wy in range(top + gap, CANVAS, dy):
            for wx in range(x + gap, x + width - dx + gap, dx):
                draw.rectangle((wx, wy, wx + dx - gap - 2, wy + dy - gap - 2), fill=pane)
        x += width + int(rng.integers(0, 12))
    return np.asarray(image)


def _plain(rng: Rng) -> Pixels:
    """A quiet ground, to be filled by the details every canvas gets."""
    return _paint(0.6 * _fractal(rng, rng.uniform(1.4, 2.0)), _palette(rng, 3))


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;-+%"))


def _write(draw: ImageDraw.ImageDraw, rng: Rng, lines: int, size: tuple[int, int]) -> None:
    """Lines of random letters at random places."""
    for _ in range(lines):
        text = "".join(rng.choice(LETTERS, int(rng.integers(6, 36))))
        at = (int(rng.integers(-20, CANVAS - 60)), int(rng.integers(0, CANVAS)))
        draw.text(at, text, fill=_colour(rng), font=_font(int(rng.integers(*size))))


def _details(canvas: Pixels, rng: Rng, shapes: int, lines: int) -> Image.Image:
    """Antialiased polygons, ellipses and strokes all over the canvas, and some writing."""
    image = Image.fromarray(canvas)
    for _ in range(shapes):
        side = int(rng.integers(16, 110))
        stamp = _shape(rng, side)
        image.paste(stamp, (int(rng.integers(-10, CANVAS - 10)), int(rng.integers(-10, CANVAS - 10))), stamp)
    _write(ImageDraw.Draw(image), rng, lines, (9, 34))
    return image


def _shape(rng: Rng, side: int) -> Image.Image:
    """One antialiased shape on a transparent ground, RGBA, ``side`` pixels wide."""
    big = Image.new("RGBA", (side * 2, side * 2), (*_colour(rng), 0))
    draw = ImageDraw.Draw(big)
    fill, ink, pen = (*_colour(rng), 255), (*_colour(rng), 255), int(rng.integers(2, 7))
    kind = rng.integers(4)
    box = (pen, pen, side * 2 - pen, side * 2 - pen)
    if kind == 0:
        draw.ellipse(box, fill=fill, outline=ink, width=pen)
    elif kind == 1:
        draw.rectangle(box, fill=fill, outline=ink, width=pen)
    elif kind == 2:
        corners = rng.uniform(0, side * 2, (int(rng.integers(3, 7)), 2))
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=fill, outline=ink)
    else:
        points = rng.uniform(0, side * 2, (5, 2))
        draw.line([(float(x), float(y)) for x, y in points], fill=ink, width=pen)
    return big.reduce(2)


# family -> ground, range of shapes, range of lines of text
FAMILIES: dict[str, tuple[Callable[[Rng], Pixels], tuple[int, int], tuple[int, int]]] = {
    "natural": (_natural, (3, 12), (0, 5)),
    "gradient": (_gradient, (8, 20), (1, 6)),
    "stripes": (_stripes, (3, 12), (0, 5)),
    "facade": (_facade, (0, 6), (0, 4)),
    "shapes": (_plain, (24, 50), (0, 6)),
    "text": (_plain, (2, 8), (22, 44)),
}


def level(image: Image.Image, rng: Rng) -> Image.Image:
    """Spread the tones around the middle: luma mean 95-160, deviation 42-62, as a well exposed picture has.

    Colours are muted by a random amount, from vivid to nearly grey.
    """
    pixels = np.asarray(image).astype(np.float32)
    luma = pixels @ np.array((0.299, 0.587, 0.114), np.float32)
    gain = np.float32(rng.uniform(42, 62) / (luma.std() + 1e-3))
    colour = np.float32(rng.uniform(0.1, 1.0)) * (pixels - luma[..., None])
    out = (colour + luma[..., None] - luma.mean()) * gain + np.float32(rng.uniform(95, 160))
    return Image.fromarray(np.clip(out, 0, 255).astype(np.uint8))


def _motion(rng: Rng) -> Motion:
    speed, heading = rng.uniform(0.3, 4.0), rng.uniform(0, 2 * np.pi)
    turning, zooming = rng.random() < 0.25, rng.random() < 0.25
    cx, cy = rng.uniform(CANVAS * 0.35, CANVAS * 0.65, 2)
    return Motion(
        (float(cx), float(cy)),
        (float(speed * np.cos(heading)), float(speed * np.sin(heading))),
        float(rng.uniform(-0.4, 0.4)) if turning else 0.0,
        float(rng.uniform(-0.02, 0.02)) if turning else 0.0,
        float(rng.uniform(0.9, 1.12)) if zooming else 1.0,
        float(rng.uniform(-0.008, 0.008)) if zooming else 0.0,
    )


def make_scene(ident: int, rng: Rng, still: Pixels | None = None) -> Scene:
    """Draw a scene.

    Args:
        ident: number kept with the scene.
        rng: the generator all of it is drawn from.
        still: a photograph to film instead of a procedural canvas, uint8 RGB [height, width, 3].

    Returns:
        The scene; the same arguments give the same pixels.
    """
    if still is None:
        family = list(FAMILIES)[int(rng.integers(len(FAMILIES)))]
        ground, shapes, lines = FAMILIES[family]
        canvas = _details(ground(rng), rng, int(rng.integers(*shapes)), int(rng.integers(*lines)))
    else:
        family, canvas = "still", crop_still(still, rng)
    sprites = tuple(
        Sprite(
            _shape(rng, int(rng.integers(20, 70))),
            (float(rng.uniform(0, SIZE - 30)), float(rng.uniform(0, SIZE - 30))),
            (float(rng.uniform(-4, 4)), float(rng.uniform(-4, 4))),
        )
        for _ in range(int(rng.integers(0, 4)))
        if still is None
    )
    return Scene(ident, family, level(canvas, rng), _motion(rng), sprites)


def crop_still(still: Pixels, rng: Rng) -> Image.Image:
    """A random CANVAS x CANVAS part of a photograph, reduced first where there is room for it."""
    image = Image.fromarray(still)
    room = min(image.size) / CANVAS
    factor = max(rng.uniform(1.0, max(room, 1.0)), 1.0)
    scale = min(factor, room)  # a photograph smaller than the canvas is enlarged: never softer than it has to be
    width, height = max(round(image.width / scale), CANVAS), max(round(image.height / scale), CANVAS)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = int(rng.integers(0, width - CANVAS + 1)), int(rng.integers(0, height - CANVAS + 1))
    return image.crop((left, top, left + CANVAS, top + CANVAS))
