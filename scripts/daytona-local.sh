#!/bin/sh
# A local deployment of Daytona's open-source server, for the provider `daytona`. Needs git and Docker with Compose.
#
#   daytona-local.sh init     clones the vendor's repository into DAYTONA_OSS_HOME at DAYTONA_OSS_REF
#   daytona-local.sh up       starts its services
#   daytona-local.sh status   says what runs
#   daytona-local.sh down     stops them and keeps their data
#   daytona-local.sh clean    stops them and deletes their data and the clone; what others have put there only with --force
set -eu
# None of these may lead elsewhere.
unset CDPATH GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_COMMON_DIR

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
  *) home=./$home ;;
esac
# The real path of what is there, and behind it what is not yet.
rest=
while ! [ -d "$home" ]; do
  name=$(basename "$home")
  case $name in
    . | ..) fail "DAYTONA_OSS_HOME leads through what is not there" ;;
  esac
  rest=/$name$rest
  home=$(dirname "$home")
done
home=$(cd "$home" && pwd -P)
home=${home%/}$rest
# Another repository inside of this one would be published, linted and deleted with it.
case $home/ in
  "$here"/*) fail "DAYTONA_OSS_HOME must be outside of $here" ;;
esac
case $reference in
  -* | '') fail "DAYTONA_OSS_REF is no reference: $reference" ;;
esac

# The clone is ours only when we have marked it: nothing else is ever deleted.
mark=$home/.git/effect-sandbox-daytona

# Of no repository around it, whatever has become of the clone.
clone() {
  git --git-dir="$home/.git" --work-tree="$home" "$@"
}

# What somebody has changed or added in the clone.
changes() {
  (cd "$home" && clone status --porcelain "$@")
}

find_compose() {
  file=
  for candidate in docker/docker-compose.yaml docker/docker-compose.yml docker-compose.yaml; do
    if [ -e "$home/$candidate" ]; then
      file=$home/$candidate
      return
    fi
  done
}

compose() {
  [ -e "$mark" ] || fail "there is no clone at $home: run init first"
  need docker
  find_compose
  [ -n "$file" ] || fail "$reference has no Compose file where it is looked for"
  docker compose --project-name "$project" --file "$file" "$@"
}

case ${1:-} in
  init)
    need git
    if [ -e "$mark" ]; then
      changed=$(changes --untracked-files=no) || fail "git cannot read $home"
      [ -z "$changed" ] || fail "there are changes in $home that init would overwrite"
    else
      if [ -e "$home" ] && [ -n "$(ls -A "$home")" ]; then fail "$home is not empty"; fi
      git init --quiet "$home"
      # Before anything can fail, so that init can be repeated, and clean finds what it has left.
      : >"$mark"
      clone remote add origin "$repository"
    fi
    clone remote set-url origin "$repository"
    clone fetch --quiet --depth 1 origin "$reference" || fail "$repository has no $reference, or cannot be reached"
    (cd "$home" && clone checkout --quiet --detach FETCH_HEAD)
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
    if [ "${2:-}" != --force ]; then
      need git
      changed=$(changes --ignored) || fail "git cannot read $home; clean --force deletes it"
      [ -z "$changed" ] || fail "init has not made these in $home; clean --force deletes them too:
$changed"
    fi
    find_compose
    if [ -n "$file" ] && command -v docker >/dev/null 2>&1; then compose down --volumes --remove-orphans; fi
    rm -rf "$home"
    echo "deleted $home"
    ;;
  *)
    echo "usage: $0 init|up|down|status|clean" >&2
    exit 2
    ;;
esac
