// What the theme leaves out for readers who hear a page: names for controls, and roles that fit each other.
document.addEventListener("DOMContentLoaded", () => {
  const set = (selector, attributes) =>
    document.querySelectorAll(selector).forEach((element) => {
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    });
  // an icon says nothing beside its button's name; the theme puts drawings in the icons' places when it is ready
  const quiet = (button) =>
    button.querySelectorAll("i, svg").forEach((icon) => {
      icon.setAttribute("aria-hidden", "true");
      for (const name of ["role", "title", "aria-labelledby"]) icon.removeAttribute(name);
      icon.querySelector("title")?.remove();
    });
  document.querySelectorAll(".theme-switch-button").forEach((button) => {
    quiet(button);
    new MutationObserver(() => quiet(button)).observe(button, { childList: true, subtree: true });
  });
  // what shows a text of its own is named by it
  document.querySelectorAll(".search-button-field, .cell summary").forEach((shown) => shown.removeAttribute("aria-label"));
  document.querySelectorAll("nav details > summary").forEach((summary) => {
    const link = summary.parentElement.parentElement.querySelector("a");
    summary.setAttribute("aria-label", `Pages under ${link.textContent.trim()}`);
  });
  // regions of one name are told apart by their headings
  document.querySelectorAll(".scroll[aria-label='Table']").forEach((region, place) => {
    const heading = region.closest("section")?.querySelector("h1, h2, h3, h4")?.firstChild.textContent;
    region.setAttribute("aria-label", `Table ${place + 1}: ${heading || document.title}`);
  });
  set(".citation-list > .citation", { role: "listitem" });
  set(".sidebar-primary-item:has(> .navbar-brand)", { role: "navigation", "aria-label": "Opening page" });
});
