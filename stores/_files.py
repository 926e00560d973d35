"""What files need done by blocking calls: written whole or not at all, shared without copying, made to last.

Everything here runs in a thread of the store's own.  A `Draft` and a `Reader` may
be told to stop from elsewhere at any moment, for their caller can be cancelled
while a thread is still inside a call; their lock makes the clean-up wait for it.

    open ──▶ write … write ──▶ commit: chmod, fsync, final name, fsync of the directory
      └──────────┴──────────────┴────▶ discard: no name of it is left
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

PIECE: Final = 1 << 20
"""Bytes moved by one call: enough to forget the cost of the thread, little to wait for."""
PART: Final = ".part"
"""Suffix of a file in the making; names of ours end in a number, so it is never taken for one."""

_COPY: Final = 16 << 20
"""Bytes that the kernel copies in one call; a copy can be stopped in between."""
_WINDOW: Final = 8 << 20
"""Bytes after which the disk is set to work, long before the fsync that waits for it."""
_FICLONE: Final = 0x40049409
_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NO_CLONES: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.EPERM, errno.ETXTBSY}
)
_sync_file_range = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def sync_directory(path: Path) -> None:
    """Make the names in a directory last."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path, mode: int) -> None:
    """Create a directory, with these permissions whatever the umask says; another process may be faster."""
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        os.chmod(path, mode)


def make_directories(path: Path, mode: int, fsync: bool) -> None:
    """Create a directory and what is missing above it; those that exist stay as they are."""
    if path.is_dir():
        return
    make_directories(path.parent, mode, fsync)
    make_directory(path, mode)
    if fsync:
        sync_directory(path.parent)


