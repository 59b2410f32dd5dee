#!/usr/bin/env bash
# Mini's stages II and III from text alone, from speech alone and from both, at equal steps, and how each then answers.
#
#   recipes/mini/text.sh SPEECH TEXTS WORK
#
# After reproduce.sh, with the same arguments: WORK holds its stage I, labels and answers. Makes
#   WORK/bank    units of speech as stage I's adapter hears it (2.5 GB at most)
#   WORK/said    texts to say, and what the language model itself replies to them
#   WORK/text-or-speech/ARM/stage{2,3}   trained by text_or_speech.py, and WORK/text-or-speech/ARM.json: dev-questions,
#                answered from the audio itself
# Needs no synthesiser. BANK="MANIFEST..." names other speech for the bank, best what stage I was not trained on: then
# DROPOUT=0; of its own speech an adapter makes hardly an error, unless it hears worse (docs/simulated.md).
# SCALE=0.01 before the command rehearses it with a hundredth of the rows and steps.
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,13p' "$0" | cut -c3-; exit 2; }
SPEECH=$(cd "$1" && pwd) TEXTS=$(cd "$2" && pwd) WORK=$(cd "$3" && pwd)
export SPEECH TEXTS WORK
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SCALE=${SCALE:-1}
count() { awk -v all="$1" -v scale="$SCALE" 'BEGIN { n = int(all * scale); print n < 40 ? 40 : n }'; }
said=$WORK/said
mkdir -p "$said"

if [ ! -s "$WORK/bank/bank.json" ]; then
    # shellcheck disable=SC2086
    soundwave data units ${BANK:-"$SPEECH/train-librispeech/manifest.jsonl" "$SPEECH/train-common-voice/manifest.jsonl"} \
        --model "$WORK/runs/stage1/final" --out "$WORK/bank" --hours "$(awk -v s="$SCALE" 'BEGIN { print 12 * s }')" \
        --feature-dropout "${DROPOUT:-0}" --quiet
fi
dev=("$SPEECH"/dev-*/manifest.jsonl)
say() { python "$here/say_texts.py" --texts "$TEXTS" --exclude "${dev[@]}" --out "$said/$1.jsonl" --count "$(count "$2")" "${@:3}"; }
say prose 30000 --shares prose=0.9,command=0.1 --seed 31
say questions 20000 --shares question=1 --seed 32
say about 2000 --shares prose=1 --seed 33

# The language model's own replies: to questions, and to what is asked about other texts.
soundwave data answer "$said/questions.jsonl" "$said/answers.jsonl" --questions --limit "$(count 4000)"
soundwave data instruct --overwrite "$said/answers.jsonl" "$said/spoken-questions.jsonl" --task question \
    --label-field text --formats transcript --takes 1 --standard-share 0.5
number=0
while read -r prompt; do
    number=$((number + 1))
    soundwave data answer "$said/about.jsonl" "$said/asked-$number.jsonl" --prompt "$prompt" --read-prompt \
        --limit "$(count 300)" </dev/null
done <<'PROMPTS'
What is this about?
Summarise what the person says in one sentence.
Say the same in other words.
How does the speaker feel?
What may happen next?
Name the most important word and say why.
PROMPTS
cat "$said"/asked-?.jsonl > "$said/asked.jsonl"

python "$here/text_or_speech.py" --out "$WORK/text-or-speech" --steps "$(count 650)" "$(count 150)"
