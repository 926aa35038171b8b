import pandas as pd
import pytest

from tgems.data.dataset_entries import evaluates_a_part
from tgems.reporting.published import has_published
from tgems.reporting.references import check_references, write_references

BACKBONES = {
    "b": {"model": "ViT-B-32-quickgelu", "pretrained": "openai"},
    "mine": {"pretrained": "local-dir:mine"},
}


def _points(*values):
    rows = [
        {"backbone": b, "dataset": d, "policy": p, "metric": m, "value": v, "ci_low": v, "ci_high": v, "n": 1000}
        for b, d, p, m, v in values
    ]
    return pd.DataFrame(rows).assign(score_normalisation="none")


POINTS = _points(
    ("b", "imagenet1k", "full", "acc1", 0.6332 + 0.004),
    ("b", "imagenet1k", "full", "acc5", 0.9),
    ("b", "imagenet1k", "fixed", "acc1", 0.1),
    ("b", "flickr30k", "full", "image_retrieval_recall@1", 0.5878 - 0.0041),
    ("b", "own_set", "full", "acc1", 0.5),
    ("mine", "imagenet1k", "full", "acc1", 0.6332),
)


def test_only_the_full_encoder_is_compared_within_four_tenths_of_a_point():
    table = check_references(POINTS, BACKBONES)
    assert table[["dataset", "metric", "verdict"]].to_numpy().tolist() == [
        ["imagenet1k", "acc1", "pass"],
        ["flickr30k", "image_retrieval_recall@1", "fail"],
    ]
    assert table["difference"].round(4).tolist() == [0.004, -0.0041]


def test_a_value_of_a_whole_split_is_not_compared_with_a_part(tmp_path, caplog):
    POINTS.to_csv(tmp_path / "tradeoff.csv", index=False)
    with caplog.at_level("INFO"):
        write_references(tmp_path / "tradeoff.csv", BACKBONES, tmp_path / "references.csv", ["flickr30k"])
    table = pd.read_csv(tmp_path / "references.csv").set_index("dataset")
    assert table["verdict"].to_dict() == {"imagenet1k": "pass", "flickr30k": "part"}
    assert table.loc["flickr30k", ["published", "difference", "tolerance"]].isna().all()
    assert table.loc["flickr30k", "value"] == 0.5878 - 0.0041, "and the run's own value stays"
    assert "1 of 1 published values are met" in caplog.text and "flickr30k: a part of the test split" in caplog.text


@pytest.mark.parametrize(
    ("split", "part"), [("test", False), ("val", False), ("none", False), ("test[:2]", True), ("test[1:]", True)]
)
def test_a_slice_of_shards_is_a_part(split, part):
    assert evaluates_a_part({"splits": {"test": split}}) is part


def test_failures_are_logged_and_kept_in_the_table(tmp_path, caplog):
    POINTS.to_csv(tmp_path / "tradeoff.csv", index=False)
    write_references(tmp_path / "tradeoff.csv", BACKBONES, tmp_path / "references.csv")
    assert "b on flickr30k: image_retrieval_recall@1 is 0.5837, published is 0.5878" in caplog.text
    assert len(pd.read_csv(tmp_path / "references.csv")) == 2 and (tmp_path / "references.tex").is_file()


def test_published_values_do_not_apply_to_encoders_that_merge_tokens():
    merging = {"b": BACKBONES["b"] | {"token_merging": 8}}
    assert not has_published(merging, ["flickr30k"]) and check_references(POINTS, merging).empty
    assert len(check_references(POINTS, {"b": BACKBONES["b"] | {"token_merging": 0}})) == 2


def test_a_run_without_released_models_has_no_published_values():
    assert has_published(BACKBONES, ["flickr30k"])
    assert not has_published(BACKBONES, ["digits"])
    assert not has_published({"mine": BACKBONES["mine"]}, ["imagenet1k"])
