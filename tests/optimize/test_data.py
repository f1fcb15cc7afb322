import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_artifacts import make_artifact

from whet.errors import DataError, WhetError
from whet.optimize.data import Dataset, open_data, split, synthetic
from whet.optimize.pool import materialise, open_pool
from whet.tensors import TensorSpec


def picture(path, seed, size=(20, 24)):
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def test_npy_is_the_only_input(tmp_path, artifact, rng):
    values = rng.standard_normal((5, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    data = open_data(str(tmp_path / "x.npy"), artifact)
    assert len(data) == 5
    assert data.label(0) is None
    np.testing.assert_array_equal(data.sample(3)["x"], values[3])


def test_npz_carries_labels_groups_and_columns(tmp_path, artifact, rng):
    values = rng.standard_normal((6, 8)).astype(np.float32)
    scene = np.array(["a", "a", "b", "b", "c", "c"])
    np.savez(tmp_path / "d.npz", x=values, label=np.arange(6), scene=scene, quality=np.linspace(0, 1, 6))
    data = open_data(str(tmp_path / "d.npz"), artifact)
    assert data.label(4) == 4
    assert data.groups is not None
    assert data.groups.tolist() == scene.tolist()
    assert data.columns["quality"].shape == (6,)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        pytest.param({"x": np.zeros((3, 7), np.float32)}, r"\[1, 7\].*\[-1, 8\]", id="shape"),
        pytest.param({"x": np.zeros((3, 8))}, "FP64.*FP32", id="dtype"),
        pytest.param({"z": np.zeros((3, 8), np.float32)}, "lacks.*x", id="name"),
        pytest.param({"x": np.zeros((0, 8), np.float32)}, "no sample", id="empty"),
        pytest.param(
            {"x": np.zeros((3, 8), np.float32), "y": np.zeros(2)}, r"labels of shape \[2\]", id="labels short"
        ),
        pytest.param({"x": np.zeros((3, 8), np.float32), "y": np.full(3, 0.5)}, "whole", id="labels not whole"),
        pytest.param({"x": np.zeros((3, 8), np.float32), "q": np.zeros(2)}, "'q'", id="column short"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, artifact, arrays, says):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=says):
        open_data(str(tmp_path / "d.npz"), artifact)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        pytest.param("absent.npz", None, "does not exist", id="missing"),
        pytest.param("d.txt", b"x", "is no folder", id="of no known kind"),
        pytest.param("d.npz", b"PK\x03\x04broken", "no readable numpy file", id="damaged"),
        pytest.param("d.npy", b"", "no readable numpy file", id="empty file"),
    ],
)
def test_files_that_are_no_data_are_named(tmp_path, artifact, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        open_data(str(tmp_path / name), artifact)


def test_function_yields_samples_with_labels(tmp_path, artifact, monkeypatch):
    (tmp_path / "whet_test_source.py").write_text(
        "import numpy as np\n"
        "def good():\n    for i in range(4):\n        yield np.full(8, i, np.float32), i\n"
        "def nothing():\n    return iter(())\n"
        "def broken():\n    yield {'x': np.zeros(8, np.float32)}\n    raise RuntimeError('disk on fire')\n"
        "def mixed():\n    yield np.zeros(8, np.float32), 1\n    yield np.zeros(8, np.float32)\n"
    )
    monkeypatch.chdir(tmp_path)
    data = open_data("whet_test_source:good", artifact)
    assert [data.label(i) for i in range(4)] == [0, 1, 2, 3]
    for function, says in (
        ("nothing", "yielded no sample"),
        ("broken", "RuntimeError: disk on fire"),
        ("mixed", "1 of 2"),
        ("absent", "no function 'absent'"),
    ):
        with pytest.raises(DataError, match=says):
            open_data(f"whet_test_source:{function}", artifact)
    with pytest.raises(DataError, match="cannot import 'whet_no_such'"):
        open_data("whet_no_such:f", artifact)


def test_class_folders_give_labels(tmp_path, image_artifact):
    for place, name in enumerate(("cat", "dog")):
        for i in range(3):
            picture(tmp_path / "d" / name / f"{i}.png", 10 * place + i)
    data = open_data(str(tmp_path / "d"), image_artifact)
    assert [data.label(i) for i in range(6)] == [0, 0, 0, 1, 1, 1]
    sample = data.sample(2)["image"]
    assert (sample.shape, sample.dtype) == ((16, 16, 3), np.uint8)


def test_folder_names_are_matched_with_the_models_class_names(tmp_path, image_artifact):
    outputs = (TensorSpec("y", "FP32", (-1, 2), labels=("dog", "cat")),)
    named = make_artifact(tmp_path / "n", inputs=image_artifact.inputs, images=image_artifact.images, outputs=outputs)
    for name in ("cat", "dog"):
        picture(tmp_path / "d" / name / "0.png", 1)
    data = open_data(str(tmp_path / "d"), named)
    assert [data.label(0), data.label(1)] == [1, 0]


def test_labels_tsv_with_header_groups(tmp_path, image_artifact):
    for i in range(3):
        picture(tmp_path / f"{i}.png", i)
    (tmp_path / "labels.tsv").write_text("file\tclass\tscene\n0.png\t3\ta\n1.png\t4\ta\n2.png\t5\tb\n")
    data = open_data(str(tmp_path), image_artifact)
    assert data.labels is not None
    assert data.labels.tolist() == [3, 4, 5]
    assert data.groups is not None
    assert data.groups.tolist() == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param("0.png\n", "one column", id="no class column"),
        pytest.param("0.png\t1\n0.png\tcat\n", "'cat'", id="class is no number"),
        pytest.param("9.png\t1\n", "9.png", id="file missing"),
    ],
)
def test_tables_that_do_not_say_are_refused(tmp_path, image_artifact, table, says):
    picture(tmp_path / "0.png", 0)
    (tmp_path / "labels.tsv").write_text(table)
    with pytest.raises(DataError, match=says):
        open_data(str(tmp_path), image_artifact)


