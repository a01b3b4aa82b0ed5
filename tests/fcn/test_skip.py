import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, fcn, models, nn, no_grad, ops
from minifcn.fcn.geometry import GeometryError
from minifcn.random import stream


def narrow_backbone(channels=2):
    """Five blocks of 3×3 convolution and 2×2 pool, then a 2×2 layer: TinyVGG's plan with as few channels as can be."""
    layers, taps = {}, {}
    width = 1
    for block in range(1, 6):
        layers[f"conv{block}"] = nn.Conv2d(width, channels, 3, padding=1, rng=stream(0, block))
        layers[f"pool{block}"] = nn.MaxPool2d(2, ceil_mode=True)
        taps[2**block] = (f"pool{block}", channels)
        width = channels
    layers["fc6"] = nn.Conv2d(channels, channels, 2, rng=stream(0, 6))
    return nn.Sequential(layers, taps=taps | {32: ("fc6", channels)})


def image(*shape, seed=0):
    return Tensor(stream(seed, "image").standard_normal(shape).astype(np.float32))


def fill(net, seed=0):
    """Give every parameter random values: score layers that are zero would hide what flows through them."""
    for name, parameter in net.named_parameters():
        parameter.data = stream(seed, name).standard_normal(parameter.shape).astype(np.float32)


@pytest.mark.parametrize("stride", [32, 16, 8, 4, 2])
def test_scores_have_exactly_the_size_of_the_image(stride):
    net = fcn.FCN(narrow_backbone(), 3, stride=stride)
    with no_grad():
        for side in range(1, 201, 1 if stride >= 8 else 13):
            height, width = side, 201 - side
            assert net(image(1, 1, height, width)).shape == (1, 3, height, width)


def test_at_vggs_geometry_the_crops_are_those_of_the_released_nets():
    layers, taps = {}, {}
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(convolutions):
            layers[f"conv{block}_{i + 1}"] = nn.Conv2d(1, 1, 3, padding=1)
        layers[f"pool{block}"] = nn.MaxPool2d(2, ceil_mode=True)
        taps[2**block] = (f"pool{block}", 1)
    layers["fc6"] = nn.Conv2d(1, 1, 7)
    backbone = nn.Sequential(layers, taps=taps | {32: ("fc6", 1)})

    def crops(stride):
        plan = fcn.FCN(backbone, 1, stride=stride, padding=100).plan
        return [fusion.fine_offset for fusion in plan.fusions] + [plan.offset]

    assert crops(32) == [(19, 19)]
    assert crops(16) == [(5, 5), (27, 27)]
    assert crops(8) == [(5, 5), (9, 9), (31, 31)]


def test_a_new_net_scores_zero_everywhere_and_its_skips_change_nothing():
    backbone = narrow_backbone()
    coarse = fcn.FCN(backbone, 3, stride=32)
    assert not coarse(image(1, 1, 40, 50)).data.any()
    fill(coarse)
    fine = fcn.FCN(narrow_backbone(), 3, stride=16).start_from(coarse)
    before = fine(image(1, 1, 40, 50)).data
    fine.score["stride16"].bias.data = np.ones(3, np.float32)
    np.testing.assert_allclose(fine(image(1, 1, 40, 50)).data - before, 1, rtol=1e-4)


class WithoutSkips(fcn.FCN):
    def fuse(self, coarse, fine, fusion):
        return coarse


