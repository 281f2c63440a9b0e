#!/bin/sh
# Runs the cluster's part of the README on the cluster of the current kubectl context, one line a step.
#
#   tests/cluster.sh
#
# Needs the image of step 5 in the cluster, with the sample's records; kubectl; curl for two steps. All happens in two
# namespaces of its own, which enforce the profile "restricted" and go at the end. In the environment:
#
#   IMAGE=registry.example.com/me/met-art:1.0.0    another name of the image
#   SKIP="serve hostpath"                          steps to leave out (serve pulls TensorFlow Serving's image)
#   KEEP=1                                         leave the namespaces, to look at what failed
set -u
cd "$(dirname "$0")/.." || exit 1

IMAGE=${IMAGE:-met-art:1.0.0}
SKIP=${SKIP:-}
namespace=met-art-check-$$
work=$(mktemp -d)
mark=app.kubernetes.io/component

k() { kubectl --namespace="$namespace" "$@"; }

clean_up() {
    if [ -z "${KEEP:-}" ]; then
        kubectl delete namespace "$namespace" "$namespace-2" --ignore-not-found --timeout=5m
        kubectl delete persistentvolume "$namespace" --ignore-not-found --timeout=1m
    fi >"$work/clean-up" 2>&1 || cat "$work/clean-up"
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# step NAME FUNCTION: one line, and the end of all where it fails.
step() {
    case " $SKIP " in *" $1 "*) echo "-     $1"; return ;; esac
    start=$(date +%s)
    (set -e; "$2") >"$work/output" 2>&1
    status=$?
    seconds=$(($(date +%s) - start))
    if [ $status = 0 ]; then
        printf 'ok    %-14s %5d s\n' "$1" $seconds
        return
    fi
    printf 'FAIL  %-14s %5d s\n' "$1" $seconds
    tail -n 25 "$work/output"
    k get pods,jobs,persistentvolumeclaims
    k get events --sort-by=.lastTimestamp | tail -n 15
    exit 1
}

# within SECONDS COMMAND…: repeats the command until it succeeds.
within() {
    end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt $end ] || { echo "not in time: $*"; return 1; }
        sleep 2
    done
}

phase_is() { [ "$(k get pod "$1" --output=jsonpath='{.status.phase}')" = "$2" ]; }
finished() { phase_is "$1" Succeeded || phase_is "$1" Failed; }
succeeded() { # POD SECONDS
    within "$2" finished "$1"
    phase_is "$1" Succeeded || { k logs "$1" | tail; return 1; }
}
ready() { k wait --for=condition=Ready --timeout=15m "pod/$1"; }
log_has() { k logs "$1" | grep -q -e "$2"; }
condition_of() { k get job "$1" --output=jsonpath='{.status.conditions[?(@.status=="True")].type}'; }
ended() { condition_of "$1" | grep -q -e Complete -e 'Failed$'; }
completed() { # JOB SECONDS
    within "$2" ended "$1"
    condition_of "$1" | grep -q Complete || { k describe job "$1" | tail; return 1; }
}
unchanged() { # FILE SELECTOR: a second `kubectl apply` has nothing to do.
    k apply -f "$work/$1" --selector="$2" >"$work/second"
    cat "$work/second"
    ! grep -v -q ' unchanged$' "$work/second"
}
tunnel() { # POD PORT: sets `address`; the tunnel ends with the step.
    kubectl --namespace="$namespace" port-forward "pod/$1" ":$2" >"$work/tunnel" &
    tunnel=$!
    trap 'kill $tunnel' EXIT
    within 30 grep -q Forwarding "$work/tunnel"
    address=$(sed -n 's/^Forwarding from \(127[0-9.:]*\).*/\1/p' "$work/tunnel")
}
worker() { # INDEX: the name of its newest pod.
    k get pods --selector="batch.kubernetes.io/job-completion-index=$1,job-name=train-met-art-workers" \
        --sort-by=.metadata.creationTimestamp --output=custom-columns=:.metadata.name --no-headers | tail -n 1
}

namespaces() {
    for name in "$namespace" "$namespace-2"; do
        kubectl create namespace "$name"
        kubectl label namespace "$name" pod-security.kubernetes.io/enforce=restricted \
            pod-security.kubernetes.io/warn=restricted
    done
}

