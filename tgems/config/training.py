"""Models of the options of exit modules and their training, one section of the configuration per kind of module."""

from typing import Annotated, Literal

from pydantic import Field

from tgems.config.base import Count, NotNegative, Pairs, Positive, Section, Share, Whole

Products = Literal["bfloat16", "float32"]


class Schedule(Section):
    """Options of every training loop: AdamW on a one-cycle schedule over shuffled batches."""

    passes: Annotated[Whole, Field(ge=0)]
    """Number of passes over the training pairs."""
    batch_size: Pairs
    """Number of pairs per step."""
    learning_rate: Positive
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: NotNegative
    """Weight decay of AdamW."""


class HeadOptions(Schedule):
    """Training of the exit heads, once per backbone and seed."""

    hidden: Annotated[Whole, Field(ge=0)] = 256
    """Hidden width; with 0 a head is a linear map."""
    text: NotNegative = 1.0
    """Weight of the contrastive loss between images and texts."""
    rate_target: Share = 0.0
    """Mean rate for which exits are weighted; with 0 they are weighted equally."""
    passes: Count = 32
    """Number of passes over the training pairs."""
    batch_size: Pairs = 256
    """Number of pairs per step."""
    learning_rate: Positive = 0.016
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: NotNegative = 0.3
    """Weight decay of AdamW."""
    products: Products = "bfloat16"
    """Precision of matrix products while heads are trained. bfloat16, accumulated in float32, is used if the CPU
    supports it in hardware."""
    fold_passes: Annotated[Whole, Field(ge=0)] = 6
    """Number of passes over each half of the pairs for the heads that gates learn from, so that each image is embedded
    by heads that have not seen it. With 0, gates learn from the heads themselves."""
    start: Literal["random", "ridge"] = "random"
    """What heads start from: random weights, or the ridge regression of the last exit's embeddings on the summaries.
    With the latter they need fewer images and steps (docs/method.md#few-images)."""
    whiten: bool = True
    """Whether heads are trained on whitened summaries. This takes fewer passes, but each step takes longer if summaries
    are streamed from disk."""
    mixed_gallery: bool = True
    """Whether the contrastive loss compares texts with images at all exits, instead of with images at one exit."""
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
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW."""


class ConfidenceTraining(ConfidenceGateOptions):
    """The section `confidence_gates` together with the width of the gates."""

    hidden: Count
    """Hidden width."""


class RouterTraining(ConfidenceTraining):
    """The section `confidence_gates` together with the width and the bank of the image-guided gates."""

    bank_size: Pairs
    """Size of the text bank for which gates predict whether an image would be ranked correctly."""


class LookaheadOptions(Section):
    """Training of the part of image-guided gates that predicts which exits are right, once per seed."""

    hidden: Count = 16
    """Hidden width."""
    temperature: Positive = 0.05
    """Temperature of the gate logits."""
    bank_size: Pairs = 2000
    """Size of the text bank for which gates predict whether an image would be ranked correctly."""
    foresight_passes: Annotated[Whole, Field(ge=0)] = 4
    """Number of passes in which gates learn to predict which exits are right about an image."""
    foresight_learning_rate: Positive = 0.003
    """Peak learning rate of the one-cycle schedule of these passes."""
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
    """Number of passes with the regularized objective."""
    learning_rate: Positive = 0.0003
    """Peak learning rate of the one-cycle schedule."""
    entropy: NotNegative = 0.0
    """Weight of the entropy of the exit distribution, which encourages exploration."""
    regularizer: Literal["lagrangian", "penalty", "lambda"] = "lagrangian"
    """Rate regularizer."""
    kappa: NotNegative = 5.0
    """Weight of the squared rate error."""
    eta: NotNegative = 0.02
    """Step of the Lagrange multiplier."""
    lambda_: Annotated[NotNegative, Field(alias="lambda")] = 1.0
    """Price of the rate if the regularizer is 'lambda'."""


class BankGateOptions(Schedule):
    """Training of gates that also see a text bank, those of tgem_bank and lra_gate, once per seed."""

    hidden: Count = 32
    """Hidden width."""
    passes: Count = 6
    """Number of passes over the sampled banks."""
    batch_size: Pairs = 1024
    """Number of examples per step."""
    learning_rate: Positive = 0.006
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: NotNegative = 0.1
    """Weight decay of AdamW."""
    pass_over: Share = 0.5
    """Share of exits that are skipped at random in training."""
    largest_bank: Annotated[Whole, Field(ge=4)] = 2048
    """Largest size of a bank; sizes are log-uniform from 4 up to it."""
    banks_per_image: Count = 3
    """Number of random banks for each image."""
    bank_batch_size: Pairs = 256
    """Number of images that share a bank."""


class JointOptions(Section):
    """Training of heads and gates together, if training.scheme is 'joint'; sizes, losses and steps are those of
    heads."""

    passes: Count = 32
    """Number of passes over the training pairs."""
    warm_up: Share = 0.25
    """Share of the passes in which only the heads are trained."""
    every_exit: NotNegative = 1.0
    """Weight of the mean loss over all exits, relative to the loss at the exit taken."""
    kappa: NotNegative = 5.0
    """Weight of the squared rate error."""
    eta: NotNegative = 0.02
    """Step of the Lagrange multiplier."""
    largest_bank: Annotated[Whole, Field(ge=4)] = 2048
    """Largest size of a bank; sizes are log-uniform from 4 up to it."""


class JointTraining(JointOptions, HeadOptions):
    """The sections `heads` and `joint` together with the gates' width and regularizer; `joint` gives the passes."""

    gate_hidden: Count
    """Hidden width of the gates."""
    regularizer: Literal["lagrangian", "penalty", "lambda"] = "lagrangian"
    """Rate regularizer, that of image_gates."""
    lambda_: Annotated[NotNegative, Field(alias="lambda")] = 1.0
    """Price of the rate if the regularizer is 'lambda', that of image_gates."""
