// One case on the screen of one reader: photographs, the blind form, and the exchange with the server.
// The server decides what comes next; this file never counts cases. An answer leaves under the nonce of the
// screen it was given on and is shown as saved only after the server has committed it.

const DWELL_MS = 250;     // a press sooner than this after the photograph appeared belongs to the case before
const WAIT_MS = 4000;     // after this an unacknowledged answer is NOT SAVED and is sent again
const RETRY_MS = 1500;
const DRAFT_MS = 600;
const PULSE_MS = 5000;
const MOST_DIAGNOSES = 3;
const SURE = ["not sure", "a little", "fairly", "quite", "certain"];
const EXITS = { cannot_tell: "Cannot tell", poor_image: "Poor image", off_topic: "Off topic", duplicate: "Duplicate" };
const WHY = { cannot_tell: "Good photographs, and still no diagnosis.", poor_image: "Too dark, blurred or small to judge.",
  off_topic: "No skin, or nothing wrong with it.", duplicate: "The same photographs as a case before." };

export default function (component) {
  const root = component.parentElement;
  root.__vet ??= mount(root, component.data);  // runs again at every update: listeners are registered once
  return () => { root.__vet?.end(); root.__vet = null; };
}

function mount(root, { api, reader, batch, is_synthetic, task }) {
  const $ = (id) => root.getElementById ? root.getElementById(id) : root.querySelector("#" + id);
  const listeners = new AbortController();
  const on = (target, type, act, options = {}) => target.addEventListener(type, act, { signal: listeners.signal, ...options });
  const at = (path) => `${api}${path}${path.includes("?") ? "&" : "?"}batch=${encodeURIComponent(batch)}`;

  const paths = task === "adjudicate" ? { screen: "/hearing", answer: "/adjudicate" } : { screen: "/screen", answer: "/answer" };
  let shown = null;        // the screen as the server sent it
  let arrivedAt = 0;       // when it came
  let seenAt = 0;          // when its first photograph was on screen; without one nothing can be saved
  let isBusy = false;      // an answer is on its way, or the next case is
  let chosen = [];         // diagnoses, surest first
  let photo = 0;
  let poor = new Set();
  let names = [];          // every diagnosis, in one fixed order
  const exits = Object.entries(EXITS).map(([exit, name]) => ({ name, synonyms: [], definition: WHY[exit], exit }));
  let draftTimer = 0;
  let pulseTimer = 0;
  let misses = 0;          // how often the photograph on screen did not come
  let view = { scale: 1, x: 0, y: 0 };

  // ---- the exchange with the server

  async function call(path, body) {
    const options = body === undefined ? {} : {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    };
    const answer = await fetch(at(path), { ...options, signal: AbortSignal.timeout(WAIT_MS), credentials: "same-origin", cache: "no-store" });
    if (answer.status === 401) { location.reload(); throw new Error("logged out"); }
    const value = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(value.message), { refusal: value });
    return value;
  }

  // Sends until the server has answered; the nonce makes a second arrival harmless.
  async function insist(path, body) {
    for (let attempt = 0; !listeners.signal.aborted; attempt++) {
      try {
        const value = await call(path, body);
        banner("");
        return value;
      } catch (error) {
        if (error.refusal) throw error;
        state("lost", "NOT SAVED");
        banner("The server cannot be reached. Your answer is kept on this screen and sent again until it is saved. Do not close the page.");
        await new Promise((wake) => setTimeout(wake, RETRY_MS));
      }
    }
    throw new Error("ended");
  }

  async function send(path, body, word) {
    if (isBusy || !shown) return;
    isBusy = true;
    clearTimeout(draftTimer);
    refusal("");
    state("saving", "saving…");
    enable();
    try {
      const value = await insist(path, body);
      state("saved", word);
      show(value.next);
    } catch (error) {
      if (!error.refusal) return;
      const isGone = error.refusal.code === "not_shown";  // the next case is on the screen when this is read
      if (isGone) show(await insist(paths.screen));
      state("lost", "NOT SAVED");
      refusal((isGone ? "The case before: " : "") + error.refusal.message);
    } finally {
      isBusy = false;
      enable();
    }
  }

  const canSend = () => shown && !isBusy && seenAt && performance.now() - seenAt >= DWELL_MS && !openDialog();

  const canLeave = () => shown && !isBusy && performance.now() - arrivedAt >= DWELL_MS && !openDialog();

  function save() {
    if (!canSend()) return;
    const problem = missing();
    if (problem) { refusal(problem); return; }
    send(paths.answer, { nonce: shown.nonce, ...answer(), display: { ...view, brightness: +$("brightness").value, contrast: +$("contrast").value, seconds: Math.round((performance.now() - seenAt) / 100) / 10 } }, "saved ✓");
  }

  function answer() {
    const exit = root.querySelector("#exits input:checked")?.value ?? null;
    const sure = root.querySelector("#sure input:checked")?.value;
    return {
      gradable: root.querySelector("#gradable input:checked")?.value ?? null,
      diagnoses: exit ? [] : chosen,
      sure: sure ? Number(sure) : null,
      exit,
      more_than_one_disease: $("several").checked,
      note: $("note").value,
      poor_photographs: [...poor],
    };
  }

  function missing() {
    const given = answer();
    if ($("search").value.trim()) return "The diagnosis you are typing is not chosen yet: pick it from the list, or clear the field.";
    if (given.exit) return "";
    if (!given.gradable) return "Say first whether you can tell from these photos (1, 2 or 3).";
    if (!chosen.length) return given.gradable === "no" ? "Choose why there is no diagnosis." : "Name at least one diagnosis, or choose why there is none.";
    return "";
  }

  function keepDraft() {
    if (!shown || isBusy) return;
    if ($("state").dataset.state === "saved") state("saved", "");  // the word was for the case before
    if (task === "adjudicate") return;
    clearTimeout(draftTimer);
    const nonce = shown.nonce;
    draftTimer = setTimeout(() => call("/draft", { nonce, draft: answer() }).catch(() => {}), DRAFT_MS);
  }

  async function pulse() {
    if (document.hidden || isBusy) return;
    try {
      const alive = await fetch(api.replace(/\/api$/, "/_stcore/health"), { signal: AbortSignal.timeout(WAIT_MS), cache: "no-store" });
      if (!alive.ok) throw new Error();
      if (isBusy) return;
      banner("");
      if ($("state").textContent === "offline") state("saved", "connected");
    } catch {
      if (isBusy) return;
      state("lost", "offline");
      banner("Offline: the server cannot be reached. What you enter stays on this screen; nothing new is saved until it is back.");
      clearTimeout(pulseTimer);
      pulseTimer = setTimeout(pulse, RETRY_MS);
    }
  }

  // ---- showing a case

  function show(screen) {
    shown = screen;
    seenAt = 0;
    arrivedAt = performance.now();
    $("case").hidden = !screen;
    $("finished").hidden = !!screen;
    if (!screen) { $("position").textContent = "Done"; $("practice").hidden = true; return; }
    $("position").textContent = screen.is_practice ? "Practice case" : `Case ${screen.n_done + 1} of ${screen.n_done + screen.n_left}`;
    $("practice").hidden = !screen.is_practice;
    fill(screen.draft ?? {});
    drawTold(screen.told);
    drawReadings(screen.readings ?? []);
    open(0);
    root.querySelector("#form").scrollTop = 0;
    $("stage").focus({ preventScroll: true });
  }

  // What is there stands out; what was denied is one line; every question word for word is folded.
  function drawTold({ said, denied, in_full }) {
    $("said").replaceChildren(...said.flatMap(([subject, answer], i) => {
      const pair = document.createElement("span");
      pair.append(element("small", subject), " ", element("strong", answer));
      return i ? [" ", pair] : [pair];
    }));
    $("denied").textContent = denied.length ? `said no to: ${denied.join(", ")}` : "";
    $("told").hidden = !said.length && !denied.length;
    $("questions").hidden = !in_full.length;
    $("answers").replaceChildren(...in_full.map(([question, answer]) => {
      const pair = document.createElement("div");
      pair.append(element("dt", question), element("dd", answer));
      return pair;
    }));
  }

  // What the readers said, under letters that do not tell who is who.
  function drawReadings(readings) {
    $("readings").hidden = !readings.length;
    $("heard").replaceChildren(...readings.map((reading) => {
      const item = document.createElement("li"), words = document.createElement("span"), use = element("button", "Use");
      const named = reading.exit ? EXITS[reading.exit] : reading.diagnoses.join(", then ");
      words.append(element("small", `Reader ${reading.letter}`), element("strong", named));
      if (reading.gradable && reading.gradable !== "yes") words.append(element("small", `can tell: ${reading.gradable}`));
      if (reading.note) words.append(element("small", `note: ${reading.note}`));
      use.type = "button";
      use.setAttribute("aria-label", `Use what reader ${reading.letter} said`);
      use.onclick = () => fill({ gradable: reading.gradable ?? "yes", diagnoses: reading.diagnoses, exit: reading.exit });
      item.append(words, use);
      return item;
    }));
  }

  function fill(draft) {
    chosen = [...(draft.diagnoses ?? [])].slice(0, MOST_DIAGNOSES);
    poor = new Set(draft.poor_photographs ?? []);
    for (const input of root.querySelectorAll("#gradable input")) input.checked = input.value === draft.gradable;
    for (const input of root.querySelectorAll("#exits input")) input.checked = input.value === draft.exit;
    const sure = draft.sure ?? null;
    for (const input of root.querySelectorAll("#sure input")) input.checked = Number(input.value) === sure;
    $("several").checked = !!draft.more_than_one_disease;
    $("note").value = draft.note ?? "";
    $("search").value = "";
    closeList();
    drawChosen();
    refusal("");
  }

  function open(number) {
    photo = number;
    misses = 0;
    const url = at(`/photograph/${shown.nonce}/${number}`);
    const picture = $("picture");
    picture.dataset.full = "";
    picture.alt = `Photograph ${number + 1} of ${shown.n_photographs} of this case`;
    picture.src = url;
    $("which").textContent = shown.n_photographs > 1 ? `photo ${number + 1} of ${shown.n_photographs}` : "one photo";
    $("turn").hidden = shown.n_photographs < 2;
    $("before").disabled = number === 0;
    $("after").disabled = number >= shown.n_photographs - 1;
    $("poor").checked = poor.has(number);
    place({ scale: 1, x: 0, y: 0 });
    $("brightness").value = $("contrast").value = 100;
    light();
    for (let next = 1; next < shown.n_photographs; next++) if (number === 0) new Image().src = at(`/photograph/${shown.nonce}/${next}`);
    enable();
  }

  // A photograph that did not come is asked for again: a server may be starting, a line may be bad.
  function lookAgain() {
    if (!shown) return;
    refusal("This photograph cannot be shown yet. It is asked for again; or use “Report this case” or “Skip for now”.");
    const nonce = shown.nonce, number = photo;
    setTimeout(() => {
      if (shown?.nonce === nonce && photo === number) $("picture").src = at(`/photograph/${nonce}/${number}?try=${misses}`);
    }, Math.min(RETRY_MS * ++misses, 10000));
  }

  function place(next) {
    const stage = $("stage").getBoundingClientRect();
    const scale = Math.min(Math.max(next.scale, 1), 16);
    const most = (side) => side * (scale - 1);
    view = { scale, x: clamp(next.x, -most(stage.width), 0), y: clamp(next.y, -most(stage.height), 0) };
    $("picture").style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    if (scale > 1.5 && shown && !$("picture").dataset.full) {  // beyond the view's own pixels: fetch them all
      $("picture").dataset.full = "1";
      const full = new Image();
      const nonce = shown.nonce, number = photo;
      full.onload = () => { if (shown?.nonce === nonce && photo === number) $("picture").src = full.src; };
      full.src = at(`/photograph/${nonce}/${number}?size=full`);
    }
  }

  function zoom(factor, px, py) {
    const stage = $("stage").getBoundingClientRect();
    const x = px ?? stage.width / 2, y = py ?? stage.height / 2;
    const scale = clamp(view.scale * factor, 1, 16), ratio = scale / view.scale;
    place({ scale, x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio });
  }

  const light = () => { $("picture").style.filter = `brightness(${$("brightness").value}%) contrast(${$("contrast").value}%)`; };

  // ---- finding a diagnosis

  const plain = (text) => text.toLowerCase().normalize("NFD").replace(/[\u0300-\u036f]/g, "").replace(/[^a-z0-9]+/g, " ").trim();

  // Exact names first, then names that begin so, then synonyms that do, then words inside; the exits come last.
  // Equals keep the one fixed order.
  function found(typed) {
    const wanted = plain(typed);
    if (!wanted) return [];
    const ranked = [];
    for (const [place, entry] of [...names, ...exits].entries()) {
      let best = 9, by = "";
      for (const name of [entry.name, ...entry.synonyms]) {
        const text = plain(name), own = name === entry.name ? 0 : 1;
        const rank = text === wanted ? 0 : text.startsWith(wanted) ? 1 + own : (" " + text).includes(" " + wanted) ? 3 + own : 9;
        if (rank < best) { best = rank; by = name; }
      }
      if (best < 9) ranked.push({ ...entry, best, by, place });
    }
    return ranked.sort((a, b) => a.best - b.best || a.place - b.place).slice(0, 9);
  }

  let offered = [], marked = 0;
  function offer() {
    offered = found($("search").value);
    marked = 0;
    drawList();
  }

  function drawList() {
    const list = $("list");
    list.replaceChildren(...offered.map((entry, i) => {
      const item = element("li", entry.name + (entry.by !== entry.name ? ` (${entry.by})` : ""));
      item.id = `option-${i}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", String(i === marked));
      if (entry.definition) item.append(element("small", entry.definition));
      item.onpointerdown = (event) => { event.preventDefault(); choose(entry); };
      return item;
    }));
    if ($("search").value.trim() && !offered.length) list.append(element("li", "No diagnosis of that name. Note it below and choose the nearest, or an exit."));
    list.hidden = !list.children.length;
    $("search").setAttribute("aria-expanded", String(!list.hidden));
    if (offered.length) $("search").setAttribute("aria-activedescendant", `option-${marked}`);
    else $("search").removeAttribute("aria-activedescendant");
    list.children[marked]?.scrollIntoView({ block: "nearest" });
  }

  const closeList = () => { offered = []; $("list").hidden = true; $("search").setAttribute("aria-expanded", "false"); };

  function choose({ name, exit }) {
    if (exit) { takeExit(exit); return; }
    if (!chosen.includes(name) && chosen.length < MOST_DIAGNOSES) chosen.push(name);
    $("search").value = "";
    for (const input of root.querySelectorAll("#exits input")) input.checked = false;
    if (!root.querySelector("#gradable input:checked")) root.querySelector("#gradable input[value=yes]").checked = true;
    closeList();
    drawChosen();
    keepDraft();
  }

  // An exit stands instead of diagnoses.
  function takeExit(exit) {
    for (const input of root.querySelectorAll("#exits input")) input.checked = input.value === exit;
    chosen = [];
    $("search").value = "";
    closeList();
    drawChosen();
    refusal("");
    keepDraft();
  }

  function drawChosen() {
    $("chosen").replaceChildren(...chosen.map((name, i) => {
      const item = document.createElement("li");
      const away = element("button", "✕");
      away.type = "button";
      away.setAttribute("aria-label", `Take ${name} away`);
      away.onclick = () => { chosen.splice(i, 1); drawChosen(); keepDraft(); };
      item.append(element("span", `${i + 1}.`), element("strong", name), away);
      return item;
    }));
    $("search").disabled = chosen.length >= MOST_DIAGNOSES;
    $("search").placeholder = chosen.length ? "add another" : "type a diagnosis";
    enable();
  }

  // ---- small parts

  function state(name, word) { $("state").dataset.state = name; $("state").textContent = word; }
  function banner(text) { $("banner").textContent = text; $("banner").hidden = !text; }
  function refusal(text) { $("refusal").textContent = text; $("refusal").hidden = !text; }
  function enable() { $("save").disabled = isBusy || !shown || !seenAt; }
  const openDialog = () => root.querySelector("dialog[open]") ?? document.querySelector("dialog[open]");
  function element(tag, text) { const made = document.createElement(tag); made.textContent = text; return made; }
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // ---- what the reader does

  function onKey(event) {
    if (event.repeat || event.isComposing || openDialog() || !shown || event.metaKey || event.altKey) return;
    const target = event.composedPath()[0];
    const isSearch = target === $("search");
    const isText = target instanceof HTMLTextAreaElement || (target instanceof HTMLInputElement && ["text", "search", "password", "email"].includes(target.type) && !isSearch);
    if (isText || event.ctrlKey) return;
    if (isSearch && searchKey(event)) return;
    if (isSearch && $("search").value) return;
    if (event.key === "Enter") {
      if (target instanceof HTMLButtonElement && target !== $("save")) return;
      if (target.tagName === "SUMMARY") return;
      event.preventDefault();
      save();
    } else if (/^[123]$/.test(event.key) && !isSearch) {
      root.querySelectorAll("#gradable input")[Number(event.key) - 1].checked = true;
      keepDraft();
    } else if (/^[4-7]$/.test(event.key) && !isSearch) {
      takeExit(exits[Number(event.key) - 4].exit);
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      if (target.type === "range" || target.type === "radio" || isSearch) return;
      const next = photo + (event.key === "ArrowRight" ? 1 : -1);
      if (next >= 0 && next < shown.n_photographs) open(next);
    } else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") place({ scale: 1, x: 0, y: 0 });
    else if (event.key === "?") { event.preventDefault(); $("helping").showModal(); }
    else if (/^\p{L}$/u.test(event.key) && !isSearch && !$("search").disabled) {
      $("search").focus();  // the letter itself then lands in the field: letters only type
    }
  }

  function searchKey(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (!offered.length) return false;
      event.preventDefault();
      marked = (marked + (event.key === "ArrowDown" ? 1 : offered.length - 1)) % offered.length;
      drawList();
      return true;
    }
    if (event.key === "Enter" && $("search").value.trim()) {
      event.preventDefault();
      if (offered.length) choose(offered[marked]);
      return true;
    }
    if (event.key === "Escape") { closeList(); $("search").value = ""; $("stage").focus(); return true; }
    if (event.key === "Backspace" && !$("search").value && chosen.length) { chosen.pop(); drawChosen(); keepDraft(); return true; }
    return false;
  }

  function choices(id, name, entries) {
    for (const [value, text, key] of entries) {
      const label = document.createElement("label"), input = document.createElement("input"), words = element("span", text);
      input.type = "radio"; input.name = name; input.value = value;
      if (key) words.append(element("kbd", key));
      label.append(input, words);
      $(id).append(label);
    }
  }

  choices("sure", "sure", SURE.map((text, i) => [i + 1, text]));
  choices("exits", "exit", Object.entries(EXITS).map(([exit, text], i) => [exit, text, String(i + 4)]));
  for (const id of ["gradable", "sure"]) on($(id), "change", () => { refusal(""); keepDraft(); });
  on($("exits"), "change", (event) => takeExit(event.target.value));
  for (const id of ["several", "note"]) on($(id), "input", keepDraft);
  on($("search"), "input", () => { refusal(""); offer(); });
  on($("search"), "blur", () => setTimeout(() => { if (root.activeElement !== $("search")) closeList(); }, 150));
  on($("form"), "submit", (event) => { event.preventDefault(); });
  on($("save"), "click", save);
  on($("save"), "keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });  // onKey saves: once, not at every repeat
  for (const id of ["undo", "undo-last"]) on($(id), "click", async () => {
    if (isBusy) return;
    isBusy = true;
    try { const back = await insist("/undo", { reason: "undone by the reader" }); state("saved", "taken back"); show(back.next); }
    catch (error) { if (error.refusal) refusal(error.refusal.message); }
    finally { isBusy = false; enable(); }
  });
  on($("skip"), "click", () => { if (canLeave()) send("/aside", { nonce: shown.nonce, kind: "skip" }, "skipped"); });
  on($("report"), "click", () => { $("reason").value = ""; $("reporting").returnValue = ""; $("reporting").showModal(); });
  on($("reporting"), "close", () => {
    const reason = $("reason").value.trim();
    if ($("reporting").returnValue === "send" && reason && shown) send("/aside", { nonce: shown.nonce, kind: "report", reason }, "reported");
  });
  on($("help"), "click", () => $("helping").showModal());
  on($("before"), "click", () => open(photo - 1));
  on($("after"), "click", () => open(photo + 1));
  on($("in"), "click", () => zoom(1.4));
  on($("out"), "click", () => zoom(1 / 1.4));
  on($("reset"), "click", () => { place({ scale: 1, x: 0, y: 0 }); $("brightness").value = $("contrast").value = 100; light(); });
  for (const id of ["brightness", "contrast"]) on($(id), "input", light);
  on($("poor"), "change", () => { $("poor").checked ? poor.add(photo) : poor.delete(photo); keepDraft(); });
  on($("picture"), "load", () => { if (misses) refusal(""); misses = 0; if (!seenAt && shown) requestAnimationFrame(() => { seenAt = performance.now(); root.host?.setAttribute("data-seen", shown?.nonce ?? ""); enable(); }); });
  on($("picture"), "error", lookAgain);

  const fingers = new Map();
  const stage = $("stage");
  on(stage, "wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  on(stage, "pointerdown", (event) => { fingers.set(event.pointerId, event); stage.setPointerCapture(event.pointerId); });
  on(stage, "pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const others = [...fingers.values()].filter((finger) => finger.pointerId !== event.pointerId);
    if (others.length) {
      const box = stage.getBoundingClientRect(), other = others[0];
      const reach = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
      zoom(reach(event) / Math.max(reach(before), 1), (event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top);
    } else place({ ...view, x: view.x + event.clientX - before.clientX, y: view.y + event.clientY - before.clientY });
    fingers.set(event.pointerId, event);
  });
  for (const type of ["pointerup", "pointercancel"]) on(stage, type, (event) => fingers.delete(event.pointerId));
  on(document, "keydown", onKey);
  on(window, "online", pulse);
  on(window, "offline", pulse);
  on(window, "beforeunload", (event) => { if (isBusy) event.preventDefault(); });
  const heart = setInterval(pulse, PULSE_MS);

  state("saved", "");
  $("reader").textContent = `reader ${reader}`;
  $("stamp").hidden = !is_synthetic;
  for (const id of ["skip", "report", "undo", "undo-last"]) $(id).hidden = task === "adjudicate";
  (async () => {
    names = await insist("/diagnoses");
    show(await insist(paths.screen));
    state("saved", "");
  })().catch((error) => refusal(error.refusal?.message ?? "The page could not be filled. Reload it."));

  // The platform takes the screen away while it joins a server again: no word of it may stand meanwhile.
  return { end() { state("saved", ""); $("save").disabled = true; listeners.abort(); clearInterval(heart); clearTimeout(draftTimer); clearTimeout(pulseTimer); } };
}
