from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tgems.cli import app
from tgems.errors import UserError
from tgems.outputs import write_json
from tgems.own_results import Difference, Measured, Reached, images_left_out, reached
from tgems.own_training import configuration, train
from tgems.workflow_config import complete_config

PHOTOS = {"source": "wds:/photos", "task": "self_retrieval"}


@pytest.mark.parametrize("n", [12, 600, 3_000, 80_000, None])
def test_the_configuration_is_complete_and_trains_longer_on_fewer_images(n):
    name, config = configuration("ViT-B-32", "laion2b_s34b_b79k", PHOTOS, 0.6, cores=4, n=n)
    complete = complete_config(config)
    assert name == "ViT-B-32" and complete["backbones"][name]["model"] == "ViT-B-32"
    assert complete["datasets"]["photos"]["jobs"]["train"] == 4 and complete["rate_targets"] == [0.6]
    variant = complete["variants"]["default"]
    passes = [variant["heads"]["passes"], variant["image_gates"]["passes"]]
    assert passes == {12: [200, 100], 600: [86, 86], 3_000: [48, 18], 80_000: [15, 1], None: [48, 6]}[n]


def test_the_activation_of_the_weights_is_chosen():
    assert configuration("ViT-B-32", "openai", PHOTOS, 0.6)[1]["backbones"]["ViT-B-32"]["model"] == "ViT-B-32-quickgelu"
    random = configuration("ViT-B-32", "random", PHOTOS, 0.6)[1]["backbones"]["ViT-B-32"]
    assert random == {"pretrained": "random", "model": "ViT-B-32"}


def test_relative_weights_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    name, config = configuration(None, "local-dir:mine", PHOTOS, 0.6)
    assert (name, config["backbones"]) == ("mine", {"mine": {"pretrained": f"local-dir:{tmp_path}/mine"}})


def tables(folder, wins):
    metric, rows = "text_retrieval_recall@1", []
    for policy, rate, value, seed in [
        ("full", 1.0, 1.0, None),
        ("fixed", 0.3, 0.5, "0"),
        ("fixed", 0.55, 0.7, "0"),
        ("fixed", 0.7, 0.9, "0"),
        ("tgem", 0.58, 0.6, "0"),
        ("tgem", 0.58, 0.6, "mean"),
    ]:
        half = 0 if policy == "full" else 0.1
        ends = {"ci_low": value - half, "ci_high": value + half, "n": 40, "n_sources": 12}
        block = {0.3: 3, 0.55: 6, 0.7: 8}.get(rate)
        point = {"policy": policy, "rate": rate, "exit_block": block, "metric": metric, "value": value, "seed": seed}
        rows.append(point | ends)
    pd.DataFrame(rows).assign(twin_of=None, backbone="ViT-B-32").to_csv(folder / "tradeoff.csv", index=False)
    columns = ["against", "competitor", "difference", "ci_low", "ci_high"]
    frame = pd.DataFrame(wins, columns=columns).assign(policy="tgem", metric=metric)
    frame.to_csv(folder / "wins.csv", index=False)


def test_what_was_reached_is_read_beside_policies_of_no_higher_rate(tmp_path):
    tables(tmp_path, [("best", "fixed", -0.12, -0.2, -0.04), ("shuffled", "tgem", 0.1, 0, 0.2)])
    found = reached(tmp_path, "self_retrieval", 0.6)
    shown = [(policy, rate, [str(value) for value in values]) for policy, rate, values in found.rows]
    assert shown == [
        ("full", 1.0, ["1.000"]),
        ("tgem", 0.58, ["0.600 (0.500 to 0.700)"]),
        ("fixed", 0.55, ["0.700 (0.600 to 0.800)"]),
    ]
    assert (found.n, found.n_sources, found.rate, found.fixed_is_as_good) == (40, 12, 0.58, True)
    assert (found.backbone, found.fixed_block) == ("ViT-B-32", 6)
    (one,) = found.differences
    assert (one.competitor, str(one.gain)) == ("fixed", "-0.120 (-0.200 to -0.040)")


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((0.01, 0.2), "the T-GEM is better"),
        ((-0.2, -0.01), "the T-GEM is worse"),
        ((-0.1, 0.1), "these images do not say which is better"),
        ((None, None), "these images do not say which is better"),
    ],
)
def test_a_difference_is_believed_only_if_its_interval_says_so(tmp_path, ends, verdict):
    tables(tmp_path, [("best", "fixed", 0.0, *ends)])
    (one,) = reached(tmp_path, "self_retrieval", 0.6).differences
    assert one.verdict == verdict and ("unknown" in str(one.gain)) == (ends[0] is None)
    tables(tmp_path, [("best", None, None, None, None)])
    assert reached(tmp_path, "self_retrieval", 0.6).differences == []


