"""Pages: self-contained, escaped, and shown by a real browser without a complaint."""

import dataclasses
import html.parser
import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import tiny

from gladjax import detector, io, metrics, report
from gladjax.report import charts, content, page

EVIL = "<script>alert(1)</script>\"&'ü"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def fitted():
    scores = np.random.default_rng(0).normal(10, 3, size=30)
    return dataclasses.replace(tiny.fitted(motion="translation"), calibration=scores)


@pytest.fixture(scope="module")
def cases(fitted):
    found = []
    kinds = [(0, "good")] * 4 + [(1, "spot")] * 3
    for number, (label, kind) in enumerate(kinds):
        image = tiny.pictures(1, kind=kind, first=90 + number, size=300)[0]
        scored = detector.score(fitted, image)
        found.append(
            report.Case(
                name=f"{kind}/{number}{EVIL if number == 0 else ''}",
                label=label,
                score=scored.score,
                heat_map=scored.heat_map,
                read=lambda image=image: image,
            )
        )
    return found


@pytest.fixture(scope="module")
def pages(fitted, cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    model = folder / "model.safetensors"
    notes = {"seconds": {"features": 1.5, "all": 3.0}, "note": EVIL}
    io.save(model, fitted, false_positive_rate=0.1, notes=notes)
    report.write(folder / "fit.html", report.fitted(model, fitted))
    text = report.evaluation(
        f"An evaluation {EVIL}",
        fitted,
        cases,
        threshold=cases[0].score,
        measures={"image_auroc": 0.5, "pixel_auroc": None, "parts": {"a": 1.0}},
        seconds={"read": 0.01, "score": 0.02},
    )
    report.write(folder / "eval.html", text)
    return {name: folder / f"{name}.html" for name in ("fit", "eval")}


class Parsed(html.parser.HTMLParser):
    """Tags, attributes and text of a page; tags must be closed in order."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("name", ["fit", "eval"])
def test_a_page_is_self_contained(pages, name):
    parsed = Parsed(pages[name].read_text("utf-8"))
    assert parsed.open == []
    assert "script" not in [tag for tag, _ in parsed.tags]
    for tag, attributes in parsed.tags:
        assert not any(key.startswith("on") for key in attributes), tag
        for key in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(key, "data:").startswith("data:")
    pictures = [a for tag, a in parsed.tags if tag == "img"]
    assert len(pictures) >= (5 if name == "fit" else 12)
    assert all(a["alt"] for a in pictures)


def test_words_from_data_are_escaped(pages):
    for path in pages.values():
        text = path.read_text("utf-8")
        assert EVIL not in text
        assert EVIL in "".join(Parsed(text).words)


def test_the_evaluation_tells_its_numbers(pages, cases):
    text = "".join(Parsed(pages["eval"].read_text("utf-8")).words)
    called = sum(c.score > cases[0].score for c in cases if c.label)
    assert f"{called} of 3" in text
    labels, scores = [c.label for c in cases], [c.score for c in cases]
    assert f"image AUROC {metrics.auroc(labels, scores):.4f}" in text
    assert "layer" in text
    assert f"threshold {cases[0].score:.4g}" in text


def test_the_fit_shows_components_and_times(pages, fitted):
    text = "".join(Parsed(pages["fit"].read_text("utf-8")).words)
    for name, layer in fitted.layers.items():
        assert f"{name}: {len(layer.mixture.means)}" in text
    assert "1.5 s" in text
    assert "translation" in text


def rectangles(svg, colour):
    root = ET.fromstring(svg)
    return [
        {k: float(r.get(k)) for k in ("x", "y", "width", "height")}
        for r in root.iter(f"{SVG}rect")
        if r.get("fill") == colour and r.get("fill-opacity")
    ]


def test_a_histogram_has_the_counts_of_its_scores(rng):
    normal, bad = rng.normal(size=200), rng.normal(3, 1, 80)
    svg = charts.histogram({"normal": normal, "bad": bad}, threshold=1.0, bins=20)
    edges = np.linspace(*np.percentile(np.r_[normal, bad], [0, 100]), 21)
    for values, colour in ((normal, charts.NORMAL), (bad, charts.ANOMALOUS)):
        counts = np.histogram(values, edges)[0]
        heights = [r["height"] for r in rectangles(svg, colour)]
        expected = counts[counts > 0] / max(counts.max(), 1)
        np.testing.assert_allclose(
            np.array(heights) / max(heights), expected, atol=0.01
        )


@pytest.mark.parametrize(
    "values", [[], [1.0], [2.0, 2.0], [math.inf, 1.0], [math.nan], [1e300, -1e300]]
)
def test_charts_of_odd_values_are_well_formed(values):
    values = np.array(values, np.float64)
    for svg in (
        charts.histogram({"a & b": values, "c": values}),
        charts.histogram({"a": values}, threshold=3.0),
    ):
        ET.fromstring(svg)
        assert "nan" not in svg
        assert "inf" not in svg


def test_a_curve_runs_from_corner_to_corner():
    false, true = metrics.roc_curve([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.9])
    svg = charts.roc(false, true, 0.875)
    lines = [p.get("points") for p in ET.fromstring(svg).iter(f"{SVG}polyline")]
    points = [tuple(map(float, p.split(","))) for p in lines[1].split()]
    assert points[0] == (charts.LEFT, charts.HEIGHT - charts.BOTTOM)
    assert points[-1] == (charts.WIDTH - charts.RIGHT, charts.TOP)
    assert len(points) == len(false)


def test_the_decay_of_the_weights_falls():
    svg = charts.decay({"x": np.array([0.1, 0.6, 0.3]), "y": np.array([1.0])})
    lines = [p.get("points") for p in ET.fromstring(svg).iter(f"{SVG}polyline")]
    heights = [float(p.split(",")[1]) for p in lines[0].split()]
    assert heights == sorted(heights)
    assert "x: 3" in svg


def test_bars_are_as_long_as_their_numbers():
    svg = charts.bars({"a": 1.0, "b <": 4.0, "none": 0.0}, "s")
    widths = [float(r.get("width")) for r in ET.fromstring(svg).iter(f"{SVG}rect")]
    assert widths == [75.0, 300.0, 1.0]


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (-3.3, 77), (1e-9, 2e-9), (500.0, 501.0)):
        found = charts.ticks((float(low), float(high)))
        assert 3 <= len(found) <= 11
        assert low - 1e-9 <= found[0]
        assert found[-1] <= high + 1e-9 * abs(high)


def test_the_most_local_component_is_shown(fitted):
    local = fitted.layers["fine"].local_weights
    k = len(fitted.layers["fine"].mixture.means)
    component, share = content._most_local(local, k)
    assert share.shape == local.shape
    position = np.unravel_index(np.argmax(share), share.shape)
    start, end = local.starts[np.ravel_multi_index(position, share.shape) + np.r_[0, 1]]
    assert component in local.components[start:end]


def test_pages_without_threshold_calibration_or_cases(cases):
    plain = tiny.fitted()
    text = report.evaluation("x", plain, [])
    assert "normal images" in text
    text = report.evaluation("x", plain, cases[:2])
    assert "ROC" not in re.sub(r"base64,[^\"]*", "", text)
    assert "<td>none</td>" in text
    assert page.table([("a", "<b>")], head=True).count("<th>") == 2


CHROMIUM = next(
    (c for c in ("chromium", "chromium-browser", "google-chrome") if shutil.which(c)),
    None,
)
PROBE = """<script>
const complaints = [];
window.addEventListener("error", e => complaints.push(String(e.message)), true);
window.addEventListener("load", () => {
  const told = {
    images: Array.from(document.images, i => [i.complete, i.naturalWidth]),
    charts: Array.from(document.querySelectorAll("svg"),
      s => s.getBoundingClientRect().height),
    wide: document.documentElement.scrollWidth,
    complaints: complaints,
  };
  document.body.innerHTML = "<pre id=told></pre>";
  document.getElementById("told").textContent = JSON.stringify(told);
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("name", ["fit", "eval"])
def test_a_browser_shows_every_picture_without_a_complaint(pages, name, tmp_path):
    text = pages[name].read_text("utf-8")
    told = probe(text, tmp_path)
    assert told["complaints"] == []
    assert len(told["images"]) == text.count("<img ")
    assert all(complete and width > 0 for complete, width in told["images"])
    assert len(told["charts"]) == text.count("<svg ")
    assert all(height > 20 for height in told["charts"])
    assert told["wide"] <= 1280
    dom, complaints = browse(pages[name], tmp_path / "b")
    assert "<h1>" in dom
    assert complaints == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_browser_would_notice(pages, tmp_path):
    """A spoiled picture, and a script that the page's policy refuses."""
    text = pages["fit"].read_text("utf-8")
    told = probe(text.replace("base64,iVBOR", "base64,AAAAA", 1), tmp_path)
    assert sum(width == 0 for _, width in told["images"]) == 1
    assert len(told["complaints"]) == 1
    evil = tmp_path / "evil.html"
    evil.write_text(text.replace("<style>", PROBE + "<style>", 1), "utf-8")
    dom, complaints = browse(evil, tmp_path / "b")
    assert 'id="told"' not in dom.replace(PROBE, "")
    assert len(complaints) == 1


def probe(text, folder):
    """What a script in the page sees; its policy is loosened to let it in."""
    path = folder / "probed.html"
    allowed = text.replace("default-src 'none';", "script-src 'unsafe-inline';", 1)
    path.write_text(allowed.replace("<style>", PROBE + "<style>", 1), "utf-8")
    dom, _ = browse(path, folder / "a")
    return json.loads(html.unescape(re.search(r'id="told">(.*?)</pre>', dom)[1]))


def browse(path, profile):
    """The page as a browser has it, and what its console says."""
    process = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-quic", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", "--window-size=1280,900"),
            *("--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}"),
            *("--virtual-time-budget=10000", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in process.stderr.splitlines() if "CONSOLE" in line]
    return process.stdout, console
