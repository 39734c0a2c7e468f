// The book's mathematics, drawn by KaTeX; Sphinx writes it between \( \) or \[ \].
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".math").forEach((element) => {
    const tex = element.textContent.trim().replace(/^\\[([]|\\[)\]]$/g, "");
    katex.render(tex, element, { displayMode: element.tagName === "DIV", throwOnError: false });
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0; // the keyboard scrolls it
  });
});
