// Notebook pages are read without their code; one button shows all of it.
document.addEventListener("DOMContentLoaded", () => {
  const made = document.querySelector(".admonition.dropdown");
  if (!made || !document.querySelector("details.above-input")) return;
  const button = Object.assign(document.createElement("button"), { type: "button", className: "code-switch" });
  const show = (shown) => {
    document.body.classList.toggle("code-hidden", !shown);
    document.querySelectorAll("details.above-input").forEach((code) => { code.open = shown; });
    button.textContent = shown ? "Hide the code" : "Show the code of this page";
    button.setAttribute("aria-pressed", shown);
  };
  button.addEventListener("click", () => show(document.body.classList.contains("code-hidden")));
  made.after(button);
  show(false);
});
