"""Complete the configuration of a run, and check what a schema cannot: architectures, data sets, policies and exits.

Imports neither torch nor open_clip, for dry runs.
"""

import os
from pathlib import Path
from typing import Any

from tgems.architectures.catalog import check_merging, check_supported, positions_at_exits
from tgems.backbones.references import model_config
from tgems.config.reading import parse_config
from tgems.config.run import Variant
from tgems.costs.exit_costs import GATES, ExitCosts, check_targets, module_costs
from tgems.costs.exit_layout import require_grid
from tgems.data.dataset_entries import complete_entries
from tgems.errors import UserError, nearest
from tgems.policies.declarations import declared


def complete_config(config: dict) -> dict[str, Any]:
    """Validate a configuration and fill in all defaults.

    Args:
        config: Configuration as read from YAML; it is not modified.

    Returns:
        A new, complete configuration of JSON values. Every variant has all of its options.

    Raises:
        UserError: The configuration is not valid; the message names the key, the value and what was expected.
    """
    parsed = parse_config(config)
    complete = parsed.plain()
    complete["variants"] = {name: _variant(complete, changes) for name, changes in parsed.variants.items()}
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
            raise UserError(f"config: evaluation.compared: {name!r} is not a key of datasets with test images; {hint}")
    for name in complete["backbones"]:
        _check_backbone(name, complete)
    return complete


def check_results_folder(folder: str) -> None:
    """Check that a results folder is a folder, or can be made, since Snakemake would end with its own traceback.

    Raises:
        UserError: The name, or a part of it, is a file or a symbolic link that leads nowhere.
    """
    path = Path(folder)
    for place in (path, *path.parents):
        if os.path.lexists(place) and not place.is_dir():
            what = "a symbolic link that leads to no folder" if place.is_symlink() else "not a folder"
            raise UserError(f"config: results: {place} is {what}; move it away, or choose another results folder")


def recorded_config(config: dict) -> dict[str, Any]:
    """Return the part of a complete configuration on which numbers in the tables depend.

    The rest says where files are and which resources a job may use: the results folder, worker processes, devices,
    memory, the batch size of the feature pass, the number of jobs. Measuring speed and pretraining backbones have no
    effect on the tables, and options of exit modules are part of the variants.
    """
    left_out = {"results", "latency", "pretraining", *Variant.model_fields}
    kept = {key: value for key, value in config.items() if key not in left_out}
    kept["training"] = {"dataset": config["training"]["dataset"]}
    kept["demo"] = {key: value for key, value in config["demo"].items() if key != "backbone"}
    kept["variants"] = {
        name: {
            key: value for key, value in variant.items() if key != "joint" or variant["training"]["scheme"] == "joint"
        }
        for name, variant in config["variants"].items()
    }
    kept["features"] = {key: config["features"][key] for key in ("dtype", "precision")}
    kept["datasets"] = {
        name: {key: value for key, value in entry.items() if key not in ("jobs", "root")}
        for name, entry in config["datasets"].items()
    }
    return kept


def trained_gates(policies: list[str]) -> list[str]:
    """Return the kinds of gates that policies need, in the order of `tgems.costs.exit_costs.GATES`.

    `random` draws from the exit histogram of `tgem`, or of `tgem_bank` if only that is compared. A policy of your own
    declares what it needs by the class attribute `gates`.

    Raises:
        UserError: A policy is unknown, or its file is missing, damaged, or defines no such class.
    """
    wanted = {declared(word).get("gates") for word in policies if word != "shuffled"}
    if "random" in policies and not wanted & {"image", "bank"}:
        wanted.add("image")
    return [kind for kind in GATES if kind in wanted]


def contenders(policies: list[str]) -> list[str]:
    """Return the words of policies that are T-GEMs, which are compared with all others."""
    return [word for word in policies if word != "shuffled" and declared(word)["contender"]]


