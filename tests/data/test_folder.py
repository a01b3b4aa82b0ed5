"""Folders of images and masks, good and bad."""

import numpy as np
import pytest
from PIL import Image

from minifcn.data import DataError, open_folder, save_label, to_picture
from minifcn.data.dataset import VOID, split_names
from minifcn.data.folder import FolderDataset, Pair

NAMES = [f"cat{number}" for number in range(20)]


def write_pair(images, masks, name, suffix=".png", size=(12, 10), values=(0, 1, 2, VOID)):
    """Write an image of ``size`` (height, width) with its mask, and return the mask's labels."""
    rng = np.random.default_rng(sum(name.encode()))
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(images / f"{name}{suffix}")
    label = rng.choice(np.array(values, np.uint8), size)
    label.flat[: len(values)] = values
    save_label(masks / f"{name}.png", label)
    return label


@pytest.fixture
def plain(tmp_path):
    """A folder of 20 images with their masks, and the names of their classes."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in NAMES:
        write_pair(tmp_path / "images", tmp_path / "masks", name)
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    return tmp_path


@pytest.fixture
def voc(tmp_path):
    """PASCAL VOC's layout: two images for training, one for validation, one with no mask."""
    images, masks = tmp_path / "JPEGImages", tmp_path / "SegmentationClass"
    lists = tmp_path / "ImageSets" / "Segmentation"
    for folder in (images, masks, lists):
        folder.mkdir(parents=True)
    for name, size in (("2007_1", (12, 10)), ("2007_2", (9, 20)), ("2007_3", (8, 8))):
        write_pair(images, masks, name, ".jpg", size)
    Image.new("RGB", (5, 5)).save(images / "2007_4.jpg")
    (lists / "train.txt").write_text("2007_2\n2007_1\n")
    (lists / "val.txt").write_text("2007_3\n")
    return tmp_path


# Good folders


def test_an_example_is_its_files_pixels(plain):
    dataset = open_folder(plain, "train")
    for index, name in enumerate(split_names(NAMES)["train"]):
        example = dataset.example(index, epoch=index)
        assert example.name == name
        np.testing.assert_array_equal(
            to_picture(example.image), np.asarray(Image.open(plain / "images" / f"{name}.png"))
        )
        np.testing.assert_array_equal(example.label, np.asarray(Image.open(plain / "masks" / f"{name}.png")))


def test_the_names_are_split_where_no_list_is_given(plain):
    splits = [open_folder(plain, split) for split in ("train", "val", "test")]
    names = [dataset.example(index).name for dataset in splits for index in range(len(dataset))]
    assert sorted(names) == sorted(NAMES)
    assert all(len(dataset) > 0 for dataset in splits)


def test_lists_split_the_images_where_they_exist(plain):
    (plain / "train.txt").write_text("cat3\ncat1\n\n")
    (plain / "val.txt").write_text("cat2")
    train, val = open_folder(plain, "train"), open_folder(plain, "val")
    assert [train.example(index).name for index in range(len(train))] == ["cat3", "cat1"]
    assert [val.example(index).name for index in range(len(val))] == ["cat2"]


def test_the_layout_of_pascal_voc_is_read_as_its_lists_say(voc):
    train, val = open_folder(voc, "train"), open_folder(voc, "val")
    assert [train.example(index).name for index in range(len(train))] == ["2007_2", "2007_1"]
    assert [train.example(index).label.shape for index in range(len(train))] == [(9, 20), (12, 10)]
    assert val.example(0).image.shape == (3, 8, 8)


def test_line_numbers_of_classes_txt_are_labels(plain):
    assert open_folder(plain, "val").classes == ("background", "cat", "dog")


