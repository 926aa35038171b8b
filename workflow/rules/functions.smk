# Input files and parameters of all stages as functions of wildcards, and the code that a stage depends on.


def code_of(name):
    """Return the modules of tgems that a script imports, directly or not; its jobs run again when they change."""
    script = Path(ROOT, "workflow/scripts", f"{name}.py")
    return [os.path.relpath(path) for path in import_closure(script)]


def checked(category):
    """Return the report category of a result; a report on results of another configuration is refused."""

    def of(wildcards):
        try:
            require_results_of(RECORDED, Path(RESULTS, "tables/provenance.json"))
        except UserError as error:
            raise WorkflowError(str(error))
        return category

    return of


def split_files(wildcards):
    """Return the folder of a generated split of the demo, or the receipt of a split that was fetched."""
    role = getattr(wildcards, "split", "test")
    demo = config["datasets"][wildcards.dataset]["source"] == "demo"
    return f"<results>/data/{wildcards.dataset}/{role}" + ("" if demo else ".json")


def split_source(wildcards):
    """Return the arguments of `fetch_split` for a split."""
    dataset = config["datasets"][wildcards.dataset]
    known = {k: dataset.get(k) for k in ("source", "task", "root", "revision")}
    return known | {
        "where": dataset["splits"].get(wildcards.split, wildcards.split),
        "dataset": wildcards.dataset,
        "split": wildcards.split,
    }


def local_files(wildcards):
    """List the shards in a local folder, so that changed ones are digested again. The job reports missing shards."""
    scheme, _, folder = config["datasets"][wildcards.dataset]["source"].partition(":")
    where = split_source(wildcards)["where"].partition("[")[0]
    if scheme not in ("wds", "tars"):
        return []
    return sorted(str(path) for path in Path(folder, where).glob("*.tar"))


def prompt_files(wildcards):
    """List the files of a demo set that define its texts; those of other data sets are in the receipt."""
    dataset = config["datasets"][wildcards.dataset]
    names = ["dataset_type.txt"]
    if dataset["task"] == "zeroshot_classification":
        names = ["classnames.txt", "zeroshot_classification_templates.txt"]
    demo = dataset["source"] == "demo"
    return [f"<results>/data/{wildcards.dataset}/{name}" for name in names if demo]


def architecture_file(wildcards):
    """List the file that defines a backbone's architecture; none if it is one of open_clip's."""
    return [f for f in weight_files(wildcards) if f.endswith("open_clip_config.json")]


def weight_files(wildcards):
    """List the files of a backbone; none if open_clip downloads them."""
    return backbone_files(config["backbones"][wildcards.backbone])


def encoding(wildcards):
    """Return the encoding options on which features depend; scripts read the others from `snakemake.config`."""
    kept = {key: config["features"][key] for key in ("dtype", "precision")}
    bad = config["datasets"][wildcards.dataset]["on_bad_sample"]
    return kept | {"on_bad_sample": bad, "grids": GRIDS}


def backbone_entry(wildcards):
    """Return the keys of a backbone's entry on which results depend, that is, all but `source`."""
    entry = config["backbones"][wildcards.backbone]
    return {key: value for key, value in entry.items() if key != "source"}


def encoded_parts(wildcards):
    """List the receipts of the jobs that share a split's shards; none if one job encodes them all."""
    of = config["datasets"][wildcards.dataset]["jobs"][wildcards.split]
    folder = f"<results>/features/{wildcards.backbone}/{wildcards.dataset}/{wildcards.split}.shards"
    return [f"{folder}/part-{i}-of-{of}.json" for i in range(of)] if of > 1 else []


def training_features():
    """Return the pattern of the training features."""
    return f"<results>/features/{{backbone}}/{TRAINED}/train"


def trained_exits(wildcards):
    """List the file of the exits taken on the training data set, at which speed is measured; none if they are drawn."""
    if config["latency"]["exits"] == "drawn":
        return []
    dataset = TRAINED if TRAINED in REPORTED else REPORTED[0]
    folder = f"<results>/evaluation/{wildcards.backbone}/{VARIANTS[0]}/{dataset}"
    return [f"{folder}/exits.parquet"]


def measured_policies(wildcards):
    """List, for measuring the speed of further policies, the exits taken on every data set and their thresholds."""
    files = {"taken": [], "thresholds": []}
    for dataset in REPORTED if config["latency"]["policies"] else []:
        folder = f"<results>/evaluation/{wildcards.backbone}/{VARIANTS[0]}/{dataset}"
        files["taken"].append(f"{folder}/exits.parquet")
        files["thresholds"].append(
            folder.removesuffix(dataset) + f"{thresholds_of(dataset)}/thresholds.json"
        )
    return files


def each_seed(folder, mark=str):
    """Return the folders of one kind of module, one per seed."""
    root = "<results>/exits/{backbone}/{variant}"
    return [mark(f"{root}/{folder}/seed-{seed}") for seed in SEEDS]


def module_sizes(wildcards):
    """Return the options of a variant on which the costs of its modules depend."""
    variant = config["variants"][wildcards.variant]
    hidden = {
        name: {"hidden": variant[name]["hidden"]}
        for name in ("heads", "image_gates", "bank_gates")
    }
    scheme = {"training": {"scheme": variant["training"]["scheme"]}}
    layout = {"exits": variant["exits"], "summary": variant["summary"]}
    return layout | scheme | hidden


