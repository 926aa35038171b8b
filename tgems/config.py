"""Check a run's configuration before anything is computed: closed schema, defaults, and what no schema can say."""

import difflib
from functools import reduce
from pathlib import Path

import yaml

from tgems.backbones.config import check_supported, model_config, positions_at_exits
from tgems.backbones.summary_grid import require_grid
from tgems.data.entries import complete_entries
from tgems.errors import UserError, nearest
from tgems.exits.names import POLICY_NAMES
from tgems.profiling.costs import ExitCosts, check_targets, module_costs

VARIED = (
    *("rate_targets", "summary", "exits", "training", "heads", "image_gates", "bank_gates", "confidence_gates"),
    "joint",
)


def complete_config(config: dict, schema_file: Path) -> dict:
    """Validate a configuration and fill in the schema's defaults.

    Args:
        config: As read from YAML.
        schema_file: The closed JSON schema.

    Returns:
        A new configuration, complete.

    Raises:
        UserError: One line that names the key, the value and what was expected.
    """
    import jsonschema

    schema = yaml.safe_load(Path(schema_file).read_text())
    config = _numbers(config, schema, schema)
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(config))
    if error is not None:
        raise UserError(_explain(error))
    complete = _fill(config, schema)
    complete["variants"] = {name: _variant(complete, changes) for name, changes in complete["variants"].items()}
    complete["datasets"] = complete_entries(
        complete["datasets"], complete["training"]["dataset"], complete["calibration"]
    )
    tested = [name for name, entry in complete["datasets"].items() if entry["splits"]["test"] != "none"]
    complete["evaluation"].setdefault("compared", tested)
    _check_training(complete)
    _check_policies(complete)
    for name in complete["evaluation"]["compared"]:
        if name not in tested:
            hint = nearest(name, tested)
            raise UserError(f"config: evaluation.compared: {name!r} is no key of datasets with test images; {hint}")
    for name in complete["backbones"]:
        _check_backbone(name, complete)
    return complete


def costs_of(config: dict, backbone: str, variant: str) -> ExitCosts | None:
    """Costs of a backbone and a variant's exit modules by the closed form; None where there is none."""
    entry = config["backbones"][backbone]
    return module_costs(model_config(entry), config["variants"][variant] | {"kept": entry["exits"]})


def _variant(config: dict, changes: dict) -> dict:
    """All options of a variant: the configuration's own, but for its changes."""
    own = {key: config[key] for key in VARIED} | {"training": {"scheme": config["training"]["scheme"]}}
    return own | {k: own[k] | v if isinstance(v, dict) else v for k, v in changes.items()}


def _numbers(value, schema: dict, root: dict):
    """Snakemake's `--config` gives nested numbers as text: read them as numbers where the schema wants some.

    Args:
        value: Part of a configuration.
        schema: Its schema.
        root: The whole schema, which `$ref` refers to.
    """
    if "$ref" in schema:
        schema = reduce(lambda part, key: part[key], schema["$ref"].split("/")[1:], root)
    if isinstance(value, dict):
        known, every = schema.get("properties", {}), schema.get("additionalProperties")
        rest = every if isinstance(every, dict) else {}
        return {key: _numbers(part, known.get(key, rest), root) for key, part in value.items()}
    if isinstance(value, list):
        return [_numbers(part, schema.get("items", {}), root) for part in value]
    if isinstance(value, str) and schema.get("type") in ("number", "integer"):
        return yaml.safe_load(value)
    return value


def _fill(value, schema: dict):
    """Defaults of the schema under the given values, recursively."""
    if schema.get("type") != "object":
        return value
    known = schema.get("properties", {})
    every = schema.get("additionalProperties")
    filled = {k: _fill(v, known.get(k, every if isinstance(every, dict) else {})) for k, v in value.items()}
    for key, part in known.items():
        if key not in filled and "default" in part:
            filled[key] = _fill(part["default"], part)
    return filled


def _explain(error) -> str:
    place = ".".join(str(p) for p in error.absolute_path) or "the top level"
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        wrong = next(k for k in error.instance if k not in known)
        return f"config: unknown key {wrong!r} at {place}; {nearest(wrong, known)}"
    if error.validator == "enum":
        near = difflib.get_close_matches(str(error.instance), [str(v) for v in error.validator_value], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"config: {place} is {error.instance!r}, expected one of {error.validator_value}{hint}"
    return f"config: {place}: {error.message}"


def _check_training(config: dict) -> None:
    training = config["training"]
    if training["dataset"] not in config["datasets"]:
        hint = nearest(training["dataset"], config["datasets"])
        raise UserError(f"config: training.dataset {training['dataset']!r} is no key of datasets; {hint}")
    if training["split"] in ("validation", "test"):
        raise UserError(f"config: training.split {training['split']!r} is also a validation or test split")
    if training["split"] != "train":
        raise UserError(
            f"config: training.split {training['split']!r} is no role of splits; did you mean 'train'? "
            "Which images that are, datasets.*.splits.train says"
        )
    if (task := config["datasets"][training["dataset"]]["task"]) != "zeroshot_retrieval":
        raise UserError(f"config: training.dataset {training['dataset']!r} has no captions (task {task!r})")
    if all(entry["splits"]["test"] == "none" for entry in config["datasets"].values()):
        raise UserError("config: datasets: none has test images; add one that has")


def _check_policies(config: dict) -> None:
    for word in config["policies"]:
        if ":" not in word and word not in POLICY_NAMES:
            raise UserError(f"config: policies: {word!r} is no policy; {nearest(word, POLICY_NAMES)}")
        if ":" in word and not Path(word.rpartition(":")[0]).is_file():
            raise UserError(f"config: policies: {word!r}: there is no file {word.rpartition(':')[0]!r}")
    if "full" not in config["policies"]:
        raise UserError(
            f"config: policies {config['policies']} lack 'full', which all others are compared with; add it"
        )
    for policy, guidance in (("tgem", "image"), ("tgem_bank", "bank")):
        if policy in config["policies"] and guidance not in config["guidance"]:
            raise UserError(f"config: policy {policy!r} needs guidance {guidance!r}; add it to guidance")
    if "random" in config["policies"] and not config["guidance"]:
        raise UserError("config: policy 'random' draws from a T-GEM's exit histogram; add 'image' to guidance")


def _check_backbone(name: str, config: dict) -> None:
    """What the architecture alone says: whether it is supported, and which targets are out of reach of its exits.

    Where there is no closed form, the count of MACs checks the targets.
    """
    backbone = config["backbones"][name]
    model_cfg = model_config(backbone)
    check_supported(model_cfg, backbone.get("model") or backbone["pretrained"])
    positions = positions_at_exits(model_cfg)
    for variant in config["variants"]:
        if positions is not None:
            require_grid(config["variants"][variant]["summary"]["grid"], positions, f"backbone {name!r}")
        costs = costs_of(config, name, variant)
        if costs is not None:
            owner = f"backbone {name!r}, variant {variant!r}"
            check_targets(costs, config["variants"][variant]["rate_targets"], owner)
