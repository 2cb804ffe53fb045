#!/bin/sh
# Starts a server that asks for keys, and looks at it as whoever runs it would: health, refusals, metrics, an orderly end.
# Usage: examples/operator.sh FOLDER, which keeps the keys and the vocabularies
set -eu
folder=$1
mkdir -p "$folder"
export MASKCLIP_ACCESS__KEYS_FILE="$folder/keys.yaml" MASKCLIP_VOCABULARY__STORE_PATH="$folder/vocabularies.sqlite3"
export MASKCLIP_SERVER__LISTEN="${MASKCLIP_SERVER__LISTEN:-127.0.0.1:8080}"
address=http://$MASKCLIP_SERVER__LISTEN

# A key is printed once; its line, with a digest alone, goes into the file.
new_key() {
    maskclip key new "$1" --scopes "$2" 2>/dev/null >"$folder/new"
    tail -n 1 "$folder/new" >>"$MASKCLIP_ACCESS__KEYS_FILE"
    head -n 1 "$folder/new"
    rm "$folder/new"
}
application=$(new_key application use)
monitoring=$(new_key monitoring metrics)

maskclip serve >"$folder/log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
until maskclip health >"$folder/health" 2>/dev/null; do
    kill -0 $server || { cat "$folder/log"; exit 1; }
    sleep 1
done
cat "$folder/health"

status() {
    curl -s -o /dev/null -w '%{http_code}\n' "$@"
}
printf 'without a key: '
status "$address/v1/models"
printf 'with a key: '
status -H "authorization: Bearer $application" "$address/v1/models"
printf 'with a key of another scope: '
status -H "authorization: Bearer $application" "$address/metrics"

echo "what Prometheus sees of the keys:"
curl -s -H "authorization: Bearer $monitoring" "$address/metrics" | grep '^maskclip_key_requests_total.* [1-9]'

# SIGTERM answers what is under way and ends with the status 0.
kill $server
wait $server
echo "the server has ended"
