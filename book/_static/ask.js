// The page "Ask it": pick a user, see the prompt and P(candidate) by each order, shuffle the candidates.
(() => {
  const source = document.getElementById("ask-data");
  const root = document.getElementById("ask");
  if (!source || !root) return;
  const { users } = JSON.parse(source.textContent);
  const labels = "ABCDEFGHIJKLMNOPQRST";
  const state = { user: 0, order: Object.keys(users[0].orders).at(-1), shuffled: false };

  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  const select = (id, text, options, value, change) => {
    const list = element("select", { id });
    options.forEach(([key, name]) => list.append(element("option", { value: key, textContent: name })));
    list.value = value;
    list.addEventListener("change", () => { change(list.value); draw(); });
    return element("label", { htmlFor: id }, `${text} `, list);
  };

  // What the page shows of a user: the candidates under their labels, and the probabilities of the order chosen.
  const shown = () => {
    const user = users[state.user];
    const places = state.shuffled ? user.shown : user.candidates.map((_, place) => place);
    // an order that reads no labels has the same probabilities after a shuffle
    const read = state.shuffled && user.shuffled[state.order];
    const probabilities = read || user.orders[state.order];
    const rows = places.map((place, label) => ({
      label: labels[label],
      title: user.candidates[place],
      probability: probabilities[place],
      retrieved: place + 1,
      target: place === user.target,
    }));
    return rows.sort((one, other) => other.probability - one.probability || one.retrieved - other.retrieved);
  };

  const results = element("div", { id: "ask-results" });
  const prompt = element("div", { id: "ask-prompt" });
  const said = element("p", { id: "ask-said" });
  said.setAttribute("role", "status");

  function draw() {
    const user = users[state.user];
    const rows = shown();
    const rank = rows.findIndex((row) => row.target) + 1;
    said.textContent = `${state.order} puts the item that the user chose next at rank ${rank} of ${rows.length}.`;
    const most = Math.max(...rows.map((row) => row.probability));
    const body = element("tbody");
    rows.forEach((row, place) => {
      const bar = element("span", { className: "ask-bar" });
      bar.style.width = `${(5 * row.probability) / most}rem`;
      const line = element(
        "tr",
        { className: row.target ? "ask-target" : "" },
        element("td", { textContent: place + 1 }),
        element("td", { textContent: row.label }),
        element("td", { textContent: row.target ? `${row.title} (chosen next)` : row.title }),
        element("td", { className: "ask-probability" }, bar, row.probability.toFixed(3)),
        element("td", { textContent: row.retrieved }),
      );
      body.append(line);
    });
    const head = element("tr");
    ["Rank", "Label", "Candidate", "P(candidate)", "LRURec's rank"].forEach((name) => {
      const cell = element("th", { textContent: name });
      cell.setAttribute("scope", "col");
      head.append(cell);
    });
    results.replaceChildren(element("table", {}, element("thead", {}, head), body));
    const listed = [...rows].sort((one, other) => one.label.localeCompare(other.label));
    prompt.replaceChildren(
      element("h2", { textContent: "The history, oldest first" }),
      element("ol", {}, ...user.history.map((title) => element("li", { textContent: title }))),
      element("h2", { textContent: "The candidates, as the prompt lists them" }),
      element("pre", { tabIndex: 0, textContent: listed.map((row) => `- ${row.title}\n${row.label}`).join("\n") }),
    );
  }

  const numbered = users.map((user, place) => [place, `${place + 1}: ${user.history.at(-1)}`]);
  const button = element("button", { id: "ask-shuffle", type: "button", textContent: "Shuffle the candidates" });
  button.addEventListener("click", () => {
    state.shuffled = !state.shuffled;
    button.textContent = state.shuffled ? "LRURec's order again" : "Shuffle the candidates";
    draw();
  });
  root.replaceChildren(
    element(
      "div",
      { className: "ask-controls" },
      select("ask-user", "User", numbered, state.user, (value) => { state.user = Number(value); }),
      select("ask-order", "Order by", Object.keys(users[0].orders).map((name) => [name, name]), state.order,
        (value) => { state.order = value; }),
      button,
    ),
    said,
    results,
    prompt,
  );
  draw();
})();
