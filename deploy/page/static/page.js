// Takes in what the server renders anew, and greys the page by itself where the stream is silent.
"use strict";
(() => {
  const SILENT = 20000;
  const address = document.documentElement.dataset.page;
  let heard = Date.now();
  let last = document.getElementById("age").textContent;

  const age = (fresh, words) => {
    document.body.className = fresh ? "fresh" : "stale";
    const place = document.getElementById("age");
    if (place.dataset.said === String(fresh) + words) return;
    place.dataset.said = String(fresh) + words;
    place.replaceChildren();
    const mark = document.createElement(fresh ? "span" : "strong");
    if (fresh) { mark.className = "dot"; mark.setAttribute("aria-hidden", "true"); } else mark.textContent = "Not live.";
    place.append(mark, fresh ? ` live, ${words}` : ` ${words}: nothing was heard since`);
    last = words;
  };

  let waits = null;

  const take = (html) => {
    const made = new DOMParser().parseFromString(html, "text/html").getElementById("main");
    const main = document.getElementById("main");
    waits = null;
    if (!made || main.innerHTML === made.innerHTML) return;
    const focused = document.activeElement;
    // Where somebody is at work that section stays, until they are done; all others are renewed.
    const busy = focused && main.contains(focused) && /^(INPUT|BUTTON)$/.test(focused.tagName);
    const kept = busy ? [...main.children].find((one) => one.contains(focused)) : null;
    waits = kept ? html : null;
    const ticked = new Set([...main.querySelectorAll("input:checked")].map((one) => one.value));
    const ids = (node) => [...node.children].map((one) => one.id + one.tagName).join();
    if (ids(main) === ids(made)) {
      [...made.children].forEach((one, place) => {
        const there = main.children[place];
        if (there !== kept && there.outerHTML !== one.outerHTML) there.replaceWith(one.cloneNode(true));
      });
    } else {
      main.replaceChildren(...[...made.children].map((one) => (kept && one.id && one.id === kept.id ? kept : one)));
      if (busy && focused.isConnected) focused.focus({ preventScroll: true });
    }
    for (const one of main.querySelectorAll("input[type=checkbox]")) one.checked = ticked.has(one.value);
  };

  const stream = new EventSource(address);
  stream.addEventListener("pulse", (event) => {
    heard = Date.now();
    const told = JSON.parse(event.data);
    age(told.fresh, told.age);
  });
  stream.addEventListener("sheet", (event) => { heard = Date.now(); take(JSON.parse(event.data)); });
  setInterval(() => {
    if (waits !== null) take(waits);
    if (Date.now() - heard > SILENT) age(false, last.replace(/^.*?(as of [^:]*:\d+:\d+Z?).*$/s, "$1"));
  }, 1000);
})();
