#!/bin/sh
# From nothing to a named culture: the commands of the README on the sample pictures, in the folder demo/.
# Safe to run again: what is there already is not made again. To start from scratch, delete demo/.
set -eu
unset CDPATH
cd "$(dirname "$0")"

show() {
    printf '\n$'
    printf ' %s' "$@"
    printf '\n'
    "$@"
}

sh requirements/install.sh cpu.lock
PATH="$PWD/.venv/bin:$PATH"

mkdir -p demo/data demo/unpacked
if [ ! -d demo/data/met_art ]; then
    show tar -xzf sample-dataset.tar.gz -C demo/unpacked
    mv demo/unpacked/met_art demo/data # Only now, so that what is there is whole.
fi
show python convert.py --dataset_dir=demo/data
show python train_image_classifier.py --train_dir=demo/logs --dataset_dir=demo/data --model_name=inception_v3 \
    --batch_size=10 --max_number_of_steps=100
show python eval_image_classifier.py --checkpoint_path=demo/logs --eval_dir=demo/logs/eval --dataset_dir=demo/data

# One picture of each label that is in the validation split, so that the network has never seen it.
unseen=$(python - <<'PYTHON'
import json

pictures = json.load(open("demo/data/splits.json", encoding="utf-8"))["pictures"]
first = {path.split("/")[0]: path for path in sorted(pictures, reverse=True) if pictures[path]["split"] == "validation"}
print("\n".join(f"demo/data/met_art/{path}" for path in sorted(first.values())))
PYTHON
)
IFS='
'
# shellcheck disable=SC2086 # One argument a line: folder names have spaces.
show python classify.py --checkpoint_path=demo/logs --image_file $unseen

printf '\nThe pictures are drawn stand-ins; download.py fetches real ones (README, steps 2 and 3).\n'
printf 'See the training:  .venv/bin/tensorboard --logdir=demo/logs\n'
