/**
 * The scripts that a guest runs. Each is a constant: paths and values are its positional arguments, never part of its text.
 * They run in dash, bash and busybox, and say by an exit code of {@link codes} what went wrong, found out by tests of their
 * own after something failed. Only `tool` leaves it to what the tool said.
 *
 * A file that is open is held as descriptor 3 and opened again through `/proc/self/fd/3`: that is that file, whatever has
 * happened to its name, and never makes a new one.
 */

/** The exit codes of the scripts, and why each happens. */
export const codes = {
  NotFound: 64,
  AlreadyExists: 65,
  BadResource: 66,
  PermissionDenied: 67,
  Busy: 68,
  /** A tool failed, and no test tells why. */
  tool: 69,
  nameTooLong: 71,
  invalid: 72,
  needsRecursive: 73,
  badDescriptor: 74,
  crossDevice: 75,
  notEmpty: 76,
  conflict: 77,
  fifo: 78,
  noProc: 79
} as const

/** The programs that the scripts use. */
export const tools = [
  "stat",
  "find",
  "touch",
  "readlink",
  "ln",
  "chmod",
  "chown",
  "mv",
  "cp",
  "rm",
  "mkdir",
  "dd",
  "cat",
  "head"
] as const

export type Tool = (typeof tools)[number]

/** Whose version of each tool a guest has. */
export type Toolbox = Readonly<Record<Tool, "gnu" | "busybox" | "unknown" | "missing">>

export interface Script {
  readonly needs: ReadonlyArray<Tool>
  readonly text: (toolbox: Toolbox) => string
}

const script = (needs: ReadonlyArray<Tool>, text: string | ((toolbox: Toolbox) => string)): Script => ({
  needs,
  text: typeof text === "string" ? () => text : text
})

/** One line a tool: its name and whose it is. Both kinds name themselves when asked for `--version`. */
export const probe = `
LC_ALL=C; export LC_ALL
for tool do
  if command -v "$tool" >/dev/null 2>&1; then
    case $("$tool" --version </dev/null 2>&1) in
    *BusyBox*) echo "$tool busybox" ;;
    *'GNU coreutils'* | *'GNU findutils'* | 'dd (coreutils)'*) echo "$tool gnu" ;;
    *) echo "$tool unknown" ;;
    esac
  else
    echo "$tool missing"
  fi
done`

