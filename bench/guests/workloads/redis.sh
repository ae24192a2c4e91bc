#!/bin/sh
# A database that a client asks. A request reads sessions and users, most of a small popular part
# and some of all, and the best of rankings; the answer is a checksum of what came back.
cli="redis-cli -s /tmp/redis"

commands() {
  busybox awk -v seed="$1" 'BEGIN {
    srand(seed)
    for (round = 0; round < 700; round++) {
      any = round % 16 == 0
      print "GET session:" int(rand() * 2000)
      print "GET session:" int(rand() * (any ? 50000 : 4000))
      print "HGETALL user:" int(rand() * (any ? 20000 : 1000))
      if (round % 20 == 0) print "ZREVRANGE ranking:" int(rand() * 50) " 0 99 WITHSCORES"
    }
  }'
}

redis-server --unixsocket /tmp/redis --port 0 --save '' --appendonly no --dir /tmp \
  --busy-reply-threshold 0 --loglevel warning >/tmp/log &
until [ -S /tmp/redis ]; do
  busybox sleep 0.1
done
$cli EVAL "$(cat /guest/fill.lua)" 0 >/dev/null
echo ready
while read -r word seed; do
  echo "done $seed $(commands "$seed" | $cli | busybox md5sum | busybox cut -c 1-16)"
done
