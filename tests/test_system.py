"""On Windows the library works, and each command says in one line that it does not run there."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from imtok.cli import COMMANDS, main, run_hydra

ROOT = Path(__file__).parents[1]
GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.mark.parametrize("command", [*COMMANDS, "trian"])
def test_every_command_says_one_line_on_windows(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["imtok", command, "tokenizer=runs/mine"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("imtok: the commands of imtok run on Linux and macOS, and not on Windows; use WSL")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "eval"])
def test_the_scripts_of_a_checkout_say_the_same(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", [f"{command}.py", "size=tiny"])
    with pytest.raises(SystemExit) as ended:
        run_hydra(command)
    assert ended.value.code == 2
    assert "not on Windows" in capsys.readouterr().err


def test_version_and_usage_are_told_on_windows_as_well(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    for word in ("--version", "--help"):
        monkeypatch.setattr(sys, "argv", ["imtok", word])
        main()
        assert capsys.readouterr().out.startswith("imtok ")


EARLY = """
import runpy, sys
sys.platform = "win32"
sys.argv = [{script!r}, "size=tiny"]
try:
    runpy.{run}
finally:
    print("torch" in sys.modules)
"""


@pytest.mark.parametrize(
    "run",
    [
        "run_module('imtok', run_name='__main__')",
        f"run_path({str(ROOT / 'train.py')!r}, run_name='__main__')",
        f"run_path({str(ROOT / 'eval.py')!r}, run_name='__main__')",
    ],
)
def test_it_is_said_before_anything_is_imported_that_windows_may_lack(run, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", EARLY.format(script="imtok", run=run)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("imtok: the commands of imtok run on Linux and macOS, and not on Windows; use WSL")
    assert result.stderr.count("\n") == 1
    assert result.stdout == "False\n"


LIBRARY = """
import importlib, os, pkgutil, signal, stat, sys

def modules():
    import imtok
    for module in pkgutil.walk_packages(imtok.__path__, "imtok."):
        importlib.import_module(module.name)

modules()  # what they need of other packages, which have versions for Windows
for name in [name for name in sys.modules if name.partition(".")[0] == "imtok"]:
    del sys.modules[name]

for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix"):
    sys.modules[name] = None
for name in ("fork", "register_at_fork", "pread", "pwrite", "fchmod", "getuid", "geteuid", "killpg", "sync", "uname"):
    delattr(os, name)
for name in ("SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGKILL", "SIGHUP", "SIGALRM", "SIGPIPE"):
    delattr(signal, name)
flush, opened = os.fsync, os.open
flags = {}

def windows_open(path, how, *rest, **keys):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied")
    descriptor = opened(path, how, *rest, **keys)
    flags[descriptor] = how
    return descriptor

def windows_fsync(descriptor):
    if flags.pop(descriptor, os.O_RDWR) & (os.O_RDWR | os.O_WRONLY) == 0:
        raise OSError(9, "Bad file descriptor")
    flush(descriptor)

def windows_kill(pid, number):
    os._exit(77)  # 0 is Ctrl-C there

os.open, os.fsync, os.kill, sys.platform = windows_open, windows_fsync, windows_kill, "win32"
modules()

import torch
from pathlib import Path
from imtok.errors import InputError
from imtok.files import Lock
from imtok.measures.psnr import PSNR
from imtok.quantizers.fsq import FSQ
from imtok.tokenizer import Tokenizer

patch = {"patch_size": 8, "width": 8, "depth": 1}
parts = {part: {"_target_": f"imtok.{part}s.patch.Patch{part.title()}", **patch} for part in ("encoder", "decoder")}
quantizer = {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]}
Path(".mine.4242.tmp").mkdir()  # of another process, of which nothing can be known
Tokenizer.from_config({**parts, "quantizer": quantizer, "image_size": 32}).save("mine")
tokenizer = Tokenizer.load("mine")
images = torch.rand(2, 3, 32, 32) * 2 - 1
again = tokenizer.decode(tokenizer.encode(images), (32, 32))
metric = PSNR()
metric.update(images, again)
print(float(metric.compute()) > 0, FSQ([4, 4])(torch.zeros(1, 4, 2)).ids.shape[1])
try:
    Lock(Path("lock"), "out=mine").take()
except InputError as error:
    print(error)
"""


def test_the_library_is_imported_and_used_without_what_windows_lacks(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", LIBRARY],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    first, second = result.stdout.splitlines()
    assert first == "True 4"
    assert "not on Windows" in second


FAULTS = """
import resource, sys
from imtok.system import keep_memory
import torch
changed, counts = keep_memory(), []
for _ in range(20):
    torch.empty(2**24).fill_(1)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
faults = counts[-1] - counts[9]
print(changed, faults * resource.getpagesize())
"""


@pytest.mark.skipif(not GLIBC, reason="there is no glibc")
@pytest.mark.parametrize(("setting", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)])
def test_the_memory_of_freed_tensors_is_kept_unless_the_environment_says_otherwise(setting, kept):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=ROOT, env=environment | setting, capture_output=True, text=True, check=True
    )
    changed, faulted = ran.stdout.split()
    assert changed == str(kept)
    assert (int(faulted) < 2**24) == kept  # of ten times 64 MB