def unchecked_targets(wildcards):
    """Return the lowest rate target if it is not checked yet, for lack of a closed form; none else.

    With only the lowest one, adding rate targets does not count MACs again.
    """
    if costs_of(config, wildcards.backbone, wildcards.variant) is not None:
        return []
    return [min(config["variants"][wildcards.variant]["rate_targets"])]


def lookahead_options(wildcards):
    """Return the options of the image-guided gates on which their lookahead depends."""
    options = config["variants"][wildcards.variant]["image_gates"]
    return {key: options[key] for key in LookaheadOptions.model_fields}


def hidden_widths(wildcards):
    """Return the hidden widths of the modules with which speed is measured."""
    variant = config["variants"][VARIANTS[0]]
    return {
        name: variant[name]["hidden"] for name in ("heads", "image_gates", "bank_gates")
    }


def query_bank_options(wildcards):
    """Return the options that the query bank is chosen from; None without query-bank normalisation."""
    return config["query_bank"] if training_captions(wildcards) else None


def gate_options(wildcards):
    """Return the options of gates that serve all rate targets and are trained for all seeds in one job."""
    variant = config["variants"][wildcards.variant]
    if wildcards.gates == "variance":
        return variant["bank_gates"]
    image = variant["image_gates"]
    chosen = variant["confidence_gates"] | {"hidden": image["hidden"]}
    if wildcards.gates == "router":
        return chosen | {"bank_size": image["bank_size"]}
    return chosen


def joint_options(wildcards):
    """Return the options of joint training: those of the heads, updated with the section `joint`, and of the gates."""
    variant = config["variants"][wildcards.variant]
    gates = variant[f"{wildcards.guidance}_gates"]
    chosen = {key: variant["image_gates"][key] for key in ("regularizer", "lambda")}
    return (
        variant["heads"] | variant["joint"] | chosen | {"gate_hidden": gates["hidden"]}
    )


def trained(wildcards):
    """Return the fields of `tgems.evaluation.split.Trained`: where modules are, and how they are trained."""
    variant = config["variants"][wildcards.variant]
    return {
        "exits": f"{RESULTS}/exits/{wildcards.backbone}/{wildcards.variant}",
        "seeds": SEEDS,
        "rate_targets": variant["rate_targets"],
        "gates": GATES,
        "scheme": variant["training"]["scheme"],
    }


def trained_modules(wildcards):
    """Return the folders of all heads and gates of a backbone and variant."""
    modules = trained(wildcards)
    root, seeds = modules.pop("exits"), modules.pop("seeds")
    return [f"{root}/{f}" for seed in seeds for f in job_folders(seed, **modules)]


def training_captions(wildcards):
    """List the features whose captions the query bank is drawn from; none without query-bank normalisation."""
    task = config["datasets"][wildcards.dataset]["task"]
    retrieval = task != "zeroshot_classification"
    wanted = retrieval and "querybank" in config["score_normalisation"]
    folder = f"<results>/features/{wildcards.backbone}/{TRAINED}/train"
    return [folder] if wanted else []


def threshold_files(wildcards):
    """Return the files of thresholds by calibration; `online` starts with those of the training data set."""
    wanted = config["datasets"][wildcards.dataset]["calibration"]
    origin = {"in_domain": wildcards.dataset, "transfer": TRAINED, "online": TRAINED}
    if wildcards.dataset == TRAINED:
        wanted = ["in_domain", *(c for c in wanted if c == "online")]
    root = f"<results>/evaluation/{wildcards.backbone}/{wildcards.variant}"
    return {
        name: f"{root}/{origin[name]}/thresholds.json"
        for name in origin
        if name in wanted
    }


def thresholds_of(dataset):
    """Return the data set whose validation images give the thresholds for comparisons on a data set."""
    own = "in_domain" in config["datasets"][dataset]["calibration"]
    return dataset if own else TRAINED


def path_files(wildcards):
    """Return the paths of operating points among which quality is promised; none for transferred thresholds."""
    return (
        {"paths": PATHS} if RISK and "in_domain" in threshold_files(wildcards) else {}
    )


def validation_curves(wildcards):
    """Return the validation curves for picking opponents: the data set's, or else the training data set's."""
    first = next(iter(threshold_files(wildcards).values()))
    return first.replace("thresholds.json", "validation_curves.parquet")


def evaluated(part, extension="parquet"):
    """Return the files of one part of all evaluations."""
    return expand(
        f"<results>/evaluation/{{b}}/{{v}}/{{d}}/{part}.{extension}",
        b=BACKBONES,
        v=VARIANTS,
        d=REPORTED,
    )


def validation_settings():
    """Return the mean outcomes on validation images, of all data sets that have some."""
    own = [name for name in REPORTED if thresholds_of(name) == name]
    return expand(
        "<results>/evaluation/{b}/{v}/{d}/validation_settings.parquet",
        b=BACKBONES,
        v=VARIANTS,
        d=own,
    )


def demo_prompt_files():
    """Return the prompt files of all demo data sets, whichever of them the configuration uses."""
    files = expand("<results>/data/{dataset}/dataset_type.txt", dataset=DEMO_DATASETS)
    zeroshot = [name for name in DEMO_DATASETS if name != "scenes"]
    names = ["classnames.txt", "zeroshot_classification_templates.txt"]
    return files + expand(
        "<results>/data/{dataset}/{name}", dataset=zeroshot, name=names
    )
