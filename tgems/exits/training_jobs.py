"""The jobs that train exit modules: read training features, train, and write folders, each completely or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from tgems.config.training import (
    BankGateOptions,
    ConfidenceTraining,
    HeadOptions,
    ImageGateOptions,
    JointTraining,
    LookaheadOptions,
    RouterTraining,
)
from tgems.costs.exit_costs import ExitCosts
from tgems.costs.saved_costs import read_costs
from tgems.errors import UserError
from tgems.exits.bank_gate_training import train_bank_gates, train_variance_gates
from tgems.exits.head_training import cross_fit, embed_out_of_fold, train_confidence_gates, train_heads
from tgems.exits.image_gate_training import hit_probabilities, train_image_gates, train_lookahead, train_router
from tgems.exits.joint_training import train_joint
from tgems.exits.modules import ExitHeads, Gates, LookaheadGates
from tgems.exits.saved_modules import EXTRA, TENSORS, load_extra, load_folds, load_gates, load_heads
from tgems.exits.training_pairs import Pairs
from tgems.features.cache import IN_MEMORY_GB, FeatureSet, load_features
from tgems.features.row_access import MappedRows
from tgems.outputs import whole_folder, write_json
from tgems.provenance import commit, digest_file, versions

PathLike = str | Path


@dataclass(frozen=True)
class Training:
    """Training pairs as the modules of a variant see them, and the costs of the exits."""

    features: FeatureSet
    costs: ExitCosts
    pairs: Pairs

    @classmethod
    def read(cls, features: PathLike, macs: PathLike, in_memory_gb: float = IN_MEMORY_GB) -> "Training":
        """Read cached features, of the exits and summaries that the costs name."""
        costs = read_costs(Path(macs))
        data = load_features(Path(features), in_memory_gb=in_memory_gb).at_exits(costs.blocks, costs.summary_dim)
        return cls(data, costs, Pairs.of(data))

    @property
    def rates(self) -> Tensor:
        """Relative cost of every exit `[E]`, modules of image guidance included."""
        return torch.from_numpy(self.costs.image_guided()).float()

    def embed(self, folder: PathLike) -> Tensor | MappedRows:
        """Compute the embeddings at every exit `[n, E, D]` that gates learn from; streamed if the summaries are.

        If the heads of the folder were cross-fitted, each image is embedded by the heads that have not seen it.
        """
        heads = load_heads(folder, self.features.manifest["weights"])
        folds, unseen_by = load_folds(folder) or ([heads], torch.zeros(len(self.pairs), dtype=torch.uint8))
        return embed_out_of_fold(folds, unseen_by, self.pairs)


def run_heads(
    features: PathLike,
    macs: PathLike,
    options: HeadOptions,
    seed: int,
    out: PathLike,
    in_memory_gb: float = IN_MEMORY_GB,
) -> None:
    """Train and write the heads of one seed, and those that gates learn from."""
    data = Training.read(features, macs, in_memory_gb)
    heads, history = train_heads(data.pairs, data.rates, options, seed)
    extra = None
    if options.fold_passes:
        folds, unseen_by = cross_fit(data.pairs, data.rates, options, seed)
        extra = {f"{fold}.{k}": v for fold, module in enumerate(folds) for k, v in module.state_dict().items()}
        extra["unseen_by"] = unseen_by
    _write(out, "heads", heads, data, options.plain() | {"seed": seed}, history, extra)


def run_lookahead(
    features: PathLike,
    macs: PathLike,
    heads: Sequence[PathLike],
    options: LookaheadOptions,
    seeds: Sequence[int],
    out: Sequence[PathLike],
    in_memory_gb: float = IN_MEMORY_GB,
) -> None:
    """Train and write lookahead gates, with the hit probabilities that they learned from."""
    data = Training.read(features, macs, in_memory_gb)
    for seed, head, folder in zip(seeds, heads, out, strict=True):
        generator = torch.Generator().manual_seed(seed)
        right = hit_probabilities(data.pairs, data.embed(head), options.bank_size, generator)
        gates, history = train_lookahead(data.pairs, right, data.rates, options, seed)
        _write(folder, "lookahead", gates, data, options.plain() | {"seed": seed}, history, {"right": right})


def run_image_gates(
    features: PathLike,
    macs: PathLike,
    foresight: Sequence[PathLike],
    target: float,
    options: ImageGateOptions,
    seeds: Sequence[int],
    out: Sequence[PathLike],
    in_memory_gb: float = IN_MEMORY_GB,
) -> None:
    """Train and write image-guided gates of one rate target for all seeds; folders are in the order of the seeds."""
    data = Training.read(features, macs, in_memory_gb)
    for seed, start, folder in zip(seeds, foresight, out, strict=True):
        foresight_gates, right = load_gates(start, data.features.manifest["weights"]), load_extra(start)["right"]
        if not isinstance(foresight_gates, LookaheadGates):
            raise UserError(f"{start}: holds no lookahead gates; delete the folder and run again")
        gates, history = train_image_gates(data.pairs, right, data.rates, foresight_gates, target, options, seed)
        achieved = {"rate_target": target, "rate_before_calibration": history["rate_at_zero"].iloc[-1]}
        _write(folder, "image", gates, data, options.plain() | {"seed": seed} | achieved, history)


def run_joint(
    features: PathLike,
    macs: PathLike,
    guidance: str,
    target: float,
    options: JointTraining,
    seed: int,
    out: PathLike,
    in_memory_gb: float = IN_MEMORY_GB,
) -> None:
    """Train and write heads and gates of one rate target together, as folders `heads` and `gates` of `out`."""
    data = Training.read(features, macs, in_memory_gb)
    heads, gates, history = train_joint(data.pairs, data.costs, guidance, target, options, seed)
    about = options.plain() | {"seed": seed, "rate_target": target}
    with whole_folder(Path(out)) as partial:
        _write(partial / "heads", "heads", heads, data, about, history)
        _write(partial / "gates", f"joint_{guidance}", gates, data, about, history)


def run_gates(
    kind: str,
    features: PathLike,
    macs: PathLike,
    heads: Sequence[PathLike],
    options: BankGateOptions | ConfidenceTraining,
    seeds: Sequence[int],
    out: Sequence[PathLike],
    in_memory_gb: float = IN_MEMORY_GB,
) -> None:
    """Train and write gates that serve all rate targets: `kind` is `bank`, `variance`, `confidence` or `router`."""
    data = Training.read(features, macs, in_memory_gb)
    for seed, head, folder in zip(seeds, heads, out, strict=True):
        z = data.embed(head)
        if isinstance(options, BankGateOptions):
            gates, history = (
                train_bank_gates(data.pairs, z, data.costs, options, seed)
                if kind == "bank"
                else train_variance_gates(data.pairs, z, options, seed)
            )
        elif isinstance(options, RouterTraining):
            right = hit_probabilities(data.pairs, z, options.bank_size, torch.Generator().manual_seed(seed))
            gates, history = train_router(data.pairs, right, options, seed)
        else:
            gates, history = train_confidence_gates(data.pairs, z, options, seed)
        _write(folder, kind, gates, data, options.plain() | {"seed": seed}, history)


def _write(
    out: PathLike | Path,
    kind: str,
    module: ExitHeads | Gates,
    data: Training,
    options: dict,
    history: pd.DataFrame,
    extra: dict[str, Tensor] | None = None,
) -> None:
    """Write `model.safetensors`, `history.csv`, `config.json`, and `extra` tensors beside them."""
    manifest = data.features.manifest
    with whole_folder(Path(out)) as partial:
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
