"""Models of the configuration: backbones, data sets, exit modules, evaluation and devices."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from tgems.config.base import Count, Name, NotNegative, Number, Pairs, Positive, Rate, Section, Text, Whole, distinct
from tgems.config.training import BankGateOptions, ConfidenceGateOptions, HeadOptions, ImageGateOptions, JointOptions

Block = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(distinct)]
Exits = Literal["all", "every_other", "last_half"] | Block


def frozen_first(calibrations: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse `online` alone: curves and comparisons need thresholds that stay as they were fitted."""
    if calibrations == ("online",):
        raise ValueError("['online'] has no frozen thresholds to compare with; add 'in_domain' or 'transfer'")
    return calibrations


Calibrations = Annotated[
    tuple[Literal["in_domain", "transfer", "online"], ...],
    Field(min_length=1),
    AfterValidator(distinct),
    AfterValidator(frozen_first),
]
Directions = Annotated[
    tuple[Literal["image_to_text", "text_to_image"], ...], Field(min_length=1), AfterValidator(distinct)
]
Seeds = Annotated[tuple[Annotated[Whole, Field(ge=0)], ...], Field(min_length=1), AfterValidator(distinct)]
Rates = Annotated[tuple[Rate, ...], Field(min_length=1), AfterValidator(distinct)]
Names = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(distinct)]
Level = Annotated[Number, Field(gt=0, le=0.5)]
RiskTargets = Annotated[tuple[Level, ...], AfterValidator(distinct)]
Device = Literal["cpu", "cuda"]
ALL_POLICIES = (
    *("full", "fixed", "fixed_raw", "hull", "hull_raw", "random", "shuffled", "max_softmax", "entropy", "margin"),
    *("patience", "saturation", "max_softmax_raw", "margin_raw", "saturation_raw"),
    *("learned_confidence", "lra_gate", "router", "tgem", "tgem_bank", "oracle", "oracle_agree"),
)


class BackboneEntry(Section):
    """An image encoder."""

    model: Text | None = None
    """Name of an open_clip architecture; optional if pretrained is a 'local-dir:FOLDER'."""
    pretrained: Text
    """Weights: a tag of open_clip, 'hf-hub:ORG/REPO', 'local-dir:FOLDER' (with open_clip_config.json beside the
    weights), a checkpoint file, or 'random'. A relative folder that does not exist in the working directory is looked
    up in the checkout."""
    source: str | None = None
    """Origin and licence of the weights in your own words; recorded with the results."""
    tokenizer: (
        Annotated[
            str,
            StringConstraints(pattern=r"^(local-dir:.+|[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?)$"),
        ]
        | None
    ) = None
    """Tokenizer to use instead of the one named by the configuration of the weights: 'ORG/REPO' on the Hugging Face
    hub, or 'local-dir:FOLDER' for a folder that you trust."""
    exits: Exits = "all"
    """Blocks whose features are kept, in the form of the key exits; variants choose among these."""
    token_merging: Annotated[Whole, Field(ge=0)] = 0
    """Number of tokens that each block merges, as ToMe does; 0 merges none (docs/method.md#token-merging)."""


class Splits(Section):
    """Images of each role: a split folder, or a slice of its shards such as 'train[2:5]', counted from 0."""

    train: str | None = None
    """Images for training heads and gates, default 'train'; read only from the training data set."""
    validation: str | None = None
    """Images for fitting thresholds, default 'validation'; 'none' requires a calibration without in_domain, such as
    [transfer]."""
    test: str | None = None
    """Images for reporting results, default 'test'; 'none' for a training data set that is not reported."""


class Jobs(Section):
    """Number of jobs that share a split's shards in the feature pass, on any number of machines."""

    train: Count = 1
    """Jobs for train; more jobs than shards have no effect."""
    validation: Count = 1
    """Jobs for validation."""
    test: Count = 1
    """Jobs for test."""


