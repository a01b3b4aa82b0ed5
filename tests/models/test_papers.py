"""The classifiers have the sizes that their papers, and the FCN paper's table, give."""

import numpy as np
import pytest

from minifcn import Tensor, fcn, models, nn, no_grad, ops
from minifcn.random import stream


def blank(make, *arguments, **options):
    with nn.init.blank():
        return make(*arguments, **options)


def dense(classifier):
    """The FCN-32s of FCN §4.1, with VOC's 21 classes."""
    return blank(lambda: fcn.FCN(fcn.convolutionalize(classifier(21)), 21))


# FCN §4.1, the table of the three classifiers made dense: conv. layers, parameters in millions, max stride.
@pytest.mark.parametrize(
    ("classifier", "conv_layers", "millions", "receptive_field"),
    [
        (models.alexnet, 8, 57, 355),
        (models.vgg16, 16, 134, 404),
        # The paper says 907. That counts the 7×7 average pool, which it drops: 715 + 6·32 = 907.
        (models.googlenet, 22, 6, 715),
    ],
)
def test_the_papers_table_of_dense_nets(classifier, conv_layers, millions, receptive_field):
    summary = fcn.summarize(dense(classifier))
    assert summary.conv_layers == conv_layers
    assert round(summary.parameters / 1e6) == millions
    assert summary.receptive_field == (receptive_field, receptive_field)
    assert summary.max_stride == (32, 32)


def test_googlenets_receptive_field_with_its_average_pool_is_the_papers():
    classifier = blank(models.googlenet, 1000)
    assert fcn.summarize(classifier).receptive_field == (907, 907)
    assert fcn.summarize(fcn.convolutionalize(classifier)).receptive_field == (907, 907)


@pytest.mark.parametrize(
    ("make", "options", "parameters"),
    [
        # Conv1 … conv5 and the wide layers, weights and biases, added up by hand from the papers' tables.
        (models.alexnet, {}, 34_944 + 307_456 + 885_120 + 663_936 + 442_624 + 37_752_832 + 16_781_312 + 4_097_000),
        (models.alexnet, {"towers": 1}, 23_296 + 307_392 + 663_936 + 884_992 + 590_080 + 58_631_144),
        (models.vgg16, {}, 14_714_688 + 102_764_544 + 16_781_312 + 4_097_000),
        (models.googlenet, {}, 6_998_552),  # of the net that was trained with Caffe
    ],
)
def test_parameters_of_a_thousand_classes(make, options, parameters):
    assert nn.parameter_count(blank(make, 1000, **options)) == parameters


def outputs(net, side):
    return {row.name: row.output for row in fcn.inspect(net, (side, side), 3)}


def test_maps_have_the_sizes_of_the_papers():
    alexnet = outputs(blank(models.alexnet, 1000), 227)
    assert [alexnet[name] for name in ("conv1", "pool1", "conv2", "pool2", "conv5", "pool5", "fc6", "score")] == [
        (96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13), (256, 13, 13), (256, 6, 6), (4096,), (1000,),
    ]  # fmt: skip
    one_tower = outputs(blank(models.alexnet, 1000, towers=1), 224)
    assert [one_tower[name] for name in ("conv1", "pool1", "pool2", "pool5")] == [
        (64, 55, 55), (64, 27, 27), (192, 13, 13), (256, 6, 6),
    ]  # fmt: skip
    vgg16 = outputs(blank(models.vgg16, 1000), 224)
    assert [vgg16[f"pool{block}"][1] for block in (1, 2, 3, 4, 5)] == [112, 56, 28, 14, 7]
    googlenet = outputs(blank(models.googlenet, 1000), 224)
    names = ("conv1", "pool1", "conv2", "pool2", "inception3a", "inception3b", "pool3", "inception4a", "inception4e")
    assert [googlenet[name] for name in (*names, "pool4", "inception5b", "pool5")] == [
        (64, 112, 112), (64, 56, 56), (192, 56, 56), (192, 28, 28), (256, 28, 28), (480, 28, 28), (480, 14, 14),
        (512, 14, 14), (832, 14, 14), (832, 7, 7), (1024, 7, 7), (1024, 1, 1),
    ]  # fmt: skip


def test_inspection_lists_the_layers_of_every_branch_and_counts_each_once():
    net = blank(models.googlenet, 1000)
    rows = {row.name: row for row in fcn.inspect(net, (224, 224), 3)}
    assert rows["inception3a.five.conv5x5"].output == (32, 28, 28)
    assert rows["inception3a.five.conv5x5"].receptive_field == (59, 59)  # 7, 11, 19, 27 before it, + 4·8
    assert rows["inception3a.three.conv1x1"].receptive_field == (27, 27)
    assert rows["inception3a"].kind == "Parallel"
    assert "inception3a.five" not in rows
    assert sum(row.parameters for row in rows.values()) == nn.parameter_count(net)
    # Szegedy et al.: about 1.5 billion multiply-adds.
    assert sum(row.flops for row in rows.values()) / 2 == pytest.approx(1.5e9, rel=0.1)


@pytest.mark.parametrize("towers", [0, 3, "2"])
def test_alexnet_has_one_tower_or_two(towers):
    with pytest.raises(ValueError, match="towers must be 2"):
        models.alexnet(10, towers=towers)


def test_the_towers_of_alexnet_do_not_see_each_other_in_conv2():
    net = models.alexnet(10)
    x = stream(0, "x").standard_normal((1, 96, 9, 9)).astype(np.float32)
    with no_grad():
        before = net["conv2"](Tensor(x)).data
        x[:, 48:] += 1
        after = net["conv2"](Tensor(x)).data
    np.testing.assert_array_equal(before[:, :128], after[:, :128])
    assert (before[:, 128:] != after[:, 128:]).any()


def test_an_inception_module_is_its_branches_side_by_side():
    module = models.googlenet(10)["inception3a"]
    x = Tensor(stream(0, "x").standard_normal((1, 192, 6, 7)).astype(np.float32))
    with no_grad():
        y = module(x).data
        one = ops.relu(ops.conv2d(x, module.one.conv1x1.weight, module.one.conv1x1.bias))
        reduced = ops.relu(ops.conv2d(x, module.five.conv1x1.weight, module.five.conv1x1.bias))
        five = ops.relu(ops.conv2d(reduced, module.five.conv5x5.weight, module.five.conv5x5.bias, padding=2))
        pooled = ops.max_pool2d(x, 3, stride=1, padding=1)
        pool = ops.relu(ops.conv2d(pooled, module.pool.conv1x1.weight, module.pool.conv1x1.bias))
    assert y.shape == (1, 256, 6, 7)
    for part, expected in ((y[:, :64], one), (y[:, 192:224], five), (y[:, 224:], pool)):
        np.testing.assert_allclose(part, expected.data, rtol=1e-5, atol=1e-6)
