"""What every runtime must hold: inherit :class:`RuntimeContract`, name the runtime, and build the three nets for it."""

import threading
from pathlib import Path

import engine_nets as nets
import numpy as np
import pytest
from onnx import numpy_helper

from whet.engine import load_runtime, open_engine
from whet.errors import PlanRefused, TensorError, WhetError
from whet.models.artifact import Artifact
from whet.plan import Plan


def close_to(expected, rtol=1e-5):
    return pytest.approx(np.asarray(expected), rel=rtol, abs=1e-5)


class RuntimeContract:
    """Inherit and set ``runtime``; override the nets where the runtime does not take ONNX."""

    runtime: str
    precisions_refused = ("f16",)

    def mlp(self, store: Path) -> Artifact:
        return nets.mlp(store)

    def large(self, store: Path) -> Artifact:
        """Return the same net, much wider: 48 bytes of weights for each of its hidden units."""
        return nets.mlp(store, width=nets.LARGE)

    def two_inputs(self, store: Path) -> Artifact:
        return nets.two_inputs(store)

    def unbatched(self, store: Path) -> Artifact:
        return nets.unbatched(store)

    def broken(self, store: Path) -> Artifact:
        """Return an artifact whose file the runtime cannot open."""
        good = self.mlp(store)
        folder = store / "broken"
        folder.mkdir(exist_ok=True)
        (folder / good.model).write_bytes(good.path.read_bytes()[:40] if good.path.is_file() else b"")
        from dataclasses import replace

        return replace(good, folder=folder)

    def plan(self, artifact, **more):
        return Plan(artifact=artifact.sha256, runtime=self.runtime, **{"fused_preprocessing": False, **more})

    def session(self, artifact, **more):
        return load_runtime(self.runtime).open(artifact, self.plan(artifact, **more))

    @staticmethod
    def answer_mlp(x):
        a, b = (numpy_helper.to_array(nets.weights(name, *shape)) for name, shape in (("a", (8, 16)), ("b", (16, 4))))
        return np.maximum(x @ a, 0) @ b

    @staticmethod
    def draw(*shape, seed=0):
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    @staticmethod
    def run(slot, **inputs):
        arrays = slot.prepare({name: array.shape for name, array in inputs.items()})
        for name, array in inputs.items():
            assert arrays[name].flags.c_contiguous
            assert arrays[name].flags.writeable
            arrays[name][...] = array
        slot.run()
        return {name: array.copy() for name, array in slot.outputs().items()}

    def test_every_batch_size_gives_the_right_rows(self, store):
        session = self.session(self.mlp(store), batch_sizes=(1, 2, 5))
        slot = session.slot()
        for size in (1, 2, 5, 2, 1):
            x = self.draw(size, 8, seed=size)
            (y,) = self.run(slot, x=x).values()
            assert y.dtype == np.float32
            assert y.shape == (size, 4)
            assert y == close_to(self.answer_mlp(x))
        session.close()

    def test_one_dynamic_compilation_takes_every_size_too(self, store):
        session = self.session(self.mlp(store), batch_sizes=(1, 4), dynamic_batch=True)
        slot = session.slot()
        for size in (4, 1, 3):
            x = self.draw(size, 8, seed=size)
            (y,) = self.run(slot, x=x).values()
            assert y == close_to(self.answer_mlp(x))
        session.close()

    def test_a_row_does_not_depend_on_its_company(self, store):
        session = self.session(self.mlp(store), batch_sizes=(1, 4))
        slot = session.slot()
        x = self.draw(1, 8)
        (alone,) = self.run(slot, x=x).values()
        (padded,) = self.run(slot, x=np.concatenate([x, np.zeros((3, 8), np.float32)])).values()
        (crowded,) = self.run(slot, x=np.concatenate([x, 1e3 * self.draw(3, 8, seed=9)])).values()
        assert padded[:1] == close_to(alone)
        assert crowded[:1] == close_to(alone)
        session.close()

    def test_names_keep_inputs_and_outputs_apart(self, store):
        session = self.session(self.two_inputs(store), batch_sizes=(2,))
        a, b = self.draw(2, 3), self.draw(2, 3, seed=1)
        answer = self.run(session.slot(), b=b, a=a)
        assert list(answer) == ["sum", "product"]
        assert answer["sum"] == close_to(a + 2 * b)
        assert answer["product"] == close_to(a * b)
        session.close()

    def test_an_unbatched_model_runs_as_it_is(self, store):
        session = self.session(self.unbatched(store))
        x = self.draw(4, 4)
        (y,) = self.run(session.slot(), x=x).values()
        assert y == close_to(x @ x)
        session.close()

    def test_the_same_input_gives_the_same_bits(self, store):
        session = self.session(self.mlp(store), streams=2)
        x = self.draw(1, 8)
        answers = [
            next(iter(self.run(slot, x=x).values())) for slot in (session.slot(), session.slot()) for _ in range(5)
        ]
        assert all(np.array_equal(answers[0], answer) for answer in answers[1:])
        session.close()

    def test_many_slots_at_once_each_get_their_own_answer(self, store):
        session = self.session(self.mlp(store), streams=2, batch_sizes=(1, 3))
        wrong = []

        def work(seed):
            slot = session.slot()
            for turn in range(40):
                x = self.draw(1 + 2 * (turn % 2), 8, seed=100 * seed + turn)
                (y,) = self.run(slot, x=x).values()
                if not np.allclose(y, self.answer_mlp(x), rtol=1e-4, atol=1e-4):
                    wrong.append((seed, turn))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        session.close()

    def test_settings_are_read_back_and_no_more_threads_than_cores(self, store):
        import os

        cores = len(os.sched_getaffinity(0))
        effective = self.session(self.mlp(store), threads=cores + 6).effective
        assert effective.precision == "f32"
        assert effective.threads == cores, "asked for more than there are"
        assert effective.raw

    def test_a_precision_it_does_not_have_is_refused(self, store):
        artifact = self.mlp(store)
        for precision in self.precisions_refused:
            with pytest.raises(PlanRefused, match=precision):
                self.session(artifact, precision=precision)

    @pytest.mark.parametrize(
        "knobs",
        [
            {"options": (("no-such-switch", "1"),)},
            {"isa_ceiling": "NO_SUCH_ISA"},
            {"device": "NO_SUCH_DEVICE"},
        ],
        ids=["option", "isa", "device"],
    )
    def test_a_knob_it_does_not_have_is_refused(self, store, knobs):
        with pytest.raises(PlanRefused, match=r"(?i)no.such"):
            self.session(self.mlp(store), **knobs)

    def test_a_format_it_does_not_read_is_refused(self):
        with pytest.raises(PlanRefused, match="format"):
            self.session(
                nets.described([nets.X], [nets.Y], notes=("nothing",)).__class__(
                    Path(), "m", "no-such-format", "0" * 64, (nets.X,), (nets.Y,), batched=True
                )
            )

    def test_a_broken_file_is_an_error_of_ours(self, store, caplog):
        with pytest.raises(WhetError) as raised:
            self.session(self.broken(store))
        assert "Traceback" not in str(raised.value)

    async def _through_an_engine(self, artifact, requests):
        engine = await open_engine(artifact, self.plan(artifact, batch_sizes=(1, 4), streams=2))
        with pytest.raises(TensorError):
            await engine.infer({"x": np.zeros((1, 8), np.float64)})
        import asyncio

        answers = await asyncio.gather(*[engine.infer({"x": x}) for x in requests])
        assert await engine.drain(5)
        stats = engine.stats()
        await engine.close()
        return answers, stats

    def test_an_engine_on_it_answers_each_question_with_its_own_answer(self, store):
        import asyncio

        requests = [self.draw(rows, 8, seed=rows + 10 * turn) for turn in range(6) for rows in (1, 2, 3, 9)]
        answers, stats = asyncio.run(self._through_an_engine(self.mlp(store), requests))
        for x, answer in zip(requests, answers, strict=True):
            (y,) = answer.outputs.values()
            assert y == close_to(self.answer_mlp(x))
            assert answer.timing.compute_ns > 0
        assert stats.answered == len(requests)
        assert sum(rows * count for rows, count in stats.batches.items()) == sum(map(len, requests))

    def test_closing_frees_the_session(self, store):
        import gc
        import weakref

        session = self.session(self.mlp(store))
        slot = session.slot()
        self.run(slot, x=self.draw(1, 8))
        watch = weakref.ref(session)
        session.close()
        del session, slot
        gc.collect()
        assert watch() is None

    def test_closing_gives_the_memory_back(self, store):
        import gc

        artifact = self.large(store)
        weights_mb = 48 * nets.LARGE / 1e6
        self.run(self.session(artifact).slot(), x=self.draw(1, 8))  # whatever a first time keeps
        gc.collect()
        before = resident_mb()
        session = self.session(artifact)
        slot = session.slot()
        self.run(slot, x=self.draw(1, 8))
        del slot
        session.close()
        del session
        gc.collect()
        assert resident_mb() - before < weights_mb / 2


