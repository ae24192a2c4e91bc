#!/bin/sh
# Does nothing between requests. The answer to a seed is where a chain of numbers ends.
echo ready
while read -r word seed; do
  value=$seed step=0
  while [ $step -lt 40000 ]; do
    value=$(((value * 1103515245 + 12345) % 2147483648))
    step=$((step + 1))
  done
  echo "done $seed $value"
done
