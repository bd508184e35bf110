/**
 * The guest launcher: one script for any POSIX `sh` (dash, bash, busybox), for guests that can do no more than run a command and
 * show its text.
 *
 * A process is a directory. The one who makes it starts the runner, in a session of its own: it starts the command in another
 * one and pumps its output from pipes into files. Every invocation is also a reader, which sends what lies in the directory as
 * lines of text, from any position, until the end. No output of a command can be taken for such a line: it is base64.
 *
 * Names of variables begin with `_`, so that none of them is one of the command's environment.
 */
const source = `
unset IFS
_S=$1 _M=$2 _D=$3 _N=$4 _turn=
shift 4
case $_M in
  *+) _turn=1 _M=\${_M%+} ;;
esac
# The end of a line shows that all of it is there.
say() { printf '%s %s .\\n' "$_N" "$*"; }
nap() { sleep "$1" 2>/dev/null || sleep 1; }
boot() {
  _B=-
  if [ -r /proc/sys/kernel/random/boot_id ]; then read -r _B </proc/sys/kernel/random/boot_id; fi
}
# Of process $1: its number, state, parent, group, session and start time. The name may hold spaces and line ends.
look() {
  _L=
  [ -r "/proc/$1/stat" ] || return 1
  while IFS= read -r _x; do _L="$_L$_x "; done 2>/dev/null <"/proc/$1/stat"
  _n=\${_L%% *} _L=\${_L##*) }
  [ -n "$_L" ] || return 1
  set -- $_L
  _st=$1 _pp=$2 _gr=$3 _ss=$4 _t0=\${20}
}
# Whether something of group $1 lives; a zombie does not.
group() {
  kill -0 "-$1" 2>/dev/null || return 1
  for _p in /proc/[0-9]*; do
    if look "\${_p##*/}" && [ "$_gr" = "$1" ] && [ "$_ss" = "$1" ]; then
      case $_st in Z | X) ;; *) return 0 ;; esac
    fi
  done
  return 1
}
# Whether there is something of the command to signal: the boot, the number and the start time are those that were recorded.
ours() {
  [ -s "$_D/pid" ] && read -r _G _T _b <"$_D/pid" || return 1
  boot
  [ "$_b" = "$_B" ] || return 1
  if look "$_G"; then
    [ "$_t0" = "$_T" ] || return 1
    # On its way into a session of its own it has no group yet that could be signalled.
    _e=0
    until [ "$_ss" = "$_G" ] || [ $_e -ge 100 ]; do
      nap 0.01
      _e=$((_e + 1))
      look "$_G" || break
    done
  fi
  group "$_G"
}
sig() {
  echo "$1" >>"$_D/sent"
  kill "-$1" "-$_G" 2>/dev/null
}
# Waits $1 ms for the end of the group, then kills it; false when something survives that.
stop() {
  _i=0
  while group "$_G"; do
    if [ $_i -ge "$1" ]; then
      sig KILL
      _i=0
      while group "$_G"; do
        [ $_i -lt 5000 ] || return 1
        nap 0.02
        _i=$((_i + 20))
      done
      return 0
    fi
    nap 0.02
    _i=$((_i + 20))
  done
}
# Wakes the readers. One that was woken and has not looked since is not woken again: no pipe fills up, nobody waits.
ring() {
  for _b in "$_D"/b.*; do
    if [ -p "$_b" ] && ! [ -s "$_D/f.\${_b##*.}" ]; then
      echo 1 >"$_D/f.\${_b##*.}"
      echo b 1<>"$_b"
    fi
  done
}
# Removes directories in which somebody may just be making a last file.
vanish() {
  _i=0
  until rm -rf "$@" 2>/dev/null || [ $_i -ge 50 ]; do
    nap 0.02
    _i=$((_i + 1))
  done
}
# The size of file $1, in _z; some wc read all of it for that.
size() {
  set -- $(ls -ln "$1")
  _z=\${5:-0}
}
now() {
  _t=$(date +%s%N)
  case $_t in
    *[!0-9]*) _t=$(date +%s)000 ;;
    *) _t=\${_t%??????} ;;
  esac
}
# From pipe to spool, stream $1. A spool is cut into files that are named by the offset of their first byte. What comes slowly is
# announced read by read; what comes fast is moved by more and more reads at once.
pump() {
  export LC_ALL=C
  _o=0 _s=0 _k=1
  while :; do
    [ $((_o - _s)) -lt "$_seg" ] || _s=$_o
    _r=$(((_seg - _o + _s + 65535) / 65536))
    [ $_k -le $_r ] || _k=$_r
    while :; do
      _q=0
      if [ -s "$_D/q$1" ]; then read -r _q <"$_D/q$1" || _q=0; fi
      _r=$(((_quota - _o + _q) / 65536))
      [ $_r -lt 1 ] || break
      if [ -e "$_D/cut" ] || ! [ -d "$_D" ] || ! kill -0 $$ 2>/dev/null; then break 2; fi
      echo >"$_D/$1.held"
      nap 0.1
    done
    [ $_k -le $_r ] || _k=$_r
    if [ -e "$_D/$1.held" ]; then rm -f "$_D/$1.held"; fi
    echo "$_o $_k" >"$_D/n$1"
    [ $_k -eq 1 ] || ring
    if _d=$(exec dd bs=65536 count=$_k 2>&1 >>"$_D/$1.$_s"); then
      _i=\${_d%% records in*} _i=\${_i##*[!0-9+]}
      _l=\${_d##*records out} _l=\${_l%% byte*} _l=\${_l##*[!0-9]}
      _i=$((\${_i%+*} + \${_i#*+}))
    else
      [ -e "$_D/cut" ] || echo >"$_D/broken"
      _l= _i=0
    fi
    # Not every dd counts bytes.
    if [ -z "$_l" ]; then
      size "$_D/$1.$_s" 2>/dev/null
      _l=$((_z + _s - _o))
    fi
    _o=$((_o + _l))
    echo "$_o 1" >"$_D/n$1"
    ring
    [ $_i -ge $_k ] || break
    if [ $_l -ge $((_k * 8192)) ]; then _k=$((_k * 2)); else _k=1; fi
    [ $_k -le 256 ] || _k=256
  done
  echo "$_o 1" >"$_D/n$1"
  echo >"$_D/$1.end"
}
# The absolute time in the file may be changed at any moment.
warden() {
  trap 'kill $! 2>/dev/null; exit' TERM
  while [ -e "$_D/runner" ] && ! [ -e "$_D/exit" ]; do
    if read -r _d <"$_D/deadline" && [ -n "$_d" ]; then
      now
      _l=$((_d - _t))
      if [ $_l -le 0 ]; then
        if ours; then
          echo deadline >"$_D/why"
          sig TERM
          stop "$_grace"
          exit
        fi
        kill -0 $$ 2>/dev/null || exit
        _l=50
      fi
      [ $_l -le 2000 ] || _l=2000
    else
      _l=50
    fi
    _r=$((_l % 1000 + 1000))
    sleep "$((_l / 1000)).\${_r#1}" 2>/dev/null &
    wait $! || { sleep 1 & wait $!; }
  done
}
awake() {
  trap 'kill $! 2>/dev/null; exit' TERM
  while kill -0 $$ 2>/dev/null && ! [ -e "$_D/exit" ]; do
    (eval "$1") </dev/null >/dev/null 2>&1
    sleep "$2" &
    wait $!
  done
}
# Chunk files become the input, in order and whole; how many were taken is told to the readers.
feeder() {
  exec 7>"$_D/in.f"
  _i=0 _w=20
  while kill -0 $$ 2>/dev/null && [ -d "$_D/in" ]; do
    set -- "$_D/in/$_i".*
    _l=\${1##*.}
    if [ "$_l" = eof ]; then break; fi
    _z=
    if [ -e "$1" ]; then size "$1"; fi
    if [ "$_z" = "$_l" ]; then
      if ! cat "$1" >&7 2>/dev/null; then
        echo closed >"$_D/in.n"
        ring
        exit
      fi
      # The number first: a writer that comes between both must not take the number of this one again.
      _i=$((_i + 1)) _w=20
      echo $_i >"$_D/in.n"
      rm -f "$1"
      ring
    else
      _l=$((_w + 1000))
      nap "0.\${_l#1}"
      [ $_w -ge 200 ] || _w=$((_w + _w / 8 + 1))
    fi
  done
  exec 7>&-
  # Who opens the input by name after its end must find its end.
  while kill -0 $$ 2>/dev/null && [ -p "$_D/in.f" ]; do
    true 7<>"$_D/in.f"
    nap 0.3
  done
}
failed() {
  rm -f "$_D.secret" "$_D.params"
  echo "$1" >"$_D/failed"
  ring
  exit
}
# Why there is nothing at path $1, in C.
why() {
  _C=ENOENT _d=$1
  while :; do
    case $_d in
      */*) _d=\${_d%/*} ;;
      *) return ;;
    esac
    if [ -z "$_d" ]; then return; fi
    if [ -d "$_d" ]; then
      [ -x "$_d" ] || _C=EACCES
      return
    fi
    if [ -e "$_d" ]; then
      _C=ENOTDIR
      return
    fi
  done
}
# Finds program $1 in path $2, as execvp does: R is where it is, C why not.
locate() {
  case $1 in
    */*)
      _R=$1
      if [ -f "$1" ] && [ -x "$1" ]; then return; fi
      if [ -e "$1" ]; then _C=EACCES; else why "$1"; fi
      return 1
      ;;
  esac
  _C=ENOENT _d=$2:
  while [ -n "$_d" ]; do
    _R=\${_d%%:*} _d=\${_d#*:}
    _R=\${_R:-.}/$1
    if [ -f "$_R" ] && [ -x "$_R" ]; then return; fi
    [ ! -e "$_R" ] || _C=EACCES
  done
  return 1
}
# Ends the pumps, which a descendant of the command keeps waiting.
cut() {
  echo >"$_D/cut"
  _i=0
  until [ -e "$_D/1.end" ] && [ -e "$_D/2.end" ]; do
    for _p in /proc/[0-9]*; do
      if look "\${_p##*/}" && { [ "$_pp" = "$_p1" ] || [ "$_pp" = "$_p2" ]; }; then kill "$_n" 2>/dev/null; fi
    done
    _i=$((_i + 1))
    [ $_i -lt 100 ] || break
    nap 0.02
  done
}
# $1 the umask, $2 whether the environment is inherited, $3 the deadline, $4 the grace, $5 the quota, $6 the bytes of a spool file,
# $7 whether there is input, $8 and $9 what keeps the guest awake and how often, then the cwd, the program, its PATH after a =, the
# file that holds the rest, the file of secrets and how it is read, and the rest: the arguments of env.
run() {
  _W=$1 _inherit=$2 _deadline=$3 _grace=$4 _quota=$5 _seg=$6 _input=$7 _awake=$8 _every=$9
  shift 9
  _cwd=$1 _P=$2 _Q=$3 _params=$4 _secret=$5 _how=$6
  shift 6
  boot
  look self
  echo "$_n $_t0 $_B" >"$_D/runner"
  if [ -n "$_params" ]; then
    . "$_params" || failed 'params ENOENT'
    rm -f "$_params"
  fi
  if ! cd "$_cwd" 2>/dev/null; then
    if [ -d "$_cwd" ]; then failed 'program EACCES'; fi
    if [ -e "$_cwd" ]; then failed 'program ENOTDIR'; fi
    why "$_cwd"
    failed "cwd $_C"
  fi
  unset OLDPWD
  case $_Q in
    =*) _Q=\${_Q#=} ;;
    *) if [ "$_inherit" = 1 ]; then _Q=$PATH; else _Q=/usr/bin:/bin; fi ;;
  esac
  locate "$_P" "$_Q" || failed "program $_C"
  _I=/dev/null
  pump 1 <"$_D/p1" &
  _p1=$!
  pump 2 <"$_D/p2" &
  _p2=$!
  if [ "$_input" = 1 ]; then
    _I=$_D/in.f
    feeder </dev/null &
    _pf=$!
  fi
  if [ -n "$_deadline" ]; then
    echo "$_deadline" >"$_D/deadline"
    warden &
    _pw=$!
  fi
  if [ -n "$_awake" ]; then
    awake "$_awake" "$_every" &
    _pa=$!
  fi
  # In the foreground, for the same reason as the runner.
  (
    look self
    echo "$_n $_t0 $_B" >"$_D/pid"
    # Nothing runs that could not be found again.
    if [ -e "$_D/cancel" ] || ! [ -s "$_D/pid" ]; then
      rm -f "$_D.secret"
      exit 137
    fi
    ring
    umask "$_W"
    case $_how$_inherit in
      1) exec setsid env "$@" ;;
      0) exec setsid env -i "$@" ;;
      env1) exec setsid sh -c '_c=$(cat "$1"); rm -f "$1"; shift; eval "$_c"; exec env "$@"' sh "$_secret" "$@" ;;
      env0) exec setsid env -i PATH="$PATH" sh -c '_c=$(cat "$1"); rm -f "$1"; shift; eval "$_c"; exec env "$@"' sh "$_secret" "$@" ;;
      all1) exec setsid sh -c '_c=$(cat "$1"); rm -f "$1"; _p=$2; eval "$_c"; exec "$_p" "$@"' sh "$_secret" "$_R" ;;
      all0) exec setsid env -i PATH="$PATH" sh -c '_c=$(cat "$1"); rm -f "$1"; _p=$2; eval "$_c"; exec "$_p" "$@"' sh "$_secret" "$_R" ;;
    esac
  ) <"$_I" >"$_D/p1" 2>"$_D/p2"
  _code=$?
  _i=0 _a= _q=
  until [ -e "$_D/1.end" ] && [ -e "$_D/2.end" ]; do
    [ -d "$_D" ] || exit
    if [ $_i -lt 50 ]; then
      nap 0.005
      _i=$((_i + 5))
    else
      nap 0.05
      _i=$((_i + 50))
    fi
    # At the quota the rest of the output is still to come.
    if [ -e "$_D/1.held" ] || [ -e "$_D/2.held" ]; then
      _i=100
    elif [ $_i -ge 800 ]; then
      # What was in a pipe at the exit is no more than a mebibyte.
      nap 0.2
      _l=0
      for _f in "$_D"/1.[0-9]* "$_D"/2.[0-9]*; do
        if [ -e "$_f" ]; then
          size "$_f"
          _l=$((_l + _z))
        fi
      done
      if [ "$_l" = "$_q" ] || [ $((_l - \${_a:=$_l})) -gt 2097152 ]; then cut; fi
      _q=$_l
    fi
  done
  wait $_p1 $_p2
  _r= _s=
  if [ -s "$_D/why" ]; then
    wait $_pw
    _r=,\\"reason\\":\\"deadline\\"
  elif [ -n "$_deadline" ]; then
    kill $_pw 2>/dev/null
  fi
  [ -z "$_awake" ] || kill $_pa 2>/dev/null
  if [ "$_input" = 1 ]; then
    kill $_pf 2>/dev/null
    for _p in /proc/[0-9]*; do
      if look "\${_p##*/}" && [ "$_pp" = "$_pf" ]; then kill "$_n" 2>/dev/null; fi
    done
  fi
  if [ $_code -gt 128 ] && [ -s "$_D/sent" ]; then
    _l=$(kill -l $_code)
    while read -r _x; do
      [ "$_x" != "$_l" ] || _s=,\\"signal\\":\\"SIG$_l\\"
    done <"$_D/sent"
  fi
  [ ! -e "$_D/broken" ] || _s=$_s,\\"broken\\":true
  read -r _G _x <"$_D/pid"
  if group "$_G"; then _s=$_s,\\"left\\":true; fi
  read -r _o _x <"$_D/n1"
  read -r _l _x <"$_D/n2"
  printf '{"code":%s,"out":%s,"err":%s%s}\\n' $_code "$_o" "$_l" "$_r$_s" >"$_D/exit.tmp"
  if read -r _x <"$_D/exit.tmp"; then mv -f "$_D/exit.tmp" "$_D/exit"; fi
  ring
}
# Whether nobody is left to write the end of this. A runner that was never seen gets ten seconds, and after them starts nothing.
dead() {
  [ "$_w" = t ] || return 1
  if [ -s "$_D/runner" ] && read -r _q _l _b <"$_D/runner"; then
    boot
    if [ "$_b" = "$_B" ] && look "$_q" && [ "$_t0" = "$_l" ] && [ "$_st" != Z ]; then return 1; fi
  else
    _late=$((_late + 1))
    [ $_late -gt 33 ] || return 1
    echo >"$_D/cancel"
  fi
  ! [ -s "$_D/exit" ] && ! [ -s "$_D/failed" ]
}
# Opens the spool of stream $1 at the position that was asked for.
seek() {
  eval "_o=\\$_o$1"
  _h=
  for _s in "$_D/$1".[0-9]*; do
    _k=\${_s##*.}
    if [ -e "$_s" ] && [ "$_k" -lt "$_o" ] && { [ -z "$_h" ] || [ "$_k" -gt "$_h" ]; }; then _h=$_k; fi
  done
  if [ -n "$_h" ] && ! [ -e "$_D/$1.$_o" ]; then
    eval "exec $(($1 + 4))<\\"\\$_D/$1.$_h\\""
    _k=$(($1 + 4))
    dd bs=1 skip=$((_o - _h)) count=0 <&$_k 2>/dev/null
    eval "_h$1=\\$_h"
  fi
}
# Sends what there is of stream $1 after its position.
send() {
  _f=$(($1 + 4))
  eval "_o=\\$_o$1 _h=\\$_h$1"
  while [ -z "$_turn" ] || [ $_room -gt 0 ]; do
    if [ "$_h" != "$_o" ] && [ -e "$_D/$1.$_o" ]; then
      _h=$_o
      eval "exec $_f<\\"\\$_D/$1.$_o\\""
    fi
    [ -n "$_h" ] || break
    _z= _k=
    if [ -s "$_D/n$1" ]; then read -r _z _k <"$_D/n$1" || _z=; fi
    if [ -n "$_z" ] && [ "$_z" -le "$_o" ] && [ "$_k" -le 1 ]; then break; fi
    _b=49152
    if [ -n "$_z" ] && [ $((_z - _o)) -ge 262144 ]; then
      _b=196608
      for _s in "$_D/$1".[0-9]*; do
        _k=\${_s##*.}
        if [ "$_k" -gt "$_o" ] && [ "$_k" -lt "$_z" ]; then _z=$_k; fi
      done
    fi
    if [ -n "$_z" ] && [ $((_z - _o)) -ge 1048576 ]; then
      printf '%s %s %s ' "$_N" "$1" "$_o"
      dd bs=1048576 count=1 <&$_f 2>/dev/null | base64 -w0
      _l=1048576
    else
      _d=$(dd bs=$_b count=1 <&$_f 2>/dev/null | base64 -w0)
      _l=$((\${#_d} / 4 * 3))
      case $_d in
        *==) _l=$((_l - 2)) ;;
        *=) _l=$((_l - 1)) ;;
      esac
      if [ $_l -eq 0 ]; then
        if [ "$_h" != "$_o" ] && [ -e "$_D/$1.$_o" ]; then continue; fi
        break
      fi
      printf '%s %s %s %s' "$_N" "$1" "$_o" "$_d"
    fi
    _o=$((_o + _l)) _room=$((_room - _l)) _said=1
    printf ' %s\\n' "$_o"
  done
  eval "_o$1=\\$_o _h$1=\\$_h"
}
# Sends what the runner leaves in the directory, from offsets $1 and $2, until the end. Of a quiet process it says every twelve
# seconds that it is there: a transport that brings not even that is dead. In turns it goes when it has had something to say and $4
# seconds have passed, or after 15 seconds without, or after a mebibyte; $3 is what was said of the input, empty for who has heard
# nothing. With $5 and $6 it goes only after that many ticks or bytes.
reader() {
  _o1=$1 _o2=$2 _h1= _h2= _a=$3 _w=t _late=0 _up= _said= _soon= _quiet=0 _room=\${6:-1048576} _beat=0
  exec 8<>"$_D/b.$$"
  (
    trap 'kill $! 2>/dev/null; exit' TERM
    while kill -0 $$ 2>/dev/null && [ -p "$_D/b.$$" ]; do
      sleep 0.3 2>/dev/null &
      wait $! || { sleep 1 & wait $!; }
      if ! [ -s "$_D/f.$$" ]; then
        echo 1 >"$_D/f.$$"
        echo t >&8
      fi
    done
    # Without its directory the reader has nothing to wait for.
    echo t >&8
  ) </dev/null >/dev/null 2>&1 &
  _tick=$!
  while [ -p "$_D/b.$$" ]; do
    : >"$_D/f.$$"
    if [ -s "$_D/failed" ] && read -r _x <"$_D/failed"; then
      say fail "$_x"
      break
    fi
    if [ -z "$_up" ] && [ -s "$_D/pid" ] && read -r _l _x <"$_D/pid"; then
      _up=1 _l=
      if [ -d "$_D/in" ]; then
        _l=0
        for _f in "$_D/in"/*; do
          _f=\${_f##*/}
          case $_f in
            *.eof) _l=eof ;;
            [0-9]*) [ "$_l" = eof ] || [ "\${_f%.*}" -lt "$_l" ] || _l=$((\${_f%.*} + 1)) ;;
          esac
        done
        _x=0
        if [ -s "$_D/in.n" ]; then read -r _x <"$_D/in.n" || _x=0; fi
        case $_l$_x in *[!0-9]*) ;; *) [ "$_l" -gt "$_x" ] || _l=$_x ;; esac
      fi
      say start "$_l"
      [ -n "$3" ] || _said=1
      [ "$_o1" = 0 ] || seek 1
      [ "$_o2" = 0 ] || seek 2
    fi
    _x=
    if [ -s "$_D/exit" ]; then read -r _x <"$_D/exit" || _x=; fi
    if [ -n "$_up" ]; then
      if [ -s "$_D/in.n" ] && read -r _l <"$_D/in.n" && [ "$_l" != "$_a" ]; then
        _a=$_l _said=1
        say in "$_l"
      fi
      send 1
      send 2
      if [ -n "$_x" ] && { [ -z "$_turn" ] || [ $_room -gt 0 ]; }; then
        say exit "$_x"
        break
      fi
    fi
    if dead; then
      say lost
      break
    fi
    if [ -n "$_turn" ]; then
      if [ "$_w" = t ] && { [ -z "$_said" ] || [ -n "$5" ]; }; then _quiet=$((_quiet + 1)); fi
      if [ "$_w" = l ] || [ $_room -le 0 ] || [ $_quiet -gt \${5:-50} ]; then
        say turn
        break
      fi
      if [ -n "$_said" ] && [ -z "$_soon$5" ]; then
        _soon=1
        (
          nap "$4"
          echo l >&8
        ) </dev/null >/dev/null 2>&1 &
      fi
    fi
    read -r _w <&8 || _w=t
    if [ "$_w" = t ]; then
      _beat=$((_beat + 1))
      if [ $_beat -ge 40 ]; then
        _beat=0
        say on
      fi
    fi
  done
  exec 8>&-
  kill $_tick 2>/dev/null
  rm -f "$_D/b.$$" "$_D/f.$$"
}
case $_M in
  # $1 what may be removed, then the arguments of run.
  run)
    _forget=$1
    shift
    _W=$(umask)
    umask 077
    _won=
    if mkdir "$_D" 2>/dev/null; then
      _won=1
    elif ! [ -d "$_D" ]; then
      mkdir -p "\${_D%/*}" 2>/dev/null
      if mkdir "$_D" 2>/dev/null; then _won=1; fi
    fi
    if [ -z "$_won" ]; then
      if ! [ -d "$_D" ]; then
        say none
        exit
      fi
      mkfifo "$_D/b.$$"
    else
      _x=
      if [ "$6" = 1 ]; then
        mkdir "$_D/in"
        _x=$_D/in.f
      fi
      if ! mkfifo "$_D/b.$$" "$_D/p1" "$_D/p2" \${_x:+"$_x"}; then
        rm -rf "$_D"
        say none
        exit
      fi
      # A leader of a group is forked by setsid: that puts the runner into the background without &, which would make it and
      # the command ignore INT and QUIT for good.
      setsid sh -c 'exec setsid "$@"' sh sh -c "$0" "$0" "$_S" runner "$_D" "$_N" "$_W" "$@" </dev/null >/dev/null 2>&1
    fi
    if [ -n "$_forget" ]; then (cd "\${_D%/*}" && vanish $_forget); fi
    reader 0 0 '' 0.2
    ;;
  runner)
    umask 077
    run "$@"
    ;;
  # $1 and $2 the offsets, $3 for whom: an earlier reader of that one ends; the others are the reader's from $3 on.
  read)
    umask 077
    if [ -d "$_D" ]; then
      for _b in "$_D"/b.*; do
        kill -0 "\${_b##*.}" 2>/dev/null && [ "\${_b##*.}" != $$ ] || rm -f "$_b" "$_D/f.\${_b##*.}"
      done
      if [ -s "$_D/r.$3" ] && read -r _x <"$_D/r.$3"; then rm -f "$_D/b.$_x" "$_D/f.$_x"; fi
      echo $$ >"$_D/r.$3"
      mkfifo "$_D/b.$$"
      reader "$1" "$2" "$4" "$5" "$6" "$7"
    else
      say none
    fi
    ;;
  # $1 the signal, $2 the ms after which what is left is killed.
  signal)
    if ours; then
      sig "$1"
      if [ -z "$2" ] || stop "$2"; then say ok; else say survived; fi
    else
      say ended
    fi
    ;;
  # Ends all of it or keeps it from starting. $1 the grace, $2 whether the directory goes.
  end)
    umask 077
    mkdir -p "\${_D%/*}" 2>/dev/null
    if mkdir "$_D" 2>/dev/null; then
      rm -f "$_D.secret" "$_D.params"
      echo 'cancel -' >"$_D/failed"
      say ok
      exit
    fi
    echo >"$_D/cancel"
    _l=0
    while [ -e "$_D/pid" ] && ! [ -s "$_D/pid" ] && [ $_l -lt 50 ]; do
      nap 0.02
      _l=$((_l + 1))
    done
    _r=ok
    if ours; then
      sig TERM
      stop "$1" || _r=survived
    fi
    # Not _l, which dead has for itself.
    _w=t _late=34 _i=0
    until [ -s "$_D/exit" ] || [ -s "$_D/failed" ] || dead || [ $_i -ge 250 ]; do
      nap 0.02
      _i=$((_i + 1))
    done
    _x=
    if [ -s "$_D/exit" ]; then read -r _x <"$_D/exit" || _x=; fi
    if [ "$2" = 1 ] && [ $_r = ok ]; then vanish "$_D"; fi
    say $_r $_x
    ;;
  # $1 and $2 what is stored elsewhere, $3 whether that is all.
  free)
    for _l in 1 2; do
      _o=$1 _h=0
      shift
      for _s in "$_D/$_l".[0-9]*; do
        _k=\${_s##*.}
        if [ -e "$_s" ] && [ "$_k" -le "$_o" ] && [ "$_k" -gt "$_h" ]; then _h=$_k; fi
      done
      for _s in "$_D/$_l".[0-9]*; do
        if [ -e "$_s" ] && [ "\${_s##*.}" -lt "$_h" ]; then rm -f "$_s"; fi
      done
      echo "$_h" >"$_D/q$_l"
    done
    if [ "$1" = 1 ]; then rm -rf "$_D"/[12].* "$_D/p1" "$_D/p2" "$_D"/in*; fi
    say ok
    ;;
  stat)
    _x=
    if ! [ -d "$_D" ] || [ -e "$_D/failed" ]; then
      say none
    elif [ -s "$_D/exit" ] && read -r _x <"$_D/exit"; then
      say exit "$_x"
    else
      say open
    fi
    ;;
  # $1 the new deadline, in ms since the epoch.
  deadline)
    echo "$1" >"$_D/deadline"
    say ok
    ;;
  # The names beside each other in $D that go.
  remove)
    cd "$_D" && vanish "$@"
    say ok
    ;;
esac
`

