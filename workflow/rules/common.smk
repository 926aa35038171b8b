import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir)))

from tgems.backbones.config import backbone_files
from tgems.config.reading import refuse_duplicate_keys
from tgems.config.training import LookaheadOptions
from tgems.errors import UserError
from tgems.exits.names import job_folders
from tgems.import_closure import import_closure
from tgems.reporting.published import has_published
from tgems.reporting.run_record import require_results_of
from tgems.run_config import complete_config, costs_of, recorded_config, trained_gates

try:
    refuse_duplicate_keys(workflow.configfiles)
    config = complete_config(config)
except UserError as error:
    raise WorkflowError(str(error))

RESULTS = os.path.normpath(config["results"])


pathvars:
    results=RESULTS,
    logs=f"{RESULTS}/logs",
    benchmarks=f"{RESULTS}/benchmarks",


# Jobs keep freed memory instead of giving it back: torch on CPU otherwise spends a tenth of its time in page faults.
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**33))
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
os.environ.setdefault("MALLOC_TOP_PAD_", str(2**26))

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
    for role, where in entry["splits"].items()
    if entry["source"] != "demo"
    and where != "none"
    and (role != "train" or name == TRAINED)
]
PRETRAINED = ["demo-vit-8", "demo-vit-12"]
TABLES = ["tradeoff", "flops", "semantic_content", "summary", "wins", "areas"]
TABLES += ["contributions"]
TABLES += ["ablations"] if len(VARIANTS) > 1 else []
TABLES += ["precision"] if config["features"]["precision"] != "float32" else []
GATED = [name for name in config["policies"] if name in ("tgem", "tgem_bank")]
FIGURES = ["tradeoff", "semantic_content"]
COMPARED = config["evaluation"]["compared"]
OWN_THRESHOLDS = [
    name for name in COMPARED if "in_domain" in config["datasets"][name]["calibration"]
]
FIGURES += ["contributions"] if OWN_THRESHOLDS else []
FIGURES += ["rate_calibration"] if GATED or "margin" in config["policies"] else []
FIGURES += ["exit_histogram", "gallery"] if GATED else []
TABLE_PARTS = ["tradeoff", "wins", "areas", "contributions", "semantic_content"]
EVALUATION_PARTS = [*TABLE_PARTS, "exits", "gallery"]
TABLE_FILES = expand(
    "<results>/tables/{table}.{ext}", table=TABLES, ext=["csv", "md", "tex"]
)
if has_published(config["backbones"], DATASETS):
    TABLE_FILES += multiext("<results>/tables/references", ".csv", ".md", ".tex")
FIGURE_FILES = expand(
    "<results>/figures/{figure}.{ext}", figure=FIGURES, ext=["pdf", "png"]
)
LATENCY_FILES = multiext("<results>/tables/latency", ".csv", ".md", ".tex") + multiext(
    "<results>/figures/latency", ".pdf", ".png"
)


# Splits of a demo data set are small: one job encodes them all, which saves importing the libraries for each.
TOGETHER = [
    name
    for name in DEMO
    if "none" not in config["datasets"][name]["splits"].values()
    and max(config["datasets"][name]["jobs"].values()) == 1
]


def code_of(rule):
    """Modules of tgems that the script of a rule imports, directly or not: a change of their text reruns the rule."""
    script = Path(ROOT, "workflow/scripts", f"{rule}.py")
    return [os.path.relpath(path) for path in import_closure(script)]


def checked(category):
    """Category of a result in the report, which is refused for results of another configuration."""

    def of(wildcards):
        try:
            require_results_of(RECORDED, Path(RESULTS, "tables/provenance.json"))
        except UserError as error:
            raise WorkflowError(str(error))
        return category

    return of


def one_of(names):
    """Pattern of a wildcard that is one of some names; nothing if there are none."""
    return "|".join(names) or "no such name"


wildcard_constraints:
    backbone="|".join(BACKBONES + PRETRAINED),
    variant="|".join(VARIANTS),
    dataset="|".join(DATASETS + ["scenes"]),
    guidance="image|bank",
    part="[0-9]+",
    of="[0-9]+",
    split="backbone|train|validation|test",
    seed="|".join(str(seed) for seed in SEEDS),
    rate="|".join(sorted(RATES)),
    figure="|".join(FIGURES),


