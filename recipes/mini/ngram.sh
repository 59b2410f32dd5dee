#!/usr/bin/env bash
# The n-gram that `transcribe` searches with: recipes/mini/ngram.sh TEXTS models/soundwave-mini/ngram.npz
# TEXTS holds the .jsonl.gz files of docs/ctc.md. One minute on one core; the file has 3.9 MB.
set -euo pipefail
texts=${1:?folder of texts} out=${2:?file to write}
soundwave lm train "$texts"/*.jsonl.gz --order 3 --prune 2e-7 --out "$out"
