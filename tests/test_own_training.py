import pandas as pd
import pytest

from tgems.errors import UserError
from tgems.own_training import configuration, reached, train
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


def test_what_was_reached_is_read_beside_policies_of_no_higher_rate(tmp_path):
    metric, rows = "text_retrieval_recall@1", []
    for policy, rate, value, seed in [
        ("full", 1.0, 1.0, None),
        ("fixed", 0.3, 0.5, "0"),
        ("fixed", 0.55, 0.7, "0"),
        ("fixed", 0.7, 0.9, "0"),
        ("tgem", 0.58, 0.6, "0"),
        ("tgem", 0.58, 0.6, "mean"),
    ]:
        rows.append({"policy": policy, "rate": rate, "metric": metric, "value": value, "seed": seed, "n": 40})
    pd.DataFrame(rows).assign(twin_of=None).to_csv(tmp_path / "t.csv", index=False)
    found = reached(tmp_path / "t.csv", "self_retrieval", 0.6)
    assert found.rows == [("full", 1.0, [1.0]), ("tgem", 0.58, [0.6]), ("fixed", 0.55, [0.7])]
    assert (found.n, found.rate, found.fixed_is_as_good) == (40, 0.58, True)


def test_bad_options_end_before_anything_is_encoded(tmp_path):
    photos = tmp_path / "photos"
    with pytest.raises(UserError, match="there is no such folder"):
        train("ViT-B-32", "random", str(photos), 0.6, tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "out").exists()
