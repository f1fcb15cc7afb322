"""ONNX Runtime under the contract, and its own knobs."""

import pytest
from runtime_contract import OnnxContract

from whet.engine.ort import pool_size
from whet.errors import PlanRefused
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
