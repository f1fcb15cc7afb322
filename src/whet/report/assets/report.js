"use strict";
// Tooltips for every mark, by mouse and by keyboard; tables that sort by a click on a head; folded tables on paper.
(() => {
  const tip = document.getElementById("tip");

  const show = (mark) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = mark.getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const left = Math.max(8, Math.min(box.left + box.width / 2 - tip.offsetWidth / 2, room));
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${(above > 4 ? above : box.bottom + 8) + window.scrollY}px`;
  };
  const hide = () => { tip.hidden = true; };

  for (const [starts, ends] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
    document.addEventListener(starts, (event) => {
      const mark = event.target.closest?.("[data-tip]");
      if (mark) show(mark);
    });
    document.addEventListener(ends, hide);
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.key ?? cell.firstChild?.nodeValue ?? "";
    const number = Number(text.replace(/[\u2009,%]/g, "").replace("\u2212", "-").replace(/\u00d7.*$/, ""));
    return text.trim() !== "" && Number.isFinite(number) ? number : text.toLowerCase();
  };
  const compare = (a, b) => {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1; // numbers before words such as "not enough data"
  };
  const sort = (head) => {
    const body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "descending" || !head.classList.contains("number");
    const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : down ? 1 : -1;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
    const rows = [...body.rows];
    rows.sort((a, b) => turn * compare(keyOf(a, head.cellIndex), keyOf(b, head.cellIndex)));
    body.append(...rows);
  };
  for (const head of document.querySelectorAll("thead th")) {
    if (head.closest("table").tBodies[0].rows.length < 3) continue;
    head.classList.add("sortable");
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(head));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(head); }
    });
  }

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  window.addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
})();