def resident_mb() -> float:
    """Return this process's resident memory, after giving back what only the allocator holds."""
    import ctypes

    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


class OnnxContract(RuntimeContract):
    """More, for runtimes that take ONNX files and run what surrounds a net inside the graph."""

    def pixels(self, rows=3, side=16, depth=3):
        return np.random.default_rng(rows).integers(0, 256, (rows, side, side, depth), dtype=np.uint8)

    @pytest.mark.parametrize(
        "image",
        [
            {},
            {"channels": "BGR"},
            {"source_channels": "GRAY"},
            {"mean": (), "scale": ()},
            {"scale": (255.0, 255.0, 255.0), "mean": ()},
        ],
        ids=["mean and scale", "reversed channels", "grey source", "bytes as they are", "scale alone"],
    )
    def test_fused_preprocessing_equals_numpy(self, store, image):
        from whet.models.around import apply_images, apply_post

        artifact = nets.pictures(store, post=(nets.BEST_TWO[0],), **image)
        fused = self.session(artifact, fused_preprocessing=True, batch_sizes=(3,))
        plain = self.session(artifact, fused_preprocessing=False, batch_sizes=(3,))
        assert fused.inputs == artifact.service_inputs
        assert plain.inputs == artifact.inputs
        assert (fused.post, plain.post) == ((), artifact.post)
        pixels = self.pixels(depth=1 if image.get("source_channels") == "GRAY" else 3)
        inside = self.run(fused.slot(), pixels=pixels)
        outside = self.run(plain.slot(), **apply_images(artifact, {"pixels": pixels}))
        assert inside["scores"] == close_to(apply_post(artifact.post, outside, artifact.outputs)["scores"], 1e-4)
        reference = nets.reference(artifact, apply_images(artifact, {"pixels": pixels}))
        assert outside["scores"] == close_to(reference["scores"], 1e-4)

    def test_steps_it_cannot_fuse_are_left_to_the_engine(self, store):
        artifact = nets.pictures(store)
        session = self.session(artifact, fused_preprocessing=True)
        assert [step.kind for step in session.post] == ["top_k"]

    def test_a_variable_axis_takes_every_length(self, store):
        artifact = nets.variable(store)
        session = self.session(artifact, batch_sizes=(2,))
        slot = session.slot()
        for length in (*range(1, 40), 3, 1):
            x = self.draw(2, length, 4, seed=length)
            assert self.run(slot, x=x)["y"] == close_to(nets.reference(artifact, {"x": x})["y"])

    def test_a_failure_at_run_time_reaches_the_caller_without_the_librarys_words(self, store):
        import asyncio

        async def story():
            artifact = nets.brittle(store)
            engine = await open_engine(artifact, self.plan(artifact))
            for length in (7, 16, 3):
                with pytest.raises(WhetError) as raised:
                    await engine.infer({"x": np.zeros((1, length), np.float32)})
                assert "eshape" not in str(raised.value)
            answer = await engine.infer({"x": np.ones((1, 8), np.float32)})
            assert answer.outputs["y"].shape == (1, 2, 4)
            assert engine.stats().failed == 3
            await engine.close()

        asyncio.run(story())
