rule make_tables:
    input:
        **{part: evaluated(part) for part in TABLE_PARTS},
        macs=expand("<results>/profiling/{b}/{v}/macs.json", b=BACKBONES, v=VARIANTS),
        provenance=evaluated("provenance", "json"),
        code=code_of("make_tables"),
    output:
        report(
            expand("<results>/tables/{table}.csv", table=TABLES),
            caption="../report/tables.rst",
            category=checked("Tables"),
        ),
        expand("<results>/tables/{table}.{ext}", table=TABLES, ext=["md", "tex"]),
        provenance="<results>/tables/provenance.json",
    log:
        "<logs>/make_tables.log",
    benchmark:
        "<benchmarks>/make_tables.tsv"
    threads: 1
    resources:
        mem_mb=memory(reporting),
        runtime=minutes(reporting),
    params:
        parts=TABLE_PARTS,
        config=RECORDED,
    message:
        "Write the tables"
    script:
        "../scripts/make_tables.py"


rule check_references:
    input:
        tradeoff="<results>/tables/tradeoff.csv",
        code=code_of("check_references"),
    output:
        report(
            "<results>/tables/references.csv",
            caption="../report/references.rst",
            category=checked("Tables"),
        ),
        multiext("<results>/tables/references", ".md", ".tex"),
    log:
        "<logs>/check_references.log",
    benchmark:
        "<benchmarks>/check_references.tsv"
    threads: 1
    resources:
        mem_mb=memory(light),
        runtime=minutes(light),
    params:
        backbones=lookup(within=config, dpath="backbones"),
        parts=[n for n in REPORTED if evaluates_a_part(config["datasets"][n])],
    message:
        "Check the full encoders against published results"
    script:
        "../scripts/check_references.py"


rule plot_figure:
    input:
        tables=expand("<results>/tables/{table}.csv", table=TABLES),
        exits=evaluated("exits"),
        gallery=evaluated("gallery"),
        provenance="<results>/tables/provenance.json",
        code=code_of("plot_figure") + OWN_POLICIES,
    output:
        pdf="<results>/figures/{figure}.pdf",
        png=report(
            "<results>/figures/{figure}.png",
            caption="../report/figures.rst",
            category=checked("Figures"),
        ),
    log:
        "<logs>/plot_figure/{figure}.log",
    benchmark:
        "<benchmarks>/plot_figure/{figure}.tsv"
    threads: 1
    resources:
        mem_mb=memory(reporting),
        runtime=minutes(reporting),
    params:
        variant=VARIANTS[0],
        config=RECORDED,
    message:
        "Plot {wildcards.figure}"
    script:
        "../scripts/plot_figure.py"


rule report_latency:
    input:
        parts=expand("<results>/profiling/{backbone}/latency.csv", backbone=BACKBONES),
        code=code_of("report_latency"),
    output:
        csv=report(
            "<results>/tables/latency.csv",
            caption="../report/latency.rst",
            category=checked("Tables"),
        ),
        other=multiext("<results>/tables/latency", ".md", ".tex"),
        pdf="<results>/figures/latency.pdf",
        png=report(
            "<results>/figures/latency.png",
            caption="../report/latency.rst",
            category=checked("Figures"),
        ),
    log:
        "<logs>/report_latency.log",
    benchmark:
        "<benchmarks>/report_latency.tsv"
    threads: 1
    resources:
        mem_mb=memory(light),
        runtime=minutes(light),
    message:
        "Write the table and plot the figure of measured speed"
    script:
        "../scripts/report_latency.py"
