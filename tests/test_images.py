"""Reading, resizing and writing images, and streams of them."""

import contextlib
import io
import json
import pathlib
import struct
import threading
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from gladjax import images


def save(path, array, mode=None, **options):
    image = array if isinstance(array, PIL.Image.Image) else PIL.Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.fixture
def colour():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_lossless_colour_is_read_as_it_is(tmp_path, colour, suffix):
    array = images.read(save(tmp_path / f"a.{suffix}", colour))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, colour)


def test_grey_is_repeated(tmp_path, colour):
    grey = colour[..., 0]
    array = images.read(save(tmp_path / "a.png", grey))
    np.testing.assert_array_equal(array, np.stack([grey] * 3, -1))


def test_alpha_is_dropped_and_not_blended(tmp_path, colour):
    alpha = np.zeros_like(colour[..., :1])
    alpha[2:] = 255
    path = save(tmp_path / "a.png", np.concatenate([colour, alpha], -1))
    np.testing.assert_array_equal(images.read(path), colour)
    pair = np.stack([colour[..., 0], alpha[..., 0]], -1)
    grey = images.read(save(tmp_path / "la.png", PIL.Image.fromarray(pair, "LA")))
    np.testing.assert_array_equal(grey, np.stack([colour[..., 0]] * 3, -1))


def test_palette_is_looked_up_with_and_without_transparency(tmp_path):
    image = PIL.Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30, 200, 100, 50])
    image.putpixel((3, 1), 2)
    for name, options in (
        ("a", {}),
        ("b", {"transparency": 1}),
        ("c", {"transparency": b"\x00\x80\xff"}),
    ):
        array = images.read(save(tmp_path / f"{name}.png", image, **options))
        assert array[0, 0].tolist() == [10, 20, 30]
        assert array[1, 3].tolist() == [200, 100, 50]


def test_one_bit_images_are_black_and_white(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 255], [255, 0]], np.uint8), "1")
    assert images.read(path)[..., 1].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_divided_by_257(tmp_path, suffix):
    values = np.array([[0, 257, 1000], [32768, 65534, 65535]], np.uint16)
    array = images.read(save(tmp_path / f"a.{suffix}", values))
    assert array.dtype == np.float32
    expected = np.repeat(values[..., None] / 257, 3, axis=-1)
    np.testing.assert_allclose(array, expected, rtol=1e-6)


def test_sixteen_bit_colour_is_right_within_one_level(tmp_path):
    values = np.arange(0, 65536, 257 * 3 + 1, np.uint16)[:84].reshape(4, 7, 3)
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 7 4 65535\n" + values.astype(">u2").tobytes())
    assert np.abs(images.read(path) - values / 257).max() <= 1


def test_float_images_in_range_are_taken_and_others_refused(tmp_path):
    values = np.linspace(0, 255, 6, dtype=np.float32).reshape(2, 3)
    array = images.read(save(tmp_path / "a.tif", values))
    np.testing.assert_array_equal(array[..., 0], values)
    for bad in (values - 1, values * 2, values * np.float32(np.nan)):
        with pytest.raises(images.ImageError, match=r"b\.tif: values from .* scale"):
            images.read(save(tmp_path / "b.tif", bad))
    deep = np.array([[70000]], np.int32)
    with pytest.raises(images.ImageError, match="expected 0 to 65535"):
        images.read(save(tmp_path / "c.tif", deep))


