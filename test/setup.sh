#!/bin/bash
# What the tests need of the machine: Debian packages (a real MediaWiki, PHP to serve it, Java and Maven, openssl for keys) and
# the jars of a real Kafka. Idempotent; asks nothing; needs root only when a package is missing.
set -euo pipefail
pom=$(dirname "$0")/support/kafka-pom.xml

wanted=(curl mediawiki openssl php-cli php-curl php-intl php-mbstring php-sqlite3 php-xml)
# Anybody's Java and Maven will do.
command -v java >/dev/null || wanted+=(openjdk-17-jre-headless)
command -v mvn >/dev/null || wanted+=(maven)

# Outside the repository, so that it outlives a clone. test/support/kafka.ts looks there too.
kafka=$(realpath -m "${CHANGEPROP_TEST_KAFKA:-$HOME/.cache/changeprop-kafka-4.3.1}")

install_packages() {
  # The package wants a web server beside it; the tests use PHP's own, so that none may be started here.
  local policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    # shellcheck disable=SC2064 # the name, now
    trap "rm -f '$policy'" EXIT
  fi

  export DEBIAN_FRONTEND=noninteractive
  echo "test/setup.sh: installing $*"
  apt-get -qq update
  apt-get -qq install --yes --no-install-recommends -o Dpkg::Use-Pty=0 "$@" </dev/null >/dev/null
  php --version | head -n 1
}

# The mark comes last and holds what was asked for: a fetch that broke off, or asked for something else, is repeated.
fetch_kafka() {
  echo "test/setup.sh: fetching Kafka to $kafka"
  rm -rf "$kafka/libs" "$kafka/complete"
  mkdir -p "$kafka"
  mvn -q -B -f "$pom" dependency:copy-dependencies -DoutputDirectory="$kafka/libs" -DincludeScope=runtime </dev/null
  cp "$pom" "$kafka/complete"
}

missing=()
for package in "${wanted[@]}"; do
  if [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" != installed ]]; then
    missing+=("$package")
  fi
done
((${#missing[@]} == 0)) || install_packages "${missing[@]}"
cmp -s "$pom" "$kafka/complete" || fetch_kafka
echo 'test/setup.sh: nothing is missing'