def split_files(wildcards):
    """A split's folder of shards, generated for the demo, or the receipt of one that was fetched."""
    role = getattr(wildcards, "split", "test")
    demo = config["datasets"][wildcards.dataset]["source"] == "demo"
    return f"<results>/data/{wildcards.dataset}/{role}" + ("" if demo else ".json")


def split_source(wildcards):
    """What a split is fetched from."""
    dataset = config["datasets"][wildcards.dataset]
    known = {k: dataset.get(k) for k in ("source", "task", "root", "revision")}
    return known | {
        "where": dataset["splits"].get(wildcards.split, wildcards.split),
        "dataset": wildcards.dataset,
        "split": wildcards.split,
    }


def local_files(wildcards):
    """Shards that lie in a folder already: changed ones are digested anew. What is missing, the job says."""
    scheme, _, folder = config["datasets"][wildcards.dataset]["source"].partition(":")
    where = split_source(wildcards)["where"].partition("[")[0]
    if scheme not in ("wds", "tars"):
        return []
    return sorted(str(path) for path in Path(folder, where).glob("*.tar"))


def prompt_files(wildcards):
    """Files of a demo set that say which texts there are; a receipt lists those of other sets."""
    dataset = config["datasets"][wildcards.dataset]
    names = ["dataset_type.txt"]
    if dataset["task"] == "zeroshot_classification":
        names = ["classnames.txt", "zeroshot_classification_templates.txt"]
    demo = dataset["source"] == "demo"
    return [f"<results>/data/{wildcards.dataset}/{name}" for name in names if demo]


def architecture_file(wildcards):
    """File that a backbone's architecture comes from; none where open_clip knows it."""
    return [f for f in weight_files(wildcards) if f.endswith("open_clip_config.json")]


def weight_files(wildcards):
    """Files that a backbone comes from; none where open_clip downloads them."""
    return backbone_files(config["backbones"][wildcards.backbone])


def encoding(wildcards):
    """Everything about encoding that changes a byte of the features; scripts read the rest from `snakemake.config`."""
    kept = {key: config["features"][key] for key in ("dtype", "precision")}
    bad = config["datasets"][wildcards.dataset]["on_bad_sample"]
    return kept | {"on_bad_sample": bad, "grids": GRIDS}


def backbone_entry(wildcards):
    """What a backbone's results depend on: its entry, but for words on where its weights come from."""
    entry = config["backbones"][wildcards.backbone]
    return {key: value for key, value in entry.items() if key != "source"}


def encoded_parts(wildcards):
    """Receipts of the jobs that a split's shards are dealt to; none where one job does all."""
    of = config["datasets"][wildcards.dataset]["jobs"][wildcards.split]
    folder = f"<results>/features/{wildcards.backbone}/{wildcards.dataset}/{wildcards.split}.shards"
    return [f"{folder}/part-{i}-of-{of}.json" for i in range(of)] if of > 1 else []


def training_features():
    """Pattern of the training features."""
    return f"<results>/features/{{backbone}}/{TRAINED}/train"


def trained_exits(wildcards):
    """Where images of the training data set left: the histogram that speed is measured at; none where it is drawn."""
    if config["latency"]["exits"] == "drawn":
        return []
    dataset = TRAINED if TRAINED in REPORTED else REPORTED[0]
    folder = f"<results>/evaluation/{wildcards.backbone}/{VARIANTS[0]}/{dataset}"
    return [f"{folder}/exits.parquet"]


def each_seed(folder, mark=str):
    """Folders of one kind of module, one per seed."""
    root = "<results>/exits/{backbone}/{variant}"
    return [mark(f"{root}/{folder}/seed-{seed}") for seed in SEEDS]


def module_sizes(wildcards):
    """What the costs of a variant's modules depend on."""
    variant = config["variants"][wildcards.variant]
    hidden = {
        name: {"hidden": variant[name]["hidden"]}
        for name in ("heads", "image_gates", "bank_gates")
    }
    scheme = {"training": {"scheme": variant["training"]["scheme"]}}
    own = {"exits": variant["exits"], "summary": variant["summary"]}
    return own | scheme | hidden


