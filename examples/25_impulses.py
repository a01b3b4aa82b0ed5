"""FCN §4.2: is a score over its pixel? Send an impulse back from it, and see which pixels of the image move it.

The net has VGG16's windows, one channel, average pools and filters that are symmetric and positive: so what moves a
score is a bump around the score's place, and its centre of mass *is* the place. With the crop of another padding the
bump is elsewhere: no shape tells, but this does.
"""

from dataclasses import replace

import numpy as np
from experiment import folder_of, report

from minifcn import Tensor, fcn, nn, pictures

SIDE, PIXEL = 500, (262, 237)
PADDING = 98  # the smallest that is enough: VGG16's 97, and one more for a 5×5 in place of two 3×3


def backbone():
    """VGG16's blocks, their two or three 3×3 convolutions as one of 5×5 or 7×7."""
    layers, taps = {}, {}
    for block, kernel in enumerate((5, 5, 7, 7, 7), start=1):
        layers[f"conv{block}"] = nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False)
        layers[f"pool{block}"] = nn.AvgPool2d(2, ceil_mode=True)
        taps[2**block] = f"pool{block}", 1
    layers["fc6"] = nn.Conv2d(1, 1, 7, bias=False)
    for layer in layers.values():
        for weight in layer.parameters():
            rise = 1.0 + np.minimum(np.arange(weight.shape[2]), np.arange(weight.shape[2])[::-1])
            weight.data = (np.outer(rise, rise) / rise.sum() ** 2)[None, None].astype(np.float32)
    return nn.Sequential(layers, taps=taps | {32: ("fc6", 1)})


def response(net):
    """Return how far each pixel of the image moves the score of PIXEL: ∂score/∂image."""
    x = Tensor(np.zeros((1, 1, SIDE, SIDE), np.float32), requires_grad=True)
    net(x)[:, :, PIXEL[0] : PIXEL[0] + 1, PIXEL[1] : PIXEL[1] + 1].sum().backward()
    return x.grad[0, 0].astype(np.float64)


def main() -> None:
    rows, columns = [], []
    for stride, released in ((32, 19), (16, 27), (8, 31)):
        net = fcn.FCN(backbone(), 1, stride=stride, padding=PADDING)
        for _, layer in net.score.named_children():
            layer.weight.data = np.ones_like(layer.weight.data)
        moved, derived = response(net), net.plan.offset[0]
        columns.append(bump(moved))
        net.plan = replace(net.plan, offset=(released, released))  # three pixels more of padding
        rows.append((f"FCN-{stride}s", derived, place(moved), released, place(response(net))))
    titles = ["FCN-32s", "FCN-16s", "FCN-8s"]
    pictures.grid([columns], titles).save(folder_of("impulses") / "bumps.png")
    header = (
        "net",
        "crop derived",
        f"what moves the score of {PIXEL}",
        "crop of the released net",
        "what moves it",
    )
    report("impulses", header, rows)


def place(moved):
    """Return the centre of mass of what moves a score."""
    rows, columns = np.indices(moved.shape)
    return f"({(moved * rows).sum() / moved.sum():.1f}, {(moved * columns).sum() / moved.sum():.1f})"


def bump(moved):
    """Draw the pixels around PIXEL, which is where two lines cross, as heat."""
    H, W = moved.shape
    picture = pictures.heat(moved / moved.max(), (H, W))
    picture[PIXEL[0]], picture[:, PIXEL[1]] = (80, 160, 255), (80, 160, 255)
    return np.ascontiguousarray(picture[PIXEL[0] - 150 : PIXEL[0] + 150, PIXEL[1] - 150 : PIXEL[1] + 150])


if __name__ == "__main__":
    main()