def open_source(path: Path) -> int:
    """A descriptor to take a file over from; never of what a link points at, never waiting for a pipe's other end."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def regular(found: os.stat_result) -> os.stat_result:
    """The same; `FileNotFoundError` for directories, pipes and the like, which hold no object."""
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    return found


def remove_tree(path: Path) -> None:
    """Remove a directory and all that is in it, whatever permissions a program left there."""
    os.chmod(path, 0o700)
    for place, directories, _ in os.walk(path):
        for name in directories:
            below = Path(place, name)
            if not below.is_symlink():
                os.chmod(below, 0o700)
    shutil.rmtree(path)


class Draft:
    """A file in the making: under its final name it appears whole and durable, or never."""

    def __init__(self, final: Path, *, mode: int, fsync: bool, hole: int = 0) -> None:
        """`hole`: runs of this many zero bytes are left out; 0 writes everything."""
        self.final = final
        self.part = final.with_name(final.name + PART)
        self.size = 0
        self._mode, self._fsync = mode, fsync
        self._hole, self._zeros = hole, bytes(hole)
        self._fd = -1
        self._hurried = 0
        self._made = self._published = False
        self._mine: os.stat_result | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Create the half-written file; `FileExistsError` when the name is taken in either form."""
        with self._lock:
            self._open()

    def _open(self) -> None:
        self._go_on()
        if os.path.lexists(self.final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.final))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.part, flags, 0o600)
        self._made = True

    def take(self) -> os.stat_result:
        """Go on with a file that another program wrote under the half-written name."""
        with self._lock:
            self._go_on()
            self._fd = open_source(self.part)
            found = os.fstat(self._fd)
            self.size, self._hole = found.st_size, 0
            return found

    def write(self, data: bytes) -> None:
        """Append bytes."""
        with self._lock:
            self._go_on()
            view = memoryview(data)
            for begin, end in self._solid(data) if self._hole else ((0, len(data)),):
                while begin < end:
                    begin += os.pwrite(self._fd, view[begin:end], self.size + begin)
            self.size += len(data)
            self._hurry()

    def _solid(self, data: bytes) -> Iterator[tuple[int, int]]:
        """The stretches of `data` that are more than zeros, looked at in chunks aligned to the file."""
        begin = at = 0
        while at < len(data):
            end = min(len(data), at + self._hole - (self.size + at) % self._hole)
            if self._zeros.startswith(data[at:end]):
                if begin < at:
                    yield begin, at
                begin = end
            at = end
        if begin < at:
            yield begin, at

    def _hurry(self) -> None:
        """Start writing back what has come in: the fsync after 512 MiB then takes 4 ms instead of 220."""
        if self._fsync and _sync_file_range is not None and self.size - self._hurried >= _WINDOW:
            _sync_file_range(self._fd, self._hurried, self.size - self._hurried, _WRITE)
            self._hurried = self.size

    def link(self, path: Path, fd: int) -> bool:
        """Give the open file at `path` the final name too; False when it has another name already, or cannot.

        A link that is there already counts as made: an earlier attempt got this far.
        """
        with self._lock:
            self._go_on()
            if os.path.lexists(self.final):
                if not os.path.samestat(os.lstat(self.final), os.fstat(fd)):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.final))
            elif not self._link(path, fd):
                return False
            if self._fsync:
                sync_directory(self.final.parent)
            return True

    def _link(self, path: Path, fd: int) -> bool:
        if os.fstat(fd).st_nlink != 1:
            return False
        try:
            os.link(path, self.final, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_LINKS or error.errno == errno.EXDEV:  # a bind mount of the same disk
                return False
            raise
        self._published, self._mine = True, os.fstat(fd)
        # Two stores may link at the same moment.  With one inode between them they would hold one copy, not two.
        if not os.path.samestat(os.lstat(self.final), os.fstat(fd)) or os.fstat(fd).st_nlink != 2:
            os.unlink(self.final)
            self._published = False
            return False
        if os.fstat(fd).st_mode & 0o777 != self._mode:
            os.fchmod(fd, self._mode)
        self.size = os.fstat(fd).st_size
        return True

    def fill(self, fd: int) -> bool:
        """Take the bytes of another file without reading them; False when these file systems cannot."""
        with self._lock:
            self._open()
            self.size = os.fstat(fd).st_size
            try:
                fcntl.ioctl(self._fd, _FICLONE, fd)
            except OSError as error:
                if error.errno not in _NO_CLONES:
                    raise
                return self._copy(fd)
            return True

    def _copy(self, fd: int) -> bool:
        for begin, end in _extents(fd, self.size) if self._hole else ((0, self.size),):
            at = begin
            while at < end:
                self._go_on()
                try:
                    copied = os.copy_file_range(fd, self._fd, min(_COPY, end - at), at, at)
                except OSError as error:
                    if error.errno not in _NO_CLONES:
                        raise
                    return False
                if not copied:
                    return False
                if self._fsync and _sync_file_range is not None:
                    _sync_file_range(self._fd, at, copied, _WRITE)
                at += copied
        return True

    def commit(self) -> os.stat_result:
        """Make the bytes last under the final name."""
        with self._lock:
            self._go_on()
            if self._hole:
                os.ftruncate(self._fd, self.size)
            os.fchmod(self._fd, self._mode)
            if self._fsync:
                os.fsync(self._fd)
            written = self._mine = os.fstat(self._fd)
            self._close()
            self._go_on()
            self._publish()
            if self._fsync:
                sync_directory(self.final.parent)
            return written

    def _publish(self) -> None:
        try:
            os.link(self.part, self.final)
        except FileExistsError:
            if not os.path.samestat(os.lstat(self.part), os.lstat(self.final)):
                raise
            # NFS: the request was sent twice, and the first one did it
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # No hard links here: an empty file holds the name, so that the rename replaces nobody's.
            os.close(os.open(self.final, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode))
            self._published = True
            os.rename(self.part, self.final)
            return
        self._published = True
        os.unlink(self.part)

    def stop(self) -> None:
        """Have whatever is under way in a thread end soon; `discard` is what waits for it."""
        self._stop.set()

    def discard(self) -> None:
        """Give up and leave no name behind.  What fails here is left for a sweep."""
        self.stop()
        with self._lock:
            if self._fd >= 0:
                with suppress(OSError):
                    self._mine = os.fstat(self._fd)
            names = [self.final] * self._published + [self.part] * self._made
            removed = [name for name in names if self._unlink(name)]
            with suppress(OSError):
                self._close()
            if removed and self._fsync:
                with suppress(OSError):
                    sync_directory(self.final.parent)

    def _unlink(self, name: Path) -> bool:
        """Remove a name if it is still that of our file: after a hang, it may have been given to another attempt."""
        try:
            found = os.lstat(name)
            if self._mine is None or not os.path.samestat(found, self._mine):
                return False
            if found.st_mtime_ns != self._mine.st_mtime_ns:  # inode numbers are used again
                return False
            os.unlink(name)
        except OSError:
            return False
        return True

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        at = min(size, os.lseek(fd, begin, os.SEEK_HOLE))
        yield begin, at


class Reader:
    """Pieces of a file, one after the other; it opens itself at the first and closes itself after the last."""

    def __init__(self, path: Path, offset: int, length: int | None) -> None:
        self._path, self._at, self._left = path, offset, length
        self._fd = -1
        self._lock = threading.Lock()
        self.closed = False

    def piece(self) -> bytes:
        """The next bytes, none at the end; `EOFError` when the file ends before the offset."""
        with self._lock:
            if self.closed:
                return b""
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                if regular(os.fstat(self._fd)).st_size < self._at:
                    raise EOFError
            wanted = PIECE if self._left is None else min(PIECE, self._left)
            data = os.pread(self._fd, wanted, self._at)
            self._at += len(data)
            if self._left is not None:
                self._left -= len(data)
            if not data:
                self._close()
            return data

    def close(self) -> None:
        """Give the descriptor back, once nobody reads from it any more."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self.closed = True
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
