"""Reports in a real browser without a window: what is on the screen of a phone and of a desktop, light and dark."""

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nait_fast.storage.files import write_sealed
from tests.reporting.made import Made, make_rows, report
from tests.reporting.test_page import HOSTILE, themes
from tests.reporting.test_validation_shown import FULL, TENTHS, validate

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium on the PATH"),
]
PHONE, DESKTOP = (390, 844), (1280, 900)
# All names lead nowhere, whatever the page or the browser asks for.
OFFLINE = [
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]
# The list, used as a reader would.
USE = """<!doctype html><meta charset="utf-8"><body><script>
const found = {};
addEventListener("load", () => {
  const frame = document.createElement("iframe");
  frame.style.cssText = "width: 1000px; height: 800px; border: 0";
  frame.srcdoc = document.getElementById("page").value;
  frame.onload = () => {
    const page = frame.contentDocument, table = page.getElementById("rows"), controls = page.getElementById("find");
    const shown = () => [...table.tBodies[0].rows].filter(row => row.getClientRects().length);
    const column = at => shown().map(row => row.cells[at].textContent.trim());
    const head = name => [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.startsWith(name));
    const click = name => table.tHead.rows[0].cells[head(name)].querySelector("button").click();
    const choose = (select, value) => { select.value = value; select.dispatchEvent(new Event("change")); };
    const search = words => {
      const input = controls.querySelector("input");
      input.value = words;
      input.dispatchEvent(new Event("input"));
    };
    found.start = {ranks: column(0), hidden: controls.getClientRects().length === 0};
    click("tokens"); found.most = column(head("tokens"));
    click("tokens"); found.least = column(head("tokens"));
    click("rank"); found.ranks = column(0);
    search("poet  RAIN"); found.words = shown().map(row => row.textContent.toLowerCase());
    found.says = page.getElementById("shown").textContent;
    search(""); found.asked = shown()[0].dataset.id;
    search(found.asked.toUpperCase()); found.ids = shown().map(row => row.dataset.id);
    search("");
    const minus = column(head("score")).find(text => text.includes("\u2212")) || "\u22121";
    search(minus.replace("\u2212", "-")); found.minus = column(head("score")).includes(minus) || minus === "\u22121";
    search("");
    const [label] = controls.querySelectorAll("select");
    found.options = [...label.options].map(option => option.textContent);
    choose(label, "sums"); found.filtered = column(head("source"));
    search("nowhere-to-be-found"); found.none = shown().length;
    const out = document.createElement("pre");
    out.id = "found";
    out.textContent = JSON.stringify(found);
    document.body.append(out);
  };
  document.body.append(frame);
});
</script><textarea id="page" hidden>PAGE</textarea>"""
SCHEME = {"dark": "0", "light": "1"}
# The page in a frame of each width, from where a script (the page allows none) measures it.
MEASURE = """<!doctype html><meta charset="utf-8"><body><script>
const found = [];
function measure(width) {
  return new Promise(done => {
    const frame = document.createElement("iframe");
    frame.style.cssText = `width: ${width}px; height: 800px; border: 0`;
    frame.srcdoc = document.getElementById("page").value;
    frame.onload = () => {
      const page = frame.contentDocument;
      for (const details of page.querySelectorAll("details")) details.open = true;
      const plots = [...page.querySelectorAll("svg.plot")].map(s => s.getBoundingClientRect());
      const cut = [...page.querySelectorAll(".scroll, td, th, .text")].filter(e => e.scrollWidth > e.clientWidth + 1);
      const text = [...page.querySelectorAll("svg.plot text")].map(t => t.getBoundingClientRect().height);
      done({width, page: page.documentElement.scrollWidth, body: page.body.scrollWidth,
            height: page.documentElement.scrollHeight, plots: plots.length, scripts: page.scripts.length,
            cut: cut.filter(e => getComputedStyle(e).display !== "inline").map(e => e.outerHTML.slice(0, 120)),
            empty: plots.filter(r => r.width < 100 || r.height < 60).length, text: Math.min(...text)});
    };
    document.body.append(frame);
  });
}
addEventListener("load", async () => {
  for (const width of [320, 360, 390, 768, 1280]) found.push(await measure(width));
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script><textarea id="page" hidden>PAGE</textarea>"""


