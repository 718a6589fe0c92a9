#!/bin/sh
# A reward program: one JSON request a line on stdin, one JSON reply a line on stdout, until stdin ends (reward.type = "command").
#   {"id":17,"task":"addition","prompt":"...","completion":"<think>...</think><answer>122</answer>","answer":"122"}
#   {"id":17,"score":1,"accuracy":1}
# This one gives 1 for the right answer at the end of at most 80 characters, 0.5 behind more of them, else 0. Inside JSON strings quotes are
# written \", so "key": with bare quotes is a key; answer and completion are compared as they are written in JSON. The commands are built
# into the shell: no process is started per request.
while IFS= read -r line; do
  id=${line#*'"id":'}
  id=${id%%[!0-9]*}
  completion=${line#*'"completion":"'}
  completion=${completion%%'","answer":"'*}
  answer=${line##*'","answer":"'}
  answer=${answer%'"}'}
  case $completion in
    *"<answer>$answer</answer>")
      if [ ${#completion} -le 80 ]; then score=1; else score=0.5; fi
      echo "{\"id\":$id,\"score\":$score,\"accuracy\":1}" ;;
    *)
      echo "{\"id\":$id,\"score\":0,\"accuracy\":0}" ;;
  esac
done
