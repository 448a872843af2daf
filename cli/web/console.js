// What the page does beyond what it is: it searches while one types, explains without a new page, and follows what goes on.
// The server makes all of the HTML; this puts what is another into the page, and leaves focus, scroll and input alone.

const live = document.getElementById("live");
let asked = 0;

async function refresh() {
  const number = ++asked;
  const response = await fetch(location.href);
  const text = await response.text();
  if (number !== asked) return; // a later one is on its way
  if (!response.ok) throw new Error(text);
  const page = new DOMParser().parseFromString(text, "text/html");
  patch(document.getElementById("main"), page.getElementById("main"));
}

// Make one element like another. What somebody has typed, or has opened, stays.
function patch(old, fresh) {
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.localName === "details")) old.removeAttribute(name);
  }
  if (old.localName === "textarea") return;
  const theirs = [...fresh.childNodes];
  while (old.childNodes.length > theirs.length) old.lastChild.remove();
  theirs.forEach((child, at) => {
    const mine = old.childNodes[at];
    if (!mine) old.append(document.adoptNode(child));
    else if (mine.nodeName !== child.nodeName || mine.id !== child.id) mine.replaceWith(document.adoptNode(child));
    else if (child.nodeType !== Node.ELEMENT_NODE) { if (mine.data !== child.data) mine.data = child.data; }
    else if (!mine.isEqualNode(child)) patch(mine, child);
  });
}

// Show the page of another address: that of the forms as they are filled in.
async function ask() {
  const query = new URLSearchParams();
  for (const form of document.forms) {
    for (const [name, value] of new FormData(form)) if (value) query.set(name, value);
  }
  if (!query.has("url")) for (const name of ["method", "source"]) query.delete(name);
  history.replaceState(null, "", `?${query}`);
  await shown();
}

async function shown() {
  try {
    await refresh();
  } catch {
    say("not connected");
  }
}

function say(text) {
  live.dataset.state = text.replaceAll(" ", "-");
  if (live.textContent !== text) live.textContent = text;
}

let typed;
document.getElementById("q").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(ask, 150);
});
for (const form of document.forms) {
  form.addEventListener("submit", async event => {
    event.preventDefault();
    await ask();
    if (form.id === "question") document.getElementById("explained").focus();
  });
}

// One stream of events at a time, and a new one when it has ended, for whatever reason.
function follow() {
  const events = new EventSource("/api/events");
  let revision;
  events.onmessage = async event => {
    if (revision !== event.data) await shown();
    revision = event.data;
    say("live");
  };
  events.onerror = () => {
    events.close();
    say("not connected");
    setTimeout(follow, 2000);
  };
}
follow();
