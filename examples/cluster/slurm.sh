#!/usr/bin/env bash
#SBATCH --job-name=evalsuite
#SBATCH --cpus-per-task=16
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@60
# One suite on one node. A job that is pre-empted or out of time leaves a folder that the next one goes on from:
#   sbatch slurm.sh study.toml
set -euo pipefail

suite=${1:?"say which suite: sbatch slurm.sh study.toml"}
export OMP_NUM_THREADS=1

exec python -m evalsuite run "$suite" --device "${EVALSUITE_DEVICE:-cuda}" --workers "${SLURM_CPUS_PER_TASK:-1}"
