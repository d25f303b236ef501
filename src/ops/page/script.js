"use strict";
// Asks for the page again every second and changes only what differs, so that focus, selection and what a screen
// reader has announced stay. Sleeps while nobody looks.
(() => {
  const connection = document.getElementById("connection");
  let timer = 0;
  let lastAnswer = new Date();

  function patch(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    const leaf = old.nodeType !== Node.ELEMENT_NODE;
    if (old.nodeName !== fresh.nodeName || (leaf && fresh.nodeType !== old.nodeType)) {
      old.replaceWith(document.importNode(fresh, true));
      return;
    }
    if (leaf) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
    after.forEach((node, i) => (i < before.length ? patch(before[i], node) : old.append(document.importNode(node, true))));
    before.slice(after.length).forEach((node) => node.remove());
  }

  async function refresh() {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(3000) });
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of ["header", "main", "footer", "title", "link"]) {
        patch(document.querySelector(part), fresh.querySelector(part));
      }
      document.getElementById("live").hidden = false;
      document.body.classList.remove("stale");
      if (connection.textContent) connection.textContent = "";
      lastAnswer = new Date();
    } catch {
      document.body.classList.add("stale");
      const words = `No answer since ${lastAnswer.toLocaleTimeString()}. The figures below are old.`;
      if (connection.textContent !== words) connection.textContent = words;
    }
    clearTimeout(timer);
    timer = setTimeout(refresh, 1000);
  }

  document.addEventListener("visibilitychange", refresh);
  timer = setTimeout(refresh, 1000);
  document.getElementById("live").hidden = false;
})();
