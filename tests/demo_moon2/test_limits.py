"""What the demo's page accepts and what it gives away, asked of the running server."""

import io
import json
import struct
import tempfile
import warnings
import zlib
from base64 import b64encode
from pathlib import Path

import httpx
import pytest

from conftest import picture, tiny_model, tiny_processor

gr = pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from demo_moon2 import limits  # noqa: E402
from demo_moon2.app import serve  # noqa: E402
from demo_moon2.arguments import ServeArguments  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page(mbe2, tmp_path_factory) -> gr.Blocks:
    """The page in a thread of this process."""
    folder = tmp_path_factory.mktemp("served")
    tiny_model().save_pretrained(folder / "moon2")
    tiny_processor().save_pretrained(folder / "moon2")
    page = serve(ServeArguments(model=str(folder / "moon2"), dataset=mbe2, cache=folder / "cache", results=5))
    yield page
    page.close()


@pytest.fixture(scope="module")
def client(page) -> httpx.Client:
    with httpx.Client(base_url=page.local_url, timeout=60, follow_redirects=False, trust_env=False) as client:
        yield client


def encoded(kind: str = "PNG", width: int = 40, height: int = 30) -> bytes:
    file = io.BytesIO()
    picture(width, height).save(file, kind)
    return file.getvalue()


