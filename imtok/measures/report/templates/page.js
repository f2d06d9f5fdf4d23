"use strict";
// Enlarges pictures and flips between those of one image. Without it the page is whole: only this is missing.
(() => {
  const viewer = document.querySelector("dialog.viewer");
  if (!viewer || !viewer.showModal) return;
  const find = (name) => viewer.querySelector(name);
  const [stage, title, shown, choices] = [".stage", ".title", ".shown", ".choices"].map(find);
  const picture = stage.appendChild(document.createElement("img"));
  const sets = [...document.querySelectorAll(".set")].map((set) => ({
    name: set.dataset.name,
    pictures: [...set.querySelectorAll("img")],
  }));
  let at = 0; // which image
  let which = 0; // which of its pictures
  let other = 1; // what the first one is flipped with

  const fit = () => {
    const [width, height] = [Number(picture.dataset.width), Number(picture.dataset.height)];
    const room = Math.min((viewer.clientWidth - 24) / width, (window.innerHeight * 0.55) / height);
    const scale = room >= 2 ? Math.floor(room) : room; // whole pixels where there is room for them
    picture.style.width = `${width * scale}px`;
    picture.style.height = `${height * scale}px`;
  };
  const show = () => {
    const { name, pictures } = sets[at];
    which = Math.min(which, pictures.length - 1);
    const source = pictures[which];
    picture.src = source.src;
    picture.alt = source.alt;
    picture.dataset.width = source.getAttribute("width");
    picture.dataset.height = source.getAttribute("height");
    title.textContent = name;
    shown.textContent = `${source.dataset.label}, image ${at + 1} of ${sets.length}`;
    choices.replaceChildren(
      ...pictures.map((one, index) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = one.dataset.label;
        button.setAttribute("aria-pressed", String(index === which));
        button.addEventListener("click", () => choose(index, true));
        return button;
      }),
    );
    fit();
  };
  const choose = (index, focus) => {
    which = index;
    if (index) other = index;
    show();
    if (focus) choices.children[index].focus();
  };
  const flip = () => choose(which ? 0 : Math.min(other, sets[at].pictures.length - 1), false);
  const turn = (step) => {
    const count = sets[at].pictures.length;
    choose((which + step + count) % count, false);
  };
  const go = (step) => {
    at = (at + step + sets.length) % sets.length;
    show();
  };

  sets.forEach(({ pictures }, set) =>
    pictures.forEach((one, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "zoom";
      button.setAttribute("aria-label", `Enlarge: ${one.alt}`);
      one.replaceWith(button);
      button.append(one);
      button.addEventListener("click", () => {
        at = set;
        viewer.showModal();
        choose(index, false);
        find(".flip").focus();
      });
    }),
  );
  find(".close").addEventListener("click", () => viewer.close());
  find(".flip").addEventListener("click", flip);
  stage.addEventListener("click", flip);
  find(".before").addEventListener("click", () => go(-1));
  find(".next").addEventListener("click", () => go(1));
  viewer.addEventListener("keydown", (event) => {
    const act = {
      f: flip,
      F: flip,
      ArrowUp: () => turn(-1),
      ArrowDown: () => turn(1),
      ArrowLeft: () => go(-1),
      ArrowRight: () => go(1),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in act)) return;
    event.preventDefault();
    act[event.key]();
  });
  window.addEventListener("resize", () => viewer.open && fit());
  for (const hint of document.querySelectorAll(".hint")) hint.hidden = false;
})();
// What is folded is printed as well.
(() => {
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
})();
