"""A Slurm cluster of one node, this machine, on loopback: munged, slurmctld and slurmd, in a folder of their own."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
SRUN = """#!/bin/sh
# The executor of jobs removes SLURM_CONF from the environment of srun.
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


def why_not() -> str | None:
    """Why no cluster can be started here; None if one can."""
    if os.geteuid() != 0:
        return "slurmctld, slurmd and munged are started as root"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} not found; on Debian: apt-get install slurm-wlm munge"
    host = socket.gethostname()
    try:
        addresses = {where[4][0] for where in socket.getaddrinfo(host, None)}
    except socket.gaierror:
        addresses = set()
    if not addresses or not all(str(address).startswith("127.") for address in addresses):
        return f"Slurm listens where the host name {host} leads, which is {addresses or 'nowhere'} and not loopback"
    return None


@contextmanager
def cluster(folder: Path, cores: int) -> Iterator[dict[str, str]]:
    """Start a cluster in a new folder; yield the environment in which Slurm's commands find it; end its jobs, and
    then the daemons, also when the test fails."""
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    key, config, srun = folder / "munge.key", folder / "slurm.conf", folder / "bin/srun"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    control, node = _free_ports(2)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
    host = socket.gethostname()
    config.write_text(CONFIG.format(folder=folder, host=host, control=control, node=node, cores=cores, memory=memory))
    srun.write_text(SRUN.format(folder=folder, srun=shutil.which("srun")))
    srun.chmod(0o755)
    environment = {"SLURM_CONF": str(config), "PATH": f"{srun.parent}:{os.environ['PATH']}"}
    files = {"socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed", "key-file": key.name}
    munged = ["munged", "--foreground", "--force", *(f"--{option}={folder / name}" for option, name in files.items())]
    with ExitStack() as stack:
        stack.enter_context(_running(munged, folder, environment))
        _wait((folder / "munge.socket").exists, folder, "munged")
        for daemon in ("slurmd", "slurmctld"):  # ended in the opposite order: slurmctld would wait for an absent slurmd
            stack.enter_context(_running([daemon, "-D", "-c", "-f", str(config)], folder, environment))
        _wait(lambda: "idle" in slurm(environment, "sinfo", "-h", "-o", "%T"), folder, "slurmctld and slurmd")
        try:
            yield environment
        finally:
            slurm(environment, "scancel", "--user", "root")
            _wait(lambda: not slurm(environment, "squeue", "-h"), folder, "the end of all jobs")


def slurm(environment: dict[str, str], *command: str) -> str:
    """Output of one of Slurm's commands; empty if it fails, as all do before slurmctld answers."""
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=30
    ).stdout.strip()


@contextmanager
def _running(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a daemon in the foreground of a process of ours, and end it."""
    with (folder / f"{command[0]}.out").open("w") as out:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(happened, folder: Path, what: str, seconds: float = 60) -> None:
    """Wait until something has happened; fail with what the daemons said if it does not."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            said = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.out")))
            raise AssertionError(f"{what} did not come within {seconds:.0f} s\n{said}")
        time.sleep(0.2)


def _free_ports(n: int) -> list[int]:
    """Return ports that are free at the moment."""
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
