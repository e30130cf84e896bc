"""The reading screen in a real browser: whatever is pressed, one answer a case, of the case that was seen."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from ddeval.vet.reading import case_on_screen, take_out
from ddeval.vet.store import Store
from tests.e2e.vet_browser import (
    CHOSEN,
    DWELL,
    NONCE,
    STATE,
    do,
    keys,
    log_in,
    look,
    next_ready,
    read_one,
    ready,
    resize,
    wait_for,
)
from tests.e2e.vet_server import App, make_project

pytestmark = pytest.mark.e2e

TAP_ENTER = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}))"


@pytest.fixture
def mortal(tmp_path):
    """A server of one test alone, which may kill it."""
    make_project(tmp_path, n_cases=120, n_files=20)
    running = App(tmp_path)
    yield running
    running.end()


def test_a_case_is_read_by_keyboard_alone_and_shown_as_saved_after_its_commit(app, browser):
    log_in(browser, app.url, "anna")
    before = app.n_events("anna")
    read_one(browser)
    assert look(browser, STATE) == "saved ✓"
    assert app.n_events("anna") == before + 1
    assert app.answers("anna")["answer"].iloc[-1].diagnoses == ("Psoriasis",)


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_fast_presses_double_and_skip_nothing(app, browser, gap):
    """Twenty presses of Enter after one answer: one event for it, and no case is left without an answer."""
    log_in(browser, app.url, "anna")
    ready(browser)
    before, nonce = app.n_events("anna"), look(browser, NONCE)
    keys(browser, "acne", Keys.ENTER)
    chain = ActionChains(browser, duration=0)
    for _ in range(20):
        chain.send_keys(Keys.ENTER).pause(gap)
    chain.perform()
    next_ready(browser, nonce)
    assert app.n_events("anna") == before + 1
    assert look(browser, "$('position').textContent").split()[1] == str(len(app.answers("anna")) + 1)


@pytest.mark.parametrize("gap", [0.0, 0.05, pytest.param(0.2, marks=pytest.mark.slow)])
def test_whole_answers_at_any_speed_are_kept_or_not_taken_but_never_given_to_another_case(app, browser, gap):
    """Digit and Enter, twenty times without looking: every event was shown for 250 ms, none twice."""
    log_in(browser, app.url, "anna")
    ready(browser)
    before = app.answers("anna")
    for _ in range(20):
        keys(browser, "4", Keys.ENTER)
        time.sleep(gap)
    time.sleep(0.5)
    after = app.answers("anna").iloc[len(before) :]
    seen = [_seconds(row.shown_at, row.ts_utc) for row in after.itertuples()]
    assert 1 <= len(after) <= 20
    assert min(seen) >= 0.25
    assert not app.answers("anna").duplicated(["case_id", "reading_no"]).any()
    place = look(browser, "$('position').textContent")
    assert place.split()[1] == str(len(app.answers("anna")) + 1)


def test_a_key_held_down_is_one_press(app, browser):
    log_in(browser, app.url, "anna")
    ready(browser)
    nonce, before = look(browser, NONCE), app.n_events("anna")
    keys(browser, "acne", Keys.ENTER)
    down = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    for i in range(60):  # what a keyboard sends in three seconds
        browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", **down, "autoRepeat": i > 0})
        time.sleep(0.05)
    browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp", **down})
    next_ready(browser, nonce)
    assert app.n_events("anna") == before + 1


@pytest.mark.parametrize("gap", [0, 20, 100, 200])
def test_a_double_click_is_one_answer(app, browser, gap):
    log_in(browser, app.url, "anna")
    ready(browser)
    nonce, before = look(browser, NONCE), app.n_events("anna")
    keys(browser, "acne", Keys.ENTER)
    save = look(browser, "$('save')")
    ActionChains(browser, duration=0).move_to_element(save).click().pause(gap / 1000).click().perform()
    next_ready(browser, nonce)
    assert app.n_events("anna") == before + 1


def test_nothing_is_recorded_behind_a_dialog_or_from_a_text_field(app, browser):
    log_in(browser, app.url, "anna")
    ready(browser)
    before = app.n_events("anna")
    keys(browser, "acne", Keys.ENTER)
    do(browser, "$('helping').showModal()")
    keys(browser, "a", "1")
    do(browser, TAP_ENTER)
    do(browser, "$('helping').close(); $('note').focus()")
    keys(browser, "two lines", Keys.ENTER, "of a note", Keys.ENTER)
    time.sleep(0.5)
    assert app.n_events("anna") == before
    assert look(browser, "$('note').value").count("\n") == 2


def test_nothing_is_recorded_before_the_photograph_is_on_the_screen(app, browser):
    log_in(browser, app.url, "anna")
    ready(browser)
    before = app.n_events("anna")
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*photograph*"]})
    browser.refresh()
    wait_for(browser, "$('refusal').textContent.startsWith('This photograph cannot be shown yet')")
    keys(browser, "acne", Keys.ENTER)
    for _ in range(4):
        do(browser, TAP_ENTER)
        time.sleep(0.3)
    assert app.n_events("anna") == before
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    ready(browser)
    assert look(browser, "$('refusal').hidden")
    nonce = look(browser, NONCE)
    keys(browser, Keys.ENTER)
    next_ready(browser, nonce)
    assert app.n_events("anna") == before + 1


@pytest.mark.parametrize(
    ("every", "gap"),
    [(8, 0.0), *(pytest.param(1, gap, marks=pytest.mark.slow) for gap in (0.0, 0.03, 0.2))],
)
@pytest.mark.timeout(1800)
def test_typing_any_name_or_synonym_records_nothing_but_the_answer_chosen(app, browser, every, gap):
    """Letters only type: each name, typed and entered, chooses its own diagnosis and does nothing else."""
    log_in(browser, app.url, "ben")
    ready(browser)
    before = app.n_events("ben")
    browser.set_script_timeout(30)
    listed = browser.execute_async_script(
        "const done = arguments[0]; fetch('/api/diagnoses?batch=b').then(r => r.json()).then(done)"
    )
    wrong, n = [], 0
    for entry in listed[::every]:
        for name in [entry["name"], *entry["synonyms"]][:: 2 if every > 1 else 1]:
            keys(browser, name, gap=gap)
            keys(browser, Keys.ENTER)
            n += 1
            if (chosen := look(browser, CHOSEN)) != [entry["name"]]:
                wrong.append((name, chosen))
            do(browser, "root.querySelectorAll('#chosen button').forEach(b => b.click())")
            do(browser, "$('search').value = ''; $('stage').focus()")
    print(f"{n} names typed, {gap * 1000:.0f} ms a key")
    assert wrong == []
    assert app.n_events("ben") == before


def test_a_photograph_marked_as_poor_is_stored_by_its_id_and_comes_back_by_its_number(app, browser):
    log_in(browser, app.url, "anna")
    ready(browser)
    nonce = look(browser, NONCE)
    do(browser, "$('after').click()")
    do(browser, "$('poor').click()")
    keys(browser, "acne", Keys.ENTER, Keys.ENTER)
    next_ready(browser, nonce)
    last = app.answers("anna").iloc[-1]
    assert last["details"]["poor_photographs"] == [f"{last['case_id']}-1"]
    do(browser, "$('undo').click()")
    wait_for(browser, f"{CHOSEN}.length === 1")
    ready(browser)
    do(browser, "$('after').click()")
    assert look(browser, "$('poor').checked")
    assert last["case_id"] not in look(browser, "root.innerHTML")
    keys(browser, Keys.ENTER)
    next_ready(browser, look(browser, NONCE))


def test_undo_brings_the_last_case_back_with_its_answer(app, browser):
    log_in(browser, app.url, "anna")
    read_one(browser, "vitiligo")
    do(browser, "$('undo').click()")
    wait_for(browser, f"{CHOSEN}[0] === 'Vitiligo'")
    ready(browser)
    nonce = look(browser, NONCE)
    keys(browser, Keys.ENTER)
    next_ready(browser, nonce)
    assert app.answers("anna")["answer"].iloc[-1].diagnoses == ("Vitiligo",)


@pytest.mark.parametrize("n", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_cases_are_read_by_touch_alone(app, browser, n):
    """Taps for every choice, the words from an on-screen keyboard, and a pinch that zooms."""
    resize(browser, 834, 1112)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 5})
    try:
        log_in(browser, app.url, "ben")
        before = len(app.answers("ben"))
        for i in range(n):
            ready(browser)
            nonce = look(browser, NONCE)
            _pinch(browser)
            assert look(browser, "new DOMMatrix(getComputedStyle($('picture')).transform).a") > 1.2
            if i % 3 == 2:
                tap(browser, "root.querySelector('#exits label')")
            else:
                tap(browser, "root.querySelector('#gradable label')")
                tap(browser, "$('search')")
                browser.execute_cdp_cmd("Input.insertText", {"text": "ecz"})
                wait_for(browser, "!$('list').hidden")
                tap(browser, "$('list').children[0]")
            tap(browser, "$('save')")
            next_ready(browser, nonce)
        assert len(app.answers("ben")) == before + n
        targets = "[...root.querySelectorAll('main button, #form label span, #search, .tick')]"
        heights = look(
            browser, f"{targets}.filter(e => e.offsetParent).map(e => e.getBoundingClientRect().height)"
        )
        assert min(heights) >= 44
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        resize(browser, 1440)


@pytest.mark.parametrize("seconds", [4, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_after_a_sleep_the_same_case_is_there_with_its_draft(mortal, browser, seconds):
    """Browser stopped, websocket gone and the server's memory of it too: a laptop closed and opened."""
    log_in(browser, mortal.url, "anna")
    ready(browser)
    nonce = look(browser, NONCE)
    keys(browser, "2", "rosacea", Keys.ENTER)
    time.sleep(1.2)
    asleep = descendants(browser.service.process.pid)
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    mortal.kill()
    time.sleep(seconds)
    mortal.start()
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    for _ in range(2):  # as it wakes, and after a reload
        ready(browser)
        assert look(browser, NONCE) == nonce
        assert look(browser, CHOSEN) == ["Rosacea"]
        assert look(browser, "root.querySelector('#gradable input:checked').value") == "partly"
        browser.refresh()
    ready(browser)
    keys(browser, Keys.ENTER)
    next_ready(browser, nonce)
    assert mortal.answers("anna")["answer"].iloc[-1].diagnoses == ("Rosacea",)


