// Writes a recording down from JavaScript: node examples/serving/transcribe.mjs RECORDING [ADDRESS]
import { readFile } from "node:fs/promises";

const [recording, address = "http://127.0.0.1:8000/v1"] = process.argv.slice(2);
const form = new FormData();
form.append("file", new Blob([await readFile(recording)]), "recording");
form.append("model", process.env.MODEL ?? "mini");
form.append("response_format", "verbose_json");
const answer = await fetch(`${address}/audio/transcriptions`, {
  method: "POST",
  headers: { Authorization: `Bearer ${process.env.SOUNDWAVE_API_KEY ?? "none"}` },
  body: form,
});
const transcript = await answer.json();
if (!answer.ok) throw new Error(transcript.error.message);
for (const { start, end, text } of transcript.segments) {
  console.log(start.toFixed(2).padStart(7), end.toFixed(2).padStart(7), "", text);
}
