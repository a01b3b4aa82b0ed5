"""The same net in PyTorch: a walk over our layers that makes PyTorch's, with the same weights."""

from typing import Any

import torch

from minifcn import fcn, nn


class Twin(torch.nn.Module):
    """A `fcn.FCN` in PyTorch."""

    def __init__(self, net: fcn.FCN) -> None:
        super().__init__()
        self.taps, self.plan = net.taps, net.plan
        self.parts = torch.nn.ModuleDict(
            {name: sequential(getattr(net, name)) for name in ("backbone", "score", "upsample")}
        )
        ours = dict(net.named_parameters())
        for name, parameter in self.parts.named_parameters():
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(ours[name].data))
            parameter.requires_grad_(ours[name].lr_multiplier > 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what `fcn.FCN.forward` computes, op for op."""
        parts = self.parts
        H, W = x.shape[2:]
        tapped = {name: stride for stride, name in self.taps.items()}
        maps = {}
        for name, layer in parts["backbone"].named_children():
            x = layer(x)
            if name in tapped:
                maps[tapped[name]] = x
        coarsest, *_ = self.taps
        scores = parts["score"].get_submodule(f"stride{coarsest}")(maps[coarsest])
        for coarse, fusion in zip(self.taps, self.plan.fusions, strict=False):
            up = parts["upsample"].get_submodule(f"stride{coarse}")(scores)
            fine = parts["score"].get_submodule(f"stride{fusion.stride}")(maps[fusion.stride])
            up, fine = crop(up, fusion.coarse_offset), crop(fine, fusion.fine_offset)
            h, w = min(up.shape[2], fine.shape[2]), min(up.shape[3], fine.shape[3])
            scores = up[:, :, :h, :w] + fine[:, :, :h, :w]
        return crop(parts["upsample"].get_submodule("final")(scores), self.plan.offset)[:, :, :H, :W]


def crop(x: torch.Tensor, offset: tuple[int, int]) -> torch.Tensor:
    """Cut off what lies above and left of ``offset``."""
    return x[:, :, offset[0] :, offset[1] :]


def sequential(layers: nn.Sequential) -> torch.nn.Sequential:
    """Translate the layers of an FCN, one by one."""
    made = torch.nn.Sequential()
    for name, layer in layers.named_children():
        made.add_module(name, translate(layer))
    return made


def translate(layer: nn.Module) -> torch.nn.Module:
    """Return the layer that PyTorch has for ours."""
    match layer:
        case nn.Conv2d(weight=w):
            options: dict[str, Any] = {
                name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")
            }
            ins = w.shape[1] * layer.groups
            return torch.nn.Conv2d(ins, w.shape[0], w.shape[2:], bias=layer.bias is not None, **options)
        case nn.ConvTranspose2d(weight=w):
            options = {
                name: getattr(layer, name) for name in ("stride", "padding", "output_padding", "dilation", "groups")
            }
            outs = w.shape[1] * layer.groups
            return torch.nn.ConvTranspose2d(w.shape[0], outs, w.shape[2:], bias=layer.bias is not None, **options)
        case nn.MaxPool2d():
            return torch.nn.MaxPool2d(
                layer.kernel_size, layer.stride, layer.padding, layer.dilation, ceil_mode=layer.ceil_mode
            )
        case nn.ReLU():
            return torch.nn.ReLU(inplace=True)
        case nn.Dropout():
            return torch.nn.Dropout(layer.p)
    raise TypeError(f"no translation for {type(layer).__name__}")
