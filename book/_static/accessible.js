// What the theme leaves out for readers who hear a page: names for controls, and roles that fit each other.
document.addEventListener("DOMContentLoaded", () => {
  const set = (selector, attributes) =>
    document.querySelectorAll(selector).forEach((element) => {
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    });
  // an icon says nothing beside its button's name
  set("button i, summary i", { "aria-hidden": "true" });
  document.querySelectorAll("button i[title]").forEach((icon) => icon.removeAttribute("title"));
  document.querySelectorAll("button svg > title").forEach((title) => title.remove());
  // this button shows a text of its own, which is then its name
  document.querySelectorAll(".search-button-field").forEach((button) => button.removeAttribute("aria-label"));
  document.querySelectorAll("nav details > summary").forEach((summary) => {
    const link = summary.parentElement.parentElement.querySelector("a");
    summary.setAttribute("aria-label", `Pages under ${link.textContent.trim()}`);
  });
  set(".citation-list > .citation", { role: "listitem" });
  set(".sidebar-primary-item:has(> .navbar-brand)", { role: "navigation", "aria-label": "Opening page" });
});
