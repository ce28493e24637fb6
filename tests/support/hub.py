"""A stand-in for the Hugging Face hub: the part of its HTTP interface that huggingface_hub uses for model repositories.

Written after the requests of huggingface_hub and the hub's documentation; the hub itself is not reached by any test.
Large files go through Git LFS's batch interface, because the hub's own transfer, Xet, cannot be stood in for: clients
must run with HF_HUB_DISABLE_XET=1.
"""

import hashlib
import json
import re
import sys
import threading
from base64 import b64decode
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN, READ_TOKEN = "hf_writes", "hf_reads"
LFS = (".onnx", ".safetensors", ".pkl", ".bin")


def sha1(content):
    return hashlib.sha1(content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def git_oid(content):
    """Git's name of a file's content."""
    return sha1(b"blob %d\0" % len(content) + content)


def oid(path, content):
    """How the hub names a content: as Git does, or by the sha256 of a large file."""
    return sha256(content) if path.endswith(LFS) else git_oid(content)


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    branches: dict = field(default_factory=dict)  # also tags → commit
    commits: dict = field(default_factory=dict)  # commit → {path: content}
    messages: dict = field(default_factory=dict)

    def commit(self, files, message="", branch="main"):
        """Add a commit that changes files; None removes one."""
        tree = dict(self.commits.get(self.branches.get(branch), {}))
        for path, content in files.items():
            if content is None:
                tree.pop(path)
            else:
                tree[path] = content
        commit = sha1(repr((len(self.commits), sorted(tree), message)).encode())
        self.commits[commit], self.messages[commit], self.branches[branch] = tree, message, commit
        return commit

    def resolve(self, revision):
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision="main"):
        return self.commits[self.resolve(revision)]


