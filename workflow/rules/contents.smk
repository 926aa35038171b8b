# Names of tables and figures in the report, and the headings under which it lists them. Captions are in workflow/report.

RESULT, EXITS, RATES, COST = "Results", "Exits", "Rates", "Costs and speed"
CONTENTS = {
    "overview": ("Overview", RESULT),
    "summary": ("Summary", RESULT),
    "tradeoff": ("Quality over computation", RESULT),
    "policies": ("All policies", RESULT),
    "pareto": ("Early exit and its alternatives", RESULT),
    "budgets": ("The best within a budget", RESULT),
    "contributions": ("What each part adds", RESULT),
    "wins": ("Comparisons of the T-GEMs", RESULT),
    "areas": ("Areas under the curves", RESULT),
    "ablations": ("Variants", RESULT),
    "references": ("Full encoders beside published values", RESULT),
    "semantic_content": ("Quality after each block", EXITS),
    "exit_histogram": ("Where images leave", EXITS),
    "gallery": ("Images by exit", EXITS),
    "rate_calibration": ("Realised rates", RATES),
    "drift": ("Rates of streams", RATES),
    "risk": ("Promises of quality", RATES),
    "flops": ("Cost of each exit", COST),
    "latency": ("Measured speed", COST),
    "precision": ("What autocast changes", COST),
}


def title(name):
    """Return what the report calls a table or figure."""
    return CONTENTS.get(name, (name.replace("_", " ").capitalize(),))[0]


def heading(name):
    """Return the subcategory of a table or figure."""
    return CONTENTS.get(name, (None, RESULT))[1]


def reported_table(name, caption=None):
    """Mark a table for the report, with a caption of its own."""
    return report(
        f"<results>/tables/{name}.csv",
        caption=caption or f"../report/tables/{name}.rst",
        category=checked("Tables"),
        subcategory=heading(name),
        labels={"table": title(name)},
    )
