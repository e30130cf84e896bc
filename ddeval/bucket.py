"""Buckets: what may be asked of an S3 store, and what happens when it does not answer.

Five requests (version, list, read, write, delete) through s3fs, each with one policy: what may pass
(500, 503, a lost connection, a body that ends early) is tried again with growing waits, what will not (403,
404, no credentials) is said at once in one line. Which objects are kept here is `ddeval.cache`; paths are
`ddeval.io`, the only module others ask.
"""

import functools
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ddeval.errors import InputError

SCHEME = "s3://"
ATTEMPTS = 7
FIRST_WAIT, LONGEST_WAIT = 0.1, 4.0
"""Seconds; doubled after each attempt: seven attempts wait 6 s in all."""
CONNECT_TIMEOUT, READ_TIMEOUT = 5, 20
"""Seconds without any answer."""
CONNECTIONS = 48
PART_BYTES = 32 * 2**20
"""Larger objects are read in parts of this size, several at once."""
LIST_FROM = 20
"""So many objects of one folder are asked for with a listing, fewer one by one."""
AGAIN = (
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "Throttling",
    "RequestLimitExceeded",
)
LOGIN = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "TokenRefreshRequired",
)


class Version(NamedTuple):
    """What tells one content of an object from the next."""

    etag: str
    size: int


class NotThereError(InputError):
    """No such object or bucket."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            uri, "no such object", expected="an object of the bucket", todo=f"Check: aws s3 ls {uri}"
        )


class ChangedError(InputError):
    """An object that is another one now than when this command began, or than the one to be replaced."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            uri, "an object that was changed meanwhile", expected="the one this command began with",
            todo="Run the command again.",
        )  # fmt: skip


def endpoint() -> str:
    """Where the store is; "" is Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def version(uri: str) -> Version | None:
    """The version of an object; None where there is none."""
    bucket, key = parts(uri)
    try:
        answer = _ask("head_object", uri, Bucket=bucket, Key=key)
    except NotThereError:
        return None
    return Version(answer["ETag"].strip('"'), int(answer["ContentLength"]))


def versions(uris: Iterable[str]) -> dict[str, Version | None]:
    """The version of each object, None where there is none; folders of many are listed."""
    wanted = dict.fromkeys(uris)
    folders: dict[str, list[str]] = {}
    for uri in wanted:
        folders.setdefault(uri.rpartition("/")[0] + "/", []).append(uri)
    found: dict[str, Version | None] = {}
    for folder, members in folders.items():
        if len(members) >= LIST_FROM:
            found |= _listed(folder, members)
    left = [uri for uri in wanted if uri not in found]
    if len(left) == 1:
        return found | {left[0]: version(left[0])}
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return found | dict(zip(left, pool.map(version, left), strict=True))


def listing(uri: str, *, deep: bool = True, after: str = "") -> Iterator[tuple[str, Version]]:
    """The objects below a folder in the order of their keys, from the first behind the key `after`."""
    bucket, prefix = parts(uri.rstrip("/") + "/", is_folder=True)
    more: dict[str, Any] = ({} if deep else {"Delimiter": "/"}) | ({"StartAfter": after} if after else {})
    while True:
        answer = _ask("list_objects_v2", uri, Bucket=bucket, Prefix=prefix, **more)
        for entry in answer.get("Contents", []):
            if not entry["Key"].endswith("/"):
                yield (
                    f"{SCHEME}{bucket}/{entry['Key']}",
                    Version(entry["ETag"].strip('"'), int(entry["Size"])),
                )
        if not answer.get("IsTruncated"):
            return
        more["ContinuationToken"] = answer["NextContinuationToken"]


def read(uri: str, expected: Version, write: Any) -> None:
    """Call `write(offset, content)` with every part of an object; a ChangedError if it is another version."""
    bucket, key = parts(uri)
    starts = range(0, max(expected.size, 1), PART_BYTES)

    def part(start: int) -> None:
        stop = min(start + PART_BYTES, expected.size)
        span = {"Range": f"bytes={start}-{stop - 1}"} if len(starts) > 1 else {}
        answer = _ask(
            "get_object", uri, size=stop - start, Bucket=bucket, Key=key, IfMatch=expected.etag, **span
        )
        write(start, answer["Content"])

    if len(starts) == 1:
        part(0)
        return
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(part, starts))


def write(uri: str, content: bytes | Path, *, only_over: Version | str | None = None) -> Version:
    """Put an object; its version. A file of over 64 MB goes up in parts.

    `only_over` is the version that may be replaced, or "none" where there must be none yet; another one is
    a ChangedError.
    """
    bucket, key = parts(uri)
    if isinstance(content, Path) and content.stat().st_size > 2 * PART_BYTES:
        return _write_large(uri, content)
    body = content if isinstance(content, bytes) else content.read_bytes()
    condition: dict[str, Any] = {} if only_over is None else {"IfNoneMatch": "*"}
    if isinstance(only_over, Version):
        condition = {"IfMatch": only_over.etag}
    answer = _ask("put_object", uri, Bucket=bucket, Key=key, Body=body, **condition)
    return Version(answer["ETag"].strip('"'), len(body))


def delete(uri: str) -> None:
    """Remove an object; nothing happens where there is none."""
    bucket, key = parts(uri)
    _ask("delete_object", uri, Bucket=bucket, Key=key)


def parts(uri: str, *, is_folder: bool = False) -> tuple[str, str]:
    """Bucket and key; an InputError for a key that is no plain path (`..`, `//`, a line break)."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    steps = key.removesuffix("/").split("/") if is_folder and key else key.split("/") if key else []
    is_plain = bucket and not any(step in ("", ".", "..") for step in steps) and key.isprintable()
    if not uri.startswith(SCHEME) or not is_plain or (not key and not is_folder) or len(key) > 1024:
        raise InputError(
            uri[:200], "no plain address of an object", expected="s3://bucket/folder/name", todo="Correct it."
        )
    return bucket, key


