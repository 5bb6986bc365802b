#!/bin/bash
# Both stages of LLaVA-1.5-7B on two nodes of eight GPUs without a scheduler: run this on each node, with the
# first one's name. Interrupted, run it again on both: it goes on from the last checkpoint.
#   FIRST=node0 bash examples/torchrun.sh
# On one node no launcher is needed: minillava train stage2 --devices 8 ...
set -euo pipefail

torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint="$FIRST:29500" \
    -m minillava train stage1 --preset llava-1.5-7b --run-dir runs/7b --no-audit \
    --data data/blip_laion_cc_sbu_558k.json --image-root data/pretrain \
    --nodes 2 --devices 8 --strategy ddp --device-batch 16 --workers 7 --save-every 200

torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint="$FIRST:29500" \
    -m minillava train stage2 --preset llava-1.5-7b --run-dir runs/7b --no-audit \
    --data data/llava_v1_5_mix665k.json --image-root data/finetune \
    --nodes 2 --devices 8 --strategy fsdp2 --device-batch 8 --activation-checkpointing \
    --workers 7 --save-every 500
