"""The video quality example: frames as promised, and a shipped network that is as good as its README says."""

import importlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "video_quality"
MODULES = ("codec", "degrade", "fullref", "generator", "make_data", "measure", "scenes", "stills")


@pytest.fixture(scope="module")
def vq() -> Iterator[SimpleNamespace]:
    """The example's modules, imported as its scripts import them."""
    sys.path.insert(0, str(FOLDER))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def frames(vq: SimpleNamespace) -> Any:
    """Held-out frames at a seed that no training and no published number used."""
    return vq.generator.make_frames(2026, "test", 420, workers=2)


@pytest.fixture(scope="module")
def moments(vq: SimpleNamespace) -> list[Any]:
    """A few scenes stopped at a moment each."""
    scenes = [vq.generator.scene_of(5, 2_000_000 + number) for number in range(8)]
    return [vq.degrade.Moment(scene, 4.0, scene.frame(4.0)) for scene in scenes]


def gradient_energy(vq: SimpleNamespace, frame: np.ndarray) -> float:
    luma = vq.fullref.luma(frame)
    return float((np.diff(luma, axis=0) ** 2).mean() + (np.diff(luma, axis=1) ** 2).mean())


def test_the_same_seed_gives_the_same_frames_whatever_the_number_of_workers(vq: SimpleNamespace) -> None:
    alone = vq.generator.make_frames(3, "calibration", 30)
    helped = vq.generator.make_frames(3, "calibration", 30, workers=2)
    for one, other in zip(alone, helped, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_longer_set_starts_with_the_shorter_one_and_another_seed_gives_other_frames(vq: SimpleNamespace) -> None:
    short, long = (vq.generator.make_frames(3, "test", count) for count in (10, 21))
    np.testing.assert_array_equal(short.x, long.x[:10])
    np.testing.assert_array_equal(short.quality, long.quality[:10])
    other = vq.generator.make_frames(4, "test", 10)
    assert (short.x != other.x).mean() > 0.5


def test_splits_share_no_scene_and_no_picture(vq: SimpleNamespace) -> None:
    sets = {split: vq.generator.make_frames(1, split, 21) for split in ("train", "calibration", "test")}
    scenes = [set(part.scene.tolist()) for part in sets.values()]
    assert not scenes[0] & scenes[1]
    assert not scenes[0] & scenes[2]
    assert not scenes[1] & scenes[2]
    for split, part in sets.items():
        assert {vq.generator.split_of(scene) for scene in part.scene.tolist()} == {split}
    hashes = [{row.tobytes() for row in part.x} for part in sets.values()]
    assert len(set().union(*hashes)) == 63
    assert not set(vq.stills.TRAINING) & set(vq.stills.HELD_OUT)


def test_every_scene_gives_each_class_once_with_its_quality(vq: SimpleNamespace, frames: Any) -> None:
    assert frames.x.shape == (420, 224, 224, 3)
    assert (frames.x.dtype, frames.label.dtype, frames.quality.dtype) == (np.uint8, np.int64, np.float32)
    for scene in np.unique(frames.scene):
        assert sorted(frames.label[frames.scene == scene]) == list(range(len(vq.degrade.CLASSES)))
    pristine = frames.label == vq.degrade.CLASSES.index("pristine")
    assert (frames.quality[pristine] == 1).all()
    degraded = frames.quality[~pristine]
    assert degraded.min() >= 0
    assert degraded.max() < 0.9999
    assert np.median(degraded) < 0.9


def test_a_distortion_is_labelled_only_where_it_can_be_seen(vq: SimpleNamespace) -> None:
    seen = []
    for number in range(2_000_000, 2_000_020):
        scene = vq.generator.scene_of(6, number)
        for place, sample in enumerate(vq.generator.samples_of(6, number)):
            t = vq.generator.moment_of(place)
            clean = vq.codec.as_video(scene.frame(t))
            likeness = vq.fullref.similarity(sample.frame, clean)
            if vq.degrade.CLASSES[sample.label] == "pristine":
                assert likeness == pytest.approx(1, abs=1e-6)
            else:
                seen.append(likeness < vq.degrade.VISIBLE or sample.severity == 1)
                assert likeness < 0.98
    assert all(seen)


@pytest.mark.parametrize(
    "name", ["blur", "noise", "blockiness", "under_exposure", "over_exposure", "h264"], ids=lambda name: name
)
def test_quality_falls_with_severity(vq: SimpleNamespace, moments: list[Any], name: str) -> None:
    means = []
    for severity in (0.0, 0.5, 1.0):
        scores = []
        for moment in moments:
            clean = vq.degrade.degrade("pristine", moment, 0.0, np.random.default_rng(1))
            frame = vq.degrade.degrade(name, moment, severity, np.random.default_rng(1))
            scores.append(vq.fullref.quality(frame, clean))
        means.append(np.mean(scores))
    assert 1 > means[0] > means[1] > means[2] > 0


def test_blur_takes_gradient_energy_away_and_noise_adds_it(vq: SimpleNamespace, moments: list[Any]) -> None:
    for moment in moments:
        energy = gradient_energy(vq, moment.clean)
        for angle in (0.0, 1.0):
            assert gradient_energy(vq, vq.degrade.motion_blur(moment.clean, 9, angle)) < 0.8 * energy
        assert gradient_energy(vq, vq.degrade.gaussian_blur(moment.clean, 2.0)) < 0.5 * energy
        noisy = vq.degrade.noise(moment.clean, 25, np.random.default_rng(0), colour=True)
        assert gradient_energy(vq, noisy) > energy


@pytest.mark.parametrize("offset", [(0, 0), (3, 5)], ids=["on the grid", "after a crop"])
def test_blockiness_puts_steps_on_its_grid(vq: SimpleNamespace, moments: list[Any], offset: tuple[int, int]) -> None:
    def steps_on_grid(frame: np.ndarray) -> float:
        steps = np.abs(np.diff(vq.fullref.luma(frame), axis=1)).mean(axis=0)
        edge = (np.arange(223) + 1 + offset[1]) % 8 == 0
        return float(steps[edge].mean() / steps[~edge].mean())

    for moment in moments:
        blocky = vq.degrade.blockiness(moment.clean, 16, offset)
        assert blocky.shape == moment.clean.shape
        assert steps_on_grid(blocky) > 2 * steps_on_grid(moment.clean)


def test_a_fine_block_quantiser_changes_next_to_nothing(vq: SimpleNamespace, moments: list[Any]) -> None:
    frame = moments[0].clean
    same = vq.degrade.blockiness(frame, 0.01, (2, 7))
    assert np.abs(same.astype(int) - frame).mean() < 1.5


def test_exposure_moves_every_tone_one_way(vq: SimpleNamespace, moments: list[Any]) -> None:
    frame = moments[0].clean
    assert (vq.degrade.exposure(frame, -2.0) <= frame).all()
    assert (vq.degrade.exposure(frame, 2.0) >= frame).all()
    np.testing.assert_array_equal(vq.degrade.exposure(frame, 0.0), frame)


def test_h264_really_encodes(vq: SimpleNamespace, moments: list[Any]) -> None:
    scene = moments[0].scene
    clip = [scene.frame(t) for t in range(4)]
    good, bad = (vq.codec.encode(clip, crf) for crf in (18, 45))
    assert good[:4] == bytes.fromhex("1a45dfa3")  # Matroska's first bytes
    assert 100 < len(bad) < len(good) / 3
    assert len(vq.codec.decode(bad)) == len(clip)
    reference = vq.codec.as_video(clip[-1])
    fine, coarse = (vq.codec.h264(clip, crf) for crf in (18, 45))
    assert (fine != reference).any()
    assert vq.fullref.similarity(fine, reference) > 0.95 > vq.fullref.similarity(coarse, reference)
    assert np.abs(coarse.astype(int) - reference).mean() < 40


def test_ssim_is_one_for_the_same_picture_and_agrees_with_a_plain_computation(vq: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (16, 24)).astype(np.float32)
    y = (x + rng.normal(0, 30, x.shape)).astype(np.float32)
    assert vq.fullref.ssim(x, x) == pytest.approx(1, abs=1e-6)
    values = []
    for top in range(0, 9, 4):
        for left in range(0, 17, 4):
            a, b = (field[top : top + 8, left : left + 8].astype(np.float64) for field in (x, y))
            cov = ((a - a.mean()) * (b - b.mean())).mean()
            values.append(
                (2 * a.mean() * b.mean() + 6.5025)
                * (2 * cov + 58.5225)
                / ((a.mean() ** 2 + b.mean() ** 2 + 6.5025) * (a.var() + b.var() + 58.5225))
            )
    assert vq.fullref.ssim(x, y) == pytest.approx(np.mean(values), abs=1e-4)


def test_spearman_shares_ranks_between_ties(vq: SimpleNamespace) -> None:
    np.testing.assert_array_equal(vq.measure.ranks(np.array([0.5, 0.1, 0.5, 0.9])), [2.5, 1, 2.5, 4])
    assert vq.measure.spearman(np.array([1.0, 2, 3, 4]), np.array([2.0, 4, 8, 16])) == pytest.approx(1)
    assert vq.measure.spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)