def unchecked_targets(wildcards):
    """The lowest rate target, for the count to check, where no closed form has; none else, so that more count nothing."""
    if costs_of(config, wildcards.backbone, wildcards.variant) is not None:
        return []
    return [min(config["variants"][wildcards.variant]["rate_targets"])]


def lookahead_options(wildcards):
    """Options of the image-guided gates that their lookahead depends on."""
    options = config["variants"][wildcards.variant]["image_gates"]
    return {key: options[key] for key in LookaheadOptions.model_fields}


def hidden_widths(wildcards):
    """Hidden widths of the modules that speed is measured with."""
    variant = config["variants"][VARIANTS[0]]
    return {name: variant[name]["hidden"] for name in ("heads", "image_gates")}


def query_bank_options(wildcards):
    """What the query bank is chosen from; None where texts are not normalised by one."""
    return config["query_bank"] if training_captions(wildcards) else None


def confidence_options(wildcards):
    """Options of the confidence gates; they are as wide as the image-guided ones."""
    variant = config["variants"][wildcards.variant]
    return variant["confidence_gates"] | {"hidden": variant["image_gates"]["hidden"]}


def joint_options(wildcards):
    """Options of training heads and gates together: those of heads, and what the section `joint` adds."""
    variant = config["variants"][wildcards.variant]
    gates = variant[f"{wildcards.guidance}_gates"]
    chosen = {key: variant["image_gates"][key] for key in ("regularizer", "lambda")}
    return (
        variant["heads"] | variant["joint"] | chosen | {"gate_hidden": gates["hidden"]}
    )


def trained(wildcards):
    """Where the modules of a backbone and variant are, and how they are trained (tgems.evaluation.inputs.Trained)."""
    variant = config["variants"][wildcards.variant]
    return {
        "exits": f"{RESULTS}/exits/{wildcards.backbone}/{wildcards.variant}",
        "seeds": SEEDS,
        "rate_targets": variant["rate_targets"],
        "gates": GATES,
        "scheme": variant["training"]["scheme"],
    }


def trained_modules(wildcards):
    """Folders of every head and gate of a backbone and variant."""
    modules = trained(wildcards)
    root, seeds = modules.pop("exits"), modules.pop("seeds")
    return [f"{root}/{f}" for seed in seeds for f in job_folders(seed, **modules)]


def training_captions(wildcards):
    """Features whose captions the query bank is drawn from; none where texts are not normalised by it."""
    retrieval = config["datasets"][wildcards.dataset]["task"] == "zeroshot_retrieval"
    wanted = retrieval and "querybank" in config["score_normalisation"]
    folder = f"<results>/features/{wildcards.backbone}/{TRAINED}/train"
    return [folder] if wanted else []


def threshold_files(wildcards):
    """Fitted thresholds by calibration: the data set's own, and those of the training domain."""
    wanted = config["datasets"][wildcards.dataset]["calibration"]
    origin = {"in_domain": wildcards.dataset, "transfer": TRAINED}
    if wildcards.dataset == TRAINED:
        wanted = ["in_domain"]
    root = f"<results>/evaluation/{wildcards.backbone}/{wildcards.variant}"
    return {
        name: f"{root}/{origin[name]}/thresholds.json"
        for name in origin
        if name in wanted
    }


def validation_curves(wildcards):
    """Curves that competitors are picked on: the data set's own, or those of the training domain where it has none."""
    first = next(iter(threshold_files(wildcards).values()))
    return first.replace("thresholds.json", "validation_curves.parquet")


def evaluated(part, extension="parquet"):
    """One part of every evaluation."""
    return expand(
        f"<results>/evaluation/{{b}}/{{v}}/{{d}}/{part}.{extension}",
        b=BACKBONES,
        v=VARIANTS,
        d=REPORTED,
    )


def demo_prompt_files():
    """Prompt files of the demo data sets, as clip_benchmark reads them."""
    files = expand("<results>/data/{dataset}/dataset_type.txt", dataset=DEMO)
    zeroshot = [name for name in DEMO if name != "scenes"]
    names = ["classnames.txt", "zeroshot_classification_templates.txt"]
    return files + expand(
        "<results>/data/{dataset}/{name}", dataset=zeroshot, name=names
    )
