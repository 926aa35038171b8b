"""`EarlyExitCLIP`: an open_clip model whose image encoder lets images leave early; its signatures are open_clip's.

It is built from a backbone and a trained T-GEM, saved as a folder (tgems/runtime/folder.py), and evaluated by
clip_benchmark without changes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.backbones.load import Backbone
from tgems.errors import UserError
from tgems.options import names_nearest_option
from tgems.policies.online import HeldRate
from tgems.runtime.buffered_engine import encode_stream
from tgems.runtime.calibration import OwnCalibration, calibrate, check_name
from tgems.runtime.early_exit import EarlyExit, exits_within
from tgems.runtime.engine import Encoded, encode_early
from tgems.runtime.fetching import fetch
from tgems.runtime.folder import load, save
from tgems.runtime.frozen_clip import FrozenCLIP
from tgems.runtime.holding import OBSERVING, held_target, moved, start_holding
from tgems.runtime.hub import push, require_device
from tgems.runtime.live_view import ExitDecider


class EarlyExitCLIP(FrozenCLIP):
    """An open_clip model that spends on each image what it needs.

    Args:
        backbone: Frozen model with its preprocessing and tokenizer.
        early_exit: T-GEM that was trained on this backbone.
        calibration: Data set whose thresholds are used; None for the first.
        max_rate: No image may cost more than this share of the encoder; None for no cap. With a cap, images leave only
            at exits that cost no more.
        chunk: Number of images per forward pass; None to choose it by the size of the tower.

    Attributes:
        preprocess: PIL image -> float32 `[3, h, w]`.
        tokenizer: Texts -> int64 `[m, context_length]`.
        calibration: See above; changed by `use_calibration`.
        max_rate: See above; changed by `set_max_rate`.
        held: What `hold_rate` has seen so far (`tgems.policies.online.HeldRate`), or None. It is not saved; a copy of
            the model continues from it separately; and every method that changes thresholds, cap or text bank starts a
            new stream.
    """

    text_bank: Tensor | None
    held: HeldRate | None

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
        self.heads, self.gates = early_exit.heads, early_exit.gates
        self.preprocess, self.tokenizer, self.backbone = backbone.preprocess, backbone.tokenizer, backbone
        if chunk is not None and chunk < 1:
            raise UserError(f"chunk {chunk}: a forward pass takes at least 1 image; leave it out to have it chosen")
        self.chunk, self._scale = chunk, backbone.logit_scale
        self.register_buffer("text_bank", None, persistent=False)
        for module in (self.heads, self.gates):
            if module is not None:
                module.to(self.logit_scale.device)
        self._set(next(iter(early_exit.calibrations)) if calibration is None else calibration, max_rate, None, None)
        self.eval().requires_grad_(False)

    def use_calibration(self, dataset: str) -> None:
        """Use the thresholds that were fitted on a data set's validation images, and keep text bank and cap.

        Raises:
            UserError: There are no thresholds of this name.
        """
        self._set(dataset, self.max_rate, self.text_bank, held_target(self.held))

    def set_max_rate(self, max_rate: float | None) -> None:
        """Set the largest share of the encoder that an image may cost; None removes the cap.

        Raises:
            UserError: It is below the cheapest exit, or a rate that is held cannot be reached under it.
        """
        self._set(self.calibration, max_rate, self.text_bank, held_target(self.held))

    def hold_rate(self, rate: float | None) -> None:
        """Hold a mean rate on the stream of images to come, whatever their domain (docs/method.md#holding-a-rate).

        Thresholds start as they were fitted and move after each call of `encode_image`, by the costs of its images. An
        image's exit then depends on those before it. The rate is reached soonest with batches of up to 8 images.

        Args:
            rate: Mean relative cost to hold; None for thresholds that stay as they were fitted.

        Raises:
            UserError: The rate cannot be reached, or the policy has no thresholds that could be moved.
        """
        self._set(self.calibration, self.max_rate, self.text_bank, rate)

    def observe(self, rates: np.ndarray) -> None:
        """Count images as part of the stream whose rate is held, as if a call of `encode_image` had encoded them.

        Args:
            rates: Relative cost of each image `[n]`.
        """
        with OBSERVING:
            if self.held is not None:
                self.held = self.held.after(rates)

    def set_text_bank(self, embeddings: Tensor | None) -> None:
        """Set the texts that a bank-guided policy looks at.

        Args:
            embeddings: Output of `encode_text`, `[M, D]`, normalised here; None removes the bank.

        Raises:
            UserError: The policy looks at no texts, the shape is wrong, or products with so many texts exceed the cap.
        """
        if not self.early_exit.policy.needs_bank:
            raise UserError(f"policy {self.early_exit.policy.name!r} sees only the image and takes no text bank")
        dim = self.early_exit.costs.embed_dim
        if embeddings is not None:
            if embeddings.dim() != 2 or embeddings.shape[1] != dim or not len(embeddings):
                raise UserError(f"a text bank has shape [M, {dim}], not {list(embeddings.shape)}")
            embeddings = F.normalize(embeddings.detach().to(self.logit_scale.device).float(), dim=-1)
        self._set(self.calibration, self.max_rate, embeddings, held_target(self.held))

    def calibrate(self, images: Tensor | Sequence, name: str = "own", **options: Any) -> OwnCalibration:
        """Fit thresholds to unlabelled images, store them under a name, and use them from now on.

        Images, options, result and errors are those of `tgems.runtime.calibration.calibrate`; one of `rate` and `keep`
        is needed. The text bank stays as it is.
        """
        check_name(name)
        found = calibrate(self.backbone, self.early_exit, images, **options)
        self.early_exit = replace(
            self.early_exit, calibrations=self.early_exit.calibrations | {name: found.calibration}
        )
        self.use_calibration(name)
        return found

    @property
    def rates(self) -> np.ndarray:
        """Relative cost `[E]` of leaving at each exit, with the thresholds and the text bank in use."""
        return self.early_exit.rates(self.calibration, 0 if self.text_bank is None else len(self.text_bank))

    def _set(self, calibration: str, max_rate: float | None, bank: Tensor | None, rate: float | None) -> None:
        """Change calibration, cap, held rate and text bank together, or raise an error and change nothing."""
        early = self.early_exit
        if calibration not in early.calibrations:
            raise UserError(
                f"no thresholds for {calibration!r}; this model has some for {', '.join(early.calibrations)}"
            )
        rates = early.rates(calibration, 0 if bank is None else len(bank))
        allowed, last_resort = exits_within(rates, early.open_exits(calibration), max_rate)
        thresholds = early.calibrations[calibration].thresholds
        every = early.open_exits(calibration)
        known = dict(zip(every, thresholds or (-np.inf,) * len(every), strict=True))
        ends = (*allowed, -1)[0], -1 if last_resort is None else last_resort
        held = None if rate is None else start_holding(early, calibration, rates[list(ends)], rate)
        self.calibration, self.max_rate, self.last_resort = calibration, max_rate, last_resort
        self.thresholds = {k: known[k] for k in allowed}
        self.text_bank, self.held = bank, held

    def _decider(self) -> ExitDecider:
        """Build the decider from the current state. Nothing is cached, so the model can be copied, moved and cast."""
        early = self.early_exit
        asked = early.asked_exits(tuple(self.thresholds))
        return ExitDecider(
            policy=early.policy,
            costs=early.costs,
            heads=self.heads,
            gates=self.gates,
            thresholds=moved(self.thresholds, early.calibrations[self.calibration].spread, self.held),
            asked=asked,
            scale=self._scale,
            bank=self.text_bank,
        )

    @overload
    def encode_image(self, image: Tensor, normalize: bool = ..., return_exits: Literal[False] = ...) -> Tensor: ...
    @overload
    def encode_image(self, image: Tensor, normalize: bool = ..., *, return_exits: Literal[True]) -> Encoded: ...

    @torch.no_grad()
    def encode_image(self, image: Tensor, normalize: bool = False, return_exits: bool = False) -> Tensor | Encoded:
        """Encode images, each up to the exit at which it leaves.

        Args:
            image: Preprocessed images `[n, 3, h, w]`, on the model's device.
            normalize: Accepted as in open_clip; embeddings are unit vectors either way, since at an early exit their
                length means nothing.
            return_exits: Whether to also return the exit that each image took.

        Returns:
            `[n, D]` float32 whatever the precision that the model runs in, or `Encoded`.

        Raises:
            UserError: The policy looks at a text bank, and none was set.
        """
        encoded = encode_early(self.tower, self._decider(), image, self.last_resort, self.chunk)
        if self.held is not None:
            self.observe(self.rates[encoded.exits.cpu().numpy()])
        return encoded if return_exits else encoded.embeddings

    @torch.no_grad()
    def encode_stream(self, batches: Iterable[Tensor], batch_size: int = 64) -> Iterator[Encoded]:
        """Encode many images with full batches in every forward pass, which is faster than calls of `encode_image`.

        Images that go on wait at the exits for others from later batches (docs/method.md#full-batches). Each image has
        the exit and, except for rounding, the embedding that `encode_image` gives it. While a rate is held, nothing
        waits: each batch is encoded by `encode_image`.

        Args:
            batches: Preprocessed images `[n, 3, h, w]`, on the model's device; n may vary. They are consumed lazily, so
                that an iterator need not hold all of them.
            batch_size: Number of images per forward pass, but no more than the model's `chunk`.

        Yields:
            The results of each batch, in their order. Thresholds, cap and text bank are those of the first call of
            `next`.

        Raises:
            UserError: The policy looks at a text bank, and none was set; or the batch size is below 1.
        """
        if self.held is not None:
            yield from (self.encode_image(batch, return_exits=True) for batch in batches)
            return
        yield from encode_stream(self.tower, self._decider(), batches, batch_size, self.last_resort, self.chunk)

    def save_pretrained(self, folder: Path | str) -> None:
        """Save the T-GEM, without its backbone (tgems/runtime/folder.py)."""
        save(self.backbone, self.early_exit, Path(folder))

    @names_nearest_option
    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, commit_message: str | None = None
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub; see `tgems.runtime.hub.push`."""
        return push(self.backbone, self.early_exit, repo_id, private, token, commit_message)

    @classmethod
    @names_nearest_option
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        device: str = "cpu",
        calibration: str | None = None,
        max_rate: float | None = None,
        chunk: int | None = None,
        backbone: str | Backbone | None = None,
        tokenizer: str | None = None,
        trust_policy_file: str | Path | None = None,
        hub_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Load a saved T-GEM and its backbone.

        Args:
            folder_or_hub_id: Folder, or `owner/name` on the hub.
            device: Device to run on.
            calibration: Data set whose thresholds are used; None for the first.
            max_rate: See `EarlyExitCLIP`.
            chunk: See `EarlyExitCLIP`.
            backbone: Where to read the backbone instead of the reference that the folder holds (`local-dir:FOLDER`,
                `hf-hub:ID`, a file), or a loaded one; its digest must be the same.
            tokenizer: `local-dir:FOLDER` or a repository id on the hub, to use instead of the backbone's own tokenizer.
            trust_policy_file: Your copy of the file that holds the T-GEM's policy class, if its policy is not one of
                tgems' own. It is executed.
            hub_kwargs: Options of huggingface_hub's `snapshot_download`: `revision`, `cache_dir`, `token`, ...

        Raises:
            UserError: It cannot be fetched or loaded, or there is no such device.
        """
        require_device(device)
        folder = fetch(folder_or_hub_id, **(hub_kwargs or {}))
        loaded, early = load(folder, backbone, tokenizer, trust_policy_file)
        return cls(loaded, early, calibration, max_rate, chunk).to(device)