@given(
    stride=st.sampled_from([16, 8, 4, 2]),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    classes=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_a_zero_initialised_skip_leaves_the_output_unchanged(stride, size, classes, seed):
    coarse = fcn.FCN(narrow_backbone(), classes, stride=32)
    fill(coarse, seed)
    x = image(2, 1, *size, seed=seed)
    with_skips, without = (
        make(narrow_backbone(), classes, stride=stride).start_from(coarse)(x).data for make in (fcn.FCN, WithoutSkips)
    )
    np.testing.assert_array_equal(with_skips, without)
    assert with_skips.any()


@pytest.mark.parametrize("stride", [8, 4])
def test_with_odd_kernels_a_finer_net_starts_as_the_coarser_one(stride):
    """Interpolating by 2 and then by f is interpolating by 2f, where the middle of the filter is a pixel."""
    layers = {
        "conv": nn.Conv2d(1, 2, 3, stride=2, padding=1, rng=stream(0, 1)),
        "pool": nn.MaxPool2d(3, stride=2),
        "conv2": nn.Conv2d(2, 2, 3, stride=2, padding=1, rng=stream(0, 2)),
        "fc": nn.Conv2d(2, 2, 3, stride=2, rng=stream(0, 3)),
    }
    backbone = nn.Sequential(layers, taps={4: ("pool", 2), 8: ("conv2", 2), 16: ("fc", 2)})
    coarse = fcn.FCN(backbone, 3, stride=16, padding=60)
    fine = fcn.FCN(backbone, 3, stride=stride, padding=60).start_from(coarse)
    assert coarse.plan.upsample.kernel == (31, 31)
    coarse.score["stride16"].weight.data = stream(0, "score").standard_normal((3, 2, 1, 1)).astype(np.float32)
    fine.start_from(coarse)
    x = image(1, 1, 60, 70)
    np.testing.assert_allclose(fine(x).data, coarse(x).data, rtol=1e-4, atol=1e-5)
    assert np.ptp(coarse(x).data) > 0.1


@given(coarse=st.integers(1, 5), fine=st.integers(1, 5), classes=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_to_concatenate_and_score_is_to_score_and_sum(coarse, fine, classes, seed):
    """A 1×1 convolution of joined features is the sum of one for each part: both are linear."""
    draw = stream(seed, "features").standard_normal
    x, y = Tensor(draw((2, coarse, 4, 3))), Tensor(draw((2, fine, 4, 3)))
    w, b = draw((classes, coarse + fine, 1, 1)), Tensor(draw(classes))
    joined = ops.conv2d(ops.cat([x, y], dim=1), Tensor(w), b)
    summed = ops.conv2d(x, Tensor(w[:, :coarse].copy()), b) + ops.conv2d(y, Tensor(w[:, coarse:].copy()))
    np.testing.assert_allclose(joined.data, summed.data, rtol=1e-12, atol=1e-12)


def test_a_finer_net_starts_with_all_parameters_of_the_coarser_one():
    sixteen = fcn.FCN(narrow_backbone(), 3, stride=16, upsampling="learned")
    fill(sixteen)
    eight = fcn.FCN(narrow_backbone(), 3, stride=8, upsampling="learned").start_from(sixteen)
    theirs, mine = dict(sixteen.named_parameters()), dict(eight.named_parameters())
    for name in theirs.keys() - {"upsample.final.weight"}:
        np.testing.assert_array_equal(mine[name].data, theirs[name].data)
        assert not np.shares_memory(mine[name].data, theirs[name].data)
    assert not mine["score.stride8.weight"].data.any()


def test_a_net_does_not_start_from_a_finer_one():
    eight = fcn.FCN(narrow_backbone(), 3, stride=8)
    with pytest.raises(ValueError, match="the other net's finest stride, 8, must not be finer"):
        fcn.FCN(narrow_backbone(), 3, stride=16).start_from(eight)


def test_a_net_does_not_start_from_one_of_other_classes():
    eight = fcn.FCN(narrow_backbone(), 3, stride=8)
    with pytest.raises(ValueError, match=r"score\.stride16"):
        eight.start_from(fcn.FCN(narrow_backbone(), 4, stride=16))


def test_final_upsampling_is_fixed_and_intermediate_upsampling_is_learned_on_request():
    def trained(net):
        return {name for name, p in net.named_parameters() if name.startswith("upsample") and p.requires_grad}

    assert trained(fcn.FCN(narrow_backbone(), 3, stride=8)) == set()
    learned = fcn.FCN(narrow_backbone(), 3, stride=8, upsampling="learned")
    assert trained(learned) == {"upsample.stride32.weight", "upsample.stride16.weight"}


def test_fixed_and_untrained_learned_upsampling_agree():
    fixed = fcn.FCN(narrow_backbone(), 3, stride=8)
    learned = fcn.FCN(narrow_backbone(), 3, stride=8, upsampling="learned")
    for net in (fixed, learned):
        for name, parameter in net.named_parameters():
            if not name.startswith("upsample"):
                parameter.data = stream(1, name).standard_normal(parameter.shape).astype(np.float32)
    x = image(1, 1, 33, 70)
    np.testing.assert_allclose(fixed(x).data, learned(x).data, rtol=1e-4, atol=1e-4)


def test_every_trained_parameter_gets_a_gradient():
    net = fcn.FCN(narrow_backbone(), 3, stride=8, upsampling="learned")
    fill(net)
    net(image(2, 1, 40, 33)).sum().backward()
    assert {name for name, p in net.named_parameters() if p.grad is None} == {"upsample.final.weight"}


class Halving(nn.Module):
    """A user's own layer: every second pixel, which is what a 1×1 window of stride 2 sees."""

    def forward(self, x):
        return x[:, :, ::2, ::2]

    def window(self):
        return nn.Window(1, 2)


def test_a_backbone_of_ones_own_works_with_layers_of_ones_own():
    backbone = nn.Sequential(
        {
            "stem": nn.Conv2d(1, 4, 5, stride=2, padding=2),
            "halve": Halving(),
            "pool": nn.AvgPool2d(3, stride=2, padding=1),
        },
        taps={2: ("stem", 4), 4: ("halve", 4), 8: ("pool", 4)},
    )
    for stride in (8, 4, 2):
        net = fcn.FCN(backbone, 2, stride=stride)
        with no_grad():
            for side in range(1, 40):
                assert net(image(1, 1, side, 40 - side)).shape == (1, 2, side, 40 - side)


def test_the_given_backbone_keeps_its_padding_and_shares_its_parameters():
    backbone = narrow_backbone()
    net = fcn.FCN(backbone, 2, padding=50)
    assert backbone["conv1"].padding == (1, 1)
    assert net.backbone["conv1"].padding == (50, 50)
    assert net.backbone["conv1"].weight is backbone["conv1"].weight


class Mystery(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("backbone", "options", "error", "message"),
    [
        (models.tiny_vgg(2), {}, TypeError, r"flatten takes one size only; pass fcn\.convolutionalize"),
        (narrow_backbone(), {"stride": 5}, ValueError, "stride must be one of the backbone's taps .*got 5"),
        (nn.Sequential(nn.ReLU()), {}, TypeError, "taps="),
        (nn.ReLU(), {}, TypeError, "nn.Sequential"),
        (narrow_backbone(), {"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        (narrow_backbone(), {"upsampling": "cubic"}, ValueError, "'fixed' or 'learned', got 'cubic'"),
        (nn.Sequential({"m": Mystery()}, taps={1: ("m", 1)}), {"stride": 1}, TypeError, r"Mystery has no window\(\)"),
        (
            nn.Sequential({"pool": nn.MaxPool2d(2)}, taps={2: ("pool", 1)}),
            {"stride": 2},
            TypeError,
            "must be an nn.Conv2d, which can pad the image, got pool: MaxPool2d",
        ),
    ],
)
def test_what_cannot_become_an_fcn_is_refused_with_the_reason(backbone, options, error, message):
    with pytest.raises(error, match=message):
        fcn.FCN(backbone, **{"num_classes": 2, **options})


def test_too_little_padding_is_refused_with_the_remedy():
    with pytest.raises(GeometryError, match="pad the first layer by"):
        fcn.FCN(narrow_backbone(), 2, padding=0, stride=32).plan  # noqa: B018
    with pytest.raises(ValueError, match=r"images of 20×40 leave pixels without a score.*larger images.*padding=17"):
        fcn.FCN(narrow_backbone(), 2, padding=1)(image(1, 1, 20, 40))


def test_an_image_without_pixels_is_refused_as_such():
    with pytest.raises(GeometryError, match="at least 1×1 pixels, got 0×30"):
        fcn.FCN(narrow_backbone(), 2)(image(1, 1, 0, 30))


@pytest.mark.parametrize(
    ("layers", "stride", "named"),
    [
        ({"mix": nn.Conv2d(3, 2, 1), "pool": nn.MaxPool2d(2, ceil_mode=True)}, 2, "pool: MaxPool2d"),
        ({"mix": nn.Conv2d(3, 2, 1)}, 1, "none"),
    ],
)
def test_a_backbone_whose_first_window_cannot_pad_the_image_is_refused_by_name(layers, stride, named):
    *_, last = layers
    with pytest.raises(TypeError, match=f"must be an nn.Conv2d, which can pad the image, got {named}"):
        fcn.FCN(nn.Sequential(layers, taps={stride: (last, 2)}), 3, stride=stride)
