"""From a classifier to a dense net with the same weights (FCN §3.1).

A fully connected layer on a C×H×W map is a convolution whose filters cover the whole map: K×(C·H·W) weights are
K filters of C×H×W, in the same order in memory. Run as a convolution, the layer takes larger maps, too, and gives
the classifier's answer for every patch of the image, sharing all computation where the patches overlap.
"""

from copy import deepcopy

from minifcn import nn


def convolutionalize(classifier: nn.Sequential) -> nn.Sequential:
    """Return the dense net that answers on every patch of an image what ``classifier`` answers on one.

    ``Flatten → Linear`` becomes a convolution with filters as large as the flattened map, every other ``Linear`` a
    1×1 convolution. Names and taps stay; the weights are copies. For nets that do not pad the equality is exact, to
    rounding: a classifier sees zeros around its patch where the dense net sees the patch's neighbours.

    Raises:
        TypeError: ``classifier`` is not an `nn.Sequential`, or one of its layers has no ``window()``.
        ValueError: a ``Linear`` takes another number of features than the ``Flatten`` before it gives.
    """
    if not isinstance(classifier, nn.Sequential):
        raise TypeError(f"convolutionalize: needs an nn.Sequential, whose order it can follow, got {type(classifier)}")
    classifier.window()  # refuses layers without geometry by name
    layers: dict[str, nn.Module] = {}
    flattened: tuple[int, int, int] | None = None
    for name, layer in classifier.named_children():
        if isinstance(layer, nn.Flatten):
            flattened = layer.shape
        elif isinstance(layer, nn.Linear):
            layers[name] = _as_convolution(name, layer, flattened)
            flattened = None
        else:
            layers[name] = deepcopy(layer)
    return nn.Sequential(layers, taps=classifier.taps)


def _as_convolution(name: str, linear: nn.Linear, flattened: tuple[int, int, int] | None) -> nn.Conv2d:
    """Return ``linear`` as a convolution; ``flattened`` is the (C, H, W) of the map before it, None behind 1×1 maps."""
    out_features, in_features = linear.weight.shape
    C, H, W = flattened or (in_features, 1, 1)
    if in_features != C * H * W:
        raise ValueError(
            f"convolutionalize: {name} takes {in_features} features, but the Flatten before it gives {C}×{H}×{W}"
        )
    with nn.init.blank():
        convolution = nn.Conv2d(C, out_features, (H, W), bias=linear.bias is not None)
    convolution.to(linear.weight.device)
    convolution.weight.data[...] = linear.weight.data.reshape(out_features, C, H, W)
    if linear.bias is not None and convolution.bias is not None:
        convolution.bias.data[...] = linear.bias.data
    return convolution