/** The script without its comments: what travels. */
export const script: string = source
  .split("\n")
  .map((line) => line.trim())
  .filter((line) => line !== "" && !line.startsWith("#"))
  .join("\n")

/** Evaluates the script that is the first argument; also the `$0` of a shell, so that the runner can be started the same way. */
export const evaluate = 'eval "$1"'

/** The same for a script in a file. */
export const include = '. "$1"'

/**
 * Checks what the launcher needs, and keeps it at `$1/launcher.sh`; `$2` is the script. Clears away what scoped processes of a
 * service that died left behind more than a day ago.
 */
export const probe: string = `
_m=
for _t in setsid env mkdir mkfifo mv rm cat dd ls date sleep base64; do
  command -v $_t >/dev/null 2>&1 || _m="$_m $_t"
done
[ -r /proc/self/stat ] || _m="$_m /proc"
[ "$(printf a | base64 -w0 2>/dev/null)" = YQ== ] || _m="$_m base64-w0"
umask 077
if [ -z "$_m" ]; then
  mkdir -p "$1" && printf '%s\\n' "$2" >"$1/launcher.$$" && mv -f "$1/launcher.$$" "$1/launcher.sh" || _m=" $1"
fi
printf 'launcher:%s\\n' "$_m"
if command -v find >/dev/null 2>&1; then
  find "$1" -maxdepth 1 -name 's-*' -mmin +1440 2>/dev/null | while IFS= read -r _d; do
    if [ -s "$_d/exit" ]; then rm -rf "$_d"; fi
  done
fi
`.trim()
