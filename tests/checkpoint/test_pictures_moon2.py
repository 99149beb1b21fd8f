"""Images in any form become the same upright RGB pixels, and what cannot be read is refused in a sentence."""

import builtins
import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import picture
from pictures_moon2 import load_picture

FORMATS = {
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless_webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "lzw_tiff": ("TIFF", {"compression": "tiff_lzw"}),
}


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(source, **options) -> list:
    return np.asarray(load_picture(source, **options)).tolist()


def scene(width: int, height: int) -> Image.Image:
    """A smooth image that differs in every corner, so that scaling and compression hardly change it."""
    across, down = np.linspace(0, 255, width)[None], np.linspace(0, 255, height)[:, None]
    channels = [across + 0 * down, 0 * across + down, 255 - (across + down) / 2]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def difference(one: Image.Image, other: Image.Image) -> float:
    assert one.size == other.size
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def test_every_form_of_a_picture_gives_the_same_pixels(tmp_path):
    photo = picture(24, 16)
    photo.save(tmp_path / "p.png")
    data = (tmp_path / "p.png").read_bytes()
    forms = [photo, str(tmp_path / "p.png"), tmp_path / "p.png", io.BytesIO(data), np.asarray(photo),
             np.asarray(photo.convert("RGBA")), {"bytes": data, "path": None},
             {"bytes": None, "path": str(tmp_path / "p.png")}]  # fmt: skip
    for form in forms:
        loaded = load_picture(form)
        assert loaded.mode == "RGB" and np.array_equal(np.asarray(loaded), np.asarray(photo))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_upright(kind, orientation):
    upright = scene(320, 160)
    stored = {  # how a camera writes what is to be shown upright
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    turned = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(turned, kind, exif=exif)
    assert difference(load_picture(io.BytesIO(data)), upright) < 3
    small = load_picture(io.BytesIO(data), max_pixels=80 * 40)  # JPEG: by draft, before the image is turned
    assert difference(small, scene(80, 40)) < 3
    assert difference(load_picture(Image.open(io.BytesIO(data))), upright) < 3


def test_what_is_transparent_is_white():
    glass = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    glass.putpixel((1, 0), (0, 0, 0, 0))
    glass.putpixel((2, 0), (0, 0, 0, 51))  # a fifth black
    assert pixels(glass) == [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]
    assert pixels(np.asarray(glass)) == pixels(glass) == pixels(io.BytesIO(encoded(glass, "PNG")))
    assert pixels(glass.convert("LA"))[0][1:] == pixels(glass)[0][1:]

    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 10, 10, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    red_and_white = [[[200, 10, 10], [255, 255, 255]]]
    for kind in ("PNG", "GIF"):
        assert pixels(io.BytesIO(encoded(palette, kind, transparency=1))) == red_and_white
    assert pixels(io.BytesIO(encoded(palette, "PNG", transparency=bytes([255, 0])))) == red_and_white

    grey = Image.fromarray(np.array([[7, 8]], dtype=np.uint8))
    assert pixels(io.BytesIO(encoded(grey, "PNG", transparency=8))) == [[[7] * 3, [255] * 3]]
    deep = Image.fromarray(np.array([[30000, 30001]], dtype=np.uint16))
    assert pixels(io.BytesIO(encoded(deep, "PNG", transparency=30001))) == [[[117] * 3, [255] * 3]]


def test_print_colours_are_converted():
    photo = scene(64, 64)
    for source in (photo.convert("CMYK"), io.BytesIO(encoded(photo.convert("CMYK"), "TIFF"))):
        assert difference(load_picture(source), photo) < 1
    inverted = encoded(photo.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in inverted, "Pillow writes CMYK as Adobe does: inverted"
    assert difference(load_picture(io.BytesIO(inverted)), photo) < 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "YCbCr", "HSV", "RGBa"])
def test_other_modes_become_rgb(mode):
    grey = Image.new("L", (8, 8), 255)
    first = grey.convert("RGBA") if mode in ("PA", "RGBa") else grey.convert("RGB") if mode == "HSV" else grey
    loaded = load_picture(first.convert(mode))
    assert loaded.mode == "RGB" and loaded.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped():
    array = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    expected = [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]
    image = Image.fromarray(array)
    swapped = Image.fromarray(array.astype(">u2"))
    assert (image.mode, swapped.mode) == ("I;16", "I;16B")
    forms = [array, array[:, :, None], image, swapped, *(io.BytesIO(encoded(image, kind)) for kind in ("PNG", "TIFF"))]
    for form in forms:
        assert pixels(form) == expected


@pytest.mark.parametrize("mode, dtype", [("I", np.int32), ("F", np.float32)])
def test_numbers_of_unknown_scale_are_refused(mode, dtype):
    image = Image.fromarray(np.array([[0, 70000]], dtype=dtype))
    assert image.mode == mode
    for source in (image, io.BytesIO(encoded(image, "TIFF"))):
        with pytest.raises(ValueError, match=f"32-bit numbers .mode {mode}."):
            load_picture(source)


