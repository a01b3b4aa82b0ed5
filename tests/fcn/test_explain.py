"""What `explain` says about the released nets, and about others."""

import re

import pytest

from minifcn import fcn, models, nn
from minifcn.fcn.geometry import GeometryError, explain, minimum_padding


def full_size(classifier, stride, padding=100):
    with nn.init.blank():
        return fcn.FCN(fcn.convolutionalize(classifier(21)), 21, stride=stride, padding=padding)


def small(stride, **options):
    with nn.init.blank():
        return fcn.FCN(fcn.convolutionalize(models.tiny_vgg(4)), 4, stride=stride, **options)


@pytest.mark.parametrize(
    ("classifier", "stride", "crops", "minimum"),
    [
        (models.vgg16, 32, [19], 97),
        (models.vgg16, 16, [5, 27], 97),
        (models.vgg16, 8, [5, 9, 31], 97),
        (models.alexnet, 32, [18], 99),
    ],
)
def test_the_crops_of_the_released_nets_are_explained(classifier, stride, crops, minimum):
    net = full_size(classifier, stride)
    text = explain(net, 500)
    *skips, final = crops
    assert [int(shift) for shift in re.findall(r"→ pool\d +x \+ \d+: crop pool\d at (\d+)", text)] == skips
    assert f"image → scores          x + {final}\n  pixel 0 lies at {final}: crop there, 500×500 of " in text
    assert text.endswith(f"all their scores is {minimum}.")


def test_each_layer_has_its_window_size_and_map():
    text = explain(full_size(models.vgg16, 8), 500)
    assert "conv1_1  k=3 p=100  698×698  x + 99\n" in text  # 500 + 2·100 − 2; 100 − (3 − 1)/2
    assert "pool1    k=2 s=2    349×349  x/2 + 197/4\n" in text  # (99 − 1/2)/2
    assert "drop7    none       16×16    x/32 − 25/64    scored, stride 32\n" in text
    assert "568×568" in text  # 8·(70 − 1) + 16


def test_a_map_that_begins_outside_is_cropped_itself():
    backbone = nn.Sequential(
        {"conv": nn.Conv2d(1, 1, 3, padding=1), "pool": nn.MaxPool2d(2), "fc": nn.Conv2d(1, 1, 3, padding=1)},
        taps={1: ("conv", 1), 2: ("fc", 1)},
    )
    text = explain(fcn.FCN(backbone, 2, stride=1), 9)
    assert re.search(r"scores → conv +x − 1: crop the upsampled scores at 1", text)


def test_height_and_width_are_told_apart_where_they_differ():
    backbone = nn.Sequential({"conv": nn.Conv2d(1, 1, (3, 5)), "pool": nn.MaxPool2d(2)}, taps={2: ("pool", 1)})
    text = explain(fcn.FCN(backbone, 2, stride=2), (8, 9))
    assert re.search(r"conv +k=3×5 p=3 +12×11 +height x \+ 2, width x \+ 1", text)


def test_branches_are_one_row():
    with nn.init.blank():
        net = fcn.FCN(fcn.convolutionalize(models.googlenet(21)), 21, stride=16)
    assert re.search(r"inception4e +branches +\d+×\d+ +x/16 \+ 1/16 +scored, stride 16", explain(net, 224))


@pytest.mark.parametrize("size", [0, (5, 0), 1.5, (1, 2, 3)])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises((TypeError, ValueError), match="size must be"):
        explain(small(32), size)


@pytest.mark.parametrize("ask", [minimum_padding, lambda net: explain(net, 64)])
def test_what_is_no_fcn_is_refused(ask):
    with pytest.raises(TypeError, match=r"Sequential has no plan of skips and crops: give an fcn\.FCN"):
        ask(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_the_smallest_padding_is_that_of_the_net_and_its_upsampling():
    for stride in (32, 16, 8, 4, 2):
        net = small(stride)
        assert net.backbone["conv1_1"].padding == (minimum_padding(net),) * 2 == (17, 17)
    assert minimum_padding(small(32), [64, 96]) == 1
    assert minimum_padding(small(8, padding=40)) == 17


def test_a_net_that_pads_too_little_is_refused_with_the_smallest_padding_that_works():
    with pytest.raises(GeometryError, match=r"begin 1 pixels inside.*by 1 more, or by 17 in all, the smallest"):
        small(32, padding=0)
    with pytest.raises(GeometryError, match=r"begin 80 pixels .*by 80 more, or by 97 in all, the smallest"):
        full_size(models.vgg16, 32, padding=1)


def test_an_image_that_the_net_does_not_cover_is_not_explained():
    with pytest.raises(GeometryError, match=r"images of 20×40 leave pixels without a score.*padding=17"):
        explain(small(32, padding=1), (20, 40))
