"""Weights from elsewhere: a file with the names of the common PyTorch port of FCN, loaded; and five bad ones, refused.

The file is made up here, for a small net; `minifcn predict PHOTO --weights FILE` takes real ones. Nothing is unpickled.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from minifcn import fcn, models, weights
from minifcn.random import stream

CLASSES = 5
folder = Path(tempfile.mkdtemp())


def tiny_fcn():
    return fcn.FCN(fcn.convolutionalize(models.tiny_vgg(10)), CLASSES, stride=32)


# What the port calls the layers: those of the backbone as we do, then score_fr and upscore, with a filter for each pair
# of classes. Only the diagonal of those is not zero, so the net keeps its one filter per class.
state = {name.removeprefix("backbone."): p.data for name, p in tiny_fcn().named_parameters() if "backbone" in name}
state["score_fr.weight"] = stream(0, "score").standard_normal((CLASSES, 128, 1, 1)).astype(np.float32)
state["score_fr.bias"] = np.zeros(CLASSES, np.float32)
bilinear = tiny_fcn().upsample["final"].weight.data[:1]  # (1, 1, 64, 64)
state["upscore.weight"] = np.eye(CLASSES, dtype=np.float32)[:, :, None, None] * bilinear

np.savez(folder / "port.npz", **state)
net = tiny_fcn()
pixels = weights.load(net, folder / "port.npz")
print("port.npz: loaded;", pixels)
assert (net.score["stride32"].weight.data == state["score_fr.weight"]).all()

np.savez(folder / "missing.npz", **{name: w for name, w in state.items() if not name.startswith("conv5")})
np.savez(folder / "extra.npz", **state, ema=np.zeros(1))
np.savez(folder / "misshapen.npz", **state | {"fc7.bias": np.zeros(3), "fc6.bias": np.zeros(2)})
Image.new("RGB", (8, 8)).save(folder / "photo.png")
(folder / "weights.pth").write_bytes(b"\x80\x04N.")  # a pickle
for name in ("missing.npz", "extra.npz", "misshapen.npz", "photo.png", "weights.pth"):
    try:
        weights.load(tiny_fcn(), folder / name)
    except weights.WeightsError as error:
        print("\n" + str(error).replace(f"{folder}/", ""))
