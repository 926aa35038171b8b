"""Encode the user's images once at every exit, and keep the embeddings and scores that policies are fitted on.

Summaries are dropped batch by batch, so that an image takes E (D + 2) numbers: 10,000 images of a ViT-L/14 with all of
its 24 exits take .75 GB.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.backbones.load import Backbone
from tgems.errors import UserError
from tgems.exits.modules import Gates
from tgems.features.encode import encode_images, encode_texts
from tgems.policies.cached_outputs import CachedOutputs, ExitModules
from tgems.policies.interface import ThresholdPolicy
from tgems.runtime.early_exit import EarlyExit

Module = TypeVar("Module", bound=nn.Module)


def text_embeddings(backbone: Backbone, texts: Sequence[str] | Tensor) -> Tensor:
    """Return unit embeddings `[M, D]` float32 of texts, or of embeddings that are given."""
    if isinstance(texts, Tensor):
        return F.normalize(texts.detach().float().cpu(), dim=-1)
    return encode_texts(backbone.model, backbone.tokenizer, list(texts))


@torch.no_grad()
def own_outputs(
    backbone: Backbone,
    early: EarlyExit,
    policy: ThresholdPolicy,
    batches: Iterable[Tensor],
    texts: Tensor | None,
    rates: Sequence[float],
) -> CachedOutputs:
    """Encode images at full depth, and return the outputs at every exit that the T-GEM's policy reads.

    Args:
        backbone: Frozen model, on its device.
        early: T-GEM of this backbone.
        policy: Its policy.
        batches: Preprocessed images `[b, 3, h, w]`.
        texts: Unit embeddings of the texts `[M, D]`; None where the policy sees only the image.
        rates: Rate targets for which the policy will be fitted; its scores are the same for all of them.

    Raises:
        UserError: No image could be read.
    """
    costs = early.costs
    device = backbone.model.logit_scale.device
    bank = torch.zeros(1, costs.embed_dim) if texts is None else texts
    modules = None
    if early.heads is not None:
        gates: dict[tuple[str, float | None], Gates] = {}
        if early.gates is not None and policy.gates is not None:
            gates[policy.gates, None] = _on_cpu(early.gates)
        modules = ExitModules(_on_cpu(early.heads), gates)
    embeddings, scores = [], []
    for images in batches:
        encoded = encode_images(backbone.tower, images.to(device), costs.blocks, [costs.grid])
        summaries, last = encoded.summaries.float().cpu(), encoded.embeddings.float().cpu()
        if modules is not None:
            z = torch.cat((modules.heads(summaries), last[:, None]), 1)
        elif encoded.raw_embeddings is not None:
            z = encoded.raw_embeddings.float().cpu()
        else:
            raise ValueError("there are no heads, and the frozen projection accepts only the last block")
        part = _outputs(backbone, early, z, bank, modules, summaries)
        embeddings.append(z)
        scores.append(policy.scores(part, None))
    if not embeddings:
        raise UserError("none of the images can be read; fix them")
    z = torch.cat(embeddings)
    found = _outputs(backbone, early, z, bank, modules, torch.empty(len(z), 0))
    found.scores.update({(policy.name, rate): torch.cat(scores) for rate in (None, *rates)})
    return found


def _on_cpu(module: Module) -> Module:
    """Return a copy of a module in the precision of the evaluation."""
    return copy.deepcopy(module).cpu().float()


def _outputs(
    backbone: Backbone, early: EarlyExit, z: Tensor, bank: Tensor, modules: ExitModules | None, summaries: Tensor
) -> CachedOutputs:
    """Return outputs of images whose right texts are unknown."""
    return CachedOutputs(
        keys=[str(i) for i in range(len(z))],
        summaries=summaries,
        embeddings=z,
        bank=bank,
        right=torch.zeros(z.shape[:2], dtype=torch.bool),
        scale=backbone.logit_scale,
        costs=early.costs,
        modules=modules,
        seed=None,
    )
