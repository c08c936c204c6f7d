// Without this script every row is on the page and the cells of the grids are links to them.
(() => {
  "use strict";
  const panel = document.getElementById("panel");
  const inside = panel.querySelector(".inside");
  const close = panel.querySelector(".close");
  let origin = null;

  const wordOf = (link) => link.getAttribute("href").slice(2);

  function mark(word) {
    for (const link of document.querySelectorAll(".grid a.same")) link.classList.remove("same");
    if (word === null) return { cells: 0, images: 0 };
    const same = [...document.querySelectorAll(`.grid a[href="#w${word}"]`)];
    for (const link of same) link.classList.add("same");
    return { cells: same.length, images: new Set(same.map((link) => link.closest(".grid"))).size };
  }

  function show(word, from) {
    const row = document.getElementById("w" + word);
    if (!row) return false;
    const copy = row.cloneNode(true);
    copy.removeAttribute("id");
    const here = mark(word);
    if (here.cells) {
      const told = document.createElement("small");
      told.textContent = `; on this page ${here.cells} in ${here.images} ${here.images === 1 ? "image" : "images"}`;
      copy.querySelector("h4").append(told);
    }
    const onward = panel.contains(from);
    inside.replaceChildren(copy);
    panel.hidden = false;
    panel.scrollTop = 0;
    document.body.style.paddingBottom = panel.offsetHeight + "px";
    if (onward) close.focus(); // the link that was followed is gone
    else {
      origin = from;
      const under = from.getBoundingClientRect().bottom - panel.getBoundingClientRect().top;
      if (under > 0) window.scrollBy(0, under + 24);
    }
    return true;
  }

  function hide() {
    if (panel.hidden) return;
    const back = panel.contains(document.activeElement) ? origin : null;
    panel.hidden = true;
    document.body.style.paddingBottom = "";
    mark(null);
    if (back) back.focus();
  }

  // The ring of the cell that has the focus, above its neighbours.
  function ring(link) {
    for (const old of document.querySelectorAll(".grid .cursor")) old.remove();
    if (!link || !link.matches(":focus-visible")) return;
    for (let i = 0; i < 2; i++) {
      const rect = link.querySelector("rect").cloneNode();
      rect.removeAttribute("fill");
      rect.setAttribute("class", "cursor");
      link.closest(".grid").append(rect);
    }
  }

  // One stop of the Tab key for each grid; the arrow keys move inside it.
  for (const grid of document.querySelectorAll(".grid")) {
    const links = [...grid.querySelectorAll("a")];
    const side = Math.round(Math.sqrt(links.length));
    links.forEach((link, i) => link.setAttribute("tabindex", i ? "-1" : "0"));
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -side, ArrowDown: side };
    grid.addEventListener("keydown", (event) => {
      const at = links.indexOf(event.target.closest("a"));
      if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
      let to = at;
      if (event.key in steps) to = at + steps[event.key];
      else if (event.key === "Home") to = at - (at % side);
      else if (event.key === "End") to = at - (at % side) + side - 1;
      else return;
      event.preventDefault();
      const sideways = event.key === "ArrowLeft" || event.key === "ArrowRight";
      if (to < 0 || to >= links.length || (sideways && Math.floor(to / side) !== Math.floor(at / side))) return;
      links[at].setAttribute("tabindex", "-1");
      links[to].setAttribute("tabindex", "0");
      links[to].focus();
    });
    grid.addEventListener("focusin", (event) => ring(event.target.closest("a")));
    grid.addEventListener("focusout", () => ring(null));
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#w"]');
    if (link && show(wordOf(link), link)) event.preventDefault();
    else if (event.target.closest(".close")) { if (origin) origin.focus(); hide(); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    // The panel stands at the end of the page; for the Tab key it follows what has opened it.
    if (event.key === "Tab" && !panel.hidden && origin) {
      const [from, to] = event.shiftKey ? [close, origin] : [origin, close];
      if (document.activeElement === from) { event.preventDefault(); to.focus(); }
    }
    const link = event.key === " " && event.target.closest('a[href^="#w"]');
    if (link && show(wordOf(link), link)) event.preventDefault();
  });

  const find = document.querySelector(".find");
  if (find) {
    find.hidden = false;
    find.addEventListener("submit", (event) => {
      event.preventDefault();
      const word = find.elements.word.value.trim();
      const shown = /^\d+$/.test(word) && show(String(Number(word)), find.elements.word);
      find.querySelector("output").textContent = shown ? "" : `no row of word ${word || "?"} on this page: --words ${word || "NUMBER"} asks for it`;
    });
  }
})();
