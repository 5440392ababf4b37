// The review queue by keyboard: a accepts, e edits, r rejects, s lays aside. Keys rest while somebody types.
const find = (id) => document.getElementById(id);
const open = (id, field) => {
  const part = find(id);
  if (!part) return;
  for (const other of document.querySelectorAll("details")) other.open = other === part;
  find(field).focus();
};
const deeds = {
  a: () => find("accept")?.requestSubmit(),
  e: () => open("edit", "text"),
  r: () => open("reject", "reason"),
  s: () => find("later")?.click(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  if (typing) {
    if (event.key === "Escape") find("main").focus();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      typing.form.requestSubmit(typing.form.querySelector("button.primary, button.danger"));
    }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !(event.key in deeds)) return;
  event.preventDefault();
  deeds[event.key]();
});
