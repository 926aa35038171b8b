"""`EarlyExitCLIP`: an open_clip model whose image encoder lets images leave early; its signatures are open_clip's.

It is built from a backbone and a trained T-GEM, saved as a folder (tgems/runtime/folder.py) and evaluated by
clip_benchmark unchanged.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.backbones.load import Backbone
from tgems.costs.exit_costs import ExitCosts
from tgems.errors import UserError
from tgems.exits.bank_modules import BankGates, JointBankGates
from tgems.exits.modules import ExitHeads, ImageGates
from tgems.policies.registry import find_policies
from tgems.runtime.engine import Encoded, Sizes, encode_early
from tgems.runtime.rules import BANK_RULES, IMAGE_RULES, POLICIES, Everyone, ExitRule, ImageRule, exits_within


@dataclass(frozen=True)
class Calibration:
    """An operating point of a policy, fitted on validation images of one data set.

    Attributes:
        thresholds: Of the score, at each exit that is looked at; None where everybody leaves at `visited[0]`.
        visited: Exits (0-based) that are looked at; None for all before the last.
        rate_validation: Mean relative cost that it had there.
    """

    thresholds: tuple[float, ...] | None
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
    gates: ImageGates | BankGates | JointBankGates | None
    calibrations: dict[str, Calibration]
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise UserError(f"policy {self.policy!r} cannot be run image by image; one of {', '.join(POLICIES)} can")
        if not self.calibrations:
            raise UserError(f"policy {self.policy!r} has no thresholds; give those of one data set at least")

    def rule(self, scale: float) -> ExitRule:
        """Build the rule that decides; its thresholds are set later."""
        if self.policy == "fixed":
            return Everyone(self.heads)
        if self.policy in IMAGE_RULES:
            return ImageRule(self.heads, self.gates)
        return BANK_RULES[self.policy](self.heads, scale, self.gates)

    def rates(self, calibration: str | None = None, bank_size: int = 0) -> np.ndarray:
        """Relative cost `[E]` of leaving at each exit, everything that the policy evaluates on the way included.

        Args:
            calibration: Data set; None for the first.
            bank_size: Texts that the policy looks at.
        """
        policy = find_policies([self.policy])[self.policy]
        visited = self.calibrations[calibration or next(iter(self.calibrations))].visited
        return policy.costs(self.costs, bank_size, visited)

    def looked(self, calibration: str) -> tuple[int, ...]:
        """Exits (0-based) at which the policy is asked."""
        visited = self.calibrations[calibration].visited
        return tuple(range(len(self.costs.blocks) - 1)) if visited is None else visited


class EarlyExitCLIP(nn.Module):
    """An open_clip model that spends on each image what it needs.

    Args:
        backbone: Frozen model with its preprocessing and tokenizer.
        early_exit: Trained on this backbone.
        calibration: Data set whose thresholds are used; None for the first.
        max_rate: No image may cost more than this share of the encoder; None for no cap. With a cap, images leave only
            at exits that cost no more.
        chunk: Images of a forward pass; None to choose by the size of the tower.

    Attributes:
        preprocess: PIL image -> float32 `[3, h, w]`.
        tokenizer: Texts -> int64 `[m, context_length]`.
        calibration: See above; `calibrate` changes it.
        max_rate: See above; `limit` changes it.
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
        if chunk is not None and chunk < 1:
            raise UserError(f"chunk {chunk}: a forward pass takes 1 image at least; leave it out to have it chosen")
        self.chunk, self.rule = chunk, early_exit.rule(backbone.logit_scale)
        self.rule.to(self.logit_scale.device)
        self._set(calibration or next(iter(early_exit.calibrations)), max_rate, None)
        self.eval().requires_grad_(False)

    def calibrate(self, dataset: str) -> None:
        """Use the thresholds that were fitted on a data set's validation images; text bank and cap stay.

        Raises:
            UserError: There are none of this name.
        """
        self._set(dataset, self.max_rate, self._bank)

    def limit(self, max_rate: float | None) -> None:
        """Let no image cost more than this share of the encoder; None takes the cap away.

        Raises:
            UserError: It is below the cheapest exit.
        """
        self._set(self.calibration, max_rate, self._bank)

    def set_text_bank(self, embeddings: Tensor | None) -> None:
        """Give the texts that a bank-guided policy looks at.

        Args:
            embeddings: Of `encode_text`, `[M, D]`, normalised here; None takes the bank away.

        Raises:
            UserError: The policy looks at no texts, the shape is wrong, or products with so many texts exceed the cap.
        """
        if not self.rule.needs_bank:
            raise UserError(f"policy {self.early_exit.policy!r} sees the image alone and takes no text bank")
        dim = self.early_exit.costs.embed_dim
        if embeddings is not None:
            if embeddings.dim() != 2 or embeddings.shape[1] != dim or not len(embeddings):
                raise UserError(f"a text bank has shape [M, {dim}], not {list(embeddings.shape)}")
            embeddings = F.normalize(embeddings.detach().to(self.logit_scale.device).float(), dim=-1)
        self._set(self.calibration, self.max_rate, embeddings)

    @property
    def rates(self) -> np.ndarray:
        """Relative cost `[E]` of leaving at each exit, with the thresholds and the text bank in use."""
        return self.early_exit.rates(self.calibration, 0 if self._bank is None else len(self._bank))

    @property
    def _bank(self) -> Tensor | None:
        return getattr(self.rule, "bank", None)

    def _set(self, calibration: str, max_rate: float | None, bank: Tensor | None) -> None:
        """Change all that decides, or nothing where that cannot be."""
        early = self.early_exit
        if calibration not in early.calibrations:
            raise UserError(
                f"no thresholds for {calibration!r}; this model has some for {', '.join(early.calibrations)}"
            )
        looked = early.looked(calibration)
        allowed = exits_within(early.rates(calibration, 0 if bank is None else len(bank)), looked, max_rate)
        self.calibration, self.max_rate, (self.looked, self.last_resort) = calibration, max_rate, allowed
        thresholds = early.calibrations[calibration].thresholds
        self.rule.thresholds = {} if thresholds is None else dict(zip(looked, thresholds, strict=True))
        if self.rule.needs_bank:
            self.rule.bank = bank

    @property
    def logit_scale(self) -> Tensor:
        """The backbone's, as a logarithm."""
        return self.model.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        """The backbone's, which only models that were trained with a sigmoid have; exits do not depend on it."""
        return self.model.logit_bias

    @property
    def visual(self) -> nn.Module:
        """The backbone's image encoder, untouched: always as deep as it is."""
        return self.model.visual

    @torch.no_grad()
    def encode_image(self, image: Tensor, normalize: bool = False, return_exits: bool = False) -> Tensor | Encoded:
        """Encode images, each as far as it needs.

        Args:
            image: Preprocessed `[n, 3, h, w]`, on the model's device.
            normalize: Accepted as in open_clip; embeddings are unit vectors either way, since at an early exit their
                length means nothing.
            return_exits: Also say which exit each image took.

        Returns:
            `[n, D]` float32 in whatever precision the model runs, or `Encoded`.

        Raises:
            UserError: The policy looks at a text bank, and none was set.
        """
        costs = self.early_exit.costs
        encoded = encode_early(
            self.tower,
            self.rule,
            image,
            costs.blocks,
            self.looked,
            Sizes(costs.width, costs.grid, costs.embed_dim),
            self.last_resort,
            self.chunk,
        )
        return encoded if return_exits else encoded.embeddings

    @torch.no_grad()
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """The backbone's own: token numbers `[m, context_length]` -> `[m, D]`."""
        return self.model.encode_text(text, normalize=normalize)

    def forward(self, image: Tensor | None = None, text: Tensor | None = None):
        """Encode both, as open_clip's `CLIP.forward`.

        Returns:
            Image features, text features, the scale of their similarities and, if the backbone has one, their bias. It
            is a dictionary with open_clip's keys if the backbone has `output_dict`.
        """
        encoded = {
            "image_features": None if image is None else self.encode_image(image, normalize=True),
            "text_features": None if text is None else self.encode_text(text, normalize=True),
            "logit_scale": self.logit_scale.exp(),
        }
        if self.logit_bias is not None:
            encoded["logit_bias"] = self.logit_bias
        return encoded if getattr(self.model, "output_dict", False) else tuple(encoded.values())

    def train(self, mode: bool = True) -> "EarlyExitCLIP":
        """The model is frozen: it stays in eval mode."""
        return super().train(False)

    def save_pretrained(self, folder: Path) -> None:
        """Save the T-GEM, without its backbone (tgems/runtime/folder.py)."""
        from tgems.runtime.folder import save

        save(self, folder)

    def push_to_hub(self, repo_id: str, **options) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub (tgems/runtime/hub.py)."""
        from tgems.runtime.hub import push

        return push(self, repo_id, **options)

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, **options) -> "EarlyExitCLIP":
        """Load a saved T-GEM and its backbone; options are those of `tgems.create_model_and_transforms`."""
        from tgems.runtime.hub import load_anywhere

        return load_anywhere(folder_or_hub_id, **options)
