import os
import shutil

import pytest
from data.hub_server import COMMIT, use

from tgems.data.fetch import fetch_split
from tgems.data.tar_index import ShardError
from tgems.data.webdataset import Prompts, Sample, SplitFiles, write_prompts, write_split
from tgems.errors import UserError
from tgems.provenance import digest_file, read_json

REPO = "clip-benchmark/wds_small"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one data set: 5 shards of train, 1 of test; shards of 30 kB."""
    root = tmp_path / "remote"
    write_prompts(root, Prompts(("a", "b"), ("a {c}",)))
    for split, n in (("train", 9), ("test", 2)):
        samples = (Sample(f"{split}-{i}", os.urandom(15_000), "png", i % 2) for i in range(n))
        write_split(samples, root / split, 2)
    from huggingface_hub import constants

    with use({REPO: root}, monkeypatch) as running:
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield running


def fetch(tmp_path, where="test", root="copy", revision="main", repo=REPO, out="receipt.json"):
    """Fetch a split and return its receipt."""
    task = "zeroshot_classification"
    fetch_split("small", "test", f"hub:{repo}", where, task, tmp_path / out, str(tmp_path / root), revision)
    return read_json(tmp_path / out)


def refused(tmp_path, where="test"):
    """Return the line with which a fetch ends."""
    with pytest.raises(UserError) as error:
        fetch(tmp_path, where)
    assert "\n" not in str(error.value)
    return str(error.value)


def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_slice_is_fetched_and_nothing_else(hub, tmp_path):
    receipt = fetch(tmp_path, "train[1:3]")
    assert receipt["commit"] == COMMIT and receipt["repo"] == REPO and receipt["folder"] == "train"
    assert [s["path"] for s in receipt["shards"]] == ["train/1.tar", "train/2.tar"]
    remote = hub.repos[REPO]
    assert sorted(hub.downloads()) == [
        *("classnames.txt", "train/1.tar", "train/2.tar", "train/nshards.txt"),
        "zeroshot_classification_templates.txt",
    ]
    split = SplitFiles.of(tmp_path / "receipt.json", "zeroshot_classification")
    for shard in split.shards:
        assert digest_file(shard) == digest_file(remote / "train" / shard.name) == split.digests[shard.name]
    assert [s.key for shard in split.shards for s in split.read(shard)] == [f"train-{i}" for i in (2, 3, 4, 5)]
    assert not [p for p in (tmp_path / "copy").rglob("*.partial")]


def test_a_second_fetch_downloads_nothing_and_needs_no_network(hub, tmp_path, monkeypatch):
    first = fetch(tmp_path)
    hub.requests.clear()
    offline(monkeypatch)
    assert fetch(tmp_path) == first and hub.requests == []
    assert fetch(tmp_path, revision=COMMIT)["commit"] == COMMIT, "what main was when it was fetched"


def test_an_interrupted_download_resumes_within_a_fetch(hub, tmp_path):
    hub.break_off["test/0.tar"] = [20_000]
    fetch(tmp_path)
    assert hub.requests[-1] == ("GET", "test/0.tar", "bytes=16384-"), "whole chunks of 4096 are kept"
    assert digest_file(tmp_path / "copy/test/0.tar") == digest_file(hub.repos[REPO] / "test/0.tar")


def test_an_interrupted_download_resumes_in_the_next_fetch(hub, tmp_path, monkeypatch):
    def no_patience(_):
        raise ConnectionError("cable\npulled")

    hub.break_off["test/0.tar"] = [20_000]
    with monkeypatch.context() as context, pytest.raises(UserError) as error:
        context.setattr("time.sleep", no_patience)
        fetch(tmp_path)
    assert "small: test/0.tar of clip-benchmark/wds_small@main broke off after 16384 of 40960 bytes" in str(error.value)
    assert "(cable pulled); run again to resume from there" in str(error.value)
    assert not (tmp_path / "copy/test/0.tar").exists() and not (tmp_path / "receipt.json").exists()
    hub.requests.clear()
    fetch(tmp_path)
    assert hub.requests == [("GET", "test/0.tar", "bytes=16384-")], "and what was whole before stays"
    assert digest_file(tmp_path / "copy/test/0.tar") == digest_file(hub.repos[REPO] / "test/0.tar")


def test_a_file_that_arrives_damaged_is_refused(hub, tmp_path):
    hub.damaged.add("test/0.tar")
    with pytest.raises(UserError, match="test/0.tar of .* arrived damaged; run again"):
        fetch(tmp_path)
    assert not (tmp_path / "copy/test/0.tar").exists() and not list((tmp_path / "copy").rglob("*.partial"))
    hub.damaged.clear()
    fetch(tmp_path)


@pytest.mark.parametrize("connected", [True, False])
def test_a_file_that_is_altered_later_is_refused(hub, tmp_path, monkeypatch, connected):
    fetch(tmp_path)
    shard = tmp_path / "copy/test/0.tar"
    shard.write_bytes(shard.read_bytes()[:-3] + b"abc")
    if not connected:
        offline(monkeypatch)
    with pytest.raises(UserError, match="test/0.tar: changed since it was downloaded"):
        fetch(tmp_path)
    shard.write_bytes(b"short")
    with pytest.raises(ShardError, match="0.tar: 5 bytes instead of [0-9]+ since .*receipt.json was written"):
        SplitFiles.of(tmp_path / "receipt.json", "zeroshot_classification")


def test_a_users_own_copy_is_used_without_network(hub, tmp_path, monkeypatch):
    shutil.copytree(hub.repos[REPO], tmp_path / "own")
    before = sorted((tmp_path / "own").rglob("*"))
    offline(monkeypatch)
    receipt = fetch(tmp_path, "train", "own")
    assert receipt["commit"] is None and len(receipt["shards"]) == 5
    assert receipt["shards"][4]["sha256"] == digest_file(hub.repos[REPO] / "train/4.tar")
    assert sorted((tmp_path / "own").rglob("*")) == before, "nothing is written there"


def test_a_users_own_copy_is_completed_but_not_overwritten(hub, tmp_path):
    shutil.copytree(hub.repos[REPO], tmp_path / "own")
    (tmp_path / "own/train/3.tar").unlink()
    fetch(tmp_path, "train", "own")
    assert hub.downloads() == ["train/3.tar"]
    (tmp_path / "own/test/0.tar").unlink()
    (tmp_path / "own/classnames.txt").write_text("x\ny\n")
    shutil.rmtree(tmp_path / "own/.tgems")
    with pytest.raises(UserError, match="own/classnames.txt: differs from .*@main; move it away"):
        fetch(tmp_path, "test", "own")
    assert (tmp_path / "own/classnames.txt").read_text() == "x\ny\n"


def test_another_revision_of_the_same_bytes_is_not_downloaded_again(hub, tmp_path, monkeypatch):
    fetch(tmp_path, revision=COMMIT)
    hub.requests.clear()
    assert fetch(tmp_path, revision="main")["commit"] == COMMIT and hub.downloads() == []
    offline(monkeypatch)
    with pytest.raises(UserError, match="is missing, and .* cannot be reached"):
        fetch(tmp_path, revision="f" * 40)


@pytest.mark.parametrize("how", ["offline", "unreachable"])
def test_without_network_and_copy_both_remedies_are_named(hub, tmp_path, monkeypatch, how):
    if how == "offline":
        offline(monkeypatch)
    else:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError) as error:
        fetch(tmp_path)
    message = str(error.value)
    assert f"small: {tmp_path}/copy/classnames.txt is missing, and " in message and "cannot be reached" in message
    assert f"connect to download {REPO}@main, or put the data set at {tmp_path}/copy" in message
    assert "docs/adding-a-dataset.md" in message and "\n" not in message
    assert not (tmp_path / "receipt.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revision": "v9"}, "@v9: no such revision; check datasets.small.revision"),
        ({"repo": "clip-benchmark/none"}, "no such repository, or a private one; check the name, or set HF_TOKEN"),
        ({"repo": "clip-benchmark/gated"}, "its owner must grant access"),
        ({"where": "trian"}, "has no 'trian/nshards.txt'; its splits: test, train"),
        ({"where": "train[3:7]"}, "holds 5 shards, but splits names shard 6; shards are counted from 0"),
        ({"where": "train[5:]"}, "holds 5 shards, but splits names shard 5"),
    ],
)
def test_missing_parts_of_a_hub_data_set_are_named_on_one_line(hub, tmp_path, changes, message):
    hub.gated.add("clip-benchmark/gated")
    with pytest.raises(UserError) as error:
        fetch(tmp_path, **changes)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / "copy").rglob("*.tar"))


NEWER = "feed" + "0" * 36


@pytest.fixture
def moved(hub, tmp_path):
    """The hub, whose `main` has moved on after the test split was fetched: all shards of the new commit differ."""
    first = fetch(tmp_path, out="test.json")
    newer = shutil.copytree(hub.repos[REPO], tmp_path / "newer")
    for split, n in (("train", 9), ("test", 2)):
        shutil.rmtree(newer / split)
        write_split((Sample(f"new-{i}", os.urandom(15_000), "png", i % 2) for i in range(n)), newer / split, 2)
    hub.publish(REPO, newer, NEWER)
    hub.requests.clear()
    return first


@pytest.mark.parametrize("lost", ["nothing", "receipt", "copy"])
def test_a_branch_that_moves_is_not_followed(hub, moved, tmp_path, lost):
    if lost == "receipt":
        (tmp_path / "test.json").unlink()
    if lost == "copy":
        shutil.rmtree(tmp_path / "copy")
    train = fetch(tmp_path, "train", out="train.json")
    assert train["commit"] == COMMIT and train["revision"] == "main"
    old = hub.past[REPO, COMMIT] / "train"
    assert [s["sha256"] for s in train["shards"]] == [digest_file(old / f"{i}.tar") for i in range(5)]
    assert fetch(tmp_path, out="test.json") == moved, "and of one commit"


def test_another_results_folder_shares_the_commit_of_a_copy(hub, moved, tmp_path):
    (tmp_path / "other").mkdir()
    assert fetch(tmp_path, "train", out="other/train.json")["commit"] == COMMIT


def test_a_receipt_is_preferred_to_a_copy_that_another_run_has_replaced(hub, moved, tmp_path):
    shutil.rmtree(tmp_path / "copy")
    (tmp_path / "other").mkdir()
    assert fetch(tmp_path, out="other/test.json")["commit"] == NEWER
    assert fetch(tmp_path, out="test.json") == moved
    assert digest_file(tmp_path / "copy/test/0.tar") == moved["shards"][0]["sha256"]


def test_a_change_of_the_revision_is_followed(hub, moved, tmp_path):
    assert fetch(tmp_path, revision=NEWER, out="test.json")["commit"] == NEWER
    assert digest_file(tmp_path / "copy/test/0.tar") == digest_file(hub.repos[REPO] / "test/0.tar")


def test_a_commit_that_is_gone_is_named(hub, moved, tmp_path):
    hub.past.clear()
    with pytest.raises(UserError) as error:
        fetch(tmp_path, "train", out="train.json")
    assert f"@main: it was commit {COMMIT} when it was fetched, which no longer exists; set" in str(error.value)


def test_a_hub_that_is_busy_says_how_long_and_the_next_fetch_goes_on(hub, tmp_path):
    hub.busy = [40]
    wait = "too many requests; run again in 40 seconds, or set HF_TOKEN for a higher limit"
    said = refused(tmp_path)
    assert said.startswith(f"small: cannot read {hub.url}/datasets/{REPO}@main: the hub says") and said.endswith(wait)
    hub.busy_files = [40] * 10
    said = refused(tmp_path)
    assert said.startswith(f"small: classnames.txt of {REPO}@main cannot be read: the hub") and said.endswith(wait)
    hub.busy_files = [1]
    fetch(tmp_path)
    assert not hub.busy_files, "a single refusal is waited for"


def test_files_that_only_some_may_read_name_the_token(hub, tmp_path):
    hub.gated_files.add(REPO)
    said = refused(tmp_path)
    assert said.startswith(f"small: classnames.txt of {REPO}@main cannot be read: its owner must grant access; ask")
    assert said.endswith("then set HF_TOKEN")
    hub.gated_files.clear()
    fetch(tmp_path)


def test_finished_files_are_not_downloaded_again(hub, tmp_path):
    hub.damaged.add("train/2.tar")
    assert "train/2.tar of clip-benchmark/wds_small@main arrived damaged; run again" in refused(tmp_path, "train")
    hub.damaged.clear()
    hub.requests.clear()
    fetch(tmp_path, "train")
    assert hub.downloads() == [f"train/{i}.tar" for i in (2, 3, 4)]