def test_bad_options_end_before_anything_is_encoded(tmp_path):
    photos = tmp_path / "photos"
    with pytest.raises(UserError, match="there is no such folder"):
        train("ViT-B-32", "random", str(photos), 0.6, tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "work", "message"),
    [
        (".", "w", "--out '.': name a new folder"),
        (
            "photos/mine",
            "w",
            "--out .*photos/mine: is inside .*photos, so that figures would be taken for images later",
        ),
        ("mine", "photos/w", "--work .*photos/w: is inside"),
        ("mine", "mine/w", "--work .*mine/w: is inside --out"),
        ("file", "w", "file: is a file; name a new folder"),
        ("photos", "w", "--out .*photos: is inside"),
        ("other", "w", "other: holds files that are not a T-GEM's"),
        ("saved", "w", "saved: holds a T-GEM that was not trained in .*w; choose another --out, or delete it"),
    ],
)
def test_places_that_are_taken_are_refused_before_anything_is_done(tmp_path, monkeypatch, out, work, message):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "file", "other/letter.txt", "saved/config.json", "saved/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"format": "tgems"}')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        train("ViT-B-32", "random", "photos", 0.6, Path(out), Path(work))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_says_what_an_interval_rests_on_and_names_some_images_that_were_left_out(monkeypatch):
    half = Measured(0.5, 0.4, 0.6)
    rows = [("full", 1.0, [Measured(1.0, 1.0, 1.0)]), ("tgem", 0.6, [half]), ("fixed", 0.5, [half])]
    difference = Difference("good images", "fixed", Measured(0.1, -0.1, 0.3))
    found = Reached(40, 12, 0.6, rows, ["good images"], [difference], "ViT-B-32", 6)
    bad = [(f"{i}.png", "cannot be read") for i in range(8)]
    monkeypatch.setattr("tgems.own_training.train", lambda *_: (found, bad))
    done = CliRunner().invoke(app, ["train", "--images", "photos", "--out", "mine"])
    assert done.exit_code == 3
    for line in (
        "full    1.000  1.000",
        "tgem    0.600  0.500 (0.400 to 0.600)",
        "95 % intervals for these modules, from 40 images in 12 groups",
        "tgem minus fixed at the same rate, good images: 0.100 (-0.100 to 0.300); these images do not say which",
        "mine: spends 0.600 of the encoder on 40 held-out images",
        "here a fixed exit is as good for no more computation",
        "tgems export ViT-B-32 mine-fixed --results mine-work/results --policy fixed --exit-block 6",
        "left out: 4.png cannot be read",
        "left out: 3 more images; mine-work names them",
    ):
        assert line in done.output
    assert "5.png" not in done.output


def test_images_left_out_are_those_of_packing_or_of_tars_in_place(tmp_path):
    packed, folder = tmp_path / "photos", tmp_path / "results/features/vit/photos/test"
    packed.mkdir()
    write_json(packed / "packed.json", {"left_out": [["a.png", "cannot be read"]]})
    folder.mkdir(parents=True)
    skipped = [{"shard": "7.tar", "key": "k", "reason": "has no captions (.txt)"}]
    recorded = {"backbone": {}, "dtype": "float16", "device": "cpu", "batch_size": 1, "versions": {}, "commit": "c"}
    about = {"weights": "0" * 64, "preprocess": "", "logit_scale": 1.0, "logit_bias": None, "precision": "float32"}
    sizes = {"schema_version": 1, "blocks": [1, 2], "widths": [8], "grids": [1], "n": 1, "prompts": "0" * 64}
    parts = {
        "shards": {},
        "parts": {"0": {"n": 1, "rows": [1], "files": {"000.safetensors": "0" * 64}, "bytes": {"000.safetensors": 9}}},
    }
    write_json(
        folder / "manifest.json", about | sizes | parts | {"skipped": skipped, "recorded": recorded, "files": {}}
    )
    in_packed = images_left_out(tmp_path, "vit", "photos", {"source": f"wds:{packed}"})
    assert in_packed == [("a.png", "cannot be read")]
    in_place = images_left_out(tmp_path, "vit", "photos", {"source": "tars:/elsewhere"})
    assert in_place == [("7.tar::k", "has no captions (.txt)")]
