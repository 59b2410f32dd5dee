// The transcript: the word that is being said is marked, a word or a time that is chosen is played.
// `element` stays when its content is replaced, so all listeners hang on it. Audio events do not bubble: they are caught.
const player = () => element.querySelector("audio");
const words = () => Array.from(element.querySelectorAll(".sw-word"));
const saidAt = (list, time) => {  // the last word that began before a time
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (Number(list[middle].dataset.start) <= time) low = middle + 1; else high = middle;
  }
  return list[low - 1];
};

let shown = null;
function mark() {
  const audio = player();
  if (!audio) return;
  const word = saidAt(words(), audio.currentTime + 0.02);
  const now = word && audio.currentTime < Number(word.dataset.end) + 0.3 ? word : null;
  if (now === shown && (!now || now.classList.contains("sw-now"))) return;
  element.querySelectorAll(".sw-now").forEach((old) => old.classList.remove("sw-now"));
  if (now) now.classList.add("sw-now");
  shown = now;
}
function follow() {
  mark();
  const audio = player();
  if (audio && !audio.paused && !audio.ended) requestAnimationFrame(follow);
}
function seek(time) {
  const audio = player();
  if (!audio) return;
  audio.currentTime = Number(time);
  audio.play();
}

element.addEventListener("play", follow, true);
for (const name of ["timeupdate", "seeked", "pause", "ended"]) element.addEventListener(name, mark, true);
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-seek], .sw-word");
  if (chosen) seek(chosen.dataset.seek ?? chosen.dataset.start);
});
element.addEventListener("change", (event) => {
  if (!event.target.matches(".sw-show-percent")) return;
  element.querySelectorAll(".sw-percent").forEach((percent) => { percent.hidden = !event.target.checked; });
});
