from fractions import Fraction

import pytest

from minifcn import fcn, models, nn


def rows(net, size, channels=3):
    return {row.name: row for row in fcn.inspect(net, size, channels)}


def test_lenets_table_is_the_papers():
    table = rows(models.lenet(10), (32, 32), channels=1)
    assert table["conv1"].output == (6, 28, 28)
    assert table["conv1"].parameters == 156  # LeCun et al. 1998: C1 has 156 parameters and 122,304 connections
    assert table["conv1"].flops == 2 * (122_304 - 6 * 28 * 28)  # their connections count the biases, too
    assert table["conv5"].parameters == 48_120  # C5
    assert table["fc6"].parameters == 10_164  # F6
    assert table["pool4"].receptive_field == (16, 16)
    assert table["pool4"].stride == (4, 4)
    assert table["conv5"].receptive_field == (32, 32)


def test_an_fcn_lists_scores_and_upsampling_with_the_stride_they_reach():
    net = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(11)), 11, stride=16, padding=1)
    table = rows(net, (128, 128))
    assert [name for name in table if not name.startswith("backbone")] == [
        "score.stride32", "upsample.stride32", "score.stride16", "upsample.final",
    ]  # fmt: skip
    assert table["upsample.stride32"].stride == (16, 16)
    assert table["upsample.final"].stride == (1, 1)
    assert table["upsample.final"].parameters == 11 * 32 * 32
    assert table["upsample.stride32"].flops == 2 * 11 * 4 * 4 * 3 * 3  # per class, 4×4 weights at 3×3 positions
    assert table["backbone.pool1"].offset == (Fraction(1, 2), Fraction(1, 2))


@pytest.mark.parametrize("padding", [None, 1])
@pytest.mark.parametrize("stride", [32, 16, 8, 4])
def test_the_final_scores_begin_where_the_final_crop_says(stride, padding):
    net = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(11)), 11, stride=stride, padding=padding)
    top, left = net.plan.offset
    assert rows(net, (128, 128))["upsample.final"].offset == (-top, -left)


def test_inspection_leaves_the_net_as_it_was():
    net = models.tiny_vgg(4).train()
    net["drop6"].eval()
    fcn.inspect(net, (64, 64), 3)
    with pytest.raises(ValueError, match="Flatten"):
        fcn.inspect(net, (70, 70), 3)
    assert [name for name, module in net.named_modules() if not module.training] == ["drop6"]
    assert all("forward" not in vars(module) for _, module in net.named_modules())


def test_a_layer_without_geometry_is_refused_by_name():
    class Mystery(nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(TypeError, match=r"Mystery has no window\(\)"):
        fcn.inspect(nn.Sequential(Mystery()), (8, 8), 1)
