#!/bin/sh
# Brings the scripts that the dashboard's pages use into dashboard/static/vendor,
# where the program embeds them. They come by npm at the versions that
# dashboard/package-lock.json pins by hash; none of them is kept in this repository.
set -eu
cd "$(dirname "$0")/../dashboard"
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
mkdir -p static/vendor
for f in htmx.org/dist/htmx.min.js htmx-ext-sse/dist/sse.min.js; do
	cp "node_modules/$f" static/vendor/
done
# Their licences travel with them.
cp node_modules/htmx.org/LICENSE static/vendor/htmx.LICENSE
cp node_modules/htmx-ext-sse/LICENSE static/vendor/sse.LICENSE
