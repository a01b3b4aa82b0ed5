"""Reading picture files: right pixels from good ones, one clear line about bad ones."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from minifcn.data.dataset import VOID, DataError
from minifcn.data.pictures import MAX_PIXELS, load_image, load_label, read_header, to_input, to_picture

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


def pixel_bomb(width, height):
    """Return a valid PNG of 1-bit pixels, all black: a thousand times smaller than what it unfolds to."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + (width + 7) // 8) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


# Pixel values


def test_every_pixel_value_survives_the_way_to_the_net_and_back():
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    np.testing.assert_array_equal(to_picture(to_input(picture)), picture)


def test_black_is_minus_one_and_white_is_one_channels_first():
    picture = np.array([[[0, 255, 0], [255, 0, 0]]], np.uint8)
    image = to_input(picture)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, [[[-1, 1]], [[1, -1]], [[-1, -1]]])


def test_values_beyond_the_range_are_clipped():
    image = np.array([-7, 0.002, 7], np.float32).reshape(3, 1, 1)
    assert to_picture(image).tolist() == [[[0, 128, 255]]]


# Images


def test_a_png_is_read_as_it_is(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS))
    np.testing.assert_array_equal(to_picture(load_image(path)), COLOURS)


def test_a_jpeg_is_read_whatever_its_suffix(tmp_path):
    smooth = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(smooth), format="JPEG", quality=95)
    np.testing.assert_allclose(to_picture(load_image(path)).astype(int), smooth, atol=3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_kind_of_pixels_becomes_three_channels(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(COLOURS).convert(mode))
    assert load_image(path).shape == (3, 6, 9)


def test_a_palette_with_transparency_keeps_its_colours(tmp_path):
    indices = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    indices.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    path = saved(tmp_path / "a.png", indices, transparency=bytes([255, 128, 0]))
    assert to_picture(load_image(path)).tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]


@pytest.mark.parametrize(
    ("orientation", "as_stored"),
    [
        (1, lambda upright: upright),
        (2, np.fliplr),
        (3, lambda upright: np.rot90(upright, 2)),
        (4, np.flipud),
        (5, lambda upright: upright.transpose(1, 0, 2)),
        (6, lambda upright: np.rot90(upright, 1)),
        (7, lambda upright: np.rot90(upright.transpose(1, 0, 2), 2)),
        (8, lambda upright: np.rot90(upright, -1)),
    ],
)
def test_an_image_stored_rotated_is_turned_upright(tmp_path, orientation, as_stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(as_stored(COLOURS)))
    path = saved(tmp_path / "a.png", stored, exif=exif)
    np.testing.assert_array_equal(to_picture(load_image(path)), COLOURS)
    assert read_header(path) == (*stored.size, "RGB", orientation)


@given(width=st.integers(1, 40), height=st.integers(1, 40), max_side=st.integers(1, 50))
def test_max_side_bounds_the_longer_side_and_never_enlarges(tmp_path_factory, width, height, max_side):
    path = saved(tmp_path_factory.mktemp("sides") / "a.png", Image.new("L", (width, height)))
    _, new_height, new_width = load_image(path, max_side).shape
    assert load_label(path, max_side=max_side).shape == (new_height, new_width)
    assert max(new_height, new_width) == min(max(height, width), max_side)
    # The shorter side keeps the proportion, to the half pixel that rounding takes (and one pixel at least).
    exact = min(height, width) * min(1, max_side / max(height, width))
    assert abs(min(new_height, new_width) - max(exact, 1)) <= 0.5


def test_max_side_below_one_is_refused(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("L", (4, 4)))
    with pytest.raises(ValueError, match=r"^max_side must be at least 1, got 0"):
        load_image(path, 0)


def test_image_and_mask_stay_aligned_when_reduced(tmp_path):
    """Halve a picture of 4×4 blocks: each block's middle keeps its colour and its label."""
    label = np.kron(np.arange(64).reshape(8, 8), np.ones((4, 4))).astype(np.uint8)
    mask = saved(tmp_path / "mask.png", Image.fromarray(label))
    image = saved(tmp_path / "image.png", Image.fromarray(label * 3))
    small_label = load_label(mask, max_side=16)
    np.testing.assert_array_equal(small_label, label[::2, ::2])
    seen = to_picture(load_image(image, max_side=16))[:, :, 0].astype(int)
    # The antialiased image mixes a neighbouring block in at an edge: a third at most of a step of 8 · 3.
    np.testing.assert_allclose(seen, small_label * 3, atol=9)


def test_a_reduced_image_takes_the_mean_of_what_it_loses(tmp_path):
    checkerboard = np.indices((32, 32)).sum(0).astype(np.uint8) % 2 * 255
    path = saved(tmp_path / "a.png", Image.fromarray(checkerboard))
    np.testing.assert_allclose(load_image(path, max_side=8), 0, atol=0.1)


# Masks


