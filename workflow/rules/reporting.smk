rule make_tables:
    input:
        tradeoff=expand(
            "results/evaluation/{b}/{d}/tradeoff.parquet", b=BACKBONES, d=DATASETS
        ),
        semantic_content=expand(
            "results/evaluation/{b}/{d}/semantic_content.parquet",
            b=BACKBONES,
            d=DATASETS,
        ),
        macs=expand("results/profiling/{b}/macs.json", b=BACKBONES),
        provenance=expand(
            "results/evaluation/{b}/{d}/provenance.json", b=BACKBONES, d=DATASETS
        ),
        code=CODE["tables"],
    output:
        report(
            expand("results/tables/{table}.csv", table=TABLES),
            caption="../report/tables.rst",
            category="Tables",
        ),
        expand("results/tables/{table}.{ext}", table=TABLES, ext=["md", "tex"]),
        provenance="results/tables/provenance.json",
    log:
        "logs/make_tables.log",
    benchmark:
        "benchmarks/make_tables.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        backbones=BACKBONES,
        config=config,
    message:
        "Write the tables"
    script:
        "../scripts/make_tables.py"


rule plot_figure:
    input:
        tables=expand("results/tables/{table}.csv", table=TABLES),
        exits=expand(
            "results/evaluation/{b}/{d}/exits.parquet", b=BACKBONES, d=DATASETS
        ),
        galleries=expand(
            "results/evaluation/{b}/{d}/gallery.parquet", b=BACKBONES, d=DATASETS
        ),
        code=CODE["figures"],
    output:
        pdf="results/figures/{figure}.pdf",
        png=report(
            "results/figures/{figure}.png",
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        "logs/plot_figure/{figure}.log",
    benchmark:
        "benchmarks/plot_figure/{figure}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    message:
        "Plot {wildcards.figure}"
    script:
        "../scripts/plot_figure.py"
