"""A rate that is held by a model, and by `tgems encode`."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from runtime.conftest import RATE
from runtime.test_cli import tgems
from runtime.test_encode import interrupted

from tgems.errors import UserError
from tgems.evaluation.online import online_rows
from tgems.evaluation.thresholds import read_thresholds
from tgems.policies.online import largest_debt
from tgems.policies.registry import POLICIES
from tgems.runtime import image_files, index
from tgems.runtime.model import EarlyExitCLIP


def encoded(model, images, batch=1):
    """Exits of images that are encoded some at a time."""
    return torch.cat([model.encode_image(part, return_exits=True).exits for part in images.split(batch)])


@pytest.mark.parametrize("policy", ["tgem", "margin", "tgem_bank", "patience", "saturation_raw"])
def test_the_evaluation_and_the_model_decide_alike(make, known, results, monkeypatch, policy):
    """Thresholds of scenes, images of both data sets, one image per call."""
    split = known.splits[policy]
    path = results / "evaluation/demo/default/scenes/thresholds.json"
    fitted = [f for f in read_thresholds(path, split.costs).thresholds if f.policy == policy]
    order = list(range(len(split.outputs)))
    monkeypatch.setattr("tgems.evaluation.online.stream_order", lambda n, seed: np.array(order))
    (row,) = online_rows(split, POLICIES, fitted)
    model = make(policy)
    if POLICIES[policy].needs_bank:
        model.set_text_bank(split.features.texts)
    model.hold_rate(RATE)
    exits = encoded(model, known.images)
    assert exits.tolist() == row.exits.tolist()
    assert model.held.images == len(order) and float(model.held.rate) == pytest.approx(row.rates.mean())
    frozen = make(policy)
    if POLICIES[policy].needs_bank:
        frozen.set_text_bank(split.features.texts)
    assert encoded(frozen, known.images).tolist() != exits.tolist(), "thresholds did move"


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.8])
def test_a_stream_of_another_domain_keeps_its_bound(make, known, rate):
    """Thresholds of scenes on images of both data sets, seen again and again, eight at a time."""
    model = make("tgem")
    model.hold_rate(rate)
    images = known.images.repeat(9, 1, 1, 1)[:600]
    rates = model.rates[encoded(model, images, 8).numpy()]
    bound = largest_debt(rate, model.rates[0], model.rates[-1], 8)
    assert np.abs((rates - rate).cumsum()).max() <= bound
    assert abs(rates.mean() - rate) <= 0.01 and float(model.held.rate) == pytest.approx(rates.mean())


def test_nothing_is_held_unless_asked_for(make, known):
    model = make("tgem")
    before = encoded(model, known.images, 8)
    assert model.held is None
    model.hold_rate(0.3)
    assert encoded(model, known.images, 8).tolist() != before.tolist()
    model.hold_rate(None)
    assert model.held is None and encoded(model, known.images, 8).tolist() == before.tolist()


def test_a_cap_holds_while_a_rate_is_held(make, known):
    model = make("tgem", max_rate=0.6)
    model.hold_rate(0.5)
    rates = model.rates[encoded(model, known.images.repeat(9, 1, 1, 1), 4).numpy()]
    assert rates.max() <= 0.6 and abs(rates.mean() - 0.5) < 0.01


def test_methods_that_change_thresholds_start_a_new_stream(make, known):
    for change in (
        lambda model: model.use_calibration("digits"),
        lambda model: model.set_max_rate(2.0),
        lambda model: model.set_text_bank(known.split.features.texts),
        lambda model: model.hold_rate(0.4),
    ):
        model = make("margin")
        model.set_text_bank(known.split.features.texts)
        model.hold_rate(0.4)
        model.encode_image(known.images[:8])
        assert model.held.images == 8 and model.held.offset != 0
        change(model)
        assert (model.held.images, model.held.offset, model.held.target) == (0, 0, 0.4)


def test_a_copy_goes_on_by_itself_and_nothing_is_saved(make, known, tmp_path, demo_backbone):
    model = make("tgem")
    model.hold_rate(0.4)
    model.encode_image(known.images[:8])
    seen = model.held.offset
    copied = copy.deepcopy(model)
    copied.encode_image(known.images[8:16])
    assert (model.held.images, model.held.offset, copied.held.images) == (8, seen, 16)
    assert pickle.loads(pickle.dumps(model)).held.offset == seen  # noqa: S301
    assert not any("held" in name for name in model.state_dict())
    model.save_pretrained(tmp_path / "g")
    again = EarlyExitCLIP.from_pretrained(tmp_path / "g", backbone=demo_backbone)
    assert again.held is None
    again.hold_rate(0.4)
    assert encoded(again, known.images).tolist() != encoded(make("tgem"), known.images).tolist()


def test_threads_lose_no_image(make, known):
    model = make("tgem")
    model.hold_rate(0.4)
    with ThreadPoolExecutor(4) as pool:
        exits = list(pool.map(lambda part: encoded(model, part), known.images[:64].split(4)))
    assert model.held.images == 64
    assert float(model.held.rate) == pytest.approx(model.rates[torch.cat(exits).numpy()].mean())


def test_streams_may_use_autocast_and_empty_batches(make, known):
    model = make("tgem")
    model.hold_rate(0.4)
    assert len(model.encode_image(known.images[:0])) == 0 and model.held.images == 0
    with torch.autocast("cpu"):
        model.encode_image(known.images[:8])
    assert model.held.images == 8 and model.held.debt.dtype == np.float64


@pytest.mark.parametrize("rate", [0.05, 1.2, float("nan")])
def test_a_rate_out_of_reach_is_refused_and_changes_nothing(make, rate):
    model = make("tgem")
    model.hold_rate(0.5)
    with pytest.raises(UserError, match=rf"rate {rate:g} cannot be held: images cost from 0\.1\d* to 1\.0\d* of the"):
        model.hold_rate(rate)
    assert model.held.target == 0.5
    with pytest.raises(UserError, match="rate 0.5 cannot be held"):
        model.set_max_rate(0.4)
    assert model.max_rate is None and model.held.target == 0.5


def test_what_has_no_thresholds_or_no_spread_holds_no_rate(make, tmp_path, saved, demo_backbone):
    with pytest.raises(UserError, match="policy 'fixed' has no thresholds to move"):
        make("fixed").hold_rate(0.5)
    make().save_pretrained(tmp_path / "g")
    path = tmp_path / "g/config.json"
    config = json.loads(path.read_text())
    for point in config["calibrations"].values():
        assert point.pop("spread") > 0
    path.write_text(json.dumps(config))
    old = EarlyExitCLIP.from_pretrained(tmp_path / "g", backbone=demo_backbone)
    with pytest.raises(UserError, match="saved without the spread of their scores.*export this T-GEM again"):
        old.hold_rate(0.5)
    early = replace(old.early_exit, calibrations=make().early_exit.calibrations)
    EarlyExitCLIP(demo_backbone, early).hold_rate(0.5)


def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(pictures, tmp_path, make, monkeypatch):
    monkeypatch.setattr(index, "PART", 5)
    images, model = image_files.find_images([str(pictures)]), make()
    model.hold_rate(0.3)
    index.encode_images(model, "m", images, tmp_path / "whole.parquet", batch_size=2)
    offset = model.held.offset
    interrupted(model, images, tmp_path / "i.parquet", monkeypatch, batch_size=5)
    encode, calls = model.encode_image, []
    with monkeypatch.context() as patch:
        patch.setattr(model, "encode_image", lambda x, **o: calls.append(len(x)) or encode(x, **o))
        index.encode_images(model, "m", images, tmp_path / "i.parquet", batch_size=5)
    assert calls == [5, 2], "the first part is not encoded again"
    index.encode_images(model, "m", images, tmp_path / "five.parquet", batch_size=5)
    assert (tmp_path / "i.parquet").read_bytes() == (tmp_path / "five.parquet").read_bytes()
    assert model.held.images == 12 and model.held.offset != offset, "batches of five are other updates than of two"


def test_the_stream_is_in_the_order_given_whatever_the_workers(pictures, tmp_path, make):
    images, frames = image_files.find_images([str(pictures)]), []
    for workers in (0, 2):
        model = make()
        model.hold_rate(0.3)
        index.encode_images(model, "m", images, tmp_path / "i.parquet", batch_size=2, workers=workers)
        frames.append(pd.read_parquet(tmp_path / "i.parquet"))
    pd.testing.assert_frame_equal(*frames)
    assert set(frames[0]["hold_rate"]) == {"0.3"}


def test_encode_says_which_rate_it_reached(saved, pictures, demo_data, tmp_path):
    words = ["-m", saved, "--hold-rate", 0.5, "--batch-size", 2]
    output = tgems("encode", demo_data / "scenes/test", demo_data / "digits/test", *words, "-o", tmp_path / "i.parquet")
    frame = pd.read_parquet(tmp_path / "i.parquet")
    assert abs(frame["rate"].mean() - 0.5) <= 0.01 and f"mean rate {frame['rate'].mean():.3f} of" in output
    output = tgems("encode", pictures / "01.png", *words, "-o", tmp_path / "j.parquet", code=3)
    assert "not 0.5: a rate is held on long streams only" in " ".join(output.split())
    tgems("encode", pictures, "-m", saved, "-o", tmp_path / "k.parquet")
    output = tgems("search", "a red four", "-i", tmp_path / "i.parquet", "-i", tmp_path / "k.parquet", code=3)
    assert "the index mixes 2 values of hold_rate (0.5, none)" in output
    frame = pd.read_parquet(tmp_path / "k.parquet")
    frame.drop(columns="hold_rate").to_parquet(tmp_path / "old.parquet")
    assert "score" in tgems("search", "a red four", "-i", tmp_path / "k.parquet", "-i", tmp_path / "old.parquet")
