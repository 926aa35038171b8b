"""Thresholds for one's own images: rates that are met, promises that are kept, and what is saved."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from runtime.test_cli import tgems
from scipy import stats

from tgems.errors import UserError
from tgems.policies.registry import POLICIES
from tgems.provenance import read_json
from tgems.runtime import calibration, own_fit
from tgems.runtime.calibration import calibrate
from tgems.runtime.folder import load
from tgems.runtime.model import EarlyExitCLIP
from tgems.runtime.own_folder import save_calibration
from tgems.runtime.own_outputs import own_outputs, text_embeddings

WITH_THRESHOLDS = [name for name, policy in POLICIES.items() if policy.runs and policy.adaptive]
TEXTS = ["a red four", "a green seven", "a blue one", "a yellow eight"]


def rate_of(model, images):
    return np.asarray(model.rates[model.encode_image(images, return_exits=True).exits.numpy()])


@pytest.mark.parametrize("rate", [0.35, 0.5, 0.8])
@pytest.mark.parametrize("policy", ["tgem", "router", "saturation", "margin"])
def test_fresh_images_take_the_rate_that_was_asked_for(make, fresh, policy, rate):
    model = make(policy)
    texts = TEXTS if policy == "margin" else None
    if texts:
        model.set_text_bank(model.encode_text(model.tokenizer(texts)))
    found = model.calibrate(fresh[:400], rate=rate, upcoming=400, texts=texts)
    rates = rate_of(model, fresh[400:])
    error = np.sqrt(2) * rates.std(ddof=1) / np.sqrt(len(rates))
    assert abs(rates.mean() - rate) < 3 * error + 0.005
    forecast = found.forecast
    assert forecast.low <= rates.mean() <= forecast.high or abs(rates.mean() - rate) < 3 * error
    assert forecast.low < rate < forecast.high and forecast.high - forecast.low < 0.2
    assert rate_of(model, fresh[:400]).mean() <= rate + 0.002, "on the images themselves the rate is not exceeded"


def test_forecasts_hold_for_fresh_images_nearly_always(make, fresh):
    """Over random divisions of 800 images, on their outputs: 95 percent of the time."""
    model = make()
    outputs = own_outputs(model.backbone, model.early_exit, model.early_exit.policy, fresh.split(200), None, [0.5, 0.0])
    held, rng = [], np.random.default_rng(0)
    for _ in range(60):
        order = torch.from_numpy(rng.permutation(800))
        fit = own_fit.OwnFit(model.early_exit.policy, outputs.select(order[:400]), False, 400, 0)
        point, forecast = fit.for_rate(0.5)
        price = model.early_exit.policy.costs(outputs.costs, 0)
        rate = price[model.early_exit.policy.decide(outputs.select(order[400:]), point).numpy()].mean()
        held.append(forecast.low <= rate <= forecast.high)
    assert 0.85 <= np.mean(held)


@pytest.mark.parametrize("policy", WITH_THRESHOLDS)
def test_evaluation_and_runtime_agree_on_every_policy(make, fresh, policy):
    """Exits that thresholds were fitted by are the exits that images take."""
    model = make(policy)
    texts = model.encode_text(model.tokenizer(TEXTS)) if model.early_exit.policy.needs_bank else None
    found = model.calibrate(fresh[:120], rate=0.9, texts=texts, batch_size=50)
    if texts is not None:
        model.set_text_bank(texts)
    assert model.calibration == "own" and model.early_exit.calibrations["own"] == found.calibration
    outputs = own_outputs(
        model.backbone, model.early_exit, model.early_exit.policy, fresh[:120].split(50),
        None if texts is None else text_embeddings(model.backbone, texts), [0.9],
    )  # fmt: skip
    from tgems.policies.operating_point import OperatingPoint

    point = OperatingPoint(0.9, None, None, found.calibration.visited, found.calibration.thresholds)
    expected = model.early_exit.policy.decide(outputs, point)
    exits = model.encode_image(fresh[:120], return_exits=True).exits
    assert (exits == expected).double().mean() >= 0.99, "but for rounding"


def test_a_promise_of_texts_is_kept(make, fresh):
    model = make()
    full = model.model.encode_image(fresh, normalize=True)
    texts = text_embeddings(model.backbone, TEXTS)
    for policy in ("tgem", "margin"):
        model = make(policy)
        found = model.calibrate(fresh[:400], keep=0.85, texts=TEXTS, upcoming=400)
        if policy == "margin":
            model.set_text_bank(texts)
        early = model.encode_image(fresh[400:], return_exits=True)
        kept = ((early.embeddings @ texts.T).argmax(1) == (full[400:] @ texts.T).argmax(1)).double().mean()
        assert kept >= 0.85 and found.forecast.rate < 1
        assert found.calibration.made["keep"] == 0.85 and found.calibration.made["texts"] == 4


@pytest.mark.parametrize("has_texts", [False, True])
@pytest.mark.parametrize("tolerance", [0.3, 0.02])
def test_as_many_images_as_the_refusal_says_are_not_refused(has_texts, tolerance):
    with pytest.raises(UserError) as error:
        own_fit.allowed_or_refused(12, tolerance, 1000, 0.02, has_texts)
    enough = int(re.search(r"about ([0-9,]+) images", str(error.value))[1].replace(",", ""))
    assert own_fit.allowed_or_refused(enough, tolerance, 1000, 0.02, has_texts) >= 0
    with pytest.raises(UserError, match="cannot be promised"):
        own_fit.allowed_or_refused(int(0.9 * enough), tolerance, 1000, 0.02, has_texts)


@pytest.mark.parametrize("degrees", [19, 50, 399])
def test_student_s_quantile_is_scipy_s(degrees):
    assert own_fit.student_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=3e-4)


def test_batches_of_one_change_nothing_that_counts(make, fresh):
    one, many = (make().calibrate(fresh[:40], rate=0.6, batch_size=size).calibration for size in (1, 40))
    assert one.thresholds == pytest.approx(many.thresholds, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one aim: a rate"),
        ({"rate": 0.5, "keep": 0.9}, "one aim: a rate"),
        ({"rate": 1.5}, "rate 1.5 is not between 0 and 1"),
        ({"keep": 1.0}, "keep 1 is not between"),
        ({"keep": 0.9, "confidence": 0.0}, "confidence 0 is not"),
        ({"rate": 0.5, "upcoming": 0}, "upcoming 0: a forecast"),
        ({"rate": 0.5, "texts": []}, "there are no texts"),
        ({"rate": 0.01}, "rate 0.01 cannot be reached: on these images, policy 'tgem' spends between 0.1.. and 1 of"),
        ({"keep": 0.999}, "cannot be promised from 60 images; about [0-9,]+ images would do"),
        ({"keep": 0.9, "upcoming": 10**5, "confidence": 0.9}, "only the full encoder can be certified|cannot be"),
    ],
)
def test_what_cannot_be_done_is_one_line(make, fresh, options, message):
    model = make()
    with pytest.raises(UserError, match=message) as error:
        model.calibrate(fresh[:60], **options)
    assert "\n" not in str(error.value) and "own" not in model.early_exit.calibrations


def test_too_few_images_and_policies_without_thresholds_are_refused(make, fresh):
    with pytest.raises(UserError, match="too few images to fit thresholds to: 1; give 20 or more"):
        make().calibrate(fresh[:1], rate=0.5)
    with pytest.raises(UserError, match="policy 'fixed' has no thresholds to fit"):
        make("fixed").calibrate(fresh[:30], rate=0.5)
    with pytest.raises(UserError, match="policy 'margin' looks at the texts, so that it needs them"):
        make("margin").calibrate(fresh[:30], rate=0.5)


def test_equal_images_take_one_exit(make, fresh):
    found = make().calibrate(fresh[:1].repeat(40, 1, 1, 1), rate=0.5, batch_size=40)
    assert found.forecast.rate <= 0.5 and found.forecast.low >= 0


def test_of_many_images_a_sample_is_taken(make, fresh, monkeypatch):
    monkeypatch.setattr(calibration, "LARGEST_SAMPLE", 50)
    made = make().calibrate(fresh[:100], rate=0.5).calibration.made
    assert made["images"] == 50


def test_saved_thresholds_are_used_and_the_rest_stays(saved, pictures, fresh, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "g")
    before = read_json(folder / "config.json")
    model = EarlyExitCLIP.from_pretrained(folder, backbone=f"local-dir:{ROOT}/assets/backbones/demo-vit-8")
    model.calibrate(fresh[:100], "mine", rate=0.4)
    save_calibration(model.backbone, model.early_exit, folder, "mine")
    after = read_json(folder / "config.json")
    assert list(after["calibrations"]) == [*before["calibrations"], "mine"]
    made = after["calibrations"].pop("mine")["made"]
    assert made["rate"] == 0.4 and made["images"] == 100 and made["expected"]["low"] < 0.4
    before.pop("recorded"), after.pop("recorded")
    assert after == before and "fitted to own images" in (folder / "README.md").read_text()
    again = EarlyExitCLIP.from_pretrained(folder, calibration="mine")
    assert again.early_exit.calibrations == model.early_exit.calibrations
    first, second = (m.encode_image(fresh[:50], return_exits=True) for m in (model, again))
    assert torch.equal(first.exits, second.exits)


def test_a_folder_from_before_still_loads(saved, tmp_path, demo_backbone):
    config = read_json(saved / "config.json")
    assert all("made" not in point for point in config["calibrations"].values())
    assert all(point.made is None for point in load(saved, demo_backbone)[1].calibrations.values())


def test_a_damaged_record_is_one_line(saved, fresh, tmp_path, demo_backbone):
    folder = shutil.copytree(saved, tmp_path / "g")
    config = read_json(folder / "config.json")
    config["calibrations"]["scenes"]["made"] = {"date": "yesterday"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="calibrations.scenes.made"):
        load(folder, demo_backbone)


def test_an_interrupted_write_leaves_the_folder_as_it_was(saved, fresh, tmp_path, monkeypatch, demo_backbone):
    folder = shutil.copytree(saved, tmp_path / "g")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    model = EarlyExitCLIP.from_pretrained(folder, backbone=demo_backbone)
    model.calibrate(fresh[:40], "mine", rate=0.5)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tgems.runtime.folder.model_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_calibration(model.backbone, model.early_exit, folder, "mine")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_without_a_model_it_is_a_function(make, fresh):
    model = make()
    found = calibrate(model.backbone, model.early_exit, fresh[:40], rate=0.5)
    assert found.left_out == [] and "own" not in model.early_exit.calibrations


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "g")


def test_the_command_says_what_to_expect_and_encode_finds_it(folder, demo_data, tmp_path):
    words = ["calibrate", folder, demo_data / "scenes/test", "--next", 500]
    output = tgems(*words, "--rate", 0.5, "--name", "my-photos")
    line = re.search(r"expected mean rate of the next 500 images: (0\.\d+), 95 % interval (0\.\d+) to (0\.\d+)", output)
    assert line and float(line[2]) < 0.5 < float(line[3]) and "use it by --calibration my-photos" in output
    assert re.search(r"my-photos +\d{4}-\d\d-\d\d +70 +rate 0.5 +0\.\d+ \(.*\) on 500 images", tgems("info", folder))
    output = tgems(
        "encode", demo_data / "scenes/test", "-m", folder, "-o", tmp_path / "i", "--calibration", "my-photos"
    )
    assert abs(float(re.search(r"mean rate (0\.\d+)", output)[1]) - 0.5) < 0.02
    output = tgems(*words, "--rate", 0.7, "--name", "my-photos")
    assert "my-photos" in output, "what calibrate made is replaced"
    assert list(read_json(folder / "config.json")["calibrations"]) == ["scenes", "digits", "my-photos"]
    tgems(*words, "--rate", 0.7, "--name", "digits", "--replace")
    assert read_json(folder / "config.json")["calibrations"]["digits"]["made"]["rate"] == 0.7


def test_the_command_says_what_is_promised(folder, demo_data, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    words = ["calibrate", folder, demo_data / "scenes/test", "--keep", 0.7, "--next", 100]
    output = tgems(*words, "--texts", tmp_path / "texts.txt")
    assert "the next 100 images keep 0.7 of their best of 4 texts, with confidence 0.95" in output
    assert re.search(r"own .* 70 +keep 0.7 of the best of 4 texts, with confidence 0.95 ", tgems("info", folder))
    assert "images would do" in tgems(*words[:-4], "--keep", 0.99, code=1)


def test_bad_images_are_left_out_and_named(folder, demo_data, pictures, tmp_path):
    shots = shutil.copytree(pictures, tmp_path / "p")
    bad = shots / "05.png"
    bad.write_bytes(bad.read_bytes()[:200])
    words = ["calibrate", folder, demo_data / "scenes/test", shots, "--rate", 0.5]
    before = (folder / "config.json").read_bytes()
    assert re.search(r"05\.png: cannot be read \(.*\); fix it, or leave it out", tgems(*words, code=1))
    assert (folder / "config.json").read_bytes() == before
    assert re.search(r"left out: .*05\.png cannot be read", tgems(*words, "--skip-bad", code=3))


def test_a_rate_that_will_be_missed_is_a_warning(folder, pictures, tmp_path):
    for i in range(25):
        (tmp_path / "same").mkdir(exist_ok=True)
        shutil.copy(pictures / "01.png", tmp_path / f"same/{i}.png")
    output = tgems("calibrate", folder, tmp_path / "same", "--rate", 0.9, code=3)
    assert "warning: the rates that these images allow leave out 0.9" in output