/** Stands before every script. */
export const prelude = `
LC_ALL=C; export LC_ALL
here() { [ -e "$1" ] || [ -L "$1" ]; }
# $up/$name is the path without slashes at its end.
split() {
  name=$1
  while :; do case $name in ?*/) name=\${name%/} ;; *) break ;; esac; done
  up=\${name%/*}; name=\${name##*/}
  [ -n "$up" ] || up=/
}
looped() {
  l=$1; n=0
  while [ -L "$l" ]; do
    n=$((n + 1)); [ $n -le 40 ] || return 0
    t=$(readlink -n -- "$l"; echo .); t=\${t%.}
    case $t in /*) l=$t ;; *) l=\${l%/*}/$t ;; esac
  done
  return 1
}
# Why a path leads to nothing, or why nothing could be made there ("make") or above it as well ("parents").
reach() {
  p=$1
  case $p in ?*/)
    while :; do case $p in ?*/) p=\${p%/} ;; *) break ;; esac; done
    [ ! -e "$p" ] || exit 66 ;;
  esac
  wanted=$p
  while :; do
    ! looped "$p" || exit 66
    split "$p"
    if [ -d "$up" ]; then
      [ -x "$up" ] || exit 67
      [ \${#name} -le 255 ] || exit 71
      case $2 in
      parents) if [ -L "$p" ]; then [ "$p" = "$wanted" ] || exit 66; else [ -w "$up" ] || exit 67; exit 69; fi ;;
      make) [ "$p" != "$wanted" ] || { [ -L "$p" ] || [ -w "$up" ] || exit 67; exit 69; } ;;
      esac
      exit 64
    fi
    [ ! -e "$up" ] || exit 66
    p=$up
  done
}
why() { [ -e "$1" ] || reach "$1" "$2"; exit 69; }
unopened() {
  [ -e "$1" ] || case $2 in r) reach "$1" ;; w) reach "$1" make ;; esac
  [ "-$2" "$1" ] || exit 67
  exit 69
}
# A file can be made under this name.
creatable() { case $1 in */) split "$1"; [ -d "$up" ] || reach "$1"; exit 66 ;; esac; }
# As open(2) treats a mode: what is made from here on gets at most these bits, and $bits at the end.
masked() {
  bits=
  [ -n "$1" ] || return 0
  u=0$(umask)
  bits=$((0$1 & ~u & 07777))
  umask "$(printf %o $((u | (0777 & ~0$1))))"
}
# What a redirection cannot give: it makes files with at most 0666.
finish() { [ -z "$bits" ] || [ $((bits & 07111)) = 0 ] || chmod "$(printf %05o "$bits")" "$1" || exit 69; }
exclusive() {
  ! here "$1" || exit 65
  creatable "$1"
  set -C
  { command exec 3>"$1"; } || { ! here "$1" || exit 65; why "$1" make; }
  set +C
  finish /proc/self/fd/3
}
made() { # path how
  creatable "$1"
  [ ! -d "$1" ] || exit 66
  [ -e "$1" ] && bits=
  case $2 in
  replace) { command exec 3>"$1"; } || unopened "$1" w ;;
  append) { command exec 3>>"$1"; } || unopened "$1" w ;;
  esac
  finish /proc/self/fd/3
}
# What is there before something is done: path, format or nothing.
was() { [ -z "$2" ] || stat -L -c "$2" -- "$1" 2>/dev/null || echo; }
opened() { [ -e /proc/self/fd/3 ] || exit 79; }
there() { # path flag
  [ -e "$1" ] || reach "$1"
  case $2 in *+) [ ! -d "$1" ] || exit 66 ;; esac
  { command exec 3<"$1"; } || unopened "$1" r
  opened
  case $2 in *+) { command exec 4<>/proc/self/fd/3; } || unopened "$1" w ;; esac
}
# Opens the file of a handle, if that is what the path leads to: path, format, what stat says in it.
held() {
  [ -e "$1" ] || reach "$1"
  [ ! -p "$1" ] || exit 68
  if [ -r "$1" ]; then { command exec 3<"$1"; } || why "$1"; else { command exec 3>>"$1"; } || unopened "$1" w; fi
  opened
  [ "$(stat -L -c "$2" /proc/self/fd/3)" = "$3" ] || exit 68
}
`

/** path, "r" and "w" for what it must allow. */
export const access = script(
  [],
  `[ -e "$1" ] || reach "$1"
case $2 in *r*) [ -r "$1" ] || exit 67 ;; esac
case $2 in *w*) [ -w "$1" ] || exit 67 ;; esac`
)

/** path, format. */
export const stat = script(["stat"], `stat -L -c "$2" -- "$1" || why "$1"`)
export const lstat = script(["stat"], `stat -c "$2" -- "$1" || { here "$1" || reach "$1"; exit 69; }`)

/** path, mode. */
export const chmod = script(["chmod"], `[ -e "$1" ] || reach "$1"; chmod -- "$2" "$1" || exit 69`)

/** path, owner and group as the tool takes them; empty for none. */
export const chown = script(["chown"], `[ -e "$1" ] || reach "$1"; [ -z "$2" ] || chown -- "$2" "$1" || exit 69`)

/** path, two times; an empty one is now. Then a format, or nothing. */
export const utimes = script(
  ["touch", "stat"],
  `[ -e "$1" ] || reach "$1"
was "$1" "$4"
if [ -n "$2" ]; then touch -c -a -d "@$2" -- "$1" || exit 69; else touch -c -a -- "$1" || exit 69; fi
if [ -n "$3" ]; then touch -c -m -d "@$3" -- "$1" || exit 69; else touch -c -m -- "$1" || exit 69; fi
[ -z "$4" ] || stat -L -c "$4" -- "$1" || why "$1"`
)

