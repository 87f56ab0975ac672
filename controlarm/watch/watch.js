"use strict";
(() => {
  const live = document.getElementById("live");
  const KEY = "controlarm-watch-token";

  // The token comes in the fragment, which no server is sent; it goes out of the address bar at once.
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname);
  }
  const token = sessionStorage.getItem(KEY);

  // Parts are markup that the server made, in which all that is of the folder is escaped; the page's policy lets none of it run.
  const show = ({ title, parts }) => {
    document.title = title;
    for (const [ident, markup] of Object.entries(parts)) {
      const place = document.getElementById(ident);
      const moved = () => [...place.querySelectorAll(".scroll, .text")];
      const at = moved().map((node) => [node.scrollLeft, node.scrollTop]);
      place.innerHTML = markup;
      moved().forEach((node, i) => { if (at[i]) [node.scrollLeft, node.scrollTop] = at[i]; });
    }
    live.textContent = "live";
  };

  const follow = async () => {
    const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
    const response = await fetch("updates", { headers, cache: "no-store" });
    if (response.status === 401) {
      live.textContent = "This page needs its token: open it as …/#token=TOKEN.";
      return false;
    }
    if (!response.ok) return true;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return true;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line) show(JSON.parse(line));
    }
  };

  const again = async () => {
    let goOn = true;
    try { goOn = await follow(); } catch { /* the server is gone; perhaps it comes back */ }
    if (!goOn) return;
    live.textContent = "not connected; trying again";
    setTimeout(again, 2000);
  };
  again();
})();
