"""`EarlyExitCLIP`: an open_clip model whose image encoder lets images leave early; its signatures are open_clip's.

It is built from a backbone and a trained T-GEM, saved as a folder (tgems/runtime/folder.py) and evaluated by
clip_benchmark unchanged.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.backbones.load import Backbone
from tgems.errors import UserError
from tgems.exits.modules import BankGates, ExitHeads, ImageGates
from tgems.exits.registry import find_policies
from tgems.profiling.costs import ExitCosts
from tgems.runtime.engine import Encoded, Sizes, encode_early
from tgems.runtime.rules import BANK_RULES, IMAGE_RULES, POLICIES, BankRule, Everyone, ExitRule, ImageRule


@dataclass(frozen=True)
class Calibration:
    """An operating point of a policy, fitted on validation images of one data set.

    Attributes:
        threshold: Of the score; None where everybody leaves at `visited[0]`.
        visited: Exits (0-based) that are looked at; None for all before the last.
        rate_validation: Mean relative cost that it had there.
    """

    threshold: float | None
    visited: tuple[int, ...] | None
    rate_validation: float


@dataclass(frozen=True)
class EarlyExit:
    """A trained T-GEM: what decides, what it costs, where it was calibrated.

    Attributes:
        policy: One of `tgems.runtime.rules.POLICIES`.
        rate_target: Mean relative cost that it was calibrated for; None for a fixed exit.
        costs: Of the exits.
        heads: Of all exits before the last.
        gates: The policy's gates, or None.
        calibrations: By data set; the first is the default.
        about: Anything else worth keeping: seed, variant, results, versions.
    """

    policy: str
    rate_target: float | None
    costs: ExitCosts
    heads: ExitHeads
    gates: ImageGates | BankGates | None
    calibrations: dict[str, Calibration]
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise UserError(f"policy {self.policy!r} cannot be run image by image; one of {', '.join(POLICIES)} can")

    def rule(self, threshold: float | None, scale: float) -> ExitRule:
        """What decides, at a threshold."""
        if self.policy == "fixed":
            return Everyone(self.heads, 0.0)
        if self.policy in IMAGE_RULES:
            return ImageRule(self.heads, threshold, self.gates)
        return BANK_RULES[self.policy](self.heads, threshold, scale, self.gates)


class EarlyExitCLIP(nn.Module):
    """An open_clip model that spends on each image what it needs.

    Args:
        backbone: Frozen model with its preprocessing and tokenizer.
        early_exit: Trained on this backbone.
        calibration: Data set whose thresholds are used; None for the first.
        max_rate: No image may cost more than this share of the encoder; None for no cap.
        chunk: Images of a forward pass; None to choose by the size of the tower.
    """

    def __init__(
        self,
        backbone: Backbone,
        early_exit: EarlyExit,
        calibration: str | None = None,
        max_rate: float | None = None,
        chunk: int | None = None,
    ):
        super().__init__()
        self.model, self.tower, self.early_exit = backbone.model, backbone.tower, early_exit
        self.preprocess, self.tokenizer, self.backbone = backbone.preprocess, backbone.tokenizer, backbone
        self.max_rate, self.chunk = max_rate, chunk
        self.calibrate(calibration or next(iter(early_exit.calibrations)))
        self.eval().requires_grad_(False)

    def calibrate(self, dataset: str) -> None:
        """Use the thresholds that were fitted on a data set's validation images.

        Raises:
            UserError: There are none of this name.
        """
        known = self.early_exit.calibrations
        if dataset not in known:
            raise UserError(f"no thresholds for {dataset!r}; this model has some for {', '.join(known)}")
        self.calibration = dataset
        point = known[dataset]
        self.rule = self.early_exit.rule(point.threshold, self.logit_scale.exp().item())
        self.rule.to(self.logit_scale.device)
        self._limit()

    def set_text_bank(self, embeddings: Tensor | None) -> None:
        """Give the texts that a bank-guided policy looks at.

        Args:
            embeddings: Of `encode_text`, `[M, D]`, normalised here; None takes the bank away.

        Raises:
            UserError: The policy looks at no texts, or the shape is wrong.
        """
        if not isinstance(self.rule, BankRule):
            raise UserError(f"policy {self.early_exit.policy!r} sees the image alone and takes no text bank")
        dim = self.early_exit.costs.embed_dim
        if embeddings is not None and (embeddings.dim() != 2 or embeddings.shape[1] != dim or not len(embeddings)):
            raise UserError(f"a text bank has shape [M, {dim}], not {list(embeddings.shape)}")
        self.rule.bank = None if embeddings is None else F.normalize(embeddings.float(), dim=-1)
        self._limit()

    @property
    def rates(self) -> np.ndarray:
        """Relative cost `[E]` of leaving at each exit, everything that the policy evaluates on the way included."""
        policy = find_policies([self.early_exit.policy])[self.early_exit.policy]
        bank = getattr(self.rule, "bank", None)
        visited = self.early_exit.calibrations[self.calibration].visited
        return policy.costs(self.early_exit.costs, 0 if bank is None else len(bank), visited)

    def _limit(self) -> None:
        """Exits that are looked at, and the one at which everybody left must leave."""
        visited = self.early_exit.calibrations[self.calibration].visited
        last = len(self.early_exit.costs.blocks) - 1
        self.looked = tuple(range(last)) if visited is None else visited
        self.last_resort = None
        if self.max_rate is None or self.rates[last] <= self.max_rate:
            return
        within = [k for k in self.looked if self.rates[k] <= self.max_rate]
        if not within:
            raise UserError(
                f"max_rate {self.max_rate} is below the cheapest exit of this model, which costs "
                f"{min(self.rates[k] for k in self.looked):.3f} of the encoder; raise it"
            )
        self.last_resort = within[-1]

    @property
    def logit_scale(self) -> Tensor:
        """The backbone's, as a logarithm."""
        return self.model.logit_scale

    @torch.no_grad()
    def encode_image(self, image: Tensor, normalize: bool = False, return_exits: bool = False) -> Tensor | Encoded:
        """Encode images, each as far as it needs.

        Args:
            image: Preprocessed `[n, 3, h, w]`.
            normalize: Accepted as in open_clip; embeddings are unit vectors either way, since at an early exit their
                length means nothing.
            return_exits: Also say which exit each image took.

        Returns:
            `[n, D]` float32, or `Encoded`.

        Raises:
            RuntimeError: The policy looks at a text bank, and none was set.
        """
        costs = self.early_exit.costs
        encoded = encode_early(
            self.tower,
            self.rule,
            image,
            costs.blocks,
            self.looked,
            Sizes(costs.width, costs.summary_dim, costs.embed_dim),
            self.last_resort,
            self.chunk,
        )
        return encoded if return_exits else encoded.embeddings

    @torch.no_grad()
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """The backbone's own: token numbers `[m, context_length]` -> `[m, D]`."""
        return self.model.encode_text(text, normalize=normalize)

    def forward(self, image: Tensor | None = None, text: Tensor | None = None):
        """As open_clip's: image features, text features, and the scale of their similarities."""
        images = None if image is None else self.encode_image(image, normalize=True)
        texts = None if text is None else self.encode_text(text, normalize=True)
        return images, texts, self.logit_scale.exp()

    def train(self, mode: bool = True) -> "EarlyExitCLIP":
        """The model is frozen: it stays in eval mode."""
        return super().train(False)
