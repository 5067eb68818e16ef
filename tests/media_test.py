"""The media store: equal bytes once, wrong names and changed files refused."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from polyturn.errors import BadInput, UnknownName
from polyturn.media import Media


def test_equal_bytes_stand_once_under_their_hash(tmp_path: Path) -> None:
    store = Media(tmp_path / "media")
    assert not (tmp_path / "media").exists()
    names = {store.put(b"one"), store.put(b"one"), Media(store.folder).put(b"one"), store.put(b"two")}
    assert names == {sha256(b"one").hexdigest(), sha256(b"two").hexdigest()}
    assert sorted(path.name for path in store.folder.rglob("*") if path.is_file()) == sorted(names)
    assert store.get(sha256(b"two").hexdigest()) == b"two"


def test_what_is_not_there_and_what_is_no_name(tmp_path: Path) -> None:
    store = Media(tmp_path)
    name = sha256(b"gone").hexdigest()
    assert name not in store and "../../secret" not in store and 3 not in store
    with pytest.raises(UnknownName):
        store.get(name)
    for wrong in ("", "../" + name, name.upper(), name + "0"):
        with pytest.raises(BadInput, match="sha256"):
            store.get(wrong)


def test_a_changed_file_is_not_given_out(tmp_path: Path) -> None:
    store = Media(tmp_path)
    name = store.put(b"before")
    store.path(name).write_bytes(b"after")
    with pytest.raises(BadInput, match="changed"):
        store.get(name)


@pytest.mark.parametrize("name", [
    "/etc/passwd", "..", "../../run.json", "a" * 63 + "\n", "a" * 64 + "\n", "a" * 64 + "\0", "\u0661" * 64,
    "\uff41" * 64, "aa/" + "a" * 61, "\u202e" + "a" * 63, "CON", "a" * 10_000,
])
def test_names_that_would_leave_the_folder(tmp_path: Path, name: str) -> None:
    """Absolute, upwards, with ends of lines and of texts, digits and letters of other alphabets."""
    store = Media(tmp_path)
    assert name not in store
    for use in (store.path, store.get):
        with pytest.raises(BadInput, match="sha256"):
            use(name)


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A run that others made may hold links in the place of media, and of their folders."""
    outside, name = tmp_path / "outside", sha256(b"secret").hexdigest()
    outside.mkdir()
    (outside / name).write_bytes(b"secret")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / name[:2]).symlink_to(outside)
    for use in (lambda: Media(tmp_path / "media").get(name), lambda: Media(tmp_path / "media").put(b"secret")):
        with pytest.raises(BadInput, match="is a link"):
            use()
    (tmp_path / "media" / name[:2]).unlink()
    (tmp_path / "media" / name[:2]).mkdir()
    (tmp_path / "media" / name[:2] / name).symlink_to(outside / name)
    with pytest.raises(BadInput, match="is a link"):
        Media(tmp_path / "media").get(name)
