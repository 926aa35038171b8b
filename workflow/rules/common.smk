import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir)))

from tgems.backbones.references import backbone_files
from tgems.config.reading import refuse_duplicate_keys
from tgems.config.training import LookaheadOptions
from tgems.data.dataset_entries import DEMO_DATASETS, evaluates_a_part
from tgems.errors import UserError
from tgems.exits.module_folders import job_folders
from tgems.import_closure import import_closure
from tgems.reporting.published import has_published
from tgems.reporting.run_record import require_results_of
from tgems.workflow_config import (
    at_rates,
    check_results_folder,
    complete_config,
    contenders,
    costs_of,
    promising,
    recorded_config,
    trained_gates,
)
from tgems.workflow_resources import JobEstimates

try:
    refuse_duplicate_keys(workflow.configfiles)
    config = complete_config(config)
    check_results_folder(config["results"])
except UserError as error:
    raise WorkflowError(str(error))

RESULTS = os.path.normpath(config["results"])


pathvars:
    results=RESULTS,
    logs=f"{RESULTS}/logs",
    benchmarks=f"{RESULTS}/benchmarks",


# Keep freed memory instead of returning it to the system; torch otherwise spends a tenth of CPU time in page faults.
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**33))
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
os.environ.setdefault("MALLOC_TOP_PAD_", str(2**26))

# Parts of the run.
ROOT = workflow.basedir
SEEDS = config["seeds"]
GPU = 1 if config["features"]["device"] == "cuda" else 0
RATES = {
    f"{rate:.2f}" for v in config["variants"].values() for rate in v["rate_targets"]
}
BACKBONES = list(config["backbones"])
DATASETS = list(config["datasets"])
TRAINED = config["training"]["dataset"]
REPORTED = [
    name for name in DATASETS if config["datasets"][name]["splits"]["test"] != "none"
]
VARIANTS = list(config["variants"])
GRIDS = sorted({v["summary"]["grid"] for v in config["variants"].values()} - {0})
GATES = trained_gates(config["policies"])
RECORDED = recorded_config(config)
OWN_POLICIES = [word.rpartition(":")[0] for word in config["policies"] if ":" in word]
DEMO = [name for name in DATASETS if config["datasets"][name]["source"] == "demo"]
RECEIPTS = [
    f"<results>/data/{name}/{role}.json"
    for name, entry in config["datasets"].items()
    for role, split in entry["splits"].items()
    if entry["source"] != "demo"
    and split != "none"
    and (role != "train" or name == TRAINED)
]
PRETRAINED = ["demo-vit-8", "demo-vit-12"]
RISK = promising(config)
PATHS = "<results>/evaluation/{backbone}/{variant}/{dataset}/paths.json"

# Tables that the rule make_tables writes, and the parts of them that each evaluation writes.
TABLE_PARTS = ["tradeoff", "wins", "areas", "contributions", "semantic_content"]
TABLE_PARTS += ["drift"]
TABLE_PARTS += ["risk"] if RISK else []
EVALUATION_PARTS = [*TABLE_PARTS, "exits", "gallery", "outcomes", "image_sources"]
TABLES = [*TABLE_PARTS, "flops", "summary"]
TABLES += ["ablations"] if len(VARIANTS) > 1 else []
TABLES += ["precision"] if config["features"]["precision"] != "float32" else []

# Figures that the rule plot_figure draws; some need T-GEMs, rate targets or validation images.
GATED = contenders(config["policies"])
COMPARED = config["evaluation"]["compared"]
OWN_THRESHOLDS = [
    name for name in COMPARED if "in_domain" in config["datasets"][name]["calibration"]
]
AT_RATES = at_rates(config["policies"])
FIGURES = ["tradeoff", "semantic_content"]
FIGURES += ["policies"] if AT_RATES else []
FIGURES += ["contributions"] if AT_RATES and OWN_THRESHOLDS else []
FIGURES += ["risk"] if RISK else []
FIGURES += ["rate_calibration"] if GATED or "margin" in config["policies"] else []
FIGURES += ["exit_histogram", "gallery"] if GATED else []

# Files that a run writes.
TABLE_FILES = expand(
    "<results>/tables/{table}.{ext}",
    table=[*TABLES, "pareto", "budgets"],
    ext=["csv", "md", "tex"],
)
TABLE_FILES += expand("<results>/tables/{page}.html", page=["overview", "summary"])
if has_published(config["backbones"], DATASETS):
    TABLE_FILES += multiext("<results>/tables/references", ".csv", ".md", ".tex")
FIGURE_FILES = expand(
    "<results>/figures/{figure}.{ext}", figure=FIGURES, ext=["pdf", "png"]
)
FIGURE_FILES += multiext(
    "<results>/figures/", "pareto.pdf", "pareto.png", "explorer.html"
)
LATENCY_PARTS = (
    expand("<results>/profiling/{backbone}/latency.csv", backbone=BACKBONES)
    if config["latency"]["batch_sizes"]
    else []
)
LATENCY_FILES = multiext("<results>/tables/latency", ".csv", ".md", ".tex") + multiext(
    "<results>/figures/latency", ".pdf", ".png"
)


# Splits of a demo data set are small: one job encodes them all, instead of importing the libraries for each.
TOGETHER = [
    name
    for name in DEMO
    if "none" not in config["datasets"][name]["splits"].values()
    and max(config["datasets"][name]["jobs"].values()) == 1
]


def one_of(names):
    """Return the pattern of a wildcard that matches the given names; without names it matches no target."""
    return "|".join(names) or "no such name"


wildcard_constraints:
    backbone="|".join(BACKBONES + PRETRAINED),
    variant="|".join(VARIANTS),
    dataset="|".join(DATASETS + ["scenes"]),
    guidance="image|bank",
    gates="confidence|variance|router",
    part="[0-9]+",
    of="[0-9]+",
    split="backbone|train|validation|test",
    seed="|".join(str(seed) for seed in SEEDS),
    rate="|".join(sorted(RATES)),
    figure="|".join(FIGURES),
