"""What an image encoder costs up to each of its blocks, for reading: `python -m tgems.profiling.macs MODEL ...`."""

from collections.abc import Sequence

from tgems.backbones.config import model_config
from tgems.backbones.load import build_image_tower
from tgems.profiling.closed_form import encoder_cost
from tgems.profiling.costs import exit_costs
from tgems.profiling.count import parameters
from tgems.profiling.macs import count_encoder

MODULES = {  # the configuration's defaults
    "exits": "all",
    "summary": {"grid": 2},
    "training": {"scheme": "staged"},
    "heads": {"hidden": 256},
    "image_gates": {"hidden": 16},
    "bank_gates": {"hidden": 32},
}


def cost_table(model: str) -> str:
    """Costs of every exit of an architecture, by the closed form, or traced where there is none.

    Args:
        model: Name of an open_clip architecture, or `local-dir:FOLDER`.

    Returns:
        Lines: exit, GMACs of the encoder and their share, GMACs with gates visited and head, millions of parameters.

    Raises:
        UserError: The architecture is unknown or not supported.
    """
    local = model.startswith("local-dir:")
    backbone = {"pretrained": model} if local else {"model": model, "pretrained": "random"}
    encoder = encoder_cost(model_config(backbone))
    tower = build_image_tower(backbone, "cpu" if encoder is None else "meta")
    encoder = encoder or count_encoder(tower)
    costs = exit_costs(encoder, MODULES, tower.accepts_raw)
    total = costs.image_guided() * costs.full / 1e9
    sizes = parameters(tower, costs.blocks)
    rows = zip(costs.blocks, costs.encoder, total, sizes, strict=True)
    lines = [f"{model}: {costs.full / 1e9:.3f} GMACs", "exit     GMACs   share  with T-GEM  parameters M"]
    lines += [
        f"{exit_:4d}{macs / 1e9:10.3f}{macs / costs.full:8.3f}{all_:12.3f}{size / 1e6:14.2f}"
        for exit_, macs, all_, size in rows
    ]
    return "\n".join(lines)


def print_tables(models: Sequence[str]) -> None:
    """Print the tables of some architectures.

    Raises:
        UserError: One is unknown or not supported.
    """
    for model in models:
        print(cost_table(model))
