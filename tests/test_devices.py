"""Tensors, nets and trainings on a GPU: the same numbers as on the CPU, and nothing moved that nobody moved."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

import fake_cupy
from backends import needs_emulator
from minifcn import Tensor, cli, detect_anomaly, fcn, models, nn, ops
from minifcn.nn.module import device_of
from minifcn.random import stream
from minifcn.training import checkpoint
from minifcn_kernels.cuda import device
from minifcn_kernels.cuda.samples import KERNELS, samples
from minifcn_kernels.dispatch import Policy, use_backend, use_policy
from tiny_training import CLASSES, tiny_trainer


def on_gpu(array):
    return device.to_device(array, "cuda")


def on_cpu(array):
    return device.to_device(array, "cpu")


def values(*shape):
    return stream(len(shape), "devices").uniform(0.5, 2, shape).astype(np.float32)


def test_the_fake_gpu_has_nothing_that_cupy_has_not():
    real, fake = pytest.importorskip("cupy", reason="CuPy is not installed"), fake_cupy.fake_module()
    for theirs, ours in (
        (real, fake),
        (real.cuda, fake.cuda),
        (real.cuda.runtime, fake.cuda.runtime),
        (real.cuda.compiler, fake.cuda.compiler),
        (real.cuda.Device, fake.cuda.Device),
    ):
        assert {name for name in vars(ours) if not name.startswith("__")} <= set(dir(theirs))
    for name in ("max_threads_per_block", "shared_size_bytes", "max_dynamic_shared_size_bytes"):
        assert hasattr(real.RawKernel, name)
    # CuPy's attributes are the runtime's constants of these names.
    assert {f"cudaDevAttr{name}" for name in fake_cupy.Device().attributes} <= set(dir(real.cuda.runtime))


def test_a_compute_capability_of_two_or_three_digits_is_read(cuda):
    for digits, capability in (("75", (7, 5)), ("90", (9, 0)), ("120", (12, 0))):
        assert device.capability_of(SimpleNamespace(compute_capability=digits)) == capability
    assert device.limits(cuda.zeros(1)).capability >= (7, 5)


def test_a_tensor_moves_and_its_gradient_comes_back(cuda):
    x = Tensor(values(2, 3), requires_grad=True)
    y = x.to("cuda")
    assert (x.device, y.device) == ("cpu", "cuda")
    (y * 2).sum().backward()
    assert isinstance(x.grad, np.ndarray)
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 2))
    np.testing.assert_array_equal(y.to("cpu").numpy(), x.numpy())
    assert x.to("cpu") is x
    assert y.to("cuda") is y


def test_a_cupy_array_makes_a_tensor_on_the_gpu(cuda):
    x = Tensor(on_gpu(values(3)))
    assert x.device == "cuda"
    assert Tensor(on_gpu(np.arange(3))).dtype == np.float32
    assert "device=cuda" in repr(x)
    with pytest.raises(TypeError, match=re.escape('this tensor is on a GPU; write .to("cpu").numpy()')):
        x.numpy()


MASK = np.array([[True, False, True], [False, True, True]])
OPS = {
    "arithmetic": lambda a, b: (a + 1) * b / (2 - a) - a**3,
    "functions": lambda a, b: (a.exp() + b.log()).sqrt() - (-a),
    "product": lambda a, b: a @ b.transpose(0, 1),
    "reductions": lambda a, b: a.sum(1) + b.mean(0).max() + a.max((0, 1), keepdim=True).reshape(1),
    "movement": lambda a, b: ops.cat([ops.pad(a, 1)[:, 1:4], ops.permute(b.reshape(3, 2), 1, 0)], 0),
    "activations": lambda a, b: ops.softmax(a, 1) + ops.log_softmax(b, 0) * ops.relu(a - 1),
    "dropout": lambda a, b: ops.dropout(a, 0.5, mask=device.to_device(MASK, a.device)) + b,
}


@pytest.mark.parametrize("op", OPS)
def test_ops_and_their_gradients_are_the_same_on_a_gpu(op, cuda):
    results = {}
    for name in ("cpu", "cuda"):
        inputs = [Tensor(device.to_device(values(2, 3) + i, name), requires_grad=True) for i in (0, 1)]
        with detect_anomaly():
            y = OPS[op](*inputs)
            assert y.device == name
            (y * y).sum().backward()
        assert all(device.device_of(x.grad) == name for x in inputs)
        results[name] = [y.to("cpu").numpy(), *(on_cpu(x.grad) for x in inputs)]
    for a, b in zip(results["cpu"], results["cuda"], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_runs_on_a_gpu(kernel, cuda):
    def there(value):
        return on_gpu(value) if isinstance(value, np.ndarray) else value

    for sample in samples(kernel):
        options = {name: there(option) for name, option in sample.options.items()}
        with use_policy(Policy(algorithm=sample.algorithm, allow_tf32=sample.tf32)):
            if sample.tf32 and device.limits(cuda.zeros(1)).capability < (8, 0):
                with pytest.raises(RuntimeError, match=r"TF32 needs a device of compute capability 8\.0"):
                    KERNELS[kernel](*map(there, sample.arguments), **options)
                continue
            results = KERNELS[kernel](*map(there, sample.arguments), **options)
        for got, expected in zip(
            results if isinstance(results, tuple) else (results,), sample.run("numpy"), strict=True
        ):
            assert device.device_of(got) == "cuda"
            atol = 2e-3 * np.abs(expected).max() if sample.tf32 else 1e-4
            np.testing.assert_allclose(on_cpu(got), expected, rtol=1e-4, atol=atol)


def test_an_anomaly_on_a_gpu_is_named(cuda):
    x = Tensor(on_gpu(-values(2, 3)))
    named = pytest.raises(FloatingPointError, match="Log: the output holds a NaN, made from finite values")
    with np.errstate(invalid="ignore"), detect_anomaly(), named:  # the fake GPU warns as NumPy does
        x.log()


def test_devices_do_not_mix(cuda):
    a, b = Tensor(values(2, 3)), Tensor(on_gpu(values(2, 3)), requires_grad=True)
    message = "mixes arrays on the CPU and on a GPU; move one of them by .to()"
    for mix in (lambda: a + b, lambda: b * values(2, 3), lambda: ops.dropout(b, 0.5, mask=MASK)):
        with pytest.raises(ValueError, match=re.escape(message)):
            mix()
    with pytest.raises(ValueError, match=re.escape("backward: " + message)):
        b.backward(values(2, 3))
    with pytest.raises(ValueError, match=re.escape("data: " + message)):
        b.data = values(2, 3)


def test_an_index_that_may_take_an_element_twice_has_no_gradient_on_a_gpu(cuda):
    x = Tensor(on_gpu(values(3)), requires_grad=True)
    y = x[[0, 0, 2]].sum()
    with pytest.raises(NotImplementedError, match="only ints and slices have a gradient"):
        y.backward()


def test_out_of_memory_names_the_op():
    class Greedy(ops.basic.Neg):
        def forward(self, a):
            return np.empty(2**60, a.dtype)

    with pytest.raises(MemoryError, match="Greedy: Unable to allocate"):
        Greedy.apply(Tensor(values(1)))


def test_an_unknown_device_is_refused_by_name():
    for move in (Tensor(values(1)).to, models.lenet(3).to):
        with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda', got 'gpu'"):
            move("gpu")


def net(stride=2):
    """Return an FCN that uses every kind of kernel but those of AlexNet, on as few numbers as possible."""
    rng = stream(0, "devices")
    backbone = nn.Sequential(
        {
            "conv1": nn.Conv2d(3, 4, 3, padding=1, rng=rng),
            "relu1": nn.ReLU(),
            "pool1": nn.MaxPool2d(2, stride=2),
            "conv2": nn.Conv2d(4, 6, 3, padding=1, rng=rng),
            "relu2": nn.ReLU(),
            "drop2": nn.Dropout(0.2),
            "pool2": nn.MaxPool2d(2, stride=2),
        },
        taps={4: ("pool2", 6), 2: ("pool1", 4)},
    )
    return fcn.FCN(backbone, len(CLASSES), stride=stride, upsampling="learned")


def test_shift_and_stitch_and_rarefied_nets_run_on_a_gpu(cuda):
    rng = stream(0, "devices")
    layers = nn.Sequential(nn.Conv2d(3, 2, 2, rng=rng), nn.AvgPool2d(2, stride=2), nn.Conv2d(2, 2, 2, rng=rng))
    expected = fcn.shift_and_stitch(layers, Tensor(values(1, 3, 9, 8))).numpy()
    layers.to("cuda")
    x = Tensor(on_gpu(values(1, 3, 9, 8)))
    for y in (fcn.shift_and_stitch(layers, x), fcn.rarefy(layers)(x)):
        np.testing.assert_allclose(y.to("cpu").numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_module_moves_as_a_whole_and_loads_from_anywhere(cuda):
    moved = net().to("cuda")
    assert device_of(moved) == "cuda"
    assert all(parameter.device == "cuda" for parameter in moved.parameters())
    state = net().state_dict()
    moved.load_state_dict(state)
    back = net()
    back.load_state_dict(moved.state_dict())
    for name, array in back.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    assert device_of(moved.to("cpu")) == "cpu"


def test_nets_made_of_a_net_on_the_gpu_are_there_too(cuda):
    classifier = models.lenet(3).to("cuda")
    made = fcn.convolutionalize(classifier)
    assert {parameter.device for parameter in made.parameters()} == {"cuda"}
    coarse = net(stride=4).to("cuda")
    assert {parameter.device for parameter in fcn.FCN(coarse.backbone, 3, stride=4).parameters()} == {"cuda"}
    assert device_of(net().start_from(coarse)) == "cpu"


def train(folder, steps, place, resume=False):
    trained = net().to(place)
    weight = (1.0,) + (2.0,) * (len(CLASSES) - 1)
    trainer = tiny_trainer(folder, net=trained, steps=steps, class_weight=weight, clip_norm=0.5)
    if resume:
        trainer.resume()
    return trainer.run(), trained


def weights(trained):
    return {name: on_cpu(array) for name, array in trained.state_dict().items()}


def close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        # Sums are added in another order, a few hundred terms of them.
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-5 * np.abs(b[name]).max(), err_msg=name)


def test_a_training_on_a_gpu_is_that_on_the_cpu_within_rounding(cuda, tmp_path):
    on_the_gpu, there = train(tmp_path / "gpu", 2, "cuda")
    on_the_cpu, here = train(tmp_path / "cpu", 2, "cpu")
    np.testing.assert_allclose(on_the_gpu.losses, on_the_cpu.losses, rtol=1e-4)
    assert device_of(there) == "cuda"
    close(weights(there), weights(here))


@needs_emulator
def test_a_training_step_on_the_emulator_is_that_of_the_cpu_within_rounding(tmp_path):
    on_the_cpu, here = train(tmp_path / "cpu", 1, "cpu")
    with use_backend("emulator"):
        emulated, there = train(tmp_path / "emulator", 1, "cpu")
    np.testing.assert_allclose(emulated.losses, on_the_cpu.losses, rtol=1e-4)
    close(weights(there), weights(here))


def test_a_checkpoint_moves_between_devices(cuda, tmp_path):
    train(tmp_path / "begun", 1, "cuda")
    saved, _ = checkpoint.latest(tmp_path / "begun")
    assert all(isinstance(array, np.ndarray) for array in saved.arrays.values())
    _, moved = train(tmp_path / "begun", 2, "cpu", resume=True)
    _, whole = train(tmp_path / "whole", 2, "cpu")
    close(weights(moved), weights(whole))
    _, back = train(tmp_path / "begun", 3, "cuda", resume=True)
    assert device_of(back) == "cuda"


def test_dropout_drops_the_same_on_a_gpu(cuda):
    layer = nn.Dropout(0.5)
    with nn.random_state(1, 2):
        here, there = layer(Tensor(values(4, 5))), layer(Tensor(on_gpu(values(4, 5))))
    np.testing.assert_array_equal(there.to("cpu").numpy(), here.numpy())


@pytest.mark.parametrize("command", [["train", "shapes"], ["demo"]])
def test_commands_without_a_gpu_say_why(command, tmp_path, capsys):
    if device.missing() is None:
        pytest.skip("there is a GPU")
    assert cli.main([*command, "--device", "cuda", "--out", str(tmp_path / "run")]) == 2
    assert f"device 'cuda' is not available: {device.missing()}" in capsys.readouterr().err


def test_the_commands_run_on_a_gpu(cuda, tmp_path, capsys):
    run = str(tmp_path / "run")
    training_options = ["--stride", "32", "--steps", "1", "--batch-size", "1", "--out", run, "--device", "cuda"]
    assert cli.main(["train", "shapes", *training_options]) == 0
    assert "done: 1 steps" in capsys.readouterr().out
