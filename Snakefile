from snakemake.utils import min_version

min_version("9.27")


# A configuration given by --configfile replaces the default instead of being merged into it.
if not workflow.configfiles:

    configfile: f"{workflow.basedir}/configs/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/functions.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/contents.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/backbones.smk"
include: "workflow/rules/profiling.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/exits.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/reporting.smk"


onstart:
    require_latency_threads()


localrules:
    all,
    fetch,
    figures,
    latency,
    pretrain,


rule all:
    default_target: True
    input:
        TABLE_FILES,
        FIGURE_FILES,
        LATENCY_FILES if config["latency"]["batch_sizes"] else [],


rule fetch:
    input:
        RECEIPTS,


rule figures:
    input:
        FIGURE_FILES,


rule latency:
    input:
        LATENCY_FILES,


rule pretrain:
    input:
        expand("<results>/backbones/{backbone}", backbone=PRETRAINED),
