"""Training pairs of images and captions as tensors, and their normalised and whitened summaries."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tgems.errors import UserError
from tgems.exits.per_exit_layers import ExitNorm
from tgems.features.cache import FeatureSet
from tgems.features.row_access import MappedRows, Rows, map_rows

RIDGE = 3.0


@dataclass(frozen=True)
class Pairs:
    """Training pairs of images and captions, as tensors; `draw_captions` draws a caption of an image among its own.

    Attributes:
        summaries: Before the last exit `[n, E-1, S]`, by rows.
        last: `[n, D]`.
        texts: Distinct captions `[m, D]`.
        first: First caption row of each image `[n + 1]`.
        text_of_caption: `[captions]` index into texts.
        longest: The longest caption of each image, which is the least likely to be true of another `[n]` index into
            texts.
        scale: Logit scale.
        widths: Unpadded width of each part of a summary, per exit; None if all exits are equally wide.
        part_width: Numbers of each part of a summary, padding included.
        streamed: Whether summaries are read from their files, because they may not fit in memory.
    """

    summaries: Rows
    last: Tensor
    texts: Tensor
    first: Tensor
    text_of_caption: Tensor
    longest: Tensor
    scale: float
    widths: tuple[int, ...] | None = None
    streamed: bool = False
    part_width: int = 0

    @classmethod
    def of(cls, features: FeatureSet) -> "Pairs":
        """Take the training pairs of a retrieval feature set."""
        if features.captions is None:
            raise UserError("exit modules are trained on captions, but the training data set is a classification set")
        counts = torch.bincount(features.text_image, minlength=len(features.samples))
        words = features.captions["caption"].map(lambda caption: len(str(caption).split()))
        longest = features.captions.iloc[words.groupby(features.captions["image"]).idxmax()]
        return cls(
            summaries=features.summaries,
            last=features.embeddings,
            texts=features.texts,
            first=torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0))),
            text_of_caption=torch.from_numpy(features.captions["text"].to_numpy().copy()),
            longest=torch.from_numpy(longest["text"].to_numpy().copy()),
            scale=features.manifest["logit_scale"],
            widths=features.widths,
            streamed=features.streamed,
            part_width=max(features.manifest["widths"]),
        )

    @cached_property
    def norm(self) -> ExitNorm:
        """The norm that all exit modules share: a LayerNorm, centred on these images."""
        norm = ExitNorm(*self.summaries.shape[1:], self.widths)
        with torch.no_grad():
            total = torch.zeros(norm.weight.shape, dtype=torch.float64)
            for part in self.summaries.split(4096):
                total += norm(part).double().sum(0)
        norm.centre((total / len(self)).float())
        return norm

    @cached_property
    def normalised(self) -> Tensor | MappedRows:
        """The summaries after `norm`, `[n, E-1, S]`."""
        if self.streamed:
            return MappedRows(lambda images: self.norm(self.summaries[images]), tuple(self.summaries.shape))
        return map_rows(self.norm, self.summaries)

    @cached_property
    def whitening(self) -> Tensor:
        """Matrices `[E-1, S, S]` that make the covariance of normalised summaries well-conditioned.

        Multiplying by them turns the covariance C into a matrix whose eigenvalues are those of C, each divided by
        itself plus `RIDGE` times their mean: large ones become nearly equal, and small ones stay small.
        """
        exits, dim = self.summaries.shape[1:]
        covariance = torch.zeros(exits, dim, dim)
        for rows in torch.arange(len(self)).split(4096):
            u = self.normalised[rows].transpose(0, 1)
            covariance += u.transpose(1, 2) @ u / len(self)
        mean = (covariance.diagonal(dim1=1, dim2=2).sum(1) / self.norm.unpadded_size).clamp_min(1e-6)
        factor = torch.linalg.cholesky(covariance + RIDGE * torch.diag_embed(mean[:, None].expand(-1, dim)))
        return torch.linalg.solve_triangular(factor, torch.eye(dim).expand_as(factor), upper=False).transpose(1, 2)

    @cached_property
    def whitened(self) -> Tensor | MappedRows:
        """Normalised summaries times `whitening`, `[n, E-1, S]`."""
        normalised = self.normalised
        if isinstance(normalised, MappedRows):
            return MappedRows(lambda images: _whiten(normalised[images], self.whitening), normalised.shape)
        return map_rows(lambda rows: _whiten(rows, self.whitening), normalised)

    def prepare(self, norm: ExitNorm) -> None:
        """Set the norm of an exit module to that of these images, and exclude it from training."""
        norm.centre(-self.norm.bias)

    def __len__(self) -> int:
        return len(self.last)

    def draw_captions(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one caption of each image: `[B]` -> `[B]`, index into `texts`."""
        counts = self.first[images + 1] - self.first[images]
        offset = (torch.rand(len(images), generator=generator) * counts).long()
        return self.text_of_caption[self.first[images] + offset]

    def owns(self, images: Tensor, texts: Tensor) -> Tensor:
        """Tell whether each text is one of each image's captions: `[B]`, `[m]` -> `[B, m]` bool."""
        place = torch.full((len(self.texts),), -1)
        place[texts] = torch.arange(len(texts))
        counts = self.first[images + 1] - self.first[images]
        row = torch.repeat_interleave(torch.arange(len(images)), counts)
        start = torch.repeat_interleave(self.first[images] - (counts.cumsum(0) - counts), counts)
        column = place[self.text_of_caption[start + torch.arange(len(row))]]
        owned = torch.zeros(len(images), len(texts), dtype=torch.bool)
        owned[row[column >= 0], column[column >= 0]] = True
        return owned


def _whiten(u: Tensor, whitening: Tensor) -> Tensor:
    return torch.bmm(u.transpose(0, 1), whitening).transpose(0, 1)
