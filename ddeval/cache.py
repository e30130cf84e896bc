"""Cache: objects of a bucket as files of this machine, each checked by its content.

An object has two places below `$DDEVAL_CACHE`. `objects/` holds contents: the name of a file is made of the
object's address, its version (ETag and size) and the hash of what is in it, so an object that has changed is
fetched again and a damaged file is noticed when it is read. `s3/BUCKET/KEY` is the object's path for everyone
else: a hard link once it was pulled, before that only a name. `ddeval.io` writes through to the bucket.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ddeval import bucket
from ddeval.bucket import SCHEME, ChangedError, NotThereError, Version

ADDRESS = re.compile(r"s3:/+(?=[^/])")
"""`s3://bucket/…`, also as `Path` spells it: `s3:/bucket/…`."""
FETCHERS = 32
"""Objects fetched at once, ahead of whoever decodes them."""

_known: dict[str, Version | None] = {}
"""The version each object had when this command first asked: all of a command sees one version."""
_pulled: set[Path] = set()
_on_the_way: dict[str, Future[Path]] = {}
_lock = threading.Lock()


def home() -> Path:
    """$DDEVAL_CACHE, else ddeval's folder in the user's cache."""
    named, base = os.environ.get("DDEVAL_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "ddeval"


def place(value: str | Path) -> Path:
    """The path of a file or folder: of `s3://bucket/key` its path in the cache, any other path as it is."""
    text = str(value)
    found = ADDRESS.match(text)
    if not found:
        return Path(value)
    name, key = bucket.parts(SCHEME + text[found.end() :].rstrip("/"), is_folder=True)
    return _mirror() / name / key


def address(path: Path) -> str | None:
    """The address of the object or folder whose path in the cache this is; None for any other path."""
    root, text = f"{_mirror()}/", str(path)
    return SCHEME + text[len(root) :] if text.startswith(root) else None


def shown(text: str) -> str:
    """A message with addresses in the place of paths in the cache."""
    return text.replace(f"{_mirror()}/", SCHEME)


def forget() -> None:
    """Ask anew for the version of every object: a new command begins."""
    _known.clear()
    _pulled.clear()


def sizes(paths: Iterable[Path]) -> dict[Path, int | None]:
    """Bytes of the object of each path, None where there is none; asked for many at once."""
    uris = {path: uri for path in dict.fromkeys(paths) if (uri := address(path))}
    unknown = [uri for uri in uris.values() if uri not in _known]
    if unknown:
        _known.update(bucket.versions(unknown))
    found = {path: _known[uri] for path, uri in uris.items()}
    return {path: version.size if version else None for path, version in found.items()}


def read(uri: str) -> bytes:
    """The content of an object, fetched if it is not here, checked if it is."""
    for _ in range(2):
        path = fetch(uri)
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == _hash_in(path):
            return content
        path.unlink(missing_ok=True)  # damaged here; the bucket has it still
    raise ChangedError(uri)


def fetch(uri: str) -> Path:
    """The file with the content of an object; two callers of one object wait for one download."""
    with _lock:
        waiting = _on_the_way.get(uri)
        mine = waiting is None
        if waiting is None:
            waiting = _on_the_way[uri] = Future()
    if not mine:
        return waiting.result()
    try:
        waiting.set_result(_fetched(uri))
    except BaseException as error:
        waiting.set_exception(error)
        raise
    finally:
        with _lock:
            del _on_the_way[uri]
    return waiting.result()


@contextlib.contextmanager
def ahead(paths: Iterable[Path]) -> Iterator[None]:
    """Fetch the objects of `paths` in their order, many at once, while the body runs.

    Whoever needs one that is on its way waits for it; an error is raised there, not here.
    """
    uris = dict.fromkeys(uri for path in paths if (uri := address(path)))
    pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")  # starts no thread before its first task
    for uri in uris:
        if uri not in _known or _known[uri] is not None:
            pool.submit(fetch, uri)
    try:
        yield
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def pull(path: Path, *, missing_ok: bool = False) -> Path:
    """`path`, brought up to date where it is an object's; a NotThereError where there is none."""
    uri = address(path)
    if uri is None:
        return path
    try:
        _link(_sound(uri), path)
    except NotThereError:
        path.unlink(missing_ok=True)
        if not missing_ok:
            raise
    return path


def pull_folder(path: Path, *, deep: bool = True, again: bool = False) -> Path:
    """`path`, with every object below it as the bucket has them; files the bucket has not are removed.

    Once a command, unless `again`. `deep` is all folders below, too.
    """
    uri = address(path)
    if uri is None or (path in _pulled and not again):
        return path
    _pulled.add(path)
    began = time.time()
    held = dict(bucket.listing(uri, deep=deep))
    _known.update(held)
    with ThreadPoolExecutor(8) as pool:
        for name, source in zip(held, pool.map(_sound, held), strict=True):
            _link(source, place(name))
    for file in path.rglob("*") if deep else path.glob("*"):
        is_stale = file.is_file() and not file.name.startswith(".") and address(file) not in held
        if is_stale and file.stat().st_mtime < began - 1:  # another process may be writing here
            file.unlink(missing_ok=True)
    if not held:
        with contextlib.suppress(OSError):
            path.rmdir()  # so that an empty folder of a bucket is none here either
    return path


