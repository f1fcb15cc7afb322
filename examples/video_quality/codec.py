"""The video side of the frames, through PyAV: real H.264 encoding, and the 4:2:0 colour every decoded video has."""

from fractions import Fraction
from io import BytesIO

import av
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

RATE = 25  # frames a second, written into the stream; nothing depends on it


def as_video(frame: Pixels) -> Pixels:
    """Take a picture through 4:2:0 and back, uncompressed.

    Every frame of a set makes this trip once, whatever its class: otherwise full-resolution colour would give away
    the frames that never saw a codec.

    Args:
        frame: uint8 RGB [height, width, 3], even sides.

    Returns:
        The same, with its chroma halved and restored by the converter the decoder uses.
    """
    return av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p").to_ndarray(format="rgb24")


def encode(frames: list[Pixels], crf: float, preset: str = "veryfast") -> bytes:
    """Encode a clip as H.264 in Matroska with libx264.

    Args:
        frames: uint8 RGB pictures of one size, in order.
        crf: constant rate factor: 0 is lossless, 51 the worst.
        preset: libx264's trade of time for size.

    Returns:
        The file's bytes. One thread and no clock, so that the same clip gives the same stream.
    """
    sink = BytesIO()
    with av.open(sink, "w", format="matroska") as container:
        options = {"crf": f"{crf:.2f}", "preset": preset, "bf": "0", "x264-params": "threads=1:lookahead-threads=1"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return sink.getvalue()


def decode(data: bytes) -> list[Pixels]:
    """Decode every picture of the first video stream to uint8 RGB [height, width, 3]."""
    with av.open(BytesIO(data)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def h264(frames: list[Pixels], crf: float, preset: str = "veryfast") -> Pixels:
    """The last picture of a clip after a real trip through libx264 and back."""
    return decode(encode(frames, crf, preset))[-1]
