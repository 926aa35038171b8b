"""The optimizer against torch's own classes."""

import pytest
import torch
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