@pytest.mark.parametrize("mode", ["P", "L"])
def test_a_masks_pixels_are_its_labels(tmp_path, mode):
    label = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(label)
    if mode == "P":
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    path = saved(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(load_label(path), label)


def test_a_mask_of_few_colours_is_read_as_indices_too(tmp_path):
    """PNG packs such palettes into 1, 2 or 4 bits a pixel."""
    label = np.array([[0, 1, 2, 3]], np.uint8)
    for bits in (2, 4):
        picture = Image.fromarray(label)
        picture.putpalette([9, 8, 7] * 4)
        np.testing.assert_array_equal(load_label(saved(tmp_path / "a.png", picture, bits=bits)), label)


def test_a_one_bit_mask_has_labels_0_and_1(tmp_path):
    label = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(label.astype(bool)))
    np.testing.assert_array_equal(load_label(path), label)


@given(seed=st.integers(0, 2**32), max_side=st.integers(1, 20))
def test_reducing_a_mask_makes_no_new_class(tmp_path_factory, seed, max_side):
    label = np.random.default_rng(seed).choice(np.array([0, 3, 200, VOID], np.uint8), (13, 17))
    path = saved(tmp_path_factory.mktemp("masks") / "a.png", Image.fromarray(label))
    assert set(np.unique(load_label(path, max_side=max_side))) <= set(np.unique(label))


def test_an_unknown_label_is_named_with_the_known_ones(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[0, 1, 2, 9, VOID]], np.uint8)))
    with pytest.raises(DataError, match=r"a\.png: .*unknown labels 2, 9; known are 0 ground, 1 cat and 255 for void"):
        load_label(path, ["ground", "cat"])


def test_an_unknown_label_is_found_even_where_reducing_would_drop_it(tmp_path):
    label = np.zeros((20, 20), np.uint8)
    label[19, 19] = 5
    path = saved(tmp_path / "a.png", Image.fromarray(label))
    with pytest.raises(DataError, match="unknown label 5;"):
        load_label(path, ["ground", "cat"], max_side=2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16"])
def test_a_mask_in_colours_is_refused(tmp_path, mode):
    picture = Image.new("I;16", (3, 3)) if mode == "I;16" else Image.fromarray(COLOURS).convert(mode)
    with pytest.raises(DataError, match=rf"a\.png: is a mask of mode {mode}; expected .*palette .* or 8-bit grey"):
        load_label(saved(tmp_path / "a.png", picture))


# Bad files


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (8_193, 8_192), (MAX_PIXELS + 1, 1)])
def test_a_small_file_of_very_many_pixels_is_refused_unseen(tmp_path, width, height):
    """The second lies between our limit and Pillow's, whose warning would be an error here; the first above both."""
    content = pixel_bomb(width, height)
    path = tmp_path / "bomb.png"
    path.write_bytes(content)
    for read in (load_image, load_label, read_header):
        with pytest.raises(DataError, match=rf"bomb\.png: has {width} × {height} pixels; at most 67,108,864"):
            read(path)


def test_200_megapixels_fit_into_a_file_of_25_kilobytes():
    assert len(pixel_bomb(20_000, 10_000)) < 25_000


def test_a_small_file_of_very_much_text_is_refused(tmp_path):
    comments = PngInfo()
    comments.add_text("comment", "ha" * 1_000_000, zip=True)
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS), pnginfo=comments)
    with pytest.raises(DataError, match=r"a\.png: cannot be read \(.*too large"):
        load_image(path)


def test_a_header_is_read_without_the_pixels(tmp_path):
    content = saved(tmp_path / "a.png", Image.fromarray(COLOURS)).read_bytes()
    (tmp_path / "a.png").write_bytes(content[: content.index(b"IDAT") + 4])
    assert read_header(tmp_path / "a.png") == (9, 6, "RGB", 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_image_is_refused(tmp_path, kind):
    path = tmp_path / "a.img"
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    Image.fromarray(noise).save(path, kind)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"a\.img: cannot be read \(.*\); the file is damaged"):
        load_image(path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"just text"])
def test_a_file_that_is_no_image_is_refused(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: is neither a PNG nor a JPEG"):
        load_image(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.png: no such file"):
        load_image(tmp_path / "nowhere.png")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read .*directory"):
        load_image(tmp_path)


def test_sixteen_bit_images_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: has 16-bit pixels"):
        load_image(saved(tmp_path / "a.png", Image.new("I;16", (3, 3))))


@given(kind=st.sampled_from(["PNG", "JPEG"]), seed=st.integers(0, 2**32), flips=st.integers(1, 8), data=st.data())
def test_a_damaged_file_gives_an_image_or_a_data_error(tmp_path_factory, kind, seed, flips, data):
    """Bits flipped anywhere, and the end cut off: a damaged file may still be an image, but never anything else."""
    stream = io.BytesIO()
    Image.fromarray(COLOURS).save(stream, kind)
    content = bytearray(stream.getvalue())
    for position in np.random.default_rng(seed).integers(0, 8 * len(content), flips).tolist():
        content[position // 8] ^= 1 << position % 8
    path = tmp_path_factory.mktemp("damaged") / "a.img"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    message = f"{path}: "
    try:
        assert load_image(path).shape[0] == 3
    except DataError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
