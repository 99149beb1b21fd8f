"""A small Hub on loopback for tests: the endpoints that huggingface_hub, datasets and transformers use, in memory.

It keeps models, data sets and Spaces with commits, branches, tags and LFS files, asks for tokens, and breaks on demand.
A test module that needs it imports the fixture (`from hub_server import hub as hub`). The test process itself is
offline (conftest.py), so clients of the Hub run in processes of their own: `run_python`.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

import fresh
import pytest
import yaml

ROOT = Path(__file__).parent.parent
# Token -> the user whose repositories it may write and, where private, read.
TOKENS = {"hf_token_of_user": "user", "hf_token_of_stranger": "stranger"}
TOKEN = "hf_token_of_user"
DATE = "2026-01-01T00:00:00.000Z"
LFS_SUFFIXES = (".parquet", ".safetensors", ".bin", ".gguf", ".onnx", ".jpg", ".png", ".arrow")
LFS_SIZE = 10 * 1024 * 1024
SIGNALS = ("close", "hang")


class HubError(Exception):
    """An answer other than 200; `code` goes into X-Error-Code, `facts` into the JSON of the answer."""

    def __init__(self, status: int, message: str, code: str | None = None, **facts: str):
        super().__init__(message)
        self.status, self.code, self.facts = status, code, facts


class Request(NamedTuple):
    """One line of the log; `status` is 0 where the connection was closed without an answer."""

    method: str
    path: str
    status: int
    token: str | None


@dataclass
class Fault:
    """From the `first`-th request that fits on, `times` requests fail.

    `how`: a status (500, 429 ...), "close" (the connection is closed half-way through the request's body) or "hang"
    (no answer until the fault is over; `reached` is set).
    """

    method: str
    path: re.Pattern
    how: int | str
    first: int
    times: float
    seen: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Commit:
    """`files`: path -> sha256 of its content."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, str]


class Repository:
    """A model, data set or Space; starts with one commit on the branch main."""

    def __init__(self, private: bool, files: dict[str, str]):
        self.private = private
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.commit("main", "initial commit", files)

    def commit(self, branch: str, title: str, files: dict[str, str]) -> Commit:
        parent = self.branches.get(branch)
        oid = hashlib.sha1(repr((parent, title, sorted(files.items()))).encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, files)
        self.branches[branch] = oid
        return self.commits[oid]

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag, or a whole or abbreviated commit id."""
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        oid = self.branches.get(revision) or self.tags.get(revision)
        found = [oid] if oid else [name for name in self.commits if len(revision) >= 7 and name.startswith(revision)]
        if len(found) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[found[0]]


class HubServer(ThreadingHTTPServer):
    """The Hub; `url` is its HF_ENDPOINT.

    Attributes:
        repositories: ("model", "dataset" or "space", "user/name") -> Repository.
        blobs: sha256 -> content, of LFS and other files alike.
        log: every request, in the order in which they were answered.
        page_size: entries of one page of a file listing.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[Request] = []
        self.page_size = 1000
        self.lock = threading.RLock()
        self._faults: list[Fault] = []

    @contextmanager
    def fault(
        self, method: str, path: str, how: int | str, first: int = 1, times: float = float("inf")
    ) -> Iterator[Fault]:
        """Requests with this method whose path fits the regular expression fail, as `Fault` says, within the `with`."""
        if not isinstance(how, int) and how not in SIGNALS:
            raise ValueError(f"how is a status or one of {SIGNALS}, not {how!r}")
        fault = Fault(method, re.compile(path), how, first, times)
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)
            fault.over.set()

    def due(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, if any."""
        with self.lock:
            for fault in self._faults:
                if method == fault.method and fault.path.search(path):
                    fault.seen += 1
                    if fault.first <= fault.seen < fault.first + fault.times:
                        fault.reached.set()
                        return fault
        return None

    def add_folder(self, repo_id: str, folder: str | Path, private: bool = False, kind: str = "dataset"):
        """Makes a repository of a folder, without a client."""
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): self.add_blob(path.read_bytes()) for path in paths}
        self.repositories[kind, repo_id] = Repository(private, files)

    def files(self, repo_id: str, revision: str = "main", kind: str = "dataset") -> dict[str, bytes]:
        """What a repository holds: path -> content."""
        return {path: self.blobs[sha] for path, sha in self.repositories[kind, repo_id].at(revision).files.items()}

    def requests(self, method: str, path: str = "") -> list[Request]:
        """The answered requests with this method whose path fits the regular expression."""
        return [request for request in self.log if request.method == method and re.search(path, request.path)]

    def add_blob(self, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        self.blobs[sha] = content
        return sha

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Variables for a process that takes this server for the Hub and has `home` as its cache."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
        settings = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(ROOT),
        }
        return kept | settings | ({"HF_TOKEN": token} if token else {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_):
        """Nothing on stderr: `HubServer.log` has it."""

    def _answer_request(self):
        self.user = None
        self.path_only = unquote(urlsplit(self.path).path)
        self.query = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
        fault = self.server.due(self.command, self.path_only)
        if fault and fault.how == "close":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self._close()
            return
        try:
            self.body = self._read_body()
        except OSError:  # the client went away
            self._close()
            return
        if fault and fault.how == "hang":
            fault.over.wait()
            self._close()
            return
        try:
            if fault:
                raise HubError(fault.how, "a fault that the test asked for")
            self._authenticate()
            # Uploads of content may take long and hurt nobody.
            with self.server.lock:
                self._route()
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            if error.status == 429:
                headers["Retry-After"] = "0"
            self._send(error.status, json.dumps({"error": str(error), **error.facts}).encode(), headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer_request

    def _close(self):
        self._log(0)
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _log(self, status: int):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.server.log.append(Request(self.command, self.path_only, status, token))

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, content: bytes, headers: dict[str, str], length: int | None = None):
        self._log(status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object, headers: dict[str, str] | None = None):
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _authenticate(self):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise HubError(401, "Invalid credentials in Authorization header")
        self.user = TOKENS.get(token)

    def _signed_in(self) -> str:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        return self.user

    def _route(self):
        for method, pattern, endpoint in ROUTES:
            found = pattern.fullmatch(self.path_only)
            if found and method == ("GET" if self.command == "HEAD" else self.command):
                return endpoint(self, **found.groupdict())
        raise HubError(404, f"This test server has no {self.command} {self.path_only}")

    def _repository(self, kind: str, repo_id: str, write: bool = False) -> Repository:
        found = self.server.repositories.get((kind, repo_id))
        owner = repo_id.split("/")[0]
        if found is None or (found.private and self.user != owner):
            # As the Hub does: who is not signed in does not learn whether there is such a private repository.
            if self.user is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write and self._signed_in() != owner:
            raise HubError(403, f"You don't have the rights to write to {repo_id}")
        return found

    # Endpoints. `kind` is "model", "dataset" or "space"; `id` is user/name.

    def whoami(self):
        name = self._signed_in()
        access = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        self._json({"type": "user", "id": name, "name": name, "fullname": name, "orgs": [], "auth": access})

    def create(self):
        asked = json.loads(self.body)
        owner = asked.get("organization") or self._signed_in()
        if owner != self._signed_in():
            raise HubError(403, f"You don't have the rights to create a repository under the namespace {owner}")
        kind, repo_id = asked.get("type", "model"), f"{owner}/{asked['name']}"
        url = f"{self.server.url}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"
        if (kind, repo_id) in self.server.repositories:
            raise HubError(409, "You already created this repo", url=url)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        files = {".gitattributes": self.server.add_blob(attributes.encode())}
        self.server.repositories[kind, repo_id] = Repository(asked.get("visibility") == "private", files)
        self._json({"url": url})

    def settings(self, kind: str, id: str):
        self._repository(kind, id, write=True).private = json.loads(self.body).get("visibility") == "private"
        self._json({})

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        front = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
        try:
            errors = [] if front and isinstance(yaml.safe_load(front[1]), dict) else ["The metadata is no mapping"]
        except yaml.YAMLError as error:
            errors = [str(error)]
        answer = {"errors": [{"message": error} for error in errors], "warnings": []}
        self._send(400 if errors else 200, json.dumps(answer).encode(), {})

    def info(self, kind: str, id: str, revision: str = "main"):
        repository = self._repository(kind, id)
        commit = repository.at(revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        if self.query.get("blobs"):
            siblings = [sibling | self._file(commit, sibling["rfilename"]) for sibling in siblings]
            siblings = [{**sibling, "blobId": sibling.pop("oid")} for sibling in siblings]
        facts = {"_id": id, "id": id, "sha": commit.oid, "private": repository.private, "siblings": siblings}
        named = {"modelId": id} if kind == "model" else {}
        counts = {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
        self._json(facts | named | counts | {"lastModified": DATE, "createdAt": DATE})

    def refs(self, kind: str, id: str):
        repository = self._repository(kind, id)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
            for name, oid in repository.branches.items()
        ]
        tags = [
            {"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in repository.tags.items()
        ]
        self._json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def commits(self, kind: str, id: str, revision: str):
        repository = self._repository(kind, id)
        oid, found = repository.at(revision).oid, []
        while oid:
            commit = repository.commits[oid]
            found.append({"id": oid, "title": commit.title, "message": "", "authors": [], "date": DATE})
            oid = commit.parent
        self._json(found)

    def tag(self, kind: str, id: str, name: str):
        repository = self._repository(kind, id, write=True)
        if self.command == "DELETE":
            if repository.tags.pop(name, None) is None:
                raise HubError(404, f"Tag {name} does not exist", "RevisionNotFound")
            return self._json({})
        asked = json.loads(self.body)["tag"]
        if asked in repository.tags:
            raise HubError(409, f"Tag {asked} already exists")
        repository.tags[asked] = repository.at(name).oid
        return self._json({})

    def branch(self, kind: str, id: str, name: str):
        repository = self._repository(kind, id, write=True)
        if self.command == "DELETE":
            if repository.branches.pop(name, None) is None:
                raise HubError(404, f"Branch {name} does not exist", "RevisionNotFound")
            return self._json({})
        if name in repository.branches:
            raise HubError(409, f"Branch {name} already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repository.branches[name] = repository.at(start).oid
        return self._json({})

    def preupload(self, kind: str, id: str, revision: str):
        commit = self._repository(kind, id, write=True).at(revision)
        answers = []
        for asked in json.loads(self.body)["files"]:
            is_lfs = _is_lfs(asked["path"], asked["size"], base64.b64decode(asked.get("sample", "")))
            sha = commit.files.get(asked["path"])
            oid = None if sha is None else sha if is_lfs else _git_oid(self.server.blobs[sha])
            mode = "lfs" if is_lfs else "regular"
            answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def lfs_batch(self, kind: str, id: str):
        self._repository(kind, id, write=True)
        answers = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.blobs:
                upload = {"href": f"{self.server.url}/lfs/objects/{asked['oid']}"}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.server.url}/lfs/verify"}}
            answers.append(answer)
        self._json({"transfer": "basic", "objects": answers})

    def lfs_upload(self, sha: str):
        if hashlib.sha256(self.body).hexdigest() != sha:
            raise HubError(400, "The content is not what its sha256 says")
        self.server.add_blob(self.body)
        self._json({})

    def lfs_verify(self):
        asked = json.loads(self.body)
        if len(self.server.blobs.get(asked["oid"], b"")) != asked["size"]:
            raise HubError(404, "LFS object not found")
        self._json({})

    def commit(self, kind: str, id: str, revision: str):
        repository = self._repository(kind, id, write=True)
        if revision not in repository.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repository.at(revision)
        files, title = dict(head.files), ""
        for line in self.body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", head.oid) != head.oid:
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = self.server.add_blob(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self.server.blobs:
                    raise HubError(400, f"LFS object {value['oid']} of {value['path']} was not uploaded")
                files[value["path"]] = value["oid"]
            elif key in ("deletedFile", "deletedFolder"):
                folder = f"{value['path'].rstrip('/')}/"
                gone = [name for name in files if name == value["path"] or name.startswith(folder)]
                if not gone:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                for name in gone:
                    del files[name]
        oid = repository.commit(revision, title, files).oid
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{id}/commit/{oid}"})

    def tree(self, kind: str, id: str, revision: str, folder: str = ""):
        commit = self._repository(kind, id).at(revision)
        entries = self._listing(commit, folder, self.query.get("recursive", "").lower() in ("1", "true"))
        if folder and not entries:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        start = int(self.query.get("cursor", 0))
        end = start + self.server.page_size
        headers = {}
        if end < len(entries):
            rest = "&".join(f"{name}={quote(value)}" for name, value in self.query.items() if name != "cursor")
            headers["Link"] = f'<{self.server.url}{urlsplit(self.path).path}?{rest}&cursor={end}>; rel="next"'
        self._json(entries[start:end], headers)

    def paths_info(self, kind: str, id: str, revision: str):
        commit = self._repository(kind, id).at(revision)
        if "json" in self.headers.get("Content-Type", ""):
            asked = json.loads(self.body)["paths"]
        else:
            asked = parse_qs(self.body.decode()).get("paths", [])
        known = {entry["path"]: entry for entry in self._listing(commit, "", True)}
        self._json([known[path.strip("/")] for path in asked if path.strip("/") in known])

    def resolve(self, id: str, revision: str, path: str, kind: str = "model"):
        commit = self._repository(kind, id).at(revision)
        seen = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        content = self.server.blobs[commit.files[path]]
        entry = self._file(commit, path)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        seen |= {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            seen |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not asked or asked.groups() == ("", ""):
            return self._send(200, content, seen)
        first, last = asked.groups()
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) + 1, len(content)) if first and last else len(content)
        if start >= len(content):
            raise HubError(416, "Range not satisfiable")
        return self._send(206, content[start:end], seen | {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"})

    def _file(self, commit: Commit, path: str) -> dict[str, object]:
        sha = commit.files[path]
        content = self.server.blobs[sha]
        facts = {"size": len(content), "oid": _git_oid(content)}
        if _is_lfs(path, len(content), content[:512]):
            facts["lfs"] = {"oid": sha, "sha256": sha, "size": len(content), "pointerSize": 134}
        return facts

    def _listing(self, commit: Commit, folder: str, recursive: bool) -> list[dict]:
        """What lies in a folder, as the Hub describes it; sorted by path."""
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        last = {"id": commit.oid, "title": commit.title, "date": DATE}
        more = {"lastCommit": last} if self.query.get("expand", "").lower() in ("1", "true") else {}
        entries = {}
        for path in commit.files:
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                name = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(f"{commit.oid}{name}".encode()).hexdigest()
                entries[name] = {"type": "directory", "path": name, "oid": oid, "size": 0} | more
            if recursive or len(parts) == 1:
                entries[path] = {"type": "file", "path": path} | self._file(commit, path) | more
        return [entries[name] for name in sorted(entries)]


def _is_lfs(path: str, size: int, sample: bytes) -> bool:
    if path.endswith(LFS_SUFFIXES) or size > LFS_SIZE:
        return True
    return b"\0" in sample


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _route(method: str, pattern: str, endpoint: Callable) -> tuple[str, re.Pattern, Callable]:
    """{kind} stands for model, dataset or space, {id} for user/name, {revision} for one part, the rest for more."""
    for name, expression in (
        ("{kind}s", r"(?P<kind>model|dataset|space)s"),
        ("{id}", r"(?P<id>[^/]+/[^/]+?)"),
        ("{revision}", r"(?P<revision>refs/[^/]+/[^/]+|[^/]+)"),
        ("{name}", r"(?P<name>.+)"),
        ("{folder}", r"(?P<folder>.+)"),
        ("{path}", r"(?P<path>.+)"),
        ("{sha}", r"(?P<sha>[0-9a-f]{64})"),
    ):
        pattern = pattern.replace(name, expression)
    return method, re.compile(pattern), endpoint


ROUTES = [
    _route("GET", "/api/whoami-v2", _Handler.whoami),
    _route("POST", "/api/repos/create", _Handler.create),
    _route("POST", "/api/validate-yaml", _Handler.validate_yaml),
    _route("GET", "/api/{kind}s/{id}", _Handler.info),
    _route("GET", "/api/{kind}s/{id}/revision/{revision}", _Handler.info),
    _route("PUT", "/api/{kind}s/{id}/settings", _Handler.settings),
    _route("GET", "/api/{kind}s/{id}/refs", _Handler.refs),
    _route("GET", "/api/{kind}s/{id}/commits/{revision}", _Handler.commits),
    _route("POST", "/api/{kind}s/{id}/tag/{name}", _Handler.tag),
    _route("DELETE", "/api/{kind}s/{id}/tag/{name}", _Handler.tag),
    _route("POST", "/api/{kind}s/{id}/branch/{name}", _Handler.branch),
    _route("DELETE", "/api/{kind}s/{id}/branch/{name}", _Handler.branch),
    _route("POST", "/api/{kind}s/{id}/preupload/{revision}", _Handler.preupload),
    _route("POST", "/api/{kind}s/{id}/commit/{revision}", _Handler.commit),
    _route("GET", "/api/{kind}s/{id}/tree/{revision}", _Handler.tree),
    _route("GET", "/api/{kind}s/{id}/tree/{revision}/{folder}", _Handler.tree),
    _route("POST", "/api/{kind}s/{id}/paths-info/{revision}", _Handler.paths_info),
    _route("POST", "/{kind}s/{id}.git/info/lfs/objects/batch", _Handler.lfs_batch),
    _route("POST", "/{id}.git/info/lfs/objects/batch", lambda handler, id: handler.lfs_batch("model", id)),
    _route("PUT", "/lfs/objects/{sha}", _Handler.lfs_upload),
    _route("POST", "/lfs/verify", _Handler.lfs_verify),
    _route("GET", "/{kind}s/{id}/resolve/{revision}/{path}", _Handler.resolve),
    _route("GET", "/{id}/resolve/{revision}/{path}", _Handler.resolve),
]


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """A server in a thread of this process."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """One Hub for the tests of a module; they keep apart by the names of their repositories."""
    with running_hub() as server:
        yield server


def run_python(
    what: str | list[str],
    hub: HubServer,
    token: str | None = TOKEN,
    home: Path | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess:
    """Run code, or `python` with these arguments, in a fresh process that takes `hub` for the Hub.

    Args:
        home: the cache (HF_HOME); `None`: an empty one, removed afterwards.
    """
    arguments = ["-c", what] if isinstance(what, str) else what
    empty = tempfile.mkdtemp(prefix="moon2-hub-") if home is None else None
    try:
        return fresh.run(arguments, hub.environment(Path(empty or home), token), cwd, timeout)
    finally:
        if empty:
            shutil.rmtree(empty, ignore_errors=True)
