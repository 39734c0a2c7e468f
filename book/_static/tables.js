// Tables of the study. More than ten rows: a field that filters them, and headings that sort. Too wide for a phone: each
// row becomes a block of lines.
document.addEventListener("DOMContentLoaded", () => {
  // "0.0705 [0.06, 0.08]" sorts as 0.0705 and "2,875" as 2875; what opens with no number is text.
  const number = (text) => {
    const found = text.replace(/−/g, "-").replace(/(\d),(?=\d{3}\b)/g, "$1").match(/^[<>+≥≤×\s]*(-?[\d.]+(?:e-?\d+)?)/);
    return found ? Number(found[1]) : NaN;
  };
  // numbers before texts, empty cells last whichever way
  const compare = (one, other, way) => {
    if (!one || !other) return !one - !other;
    const [a, b] = [number(one), number(other)];
    if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return way * (Number.isNaN(a) ? one.localeCompare(other) : a - b);
  };

  // Rows that stand for themselves: a heading that several rows share is repeated in each.
  const separate = (rows) => {
    const shared = [];
    return rows.map((row) => {
      const cells = [...row.cells];
      const whole = row.cloneNode(false);
      for (let column = 0; cells.length || shared[column]?.left; column += 1) {
        if (!shared[column]?.left) {
          const cell = cells.shift();
          shared[column] = { cell, left: cell.rowSpan };
        }
        const copy = shared[column].cell.cloneNode(true);
        copy.removeAttribute("rowspan");
        whole.append(copy);
        shared[column].left -= 1;
      }
      return whole;
    });
  };

  document.querySelectorAll("table.llamarec-table").forEach((table) => {
    const [body] = table.tBodies;
    const rows = [...body.rows];
    const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    if (headings.some((heading) => heading.colSpan > 1)) return;
    const separated = separate(rows);
    const stacked = innerWidth <= 576 && table.scrollWidth > table.parentElement.clientWidth;
    if (stacked) {
      table.classList.add("stacked");
      separated.forEach((row) =>
        [...row.cells].forEach((cell, column) => {
          const name = headings[column].textContent.trim();
          if (name) cell.dataset.heading = `${name}: `;
        }));
      body.replaceChildren(...separated);
    }
    if (rows.length <= 10) return;
    const state = { column: null, way: 1 };
    const field = Object.assign(document.createElement("input"), { type: "search" });
    const label = Object.assign(document.createElement("label"), { className: "table-filter" });
    const count = document.createElement("span");
    count.setAttribute("role", "status");
    label.append("Filter rows ", field, " ", count);
    table.parentElement.before(label);

    const draw = () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      // untouched, the table is as it was printed, shared headings and all
      const all = stacked || words.length || state.column !== null ? separated : rows;
      const kept = all.filter((row) => words.every((word) => row.textContent.toLowerCase().includes(word)));
      const text = (row) => row.cells[state.column].textContent.trim();
      if (state.column !== null) kept.sort((one, other) => compare(text(one), text(other), state.way));
      body.replaceChildren(...kept);
      count.textContent = words.length ? `${kept.length} of ${rows.length}` : "";
      headings.forEach((heading, column) => {
        const way = state.way > 0 ? "ascending" : "descending";
        heading.setAttribute("aria-sort", column === state.column ? way : "none");
      });
    };
    // one press sorts, the next turns the order round, a third brings the printed order back
    const press = (column) => {
      if (state.column !== column) Object.assign(state, { column, way: 1 });
      else if (state.way > 0) state.way = -1;
      else state.column = null;
      draw();
    };
    headings.forEach((heading, column) => {
      if (!heading.textContent.trim()) return;
      const button = Object.assign(document.createElement("button"), { type: "button", className: "table-sort" });
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => press(column));
    });
    field.addEventListener("input", draw);
  });
});
