"""The page of a run in a real browser: nothing goes out, everything can be reached, sorted and printed."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ddeval import io
from ddeval.report.html import write_run_report
from tests.e2e.chromium import (
    DESK,
    PHONE,
    axe_source,
    barriers,
    chromium,
    complaints,
    requests_since,
    show,
)
from tests.report_fixture import make_run
from tests.test_report_html import PAYLOADS

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run = make_run(folder / "run", n_images=1_500, absent=("Scabies",), n_gallery=60, n_resamples=3)
    write_run_report(
        run, folder / "page.html", date="2026-07-01", looks=[{"time": "t", "run": "r", "labels": "v0"}]
    )
    return folder / "page.html"


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (DESK, "light"),
        (PHONE, "dark"),
        pytest.param(DESK, "dark", marks=pytest.mark.slow),
        pytest.param(PHONE, "light", marks=pytest.mark.slow),
    ],
)
def test_the_page_has_no_barrier_of_wcag_a_or_aa(driver: Chrome, page: Path, width: int, scheme: str) -> None:
    """Every folded table is opened first, so that it is looked at too."""
    show(driver, page, width=width, scheme=scheme)
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert barriers(driver, axe_source()) == []


def test_the_page_loads_without_a_network_and_asks_for_nothing(driver: Chrome, page: Path) -> None:
    requests_since(driver)
    complaints(driver)
    loaded = []
    for _ in range(3):
        show(driver, page)
        loaded.append(
            driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        )
    assert requests_since(driver) == []
    assert complaints(driver) == []
    assert min(loaded) < 1000  # milliseconds; the best of three, as other work may hold the machine


def test_payloads_do_nothing(driver: Chrome, tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", class_names=(*PAYLOADS, "other"), name=PAYLOADS[0], n_images=80, n_resamples=3
    )
    io.write_parquet(run / "quarantine.parquet", pd.DataFrame({"image_id": PAYLOADS, "reason": PAYLOADS}))
    write_run_report(run, tmp_path / "page.html", date=PAYLOADS[2])
    requests_since(driver)
    complaints(driver)

    show(driver, tmp_path / "page.html")
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    for box in driver.find_elements(By.CSS_SELECTOR, ".filter input"):
        box.send_keys(PAYLOADS[1])
    assert requests_since(driver) == []
    assert complaints(driver) == []
    assert driver.title.startswith(PAYLOADS[0])
    assert len(driver.find_elements(By.TAG_NAME, "h1")) == 1
    assert driver.find_elements(By.CSS_SELECTOR, "main script, main iframe, [onerror], [onload]") == []


def test_a_click_on_a_header_sorts_and_the_undefined_stay_last(driver: Chrome, page: Path) -> None:
    show(driver, page)
    header = driver.find_element(By.XPATH, "//table[@id='class-table']//th[.//button[text()='Sensitivity']]")
    button = header.find_element(By.TAG_NAME, "button")

    def column() -> list[str]:
        cells = driver.find_elements(By.CSS_SELECTOR, "#class-table tbody td:nth-of-type(2)")
        return [cell.text.split("\n")[0] for cell in cells]

    button.click()
    falling = column()
    assert header.get_attribute("aria-sort") == "descending"
    button.send_keys(Keys.ENTER)
    rising = column()
    assert header.get_attribute("aria-sort") == "ascending"
    assert falling[-1] == rising[-1] == "n/a (n = 0)"
    values = [float(text.split()[0]) for text in rising[:-1]]
    assert values == sorted(values)
    assert [float(text.split()[0]) for text in falling[:-1]] == sorted(values, reverse=True)


def test_typing_filters_a_table_and_says_how_many_are_left(driver: Chrome, page: Path) -> None:
    show(driver, page)
    driver.find_element(By.ID, "class-table-filter").send_keys("KERATOSIS")
    shown = [
        row.text
        for row in driver.find_elements(By.CSS_SELECTOR, "#class-table tbody tr")
        if row.is_displayed()
    ]
    assert len(shown) == 2
    assert all("keratosis" in text for text in shown)
    assert driver.find_element(By.CSS_SELECTOR, "output[for=class-table-filter]").text == "2 of 25"


def test_a_confused_pair_leads_to_its_photographs(driver: Chrome, page: Path) -> None:
    show(driver, page)
    link = driver.find_element(By.CSS_SELECTOR, "#pairs a")
    pair = link.text
    driver.execute_script("arguments[0].click()", link)
    cards = driver.find_elements(By.CSS_SELECTOR, "#errors-gallery-cards .card")
    left = [card for card in cards if card.is_displayed()]
    assert 0 < len(left) < len(cards)
    assert all(f"{pair} " in str(card.get_attribute("data-text")) for card in left)


def test_a_confused_pair_leads_to_its_row_where_photographs_are_left_out(
    driver: Chrome, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", n_images=600, is_synthetic=False, n_gallery=60, n_resamples=3)
    write_run_report(run, tmp_path / "page.html", date="2026-07-01")
    show(driver, tmp_path / "page.html")
    link = driver.find_element(By.CSS_SELECTOR, "#pairs a")
    driver.execute_script("arguments[0].click()", link)
    rows = driver.find_elements(By.CSS_SELECTOR, "#errors-gallery tbody tr")
    left = [row for row in rows if row.is_displayed()]
    assert 0 < len(left) < len(rows)
    assert all(link.text in row.text for row in left)


@pytest.mark.parametrize("width", [320, PHONE, 768, 1024, DESK])
def test_no_width_makes_the_page_scroll_sideways(driver: Chrome, page: Path, width: int) -> None:
    """Wide tables scroll inside themselves."""
    show(driver, page, width=width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_first_column_and_header_stay_while_a_table_scrolls(driver: Chrome, page: Path) -> None:
    show(driver, page, width=PHONE)
    where: dict[str, Any] = driver.execute_script(
        "const t = document.getElementById('class-table'); const box = t.parentElement;"
        "box.scrollTo(300, 400); const b = box.getBoundingClientRect();"
        "const row = [...t.tBodies[0].rows].find(r => r.getBoundingClientRect().top > b.top + 60);"
        "return {left: row.cells[0].getBoundingClientRect().left - b.left,"
        " top: t.tHead.rows[0].cells[1].getBoundingClientRect().top - b.top}"
    )
    assert abs(where["left"]) < 2
    assert abs(where["top"]) < 2


def shaded(driver: Chrome, table: str) -> tuple[bool, bool]:
    """Whether the box of that table says that there is more to the right, and more below."""
    waited = "const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 50))"
    driver.execute_async_script(waited)
    box = driver.find_element(By.XPATH, f"//table[@id='{table}']/..")
    classes = str(box.get_attribute("class")).split()
    assert (str(box.value_of_css_property("box-shadow")) != "none") is (len(classes) > 1)
    return "rightwards" in classes, "downwards" in classes


def test_a_table_cut_off_at_an_edge_says_so_until_it_is_scrolled_there(driver: Chrome, page: Path) -> None:
    """Cut between two rows a table looks whole: eleven of 25 classes would pass for all."""
    show(driver, page, width=PHONE)
    assert shaded(driver, "class-table") == (True, True)
    driver.execute_script("document.getElementById('class-table').parentElement.scrollTo(99999, 99999)")
    assert shaded(driver, "class-table") == (False, False)
    show(driver, page)
    assert shaded(driver, "headline-table") == (False, False)


def test_names_and_values_of_a_card_stand_in_two_columns(driver: Chrome, page: Path) -> None:
    show(driver, page)
    lefts = driver.execute_script(
        "return [...document.querySelectorAll('#errors-gallery-cards .card')].slice(0, 9).map(c =>"
        " new Set([...c.querySelectorAll('dd')].map(d => d.getBoundingClientRect().left)).size)"
    )
    assert set(lefts) == {1}


def test_on_a_phone_the_menu_is_closed_until_asked_for(driver: Chrome, page: Path) -> None:
    show(driver, page, width=PHONE)
    link = driver.find_element(By.CSS_SELECTOR, ".menu a[href='#calibration']")
    assert not link.is_displayed()
    driver.find_element(By.CSS_SELECTOR, ".menu summary").click()
    assert link.is_displayed()
    link.click()
    assert not link.is_displayed()
    top = driver.execute_script(
        "return document.getElementById('calibration-title').getBoundingClientRect().top"
    )
    assert 0 <= top < 300


def test_the_rail_says_where_the_reader_is(driver: Chrome, page: Path) -> None:
    show(driver, page)
    driver.execute_script("document.getElementById('abstaining').scrollIntoView()")
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 50))"
    )
    current = driver.find_elements(By.CSS_SELECTOR, ".rail a[aria-current]")
    assert [link.text for link in current] == ["Abstaining"]


def test_the_first_tab_offers_to_skip_the_menu(driver: Chrome, page: Path) -> None:
    show(driver, page)
    driver.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    focused = driver.switch_to.active_element
    assert focused.text == "Skip to the report"
    assert driver.execute_script("return getComputedStyle(arguments[0]).outlineStyle", focused) == "solid"


def test_print_leaves_out_the_menu_and_caps_the_gallery(driver: Chrome, page: Path) -> None:
    """A thousand photographs on paper help nobody; in the dark scheme paper stays white."""
    show(driver, page, scheme="dark", media="print")
    cards = driver.find_elements(By.CSS_SELECTOR, "#errors-gallery-cards .card")
    assert (len(cards), sum(card.is_displayed() for card in cards)) == (60, 24)
    assert not driver.find_element(By.CSS_SELECTOR, ".rail").is_displayed()
    background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") <= 14


def test_on_paper_no_header_stands_in_a_button(driver: Chrome, page: Path) -> None:
    """Chromium repeats a header on every page, but not what is in a button; afterwards it sorts again."""
    show(driver, page)
    note = "window.held.push(document.querySelectorAll('thead button').length)"
    driver.execute_script(f"window.held = []; addEventListener('beforeprint', () => {{ {note} }})")
    before = len(driver.find_elements(By.CSS_SELECTOR, "thead button"))
    driver.execute_cdp_cmd("Page.printToPDF", {})
    assert driver.execute_script("return window.held") == [0]
    assert len(driver.find_elements(By.CSS_SELECTOR, "thead button")) == before > 0


def test_without_script_everything_is_there(driver: Chrome, page: Path) -> None:
    """Sorting and filtering are extras: the text is the same with scripts off, filters stay hidden."""
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(driver, page)
        assert len(driver.find_elements(By.CSS_SELECTOR, "#class-table tbody tr")) == 25
        assert not driver.find_element(By.CSS_SELECTOR, ".filter").is_displayed()
        assert driver.find_element(By.CSS_SELECTOR, ".rail a").is_displayed()
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