/** path, length, format or nothing. */
export const truncate = script(
  ["dd", "stat"],
  `was "$1" "$3"
there "$1" r+
dd if=/dev/null of=/proc/self/fd/3 bs=1 seek="$2" count=0 || exit 69
[ -z "$3" ] || stat -L -c "$3" /proc/self/fd/3 || exit 69`
)

/** path. */
export const readLink = script(
  ["readlink"],
  `here "$1" || reach "$1"; [ -L "$1" ] || exit 72; readlink -n -- "$1" || exit 69`
)

/** path. */
export const realPath = script(["readlink"], `[ -e "$1" ] || reach "$1"; readlink -f -n -- "$1" || exit 69`)

const entered = `cd -P "$1" || { [ -e "$1" ] || reach "$1"; [ -d "$1" ] || exit 66; [ -x "$1" ] || exit 67; exit 69; }
[ -r . ] || exit 67
`

/** path; "1" for all levels. Names, each before a NUL. */
export const readDirectory = script(
  ["find"],
  `${entered}if [ -n "$2" ]; then find . -mindepth 1 -print0; else find . -mindepth 1 -maxdepth 1 -print0; fi || exit 69`
)

/**
 * What ends a record of `stat`, which cannot print NUL everywhere: no path that `find` builds has two slashes.
 */
export const statEnd = "//\n"

/** path. The type of each entry with its name: a letter of find's and a NUL, or the mode and {@link statEnd}. */
export const readDirectoryEntries = script(["find", "stat"], ({ find }) =>
  find === "gnu"
    ? `${entered}find . -mindepth 1 -maxdepth 1 -printf '%y %P\\0' || exit 69`
    : // What has gone since it was listed is left out.
      `${entered}find . -mindepth 1 -maxdepth 1 -exec sh -c 'stat -c "%f %n//" "$@" 2>/dev/null; :' sh {} + || exit 69`
)

/** path; "1" for all levels. What tells a change of each entry: type and mode, inode, size, times, then the name. */
export const survey = script(["find", "stat"], ({ find }) => {
  const listed =
    find === "gnu"
      ? `find -H . -mindepth 1 $levels -printf '%y %m|%i|%s|%T@|%C@|%P\\0'`
      : `find -H . -mindepth 1 $levels -exec stat -c '%f|%i|%s|%y|%z|%n//' {} +`
  const alone =
    find === "gnu"
      ? `find -L "$1" -maxdepth 0 -printf '%y %m|%i|%s|%T@|%C@|\\0'`
      : `stat -L -c '%f|%i|%s|%y|%z|//' -- "$1"`
  // What goes away between a listing and its details is a change that the next survey tells.
  return `if [ -d "$1" ]; then
${entered}[ -n "$2" ] && levels= || levels='-maxdepth 1'
echo directory; ${listed} 2>/dev/null
[ -e "$1" ] || reach "$1"
else
[ -e "$1" ] || reach "$1"
echo file; ${alone} || why "$1"
fi
exit 0`
})

/** path, "1" for parents, mode. */
export const makeDirectory = script(
  ["mkdir", "chmod"],
  `masked "$3"
if [ -n "$2" ]; then
  mkdir -p -- "$1" && exit 0
  case $1 in */) ;; *) [ ! -e "$1" ] || exit 65 ;; esac
  reach "$1" parents
fi
split "$1"
! here "$up/$name" || exit 65
mkdir -- "$1" || { ! here "$1" || exit 65; why "$1" make; }
[ -z "$bits" ] || [ $((bits & 01000)) = 0 ] || chmod "$(printf %05o "$bits")" "$1" || exit 69`
)

/** directory or nothing for the guest's own, the name to be made in it, the file in that or nothing. Prints the path. */
export const makeTemporary = script(
  ["mkdir", "rm"],
  `d=$1
[ -n "$d" ] || { d=\${TMPDIR:-/tmp}; while :; do case $d in ?*/) d=\${d%/} ;; *) break ;; esac; done; }
[ "$d" != / ] || d=
d=$d/$2
u=$(umask); umask 077
mkdir -- "$d" || { ! here "$d" || exit 65; why "$d" make; }
umask "$u"
[ -z "$3" ] || { d=$d/$3; { : >"$d"; }; } || { rm -rf -- "\${d%/*}"; why "$d"; }
printf %s "$d"`
)

