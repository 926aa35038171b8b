"""A finished run of minutes' work in seconds: modules trained for a pass on 70 images, which calibrate and test too."""

import copy
import io
import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from conftest import DEMO, ROOT, options, variant
from PIL import Image

from tgems.backbones.references import model_config
from tgems.config.run import ALL_POLICIES
from tgems.config.training import ConfidenceTraining, RouterTraining
from tgems.costs.exit_costs import GATES, module_costs
from tgems.costs.saved_costs import read_costs, write_costs
from tgems.data.webdataset import read_shard, shard_paths
from tgems.demo.datasets import generate_split
from tgems.evaluation.jobs import run_evaluation, run_thresholds
from tgems.evaluation.split import Split, Trained
from tgems.evaluation.thresholds import read_thresholds
from tgems.exits.training_jobs import run_gates, run_heads, run_image_gates, run_lookahead
from tgems.features.cache import load_features
from tgems.policies.interface import OperatingPoint
from tgems.policies.registry import POLICIES, find_policies
from tgems.reporting.run_record import write_provenance
from tgems.runtime.export import from_results

RATE = 0.6
EXAMPLE = re.search(r"```python\n(# my_policies.py.*?)```", (ROOT / "docs/adding-a-policy.md").read_text(), re.S)[1]
OWN = "confirmed_confidence"
RUNNABLE = [name for name, policy in POLICIES.items() if policy.runs]
PARTS = (
    "tradeoff",
    "wins",
    "areas",
    "exits",
    "semantic_content",
    "gallery",
    "outcomes",
    "image_sources",
    "contributions",
    "drift",
)


def _train(features: str, macs: str, out: str) -> None:
    small = {"passes": 10, "batch_size": 70}
    run_heads(features, macs, options("heads", hidden=8, **small), 0, f"{out}/heads/seed-0")
    heads = [f"{out}/heads/seed-0"]
    image = options("image_gates", foresight_passes=20, **small)
    run_lookahead(features, macs, heads, image, [0], [f"{out}/lookahead/seed-0"])
    run_image_gates(features, macs, [f"{out}/lookahead/seed-0"], RATE, image, [0], [f"{out}/image/rate-0.60/seed-0"])
    bank = options("bank_gates", banks_per_image=1, bank_batch_size=16, passes=2, batch_size=16)
    run_gates("bank", features, macs, heads, bank, [0], [f"{out}/bank/seed-0"])
    run_gates("variance", features, macs, heads, bank, [0], [f"{out}/variance/seed-0"])
    confidence = ConfidenceTraining(hidden=8, **small)
    run_gates("confidence", features, macs, heads, confidence, [0], [f"{out}/confidence/seed-0"])
    router = RouterTraining(hidden=8, bank_size=32, **small)
    run_gates("router", features, macs, heads, router, [0], [f"{out}/router/seed-0"])


def _evaluate(root, data, features, policies) -> list[Path]:
    """Thresholds and tables of both data sets; `scenes` stands for the training domain."""
    macs, exits = f"{root}/profiling/demo/default/macs.json", f"{root}/exits/demo/default"
    common = {"trained": Trained(exits, [0], [RATE], list(GATES), "staged"), "policies": policies}
    common |= {"directions": ["image_to_text", "text_to_image"]}
    folders = {name: root / f"evaluation/demo/default/{name}" for name in ("scenes", "digits")}
    for name, folder in folders.items():
        out = {"thresholds": folder / "thresholds.json", "curves": folder / "curves.parquet"}
        out["settings"] = folder / "validation_settings.parquet"
        run_thresholds(features / name, macs, [], out, query_bank=None, **common)
    for name, folder in folders.items():
        thresholds = {"in_domain": folder / "thresholds.json"}
        thresholds |= {"transfer": folders["scenes"] / "thresholds.json"} if name == "digits" else {}
        thresholds["online"] = folders["scenes"] / "thresholds.json"
        out = {part: folder / f"{part}.parquet" for part in PARTS} | {"provenance": folder / "provenance.json"}
        task = "zeroshot_classification" if name == "digits" else "zeroshot_retrieval"
        about = {"backbone": "demo", "variant": "default", "dataset": name, "task": task}
        curves = folder / "curves.parquet"
        run_evaluation(
            features / name,
            data / name / "test",
            thresholds,
            curves,
            macs,
            [],
            out,
            about,
            **common,
        )
    return list(folders.values())


@pytest.fixture(scope="session")
def own_policy(tmp_path_factory):
    """The policy of docs/adding-a-policy.md, as a word of the configuration."""
    path = tmp_path_factory.mktemp("own") / "my_policies.py"
    path.write_text(EXAMPLE)
    return f"{path}:ConfirmedConfidence"


