"""ONNX Runtime under the contract, and its own knobs."""

import asyncio

import engine_nets as nets
import numpy as np
import pytest
from runtime_contract import OnnxContract

from whet.engine import open_engine
from whet.engine.ort import pool_size
from whet.errors import PlanRefused, RuntimeFailed
from whet.plan import Plan


class TestOnnxRuntime(OnnxContract):
    runtime = "onnxruntime"
    precisions_refused = ("bf16", "f16")

    @pytest.mark.parametrize("options", [(("spinning", "0"),), (("graph", "none"),), (("denormals_as_zero", "1"),)])
    def test_switches_do_not_change_the_answer(self, store, options):
        session = self.session(self.mlp(store), options=options)
        x = self.draw(1, 8)
        (y,) = self.run(session.slot(), x=x).values()
        assert abs(y - self.answer_mlp(x)).max() < 1e-5

    def test_the_librarys_words_are_in_the_log_under_the_incident_the_caller_was_told(self, store, caplog):
        async def story():
            artifact = nets.brittle(store)
            engine = await open_engine(artifact, self.plan(artifact))
            with pytest.raises(RuntimeFailed, match=r"incident [0-9a-f]{12}") as raised:
                await engine.infer({"x": np.zeros((1, 7), np.float32)})
            await engine.close()
            return str(raised.value).split()[-1]

        assert asyncio.run(story()) in caplog.text
        assert "Reshape" in caplog.text

    def test_a_value_a_switch_does_not_have_is_refused(self, store):
        with pytest.raises(PlanRefused, match="all, extended, basic, none"):
            self.session(self.mlp(store), options=(("graph", "most"),))


@pytest.mark.parametrize(
    ("streams", "threads", "cores", "pool"),
    [(1, 1, 8, 1), (1, 4, 8, 4), (2, 4, 8, 7), (4, 1, 8, 1), (1, 16, 8, 8), (16, 1, 8, 1), (2, 2, 2, 1)],
)
def test_lanes_and_pool_together_use_the_threads_of_the_plan(streams, threads, cores, pool):
    plan = Plan("a", streams=streams, threads=threads)
    assert pool_size(plan, cores) == pool
    assert min(streams, cores) + pool - 1 == min(streams * threads, cores)
