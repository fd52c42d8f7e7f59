#!/bin/sh
# Runs the commands of docs/guide and keeps what they print in target/guide, from where the pages quote it. Expects what
# `make demo` makes in runs/demo. STEPS is how long it trains; longer says more.
#
#     make demo && sh scripts/guide.sh
set -eu
cd "$(dirname "$0")/.."

reelgrad=$PWD/target/release/reelgrad
examples=$PWD/target/release/examples
out=$PWD/target/guide
demo=runs/demo
steps=${STEPS:-20}

# Mesa complains on standard error where a machine without a desktop has none.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"

rm -rf "$out"
mkdir -p "$out"

# Runs a command and keeps what it prints in the file $1.
keep() {
    file=$out/$1.txt
    shift
    echo "guide: $*"
    "$@" >"$file"
    cat "$file"
}

echo "--- your own videos"
keep search "$reelgrad" search $demo/index --model $demo/EERCF "a red square moves left" --top 3
keep like "$reelgrad" search $demo/index --model $demo/EERCF --like 40 --top 3
keep info "$reelgrad" info $demo/index
keep verify "$reelgrad" verify $demo/index

echo "--- fine-tune on your captions"
own=$out/own
mkdir -p "$own"
# Of the captions of the demo's videos, the last two videos' are left for validation and test.
grep -v -e video-29 -e video-30 $demo/captions.jsonl >"$own/train.jsonl"
grep video-29 $demo/captions.jsonl >"$own/val.jsonl"
grep video-30 $demo/captions.jsonl >"$own/test.jsonl"
keep fine-tune "$examples/train_eercf" --data "$own" --dataset neutral --videos $demo/videos \
    --clip tests/goldens/clip-tiny-hf --run "$out/run" --steps "$steps" --set fit.batch=16 --set fit.evaluate_every="$steps"
keep own-index "$reelgrad" index $demo/videos --model "$out/run" --out "$out/own.index" --rate 2 --clip 3

echo "--- moments"
keep moments "$reelgrad" eval $demo/index --model $demo/EERCF --captions $demo/captions.jsonl

echo "--- reproduce an evaluation"
keep parity "$examples/parity" tests/goldens/eercf-tiny-eval.safetensors tests/goldens/glccl-tiny-eval.safetensors

echo "--- write a kernel"
keep kernel "$examples/custom_op"
