"""Files and folders that are there whole or not at all."""

import os
from pathlib import Path

import pytest

from handmim.atomic_files import atomic_file, atomic_folder


def test_a_file_keeps_its_old_content_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_text() == "new"


def test_the_folder_is_made(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "new" / "deep" / "a.txt") as file:
        file.write(b"new")
    assert (tmp_path / "new" / "deep" / "a.txt").read_text() == "new"


def test_a_folder_stays_as_it_was_after_an_error(tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    (release / "model").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(release) as folder:
        (folder / "model").write_text("half")
        raise RuntimeError
    assert (release / "model").read_text() == "old" and list(tmp_path.iterdir()) == [release]


def test_a_folder_takes_new_files_and_keeps_others(tmp_path: Path) -> None:
    release = tmp_path / "runs" / "release"
    for text in ("first", "second"):
        with atomic_folder(release) as folder:
            (folder / "model").write_text(text)
            (folder / "model").chmod(0o600)
        (release / "README.md").write_text("mine")
    assert {path.name: path.read_text() for path in release.iterdir()} == {"model": "second", "README.md": "mine"}
    assert list(release.parent.iterdir()) == [release]
    assert (release / "model").stat().st_mode & 0o777 == (release / "README.md").stat().st_mode & 0o777


@pytest.mark.parametrize("name", ["a" * 251 + ".obj", "\N{CJK UNIFIED IDEOGRAPH-624B}" * 80 + ".json", "a b\nc.json"])
def test_any_name_that_a_file_may_have(tmp_path: Path, name: str) -> None:
    with atomic_file(tmp_path / name) as file:
        file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with atomic_folder(tmp_path / "folder" / name) as folder:
        (folder / "a.txt").write_text("new")
    assert (tmp_path / "folder" / name / "a.txt").read_text() == "new"


@pytest.mark.parametrize("name", ["folder", "n" * 300])
def test_an_error_names_the_file_that_the_user_knows(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as error, atomic_file(tmp_path / name) as file:
        file.write(b"new")
    assert error.value.filename == str(tmp_path / name) and not list(tmp_path.glob(".*"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        if not path.exists():
            path.symlink_to("pipe")
        with pytest.raises(OSError, match="device or a pipe"), atomic_file(path) as file:
            file.write(b"new")
        assert (tmp_path / "pipe").is_fifo() and not list(tmp_path.glob(".*"))


needs_links = pytest.mark.skipif(os.name == "nt", reason="Windows lets only some users make links")


@needs_links
def test_a_link_stays_and_the_file_behind_it_is_written(tmp_path: Path) -> None:
    links, files = tmp_path / "links", tmp_path / "files"
    links.mkdir()
    (links / "first").symlink_to("second")
    (links / "second").symlink_to(Path("..") / "files" / "a.txt")
    for text in ("new", "newer"):  # what the link leads to is not there yet, then it is
        with atomic_file(links / "first") as file:
            file.write(text.encode())
        assert (files / "a.txt").read_text() == text and not (files / "a.txt").is_symlink()
    with pytest.raises(RuntimeError), atomic_file(links / "first") as file:
        file.write(b"half")
        raise RuntimeError
    assert (files / "a.txt").read_text() == "newer" and list(files.iterdir()) == [files / "a.txt"]
    assert sorted(path.name for path in links.iterdir() if path.is_symlink()) == ["first", "second"]


@needs_links
def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError) as error, atomic_file(tmp_path / "a") as file:
        file.write(b"new")
    assert error.value.filename == str(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_symlink()) == ["a", "b"]


@needs_links
def test_an_error_names_the_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(FileExistsError) as error, atomic_file(tmp_path / "link") as file:
        file.write(b"new")
    assert error.value.filename == str(tmp_path / "link")


@needs_links
def test_links_to_and_in_a_folder_stay(tmp_path: Path) -> None:
    real = tmp_path / "disk" / "release"
    real.mkdir(parents=True)
    (tmp_path / "release").symlink_to(real)
    (real / "model").symlink_to(tmp_path / "disk" / "model")
    with atomic_folder(tmp_path / "release") as folder:
        (folder / "model").write_text("new")
    assert (tmp_path / "release").is_symlink() and (real / "model").is_symlink()
    assert (tmp_path / "disk" / "model").read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["model", "release"]
