#!/usr/bin/env bash
# The scores of a model on the development sets, each as a file.
#   recipes/mini/score.sh SPEECH MODEL RESULTS [WORK]
# With WORK, where tasks.sh made them, also on its held-out commands, sounds and translations.
set -euo pipefail
[ $# -eq 3 ] || [ $# -eq 4 ] || { sed -n '2,4p' "$0" | cut -c3-; exit 2; }
speech=$(cd "$1" && pwd) model=$2 results=$3
export SPEECH=$speech  # so that the files say $SPEECH
score() { soundwave eval --overwrite "$2/manifest.jsonl" --model "$model" --out "$results/mini-$1.json" --task "${@:3}"; }
score dev-librispeech-transcribe "$speech/dev-librispeech" transcribe
score dev-librispeech-no-llm "$speech/dev-librispeech" transcribe --no-llm
score dev-librispeech-ctc "$speech/dev-librispeech" ctc
score dev-nonnative-transcribe "$speech/dev-nonnative" transcribe
score dev-nonnative-no-llm "$speech/dev-nonnative" transcribe --no-llm
score dev-common-voice-transcribe "$speech/dev-common-voice" transcribe
score dev-questions-questions "$speech/dev-questions" questions
score dev-questions-audio "$speech/dev-questions" questions --via audio
score dev-questions-typed-questions "$speech/dev-questions" typed-questions

if [ $# -eq 4 ]; then
    WORK=$(cd "$4" && pwd)
    export WORK
    score commands "$WORK/tasks/commands/dev" intent --via audio
    score commands-transcript "$WORK/tasks/commands/dev" intent --via transcript
    score sounds "$WORK/tasks/sounds/dev" sounds --via audio
    score translation "$WORK/tasks/translation/dev" translate --via audio
fi

# Nobody speaks: noises and silence of another seed than the training's.
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
nothing=$made/make_noise-60-clips-seed-1000
python "$(dirname "${BASH_SOURCE[0]}")/make_noise.py" --out "$nothing" --clips 60 --seed 1000
score no-speech "$nothing" no-speech