class Hub(ThreadingHTTPServer):
    """The stand-in.

    Attributes:
        repositories: OWNER/NAME → Repository.
        requests: METHOD and path of every request.
        claimed_sizes: path → the size that listings state instead of the true one.
        corrupt: paths whose content is sent with its last byte changed.
        cut: paths whose connection breaks in the middle of the content, and how often.
        down: answer 503 to everything.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.requests, self.objects = {}, [], {}
        self.claimed_sizes, self.corrupt, self.cut, self.down = {}, set(), {}, False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name, files, **options):
        repository = self.repositories[name] = Repository(**options)
        repository.commit(files)
        return repository

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # that a client or a test closed
            super().handle_error(request, client_address)


@contextmanager
def hub():
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Refused(Exception):
    pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer(self):
        address = urlsplit(self.path)
        self.path, self.query = address.path, address.query
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            self.body = b"".join(parts)
        else:
            self.body = self.rfile.read(length)
        self.server.requests.append(f"{self.command} {self.path}")
        try:
            if self.server.down:
                self.refuse(503, "", "Service Unavailable")
            for pattern, function in ROUTES:
                if match := re.fullmatch(pattern, f"{self.command} {self.path}"):
                    return function(self, **{key: unquote(value) for key, value in match.groupdict().items()})
            self.refuse(404, "", "Not Found")
        except Refused:
            pass

    # replies

    def reply(self, status, content=b"", kind="application/json", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", headers.pop("length", None) or str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value, status=200):
        self.reply(status, json.dumps(value).encode())

    def refuse(self, status, code, message):
        content = json.dumps({"error": message}).encode()
        headers = {"X_Error_Code": code} if code else {}
        self.reply(status, content, X_Error_Message=message, **headers)
        raise Refused

    # rights

    def token(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (TOKEN, READ_TOKEN):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        return token

    def writer(self):
        token = self.token()
        if not token:
            self.refuse(401, "", "Invalid username or password.")
        if token != TOKEN:
            self.refuse(403, "", "Your token lacks the permission to write")

    def repository(self, name, content=False):
        token = self.token()
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not token):
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if content and repository.gated and not token:
            self.refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
        return repository

    def tree(self, repository, revision):
        commit = repository.resolve(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    # routes

    def create(self):
        self.writer()
        request = json.loads(self.body)
        name = f"{request.get('organization') or 'me'}/{request['name']}"
        if name in self.server.repositories:
            return self.json({"error": "exists", "url": f"{self.server.url}/{name}"}, 409)
        repository = self.server.add(name, {".gitattributes": b"*.onnx filter=lfs\n"})
        repository.private = bool(request.get("private")) or request.get("visibility") == "private"
        self.json({"url": f"{self.server.url}/{name}", "id": "1", "name": name})

    def branch(self, name, branch):
        self.writer()
        repository = self.repository(name)
        if branch in repository.branches:
            return self.json({"error": "Reference already exists"}, 409)
        repository.branches[branch] = repository.branches["main"]
        self.json({"success": True})

    def info(self, name, revision="main"):
        commit, files = self.tree(self.repository(name), revision)
        siblings = [{"rfilename": path} for path in files]
        self.json({"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})

    def paths_info(self, name, revision):
        _, files = self.tree(self.repository(name), revision)
        request = self.body.decode()
        paths = json.loads(request)["paths"] if request.startswith("{") else None
        self.json([self.entry(path, content) for path, content in files.items() if paths is None or path in paths])

    def entry(self, path, content):
        size = self.server.claimed_sizes.get(path, len(content))
        entry = {"type": "file", "path": path, "size": size, "oid": git_oid(content)}
        if path.endswith(LFS):
            entry["lfs"] = {"oid": sha256(content), "size": size, "pointerSize": 130}
        return entry

    def validate_yaml(self):
        text = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        fields = yaml.safe_load(match[1]) if match else None
        if not isinstance(fields, dict):
            return self.json({"errors": [{"message": "no front matter"}], "warnings": []}, 400)
        self.json({"errors": [], "warnings": []})

    def preupload(self, name, revision):
        self.writer()
        _, tree = self.tree(self.repository(name), revision)
        files = [
            {
                "path": file["path"], "shouldIgnore": False,
                "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                "oid": oid(file["path"], tree[file["path"]]) if file["path"] in tree else None,
            }
            for file in json.loads(self.body)["files"]
        ]  # fmt: skip
        self.json({"files": files, "commitOid": "0" * 40})

    def lfs_batch(self, name):
        self.writer()
        objects = [
            {"oid": each["oid"], "size": each["size"]}
            | (
                {}
                if each["oid"] in self.server.objects
                else {"actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}", "header": {}}}}
            )
            for each in json.loads(self.body)["objects"]
        ]
        self.json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if sha256(self.body) != oid:
            self.refuse(422, "", "the content has another digest")
        self.server.objects[oid] = self.body
        self.reply(200)

    def commit(self, name, revision):
        self.writer()
        repository = self.repository(name)
        self.tree(repository, revision)
        files, message = {}, ""
        for line in self.body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                message = value["summary"]
            elif operation["key"] == "file":
                files[value["path"]] = b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                files[value["path"]] = None
        url = f"{self.server.url}/{name}"
        answer = {"success": True}
        if "create_pr=1" in self.query:
            repository.branches["refs/pr/1"] = repository.branches[revision]
            revision, answer["pullRequestUrl"] = "refs/pr/1", f"{url}/discussions/1"
        commit = repository.commit(files, message, revision)
        self.json(answer | {"commitOid": commit, "commitUrl": f"{url}/commit/{commit}"})

    def resolve(self, name, revision, path):
        commit, files = self.tree(self.repository(name, content=True), revision)
        if path not in files:
            return self.missing(commit)
        content = files[path]
        lfs = path.endswith(LFS)
        etag = f'"{oid(path, content)}"'
        headers = {"X_Repo_Commit": commit, "ETag": etag, "Accept_Ranges": "bytes"}
        if lfs:
            size = str(self.server.claimed_sizes.get(path, len(content)))
            headers |= {
                "X_Linked_Etag": etag,
                "X_Linked_Size": size,
                "Location": f"http://localhost:{self.server.server_port}/cdn/{name}/{commit}/{path}",
            }
            return self.reply(302, **headers)
        self.send_content(path, content, headers)

    def missing(self, commit):
        self.reply(404, b"{}", X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit)

    def cdn(self, name, commit, path):
        self.send_content(path, self.server.repositories[name].commits[commit][path], {})

    def send_content(self, path, content, headers):
        if path in self.server.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if ranged := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(ranged[1])
            headers = headers | {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        part = content[start:]
        if self.command == "GET" and self.server.cut.get(path):
            self.server.cut[path] -= 1
            self.close_connection = True
            return self.reply(206 if start else 200, part[: len(part) // 2], length=str(len(part)), **headers)
        self.reply(206 if start else 200, part, "application/octet-stream", **headers)


NAME = r"(?P<name>[^/]+/[^/]+)"
ROUTES = [
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate_yaml),
    (rf"POST /api/models/{NAME}/branch/(?P<branch>.+)", Handler.branch),
    (rf"GET /api/models/{NAME}", Handler.info),
    (rf"GET /api/models/{NAME}/revision/(?P<revision>.+)", Handler.info),
    (rf"POST /api/models/{NAME}/paths-info/(?P<revision>.+)", Handler.paths_info),
    (rf"POST /api/models/{NAME}/preupload/(?P<revision>.+)", Handler.preupload),
    (rf"POST /api/models/{NAME}/commit/(?P<revision>.+)", Handler.commit),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    (rf"(GET|HEAD) /{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
    (rf"(GET|HEAD) /cdn/{NAME}/(?P<commit>[^/]+)/(?P<path>.+)", Handler.cdn),
]
