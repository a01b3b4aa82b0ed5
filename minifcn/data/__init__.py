"""Data: scenes of digits or shapes, folders of images and masks, augmentation, masks and depth, labels as colours."""

from minifcn.data import digits, folder, shapes
from minifcn.data.augment import Augmented
from minifcn.data.dataset import VOID, DataError, Dataset, Example, Split, order
from minifcn.data.digits import DigitScenes, digit_crops
from minifcn.data.folder import FolderDataset, open_folder
from minifcn.data.palette import PALETTE, overlay, save_label
from minifcn.data.pictures import load_image, to_input, to_picture
from minifcn.data.shapes import ShapeScenes, shape_crops
from minifcn.data.views import Masked, View, WithDepth

__all__ = [
    "PALETTE",
    "VOID",
    "Augmented",
    "DataError",
    "Dataset",
    "DigitScenes",
    "Example",
    "FolderDataset",
    "Masked",
    "ShapeScenes",
    "Split",
    "View",
    "WithDepth",
    "digit_crops",
    "digits",
    "folder",
    "load_image",
    "open_folder",
    "order",
    "overlay",
    "save_label",
    "shape_crops",
    "shapes",
    "to_input",
    "to_picture",
]