@pytest.mark.parametrize("n_kills", [3, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_a_server_killed_between_key_and_acknowledgement_loses_and_invents_nothing(mortal, browser, n_kills):
    """The state word never says saved for what is not stored, and the answer arrives once it is back."""
    rng = np.random.default_rng(0)
    log_in(browser, mortal.url, "anna")
    usable, n_lost, n_untaken = [], 0, 0
    for _ in range(n_kills):
        ready(browser)
        nonce, before, word_before = look(browser, NONCE), mortal.n_events("anna"), look(browser, STATE)
        keys(browser, "acne", Keys.ENTER, Keys.ENTER)
        time.sleep(float(rng.random()) * 0.05)
        mortal.kill()
        time.sleep(0.4)
        word, stored = look(browser, STATE), mortal.n_events("anna") - before
        # while the page joins the server again it takes no key, and the word is still that of the case before
        is_untouched = word == word_before and not look(browser, CHOSEN) and look(browser, NONCE) == nonce
        assert word != "saved ✓" or stored == 1 or is_untouched
        mortal.start()
        if word in ("", "connected") or (is_untouched and not stored):
            assert stored == 0
            n_untaken += 1
            do(browser, "root.querySelectorAll('#chosen button').forEach(b => b.click())")
            continue
        n_lost += word != "saved ✓"
        start = time.monotonic()
        next_ready(browser, nonce, seconds=10)
        usable.append(time.monotonic() - start)
        assert mortal.n_events("anna") == before + 1
        wait_for(browser, f"['saved ✓', 'connected'].includes({STATE})", seconds=10)
    assert len(mortal.answers("anna")) == n_kills - n_untaken
    assert n_untaken <= n_kills // 10
    print(
        f"{n_kills} kills, {n_lost} before the acknowledgement, {n_untaken} before a press, "
        f"usable again after a median of {np.median(usable):.1f} s, at most {max(usable):.1f} s"
    )


def test_a_lost_server_is_said_and_the_answer_kept(mortal, browser):
    log_in(browser, mortal.url, "anna")
    ready(browser)
    mortal.kill()
    wait_for(browser, "!$('banner').hidden && $('banner').textContent.includes('cannot be reached')")
    mortal.start()
    wait_for(browser, "$('banner').hidden", seconds=12)


WATCH = """
window.taken = []; let from = 0;
document.addEventListener('keydown', e => { if (e.key === 'Enter') from = performance.now(); }, true);
new MutationObserver(() => requestAnimationFrame(() => taken.push(performance.now() - from)))
  .observe(root.host, {attributeFilter: ['data-seen']});
"""


@pytest.mark.parametrize("n", [10, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_the_next_case_of_a_queue_of_15561_is_there_before_the_hand_has_left_the_key(tmp_path, browser, n):
    """From the press of Enter to the painted photograph of the next case: median 150 ms, p95 300 ms."""
    make_project(tmp_path, n_cases=15_561, n_photographs=1)
    large = App(tmp_path)
    try:
        log_in(browser, large.url, "anna")
        ready(browser)
        do(browser, WATCH)
        for i in range(n):
            nonce = look(browser, NONCE)
            keys(browser, ["4", "5", "6"][i % 3], Keys.ENTER)
            next_ready(browser, nonce)
            time.sleep(DWELL)
        taken = np.array(browser.execute_script("return taken"))
    finally:
        large.end()
    median, p95 = np.quantile(taken, [0.5, 0.95])
    print(f"{len(taken)} presses, median {median:.0f} ms, p95 {p95:.0f} ms, most {taken.max():.0f} ms")
    assert len(taken) == n
    assert median <= 150
    assert p95 <= 300 or n < 100


def descendants(pid):
    """Processes started by `pid`, and by those."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def tap(driver, element):
    """One finger on the middle of an element of the viewer, scrolled to first."""
    do(driver, f"({element}).scrollIntoView({{block: 'nearest'}})")
    box = json.loads(look(driver, f"JSON.stringify(({element}).getBoundingClientRect())"))
    point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def _pinch(driver):
    box = json.loads(look(driver, "JSON.stringify($('stage').getBoundingClientRect())"))
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, reach in (("touchStart", 20), ("touchMove", 50), ("touchMove", 90)):
        points = [{"x": x - reach, "y": y, "id": 0}, {"x": x + reach, "y": y, "id": 1}]
        driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def _seconds(shown, stored):
    return (np.datetime64(stored[:26]) - np.datetime64(shown[:26])) / np.timedelta64(1, "s")


def test_a_case_that_was_taken_off_the_screen_says_so_beside_the_next_one(app, browser):
    """A patient withdraws while the case is read: NOT SAVED alone would seem to be about the next case."""
    log_in(browser, app.url, "ben")
    ready(browser)
    nonce = look(browser, NONCE)
    store = Store(app.folder / "vet.db")
    take_out(store, [case_on_screen(store, nonce, "ben")], actor="root", reason="patient withdrew")
    store.close()
    keys(browser, "psoriasis", Keys.ENTER, Keys.ENTER)
    next_ready(browser, nonce)
    assert look(browser, STATE) == "NOT SAVED"
    said = look(browser, "$('refusal').textContent")
    assert said == "The case before: This case is not on your screen any more. Nothing was saved."
