"""Your own images: a folder of pictures and masks, or the layout of PASCAL VOC.

Either of::

    FOLDER/images/cat1.jpg             FOLDER/JPEGImages/2007_000032.jpg
    FOLDER/masks/cat1.png              FOLDER/SegmentationClass/2007_000032.png
    FOLDER/train.txt                   FOLDER/ImageSets/Segmentation/train.txt
    FOLDER/classes.txt                 FOLDER/classes.txt

An image (PNG or JPEG) and its mask (PNG) have the same name and size; a mask's pixels are class numbers, 255 for
void. ``train.txt``, ``val.txt`` and ``test.txt`` name the images of each split, one a line, without a suffix; where
none of them exists, the names' hashes split the images (see ``split_names``). ``classes.txt`` names the classes,
one a line: the first line is class 0, the background. Where it is missing, the masks tell which classes there are.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from minifcn.data.dataset import VOID, DataError, Example, Split, check_split, listed, split_names
from minifcn.data.pictures import check_mask_mode, load_image, load_label, read_header, values_of


class Layout(NamedTuple):
    """Where a folder keeps its images, its masks and the lists of its splits."""

    images: Path
    masks: Path
    lists: Path


class Pair(NamedTuple):
    """An example's two files."""

    image: Path
    mask: Path


class FolderDataset:
    """Images and masks in files, see ``open_folder``; they may differ in size, and are the same in every epoch."""

    channels = 3

    def __init__(self, pairs: Sequence[Pair], classes: Sequence[str], max_side: int | None = None) -> None:
        self.pairs = tuple(pairs)
        self.classes = tuple(classes)
        self.max_side = max_side

    def __len__(self) -> int:
        return len(self.pairs)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Read pair ``index``: image (3, H, W), label (H, W).

        Raises:
            DataError: a file is damaged, or the mask holds a label that is neither a class nor ``VOID``.
        """
        image, mask = self.pairs[index]
        return Example(load_image(image, self.max_side), load_label(mask, self.classes, self.max_side), image.stem)


def open_folder(
    path: str | Path, split: Split, *, max_side: int | None = None, classes: Sequence[str] | None = None
) -> FolderDataset:
    """Open one split of the folder ``path``, laid out in one of the two ways above.

    ``max_side``: larger pictures are reduced until their longer side has so many pixels, images smoothly, masks by
    taking the nearest pixel. ``classes``: names that take the place of ``classes.txt``.

    What the files' headers tell is checked now: each image has a mask of its size, and no file is too large. Pixels
    are read, and labels checked, when an example is asked for.

    Raises:
        DataError: the folder or a file in it cannot be used; the message says why and how to mend it.
    """
    check_split(split)
    root = Path(path)
    layout = _find_layout(root)
    images = _by_stem(layout.images, (".png", ".jpg", ".jpeg"))
    masks = _by_stem(layout.masks, (".png",))
    if not images:
        raise DataError(f"{layout.images}: holds no PNG or JPEG file; put the images there")

    if lists := _read_lists(layout.lists):
        if split not in lists:
            found = listed([f"{name}.txt" for name in lists])
            raise DataError(f"{layout.lists}: has no {split}.txt for the split asked for; found {found}")
        chosen = lists[split]
        pairs = _paired(chosen, images, masks, layout)
    else:
        everything = images.keys() | masks.keys()
        pairs = _paired(everything, images, masks, layout)
        try:
            chosen = split_names(everything)[split]
        except DataError as error:
            raise DataError(f"{layout.images}: {error}, or list them in {root / 'train.txt'} and so on") from None

    # All of them, so that a training does not end before its test images turn out to be unfit.
    for pair in pairs.values():
        _check_headers(pair)
    if classes is None:
        classes = _read_classes(root / "classes.txt") or _find_classes(layout.masks, masks.values())
    return FolderDataset([pairs[name] for name in chosen], classes, max_side)


def _find_layout(root: Path) -> Layout:
    """Tell which of the two layouts ``root`` has."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    for layout in (
        Layout(root / "images", root / "masks", root),
        Layout(root / "JPEGImages", root / "SegmentationClass", root / "ImageSets" / "Segmentation"),
    ):
        if layout.images.is_dir() and layout.masks.is_dir():
            return layout
    content = listed(sorted(entry.name for entry in root.iterdir())) or "nothing"
    raise DataError(
        f"{root}: expected the folders images and masks, or JPEGImages and SegmentationClass; found {content}"
    )


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the folder's files of these types by their names without suffix; other files are nobody's business."""
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in suffixes:
            twin = files.setdefault(file.stem, file)
            if twin is not file:
                raise DataError(f"{folder}: {twin.name} and {file.name} differ by their suffix only; rename one")
    return files


def _read_lists(folder: Path) -> dict[Split, list[str]]:
    """Return the names in those of train.txt, val.txt and test.txt that exist."""
    lists: dict[Split, list[str]] = {}
    for split in get_args(Split):
        file = folder / f"{split}.txt"
        if file.is_file():
            lists[split] = [line for line in _read_lines(file) if line]
            if not lists[split]:
                raise DataError(f"{file}: names no image; write one name a line, without its suffix")
    return lists


def _paired(
    names: Iterable[str], images: Mapping[str, Path], masks: Mapping[str, Path], layout: Layout
) -> dict[str, Pair]:
    """Return each name's two files; raise DataError for names that lack one."""
    names = sorted(names)
    if missing := [name for name in names if name not in masks]:
        raise DataError(
            f"{layout.masks}: has no mask for {len(missing)} of {len(names)} images; expected "
            + listed([f"{name}.png" for name in missing])
        )
    if missing := [name for name in names if name not in images]:
        raise DataError(
            f"{layout.images}: has no image for {len(missing)} of {len(names)} masks; expected "
            + listed([f"{name}.jpg or .png" for name in missing])
        )
    return {name: Pair(images[name], masks[name]) for name in names}


