"""Run the command line by `python -m tgems.cli`."""

from tgems.cli import main

main()
