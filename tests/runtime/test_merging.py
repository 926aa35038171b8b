"""T-GEMs on a backbone that merges tokens: trained, run, saved, loaded and calibrated like others."""

import pandas as pd
import pytest
import torch
from conftest import DEMO, options, variant
from runtime.conftest import RATE

import tgems
from tgems.backbones.load import load_backbone
from tgems.backbones.references import model_config
from tgems.costs.exit_costs import module_costs
from tgems.costs.saved_costs import read_costs, write_costs
from tgems.data.webdataset import SplitFiles
from tgems.errors import UserError
from tgems.evaluation.split import Split
from tgems.evaluation.thresholds import fit_policies
from tgems.exits.saved_modules import load_gates, load_heads
from tgems.exits.training_jobs import run_heads, run_image_gates, run_lookahead
from tgems.features.cache import load_features
from tgems.features.extract import extract_features
from tgems.features.images import image_batches
from tgems.features.shards import Encoding
from tgems.policies.cached_outputs import ExitModules
from tgems.policies.registry import POLICIES
from tgems.provenance import read_json
from tgems.runtime.early_exit import Calibration, EarlyExit
from tgems.runtime.latency import measure_latency
from tgems.runtime.model import EarlyExitCLIP
from tgems.runtime.tgem_info import describe

MERGING = DEMO | {"token_merging": 2}
TOO_CLOSE = 1e-4


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(MERGING)


@pytest.fixture(scope="module")
def features(backbone, demo_data, tmp_path_factory):
    """Folder of the features of the scenes."""
    folder = tmp_path_factory.mktemp("features") / "scenes"
    files = SplitFiles.of_folder(demo_data / "scenes/test", "zeroshot_retrieval")
    extract_features(backbone, files, folder, Encoding(batch_size=32))
    return folder


@pytest.fixture(scope="module")
def images(backbone, demo_data):
    """The scenes `[70, 3, h, w]`, in the order of the features."""
    split = SplitFiles.of_folder(demo_data / "scenes/test", "zeroshot_retrieval")
    batches = [
        b for path in split.shards for b in image_batches(path, split.index(path), backbone.preprocess, 64, 0, False)
    ]
    return torch.cat([batch.images for batch in batches])


@pytest.fixture(scope="module")
def trained(backbone, features, tmp_path_factory):
    """Heads and gates, trained for a few passes."""
    root = tmp_path_factory.mktemp("exits")
    macs, small = root / "macs.json", {"passes": 10, "batch_size": 70}
    write_costs(macs, module_costs(model_config(MERGING), variant(8, 8), 2), {})
    run_heads(str(features), str(macs), options("heads", hidden=8, **small), 0, f"{root}/heads")
    image = options("image_gates", foresight_passes=20, **small)
    run_lookahead(str(features), str(macs), [f"{root}/heads"], image, [0], [f"{root}/lookahead"])
    run_image_gates(str(features), str(macs), [f"{root}/lookahead"], RATE, image, [0], [f"{root}/gates"])
    digest = backbone.weights_digest
    return read_costs(macs), load_heads(f"{root}/heads", digest), load_gates(f"{root}/gates", digest), root


def split_of(features, trained, frozen: bool) -> Split:
    """The features as a split of the evaluation."""
    costs, heads, gates, _ = trained
    cached = load_features(features).at_exits(costs.blocks, costs.summary_dim)
    return Split(cached, costs) if frozen else Split(cached, costs, ExitModules(heads, {("image", RATE): gates}), 0)


@pytest.fixture(scope="module", params=["tgem", "margin", "saturation", "patience"])
def fitted(request, backbone, features, trained):
    """The model of a policy, the harness's split, and the policy's operating point."""
    costs, heads, gates, _ = trained
    policy = POLICIES[request.param]
    split = split_of(features, trained, policy.frozen_head)
    (point,) = (fit.point for fit in fit_policies(split, {policy.name: policy}, [RATE]) if fit.policy == policy.name)
    early = EarlyExit(
        policy=policy,
        rate_target=RATE,
        costs=costs,
        heads=None if policy.frozen_head else heads,
        gates=gates if policy.gates == "image" else None,
        calibrations={"scenes": Calibration(point.thresholds, point.visited, RATE)},
        about={"name": "merging"},
    )
    model = EarlyExitCLIP(backbone, early)
    if policy.needs_bank:
        model.set_text_bank(split.features.texts)
    return model, split, policy, point


