#!/usr/bin/env bash
# A temporary SLURM on one Debian or Ubuntu machine, for `pytest -m slurm`: two nodes of four CPUs and two fake GPUs each.
# It needs root, because slurmd starts jobs as their users. All files lie in one folder (none in /etc), and all daemons
# listen on 127.0.0.1 only.
#
#   tests/slurm/cluster.sh up            installs SLURM if it is missing (apt), then starts what is not running
#   eval "$(tests/slurm/cluster.sh env)" makes squeue, pytest and proctor of this shell use it
#   tests/slurm/cluster.sh down          stops it and deletes its folder
#
# Partitions: `main`, whose jobs `high` puts back into the queue; `spot`, whose jobs it cancels. There is no accounting.
set -euo pipefail

HOME_DIR=${PROCTOR_SLURM_SANDBOX:-/tmp/proctor-slurm}
PORT=${PROCTOR_SLURM_PORT:-17910}
CONF=$HOME_DIR/slurm.conf
export SLURM_CONF=$CONF PATH=$PATH:/usr/sbin
NODES=(left right)

runs() { # runs DAEMON: the process that its pid file names exists
    [ -s "$HOME_DIR/$1.pid" ] && kill -0 "$(<"$HOME_DIR/$1.pid")" 2>/dev/null
}

until_true() { # until_true SECONDS COMMAND...
    local left=$(($1 * 5))
    shift
    until "$@" >/dev/null 2>&1; do
        ((left-- > 0)) || { echo "gave up waiting for: $*; the logs are in $HOME_DIR" >&2; exit 1; }
        sleep 0.2
    done
}

install() {
    command -v slurmctld slurmd munged sbatch >/dev/null && return
    # This policy keeps the packages from starting their own daemons.
    local policy=/usr/sbin/policy-rc.d
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && trap "rm -f $policy" EXIT; }
    local get=(apt-get install -y -q --no-install-recommends slurmctld slurmd slurm-client munge)
    export DEBIAN_FRONTEND=noninteractive
    "${get[@]}" >"$HOME_DIR/apt.log" 2>&1 || { apt-get update && "${get[@]}"; } >>"$HOME_DIR/apt.log" 2>&1 ||
        { echo "SLURM could not be installed: $HOME_DIR/apt.log" >&2; exit 1; }
}

configure() {
    local host n node
    host=$(hostname -s)
    [ -s "$HOME_DIR/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$HOME_DIR/munge.key")
    for n in 0 1; do # copies of /dev/null; SLURM takes the digit for the number in CUDA_VISIBLE_DEVICES
        [ -e "$HOME_DIR/gpu$n" ] || mknod "$HOME_DIR/gpu$n" c 1 3
    done
    n=0
    echo "Name=gpu File=$HOME_DIR/gpu[0-1]" >"$HOME_DIR/gres.conf"
    echo "CgroupAutomount=no" >"$HOME_DIR/cgroup.conf"
    cat >"$CONF" <<END
ClusterName=proctor
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$HOME_DIR/munge.socket,cred_expire=5
StateSaveLocation=$HOME_DIR/state
SlurmdSpoolDir=$HOME_DIR/spool-%n
SlurmctldPidFile=$HOME_DIR/slurmctld.pid
SlurmctldLogFile=$HOME_DIR/slurmctld.log
SlurmdPidFile=$HOME_DIR/slurmd-%n.pid
SlurmdLogFile=$HOME_DIR/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
DefMemPerCPU=512
GresTypes=gpu
# Without cgroups: memory is sampled, and a job above its limit is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# A job that asked for a signal before its time limit gets it before pre-emption, too.
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
MaxArraySize=101
# Shorter intervals than on a large cluster.
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,defer_batch
KillWait=3
ReturnToService=2
END
    for node in "${NODES[@]}"; do
        n=$((n + 1))
        echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((PORT + n)) CPUs=4 RealMemory=16384 Gres=gpu:2"
    done >>"$CONF"
    cat >>"$CONF" <<END
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 DefaultTime=60 MaxTime=INFINITE GraceTime=5
PartitionName=spot Nodes=ALL PriorityTier=1 DefaultTime=60 MaxTime=INFINITE PreemptMode=CANCEL
PartitionName=high Nodes=ALL PriorityTier=10 DefaultTime=60 MaxTime=INFINITE PreemptMode=OFF
END
}

up() {
    [ "$(id -u)" = 0 ] || { echo "this needs root: sudo $0 up" >&2; exit 1; }
    mkdir -p "$HOME_DIR/state"
    install
    [ -e "$CONF" ] || configure
    runs munged || munged --force --key-file="$HOME_DIR/munge.key" --socket="$HOME_DIR/munge.socket" \
        --pid-file="$HOME_DIR/munged.pid" --log-file="$HOME_DIR/munged.log" --seed-file="$HOME_DIR/munge.seed"
    until_true 10 munge -n --socket="$HOME_DIR/munge.socket"
    # In its own session, so that Ctrl-C in this terminal does not reach it.
    runs slurmctld || setsid slurmctld </dev/null
    until_true 30 scontrol ping
    local node
    for node in "${NODES[@]}"; do
        runs "slurmd-$node" || setsid slurmd -N "$node" </dev/null
        scontrol update "nodename=$node" state=resume 2>/dev/null || true # refused where the node is up already
    done
    until_true 30 nodes_are_up
    sinfo
}

nodes_are_up() { [ "$(sinfo -h -N -p main -t idle,mix,alloc -o %N | wc -l)" = ${#NODES[@]} ]; }

down() {
    local pid
    for pid in "$HOME_DIR"/*.pid; do
        [ -e "$pid" ] && kill "$(<"$pid")" 2>/dev/null || true
    done
    sleep 1
    rm -rf "$HOME_DIR"
}

case ${1:-} in
up) up ;;
down) down ;;
env) echo "export SLURM_CONF=$CONF PROCTOR_SLURM_SANDBOX=$HOME_DIR PATH=\$PATH:/usr/sbin" ;;
*) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
