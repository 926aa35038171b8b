"""Run `snakemake --lint` and fail on every lint but one: that no rule names a conda environment or a container.

Rules run in the environment that Snakemake runs in, which requirements.lock or environment.yml defines. An environment
that Snakemake made from environment.yml for each rule would not contain tgems itself.
"""

import re
import subprocess
import sys

ACCEPTED = "Specify a conda environment or container for each rule."


def main() -> int:
    """Print all lints that are not accepted; return 0 if there are none."""
    command = [sys.executable, "-m", "snakemake", "--lint"]
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
    lints = [re.sub(r":$", "", title) for title in re.findall(r"^    \* (.+)$", output, re.MULTILINE)]
    if ACCEPTED not in lints or set(lints) != {ACCEPTED}:
        print(output, end="")
        return 1
    print(f"snakemake --lint: {len(lints)} rules run in the environment of Snakemake, and there is no other lint")
    return 0


if __name__ == "__main__":
    sys.exit(main())
