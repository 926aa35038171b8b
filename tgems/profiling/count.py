"""The profiling stage: trace a backbone and its exit modules, check the closed form, write costs and parameters."""

from pathlib import Path

import torch
from torch import nn

from tgems.backbones.config import model_config
from tgems.exits.modules import BankGates, ExitHeads, ImageGates, LookaheadGates
from tgems.exits.sizes import BANK_FEATURES
from tgems.profiling.closed_form import encoder_cost
from tgems.profiling.costs import ExitCosts, module_costs, write_costs
from tgems.profiling.macs import count_encoder, count_macs
from tgems.provenance import commit, versions


def count_backbone(source: str, visual: nn.Module, modules: dict, out: Path) -> None:
    """Count encoder, heads and gates by fvcore and write them with the closed form beside.

    Args:
        source: Backbone source; its configuration is read for the closed form.
        visual: The image tower; weights do not matter.
        modules: A variant of the configuration, see `module_costs`.
        out: JSON file.

    Raises:
        RuntimeError: Trace and closed form disagree, by as little as one MAC.
    """
    cfg = model_config(source)
    closed, expected = encoder_cost(cfg), module_costs(cfg, modules)
    blocks, summary, dim = expected.blocks, expected.summary_dim, expected.embed_dim
    hidden = {name: modules[name]["hidden"] for name in ("heads", "image_gates", "bank_gates")}
    exits, full = count_encoder(visual, cfg["vision_cfg"]["image_size"])
    s, bank, price = torch.zeros(1, 1, summary), torch.zeros(1, 1, BANK_FEATURES), torch.ones(1)
    early = len(blocks) - 1
    lookahead = LookaheadGates(early, summary, hidden["image_gates"], expected.fixed().tolist())
    traced = ExitCosts(
        blocks=blocks,
        encoder=(*(exits[k - 1].macs for k in blocks[:-1]), full.macs),
        head=count_macs(ExitHeads(1, summary, hidden["heads"], dim), (s,)).macs,
        image_gate=count_macs(lookahead, (s.expand(1, early, summary),)).macs // early,
        confidence_gate=count_macs(ImageGates(1, summary, hidden["image_gates"]), (s,)).macs,
        bank_gate=count_macs(BankGates(1, summary, hidden["bank_gates"]), (s, bank, price)).macs,
        projection=closed.projection,
        embed_dim=dim,
        width=cfg["vision_cfg"]["width"],
        summary_dim=summary,
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


def _parameters(visual: nn.Module, blocks: tuple[int, ...]) -> list[int]:
    """Parameters of stem and blocks up to each exit; the last with everything."""
    size = [sum(p.numel() for p in b.parameters()) for b in visual.transformer.resblocks]
    whole = sum(p.numel() for p in visual.parameters())
    after = sum(p.numel() for p in visual.ln_post.parameters()) + (0 if visual.proj is None else visual.proj.numel())
    stem = whole - sum(size) - after
    return [stem + sum(size[:k]) for k in blocks[:-1]] + [whole]
