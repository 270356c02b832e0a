#!/usr/bin/env bash
# The service from a shell: grpcurl.sh HOST:PORT TARGET MODEL.onnx
# Plain text, as on loopback; for TLS set GRPCURL_OPTIONS='-cacert cert.pem'. The token comes from MILLISEEK_TOKEN.
# With MEASURE=TARGET the model is also measured there.
set -euo pipefail
address=$1 target=$2 model=$3
api=milliseek.rpc.v1

ask() { # METHOD [REQUESTS, as JSON]
    # grpcurl expands ${MILLISEEK_TOKEN} itself, so that the token is in no list of processes.
    local token=()
    [[ -z ${MILLISEEK_TOKEN:-} ]] || token=(-expand-headers -H 'authorization: Bearer ${MILLISEEK_TOKEN}')
    # shellcheck disable=SC2086 # these are several options
    grpcurl ${GRPCURL_OPTIONS:--plaintext} "${token[@]}" -d @ "$address" "$api.$1" <<<"${2:-}"
}

echo 'Targets with a predictor:'
ask LatencyService/ListTargets

echo 'An upload: a header, then chunks of at most 1 MiB in base64'
requests=$(
    printf '{"header": {"name": "%s", "sizeBytes": %d}}\n' "$(basename "$model")" "$(stat -c %s "$model")"
    # 700 000 bytes of a file are a line; base64 needs a multiple of 3, but for the end.
    split --bytes=699999 --filter='printf "{\"chunk\": \"%s\"}\n" "$(base64 -w 0)"' "$model"
)
ask LatencyService/UploadModel "$requests"
sha256=$(sha256sum "$model" | cut -d ' ' -f 1)

echo 'A prediction:'
ask LatencyService/PredictModel "{\"sha256\": \"$sha256\", \"target\": \"$target\"}" | sed -n 1,20p

echo 'Devices:'
ask DeviceService/ListDevices

if [[ ${MEASURE:-} ]]; then
    echo 'A measurement, watched until it ends; the same key again is the same job'
    job=$(ask MeasureService/SubmitJobs "{\"jobs\": [{\"idempotencyKey\": \"grpcurl-${sha256:0:16}-$MEASURE\",
        \"target\": \"$MEASURE\", \"sha256\": \"$sha256\", \"visits\": 3}]}")
    id=$(sed -n 's/^ *"id": "\([0-9]*\)".*/\1/p' <<<"$job")
    ask MeasureService/WatchJobs "{\"ids\": [\"$id\"]}"
fi
