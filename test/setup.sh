#!/bin/bash
# Debian packages that the tests need: a real MediaWiki, and PHP to serve it. Idempotent; asks nothing; needs root only when
# something is missing.
set -euo pipefail

wanted=(curl mediawiki php-cli php-curl php-intl php-mbstring php-sqlite3 php-xml)

missing=()
for package in "${wanted[@]}"; do
  if [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" != installed ]]; then
    missing+=("$package")
  fi
done
if ((${#missing[@]} == 0)); then
  echo 'test/setup.sh: nothing is missing'
  exit 0
fi

# The package wants a web server beside it; the tests use PHP's own, so that none may be started here.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi

export DEBIAN_FRONTEND=noninteractive
echo "test/setup.sh: installing ${missing[*]}"
apt-get -qq update
apt-get -qq install --yes --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null >/dev/null
php --version | head -n 1