def _check_headers(pair: Pair) -> None:
    """Raise DataError where the headers tell that image and mask do not fit together."""
    image, mask = read_header(pair.image), read_header(pair.mask)
    check_mask_mode(pair.mask, mask.mode)
    for path, header in zip(pair, (image, mask), strict=True):
        # Turning a picture on loading would be right or wrong depending on how the mask was drawn, which no file tells.
        if header.orientation != 1:
            raise DataError(
                f"{path}: is stored rotated (EXIF orientation {header.orientation}); "
                "save image and mask upright, without that tag"
            )
    if (image.width, image.height) != (mask.width, mask.height):
        raise DataError(
            f"{pair.mask}: has {mask.width} × {mask.height} pixels, its image {pair.image.name} "
            f"{image.width} × {image.height}; save the mask in the image's size"
        )


def _read_classes(file: Path) -> list[str]:
    """Return the names in classes.txt, or none where it does not exist."""
    if not file.is_file():
        return []
    names = _read_lines(file)
    while names and not names[-1]:
        names.pop()
    if not 2 <= len(names) <= VOID or "" in names:
        raise DataError(
            f"{file}: expected 2 to {VOID} class names, one on each line, the background's first; got {listed(names)}"
        )
    return names


def _find_classes(folder: Path, masks: Iterable[Path]) -> list[str]:
    """Return names for the classes 0 … the largest label in any mask."""
    values = {value for mask in masks for value in values_of(load_label(mask))}
    largest = max(values - {VOID}, default=0)
    if largest == 0:
        raise DataError(
            f"{folder}: the masks hold no label but {listed(sorted(values))}; 0 is background and {VOID} is void, "
            "so give objects the labels 1, 2, … or name the classes in classes.txt"
        )
    return ["background", *(f"class {value}" for value in range(1, largest + 1))]


def _read_lines(file: Path) -> list[str]:
    """Return the lines of a text file, without the white space around them."""
    try:
        return [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text ({error.reason}); save it as such") from None