def browse(folder: Path, *arguments: str) -> str:
    """Run the browser with a new profile; returns what it prints."""
    assert BROWSER is not None
    profile = folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        *OFFLINE,
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def shoot(page: Path, size: tuple[int, int], scheme: str) -> np.ndarray:
    """The screen, uint8 [height, width, 3]."""
    from PIL import Image

    image = page.with_name(f"{page.stem}-{size[0]}-{scheme}.png")
    arguments = [f"--screenshot={image}", f"--window-size={size[0]},{size[1]}"]
    browse(page.parent, *arguments, f"--blink-settings=preferredColorScheme={SCHEME[scheme]}", page.as_uri())
    with Image.open(image) as opened:
        return np.asarray(opened.convert("RGB"))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report of four targets, with long and hostile texts, an evaluation and a validation."""
    folder = tmp_path_factory.mktemp("browser")
    rows = make_rows(300)
    for i, row in enumerate(rows):
        row["output"] = HOSTILE[i % len(HOSTILE)].encode(errors="ignore").decode() + row["output"] * (1 + i % 9)
        row["source"] = HOSTILE[i % len(HOSTILE)] if i % 3 else row["source"]
    names = [f"capability {i} ({method}, mean)" for i in range(6) for method in ("contrast", "nait")]
    cells = np.round(np.cos(np.add.outer(np.arange(12), 5 * np.arange(12))), 2).tolist()
    evaluation = {
        "kind": "nait_fast evaluation",
        "format_version": 1,
        "rows": 300,
        "agreement": {"names": names, "spearman": cells},
        "rules": [
            {
                "signature": name,
                "rows": 30,
                "rules": ["centroid", "roundrobin", "max"],
                "overlap": [[1, 0.5, 0.4], [0.5, 1, 0.9], [0.4, 0.9, 1]],
                "tokens": [61.25, 70.125, 1234.5],
                "target_tokens": 58.5,
                "r_precision": [0.75, 0.8, 0.85],
            }
            for name in names
        ],
    }
    write_sealed(folder / "evaluation.json", evaluation)
    out = Made(folder / "made", rows, 4, widths=[64] * 30).select(fraction=0.1)
    validate(folder, out, arms=[*FULL["arms"], *TENTHS])
    report(out, folder / "report.html", samples=8, evaluation=str(folder), validation=str(folder))
    return folder / "report.html"


def near(pixels: np.ndarray, colour: tuple[float, ...]) -> np.ndarray:
    """Bool: which of ``pixels`` [..., 3] have about this colour (0 to 1 each)."""
    return (np.abs(pixels.astype(int) - np.rint(np.array(colour) * 255).astype(int)) <= 3).all(axis=-1)


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_on_the_screen(page: Path, size: tuple[int, int], scheme: str) -> None:
    screen = shoot(page, (size[0], 2400), scheme)
    theme = themes()[scheme == "dark"]
    assert screen.shape == (2400, size[0], 3)
    brightness = screen.mean()
    assert brightness > 200 if scheme == "light" else brightness < 70
    back = near(screen, theme["back"])
    assert back[:10].all() and 0.5 < back.mean() < 0.97  # a page, and not an empty one
    assert near(screen, theme["pick"]).sum() > 500 and near(screen, theme["ink"]).sum() > 500
    # Something is written in every stretch of it as high as a hand's width.
    for top in range(0, 2400, 300):
        assert not back[top : top + 300].all()


def within(page: Path, script: str) -> Any:
    """What ``script``, which has the page in a frame, finds."""
    wrapper = page.with_name("wrapper.html")
    wrapper.write_text(script.replace("PAGE", html.escape(page.read_text(encoding="utf-8"))), encoding="utf-8")
    dom = browse(page.parent, "--dump-dom", "--virtual-time-budget=20000", "--window-size=1400,900", wrapper.as_uri())
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert match is not None, dom[-500:]
    return json.loads(html.unescape(match[1]))


def test_the_list_is_searched_sorted_and_filtered(tmp_path: Path) -> None:
    rows = make_rows(150)
    out = Made(tmp_path / "made", rows, 1).select(top_k=60)
    report(out, tmp_path / "report.html")
    chosen = [json.loads(line) for line in (out / "selected.jsonl").read_text().splitlines()]
    found = within(tmp_path / "report.html", USE)
    assert found["start"] == {"ranks": [str(i) for i in range(1, 61)], "hidden": False}
    tokens = [int(text) for text in found["most"]]
    assert tokens == sorted(tokens, reverse=True) and [int(text) for text in found["least"]] == sorted(tokens)
    assert found["ranks"] == found["start"]["ranks"]
    assert 0 < len(found["words"]) < 60 and all("poet" in text and "rain" in text for text in found["words"])
    assert found["asked"] == chosen[0]["id"] and found["asked"] in found["ids"] and found["minus"]
    assert found["says"] == f"{len(found['words'])} of 60 rows"
    counted = Counter(row["source"] for row in chosen)
    assert found["options"][0] == "source: all"
    assert set(found["options"][1:]) == {f"{name} ({number})" for name, number in counted.items()}
    assert found["filtered"] == ["sums"] * counted["sums"] and found["none"] == 0


def test_no_width_makes_the_page_scroll_sideways(page: Path) -> None:
    found = within(page, MEASURE)
    assert [shot["width"] for shot in found] == [320, 360, 390, 768, 1280]
    for shot in found:
        assert shot["page"] <= shot["width"] and shot["body"] <= shot["width"], shot
        assert shot["plots"] == 4 * 3 + 1 + 2 + 1 + 2 + 1 + 1 and shot["empty"] == 0 and shot["scripts"] == 1, shot
        assert shot["width"] > 800 or not shot["cut"], shot["cut"][:3]  # tables and texts fit a phone, as they stand
        assert shot["text"] >= 8, shot  # CSS pixels: what is written in a plot can be read
    assert found[0]["height"] > found[-1]["height"] > 2000
