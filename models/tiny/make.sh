#!/bin/bash
# A model like that of this folder from nothing, by the commands that are shipped: demonstrations of the scripted
# experts, an autoencoder, a model of them, and twice the corrections of what the model so far does wrong, each time
# trained on. MODEL_CARD.md says how the weights that are here were made, over months of changing commands.
#
#     models/tiny/make.sh OUT        # STARRY=path/to/starry if it is not on the PATH
#
# What was broken off goes on where it stopped. Two cores of the benchmarks take some seven hours, the data 20 GB.
set -euo pipefail
out=${1:?usage: make.sh OUT}
starry=${STARRY:-starry}
tasks="place_block_pad handover_block put_block_drawer lift_tray press_button stack_blocks_two place_dual_blocks"
droppable="place_block_pad handover_block put_block_drawer stack_blocks_two place_dual_blocks"

generate() {  # FOLDER WORDS...
    [ -e "$out/$1/done" ] && return
    "$starry" data generate --out "$out/$1" "${@:2}"
    touch "$out/$1/done"
}

merge() {  # FOLDER NAME_OF_PARTS...
    [ -e "$out/$1/done" ] && return
    local parts=()
    for name in "${@:2}"; do parts+=("$out/$name"_*); done
    "$starry" data merge "${parts[@]}" --out "$out/$1"
    touch "$out/$1/done"
}

train_autoencoder() {  # DATA
    [ -e "$out/autoencoder/done" ] && return
    "$starry" train-autoencoder --data "$out/$1" --out "$out/autoencoder" --steps 2000 --tint 0.3
    touch "$out/autoencoder/done"
}

train() {  # RUN DATA STEPS RATE WORDS...
    [ -e "$out/$1/done" ] && return
    "$starry" train --out "$out/$1" --data "$out/$2" --steps "$3" --learning-rate "$4" --autoencoder "$out/autoencoder" \
        --tint 0.3 --prefix 8 --reworded 0.5 --eval-every 0 "${@:5}"
    touch "$out/$1/done"
}

correct() {  # NAME MODEL SEED
    for task in $tasks; do
        generate "$1_easy_$task" --task "$task" --model "$out/$2/checkpoint" --episodes 40 --seed "$3"
        generate "$1_hard_$task" --task "$task" --model "$out/$2/checkpoint" --setting hard --looks 2 --episodes 30 \
            --seed "$(($3 + 1))"
    done
    for task in $droppable; do
        for kind in dropped missed; do
            generate "$1_${kind}_$task" --task "$task" --model "$out/$2/checkpoint" --kind "$kind" --episodes 30 \
                --seed "$(($3 + 2))"
        done
    done
}

mkdir -p "$out"
for task in $tasks; do
    generate "shown_easy_$task" --task "$task" --episodes 160 --seed 5001
    generate "shown_hard_$task" --task "$task" --setting hard --looks 2 --episodes 60 --seed 5002
done
generate shown_twist --kind twist --episodes 60 --seed 5003
merge all_shown shown
train_autoencoder all_shown
train first all_shown 7000 1e-3
correct once first 5101
merge all_once shown once
train second all_once 4500 6e-4 --init "$out/first/checkpoint" --seed 1
correct twice second 5201
merge all_twice shown once twice
train third all_twice 4500 5e-4 --init "$out/second/checkpoint" --seed 2
"$starry" export "$out/third/checkpoint"
"$starry" calibrate --model "$out/third/checkpoint"
