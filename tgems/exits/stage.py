"""The exits stage: read training features, train, write module folders that appear whole or not at all."""

from collections.abc import Sequence

import pandas as pd
import torch
from safetensors.torch import save_file

from tgems.exits.folders import load_module
from tgems.exits.modules import ExitHeads
from tgems.exits.train import Pairs, embed, train_bank_gates, train_heads, train_image_gates
from tgems.features.cache import FeatureSet, load_features
from tgems.profiling.costs import read_costs
from tgems.provenance import commit, digest_file, versions, whole_folder, write_json


def run_heads(features: str, options: dict, seed: int, out: str) -> None:
    """Train and write the heads of one seed."""
    data = load_features(features)
    heads, history = train_heads(Pairs.of(data), options, seed)
    _write(out, "heads", heads, data, options | {"seed": seed}, history)


def run_image_gates(
    features: str,
    heads: Sequence[str],
    macs: str,
    target: float,
    options: dict,
    seeds: Sequence[int],
    out: Sequence[str],
) -> None:
    """Train and write image-guided gates of one rate target for all seeds; `heads` and `out` are in their order."""
    data, rates = load_features(features), torch.from_numpy(read_costs(macs).image_guided()).float()
    pairs = Pairs.of(data)
    for seed, folder, target_folder in zip(seeds, heads, out, strict=True):
        z = embed(_heads(folder, data), pairs.summaries, pairs.last)
        gates, history = train_image_gates(pairs, z, rates, target, options, seed)
        recorded = options | {
            "seed": seed,
            "rate_target": target,
            "rate_before_calibration": history["rate_at_zero"].iloc[-1],
        }
        _write(target_folder, "image", gates, data, recorded, history)


def run_bank_gates(features: str, heads: str, options: dict, seed: int, out: str) -> None:
    """Train and write bank-guided gates of one seed."""
    data = load_features(features)
    pairs = Pairs.of(data)
    z = embed(_heads(heads, data), pairs.summaries, pairs.last)
    gates, history = train_bank_gates(pairs, z, options, seed)
    _write(out, "bank", gates, data, options | {"seed": seed}, history)


def _heads(folder: str, data: FeatureSet) -> ExitHeads:
    return load_module(folder, data.manifest["weights"])


def _write(out: str, kind: str, module, data: FeatureSet, options: dict, history: pd.DataFrame) -> None:
    """Write `model.safetensors`, `history.csv` and `config.json`."""
    with whole_folder(out) as partial:
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, partial / "model.safetensors")
        history.to_csv(partial / "history.csv", index=False)
        config = {
            "kind": kind,
            "architecture": module.architecture,
            "options": options,
            "weights": data.manifest["weights"],
            "training_data": {"n": data.manifest["n"], "shards": data.manifest["shards"]},
            "model_digest": digest_file(partial / "model.safetensors"),
            "recorded": {"versions": versions(), "commit": commit()},
        }
        write_json(partial / "config.json", config)
