"""The command line as a user meets it: what it leaves, and what it says when something is wrong."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from minifcn import nets
from minifcn.cli import main
from minifcn.random import stream


def make_folder(path, sizes=((40, 56), (64, 48), (37, 41), (50, 50), (45, 60), (33, 70))):
    """A folder of images of different sizes: a bright square on noise, its mask with classes 0, 1 and a void corner."""
    (path / "images").mkdir(parents=True)
    (path / "masks").mkdir()
    for i, (height, width) in enumerate(sizes):
        picture = stream(i, "picture").integers(0, 100, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        picture[8:24, 10:26] = 220
        mask[8:24, 10:26] = 1
        mask[:3, :3] = 255
        Image.fromarray(picture).save(path / "images" / f"image{i}.png")
        Image.fromarray(mask).save(path / "masks" / f"image{i}.png")
    return path


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """A run of two steps on a folder of one's own images."""
    folder = tmp_path_factory.mktemp("own")
    data, run = make_folder(folder / "data"), folder / "run"
    options = ["--data", str(data), "--steps", "2", "--accumulate", "2", "--stride", "8", "--out", str(run)]
    assert main(["train", *options]) == 0
    return data, run


def test_a_folder_of_ones_own_images_is_trained_on_evaluated_and_labelled(own_run, tmp_path, capsys):
    data, run = own_run
    assert main(["evaluate", str(run), "--split", "train"]) == 0
    assert "mean IU" in capsys.readouterr().out
    image = data / "images" / "image2.png"
    assert main(["predict", str(image), "--run", str(run), "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "image2-label.png") as label:
        assert label.mode == "P"
        assert label.size == (41, 37)
        assert set(np.unique(np.array(label))) <= {0, 1}
    with Image.open(tmp_path / "out" / "image2-overlay.png") as overlay:
        assert overlay.size == (41, 37)


def test_the_doctor_says_why_a_run_does_not_learn(own_run, tmp_path, capsys):
    data, run = own_run
    assert main(["doctor", str(run)]) == 0
    assert "lr" not in capsys.readouterr().out
    slow = ["--data", str(data), "--steps", "1", "--accumulate", "2", "--lr", "1e-10", "--out", str(tmp_path / "slow")]
    assert main(["train", *slow]) == 0
    capsys.readouterr()
    assert main(["doctor", str(tmp_path / "slow")]) == 0
    shown = capsys.readouterr().out
    assert "- lr 1e-10 with the mean loss\n  that moves nothing." in shown
    assert "fcn.convolutionalize" in shown


def test_a_run_is_resumed_to_more_steps_and_a_fresh_one_does_not_overwrite_it(own_run, capsys):
    data, run = own_run
    options = ["train", "--data", str(data), "--accumulate", "2", "--out", str(run), "--steps", "3"]
    assert main(options) == 2
    assert "resume it, or choose another folder" in capsys.readouterr().err
    assert main([*options, "--resume"]) == 0
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 3


def test_a_finer_net_is_trained_from_a_coarser_run(own_run, tmp_path):
    data, run = own_run
    options = [
        "--data",
        str(data),
        "--steps",
        "1",
        "--accumulate",
        "1",
        "--stride",
        "4",
        "--out",
        str(tmp_path / "fine"),
    ]
    assert main(["train", *options, "--start-from", str(run)]) == 0


def test_inspect_prints_a_row_for_every_layer(own_run, capsys):
    assert main(["inspect", "fcn8s", "--size", "64", "96"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "layer"
    assert any(line.startswith("backbone.pool3") and " 8 " in line for line in lines)
    assert lines[-3].startswith("total")
    assert lines[-1].startswith("convolution layers 8, parameters 0.2 M, receptive field 126, ")
    assert main(["inspect", str(own_run[1])]) == 0
    assert main(["inspect", "lenet"]) == 0


def broken(path, kind):
    """A data folder that is broken in one way."""
    make_folder(path)
    if kind == "truncated":
        for file in (path / "images").iterdir():  # all of them: which ones are trained on is up to their names
            file.write_bytes(file.read_bytes()[:200])
    elif kind == "unknown class":
        (path / "classes.txt").write_text("background\n")
    elif kind == "sizes differ":
        Image.new("L", (5, 5)).save(path / "masks" / "image0.png")
    elif kind == "missing mask":
        (path / "masks" / "image0.png").unlink()
    elif kind == "empty":
        for file in (path / "images").iterdir():
            file.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("truncated", "image"),
        ("unknown class", "classes"),
        ("sizes differ", "image0"),
        ("missing mask", "image0"),
        ("empty", "images"),
    ],
)
def test_a_broken_data_folder_gets_one_line_that_names_the_file(tmp_path, capsys, kind, named):
    data = broken(tmp_path / "data", kind)
    assert (
        main(["train", "--data", str(data), "--steps", "2", "--accumulate", "4", "--out", str(tmp_path / "run")]) == 2
    )
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("minifcn train: ")
    assert named in message


def test_other_bad_input_gets_one_line_and_no_traceback(own_run, tmp_path, capsys):
    huge = tmp_path / "huge.png"
    Image.new("1", (20_000, 10_000)).save(huge)  # 200 megapixels in 24 KB
    text = tmp_path / "text.png"
    text.write_text("no picture")
    run = str(own_run[1])
    for arguments, said in [
        (["train"], "digits, shapes, or --data"),
        (["train", "--data", str(tmp_path / "nowhere")], "nowhere"),
        (["evaluate", str(tmp_path / "nowhere")], "nowhere"),
        (["evaluate", run, "--max-side", "20"], "--max-side is for the images of --data FOLDER"),
        (["train", "shapes", "--max-side", "20"], "--max-side is for the images of --data FOLDER"),
        (["predict", str(tmp_path / "nowhere.png"), "--run", run], "nowhere.png"),
        (["predict", str(huge), "--run", run], "huge.png"),
        (["predict", str(text), "--run", run], "text.png"),
        (["inspect", "vgg99"], "vgg99"),
        (["inspect", "lenet", "--size", "40"], "Flatten"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert "Traceback" not in error
        assert len(error.splitlines()) == 1


def test_a_damaged_checkpoint_falls_back_and_says_so(own_run, tmp_path, capsys):
    data, run = own_run
    newest = max(run.glob("checkpoint-*.npz"))
    whole = newest.read_bytes()
    try:
        newest.write_bytes(whole[:-100])
        others = len(list(run.glob("checkpoint-*.npz"))) - 1
        code = main(["evaluate", str(run), "--split", "train"])
        assert newest.name in capsys.readouterr().err
        assert code == (0 if others else 2)
    finally:
        newest.write_bytes(whole)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "minifcn.cli", "train", "shapes", "--steps", "100000", "--out", "run"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "minifcn train shapes --steps 100000 --out run --resume" in error
    assert list((tmp_path / "run").glob("checkpoint-*.npz"))


@pytest.fixture
def foreign_weights(tmp_path):
    """Weights of an FCN-8s over TinyVGG for three classes, as the PyTorch port would name and shape them."""
    net = nets.spec_of("fcn8s", 3).build()
    renamed = {"score.stride32": "score_fr", "score.stride16": "score_pool4", "score.stride8": "score_pool3"}
    renamed |= {"upsample.stride32": "upscore2", "upsample.stride16": "upscore_pool4", "upsample.final": "upscore8"}
    state = {}
    for name, array in net.state_dict().items():
        layer, _, kind = name.removeprefix("backbone.").rpartition(".")
        if layer.startswith("upsample"):
            array = array * np.eye(3, dtype=np.float32)[:, :, None, None]  # (3, 1, k, k) → (3, 3, k, k)
        state[f"{renamed.get(layer, layer)}.{kind}"] = array
    state["score_fr.bias"] = np.array([0, 0, 1], np.float32)  # class 2 everywhere
    path = tmp_path / "weights.npz"
    np.savez(path, **state)
    return path


def test_an_own_image_is_labelled_by_weights_from_elsewhere(foreign_weights, tmp_path, capsys):
    Image.fromarray(stream(0, "photo").integers(0, 256, (40, 57, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    command = ["predict", str(tmp_path / "photo.png"), "--net", "fcn8s", "--weights", str(foreign_weights)]
    assert main([*command, "--classes", "3", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "fcn8s, channels BGR, pixels 0 … 255 less 104.007, 116.669, 122.679" in shown
    assert "class 2 100%" in shown
    with Image.open(tmp_path / "photo-label.png") as label:
        assert label.size == (57, 40)
        assert (np.array(label) == 2).all()
    assert main([*command, "--out", str(tmp_path)]) == 2  # 21 classes
    assert "score_fr.bias (given (3,), expected (21,))" in capsys.readouterr().err
    assert main([*command[:2], "--net", "vgg16", "--weights", str(foreign_weights)]) == 2
    assert "vgg16 is a classifier" in capsys.readouterr().err


def test_a_full_size_net_is_inspected_and_explained(capsys):
    assert main(["inspect", "fcn8s-vgg16"]) == 0
    shown = capsys.readouterr().out
    assert "convolution layers 16, parameters 134.4 M, receptive field 404, maximum stride 32" in shown
    assert main(["explain", "fcn8s-vgg16"]) == 0
    assert "pixel 0 lies at 31: crop there, 500×500 of 568×568" in capsys.readouterr().out
    assert main(["explain", "alexnet"]) == 2
    assert "alexnet is a classifier, which crops nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["fcn8s-vgg17", "fcn-vgg16", "fcn9s-vgg16", "vgg16-fcn8s", "fcn8s-", "fcn0s"])
def test_a_net_that_does_not_exist_is_refused(name, capsys):
    assert main(["explain", name]) == 2
    assert "vgg16" in (shown := capsys.readouterr().err) or "taps" in shown
