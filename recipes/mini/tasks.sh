#!/usr/bin/env bash
# Commands with intents, sounds, and translation for mini's stage III: clips, and instructions about them.
#
#   recipes/mini/tasks.sh SPEECH TEXTS WORK
#
# Folders and needs as for reproduce.sh. Makes, in WORK/tasks, for each of commands, sounds and translation:
#   NAME/train/manifest.jsonl, NAME/dev/manifest.jsonl   clips with labels; `soundwave eval` scores with dev
#   NAME/train.jsonl                                     instructions and answers, for `soundwave train`
# and in WORK/said further sentences of the first and the last, for said.sh.
# Needs flite, espeak-ng and piper; one core is enough for 5 minutes. What is held out here is spoken by other voices, and no
# training speech in WORK/synth says its words: make that first. SCALE=0.1 before the command makes a tenth of the clips.
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,11p' "$0" | cut -c3-; exit 2; }
speech=$1 texts=$2 tasks=$3/tasks
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shopt -s nullglob
heard=("$speech"/train-piper/manifest.jsonl "$3"/synth/*/manifest.jsonl)
dev=("$speech"/dev-*/manifest.jsonl)

count() { awk -v all="$1" -v scale="${SCALE:-1}" 'BEGIN { n = int(all * scale); print n < 24 ? 24 : n }'; }  # one an intent

python "$here/make_commands.py" --texts "$texts" --out "$tasks/commands" --train "$(count 1500)" --dev "$(count 150)" \
    --heard "${heard[@]}" --exclude "${dev[@]}" --said "$3/said/commands.jsonl"
python "$here/make_translations.py" --texts "$texts" --out "$tasks/translation" --train "$(count 2000)" \
    --dev "$(count 100)" --heard "${heard[@]}" --exclude "${dev[@]}" --said "$3/said/translation.jsonl"
python "$here/make_sounds.py" --sounds "$speech/sounds-esc10" --out "$tasks/sounds"

instruct() { soundwave data instruct --overwrite "$tasks/$1/train/manifest.jsonl" "$tasks/$1/train.jsonl" "${@:2}"; }
# The words first, as in the paper; about four in ten are asked as the evaluation asks.
instruct commands --task intent --formats transcript --takes 2 --standard-share 0.5 --seed 21
instruct translation --task translation --formats direct --takes 2 --standard-share 0.5 --seed 22
instruct sounds --task sound --formats direct=6,choice=2,sentence=2 --takes 6 --standard-share 0.4 --seed 23
