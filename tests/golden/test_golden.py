"""Events once written can be read for ever."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from kernel.codec import VERSIONS, decode, decode_meta, encode, version_of
from tests.golden import make
from tests.golden.samples import EXPECTED, META

FILES = sorted(make.EVENTS.iterdir())


class Golden(msgspec.Struct):
    data: msgspec.Raw
    meta: msgspec.Raw


def read(path: Path) -> Golden:
    return msgspec.json.decode(path.read_bytes(), type=Golden)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recorded_event_reads_as_what_it_was(path: Path) -> None:
    kind, version = path.stem.rsplit(".v", 1)
    golden = read(path)
    assert decode(kind, int(version), golden.data) == EXPECTED[path.stem]
    assert decode_meta(golden.meta) == replace(META, v=int(version))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_event_is_still_written_as_it_was(path: Path) -> None:
    kind, version = path.stem.rsplit(".v", 1)
    if int(version) == version_of(kind):
        again = msgspec.json.decode(encode(decode(kind, int(version), read(path).data)))
        assert again == msgspec.json.decode(read(path).data)


def test_every_sample_has_a_file_and_every_file_a_sample() -> None:
    assert {path.stem for path in FILES} == set(EXPECTED)


def test_files_are_made_once_and_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = {name: value for name, value in EXPECTED.items() if name.endswith(f".v{version_of(name.split('.')[0])}")}
    monkeypatch.setattr(make, "EXPECTED", current)
    monkeypatch.setattr(make, "EVENTS", tmp_path / "events")
    make.main()
    made = {path.stem: path.read_bytes() for path in (tmp_path / "events").iterdir()}
    assert made == {path.stem: path.read_bytes() for path in FILES if path.stem in current}
    kept = tmp_path / "events" / "TagAdded.v1.json"
    kept.write_text("kept")
    make.main()
    assert kept.read_text() == "kept"


def test_an_old_shape_cannot_be_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERSIONS, "TagAdded", 2)
    with pytest.raises(SystemExit, match=r"TagAdded\.v1"):
        make.document("TagAdded.v1")
