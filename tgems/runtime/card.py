"""The model card of a saved T-GEM: Markdown with the hub's metadata block. Pure: a model in, text out."""

import yaml

from tgems.runtime.model import EarlyExitCLIP


def model_card(model: EarlyExitCLIP) -> str:
    """Write the card: what it is, what it costs, what it reached, what it is not for."""
    early, entry = model.early_exit, model.backbone.entry
    costs = early.costs
    name = early.about.get("name", "backbone")
    metadata = {
        "library_name": "tgems",
        "tags": ["clip", "early-exit", "open_clip", "zero-shot-image-classification"],
        "pipeline_tag": "zero-shot-image-classification",
    }
    target = "" if early.rate_target is None else f", calibrated for a mean rate of {early.rate_target:g}"
    lines = [
        "---",
        yaml.safe_dump(metadata, sort_keys=False).strip(),
        "---",
        "",
        f"# {name}, {early.policy}{'' if early.rate_target is None else f' at {early.rate_target:g}'}",
        "",
        f"Exit modules for the image encoder of `{_reference(entry)}`: an image leaves the encoder as soon as its gate",
        f"is sure enough (policy `{early.policy}`{target}). The folder holds the exit modules alone; the backbone is",
        f"named by reference and checked by digest (`{model.backbone.weights_digest[:12]}`).",
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
        "## Costs",
        "",
        f"The full encoder spends {costs.full / 1e9:.4g} GMACs (multiply-accumulates) an image; one that leaves after",
        "",
        *_table(("block", "spends, of the encoder"), zip(costs.blocks, (f"{r:.3f}" for r in model.rates), strict=True)),
        "",
        *_results(early.about.get("results", [])),
        "## Thresholds",
        "",
        "Fitted on validation images; the first is the default, `calibration=` picks another.",
        "",
        *_table(
            ("data set", "threshold", "mean rate on its validation images"),
            (
                (k, "none" if c.threshold is None else f"{c.threshold:.4g}", f"{c.rate_validation:.3f}")
                for k, c in early.calibrations.items()
            ),
        ),
        "",
        "## Intended use and limits",
        "",
        "- Zero-shot classification and retrieval at less computation than the backbone, on images like those it was",
        f"  trained and calibrated on (trained on `{early.about.get('trained_on', 'unknown')}`).",
        "- On other images the mean rate is an outcome, not a promise: calibrate anew, or cap it with `max_rate`.",
        f"- {_guidance(model)}",
        "- It inherits the backbone's biases and licence; nothing here was tested for fairness or safety.",
    ]
    return "\n".join(lines) + "\n"


def _guidance(model: EarlyExitCLIP) -> str:
    if model.rule.needs_bank:
        return (
            "The gate looks at the texts, so they must be set first (`set_text_bank`) and no image index can be built."
        )
    return "The gate sees the image alone: an index of embeddings stays valid for any text."


def _results(results: list[dict]) -> list[str]:
    if not results:
        return []
    rows = ((r["dataset"], r["metric"], f"{r['value']:.3f}", f"{r['full']:.3f}", f"{r['rate']:.3f}") for r in results)
    header = ("data set", "metric", "value", "full encoder", "rate")
    return ["## Results on test images", "", *_table(header, rows), ""]


def _reference(entry: dict) -> str:
    return f"{entry['model']}/{entry['pretrained']}" if entry.get("model") else entry["pretrained"]


def _table(header: tuple[str, ...], rows) -> list[str]:
    cells = [header, ("---",) * len(header), *rows]
    return [f"| {' | '.join(map(str, row))} |" for row in cells]
