#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12): one `upstream` with `keepalive` that both `proxy_pass` and `grpc_pass` name mixes the two protocols on
# its idle connections. Each works alone; with both, calls fail that have nothing wrong with them.
#
# `keepalive` keeps idle connections for each upstream, whichever module opened them. A connection that spoke HTTP/2 is then used for
# HTTP/1.1 and the other way round. The server behind it speaks both on one port, as inference servers with REST and gRPC do.
#
# Seen here, one request after the other:
#   an upstream for each, HTTP/1.1 and gRPC in turn: 200 200 200 200
#   one upstream for both, HTTP/1.1 and gRPC in turn: 200 502 200 502
#   and in the error log "no connection data found for keepalive http2 connection while sending request to upstream"
# Do this: give each protocol an upstream of its own.
#
# Needs apt-get of Debian 12 and curl. Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
running=()
trap 'kill ${running[@]+"${running[@]}"} 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && { apt-get download nginx >/dev/null 2>&1 || { apt-get update >/dev/null && apt-get download nginx >/dev/null; }; })
dpkg -x "$folder"/nginx_*.deb "$folder/root"
nginx="$folder/root/usr/sbin/nginx"
"$nginx" -v 2>&1 | grep -q 'nginx/1\.22\.1' || { echo "this is another version: $("$nginx" -v 2>&1)"; exit 1; }
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: hypercorn==0.18.0 h2==4.3.0

cat >"$folder/app.py" <<'PY'
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"HTTP/" + scope["http_version"].encode()})
PY
ports=($(python3 -c 'import socket
all = [socket.socket() for _ in range(5)]
for one in all: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in all))'))
server="127.0.0.1:${ports[0]}"
(cd "$folder" && exec venv/bin/hypercorn --log-level error --bind "$server" app:app) &
running+=($!)

# both <http port> <grpc port> <upstream for HTTP> <upstream for gRPC>
both() {
    cat <<END
    server { listen 127.0.0.1:$1; location / { proxy_pass http://$3; proxy_http_version 1.1; proxy_set_header Connection ""; } }
    server { listen 127.0.0.1:$2 http2; location / { grpc_pass grpc://$4; } }
END
}
mkdir "$folder/logs"
cat >"$folder/nginx.conf" <<END
daemon off; master_process off;
pid $folder/nginx.pid; error_log $folder/error.log error;
events {}
http {
    access_log off;
    client_body_temp_path $folder/a; proxy_temp_path $folder/b; fastcgi_temp_path $folder/c; uwsgi_temp_path $folder/d; scgi_temp_path $folder/e;
    upstream one { server $server; keepalive 4; }
    upstream for_http { server $server; keepalive 4; }
    upstream for_grpc { server $server; keepalive 4; }
$(both "${ports[1]}" "${ports[2]}" one one)
$(both "${ports[3]}" "${ports[4]}" for_http for_grpc)
}
END
"$nginx" -p "$folder" -c "$folder/nginx.conf" 2>/dev/null &
running+=($!)

http() { curl --silent --output /dev/null --write-out '%{http_code}' --max-time 5 "http://127.0.0.1:$1/" || true; }
grpc() { curl --silent --output /dev/null --write-out '%{http_code}' --max-time 5 --http2-prior-knowledge --data x "http://127.0.0.1:$1/" || true; }
for _ in $(seq 100); do
    if [[ "$(http "${ports[3]}")" == 200 ]]; then break; fi
    sleep 0.1
done
apart="$(http "${ports[3]}") $(grpc "${ports[4]}") $(http "${ports[3]}") $(grpc "${ports[4]}")"
together="$(http "${ports[1]}") $(grpc "${ports[2]}") $(http "${ports[1]}") $(grpc "${ports[2]}")"
echo "an upstream for each, HTTP/1.1 and gRPC in turn: $apart"
echo "one upstream for both, HTTP/1.1 and gRPC in turn: $together"
sed 's/.*\*[0-9]* //; s/, client.*//' "$folder/error.log" | sort | uniq -c
[[ "$apart" == "200 200 200 200" && "$together" != "200 200 200 200" ]] && grep -q 'no connection data found for keepalive http2' "$folder/error.log"