/** path, "1" for recursive, "1" for force. */
export const remove = script(
  ["rm"],
  `if ! here "$1"; then
  (reach "$1"); code=$?
  [ -n "$3" ] && [ $code = 64 ] && exit 0
  exit $code
fi
[ -n "$2" ] || [ -L "$1" ] || [ ! -d "$1" ] || exit 73
# A symlink with a slash behind it would lose what it points to.
split "$1"
case $1 in */) [ ! -L "\${up%/}/$name" ] || exit 0 ;; esac
rm -rf -- "$1" || exit 69`
)

const links = `here "$1" || reach "$1"
split "$2"; [ -d "$up" ] || reach "$2"
`

/** from, to. */
export const link = script(
  ["ln"],
  `${links}! here "$up/$name" || exit 65
case $2 in */) reach "$2" ;; esac
[ -L "$1" ] || [ ! -d "$1" ] || exit 67
ln -T -- "$1" "$2" || { ! here "$2" || exit 65; why "$2" make; }`
)

/** target, path. */
export const symlink = script(
  ["ln"],
  `[ -n "$1" ] || exit 64
split "$2"; [ -d "$up" ] || reach "$2"
! here "$up/$name" || exit 65
case $2 in */) reach "$2" ;; esac
ln -s -T -- "$1" "$2" || { ! here "$2" || exit 65; why "$2" make; }`
)

/** from, to: as rename(2), which never moves into a directory or from one file system to another. */
export const rename = script(["mv", "mkdir", "stat"], ({ mv }) => {
  const unmoved = `{ [ -w "$up" ] || exit 67; exit 69; }`
  // Busybox's takes a symlink to a directory for the directory, unless it is told only the directory above.
  const onto =
    mv === "gnu"
      ? ""
      : `if [ -L "$2" ] && [ -d "$2" ]; then
  stage=$up/.rename.$$
  mkdir -- "$stage" || ${unmoved}
  mv -f -T -- "$1" "$stage/$name" && mv -f -- "$stage/$name" "$up/" ||
    { [ ! -L "$stage/$name" ] && [ ! -e "$stage/$name" ] || mv -f -T -- "$stage/$name" "$1"; rmdir -- "$stage"; exit 69; }
  rmdir -- "$stage"
  exit 0
fi
`
  return `${links}[ \${#name} -le 255 ] || exit 71
isdir() { [ -d "$1" ] && [ ! -L "$1" ]; }
case $2 in */)
  isdir "$1" || exit 66
  [ ! -e "$up/$name" ] || [ -d "$up/$name" ] || exit 66 ;;
esac
from=$(stat -c %d:%i -- "$1") || exit 69
if here "$2"; then
  [ "$from" != "$(stat -c %d:%i -- "$2")" ] || exit 0
  if isdir "$2"; then
    isdir "$1" || { case $1 in "$2"/*) exit 76 ;; esac; exit 66; }
  else
    ! isdir "$1" || exit 66
  fi
fi
[ "\${from%%:*}" = "$(stat -L -c %d -- "$up")" ] || exit 75
${onto}mv -f -T -- "$1" "$2" || ${unmoved}`
})

/** from, to: through symlinks on both sides, with the mode, as the copyfile of Node's library. */
export const copyFile = script(
  ["cat", "chmod", "rm", "stat"],
  `[ -e "$1" ] || reach "$1"
[ ! -d "$1" ] || exit 66
{ command exec 4<"$1"; } || unopened "$1" r
! [ "$1" -ef "$2" ] || exit 0
mode=$(stat -L -c %a /proc/self/fd/4) || exit 69
umask 077; bits=; made "$2" replace
cat <&4 >&3 && chmod "0000$mode" /proc/self/fd/3 || { rm -f -- "$2"; exit 69; }`
)