def test_images_leave_where_the_harness_says_in_any_batch_and_order(fitted, images):
    model, split, policy, point = fitted
    expected = policy.decide(split.outputs, point)
    scores = policy.scores(split.outputs, RATE)
    certain = ((scores - point.at_exits(scores.shape[1])).abs() > TOO_CLOSE).all(1) | (policy.name == "patience")
    assert len(expected.unique()) > 1 and certain.any()
    mixed = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    for size, chunk in ((1, None), (7, 3), (64, 8), (70, None)):
        model.chunk = chunk
        parts = [model.encode_image(batch, return_exits=True) for batch in images[mixed].split(size)]
        exits = torch.cat([part.exits for part in parts])
        agree = exits == expected[mixed]
        assert agree[certain[mixed]].all() and agree.float().mean() > 0.98
        theirs = split.embeddings[mixed, expected[mixed]]
        assert (torch.cat([part.embeddings for part in parts]) - theirs)[agree].abs().max() < 1e-5


def test_features_are_those_of_the_encoder_that_merges(backbone, features, images, demo_backbone):
    cached = load_features(features)
    assert cached.manifest["weights"] == backbone.weights_digest != demo_backbone.weights_digest
    own = torch.nn.functional.normalize(backbone.tower.encode(images), dim=-1)
    assert torch.allclose(cached.embeddings, own, atol=1e-5)
    plain = torch.nn.functional.normalize(backbone.model.visual(images), dim=-1)
    assert 0.2 < (cached.embeddings * plain).sum(1).mean() < 0.99


def test_features_are_not_taken_for_those_of_another_number(features, demo_data, backbone):
    files = SplitFiles.of_folder(demo_data / "scenes/test", "zeroshot_retrieval")
    prints = [
        Encoding().fingerprint(load_backbone(DEMO | {"token_merging": r}), files.digest(files.shards[0]), files.task)
        for r in (0, 1, 2)
    ]
    assert len({one["weights"] for one in prints}) == 3


def test_modules_of_the_plain_backbone_are_refused(trained, demo_backbone):
    with pytest.raises(UserError, match="trained on backbone weights"):
        load_heads(f"{trained[3]}/heads", demo_backbone.weights_digest)


@pytest.fixture(scope="module")
def saved(backbone, trained, tmp_path_factory):
    costs, heads, gates, _ = trained
    point = {"scenes": Calibration((0.0,) * 7, None, RATE, spread=1.0)}
    early = EarlyExit(POLICIES["tgem"], RATE, costs, heads, gates, point, {"name": "merging"})
    folder = tmp_path_factory.mktemp("saved") / "t-gem"
    EarlyExitCLIP(backbone, early).save_pretrained(folder)
    return folder


def test_a_saved_t_gem_names_the_number_and_loads_with_it(saved, images):
    assert read_json(saved / "config.json")["backbone"]["token_merging"] == 2
    model = tgems.from_pretrained(saved)
    again = EarlyExitCLIP.from_pretrained(saved, backbone=DEMO["pretrained"])
    assert model.backbone.entry["token_merging"] == again.backbone.entry["token_merging"] == 2
    assert torch.equal(model.encode_image(images), again.encode_image(images))
    assert ("backbone", f"{DEMO['pretrained']} token_merging 2") in describe(saved)[0]
    assert "token_merging 2" in (saved / "README.md").read_text()


@pytest.mark.parametrize("r", [0, 1])
def test_another_number_is_refused(saved, r):
    other = load_backbone(DEMO | {"token_merging": r})
    with pytest.raises(
        UserError, match=f"made for a backbone with token_merging 2, but .*demo-vit-8 has {r}; give its"
    ):
        EarlyExitCLIP.from_pretrained(saved, backbone=other)


def test_thresholds_are_fitted_to_own_images(saved, images):
    model = tgems.from_pretrained(saved)
    found = model.calibrate(images, rate=0.7)
    rates = model.rates[model.encode_image(images, return_exits=True).exits.numpy()]
    assert model.calibration == "own" and rates.mean() <= 0.7
    assert found.calibration.rate_validation == pytest.approx(0.7, abs=0.05)


def test_speed_is_that_of_the_encoder_that_merges(backbone, trained, monkeypatch):
    from tgems.config.run import LatencyOptions

    calls, encode = [], backbone.tower.encode
    monkeypatch.setattr(backbone.tower, "encode", lambda images: calls.append(len(images)) or encode(images))
    costs = trained[0]
    shares = {RATE: torch.full((8,), 1 / 8).numpy()}
    hidden = {"heads": 8, "image_gates": 8}
    table = measure_latency(backbone.tower, costs, hidden, shares, LatencyOptions(batch_sizes=[2], seconds=0.01))
    assert calls and set(table["encoder"]) == {"full", "early exit", "early exit, exits by time"}
    assert pd.notna(table["speedup"]).all()
