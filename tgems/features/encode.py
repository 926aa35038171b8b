"""Encode images at every exit, and texts, with a frozen backbone."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from tgems.backbones.states import State
from tgems.backbones.towers import Tower


class EncodedImages(NamedTuple):
    """A batch of images, encoded at every exit.

    Attributes:
        summaries: Summaries `[n, E-1, P W]` at the exits before the last. Each of their P parts
            (docs/method.md#notation) is padded with zeros to the width W of the widest exit.
        embeddings: Unit embeddings `[n, D]`, equal to open_clip's `encode_image(..., normalize=True)` bit for bit.
        raw_embeddings: Unit embeddings `[n, E, D]` by the frozen pooling and projection; None if these accept only the
            last block's tokens.
    """

    summaries: Tensor
    embeddings: Tensor
    raw_embeddings: Tensor | None


def summary_rows(tower: Tower, state: State, width: int, grids: Sequence[int]) -> Tensor:
    """Summarise a state as `[n, P width]`, with each of the P parts padded with zeros to `width`."""
    summary = tower.summarise(state, grids)
    return F.pad(summary, (0, width - summary.shape[-1])).flatten(1)


@torch.no_grad()
def encode_images(tower: Tower, images: Tensor, blocks: Sequence[int], grids: Sequence[int] = (2,)) -> EncodedImages:
    """Run the encoder once, and keep summaries and embeddings at the exits.

    Args:
        tower: Image tower of a frozen model.
        images: Preprocessed images `[n, 3, h, w]`.
        blocks: Exits, 1-based and ascending; the last is L.
        grids: Sizes of the grids of means in summaries; see `Tower.summarise`.
    """
    width = max(tower.widths[block - 1] for block in blocks[:-1])
    state, summaries, raw = tower.stem(images), [], []
    for block in range(1, tower.depth + 1):
        state = tower.block(block - 1, state)
        if block in blocks[:-1]:
            summaries.append(summary_rows(tower, state, width, grids))
        if block == tower.depth or (tower.accepts_raw and block in blocks):
            raw.append(F.normalize(tower.finish(state).float(), dim=-1))
    return EncodedImages(torch.stack(summaries, 1), raw[-1], torch.stack(raw, 1) if tower.accepts_raw else None)


@torch.no_grad()
def encode_texts(model: Any, tokenizer: Callable, texts: list[str], batch_size: int = 64) -> Tensor:
    """Encode texts to unit embeddings `[m, D]` float32."""
    device = model.logit_scale.device
    starts = tqdm(range(0, len(texts), batch_size), desc="texts", unit="batch", mininterval=2, delay=2)
    batches = (tokenizer(texts[i : i + batch_size]).to(device) for i in starts)
    return torch.cat([model.encode_text(tokens, normalize=True).float().cpu() for tokens in batches])


def class_embeddings(
    model: Any, tokenizer: Callable, classnames: tuple[str, ...], templates: tuple[str, ...]
) -> Tensor:
    """Compute the prompt ensemble `[C, D]` as clip_benchmark does: the normalised mean of unit text embeddings."""
    texts = [template.replace("{c}", name) for name in classnames for template in templates]
    embeddings = encode_texts(model, tokenizer, texts).reshape(len(classnames), len(templates), -1)
    return F.normalize(embeddings.mean(1), dim=-1)