/** link's path, its copy's path: a relative target becomes absolute, without being followed. Sets $target. */
const absolute = `
absolute() {
  target=$(readlink -n -- "$1"; echo .); target=\${target%.}
  case $target in /*) return ;; esac
  rest=\${1%/*}/$target/; target=
  while [ -n "$rest" ]; do
    part=\${rest%%/*}; rest=\${rest#*/}
    case $part in "" | .) ;; ..) target=\${target%/*} ;; *) target=$target/$part ;; esac
  done
  [ -n "$target" ] || target=/
}
`

/**
 * from, to, "1" to overwrite, "1" to keep times: as `fs.cp` with `recursive`. What is not there yet is copied as a whole, and
 * only the rest one by one.
 */
export const copy = script(["cp", "find", "ln", "mkdir", "readlink", "rm", "stat", "touch", "chmod"], ({ cp }) => {
  const gnu = cp === "gnu"
  const tree = gnu
    ? `cp -R -P -T --preserve="$keep" -- "$1" "$2" || exit 69`
    : // There is no keeping the mode without the owner: with this mask it is kept, but for the set-id bits.
      `umask 0; cp -R -P -T -- "$1" "$2" || exit 69; umask "$mask"
  [ -z "$times" ] || find "$1" -type f -exec sh -c 'f=$1; t=$2; shift 2
    for e; do touch -r "$e" -- "$t\${e#"$f"}" || exit 1; done' sh "$1" "$2" {} + || exit 69`
  const one = gnu
    ? `cp --preserve="$keep" -T -- "$1" "$2" || exit 69`
    : `umask 0; cp -T -- "$1" "$2" || exit 69; umask "$mask"
  chmod "0000$(stat -L -c %a -- "$1")" "$2" || exit 69
  [ -z "$times" ] || touch -r "$1" -- "$2" || exit 69`
  return `${absolute}
over=$3; times=$4; mask=$(umask)
[ -n "$times" ] && keep=mode,timestamps || keep=mode
isdir() { [ -d "$1" ] && [ ! -L "$1" ]; }
whole() {
  [ -z "$(find "$1" \\( -type p -o -type s \\) -exec echo . \\; -quit)" ] || exit 72
  ${tree}
  find "$1" -type l -exec sh -c '${absolute}
    f=$1; t=$2; shift 2
    for e; do absolute "$e"; rm -f -- "$t\${e#"$f"}" && ln -s -T -- "$target" "$t\${e#"$f"}" || exit 1; done' sh "$1" "$2" {} + || exit 69
}
tree() {
  if [ -L "$1" ]; then
    absolute "$1"
    if [ -L "$2" ]; then rm -f -- "$2" || exit 69; elif isdir "$2"; then exit 77; elif [ -e "$2" ]; then exit 65; fi
    ln -s -T -- "$target" "$2" || { split "$2"; [ -w "$up" ] || exit 67; exit 69; }
  elif [ -d "$1" ]; then
    if isdir "$2"; then
      for e in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        ! here "$e" || tree "$e" "$2/\${e##*/}"
      done
    else
      ! here "$2" || exit 77
      whole "$1" "$2"
    fi
  elif [ -p "$1" ] || [ -S "$1" ]; then
    exit 72
  else
    ! isdir "$2" || exit 77
    if here "$2"; then [ -n "$over" ] || return 0; rm -f -- "$2" || exit 69; fi
    [ -r "$1" ] || exit 67
    ${one}
  fi
}
here "$1" || reach "$1"
case $1 in */) [ -d "$1" ] || exit 66 ;; esac
if here "$2"; then
  [ "$1" != "$2" ] && { [ -L "$1" ] || [ -L "$2" ] || ! [ "$1" -ef "$2" ]; } || exit 72
else
  (reach "$2"); code=$?
  [ $code = 64 ] || exit $code
  isdir "$1" || { case $2 in */) exit 66 ;; esac; }
fi
split "$2"
if isdir "$1"; then
  above=$up
  while [ "$above" != / ]; do
    ! [ "$above" -ef "$1" ] || exit 72
    split "$above"; above=$up
  done
  split "$2"
fi
[ -d "$up" ] || mkdir -p -- "$up" || why "$up" parents
tree "$1" "$2"`
})

