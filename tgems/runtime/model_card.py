"""Write the model card of a T-GEM: Markdown with the hub's metadata block.

A T-GEM can be loaded and saved again, so its names may be untrusted. They are written as text, never as markup.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict

import yaml

from tgems.backbones.load import Backbone
from tgems.errors import printable
from tgems.markdown_text import literal
from tgems.runtime.early_exit import EarlyExit
from tgems.runtime.tgem_info import OWN_HEADER, Rows, backbone_reference, own_rows, result_rows, threshold_rows


def model_card(early: EarlyExit, backbone: Backbone) -> str:
    """Write the card: description, costs, results, thresholds, and intended use."""
    costs = early.costs
    lines = [
        *_introduction(early, backbone),
        "## Costs",
        "",
        f"The full encoder spends {costs.full / 1e9:.4g} GMACs (multiply-accumulates) per image. Leaving after",
        "",
        *_table(
            ("block", "takes, as a share of that"), zip(costs.blocks, (f"{r:.3f}" for r in early.rates()), strict=True)
        ),
        "",
        *_results(result_rows(early.about.get("results", []))),
        "## Thresholds",
        "",
        "Thresholds are fitted on validation images. The first is the default; `calibration=` selects another.",
        "",
        *_table(
            ("data set", "threshold", "mean rate on its validation images"),
            threshold_rows({name: asdict(point) for name, point in early.calibrations.items()}),
        ),
        "",
        *_own(own_rows({name: asdict(point) for name, point in early.calibrations.items()})),
        "## Intended use and limits",
        "",
        "- Zero-shot classification and retrieval at less computation than the backbone, on images like those it was",
        f"  trained and calibrated on (trained on {_code(early.about.get('trained_on', 'unknown'))}).",
        "- On other images the mean rate is an outcome, not a promise: calibrate anew, hold it with `hold_rate`, or "
        "cap it with `max_rate`.",
        f"- {_guidance(early)}",
        "- It inherits the backbone's biases and licence; nothing here was tested for fairness or safety.",
    ]
    return "\n".join(lines) + "\n"


def _introduction(early: EarlyExit, backbone: Backbone) -> list[str]:
    """Write the hub's metadata and the introduction."""
    name = early.about.get("name", "backbone")
    metadata = {
        "library_name": "tgems",
        "tags": ["clip", "early-exit", "open_clip", "zero-shot-image-classification"],
        "pipeline_tag": "zero-shot-image-classification",
    }
    scheme, _, base = backbone.entry["pretrained"].partition(":")
    metadata |= {"base_model": base} if scheme == "hf-hub" else {}
    target = "" if early.rate_target is None else f", calibrated for a mean rate of {early.rate_target:g}"
    return [
        "---",
        yaml.safe_dump(metadata, sort_keys=False).strip(),
        "---",
        "",
        f"# {literal(name)}, {early.policy.name}{'' if early.rate_target is None else f' at {early.rate_target:g}'}",
        "",
        f"Exit modules for the image encoder of {_code(backbone_reference(backbone.entry))}: an image leaves the",
        f"encoder as soon as its score exceeds a threshold (policy `{early.policy.name}`{target}). The folder holds",
        "only the exit modules; the backbone is named by reference and checked by digest",
        f"(`{backbone.weights_digest[:12]}`).",
        "",
        "```python",
        "import tgems",
        "",
        "model, _, preprocess = tgems.create_model_and_transforms(FOLDER_OR_HUB_ID)",
        "embeddings = model.encode_image(preprocess(image)[None])",
        "```",
        "",
        "Method: Presta et al., T-GEMs, arXiv 2605.17499, reconstructed from its abstract; see tgems' documentation.",
        "",
    ]


def _guidance(early: EarlyExit) -> str:
    if early.policy.needs_bank:
        return (
            "The gate looks at the texts, so they must be set first (`set_text_bank`) and no image index can be built."
        )
    return "The gate sees only the image: an index of embeddings stays valid for any text."


def _results(rows: Rows) -> list[str]:
    if not rows:
        return []
    header = ("data set", "thresholds of", "metric", "value", "full encoder", "rate")
    return ["## Results on test images", "", *_table(header, rows), ""]


def _own(rows: Rows) -> list[str]:
    return [*_table(OWN_HEADER, rows), ""] if rows else []


def _table(header: tuple[str, ...], rows: Iterable[tuple]) -> list[str]:
    cells = [header, ("---",) * len(header), *rows]
    return [f"| {' | '.join(map(literal, row))} |" for row in cells]


def _code(value: object) -> str:
    """Write a value as a code span, whose fence is longer than any run of backticks in the value."""
    text = printable(str(value))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    space = " " if longest else ""
    return f"{'`' * (longest + 1)}{space}{text}{space}{'`' * (longest + 1)}"