admitted() {
    cp ./*.yaml "$work"
    sed -i.bak "s#image: met-art:1.0.0#image: $IMAGE#" "$work"/*.yaml
    if [ "$(kubectl get nodes --output=name | wc -l)" = 1 ]; then  # Where no class may have ReadWriteMany.
        sed -i.bak 's/ReadWriteMany/ReadWriteOnce/' "$work/train-distributed.yaml" "$work/prepare-data.yaml"
    fi
    for file in "$work"/*.yaml; do
        k apply --dry-run=server -f "$file" 2>&1
    done | tee "$work/dry-run"
    ! grep -v -q '(server dry run)$' "$work/dry-run"
}

train() {
    k apply -f "$work/train-model.yaml"
    ready train-met-art-model
    within 1200 log_has train-met-art-model '^training: .* steps'
}

delete() {
    k logs --follow train-met-art-model >"$work/interrupted" 2>&1 &
    k delete pod train-met-art-model --timeout=60s
    wait
    grep -e '^interrupted: saved /logs/model.ckpt-' "$work/interrupted" || { tail "$work/interrupted"; return 1; }
}

apply() {
    k apply -f "$work/train-model.yaml"
    ready train-met-art-model
    unchanged train-model.yaml app.kubernetes.io/part-of=met-art
    succeeded train-met-art-model 3600
    log_has train-met-art-model 'from step [1-9]'
    log_has train-met-art-model '^trained to step 100: '
}

eval_() {
    k apply -f "$work/eval-model.yaml"
    succeeded eval-met-art-model 1800
    log_has eval-met-art-model ': top-1 '
}

# The pod of step 8, which serves the sample's pictures as well: not every cluster reaches the museum.
access() {
    k apply -f "$work/access-model-logs.yaml"
    ready access-model-logs
    k cp sample-dataset.tar.gz access-model-logs:/tmp/sample-dataset.tar.gz
    k exec access-model-logs -- tar -xzf /tmp/sample-dataset.tar.gz -C /tmp
    k exec access-model-logs -- sh -c 'cd /tmp && python -m http.server 8000 >/tmp/server.log 2>&1 &'
    k get pod access-model-logs --output=jsonpath='http://{.status.podIP}:8000' >"$work/pictures"
}

copy() {
    k cp access-model-logs:/logs "$work/logs"
    ls "$work/logs/model.ckpt-100.index" "$work/logs/eval/metrics.json"
}

infer() {
    picture="$(cat "$work/pictures")/met_art/China/9000071.jpg"
    sed -i.bak -e "s#--image_url=.*#--image_url=$picture#" -e 's/--alsologtostderr/--allow_private_hosts/' \
        "$work/infer-model.yaml"
    k apply -f "$work/infer-model.yaml"
    succeeded infer-met-art-model 600
    k logs infer-met-art-model | grep '% ' | head -n 1 | grep China
}

board() {
    k apply -f "$work/tensorboard.yaml"
    ready tensorboard-met-art-model
    if k describe pod tensorboard-met-art-model | grep Traceback; then exit 1; fi
    tunnel tensorboard-met-art-model 6006
    curl --fail --silent --show-error "http://$address/data/runs"
    ip=$(k get pod tensorboard-met-art-model --output=jsonpath='{.status.podIP}')
    call="import socket; print(socket.create_connection(('$ip', 6006), 5))"
    if k exec access-model-logs -- python -c "$call"; then exit 1; fi
    k delete -f "$work/tensorboard.yaml"
}

serve() {
    k apply -f "$work/serve-model.yaml"
    ready serve-met-art-model
    tunnel serve-met-art-model 8501
    tar -xzf sample-dataset.tar.gz -C "$work" met_art/China/9000071.jpg
    printf '{"instances": [{"b64": "%s"}]}' "$(base64 <"$work/met_art/China/9000071.jpg" | tr -d '\n')" |
        curl --fail --silent --show-error --data @- "http://$address/v1/models/met-art:predict" |
        grep '"labels": *\["China"'
    k delete -f "$work/serve-model.yaml"
}

workers() {
    k apply -f "$work/train-distributed.yaml"
    within 1200 worker_0_trains
    first=$(worker 0)
    kill_9='import os, pathlib
for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"/model/train_image_classifier.py" in file.read_bytes().split(b"\0"):
        os.kill(int(file.parent.name), 9)'
    k exec "$(worker 1)" -- python -c "$kill_9" || true  # Its own container ends under it.
    killed=$(date +%s)
    within 120 phase_is "$first" Failed
    k logs "$first" | tail -n 1 | grep -e '^interrupted: worker 1 (.*) died: '
    if k logs "$first" | grep -e '^E0000 '; then exit 1; fi
    within 120 restarted
    echo "restarted after $(($(date +%s) - killed)) s"
    unchanged train-distributed.yaml app.kubernetes.io/part-of=met-art
    completed train-met-art-workers 3600
    k logs --prefix --timestamps --tail=-1 --ignore-errors --selector=job-name=train-met-art-workers |
        sort -sk2,2 >"$work/whole-log"
    grep -e "interrupted: worker 1" "$work/whole-log"
    [ "$(grep -c -e ' trained to step 100: ' "$work/whole-log")" = 2 ]
}
worker_0_trains() { k logs "$(worker 0)" | grep -q '^training: '; }
restarted() { [ "$(worker 0)" != "$first" ] && phase_is "$(worker 0)" Running; }

data_claim() {
    k delete job,service,networkpolicy train-met-art-workers --ignore-not-found
    k delete pod train-met-art-model eval-met-art-model infer-met-art-model access-model-logs --ignore-not-found
    k apply -f "$work/prepare-data.yaml" --selector=$mark=storage
    sed -i.bak -e 's/# - {name: data,/- {name: data,/' "$work/access-model-logs.yaml"
    access
}

wrong_list() {
    echo "no list of artworks" >"$work/arts-select.list"
    k cp "$work/arts-select.list" access-model-logs:/data/arts-select.list
    k apply -f "$work/prepare-data.yaml" --selector=$mark=download
    within 300 ended download-met-art
    k get job download-met-art --output=jsonpath='{.status.conditions[*].reason}' | grep PodFailurePolicy
    k delete job download-met-art
}

prepare_data() {
    echo department,label,link_resource,image_url,is_public_domain >"$work/arts-select.list"
    tar -tzf sample-dataset.tar.gz | awk -F/ -v server="$(cat "$work/pictures")" '
        /\.jpg$/ && count[$2]++ < 8 {
            path = $0; gsub(" ", "%20", path); gsub(",", "%2C", path); number = $3; sub(/\.jpg$/, "", number)
            printf "D,\"%s\",http://www.metmuseum.org/art/collection/search/%s,%s/%s,True\n", $2, number, server, path
        }' >>"$work/arts-select.list"
    k cp "$work/arts-select.list" access-model-logs:/data/arts-select.list
    k apply -f "$work/prepare-data.yaml" --selector=$mark=download
    unchanged prepare-data.yaml $mark=download
    completed download-met-art 900
    k apply -f "$work/prepare-data.yaml" --selector=$mark=convert
    completed convert-met-art 900
    k exec access-model-logs -- ls /data/splits.json /data/arts_train_00000-of-00005.tfrecord
}

# A folder of the node that root made, as the volume: the advice, and the volume's way from one claim to the next.
hostpath() {
    namespace=$namespace-2
    sed -e "s/name: met-art-logs/name: $volume/" -e "s#/srv/met-art-logs#/tmp/met-art-check#" \
        -e 's/type: Directory /type: DirectoryOrCreate /' local-volume.yaml >"$work/local-volume.yaml"
    awk '/^  accessModes/ { print "  storageClassName: \"\"" } { print }' "$work/train-model.yaml" >"$work/classless.yaml"
    kubectl apply -f "$work/local-volume.yaml"
    k apply -f "$work/classless.yaml"
    within 60 claim_is_bound
    kubectl apply -f "$work/local-volume.yaml"
    within 600 phase_is train-met-art-model Failed
    log_has train-met-art-model '^error: /logs belongs to user 0:0 .* user 1000:1000 may not write there; '
    k delete -f "$work/classless.yaml"
    kubectl get persistentvolume "$volume" --output=jsonpath='{.status.phase}' | grep Released
    kubectl delete -f "$work/local-volume.yaml"
    kubectl apply -f "$work/local-volume.yaml"
    k apply -f "$work/classless.yaml" --selector=$mark=storage
    within 60 claim_is_bound
}
volume=$namespace
claim_is_bound() { [ "$(k get persistentvolumeclaim met-art-logs --output=jsonpath='{.status.phase}')" = Bound ]; }

echo "cluster $(kubectl config current-context), namespace $namespace"
step namespaces namespaces
step admitted admitted
step train train
step delete delete
step apply apply
step eval eval_
step access access
step copy copy
step tensorboard board
step infer infer
step serve serve
step workers workers
step data-claim data_claim
step wrong-list wrong_list
step prepare-data prepare_data
step hostpath hostpath
echo "all steps passed"