def test_folders_without_images_and_nets_without_preprocessing_are_refused(tmp_path, image_artifact, artifact):
    with pytest.raises(DataError, match="holds no image"):
        open_data(str(tmp_path), image_artifact)
    picture(tmp_path / "a.png", 0)
    with pytest.raises(DataError, match="preprocessing"):
        open_data(str(tmp_path), artifact)


def test_an_unreadable_image_is_named(tmp_path, image_artifact):
    picture(tmp_path / "a.png", 0)
    (tmp_path / "b.png").write_bytes(b"no image at all")
    data = open_data(str(tmp_path), image_artifact)
    with pytest.raises(DataError, match=r"b\.png"):
        data.sample(1)


def test_synthetic_samples_fit_and_repeat(artifact):
    one, two = synthetic(artifact, 4, 7), synthetic(artifact, 4, 7)
    assert one.synthetic
    np.testing.assert_array_equal(one.sample(2)["x"], two.sample(2)["x"])
    assert not np.array_equal(one.sample(0)["x"], one.sample(1)["x"])
    with pytest.raises(DataError, match="at least one"):
        synthetic(artifact, 0, 0)


def test_noise_has_no_size_for_a_free_dimension(tmp_path):
    free = make_artifact(tmp_path / "free", inputs=(TensorSpec("x", "INT64", (-1, -1)),))
    with pytest.raises(DataError, match="input-shape"):
        synthetic(free, 2, 0)


def indexed(contents, groups=None):
    return Dataset("d", len(contents), lambda i: {}, lambda i: str(contents[i]), groups=groups)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=120), st.integers(0, 5), st.integers(0, 40))
def test_split_keeps_contents_apart(contents, seed, wanted):
    found = split(indexed(contents), seed=seed, calibration=wanted)
    one, two = ({contents[i] for i in side} for side in (found.calibration, found.evaluation))
    assert not one & two
    assert not set(found.calibration) & set(found.evaluation)
    assert len(found.calibration) <= min(wanted, len(contents) // 5)
    assert found == split(indexed(contents), seed=seed, calibration=wanted)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=5, max_size=120), st.integers(0, 5))
def test_split_keeps_groups_apart(groups, seed):
    data = indexed(range(len(groups)), np.asarray(groups))
    found = split(data, seed=seed, calibration=50)
    one, two = ({groups[i] for i in side} for side in (found.calibration, found.evaluation))
    assert found.grouped
    assert not one & two


def test_pool_gives_back_what_went_in(tmp_path, artifact):
    data = synthetic(artifact, 10, 1)
    pool = materialise(data, [3, 1, 7], artifact, tmp_path / "pool")
    again = open_pool(tmp_path / "pool")
    for place, index in enumerate([3, 1, 7]):
        np.testing.assert_array_equal(again.sample(place)["x"], data.sample(index)["x"])
    assert pool.rows(1, 4)["x"].shape == (4, 8)
    np.testing.assert_array_equal(pool.rows(2, 2)["x"][1], data.sample(3)["x"])
    assert pool.uniform()


def test_pool_holds_samples_of_different_shapes(tmp_path):
    ragged = make_artifact(tmp_path / "r", inputs=(TensorSpec("ids", "INT64", (-1, -1)),))
    samples = [np.arange(n, dtype=np.int64) for n in (3, 5, 2)]
    data = Dataset("d", 3, lambda i: {"ids": samples[i]}, str)
    pool = materialise(data, range(3), ragged, tmp_path / "pool")
    assert [pool.sample(i)["ids"].tolist() for i in range(3)] == [s.tolist() for s in samples]
    assert not pool.uniform()


def test_a_damaged_pool_is_an_error_of_ours(tmp_path):
    with pytest.raises(WhetError):
        open_pool(tmp_path)
