"""Write text into Markdown so that names, which may come from strangers, are never read as markup or HTML."""

import html
import re

from tgems.errors import printable


def literal(value: object) -> str:
    """Write a value as one line of plain text for a paragraph or a table's cell, with markup and HTML escaped."""
    escaped = re.sub(r"([\\`*\[\]|~$])", r"\\\1", html.escape(printable(str(value)), quote=False))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", escaped)  # within a word, _ has no meaning
