// Elements without HTML: nothing here, and nothing that uses it, turns a string into markup.

const ALLOWED = new Set(["p", "em", "strong", "s", "blockquote", "ul", "ol", "li", "hr", "table", "thead", "tbody", "tr", "th", "td", "h3", "h4", "h5", "h6", "code", "pre", "a", "br"]);

// An element with attributes and children; a string is text.
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// The nodes of an untrusted text as the server sends them: strings, or [tag, attributes, children].
export function fromNodes(nodes) {
  return nodes.map((node) => {
    if (typeof node === "string") return document.createTextNode(node);
    const [tag, attributes, children] = node;
    if (!ALLOWED.has(tag)) return document.createTextNode("");
    const made = document.createElement(tag);
    if (tag === "a" && /^https?:\/\//.test(attributes.href)) {
      made.href = attributes.href;
      made.title = attributes.href;
      made.rel = "noopener noreferrer nofollow";
      made.target = "_blank";
    }
    made.append(...fromNodes(children));
    return made;
  });
}
