rule make_tables:
    input:
        **{part: evaluated(part) for part in TABLE_PARTS},
        macs=expand("<results>/profiling/{b}/{v}/macs.json", b=BACKBONES, v=VARIANTS),
        provenance=evaluated("provenance", "json"),
        code=code_of("make_tables"),
    output:
        [reported_table(name) for name in TABLES],
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
        reported_table("references"),
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
            subcategory=lambda wildcards: heading(wildcards.figure),
            labels=lambda wildcards: {"figure": title(wildcards.figure)},
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


rule plot_explorer:
    input:
        tradeoff="<results>/tables/tradeoff.csv",
        provenance="<results>/tables/provenance.json",
        code=code_of("plot_explorer") + OWN_POLICIES,
    output:
        report(
            "<results>/figures/explorer.html",
            caption="../report/explorer.rst",
            category=checked("Overview"),
            labels={"page": "Explorer of operating points"},
        ),
    log:
        "<logs>/plot_explorer.log",
    benchmark:
        "<benchmarks>/plot_explorer.tsv"
    threads: 1
    resources:
        mem_mb=memory(reporting),
        runtime=minutes(reporting),
    params:
        config=RECORDED,
    message:
        "Plot the explorer of operating points"
    script:
        "../scripts/plot_explorer.py"


rule write_overview:
    input:
        tables=expand(
            "<results>/tables/{table}.csv", table=["summary", "contributions", "wins"]
        ),
        figure="<results>/figures/tradeoff.png",
        provenance="<results>/tables/provenance.json",
        code=code_of("write_overview") + OWN_POLICIES,
    output:
        overview=report(
            "<results>/tables/overview.html",
            caption="../report/overview.rst",
            category=checked("Overview"),
            labels={"page": title("overview")},
        ),
        summary=report(
            "<results>/tables/summary.html",
            caption="../report/tables/summary.rst",
            category=checked("Overview"),
            labels={"page": title("summary")},
        ),
    log:
        "<logs>/write_overview.log",
    benchmark:
        "<benchmarks>/write_overview.tsv"
    threads: 1
    resources:
        mem_mb=memory(reporting),
        runtime=minutes(reporting),
    params:
        config=RECORDED,
    message:
        "Write the overview"
    script:
        "../scripts/write_overview.py"


rule report_latency:
    input:
        parts=expand("<results>/profiling/{backbone}/latency.csv", backbone=BACKBONES),
        code=code_of("report_latency"),
    output:
        csv=reported_table("latency"),
        other=multiext("<results>/tables/latency", ".md", ".tex"),
        pdf="<results>/figures/latency.pdf",
        png=report(
            "<results>/figures/latency.png",
            caption="../report/tables/latency.rst",
            category=checked("Figures"),
            subcategory=heading("latency"),
            labels={"figure": title("latency")},
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


rule report_pareto:
    input:
        **{part: evaluated(part) for part in ("tradeoff", "outcomes", "image_sources")},
        settings=validation_settings(),
        latency=LATENCY_PARTS,
        code=code_of("report_pareto") + OWN_POLICIES,
    output:
        pareto=reported_table("pareto"),
        budgets=reported_table("budgets"),
        other=expand(
            "<results>/tables/{table}.{ext}",
            table=["pareto", "budgets"],
            ext=["md", "tex"],
        ),
        pdf="<results>/figures/pareto.pdf",
        png=report(
            "<results>/figures/pareto.png",
            caption="../report/pareto.rst",
            category=checked("Figures"),
            subcategory=heading("pareto"),
            labels={"figure": title("pareto")},
        ),
    log:
        "<logs>/report_pareto.log",
    benchmark:
        "<benchmarks>/report_pareto.tsv"
    threads: 1
    resources:
        mem_mb=memory(reporting),
        runtime=minutes(reporting),
    params:
        config=RECORDED,
    message:
        "Compare early exit with its alternatives at the same cost"
    script:
        "../scripts/report_pareto.py"
