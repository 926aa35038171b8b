"""The command line: what it prints, what it writes, how it ends."""

import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import DEMO, ROOT
from typer.testing import CliRunner

from tgems.cli import app
from tgems.data.webdataset import read_shard, shard_paths
from tgems.provenance import read_json
from tgems.runtime import image_files, index


def tgems(*words, code: int = 0) -> str:
    """Run the command line; output and errors."""
    run = CliRunner().invoke(app, [str(w) for w in words])
    assert run.exit_code == code, (run.output, run.exception)
    assert "Traceback" not in run.output
    return run.output


def test_help_suffices_and_is_quick():
    assert all(
        word in tgems("--help")
        for word in ("encode", "calibrate", "search", "macs", "info", "export", "compare", "Exit codes")
    )
    for command in ("encode", "calibrate", "search", "macs", "info", "export", "compare", "clip-benchmark"):
        text = tgems(command, "--help")
        assert "Usage" in text and len(text.splitlines()) > 8
    tgems(code=2)
    tgems("encode", "a.png", code=2)


NEVER = "clip_benchmark fvcore jsonschema matplotlib scipy seaborn sklearn snakemake webdataset"
NO_MODEL = f"{NEVER} huggingface_hub open_clip timm torch torchvision transformers"


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], f"{NO_MODEL} numpy pandas pyarrow"),
        (["info", "{saved}"], f"{NO_MODEL} pandas pyarrow"),
        (["compare", "{results}", "{results}"], NO_MODEL),
        (["encode", "{pictures}", "-m", "{saved}", "-o", "{out}"], NEVER),
        (["calibrate", "{copy}", "{shots}", "--rate", "0.5"], f"{NEVER} pandas"),
        (["search", "a red four", "-i", "{full_index}", "-m", "{saved}"], f"{NEVER} pandas"),
    ],
)
def test_a_command_imports_what_it_needs_alone(
    words, absent, saved, results, pictures, full_index, demo_data, tmp_path
):
    named = {"saved": saved, "results": results, "pictures": pictures, "full_index": full_index}
    named |= {"copy": shutil.copytree(saved, tmp_path / "copy"), "shots": demo_data / "scenes/test"}
    words = [word.format(out=tmp_path / "i.parquet", **named) for word in words]
    code = (
        f"import atexit, sys; found = lambda: [m for m in {absent.split()!r} if m in sys.modules]; "
        f"atexit.register(lambda: print('imported', found())); sys.argv[1:] = {words!r}; "
        "from tgems.cli import main; main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout.rstrip().endswith("imported []"), run.stdout + run.stderr


@pytest.fixture(scope="module")
def full_index(make, results, demo_data, tmp_path_factory):
    """All test scenes at full depth, where the demo backbone is good; and the T-GEM."""
    folder = tmp_path_factory.mktemp("index")
    model = make()
    model.thresholds = dict.fromkeys(range(7), float("inf"))
    make().save_pretrained(folder / "g")
    images = image_files.find_images([str(demo_data / "scenes/test")])
    index.encode_images(model, str(folder / "g"), images, folder / "i.parquet")
    return folder / "i.parquet"


def test_search_finds_the_right_image(full_index, demo_data, make):
    samples = {
        s.key: s for path in shard_paths(demo_data / "scenes/test") for s in read_shard(path, "zeroshot_retrieval")
    }
    found = 0
    for key in list(samples)[:5]:
        output = tgems("search", samples[key].captions[0], "-i", full_index, "-k", 3)
        rows = output.splitlines()[1:]
        assert len(rows) == 3
        scores = [float(row.split()[0]) for row in rows]
        assert scores == sorted(scores, reverse=True)
        captions = samples[rows[0].split("::")[1].strip()].captions
        found += samples[key].captions[0] in captions
    assert found >= 4


def test_a_mixed_index_is_a_warning(full_index, saved, pictures, tmp_path):
    tgems("encode", pictures, "-m", saved, "-o", tmp_path / "i.parquet", "--max-rate", 0.5)
    output = tgems("search", "a red four", "-i", full_index, "-i", tmp_path / "i.parquet", "-m", saved, code=3)
    assert "warning: the index mixes 2 values of max_rate (0.5, none)" in output and len(output.splitlines()) >= 11
    frame = pd.read_parquet(full_index)
    frame.assign(backbone="f00d" * 16).to_parquet(tmp_path / "foreign.parquet")
    output = tgems("search", "a red four", "-i", tmp_path / "foreign.parquet", "-m", saved, code=3)
    assert "not by the index's backbone" in output
    frame.assign(embedding=[np.zeros(3)] * len(frame)).to_parquet(tmp_path / "short.parquet")
    assert "not of 64 numbers" in tgems("search", "x", "-i", tmp_path / "short.parquet", "-m", saved, code=1)
    assert "missing; make it with" in tgems("search", "x", "-i", tmp_path / "none.parquet", code=1)
    frame.drop(columns="policy").to_parquet(tmp_path / "other.parquet")
    assert "has no column 'policy'" in tgems("search", "x", "-i", tmp_path / "other.parquet", code=1)


def test_an_exported_t_gem_is_described_by_info(results, tmp_path):
    words = ["export", "demo", tmp_path / "g", "--results", results]
    assert "tgems info" in tgems(*words)
    output = tgems("info", tmp_path / "g")
    point = read_json(results / "evaluation/demo/default/scenes/thresholds.json")["thresholds"]
    point = next(p for p in point if p["policy"] == "tgem")
    for text in ("demo-vit-8", "tgem", f"{point['rate_validation']:.3f}", "image_retrieval_recall@1", "after block"):
        assert text in output
    assert "saved in" in tgems(*words, "--policy", "fixed", "--exit-block", 3)
    assert "fixed" in tgems("info", tmp_path / "g")
    for wrong, message in (
        (["--policy", "oracle"], "policy 'oracle' does not decide image by image, so that it cannot be exported; use"),
        (["--policy", "tgemm"], "policy 'tgemm' is not in this run; it has fixed, fixed_raw, max_softmax"),
        (["--rate", 0.3], "rate target 0.3 is not in this run; it has 0.6"),
        (["--seed", 7], "seed 7 is not in this run; it has 0"),
        (["--policy", "fixed", "--exit-block", 8], "exit block 8 is not in this run; it has 1, 2"),
        (["--results", tmp_path], "give the results folder of a finished run"),
    ):
        assert message in tgems(*words, *wrong, code=1)
    assert "not a saved T-GEM" in tgems("info", tmp_path, code=1)


def test_compare_says_what_moved(results, tmp_path):
    output = tgems("compare", results, results)
    equal = re.search(r"^([\d,]+) numbers in both runs: ([\d,]+) equal, 0 moved", output)
    assert equal and equal[1] == equal[2] and "0 in only one run" in output
    other = tmp_path / "results"
    shutil.copytree(results / "tables", other / "tables")
    points = pd.read_csv(other / "tables/tradeoff.csv", dtype={"seed": "string"})
    chosen = points["policy"].eq("tgem") & points["metric"].eq("acc1") & points["calibration"].eq("transfer")
    chosen &= points["seed"].eq("0")
    within = points.assign(value=points["value"].where(~chosen, points["value"] + 1e-4))
    within.to_csv(other / "tables/tradeoff.csv", index=False)
    assert "0 moved" in tgems("compare", results, other), "within the intervals"
    moved = points.assign(**{k: points[k].where(~chosen, points[k] + 2) for k in ("value", "ci_low", "ci_high")})
    moved.to_csv(other / "tables/tradeoff.csv", index=False)
    output = tgems("compare", results, other, code=3)
    assert re.search(r"demo default digits tgem transfer none 0\.6 0 acc1 +\d.\d{4} +\d.\d{4} +\+2\.0000", output)
    assert "1 moved" in output
    points[points["policy"].ne("hull")].to_csv(other / "tables/tradeoff.csv", index=False)
    assert re.search(r"demo digits hull +\d+ +0", tgems("compare", results, other, code=3))
    shutil.copytree(results / "tables", other / "tables", dirs_exist_ok=True)
    text = (other / "tables/provenance.json").read_text()
    (other / "tables/provenance.json").write_text(text.replace(DEMO["pretrained"], "local-dir:other"))
    assert re.search(r"backbones.demo.pretrained +.*demo-vit-8 +local-dir:other", tgems("compare", results, other))
    assert "give the results folder of a finished run" in tgems("compare", results, tmp_path, code=1)


def test_start_is_quick(saved):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for words in (["--help"], ["info", str(saved)]):
        start = time.process_time() + sum(os.times()[2:4])
        subprocess.run([sys.executable, "-m", "tgems.cli", *words], env=environment, check=True, capture_output=True)
        assert time.process_time() + sum(os.times()[2:4]) - start < 1.5, "seconds of computation"


def test_macs_is_the_profiler_s_command():
    from tgems.profiling.cost_table import cost_table

    assert cost_table(DEMO["pretrained"]) in tgems("macs", DEMO["pretrained"])
