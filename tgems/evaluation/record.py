"""The provenance.json of an evaluation: the digests of all its inputs, validated when read."""

from pathlib import Path

from pydantic import JsonValue

from tgems.evaluation.precision import PrecisionChange, precision_change
from tgems.evaluation.split import Trained
from tgems.evaluation.thresholds import ChosenQueryBank, SavedThresholds
from tgems.exits.saved_modules import read_module_config
from tgems.features.cache import FeatureSet
from tgems.features.manifest import SkippedInShard
from tgems.provenance import RUN_AGAIN, commit, versions
from tgems.untrusted import Closed, Digest, read_json_as


class TestedImages(Closed):
    """Number of test images, digests of their shards and prompts, and the samples that were skipped."""

    n: int
    shards: dict[str, str]
    prompts: Digest
    skipped: tuple[SkippedInShard, ...]


class EvaluationRecord(Closed):
    """The record of all inputs of an evaluation.

    Attributes:
        weights: Digest of the backbone's weights.
        test: The test images.
        precision: Changes that autocast makes; None without autocast.
        validation: By calibration, the validation images of the thresholds.
        query_bank: By calibration, the chosen query bank, if any.
        modules: Digest of every trained module, by folder.
        recorded: Versions of packages and the commit.
    """

    weights: Digest
    test: TestedImages
    precision: PrecisionChange | None
    validation: dict[str, dict[str, JsonValue]]
    query_bank: dict[str, ChosenQueryBank | None]
    modules: dict[str, Digest]
    recorded: dict[str, JsonValue]


def evaluation_record(features: FeatureSet, fixed: dict[str, SavedThresholds], trained: Trained) -> dict:
    """Return the content of the record.

    Args:
        features: Test features.
        fixed: Thresholds by calibration.
        trained: Folders of the trained modules.
    """
    return {
        "weights": features.manifest["weights"],
        "test": {key: features.manifest[key] for key in TestedImages.model_fields},
        "precision": precision_change(features),
        "validation": {calibration: value.validation for calibration, value in fixed.items()},
        "query_bank": {c: value.query_bank and value.query_bank.model_dump() for c, value in fixed.items()},
        "modules": {name: read_module_config(Path(trained.exits, name)).model_digest for name in trained.folders},
        "recorded": {"versions": versions(), "commit": commit()},
    }


def read_evaluation_record(path: Path) -> EvaluationRecord:
    """Read a record.

    Raises:
        UserError: The file is missing or damaged.
    """
    return read_json_as(EvaluationRecord, path, RUN_AGAIN)
