"""Run a command of tgems as if only its core dependencies were installed: modules of the extras cannot be found.

python tests/without_extras.py WORDS...
"""

import sys
from importlib.machinery import PathFinder

from tgems.cli import main
from tgems.extras import EXTRAS


class CoreOnly(PathFinder):
    """Finds all modules but those of the extras."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] in {name for modules in EXTRAS.values() for name in modules}:
            return None
        return super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = CoreOnly
main()
