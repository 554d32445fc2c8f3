"""Fetching one file over HTTP: resumed where it was cut, tried again with growing pauses, its length verified."""

import http
import http.client
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

# Called with the name of the file, the bytes so far and the bytes in total (None where the server does not say).
Progress = Callable[[str, int, int | None], None]

SCHEMES = ("http", "https", "file")
ATTEMPTS = 5  # in a row without a single new byte
FIRST_PAUSE = 1.0  # seconds; each further one is twice as long
TIMEOUT = 60.0  # seconds without an answer
CHUNK = 1 << 20


def silent(name: str, done: int, total: int | None) -> None:
    """A progress callback that shows nothing."""


def fetch(url: str, file: Path, progress: Progress = silent) -> None:
    """Fetch a URL into a file; what arrived of it so far is in `<file>.part`, from which a later call goes on.

    A server without support for ranges sends all again. Without a Content-Length the end of the answer is taken for
    the end of the file.

    Raises:
        ValueError: no URL of a known scheme; the server refuses, or repeatedly cannot be reached or breaks off.
    """
    if urllib.parse.urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"{url}: not a URL that can be fetched, it must begin with one of: {', '.join(SCHEMES)}")
    part = file.with_name(f"{file.name}.part")
    failures = 0
    while True:
        before = _size(part)
        try:
            if _receive(url, part, file.name, progress):
                part.replace(file)
                return
            reason = f"broken off at {_size(part)} bytes"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise ValueError(f"{url}: the server answered {error.code} {error.reason}") from None
            reason = f"the server answered {error.code} {error.reason}"
        except (ValueError, http.client.InvalidURL) as error:
            raise ValueError(f"{url}: not a URL that can be fetched ({error})") from None
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 0 if _size(part) > before else failures + 1
        if failures == ATTEMPTS:
            raise ValueError(f"{url}: given up after {ATTEMPTS} attempts without progress ({reason}); run again later")
        time.sleep(FIRST_PAUSE * 2 ** max(0, failures - 1))


def _receive(url: str, part: Path, name: str, progress: Progress) -> bool:
    """One request for what is missing; True when the file is complete."""
    start = _size(part)
    headers = {"User-Agent": "qrepro", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # Nothing lies beyond what is here: either all is here, or it is of another file.
        if error.headers.get("Content-Range", "").removeprefix("bytes */") == str(start):
            return True
        part.unlink()
        return False
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
        elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            part.unlink()
            return False
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        done = start
        with part.open("ab" if start else "wb") as out:
            while chunk := response.read(CHUNK):
                out.write(chunk)
                done += len(chunk)
                progress(name, done, total)
    return total is None or done == total


def _size(file: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return file.stat().st_size if file.exists() else 0
