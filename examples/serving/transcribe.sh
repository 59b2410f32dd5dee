#!/bin/sh
# Writes a recording down with curl, as subtitles: transcribe.sh RECORDING [ADDRESS]
# SOUNDWAVE_API_KEY is sent where the server has keys.
set -eu
recording=$1
address=${2:-http://127.0.0.1:8000/v1}

curl --silent --show-error --fail-with-body "$address/audio/transcriptions" \
  -H "Authorization: Bearer ${SOUNDWAVE_API_KEY:-none}" \
  -F "model=${MODEL:-mini}" -F "file=@$recording" -F response_format=srt -F language=en