def test_given_classes_take_the_place_of_classes_txt(plain):
    assert open_folder(plain, "val", classes=["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")


def test_the_masks_of_all_splits_tell_the_classes_where_nobody_names_them(plain):
    (plain / "classes.txt").unlink()
    odd = split_names(NAMES)["test"][0]
    write_pair(plain / "images", plain / "masks", odd, values=(0, 4, VOID))
    expected = ("background", "class 1", "class 2", "class 3", "class 4")
    assert {open_folder(plain, split).classes for split in ("train", "val", "test")} == {expected}


def test_larger_pictures_are_reduced_and_smaller_ones_kept(voc):
    dataset = open_folder(voc, "train", max_side=12)
    assert [dataset.example(index).label.shape for index in range(2)] == [(5, 12), (12, 10)]
    assert [dataset.example(index).image.shape for index in range(2)] == [(3, 5, 12), (3, 12, 10)]


def test_files_of_other_kinds_are_ignored(plain):
    (plain / "images" / "Thumbs.db").write_bytes(b"?")
    (plain / "masks" / "notes.txt").write_text("to do")
    assert len(open_folder(plain, "train")) == len(split_names(NAMES)["train"])


def test_a_text_file_may_begin_with_a_byte_order_mark(plain):
    (plain / "classes.txt").write_text("sky\r\ncat\r\ndog\r\n\r\n", "utf-8-sig", newline="")
    assert open_folder(plain, "train").classes == ("sky", "cat", "dog")


def test_pairs_of_ones_own_need_no_layout(plain):
    dataset = FolderDataset([Pair(plain / "images" / "cat1.png", plain / "masks" / "cat1.png")], ("a", "b", "c"))
    assert (len(dataset), dataset.channels, dataset.example(0).name) == (1, 3, "cat1")


# Bad folders. Each error is one line that names the thing.


def refused(path, pattern, split="train", **options):
    with pytest.raises(DataError, match=pattern) as caught:
        open_folder(path, split, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "nowhere: no such folder")


def test_an_empty_folder_is_refused(tmp_path):
    refused(tmp_path, "expected the folders images and masks, or JPEGImages and SegmentationClass; found nothing")


def test_a_folder_of_another_layout_is_refused(tmp_path):
    (tmp_path / "imgs").mkdir()
    refused(tmp_path, "expected the folders images and masks.*found imgs")


def test_a_folder_without_images_is_refused(plain):
    for file in (plain / "images").iterdir():
        file.unlink()
    refused(plain, "images: holds no PNG or JPEG file")


def test_a_strange_split_is_refused(plain):
    refused(plain, "split must be .* got 'validation'", split="validation")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_image_without_a_mask_is_refused_whatever_its_split(plain, split):
    (plain / "masks" / "cat7.png").unlink()
    refused(plain, r"masks: has no mask for 1 of 20 images; expected cat7\.png", split)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_mask_without_an_image_is_refused_whatever_its_split(plain, split):
    for number in range(7):
        (plain / "images" / f"cat{number}.png").unlink()
    refused(plain, r"images: has no image for 7 of 20 masks; expected cat0\.jpg or \.png, .* and 2 more", split)


def test_a_listed_image_without_a_file_is_refused(voc):
    with (voc / "ImageSets" / "Segmentation" / "val.txt").open("a") as file:
        file.write("2007_4\n")
    refused(voc, r"SegmentationClass: has no mask for 1 of 2 images; expected 2007_4\.png", "val")


def test_a_split_without_a_list_is_refused_where_others_have_one(voc):
    refused(voc, r"Segmentation: has no test\.txt .*; found train\.txt, val\.txt", "test")


def test_an_empty_list_is_refused(plain):
    (plain / "train.txt").write_text("\n\n")
    refused(plain, r"train\.txt: names no image")


def test_two_images_of_one_name_are_refused(plain):
    Image.new("RGB", (10, 12)).save(plain / "images" / "cat5.JPG", "JPEG")
    refused(plain, r"images: cat5\.JPG and cat5\.png differ by their suffix only")


def test_two_images_are_too_few_to_be_split(plain):
    for name in NAMES[2:]:
        (plain / "images" / f"{name}.png").unlink()
        (plain / "masks" / f"{name}.png").unlink()
    refused(plain, r"images: 2 examples cannot be split .*, or list them in .*train\.txt")


def test_an_image_and_a_mask_of_different_sizes_are_refused(plain):
    name = split_names(NAMES)["train"][0]
    save_label(plain / "masks" / f"{name}.png", np.zeros((12, 11), np.uint8))
    refused(plain, rf"masks/{name}\.png: has 11 × 12 pixels, its image {name}\.png 10 × 12")


def test_a_mask_in_colours_is_refused(plain):
    name = split_names(NAMES)["train"][0]
    Image.new("RGB", (10, 12)).save(plain / "masks" / f"{name}.png")
    refused(plain, rf"{name}\.png: is a mask of mode RGB; expected")


@pytest.mark.parametrize("side", ["images", "masks"])
def test_a_picture_stored_rotated_is_refused(plain, side):
    """Whether its mask was drawn on the upright picture or on the stored one, no file tells."""
    name = split_names(NAMES)["train"][0]
    path = plain / side / f"{name}.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)
    refused(plain, rf"{side}/{name}\.png: is stored rotated \(EXIF orientation 3\)")


def test_an_unknown_label_is_refused_when_its_mask_is_read(plain):
    name = split_names(NAMES)["val"][0]
    write_pair(plain / "images", plain / "masks", name, values=(0, 1, 9))
    dataset = open_folder(plain, "val")
    with pytest.raises(DataError, match=rf"{name}\.png: .*unknown label 9; known are 0 background, 1 cat, 2 dog"):
        dataset.example(0)


def test_a_truncated_image_is_refused_when_it_is_read(plain):
    name = split_names(NAMES)["val"][0]
    path = plain / "images" / f"{name}.png"
    path.write_bytes(path.read_bytes()[:200])
    dataset = open_folder(plain, "val")
    with pytest.raises(DataError, match=rf"{name}\.png: cannot be read"):
        dataset.example(0)


def test_masks_of_0_and_255_alone_are_refused_for_want_of_a_class(plain):
    (plain / "classes.txt").unlink()
    for name in NAMES:
        write_pair(plain / "images", plain / "masks", name, values=(0, VOID))
    refused(plain, "masks: the masks hold no label but 0, 255; .*give objects the labels 1, 2")


@pytest.mark.parametrize("content", ["", "\n", "background\n", "a\n\nb\n", "x\n" * 256])
def test_class_names_that_make_no_sense_are_refused(plain, content):
    (plain / "classes.txt").write_text(content)
    refused(plain, r"classes\.txt: expected 2 to 255 class names")


def test_class_names_that_are_no_text_are_refused(plain):
    (plain / "classes.txt").write_bytes(b"caf\xe9\n\xff")
    refused(plain, r"classes\.txt: is not UTF-8 text")