def test_arrays():
    grey = np.array([[0, 100], [200, 255]], dtype=np.uint8)
    assert pixels(grey) == pixels(grey[:, :, None]) == [[[value] * 3 for value in row] for row in grey.tolist()]
    colour = picture(5, 4)
    assert pixels(np.asarray(colour)[::-1]) == np.asarray(colour)[::-1].tolist(), "not contiguous"
    for wrong in (
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), dtype=bool),
        np.zeros((4, 4), dtype=np.int64),
        np.zeros((4, 4, 3), dtype=np.uint16),
        np.zeros((3, 4, 5), dtype=np.uint8),
        np.zeros((4, 4, 2), dtype=np.uint8),
        np.zeros((2, 4, 4, 3), dtype=np.uint8),
        np.zeros(4, dtype=np.uint8),
    ):
        with pytest.raises(ValueError, match="no agreed meaning; give uint8"):
            load_picture(wrong)
    for empty in (np.zeros((0, 4, 3), dtype=np.uint8), np.zeros((4, 0), dtype=np.uint8), Image.new("RGB", (0, 4))):
        with pytest.raises(ValueError, match="no pixels"):
            load_picture(empty)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    file = io.BytesIO(encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True))
    assert Image.open(file).n_frames == 3
    assert load_picture(file).getpixel((4, 4)) == (255, 0, 0)
    assert load_picture(file.getvalue()).getpixel((4, 4)) == (255, 0, 0)
    seeked = Image.open(file)
    seeked.seek(2)
    assert load_picture(seeked).getpixel((4, 4)) == (255, 0, 0)
    assert seeked.tell() == 2 and seeked.convert("RGB").getpixel((4, 4)) == (0, 128, 0), "it stays as it was"


