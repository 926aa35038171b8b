"""Captions and names appear in figures and tables as they are, whatever they mean to matplotlib, Markdown or LaTeX."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from matplotlib.text import Text
from reporting.test_reporting import made  # noqa: F401

from tgems.config.run import ALL_POLICIES
from tgems.reporting.figures import FIGURES
from tgems.reporting.style import looks_of, save, use_style
from tgems.reporting.tables import write_table

ODD = r"$\frac{a_b^c & 50% | <b> *x* ~"
OWN = """
from tgems.policies.confidence import Margin
class Own(Margin):
    name = "own"
    label = r"_$\\frac{a & 50% | ^"
"""
CAPTIONS = {
    "prices": ("costs $5 or $6", "costs $5 or $6"),
    "a command that is cut off": (r"$\frac{", r"$\frac{"),
    "TeX": (r"\alpha_b^c & 5% #1 ~", r"\alpha_b^c & 5%"),
    "control characters": ("a\x00\x1b[2Jb", r"a\x00\x1b[2Jb"),
    "a change of direction": ("שלום \u202eabc", r"שלום \u202eabc"),
    "a very long word": ("x" * 1_000_000, "x" * 17),
    "many words": ("word " * 200_000, "word word word"),
    "emoji": ("👩 猫", "👩 猫"),
}
"""Cases: what is wrong with a caption, the caption, and the beginning of the text that is drawn."""


@pytest.fixture
def frames(made):  # noqa: F811
    """The tables of a run whose data sets, backbone and variant have odd names, and which has a policy of its own."""
    use_style()
    root, parts = made
    names = {"digits": f"digits {ODD}", "scenes": f"_scenes {ODD}", "demo": f"demo {ODD}", "margin": "own"}
    found = {path.stem: pd.read_csv(path, dtype={"seed": str}) for path in (root / "tables").glob("*.csv")}
    found |= {name: pd.concat(map(pd.read_parquet, files), ignore_index=True) for name, files in parts.items()}
    return {name: frame.replace(names) for name, frame in found.items()}


@pytest.fixture
def looks(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return looks_of([*ALL_POLICIES, f"{tmp_path}/own.py:Own"])


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_names_are_drawn_as_they_are(frames, looks, name, tmp_path):
    figure = FIGURES[name](frames, looks)
    assert not any(text.get_parse_math() for text in texts(figure))
    drawn = " ".join(word for text in texts(figure) for word in text.get_text().split())
    assert ODD in drawn and (name != "tradeoff" or r"_$\frac{a & 50% | ^" in drawn)
    save(figure, str(tmp_path / "a.pdf"), str(tmp_path / "a.png"))
    assert plt.imread(tmp_path / "a.png")[..., :3].std() > 0.02


@pytest.mark.parametrize("caption", CAPTIONS)
def test_captions_are_drawn_as_they_are(frames, looks, caption, tmp_path):
    written, begins = CAPTIONS[caption]
    figure = FIGURES["gallery"]({"gallery": frames["gallery"].assign(text=written)}, looks)
    assert not any(text.get_parse_math() for text in texts(figure))
    drawn = [text.get_text() for text in texts(figure)]
    assert any(text.startswith(begins) for text in drawn) and max(map(len, drawn)) < 100
    save(figure, str(tmp_path / "a.pdf"), str(tmp_path / "a.png"))


def test_tables_show_names_as_they_are(tmp_path):
    words = [ODD, "_emphasis_", "a_b", r"back\slash", "[link](x)", "`code`", "# 1", "&amp;", "a|b"]
    table = pd.DataFrame({word: [word] for word in words})
    write_table(tmp_path / "t", table, table)
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse((tmp_path / "t.md").read_text())
    inline = [token for token in page if token.type == "inline"]
    assert ["".join(child.content for child in token.children) for token in inline] == words * 2
    assert {child.type for token in inline for child in token.children} <= {"text", "text_special"}
    latex = (tmp_path / "t.tex").read_text()
    cells = [
        cell.strip() for line in latex.splitlines() if line.endswith(r"\\") for cell in re.split(r"(?<!\\)&", line)
    ]
    assert len(cells) == 2 * len(words) and not re.search(r"(?<!\\)[$%#_^~]", latex)
    assert list(pd.read_csv(tmp_path / "t.csv").columns) == words
