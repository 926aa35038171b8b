"""The optimizer against torch's own classes, and what a job of training or evaluation imports."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from tgems.exits.optimizer import OneCycleAdamW


@pytest.mark.parametrize(("steps", "peak", "decay"), [(20, 1e-3, 0.1), (37, 0.02, 0.0), (400, 3e-4, 0.5)])
def test_equal_to_torch_s_classes_bit_for_bit(steps, peak, decay):
    def trained(of) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        sizes = [(5, 3), (3,), (), (7, 2)]
        parameters = [nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]
        zero, step = of(parameters)
        for k in range(steps - 1):
            zero()
            assert all(p.grad is None for p in parameters)
            loss = sum((p * torch.randn(p.shape, generator=generator)).sum().square() for p in parameters[:3])
            loss = loss + parameters[3].square().sum() if k % 3 else loss
            loss.backward()
            step()
        return [p.detach() for p in parameters]

    def ours(parameters):
        optimizer = OneCycleAdamW(parameters, peak, decay, steps)
        return optimizer.zero_grad, optimizer.step

    def torch_s(parameters):
        optimizer = torch.optim.AdamW(parameters, weight_decay=decay, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.1)
        return optimizer.zero_grad, lambda: (optimizer.step(), schedule.step())

    assert all(torch.equal(a, b) for a, b in zip(trained(ours), trained(torch_s), strict=True))


def test_training_and_evaluation_import_no_compiler_and_no_backbone(tmp_path):
    code = """if True:
        import sys
        from tgems.jobs import job, use_threads

        with job(sys.argv[1], 1):
            import tgems.evaluation.jobs
            import tgems.exits.training_jobs

            use_threads(1)
            import torch
            from tgems.config.training import Schedule
            from tgems.exits.training_loop import fit

            assert torch.are_deterministic_algorithms_enabled()
            module, ones = torch.nn.Linear(3, 1), torch.ones(4, 3)
            options = Schedule(batch_size=4, passes=2, learning_rate=1e-3, weight_decay=0.1)
            fit(module, lambda batch, generator: module(ones).square().mean(), 8, options, 0, "toy")
            unwanted = "clip_benchmark fvcore matplotlib open_clip seaborn sklearn sympy timm torchvision transformers"
            print([name for name in (*unwanted.split(), "torch._dynamo", "torch._inductor") if name in sys.modules])
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stdout + run.stderr
