// Searches, filters and sorts the list of rows, which is all there without it.
(() => {
  "use strict";
  const table = document.getElementById("rows"), controls = document.getElementById("find");
  if (!table) return;
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], count = document.getElementById("shown");
  const plain = text => text.toLowerCase().replace(/\u2212/g, "-");
  const rows = [...body.rows].map((element, place) => {
    const texts = [...element.cells].map(cell => cell.textContent);
    return {element, place, text: plain([...texts, element.dataset.id || ""].join("\n"))};
  });
  const said = (row, column) => row.element.cells[column].textContent.trim();
  const words = controls.querySelector("input"), filters = [];
  const make = (tag, text) => Object.assign(document.createElement(tag), {textContent: text});

  function show() {
    const wanted = plain(words.value).split(/\s+/).filter(Boolean);
    let number = 0;
    for (const row of rows) {
      const fits = wanted.every(word => row.text.includes(word)) &&
        filters.every(({column, choice}) => !choice.selectedIndex || said(row, column) === choice.value);
      row.element.hidden = !fits;
      number += fits;
    }
    count.textContent = `${number.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  }

  function sort(column, up) {
    const words = heads[column].classList.contains("word");
    const key = row => {
      const text = said(row, column);
      const number = parseFloat(text.replace(/,/g, "").replace(/^\u2212/, "-").replace("e\u2212", "e-"));
      return words ? text.toLowerCase() : Number.isNaN(number) ? -Infinity : number;
    };
    const keyed = rows.map(row => [key(row), row]);
    keyed.sort(([a, one], [b, other]) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1) || one.place - other.place);
    body.append(...keyed.map(([, row]) => row.element));
    for (const [at, head] of heads.entries()) {
      if (at === column) head.setAttribute("aria-sort", up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
    order.value = column;
  }

  const order = make("select", "");
  order.setAttribute("aria-label", "sorted by");
  for (const [column, head] of heads.entries()) {
    const name = head.textContent, upFirst = head.dataset.up !== undefined || head.classList.contains("word");
    if (head.dataset.filter !== undefined) {
      const choice = make("select", ""), numbers = new Map();
      for (const row of rows) numbers.set(said(row, column), (numbers.get(said(row, column)) || 0) + 1);
      choice.setAttribute("aria-label", name);
      choice.append(make("option", `${name}: all`));
      for (const [value, number] of [...numbers].sort((a, b) => b[1] - a[1]))
        choice.append(Object.assign(make("option", `${value} (${number})`), {value}));
      choice.addEventListener("change", show);
      filters.push({column, choice});
      controls.querySelector("label").after(choice);
    }
    if (head.dataset.text !== undefined) continue;
    const button = make("button", name);
    button.type = "button";
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sort(column, now ? now !== "ascending" : upFirst);
    });
    head.replaceChildren(button);
    order.append(Object.assign(make("option", `by ${name}`), {value: column}));
  }
  order.addEventListener("change", () => {
    const head = heads[order.value];
    sort(Number(order.value), head.dataset.up !== undefined || head.classList.contains("word"));
  });
  count.before(order);
  words.addEventListener("input", show);
  controls.addEventListener("submit", event => event.preventDefault());
  controls.hidden = false;
  sort(0, true);
  show();
})();
