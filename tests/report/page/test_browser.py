"""The report in a real browser: it opens offline, and nothing in it acts."""

import json
import shutil
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_runs import CONFIG, episode, write_lines, write_run

from reskill_jax.report.page import write_report
from reskill_jax.report.page.html import page as make_page
from reskill_jax.workdir import Workdir

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs chromium: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.slow
SECTIONS = ("overview", "trials", "library", "episodes", "training", "creator")
HOSTILE = (
    "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"
    "<!--\u202e\u2028\x1b[2J @@DATA@@ {{7*7}} javascript:window.pwned=1"
)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser, path, **settings):
    """Open a page; afterwards it must have asked for nothing and not complained."""
    context = browser.new_context(offline=True, **settings)
    tab = context.new_page()
    requests, complaints = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-ready]", timeout=30_000)
    yield tab
    assert requests == [path.as_uri()]
    assert complaints == []
    context.close()


def turn_to(tab, section):
    tab.click(f'#menu a[href="#{section}"]')
    return tab.locator(f"#section-{section}")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    workdir = write_run(folder / "a")
    other = write_run(folder / "b", config=CONFIG | {"seed": 8})
    return write_report(workdir, [other])


def test_every_section_says_what_the_run_did(browser, report):
    wanted = {
        "overview": (
            "stopped before its end",
            "50.0%",
            "2:abcdef",
            "step 3 of 4",
            "55.0%",
        ),
        "trials": ("accepted", "+10.0 points", "cost +0.5 points", "20.0%"),
        "library": (
            "first-look",
            "SKILL.md",
            "Reason: look",
            "no figures of an effect",
        ),
        "episodes": ("36 of 36 episodes", "first difference", "invalid", "advantage"),
        "training": (
            "Entropy",
            "pass@4",
            "waiting for episodes",
            "no figures of memory",
        ),
        "creator": ("analysis", "failed", "0.0000"),
        "comparison": ("all runs", "50.0%", "seed 8"),
    }
    with opened(browser, report) as tab:
        for section, texts in wanted.items():
            found = turn_to(tab, section).inner_text()
            svg = tab.locator(f"#section-{section}").text_content()
            for text in texts:
                assert text in found or text in svg, (section, text)


def test_the_library_shows_what_the_skill_meter_found(browser, tmp_path):
    workdir = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in workdir.metrics.read_text().splitlines()]
    for line in lines:
        if line["phase"] == "train" and line["step"] > 1:
            line["skills/first-look/effect_logprob"] = 0.125 * line["step"]
    write_lines(workdir.metrics, lines)
    found = {"name": "first-look", "turns": 40, "mean": 0.25, "first": 0.5}
    trial = json.loads(workdir.trials.read_text())
    trial["meter"] = [{**found, "verdict": "followed", "arm": 1}]
    write_lines(workdir.trials, [trial])
    with opened(browser, write_report(workdir)) as tab:
        text = turn_to(tab, "library").inner_text()
        assert "Skill meter, candidate: followed, 0.250 nats per token" in text
        assert "0.375" in tab.locator("#section-library").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_is_accessible_and_fits(browser, report, scheme, width):
    axe = pytest.importorskip("axe_core_python.sync_playwright").Axe()
    view = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with opened(browser, report, bypass_csp=True, **view) as tab:
        shots = set()
        for section in (*SECTIONS, "comparison"):
            turn_to(tab, section)
            found = axe.run(tab)["violations"]
            assert [
                (v["id"], [node["html"] for node in v["nodes"]])
                for v in found
                if v["impact"] in ("serious", "critical", "moderate")
            ] == [], section
            wider = "document.documentElement.scrollWidth - window.innerWidth"
            assert tab.evaluate(wider) <= 0, section
            shots.add(tab.screenshot())
        assert len(shots) == len(SECTIONS) + 1
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_keyboard_reaches_everything(browser, report):
    with opened(browser, report) as tab:
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "skip"
        for _ in range(4):
            tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        section = tab.locator("#section-episodes")
        section.wait_for(state="visible")
        tab.locator(".list").focus()
        before = tab.locator("table.turns").inner_text()
        tab.keyboard.press("ArrowDown")
        assert tab.locator("table.turns").inner_text() != before
        tab.keyboard.press("End")
        assert tab.locator('.row[aria-current="true"]').count() == 1
        tab.locator("summary", has_text="raw response").first.focus()
        tab.keyboard.press("Enter")
        assert tab.locator("table.turns pre").first.inner_text() == "look"


