"""Hooks of MkDocs: make pages of the Markdown files beside `docs/`, and let links between all of them work on the site.

A link to a file that is no page, such as a module, becomes the name of the file.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "configs/README.md": "configuration.md",
    "results/README.md": "results.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository that become pages, by the names of the pages."""
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files, config):
    """Add the pages that stand elsewhere."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite the links of a page from places in the repository to places on the site."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def moved(match):
        image, text, target, anchor = match.groups()
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        name = PAGES.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        if name is None:
            if not (ROOT / place).exists():
                raise ValueError(f"{source}: links to {place}, which does not exist")
            return text if text.strip("`") != target else f"`{place}`"
        return f"{image}[{text}]({name}{anchor or ''})"

    parts = re.split(r"(^```.*?^```\n)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts)