def at_rates(policies: list[str]) -> bool:
    """Return whether any policy has operating points at rate targets, which fixed exits and oracles do not have."""
    found = [declared(word) for word in policies if word != "shuffled"]
    return any((own["adaptive"] or own["mixes"]) and not own["oracle"] for own in found)


def promising(config: dict) -> bool:
    """Return whether a complete configuration asks for promises of quality that can be made.

    They need a data set with validation images of its own, and a policy that decides image by image.
    """
    own = any(
        "in_domain" in entry["calibration"] and entry["splits"]["test"] != "none"
        for entry in config["datasets"].values()
    )
    decides = any(declared(word)["runs"] for word in config["policies"] if word != "shuffled")
    return bool(config["risk_targets"]) and own and decides


def costs_of(config: dict, backbone: str, variant: str) -> ExitCosts | None:
    """Compute the costs of a backbone and a variant's exit modules by the closed form; None if there is none."""
    entry = config["backbones"][backbone]
    modules = config["variants"][variant] | {"kept": entry["exits"]}
    return module_costs(model_config(entry), modules, entry["token_merging"])


def _variant(config: dict, variant: Variant) -> dict:
    """Return all options of a variant: those of the configuration, updated with the keys that the variant sets."""
    options = {key: config[key] for key in Variant.model_fields if key != "training"}
    options["training"] = {"scheme": config["training"]["scheme"]}
    changes = variant.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return options | {key: options[key] | value if isinstance(value, dict) else value for key, value in changes.items()}


def _check_training(config: dict) -> None:
    trained = config["training"]["dataset"]
    if trained not in config["datasets"]:
        hint = nearest(trained, config["datasets"])
        raise UserError(f"config: training.dataset {trained!r} is not a key of datasets; {hint}")
    if (task := config["datasets"][trained]["task"]) == "zeroshot_classification":
        raise UserError(
            f"config: training.dataset {trained!r} has no captions (task {task!r}); name one with them, or set task: "
            "self_retrieval, which trains without captions"
        )
    if all(entry["splits"]["test"] == "none" for entry in config["datasets"].values()):
        raise UserError("config: datasets: none has test images; add one that does")


def _check_policies(config: dict) -> None:
    if "full" not in config["policies"]:
        raise UserError(
            f"config: policies {config['policies']} lack 'full', which all others are compared with; add it"
        )
    trained_gates(config["policies"])
    latency = config["latency"]
    if latency["batch_sizes"] and latency["exits"] == "trained" and "tgem" not in config["policies"]:
        raise UserError("config: latency.exits is 'trained', which needs policy 'tgem'; add it, or set 'drawn'")
    for word in latency["policies"]:
        place = f"config: latency.policies: {word!r}"
        if word not in config["policies"]:
            raise UserError(f"{place} is not among the policies of the run; {nearest(word, config['policies'])}")
        if not declared(word)["runs"]:
            raise UserError(f"{place} does not decide image by image, so that its speed cannot be measured; remove it")
        if latency["exits"] == "drawn":
            raise UserError(f"{place} needs the exits that it takes; set latency.exits to 'trained'")


def _check_backbone(name: str, config: dict) -> None:
    """Check that the architecture is supported, and that its exits can meet the rate targets.

    If there is no closed form of MACs, the targets are checked when the MACs are traced.
    """
    backbone = config["backbones"][name]
    model_cfg = model_config(backbone)
    check_supported(model_cfg, backbone.get("model") or backbone["pretrained"])
    check_merging(model_cfg, backbone["token_merging"], name)
    positions = positions_at_exits(model_cfg)
    for variant in config["variants"]:
        if positions is not None:
            require_grid(config["variants"][variant]["summary"]["grid"], positions, f"backbone {name!r}")
        costs = costs_of(config, name, variant)
        if costs is not None:
            owner = f"backbone {name!r}, variant {variant!r}"
            check_targets(costs, config["variants"][variant]["rate_targets"], owner)
