from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import Markup

from oblong.errors import OutputExistsError, PlanMismatchError, UserError
from oblong.records import Status
from oblong.reporting.html import collect_plans, render_report, vega_bundle, write_report
from oblong.reporting.markup import content_security_policy, mark_interval, to_script_json, true_minus
from tests.report_builders import NEW_DOMAIN, make_comparison, make_demo_comparison
from tests.scan_builders import make_plan, make_scan, make_unit
from tests.sweep_builders import SweptArm, make_many_arms, make_sweep

MAX_PAGE_BYTES = 5_000_000
HOSTILE = "</script><script>document.title='owned'</script>"
LOADING_ATTRIBUTES = {"src", "href", "action", "data", "poster", "srcset", "xlink:href", "ping", "background"}


class Page(HTMLParser):
    """What a browser would see: ids, tags, and the places that attributes would load from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in LOADING_ATTRIBUTES:
                self.targets.append(value or "")


@pytest.fixture(scope="module")
def page() -> str:
    scan = make_scan()
    return render_report(scan=scan, comparison=make_demo_comparison(scan))


def own_part(text: str) -> str:
    """The page without the bundled library."""
    return text.replace(vega_bundle(), "")


class TestSections:
    def test_everything_in_reading_order(self, page: str) -> None:
        ids = [name for name in Page(page).ids if not name.endswith("-title")]
        expected = [
            "reading",
            "results",
            "learning-against-forgetting",
            "scan",
            "kappa-map",
            "excess-map",
            "measures",
            "kappa-against-null",
            "the-plans",
            "plans",
            "training",
            "training-loss",
            "provenance",
            "glossary",
        ]
        assert [name for name in ids if name in expected] == expected

    def test_ids_are_unique(self, page: str) -> None:
        ids = Page(page).ids
        assert len(ids) == len(set(ids))

    def test_a_scan_alone(self) -> None:
        ids = Page(render_report(scan=make_scan())).ids
        assert "scan" in ids
        assert not {"reading", "results", "the-plans", "training"} & set(ids)

    def test_a_comparison_alone(self) -> None:
        ids = Page(render_report(comparison=make_demo_comparison())).ids
        assert {"reading", "results", "the-plans"} <= set(ids)
        assert not {"scan", "measures"} & set(ids)

    def test_plans_alone(self) -> None:
        ids = Page(render_report(plans=[make_plan("lowest", make_scan())])).ids
        assert "the-plans" in ids

    def test_nothing_to_report(self) -> None:
        with pytest.raises(UserError, match="nothing to report: give a Scan"):
            render_report()

    def test_every_link_leads_somewhere(self, page: str) -> None:
        parsed = Page(page)
        assert {target.removeprefix("#") for target in parsed.targets} <= set(parsed.ids)


class TestSafety:
    def test_the_page_loads_nothing(self, page: str) -> None:
        assert all(target.startswith("#") for target in Page(page).targets)
        assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket", own_part(page))

    def test_addresses_are_only_names_of_schemas(self, page: str) -> None:
        addresses = set(re.findall(r"https?://[^\"'\s)]+", own_part(page)))
        assert all(address.startswith("https://vega.github.io/schema/vega-lite/") for address in addresses)

    def test_the_policy_allows_the_two_scripts_and_no_request(self, page: str) -> None:
        assert 'content="default-src &#39;none&#39;; script-src &#39;sha256-' in page
        assert content_security_policy("a", "b").count("sha256-") == 2
        # printf '' | openssl dgst -sha256 -binary | base64
        assert "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='" in content_security_policy("")

    def test_a_hostile_tensor_name_stays_text(self) -> None:
        scan = make_scan([make_unit(HOSTILE), make_unit("model.layers.0.k", role=HOSTILE)])
        benign = make_scan([make_unit("a"), make_unit("model.layers.0.k", role="b")])
        text = render_report(scan=scan, title=HOSTILE)
        assert HOSTILE not in text
        assert "&lt;/script&gt;&lt;script&gt;" in text
        assert Page(text).tags.count("script") == Page(render_report(scan=benign)).tags.count("script") == 3

    def test_hostile_arm_and_corpus_names_stay_text(self) -> None:
        comparison = make_comparison(
            {HOSTILE: {NEW_DOMAIN: -0.1, HOSTILE: 0.1}, "random": {NEW_DOMAIN: -0.1, HOSTILE: 0.1}}
        )
        text = render_report(comparison=comparison)
        assert HOSTILE not in text
        assert Page(text).tags.count("script") == 3

    def test_data_cannot_close_its_script(self) -> None:
        assert to_script_json({"a": "</script>"}) == '{"a":"\\u003c/script>"}'

    def test_an_interval_is_escaped(self) -> None:
        assert mark_interval("<b> [1, 2]", decided=True) == Markup(
            '<span class="decided">&lt;b&gt;</span> <span class="interval">[1, 2]</span>'
        )


class TestPage:
    def test_the_same_records_give_the_same_bytes(self, page: str) -> None:
        scan = make_scan()
        assert render_report(scan=scan, comparison=make_demo_comparison(scan)) == page

    def test_its_size_is_reasonable(self, page: str) -> None:
        assert len(page.encode()) < MAX_PAGE_BYTES

    def test_every_table_has_a_caption_and_every_chart_a_text(self, page: str) -> None:
        tags = Page(page).tags
        assert tags.count("table") == tags.count("caption") > 0
        assert page.count("data-figure=") == page.count('role="img"') == 6

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("-0.5 [-0.6, -0.4]", "−0.5 [−0.6, −0.4]"),  # noqa: RUF001
            ("kappa-lowest", "kappa-lowest"),
            ("seed-2 and layer-1", "seed-2 and layer-1"),
            ("2026-11-22", "2026-11-22"),
        ],
    )
    def test_minus_signs_are_for_numbers(self, text: str, expected: str) -> None:
        assert true_minus(text) == expected


class TestPlans:
    def test_a_plan_given_twice_is_shown_once(self) -> None:
        comparison = make_demo_comparison()
        plan = comparison.plans["random"]
        assert [shown.name for shown in collect_plans(comparison, [plan])] == list(comparison.plans)

    def test_arms_lend_their_names_to_their_plans(self) -> None:
        comparison = make_demo_comparison()
        plans = {"arm": comparison.plans["random"]}
        assert [plan.name for plan in collect_plans(comparison.model_copy(update={"plans": plans}), [])] == ["arm"]

    def test_two_plans_of_one_name_cannot_be_told_apart(self) -> None:
        scan = make_scan()
        with pytest.raises(UserError, match="two different plans are called 'p'"):
            collect_plans(None, [make_plan("p", scan), make_plan("p", scan, order="highest")])

    def test_a_plan_of_another_model_is_refused(self) -> None:
        plan = make_plan("lowest", make_scan()).model_copy(update={"layout_digest": "sha256:other"})
        with pytest.raises(PlanMismatchError, match="the plan 'lowest' was made for a model with other tensors"):
            render_report(scan=make_scan(), plans=[plan])


class TestWriting:
    def test_page_and_figures(self, tmp_path: Path) -> None:
        written = write_report(tmp_path / "r.html", scan=make_scan(), png_directory=tmp_path / "png", title="T & U")
        assert written[0] == tmp_path / "r.html"
        assert "<h1>T &amp; U</h1>" in written[0].read_text()
        assert sorted(path.name for path in (tmp_path / "png").glob("*.png")) == [
            "excess-map.png",
            "kappa-against-null.png",
            "kappa-map.png",
        ]

    def test_an_existing_page_survives(self, tmp_path: Path) -> None:
        (tmp_path / "r.html").write_text("mine")
        with pytest.raises(OutputExistsError):
            write_report(tmp_path / "r.html", scan=make_scan(), png_directory=tmp_path / "png")
        assert (tmp_path / "r.html").read_text() == "mine"
        assert not (tmp_path / "png").exists()

    def test_an_existing_figure_stops_the_page_too(self, tmp_path: Path) -> None:
        (tmp_path / "kappa-map.png").write_text("mine")
        with pytest.raises(OutputExistsError, match=r"kappa-map\.png"):
            write_report(tmp_path / "r.html", scan=make_scan(), png_directory=tmp_path)
        assert not (tmp_path / "r.html").exists()


class TestSweep:
    def test_the_table_at_the_same_gain_comes_first(self) -> None:
        text = render_report(comparison=make_sweep())
        assert text.index('id="at-the-same-gain"') < text.index("Learning-forgetting fronts") < text.index("KL to base")
        assert text.count("at a gain of 0.3600") == 3
        assert "No significant difference from random is found for ewc (\N{MINUS SIGN}0.0039, p = 0.41)" in text

    def test_a_comparison_without_a_sweep_has_none(self) -> None:
        text = render_report(comparison=make_demo_comparison())
        assert "at-the-same-gain" not in text
        assert "learning-forgetting-fronts" not in text

    def test_names_are_escaped(self) -> None:
        text = render_report(comparison=make_sweep({"<b>A": SweptArm(cost=0.1), "random": SweptArm(cost=0.2)}))
        assert "<b>A" not in text
        assert "&lt;b&gt;A" in text


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def open_in_browser(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Load a page in headless chromium; its final DOM is stdout, its console is stderr."""
    path = folder / "report.html"
    path.write_text(text)
    return subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", "--virtual-time-budget=20000", f"--user-data-dir={folder / 'profile'}"),
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
class TestInABrowser:
    def test_every_figure_is_drawn_without_complaint(self, page: str, tmp_path: Path) -> None:
        result = open_in_browser(page, tmp_path)
        assert "CONSOLE" not in result.stderr
        assert result.stdout.count('class="marks"') == page.count("data-figure=")

    def test_a_sweep_is_drawn_too(self, tmp_path: Path) -> None:
        page = render_report(comparison=make_sweep(make_many_arms()))
        result = open_in_browser(page, tmp_path)
        assert "CONSOLE" not in result.stderr
        assert result.stdout.count('class="marks"') == page.count("data-figure=")

    def test_a_foreign_script_or_image_is_refused(self, tmp_path: Path) -> None:
        foreign = "</main><script>document.title = 'owned'</script><img src='http://example.invalid/x.png'>"
        text = render_report(plans=[make_plan("lowest", make_scan())]).replace("</main>", foreign)
        result = open_in_browser(text, tmp_path)
        assert result.stderr.count("violates the following Content Security Policy") == 2
        assert "<title>owned" not in result.stdout

    def test_the_measures_can_be_sorted_and_filtered(self, tmp_path: Path) -> None:
        units = [make_unit(f"t{kappa:g}.up", kappa=kappa) for kappa in (30.0, 4.0, 200.0)]
        units += [make_unit("vector.up", kappa=None, shape=(8,), status=Status.VECTOR), make_unit("t1.down", kappa=1.5)]
        click = """<script>
            const heading = [...document.querySelectorAll("#measures-table thead button")]
              .find((button) => button.textContent === "kappa");
            heading.click(); heading.click();
            const filter = document.getElementById("measures-filter");
            filter.value = "UP"; filter.dispatchEvent(new Event("input"));
            const shown = [...document.querySelectorAll("#measures-table tbody tr")].filter((row) => !row.hidden);
            document.title = shown.map((row) => row.cells[0].textContent).join(" ") + " | "
              + document.getElementById("measures-count").textContent;
        </script></body>"""
        without_policy = re.sub(r"<meta http-equiv.*?>", "", render_report(scan=make_scan(units)))
        before, _, after = without_policy.rpartition("</body>")
        result = open_in_browser(before + click + after, tmp_path)
        # descending by number, not by text; rows without a number last in either direction
        assert "<title>t200.up t30.up t4.up vector.up | 4 of 5 rows</title>" in result.stdout
