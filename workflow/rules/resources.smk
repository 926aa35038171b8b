# Memory (mem_mb) and time (runtime, in minutes) of jobs, from the estimates in tgems/workflow_resources.py. Each
# function of a wildcards object estimates the jobs of some rules; `memory` and `minutes` make a resource of it, and
# ask for more at every further attempt of a job. Local runs ignore both, unless --resources sets a limit.

ESTIMATES = JobEstimates(config)


def memory(estimate):
    """Return the resource mem_mb of jobs: the estimate at the first attempt, twice as much at the second, and so on."""
    return lambda wildcards, attempt: attempt * estimate(wildcards).mem_mb


def minutes(estimate):
    """Return the resource runtime of jobs: the estimate at the first attempt, twice as much at the second, and so on."""
    return lambda wildcards, attempt: attempt * estimate(wildcards).runtime


def light(wildcards):
    """Estimate jobs that import no torch and take seconds or, with a large data set, some minutes."""
    return ESTIMATES.light(120)


def fetching(wildcards):
    """Estimate the download of a split of at most 10 GB at 1 MB per second."""
    return ESTIMATES.light(3600)


def reporting(wildcards):
    """Estimate jobs that read the tables of all evaluations."""
    return ESTIMATES.reporting()


def pretraining(wildcards):
    """Estimate the pretraining of a demo backbone, which takes an hour or two."""
    return ESTIMATES.demo_pretraining()


def counting(wildcards):
    """Estimate counting the MACs of a backbone and its exit modules."""
    return ESTIMATES.model(wildcards.backbone)


def speed(wildcards):
    """Estimate measuring the speed of a backbone."""
    options = config["latency"]
    return ESTIMATES.model(
        wildcards.backbone,
        120 + options["seconds"] * (1 + len(options["batch_sizes"])),
    )


def encoding_part(wildcards):
    """Estimate encoding the images of one of the parts of a split."""
    roles = [wildcards.split]
    share = 1 / int(wildcards.of)
    return ESTIMATES.encoding(
        wildcards.backbone, wildcards.dataset, roles, share, texts=False
    )


def encoding_split(wildcards):
    """Estimate encoding a split, or its texts if its images are encoded in parts."""
    shared = config["datasets"][wildcards.dataset]["jobs"][wildcards.split] > 1
    roles = [wildcards.split]
    return ESTIMATES.encoding(
        wildcards.backbone, wildcards.dataset, roles, share=0 if shared else 1
    )


def encoding_demo(wildcards):
    """Estimate encoding all splits of a demo data set."""
    roles = ["train"] if wildcards.dataset == TRAINED else []
    return ESTIMATES.encoding(
        wildcards.backbone, wildcards.dataset, [*roles, "validation", "test"]
    )


def training_heads(wildcards):
    """Estimate training the heads of one seed, and those that gates learn from."""
    return ESTIMATES.training(wildcards.backbone, wildcards.variant, "heads")


def training_lookahead(wildcards):
    """Estimate training the lookahead of image-guided gates for all seeds."""
    return ESTIMATES.training(wildcards.backbone, wildcards.variant, "lookahead")


def training_image_gates(wildcards):
    """Estimate training image-guided gates of one rate target for all seeds."""
    return ESTIMATES.training(wildcards.backbone, wildcards.variant, "image")


def training_bank_gates(wildcards):
    """Estimate training bank-guided gates of one seed."""
    return ESTIMATES.training(wildcards.backbone, wildcards.variant, "bank")


def training_gates(wildcards):
    """Estimate training gates that serve all rate targets, for all seeds."""
    return ESTIMATES.training(wildcards.backbone, wildcards.variant, wildcards.gates)


def training_joint(wildcards):
    """Estimate training heads and gates together for one guidance, rate target and seed."""
    return ESTIMATES.training(wildcards.backbone, wildcards.variant, "joint")


def fitting(wildcards):
    """Estimate fitting thresholds on the validation images of a data set."""
    return ESTIMATES.evaluation(
        wildcards.backbone, wildcards.variant, wildcards.dataset, "validation"
    )


def evaluating(wildcards):
    """Estimate the evaluation on the test images of a data set."""
    return ESTIMATES.evaluation(
        wildcards.backbone, wildcards.variant, wildcards.dataset, "test"
    )


def latency_threads(wildcards):
    """Return the number of threads with which speed is measured."""
    return config["latency"].get("threads") or os.cpu_count()


def require_latency_threads():
    """Refuse to measure speed on other machines, about whose cores this one knows nothing, with no number given."""
    measured = any(job.rule.name == "measure_latency" for job in workflow.dag.jobs)
    if measured and workflow.non_local_exec and "threads" not in config["latency"]:
        raise WorkflowError(
            "config: latency.threads is not set, and jobs do not run on this machine; say how many cores speed is "
            "measured on, such as --config 'latency={threads: 16}'"
        )