class DatasetEntry(Section):
    """A data set."""

    source: Annotated[str, StringConstraints(pattern=r"^(demo|hub:[^/:@ ]+/[^/:@ ]+|wds:.+|tars:.+)$")] | None = None
    """'demo' for the embedded digit scenes, 'hub:ORG/REPO' or 'wds:FOLDER' in clip_benchmark's webdataset layout,
    'tars:FOLDER' as img2dataset writes it; optional for known names."""
    task: Literal["zeroshot_classification", "zeroshot_retrieval", "self_retrieval"] | None = None
    """Task to evaluate; optional for known names. 'self_retrieval' is for images without captions: the embedding of an
    image by the full encoder takes the place of its caption, so that exits learn to imitate the full encoder."""
    directions: Directions = ("image_to_text", "text_to_image")
    """Directions of retrieval to report; policies that look at the texts have no text_to_image."""
    splits: Splits = Splits()
    revision: Text | None = None
    """Commit, branch or tag of a 'hub:' source; default 'main', or that of a known name."""
    root: Text | None = None
    """Folder that a 'hub:' source is downloaded to, or is in already; default 'data/NAME'."""
    calibration: Calibrations | None = None
    """Where the thresholds of this data set come from; the default is the key calibration."""
    jobs: Jobs = Jobs()
    on_bad_sample: Literal["fail", "skip"] = "fail"
    """Action on a sample that cannot be read: 'fail' stops the job, 'skip' leaves the sample out and lists it."""


class Scheme(Section):
    """Training scheme of a variant's exit modules."""

    scheme: Literal["staged", "joint"] = "staged"
    """'staged' trains gates on frozen heads that all policies share; 'joint' trains the heads and gates of each T-GEM
    and rate target together."""


class Training(Scheme):
    """Training of heads and gates, on the train images of one data set."""

    dataset: Text
    """Key of a data set with captions, or of one whose task is self_retrieval."""


class QueryBankOptions(Section):
    """Query-bank normalisation, which penalises every image by its similarity to a bank of training captions."""

    sizes: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(distinct)] = (256, 1024, 4096)
    """Numbers of captions in the bank, one of which is chosen on validation images."""
    betas: Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(distinct)] = (0.125, 0.25, 0.5, 1.0)
    """Weights of the penalty, one of which is chosen on validation images."""


class SummaryOptions(Section):
    """Summary of a block's tokens, the input of exit modules."""

    grid: Annotated[Whole, Field(ge=0, le=64)] = 2
    """Size g of a g x g grid. Exit modules see the CLS token and the mean patch token of each cell, or with 0 only the
    CLS token."""


class Variant(Section):
    """Changes to the exit modules and their training; other keys keep the values of the configuration."""

    rate_targets: Rates | None = None
    summary: SummaryOptions | None = None
    exits: Exits | None = None
    training: Scheme | None = None
    heads: HeadOptions | None = None
    image_gates: ImageGateOptions | None = None
    bank_gates: BankGateOptions | None = None
    confidence_gates: ConfidenceGateOptions | None = None
    joint: JointOptions | None = None


class FeatureOptions(Section):
    """The feature pass."""

    batch_size: Count = 256
    """Number of images per forward pass."""
    dtype: Literal["float32", "float16"] = "float32"
    """Storage type of summaries."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the encoder: float32, or an autocast type, whose effect on full-depth metrics is then reported."""
    workers: Annotated[Whole, Field(ge=0)] = 0
    """Number of processes per job that decode images; with 0 the job itself decodes them."""
    in_memory_gb: NotNegative = 8.0
    """Memory in GB above which the summaries of a split are read from disk by rows in training and evaluation."""
    device: Device = "cpu"
    """Device that encodes images and texts."""


class EvaluationOptions(Section):
    """Comparisons made on the test images; fix these keys before you look at the results."""

    compared: Names | None = None
    """Data sets on which T-GEMs are compared with other policies, and which the headline figure shows. Holm's
    correction covers one family of comparisons for each backbone, variant, T-GEM, calibration and kind of opponent.
    Leave out data sets that are solved at the first exit. The default is all data sets with test images."""
    margin: Level = 0.01
    """Margin of equivalence: policies are equivalent if the 95 % interval of their difference is within it."""
    level: Level = 0.05
    """Family-wise significance level of the tests."""


class LatencyOptions(Section):
    """Measurement of the speed of full encoder and early exit; without batch sizes nothing is measured."""

    batch_sizes: Annotated[tuple[Count, ...], AfterValidator(distinct)] = ()
    """Numbers of images per call."""
    seconds: Positive = 10.0
    """Seconds for each backbone and batch size, and once more for each backbone's blocks; at least three rounds are
    measured."""
    exits: Literal["trained", "drawn"] = "trained"
    """Exits to take: 'trained', those of policy tgem on the training data set; 'drawn', random ones of equal rate."""
    policies: Annotated[tuple[Text, ...], AfterValidator(distinct)] = ()
    """Further policies to measure, with the exits that they take on every data set (docs/method.md#pareto)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the encoder; bfloat16 is autocast."""
    device: Device = "cpu"
    """Device on which speed is measured."""
    threads: Count | None = None
    """Number of threads, at most the cores that Snakemake may use. The default is all cores of this machine; where jobs
    run elsewhere, as on a cluster, the number must be set."""


