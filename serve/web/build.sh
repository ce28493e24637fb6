#!/bin/sh
# Build static/*.js from src/. Needs Node.js; run `npm ci` here first.
set -eu
cd "$(dirname "$0")"
node_modules/.bin/tsc -p .
bundle() { node_modules/.bin/esbuild "src/$1.ts" --bundle --minify --format=esm --target=es2022 --charset=utf8 --conditions=onnxruntime-web-use-extern-wasm --outfile="static/$2.js"; }
bundle page app
bundle predict predict
bundle offline offline
# For the comparison with Python (tests/serve/export/test_web_parity.py); not exported.
node_modules/.bin/esbuild src/parity.ts --bundle --minify --format=iife --global-name=digits --outfile=static/digits.js
cat src/*.ts package.json ../../zoo/images/numbers.json | sha256sum | cut -d' ' -f1 > static/sources.sha256