@pytest.fixture(scope="session")
def results(demo_data, demo_features, own_policy, tmp_path_factory):
    """Results folder of a finished run."""
    policies = [*ALL_POLICIES, own_policy]
    root = tmp_path_factory.mktemp("run") / "results"
    macs = root / "profiling/demo/default/macs.json"
    write_costs(macs, module_costs(model_config(DEMO), variant(8, 8)), {})
    _train(str(demo_features / "scenes"), str(macs), f"{root}/exits/demo/default")
    folders = _evaluate(root, demo_data, demo_features, policies)
    config = {
        "backbones": {"demo": DEMO},
        "variants": {"default": {"rate_targets": [RATE], "training": {"scheme": "staged"}}},
        "seeds": [0],
        "policies": policies,
        "datasets": {"scenes": {}, "digits": {}},
        "training": {"dataset": "scenes"},
        "features": {"precision": "float32"},
    }
    write_provenance([f / "provenance.json" for f in folders], config, root / "tables/provenance.json")
    points = pd.concat([pd.read_parquet(f / "tradeoff.parquet") for f in folders])
    points.to_csv(root / "tables/tradeoff.csv", index=False, float_format="%.6g")
    return root


@pytest.fixture(scope="session")
def make(results, demo_backbone, own_policy):
    """Policy and options -> model of the run, a fixed exit at block 3, on a backbone of its own."""

    kept = {id(part): part for part in (demo_backbone.tokenizer, demo_backbone.preprocess)}

    def build(policy: str = "tgem", **options):
        where = {"exit_block": 3} if policy.startswith("fixed") else {}
        policy = own_policy if policy == OWN else policy
        with patch("tgems.runtime.export.load_backbone", lambda entry: copy.deepcopy(demo_backbone, dict(kept))):
            return from_results(results, "demo", policy, RATE, **where, **options)

    return build


@pytest.fixture(scope="session")
def saved(make, tmp_path_factory):
    """Folder of the run's `tgem`."""
    folder = tmp_path_factory.mktemp("saved") / "tgem"
    make().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def split_of(results):
    """Folder of features -> what the harness makes of them, with trained heads and with the frozen projection."""

    def read(folder: Path) -> tuple[Split, Split]:
        costs, features = read_costs(results / "profiling/demo/default/macs.json"), load_features(folder)
        trained = Trained(results / "exits/demo/default", [0], [RATE], list(GATES), "staged")
        modules = trained.shared(0, features.manifest["weights"])
        features = features.at_exits(costs.blocks, costs.summary_dim)
        return Split(features, costs, modules, 0), Split(features, costs)

    return read


@pytest.fixture(scope="session", params=["digits", "scenes"])
def known(request, results, own_policy, split_of, demo_data, demo_features, demo_backbone):
    """A data set: its images `[n, 3, h, w]`, and what the harness says of every policy's exits and embeddings."""
    dataset = request.param
    split, raw = split_of(demo_features / dataset)
    fits = read_thresholds(results / f"evaluation/demo/default/{dataset}/thresholds.json", split.costs).thresholds
    points = {f.policy: f.point for f in fits if f.point.rate_target is not None}
    points["fixed"] = points["fixed_raw"] = OperatingPoint(exit=2)
    policies = POLICIES | find_policies([own_policy])
    splits = {name: raw if policy.frozen_head else split for name, policy in policies.items()}
    task = "zeroshot_retrieval" if dataset == "scenes" else "zeroshot_classification"
    samples = [s for path in shard_paths(demo_data / dataset / "test") for s in read_shard(path, task)]
    opened = [demo_backbone.preprocess(Image.open(io.BytesIO(s.image)).convert("RGB")) for s in samples]
    return SimpleNamespace(
        dataset=dataset, split=split, splits=splits, policies=policies, points=points, images=torch.stack(opened),
        samples=samples,
    )  # fmt: skip


@pytest.fixture(scope="session")
def pictures(demo_data, tmp_path_factory):
    """Folder of twelve scenes, some in a folder below, and their captions."""
    folder = tmp_path_factory.mktemp("pictures")
    samples = [s for path in shard_paths(demo_data / "scenes/test") for s in read_shard(path)][:12]
    for i, sample in enumerate(samples):
        path = folder / ("below" if i % 3 == 0 else ".") / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sample.image)
    return folder


@pytest.fixture(scope="session")
def fresh(tmp_path_factory, demo_backbone):
    """800 preprocessed scenes."""
    folder = tmp_path_factory.mktemp("fresh")
    generate_split("scenes", "test", 800, 7, folder, 800)
    samples = [s for path in shard_paths(folder) for s in read_shard(path)]
    return torch.stack([demo_backbone.preprocess(Image.open(io.BytesIO(s.image)).convert("RGB")) for s in samples])
