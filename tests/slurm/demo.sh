#!/usr/bin/env bash
# The toy suite twice: on this machine, undisturbed; and on the SLURM of cluster.sh, with the driver killed, a node lost and
# a run pre-empted in the middle. Both must end in the same scores and tables, bit for bit.
#
#   eval "$(tests/slurm/cluster.sh env)"; tests/slurm/demo.sh [EPOCHS] | tee transcript.txt
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/../.." && pwd)
WORK=$(mktemp -d /tmp/proctor-demo-XXXX)
EPOCHS=${1:-6}

log() { printf '\n[%(%H:%M:%S)T] %s\n' -1 "$*"; }

project() { # project NAME EXECUTOR: a copy of the project
    mkdir "$WORK/$1"
    (cd "$ROOT" && git ls-files -co --exclude-standard | grep -v -e '^dvc.lock' -e '^results/[^t].*[^d]$' |
        xargs cp --parents -t "$WORK/$1")
    cd "$WORK/$1"
    git init -q .
    sed -i -e "s/epochs: .*/epochs: $EPOCHS/" -e 's/^seeds: .*/seeds: [0]/' \
        -e 's/^allow: .*/allow: {collapsed: so few epochs}/' params.yaml
    echo "executor: $2" >>params.yaml
    # The runs are too short for a checkpoint a minute.
    sed -i 's/^CHECKPOINT_SECONDS = 60/CHECKPOINT_SECONDS = 3/' methods/components/train_loop.py
    export PYTHONPATH=$PWD
}

status() { # status STATE: node or job of a run in this state
    proctor status --json | python -c "
import json, sys
rows = [row for row in json.load(sys.stdin) if row['state'] == '$1' and row.get('done', 0) >= ${3:-1}]
print(rows[0]['$2'] if rows else '')"
}

wait_for_run() { # wait_for_run COLUMN DONE: of a run at work that has done so many epochs
    local value
    until value=$(status running "$1" "$2" 2>/dev/null) && [ -n "$value" ]; do sleep 1; done
    echo "$value"
}

log "The toy suite on this machine, undisturbed"
project quiet '{name: local, device: cpu, jobs: 2, threads: 1}'
dvc repro 2>&1 | grep -e "^done" -e "^failed"

log "The same on SLURM"
project disturbed '{name: slurm, device: cpu, gpus: 0, threads: 1, memory_gib: 2}'
dvc repro >driver1.log 2>&1 &
driver=$!
node=$(wait_for_run node 1)
log "Some runs are at work:"
squeue

log "kill -9 of dvc"
kill -9 $driver
log "dvc repro again"
setsid dvc repro >driver2.log 2>&1 &
driver=$!
sleep 3

log "Node $node is lost: its slurmd is killed, SLURM is told that it is down"
kill -9 "$(<"$PROCTOR_SLURM_SANDBOX/slurmd-$node.pid")"
scontrol update "nodename=$node" state=down reason=demo
squeue
other=$(sinfo -h -N -p main -t idle,mix,alloc -o %N | head -1)
until [ "$(proctor status --json 2>/dev/null | grep -c "\"node\": \"$other\"")" -ge 1 ]; do sleep 1; done

log "A job of higher priority takes node $other; the runs on it are put back into the queue"
sbatch -p high -w "$other" --exclusive -o /dev/null --wrap 'sleep 5'
sleep 8
squeue
log "Node $node comes back"
"$ROOT/tests/slurm/cluster.sh" up >/dev/null

wait $driver
log "What the second driver saw:"
grep -e "^start" -e "^done" -e "^failed" -e "^lost" driver2.log || true
log "Attempts of each run, and its jobs"
python - <<'END'
import json, pathlib
for path in sorted(pathlib.Path("results/predictions").glob("*/*/record.json")):
    made = json.loads(path.read_text())["provenance"]
    print(f"{made['attempts']} attempts, job {made['job']}: {path.parent.relative_to('results/predictions')}")
END

log "Comparison with the undisturbed run"
cd "$WORK"
for name in scores plots metrics.json; do
    diff -rq quiet/results/$name disturbed/results/$name || exit 1
    echo "identical: results/$name"
done
for file in quiet/results/predictions/*/*/*.npy; do
    cmp "$file" "${file/quiet/disturbed}" || exit 1
done && echo "identical: $(ls quiet/results/predictions/*/*/*.npy | wc -l) files of predictions"
for file in quiet/reports/build/*/*.csv quiet/reports/build/*/*.md; do
    if [ -e "$file" ]; then cmp "$file" "${file/quiet/disturbed}" || exit 1; fi
done && echo "identical: tables"
