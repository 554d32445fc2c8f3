"""Download against servers on loopback: with ranges, without, cutting connections, refusing; damaged archives."""

import hashlib
import io
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qrepro.data import download as downloading
from qrepro.data import fetch as fetching
from qrepro.data.download import SETS, Archive, download
from qrepro.data.fetch import fetch
from qrepro.data.sets import read_split

DATA = bytes(range(256)) * 3000


class Server:
    """A server of named files whose manners a test sets; it notes the Range of every request."""

    def __init__(self, files):
        self.files = dict(files)
        self.ranges = True  # honours Range
        self.length = True  # states Content-Length
        self.cuts = []  # bytes after which each of the next answers breaks off
        self.errors = []  # status of each of the next answers
        self.wrong_start = False  # next answer to a Range begins elsewhere
        self.requests = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, format, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append((handler.path.lstrip("/"), asked))
        if self.errors or handler.path.lstrip("/") not in self.files:
            handler.send_error(self.errors.pop(0) if self.errors else 404)
            return
        body, start = self.files[handler.path.lstrip("/")], 0
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(body)}")
                handler.end_headers()
                return
            start -= 1 if self.wrong_start else 0
            self.wrong_start = False
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        if self.length:
            handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        handler.wfile.write(body[start:][: self.cuts.pop(0)] if self.cuts else body[start:])


