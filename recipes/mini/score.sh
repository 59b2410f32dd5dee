#!/usr/bin/env bash
# The scores of a model on the development sets, each as a file.
#   recipes/mini/score.sh SPEECH MODEL RESULTS [WORK]
# With WORK, where tasks.sh made them, also on its held-out commands, sounds and translations.
set -euo pipefail
[ $# -eq 3 ] || [ $# -eq 4 ] || { sed -n '2,4p' "$0" | cut -c3-; exit 2; }
speech=$(cd "$1" && pwd) model=$2 results=$3
export SPEECH=$speech  # so that the files say $SPEECH
score() { soundwave eval --overwrite "$speech/$1/manifest.jsonl" --task "$2" --model "$model" --out "$results/mini-$1-$2.json" "${@:3}"; }
score dev-librispeech transcribe
score dev-librispeech ctc
# what the CTC path spells by ear, without known words
soundwave eval --overwrite "$speech/dev-librispeech/manifest.jsonl" --task ctc --model "$model" --no-llm \
    --out "$results/mini-dev-librispeech-ctc-path.json"
# the language model alone, greedily
soundwave eval --overwrite "$speech/dev-librispeech/manifest.jsonl" --task transcribe --model "$model" --no-llm \
    --out "$results/mini-dev-librispeech-llm.json"
score dev-nonnative transcribe
score dev-nonnative ctc
score dev-questions questions
score dev-questions typed-questions
# the audio itself is answered, in one pass
soundwave eval --overwrite "$speech/dev-questions/manifest.jsonl" --task questions --model "$model" --no-llm \
    --out "$results/mini-dev-questions-audio-itself.json"

if [ $# -eq 4 ]; then
    score_task() { soundwave eval --overwrite "$tasks/$1/dev/manifest.jsonl" --task "$2" --model "$model" --out "$results/mini-$1.json"; }
    WORK=$(cd "$4" && pwd)
    export WORK
    tasks=$WORK/tasks
    score_task commands intent
    score_task sounds sounds
    score_task translation translate
fi

# Nobody speaks: noises and silence of another seed than the training's.
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
nothing=$made/make_noise-60-clips-seed-1000
python "$(dirname "${BASH_SOURCE[0]}")/make_noise.py" --out "$nothing" --clips 60 --seed 1000
soundwave eval --overwrite "$nothing/manifest.jsonl" --task no-speech --model "$model" --out "$results/mini-no-speech.json"
