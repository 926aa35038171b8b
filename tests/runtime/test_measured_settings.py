"""Measuring several policies: each with its own exits, at the exits that its thresholds visit."""

import numpy as np
import pandas as pd
import pytest
from conftest import DEMO, variant

from tgems.backbones.references import model_config
from tgems.config.run import LatencyOptions
from tgems.costs.exit_costs import module_costs
from tgems.costs.saved_costs import write_costs
from tgems.evaluation.thresholds import Fitted, as_json
from tgems.outputs import write_json
from tgems.policies.operating_point import OperatingPoint
from tgems.policies.registry import POLICIES
from tgems.runtime import latency
from tgems.runtime.engine import encode_early
from tgems.runtime.latency import EARLY, run_latency
from tgems.runtime.measured_settings import RandomModules, settings_of_run

COSTS = module_costs(model_config(DEMO), variant(8, 8))
HIDDEN = {"heads": 8, "image_gates": 8, "bank_gates": 8}
CALIBRATED = ("margin", "patience", "router", "lra_gate", "saturation_raw", "tgem", "tgem_bank")
VISITED = (1, 4)
SHARES = {"margin": (0.5, 0.25), "tgem_bank": (0.0, 0.75)}
"""Shares of images that leave at the two visited exits, by policy."""
MANIFEST = {"weights": "0" * 64, "preprocess": "x", "n": 1, "shards": {}, "prompts": "0" * 64}


def shares_of(policy: str) -> np.ndarray:
    shares = np.zeros(8)
    shares[list(VISITED)] = SHARES.get(policy, (0.25, 0.25))
    shares[-1] = 1 - shares.sum()
    return shares


@pytest.fixture
def evaluated(tmp_path):
    """Exits and thresholds of two data sets, whose text banks have 7 and 5 texts; other seeds and calibrations too."""
    files = []
    for dataset, texts in (("digits", 7), ("scenes", 5)):
        folder = tmp_path / dataset
        folder.mkdir()
        exits, fitted = [], []
        for name in CALIBRATED:
            point = OperatingPoint(0.6, visited=VISITED, thresholds=(0.1, 0.2))
            size = texts if POLICIES[name].needs_bank else None
            for seed in (None,) if POLICIES[name].frozen_head else (3, 4):
                shares = np.roll(shares_of(name), seed == 4)
                fitted.append(Fitted(name, seed, point, 0.6, 0.0, tuple(shares), size, 1))
                about = {"policy": name, "rate_target": 0.6, "seed": seed}
                for calibration, own in (("in_domain", shares), ("online", shares[::-1])):
                    rows = zip(COSTS.blocks, own, strict=True)
                    exits += [about | {"calibration": calibration, "exit_block": b, "share": s} for b, s in rows]
        fixed = [OperatingPoint(exit=k) for k in range(7)]
        fitted += [Fitted("fixed", 3, point, 0.5, 0.0, tuple(np.eye(8)[point.exit]), None, 1) for point in fixed]
        pd.DataFrame(exits).astype({"seed": "string"}).to_parquet(folder / "exits.parquet")
        sizes = [{"policy": f.policy, "bank_size": f.bank_size} for f in fitted]
        pd.DataFrame(sizes).to_parquet(folder / "tradeoff.parquet")
        write_json(folder / "thresholds.json", as_json(fitted, MANIFEST, None))
        files.append((folder / "exits.parquet", folder / "thresholds.json"))
    return files


def test_every_policy_has_its_own_exits_on_every_data_set_and_fixed_exits_are_measured_once(evaluated):
    modules = RandomModules(COSTS, HIDDEN, "cpu")
    found = list(settings_of_run([*CALIBRATED, "fixed"], evaluated, modules))
    names = [(one.policy, one.dataset, one.exit_block) for one in found]
    assert len(set(names)) == len(names) == 2 * len(CALIBRATED) + 7
    assert {(name, dataset, None) for name in CALIBRATED for dataset in ("digits", "scenes")} < set(names)
    for one in found:
        bank = {"digits": 7, "scenes": 5}.get(one.dataset, 0)
        if one.policy == "fixed":
            exit_index = one.exit_block - 1
            assert one.decider.asked == (exit_index,) and one.shares.tolist() == np.eye(8)[exit_index].tolist()
            assert one.prices == pytest.approx(COSTS.fixed())
            continue
        remembers = one.policy in ("patience", "router", "saturation_raw")
        assert one.decider.asked == (tuple(range(5)) if remembers else VISITED), one.policy
        assert one.shares.tolist() == shares_of(one.policy).tolist()
        assert one.prices == pytest.approx(POLICIES[one.policy].costs(COSTS, bank, VISITED))
        assert (one.decider.bank is None) != POLICIES[one.policy].needs_bank
        assert one.decider.bank is None or len(one.decider.bank) == bank
        assert (one.decider.heads is None) == POLICIES[one.policy].frozen_head


def test_all_are_measured_in_turn_and_leave_where_their_images_left(evaluated, tmp_path, monkeypatch, demo_backbone):
    taken: dict[str, list] = {}

    def spy(tower, decider, *arguments, **options):
        encoded = encode_early(tower, decider, *arguments, **options)
        assert encoded.exits.tolist() == options["planned"].tolist()
        taken.setdefault(decider.policy.name, []).append(encoded.exits.tolist())
        return encoded

    monkeypatch.setattr(latency, "encode_early", spy)
    monkeypatch.setattr(latency, "load_backbone", lambda entry: demo_backbone)
    monkeypatch.setattr(latency, "LEAST", 1)
    write_costs(tmp_path / "macs.json", COSTS, {})
    options = LatencyOptions(batch_sizes=[32], seconds=0.01, policies=["margin", "tgem", "tgem_bank", "fixed"])
    exits = [evaluated[1][0]]
    run_latency({}, HIDDEN, [0.6], tmp_path / "macs.json", exits, options, {}, tmp_path / "out.csv", evaluated)
    table = pd.read_csv(tmp_path / "out.csv")
    early = table[table["encoder"].eq(EARLY)].set_index(["policy", "dataset"]).sort_index()
    assert not early.index.duplicated().any() or early.index.duplicated().sum() == 6, "seven fixed exits"
    assert table["ms_per_image"].gt(0).all() and table["policy"].notna().sum() == 2 + 2 + 2 + 7
    assert (1000 / table["images_per_second"]).to_numpy() == pytest.approx(table["ms_per_image"], rel=1e-4)
    for name in ("margin", "tgem_bank"):
        counts = np.bincount(taken[name][0], minlength=8)
        assert (counts / 32).tolist() == shares_of(name).tolist()
        price = POLICIES[name].costs(COSTS, 7, VISITED)
        assert early.loc[(name, "digits"), "rate"].item() == pytest.approx(shares_of(name) @ price, rel=1e-5)
    fixed = early.loc["fixed"].sort_values("exit_block")
    assert fixed["exit_block"].tolist() == list(range(1, 8))
    assert fixed["rate"].to_numpy() == pytest.approx(COSTS.fixed()[:-1], rel=1e-5)