def png_that_unfolds(side: int) -> bytes:
    """A PNG of few bytes whose header promises many pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )


def upload(client: httpx.Client, content: bytes, name: str = "photo.png") -> httpx.Response:
    return client.post("/gradio_api/upload", files={"files": (name, content)})


def call(page: gr.Blocks, client: httpx.Client, function: str, data: list) -> list:
    """Runs a function of the page as the browser does, by vectors if the way is left out; what it gives."""
    data = [*data, "Vectors"] if len(data) == 3 else data
    (index,) = [index for index, fn in page.fns.items() if getattr(fn.fn, "__name__", "") == function][:1]
    session = f"session{index}{len(data)}"
    joined = client.post("/gradio_api/queue/join", json={"fn_index": index, "data": data, "session_hash": session})
    assert joined.status_code == 200, joined.text
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            told = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if told.get("msg") == "process_completed":
                return told["output"].get("data") or [str(told["output"].get("error"))]
    raise AssertionError("no answer")


def file_data(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_the_page_comes_with_a_policy_and_asks_nothing_of_others(client):
    answer = client.get("/")
    assert answer.status_code == 200 and "default-src 'self'" in answer.headers["content-security-policy"]
    config = client.get("/config").json()
    assert "<p>moon2 on mbe2: " in json.dumps(config) and tempfile.gettempdir() not in json.dumps(config)
    assert str(ROOT) not in json.dumps(config), "no path of the machine"
    assert not config.get("analytics_enabled")
    assert config["show_error"] is False and config["footer_links"] == []
    assert "googleapis" not in client.get("/theme.css").text + json.dumps(config.get("stylesheets", []))
    for route in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(route).status_code == 404, route


@pytest.mark.parametrize("prefix", ["/gradio_api/file=", "/file=", "/gradio_api/file%3D"])
def test_no_file_of_the_machine_is_served(client, page, mbe2, tmp_path, prefix):
    secret = tmp_path / "secret.txt"
    secret.write_text("never told")
    (shard,) = (Path(mbe2) / "corpus").glob("*.parquet")
    here = [ROOT / "README.md", ROOT / "demo_moon2" / "style.css", secret, shard, "/etc/passwd", "/proc/self/environ"]
    ways = [*map(str, here), "README.md", "demo_moon2/app.py", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd"]
    uploads = Path(page.GRADIO_CACHE)
    ways += [f"{uploads}/../../etc/passwd", f"{uploads}/%2e%2e/%2e%2e/etc/passwd"]
    for way in ways:
        answer = client.get(f"{prefix}{way}")
        assert answer.status_code in (403, 404), (way, answer.status_code)
        assert b"never told" not in answer.content and b"root:" not in answer.content


@pytest.mark.parametrize("route", ["file=http://127.0.0.1:1/a.png", "file=http:/127.0.0.1:1/a.png", "proxy=http://a.b/c",
                                   "file=https://example.org/a.png", "file=HTTP://example.org"])  # fmt: skip
def test_no_address_is_fetched(client, route):
    answer = client.get(f"/gradio_api/{route}")
    assert answer.status_code == 403 and answer.text == "This page fetches no addresses."


@pytest.mark.parametrize("address", ["http://example.org/a.png", "HTTPS://example.org/a.png", "https:/example.org"])
def test_an_address_in_place_of_an_upload_is_refused(client, address):
    for data in (["", file_data(address), 50], [file_data(address), None, 50], [[{"a": file_data(address)}], None, 50]):
        for route in ("queue/join", "run/predict", "api/search"):
            answer = client.post(f"/gradio_api/{route}", json={"fn_index": 0, "data": data, "session_hash": "s"})
            assert (answer.status_code, answer.text) == (403, "This page fetches no addresses.")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_are_taken_whatever_they_are_called(client, kind):
    answer = upload(client, encoded(kind), "photo.dat")
    assert answer.status_code == 200
    assert client.get(f"/gradio_api/file={answer.json()[0]}").content == encoded(kind), "and shown to who sent it"


def test_other_files_are_refused_before_they_are_stored(client, page):
    before = sorted(Path(page.GRADIO_CACHE).rglob("*"))
    refused = {
        "page.png": b"<script>alert(1)</script>",
        "vector.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "empty.png": b"",
        "letter.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, content in refused.items():
        answer = upload(client, content, name)
        assert (answer.status_code, answer.text[:18]) == (415, "This file is no JP"), name
    for side in (6_000, 12_000, 100_000):  # Pillow warns of the second, and refuses the third
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = upload(client, png_that_unfolds(side))
        assert (answer.status_code, answer.text) == (415, limits.TOO_MANY_PIXELS)
    mixed = client.post("/gradio_api/upload", files=[("files", ("a.png", encoded())), ("files", ("b.png", b"no"))])
    assert mixed.status_code == 400 and "Too many files" in mixed.text
    assert sorted(Path(page.GRADIO_CACHE).rglob("*")) == before


def test_large_files_are_refused(client):
    large = encoded() + bytes(limits.MAX_UPLOAD)
    assert upload(client, large[: limits.MAX_UPLOAD]).status_code == 200
    answer = upload(client, large)
    assert (answer.status_code, answer.text) == (415, "An image may have at most 8 MiB.")
    answer = upload(client, large + bytes(limits.MAX_REQUEST))
    assert (answer.status_code, answer.text) == (413, "An image may have at most 8 MiB.")
    answer = client.post("/gradio_api/queue/join", json={"fn_index": 0, "data": ["a" * limits.MAX_REQUEST]})
    assert (answer.status_code, answer.text) == (413, "The request is too large.")


def test_bytes_that_are_no_form_are_refused(client):
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert client.post("/gradio_api/upload", content=b"nothing of that", headers=headers).status_code == 400
    assert client.post("/gradio_api/upload", content=b"{}").status_code == 400


def test_a_search_by_text_picture_and_both(page, client):
    path = upload(client, encoded()).json()[0]
    for text, photo, kind in (("mug", None, "text"), ("", path, "image"), ("mug", path, "text and image")):
        said, query, heat, found, _ = call(page, client, "search", [text, photo and file_data(photo), 50])
        assert "The best 5 of" in said and f"<strong>{kind}</strong>" in query and not heat
        assert found.count('<li class="card">') == 5
    # Another share is another order only where it means something.
    unchanged = call(page, client, "search_again", ["mug", None, 70])
    assert len(unchanged) == 5 and not any("value" in update for update in unchanged)
    assert "70% image" in call(page, client, "search_again", ["mug", file_data(path), 70])[1]


def test_what_cannot_be_searched_is_said_on_the_page(page, client, tmp_path):
    said, *rest = call(page, client, "search", ["  ", None, 50])
    assert 'role="alert">Type what you look for, or add an image.' in said and rest[:3] == ["", "", ""]
    said, *rest = call(page, client, "search", ["mug", None, 50, "Magic"])
    assert "There is no way &#39;Magic&#39; to search, but " in said and rest[:3] == ["", "", ""]
    said, *rest = call(page, client, "search", ["a" * 501, None, 50])
    assert "The text has 501 characters; at most 500 are read." in said
    cut = upload(client, encoded("JPEG", 300, 300)[:2000], "cut.jpg").json()[0]
    said, *rest = call(page, client, "search", ["mug", file_data(cut), 50])
    assert "The image cannot be read: " in said and rest == ["", "", "", None], "the form has no image any more"
    assert not Path(cut).exists(), "what cannot be read is not kept"
    said, *_ = call(page, client, "search", ["mug", file_data(cut), 50])
    assert "add it again" in said or "not" in said


def test_a_picture_is_one_that_was_uploaded(page, client, tmp_path):
    """A path of the machine, told in place of an upload, is not opened."""
    photo = tmp_path / "private.png"
    photo.write_bytes(encoded())
    notes = tmp_path / "notes.txt"
    notes.write_text("kept")
    outside = [f"{page.GRADIO_CACHE}/../{photo.relative_to(Path(page.GRADIO_CACHE).parent)}", str(photo), str(notes)]
    for path in outside:
        for meta in ({"_type": "gradio.FileData"}, {"_type": "other"}, None):
            told = {"path": path} | ({} if meta is None else {"meta": meta})
            answer = call(page, client, "search", ["", told, 50])
            assert "card" not in "".join(map(str, answer)), (path, meta)
    assert photo.read_bytes() == encoded() and notes.read_text() == "kept", "nor is it removed"
    # Nor is one that hides in an address and has not passed the door.
    hidden = {"url": f"data:image/png;base64,{b64encode(encoded()).decode()}", "meta": {"_type": "gradio.FileData"}}
    said, *_ = call(page, client, "search", ["", hidden, 50])
    assert "add it again" in said


def test_what_the_form_never_sends_is_refused(page, client):
    for data in (
        [["mug"], None, 50],
        [{"a": 1}, None, 50],
        ["mug", None, "50"],
        ["mug", None, None],
        ["mug", None, 50, 1],
    ):
        said, *rest = call(page, client, "search", data)
        assert "A query is a text, an image, a number and a way to search." in said and rest[:3] == ["", "", ""]
    path = upload(client, encoded()).json()[0]
    said, *_ = call(page, client, "search", ["mug", file_data(path), 500])
    assert "give 0 to 1" in said


def test_a_heat_map_of_what_is_not_there_is_a_sentence(page, client):
    (index,) = [index for index, fn in page.fns.items() if getattr(fn.fn, "__name__", "") == "show_heat"]
    for row in (10_000, -1, "../etc", None, True, 1.5):
        body = {"fn_index": index, "data": [], "session_hash": f"heat{row}", "event_data": {"row": row}}
        assert client.post("/gradio_api/queue/join", json=body).status_code == 200
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": f"heat{row}"}) as stream:
            text = next(line for line in stream.iter_lines() if "process_completed" in line)
        told = json.loads(text.removeprefix("data:"))
        assert told["success"] and 'role="alert"' in told["output"]["data"][0], row
