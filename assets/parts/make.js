// A new element under `parent`. more: its text, or its attributes.
function make(tag, className, parent, more) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (more !== null && typeof more === "object") for (const [name, value] of Object.entries(more)) node.setAttribute(name, value);
  else if (more !== undefined) node.textContent = more;
  if (parent) parent.appendChild(node);
  return node;
}
