"""TensorFlow under the contract; the nets are SavedModels with the weights the other runtimes get."""

import os
from dataclasses import replace

import engine_nets as nets
import pytest
from onnx import numpy_helper
from runtime_contract import RuntimeContract

from whet.errors import PlanRefused, Unsupported
from whet.models.artifact import seal

pytestmark = [pytest.mark.extra("tensorflow"), pytest.mark.filterwarnings("ignore")]

CORES = len(os.sched_getaffinity(0))


class TestTensorFlow(RuntimeContract):
    runtime = "tensorflow"
    precisions_refused = ("bf16", "f16")

    def keep(self, store, like, function):
        import tensorflow as tf

        module = tf.Module()
        rest = [spec.shape if not like.batched else (None, *spec.shape[1:]) for spec in like.inputs]
        takes = [tf.TensorSpec(shape, tf.float32, spec.name) for spec, shape in zip(like.inputs, rest, strict=True)]
        module.run = tf.function(function, input_signature=takes)
        path = store / "saved"
        tf.saved_model.save(module, str(path), signatures={"serving_default": module.run})
        return seal(replace(like, model=path.name, format="savedmodel"), [path], store)

    def mlp(self, store, width=16):
        import tensorflow as tf

        shapes = {"a": (8, width), "b": (width, 4)}
        a, b = (numpy_helper.to_array(nets.weights(name, *shape)) for name, shape in shapes.items())
        return self.keep(store, nets.mlp(store), lambda x: {"y": tf.nn.relu(x @ a) @ b})

    def large(self, store):
        return self.mlp(store, nets.LARGE)

    def two_inputs(self, store):
        return self.keep(store, nets.two_inputs(store), lambda a, b: {"sum": a + 2 * b, "product": a * b})

    def unbatched(self, store):
        import tensorflow as tf

        return self.keep(store, nets.unbatched(store), lambda x: {"y": tf.matmul(x, x)})

    def broken(self, store):
        good = self.mlp(store)
        folder = store / "broken-saved"
        (folder / good.model).mkdir(parents=True, exist_ok=True)
        (folder / good.model / "saved_model.pb").write_bytes((good.path / "saved_model.pb").read_bytes()[:40])
        return replace(good, folder=folder)

    def plan(self, artifact, **more):
        # The pools belong to the process: every test of this file asks for the same compute threads.
        return super().plan(artifact, **{"threads": CORES, **more})

    def test_a_signature_it_does_not_have_is_named(self, store):
        with pytest.raises(Unsupported, match="serving_default"):
            self.session(self.mlp(store), options=(("signature", "nothing"),))

    def test_pools_of_another_size_are_refused_once_they_are_made(self, store):
        self.session(self.mlp(store))
        if CORES == 1:
            pytest.skip("one core: there is no other size")
        with pytest.raises(PlanRefused, match="threads in this process"):
            self.session(self.mlp(store), threads=1)
