"""Locks itself in, then becomes another program.  `kernel/confined.py` runs this as a script:

    python -I -S _jail.py PARENT key=value … -- program argument …

| key | meaning |
|---|---|
| `cpu`, `memory`, `file`, `processes` | limits: seconds, bytes of address space, bytes of one file, processes |
| `offline=1` | an empty network namespace |
| `family=1` | it may start programs: all of them die with the parent, not the program alone |
| `make` | a file to create, which may be written; it must not exist |
| `read` | a file or directory that may be read; naming one hides everything else but the system's programs |

What this machine does not offer (namespaces, Landlock) is left out: each is one wall of
several, the limits hold everywhere.  The file stands alone and imports little, because
it runs before every tool, in an interpreter without site-packages.
"""

import ctypes
import os
import resource
import signal
import struct
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_READS_FILES = frozenset({1, 2})  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: all that root keeps of its powers

_EXECUTE, _WRITE, _READ, _LIST, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_SYSTEM = ("/bin", "/etc/ld.so.cache", "/gnu/store", "/lib", "/lib32", "/lib64", "/nix/store", "/sbin", "/usr")
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/zero")


def die_with_parent(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Get a signal when the parent dies; go at once if it has died already."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def watch_over_family(parent: int) -> None:
    """Go on in a child; this process stays, and takes everybody with it when the parent dies."""
    ours = os.getpid()
    child = os.fork()
    if not child:
        die_with_parent(ours)
        return
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.killpg(0, signal.SIGKILL)
    for stream in range(3):
        os.close(stream)  # they end with the program
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:  # it was a signal that ended it: end likewise, but leave no image of ourselves
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(ours, -code)
    os._exit(code)


def go_offline() -> bool:
    """Enter a network namespace with nothing in it, inside a user namespace where that takes one."""
    if _LIBC.unshare(_NEWNET) == 0:
        return True
    uid, gid = os.geteuid(), os.getegid()
    if _LIBC.unshare(_NEWUSER | _NEWNET) != 0:
        return False
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
        except OSError:
            continue  # unmapped, the process is still itself for every permission on files
    return True


def give_powers_up() -> None:
    """Keep the program, and whatever it may be tricked into running, from gaining rights."""
    for capability in range(64):
        if capability not in _READS_FILES:
            _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def hide_files(readable: list[str], writable: list[str]) -> bool:
    """Leave nothing in reach but these files and the system's programs (Landlock)."""
    version = _LIBC.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    handled = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("=QQ", handled, 3) if version >= 4 else struct.pack("=Q", handled)  # 3: TCP, both ways
    ruleset = _LIBC.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    look = _EXECUTE | _READ | _LIST
    for paths, rights in (((*_SYSTEM, *readable), look), ((*_DEVICES, *writable), _READ | _WRITE | _TRUNCATE)):
        for path in paths:
            _allow(ruleset, path, rights & handled)
    return bool(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0) == 0)


def home_of(program: str) -> list[str]:
    """Where a program is installed, with its libraries beside it; nothing if that were everything."""
    home = os.path.dirname(os.path.dirname(os.path.realpath(program)))
    return [program, home] if len(home) > 1 else [program]


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this machine
    if not os.path.isdir(path):
        rights &= ~_LIST
    _LIBC.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, place), 0)
    os.close(place)


def set_limits(wanted: dict[str, list[str]]) -> None:
    """Resource limits, none above what the service itself is held to."""
    limits = {resource.RLIMIT_CORE: 0}
    for key, kind in (
        ("cpu", resource.RLIMIT_CPU),
        ("file", resource.RLIMIT_FSIZE),
        ("processes", resource.RLIMIT_NPROC),
        ("memory", resource.RLIMIT_AS),
    ):
        if key in wanted:
            limits[kind] = int(wanted[key][0])
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        spare = 1 if kind == resource.RLIMIT_CPU else 0  # SIGXCPU first, SIGKILL a second later
        top = value + spare if hard == resource.RLIM_INFINITY else min(value + spare, hard)
        resource.setrlimit(kind, (min(value, top), top))


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    wanted: dict[str, list[str]] = {}
    for item in arguments[1:split]:
        key, _, value = item.partition("=")
        wanted.setdefault(key, []).append(value)
    command = arguments[split + 1 :]
    made = wanted.get("make", [])
    for path in made:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    if "offline" in wanted:
        go_offline()
        give_powers_up()
    if "read" in wanted:
        hide_files([*wanted["read"], *home_of(command[0])], made)
    die_with_parent(int(arguments[0]))
    if "family" in wanted:
        watch_over_family(int(arguments[0]))
    set_limits(wanted)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # ignoring them is Python's habit, not the program's
    try:
        os.execv(command[0], command)  # noqa: S606  # no shell is what is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}\n")
        os._exit(126)


if __name__ == "__main__":
    main(sys.argv[1:])
