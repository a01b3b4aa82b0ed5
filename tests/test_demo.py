"""The demo with trainings of two steps each: all that it leaves, and that it goes on where it was stopped."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from minifcn import demo
from minifcn.cli import main
from minifcn.training import Interrupted, Trainer, checkpoint


@pytest.fixture
def short(monkeypatch):
    config = demo._config
    monkeypatch.setattr(demo, "_config", lambda *a, **k: replace(config(*a, **k), steps=2, cooldown=0, batch_size=2))
    monkeypatch.setattr(demo, "TEST_SCENES", 6)
    monkeypatch.setattr(demo, "VALIDATION_SCENES", 2)


def test_the_demo_leaves_tables_pictures_and_weights(short, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    table = (tmp_path / "runs/demo/table.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "FCN-32s-fixed", "FCN-32s", "FCN-16s", "FCN-8s",
    ]  # fmt: skip
    assert table in capsys.readouterr().out
    for picture in ("figure.png", "heatmap.png", "curves.png"):
        with Image.open(tmp_path / "runs/demo" / picture) as opened:
            assert min(opened.size) > 100
    scores = json.loads((tmp_path / "runs/demo/scores.json").read_text())
    assert scores["upper_bound_of_mean_iu"]["32"] < scores["upper_bound_of_mean_iu"]["8"] < 1
    for stage in ("classifier", "FCN-32s-fixed", "FCN-32s", "FCN-16s", "FCN-8s"):
        assert checkpoint.checkpoints(tmp_path / "runs/demo" / stage)

    # The trained net is what `predict` takes without being told, and a second demo does not touch the first.
    Image.new("RGB", (70, 50)).save("photo.png")
    assert main(["predict", "photo.png"]) == 0
    assert (tmp_path / "photo-overlay.png").exists()
    assert main(["evaluate", "runs/demo/FCN-8s"]) == 0
    assert f"mean IU {100 * scores['scores']['FCN-8s']['mean_iu']:.1f}" in capsys.readouterr().out
    for command in (["predict", "photo.png", "--run", "runs/demo/classifier"], ["evaluate", "runs/demo/classifier"]):
        assert main(command) == 2
        assert "runs/demo/classifier holds a classifier" in capsys.readouterr().err
    assert main(["demo"]) == 0
    assert (tmp_path / "runs/demo-2/table.md").read_text() == table


def test_a_stopped_demo_goes_on_and_ends_as_if_never_stopped(short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--out", "straight"]) == 0
    run, stages = Trainer.run, []

    def stopped_in_the_third(trainer, **options):
        stages.append(trainer.folder.name)
        if len(stages) == 3:
            trainer._begin()
            trainer._step()
            trainer._save()
            raise Interrupted("stopped")
        return run(trainer, **options)

    monkeypatch.setattr(Trainer, "run", stopped_in_the_third)
    assert main(["demo"]) == 130
    assert stages[-1] == "FCN-32s"
    assert main(["demo", "--resume"]) == 0
    assert (tmp_path / "runs/demo/scores.json").read_text() == (tmp_path / "straight/scores.json").read_text()


def test_the_frozen_stage_trains_its_scores_only(short, tmp_path):
    demo.run(tmp_path, seed=0, resume=False, say=lambda text: None)
    before, after = (checkpoint.latest(tmp_path / stage)[0].arrays for stage in ("classifier", "FCN-32s-fixed"))
    assert (after["model/backbone.conv1_1.weight"] == before["model/conv1_1.weight"]).all()
    assert after["model/score.stride32.weight"].any()
