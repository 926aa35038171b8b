"""The profiling stage: trace a backbone and its exit modules, check the closed form, write costs and parameters."""

from pathlib import Path

import torch
from torch import nn

from tgems.backbones.config import model_config
from tgems.exits.modules import BankGates, ExitHeads, ImageGates
from tgems.exits.sizes import BANK_FEATURES, BANK_HISTORY
from tgems.profiling.closed_form import encoder_cost
from tgems.profiling.costs import ExitCosts, module_costs, write_costs
from tgems.profiling.macs import count_encoder, count_macs
from tgems.provenance import commit, versions


def count_backbone(source: str, visual: nn.Module, head_hidden: int, gate_hidden: int, out: Path) -> None:
    """Count encoder, heads and gates by fvcore and write them with the closed form beside.

    Args:
        source: Backbone source; its configuration is read for the closed form.
        visual: The image tower; weights do not matter.
        head_hidden: Hidden width of heads.
        gate_hidden: Hidden width of gates.
        out: JSON file.

    Raises:
        RuntimeError: Trace and closed form disagree, by as little as one MAC.
    """
    cfg = model_config(source)
    blocks = list(range(1, cfg["vision_cfg"]["layers"] + 1))
    closed, expected = encoder_cost(cfg), module_costs(cfg, blocks, head_hidden, gate_hidden)
    exits, full = count_encoder(visual, cfg["vision_cfg"]["image_size"])
    summary, dim = 2 * cfg["vision_cfg"]["width"], cfg["embed_dim"]
    s, bank = torch.zeros(1, 1, summary), torch.zeros(1, 1, BANK_FEATURES * BANK_HISTORY + 1)
    traced = ExitCosts(
        blocks=tuple(blocks),
        encoder=(*(exits[k - 1].macs for k in blocks[:-1]), full.macs),
        head=count_macs(ExitHeads(1, summary, head_hidden, dim), (s,)).macs,
        image_gate=count_macs(ImageGates(1, summary, gate_hidden), (s,)).macs,
        bank_gate=count_macs(BankGates(1, summary, gate_hidden), (s, bank)).macs,
        projection=closed.projection,
        embed_dim=dim,
    )
    if traced != expected or any(e.normalisation != n for e, n in zip(exits, closed.blocks_normalisation, strict=True)):
        raise RuntimeError(f"{source}: traced {traced} differs from the closed form {expected}")
    norms = [exits[k - 1].normalisation for k in blocks[:-1]] + [full.normalisation]
    rest = {
        "normalisation": norms,
        "closed_form": list(expected.encoder),
        "parameters": _parameters(visual, blocks),
        "recorded": {"versions": versions(), "commit": commit()},
    }
    write_costs(out, traced, rest)


def _parameters(visual: nn.Module, blocks: list[int]) -> list[int]:
    """Parameters of stem and blocks up to each exit; the last with everything."""
    size = [sum(p.numel() for p in b.parameters()) for b in visual.transformer.resblocks]
    whole = sum(p.numel() for p in visual.parameters())
    after = sum(p.numel() for p in visual.ln_post.parameters()) + (0 if visual.proj is None else visual.proj.numel())
    stem = whole - sum(size) - after
    return [stem + sum(size[:k]) for k in blocks[:-1]] + [whole]
