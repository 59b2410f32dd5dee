// The microphone: sound goes to the server in pieces, captions come back; a piece is sent when the last one is answered.
const find = (name) => element.querySelector(name);
const button = find(".sw-record"), label = find(".sw-record-text"), state = find(".sw-record-state");
const time = find(".sw-time-shown"), level = find(".sw-level span");
const caption = (name) => document.querySelector(`#sw-captions ${name}`);  // a part of the page of its own
const SHORTEST = 0.2;  // seconds of sound in a piece
const LONGEST = 20;    // seconds: a longer pause in the connection is sent in several pieces

// Runs where the browser records: passes samples on in blocks of 2048.
const recorder = `
registerProcessor("soundwave-recorder", class extends AudioWorkletProcessor {
  constructor() { super(); this.block = new Float32Array(2048); this.count = 0; }
  process([[samples]]) {
    if (!samples) return true;
    this.block.set(samples, this.count);
    this.count += samples.length;
    if (this.count === 2048) { this.port.postMessage(this.block.slice()); this.count = 0; }
    return true;
  }
});`;

const refusals = {
  NotAllowedError: "The browser does not allow this page to use the microphone. Allow it beside the address, then record again.",
  NotFoundError: "No microphone was found. Plug one in, or upload a recording.",
  NotReadableError: "Another program uses the microphone. Close it there, then record again.",
};

let running = null;  // {stream, context, blocks, waiting, ended}

function say(text, wrong = false) {
  state.textContent = text;
  state.classList.toggle("sw-wrong", wrong);
}
function look(recording) {
  button.classList.toggle("sw-on", recording);
  label.textContent = recording ? "Stop" : "Record";
}
function show(events) {
  for (const event of events) {
    if (event.final && event.text) {
      const line = document.createElement("p");
      line.textContent = event.text;
      caption(".sw-lines").append(line);
    }
    caption(".sw-standing").textContent = event.standing ?? "";
    caption(".sw-changing").textContent = event.changing ?? "";
  }
  const captions = caption(".sw-captions");
  captions.scrollTop = captions.scrollHeight;
}
function encoded(blocks) {  // 16-bit samples as base64
  const samples = new Int16Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) for (const value of block) samples[at++] = Math.max(-1, Math.min(1, value)) * 32767;
  const bytes = new Uint8Array(samples.buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}
async function ask(name, argument) {  // the server's answer; throws what it refuses
  const answer = await server[name](argument);
  if (!answer || answer.error) throw new Error(answer?.error ?? "The connection to the server was lost.");
  return answer;
}

async function start() {
  if (!navigator.mediaDevices?.getUserMedia) {
    say("Browsers give a microphone only to pages at https:// or on this computer (localhost). Upload a recording.", true);
    return;
  }
  const run = running = { blocks: [], waiting: 0, ended: false };
  say("Starting …");
  try {
    run.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    run.context = new AudioContext();
    const code = URL.createObjectURL(new Blob([recorder], { type: "text/javascript" }));
    await run.context.audioWorklet.addModule(code);
    URL.revokeObjectURL(code);
    run.token = (await ask("begin", { rate: run.context.sampleRate })).token;
  } catch (error) {
    close(run);
    say(refusals[error.name] ?? error.message, true);
    return;
  }
  const worklet = new AudioWorkletNode(run.context, "soundwave-recorder");
  worklet.port.onmessage = ({ data }) => {
    run.blocks.push(data);
    run.waiting += data.length / run.context.sampleRate;
    level.style.width = `${Math.min(100, 300 * Math.sqrt(data.reduce((sum, x) => sum + x * x, 0) / data.length))}%`;
  };
  run.context.createMediaStreamSource(run.stream).connect(worklet);
  for (const name of [".sw-lines", ".sw-standing", ".sw-changing"]) caption(name).textContent = "";
  caption(".sw-captions").hidden = false;
  look(true);
  say("");
  run.began = Date.now();
  run.clock = setInterval(() => {
    const seconds = Math.floor((Date.now() - run.began) / 1000);
    time.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }, 250);
  await pump(run);
}

async function pump(run) {  // sends what was recorded, until it has ended and all is sent
  let told = "";
  try {
    while (!run.ended || run.blocks.length) {
      if (!run.ended && run.waiting < SHORTEST) {
        await new Promise((resolve) => setTimeout(resolve, 40));
        continue;
      }
      const count = Math.ceil((LONGEST * run.context.sampleRate) / 2048);
      const blocks = run.blocks.splice(0, count);
      run.waiting -= blocks.reduce((sum, block) => sum + block.length, 0) / run.context.sampleRate;
      const answer = await ask("feed", { token: run.token, samples: encoded(blocks) });
      show(answer.events);
      if (answer.full) {
        told = answer.full;
        stop(run);
        run.blocks = [];
      }
    }
    show((await ask("end", { token: run.token })).events);
    say(told, Boolean(told));
    caption(".sw-captions").hidden = true;  // the transcript takes their place
    trigger("recorded", { token: run.token });
  } catch (error) {
    say(error.message, true);
  }
  close(run);
}
function stop(run) {  // no more sound; what was recorded is still sent
  run.ended = true;
  run.stream?.getTracks().forEach((track) => track.stop());
  run.context?.suspend();
  clearInterval(run.clock);
  time.textContent = "";
  level.style.width = "0";
  look(false);
}
function close(run) {
  stop(run);
  run.context?.close();
  if (running === run) running = null;
}

button.addEventListener("click", () => {
  if (!running) start();
  else if (!running.ended) { stop(running); say("Finishing …"); }
});