/** path, offset, number of bytes or nothing. */
export const read = script(
  ["dd", "cat", "head"],
  `[ -e "$1" ] || reach "$1"
[ ! -d "$1" ] || exit 66
{ command exec 3<"$1"; } || unopened "$1" r
[ "$2" = 0 ] || dd bs=1 skip="$2" count=0 <&3 2>/dev/null || exit 69
if [ -n "$3" ]; then exec head -c "$3" <&3; else exec cat <&3; fi`
)

/** path, flag, mode or nothing, format or nothing: writes its input. */
export const write = script(
  ["cat", "chmod", "stat"],
  `was "$1" "$4"
masked "$3"
case $2 in
r) [ -e "$1" ] || reach "$1"; exit 74 ;;
r+) there "$1" r+; exec 3>&4 ;;
*x*) exclusive "$1" ;;
w*) made "$1" replace ;;
a*) made "$1" append ;;
esac
case $2 in ax*) { command exec 4>>/proc/self/fd/3; } && exec 3>&4 ;; esac
[ -n "$4" ] || exec cat >&3
cat >&3 || exit 69
stat -L -c "$4" /proc/self/fd/3 || exit 69`
)

/** path, flag, mode or nothing, "1" for a symlink not to be followed, format, format for before or nothing. */
export const open = script(
  ["stat", "chmod"],
  `[ ! -p "$1" ] || exit 78
was "$1" "$6"
masked "$3"
case $2 in *x*) ;; *) [ -z "$4" ] || [ ! -L "$1" ] || exit 66 ;; esac
case $2 in
r | r+) there "$1" "$2" ;;
*x*) exclusive "$1" ;;
*) made "$1" append ;;
esac
opened
[ -z "$4" ] || [ "$(stat -c %d:%i -- "$1")" = "$(stat -L -c %d:%i /proc/self/fd/3)" ] || exit 66
case $2 in w*) [ ! -s /proc/self/fd/3 ] || : >/proc/self/fd/3 || exit 69 ;; esac
stat -L -c "$5" /proc/self/fd/3 || exit 69`
)

/** path, format, expected, offset, number of bytes. */
export const readHeld = script(
  ["stat", "dd", "head"],
  `held "$1" "$2" "$3"
[ ! -d /proc/self/fd/3 ] || exit 66
[ "$4" = 0 ] || dd bs=1 skip="$4" count=0 <&3 2>/dev/null || exit 69
exec head -c "$5" <&3`
)

/**
 * path, format, expected, offset or "end", number of bytes, format: writes its input. At the end it is one write(2), so that
 * what others append at once does not come in between.
 */
export const writeHeld = script(
  ["stat", "dd", "cat"],
  `held "$1" "$2" "$3"
if [ "$4" = end ]; then
  case $(dd bs="$5" count=1 iflag=fullblock 2>&1 >>/proc/self/fd/3) in '1+0 records in'*) ;; *) exit 69 ;; esac
else
  { command exec 4<>/proc/self/fd/3; } || unopened "$1" w
  dd bs=1 seek="$4" count=0 conv=notrunc </dev/null >&4 || exit 69
  cat >&4 || exit 69
fi
stat -L -c "$6" /proc/self/fd/3 || exit 69`
)

/** path, format, expected, length, format. */
export const truncateHeld = script(
  ["stat", "dd"],
  `held "$1" "$2" "$3"
dd if=/dev/null of=/proc/self/fd/3 bs=1 seek="$4" count=0 || exit 69
stat -L -c "$5" /proc/self/fd/3 || exit 69`
)

/** path, format, expected. What cannot be written has nothing of ours to be written to the disk. */
export const syncHeld = script(
  ["stat", "dd"],
  `held "$1" "$2" "$3"
[ ! -w "$1" ] || [ -d "$1" ] || dd if=/dev/null of=/proc/self/fd/3 count=0 conv=notrunc,fsync || exit 69`
)
