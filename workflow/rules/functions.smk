# Input files and parameters of all stages, as functions of wildcards, and the code that a stage depends on.


def code_of(name):
    """Modules of tgems that a script imports, directly or not: a change of their text runs its jobs again."""
    script = Path(ROOT, "workflow/scripts", f"{name}.py")
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
    """Receipts of the jobs that share a split's shards; none where one job encodes them all."""
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


def gate_options(wildcards):
    """Options of gates that serve all rate targets and are trained for all seeds in one job."""
    variant = config["variants"][wildcards.variant]
    if wildcards.gates == "variance":
        return variant["bank_gates"]
    image = variant["image_gates"]
    chosen = variant["confidence_gates"] | {"hidden": image["hidden"]}
    if wildcards.gates == "router":
        return chosen | {"bank_size": image["bank_size"]}
    return chosen


def joint_options(wildcards):
    """Options of training heads and gates together: those of heads, and what the section `joint` adds."""
    variant = config["variants"][wildcards.variant]
    gates = variant[f"{wildcards.guidance}_gates"]
    chosen = {key: variant["image_gates"][key] for key in ("regularizer", "lambda")}
    return (
        variant["heads"] | variant["joint"] | chosen | {"gate_hidden": gates["hidden"]}
    )


def trained(wildcards):
    """Where the modules of a backbone and variant are, and how they are trained (tgems.evaluation.split.Trained)."""
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
    """Prompt files of all demo data sets, as clip_benchmark reads them; the configuration does not matter."""
    files = expand("<results>/data/{dataset}/dataset_type.txt", dataset=DEMO_DATASETS)
    zeroshot = [name for name in DEMO_DATASETS if name != "scenes"]
    names = ["classnames.txt", "zeroshot_classification_templates.txt"]
    return files + expand(
        "<results>/data/{dataset}/{name}", dataset=zeroshot, name=names
    )
