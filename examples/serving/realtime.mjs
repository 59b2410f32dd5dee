// Captions of raw 16-bit samples at 16 kHz while they come, from JavaScript (Node 22 or newer, or a browser):
// arecord -q -t raw -f S16_LE -r 16000 -c 1 | node examples/serving/realtime.mjs [ADDRESS]
const address = process.argv[2] ?? "http://127.0.0.1:8000/v1";
const key = process.env.SOUNDWAVE_API_KEY;
// a browser cannot send headers with a WebSocket, so the key goes as a subprotocol
const protocols = key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"];
const socket = new WebSocket(address.replace("http", "ws") + "/realtime", protocols);

socket.onopen = async () => {
  let odd = Buffer.alloc(0);
  for await (const piece of process.stdin) {
    const bytes = Buffer.concat([odd, piece]);
    const whole = bytes.length - (bytes.length % 2);
    odd = bytes.subarray(whole);
    socket.send(JSON.stringify({ type: "input_audio_buffer.append", audio: bytes.subarray(0, whole).toString("base64") }));
  }
  socket.send(JSON.stringify({ type: "input_audio_buffer.commit", final: true }));
};
socket.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.type === "transcription.segment") console.log(event.text);
  if (event.type === "error") {
    console.error(event.error.message);
    process.exitCode = 1;
  }
};
socket.onerror = () => {
  console.error(`${address} refuses the connection`);
  process.exitCode = 1;
};
