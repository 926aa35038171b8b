"""Tabulate the cost of an image encoder up to each of its blocks, for `tgems macs`."""

from collections.abc import Sequence

from tgems.architectures.catalog import family
from tgems.backbones.load import build_image_tower
from tgems.backbones.references import model_config
from tgems.config.run import Scheme, SummaryOptions
from tgems.config.training import BankGateOptions, HeadOptions, ImageGateOptions
from tgems.costs.closed_form import encoder_cost
from tgems.costs.exit_costs import exit_costs
from tgems.profiling.count_backbone import parameters
from tgems.profiling.fvcore_trace import count_encoder

DEFAULTS = {
    "exits": "all",
    "summary": SummaryOptions().plain(),
    "training": Scheme().plain(),
    "heads": HeadOptions().plain(),
    "image_gates": ImageGateOptions().plain(),
    "bank_gates": BankGateOptions().plain(),
}


def cost_table(model: str, token_merging: int = 0) -> str:
    """Tabulate the costs of all exits of an architecture, from the closed form or, without one, from a trace.

    Args:
        model: Name of an open_clip architecture, or `local-dir:FOLDER`.
        token_merging: Number of tokens that each block merges.

    Returns:
        A table as text, with a row per exit: the encoder's GMACs up to the exit and their share of the full encoder,
        the GMACs with the gates visited and a head, and the millions of parameters of the encoder.

    Raises:
        UserError: The architecture is unknown or not supported, or cannot merge so many tokens.
    """
    local = model.startswith("local-dir:")
    backbone: dict = {"pretrained": model} if local else {"model": model, "pretrained": "random"}
    backbone["token_merging"] = token_merging
    tower = build_image_tower(backbone, "cpu" if family(model_config(backbone)) == "timm" else "meta")
    encoder = encoder_cost(model_config(backbone), token_merging)
    encoder = encoder or count_encoder(tower)
    costs = exit_costs(encoder, DEFAULTS, tower.accepts_raw)
    total = costs.image_guided() * costs.full / 1e9
    sizes = parameters(tower, costs.blocks)
    rows = zip(costs.blocks, costs.encoder, total, sizes, strict=True)
    merged = f", {token_merging} tokens merged per block" if token_merging else ""
    lines = [f"{model}: {costs.full / 1e9:.3f} GMACs{merged}", "exit     GMACs   share  with T-GEM  parameters M"]
    lines += [
        f"{block:4d}{macs / 1e9:10.3f}{macs / costs.full:8.3f}{with_modules:12.3f}{size / 1e6:14.2f}"
        for block, macs, with_modules, size in rows
    ]
    return "\n".join(lines)


def print_tables(models: Sequence[str], token_merging: int = 0) -> None:
    """Print the cost tables of some architectures; see `cost_table`."""
    for model in models:
        print(cost_table(model, token_merging))