def put(source: Path, path: Path) -> None:
    """Write the object whose path in the cache `path` is from the file `source`; nothing for other paths."""
    uri = address(path)
    if uri is None:
        return
    _keep(uri, bucket.write(uri, source), _hash_of(source), source)


def append(uri: str, line: bytes) -> None:
    """Add a line to an object; whoever else does so at the same time loses nothing."""
    for _ in range(10):
        _known.pop(uri, None)
        try:
            content = read(uri)
        except NotThereError:
            content = b""
        if line in content.split(b"\n"):
            return  # it was written, and the answer was lost
        whole = content + b"\n" * (content != b"" and not content.endswith(b"\n")) + line + b"\n"
        try:
            version = bucket.write(uri, whole, only_over=_known[uri] or "none")
        except ChangedError:
            continue
        with tempfile.NamedTemporaryFile(prefix=".tmp-", dir=_folder(uri), delete=False) as file:
            file.write(whole)
        _keep(uri, version, hashlib.sha256(whole).hexdigest(), Path(file.name), move=True)
        return
    raise ChangedError(uri)


def delete(uri: str) -> None:
    """Remove an object, and its contents here."""
    bucket.delete(uri)
    _known[uri] = None
    for copy in copies(place(uri)):
        copy.unlink(missing_ok=True)


def reach(path: Path, *, is_folder: bool) -> None:
    """A NotThereError or another InputError where an object or folder of a bucket cannot be reached."""
    uri = address(path)
    if uri and (next(bucket.listing(uri), None) if is_folder else bucket.version(uri)) is None:
        raise NotThereError(uri)


def copies(path: Path) -> list[Path]:
    """Files here that hold an object, of whatever version, by its path in the cache."""
    uri = address(path)
    return [*_contents(uri), *([path] if path.is_file() else [])] if uri else []


@functools.lru_cache(maxsize=8)
def _mirror_of(root: Path) -> Path:
    return root.resolve() / "s3"


def _mirror() -> Path:
    return _mirror_of(home())


def _fetched(uri: str) -> Path:
    if uri not in _known:
        _known[uri] = bucket.version(uri)
    version = _known[uri]
    if version is None:
        raise NotThereError(uri)
    for path in _contents(uri):
        if path.name.startswith(_stem(uri, version)) and path.stat().st_size == version.size:
            return path
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=_folder(uri))
    try:
        bucket.read(uri, version, lambda offset, content: _write_at(handle, offset, content))
        os.close(handle)
        return _keep(uri, version, _hash_of(Path(name)), Path(name), move=True)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.close(handle)
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(home())  # a full disk says so without saying where
        raise


def _write_at(handle: int, offset: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        n = os.pwrite(handle, view, offset)
        view, offset = view[n:], offset + n


def _keep(uri: str, version: Version, digest: str, source: Path, *, move: bool = False) -> Path:
    """Make `source` the content of a version of an object, in the place of older ones."""
    kept = _folder(uri) / f"{_stem(uri, version)}{digest}"
    older = [path for path in _contents(uri) if path != kept]
    if move:
        source.replace(kept)
    else:
        _link(source, kept)
    for path in older:
        path.unlink(missing_ok=True)
    _known[uri] = version
    return kept


def _sound(uri: str) -> Path:
    """As `fetch`, the content read and checked."""
    for _ in range(2):
        path = fetch(uri)
        if _hash_of(path) == _hash_in(path):
            return path
        path.unlink(missing_ok=True)
    raise ChangedError(uri)


def _link(source: Path, path: Path) -> None:
    """Let `path` be the file `source`, in one step; a copy where the system cannot link."""
    if path.exists() and path.samefile(source):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".tmp-{os.getpid()}-{threading.get_ident()}-{path.name}")
    new.unlink(missing_ok=True)
    try:
        os.link(source, new)
    except OSError:
        shutil.copyfile(source, new)
    new.replace(path)


def _folder(uri: str) -> Path:
    folder = home() / "objects" / _hash(uri)[:2]
    if not folder.is_dir():
        for private in (home() / "objects", _mirror()):  # patients' photographs lie here
            private.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True)
    return folder


def _contents(uri: str) -> list[Path]:
    """Every content of an object that is kept here."""
    folder, beginning = _folder(uri), f"{_hash(uri)[:32]}-"
    return [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(beginning)]


def _stem(uri: str, version: Version) -> str:
    return f"{_hash(uri)[:32]}-{_hash(f'{bucket.endpoint()} {version.etag} {version.size}')[:16]}-"


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_in(path: Path) -> str:
    return path.name.rpartition("-")[2]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
