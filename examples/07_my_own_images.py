"""How do I train on my own images? Four of them are made up here; yours need the same two folders."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from minifcn import data, fcn, models, training

folder = Path(tempfile.mkdtemp())
for kind in ("images", "masks"):
    (folder / kind).mkdir()
for number in range(4):
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 10 * number : 30 + 10 * number] = 1
    Image.fromarray(mask).save(folder / f"masks/{number}.png")
    Image.fromarray(90 + 100 * np.stack([mask] * 3, axis=2)).save(folder / f"images/{number}.png")
(folder / "classes.txt").write_text("background\nbox\n")

train_set = data.open_folder(folder, "train")
print(len(train_set), train_set.classes)
net = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(2)), 2, stride=8)
config = training.TrainConfig(steps=2, lr=0.05)
training.Trainer(net, train_set, config, folder / "run").run()
print([path.name for path in training.checkpoint.checkpoints(folder / "run")])
