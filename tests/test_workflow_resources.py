"""Memory and time that jobs ask for."""

import pytest
import yaml
from conftest import ROOT

from tgems.workflow_config import complete_config
from tgems.workflow_resources import JobEstimates
from tgems.workload import LARGE


def estimates(name, **changes):
    """Estimates of a shipped configuration with some keys changed."""
    return JobEstimates(complete_config(yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text()) | changes))


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_evaluation_on_imagenet_asks_for_ten_gigabytes_and_more():
    paper = estimates("paper")
    for backbone in paper.config["backbones"]:
        asked = paper.evaluation(backbone, "default", "imagenet1k", "test").mem_mb
        assert 10_000 <= asked <= 40_000, backbone
        assert asked > paper.evaluation(backbone, "default", "cifar10", "test").mem_mb


def test_more_images_ask_for_more_of_both():
    few, many = (estimates("config", demo={"train": n, "test": n}) for n in (2_000, 200_000))
    for stage in ("training", "encoding", "evaluation"):
        arguments = {
            "training": ("demo-vit-12", "default", "heads"),
            "encoding": ("demo-vit-12", "digits", ["test"]),
            "evaluation": ("demo-vit-12", "default", "digits", "test"),
        }[stage]
        less, more = getattr(few, stage)(*arguments), getattr(many, stage)(*arguments)
        assert more.mem_mb > less.mem_mb and more.runtime > less.runtime, stage


def test_fewer_exits_ask_for_less():
    many = {"rate_targets": [0.9], "demo": {"train": 200_000}}
    every, some = estimates("config", **many), estimates("config", exits=[6], **many)
    asked = [e.training("demo-vit-12", "default", "heads") for e in (every, some)]
    assert asked[0].mem_mb > asked[1].mem_mb and asked[0].runtime > asked[1].runtime


def test_summaries_that_are_read_from_disk_need_no_memory():
    held, streamed = (estimates("config", features={"in_memory_gb": gb}, demo={"train": 500_000}) for gb in (1_000, 1))
    arguments = ("demo-vit-12", "default", "heads")
    assert held.training(*arguments).mem_mb > 2 * streamed.training(*arguments).mem_mb


def test_a_job_that_shares_a_split_takes_its_share_of_the_time():
    paper = estimates("paper")
    whole, part = (paper.encoding("ViT-L-14", "imagenet1k", ["test"], share) for share in (1, 1 / 16))
    assert part.runtime < whole.runtime


def test_a_tower_without_a_closed_form_counts_as_a_large_one():
    entry = {"siglip": {"model": "ViT-B-16-SigLIP", "pretrained": "random"}}
    assert estimates("smoke", backbones=entry).sizes("siglip", "default") == LARGE
