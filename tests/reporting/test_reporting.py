import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import DEMO, variant
from PIL import Image

from tgems.backbones.references import model_config
from tgems.config.run import ALL_POLICIES
from tgems.costs.closed_form import encoder_cost
from tgems.costs.exit_costs import module_costs
from tgems.costs.saved_costs import write_costs
from tgems.evaluation.tradeoff import COLUMNS
from tgems.reporting.figures import FIGURES, plot_figure
from tgems.reporting.tables import ablations, decide, make_tables, summary, write_table

ENDS = (("low", -0.02), ("high", 0.02))
DATASETS = {"digits": ["acc1"], "scenes": ["text_retrieval_recall@1", "image_retrieval_recall@1"]}


def points(dataset: str) -> pd.DataFrame:
    """A made-up part of the table `tradeoff` with two seeds and their mean."""
    rows = []
    for metric in DATASETS[dataset]:
        common = {"backbone": "demo", "variant": "default", "dataset": dataset, "metric": metric, "gmacs": 0.1}
        common["score_normalisation"] = "none"
        rows.append(common | {"policy": "full", "rate": 1.0, "value": 0.9})
        for seed in ("0", "1", "mean"):
            rows += [
                common | {"policy": "fixed", "exit_block": b, "rate": b / 8, "value": b / 10, "seed": seed}
                for b in range(1, 8)
            ]
            for policy in ("tgem", "tgem_bank", "margin"):
                for rate in (0.45, 0.75):
                    own = {"rate_target": rate, "rate": rate - 0.01, "rate_validation": rate - 0.002, "threshold": 0.1}
                    own |= {"calibration": "in_domain", "seed": seed, "value": rate + 0.02 * (seed == "0")}
                    rows.append(common | own | {"policy": policy})
                    twin = {"policy": "shuffled", "twin_of": policy, "threshold": None, "value": rate - 0.1}
                    rows.append(common | own | twin)
    frame = pd.DataFrame(rows).reindex(columns=COLUMNS)
    for column in ("", "rate_"):
        base = frame["rate" if column else "value"]
        frame[f"{column}ci_low"], frame[f"{column}ci_high"] = base - 0.02, base + 0.02
    return frame.astype({"seed": "string"})


def png() -> bytes:
    """A small image."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with made-up parts and the tables made from them."""
    root = tmp_path_factory.mktemp("reporting")
    cfg = model_config(DEMO)
    costs = module_costs(cfg, variant(16, 8))
    rest = {"normalisation": [1] * 8, "closed_form": list(costs.encoder), "parameters": [10] * 8}
    macs = root / "demo/default/macs.json"
    write_costs(macs, costs, rest)
    kinds = ("tradeoff", "semantic_content", "exits", "gallery", "wins", "areas", "contributions", "risk")
    parts = {name: [] for name in kinds}

    def keep(name: str, dataset: str, records) -> None:
        frame = pd.DataFrame(records) if isinstance(records, list) else records
        path = root / f"{dataset}-{name}.parquet"
        frame.assign(variant="default").to_parquet(path)
        parts[name].append(str(path))

    for dataset, metrics in DATASETS.items():
        about = {"backbone": "demo", "dataset": dataset}
        keep("tradeoff", dataset, points(dataset))
        shown = [("all", "all"), ("difficulty", "clean"), ("difficulty", "hard")]
        keep("semantic_content", dataset, [
            about | {"exit_block": b, "head": h, "metric": m, "attribute": attribute, "group": group, "n": 5}
            | {"value": b / 9, "ci_low": b / 9, "ci_high": b / 9, "earliest_share": b / 8.5}
            for m in metrics for h in ("raw", "trained") for attribute, group in shown for b in range(1, 9)
        ])  # fmt: skip
        keep("exits", dataset, [
            about | {"policy": p, "calibration": "in_domain", "rate_target": r, "seed": s, "exit_block": b, "share": 1}
            for p in ("tgem", "tgem_bank") for r in (0.45, 0.75) for s in (0, 1) for b in range(1, 9)
        ])  # fmt: skip
        own = about | {"policy": "tgem_bank", "rate_target": 0.45, "image": png(), "text": "a red seven"}
        keep("gallery", dataset, [own | {"exit_block": b, "key": str(b), "difficulty": 0.2} for b in (1, 2, 5, 8)])
        contest = about | {
            "metric": metrics[0],
            "policy": "tgem",
            "calibration": "in_domain",
            "against": "best",
            "competitor": "fixed",
            "rate": 0.44,
        }
        differences = ((0.3, 0.1, 1e-4, 0.02), (0.45, -0.1, 1e-4, 0.02), (0.6, 0.001, 0.4, 0.005))
        differences += ((0.75, 0.001, 0.4, 0.05), (0.9, np.nan, np.nan, np.nan))
        keep("wins", dataset, [
            contest | {"rate_target": r, "difference": d, "p": p}
            | {f"{ci}_{end}": d + sign * half for ci in ("ci", "method_ci") for end, sign in (("low", -1), ("high", 1))}
            for r, d, p, half in differences
        ])  # fmt: skip
        steps = ("frozen_fixed", "heads_fixed", "heads_confidence", "image_gates", "full", "oracle")
        keep("contributions", dataset, [
            about | {"metric": m, "rate": r, "step": step, "value": 0.3 + 0.1 * k}
            | {f"{ci}_{end}": 0.3 + 0.1 * k + off for ci in ("ci", "method_ci") for end, off in ENDS}
            for m in metrics for r in (0.45, 0.75) for k, step in enumerate(steps)
        ])  # fmt: skip
        keep("risk", dataset, [
            about | {"policy": p, "risk_target": r, "seed": s, "rate": 1 - r, "rate_ci_low": 0.4, "rate_ci_high": 1}
            for p in ("fixed", "margin", "tgem") for r in (0.1, 0.3) for s in ("0", "mean")
        ])  # fmt: skip
        keep("areas", dataset, [
            about | {"metric": m, "policy": p, "twin_of": None, "calibration": "in_domain"}
            | {"area": 0.5, "area_validation": 0.5}
            for m in metrics for p in ("tgem", "margin")
        ])  # fmt: skip
    tables = {name: files for name, files in parts.items() if name not in ("exits", "gallery")}
    config = {"variants": {"default": {}}, "features": {"precision": "float32"}}
    config["evaluation"] = {"compared": ["digits"], "margin": 0.01, "level": 0.05}
    make_tables(tables, [str(macs)], [], config, root / "tables")
    return root, {name: parts[name] for name in ("exits", "gallery")}


