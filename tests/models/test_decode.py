"""Pictures become the uint8 images a service takes."""

import io
from dataclasses import replace

import numpy as np
import pytest

from whet.errors import DataError
from whet.models.artifact import ImageInput
from whet.models.decode import decode_image, resized_to

Image = pytest.importorskip("PIL.Image", reason="Pillow is in the extra 'optimize'")
SMALL = ImageInput("x", 4, 6)


def picture(height, width, mode="RGB"):
    ramp = np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3) % 251
    stream = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(stream, "PNG")
    return stream.getvalue(), ramp.astype(np.uint8)


def test_a_picture_of_the_right_size_comes_back_byte_for_byte():
    data, pixels = picture(4, 6)
    np.testing.assert_array_equal(decode_image(data, SMALL), pixels)
    np.testing.assert_array_equal(decode_image(data, replace(SMALL, source_channels="BGR")), pixels[..., ::-1])


def test_gray_keeps_one_channel():
    assert decode_image(picture(4, 6, "L")[0], replace(SMALL, source_channels="GRAY")).shape == (4, 6, 1)
    assert decode_image(picture(4, 6, "L")[0], SMALL).shape == (4, 6, 3)


def test_the_centre_is_cropped():
    data, pixels = picture(8, 10)
    cropped = decode_image(data, replace(SMALL, resize=(8, 10)))
    np.testing.assert_array_equal(cropped, pixels[2:6, 2:8])


@pytest.mark.parametrize(("size", "expected"), [((100, 200), (50, 100)), ((200, 100), (100, 50)), ((50, 50), (50, 50))])
def test_the_shorter_side_is_resized_and_the_aspect_kept(size, expected):
    assert resized_to(size, replace(SMALL, resize_shorter=50)) == expected


def test_no_crop_squeezes_the_whole_picture_in():
    assert decode_image(picture(30, 50)[0], replace(SMALL, resize_shorter=20, crop="none")).shape == (4, 6, 3)


@pytest.mark.parametrize("data", [b"", b"no picture", picture(40, 40)[0][:60]], ids=["empty", "text", "truncated"])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_image(data, SMALL)


def test_a_picture_too_large_to_decode_is_refused_from_its_header(monkeypatch):
    monkeypatch.setattr("whet.models.decode.MAX_PIXELS", 100)
    with pytest.raises(DataError, match="40 x 40 pixels"):
        decode_image(picture(40, 40)[0], SMALL)