def test_figures_of_trials_lead_to_their_episodes(browser, report):
    with opened(browser, report) as tab:
        trials = turn_to(tab, "trials")
        trials.get_by_role("button", name="all types: list them").first.click()
        trials.get_by_role("button", name="step 1, group 0").click()
        episodes = tab.locator("#section-episodes")
        assert "4 of 36 episodes" in episodes.inner_text()
        assert "step 1" in episodes.inner_text()


def test_hostile_text_is_text(browser, tmp_path):
    report = write_report(write_run(tmp_path / "run", text=HOSTILE))
    with opened(browser, report) as tab:
        for section in SECTIONS:
            turn_to(tab, section)
        for summary in tab.locator("summary:visible").all():
            summary.click()
        turn_to(tab, "episodes")
        assert "<img src=x" in tab.locator("table.turns").inner_text()
        assert "\\u202e\\u2028\\u001b" in tab.locator("table.turns").inner_text()
        assert tab.evaluate("window.pwned") is None
        assert tab.locator("img, iframe, main script").count() == 0
        assert "\u202e" not in tab.locator("body").text_content()


def test_names_with_hidden_characters_can_be_chosen(browser, tmp_path):
    workdir = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in workdir.metrics.read_text().splitlines()]
    write_lines(workdir.metrics, [line | {"A\u200cb": 0.5} for line in lines])
    for path in workdir.episodes.glob("train-*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        write_lines(path, [line | {"kind": "pick\u200cup"} for line in lines])
    with opened(browser, write_report(workdir)) as tab:
        training = turn_to(tab, "training")
        assert "A\\u200cb" in training.inner_text()  # the first metric is drawn
        episodes = turn_to(tab, "episodes")
        episodes.locator("select").nth(2).select_option(label="pick\\u200cup")
        assert not episodes.get_by_role("status").inner_text().startswith("0 of")


def test_a_step_beyond_all_figures_ends_no_page(browser, tmp_path):
    workdir = write_run(tmp_path / "run")
    line = {"phase": "train", "step": 10**17, "rollout/success": 0.5}
    write_lines(workdir.metrics, [line])
    with opened(browser, write_report(workdir)) as tab:
        assert "Success over the run" in turn_to(tab, "overview").inner_text()


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.text(
        st.sampled_from(
            list("<>&\"'/`\\=- !@DAT\n\x00\x1b\u202e\u2028\U0001f600\ud83d")
        ),
        min_size=1,
        max_size=40,
    )
)
def test_any_text_comes_out_as_it_went_in(browser, tmp_path_factory, text):
    line = episode(1, text=text)
    root = tmp_path_factory.mktemp("any") / "run"
    write_run(root, steps=0)
    write_lines(root / "episodes" / "train-00001.jsonl", [line])
    write_lines(root / "metrics.jsonl", [{"phase": "train", "step": 1}])
    with opened(browser, write_report(Workdir(root))) as tab:
        turn_to(tab, "episodes")
        found = tab.locator("table.turns .did bdi").first.text_content()
        assert found == tab.evaluate("shown", text)


def test_ten_thousand_episodes_scroll(browser, tmp_path):
    workdir = write_run(tmp_path / "run", groups=400, rollouts=9, steps=3)
    report = write_report(workdir)
    assert report.stat().st_size < 30_000_000
    with opened(browser, report) as tab:
        episodes = turn_to(tab, "episodes")
        assert "10,812 of 10,812 episodes" in episodes.inner_text()
        assert tab.locator(".row").count() < 40
        tab.locator(".list").evaluate("node => { node.scrollTop = node.scrollHeight }")
        last = tab.locator('[aria-posinset="10812"] button')
        last.wait_for(state="visible")
        tab.fill("input[type=search]", "task-399")
        assert "27 of 10,812 episodes" in episodes.inner_text()


def test_a_page_without_its_hashes_is_refused(browser, tmp_path):
    """The policy is in force: what is put into the page later does not run."""
    document = json.loads(json.dumps({"run": {}}))
    path = tmp_path / "page.html"
    text = make_page(document).replace("</body>", "<script>window.x=1</script></body>")
    path.write_text(text)
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(path.as_uri())
    assert tab.evaluate("window.x") is None
    context.close()