def test_the_command_writes_an_archive_and_a_folder_with_the_same_frames(tmp_path: Path) -> None:
    from PIL import Image

    for output in ("set.npz", "set"):
        command = [sys.executable, str(FOLDER / "make_data.py"), "--split", "test", "--frames", "9", "-o", output]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert "9 frames of 2 scenes" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "set.npz"]
    with np.load(tmp_path / "set.npz", allow_pickle=False) as stored:
        lines = (tmp_path / "set" / "labels.tsv").read_text().splitlines()
        assert len(lines) == 9
        for row, line in enumerate(lines):
            name, label, _, scene = line.split("\t")
            np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "set" / name)), stored["x"][row])
            assert (int(label), int(scene)) == (stored["label"][row], stored["scene"][row])


def test_the_command_refuses_a_folder_that_holds_something(
    vq: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    arguments = ["--split", "test", "--frames", "1", "--workers", "1", "-o", str(tmp_path)]
    assert vq.make_data.main(arguments) == 3
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_shipped_network_is_one_small_valid_file_without_norms_left() -> None:
    import onnx

    path = FOLDER / "model.onnx"
    assert path.stat().st_size <= 10_000_000
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {item.version for item in model.opset_import if item.domain == ""} == {18}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert [value.name for value in model.graph.input] == ["frame"]
    assert [value.name for value in model.graph.output] == ["logits", "quality"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert b".py" not in path.read_bytes(), "the exporter's notes name files of the machine that exported"


def test_preprocessing_is_stated_for_the_input_and_the_classes(vq: SimpleNamespace) -> None:
    stated = tomllib.loads((FOLDER / "preprocess.toml").read_text())
    assert stated["inputs"]["frame"]["size"] == [224, 224]
    assert stated["inputs"]["frame"]["layout"] == "NCHW"
    assert len(stated["inputs"]["frame"]["mean"]) == len(stated["inputs"]["frame"]["scale"]) == 3
    assert stated["outputs"]["logits"]["classes"] == list(vq.degrade.CLASSES)
    assert set(stated["outputs"]) == {"logits", "quality"}


def test_the_shipped_network_reaches_its_bar_on_frames_it_never_saw(vq: SimpleNamespace, frames: Any) -> None:
    import onnxruntime

    stated = tomllib.loads((FOLDER / "preprocess.toml").read_text())["inputs"]["frame"]
    mean, scale = (np.array(stated[key], np.float32) for key in ("mean", "scale"))
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    parts = []
    for at in range(0, len(frames.x), 20):
        x = ((frames.x[at : at + 20] - mean) / scale).transpose(0, 3, 1, 2).copy()
        parts.append(session.run(["logits", "quality"], {"frame": x}))
    logits, grades = (np.concatenate(column) for column in zip(*parts, strict=True))
    assert grades.shape == (len(frames.x), 1)
    assert ((grades >= 0) & (grades <= 1)).all()
    scores = vq.measure.score(logits, grades[:, 0], frames.label, frames.quality)
    assert scores.top1 >= 0.85, scores
    assert scores.spearman >= 0.85, scores
    published = json.loads((FOLDER / "metrics.json").read_text())["held_out"]["test"]
    # 420 frames: four standard errors of a proportion near the published one
    margin = 4 * np.sqrt(published["top1"] * (1 - published["top1"]) / len(frames.x)) + 0.005
    assert scores.top1 >= published["top1"] - margin, "metrics.json promises more than the file does"


@pytest.mark.extra("torch")
def test_the_definition_matches_the_shipped_network(vq: SimpleNamespace) -> None:
    import onnxruntime
    import torch

    model = importlib.import_module("model")
    net = model.trained()
    assert not net.training
    frames = vq.generator.make_frames(9, "test", 14).x
    x = model.normalise(frames).contiguous()
    with torch.inference_mode():
        logits, quality = net(x)
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    got = session.run(["logits", "quality"], {"frame": x.numpy()})
    np.testing.assert_allclose(got[0], logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(got[1], quality.numpy(), atol=1e-4)


@pytest.mark.extra("torch")
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_width_scales_the_channels_in_steps_of_sixteen(vq: SimpleNamespace, width: float) -> None:
    import torch

    model = importlib.import_module("model")
    net = model.build(width)
    assert not net.training
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.out_channels % 16 == 0
    logits, quality = net(model.example_input(2))
    assert logits.shape == (2, len(vq.degrade.CLASSES))
    assert quality.shape == (2, 1)


@pytest.mark.extra("torch")
def test_folding_the_norms_keeps_the_answers(vq: SimpleNamespace) -> None:
    import torch

    model, export = importlib.import_module("model"), importlib.import_module("export")
    torch.manual_seed(0)
    net = model.build(0.5)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    folded, x = export.fold(net), torch.randn(2, 3, 64, 64)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    with torch.inference_mode():
        for got, wanted in zip(folded(x), net(x), strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.extra("torch")
def test_a_training_step_on_a_few_frames_lowers_the_loss_and_resumes(vq: SimpleNamespace, tmp_path: Path) -> None:
    import torch

    train = importlib.import_module("train")
    frames = vq.generator.make_frames(1, "train", 49)
    trainer = train.Trainer(frames, tmp_path / "checkpoint.pt", 1)
    rows, rng = np.arange(48), np.random.default_rng(0)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 2e-3
    trainer.model.train()
    losses = [trainer._step(rows, 64, rng) for _ in range(12)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    again = train.frames_on_disk(tmp_path / "work", 1, 7)
    np.testing.assert_array_equal(again.label, train.frames_on_disk(tmp_path / "work", 1, 7).label)
    state = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    torch.save({**state, "epoch": 4, "seconds": 1.0}, tmp_path / "checkpoint.pt")
    assert train.Trainer(frames, tmp_path / "checkpoint.pt", 1).epoch == 4
