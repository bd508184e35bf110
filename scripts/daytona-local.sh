#!/bin/sh
# A local deployment of Daytona's open-source server, for the provider `daytona`. Needs git and Docker with Compose.
#
#   daytona-local.sh init     clones the vendor's repository into DAYTONA_OSS_HOME at DAYTONA_OSS_REF
#   daytona-local.sh up       starts its services
#   daytona-local.sh status   says what runs
#   daytona-local.sh down     stops them and keeps their data
#   daytona-local.sh clean    stops them and deletes their data and the clone
set -eu

repository=${DAYTONA_OSS_REPOSITORY:-https://github.com/daytonaio/daytona.git}
reference=${DAYTONA_OSS_REF:-v0.190.0}
project=effect-sandbox-daytona
here=$(cd "$(dirname "$0")/.." && pwd -P)

fail() {
  echo "daytona-local: $1" >&2
  exit 1
}

need() {
  command -v "$1" >/dev/null 2>&1 || fail "$1 is not installed"
}

home=${DAYTONA_OSS_HOME:-}
[ -n "$home" ] || home=${XDG_DATA_HOME:-${HOME:?set DAYTONA_OSS_HOME or HOME}/.local/share}/effect-sandbox/daytona
case $home in
  /*) ;;
  *) home=$(pwd -P)/$home ;;
esac
# Another repository inside of this one would be published, linted and deleted with it.
case $home/ in
  "$here"/*) fail "DAYTONA_OSS_HOME must be outside of $here" ;;
esac

# The clone is ours only when we have marked it: nothing else is ever deleted.
mark=$home/.effect-sandbox-daytona

compose() {
  [ -e "$mark" ] || fail "there is no clone at $home: run init first"
  need docker
  file=
  for candidate in docker/docker-compose.yaml docker/docker-compose.yml docker-compose.yaml; do
    if [ -e "$home/$candidate" ]; then
      file=$home/$candidate
      break
    fi
  done
  [ -n "$file" ] || fail "$reference has no Compose file where it is looked for"
  docker compose --project-name "$project" --file "$file" "$@"
}

case ${1:-} in
  init)
    need git
    if [ -e "$mark" ]; then
      git -C "$home" fetch --quiet --depth 1 origin "$reference"
    else
      if [ -e "$home" ] && [ -n "$(ls -A "$home")" ]; then fail "$home is not empty"; fi
      mkdir -p "$home"
      git -C "$home" init --quiet
      git -C "$home" remote add origin "$repository"
      git -C "$home" fetch --quiet --depth 1 origin "$reference"
      : >"$mark"
    fi
    git -C "$home" checkout --quiet --force FETCH_HEAD
    echo "cloned $reference into $home"
    ;;
  up)
    compose up --detach
    echo "dashboard: http://localhost:3000 (make an API key under Keys)"
    echo "DAYTONA_API_URL=http://localhost:3000/api"
    ;;
  down) compose down ;;
  status) compose ps ;;
  clean)
    if ! [ -e "$mark" ]; then
      echo "there is no clone at $home"
      exit 0
    fi
    if command -v docker >/dev/null 2>&1; then compose down --volumes --remove-orphans; fi
    rm -rf "$home"
    echo "deleted $home"
    ;;
  *)
    echo "usage: $0 init|up|down|status|clean" >&2
    exit 2
    ;;
esac
