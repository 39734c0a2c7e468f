// The index of words is the book's heaviest script: it is loaded when a reader turns to the search field.
document.addEventListener("DOMContentLoaded", () => {
  const root = document.documentElement.dataset.content_root;
  const load = () => {
    if (typeof Search !== "undefined") return; // the search page has it from the start
    ["_static/searchtools.js", "_static/language_data.js", "searchindex.js"].forEach((file) => {
      document.head.append(Object.assign(document.createElement("script"), { src: root + file, async: false }));
    });
  };
  document.querySelector("#pst-search-dialog input")?.addEventListener("focus", load, { once: true });
});
