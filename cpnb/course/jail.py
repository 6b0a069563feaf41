"""Starts the kernel of a stranger's notebook: with no network, little memory and one folder.

    python -m cpnb.course.jail OPTIONS KERNEL-ARGUMENTS...

On Linux the kernel gets a network of its own, with nobody on it, and a Landlock domain: it writes
nowhere but below its own folders, reads Python, the system and cpnb but neither the tests nor the
other submissions, and signals no process outside. What could be had of this is written to
``jail.json`` in the first of its folders. Needs no privileges; those that there are, are dropped.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path

NEW_USER, NEW_NET = 0x10000000, 0x40000000  # linux/sched.h
SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
SET_NO_NEW_PRIVS, DROP_CAPABILITY = 38, 24
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # Landlock's system calls
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1, 2, 4, 8, 1 << 14
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
LARGEST_FILE = 64 << 20  # bytes
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "JPY_PARENT_PID")


def _linux(name: str, *arguments):
    """Call a function of the C library; OSError if it fails or is not there."""
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, TypeError, OSError):
        raise OSError(errno.ENOSYS, f"{name} is not available here") from None
    result = function(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends, so that they can be found."""
    with contextlib.suppress(OSError):
        _linux("prctl", SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """Be killed when the grading process ends, however it ends."""
    with contextlib.suppress(OSError):
        _linux("prctl", SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def leave_network() -> None:
    """Move to a network of which only the loopback exists; notebooks may run kernels on it."""
    user, group = os.getuid(), os.getgid()
    _linux("unshare", NEW_NET if user == 0 else NEW_NET | NEW_USER)
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up_and_running = struct.pack("16sH14x", b"lo", 0x41)
        fcntl.ioctl(any_socket, 0x8914, up_and_running)  # SIOCSIFFLAGS


def close_folders(readable, writable, listed=()) -> int:
    """Shut all files but those below these folders; return the version of Landlock."""
    version = _linux("syscall", CREATE_RULESET, None, 0, 1)
    everything = (1 << (13 + min(version - 1, 2))) - 1
    signals_and_sockets = 3 if version >= 6 else 0
    attributes = struct.pack("QQQ", everything, 0, signals_and_sockets)
    size = 24 if version >= 6 else 8
    rules = _linux("syscall", CREATE_RULESET, attributes, size, 0)
    for paths, rights in ((readable, READ), (writable, everything), (listed, READ_DIR)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                _allow(rules, path, rights & everything)
    _linux("prctl", SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _linux("syscall", RESTRICT_SELF, rules, 0)
    return version


def _allow(rules: int, path: str, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights &= -1 if os.path.isdir(path) else OF_FILES
        _linux("syscall", ADD_RULE, rules, 1, struct.pack("=Qi", rights, handle), 0)
    finally:
        os.close(handle)


def limit(memory: int, seconds: int) -> None:
    """Bounds that hold for each process: bytes of memory, seconds of a core, size of a file."""
    bounds = {"DATA": memory, "CPU": seconds, "FSIZE": LARGEST_FILE, "CORE": 0}
    for name, value in bounds.items():
        with contextlib.suppress(ValueError, OSError):  # of a system that does not have it
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def drop_privileges() -> None:
    """Of root: leave nothing but the name."""
    for capability in range(64):
        with contextlib.suppress(OSError):
            _linux("prctl", DROP_CAPABILITY, capability, 0, 0, 0)


def _attempt(function, *arguments) -> str:
    try:
        function(*arguments)
    except OSError as error:
        return f"no: {error.strerror}"
    return "yes"


def main() -> None:
    """Shut the doors one by one, then become the kernel."""
    options, kernel = json.loads(sys.argv[1]), sys.argv[2:]
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    end_with_parent()
    # "yes" is only written if all went well, and inside, where the writing is allowed.
    told = {"network": _attempt(leave_network)}
    drop_privileges()
    folders = (options["readable"], options["writable"], options["listed"])
    told["files"] = _attempt(close_folders, *folders)
    limit(options["memory"], options["seconds"])
    Path(options["writable"][0], "jail.json").write_text(json.dumps(told))
    nowhere = os.open(os.devnull, os.O_RDWR)  # the terminal is the grader's
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.execve(
        sys.executable,
        [sys.executable, "-m", "ipykernel_launcher", *kernel],
        environment | options["environment"],
    )


if __name__ == "__main__":
    main()
