#!/bin/sh
# Asks a server about a recording with curl: chat.sh RECORDING [ADDRESS]
# SOUNDWAVE_API_KEY is sent where the server has keys.
set -eu
recording=$1
address=${2:-http://127.0.0.1:8000/v1}

# the body goes by a pipe: an argument of a command has no room for a recording
printf '{"model": "%s", "max_tokens": 40, "messages": [{"role": "user", "content": [
  {"type": "input_audio", "input_audio": {"format": "wav", "data": "%s"}},
  {"type": "text", "text": "What is this about?"}]}]}' "${MODEL:-mini}" "$(base64 < "$recording" | tr -d '\n')" |
  curl --silent --show-error --fail-with-body "$address/chat/completions" \
    -H "Authorization: Bearer ${SOUNDWAVE_API_KEY:-none}" -H "Content-Type: application/json" --data-binary @-
echo
