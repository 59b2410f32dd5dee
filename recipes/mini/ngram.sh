#!/usr/bin/env bash
# The n-gram that `transcribe` searches with.
#   recipes/mini/ngram.sh TEXTS models/soundwave-mini/ngram.npz
# TEXTS holds the .jsonl.gz files of docs/ctc.md. One minute on one core; the file has 3.9 MB.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,4p' "$0" | cut -c3-; exit 2; }
soundwave lm train "$1"/*.jsonl.gz --order 3 --prune 2e-7 --out "$2"
