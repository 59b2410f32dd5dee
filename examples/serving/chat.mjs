// Asks a server about a recording from JavaScript, and shows the answer while it is made:
// node examples/serving/chat.mjs RECORDING [ADDRESS]
import { readFile } from "node:fs/promises";

const [recording, address = "http://127.0.0.1:8000/v1"] = process.argv.slice(2);
const data = (await readFile(recording)).toString("base64");
const answer = await fetch(`${address}/chat/completions`, {
  method: "POST",
  headers: { "Content-Type": "application/json", Authorization: `Bearer ${process.env.SOUNDWAVE_API_KEY ?? "none"}` },
  body: JSON.stringify({
    model: process.env.MODEL ?? "mini",
    max_tokens: 40,
    stream: true,
    messages: [{ role: "user", content: [
      { type: "input_audio", input_audio: { data, format: "wav" } },
      { type: "text", text: "What is this about?" },
    ] }],
  }),
});
if (!answer.ok) throw new Error((await answer.json()).error.message);

let rest = "";
for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + piece).split("\n");
  rest = lines.pop();
  for (const line of lines) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    const event = JSON.parse(line.slice("data: ".length));
    if (event.error) throw new Error(event.error.message);
    process.stdout.write(event.choices[0]?.delta.content ?? "");
  }
}
console.log();