def test_cmyk_is_converted(tmp_path):
    image = PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    array = images.read(save(tmp_path / "a.jpg", image, quality=100))
    assert np.abs(array.astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_orientation_matches_pillow(tmp_path, colour, orientation, suffix):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", colour, exif=exif)
    with PIL.Image.open(path) as image:
        expected = np.asarray(PIL.ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(images.read(path), expected)
    assert images.shape(path) == expected.shape[:2]


def test_damaged_metadata_do_not_spoil_the_pixels(tmp_path, colour):
    path = save(
        tmp_path / "a.png", colour, exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage"
    )
    np.testing.assert_array_equal(images.read(path), colour)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [PIL.Image.new("RGB", (3, 2), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert images.read(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_unreadable_files_are_named_with_a_remedy(tmp_path, colour):
    whole = save(tmp_path / "whole.png", np.tile(colour, (40, 40, 1))).read_bytes()
    cases = {
        "empty.png": (b"", "copy it again"),
        "text.png": (b"not an image at all", "convert it to PNG"),
        "cut.png": (whole[: len(whole) // 2], "copy it again"),
        "head.png": (whole[:40], "copy it again"),
        "nothing.pgm": (b"P5 0 3 255\n", "nothing"),
        "doc.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "convert"),
    }
    for name, (data, remedy) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(images.ImageError, match=remedy) as caught:
            images.read(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(images.ImageError, match="text"):
        images.shape(tmp_path / "text.png")
    with pytest.raises(images.ImageError, match="bytes 7: no image"):
        images.decode(b"text", name="bytes 7")
    np.testing.assert_array_equal(
        images.decode(whole), images.read(tmp_path / "whole.png")
    )
    for path in (tmp_path / "none.png", tmp_path, "a\0b.png"):
        with pytest.raises(images.ImageError):
            images.read(path)


def bomb(width, height):
    """A PNG that claims a size and holds next to nothing."""
    stream = io.BytesIO()
    PIL.Image.new("L", (1, 1)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("size", [(8193, 8193), (12000, 12000), (60000, 60000)])
def test_decompression_bombs_are_refused_before_decoding(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(bomb(*size))
    with pytest.raises(images.ImageError, match=r"bomb\.png.*(reduce|raise)"):
        images.read(tmp_path / "bomb.png")


def test_the_limit_of_pixels_is_an_option(tmp_path, colour):
    path = save(tmp_path / "a.png", colour)
    assert images.read(path, max_pixels=35).shape == (5, 7, 3)
    with pytest.raises(images.ImageError, match="limit of 34"):
        images.read(path, max_pixels=34)


WHOLE = {}
for _format in ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM"):
    _stream = io.BytesIO()
    PIL.Image.effect_noise((16, 12), 80).convert("RGB").save(_stream, _format)
    WHOLE[_format] = _stream.getvalue()
for _format, _type in (("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.float32)):
    _stream = io.BytesIO()
    PIL.Image.fromarray(np.arange(192).reshape(12, 16).astype(_type)).save(
        _stream, _format
    )
    WHOLE[f"{_format} of {_type.__name__}"] = _stream.getvalue()


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=250, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_and_never_crash(tmp_path_factory, data):
    whole = WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))]
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            place = data.draw(st.integers(0, min(len(damaged), 400) - 1))
            damaged[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.img"
    path.write_bytes(damaged)
    try:
        array = images.read(path, max_pixels=10**6)
    except images.ImageError as error:
        array, message = np.zeros((1, 1, 3)), str(error)
    else:
        message = "fuzzed.img"
    assert "fuzzed.img" in message
    assert array.ndim == 3
    assert array.shape[0] * array.shape[1] <= 10**6
    assert np.isfinite(array).all()
    depth = images.observe([path])  # Leaves out what is not readable.
    with contextlib.suppress(images.ImageError):
        assert images.learnt([images.facts(path, max_pixels=10**6)]).high >= 0
        assert np.isfinite(images.read(path, max_pixels=10**6, depth=depth)).all()
        assert images.lossy(path) in (True, False)


def test_resize_is_the_antialiased_triangle():
    image = np.random.default_rng(1).uniform(0, 255, (12, 8, 3)).astype(np.float32)

    def rows(n, m):
        scale = n / m
        centres = (np.arange(m) + 0.5) * scale
        weights = np.abs(np.arange(n) + 0.5 - centres[:, None]) / max(scale, 1)
        weights = np.maximum(1 - weights, 0)
        return weights / weights.sum(1, keepdims=True)

    expected = np.einsum("ih,hwc,jw->ijc", rows(12, 4), image, rows(8, 5))
    np.testing.assert_allclose(images.resize(image, (4, 5)), expected, rtol=1e-5)


def test_resize_keeps_constants_and_fractions_and_copies(colour):
    image = np.full((9, 6, 2), 100.25, np.float32)
    np.testing.assert_array_equal(
        images.resize(image, 3), np.full((3, 3, 2), 100.25, np.float32)
    )
    same = images.resize(colour, (5, 7))
    assert same.dtype == np.float32
    np.testing.assert_array_equal(same, colour)
    with pytest.raises(ValueError, match="size"):
        images.resize(image, (0, 4))


def test_written_images_come_back(tmp_path, colour):
    images.write_png(tmp_path / "new" / "a.png", colour)
    np.testing.assert_array_equal(images.read(tmp_path / "new" / "a.png"), colour)
    images.write_png(tmp_path / "b.png", np.array([[-3.0, 1.6, 999.0]]))
    assert images.read(tmp_path / "b.png")[0, :, 0].tolist() == [0, 2, 255]
    with pytest.raises(ValueError, match="NaN"):
        images.write_png(tmp_path / "c.png", np.array([[np.nan]]))
    with pytest.raises(ValueError, match="must be"):
        images.write_png(tmp_path / "c.png", np.zeros((2, 2, 4)))
    assert not (tmp_path / "c.png").exists()


@pytest.fixture
def folder(tmp_path, colour):
    """Six readable files, the third of which is then cut short."""
    paths = [save(tmp_path / f"{i}.png", colour + np.uint8(i)) for i in range(6)]
    paths[2].write_bytes(paths[2].read_bytes()[:50])
    return paths


def test_lazy_reads_on_access_only(folder):
    lazy = images.Lazy(folder)
    assert len(lazy) == 6
    assert lazy[1:].paths == tuple(folder[1:])
    np.testing.assert_array_equal(lazy[-1], images.read(folder[5]))
    with pytest.raises(images.ImageError):
        lazy[2]
    with pytest.raises(IndexError):
        lazy[6]


def test_outcomes_keep_the_order_and_pass_bad_images(folder):
    results = list(images.outcomes(images.Lazy(folder), depth=3))
    assert [isinstance(r, images.ImageError) for r in results] == [
        i == 2 for i in range(6)
    ]
    for i in (0, 1, 3, 4, 5):
        np.testing.assert_array_equal(results[i], images.read(folder[i]))


def test_prefetch_raises_at_the_place_of_the_bad_image(folder):
    stream = images.prefetch(images.Lazy(folder), depth=2)
    assert next(stream).shape == (5, 7, 3)
    next(stream)
    with pytest.raises(images.ImageError, match=r"2\.png"):
        next(stream)
    with pytest.raises(ValueError, match="depth"):
        next(images.prefetch(images.Lazy(folder), depth=0))


def test_prefetch_reads_no_further_ahead_than_told():
    started, gate = [], threading.Lock()

    def note(path):
        with gate:
            started.append(path)
        return path

    lazy = images.Lazy([str(i) for i in range(50)], read=note)
    stream = images.prefetch(lazy, depth=3)
    for i in range(10):
        assert next(stream) == pathlib.Path(str(i))
        assert len(started) <= i + 1 + 3
    before = threading.active_count()
    stream.close()
    assert threading.active_count() < before
    assert len(started) <= 13


def test_other_errors_than_bad_images_are_not_swallowed():
    def fail(path):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(images.outcomes(images.Lazy(["a"], read=fail)))


def test_check_skips_and_counts_or_refuses(folder):
    good, errors = images.check(folder, skip_bad=True)
    assert good == tuple(folder[:2] + folder[3:])
    assert [str(folder[2]) in str(error) for error in errors] == [True]
    with pytest.raises(images.ImageError, match=r"2\.png"):
        images.check(folder)
    with pytest.raises(images.ImageError, match="none of 1"):
        images.check(folder[2:3], skip_bad=True)


def colour16(path, values, kind="png"):
    """Writes a colour file of 16 bits, which Pillow cannot."""
    height, width = values.shape[:2]
    if kind == "png":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
        parts = (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
        data = b"\x89PNG\r\n\x1a\n"
        for name, body in parts:
            check = struct.pack(">I", zlib.crc32(name + body))
            data += struct.pack(">I", len(body)) + name + body + check
    else:
        pixels, tags = values.astype("<u2").tobytes(), 9
        place = 14 + 12 * tags
        entries = [(256, width), (257, height), (258, place), (259, 1), (262, 2)]
        entries += [(273, place + 6), (277, 3), (278, height), (279, len(pixels))]
        data = b"II*\0" + struct.pack("<IH", 8, tags)
        for tag, value in entries:
            count = 3 if tag == 258 else 1
            data += struct.pack("<HHII", tag, 3 if count == 3 else 4, count, value)
        data += struct.pack("<I", 0) + struct.pack("<HHH", 16, 16, 16) + pixels
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_depth_brings_grey_and_colour_of_cameras_to_255(tmp_path, bits, suffix):
    rng = np.random.default_rng(bits)
    grey = rng.integers(0, 2**bits, (5, 7)).astype(np.uint16)
    grey[0, 0] = 2**bits - 1
    rgb = rng.integers(0, 2**bits, (5, 7, 3)).astype(np.uint16)
    rgb[0, 0] = 2**bits - 1
    one = save(tmp_path / f"g.{suffix}", grey)
    two = colour16(tmp_path / f"c.{suffix}", rgb, suffix)
    for path, values in ((one, np.stack([grey] * 3, -1)), (two, rgb)):
        depth = images.observe([path])
        assert depth == (bits, None)
        array = images.read(path, depth=depth)
        np.testing.assert_allclose(array, values / ((2**bits - 1) / 255), rtol=1e-6)
        assert array.max() == 255
        np.testing.assert_allclose(images.read(path), values / 257, atol=1)


def test_float_images_up_to_one_are_read_like_the_same_picture(tmp_path, colour):
    grey = colour[..., 0]
    path = save(tmp_path / "a.tif", grey.astype(np.float32) / 255)
    assert images.observe([path]) == (None, 1)
    for depth in (images.UNKNOWN, images.observe([path])):
        array = images.read(path, depth=depth)
        np.testing.assert_allclose(array[..., 0], grey, rtol=1e-6)
    white = save(tmp_path / "b.tif", grey.astype(np.float32))
    assert images.observe([path, white]) == (None, 255)
    inf = save(tmp_path / "c.tif", np.array([[0.5, np.inf]], np.float32))
    with pytest.raises(images.ImageError, match="inf"):
        images.read(inf)


def test_sixteen_bits_that_are_used_are_read_as_before(tmp_path, colour):
    values = np.linspace(0, 65535, 35).astype(np.uint16).reshape(5, 7)
    deep = save(tmp_path / "a.png", values)
    rgb = colour16(tmp_path / "b.png", np.stack([values] * 3, -1))
    depth = images.observe([deep, rgb, save(tmp_path / "c.png", colour)])
    assert depth == (16, None)
    for path in (deep, rgb):
        before = images.read(path)
        np.testing.assert_array_equal(images.read(path, depth=depth), before)
    assert images.read(rgb).dtype == np.uint8
    np.testing.assert_array_equal(
        images.read(deep)[..., 0], (values / 257).astype(np.float32)
    )


def test_a_file_that_says_its_depth_is_believed(tmp_path):
    dark = np.full((5, 7), 100, ">u2")
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 7 5 4095\n" + dark.tobytes())
    assert images.observe([path]) == (16, None)  # Pillow has scaled it.
    np.testing.assert_allclose(images.read(path), 100 / 4095 * 255, rtol=1e-3)
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1)]
    tags += [(278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    packed = bytes([0x06, 0x40, 0x64])  # Twice 100, of 12 bits.
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, 9) + entries + b"\0" * 4 + packed)
    assert images.observe([path]) == (12, None)
    array = images.read(path, depth=images.observe([path]))
    np.testing.assert_allclose(array, 100 / 4095 * 255, rtol=1e-6)


def test_a_declared_depth_must_hold_every_value(tmp_path):
    facts = [images.facts(save(tmp_path / "a.png", np.full((5, 7), 3000, np.uint16)))]
    assert images.learnt(facts).depth == (12, None)
    assert images.learnt(facts, bits=14).depth == (14, None)
    for bits in (10, 7):
        with pytest.raises(ValueError, match="bits"):
            images.learnt(facts, bits=bits)


def test_what_was_learnt_goes_through_a_file_and_nothing_else_does(tmp_path, colour):
    paths = [save(tmp_path / f"{i}.png", colour // (i + 1)) for i in range(3)]
    known = images.learnt([images.facts(path) for path in paths])
    notes = json.loads(json.dumps(images.to_notes(known)))
    assert images.from_notes(notes) == known
    odd = [{}, {"low": "x"}, {"low": None}, {"high": float("inf")}, {"contents": 5}]
    odd += [{"depth": {"bits": b, "white": w}} for b, w in ((64, None), (None, 0.0))]
    for wrong in (None, 3, odd[0], *({**notes, **o} for o in odd[1:])):
        assert images.from_notes(wrong) is None


def test_ranges_unlike_those_learnt_from_are_told(tmp_path, colour):
    values = colour[..., 0].astype(np.uint16) * 16 + 15
    paths = [save(tmp_path / f"{i}.png", values) for i in range(2)]
    known = images.learnt([images.facts(path) for path in paths])
    facts = images.facts(paths[0])
    assert images.unlike(known, images.peak(facts, known.depth)) == ""
    true = save(tmp_path / "true.png", values * 16)
    brightest = float(images.read(true, depth=known.depth).max())
    assert "where white is 255" in images.unlike(known, brightest)
    assert "brightest value is 15 of 255" in images.unlike(known, 15.0)


def test_equal_pixels_are_copies_whatever_the_file(tmp_path, colour):
    paths = [save(tmp_path / f"a.{s}", colour) for s in ("png", "bmp", "tif")]
    other = colour.copy()
    other[0, 0, 0] ^= 1
    paths.insert(1, save(tmp_path / "b.png", other))
    found = images.copies(images.facts(path).content for path in paths)
    assert found == {2: 0, 3: 0}
