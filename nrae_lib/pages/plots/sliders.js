// Found by a data attribute, not by an id or document.currentScript: notebooks move outputs before they run scripts,
// and the same slider may be on a page twice.
(() => {
  const setup = SETUP;
  const start = box => {
    box.dataset.ready = "yes";
    const slider = box.querySelector("input"), label = box.querySelector(".nrae-slider-label");
    const button = box.querySelector("button"), moving = [...box.querySelectorAll("[data-moves]")];
    let timer = null;
    const change = () => {
      label.textContent = setup.labels[slider.value];
      slider.setAttribute("aria-valuetext", label.textContent);
      setup.places.forEach(([attribute, values], i) => {
        const value = values[slider.value];
        if (attribute) moving[i].setAttribute(attribute, value); else moving[i].textContent = value;
      });
    };
    const play = on => {
      clearInterval(timer);
      timer = null;
      button.textContent = on ? "❚❚" : "▶";
      button.setAttribute("aria-label", on ? "pause" : "play");
      if (!on) return;
      if (slider.value === slider.max) { slider.value = 0; change(); }
      timer = setInterval(() => {
        slider.value = +slider.value + 1;
        change();
        if (slider.value === slider.max || !box.isConnected) play(false);
      }, Math.max(50, 5000 / setup.labels.length));
    };
    button.addEventListener("click", () => play(timer === null));
    slider.addEventListener("input", () => { play(false); change(); });
    change();
  };
  document.querySelectorAll('[data-nrae-slider="IDENTITY"]:not([data-ready])').forEach(start);
})();
