"""The exits stage: read training features, train, write module folders that appear whole or not at all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from tgems.exits.bank_gates import train_bank_gates
from tgems.exits.folders import EXTRA, TENSORS, load_extra, load_module
from tgems.exits.image_gates import hit_probabilities, train_image_gates, train_lookahead
from tgems.exits.train import Pairs, embed, embed_where_asked, train_confidence_gates, train_heads
from tgems.features.cache import FeatureSet, load_features
from tgems.features.rows import MappedRows
from tgems.profiling.costs import ExitCosts, read_costs
from tgems.provenance import commit, digest_file, versions, whole_folder, write_json


@dataclass(frozen=True)
class Training:
    """Training pairs as a variant's modules see them, and what exits cost."""

    features: FeatureSet
    costs: ExitCosts
    pairs: Pairs

    @classmethod
    def read(cls, features: str, macs: str) -> "Training":
        """Read cached features, of the exits and summaries that the costs name."""
        costs = read_costs(macs)
        data = load_features(features).at_exits(costs.blocks, costs.summary_dim)
        return cls(data, costs, Pairs.of(data))

    @property
    def rates(self) -> Tensor:
        """Relative cost of every exit `[E]`, modules of image guidance included."""
        return torch.from_numpy(self.costs.image_guided()).float()

    def embed(self, heads: str) -> Tensor | MappedRows:
        """Embeddings at every exit by heads of a folder `[n, E, D]`; streamed as the summaries are."""
        module = load_module(heads, self.features.manifest["weights"])
        how = embed_where_asked if self.features.streamed else embed
        return how(module, self.pairs.summaries, self.pairs.last)


def run_heads(features: str, macs: str, options: dict, seed: int, out: str) -> None:
    """Train and write the heads of one seed."""
    data = Training.read(features, macs)
    heads, history = train_heads(data.pairs, data.rates, options, seed)
    _write(out, "heads", heads, data, options | {"seed": seed}, history)


def run_lookahead(
    features: str, macs: str, heads: Sequence[str], options: dict, seeds: Sequence[int], out: Sequence[str]
) -> None:
    """Train and write the foresight of image-guided gates, with the hit probabilities that it learned from."""
    data = Training.read(features, macs)
    for seed, head, folder in zip(seeds, heads, out, strict=True):
        generator = torch.Generator().manual_seed(seed)
        right = hit_probabilities(data.pairs, data.embed(head), options["bank_size"], generator)
        gates, history = train_lookahead(data.pairs, right, data.rates, options, seed)
        _write(folder, "lookahead", gates, data, options | {"seed": seed}, history, {"right": right})


def run_image_gates(
    features: str,
    macs: str,
    foresight: Sequence[str],
    target: float,
    options: dict,
    seeds: Sequence[int],
    out: Sequence[str],
) -> None:
    """Train and write image-guided gates of one rate target for all seeds; folders are in the order of the seeds."""
    data = Training.read(features, macs)
    for seed, start, folder in zip(seeds, foresight, out, strict=True):
        gates, right = load_module(start, data.features.manifest["weights"]), load_extra(start)["right"]
        gates, history = train_image_gates(data.pairs, right, data.rates, gates, target, options, seed)
        achieved = {"rate_target": target, "rate_before_calibration": history["rate_at_zero"].iloc[-1]}
        _write(folder, "image", gates, data, options | {"seed": seed} | achieved, history)


def run_gates(
    kind: str, features: str, macs: str, heads: Sequence[str], options: dict, seeds: Sequence[int], out: Sequence[str]
) -> None:
    """Train and write gates that know no rate target: `kind` is `bank` or `confidence`."""
    data = Training.read(features, macs)
    train: Callable = {
        "bank": lambda z, seed: train_bank_gates(data.pairs, z, data.costs, options, seed),
        "confidence": lambda z, seed: train_confidence_gates(data.pairs, z, options, seed),
    }[kind]
    for seed, head, folder in zip(seeds, heads, out, strict=True):
        gates, history = train(data.embed(head), seed)
        _write(folder, kind, gates, data, options | {"seed": seed}, history)


def _write(
    out: str,
    kind: str,
    module,
    data: Training,
    options: dict,
    history: pd.DataFrame,
    extra: dict[str, Tensor] | None = None,
) -> None:
    """Write `model.safetensors`, `history.csv`, `config.json`, and `extra` tensors beside them."""
    manifest = data.features.manifest
    with whole_folder(out) as partial:
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, partial / TENSORS)
        history.to_csv(partial / "history.csv", index=False)
        if extra:
            save_file(extra, partial / EXTRA)
        config = {
            "architecture": {"kind": kind} | module.architecture,
            "options": options,
            "blocks": data.costs.blocks,
            "weights": manifest["weights"],
            "training_data": {"n": manifest["n"], "shards": manifest["shards"]},
            "model_digest": digest_file(partial / TENSORS),
            "extra_digest": digest_file(partial / EXTRA) if extra else None,
            "recorded": {"versions": versions(), "commit": commit()},
        }
        write_json(partial / "config.json", config)
