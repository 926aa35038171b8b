"""Options of the exit modules and of their training, one section of the configuration per kind of module."""

from typing import Annotated, Literal

from pydantic import Field

from tgems.config.base import Count, NotNegative, Pairs, Positive, Section, Share, Whole

Products = Literal["bfloat16", "float32"]


class Schedule(Section):
    """What every training loop needs: AdamW on a one-cycle schedule over shuffled batches."""

    passes: Annotated[Whole, Field(ge=0)]
    """Number of passes over the training pairs."""
    batch_size: Pairs
    """Number of pairs per step."""
    learning_rate: Positive
    """Peak of the one-cycle schedule."""
    weight_decay: NotNegative
    """Weight decay of AdamW."""


class HeadOptions(Schedule):
    """Training of the exit heads, once per backbone and seed."""

    hidden: Annotated[Whole, Field(ge=0)] = 256
    """Hidden width; 0 makes a head a linear map."""
    text: NotNegative = 1.0
    """Weight of the contrastive loss with texts."""
    rate_target: Share = 0.0
    """Weighs exits for this mean rate instead of equally; 0 weighs them equally."""
    passes: Count = 32
    """Number of passes over the training pairs."""
    batch_size: Pairs = 256
    """Number of pairs per step."""
    learning_rate: Positive = 0.016
    """Peak of the one-cycle schedule."""
    weight_decay: NotNegative = 0.3
    """Weight decay of AdamW."""
    products: Products = "bfloat16"
    """Precision of matrix products while heads are trained; bfloat16, with sums in float32, is used where the CPU has
    units for it."""
    fold_passes: Annotated[Whole, Field(ge=0)] = 6
    """Number of passes over either half of the pairs, for the heads that gates learn from: each image is embedded by
    heads that have not seen it. With 0, gates learn from the heads themselves."""
    whiten: bool = True
    """Whether heads are trained on whitened summaries, which takes fewer passes; a step costs more where summaries are
    streamed from disk."""
    mixed_gallery: bool = True
    """Whether the contrastive loss compares texts with images at all depths, instead of images at one depth."""
    similarity: NotNegative = 0.5
    """Weight of the distillation of the last exit's similarities."""
    distill: NotNegative = 1.0
    """Weight of the distance to the last exit's embedding."""


class ConfidenceGateOptions(Schedule):
    """Training of the gates of the policies learned_confidence and router, once per seed; their width is that of
    image_gates."""

    passes: Count = 6
    """Number of passes over the training pairs."""
    batch_size: Pairs = 256
    """Number of pairs per step."""
    learning_rate: Positive = 0.003
    """Peak of the one-cycle schedule."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW."""


class ConfidenceTraining(ConfidenceGateOptions):
    """The section `confidence_gates` together with the width of the gates."""

    hidden: Count
    """Hidden width."""


class RouterTraining(ConfidenceTraining):
    """The section `confidence_gates` together with the width and the bank of the image-guided gates."""

    bank_size: Pairs
    """Number of texts among which an image is imagined to be ranked rightly or wrongly."""


class LookaheadOptions(Section):
    """Training of the part of image-guided gates that foresees which exits will be right, once per seed."""

    hidden: Count = 16
    """Hidden width."""
    temperature: Positive = 0.05
    """Temperature of the gate logits."""
    bank_size: Pairs = 2000
    """Number of texts among which an image is imagined to be ranked rightly or wrongly."""
    foresight_passes: Annotated[Whole, Field(ge=0)] = 4
    """Number of passes in which gates learn which exits are right about an image."""
    foresight_learning_rate: Positive = 0.003
    """Peak of the one-cycle schedule of these passes."""
    batch_size: Pairs = 512
    """Number of pairs per step."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW."""

    @property
    def foresight(self) -> Schedule:
        """The passes in which gates learn which exits are right."""
        return Schedule(
            passes=self.foresight_passes,
            batch_size=self.batch_size,
            learning_rate=self.foresight_learning_rate,
            weight_decay=self.weight_decay,
        )


class ImageGateOptions(LookaheadOptions, Schedule):
    """Training of gates that see only the image: lookahead once per seed, then a rate regularizer per rate target."""

    passes: Annotated[Whole, Field(ge=0)] = 2
    """Number of passes of the regularized objective."""
    learning_rate: Positive = 0.0003
    """Peak of the one-cycle schedule."""
    entropy: NotNegative = 0.0
    """Weight of the entropy of the exit distribution, which encourages exploration."""
    regularizer: Literal["lagrangian", "penalty", "lambda"] = "lagrangian"
    """Rate regularizer."""
    kappa: NotNegative = 5.0
    """Weight of the squared rate error."""
    eta: NotNegative = 0.02
    """Step of the Lagrange multiplier."""
    lambda_: Annotated[NotNegative, Field(alias="lambda")] = 1.0
    """Price of the rate where the regularizer is 'lambda'."""


class BankGateOptions(Schedule):
    """Training of gates that also see a text bank, those of tgem_bank and lra_gate, once per seed."""

    hidden: Count = 32
    """Hidden width."""
    passes: Count = 6
    """Number of passes over the drawn banks."""
    batch_size: Pairs = 1024
    """Number of examples per step."""
    learning_rate: Positive = 0.006
    """Peak of the one-cycle schedule."""
    weight_decay: NotNegative = 0.1
    """Weight decay of AdamW."""
    pass_over: Share = 0.5
    """Share of exits that are passed over at random in training."""
    largest_bank: Annotated[Whole, Field(ge=4)] = 2048
    """Largest bank; sizes are log-uniform from 4."""
    banks_per_image: Count = 3
    """Number of random banks for each image."""
    bank_batch_size: Pairs = 256
    """Number of images that share a bank."""


class JointOptions(Section):
    """Training of heads and gates together, where training.scheme is 'joint'; sizes, losses and steps are those of
    heads."""

    passes: Count = 32
    """Number of passes over the training pairs."""
    warm_up: Share = 0.25
    """Share of the passes in which only the heads are trained."""
    every_exit: NotNegative = 1.0
    """Weight of the mean loss over all exits beside the loss at the exit taken."""
    kappa: NotNegative = 5.0
    """Weight of the squared rate error."""
    eta: NotNegative = 0.02
    """Step of the Lagrange multiplier."""
    largest_bank: Annotated[Whole, Field(ge=4)] = 2048
    """Largest bank; sizes are log-uniform from 4."""


class JointTraining(JointOptions, HeadOptions):
    """The sections `heads` and `joint` together with the gates' width and regularizer; `joint` gives the passes."""

    gate_hidden: Count
    """Hidden width of the gates."""
    regularizer: Literal["lagrangian", "penalty", "lambda"] = "lagrangian"
    """Rate regularizer, that of image_gates."""
    lambda_: Annotated[NotNegative, Field(alias="lambda")] = 1.0
    """Price of the rate where the regularizer is 'lambda', that of image_gates."""
