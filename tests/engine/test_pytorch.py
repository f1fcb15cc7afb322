"""PyTorch under the contract; the nets are built in torch with the weights the other runtimes get."""

import warnings
from dataclasses import replace

import engine_nets as nets
import numpy as np
import pytest
from onnx import numpy_helper
from runtime_contract import RuntimeContract

from whet.engine import load_runtime
from whet.errors import PlanRefused
from whet.models.artifact import seal
from whet.plan import OpenMP

pytestmark = pytest.mark.extra("torch")


def weight(name, *shape):
    import torch

    return torch.from_numpy(numpy_helper.to_array(nets.weights(name, *shape)).copy())


def modules(width=16):
    import torch

    class Mlp(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(weight("a", 8, width), requires_grad=False)
            self.b = torch.nn.Parameter(weight("b", width, 4), requires_grad=False)

        def forward(self, x):
            return torch.relu(x @ self.a) @ self.b

    class Two(torch.nn.Module):
        def forward(self, a, b):
            return a + 2 * b, a * b

    class Square(torch.nn.Module):
        def forward(self, x):
            return x @ x

    return Mlp().eval(), Two().eval(), Square().eval()


class TorchContract(RuntimeContract):
    runtime = "torch"

    def keep(self, store, like, module, example):
        raise NotImplementedError

    def mlp(self, store):
        import torch

        return self.keep(store, nets.mlp(store), modules()[0], (torch.zeros(2, 8),))

    def large(self, store):
        import torch

        return self.keep(store, nets.mlp(store), modules(nets.LARGE)[0], (torch.zeros(2, 8),))

    def two_inputs(self, store):
        import torch

        return self.keep(store, nets.two_inputs(store), modules()[1], (torch.zeros(2, 3), torch.zeros(2, 3)))

    def unbatched(self, store):
        import torch

        return self.keep(store, nets.unbatched(store), modules()[2], (torch.zeros(4, 4),))

    def test_bf16_is_coarser_and_says_so(self, store):
        session = self.session(self.mlp(store), precision="bf16")
        x = self.draw(2, 8)
        (y,) = self.run(session.slot(), x=x).values()
        assert y.dtype == np.float32
        error = np.abs(y - self.answer_mlp(x)).max()
        assert 1e-6 < error < 0.1
        assert session.effective.precision == "bf16"

    def test_an_openmp_environment_that_does_not_hold_is_refused(self, store):
        with pytest.raises(PlanRefused, match="OMP_NUM_THREADS is"):
            self.session(self.mlp(store), openmp=OpenMP(threads=61))


class TestTorchScript(TorchContract):
    def keep(self, store, like, module, example):
        import torch

        with warnings.catch_warnings():  # torch marks TorchScript as old; the format is one we still serve
            warnings.simplefilter("ignore")
            path = store / "model.pt"
            torch.jit.trace(module, example).save(str(path))
        return seal(replace(like, model=path.name, format="torchscript"), [path], store)

    def test_freezing_does_not_change_the_answer(self, store):
        session = self.session(self.mlp(store), options=(("compile", "freeze"),))
        x = self.draw(3, 8)
        (y,) = self.run(session.slot(), x=x).values()
        assert np.abs(y - self.answer_mlp(x)).max() < 1e-5


class TestExportedProgram(TorchContract):
    def keep(self, store, like, module, example):
        import torch

        rows = torch.export.Dim("rows", min=1, max=4096)
        shapes = None if not like.batched else tuple({0: rows} for _ in example)
        program = torch.export.export(module, example, dynamic_shapes=shapes)
        path = store / "model.pt2"
        torch.export.save(program, path)
        return seal(replace(like, model=path.name, format="pt2"), [path], store)


def test_lanes_keep_their_own_number_of_threads(store):
    """OpenMP keeps the number by thread: a lane that never set it would compute on every core."""
    import threading

    import torch

    contract = TestTorchScript()
    session = contract.session(contract.mlp(store), threads=1)
    slot = session.slot()
    seen = []

    def lane():
        contract.run(slot, x=contract.draw(1, 8))
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=lane)
    thread.start()
    thread.join()
    assert seen == [1]
    assert load_runtime("torch").capabilities().openmp
