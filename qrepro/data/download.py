"""Download of the public data sets into the layout that `read_split` reads."""

import hashlib
import shutil
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from qrepro.data.fetch import Progress, fetch, silent

Name = Literal["coco", "voc", "bccd"]

ARCHIVES = "archives"  # subfolder of the root that keeps what was downloaded


@dataclass(frozen=True)
class Archive:
    """One file to download and unpack.

    Attributes:
        url: where it is published.
        file: its name on disk and on a mirror.
        proof: a path below the root that is there once it is unpacked.
        md5: checksum that its publisher or torchvision states, None where nobody does.
        prefix: only members below this folder are unpacked, without it (zip only).
    """

    url: str
    file: str
    proof: str
    md5: str | None = None
    prefix: str = ""


_COCO = "http://images.cocodataset.org"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"  # the address in torchvision.datasets.voc, as are the checksums

SETS: dict[str, tuple[Archive, ...]] = {
    "coco": (
        Archive(
            f"{_COCO}/annotations/annotations_trainval2017.zip",
            "annotations_trainval2017.zip",
            "annotations/instances_train2017.json",
        ),
        Archive(f"{_COCO}/zips/val2017.zip", "val2017.zip", "val2017"),
        Archive(f"{_COCO}/zips/train2017.zip", "train2017.zip", "train2017"),
    ),
    "voc": (
        Archive(
            f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
            "VOCtrainval_06-Nov-2007.tar",
            "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt",
            md5="c52e279531787c972589f7e41ab4ae64",
        ),
        Archive(
            f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",
            "VOCtest_06-Nov-2007.tar",
            "VOCdevkit/VOC2007/ImageSets/Main/test.txt",
            md5="b6e924de25625d8de591ea690078ad9f",
        ),
        Archive(
            f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            "VOCtrainval_11-May-2012.tar",
            "VOCdevkit/VOC2012/ImageSets/Main/trainval.txt",
            md5="6cd6e144f989b92b3379bac3b3de84fd",
        ),
    ),
    "bccd": (
        Archive(
            "https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/master.zip",
            "BCCD_Dataset-master.zip",
            "ImageSets/Main/trainval.txt",
            prefix="BCCD_Dataset-master/BCCD/",
        ),
    ),
}


def download(name: Name, root: Path, base_url: str | None = None, progress: Progress = silent) -> None:
    """Download and unpack a data set; what is already there and intact is left as it is.

    The archives stay in `root/archives`, each with its sha256, which a later run verifies. They may be deleted once
    unpacked: the mark `<archive>.unpacked` stays and says that this was done.

    Args:
        name: coco (2017 train, val and annotations; 20 GB), voc (2007 trainval and test, 2012 trainval; 3 GB), bccd.
        root: the folder to unpack into.
        base_url: a mirror that has the archives under their file names; None for the publishers' addresses.
        progress: called with file name, bytes so far, bytes in total (None where unknown).

    Raises:
        ValueError: unknown name, root is a file, the server refuses or stays away, an archive is damaged or reaches
            out of root.
    """
    if name not in SETS:
        raise ValueError(f"data set {name!r} is unknown, allowed: {', '.join(SETS)}")
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root}: is a file, a folder to unpack into is needed")
    folder = root / ARCHIVES
    folder.mkdir(parents=True, exist_ok=True)
    for archive in SETS[name]:
        file = folder / archive.file
        mark = folder / f"{archive.file}.unpacked"
        unpacked = mark.exists() and (root / archive.proof).exists()
        if unpacked and not file.exists():
            continue
        if not file.exists():
            fetch(f"{base_url.rstrip('/')}/{archive.file}" if base_url else archive.url, file, progress)
        _verify(file, archive)
        if not unpacked:
            _unpack(file, root, archive)
            mark.touch()


def _verify(file: Path, archive: Archive) -> None:
    """Compare with the published checksum and that of the first run; at the first run, note it.

    A damaged file is removed, so that the next run downloads it again.
    """
    note = file.with_name(f"{file.name}.sha256")
    try:
        digest = _digest(file, "sha256")
        if note.exists():
            _compare("sha256", digest, note.read_text(encoding="utf-8").split()[0])
            return
        if archive.md5 is not None:
            _compare("md5", _digest(file, "md5"), archive.md5)
        else:
            _test_zip(file)
    except ValueError as error:
        file.unlink()
        note.unlink(missing_ok=True)
        raise ValueError(f"{file}: damaged, {error}; removed, run again to download it anew") from None
    note.write_text(f"{digest}  {file.name}\n", encoding="utf-8")


def _compare(kind: str, found: str, expected: str) -> None:
    """Refuse a checksum that is not the expected one."""
    if found != expected:
        raise ValueError(f"{kind} is {found}, {expected} is expected")


def _digest(file: Path, kind: str) -> str:
    """Checksum of a file in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, kind).hexdigest()


def _test_zip(file: Path) -> None:
    """Read a zip archive through and compare the checksum of each member."""
    try:
        with zipfile.ZipFile(file) as opened:
            bad = opened.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"no readable zip archive ({error})") from None
    if bad is not None:
        raise ValueError(f"member {bad} has another checksum than the archive states")


def _unpack(file: Path, root: Path, archive: Archive) -> None:
    """Unpack a tar or zip archive into root, never beyond it."""
    if file.suffix == ".tar":
        try:
            with tarfile.open(file) as opened:
                opened.extractall(root, filter="data")
        except tarfile.TarError as error:
            raise ValueError(f"{file}: cannot be unpacked ({error})") from None
    else:
        _unpack_zip(file, root, archive.prefix)
    if not (root / archive.proof).exists():
        raise ValueError(f"{file}: unpacked into {root}, but {archive.proof} is not in it")


def _unpack_zip(file: Path, root: Path, prefix: str) -> None:
    """Unpack the members below a prefix, without it."""
    with zipfile.ZipFile(file) as opened:
        members = [member for member in opened.infolist() if member.filename.startswith(prefix)]
        for member in members:
            path = PurePosixPath(member.filename.removeprefix(prefix))
            # A backslash or a colon is a separator or a drive on some systems: no data set here has one.
            if path.is_absolute() or ".." in path.parts or "\\" in str(path) or ":" in str(path):
                raise ValueError(f"{file}: member {member.filename!r} would be unpacked out of {root}")
        for member in members:
            target = root / member.filename.removeprefix(prefix)
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