class DemoOptions(Section):
    """The embedded digit scenes."""

    seed: Annotated[Whole, Field(ge=0)] = 0
    """Seed of all demo data."""
    shard_size: Count = 5000
    """Number of samples per shard."""
    backbone: Count = 120000
    """Number of pairs for pretraining."""
    train: Count = 24000
    """Number of pairs for training exit modules."""
    validation: Count = 2000
    """Number of validation images per data set."""
    test: Count = 2000
    """Number of test images per data set."""


class PretrainingOptions(Section):
    """Pretraining of the demo backbones; used only by the target `pretrain`."""

    seed: Annotated[Whole, Field(ge=0)] = 0
    """Seed of the initial weights and of the order of pairs."""
    samples_seen: Count = 2100000
    """Total number of pairs seen."""
    batch_size: Pairs = 256
    """Number of pairs per step."""
    learning_rate: Positive = 0.002
    """Peak learning rate."""
    weight_decay: NotNegative = 0.1
    """Weight decay of AdamW."""


class RunConfig(Section):
    """The configuration of a tgems run."""

    results: Annotated[str, StringConstraints(pattern=r"^/?[A-Za-z0-9_][A-Za-z0-9_./-]*$")] = "results"
    """Folder of this run's data, features, exit modules, results and logs. Give every configuration its own: runs
    in one folder overwrite each other's files."""
    seeds: Seeds
    """Seeds of head and gate training; every number is reported per seed and as a mean."""
    rate_targets: Rates
    """Mean relative costs in (0, 1] that a calibrated policy must not exceed on validation images."""
    backbones: Annotated[dict[Name, BackboneEntry], Field(min_length=1)]
    """Image encoders to compare, under names of your choice."""
    datasets: Annotated[dict[Name, DatasetEntry], Field(min_length=1)]
    """Data sets under names of your choice, except that demo sets and known data sets (docs/adding-a-dataset.md) have
    fixed names."""
    training: Training
    policies: Names = ALL_POLICIES
    """Exit policies to compare: names, or 'FILE.py:CLASS' for your own (docs/adding-a-policy.md)."""
    calibration: Calibrations = ("in_domain", "transfer")
    """Where thresholds come from: 'in_domain', a data set's own validation images; 'transfer', the validation images of
    the training data set, whose thresholds are applied unchanged; 'online', the same thresholds, moved after every test
    image so that the mean rate holds the target (docs/method.md#holding-a-rate)."""
    score_normalisation: Annotated[
        tuple[Literal["none", "querybank"], ...], Field(min_length=1), AfterValidator(distinct)
    ] = ("none", "querybank")
    """How texts are scored against images of different depths in text-to-image retrieval: 'none', by similarity;
    'querybank', by similarity minus the penalty of the section query_bank. Results are reported for each."""
    risk_targets: RiskTargets = ()
    """Shares of images that may lose the full encoder's best text, in (0, 0.5]: for each, the table and the figure
    `risk` compare what policies spend if this is promised (docs/method.md#promises-of-quality). This requires data sets
    with calibration 'in_domain'. Without targets, neither is written."""
    query_bank: QueryBankOptions = QueryBankOptions()
    summary: SummaryOptions = SummaryOptions()
    exits: Exits = "all"
    """Blocks after which an image may leave: 'all', 'every_other' (counted from the last), 'last_half', or a list of
    block numbers."""
    variants: Annotated[dict[Name, Variant], Field(min_length=1)] = {"default": Variant()}
    """Variants of the exit modules and their training by name, each of which is trained and evaluated; figures show the
    first one. A variant may set the keys rate_targets, summary, exits, training.scheme, heads, image_gates,
    bank_gates, confidence_gates and joint; other keys keep the values of the configuration."""
    features: FeatureOptions = FeatureOptions()
    heads: HeadOptions = HeadOptions()
    confidence_gates: ConfidenceGateOptions = ConfidenceGateOptions()
    image_gates: ImageGateOptions = ImageGateOptions()
    joint: JointOptions = JointOptions()
    bank_gates: BankGateOptions = BankGateOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    latency: LatencyOptions = LatencyOptions()
    demo: DemoOptions = DemoOptions()
    pretraining: PretrainingOptions = PretrainingOptions()

    @model_validator(mode="after")
    def _has_required_words(self) -> "RunConfig":
        for key, word in (("calibration", "in_domain"), ("score_normalisation", "none")):
            if word not in getattr(self, key):
                raise ValueError(f"{key} is {list(getattr(self, key))}; add {word!r}, which all runs need")
        return self
