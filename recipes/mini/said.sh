#!/usr/bin/env bash
# What mini's stages II and III learn from text: units of speech, texts to say with them, and the LLM's own replies.
#
#   recipes/mini/said.sh SPEECH TEXTS WORK
#
# A part of reproduce.sh, after stage I and tasks.sh, with the same arguments. Needs no synthesiser. Makes
#   WORK/bank    units of speech as stage I's adapter hears it (3 h, 0.3 GB)
#   WORK/said    texts to say, and what the language model itself replies to them
# The bank is of stage I's own speech, of which an adapter makes hardly an error unless it hears worse (docs/simulated.md):
# hence DROPOUT. BANK="MANIFEST..." names other speech for it; DROPOUT=0 where stage I was not trained on that.
# SCALE=0.01 before the command rehearses it with a hundredth of the rows.
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,11p' "$0" | cut -c3-; exit 2; }
SPEECH=$(cd "$1" && pwd) TEXTS=$(cd "$2" && pwd) WORK=$(cd "$3" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SCALE=${SCALE:-1}
count() { awk -v all="$1" -v scale="$SCALE" 'BEGIN { n = int(all * scale); print n < 40 ? 40 : n }'; }
said=$WORK/said
mkdir -p "$said"

bank=("$SPEECH"/train-{librispeech,common-voice}/manifest.jsonl "$WORK"/synth/{piper,flite}-questions/manifest.jsonl)
if [ ! -s "$WORK/bank/bank.json" ]; then
    any=()  # a rehearsal's model hears next to nothing, and its bank must still have units of most tokens
    [ "$SCALE" = 1 ] || any=(--max-error 9)
    # shellcheck disable=SC2086
    soundwave data units ${BANK:-"${bank[@]}"} --model "$WORK/runs/stage1-mean/final" --out "$WORK/bank" \
        --hours 3 --feature-dropout "${DROPOUT:-0.25}" "${any[@]}" --quiet
fi
dev=("$SPEECH"/dev-*/manifest.jsonl "$WORK"/tasks/{commands,translation}/dev/manifest.jsonl)
say() { python "$here/say_texts.py" --texts "$TEXTS" --exclude "${dev[@]}" --out "$said/$1.jsonl" --count "$(count "$2")" "${@:3}"; }
say prose 30000 --shares prose=0.9,command=0.1 --seed 31
say questions 20000 --shares question=1 --seed 32
say about 2000 --shares prose=1 --seed 33

instruct() { soundwave data instruct --overwrite "$said/$1.jsonl" "$said/spoken-$2.jsonl" "${@:3}"; }
instruct commands commands --task intent --formats transcript --takes 2 --standard-share 0.5 --seed 21
instruct translation translation --task translation --formats direct --takes 1 --standard-share 0.5 --seed 22

# The language model's own replies: to questions, and to what is asked about other texts.
soundwave data answer "$said/questions.jsonl" "$said/answers.jsonl" --questions --limit "$(count 800)"
instruct answers questions --task question --label-field text --formats transcript --takes 2 --standard-share 0.5
number=0
while read -r prompt; do
    number=$((number + 1))
    soundwave data answer "$said/about.jsonl" "$said/asked-$number.jsonl" --prompt "$prompt" --read-prompt \
        --limit "$(count 60)" </dev/null
done <<'PROMPTS'
What is this about?
Summarise what the person says in one sentence.
Say the same in other words.
How does the speaker feel?
What may happen next?
Name the most important word and say why.
PROMPTS
cat "$said"/asked-?.jsonl > "$said/asked.jsonl"
