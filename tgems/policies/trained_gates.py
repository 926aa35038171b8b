"""Policies with a trained gate: the T-GEMs, and learned gates of the literature."""

from torch import Tensor

from tgems.costs.exit_costs import ExitCosts
from tgems.policies.exit_view import ExitView
from tgems.policies.interface import ThresholdPolicy


class TGem(ThresholdPolicy):
    """The T-GEM's gate that sees only the image, which is index-safe (docs/method.md#gates)."""

    name = "tgem"
    label = "T-GEM, image-guided"
    color, marker = "#D55E00", "s"
    guidance = "image"
    gates = "image"
    contender = True

    def score(self, view: ExitView) -> Tensor:
        """Return the gate logits of the module that was trained for this target."""
        return view.gate


class TGemBank(ThresholdPolicy):
    """The T-GEM's gate on image and text bank (docs/method.md#bank-guidance).

    The score of staged gates is the price of computation at which going on is no longer worth it, so that one network
    serves every target; gates that are trained together with heads serve one target.
    """

    name = "tgem_bank"
    label = "T-GEM, bank-guided"
    color, marker = "#0072B2", "o"
    guidance = "bank"
    gates = "bank"
    needs_bank = True
    per_exit = True
    contender = True

    def score(self, view: ExitView) -> Tensor:
        """Return the scores of the bank-guided gates."""
        return view.gate


class LearnedConfidence(ThresholdPolicy):
    """A gate like the T-GEM's, trained to predict whether the image's text ranks first in its batch; no rate term.

    Learned confidence in the manner of ConfidNet (Corbière et al., NeurIPS 2019).
    """

    name = "learned_confidence"
    label = "learned confidence"
    color, marker = "#000000", "+"
    guidance = "image"
    gates = "confidence"

    def score(self, view: ExitView) -> Tensor:
        """Return the logit of being right; the same gate serves every target."""
        return view.gate


class LraGate(ThresholdPolicy):
    """A learned gate on probability, top-2 margin and spatial variance, with a threshold per exit.

    A reconstruction of LRA-EE (arXiv 2605.26415), trained on the same random text banks as `tgem_bank`.
    """

    name = "lra_gate"
    label = "LRA-EE gate"
    color, marker = "#882255", "p"
    guidance = "bank"
    gates = "variance"
    needs_bank = True
    per_exit = True

    def unusable(self, costs: ExitCosts) -> str:
        """Return a reason if there is no grid of means, on which spatial variance is computed."""
        return "" if costs.grid else "its spatial variance needs a grid of means; set summary.grid to 2 or more"

    def score(self, view: ExitView) -> Tensor:
        """Return the logit of the best text being right."""
        return view.gate


class Router(ThresholdPolicy):
    """Predicts at the first exit how simple the image is, which determines the exit that it takes.

    A reconstruction of ICAR's routing by image complexity (arXiv 2512.15372): a gate on the first exit's summary,
    trained on how many exits rank the image's caption first, takes the place of a separate network on the pixels, and
    every exit can be routed to.
    """

    name = "router"
    label = "ICAR router"
    color, marker = "#44AA99", "d"
    guidance = "image"
    gates = "router"
    per_exit = True

    def score(self, view: ExitView) -> Tensor:
        """Return the predicted simplicity, which is the same at every exit."""
        if "simplicity" not in view.memory:
            view.remember(simplicity=view.gate)
        return view.memory["simplicity"]
