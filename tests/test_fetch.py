"""Fetching and converting weights, against a server on the loopback."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import http.server
import itertools
import re
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import torch_files as make
from residual_states import state_dict

from gladjax import backbone
from gladjax.backbone import CheckpointError, FetchError, download, entries, resnet

BODY = np.random.default_rng(0).bytes(3 * 2**20 + 17)
ENDLESS = 2**25  # What a server sends that would send for ever.
DIGITS = hashlib.sha256(BODY).hexdigest()[:8]


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves BODY in the ways that the server's ``behaviour`` names."""

    def log_message(self, *arguments):
        del arguments

    def pour(self, body, behaviour):
        """Sends without end, a byte at a time, or with a pause; never for long."""
        pieces, pause = [body[:1000], body[1000:]], 0.5
        if behaviour == "endless":
            pieces, pause = [bytes(2**20)] * (ENDLESS // 2**20), 0.0
        elif behaviour == "drips":
            pieces, pause = [bytes([value]) for value in body[:60]], 0.1
        with contextlib.suppress(OSError):
            for piece in pieces:
                self.wfile.write(piece)
                self.server.sent += len(piece)
                time.sleep(pause)

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        behaviour = server.behaviour
        if behaviour == "forbidden":
            self.send_error(403)
            return
        start = int(re.match(r"bytes=(\d+)-$", asked)[1]) if asked else 0
        body = server.body
        if "no ranges" in behaviour:
            start = 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            last = len(body) - 1
            shown = 5 if behaviour == "wrong range" else start
            total = start if behaviour == "shorter" else len(body)
            self.send_header("Content-Range", f"bytes {shown}-{last}/{total}")
        if behaviour not in ("no length", "endless"):
            more = ENDLESS if behaviour == "too long" else 0
            self.send_header("Content-Length", str(len(body) - start + more))
        self.end_headers()
        if behaviour in ("endless", "drips", "slow"):
            self.pour(body[start:], behaviour)
            return
        stop = start + 2**20 if behaviour == "breaks" else len(body)
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(body[start:stop])


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.behaviour, running.body, running.requests = "", BODY, []
        running.sent = 0
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        running.url = f"http://127.0.0.1:{running.server_port}/resnet18.pth"
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def published(monkeypatch, tmp_path):
    """As if the published file of resnet18 were BODY; an empty cache folder."""
    known = dataclasses.replace(
        backbone.entry("resnet18"),
        url=f"https://example.invalid/resnet18-{DIGITS}.pth",
        sha256=DIGITS,
    )
    monkeypatch.setitem(entries._PUBLISHED, "resnet18", known)
    monkeypatch.setenv("GLADJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / f"resnet18-{DIGITS}.pth"


def test_fetches_into_the_cache_folder_and_reports(server, published):
    seen = []
    path = backbone.fetch(
        "resnet18", url=server.url, progress=lambda *counts: seen.append(counts)
    )
    assert path == published
    assert path.read_bytes() == BODY
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert seen[-1] == (len(BODY), len(BODY))
    assert all(a[0] < b[0] for a, b in itertools.pairwise(seen))


def test_does_not_fetch_what_is_there(server, published):
    first = backbone.fetch("resnet18", url=server.url)
    assert backbone.fetch("resnet18", url=server.url) == first
    assert len(server.requests) == 1
    first.write_bytes(BODY[:-1] + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        backbone.fetch("resnet18", url=server.url)
    assert len(server.requests) == 1


def test_takes_up_a_broken_download_where_it_stopped(server, published):
    server.behaviour = "breaks"
    for round_ in (1, 2, 3):
        with pytest.raises(FetchError, match=f"broke after {round_ * 2**20} of"):
            backbone.fetch("resnet18", url=server.url)
        assert not published.exists()
    server.behaviour = ""
    assert backbone.fetch("resnet18", url=server.url).read_bytes() == BODY
    assert server.requests == [None, *(f"bytes={n * 2**20}-" for n in (1, 2, 3))]


@pytest.mark.parametrize("behaviour", ["no ranges", "no length"])
def test_servers_of_less_ability_will_do(behaviour, server, published, tmp_path):
    server.behaviour = behaviour
    published.parent.mkdir()
    published.with_name(published.name + ".part").write_bytes(BODY[:1000])
    assert backbone.fetch("resnet18", url=server.url).read_bytes() == BODY
    elsewhere = backbone.fetch("resnet18", url=server.url, directory=tmp_path / "a")
    assert elsewhere.parent == tmp_path / "a"
    assert elsewhere.read_bytes() == BODY


@pytest.mark.parametrize("behaviour", ["wrong range", "shorter"])
def test_a_part_that_the_server_contradicts_is_begun_again(
    behaviour, server, published
):
    server.behaviour = behaviour
    published.parent.mkdir()
    published.with_name(published.name + ".part").write_bytes(BODY[:1000])
    assert backbone.fetch("resnet18", url=server.url).read_bytes() == BODY
    assert server.requests == ["bytes=1000-", None]


def test_a_finished_part_needs_no_server(server, published):
    published.parent.mkdir()
    published.with_name(published.name + ".part").write_bytes(BODY)
    assert backbone.fetch("resnet18", url=server.url) == published
    assert published.read_bytes() == BODY
    assert server.requests == []
    assert [entry.name for entry in published.parent.iterdir()] == [published.name]


@pytest.mark.parametrize(
    ("behaviour", "begun"), [("endless", False), ("endless", True), ("too long", False)]
)
def test_no_more_is_taken_than_weights_can_be(
    behaviour, begun, server, published, monkeypatch
):
    monkeypatch.setattr(download, "_longest", lambda known: 2**22, raising=False)
    server.behaviour = behaviour
    if begun:
        published.parent.mkdir()
        published.with_name(published.name + ".part").write_bytes(BODY[:1000])
    with pytest.raises(CheckpointError, match=r"bytes, more than|more than \d+ bytes"):
        backbone.fetch("resnet18", url=server.url)
    assert server.sent < 2 * ENDLESS
    assert list(published.parent.iterdir()) == []


def test_the_longest_file_follows_from_the_network():
    lite = backbone.entry("efficientnet_lite0")
    size = backbone.locate("efficientnet_lite0").stat().st_size
    assert 3 * size < download._longest(lite) < 5 * size
    assert all(download._longest(known) < 2**31 for known in backbone.catalogue())


def test_a_server_that_drips_is_left(server, published, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.5)
    server.behaviour = "drips"
    began = time.monotonic()
    with pytest.raises(FetchError, match=r"only \d+ bytes came in 0\.5 seconds"):
        backbone.fetch("resnet18", url=server.url)
    assert time.monotonic() - began < 4
    # What came is kept, and taken up.
    server.behaviour = ""
    assert backbone.fetch("resnet18", url=server.url).read_bytes() == BODY
    assert server.requests[1] != "bytes=0-"


def test_many_fetches_at_once_are_one(server, published):
    server.behaviour = "slow"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(
            pool.map(lambda _: backbone.fetch("resnet18", url=server.url), range(4))
        )
    assert paths == [published] * 4
    assert published.read_bytes() == BODY
    assert server.requests == [None]
    assert [entry.name for entry in published.parent.iterdir()] == [published.name]


@pytest.mark.parametrize("old", [b"other" * 1000, BODY + b"more"])
def test_the_part_of_another_file_is_thrown_away(old, server, published):
    published.parent.mkdir()
    published.with_name(published.name + ".part").write_bytes(old)
    assert backbone.fetch("resnet18", url=server.url).read_bytes() == BODY
    assert server.requests == [f"bytes={len(old)}-", None]


def test_another_file_is_refused_and_nothing_is_kept(server, published):
    server.body = b"another file"
    with pytest.raises(CheckpointError, match=f"not {DIGITS}"):
        backbone.fetch("resnet18", url=server.url)
    assert list(published.parent.iterdir()) == []


def test_without_a_server_the_message_says_what_to_put_where(server, published):
    server.behaviour = "forbidden"
    with pytest.raises(FetchError) as error:
        backbone.fetch("resnet18", url=server.url)
    server.shutdown()
    server.server_close()
    with pytest.raises(FetchError, match="refused"):
        backbone.fetch("resnet18", url=server.url)
    with pytest.raises(FileNotFoundError) as missing:
        backbone.load("resnet18")
    for message in (str(error.value), str(missing.value)):
        assert f"https://example.invalid/resnet18-{DIGITS}.pth" in message
        assert str(published.parent) in message
        assert "CC BY-NC-SA 4.0" in message
        assert "GLADJAX_CACHE" in message
    assert "403" in str(error.value)


def test_nothing_published_is_said_so(published):
    with pytest.raises(ValueError, match=r"resnet18_lpf3: no web address.*your own"):
        backbone.fetch("resnet18_lpf3")
    with pytest.raises(ValueError, match="no web address"):
        backbone.fetch("resnet18", url="file:///etc/hostname")
    with pytest.raises(ValueError, match="no backbone named 'resnet19'; there are"):
        backbone.fetch("resnet19")


def test_a_file_without_a_known_hash_is_not_fetched(published, server):
    with pytest.raises(ValueError, match=r"put https://dl.*reg4_pretrain") as error:
        backbone.fetch("dinov2_vits14_reg", url=server.url)
    assert "gladjax weights fetch" not in str(error.value)
    assert server.requests == []


def test_weights_inside_a_package_need_no_fetching(published):
    path = backbone.fetch("efficientnet_lite0")
    assert path.name == "efficientnet-lite0-57934424.pth"
    assert path == backbone.locate("efficientnet_lite0")
    assert not published.parent.exists()


def test_a_missing_package_is_named(published, monkeypatch):
    known = dataclasses.replace(
        backbone.entry("efficientnet_lite0"), package=("no_such_package", "a/b-1.pth")
    )
    monkeypatch.setitem(entries._PUBLISHED, "efficientnet_lite0", known)
    with pytest.raises(FetchError, match="pip install no-such-package"):
        backbone.fetch("efficientnet_lite0")
    with pytest.raises(FileNotFoundError, match=r"put b-1\.pth into"):
        backbone.load("efficientnet_lite0")


def test_the_catalogue_is_sound():
    known = backbone.catalogue()
    assert len({entry.name for entry in known}) == len(known) == 23
    for entry in known:
        assert entry.licence
        if entry.name.startswith("dinov2"):
            assert re.fullmatch("[0-9a-f]{8}|", entry.sha256)
        else:
            assert re.fullmatch("[0-9a-f]{8}", entry.sha256)
            assert entry.file.endswith(f"-{entry.sha256}.pth")
        assert bool(entry.url) != bool(entry.package[0])
        paper_s = "lpf4" in entry.url
        assert paper_s == ("non-commercial" in entry.licence)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of resnet18 with all that torch would put in it."""
    state = state_dict("resnet18", 4, head=1000)
    return make.write_zip(tmp_path / "resnet18.pth", state)


def test_a_file_in_the_cache_folder_is_loaded(checkpoint, published, monkeypatch):
    monkeypatch.setenv("GLADJAX_CACHE", str(checkpoint.parent))
    digits = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:8]
    known = dataclasses.replace(
        backbone.entry("resnet18"), url=f"https://a.invalid/a-{digits}.pth"
    )
    monkeypatch.setitem(entries._PUBLISHED, "resnet18", known)
    checkpoint.rename(checkpoint.with_name(known.file))
    net = backbone.load("resnet18")
    assert (net.name, net.dims) == ("resnet18", (64, 128, 256))


@pytest.mark.parametrize("head", [False, True])
def test_a_converted_checkpoint_gives_the_same_backbone(checkpoint, tmp_path, head):
    out = tmp_path / "resnet18.safetensors"
    assert backbone.convert(checkpoint, out, name="resnet18", head=head) == out
    direct = backbone.load("resnet18", checkpoint=checkpoint, head=head)
    again = backbone.load("resnet18", checkpoint=out, head=head)
    assert again.sha256 == direct.sha256
    assert jax.tree.structure(again) == jax.tree.structure(direct)
    jax.tree.map(np.testing.assert_array_equal, again.weights, direct.weights)
    twice = backbone.convert(out, tmp_path / "b.safetensors", name="resnet18")
    assert backbone.load("resnet18", checkpoint=twice).sha256 == direct.sha256
    if not head:
        with pytest.raises(CheckpointError, match=r"missing: layer4.* and \d+ more"):
            backbone.load("resnet18", checkpoint=out, head=True)


def test_a_converted_file_with_a_flipped_bit_is_refused(checkpoint, tmp_path):
    out = backbone.convert(checkpoint, tmp_path / "a.safetensors", name="resnet18")
    spoiled = bytearray(out.read_bytes())
    spoiled[-5] ^= 1
    out.write_bytes(spoiled)
    with pytest.raises(CheckpointError, match=r"a\.safetensors.*hash in its header"):
        backbone.load("resnet18", checkpoint=out)


def spoil(state, how):
    if how == "missing":
        del state["layer2.0.conv1.weight"]
    elif how == "extra":
        state["layer2.0.conv9.weight"] = np.zeros(3, np.float32)
    elif how == "shape":
        state["bn1.weight"] = np.zeros(65, np.float32)
    elif how == "filter":
        state["maxpool.1.filt"] = state["maxpool.1.filt"] * 1.01
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"missing: layer2\.0\.conv1\.weight$"),
        ("extra", r"not known: layer2\.0\.conv9\.weight$"),
        ("shape", r"of another shape: bn1\.weight \(\(65,\) instead of \(64,\)\)$"),
        ("filter", r"blur filter maxpool\.1\.filt"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(how, message, tmp_path):
    state = spoil(dict(state_dict("resnet18", 4)), how)
    with pytest.raises(CheckpointError, match=message):
        backbone.from_torch("resnet18", state)
    path = make.write_zip(tmp_path / "a.pth", state)
    out = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match=message):
        backbone.convert(path, out, name="resnet18")
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "filter_size"),
    [("resnet18", None), ("resnet18", 3), ("resnet34", 4), ("resnet50", 4)],
)
def test_another_network_s_checkpoint_is_refused(name, filter_size):
    with pytest.raises(CheckpointError, match=name):
        backbone.from_torch(name, state_dict("resnet18", 4), filter_size=filter_size)


def test_the_ignore_list_is_all_that_is_ignored():
    """Every tensor is used once, or is a filter, a counter or behind the last tap."""
    state = state_dict("resnet18", 4, head=1000)
    used = set(resnet.names(backbone.entry("resnet18").spec).values())
    ignored = {
        key
        for key in state
        if key.endswith(("filt", "num_batches_tracked"))
        or key.startswith(("layer4.", "fc."))
    }
    assert used | ignored == set(state)
    assert not used & ignored
    with pytest.raises(CheckpointError, match=r"not known: layer4\.9\.bn1\.weight"):
        backbone.from_torch("resnet18", {**state, "layer4.9.bn1.weight": np.zeros(1)})


def test_a_converted_file_must_be_named_so(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        backbone.convert(checkpoint, tmp_path / "a.pth", name="resnet18")


PEAK = """
import pathlib, sys
from gladjax import backbone
backbone.convert(*sys.argv[1:], name="wide_resnet50_2", head=True)
# Not the resource module's maximum, which a process inherits from the one it came from.
status = dict(
    line.split(":", 1)
    for line in pathlib.Path("/proc/self/status").read_text().splitlines()
)
print(status["VmHWM"].split()[0])
"""


def test_converting_a_wide_network_stays_under_a_gibibyte(tmp_path):
    """All of wide_resnet50_2, 276 MB; the numbers do not matter."""

    def ones(name, shape):
        del name
        return np.ones(shape, np.float32)

    state = state_dict("wide_resnet50_2", 4, head=1000, draw=ones)
    path = make.write_zip(tmp_path / "wide.pth", state)
    assert path.stat().st_size > 270e6
    out = tmp_path / "wide.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", PEAK, path, out],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stat().st_size > 270e6
    assert int(done.stdout) < 2**20  # kibibytes
