#!/usr/bin/env bash
# Trains on TPUs of a GKE cluster, as a JobSet; one pod per host of the slice.
#
#   IMAGE=us-docker.pkg.dev/me/reskill ./launch/gke.sh --dry-run      print all of it
#   IMAGE=us-docker.pkg.dev/me/reskill ./launch/gke.sh --config.policy.path=/shared/m
#
# It builds and pushes an image of this checkout and starts the job. The cluster needs
# the JobSet controller, a node pool with the slice, and a volume claim that many nodes
# can write (Filestore). Arguments go to reskill_jax.main. Pods that fail are started
# again together, and resume the run; so does starting it again. Settings, as variables:
IMAGE="${IMAGE:-}"                          # where to push it, without a tag
NAME="${NAME:-reskill-jax}"                 # of the job
ACCELERATOR="${ACCELERATOR:-tpu-v6e-slice}" # tpu-v5-lite-podslice, tpu-v5p-slice, ...
TOPOLOGY="${TOPOLOGY:-4x4}"
HOSTS="${HOSTS:-4}"                         # of the slice
CHIPS="${CHIPS:-4}"                         # per host
CLAIM="${CLAIM:-shared}"                    # volume claim, mounted at /shared
CONFIG="${CONFIG:-configs/alfworld.py}"
WORKDIR="${WORKDIR:-/shared/runs/alfworld}"
DATA="${DATA:-/shared/alfworld}"            # holds json_2.1.1/
RESTARTS="${RESTARTS:-20}"
set -euo pipefail
# shellcheck source=launch/remote.sh
source "$(dirname "${BASH_SOURCE[0]}")/remote.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
require IMAGE

image="$IMAGE:$(git rev-parse --short HEAD)"
arguments=""
for argument in --config="$CONFIG" --workdir="$WORKDIR" --distributed "$@"; do
    # A string between single quotes is itself in YAML, but for the quotes in it.
    arguments+="
                    - '${argument//\'/\'\'}'"
done
job="apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
spec:
  failurePolicy:
    maxRestarts: $RESTARTS
  replicatedJobs:
    - name: trainer
      replicas: 1
      template:
        spec:
          parallelism: $HOSTS
          completions: $HOSTS
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
                cloud.google.com/gke-tpu-topology: $TOPOLOGY
              containers:
                - name: trainer
                  image: $image
                  imagePullPolicy: Always  # a tag may be built again, from changed files
                  args:$arguments
                  env:
                    - name: ALFWORLD_DATA
                      value: '$DATA'
                  resources:
                    limits:
                      google.com/tpu: $CHIPS
                  volumeMounts:
                    - name: shared
                      mountPath: /shared
              volumes:
                - name: shared
                  persistentVolumeClaim:
                    claimName: $CLAIM"

run docker build --file=launch/Dockerfile --tag="$image" .
run docker push "$image"
run kubectl delete jobset "$NAME" --ignore-not-found
run_on "$job" kubectl apply --filename=-
