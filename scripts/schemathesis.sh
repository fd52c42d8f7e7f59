#!/bin/sh
# Compares `reelgrad serve` with its own description, openapi.json: Schemathesis reads it, makes sound and unsound requests
# of it, always the same, and checks every answer. A second run, of a server with a token, finds out what answers without.
# Schemathesis comes into target/schemathesis; it needs Python. On Debian and Ubuntu what is missing is installed; elsewhere,
# and where that fails, the script says what is missing and exits with 2.
#
#     cargo build --release --features hub && sh scripts/schemathesis.sh
#
# REELGRAD replaces the program, EXAMPLES the number of requests of each kind and route.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=scripts/serve_setup.sh
. scripts/serve_setup.sh

SCHEMATHESIS=4.32.5
SEED=7
examples=${EXAMPLES:-100}
venv=$PWD/target/schemathesis

ready() {
    command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null && python3 -m ensurepip --version >/dev/null 2>&1
}

provide "ffmpeg python3-venv" \
    "ffmpeg with ffprobe (https://ffmpeg.org) and Python 3.10 or later with venv on the PATH"

if ! "$venv/bin/schemathesis" --version 2>/dev/null | grep -q "$SCHEMATHESIS\$"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$SCHEMATHESIS"
fi

# Runs Schemathesis in a folder that is thrown away, as it leaves files behind.
check() {
    (cd "$work" && "$venv/bin/schemathesis" --config-file "$work/schemathesis.toml" run "$@" --seed "$SEED" --checks all \
        --continue-on-failure --request-timeout 60 --workers 1)
}

# Base64 of a picture of 4 by 4, as the description's examples have it.
picture=$("$venv/bin/python" -c '
import json
described = json.load(open("src/bin/reelgrad/serve/openapi.json"))
print(described["components"]["schemas"]["Picture"]["examples"][0])')

# Bytes that are no picture, and forms for another model, are refused although the description cannot tell them apart.
cat >"$work/schemathesis.toml" <<END
hooks = "hooks.py"

[dictionaries.pictures]
values = ["$picture"]

[dictionaries.videos]
values = ["$work/videos/red box.mp4", "$work/videos/test card.mp4"]

[dictionaries.entries]
values = ['{"clip":{"textual":{"modelName":"clip-tiny-hf"}}}', '{"clip":{"visual":{"modelName":"clip-tiny-hf"}}}']

[generation]
database = "none"

[[operations]]
include-operation-id = ["search", "findMoments", "encodeImage"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "429"]
parameters."body.queries[*].image" = { dictionary = "pictures", probability = 0.9 }
parameters."body.query.image" = { dictionary = "pictures", probability = 0.9 }
parameters."body.video_id" = { dictionary = "videos", probability = 0.9 }
parameters."body.images[*]" = { dictionary = "pictures", probability = 0.9 }

[[operations]]
include-operation-id = "predict"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "422", "429"]
parameters."body.entries" = { dictionary = "entries", probability = 0.9 }

[[operations]]
include-operation-id = "getMedia"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "416"]
END

# To JSON Schema 3.0 is an integer, too; the server wants it to be written as one.
cat >"$work/hooks.py" <<'END'
import schemathesis


def integers(value):
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [integers(part) for part in value]
    if isinstance(value, dict):
        return {key: integers(part) for key, part in value.items()}
    return value


@schemathesis.hook
def map_body(context, body):
    return integers(body)
END

start_servers

check "$url/openapi.json" --max-examples "$examples"

# The same description, where the token is not left to choice.
"$venv/bin/python" - "$token_url" "$token" "$work/openapi.json" <<'END'
import json, sys, urllib.request

url, token, path = sys.argv[1:]
request = urllib.request.Request(url + "/openapi.json", headers={"Authorization": "Bearer " + token})
described = json.load(urllib.request.urlopen(request))
operations = [operation for routes in described["paths"].values() for operation in routes.values()]
for part in [described] + operations:
    if part.get("security"):
        part["security"] = [way for way in part["security"] if way]
with open(path, "w") as file:
    json.dump(described, file)
END
check "$work/openapi.json" --url "$token_url" --header "Authorization: Bearer $token" --max-examples $((examples / 5 + 1))

stop_servers
