"""T-GEMs whose heads and gates were trained together: run, saved and loaded like the others."""

import pytest
import torch
from conftest import DEMO, variant
from torch import nn
from torch.nn import functional as F

from tgems.backbones.references import model_config
from tgems.costs.exit_costs import module_costs
from tgems.errors import UserError
from tgems.exits.bank_modules import JointBankGates
from tgems.exits.bank_statistics import bank_features
from tgems.exits.modules import ExitHeads, ImageGates
from tgems.features.encode import encode_images
from tgems.outputs import write_json
from tgems.policies.registry import POLICIES
from tgems.provenance import read_json
from tgems.runtime.early_exit import Calibration, EarlyExit
from tgems.runtime.model import EarlyExitCLIP

COSTS = module_costs(model_config(DEMO), variant(8, 4, training={"scheme": "joint"}))
BUILDERS = {"tgem": ImageGates, "tgem_bank": JointBankGates}


def joint(policy: str, threshold: float) -> EarlyExit:
    """Random heads and gates."""
    torch.manual_seed(0)
    heads, gates = ExitHeads(7, COSTS.summary_dim, 8, COSTS.embed_dim), BUILDERS[policy](7, COSTS.summary_dim, 4)
    nn.init.normal_(heads.down.weight)
    frozen = [module.eval().requires_grad_(False) for module in (heads, gates)]
    point = {"scenes": Calibration((threshold,) * 7, None, 0.5)}
    return EarlyExit(POLICIES[policy], 0.5, COSTS, *frozen, point, {"seed": 0})


@pytest.fixture(scope="module")
def seen(demo_backbone):
    """Images, a bank of texts, and what the encoder says at every exit."""
    torch.manual_seed(1)
    images = torch.randn(9, 3, 32, 32)
    bank = F.normalize(torch.randn(12, COSTS.embed_dim), dim=-1)
    return images, bank, encode_images(demo_backbone.tower, images, demo_backbone.blocks)


@pytest.mark.parametrize("policy", BUILDERS)
def test_exits_are_the_harness_s_before_and_after_saving(policy, seen, demo_backbone, tmp_path):
    images, bank, encoded = seen
    early = joint(policy, 0.0)
    z = early.heads(encoded.summaries)
    if policy == "tgem":
        scores = early.gates(encoded.summaries)
    else:
        scores = early.gates(
            encoded.summaries, bank_features(demo_backbone.logit_scale * z @ bank.T, demo_backbone.logit_scale)
        )
    threshold = scores.median().item()
    leaves = torch.cat((scores > threshold, torch.ones(9, 1, dtype=torch.bool)), 1)
    model = EarlyExitCLIP(demo_backbone, joint(policy, threshold))
    model.save_pretrained(tmp_path / "saved")
    kind = read_json(tmp_path / "saved/config.json")["modules"]["gates"]["kind"]
    assert kind == {"tgem": "joint_image", "tgem_bank": "joint_bank"}[policy]
    clear = (scores - threshold).abs().amin(1) > 1e-4
    for one in (model, EarlyExitCLIP.from_pretrained(tmp_path / "saved", backbone=demo_backbone)):
        if policy == "tgem_bank":
            one.set_text_bank(bank)
        got = one.encode_image(images, return_exits=True)
        assert clear.sum() >= 7 and torch.equal(got.exits[clear], leaves.int().argmax(1)[clear])
        every = torch.cat((z, encoded.embeddings[:, None]), 1)
        assert torch.allclose(got.embeddings[clear], every[torch.arange(9), got.exits][clear], atol=1e-5)


def test_gates_of_another_policy_are_refused(demo_backbone, tmp_path):
    EarlyExitCLIP(demo_backbone, joint("tgem", 0.0)).save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved/config.json"
    config = read_json(path)
    config["modules"]["gates"]["kind"] = "confidence"
    write_json(path, config, sort_keys=False)
    with pytest.raises(UserError, match="are not those of policy 'tgem'"):
        EarlyExitCLIP.from_pretrained(tmp_path / "saved", backbone=demo_backbone)


def test_joint_gates_cost_one_number_per_exit():
    staged = module_costs(model_config(DEMO), variant(8, 4))
    assert COSTS.gates["image"] == COSTS.gates["confidence"] == staged.gates["confidence"]
    assert all(a < b for a, b in zip(COSTS.gates["bank"], staged.gates["bank"], strict=True))
