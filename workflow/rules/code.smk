# Which modules of the library a stage's results depend on: changed code reruns the stage, a touched file does not.


def library(*parts):
    """Library modules that a stage's results depend on: changed code reruns the stage, a touched file does not."""
    return [
        os.path.relpath(path)
        for part in parts
        for path in sorted(Path(ROOT, "tgems").glob(part))
    ]


CODE = {
    "demo": library(
        "data/demo.py",
        "data/handwriting.py",
        "data/render.py",
        "data/scenes.py",
        "data/webdataset.py",
    ),
    "fetch": library(
        "data/entries.py",
        "data/fetch.py",
        "data/hub.py",
        "data/tarindex.py",
        "data/webdataset.py",
    ),
    "backbones": library("backbones/*.py", "data/tarindex.py", "data/webdataset.py"),
    "profiling": library(
        "profiling/*.py",
        "backbones/config.py",
        "backbones/open_clip_config.py",
        "backbones/summary_grid.py",
        "backbones/towers.py",
        "exits/layers.py",
        "exits/bank_modules.py",
        "exits/modules.py",
        "exits/sizes.py",
    ),
    "features": library(
        "features/*.py",
        "backbones/checkpoint.py",
        "backbones/load.py",
        "backbones/open_clip_config.py",
        "backbones/source.py",
        "backbones/tokenizer.py",
        "backbones/summary_grid.py",
        "backbones/towers.py",
        "data/tarindex.py",
        "data/webdataset.py",
        "devices.py",
    ),
    "exits": library(
        "exits/architecture.py",
        "exits/bank_gates.py",
        "exits/fitting.py",
        "exits/folders.py",
        "exits/image_gates.py",
        "exits/joint.py",
        "exits/losses.py",
        "exits/layers.py",
        "exits/bank_modules.py",
        "exits/modules.py",
        "exits/pairs.py",
        "exits/stage.py",
        "exits/text_losses.py",
        "exits/train.py",
        "features/cache.py",
        "features/rows.py",
    ),
    "policies": library(
        "exits/confidence.py",
        "exits/gated.py",
        "exits/outputs.py",
        "exits/per_exit.py",
        "exits/policies.py",
        "exits/reference.py",
    )
    + [word.rpartition(":")[0] for word in config["policies"] if ":" in word],
    "evaluation": library(
        "evaluation/*.py",
        "data/tarindex.py",
        "data/webdataset.py",
        "exits/layers.py",
        "exits/bank_modules.py",
        "exits/losses.py",
        "exits/modules.py",
        "features/rows.py",
        "profiling/costs.py",
    ),
    "latency": library(
        "backbones/summary_grid.py",
        "backbones/towers.py",
        "devices.py",
        "exits/layers.py",
        "exits/bank_modules.py",
        "exits/modules.py",
        "runtime/engine.py",
        "runtime/latency.py",
        "runtime/rules.py",
    ),
    "latency_figure": library("reporting/latency.py", "reporting/style.py"),
    "references": library("reporting/references.py", "reporting/published.*"),
    "tables": library(
        "evaluation/uncertainty.py", "reporting/calibration.py", "reporting/tables.py"
    ),
    "figures": library(
        "reporting/calibration.py",
        "reporting/contributions.py",
        "reporting/figures.py",
        "reporting/gallery.py",
        "reporting/panels.py",
        "reporting/semantic_content.py",
        "reporting/style.py",
    ),
}
