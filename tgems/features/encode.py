"""Pure tensor functions of the feature pass: what an encoder yields at every block."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EncodedImages(NamedTuple):
    """A batch at every block.

    Attributes:
        summaries: `[n, L, 2d]` CLS token beside the mean of the patch tokens (docs/method.md#notation).
        embeddings: `[n, D]` unit embeddings, equal to open_clip's `encode_image(..., normalize=True)` bit for bit.
        raw_embeddings: `[n, L, D]` unit embeddings by the frozen pooling and projection at every block.
    """

    summaries: Tensor
    embeddings: Tensor
    raw_embeddings: Tensor


def block_tokens(visual: nn.Module, images: Tensor) -> list[Tensor]:
    """Tokens `[n, 1 + patches, d]` after every block of an open_clip `VisionTransformer`; token 0 is CLS."""
    tokens = visual._embeds(images)
    outputs = []
    for block in visual.transformer.resblocks:
        tokens = block(tokens)
        outputs.append(tokens)
    return outputs


def project(visual: nn.Module, tokens: Tensor) -> Tensor:
    """Frozen pooling and projection: `[n, 1 + patches, d]` -> `[n, D]`, not normalised."""
    pooled, _ = visual._pool(tokens)
    return pooled if visual.proj is None else pooled @ visual.proj


def summarise(tokens: Tensor) -> Tensor:
    """CLS and mean patch token: `[n, 1 + patches, d]` -> `[n, 2d]`."""
    return torch.cat((tokens[:, 0], tokens[:, 1:].mean(1)), dim=-1)


@torch.no_grad()
def encode_images(visual: nn.Module, images: Tensor, blocks=None) -> EncodedImages:
    """Run the encoder once and keep what every block says; `images` is `[n, 3, h, w]`."""
    outputs = block_tokens(visual, images)
    raw = [F.normalize(project(visual, tokens).float(), dim=-1) for tokens in outputs]
    blocks = blocks or range(1, len(outputs) + 1)
    return EncodedImages(
        torch.stack([summarise(outputs[b - 1]) for b in blocks[:-1]], 1),
        raw[-1],
        torch.stack([raw[b - 1] for b in blocks], 1),
    )


@torch.no_grad()
def encode_texts(model: nn.Module, tokenizer, texts: list[str], batch_size: int = 512) -> Tensor:
    """Unit text embeddings `[m, D]` float32."""
    device = model.logit_scale.device
    batches = (tokenizer(texts[i : i + batch_size]).to(device) for i in range(0, len(texts), batch_size))
    return torch.cat([model.encode_text(tokens, normalize=True).float().cpu() for tokens in batches])


def class_embeddings(model: nn.Module, tokenizer, classnames: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
    """Prompt ensemble `[C, D]`: the normalised mean over templates of unit text embeddings, as clip_benchmark does."""
    texts = [template.replace("{c}", name) for name in classnames for template in templates]
    embeddings = encode_texts(model, tokenizer, texts).reshape(len(classnames), len(templates), -1)
    return F.normalize(embeddings.mean(1), dim=-1)