def test_every_table_comes_in_three_formats(made):
    root, _ = made
    names = {p.name for p in (root / "tables").iterdir()}
    assert names == {
        f"{t}.{e}"
        for t in ("tradeoff", "flops", "semantic_content", "summary", "wins", "areas", "contributions", "risk")
        for e in ("csv", "md", "tex")
    }


def test_flops_are_those_of_the_closed_form(made):
    table = pd.read_csv(made[0] / "tables/flops.csv")
    closed = encoder_cost(model_config(DEMO))
    assert table["gmacs_encoder"].to_numpy() * 1e9 == pytest.approx([*closed.blocks[:-1], closed.full], rel=1e-5)
    assert table["gmacs_total"].to_numpy() == pytest.approx(
        table["gmacs_encoder"] + table["gmacs_exit_modules"], rel=1e-4
    )
    assert table["rate"].iloc[-1] > 1


def test_the_summary_holds_means_and_deviations_over_seeds():
    frame = summary(pd.concat([points(d) for d in DATASETS]))
    row = frame.query("policy == 'tgem' and rate_target == 0.45").iloc[0]
    assert row["digits acc1"] == pytest.approx(0.45)
    assert row["digits acc1 std"] == pytest.approx(np.std([0.47, 0.45], ddof=1))
    assert row["saving"] == pytest.approx(1 - 0.44)
    assert frame.query("policy == 'full'")["digits acc1"].iloc[0] == 0.9


def test_wins_are_corrected_and_decided(made):
    table = pd.read_csv(made[0] / "tables/wins.csv")
    assert set(table["dataset"]) == {"digits"}, "only data sets that are compared"
    assert table["p_holm"].tolist() == pytest.approx([4e-4, 4e-4, 0.8, 0.8, np.nan], nan_ok=True)
    assert table["verdict"].tolist() == ["better", "worse", "equivalent", "undecided", "undecided"]


def test_without_comparisons_the_table_is_empty(made):
    empty = pd.DataFrame()
    assert decide(empty, ["digits"], 0.01, 0.05).empty
    others = pd.DataFrame({"dataset": ["colors"], "p": [0.1]})
    assert decide(others, ["digits"], 0.01, 0.05).empty


def test_ablations_are_compared_with_the_first_variant():
    tradeoff = pd.concat([points("digits"), points("digits").assign(variant="other")])
    tradeoff.loc[tradeoff["variant"] == "other", "value"] += 0.1
    areas = pd.DataFrame(
        [
            {"backbone": "demo", "variant": v, "dataset": "digits", "metric": "acc1", "policy": "tgem"}
            | {"calibration": "in_domain", "area": a, "area_validation": a}
            for v, a in (("default", 0.5), ("other", 0.6))
        ]
    )
    table = ablations(tradeoff, areas, ["default", "other"], ["tgem"])
    own = table.query("policy == 'tgem' and variant == 'other'")
    assert len(own) == 3 and own["difference"].to_numpy() == pytest.approx(0.1)
    assert table.query("variant == 'default'")["difference"].to_numpy() == pytest.approx(0.0)


@pytest.mark.parametrize("name", list(FIGURES))
def test_figures_are_drawn_with_the_same_bytes_each_time(made, name, tmp_path):
    root, parts = made
    tables = [str(p) for p in sorted((root / "tables").glob("*.csv"))]
    for run in ("a", "b"):
        plot_figure(
            name,
            tables,
            parts,
            "default",
            ["digits", "scenes"],
            list(ALL_POLICIES),
            str(tmp_path / f"{run}.pdf"),
            str(tmp_path / f"{run}.png"),
        )
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    pixels = plt.imread(tmp_path / "a.png")
    assert pixels.shape[0] > 200 and pixels[..., :3].std() > 0.02, "not blank"
    assert len(list(tmp_path.iterdir())) == 4, "no partial file is left"


def test_a_run_without_t_gems_has_an_empty_table_of_comparisons_and_its_figures(made, tmp_path):
    root, parts = made
    for table in (root / "tables").glob("*.csv"):
        frame = pd.read_csv(table, dtype={"seed": str})
        frame = frame[~frame["policy"].isin(["tgem", "tgem_bank", "shuffled"])] if "policy" in frame else frame
        write_table(tmp_path / table.stem, pd.DataFrame() if table.stem == "wins" else frame, frame)
    tables = [str(p) for p in tmp_path.glob("*.csv")]
    policies, output = ["full", "fixed", "margin"], [str(tmp_path / f"a.{kind}") for kind in ("pdf", "png")]
    for name in ("tradeoff", "policies", "rate_calibration", "risk"):
        plot_figure(name, tables, parts, "default", ["digits", "scenes"], policies, *output)
        assert plt.imread(output[1])[..., :3].std() > 0.02
