"use strict";
// Sorting, filtering and the menu. Without this script the page still holds everything.
const narrow = matchMedia("(max-width: 920px)");
const menu = document.querySelector(".menu");
const settle = () => { menu.open = !narrow.matches; };
settle();
narrow.addEventListener("change", settle);
menu.addEventListener("click", (event) => {
  if (narrow.matches && event.target.closest("a")) menu.open = false;
});

const links = new Map([...document.querySelectorAll(".rail a")].map((a) => [a.hash.slice(1), a]));
const mark = () => {
  const sections = [...document.querySelectorAll("main > section")];
  const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
  const above = sections.filter((s) => s.getBoundingClientRect().top < innerHeight / 3);
  const here = atEnd ? sections.at(-1) : above.at(-1);
  for (const [id, a] of links) {
    if (here && id === here.id) a.setAttribute("aria-current", "true");
    else a.removeAttribute("aria-current");
  }
};
addEventListener("scroll", mark, { passive: true });
mark();

// Undefined cells carry no data-sort in a column of numbers: they go last whichever way it is sorted.
const keyOf = (row, i, isNumber) => {
  const cell = row.cells[i];
  if ("sort" in cell.dataset) return isNumber ? Number(cell.dataset.sort) : cell.dataset.sort;
  return isNumber ? null : cell.textContent.trim();
};
const headsOf = (table) => [...table.tHead.rows[table.tHead.rows.length - 1].cells];
const sort = (table, head) => {
  const isNumber = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  const isDown = before ? before === "ascending" : isNumber;
  for (const other of headsOf(table)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row, head.cellIndex, isNumber), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = isNumber ? a - b : a.localeCompare(b, "en", { numeric: true });
    return isDown ? -order : order;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
};
const sortable = [...document.querySelectorAll("table.sortable")];
const arm = () => {
  for (const head of sortable.flatMap(headsOf)) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
  }
};
// On paper the header is repeated on every page, but not what stands in a button.
const disarm = () => {
  for (const button of document.querySelectorAll("thead button")) button.replaceWith(...button.childNodes);
};
for (const table of sortable) {
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) sort(table, button.parentElement);
  });
}
arm();
addEventListener("beforeprint", disarm);
addEventListener("afterprint", arm);

const apply = (input) => {
  const box = document.getElementById(input.dataset.filters);
  const items = box.tBodies ? [...box.tBodies[0].rows] : [...box.children];
  const wanted = input.value.trim().toLowerCase();
  let n = 0;
  for (const item of items) {
    const text = (item.dataset.text || item.textContent).toLowerCase();
    item.hidden = !text.includes(wanted);
    n += !item.hidden;
  }
  input.parentElement.querySelector("output").textContent = wanted ? `${n} of ${items.length}` : "";
};
// What is cut off at an edge can be scrolled to: the edge is shaded until one is there.
const boxes = [...document.querySelectorAll(".scroll, .album")];
const shade = (box) => {
  box.classList.toggle("rightwards", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.classList.toggle("downwards", box.scrollTop + box.clientHeight < box.scrollHeight - 1);
};
const sizes = new ResizeObserver((entries) => {
  for (const entry of entries) shade(entry.target.closest(".scroll, .album"));
});
for (const box of boxes) {
  box.addEventListener("scroll", () => shade(box), { passive: true });
  sizes.observe(box);
  for (const inner of box.children) sizes.observe(inner);
}

for (const input of document.querySelectorAll("input[data-filters]")) {
  input.parentElement.hidden = false;
  input.addEventListener("input", () => apply(input));
}
for (const link of document.querySelectorAll("a[data-fills]")) {
  link.addEventListener("click", () => {
    const id = CSS.escape(link.hash.slice(1));
    const input = document.querySelector(`#${id} input[data-filters], input[data-filters="${id}"]`);
    if (input) { input.value = link.dataset.fills; apply(input); }
  });
}
