"""Pretrain a small CLIP model on captioned scenes, and write it as an open_clip `local-dir:` folder."""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from safetensors.torch import save as serialise
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from tgems.config.run import PretrainingOptions
from tgems.data.decoding import open_rgb
from tgems.data.webdataset import read_shard, shard_paths
from tgems.errors import UserError, reading
from tgems.outputs import whole_file, whole_folder, write_json
from tgems.provenance import commit, digest_file, digest_json, versions

logger = logging.getLogger(__name__)

MEAN = STD = 0.5


def load_pairs(split: Path) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
    """Decode a whole split into memory.

    Returns:
        Images `[n, 3, h, w]` uint8, and the captions of each image.
    """
    images, captions = [], []
    for path in tqdm(shard_paths(split), desc="decode", unit="shard", mininterval=5):
        for sample in read_shard(path, "zeroshot_retrieval"):
            images.append(np.asarray(open_rgb(sample.image)))
            captions.append(sample.captions)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), captions


class CaptionTable:
    """Tokens of the distinct captions, and the captions of each image as indices into them."""

    def __init__(self, captions: list[tuple[str, ...]], context_length: int):
        """Tokenize the distinct captions with open_clip's SimpleTokenizer."""
        from open_clip.tokenizer import SimpleTokenizer

        tokenizer = SimpleTokenizer(context_length=context_length)
        distinct = sorted({c for cs in captions for c in cs})
        number = {c: i for i, c in enumerate(distinct)}
        width = max(len(cs) for cs in captions)
        self.of_image = torch.tensor([[number[cs[j % len(cs)]] for j in range(width)] for cs in captions])
        self.tokens = tokenizer(distinct)

    def used_tokens(self) -> torch.Tensor:
        """Return the tokens of the vocabulary that occur, `[k]` int64."""
        return self.tokens.unique()


def contrastive_loss(logits: torch.Tensor, caption_ids: torch.Tensor) -> torch.Tensor:
    """Compute the symmetric cross-entropy `[B, B] -> []`; pairs with the same caption are positives."""
    same = (caption_ids[:, None] == caption_ids[None, :]).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def learning_rate(step: int, steps: int, peak: float, warmup: float = 0.05) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine to zero."""
    progress = step / steps
    if progress < warmup:
        return peak * (step + 1) / (warmup * steps)
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def batch_indices(n: int, batch: int, seed: int, step: int, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the images `[B]` of a step and the caption slot `[B]` of each; a function of the seed and the step."""
    per_epoch = n // batch
    epoch, at = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(n)[at * batch : (at + 1) * batch]
    slot = np.random.default_rng([seed, epoch, at]).integers(slots, size=batch)
    return torch.from_numpy(order), torch.from_numpy(slot)


def pretrain(split: Path, model_cfg: dict, recipe: PretrainingOptions, checkpoint: Path, out: Path) -> None:
    """Train a CLIP model and write it as an open_clip folder. Equal arguments give equal weights.

    Args:
        split: Folder of the captioned training split.
        model_cfg: open_clip model configuration.
        recipe: Number of samples, optimizer settings and seed.
        checkpoint: File that training resumes from. It is written every 200 steps and is not an output of the job, so
            that Snakemake does not delete it when the job is killed.
        out: Folder for the configuration, the float16 weights, `history.csv` and `recipe.json`.

    Raises:
        UserError: The loss is not finite, or the checkpoint is damaged.
    """
    from open_clip.model import CLIP

    seed = recipe.seed
    torch.manual_seed(seed)
    images, captions = load_pairs(split)
    table = CaptionTable(captions, model_cfg["text_cfg"]["context_length"])
    model: Any = CLIP(**model_cfg)
    unused = torch.ones(model.vocab_size, dtype=torch.bool)
    unused[table.used_tokens()] = False
    with torch.no_grad():
        model.token_embedding.weight[unused] = 0
    batch, steps = recipe.batch_size, recipe.samples_seen // recipe.batch_size
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    start, history, elapsed = _resume(checkpoint, model, optimizer)
    model.train()
    began = time.monotonic() - elapsed
    for step in tqdm(range(start, steps), initial=start, total=steps, desc="pretrain", unit="step", mininterval=10):
        index, slot = batch_indices(len(images), batch, seed, step, table.of_image.shape[1])
        ids = table.of_image[index, slot]
        pixels = (images[index].float() / 255 - MEAN) / STD
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, recipe.learning_rate)
        image, text, scale = model(pixels, table.tokens[ids])
        loss = contrastive_loss(scale * image @ text.T, ids)
        if not torch.isfinite(loss):
            raise UserError(f"pretraining: the loss is {loss.item()} at step {step}; lower pretraining.learning_rate")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 50 == 0:
            history.append((step, loss.item(), scale.item()))
        if (step + 1) % 200 == 0:
            _save(checkpoint, model, optimizer, step + 1, history, time.monotonic() - began)
    recorded = {
        "recipe": recipe.plain(),
        "data": digest_json({path.name: digest_file(path) for path in shard_paths(split)}),
        "pairs": len(images),
        "wall_time_s": round(time.monotonic() - began),
        "versions": versions(),
        "commit": commit(),
    }
    _write(out, model, model_cfg, history, recorded)


def _save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, history: list, elapsed: float
) -> None:
    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    for i, slot in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{i}.{k}": v for k, v in slot.items()}
    meta = {"step": str(step), "elapsed": str(elapsed), "history": json.dumps(history)}
    with whole_file(path) as partial:  # `save_file` would write to a temporary file that a killed process leaves behind
        partial.write_bytes(serialise({k: v.contiguous() for k, v in state.items()}, meta))


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list, float]:
    """Load the checkpoint, if there is one, and return the next step, the history, and the seconds spent so far."""
    if not path.is_file():
        return 0, [], 0.0
    from safetensors import SafetensorError, safe_open

    with reading(path, "delete it and run again", SafetensorError):
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        tensors = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".", 2)
            state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    logger.info("resumed from %s at step %s", path, meta["step"])
    return int(meta["step"]), json.loads(meta["history"]), float(meta["elapsed"])


def _write(out: Path, model: nn.Module, model_cfg: dict, history: list, recorded: dict) -> None:
    with whole_folder(out) as partial:
        size = model_cfg["vision_cfg"]["image_size"]
        preprocess = {"mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
        config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess | {"size": size}}
        (partial / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
        weights = {k: v.half().contiguous() for k, v in model.state_dict().items()}
        save_file(weights, partial / "open_clip_model.safetensors", {"format": "pt"})
        lines = [f"{step},{loss:.5f},{scale:.4f}\n" for step, loss, scale in history]
        (partial / "history.csv").write_text("".join(["step,loss,logit_scale\n", *lines]))
        write_json(partial / "recipe.json", recorded)
