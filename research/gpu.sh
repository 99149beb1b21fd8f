#!/usr/bin/env bash
# What one large GPU has to show: that it computes what the CPU does, how fast a model of Qwen3-VL-2B's shape is trained
# and embeds, and variants of the study with twenty times the steps.
#
#   python -m research.study pack --no_augmented_images --output study.tar.xz     where the study was run
#   research/gpu.sh FOLDER study.tar.xz          on the machine with the GPU; the same command goes on
#   research/gpu.sh --smoke FOLDER               all of it tiny, on a CPU
#
# The three parts are stopped after 3, 3 and 4 minutes.
# FOLDER gets the tables and results-cuda.parquet. PYTHON, TIMES, PROCESSES, MINUTES (of the study) and VARIANTS may be set.
# It needs no network, and no other packages than this one with its extra `eval`.
set -u
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
PYTHON="${PYTHON:-python3}"
VARIANTS="${VARIANTS:-full dense moe_8_upper noisy noisy_no_filter filter_power no_coaugmentation omega_uniform}"
DEVICE=cuda SMOKE= FAILED=0 LIMIT=180
LENGTH="--times ${TIMES:-20} --minutes ${MINUTES:-4}"
if [ "${1:-}" = --smoke ]; then
    DEVICE=cpu SMOKE=--smoke LIMIT=1800 LENGTH="--max_steps 2" VARIANTS="dense noisy"
    shift
fi
if [ $# -lt 1 ] || { [ $DEVICE = cuda ] && [ ! -f "${2:-}" ]; }; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
mkdir -p "$1"
OUT="$(cd "$1" && pwd)"
PACKED="$(realpath -m "${2:-$OUT/study.tar.xz}")"
cd "$(dirname "$0")/.." || exit 2

# Runs a command whose output is shown and kept; what fails is said, and the rest goes on.
part() {
    local name="$1" seconds="$2"
    shift 2
    timeout "$seconds" "$PYTHON" -m "$@" 2>"$OUT/$name.log" | tee "$OUT/$name.txt"
    local code="${PIPESTATUS[0]}"
    if [ "$code" -ne 0 ]; then
        echo "$name ended with exit code $code; see $OUT/$name.log"
        FAILED=1
    fi
}

if [ -n "$SMOKE" ] && [ ! -f "$PACKED" ]; then
    part build 600 mbe2_dataset build --catalogue synthetic --output "$OUT/built/fashion-1-1-1" --work "$OUT/built/journal" \
        --num_products 40 --num_validation 5 --num_test 10
    part pack 600 research.study pack --no_augmented_images --work "$OUT/built" --output "$PACKED"
fi
part agreement $LIMIT research.benchmarks gpu --device $DEVICE --parts agreement $SMOKE
part throughput $LIMIT research.benchmarks gpu --device $DEVICE --parts throughput $SMOKE
RESULTS="--results $OUT/results-$DEVICE.parquet"
# shellcheck disable=SC2086 - they are lists of words
part study 1800 research.study run --device $DEVICE $LENGTH --packed "$PACKED" --work "$OUT/work" $RESULTS --seeds 0 \
    --no_augmented_images \
    --processes "${PROCESSES:-4}" --only $VARIANTS
echo
echo "In $OUT: agreement.txt, throughput.txt, study.txt, results-$DEVICE.parquet"
exit $FAILED