@pytest.fixture
def serve():
    servers = []

    def start(files):
        server = Server(files)
        threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses between attempts, noted in place of waited."""
    noted = []
    monkeypatch.setattr(fetching.time, "sleep", noted.append)
    return noted


def test_fetch_writes_the_file_and_reports_progress(serve, tmp_path):
    server, seen = serve({"a.bin": DATA}), []
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", lambda *values: seen.append(values))
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert seen[-1] == ("a.bin", len(DATA), len(DATA))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})


def test_fetch_goes_on_where_the_connection_was_cut(serve, tmp_path, pauses):
    server = serve({"a.bin": DATA})
    server.cuts = [1000, 5000]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert [asked for _, asked in server.requests] == [None, "bytes=1000-", "bytes=6000-"]
    assert pauses == [1, 1]  # there was progress each time, so that pauses do not grow


def test_fetch_goes_on_with_the_part_of_an_earlier_run(serve, tmp_path):
    server, seen = serve({"a.bin": DATA}), []
    (tmp_path / "a.bin.part").write_bytes(DATA[:700])
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", lambda *values: seen.append(values))
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert server.requests == [("a.bin", "bytes=700-")]
    assert seen[-1] == ("a.bin", len(DATA), len(DATA))


def test_fetch_starts_again_at_a_server_without_ranges(serve, tmp_path):
    server = serve({"a.bin": DATA})
    server.ranges, server.cuts = False, [1000]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert [asked for _, asked in server.requests] == [None, "bytes=1000-"]


def test_fetch_does_not_trust_an_answer_that_begins_elsewhere(serve, tmp_path):
    server = serve({"a.bin": DATA})
    server.wrong_start = True
    (tmp_path / "a.bin.part").write_bytes(DATA[:700])
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert [asked for _, asked in server.requests] == ["bytes=700-", None]


@pytest.mark.parametrize("part, requests", [(DATA, 1), (DATA + b"more", 2)])
def test_fetch_takes_a_complete_part_and_drops_one_that_is_too_long(serve, tmp_path, part, requests):
    server = serve({"a.bin": DATA})
    (tmp_path / "a.bin.part").write_bytes(part)
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert len(server.requests) == requests


def test_fetch_without_content_length(serve, tmp_path):
    server, seen = serve({"a.bin": DATA}), []
    server.length = False
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", lambda *values: seen.append(values))
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert seen[-1] == ("a.bin", len(DATA), None)


def test_fetch_tries_again_after_errors_of_the_server(serve, tmp_path, pauses):
    server = serve({"a.bin": DATA})
    server.errors = [503, 500, 429]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert pauses == [1, 2, 4]


def test_fetch_gives_up_after_attempts_without_progress(serve, tmp_path):
    server = serve({"a.bin": DATA})
    server.errors = [503] * 99
    with pytest.raises(ValueError, match=r"/a\.bin: given up after 5 attempts .*503 Service Unavailable.*again later$"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert len(server.requests) == 5


def test_fetch_gives_up_when_nobody_answers(serve, tmp_path):
    server = serve({})
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ValueError, match="given up after 5 attempts without progress"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")


def test_fetch_does_not_insist_on_what_is_not_there(serve, tmp_path):
    server = serve({})
    with pytest.raises(ValueError, match=r"/a\.bin: the server answered 404 Not Found"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["no-scheme/a.bin", "gopher-like:a", "http://host/a file"])
def test_fetch_refuses_what_is_no_url(tmp_path, url):
    with pytest.raises(ValueError, match="not a URL that can be fetched"):
        fetch(url, tmp_path / "a.bin")


XML = (
    b"<annotation><size><width>9</width><height>9</height></size><object><name>RBC</name><bndbox><xmin>1</xmin>"
    b"<ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
BCCD = "BCCD_Dataset-master"
BCCD_MEMBERS = {
    f"{BCCD}/README.md": b"not wanted",
    f"{BCCD}/BCCD/Annotations/a.xml": XML,
    f"{BCCD}/BCCD/ImageSets/Main/trainval.txt": b"a\n",
    f"{BCCD}/BCCD/JPEGImages/a.jpg": b"image " * 500,
}


def zipped(members, mode=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", mode) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def bccd_server(serve, body=None):
    return serve({"BCCD_Dataset-master.zip": zipped(BCCD_MEMBERS) if body is None else body})


def test_download_bccd_gives_what_read_split_reads(serve, tmp_path):
    server, seen = bccd_server(serve), []
    download("bccd", tmp_path, server.url + "/", lambda *values: seen.append(values))
    found = read_split("voc", tmp_path, "trainval", ("RBC",))
    assert found.objects[0].boxes.tolist() == [[1, 1, 9, 9]]
    assert (tmp_path / "JPEGImages" / "a.jpg").read_bytes() == b"image " * 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Annotations", "ImageSets", "JPEGImages", "archives"]
    assert seen[-1][0] == "BCCD_Dataset-master.zip"
    note = (tmp_path / "archives" / "BCCD_Dataset-master.zip.sha256").read_text()
    expected = hashlib.sha256(server.files["BCCD_Dataset-master.zip"]).hexdigest()
    assert note == f"{expected}  BCCD_Dataset-master.zip\n"


def test_download_coco_gives_what_read_split_reads(serve, tmp_path):
    text = (
        b'{"images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 4}], "categories": [], "annotations": []}'
    )
    splits = ("train2017", "val2017")
    server = serve(
        {
            "annotations_trainval2017.zip": zipped({f"annotations/instances_{split}.json": text for split in splits}),
            "train2017.zip": zipped({"train2017/": b"", "train2017/a.jpg": b"t"}),
            "val2017.zip": zipped({"val2017/": b"", "val2017/a.jpg": b"v"}),
        }
    )
    download("coco", tmp_path, server.url)
    for split in splits:
        assert read_split("coco", tmp_path, split).images[0].file.read_bytes() == split[:1].encode()


def voc_files(year, split):
    base = f"VOCdevkit/VOC{year}"
    return {
        f"{base}/Annotations/{split}.xml": XML,
        f"{base}/ImageSets/Main/{split}.txt": split.encode(),
        f"{base}/JPEGImages/{split}.jpg": b"p",
    }


def test_download_voc_gives_what_read_split_reads(serve, tmp_path, monkeypatch):
    bodies = {
        "VOCtrainval_06-Nov-2007.tar": tarred(voc_files(2007, "trainval")),
        "VOCtest_06-Nov-2007.tar": tarred(voc_files(2007, "test")),
        "VOCtrainval_11-May-2012.tar": tarred(voc_files(2012, "trainval")),
    }
    small = tuple(replace(a, md5=hashlib.md5(bodies[a.file]).hexdigest()) for a in SETS["voc"])
    monkeypatch.setitem(SETS, "voc", small)
    download("voc", tmp_path, serve(bodies).url)
    for split in ("VOC2007/trainval", "VOC2007/test", "VOC2012/trainval"):
        assert len(read_split("voc", tmp_path, split, ("RBC",))) == 1


def test_voc_checksums_and_addresses_are_those_of_torchvision():
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    theirs = {key: DATASET_YEAR_DICT[key] for key in ("2007", "2007-test", "2012")}
    assert {(a.url, a.file, a.md5) for a in SETS["voc"]} == {
        (t["url"], t["filename"], t["md5"]) for t in theirs.values()
    }


def test_a_second_run_downloads_and_unpacks_nothing(serve, tmp_path):
    server = bccd_server(serve)
    download("bccd", tmp_path, server.url)
    image = tmp_path / "JPEGImages" / "a.jpg"
    image.write_bytes(b"changed by the user")
    download("bccd", tmp_path, server.url)
    assert len(server.requests) == 1
    assert image.read_bytes() == b"changed by the user"
    (tmp_path / "archives" / "BCCD_Dataset-master.zip").unlink()
    download("bccd", tmp_path, server.url)
    assert len(server.requests) == 1


def test_a_lost_folder_is_unpacked_again(serve, tmp_path):
    server = bccd_server(serve)
    download("bccd", tmp_path, server.url)
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").unlink()
    download("bccd", tmp_path, server.url)
    assert (tmp_path / "ImageSets" / "Main" / "trainval.txt").read_text() == "a\n"
    assert len(server.requests) == 1


def test_an_archive_changed_between_runs_is_removed_and_fetched_again(serve, tmp_path):
    server = bccd_server(serve)
    download("bccd", tmp_path, server.url)
    archive = tmp_path / "archives" / "BCCD_Dataset-master.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1] + b"?")
    with pytest.raises(ValueError, match=r"master\.zip: damaged, sha256 is \w+, \w+ is expected; removed, run again"):
        download("bccd", tmp_path, server.url)
    assert not archive.exists()
    (tmp_path / "archives" / "BCCD_Dataset-master.zip.unpacked").unlink()
    download("bccd", tmp_path, server.url)
    assert archive.read_bytes() == whole


def test_a_wrong_md5_is_refused_and_the_file_removed(serve, tmp_path):
    server = serve({"VOCtrainval_06-Nov-2007.tar": tarred(voc_files(2007, "trainval"))})
    with pytest.raises(ValueError, match=r"damaged, md5 is .* c52e279531787c972589f7e41ab4ae64 is expected") as caught:
        download("voc", tmp_path, server.url)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "archives").iterdir()) == []
    assert not (tmp_path / "VOCdevkit").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "page"])
def test_a_damaged_zip_is_refused_and_removed(serve, tmp_path, damage):
    whole = zipped(BCCD_MEMBERS)
    place = whole.index(b"image ") + 100
    body = {
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:place] + b"!" + whole[place + 1 :],
        "page": b"<html>not found</html>",
    }[damage]
    with pytest.raises(ValueError, match=r"damaged, .*removed, run again") as caught:
        download("bccd", tmp_path, bccd_server(serve, body).url)
    assert ("a.jpg has another checksum" in str(caught.value)) == (damage == "flipped")
    assert list((tmp_path / "archives").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["archives"]


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "Annotations/../../evil.txt", "..\\evil.txt"])
def test_a_zip_that_reaches_out_of_its_folder_is_refused_whole(serve, tmp_path, name):
    root = tmp_path / "deep" / "root"
    members = {f"{BCCD}/BCCD/{name}": b"evil", **BCCD_MEMBERS}
    with pytest.raises(ValueError, match="would be unpacked out of"):
        download("bccd", root, bccd_server(serve, zipped(members)).url)
    assert [path.name for path in root.iterdir()] == ["archives"]
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", ["../evil.txt", "VOCdevkit/../../evil.txt"])
def test_a_tar_that_reaches_out_of_its_folder_is_refused(serve, tmp_path, monkeypatch, name):
    body = tarred({name: b"evil"})
    archive = Archive("unused", "v.tar", proof="VOCdevkit", md5=hashlib.md5(body).hexdigest())
    monkeypatch.setitem(SETS, "voc", (archive,))
    with pytest.raises(ValueError, match=r"v\.tar: cannot be unpacked"):
        download("voc", tmp_path / "deep" / "root", serve({"v.tar": body}).url)
    assert not list(tmp_path.rglob("evil.txt"))


def test_an_archive_of_something_else_is_refused(serve, tmp_path):
    with pytest.raises(ValueError, match=r"but ImageSets/Main/trainval\.txt is not in it"):
        download("bccd", tmp_path, bccd_server(serve, zipped({"other/file": b"x"})).url)
    assert not list((tmp_path / "archives").glob("*.unpacked"))


def test_an_interrupted_unpacking_is_done_again(serve, tmp_path, monkeypatch):
    server = bccd_server(serve)

    def interrupted(source, out):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloading.shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download("bccd", tmp_path, server.url)
    download("bccd", tmp_path, server.url)
    assert (tmp_path / "JPEGImages" / "a.jpg").read_bytes() == b"image " * 500
    assert len(server.requests) == 1


def test_the_publishers_address_is_used_without_a_mirror(tmp_path, monkeypatch):
    asked = []

    def refuse(url, file, progress):
        asked.append(url)
        raise ValueError("stop")

    monkeypatch.setattr(downloading, "fetch", refuse)
    for name in SETS:
        with pytest.raises(ValueError, match="stop"):
            download(name, tmp_path)
    assert asked == [archives[0].url for archives in SETS.values()]


def test_unknown_names_and_impossible_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="data set 'lvis' is unknown, allowed: coco, voc, bccd"):
        download("lvis", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, a folder to unpack into is needed"):
        download("bccd", tmp_path / "file")
