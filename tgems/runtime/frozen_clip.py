"""The parts of an open_clip model that early exit leaves as they are: text encoder, scale, bias, and `forward`."""

from typing import Any, Self

import torch
from torch import Tensor, nn


class FrozenCLIP(nn.Module):
    """A frozen open_clip model with another way to encode images.

    Attributes:
        model: The open_clip model.
    """

    model: Any  # CLIP, CustomTextCLIP or CoCa

    def encode_image(self, image: Tensor, normalize: bool = False) -> Any:
        """Encode images `[n, 3, h, w]` -> `[n, D]`; defined by subclasses."""
        raise NotImplementedError

    @property
    def logit_scale(self) -> Tensor:
        """The backbone's logit scale, as a logarithm."""
        return self.model.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        """The backbone's logit bias, which only models trained with a sigmoid have; exits do not depend on it."""
        return self.model.logit_bias

    @property
    def visual(self) -> nn.Module:
        """The backbone's image encoder, unchanged: it always runs at full depth, and merges no tokens."""
        return self.model.visual

    @torch.no_grad()
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Encode texts by the backbone: token numbers `[m, context_length]` -> `[m, D]`."""
        return self.model.encode_text(text, normalize=normalize)

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> tuple | dict[str, Any]:
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

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: the model is frozen."""
        return super().train(False)
