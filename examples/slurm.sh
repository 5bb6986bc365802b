#!/bin/bash
#SBATCH --job-name=llava-1.5-7b
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Both stages of LLaVA-1.5-7B on two nodes of eight GPUs. Started again, by hand or because SLURM requeues it,
# it goes on from the last checkpoint. (No --signal: Lightning's answer to SIGUSR1 is a checkpoint of its own,
# which it would prefer to later ones.)
#
# Before, once, on any machine, look at the records; the nodes should not wait for that:
#   minillava inspect --model llava-1.5-7b --data data/blip_laion_cc_sbu_558k.json --image-root data/pretrain --template plain
#   minillava inspect --model llava-1.5-7b --data data/llava_v1_5_mix665k.json --image-root data/finetune
set -euo pipefail

srun minillava train stage1 --preset llava-1.5-7b --run-dir runs/7b --no-audit \
    --data data/blip_laion_cc_sbu_558k.json --image-root data/pretrain \
    --nodes 2 --devices 8 --strategy ddp --device-batch 16 --workers 7 --save-every 200

srun minillava train stage2 --preset llava-1.5-7b --run-dir runs/7b --no-audit \
    --data data/llava_v1_5_mix665k.json --image-root data/finetune \
    --nodes 2 --devices 8 --strategy fsdp2 --device-batch 8 --activation-checkpointing \
    --workers 7 --save-every 500
