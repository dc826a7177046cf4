// Keeps the page fresh: reads it again every few seconds and changes only what differs, so that selection,
// focus and scrolling stay.

const EVERY = 3000;
let readAt = Date.now();

for (;;) {
  await pause(EVERY);
  while (document.hidden) await visible();
  const fresh = await read();
  if (fresh) show(fresh);
  else showStale();
}

function pause(milliseconds) {
  return new Promise((resume) => setTimeout(resume, milliseconds));
}

function visible() {
  return new Promise((resume) => document.addEventListener("visibilitychange", resume, { once: true }));
}

/** The page as it is now, or null where the proxy does not give it. */
async function read() {
  try {
    const answer = await fetch(location.pathname, { signal: AbortSignal.timeout(EVERY) });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    return answer.ok && fresh.querySelector("#state") ? fresh : null;
  } catch {
    return null;
  }
}

function show(fresh) {
  if (program(fresh) !== program(document)) return location.reload(); // another version runs there now
  readAt = Date.now();
  document.title = fresh.title;
  morph(document.body, fresh.body);
}

function program(page) {
  return Array.from(page.head.querySelectorAll("style, script"), (element) => element.textContent).join();
}

/** The next fresh page undoes all of it. */
function showStale() {
  const seconds = Math.round((Date.now() - readAt) / 1000);
  const state = document.querySelector("#state");
  state.className = "badge silent";
  state.textContent = `no answer for ${seconds < 120 ? `${seconds} s` : `${Math.floor(seconds / 60)} min`}`;
  document.title = "no answer · nox-proxy";
  document.querySelector("#stale").hidden = false;
}

/** Makes a node equal to a fresh one of the same name. */
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  morphAttributes(old, fresh);
  morphChildren(old, fresh);
}

function morphAttributes(old, fresh) {
  for (const name of old.getAttributeNames()) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}

function morphChildren(old, fresh) {
  const wanted = [...fresh.childNodes];
  const kept = new Set(wanted.map(identity));
  for (const child of [...old.childNodes]) if (!kept.has(identity(child))) child.remove();
  let place = old.firstChild;
  for (const child of wanted) {
    const known = find(identity(child), place);
    if (known && known === place) place = place.nextSibling;
    else old.insertBefore(known ?? child, place);
    if (known) morph(known, child);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

/** The first of a node and those after it that has an identity. */
function find(wanted, node) {
  while (node && identity(node) !== wanted) node = node.nextSibling;
  return node;
}

function identity(node) {
  return `${node.nodeName} ${node.dataset?.key ?? ""}`;
}
