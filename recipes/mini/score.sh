#!/usr/bin/env bash
# The scores of a model on the development sets, each as a file.   recipes/mini/score.sh SPEECH MODEL RESULTS
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2p' "$0" | cut -c3-; exit 2; }
speech=$1 model=$2 results=$3
score() { soundwave eval "$speech/$1/manifest.jsonl" --task "$2" --model "$model" --out "$results/mini-$1-$2.json" "${@:3}"; }
score dev-librispeech transcribe
score dev-librispeech ctc
score dev-nonnative transcribe
score dev-nonnative ctc
score dev-questions questions
score dev-questions typed-questions

# Nobody speaks: noises and silence of another seed than the training's.
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
nothing=$made/nothing
python "$(dirname "${BASH_SOURCE[0]}")/make_noise.py" --out "$nothing" --clips 60 --seed 1000
soundwave eval "$nothing/manifest.jsonl" --task no-speech --model "$model" --out "$results/mini-no-speech.json"
