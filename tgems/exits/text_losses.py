"""The losses with texts at all exits, with gradients in closed form: the inner loop of training heads.

Autograd would go over the [E, B, B] similarities about forty times; this goes over them about ten times. The tests
compare it with its definition in a few lines of torch.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

TINY = 1e-38


class TextLosses(NamedTuple):
    """Losses by exit, `[E, B]`.

    Attributes:
        per_image: `text` times the image-to-text cross-entropy, plus half of `similarity` times the divergence of the
            image's softmax over texts from the teacher's.
        per_text: The same of every text over images; with `mixed_gallery`, the cross-entropy is that in the mixed
            gallery.
    """

    per_image: Tensor
    per_text: Tensor


def text_losses(
    scores: Tensor,
    teacher: Tensor,
    target: Tensor,
    log_shares: Tensor,
    text: float,
    similarity: float,
    mixed_gallery: bool,
) -> TextLosses:
    """Compute contrastive loss and distillation of similarities, per image and per text, at every exit.

    Args:
        scores: Scaled similarities of images and texts at every exit, the last included `[E, B, B]`; image i and text i
            belong together.
        teacher: Scaled similarities at the last exit `[B, B]`; no gradient.
        target: `soft_targets` of the texts `[B, B]`; no gradient.
        log_shares: Logarithm of the weight of image i at exit e in a mixed gallery `[E, B]`.
        text: Weight of the contrastive loss.
        similarity: Weight of the distillation.
        mixed_gallery: Whether a text meets all other images at all exits at once, image i at exit e with the weight
            exp(`log_shares[e, i]`), instead of at the exit of its own image. Images of an equal caption are left out.
    """
    return TextLosses(
        *_TextLosses.apply(scores, log_shares, teacher, target, float(text), similarity / 2, mixed_gallery)
    )


class _TextLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        log_shares: Tensor,
        teacher: Tensor,
        target: Tensor,
        text: float,
        half: float,
        mixed: bool,
    ) -> tuple[Tensor, Tensor]:
        kept = text * target + half * teacher.softmax(1)
        rows = scores.softmax(2)
        per_image = (text + half) * _log_sum(scores, rows, 2) - (scores * kept).sum(2)
        teacher_log = teacher.log_softmax(1)
        per_image += half * (teacher_log.exp() * teacher_log).sum(1)

        columns = scores.softmax(1)
        log_sum = _log_sum(scores, columns, 1)
        teacher_log = teacher.log_softmax(0)
        soft = half * teacher_log.exp()
        if not mixed:
            soft = soft + text * target.T
        per_text = (half if mixed else text + half) * log_sum - (scores * soft).sum(1)
        per_text += half * (teacher_log.exp() * teacher_log).sum(0)
        gallery = ratio = lead = None
        if mixed and text:
            own = scores.diagonal(dim1=1, dim2=2)
            gallery = (columns * log_shares.exp()[:, :, None]).masked_fill_(target > 0, 0)
            others = gallery.sum(1).clamp_min_(TINY).log_().add_(log_sum).logsumexp(0)
            per_text += text * (torch.logaddexp(others.expand_as(own), own) - own)
            lead, ratio = torch.sigmoid(others - own), (log_sum - others).exp_()
        ctx.save_for_backward(rows, columns, kept, soft, gallery, ratio, lead)
        ctx.text, ctx.half, ctx.mixed = text, half, mixed
        return per_image, per_text

    @staticmethod
    def backward(ctx: Any, of_images: Tensor, of_texts: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, columns, kept, soft, gallery, ratio, lead = ctx.saved_tensors
        of_images, of_texts = of_images[:, :, None], of_texts[:, None, :]
        grad = rows * ((ctx.text + ctx.half) * of_images)
        grad.addcmul_(kept.expand_as(rows), of_images, value=-1)
        grad.addcmul_(columns, (ctx.half if ctx.mixed else ctx.text + ctx.half) * of_texts)
        grad.addcmul_(soft.expand_as(rows), of_texts, value=-1)
        of_shares = None
        if gallery is not None:
            missed = ctx.text * lead * of_texts[:, 0]
            pull = missed.sum(0) * ratio
            grad.addcmul_(gallery, pull[:, None, :])
            grad.diagonal(dim1=1, dim2=2).sub_(missed)
            if ctx.needs_input_grad[1]:
                of_shares = torch.einsum("eim,em->ei", gallery, pull)
        return grad, of_shares, None, None, None, None, None


def _log_sum(scores: Tensor, softmax: Tensor, dim: int) -> Tensor:
    """Compute `scores.logsumexp(dim)`, given the softmax: the largest score minus the log of its probability."""
    return scores.amax(dim) - softmax.amax(dim).log()
