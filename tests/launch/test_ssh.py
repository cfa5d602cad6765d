"""SSH hosts, for real: a server of the test's own on this machine, with keys made for it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.launcher import PROGRAM, ROOT, environment, launch, wait_until

SERVER = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(
    SERVER is None or shutil.which("ssh-keygen") is None, reason="needs sshd: apt-get install openssh-server"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a client's config for the hosts `one` and `two`, both the server that runs meanwhile."""
    port = free_port()
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    (tmp_path / "server").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {tmp_path}/host_key\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path}/user_key.pub\nPasswordAuthentication no\nUsePAM no\n"
        "Subsystem sftp internal-sftp\n"
    )
    (tmp_path / "client").write_text(
        f"Host one two\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {tmp_path}/user_key\n  IdentitiesOnly yes\n"
        f"  StrictHostKeyChecking no\n  UserKnownHostsFile {tmp_path}/known\n  LogLevel ERROR\n"
    )
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / ".gitconfig").write_text(f"[safe]\n\tdirectory = {ROOT}\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it drops its rights; a system service would have made it
    assert SERVER is not None
    with subprocess.Popen([SERVER, "-D", "-e", "-f", str(tmp_path / "server")], stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: answers(port))
            yield tmp_path
        finally:
            server.terminate()


def test_from_create_to_logs(folder: Path) -> None:
    flags = ["--name=demo", "--hosts=one,two", f"--ssh_config={folder}/client", f"--folder={folder}/launch"]
    flags += ["--poll_seconds=0.1", "--coordinator=127.0.0.1:9876"]
    home = environment(folder)
    launch(home, "sync", *flags)
    jobs = [folder / "launch/demo" / f"worker_{worker}" / "jobs/latest" for worker in range(2)]
    program = ["--", shutil.which("python3") or "python3", str(folder / "program.py")]
    printed = launch(home, "run", *flags, *program, "sleep,end:4", "it's $HOME", code=4)
    assert "worker 1 exited 4" in printed and "stopping worker 0" in printed
    assert [(job / "exit_code").read_text() for job in jobs] == ["143\n", "4\n"]
    assert "worker 1 of 2 [\"it's $HOME\"]" in launch(home, "logs", *flags, "--worker=1"), "quoted for two shells"
    addresses = "JAX_COORDINATOR_ADDRESS=127.0.0.1:9876 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={} AUXJAX_SUPERVISED=1 -- "
    assert [(job / "command").read_text().startswith(addresses.format(n)) for n, job in enumerate(jobs)] == [True, True]
    printed = launch(home, "status", *flags, code=1)
    assert "[0] exited 143" in printed and "[1] exited 4" in printed


def test_a_host_that_does_not_answer_is_named(folder: Path) -> None:
    flags = ("--hosts=one,nowhere.invalid", f"--ssh_config={folder}/client", "--poll_seconds=0.01")
    assert "error: worker 1 cannot be reached: " in launch(environment(folder), "create", *flags, code=2)