def _listed(folder: str, members: list[str]) -> dict[str, Version | None]:
    """The versions of objects of one folder by listing it; {} where that is not allowed or takes too long.

    The pages a listing may take are bounded by what asking one by one would cost.
    """
    ordered = sorted(members, key=str.encode)
    wanted, found = set(ordered), dict[str, Version | None]()
    before = parts(ordered[0])[1][:-1]
    try:
        for n, (uri, held) in enumerate(listing(folder, deep=False, after=before)):
            if uri in wanted:
                found[uri] = held
            if uri.encode() >= ordered[-1].encode():
                break
            if n > 1000 * len(members):
                return {}
    except NotThereError:
        return dict.fromkeys(members)
    except InputError:
        return {}  # keys may be read but not listed: each is then asked for, and says itself what is wrong
    return {uri: found.get(uri) for uri in members}


def _write_large(uri: str, path: Path) -> Version:
    import fsspec.asyn

    fs = _file_system(os.getpid(), endpoint())
    bucket, key = parts(uri)

    async def put() -> Mapping[str, Any]:
        await fs._put_file(str(path), f"{bucket}/{key}")
        return {}

    _tried(lambda: fsspec.asyn.sync(fs.loop, put), uri)
    found = version(uri)
    if found is None or found.size != path.stat().st_size:
        raise ChangedError(uri)
    return found


def _ask(operation: str, uri: str, *, size: int | None = None, **arguments: Any) -> Mapping[str, Any]:
    """The store's answer, with the body as `Content`, which must have `size` bytes where that is known."""
    import fsspec.asyn

    fs = _file_system(os.getpid(), endpoint())

    async def once() -> Mapping[str, Any]:
        await fs.set_session()
        client = await fs.get_s3(arguments["Bucket"])
        answer: dict[str, Any] = await getattr(client, operation)(**arguments)
        if "Body" in answer:
            async with answer.pop("Body") as stream:
                answer["Content"] = await stream.read()
            if len(answer["Content"]) != (answer["ContentLength"] if size is None else size):
                raise ConnectionError(f"{len(answer['Content'])} bytes of a longer body")
        return answer

    return _tried(lambda: fsspec.asyn.sync(fs.loop, once), uri)


def _tried(request: Any, uri: str) -> Mapping[str, Any]:
    """What `request` gives, tried again while that may help; else an InputError that names `uri`."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.5, 1.0))
        try:
            answer: Mapping[str, Any] = request()
        except Exception as error:  # sorted by kind in one place
            refusal = _refusal(error, uri)
            if refusal is not None:
                raise refusal from None
            problem = _problem(error)
        else:
            return answer
    raise InputError(
        uri, f"{problem}, {ATTEMPTS} times", expected="an answer of the store",
        todo="Run the command again: what was fetched or written is kept.",
    )  # fmt: skip


def _refusal(error: Exception, uri: str) -> Exception | None:
    """What to raise for an error that trying again will not mend; None for one that may pass."""
    import aiohttp
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if status >= 500 or status == 429 or code in AGAIN:
            return None
        if status == 404 or code in ("NoSuchKey", "NoSuchBucket"):
            return NotThereError(uri)
        if status in (409, 412):
            return ChangedError(uri)
        return _denied(uri, code, status)
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return InputError(
            uri, "no credentials for the store", expected="AWS_ACCESS_KEY_ID, a profile or a role",
            todo="Log in (aws configure, aws sso login), or export them.",
        )  # fmt: skip
    passing = (
        aiohttp.ClientError, OSError, exceptions.ConnectionError, exceptions.HTTPClientError,
        exceptions.IncompleteReadError, exceptions.ResponseStreamingError, exceptions.FlexibleChecksumError,
    )  # fmt: skip
    if isinstance(error, passing) or type(error).__name__ == "ResponseParserError":
        return None
    if isinstance(error, exceptions.BotoCoreError):
        return InputError(uri, str(error), expected="a store", todo="Check the AWS settings.")
    return error


def _denied(uri: str, code: str, status: int) -> InputError:
    name = code if code and code != str(status) else "access denied"
    todo = (
        "Log in again: the credentials are old or wrong."
        if code in LOGIN
        else "Ask for s3:GetObject and s3:ListBucket there (without the latter, a missing object reads so)."
    )
    return InputError(uri, f"{status} {name}", expected="permission to use it", todo=todo)


def _problem(error: Exception) -> str:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
        return " ".join(dict.fromkeys([str(status), str(response.get("Error", {}).get("Code", ""))]))
    lines = str(error).splitlines()
    return f"no whole answer ({lines[0][:160] if lines else type(error).__name__})"


@functools.lru_cache(maxsize=4)
def _file_system(pid: int, where: str) -> Any:
    """One connection a process and store: a forked child must not share its parent's."""
    try:
        import s3fs
    except ImportError:
        raise InputError(
            SCHEME, "an address of a store", expected="the package s3fs", todo="pip install 'ddeval[s3]'"
        ) from None
    return s3fs.S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "max_pool_connections": CONNECTIONS,
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
            "retries": {"total_max_attempts": 1},  # ours is the only policy
        },
    )