@pytest.mark.parametrize("width, height", [(100, 80), (1, 1), (1, 5000), (5000, 1), (333, 777), (2, 4999)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_size_is_bounded_and_shape_kept(kind, width, height):
    data = encoded(scene(width, height), kind)
    for bound in (1, 100, 10_000, 10**9):
        small = load_picture(io.BytesIO(data), max_pixels=bound)
        assert small.width * small.height <= bound and min(small.size) >= 1
        if width * height <= bound:
            assert small.size == (width, height)
        elif bound >= 10_000 and min(width, height) > 2:
            assert small.width * small.height > 0.95 * bound
            assert small.width / small.height == pytest.approx(width / height, rel=0.02)
    assert load_picture(scene(width, height), max_pixels=100).width <= 100


def test_scaling_down_averages():
    checks = Image.fromarray(np.indices((512, 512)).sum(0).astype(np.uint8) % 2 * 255)
    for kind in ("JPEG", "PNG"):
        small = np.asarray(load_picture(io.BytesIO(encoded(checks, kind)), max_pixels=32 * 32))
        assert abs(small.astype(int) - 127).max() < 12, "points that were picked out would be black or white"


def test_a_jpeg_is_decoded_at_the_size_that_is_needed(monkeypatch):
    jpeg, png = (io.BytesIO(encoded(scene(800, 400), kind)) for kind in ("JPEG", "PNG"))
    for least, size in [
        (100 * 50, (100, 50)),
        (100 * 50 + 1, (200, 100)),
        (1, (100, 50)),
        (800 * 400, (800, 400)),
        (10**9, (800, 400)),
        ((200, 200), (400, 200)),
        ((10, 201), (800, 400)),
        (None, (800, 400)),
    ]:
        assert load_picture(jpeg, least=least).size == size
        assert load_picture(png, least=least).size == (800, 400)
    assert difference(load_picture(jpeg, least=100 * 50), scene(100, 50)) < 3

    resized = []
    monkeypatch.setattr(Image.Image, "resize", lambda image, *_, **__: resized.append(image.size))
    for file in (jpeg, png):
        load_picture(file, max_pixels=90 * 50)
    assert resized == [(100, 50), (800, 400)]


def test_what_the_caller_gave_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(scene(40, 20), "JPEG", exif=exif)
    image = Image.open(io.BytesIO(data))
    image.load()
    before = (image.size, image.mode, image.tobytes(), dict(image.info), dict(image.getexif()))
    first = load_picture(image, max_pixels=100)
    first.paste((0, 0, 0), (0, 0, *first.size))
    assert (image.size, image.mode, image.tobytes(), dict(image.info), dict(image.getexif())) == before
    plain = scene(4, 4)
    load_picture(plain).paste((0, 0, 0), (0, 0, 4, 4))
    assert plain == scene(4, 4)
    array = np.zeros((4, 4), dtype=np.uint8)
    load_picture(array).putpixel((0, 0), (9, 9, 9))
    assert not array.any()

    for kind in ("JPEG", "GIF"):
        file = io.BytesIO(encoded(scene(40, 20), kind))
        assert pixels(file) == pixels(file) and not file.closed, "a file object may be used again"
    with pytest.raises(ValueError):
        load_picture(file := io.BytesIO(b"no image"))
    assert not file.closed


def test_files_that_were_opened_are_closed(tmp_path, monkeypatch):
    opened = []

    def watched(*arguments, open=builtins.open, **options):
        opened.append(open(*arguments, **options))
        return opened[-1]

    frames = [scene(40, 20), scene(40, 20).rotate(180)]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    files = {
        "good.png": encoded(frames[0], "PNG"),
        "animated.gif": whole,
        "cut.gif": whole[:300],
        "page.jpg": b"<html>",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(builtins, "open", watched)
    for name in ("good.png", "animated.gif"):
        load_picture(tmp_path / name)
    for name in ("cut.gif", "page.jpg"):
        with pytest.raises(ValueError):
            load_picture(tmp_path / name)
    ours = [file for file in opened if str(file.name).startswith(str(tmp_path))]
    assert len(ours) == 4 and all(file.closed for file in ours)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow also warns of the cut EXIF data of a TIFF
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_at_any_sixteenth_is_refused(name):
    kind, options = FORMATS[name]
    data = encoded(picture(64, 64), kind, **options)
    assert load_picture(io.BytesIO(data)).size == (64, 64)
    for sixteenth in range(16):
        for least in (None, 64):
            with pytest.raises(ValueError):
                load_picture(io.BytesIO(data[: len(data) * sixteenth // 16]), least=least)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what is strange, besides refusing it
@pytest.mark.parametrize("name", FORMATS)
def test_flipped_bits_never_end_in_another_error(name):
    kind, options = FORMATS[name]
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(24, 20), kind, **options, **({} if kind in ("BMP", "GIF") else {"exif": exif}))
    random = np.random.default_rng(len(name))
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(data)
        for place in random.integers(0, len(data) if random.random() < 0.5 else 100, 3):
            damaged[place] ^= 1 << random.integers(8)
        try:
            outcomes.add(load_picture(io.BytesIO(bytes(damaged))).mode)
        except ValueError as error:
            assert str(error)
            outcomes.add("refused")
    assert "refused" in outcomes and outcomes <= {"RGB", "refused"}


def test_errors_of_pillows_readers_become_sentences():
    """What fuzzing found: a damaged EXIF block makes Pillow raise TypeError, struct.error or SyntaxError."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(8, 8), "WEBP", exif=exif)
    assert data.count(b"MM\x00*") == 1
    with pytest.raises(ValueError, match="not a TIFF file") as error:
        load_picture(io.BytesIO(data.replace(b"MM\x00*", b"M\x00\x00*")))
    assert isinstance(error.value.__cause__, SyntaxError)


@pytest.mark.parametrize(
    "name, data",
    [
        ("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("drawing.png", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>'),
        ("plot.jpg", encoded(picture(8, 8), "EPS")),
        ("stars.jpg", b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80)),
        ("old.jpg", encoded(picture(8, 8), "PPM")),
        ("film.jpg", encoded(picture(8, 8), "PDF")),
        ("empty.jpg", b""),
    ],
)
def test_other_formats_are_refused_whatever_their_name(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    for source in (tmp_path / name, {"bytes": data, "path": name}):
        with pytest.raises(ValueError, match="^not a JPEG, PNG, WEBP, GIF, BMP, AVIF or TIFF image$"):
            load_picture(source)


@pytest.mark.parametrize(
    "source, words",
    [
        ("no_such.jpg", "No such file"),
        (".", "Is a directory"),
        ("bad\0name.jpg", "null byte"),
        (io.StringIO("text"), "Binary data"),
        (b"\xff\xd8", "not a JPEG, PNG"),
        (3.5, "cannot be a float"),
        ({"bytes": None, "path": None}, "cannot be a NoneType"),
        ({"bytes": "text", "path": "p.jpg"}, "bytes-like"),
        (torch.zeros(3, 8, 8), "cannot be a Tensor; give .* a numpy array"),
        ("https://example.org/p.jpg", "not fetched"),
        ("HTTP://example.org/p.jpg", "not fetched"),
        ({"bytes": None, "path": "http://example.org/p.jpg"}, "not fetched"),
        ("file:///etc/passwd", "No such file"),
    ],
)
def test_what_is_no_picture_is_refused(source, words):
    with pytest.raises(ValueError, match=words):
        load_picture(source)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width, height", [(10_000, 9_000), (65_000, 65_000)])
def test_decompression_bombs_are_refused(width, height):
    """A PNG that says it has so many pixels, in a few bytes."""
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    body = b"IDAT" + zlib.compress(bytes(1000))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        (len(part) - 4).to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big")
        for part in (head, body, b"IEND")
    )
    with pytest.raises(ValueError, match="10000 x 9000 pixels, at most|decompression bomb"):
        load_picture(io.BytesIO(data), max_pixels=100)
