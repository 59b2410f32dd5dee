#!/usr/bin/env bash
# From a folder of human speech and a folder of texts to the weights of a soundwave-mini and its scores.
#
#   recipes/mini/reproduce.sh SPEECH TEXTS WORK
#
# SPEECH  folders with manifest.jsonl (one clip a line: audio, text, duration, speaker):
#           train-read          LJ Speech, LibriSpeech train-clean-100 (speakers 19, 26, 27), Hi-Fi TTS 6097, VCTK
#           train-speechocean   speechocean762 (OpenSLR 101), training half
#           train-words         Speech Commands
#           train-many-speakers-untranscribed   one LibriSpeech training clip for each of 251 speakers, without text
#           train-librispeech   LibriSpeech train-clean-5 and 110 other clips of it; upper case
#           train-common-voice  Common Voice, as people record themselves; CC0
#           train-single-speakers   "kathleen" and VCTK's p239
#           train-piper         texts, and how piper (the CC0 voice joe) says each: the sounds are made here
#           sounds-esc10        ESC-10: folds 1 to 4 for training, fold 5 for scores
#           dev-librispeech, dev-nonnative, dev-common-voice, dev-questions   for scores only, never for training
# TEXTS   .jsonl.gz files: Common Voice sentences, LibriTTS and LJ Speech texts, Harvard sentences, TriviaQA and
#         WebQuestions questions, CLINC150, Snips and Banking77 commands, Tatoeba's English-German pairs
# WORK    everything made on the way, and what comes of it: WORK/soundwave-mini, WORK/results. A run that was stopped goes
#         on where it was.
#
# SHIP=1 before the command puts weights and scores in their places in this checkout instead: models/, docs/results.
#
# SCALE=0.01 before the command rehearses it: a hundredth of the speech, of the clips that are scored and of the steps,
# in WORK alone; all parts run, in about ten minutes, and the model is good for nothing.
#
# Needs: pip install -e '.[train,eval]', and the Debian packages flite, espeak-ng, festival, festvox-kallpc16k and
# festvox-kdlpc16k.
# On two cores of a 2024 processor with bfloat16: about 60 minutes of synthesis, 25 of labels, answers and units, 15 of encoder
# features, 45 of stage I, 145 of stage I on people's speech, 40 of stages II and III, 20 of scores.
set -euo pipefail
if [ $# -ne 3 ]; then sed -n '2,30p' "$0" | cut -c3-; exit 2; fi
mkdir -p "$3"
SPEECH=$(cd "$1" && pwd) TEXTS=$(cd "$2" && pwd) WORK=$(cd "$3" && pwd)
export SPEECH TEXTS WORK
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for tool in soundwave flite espeak-ng text2wave; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed; see the head of $0" >&2; exit 1; }
done

SCALE=${SCALE:-1}
export SCALE
hours() { awk -v all="$1" -v scale="$SCALE" 'BEGIN { print all * scale }'; }
count() { awk -v all="$1" -v scale="$SCALE" 'BEGIN { n = int(all * scale); print n < 2 ? 2 : n }'; }
shipped=$WORK/soundwave-mini scores=$WORK/results fewer=()
if [ "${SHIP:-}" = 1 ] && [ "$SCALE" = 1 ]; then
    shipped=$here/../../models/soundwave-mini scores=$here/../../docs/results
fi
if [ "$SCALE" != 1 ]; then
    python "$here/cut_speech.py" "$SPEECH" --out "$WORK/speech" --share "$SCALE"
    SPEECH=$WORK/speech
fi
mkdir -p "$scores"

dev=("$SPEECH"/dev-{librispeech,questions,nonnative,common-voice}/manifest.jsonl)
speak() { python "$here/make_speech.py" --texts "$TEXTS" --exclude "${dev[@]}" "$@"; }
made=("$SPEECH/train-piper/manifest.jsonl")
python "$here/make_piper.py" --texts "${made[0]}" --out "$WORK/synth/piper" --jobs 2
speak --out "$WORK/synth/flite-a" --hours "$(hours 5)" --voices flite:awb,flite:rms,flite:slt --seed 1 --already "${made[@]}"
made+=("$WORK/synth/flite-a/manifest.jsonl")
espeak_voices=espeak:en-us,espeak:en-gb,espeak:en-us+m1,espeak:en-us+m3,espeak:en-us+f1,espeak:en-us+f2
espeak_voices+=,espeak:en-us+f4,espeak:en-gb+m2,espeak:en-gb+m4,espeak:en-gb+f3,espeak:en-gb-scotland,espeak:en-us+m7
speak --out "$WORK/synth/espeak" --hours "$(hours 0.7)" --seed 2 --already "${made[@]}" --voices "$espeak_voices"
made+=("$WORK/synth/espeak/manifest.jsonl")
# Trivia questions above all: their names are what a small model mishears.
asked() { speak --shares prose=0.3,question=0.7 --already "${made[@]}" --out "$WORK/synth/$1-questions" "${@:2}"; made+=("$WORK/synth/$1-questions/manifest.jsonl"); }
asked flite --hours "$(hours 5)" --seed 3 --voices flite:awb,flite:rms,flite:slt
asked espeak --hours "$(hours 2.5)" --seed 4 --voices "$espeak_voices"
asked piper --hours "$(hours 5)" --seed 5 --voices piper:joe
speak --out "$WORK/synth/festival" --hours "$(hours 1.5)" --seed 9 --jobs 2 --voices festival:kal,festival:ked \
    --shares prose=0.3,question=0.7 --already "${made[@]}"
"$here/tasks.sh" "$SPEECH" "$TEXTS" "$WORK"  # spoken commands, sounds, translation
[ -s "$WORK/synth/nothing/manifest.jsonl" ] || python "$here/make_noise.py" --out "$WORK/synth/nothing" --clips "$(count 250)"

# Words of the clips that have no text: those that two decodings of Whisper base agree on. The others have theirs, and get
# the capitals of written English.
whisper="$WORK/whisper-base-ct2"
[ -s "$whisper/model.bin" ] || python "$here/whisper_folder.py" --out "$whisper"
label() { python "$here/label_speech.py" --speech "$SPEECH/$1" --texts "$TEXTS" --exclude "${dev[@]}" --out "$WORK/labels/$1.jsonl" "${@:2}"; }
label train-many-speakers-untranscribed --whisper "$whisper" --threads 2
for people in read speechocean librispeech common-voice single-speakers; do label "train-$people"; done
for voices in piper flite; do
    python "$here/answer_questions.py" "$WORK/synth/$voices-questions/manifest.jsonl" --limit "$(count 600)" \
        --out "$WORK/answers/$voices-questions.jsonl"
    soundwave data instruct --overwrite "$WORK/answers/$voices-questions.jsonl" "$WORK/answers/spoken-$voices-questions.jsonl" \
        --task question --label-field text --formats transcript --takes 2 --standard-share 0.5
done

train() {
    [ -s "$WORK/runs/stage$1/final/config.json" ] && return 0
    if [ "$SCALE" != 1 ]; then fewer=(max_steps="$(count "$2")" eval_steps=1000); fi
    soundwave train "$here/stage$1.yaml" "${fewer[@]}"
}
train 1 2600
train 1-human 1400
train 1-again 800
python "$here/average.py" "$WORK"/runs/stage1-{human,again}/final --out "$WORK/runs/stage1-mean/final"
"$here/said.sh" "$SPEECH" "$TEXTS" "$WORK"
train 2 500
train 3 420
python "$here/ship.py" "$WORK/runs/stage3/final" --out "$shipped"
[ -s "$shipped/ngram.npz" ] || "$here/ngram.sh" "$TEXTS" "$shipped/ngram.npz"
"$here/score.sh" "$SPEECH" "$shipped" "$scores" "$WORK"
