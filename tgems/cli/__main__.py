"""Run the command line by `python -m tgems.cli`."""

from tgems import cli

cli.main()
