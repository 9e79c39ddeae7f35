#!/usr/bin/env bash
# A sweep on one machine with several GPUs. Every worker is a process with one GPU that walks the whole sweep and runs what nobody
# has: leases in the results folder see to it that no run is done twice, so workers may be added and killed at any time.
#
#   examples/node.sh sweep=table1                                  eight GPUs, two runs a GPU
#   GPUS="0 1" RUNS_PER_GPU=4 examples/node.sh sweep=table1 suite=mini
#
# Ctrl-C or SIGTERM: every run leaves a checkpoint, and the same command goes on.
set -uo pipefail
GPUS="${GPUS:-0 1 2 3 4 5 6 7}"
RUNS_PER_GPU="${RUNS_PER_GPU:-2}"
python="${PYTHON:-python}"
logs="${LOGS:-outputs/node}"
mkdir -p "$logs"
workers=$(($(wc -w <<< "$GPUS") * RUNS_PER_GPU))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(($(nproc) / workers > 1 ? $(nproc) / workers : 1))}"

pids=()
trap 'kill -TERM "${pids[@]}" 2> /dev/null' TERM INT
for gpu in $GPUS; do
    for run in $(seq "$RUNS_PER_GPU"); do
        CUDA_VISIBLE_DEVICES=$gpu "$python" -m karst_bench run "$@" > "$logs/gpu$gpu.$run.log" 2>&1 &
        pids+=($!)
    done
done
echo "$workers workers; what they say: $logs/gpu*.log"
codes=()
for pid in "${pids[@]}"; do
    wait "$pid"
    code=$?
    while kill -0 "$pid" 2> /dev/null; do # the signal ended the wait, not the worker
        wait "$pid"
        code=$?
    done
    codes+=("$code")
done
echo "exit codes: ${codes[*]} (0 done, 1 or 2 a run failed, 3 others had the rest, 143 stopped)"
"$python" -m karst_bench run "$@" dry_run=true | tail -n 2
printf '%s\n' "${codes[@]}" | sort -n | head -n 1 | grep -qx 0 # one that saw everything done
