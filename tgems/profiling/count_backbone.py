"""The profiling stage: trace a backbone and its exit modules, check the closed form, write costs and parameters."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from tgems.backbones.references import model_config, token_merging_of
from tgems.backbones.towers import Tower
from tgems.costs.closed_form import BANK_FEATURES, VARIANCE_GATE_INPUTS, encoder_cost
from tgems.costs.exit_costs import GATES, ExitCosts, check_targets, exit_costs
from tgems.costs.exit_layout import summary_dim
from tgems.costs.saved_costs import write_costs
from tgems.exits.bank_modules import BankGates, ConfidenceAndVarianceGates, JointBankGates
from tgems.exits.modules import ExitHeads, ImageGates, LookaheadGates
from tgems.profiling.fvcore_trace import count_encoder, count_macs
from tgems.provenance import commit, versions


def count_backbone(backbone: dict, tower: Tower, modules: dict, rate_targets: Sequence[float], out: Path) -> None:
    """Count the MACs of encoder, heads and gates with fvcore, and write them beside the closed form, if there is one.

    Args:
        backbone: Entry of the configuration.
        tower: Its image tower; the weights do not matter.
        modules: A variant of the configuration; see `exit_costs`.
        rate_targets: Rate targets of the variant that have not been checked yet.
        out: JSON file.

    Raises:
        UserError: A rate target is below the cheapest exit.
        RuntimeError: The trace and the closed form differ, even by a single MAC.
    """
    traced, closed = count_encoder(tower), encoder_cost(model_config(backbone), token_merging_of(backbone))
    name = backbone.get("model") or backbone["pretrained"]
    if closed not in (None, traced):
        raise RuntimeError(f"{name}: traced {asdict(traced)} differs from the closed form {asdict(closed)}")
    expected = exit_costs(traced, modules | {"kept": backbone.get("exits", "all")}, tower.accepts_raw)
    check_targets(expected, rate_targets, f"backbone {name!r}")
    costs = trace_modules(expected, modules)
    if costs != expected:
        raise RuntimeError(f"{name}: traced {asdict(costs)} differs from the closed form {asdict(expected)}")
    norms = [*(traced.blocks_normalisation[k - 1] for k in costs.blocks[:-1]), traced.full_normalisation]
    rest = {
        "normalisation": norms,
        "closed_form": None if closed is None else [*(closed.blocks[k - 1] for k in costs.blocks[:-1]), closed.full],
        "parameters": parameters(tower, costs.blocks),
        "recorded": {"backbone": backbone, "versions": versions(), "commit": commit()},
    }
    write_costs(out, costs, rest)


def trace_modules(costs: ExitCosts, modules: dict) -> ExitCosts:
    """Return costs in which heads and gates are traced, each with the unpadded summary width of its exit."""
    hidden = {name: modules[name]["hidden"] for name in ("heads", "image_gates", "bank_gates")}
    early = len(costs.widths)
    rates = costs.fixed().tolist()
    head, gates = {}, {}
    for width in set(costs.widths):
        size = summary_dim(modules["summary"], width)
        s, bank, price = torch.zeros(1, 1, size), torch.zeros(1, 1, BANK_FEATURES), torch.ones(1)
        head[width] = count_macs(ExitHeads(1, size, hidden["heads"], costs.embed_dim), (s,)).macs
        image = count_macs(ImageGates(1, size, hidden["image_gates"]), (s,)).macs
        variance = ConfidenceAndVarianceGates(1, size, hidden["bank_gates"], width)
        inputs = torch.zeros(1, 1, VARIANCE_GATE_INPUTS)
        gates[width] = {
            "confidence": image,
            "router": image,
            "variance": count_macs(variance, (inputs,)).macs + 2 * size,  # squares, which fvcore does not count
        }
        if modules["training"]["scheme"] == "joint":
            joint = JointBankGates(1, size, hidden["bank_gates"])
            gates[width] |= {"image": image, "bank": count_macs(joint, (s, bank)).macs}
        else:
            lookahead = LookaheadGates(early, size, hidden["image_gates"], rates)
            gates[width]["image"] = count_macs(lookahead, (s.expand(1, early, size),)).macs // early
            gates[width]["bank"] = count_macs(BankGates(1, size, hidden["bank_gates"]), (s, bank, price)).macs
    by_kind = {kind: tuple(gates[width][kind] for width in costs.widths) for kind in GATES}
    return replace(costs, head=tuple(head[width] for width in costs.widths), gates=by_kind)


def parameters(tower: Tower, blocks: Sequence[int]) -> list[int]:
    """Count the parameters of the stem and blocks up to each exit; the last count is that of the whole encoder."""
    size = [sum(p.numel() for p in block.parameters()) for block in tower.blocks]
    named = dict(tower.visual.named_parameters())
    whole = sum(p.numel() for p in named.values())
    end = sum(p.numel() for name, p in named.items() if name.startswith(tower.end))
    stem = whole - sum(size) - end
    return [stem + sum(size[:k]) for k in blocks[:-1]] + [whole]
